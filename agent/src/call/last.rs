//! The last word of a call: what it is, and what becomes of the call when it is written.

use culvert_tunnel::{AnswerWriter, CallError, Failure};
use culvert_wire::Code;
use http::HeaderMap;

use crate::backend::BackendFailure;
use crate::record::Ended;

/// The last word of a call, to be written once nothing else is.
pub(super) enum Last {
    End(HeaderMap),
    Refuse(Code),
    Abort(Code),
    /// The answer cannot be written any more.
    Gone(CallError),
}

/// Writes the last word, and says how the call ended.
pub(super) async fn finish(answer: AnswerWriter, last: Last) -> Ended {
    let (written, ended) = match last {
        Last::End(trailers) => (answer.end(trailers).await, Ended::Answered),
        Last::Refuse(code) => return refuse(answer, code).await,
        Last::Abort(code) => (answer.abort(code).await, Ended::Failed(code)),
        Last::Gone(error) => return Ended::Cancelled(error.code()),
    };
    match written {
        Ok(()) => ended,
        Err(error) if error.failure == Failure::Length => Ended::Failed(Code::BackendProtocol),
        Err(error) => Ended::Cancelled(error.code()),
    }
}

pub(super) async fn refuse(answer: AnswerWriter, code: Code) -> Ended {
    match answer.refuse(code).await {
        Ok(()) => Ended::Refused(code),
        Err(error) => Ended::Cancelled(error.code()),
    }
}

/// What a failed write means: the backend's own fault, or that nobody listens any more.
pub(super) fn last_of(error: CallError) -> Last {
    match error.failure {
        Failure::Length | Failure::Violation(_) => Last::Abort(Code::BackendProtocol),
        Failure::Refused(_)
        | Failure::Aborted(_)
        | Failure::Reset(_)
        | Failure::Cut
        | Failure::Lost
        | Failure::Cancelled
        | Failure::NotWanted
        | Failure::TimedOut => Last::Gone(error),
    }
}

/// The one map from a backend's failure to the wire.
pub(super) fn code_of(failure: BackendFailure) -> Code {
    match failure {
        BackendFailure::Reset => Code::BackendReset,
        BackendFailure::Protocol => Code::BackendProtocol,
        BackendFailure::Timeout => Code::BackendTimeout,
        BackendFailure::Request => Code::CallerGone,
    }
}
