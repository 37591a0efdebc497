//! What one caller hears: events with a place in a row, kept for a while so that a caller whose
//! connection broke can go on where it was.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use tokio::time::{Instant, Sleep};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::instance::Hold;

/// A silent stream says this often that it is alive.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Events that wait for their caller, of those that can be left out.
const MAX_UNSENT: usize = 1_024;
/// Events that are kept after they were sent: how far back a caller can go.
const MAX_KEPT: usize = 256;
/// Bytes that are kept after they were sent.
const MAX_KEPT_BYTES: usize = 1 << 20;
/// Bytes of all streams of one process together; half of them for what can be left out.
const MAX_BYTES: usize = 32 << 20;

/// The bytes that the streams of one process hold together.
#[derive(Debug, Default)]
pub(super) struct Budget(AtomicUsize);

/// A stream of events.
#[derive(Debug)]
pub(super) struct Stream {
    /// Its number within its session; 0 is the one outside of all requests.
    no: u64,
    /// Whether it can be resumed: its events have ids, and are kept.
    resumable: bool,
    budget: Arc<Budget>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    events: VecDeque<Event>,
    next: u64,
    /// Those before have been sent.
    sent: u64,
    kept_bytes: usize,
    ended: bool,
    failed: Option<StatusCode>,
    /// Readers there were; the newest is the one.
    readers: u64,
    attached: bool,
    waker: Option<Waker>,
}

#[derive(Debug)]
struct Event {
    no: u64,
    data: Bytes,
}

/// What became of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pushed {
    /// It will be heard.
    Taken,
    /// There is no room, or nobody to hear it ever.
    Left,
}

impl Budget {
    fn take(&self, bytes: usize, must: bool) -> bool {
        let limit = if must { MAX_BYTES } else { MAX_BYTES / 2 };
        let taken = |held: usize| held.checked_add(bytes).filter(|held| *held <= limit);
        self.0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, taken)
            .is_ok()
    }

    fn give_back(&self, bytes: usize) {
        self.0.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Stream {
    /// An empty one.
    pub(super) fn new(no: u64, resumable: bool, budget: &Arc<Budget>) -> Arc<Self> {
        Arc::new(Self {
            no,
            resumable,
            budget: Arc::clone(budget),
            state: Mutex::default(),
        })
    }

    pub(super) fn no(&self) -> u64 {
        self.no
    }

    /// Adds an event. One that `must` be heard is left only where the budget is spent.
    pub(super) fn push(&self, data: Bytes, must: bool) -> Pushed {
        let mut state = self.lock();
        let unsent = usize::try_from(state.next - state.sent).unwrap_or(usize::MAX);
        let no_room = !must && unsent >= MAX_UNSENT;
        if state.ended || no_room || !self.budget.take(data.len(), must) {
            return Pushed::Left;
        }
        let no = state.next;
        state.next += 1;
        state.events.push_back(Event { no, data });
        state.wake();
        Pushed::Taken
    }

    /// Begins with an event that has nothing but its id, so that whoever loses the connection
    /// before the first one can come back. Too late where there is one.
    pub(super) fn prime(&self) {
        if self.lock().next == 0 {
            self.push(Bytes::new(), false);
        }
    }

    /// Nothing more will come.
    pub(super) fn end(&self) {
        let mut state = self.lock();
        state.ended = true;
        state.wake();
    }

    /// The last event is an error of ours, which has a status of its own.
    pub(super) fn fail(&self, data: Bytes, status: StatusCode) {
        // An error is small; where even that has no room the stream just ends.
        if self.push(data, true) == Pushed::Taken {
            self.lock().failed = Some(status);
        }
        self.end();
    }

    /// Whether somebody listens.
    pub(super) fn is_attached(&self) -> bool {
        self.lock().attached
    }

    /// Whether nothing more will come and nobody listens.
    pub(super) fn is_over(&self) -> bool {
        let state = self.lock();
        state.ended && !state.attached
    }

    /// Reads on after the event `last`; from the first that nobody has read, where none is
    /// named. A reader that there was ends. None where events in between are gone.
    pub(super) fn read(self: &Arc<Self>, last: Option<u64>, with: With) -> Option<Reader> {
        let mut state = self.lock();
        let next = match last {
            Some(last) => {
                let next = last.checked_add(1)?;
                let first = state.events.front().map_or(state.next, |event| event.no);
                (first..=state.next).contains(&next).then_some(next)?
            }
            None => state.sent,
        };
        state.readers += 1;
        state.attached = true;
        state.wake();
        let reader = state.readers;
        drop(state);
        Some(Reader {
            stream: Arc::clone(self),
            reader,
            next,
            alive: Box::pin(tokio::time::sleep(KEEP_ALIVE)),
            until: with.until.map(|until| Box::pin(until.cancelled_owned())),
            hold: with.hold,
        })
    }

    fn event(&self, event: &Event) -> Bytes {
        let mut text = String::with_capacity(event.data.len() + 32);
        if self.resumable {
            let written = writeln!(text, "id: {}-{}", self.no, event.no);
            debug_assert!(written.is_ok());
        }
        text.push_str("data: ");
        // What was parsed as JSON is UTF-8.
        text.push_str(&String::from_utf8_lossy(&event.data));
        text.push_str("\n\n");
        text.into()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let state = self.lock();
        let held = state.events.iter().map(|event| event.data.len()).sum();
        self.budget.give_back(held);
    }
}

impl State {
    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// An event has been sent: it is kept for a while, where it can be asked for again.
    fn sent(&mut self, no: u64, bytes: usize, keep: bool, budget: &Budget) {
        if no < self.sent {
            return;
        }
        self.sent = no + 1;
        self.kept_bytes += bytes;
        let (most, most_bytes) = if keep {
            (MAX_KEPT, MAX_KEPT_BYTES)
        } else {
            (0, 0)
        };
        loop {
            let unsent = usize::try_from(self.next - self.sent).unwrap_or(usize::MAX);
            let kept = self.events.len().saturating_sub(unsent);
            if kept == 0 || (kept <= most && self.kept_bytes <= most_bytes) {
                return;
            }
            if let Some(event) = self.events.pop_front() {
                self.kept_bytes = self.kept_bytes.saturating_sub(event.data.len());
                budget.give_back(event.data.len());
            }
        }
    }
}

/// What a reader holds and hears besides.
#[derive(Debug, Default)]
pub(super) struct With {
    /// Dropped with it.
    pub(super) hold: Option<Hold>,
    /// Ends it.
    pub(super) until: Option<CancellationToken>,
}

/// Somebody who listens.
#[derive(Debug)]
pub(super) struct Reader {
    stream: Arc<Stream>,
    reader: u64,
    next: u64,
    alive: Pin<Box<Sleep>>,
    until: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    hold: Option<Hold>,
}

/// How an answer begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Beginning {
    /// This is all of it.
    Only(Bytes),
    /// As before, an error of ours.
    Failed(Bytes, StatusCode),
    /// There is none, and will be none.
    Nothing,
    /// There is, or will be, more than one event.
    Events,
}

