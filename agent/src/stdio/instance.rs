//! A process that serves: what callers write goes to its input, what it writes goes to callers.

mod pump;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use serde_json::json;
use tokio::sync::{Notify, OwnedSemaphorePermit, mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::body::Place;
use super::complaints::LastWords;
use super::error::End;
use super::process::{Pipes, Process};
use super::router::{Kind, Router};
use super::rpc::{Id, Message, Object, Request};
use super::spec::Pace;
use super::stream::{Beginning, Budget, Reader, Stream, With};

/// Messages that wait to be written to a process. Who brings more waits.
const MAX_QUEUED: usize = 64;
/// Answers and cancellations of ours that wait; those above are left out.
const MAX_OWN: usize = 1_024;

/// A line that waits to be written, with its share of what is held.
type Queued = (Bytes, Option<Place>);

/// Resources that a session which shares its process may subscribe to.
pub(super) const MAX_SUBSCRIBED: usize = 256;
/// Longest uri of such a resource, in bytes: it is kept for as long as the session.
pub(super) const MAX_URI_BYTES: usize = 2 * 1024;

/// A process that serves, seen by callers.
#[derive(Debug)]
pub(super) struct Instance {
    service: Arc<str>,
    pid: i32,
    state: Mutex<State>,
    lines: mpsc::Sender<Queued>,
    own: Notify,
    budget: Arc<Budget>,
    stop: CancellationToken,
    /// Callers who hold something of it.
    callers: watch::Sender<u32>,
    words: LastWords,
}

#[derive(Debug)]
struct State {
    router: Router<Arc<Stream>>,
    sessions: BTreeMap<u64, Listener>,
    /// What we write ourselves.
    own: VecDeque<Bytes>,
    ended: Option<End>,
    used: Instant,
}

/// A session outside of its requests.
#[derive(Debug)]
struct Listener {
    stream: Arc<Stream>,
    subscribed: BTreeSet<String>,
}

/// Why a request was not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Untaken {
    /// Too many at once.
    Full,
    /// The process has ended.
    Ended(End),
}

/// What becomes of a request whose caller is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leaving {
    /// The server is told.
    Cancels(u64),
    /// It goes on: a session can come back for its answer.
    GoesOn,
}

/// A caller's hold on a process.
#[derive(Debug)]
pub(super) struct Hold {
    instance: Arc<Instance>,
    leaving: Leaving,
}

/// What a process is started with.
#[derive(Debug)]
pub(super) struct Begin {
    pub(super) service: Arc<str>,
    pub(super) kind: Kind,
    pub(super) pace: Pace,
    pub(super) stop: CancellationToken,
    pub(super) place: OwnedSemaphorePermit,
}

impl Instance {
    /// Serves a process. It ends when the guard is dropped.
    pub(super) fn serve(
        begin: Begin,
        (process, pipes): (Process, Pipes),
        tasks: &TaskTracker,
    ) -> (Arc<Self>, DropGuard) {
        let (lines, queued) = mpsc::channel(MAX_QUEUED);
        let instance = Arc::new(Self {
            service: begin.service,
            pid: process.id(),
            state: Mutex::new(State {
                router: Router::new(begin.kind),
                sessions: BTreeMap::new(),
                own: VecDeque::new(),
                ended: None,
                used: Instant::now(),
            }),
            lines,
            own: Notify::new(),
            budget: Arc::default(),
            stop: begin.stop,
            callers: watch::Sender::new(0),
            words: LastWords::default(),
        });
        tracing::info!(service = %instance.service, pid = instance.pid, "a server was started");
        let running = Arc::clone(&instance);
        let (pace, place) = (begin.pace, begin.place);
        tasks.spawn(async move {
            running.run(process, pipes, queued, pace).await;
            drop(place);
        });
        let guard = instance.stop.clone().drop_guard();
        (instance, guard)
    }

    /// The number of its process.
    pub(super) fn id(&self) -> i32 {
        self.pid
    }

    /// Why it has ended, if it has.
    pub(super) fn ended(&self) -> Option<End> {
        self.lock().ended.clone()
    }

    /// What it complained about last.
    pub(super) fn last_words(&self) -> String {
        self.words.text()
    }

    /// Ends it.
    pub(super) fn stop(&self) {
        self.stop.cancel();
    }

    /// For how long nobody has used it.
    pub(super) fn idle(&self) -> Duration {
        let state = self.lock();
        if *self.callers.borrow() > 0 || !state.router.is_idle() || !state.sessions.is_empty() {
            return Duration::ZERO;
        }
        state.used.elapsed()
    }

    /// It turns out to serve others.
    pub(super) fn become_(&self, kind: Kind) {
        self.lock().router.become_(kind);
    }

    /// A stream whose bytes count as its own.
    pub(super) fn stream(&self, no: u64, resumable: bool) -> Arc<Stream> {
        Stream::new(no, resumable, &self.budget)
    }

    /// A session listens from now on.
    pub(super) fn join(&self, owner: u64, stream: Arc<Stream>) {
        let mut state = self.lock();
        if state.ended.is_some() {
            stream.end();
        }
        let listener = Listener {
            stream,
            subscribed: BTreeSet::new(),
        };
        state.sessions.insert(owner, listener);
    }

