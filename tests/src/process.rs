//! A program that runs: its log, its signals, its end. Dropping it kills it.

use std::collections::VecDeque;
use std::io::Write;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::error::HarnessError;
use crate::wait;

/// Lines of a log that are kept.
const KEPT_LINES: usize = 5_000;

/// One running program.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: Log,
    first_line: watch::Receiver<Option<String>>,
    _readers: JoinSet<()>,
}

/// The lines that a program printed, both outputs together.
#[derive(Clone, Debug, Default)]
pub struct Log(Arc<Mutex<VecDeque<String>>>);

impl Process {
    /// Starts `command`; everything it prints goes into its log.
    ///
    /// # Errors
    /// [`HarnessError::Start`].
    pub fn start(name: impl Into<String>, mut command: Command) -> Result<Self, HarnessError> {
        let name = name.into();
        let spawned = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn();
        let mut child = spawned.map_err(|source| HarnessError::Start {
            name: name.clone(),
            source,
        })?;
        let log = Log::default();
        let mut readers = JoinSet::new();
        let (first, first_line) = watch::channel(None);
        if let Some(stdout) = child.stdout.take() {
            readers.spawn(read(stdout, log.clone(), Some(first)));
        }
        if let Some(stderr) = child.stderr.take() {
            readers.spawn(read(stderr, log.clone(), None));
        }
        Ok(Self {
            name,
            child,
            log,
            first_line,
            _readers: readers,
        })
    }

    /// The name that failures show.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The process id, as long as it runs.
    pub fn id(&self) -> Option<u32> {
        self.child.id()
    }

    /// What it has printed so far.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// Waits for the first line on standard output and reads it as JSON.
    ///
    /// # Errors
    /// The end of the program, a deadline, or a line that is not what `T` wants.
    pub async fn json_line<T: serde::de::DeserializeOwned>(&mut self) -> Result<T, HarnessError> {
        let waited =
            tokio::time::timeout(wait::PATIENCE, self.first_line.wait_for(Option::is_some)).await;
        let line = match waited {
            Ok(Ok(line)) => line.clone().unwrap_or_default(),
            Ok(Err(_)) => {
                return Err(HarnessError::Ended {
                    name: self.name.clone(),
                    log: self.log.text(),
                });
            }
            Err(_) => {
                return Err(HarnessError::TimedOut {
                    what: format!("the first line of {}", self.name),
                    within: wait::PATIENCE,
                    last: self.log.text(),
                });
            }
        };
        serde_json::from_str(&line).map_err(|error| HarnessError::BadLine {
            name: self.name.clone(),
            line,
            why: error.to_string(),
        })
    }

    /// Waits until its log has a line with `text`.
    ///
    /// # Errors
    /// A deadline, with the log.
    pub async fn logged(&self, text: &str, within: Duration) -> Result<(), HarnessError> {
        let what = format!("{:?} in the log of {}", text, self.name);
        wait::until(&what, within, || async {
            if self.log.contains(text) {
                Ok(())
            } else {
                Err(self.log.text())
            }
        })
        .await
    }

    /// Waits until exactly `count` lines of its log have `text`, and gives the last of them.
    ///
    /// # Errors
    /// A deadline, with the log.
    pub async fn logged_times(
        &self,
        text: &str,
        count: usize,
        within: Duration,
    ) -> Result<String, HarnessError> {
        let what = format!("{count} lines with {text:?} in the log of {}", self.name);
        wait::until(&what, within, || async {
            let log = self.log.text();
            let lines: Vec<&str> = log.lines().filter(|line| line.contains(text)).collect();
            match lines.last() {
                Some(last) if lines.len() == count => Ok((*last).to_owned()),
                _ => Err(log),
            }
        })
        .await
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// A program that has ended.
    pub fn signal(&self, signal: Signal) -> Result<(), HarnessError> {
        let ended = || HarnessError::Ended {
            name: self.name.clone(),
            log: self.log.text(),
        };
        let id = self
            .child
            .id()
            .and_then(|id| i32::try_from(id).ok())
            .and_then(Pid::from_raw)
            .ok_or_else(ended)?;
        kill_process(id, signal).map_err(|_| ended())
    }

    /// Kills it and waits until it is gone.
    ///
    /// # Errors
    /// A wait that the system refuses.
    pub async fn kill(mut self) -> Result<(), HarnessError> {
        Ok(self.child.kill().await?)
    }

    /// Waits for its end by itself, with exit code `code`.
    ///
    /// # Errors
    /// A deadline or another end, with the log.
    pub async fn exits(&mut self, code: i32, within: Duration) -> Result<(), HarnessError> {
        let status = self.exit(within).await?;
        if status.code() == Some(code) {
            return Ok(());
        }
        Err(HarnessError::Ended {
            name: format!("{} ({status})", self.name),
            log: self.log.text(),
        })
    }

    /// Waits for its end by itself.
    ///
    /// # Errors
    /// A deadline, with the log.
    pub async fn exit(&mut self, within: Duration) -> Result<ExitStatus, HarnessError> {
        match tokio::time::timeout(within, self.child.wait()).await {
            Ok(status) => Ok(status?),
            Err(_) => Err(HarnessError::TimedOut {
                what: format!("the end of {}", self.name),
                within,
                last: self.log.text(),
            }),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        let mut err = std::io::stderr().lock();
        // A test that fails must show why even where standard error is closed for good.
        drop(writeln!(
            err,
            "---- log of {} ----\n{}\n---- end of {} ----",
            self.name,
            self.log.text(),
            self.name
        ));
    }
}

impl Log {
    /// Everything that is kept.
    pub fn text(&self) -> String {
        let lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().map(|line| format!("{line}\n")).collect()
    }

    /// Whether a line has `text`.
    pub fn contains(&self, text: &str) -> bool {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .any(|line| line.contains(text))
    }

    /// How many lines have all of `parts`.
    pub fn count(&self, parts: &[&str]) -> usize {
        let lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lines
            .iter()
            .filter(|line| parts.iter().all(|part| line.contains(part)))
            .count()
    }

    fn push(&self, line: String) {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() == KEPT_LINES {
            lines.pop_front();
        }
        lines.push_back(line);
    }
}

async fn read(
    from: impl AsyncRead + Unpin,
    log: Log,
    first: Option<watch::Sender<Option<String>>>,
) {
    let mut lines = BufReader::new(from).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        if let Some(first) = &first {
            first.send_if_modified(|seen| {
                let is_first = seen.is_none();
                if is_first {
                    *seen = Some(line.clone());
                }
                is_first
            });
        }
        log.push(line);
    }
}
