//! Request bodies: how much of them is held, for how long, and what they may cost together.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http::{
    HeaderMap,
    header::{CONTENT_LENGTH, EXPECT},
};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, Sleep, timeout_at},
};

use crate::{
    error::{CallerCode, Problem},
    metrics::EdgeMetrics,
};

/// Most headers of a request; the tunnel carries as many.
pub const MAX_HEADERS: usize = 512;
/// Largest head of a request, in bytes: long tokens and cookies fit, a flood does not.
pub const MAX_HEAD_BYTES: usize = 128 * 1024;
/// Largest body that is held whole, in bytes: several images in base64.
pub const MAX_HELD_BODY: usize = 32 * 1024 * 1024;
/// Bytes of all held bodies of a replica together.
pub const HELD_BUDGET: usize = 1024 * 1024 * 1024;
/// What the budget is taken in, in bytes: a semaphore counts no further than `u32` permits at once.
const BUDGET_UNIT: usize = 4 * 1024;
/// Longest silence in the middle of a body that is held.
const HELD_IDLE: Duration = Duration::from_secs(30);
/// Longest time for the whole of a body that is held: 32 MiB at 1 Mbit/s take 4.5 minutes.
const HELD_TOTAL: Duration = Duration::from_secs(300);
/// How much of a body that is not wanted is read away, in bytes and time, so that the caller sees the
/// answer before the connection is closed: bytes that nobody has read would reset it.
const DISCARDED: usize = 256 * 1024;
const DISCARD_TIME: Duration = Duration::from_secs(1);
/// Longest silence of a caller in the middle of a body that is passed on as it comes.
const STREAMED_IDLE: Duration = Duration::from_secs(300);

const _: () = assert!(HELD_BUDGET / MAX_HELD_BODY >= 32);
const _: () = assert!(HELD_BUDGET / BUDGET_UNIT <= u32::MAX as usize);

/// The memory of a replica for bodies that are held whole.
#[derive(Clone, Debug)]
pub struct BodyBudget {
    units: Arc<Semaphore>,
    total: usize,
    metrics: EdgeMetrics,
}

/// A body that has been read whole. Its share of the budget is given back when it is dropped.
#[derive(Debug)]
pub struct HeldBody {
    /// All of it.
    pub bytes: Bytes,
    /// Its share.
    pub share: Share,
}

/// A share of the budget.
#[derive(Debug)]
pub struct Share {
    permit: Option<OwnedSemaphorePermit>,
    budget: BodyBudget,
}

impl BodyBudget {
    /// A budget of this many bytes.
    pub fn new(bytes: usize, metrics: EdgeMetrics) -> Self {
        let total = bytes / BUDGET_UNIT;
        Self {
            units: Arc::new(Semaphore::new(total)),
            total,
            metrics,
        }
    }

    /// Reads a body to its end, by `until` where the caller has a deadline, and holds it. What is not
    /// wanted is read away.
    pub async fn hold<B>(
        &self,
        headers: &HeaderMap,
        until: Option<Instant>,
        mut body: B,
        read: &AtomicU64,
    ) -> Result<HeldBody, Problem>
    where
        B: Body<Data = Bytes> + Unpin,
    {
        let held = self.fill(headers, until, &mut body, read).await;
        // After a time-out or a broken body nothing more comes.
        let refused = held.as_ref().err().map(Problem::code);
        if matches!(
            refused,
            Some(CallerCode::BodyTooLarge | CallerCode::Overloaded)
        ) {
            discard(headers, body).await;
        }
        held
    }

    async fn fill<B>(
        &self,
        headers: &HeaderMap,
        until: Option<Instant>,
        body: &mut B,
        read: &AtomicU64,
    ) -> Result<HeldBody, Problem>
    where
        B: Body<Data = Bytes> + Unpin,
    {
        if declared(headers).is_some_and(|length| length > MAX_HELD_BODY as u64) {
            return Err(too_large());
        }
        let mut share = Share {
            permit: None,
            budget: self.clone(),
        };
        let mut held = Pieces::default();
        let end = Instant::now() + HELD_TOTAL;
        loop {
            let patience = end.min(Instant::now() + HELD_IDLE);
            let deadline = until.map_or(patience, |until| until.min(patience));
            let frame = timeout_at(deadline, body.frame()).await.map_err(|_| {
                if until == Some(deadline) {
                    too_late()
                } else {
                    too_slow()
                }
            })?;
            let Some(frame) = frame else {
                return Ok(HeldBody {
                    bytes: held.join(),
                    share,
                });
            };
            let Ok(data) = frame.map_err(|_| broken())?.into_data() else {
                continue;
            };
            read.fetch_add(data.len() as u64, Ordering::Relaxed);
            if held.length + data.len() > MAX_HELD_BODY {
                return Err(too_large());
            }
            share.grow_to(held.length + data.len())?;
            held.push(data);
        }
    }

