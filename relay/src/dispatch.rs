//! The life of a call: choose a link, send, wait for the head of an answer, and where that fails
//! decide whether to send again. Once there is a head the answer streams and nothing is repeated.

use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;
use culvert_tunnel::Connection;
use culvert_wire::{CallId, CallKnowledge, Code, Open, RequestHead};
use http::{Request, Response, StatusCode};
use http_body::Body;
use tokio::time::{Instant, timeout, timeout_at};

use crate::answer::{AnswerBody, CallRecord, Stream, TrailerNames, UploadTask};
use crate::ask::ask_in_turn;
use crate::attempt::{Headed, InFlight, Upload, attempt};
use crate::book::Tenant;
use crate::call::{Answered, CallFailed, CallMeta, CallTarget, FailCause, Route, Timings};
use crate::handle::Link;
use crate::limits::{ASK_WAIT, MAX_ATTEMPTS, REPLAY_CALL_BYTES};
use crate::link::{LinkEntry, LinkId};
use crate::relay::Core;
use crate::replay::{BodyError, Replay};
use crate::retry::{Ending, Facts, Failed, Next, Witness, decide, ending, is_safe};
use crate::select::{NoTarget, Selected, Wanted, select};

/// Hands a call to an agent and waits for the head of its answer.
pub(crate) async fn call<B>(
    core: &Core,
    target: CallTarget,
    meta: CallMeta,
    request: Request<B>,
) -> Result<Answered, CallFailed>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BodyError>,
{
    let mut record = CallRecord::start(core.metrics.clone());
    match Dispatch::begin(core, target, meta, request) {
        Err(failed) => {
            record.outcome(Err(failed.code));
            Err(failed)
        }
        Ok(mut dispatch) => match dispatch.run(&mut record).await {
            Err(failed) => {
                record.outcome(Err(failed.code));
                Err(failed)
            }
            Ok((chosen, attempted, headed)) => {
                Ok(dispatch.answer(&chosen, &attempted, headed, record))
            }
        },
    }
}

/// One call on its way.
struct Dispatch<'a, B> {
    core: &'a Core,
    tenant: Arc<Tenant<Link>>,
    target: CallTarget,
    meta: CallMeta,
    head: RequestHead,
    body: Replay<B>,
    tried: Vec<LinkId>,
    attempts: u8,
}

/// One attempt that was made.
struct Attempted {
    link: Arc<LinkEntry<Link>>,
    call_id: CallId,
    opened: Instant,
}

impl<'a, B> Dispatch<'a, B>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BodyError>,
{
    fn begin(
        core: &'a Core,
        target: CallTarget,
        meta: CallMeta,
        request: Request<B>,
    ) -> Result<Self, CallFailed> {
        if core.refuses_calls() {
            return Err(CallFailed::early(Code::Draining, FailCause::Leaving));
        }
        let (parts, body) = request.into_parts();
        let head = RequestHead::new(parts)
            .map_err(|error| CallFailed::early(Code::Policy, FailCause::Head(error)))?;
        let no_link = FailCause::NoTarget(NoTarget::NoLink);
        let tenant = core.directory.tenant(&target.tenant);
        let tenant = tenant.ok_or_else(|| CallFailed::early(Code::NoLink, no_link))?;
        tenant.retries.deposit();
        let body = Replay::new(body, core.replay.share(), REPLAY_CALL_BYTES);
        Ok(Self {
            core,
            tenant,
            target,
            meta,
            head,
            body,
            tried: Vec::new(),
            attempts: 0,
        })
    }

    async fn run(
        &mut self,
        record: &mut CallRecord,
    ) -> Result<(Selected<Link>, Attempted, Headed), CallFailed> {
        let mut chosen = self.choose().await.map_err(no_target)?;
        loop {
            record.of_kind(chosen.kind);
            let (attempted, outcome) = self.attempt(&chosen).await;
            match outcome {
                Ok(headed) => return Ok((chosen, attempted, headed)),
                Err(failed) => chosen = self.repeat(failed, &attempted).await?,
            }
        }
    }

