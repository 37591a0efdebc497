//! The body of an answer on its way to the caller, and everything that ends with it.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use culvert_certs::TenantName;
use culvert_tunnel::{AnswerReader, Piece};
use culvert_wire::{Code, ServiceKind};
use http::HeaderName;
use http_body::{Body, Frame, SizeHint};
use tokio::task::AbortHandle;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::attempt::InFlight;
use crate::link::LinkId;
use crate::metrics::Metrics;
use crate::parking::{Parked, Parking};

/// Streams an answer. A cut answer is an error, never a clean end; dropping it cancels the call.
#[derive(Debug)]
pub struct AnswerBody {
    live: Arc<Live>,
    left: Option<u64>,
    /// Wakes the caller's task; who does not poll is found by the watch.
    deadline: Option<Pin<Box<Sleep>>>,
    record: CallRecord,
    /// None where the whole answer came with its head.
    _parked: Option<Parked>,
}

/// The trailers that the head of an answer announces, in the extensions of the response: a server of
/// HTTP/1.1 sends no others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrailerNames(pub Vec<HeaderName>);

/// The answer was cut: what came of it is not whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the answer was cut: {code}")]
pub struct AnswerCut {
    /// Why.
    pub code: Code,
}

/// An answer that streams, as its body and the watch over parked answers share it.
#[derive(Debug)]
pub(crate) struct Live {
    tenant: TenantName,
    link: LinkId,
    deadline: Option<Instant>,
    // Never held across an await.
    stage: Mutex<Stage>,
}

#[derive(Debug)]
enum Stage {
    Reading {
        stream: Stream,
        /// When the caller was handed the head or the last piece, while it has not come back for
        /// the next.
        handed_over: Option<Instant>,
    },
    /// Cut, and the caller is yet to be told.
    Cut(Code),
    Ended,
}

/// What is held for an answer, given back together.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) answer: Box<AnswerReader>,
    /// What is still on its way up.
    pub(crate) _upload: Option<UploadTask>,
    pub(crate) _in_flight: InFlight,
}

/// A body that is still on its way up, cut when dropped.
#[derive(Debug)]
pub(crate) struct UploadTask(pub(crate) AbortHandle);

impl Drop for UploadTask {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Counts a call, and its end exactly once: as gone with its caller unless somebody knew better.
#[derive(Debug)]
pub(crate) struct CallRecord {
    metrics: Metrics,
    started: Instant,
    kind: Option<ServiceKind>,
    outcome: Result<(), Code>,
}

impl CallRecord {
    pub(crate) fn start(metrics: Metrics) -> Self {
        metrics.call_started();
        Self {
            metrics,
            started: Instant::now(),
            kind: None,
            outcome: Err(Code::CallerGone),
        }
    }

    pub(crate) fn started(&self) -> Instant {
        self.started
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    pub(crate) fn of_kind(&mut self, kind: ServiceKind) {
        self.kind = Some(kind);
    }

    pub(crate) fn outcome(&mut self, outcome: Result<(), Code>) {
        self.outcome = outcome;
    }
}

impl Drop for CallRecord {
    fn drop(&mut self) {
        self.metrics
            .call_ended(self.kind, self.outcome, self.started.elapsed());
    }
}

impl Live {
    pub(crate) fn link(&self) -> LinkId {
        self.link
    }

    pub(crate) fn tenant(&self) -> &TenantName {
        &self.tenant
    }

    /// Since when the caller has not come back for the next piece, if so.
    pub(crate) fn handed_over(&self) -> Option<Instant> {
        match *self.stage() {
            Stage::Reading { handed_over, .. } => handed_over,
            Stage::Cut(_) | Stage::Ended => None,
        }
    }

    /// Cuts the answer, whose caller does not read.
    pub(crate) fn stall(&self) {
        self.cut(Code::CallerStalled);
    }

    /// Cuts the answer if its time is over.
    pub(crate) fn check_deadline(&self, now: Instant) {
        if self.deadline.is_some_and(|deadline| deadline <= now) {
            self.cut(Code::DeadlineAfter);
        }
    }