    fn report(&self) {
        let used = self.total.saturating_sub(self.units.available_permits());
        self.metrics.set_held_bytes((used * BUDGET_UNIT) as u64);
    }
}

impl Share {
    fn grow_to(&mut self, bytes: usize) -> Result<(), Problem> {
        let wanted = bytes.div_ceil(BUDGET_UNIT);
        let missing = wanted.saturating_sub(
            self.permit
                .as_ref()
                .map_or(0, OwnedSemaphorePermit::num_permits),
        );
        if missing == 0 {
            return Ok(());
        }
        let missing = u32::try_from(missing).map_err(|_| too_large())?;
        let more = Arc::clone(&self.budget.units)
            .try_acquire_many_owned(missing)
            .map_err(|_| overloaded())?;
        match &mut self.permit {
            Some(permit) => permit.merge(more),
            None => self.permit = Some(more),
        }
        self.budget.report();
        Ok(())
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        if self.permit.take().is_some() {
            self.budget.report();
        }
    }
}

/// The pieces of a body as they came; one piece is never copied.
#[derive(Default)]
struct Pieces {
    first: Bytes,
    rest: BytesMut,
    length: usize,
}

impl Pieces {
    fn push(&mut self, data: Bytes) {
        self.length += data.len();
        if self.first.is_empty() {
            self.first = data;
        } else {
            self.rest.extend_from_slice(&data);
        }
    }

    fn join(self) -> Bytes {
        if self.rest.is_empty() {
            return self.first;
        }
        let mut whole = BytesMut::with_capacity(self.length);
        whole.extend_from_slice(&self.first);
        whole.extend_from_slice(&self.rest);
        whole.freeze()
    }
}

/// The body of a held request on its way up: its pieces, and its share until the last has gone.
#[derive(Debug)]
pub struct HeldUp {
    pieces: std::vec::IntoIter<Bytes>,
    left: u64,
    _share: Share,
}

impl HeldUp {
    /// `pieces` together are the body.
    pub fn new(pieces: Vec<Bytes>, share: Share) -> Self {
        let left = pieces.iter().map(|piece| piece.len() as u64).sum();
        Self {
            pieces: pieces.into_iter(),
            left,
            _share: share,
        }
    }
}

/// A request body on its way up, from either source.
#[derive(Debug)]
pub enum UpBody<B> {
    /// Held whole before.
    Held(HeldUp),
    /// Passed on as it comes.
    Streamed(Streamed<B>),
}

/// A body that is passed on as it comes: counted, and given up after a long silence.
#[derive(Debug)]
pub struct Streamed<B> {
    body: B,
    read: Arc<AtomicU64>,
    idle: Pin<Box<Sleep>>,
    /// Whether we wait for the caller: not while nobody takes what it has sent.
    waiting: bool,
}