impl Reader {
    /// Until there is an event, or none will come.
    pub(super) async fn begun(&self) {
        std::future::poll_fn(|cx| {
            let mut state = self.stream.lock();
            if state.ended || !state.events.is_empty() {
                return Poll::Ready(());
            }
            state.waker = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// What there is so far.
    pub(super) fn beginning(&self) -> Beginning {
        let state = self.stream.lock();
        match (state.events.front(), state.failed) {
            (None, _) if state.ended => Beginning::Nothing,
            (Some(event), None) if state.ended && state.events.len() == 1 => {
                Beginning::Only(event.data.clone())
            }
            (Some(event), Some(status)) if state.events.len() == 1 => {
                Beginning::Failed(event.data.clone(), status)
            }
            (Some(_) | None, _) => Beginning::Events,
        }
    }

    /// What it listens to.
    pub(super) fn stream(&self) -> &Arc<Stream> {
        &self.stream
    }

    /// It ends when the token says so.
    pub(super) fn until(&mut self, until: &CancellationToken) {
        self.until = Some(Box::pin(until.clone().cancelled_owned()));
    }

    /// What it holds.
    pub(super) fn hold(&mut self) -> Option<&mut Hold> {
        self.hold.as_mut()
    }

    /// The next event, as text of an event stream.
    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let next = self.poll_event(cx);
        if let Poll::Ready(None) = next {
            self.hold = None;
        }
        next
    }

    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let mut state = self.stream.lock();
        if state.readers != self.reader {
            return Poll::Ready(None);
        }
        let next = self.next;
        let at = state.events.partition_point(|event| event.no < next);
        if let Some(event) = state.events.get(at) {
            let (no, bytes) = (event.no, event.data.len());
            let text = self.stream.event(event);
            state.sent(no, bytes, self.stream.resumable, &self.stream.budget);
            drop(state);
            self.next = no + 1;
            self.alive.as_mut().reset(Instant::now() + KEEP_ALIVE);
            return Poll::Ready(Some(text));
        }
        if state.ended {
            return Poll::Ready(None);
        }
        state.waker = Some(cx.waker().clone());
        drop(state);
        if let Some(until) = &mut self.until
            && until.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(None);
        }
        if self.alive.as_mut().poll(cx).is_ready() {
            self.alive.as_mut().reset(Instant::now() + KEEP_ALIVE);
            return Poll::Ready(Some(Bytes::from_static(b":\n\n")));
        }
        Poll::Pending
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let mut state = self.stream.lock();
        if state.readers == self.reader {
            state.attached = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(resumable: bool) -> (Arc<Stream>, Arc<Budget>) {
        let budget = Arc::new(Budget::default());
        (Stream::new(3, resumable, &budget), budget)
    }

    fn push(stream: &Stream, text: &str) -> Pushed {
        stream.push(Bytes::from(text.to_owned()), false)
    }

    async fn next(reader: &mut Reader) -> Option<String> {
        std::future::poll_fn(|cx| reader.poll_next(cx))
            .await
            .map(|bytes| String::from_utf8(bytes.to_vec()).expect("text"))
    }

    #[tokio::test]
    async fn events_have_ids_and_an_order() {
        let (stream, _) = stream(true);
        assert_eq!(push(&stream, "a"), Pushed::Taken);
        let mut reader = stream.read(None, With::default()).expect("a reader");
        push(&stream, "b");
        assert_eq!(
            next(&mut reader).await.as_deref(),
            Some("id: 3-0\ndata: a\n\n")
        );
        assert_eq!(
            next(&mut reader).await.as_deref(),
            Some("id: 3-1\ndata: b\n\n")
        );
        stream.end();
        assert_eq!(next(&mut reader).await, None);
        assert_eq!(push(&stream, "c"), Pushed::Left);
    }

    #[tokio::test]
    async fn a_reader_goes_on_after_the_last_event_that_it_has() {
        let (stream, _) = stream(true);
        for text in ["a", "b", "c"] {
            push(&stream, text);
        }
        let mut first = stream.read(None, With::default()).expect("a reader");
        for _ in 0..2 {
            next(&mut first).await;
        }
        let mut second = stream.read(Some(0), With::default()).expect("a reader");
        assert_eq!(next(&mut first).await, None, "the newest reader is the one");
        drop(first);
        assert!(stream.is_attached());
        for text in ["id: 3-1\ndata: b\n\n", "id: 3-2\ndata: c\n\n"] {
            assert_eq!(next(&mut second).await.as_deref(), Some(text));
        }
        assert!(stream.read(Some(7), With::default()).is_none());
        assert!(stream.read(Some(u64::MAX), With::default()).is_none());
    }

    #[tokio::test]
    async fn what_was_sent_is_kept_for_a_while() {
        let (stream, budget) = stream(true);
        let mut reader = stream.read(None, With::default()).expect("a reader");
        for n in 0..2 * MAX_KEPT {
            push(&stream, "x");
            assert!(next(&mut reader).await.is_some(), "{n}");
        }
        assert_eq!(budget.0.load(Ordering::Relaxed), MAX_KEPT);
        assert!(
            stream.read(Some(0), With::default()).is_none(),
            "it is gone"
        );
        let from = MAX_KEPT as u64;
        assert!(stream.read(Some(from), With::default()).is_some());
        push(&stream, &"y".repeat(MAX_KEPT_BYTES + 1));
        let mut reader = stream.read(None, With::default()).expect("a reader");
        next(&mut reader).await;
        assert_eq!(budget.0.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn what_nobody_reads_has_a_bound() {
        let (stream, budget) = stream(true);
        let taken = (0..2 * MAX_UNSENT)
            .filter(|_| push(&stream, "x") == Pushed::Taken)
            .count();
        assert_eq!(taken, MAX_UNSENT);
        assert_eq!(stream.push(Bytes::from_static(b"!"), true), Pushed::Taken);
        let large = Bytes::from(vec![b'z'; MAX_BYTES / 2]);
        assert_eq!(stream.push(large.clone(), false), Pushed::Left);
        assert_eq!(stream.push(large.clone(), true), Pushed::Taken);
        assert_eq!(stream.push(large, true), Pushed::Left);
        drop(stream);
        assert_eq!(budget.0.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn a_single_answer_needs_no_stream() {
        let (stream, budget) = stream(false);
        let mut reader = stream.read(None, With::default()).expect("a reader");
        push(&stream, "a");
        reader.begun().await;
        assert_eq!(reader.beginning(), Beginning::Events, "more may come");
        stream.end();
        let only = Bytes::from_static(b"a");
        assert_eq!(reader.beginning(), Beginning::Only(only.clone()));
        assert_eq!(next(&mut reader).await.as_deref(), Some("data: a\n\n"));
        let stream = Stream::new(1, false, &budget);
        let reader = stream.read(None, With::default()).expect("a reader");
        stream.fail(only.clone(), StatusCode::BAD_GATEWAY);
        let failed = Beginning::Failed(only, StatusCode::BAD_GATEWAY);
        assert_eq!(reader.beginning(), failed);
        let stream = Stream::new(1, false, &budget);
        let reader = stream.read(None, With::default()).expect("a reader");
        stream.end();
        reader.begun().await;
        assert_eq!(reader.beginning(), Beginning::Nothing);
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_stream_says_that_it_is_alive() {
        let (stream, _) = stream(false);
        let began = Instant::now();
        let mut reader = stream.read(None, With::default()).expect("a reader");
        assert_eq!(next(&mut reader).await.as_deref(), Some(":\n\n"));
        assert_eq!(began.elapsed(), KEEP_ALIVE);
        let until = CancellationToken::new();
        until.cancel();
        let with = With {
            until: Some(until),
            ..With::default()
        };
        let mut reader = stream.read(None, with).expect("a reader");
        assert_eq!(next(&mut reader).await, None);
    }
}