    /// Gives back what the answer holds; the caller is told when it comes back.
    fn cut(&self, code: Code) {
        let mut stage = self.stage();
        if let Stage::Reading { .. } = *stage {
            *stage = Stage::Cut(code);
        }
    }

    fn stage(&self) -> MutexGuard<'_, Stage> {
        self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
impl Live {
    /// An answer that is over already.
    pub(crate) fn over(tenant: TenantName, link: LinkId) -> Self {
        Self {
            tenant,
            link,
            deadline: None,
            stage: Mutex::new(Stage::Ended),
        }
    }

    /// Keeps whoever looks at the answer waiting.
    pub(crate) fn hold(&self) -> impl Sized + '_ {
        self.stage()
    }
}

impl AnswerBody {
    pub(crate) fn new(
        (tenant, link): (TenantName, LinkId),
        stream: Stream,
        length: Option<u64>,
        deadline: Option<Instant>,
        record: CallRecord,
        parking: &Arc<Parking>,
    ) -> Self {
        let waits = !stream.answer.is_complete();
        let stage = Mutex::new(Stage::Reading {
            stream,
            handed_over: Some(Instant::now()),
        });
        let live = Arc::new(Live {
            tenant,
            link,
            deadline,
            stage,
        });
        Self {
            left: length,
            deadline: deadline.map(|deadline| Box::pin(sleep_until(deadline))),
            record,
            _parked: waits.then(|| parking.enter(Arc::clone(&live))),
            live,
        }
    }

    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Piece>, Code>> {
        let mut stage = self.live.stage();
        let (stream, handed_over) = match &mut *stage {
            Stage::Reading {
                stream,
                handed_over,
            } => (stream, handed_over),
            Stage::Cut(code) => return Poll::Ready(Err(*code)),
            Stage::Ended => return Poll::Ready(Ok(None)),
        };
        *handed_over = None;
        // Looked at first: an answer that always has another piece has a deadline, too.
        if let Some(deadline) = &mut self.deadline
            && deadline.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Err(Code::DeadlineAfter));
        }
        let piece = ready!(stream.answer.poll_next(cx));
        if let Ok(Some(Piece::Data(_))) = piece {
            *handed_over = Some(Instant::now());
            if stream.answer.is_drained() {
                // hyper leaves a body once it has the declared bytes: this may be the last look.
                self.record.outcome(Ok(()));
            }
        }
        Poll::Ready(piece.map_err(|error| error.code()))
    }

    fn end(&mut self, outcome: Result<(), Code>) {
        self.record.outcome(outcome);
        *self.live.stage() = Stage::Ended;
    }
}

impl Drop for AnswerBody {
    /// Whatever the watch holds a moment longer, the call is over now; a caller that leaves an
    /// answer that was cut meanwhile is not what ended it.
    fn drop(&mut self) {
        let mut stage = self.live.stage();
        if let Stage::Cut(code) = *stage {
            self.record.outcome(Err(code));
        }
        *stage = Stage::Ended;
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = AnswerCut;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, AnswerCut>>> {
        if self.is_end_stream() {
            return Poll::Ready(None);
        }
        Poll::Ready(match ready!(self.poll_piece(cx)) {
            Ok(Some(Piece::Data(data))) => {
                if let Some(left) = &mut self.left {
                    *left = left.saturating_sub(data.len() as u64);
                }
                Some(Ok(Frame::data(data)))
            }
            Ok(Some(Piece::End(trailers))) => {
                self.end(Ok(()));
                (!trailers.is_empty()).then(|| Ok(Frame::trailers(trailers)))
            }
            Ok(None) => {
                self.end(Ok(()));
                None
            }
            Err(code) => {
                self.end(Err(code));
                Some(Err(AnswerCut { code }))
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        matches!(*self.live.stage(), Stage::Ended)
    }

    fn size_hint(&self) -> SizeHint {
        self.left
            .map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
