//! The body of an answer on its way to the caller, and everything that ends with it.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use culvert_certs::TenantName;
use culvert_tunnel::{AnswerReader, Piece};
use culvert_wire::{Code, ServiceKind};
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
    deadline: Option<Pin<Box<Sleep>>>,
    record: CallRecord,
    _parked: Parked,
}

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
    // Never held across an await.
    stage: Mutex<Stage>,
}

#[derive(Debug)]
enum Stage {
    Reading {
        stream: Stream,
        /// When the caller was handed the last piece, while it has not come back for the next.
        handed_over: Option<Instant>,
    },
    /// Cut, and the caller is yet to be told.
    Stalled,
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
            Stage::Stalled | Stage::Ended => None,
        }
    }

    /// Cuts the answer and gives back what it holds; the caller is told when it comes back.
    pub(crate) fn stall(&self) {
        let mut stage = self.stage();
        if let Stage::Reading { .. } = *stage {
            *stage = Stage::Stalled;
        }
    }

    fn stage(&self) -> MutexGuard<'_, Stage> {
        self.stage.lock().unwrap_or_else(PoisonError::into_inner)
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
        let stage = Mutex::new(Stage::Reading {
            stream,
            handed_over: None,
        });
        let live = Arc::new(Live {
            tenant,
            link,
            stage,
        });
        Self {
            left: length,
            deadline: deadline.map(|deadline| Box::pin(sleep_until(deadline))),
            record,
            _parked: parking.enter(Arc::clone(&live)),
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
            Stage::Stalled => return Poll::Ready(Err(Code::CallerStalled)),
            Stage::Ended => return Poll::Ready(Ok(None)),
        };
        *handed_over = None;
        if let Poll::Ready(piece) = stream.answer.poll_next(cx) {
            if let Ok(Some(Piece::Data(_))) = piece {
                *handed_over = Some(Instant::now());
                if stream.answer.is_drained() {
                    // hyper leaves a body once it has the declared bytes: this may be the last look.
                    self.record.outcome(Ok(()));
                }
            }
            return Poll::Ready(piece.map_err(|error| error.code()));
        }
        match &mut self.deadline {
            None => Poll::Pending,
            Some(deadline) => {
                ready!(deadline.as_mut().poll(cx));
                Poll::Ready(Err(Code::DeadlineAfter))
            }
        }
    }

    fn end(&mut self, outcome: Result<(), Code>) {
        self.record.outcome(outcome);
        *self.live.stage() = Stage::Ended;
    }
}

impl Drop for AnswerBody {
    /// Whatever the watch holds a moment longer, the call is over now.
    fn drop(&mut self) {
        *self.live.stage() = Stage::Ended;
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
