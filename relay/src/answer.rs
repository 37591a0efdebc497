//! The body of an answer on its way to the caller, and everything that ends with it.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use culvert_tunnel::{AnswerReader, Piece};
use culvert_wire::{Code, ServiceKind};
use http_body::{Body, Frame, SizeHint};
use tokio::task::AbortHandle;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::attempt::InFlight;
use crate::metrics::Metrics;

/// Streams an answer. A cut answer is an error, never a clean end; dropping it cancels the call.
#[derive(Debug)]
pub struct AnswerBody {
    stage: Stage,
    length: Option<u64>,
    deadline: Option<Pin<Box<Sleep>>>,
    record: CallRecord,
    // Dropped last: the link counts as busy until everything above is over.
    _upload: Option<UploadTask>,
    _in_flight: InFlight,
}

/// The answer was cut: what came of it is not whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the answer was cut: {code}")]
pub struct AnswerCut {
    /// Why.
    pub code: Code,
}

#[derive(Debug)]
enum Stage {
    Reading(Box<AnswerReader>),
    Ended,
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

impl AnswerBody {
    pub(crate) fn new(
        answer: AnswerReader,
        length: Option<u64>,
        deadline: Option<Instant>,
        record: CallRecord,
        upload: Option<UploadTask>,
        in_flight: InFlight,
    ) -> Self {
        Self {
            stage: Stage::Reading(Box::new(answer)),
            length,
            deadline: deadline.map(|deadline| Box::pin(sleep_until(deadline))),
            record,
            _upload: upload,
            _in_flight: in_flight,
        }
    }

    fn end(&mut self, outcome: Result<(), Code>) {
        self.record.outcome(outcome);
        self.stage = Stage::Ended;
    }

    fn cut(&mut self, code: Code) -> AnswerCut {
        self.end(Err(code));
        AnswerCut { code }
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = AnswerCut;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, AnswerCut>>> {
        let this = &mut *self;
        let Stage::Reading(answer) = &mut this.stage else {
            return Poll::Ready(None);
        };
        let Poll::Ready(piece) = answer.poll_next(cx) else {
            return match &mut this.deadline {
                None => Poll::Pending,
                Some(deadline) => {
                    ready!(deadline.as_mut().poll(cx));
                    Poll::Ready(Some(Err(this.cut(Code::DeadlineAfter))))
                }
            };
        };
        Poll::Ready(match piece {
            Ok(Some(Piece::Data(data))) => {
                if let Some(length) = &mut this.length {
                    *length = length.saturating_sub(data.len() as u64);
                }
                Some(Ok(Frame::data(data)))
            }
            Ok(Some(Piece::End(trailers))) => {
                this.end(Ok(()));
                (!trailers.is_empty()).then(|| Ok(Frame::trailers(trailers)))
            }
            Ok(None) => {
                this.end(Ok(()));
                None
            }
            Err(error) => Some(Err(this.cut(error.code()))),
        })
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.stage, Stage::Ended)
    }

    fn size_hint(&self) -> SizeHint {
        self.length
            .map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
