//! The sessions of a service: what lives between the requests of one client.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::DropGuard;

use super::instance::Instance;
use super::stream::Stream;

/// Streams of requests that are kept, so that a client can come back for an answer.
const MAX_STREAMS: usize = 64;

/// Sessions of one service that share a process, which costs a client nothing but asking.
pub(super) const MAX_SHARED: usize = 1_024;

/// A session.
#[derive(Debug)]
pub(super) struct Session {
    /// Which one it is to its process.
    pub(super) no: u64,
    /// Who serves it.
    pub(super) instance: Arc<Instance>,
    /// What the server says outside of requests.
    pub(super) general: Arc<Stream>,
    /// Whether its streams begin with an event that says where they are.
    pub(super) primes: bool,
    streams: Mutex<VecDeque<Arc<Stream>>>,
    next: AtomicU64,
    used: Mutex<Instant>,
    /// Ends a process of its own.
    own: Option<DropGuard>,
}

/// All of them, by their ids.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    all: Mutex<HashMap<String, Arc<Session>>>,
    next: AtomicU64,
}

impl Session {
    /// A session of a server; `own` ends a process that is for it alone.
    pub(super) fn new(
        no: u64,
        instance: Arc<Instance>,
        primes: bool,
        own: Option<DropGuard>,
    ) -> Arc<Self> {
        let general = instance.stream(0, true);
        instance.join(no, Arc::clone(&general));
        Arc::new(Self {
            no,
            instance,
            general,
            primes,
            streams: Mutex::default(),
            next: AtomicU64::new(1),
            used: Mutex::new(Instant::now()),
            own,
        })
    }

    /// A stream for the answer of a request.
    pub(super) fn stream(&self) -> Arc<Stream> {
        let no = self.next.fetch_add(1, Ordering::Relaxed);
        self.instance.stream(no, true)
    }

    /// Keeps a stream that its client knows of.
    pub(super) fn keep(&self, stream: Arc<Stream>) {
        let mut streams = lock(&self.streams);
        if streams.len() >= MAX_STREAMS {
            // The oldest of those that are over; the oldest, where none is.
            let over = streams.iter().position(|stream| stream.is_over());
            streams.remove(over.unwrap_or(0));
        }
        streams.push_back(stream);
    }

    /// The stream of an event's id, and the event's place in it.
    pub(super) fn event(&self, id: &str) -> Option<(Arc<Stream>, u64)> {
        let (stream, event) = id.split_once('-')?;
        let (stream, event): (u64, u64) = (stream.parse().ok()?, event.parse().ok()?);
        if stream == self.general.no() {
            return Some((Arc::clone(&self.general), event));
        }
        let streams = lock(&self.streams);
        let found = streams.iter().find(|kept| kept.no() == stream)?;
        Some((Arc::clone(found), event))
    }

    /// It is used now.
    pub(super) fn touch(&self) {
        *lock(&self.used) = Instant::now();
    }

    /// For how long it was not used; not at all while somebody listens.
    fn idle(&self) -> Duration {
        let listens = self.general.is_attached()
            || lock(&self.streams)
                .iter()
                .any(|stream| stream.is_attached());
        if listens {
            return Duration::ZERO;
        }
        lock(&self.used).elapsed()
    }

    fn end(&self) {
        self.instance.leave(self.no);
        self.general.end();
        for stream in lock(&self.streams).iter() {
            stream.end();
        }
        if self.own.is_some() {
            self.instance.stop();
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.end();
    }
}

impl Sessions {
    /// A number that no session of this service has had.
    pub(super) fn number(&self) -> u64 {
        // 0 is us.
        self.next.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Takes a session in; gives its id, which nobody can guess. None where there are too many
    /// that share a process.
    pub(super) fn add(&self, session: Arc<Session>) -> Option<String> {
        let mut all = lock(&self.all);
        if session.own.is_none() && all.len() >= MAX_SHARED {
            return None;
        }
        let id = format!("{:032x}", rand::random::<u128>());
        all.insert(id.clone(), session);
        Some(id)
    }

    /// Whether one more may share a process.
    pub(super) fn has_room(&self) -> bool {
        lock(&self.all).len() < MAX_SHARED
    }

    /// The session of an id, if its process lives.
    pub(super) fn get(&self, id: &str) -> Option<Arc<Session>> {
        let session = lock(&self.all).get(id).map(Arc::clone)?;
        if session.instance.ended().is_some() {
            self.remove(id);
            return None;
        }
        session.touch();
        Some(session)
    }

    /// Ends a session: whether there was one.
    pub(super) fn remove(&self, id: &str) -> bool {
        let removed = lock(&self.all).remove(id);
        if let Some(session) = &removed {
            session.end();
        }
        removed.is_some()
    }

    /// Ends those that were not used for `idle`, and forgets those whose process has ended.
    pub(super) fn sweep(&self, idle: Duration) {
        let over = |session: &Session| session.instance.ended().is_some() || session.idle() >= idle;
        let ids: Vec<String> = lock(&self.all)
            .iter()
            .filter(|(_, session)| over(session))
            .map(|(id, _)| id.clone())
            .collect();
        for id in ids {
            self.remove(&id);
        }
    }

    /// Ends the one that was not used for longest, if that is at least `after`.
    pub(super) fn make_room(&self, after: Duration) {
        let longest = {
            let all = lock(&self.all);
            let idle = all.iter().map(|(id, session)| (session.idle(), id));
            idle.filter(|(idle, _)| *idle >= after)
                .max()
                .map(|(_, id)| id.clone())
        };
        if let Some(id) = longest {
            self.remove(&id);
        }
    }

    /// How many there are.
    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        lock(&self.all).len()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