    /// A session has ended.
    pub(super) fn leave(&self, owner: u64) {
        let mut state = self.lock();
        state.used = Instant::now();
        state.sessions.remove(&owner);
    }

    /// A session wants to hear of a resource, or not any more: whether another one still does.
    ///
    /// # Errors
    /// It hears of as many as it may.
    pub(super) fn subscribed(&self, owner: u64, uri: &str, wants: bool) -> Result<bool, Untaken> {
        let mut state = self.lock();
        if let Some(session) = state.sessions.get_mut(&owner) {
            if wants {
                let is_new = !session.subscribed.contains(uri);
                if is_new && session.subscribed.len() >= MAX_SUBSCRIBED {
                    return Err(Untaken::Full);
                }
                session.subscribed.insert(uri.to_owned());
            } else {
                session.subscribed.remove(uri);
            }
        }
        let mut all = state.sessions.values();
        Ok(all.any(|session| session.subscribed.contains(uri)))
    }

    /// A request, whose answer comes on `stream`.
    pub(super) async fn request(
        self: &Arc<Self>,
        owner: u64,
        (request, place): (Request, Option<Place>),
        stream: Arc<Stream>,
        cancels: bool,
    ) -> Result<Reader, Untaken> {
        let (ours, line) = {
            let mut state = self.lock();
            if let Some(end) = &state.ended {
                return Err(Untaken::Ended(end.clone()));
            }
            let taken = state.router.request(owner, request, Arc::clone(&stream));
            taken.map_err(|super::router::Full| Untaken::Full)?
        };
        // Until it is written its caller's leaving is its end in either era.
        let with = With {
            hold: Some(self.hold(Leaving::Cancels(ours))),
            until: None,
        };
        let Some(mut reader) = stream.read(None, with) else {
            return Err(Untaken::Full);
        };
        self.send((line, place)).await?;
        if !cancels && let Some(hold) = reader.hold() {
            hold.leaving = Leaving::GoesOn;
        }
        Ok(reader)
    }

    /// A request of our own: its whole answer.
    pub(super) async fn ask(
        self: &Arc<Self>,
        method: &str,
        params: serde_json::Value,
    ) -> Result<Object, End> {
        let message = json!({"jsonrpc": "2.0", "id": 0, "method": method, "params": params});
        let Ok(Message::Request(request)) = Message::parse(message.to_string().as_bytes()) else {
            return Err(End::NotRpc);
        };
        let stream = self.stream(0, false);
        let reader = match self.request(0, (request, None), stream, false).await {
            Ok(reader) => reader,
            Err(Untaken::Full) => return Err(End::Hung),
            Err(Untaken::Ended(end)) => return Err(end),
        };
        reader.begun().await;
        match reader.beginning() {
            Beginning::Only(line) => match Message::parse(&line) {
                Ok(Message::Response { object, .. }) => Ok(object),
                _ => Err(End::NotRpc),
            },
            Beginning::Failed(..) | Beginning::Nothing | Beginning::Events => {
                Err(self.ended().unwrap_or(End::NotRpc))
            }
        }
    }

    /// A notification of a caller, if the server is to read it.
    pub(super) async fn notify(
        &self,
        owner: u64,
        method: &str,
        (object, place): (Object, Place),
    ) -> Result<(), Untaken> {
        let (line, over) = self.lock().router.notification(owner, method, object);
        if let Some(line) = line {
            self.send((line, Some(place))).await?;
        }
        if let Some(stream) = over {
            stream.end();
        }
        Ok(())
    }

    /// A notification of our own.
    pub(super) fn tell(&self, method: &str) {
        let message = json!({"jsonrpc": "2.0", "method": method});
        self.write_own(Bytes::from(message.to_string()));
    }

    /// A client's answer to what the server has asked.
    pub(super) async fn respond(
        &self,
        id: &Id,
        object: &Object,
        place: Place,
    ) -> Result<(), Untaken> {
        let line = self.lock().router.response(id, object);
        match line {
            Some(line) => self.send((line, Some(place))).await,
            None => Ok(()),
        }
    }

    /// A hold that keeps it from being idle.
    pub(super) fn hold(self: &Arc<Self>, leaving: Leaving) -> Hold {
        self.callers.send_modify(|callers| *callers += 1);
        Hold {
            instance: Arc::clone(self),
            leaving,
        }
    }

    async fn send(&self, line: Queued) -> Result<(), Untaken> {
        self.lines
            .send(line)
            .await
            .map_err(|_| Untaken::Ended(self.ended().unwrap_or(End::Closed)))
    }

    fn write_own(&self, line: Bytes) {
        let mut state = self.lock();
        if state.own.len() < MAX_OWN {
            state.own.push_back(line);
            self.own.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut state = self.instance.lock();
        state.used = Instant::now();
        let told = match self.leaving {
            Leaving::Cancels(ours) => state.router.cancel(ours),
            Leaving::GoesOn => None,
        };
        drop(state);
        if let Some(line) = told {
            self.instance.write_own(line);
        }
        self.instance.callers.send_modify(|callers| *callers -= 1);
    }
}
