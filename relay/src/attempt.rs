//! One attempt of a call: opened on one link, its body streamed up while the answer is awaited.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;

use bytes::Bytes;
use culvert_tunnel::{AnswerReader, CallError, Failure, OpenError, OutgoingCall, PassError};
use culvert_wire::limits::ACCEPTED_MISSING;
use culvert_wire::{Code, Head, Open};
use http_body::Body;
use tokio::time::{Instant, sleep_until};

use crate::handle::Link;
use crate::link::LinkEntry;
use crate::meter::ServiceMeter;
use crate::replay::{BodyError, Replay};
use crate::retry::Failed;

/// The body on its way up; it ends by itself, and cuts the request when dropped before.
pub(crate) type Upload = Pin<Box<dyn Future<Output = Sent> + Send>>;

pub(crate) type Sent = Result<u64, PassError<BodyError>>;

/// An attempt whose answer has a head.
pub(crate) struct Headed {
    pub(crate) head: Head,
    pub(crate) answer: AnswerReader,
    /// What is still on its way up.
    pub(crate) upload: Option<Upload>,
    pub(crate) in_flight: InFlight,
    pub(crate) accepted: Instant,
}

/// Counts a call on its link and service until dropped.
#[derive(Debug)]
pub(crate) struct InFlight {
    link: Arc<LinkEntry<Link>>,
    meter: Arc<ServiceMeter>,
}

impl InFlight {
    pub(crate) fn new(link: Arc<LinkEntry<Link>>, meter: Arc<ServiceMeter>) -> Self {
        link.call_started();
        meter.call_started();
        Self { link, meter }
    }

    pub(crate) fn meter(&self) -> &ServiceMeter {
        &self.meter
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.meter.call_ended();
        self.link.call_ended();
    }
}

/// Sends the call over its link and waits for the head of an answer. Dropped, it cancels the call.
pub(crate) async fn attempt<B>(
    in_flight: InFlight,
    open: Open,
    body: Replay<B>,
) -> Result<Headed, Failed>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BodyError>,
{
    let link = &in_flight.link.handle;
    let OutgoingCall {
        request,
        mut answer,
    } = link
        .connection()
        .open_call(open)
        .await
        .map_err(not_opened)?;
    let mut upload = Some(Box::pin(request.send(body)) as Upload);
    accepted(link, &mut upload, &mut answer).await?;
    let accepted = Instant::now();
    let head = alongside(&mut upload, answer.head())
        .await
        .map_err(|error| error.failed(true))?;
    Ok(Headed {
        head,
        answer,
        upload,
        in_flight,
        accepted,
    })
}

/// Waits until the agent has taken the call; whoever keeps silent for too long is probed.
async fn accepted(
    link: &Link,
    upload: &mut Option<Upload>,
    answer: &mut AnswerReader,
) -> Result<(), Failed> {
    let mut accepted = pin!(alongside(upload, answer.accepted()));
    let outcome = tokio::select! {
        biased;
        outcome = &mut accepted => outcome,
        () = sleep_until(Instant::now() + ACCEPTED_MISSING) => {
            link.suspect();
            accepted.await
        }
    };
    outcome.map_err(|error| error.failed(false))
}

/// What ended the wait for a step of the answer.
enum Ended {
    Call(CallError),
    Caller(BodyError),
}

impl Ended {
    fn failed(self, accepted: bool) -> Failed {
        match self {
            Self::Call(error) => failed(&error, accepted),
            Self::Caller(error) => {
                tracing::debug!(%error, "the request's body broke off");
                Failed::Stopped(Code::CallerGone)
            }
        }
    }
}

/// Waits for a step of the answer while the body goes up. The body has the first turn, so that the
/// call's head leaves together with as much of it as is there.
async fn alongside<T>(
    upload: &mut Option<Upload>,
    step: impl Future<Output = Result<T, CallError>>,
) -> Result<T, Ended> {
    let mut step = pin!(step);
    loop {
        let Some(going_up) = upload.as_mut() else {
            return step.await.map_err(Ended::Call);
        };
        tokio::select! {
            biased;
            ended = going_up => {
                *upload = None;
                // Whatever the agent or its link did to the request, the answer's side knows best.
                if let Err(PassError::Body(error)) = ended {
                    return Err(Ended::Caller(error));
                }
            }
            outcome = &mut step => return outcome.map_err(Ended::Call),
        }
    }
}

fn not_opened(error: OpenError) -> Failed {
    match error {
        OpenError::AtCap(_) => Failed::NeverSent(Code::QueueFull),
        OpenError::Draining => Failed::NeverSent(Code::Draining),
        OpenError::Lost(_) => Failed::NeverSent(Code::NoLink),
        OpenError::Unsendable(_) => Failed::Stopped(Code::Limit),
    }
}

fn failed(error: &CallError, accepted: bool) -> Failed {
    if !error.sent {
        return Failed::NeverSent(Code::NoLink);
    }
    match error.failure {
        // A refusal that says "may have begun" contradicts itself: the cautious half counts.
        Failure::Refused(code) if code.may_have_begun() => Failed::Aborted(code),
        Failure::Refused(code) => Failed::Refused(code),
        Failure::Aborted(code) | Failure::Reset(code) => Failed::Aborted(code),
        Failure::Cut | Failure::Lost | Failure::TimedOut | Failure::Violation(_) => {
            Failed::Lost { accepted }
        }
        Failure::Cancelled => Failed::Stopped(Code::CallerGone),
        Failure::Length => Failed::Stopped(Code::CallerGone),
        Failure::NotWanted => Failed::Aborted(Code::NotWanted),
    }
}
