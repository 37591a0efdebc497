//! A request body that can be sent again while it is small enough to be kept.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame};

use crate::budget::ReplayShare;
use crate::limits::{REPLAY_PIECE_BYTES, REPLAY_PIECES};

/// A failure of the caller's own body.
pub(crate) type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// Reads a body once, and keeps what was read until it is larger than its limit, comes in too many
/// pieces, or is more than the replica has memory for; then it goes on without keeping, and cannot be rewound any more.
///
/// Clones are handles of the same body: one reads, in the task of its attempt, the other rewinds
/// once that attempt is over.
pub(crate) struct Replay<B> {
    // Never held across an await: each look into the body is one poll.
    inner: Arc<Mutex<Inner<B>>>,
}

struct Inner<B> {
    body: Pin<Box<B>>,
    kept: Kept,
    /// Pieces of `kept` that the present attempt has taken.
    position: usize,
    end: End,
    /// Whether the present attempt has had the trailers.
    ended: bool,
    limit: usize,
}

/// How the body ended, once it has.
enum End {
    ToCome,
    Plain,
    Trailers(HeaderMap),
}

/// What could be sent again.
enum Kept {
    All(Vec<Bytes>, ReplayShare),
    /// Too much, or no longer needed.
    Lost,
}

impl<B> Clone for Replay<B> {
    fn clone(&self) -> Self {
        Self {
            inner: Arc::clone(&self.inner),
        }
    }
}

impl<B> Replay<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BodyError>,
{
    pub(crate) fn new(body: B, share: ReplayShare, limit: usize) -> Self {
        let inner = Inner {
            end: if body.is_end_stream() {
                End::Plain
            } else {
                End::ToCome
            },
            ended: false,
            body: Box::pin(body),
            kept: Kept::All(Vec::new(), share),
            position: 0,
            limit,
        };
        Self {
            inner: Arc::new(Mutex::new(inner)),
        }
    }

    /// Starts over for another attempt; false where what was read is not kept.
    pub(crate) fn rewind(&self) -> bool {
        let mut inner = self.inner();
        let whole = matches!(inner.kept, Kept::All(..));
        if whole {
            inner.position = 0;
            inner.ended = false;
        }
        whole
    }

    /// Whether everything read so far is still there.
    pub(crate) fn is_whole(&self) -> bool {
        matches!(self.inner().kept, Kept::All(..))
    }

