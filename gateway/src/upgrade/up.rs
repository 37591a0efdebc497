//! What a caller sends after the change, as the body of the request that is on its way up already.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame};
use tokio::sync::mpsc;

use crate::error::{CallerCode, Problem};

/// Pieces that wait for the tunnel; above them the caller is not read.
const WAITING: usize = 2;

/// Bytes, or their end in order.
enum Piece {
    Bytes(Bytes),
    End,
}

/// The caller's end.
#[derive(Clone)]
pub(super) struct UpSender(mpsc::Sender<Piece>);

/// The tunnel's end: a body that begins when the protocol has changed. Without an end in order it was
/// cut.
pub struct UpStream {
    pieces: mpsc::Receiver<Piece>,
    ended: bool,
}

pub(super) fn channel() -> (UpSender, UpStream) {
    let (sender, pieces) = mpsc::channel(WAITING);
    let stream = UpStream {
        pieces,
        ended: false,
    };
    (UpSender(sender), stream)
}

impl UpSender {
    /// Sends a piece when there is room; false where nobody wants it any more.
    pub(super) async fn send(&self, bytes: Bytes) -> bool {
        self.0.send(Piece::Bytes(bytes)).await.is_ok()
    }

    /// Ends the body in order, behind what was sent.
    pub(super) async fn end(&self) -> bool {
        self.0.send(Piece::End).await.is_ok()
    }

    /// Ends a body of which nothing was sent.
    pub(super) fn end_now(self) {
        // It is full only where something was sent, and closed where nobody reads.
        drop(self.0.try_send(Piece::End));
    }
}

impl Body for UpStream {
    type Data = Bytes;
    type Error = Problem;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Problem>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        Poll::Ready(match ready!(self.pieces.poll_recv(cx)) {
            Some(Piece::Bytes(bytes)) => Some(Ok(Frame::data(bytes))),
            Some(Piece::End) => {
                self.ended = true;
                None
            }
            None => {
                self.ended = true;
                let what = "The caller has left.";
                Some(Err(Problem::new(CallerCode::BadRequest, what)))
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        self.ended
    }
}

impl fmt::Debug for UpSender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("UpSender")
    }
}

impl fmt::Debug for UpStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UpStream")
            .field("ended", &self.ended)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    #[tokio::test]
    async fn an_end_in_order_and_a_cut() {
        let (sender, mut stream) = channel();
        assert!(sender.send(Bytes::from_static(b"a")).await && sender.end().await);
        drop(sender);
        let first = stream.frame().await.unwrap().unwrap();
        assert_eq!(first.into_data().unwrap(), "a");
        assert!(stream.frame().await.is_none() && stream.is_end_stream());

        let (sender, mut stream) = channel();
        drop(sender);
        assert!(stream.frame().await.unwrap().is_err());
        assert!(stream.frame().await.is_none());

        let (sender, mut stream) = channel();
        sender.end_now();
        assert!(stream.frame().await.is_none());
    }
}
