//! A request body that can be sent again while it is small enough to be kept.

use std::future::poll_fn;
use std::pin::Pin;

use bytes::Bytes;
use http::HeaderMap;
use http_body::Body;

use crate::budget::ReplayShare;

/// A failure of the caller's own body.
pub(crate) type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// What a request body yields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Piece {
    Data(Bytes),
    /// The whole body has been read.
    End(Option<HeaderMap>),
}

/// Reads a body once, and keeps what was read until it is larger than its limit or the replica's
/// memory; then it goes on without keeping, and cannot be rewound any more.
pub(crate) struct Replay<B> {
    body: Pin<Box<B>>,
    kept: Kept,
    /// Pieces of `kept` that the present attempt has taken.
    position: usize,
    end: Option<Option<HeaderMap>>,
    limit: usize,
}

/// What could be sent again.
enum Kept {
    All(Vec<Bytes>, ReplayShare),
    Lost,
}

impl<B> Replay<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BodyError>,
{
    pub(crate) fn new(body: B, share: ReplayShare, limit: usize) -> Self {
        let position = 0;
        Self {
            body: Box::pin(body),
            kept: Kept::All(Vec::new(), share),
            position,
            end: None,
            limit,
        }
    }

    /// The next piece for the present attempt; cancel-safe.
    pub(crate) async fn next(&mut self) -> Result<Piece, BodyError> {
        if let Kept::All(pieces, _) = &self.kept
            && let Some(piece) = pieces.get(self.position)
        {
            self.position += 1;
            return Ok(Piece::Data(piece.clone()));
        }
        loop {
            if let Some(trailers) = &self.end {
                return Ok(Piece::End(trailers.clone()));
            }
            let frame = poll_fn(|cx| self.body.as_mut().poll_frame(cx)).await;
            match frame.transpose().map_err(Into::into)? {
                None => self.end = Some(None),
                Some(frame) => match frame.into_data() {
                    Ok(data) if data.is_empty() => {}
                    Ok(data) => {
                        self.keep(&data);
                        return Ok(Piece::Data(data));
                    }
                    Err(frame) => self.end = Some(frame.into_trailers().ok()),
                },
            }
        }
    }

    /// Starts over for another attempt; false where what was read is not kept.
    pub(crate) fn rewind(&mut self) -> bool {
        let whole = self.is_whole();
        if whole {
            self.position = 0;
        }
        whole
    }

    /// Whether everything read so far is still there.
    pub(crate) fn is_whole(&self) -> bool {
        matches!(self.kept, Kept::All(..))
    }

    /// Gives the memory back once the call will not be sent again; what the present attempt has
    /// not taken yet stays readable.
    pub(crate) fn forget(&mut self) {
        let Kept::All(pieces, share) = &mut self.kept else {
            return;
        };
        if self.position >= pieces.len() {
            share.release();
            self.kept = Kept::Lost;
        }
    }

    fn keep(&mut self, data: &Bytes) {
        let Kept::All(pieces, share) = &mut self.kept else {
            return;
        };
        if share.held() + data.len() <= self.limit && share.grow(data.len()) {
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
    use http_body::Frame;
    use http_body_util::StreamBody;

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

    fn next<B>(replay: &mut Replay<B>) -> Result<Piece, BodyError>
    where
        B: Body<Data = Bytes>,
        B::Error: Into<BodyError>,
    {
        replay
            .next()
            .now_or_never()
            .expect("all pieces are in memory")
    }

    fn read<B>(replay: &mut Replay<B>) -> String
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
        let memory = ReplayMemory::new(1_000);
        let mut replay = replay(
            vec![data("one "), data(""), data("two "), data("three")],
            &memory,
            100,
        );
        assert_eq!(
            next(&mut replay).unwrap(),
            Piece::Data(Bytes::from_static(b"one "))
        );
        assert!(replay.rewind());
        assert_eq!(read(&mut replay), "one two three");
        assert!(replay.rewind());
        assert_eq!(read(&mut replay), "one two three");
        assert_eq!(memory.free(), 1_000 - 13);
        drop(replay);
        assert_eq!(memory.free(), 1_000);
    }

    #[test]
    fn a_large_body_passes_but_cannot_be_rewound_and_holds_nothing() {
        let memory = ReplayMemory::new(1_000);
        let mut replay = replay(vec![data("12345"), data("6")], &memory, 5);
        assert_eq!(
            next(&mut replay).unwrap(),
            Piece::Data(Bytes::from_static(b"12345"))
        );
        assert!(replay.is_whole());
        assert_eq!(
            next(&mut replay).unwrap(),
            Piece::Data(Bytes::from_static(b"6"))
        );
        assert!(!replay.rewind());
        assert_eq!(memory.free(), 1_000);
        assert_eq!(next(&mut replay).unwrap(), Piece::End(None));
    }

    #[test]
    fn the_memory_of_the_replica_bounds_all_calls_together() {
        let memory = ReplayMemory::new(8);
        let mut one = replay(vec![data("12345")], &memory, 100);
        let mut two = replay(vec![data("12345")], &memory, 100);
        assert_eq!(
            (read(&mut one), read(&mut two)),
            ("12345".into(), "12345".into())
        );
        assert!(one.rewind());
        assert!(!two.rewind());
    }

    #[test]
    fn forgetting_keeps_what_this_attempt_still_has_to_send() {
        let memory = ReplayMemory::new(100);
        let mut replay = replay(vec![data("ab"), data("cd")], &memory, 100);
        assert_eq!(read(&mut replay), "abcd");
        assert!(replay.rewind());
        replay.forget();
        assert_eq!(read(&mut replay), "abcd");
        replay.forget();
        assert_eq!(memory.free(), 100);
        assert!(!replay.rewind());
    }

    #[test]
    fn trailers_are_sent_again_and_an_error_is_never_an_end() {
        let memory = ReplayMemory::new(100);
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", http::HeaderValue::from_static("1"));
        let mut whole = replay(
            vec![data("a"), Ok(Frame::trailers(trailers.clone()))],
            &memory,
            100,
        );
        for _ in 0..2 {
            assert_eq!(
                next(&mut whole).unwrap(),
                Piece::Data(Bytes::from_static(b"a"))
            );
            assert_eq!(
                next(&mut whole).unwrap(),
                Piece::End(Some(trailers.clone()))
            );
            assert!(whole.rewind());
        }
        let mut cut = replay(
            vec![data("a"), Err("the caller went away".into())],
            &memory,
            100,
        );
        assert_eq!(
            next(&mut cut).unwrap(),
            Piece::Data(Bytes::from_static(b"a"))
        );
        assert!(next(&mut cut).is_err());
    }
}
