//! What a request may have: the size of its head, and bodies that are passed on or not wanted.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{
    HeaderMap,
    header::{CONTENT_LENGTH, EXPECT},
};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use tokio::time::{Instant, Sleep, timeout_at};

use crate::{
    error::{CallerCode, Problem},
    held::Share,
    model::form::FormUp,
    upgrade::UpStream,
};

/// Most headers of a request; the tunnel carries as many.
pub const MAX_HEADERS: usize = 512;
/// Largest head of a request, in bytes: long tokens and cookies fit, a flood does not.
pub const MAX_HEAD_BYTES: usize = 128 * 1024;
/// How much of a body that is not wanted is read away, in bytes and time, so that the caller sees the
/// answer before the connection is closed: bytes that nobody has read would reset it.
const DISCARDED: usize = 256 * 1024;
const DISCARD_TIME: Duration = Duration::from_secs(1);
/// Longest silence of a caller in the middle of a body that is passed on as it comes.
const STREAMED_IDLE: Duration = Duration::from_secs(300);

/// What the head of a request says about its body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Announced {
    /// Its length in bytes, where the head tells it.
    pub length: Option<u64>,
    /// The caller sends it only when it is asked to (`expect: 100-continue`). The server asks when the
    /// body is first polled.
    pub waits: bool,
}

impl Announced {
    /// Reads a caller's own head, before anything is taken out of it.
    pub fn of(headers: &HeaderMap) -> Self {
        let text = |name| headers.get(name)?.to_str().ok();
        Self {
            length: text(CONTENT_LENGTH).and_then(|text| text.parse().ok()),
            waits: text(EXPECT).is_some_and(|what| what.eq_ignore_ascii_case("100-continue")),
        }
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
    /// A form, whose rest is passed on as it comes.
    Form(FormUp<B>),
    /// What comes once the protocol has changed.
    Switched(UpStream),
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
            Self::Form(form) => Pin::new(form).poll_frame(cx),
            Self::Switched(stream) => Pin::new(stream).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Held(held) => held.left == 0,
            Self::Streamed(streamed) => streamed.body.is_end_stream(),
            Self::Form(form) => form.is_end_stream(),
            Self::Switched(stream) => stream.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Held(held) => SizeHint::with_exact(held.left),
            Self::Streamed(streamed) => streamed.body.size_hint(),
            Self::Form(form) => form.size_hint(),
            Self::Switched(stream) => stream.size_hint(),
        }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Streamed<B> {
    pub(crate) fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Problem>>> {
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

/// Reads away a body that is not wanted, within bounds, and says whether nothing of it is left: else
/// the connection cannot go on. A caller that waits to be asked for its body is not asked (RFC 9110,
/// section 10.1.1).
pub async fn discard<B>(announced: Announced, body: B) -> bool
where
    B: Body<Data = Bytes> + Unpin,
{
    if announced.waits && !body.is_end_stream() {
        return false;
    }
    drain(body).await
}

/// Reads away the rest of a body that was asked for.
pub async fn drain<B>(mut body: B) -> bool
where
    B: Body<Data = Bytes> + Unpin,
{
    let deadline = Instant::now() + DISCARD_TIME;
    let mut left = DISCARDED;
    while left > 0 && !body.is_end_stream() {
        match timeout_at(deadline, body.frame()).await {
            Ok(Some(Ok(frame))) => {
                left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
            }
            Ok(None) => return true,
            Ok(Some(Err(_))) | Err(_) => return false,
        }
    }
    body.is_end_stream()
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

pub(crate) fn too_slow() -> Problem {
    Problem::new(CallerCode::BadRequest, "The body did not arrive in time.").closing()
}

pub(crate) fn broken() -> Problem {
    Problem::new(
        CallerCode::BadRequest,
        "The body ended before its announced length.",
    )
    .closing()
}

/// Bodies for tests.
#[cfg(test)]
pub(crate) mod script {
    use std::{collections::VecDeque, convert::Infallible};

    use super::*;

    /// Yields its pieces, then ends or hangs.
    pub(crate) struct Script(VecDeque<Bytes>, bool);

    impl Script {
        pub(crate) fn of(pieces: Vec<Bytes>) -> Self {
            Self(pieces.into(), false)
        }

        /// Pieces that nobody has asked for.
        pub(crate) fn left(&self) -> usize {
            self.0.len()
        }
    }

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

    pub(crate) fn script(pieces: &[usize], hangs: bool) -> Script {
        Script(
            pieces.iter().map(|n| Bytes::from(vec![b'x'; *n])).collect(),
            hangs,
        )
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::{script::script, *};

    #[tokio::test(start_paused = true)]
    async fn a_silent_caller_is_given_up() {
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
        let (none, began) = (Announced::default(), Instant::now());
        assert!(!discard(none, script(&[10], true)).await);
        assert_eq!(began.elapsed(), DISCARD_TIME);
        assert!(discard(none, script(&[10], false)).await);
        let mut endless = script(&[DISCARDED / 4; 16], true);
        assert!(!discard(none, &mut endless).await);
        assert_eq!((endless.left(), began.elapsed()), (12, DISCARD_TIME));
    }

    #[tokio::test]
    async fn who_waits_to_be_asked_is_not_asked() {
        let mut headers = HeaderMap::new();
        headers.insert(EXPECT, HeaderValue::from_static("100-Continue"));
        headers.insert(CONTENT_LENGTH, HeaderValue::from_static("10"));
        let announced = Announced::of(&headers);
        assert_eq!((announced.length, announced.waits), (Some(10), true));
        let mut waiting = script(&[10], true);
        assert!(!discard(announced, &mut waiting).await);
        assert_eq!(waiting.left(), 1);
    }
}