    async fn choose(&mut self) -> Result<Selected<Link>, NoTarget> {
        match self.choose_open() {
            Ok(chosen) => Ok(chosen),
            Err(_) => {
                // A link that was welcomed a moment ago may not be in the snapshot yet.
                self.before_deadline(self.core.directory.caught_up(&self.tenant))
                    .await;
                self.choose_open()
            }
        }
    }

    /// Passes over links that ended a moment ago: nothing is sent, so that there is nothing to pay.
    fn choose_open(&mut self) -> Result<Selected<Link>, NoTarget> {
        loop {
            let wanted = Wanted {
                candidates: &self.target.candidates,
                model: self.target.model.as_deref(),
                affinity: self.target.affinity,
                excluded: &self.tried,
            };
            let chosen = select(&self.tenant.view(), &wanted, &mut rand::rng())?;
            if chosen.link.handle.is_open() {
                return Ok(chosen);
            }
            self.tried.push(chosen.link.id);
        }
    }

    async fn attempt(&mut self, chosen: &Selected<Link>) -> (Attempted, Result<Headed, Failed>) {
        let opened = Instant::now();
        let call_id = CallId {
            request: self.meta.request_id,
            attempt: self.attempts,
        };
        let attempted = Attempted {
            link: Arc::clone(&chosen.link),
            call_id,
            opened,
        };
        if self
            .meta
            .deadline
            .is_some_and(|deadline| deadline <= opened)
        {
            return (attempted, Err(Failed::Stopped(Code::DeadlineBefore)));
        }
        self.attempts += 1;
        self.tried.push(chosen.link.id);
        let in_flight = InFlight::new(Arc::clone(&chosen.link), Arc::clone(&chosen.meter));
        // Boxed: it would stand three times in the future of the call, which lives in its edge's.
        let open = self.open(chosen, call_id, opened);
        let sent = Box::pin(attempt(in_flight, open, self.body.clone()));
        let outcome = self.before_deadline(sent).await;
        (
            attempted,
            outcome.unwrap_or(Err(Failed::Stopped(Code::DeadlineAfter))),
        )
    }

    fn open(&self, chosen: &Selected<Link>, call_id: CallId, now: Instant) -> Open {
        let left = self
            .meta
            .deadline
            .map(|deadline| deadline.duration_since(now));
        Open {
            service: chosen.service.clone(),
            call_id,
            deadline_ms: left.map(|left| u64::try_from(left.as_millis()).unwrap_or(u64::MAX)),
            trace: self.meta.trace.clone(),
            caller: self.meta.caller.clone(),
            wants_trailers: self.head.wants_trailers,
            upgrade: self.head.upgrade.clone(),
            method: self.head.method.clone(),
            target: self.head.target.clone(),
            headers: self.head.headers.clone(),
        }
    }

    /// Where the call is sent again, if it may be and somebody is there; else what is to be said.
    async fn repeat(
        &mut self,
        failed: Failed,
        attempted: &Attempted,
    ) -> Result<Selected<Link>, CallFailed> {
        if let Failed::Refused(code) = failed {
            self.core.metrics.refused(code);
        }
        let mut witness = Witness::NotAsked;
        loop {
            let facts = Facts {
                safe: is_safe(&self.head.method),
                rewindable: self.body.is_whole(),
                attempts: self.attempts,
                max_attempts: MAX_ATTEMPTS,
                witness,
            };
            let final_word = self.failed(failed, ending(failed, witness), attempted);
            match decide(failed, facts) {
                // Boxed, because it is rare and large.
                Next::Ask => witness = Box::pin(self.ask(attempted)).await,
                Next::Again(reason) => {
                    // What went wrong here says more than that there is no other link.
                    let Ok(next) = self.choose().await else {
                        return Err(final_word);
                    };
                    // Paid only where there is somebody to send to.
                    if !(self.tenant.retries.withdraw() && self.body.rewind()) {
                        return Err(final_word);
                    }
                    tracing::debug!(call = %attempted.call_id, ?failed, ?reason, "sending again");
                    self.core.metrics.retried(reason);
                    return Ok(next);
                }
                Next::GiveUp => return Err(final_word),
            }
        }
    }