    /// Gives the memory back once the call will not be sent again; what the present attempt has
    /// not taken yet stays readable.
    pub(crate) fn forget(&self) {
        let mut inner = self.inner();
        if let Kept::All(pieces, _) = &inner.kept
            && inner.position >= pieces.len()
        {
            inner.kept = Kept::Lost;
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner<B>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads on for the present attempt; after its end it has no further frame until it is rewound.
impl<B> Body for Replay<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BodyError>,
{
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.inner().poll_next(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.inner().is_over()
    }
}

impl<B> Inner<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BodyError>,
{
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Kept::All(pieces, _) = &self.kept
            && let Some(piece) = pieces.get(self.position)
        {
            self.position += 1;
            return Poll::Ready(Some(Ok(Frame::data(piece.clone()))));
        }
        loop {
            match &self.end {
                End::ToCome => {}
                End::Plain => return Poll::Ready(None),
                End::Trailers(_) if std::mem::replace(&mut self.ended, true) => {
                    return Poll::Ready(None);
                }
                End::Trailers(trailers) => {
                    return Poll::Ready(Some(Ok(Frame::trailers(trailers.clone()))));
                }
            }
            let frame = match ready!(self.body.as_mut().poll_frame(cx)) {
                None => {
                    self.end = End::Plain;
                    continue;
                }
                Some(frame) => frame.map_err(Into::into)?,
            };
            match frame.into_data() {
                Ok(data) if data.is_empty() => {}
                Ok(data) => {
                    self.keep(&data);
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Err(frame) => {
                    self.end = frame.into_trailers().map_or(End::ToCome, End::Trailers);
                }
            }
        }
    }

    fn is_over(&self) -> bool {
        let all_taken = match &self.kept {
            Kept::All(pieces, _) => self.position >= pieces.len(),
            Kept::Lost => true,
        };
        all_taken && (matches!(self.end, End::Plain) || self.body.is_end_stream())
    }

    fn keep(&mut self, data: &Bytes) {
        let Kept::All(pieces, share) = &mut self.kept else {
            return;
        };
        let kept = share.held() - pieces.len() * REPLAY_PIECE_BYTES;
        let fits = kept + data.len() <= self.limit && pieces.len() < REPLAY_PIECES;
        if fits && share.grow(data.len() + REPLAY_PIECE_BYTES) {
            pieces.push(data.clone());
            self.position = pieces.len();
        } else {
            self.kept = Kept::Lost;
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use http_body_util::{BodyExt as _, StreamBody};

    use super::*;
    use crate::budget::ReplayMemory;

    type Pieces = Vec<Result<Frame<Bytes>, BodyError>>;

    fn replay(
        pieces: Pieces,
        memory: &ReplayMemory,
        limit: usize,
    ) -> Replay<impl Body<Data = Bytes, Error = BodyError>> {
        let body = StreamBody::new(futures_util::stream::iter(pieces));
        Replay::new(body, memory.share(), limit)
    }

    fn data(text: &'static str) -> Result<Frame<Bytes>, BodyError> {
        Ok(Frame::data(Bytes::from_static(text.as_bytes())))
    }

    #[derive(Debug, PartialEq)]
    enum Piece {
        Data(Bytes),
        End(Option<HeaderMap>),
    }

    fn next<B>(replay: &Replay<B>) -> Result<Piece, BodyError>
    where
        B: Body<Data = Bytes>,
        B::Error: Into<BodyError>,
    {
        let frame = replay
            .clone()
            .frame()
            .now_or_never()
            .expect("all pieces are in memory");
        Ok(match frame.transpose()?.map(Frame::into_data) {
            None => Piece::End(None),
            Some(Ok(data)) => Piece::Data(data),
            Some(Err(frame)) => Piece::End(frame.into_trailers().ok()),
        })
    }

    fn read<B>(replay: &Replay<B>) -> String
    where
        B: Body<Data = Bytes>,
        B::Error: Into<BodyError>,
    {
        let mut text = String::new();
        while let Piece::Data(piece) = next(replay).unwrap() {
            text.push_str(std::str::from_utf8(&piece).unwrap());
        }
        text
    }

    #[test]
    fn a_small_body_is_sent_again_from_its_start() {
        let memory = ReplayMemory::new(10_000);
        let replay = replay(
            vec![data("one "), data(""), data("two "), data("three")],
            &memory,
            100,
        );
        assert_eq!(
            next(&replay).unwrap(),
            Piece::Data(Bytes::from_static(b"one "))
        );
        assert!(replay.rewind());
        assert_eq!(read(&replay), "one two three");
        assert!(replay.rewind());
        assert_eq!(read(&replay), "one two three");
        assert_eq!(memory.free(), 10_000 - 13 - 3 * REPLAY_PIECE_BYTES);
        drop(replay);
        assert_eq!(memory.free(), 10_000);
    }

    /// A caller that sends byte by byte holds what that costs, and not its few bytes only.
    #[test]
    fn pieces_are_counted_and_not_their_bytes_alone() {
        let bytes = |count| std::iter::repeat_with(|| data("x")).take(count).collect();
        let memory = ReplayMemory::new(usize::MAX);
        let most = replay(bytes(REPLAY_PIECES), &memory, usize::MAX);
        assert_eq!(read(&most).len(), REPLAY_PIECES);
        assert!(most.rewind());
        let more = replay(bytes(REPLAY_PIECES + 1), &memory, usize::MAX);
        assert_eq!(read(&more).len(), REPLAY_PIECES + 1);
        assert!(!more.rewind());
        let small = ReplayMemory::new(3 * REPLAY_PIECE_BYTES);
        let third = replay(bytes(3), &small, usize::MAX);
        assert_eq!(read(&third), "xxx");
        assert!(!third.rewind());
        assert_eq!(small.free(), 3 * REPLAY_PIECE_BYTES);
    }

    #[test]
    fn a_large_body_passes_but_cannot_be_rewound_and_holds_nothing() {
        let memory = ReplayMemory::new(1_000);
        let replay = replay(vec![data("12345"), data("6")], &memory, 5);
        assert_eq!(
            next(&replay).unwrap(),
            Piece::Data(Bytes::from_static(b"12345"))
        );
        assert!(replay.is_whole());
        assert_eq!(
            next(&replay).unwrap(),
            Piece::Data(Bytes::from_static(b"6"))
        );
        assert!(!replay.rewind());
        assert_eq!(memory.free(), 1_000);
        assert_eq!(next(&replay).unwrap(), Piece::End(None));
    }

    #[test]
    fn the_memory_of_the_replica_bounds_all_calls_together() {
        let memory = ReplayMemory::new(8 + REPLAY_PIECE_BYTES);
        let one = replay(vec![data("12345")], &memory, 100);
        let two = replay(vec![data("12345")], &memory, 100);
        assert_eq!((read(&one), read(&two)), ("12345".into(), "12345".into()));
        assert!(one.rewind());
        assert!(!two.rewind());
    }

    #[test]
    fn the_end_is_known_with_the_last_piece_and_only_then() {
        let memory = ReplayMemory::new(1_000);
        let body = Replay::new(
            http_body_util::Full::new(Bytes::from_static(b"all")),
            memory.share(),
            9,
        );
        for _ in 0..2 {
            assert!(!body.is_end_stream());
            assert_eq!(
                next(&body).unwrap(),
                Piece::Data(Bytes::from_static(b"all"))
            );
            assert!(body.is_end_stream());
            assert!(body.rewind());
        }
        let empty = Replay::new(http_body_util::Empty::<Bytes>::new(), memory.share(), 9);
        assert!(empty.is_end_stream());
    }

    #[test]
    fn forgetting_keeps_what_this_attempt_still_has_to_send() {
        let memory = ReplayMemory::new(1_000);
        let replay = replay(vec![data("ab"), data("cd")], &memory, 100);
        assert_eq!(read(&replay), "abcd");
        assert!(replay.rewind());
        replay.forget();
        assert_eq!(read(&replay), "abcd");
        replay.forget();
        assert_eq!(memory.free(), 1_000);
        assert!(!replay.rewind());
    }

    #[test]
    fn trailers_are_sent_again_and_an_error_is_never_an_end() {
        let memory = ReplayMemory::new(1_000);
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", http::HeaderValue::from_static("1"));
        let whole = replay(
            vec![data("a"), Ok(Frame::trailers(trailers.clone()))],
            &memory,
            100,
        );
        for _ in 0..2 {
            assert_eq!(next(&whole).unwrap(), Piece::Data(Bytes::from_static(b"a")));
            assert_eq!(next(&whole).unwrap(), Piece::End(Some(trailers.clone())));
            assert_eq!(next(&whole).unwrap(), Piece::End(None));
            assert!(whole.rewind());
        }
        let cut = replay(
            vec![data("a"), Err("the caller went away".into())],
            &memory,
            100,
        );
        assert_eq!(next(&cut).unwrap(), Piece::Data(Bytes::from_static(b"a")));
        assert!(next(&cut).is_err());
    }
}
