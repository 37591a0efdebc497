//! The bytes of a process on their way, until it ends.

use std::pin::pin;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::AsyncWriteExt as _;
use tokio::process::{ChildStderr, ChildStdin, ChildStdout};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use super::super::complaints;
use super::super::error::{End, Problem};
use super::super::framing::{Line, Lines};
use super::super::noise::Noise;
use super::super::process::{Pipes, Process};
use super::super::router::Routed;
use super::super::rpc::Message;
use super::super::spec::Pace;
use super::super::stream::Pushed;
use super::{Instance, Queued};

/// How long the last output of a process that has ended is read.
const LAST_OUTPUT: Duration = Duration::from_secs(1);
/// How long a process that has closed a stream may take to end, so that its end can be told.
const LAST_MOMENT: Duration = Duration::from_millis(300);

impl Instance {
    /// Serves until the process ends, or is to; then whoever waits is told, and the process and
    /// all that it has started is ended.
    pub(super) async fn run(
        &self,
        mut process: Process,
        pipes: Pipes,
        queued: mpsc::Receiver<Queued>,
        pace: Pace,
    ) {
        let mut hearing = pin!(self.hear(pipes.stderr));
        let mut heard = false;
        let end = {
            let mut reading = pin!(self.read(Lines::new(pipes.stdout, pace.line), pace.line));
            let mut writing = pin!(self.write(pipes.stdin, queued, pace.write));
            let mut stopping = pin!(self.stopped(pace.replaced));
            loop {
                tokio::select! {
                    biased;
                    () = &mut stopping => break End::Stopped,
                    end = &mut reading => break end,
                    end = &mut writing => break end,
                    status = process.exited() => {
                        // Its last words are still in the pipes.
                        let mut both = pin!(futures_util::future::join(reading.as_mut(), async {
                            if !heard {
                                hearing.as_mut().await;
                            }
                        }));
                        heard = timeout(LAST_OUTPUT, &mut both).await.is_ok();
                        break exited(status);
                    }
                    () = &mut hearing, if !heard => heard = true,
                }
            }
        };
        let mut end = end;
        // One that ends closes its streams first.
        if end == End::Closed
            && let Ok(status) = timeout(LAST_MOMENT, process.exited()).await
        {
            end = exited(status);
            if !heard {
                heard = timeout(LAST_MOMENT, &mut hearing).await.is_ok();
            }
        }
        self.fail(&end);
        let mut ending = pin!(process.end(&pace));
        loop {
            tokio::select! {
                biased;
                () = &mut ending => return,
                () = &mut hearing, if !heard => heard = true,
            }
        }
    }

    /// Until it is to end, and those who wait for an answer have it, for a while.
    async fn stopped(&self, limit: Duration) {
        self.stop.cancelled().await;
        for session in self.lock().sessions.values() {
            session.stream.end();
        }
        let mut callers = self.callers.subscribe();
        let nobody = callers.wait_for(|callers| *callers == 0);
        if timeout(limit, nobody).await.is_err() {
            tracing::debug!(service = %self.service, "callers are not waited for any longer");
        }
    }

    async fn hear(&self, stderr: ChildStderr) {
        let logged = complaints::log(&self.service, self.pid, stderr, self.words.clone());
        if let Err(error) = logged.await {
            tracing::debug!(%error, pid = self.pid, "standard error cannot be read");
        }
    }

    async fn write(
        &self,
        mut stdin: ChildStdin,
        mut queued: mpsc::Receiver<Queued>,
        limit: Duration,
    ) -> End {
        let mut out = BytesMut::new();
        loop {
            let own = self.lock().own.pop_front();
            let (line, place) = match own {
                Some(line) => (line, None),
                None => tokio::select! {
                    biased;
                    () = self.own.notified() => continue,
                    line = queued.recv() => match line {
                        Some(line) => line,
                        None => return End::Stopped,
                    }
                },
            };
            out.clear();
            out.extend_from_slice(&line);
            out.extend_from_slice(b"\n");
            match timeout(limit, stdin.write_all(&out)).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return End::Closed,
                Err(_) => return End::Hung,
            }
            drop(place);
        }
    }

    async fn read(&self, mut lines: Lines<ChildStdout>, max: usize) -> End {
        let mut noise = Noise::new(Instant::now());
        loop {
            let line = match lines.next().await {
                Ok(Some(Line::Whole(line))) => line,
                Ok(Some(Line::Cut(_))) => return End::TooLong(max),
                Ok(None) | Err(_) => return End::Closed,
            };
            if line.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            match Message::parse(&line) {
                Ok(message) => {
                    if !self.deliver(message) && noise.lost(Instant::now()) {
                        return End::Flood;
                    }
                }
                Err(error) => {
                    tracing::debug!(service = %self.service, pid = self.pid, %error, "a line is no message");
                    if noise.garbage(Instant::now()) {
                        return End::NotRpc;
                    }
                }
            }
        }
    }

    /// Brings a message where it belongs: whether anybody has it.
    fn deliver(&self, message: Message) -> bool {
        let mut state = self.lock();
        match state.router.route(message, |stream| stream.is_attached()) {
            Routed::Answer { to, line } => {
                if to.push(line.clone(), true) == Pushed::Left {
                    let id = match Message::parse(&line) {
                        Ok(Message::Response { id, .. }) => Some(id.raw),
                        _ => None,
                    };
                    to.fail(
                        Problem::TooMuch.line(id.as_ref()),
                        Problem::TooMuch.status(),
                    );
                }
                to.end();
                state.used = Instant::now();
                true
            }
            Routed::Part { to, line, must } => to.push(line, must) == Pushed::Taken,
            Routed::Close { to } => {
                to.end();
                true
            }
            Routed::General { line, must } => {
                let listeners = state.sessions.values();
                let taken =
                    listeners.filter(|l| l.stream.push(line.clone(), must) == Pushed::Taken);
                taken.count() > 0
            }
            Routed::Updated { uri, line } => {
                let listeners = state.sessions.values();
                let taken = listeners.filter(|l| {
                    l.subscribed.contains(&uri)
                        && l.stream.push(line.clone(), false) == Pushed::Taken
                });
                taken.count() > 0
            }
            Routed::Reply(line) => {
                drop(state);
                self.write_own(line);
                // One that asks without end floods as well.
                false
            }
            Routed::Nowhere(why) => {
                tracing::trace!(service = %self.service, pid = self.pid, why, "a message is for nobody");
                false
            }
        }
    }

    /// It has ended: whoever waits is told.
    fn fail(&self, end: &End) {
        let mut state = self.lock();
        state.ended = Some(end.clone());
        let waiting = state.router.take_all();
        let sessions = std::mem::take(&mut state.sessions);
        drop(state);
        if *end == End::Stopped {
            tracing::info!(service = %self.service, pid = self.pid, "a server is ended");
        } else {
            let words = self.words.text();
            tracing::warn!(service = %self.service, pid = self.pid, reason = %end, words, waiting = waiting.len(), "a server is gone");
        }
        let problem = Problem::Ended(end.clone());
        for pending in waiting {
            let line = problem.line(Some(&pending.id.raw));
            pending.to.fail(line, problem.status());
        }
        for session in sessions.into_values() {
            session.stream.end();
        }
    }
}

fn exited(status: std::io::Result<std::process::ExitStatus>) -> End {
    End::Exited(match status {
        Ok(status) => status.to_string(),
        Err(error) => error.to_string(),
    })
}