impl<B> Streamed<B> {
    /// Counts into `read`.
    pub fn new(body: B, read: Arc<AtomicU64>) -> Self {
        Self {
            body,
            read,
            idle: Box::pin(tokio::time::sleep(STREAMED_IDLE)),
            waiting: false,
        }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for UpBody<B> {
    type Data = Bytes;
    type Error = Problem;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Problem>>> {
        match self.get_mut() {
            Self::Held(held) => {
                let next = held.pieces.next();
                held.left -= next.as_ref().map_or(0, |piece| piece.len() as u64);
                Poll::Ready(next.map(|piece| Ok(Frame::data(piece))))
            }
            Self::Streamed(streamed) => streamed.poll(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Held(held) => held.left == 0,
            Self::Streamed(streamed) => streamed.body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Held(held) => SizeHint::with_exact(held.left),
            Self::Streamed(streamed) => streamed.body.size_hint(),
        }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Streamed<B> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Problem>>> {
        let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) else {
            if !std::mem::replace(&mut self.waiting, true) {
                self.idle.as_mut().reset(Instant::now() + STREAMED_IDLE);
            }
            ready!(self.idle.as_mut().poll(cx));
            return Poll::Ready(Some(Err(too_slow())));
        };
        self.waiting = false;
        Poll::Ready(frame.map(|frame| {
            let frame = frame.map_err(|_| broken())?;
            let length = frame.data_ref().map_or(0, Bytes::len);
            self.read.fetch_add(length as u64, Ordering::Relaxed);
            Ok(frame)
        }))
    }
}

/// Reads away the rest of a body that is not wanted, within bounds. A caller that waits for
/// `100 Continue` has sent nothing, and must not be asked to.
pub async fn discard<B>(headers: &HeaderMap, mut body: B)
where
    B: Body<Data = Bytes> + Unpin,
{
    if headers.contains_key(EXPECT) {
        return;
    }
    let deadline = Instant::now() + DISCARD_TIME;
    let mut left = DISCARDED;
    while left > 0 && !body.is_end_stream() {
        let Ok(Some(Ok(frame))) = timeout_at(deadline, body.frame()).await else {
            return;
        };
        left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
    }
}

/// Refuses a head that the tunnel could not carry. The listener's own limits come first on HTTP/1.
pub fn check_head(headers: &HeaderMap) -> Result<(), Problem> {
    let bytes: usize = headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + 4)
        .sum();
    if headers.len() > MAX_HEADERS || bytes > MAX_HEAD_BYTES {
        let what =
            format!("The head has more than {MAX_HEADERS} headers or {MAX_HEAD_BYTES} bytes.");
        return Err(Problem::new(CallerCode::HeadersTooLarge, what));
    }
    Ok(())
}

fn declared(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

fn too_large() -> Problem {
    let what = format!(
        "The body is larger than {} MiB.",
        MAX_HELD_BODY / (1024 * 1024)
    );
    Problem::new(CallerCode::BodyTooLarge, what).closing()
}

fn too_late() -> Problem {
    let what = "The deadline passed before the body had arrived.";
    Problem::new(CallerCode::DeadlineExceeded, what).closing()
}

fn too_slow() -> Problem {
    Problem::new(CallerCode::BadRequest, "The body did not arrive in time.").closing()
}

fn broken() -> Problem {
    Problem::new(
        CallerCode::BadRequest,
        "The body ended before its announced length.",
    )
    .closing()
}

fn overloaded() -> Problem {
    Problem::new(
        CallerCode::Overloaded,
        "This replica holds as many bodies as it can.",
    )
    .closing()
}

#[cfg(test)]
mod tests {
    use std::{collections::VecDeque, convert::Infallible};

    use http::HeaderValue;
    use prometheus_client::registry::Registry;

    use super::*;

    /// Yields its pieces, then ends or hangs.
    struct Script(VecDeque<Bytes>, bool);

    impl Body for Script {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            match self.0.pop_front() {
                Some(piece) => Poll::Ready(Some(Ok(Frame::data(piece)))),
                None if self.1 => Poll::Pending,
                None => Poll::Ready(None),
            }
        }
    }

    fn script(pieces: &[usize], hangs: bool) -> Script {
        Script(
            pieces.iter().map(|n| Bytes::from(vec![b'x'; *n])).collect(),
            hangs,
        )
    }

    fn budget(bytes: usize) -> BodyBudget {
        BodyBudget::new(bytes, EdgeMetrics::new(&mut Registry::default()))
    }

    async fn hold(budget: &BodyBudget, body: Script) -> Result<HeldBody, CallerCode> {
        budget
            .hold(&HeaderMap::new(), None, body, &AtomicU64::new(0))
            .await
            .map_err(|p| p.code())
    }

    #[tokio::test]
    async fn pieces_become_one_and_one_is_not_copied() {
        let budget = budget(HELD_BUDGET);
        let held = hold(&budget, script(&[3, 4, 5], false)).await.unwrap();
        assert_eq!(held.bytes.len(), 12);
        let piece = Bytes::from_static(b"{}");
        let held = hold(&budget, Script(VecDeque::from([piece.clone()]), false))
            .await
            .unwrap();
        assert_eq!(held.bytes.as_ptr(), piece.as_ptr());
    }

    #[tokio::test]
    async fn too_large_by_word_or_by_deed() {
        let budget = budget(HELD_BUDGET);
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_LENGTH, HeaderValue::from(MAX_HELD_BODY + 1));
        let early = budget
            .hold(&headers, None, script(&[], true), &AtomicU64::new(0))
            .await
            .unwrap_err();
        assert!(early.code() == CallerCode::BodyTooLarge && early.closes());
        let late = hold(&budget, script(&[MAX_HELD_BODY, 1], true)).await;
        assert_eq!(late.unwrap_err(), CallerCode::BodyTooLarge);
        assert!(hold(&budget, script(&[MAX_HELD_BODY], false)).await.is_ok());
    }

    #[tokio::test]
    async fn the_budget_is_shared_and_given_back() {
        let budget = budget(3 * BUDGET_UNIT);
        let first = hold(&budget, script(&[BUDGET_UNIT, 1], false))
            .await
            .unwrap();
        assert_eq!(
            hold(&budget, script(&[2 * BUDGET_UNIT], false))
                .await
                .unwrap_err(),
            CallerCode::Overloaded
        );
        let HeldBody { bytes, share } = first;
        let up: UpBody<Script> = UpBody::Held(HeldUp::new(vec![bytes], share));
        assert_eq!(up.size_hint().exact(), Some(BUDGET_UNIT as u64 + 1));
        assert!(
            hold(&budget, script(&[2 * BUDGET_UNIT], false))
                .await
                .is_err()
        );
        drop(up);
        assert!(
            hold(&budget, script(&[3 * BUDGET_UNIT], false))
                .await
                .is_ok()
        );
        assert_eq!(budget.units.available_permits(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_caller_is_given_up() {
        let began = Instant::now();
        let code = hold(&budget(HELD_BUDGET), script(&[1], true))
            .await
            .unwrap_err();
        assert_eq!((code, began.elapsed()), (CallerCode::BadRequest, HELD_IDLE));
        let count = Arc::new(AtomicU64::new(0));
        let mut body = UpBody::Streamed(Streamed::new(script(&[2], true), Arc::clone(&count)));
        assert!(body.frame().await.unwrap().is_ok());
        assert_eq!(body.frame().await.unwrap().unwrap_err(), too_slow());
        assert_eq!(count.load(Ordering::Relaxed), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_backend_that_takes_nothing_is_not_the_callers_silence() {
        let mut body = UpBody::Streamed(Streamed::new(script(&[2], true), Arc::default()));
        assert!(body.frame().await.unwrap().is_ok());
        tokio::time::advance(STREAMED_IDLE * 2).await;
        let began = Instant::now();
        assert_eq!(body.frame().await.unwrap().unwrap_err(), too_slow());
        assert_eq!(began.elapsed(), STREAMED_IDLE);
    }

    #[tokio::test(start_paused = true)]
    async fn the_deadline_of_a_caller_covers_its_body() {
        let (budget, headers) = (budget(HELD_BUDGET), HeaderMap::new());
        let until = Some(Instant::now() + HELD_IDLE / 2);
        let count = AtomicU64::new(0);
        let held = budget.hold(&headers, until, script(&[1], true), &count);
        assert_eq!(held.await.unwrap_err().code(), CallerCode::DeadlineExceeded);
        let until = Some(Instant::now() + HELD_IDLE * 2);
        let held = budget.hold(&headers, until, script(&[1], true), &count);
        assert_eq!(held.await.unwrap_err(), too_slow());
    }

    #[test]
    fn heads_are_counted() {
        let mut headers = HeaderMap::new();
        for i in 0..MAX_HEADERS {
            headers.append(
                format!("x-{i}").parse::<http::HeaderName>().unwrap(),
                HeaderValue::from_static(""),
            );
        }
        assert!(check_head(&headers).is_ok());
        headers.append("x-more", HeaderValue::from_static(""));
        assert_eq!(
            check_head(&headers).unwrap_err().code(),
            CallerCode::HeadersTooLarge
        );
        let mut headers = HeaderMap::new();
        headers.append(
            "x",
            HeaderValue::from_bytes(&vec![b'a'; MAX_HEAD_BYTES]).unwrap(),
        );
        assert!(check_head(&headers).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_not_wanted_is_read_away_within_bounds() {
        let began = Instant::now();
        discard(&HeaderMap::new(), script(&[10], true)).await;
        assert_eq!(began.elapsed(), DISCARD_TIME);
        let mut endless = script(&[DISCARDED / 4; 16], true);
        discard(&HeaderMap::new(), &mut endless).await;
        assert_eq!((endless.0.len(), began.elapsed()), (12, DISCARD_TIME));
        let mut headers = HeaderMap::new();
        headers.insert(EXPECT, HeaderValue::from_static("100-continue"));
        let mut waiting = script(&[10], true);
        discard(&headers, &mut waiting).await;
        assert_eq!(waiting.0.len(), 1);
    }
}