    /// Asks the agent over its other links, should it have one by and by.
    async fn ask(&self, attempted: &Attempted) -> Witness {
        let Attempted {
            link,
            call_id,
            opened,
        } = attempted;
        let changes = self.core.directory.changes(&self.target.tenant);
        let asked = ask_in_turn(&self.tenant, changes, link, *call_id, *opened);
        match timeout(ASK_WAIT, self.before_deadline(asked)).await {
            Ok(Some(CallKnowledge::NeverSeen)) => Witness::NeverSeen,
            Ok(Some(CallKnowledge::Seen)) => Witness::Seen,
            Ok(Some(CallKnowledge::Unknown) | None) | Err(_) => Witness::Unknown,
        }
    }

    async fn before_deadline<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        match self.meta.deadline {
            Some(deadline) => timeout_at(deadline, work).await.ok(),
            None => Some(work.await),
        }
    }

    fn failed(&self, failed: Failed, ending: Ending, attempted: &Attempted) -> CallFailed {
        CallFailed {
            code: ending.code,
            maybe_executed: ending.maybe_executed,
            attempts: self.attempts,
            agent: Some(attempted.link.agent),
            cause: cause(failed),
        }
    }

    fn answer(
        self,
        chosen: &Selected<Link>,
        attempted: &Attempted,
        headed: Headed,
        record: CallRecord,
    ) -> Answered {
        let Headed {
            head,
            answer,
            upload,
            in_flight,
            accepted,
        } = headed;
        let now = Instant::now();
        self.body.forget();
        // A quick refusal is no measure of how quickly a service works.
        if head.status < StatusCode::BAD_REQUEST {
            in_flight.meter().measured(now - attempted.opened);
        }
        let since = |moment: Instant| moment.saturating_duration_since(record.started());
        let timings = Timings {
            sent: since(attempted.opened),
            accepted: since(accepted),
            head: since(now),
        };
        record.metrics().call_headed(timings.head);
        let route = Route {
            connector: chosen.link.connector.clone(),
            service: chosen.service.clone(),
            kind: chosen.kind,
            definition: chosen.definition,
            agent: chosen.link.agent,
            session: chosen.link.id.session,
            transport: chosen.link.handle.connection().transport(),
            attempts: self.attempts,
        };
        let connection = chosen.link.handle.connection();
        let upload = upload.map(|upload| {
            let upload = while_linked(connection.clone(), upload);
            self.core.uploads.spawn(upload)
        });
        let upload = upload.map(|task| UploadTask(task.abort_handle()));
        let length = head.declared_length(&self.head.method);
        let names = TrailerNames(head.trailer_names.clone());
        let mut parts = head.into_response_parts();
        parts.extensions.insert(names);
        let stream = Stream {
            answer: Box::new(answer),
            _upload: upload,
            _in_flight: in_flight,
        };
        let owner = (self.target.tenant, chosen.link.id);
        let body = AnswerBody::new(
            owner,
            stream,
            length,
            self.meta.deadline,
            record,
            &self.core.parking,
        );
        Answered {
            response: Response::from_parts(parts, body),
            route,
            timings,
        }
    }
}

/// A body goes up for as long as its link stands: its caller may neither send nor leave, and the
/// end of a relay, which closes all of its links, waits for nobody's caller.
async fn while_linked(connection: Connection, upload: Upload) {
    tokio::select! {
        biased;
        _sent = upload => {}
        _end = connection.closed() => {}
    }
}

impl CallFailed {
    fn early(code: Code, cause: FailCause) -> Self {
        Self {
            code,
            maybe_executed: false,
            attempts: 0,
            agent: None,
            cause,
        }
    }
}

fn no_target(why: NoTarget) -> CallFailed {
    CallFailed::early(Code::NoLink, FailCause::NoTarget(why))
}

fn cause(failed: Failed) -> FailCause {
    match failed {
        Failed::NeverSent(Code::QueueFull) => FailCause::AtCap,
        Failed::NeverSent(_) | Failed::Lost { .. } => FailCause::LinkLost,
        Failed::Refused(code) | Failed::Aborted(code) => FailCause::Agent(code),
        Failed::Stopped(Code::DeadlineBefore | Code::DeadlineAfter) => FailCause::Deadline,
        Failed::Stopped(_) => FailCause::Caller,
    }
}
