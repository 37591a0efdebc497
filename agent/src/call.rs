//! The life of one call, in phases:
//!
//! ```text
//! remember > admit > Accepted > queue > judge > connect > send > Head > Data > End
//!     |        |                  |       |        |        |              |
//!     +--------+---- Refused -----+-------+--------+        +--- Abort ----+
//! ```
//!
//! Up to *send* nothing has been offered to a backend and a refusal is safe to send elsewhere;
//! from there on only codes that say "may have begun" are used. Whatever a call waits for, the
//! caller's leaving and its deadline are heard; both reach the backend as an abort.

mod last;
mod stdio;
mod switch;

use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant};

use culvert_tunnel::{AnswerWriter, IncomingCall, PassError, RequestReader};
use culvert_wire::{CallMemory, Code, Head, Open, Opened};
use http::header::{HeaderValue, TE, TRAILER};
use http::{HeaderMap, Response, StatusCode};
use tokio_util::sync::CancellationToken;

use self::last::{Last, code_of, finish, last_of, refuse};
use crate::announced::{self, Announced};
use crate::audit::Audit;
use crate::backend::{BackendFailure, Called, InFlight, SendError};
use crate::caller::CallerDenied;
use crate::error::chain;
use crate::headers;
use crate::judge::{self, NotMade, Outgoing};
use crate::metrics::Metrics;
use crate::passing::Passing;
use crate::policy::Admitted;
use crate::queue::{Entry, Turn};
use crate::record::{Ended, Record};
use crate::reply::ReplyBody;
use crate::service::{Service, Services};

/// What the calls of all links share.
#[derive(Debug)]
pub struct Calls {
    /// The services.
    pub services: Arc<Services>,
    /// The audit log.
    pub audit: Audit,
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// Which calls have come: one memory for all links, as questions come over another.
    pub memory: Mutex<CallMemory>,
    /// The agent is leaving: new calls are refused.
    pub leaving: CancellationToken,
    /// What servers of the old transport of MCP have announced.
    pub announced: Arc<Announced>,
}

/// A call that passed policy.
struct Plan {
    service: Arc<Service>,
    admitted: Admitted,
    /// The agent is leaving: what has no end of its own ends.
    leaving: CancellationToken,
    announced: Arc<Announced>,
}

/// A call that is answered.
struct Sent {
    reply: Response<ReplyBody>,
    /// Counts the call until it is over.
    load: InFlight,
}

impl Calls {
    /// Carries out one call that came from `plane`.
    pub async fn handle(&self, call: IncomingCall, plane: &str) {
        let IncomingCall { open, body, answer } = call;
        let mut record = Record::new(&open, plane, &self.audit, &self.metrics);
        let ended = match self.remember(&open) {
            Opened::Fresh => self.answer(&open, body, answer, &mut record).await,
            Opened::Tombstone => refuse(answer, Code::Tombstone).await,
            Opened::Repeated => {
                answer.reset(Code::Protocol);
                Ended::Refused(Code::Protocol)
            }
        };
        record.end(ended);
    }

    /// What is known of a call that a relay asks about.
    pub fn asked(&self, ask: culvert_wire::Ask) -> culvert_wire::Answer {
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        let age = Duration::from_millis(ask.age_ms);
        culvert_wire::Answer {
            call_id: ask.call_id,
            knowledge: memory.asked(Instant::now(), ask.call_id, age),
        }
    }

    fn remember(&self, open: &Open) -> Opened {
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        memory.opened(Instant::now(), open.call_id)
    }

    async fn answer(
        &self,
        open: &Open,
        body: RequestReader,
        mut answer: AnswerWriter,
        record: &mut Record,
    ) -> Ended {
        let plan = match self.admit(open, record) {
            Ok(plan) => plan,
            Err(code) => return refuse(answer, code).await,
        };
        let begun = AtomicBool::new(false);
        let cancelled = answer.cancelled();
        let last = tokio::select! {
            biased;
            gone = cancelled => Last::Gone(gone),
            () = deadline(open.deadline_ms) => {
                if begun.load(Ordering::Relaxed) {
                    Last::Abort(Code::DeadlineAfter)
                } else {
                    Last::Refuse(Code::DeadlineBefore)
                }
            }
            last = whole(&plan, open, body, &mut answer, record, &begun) => last,
        };
        finish(answer, last).await
    }

    /// Everything that is decided without waiting.
    fn admit(&self, open: &Open, record: &mut Record) -> Result<Plan, Code> {
        if self.leaving.is_cancelled() {
            return Err(Code::Draining);
        }
        let service = self
            .services
            .get(&open.service)
            .ok_or(Code::UnknownService)?;
        record.kind(service.def.kind.as_str());
        let (rules, method, target) = (&service.def.rules, &open.method, open.target.as_str());
        let admitted = match &open.upgrade {
            Some(protocol) => rules.admit_upgrade(method, target, protocol),
            None => match self.announced.find(&service, open)? {
                Some(admitted) => Ok(admitted),
                None => rules.admit(method, target),
            },
        };
        let admitted = admitted.map_err(|denied| {
            tracing::debug!(service = %open.service, %denied, "a call is not allowed");
            Code::Policy
        })?;
        // Where the log cannot be written and has to be, another agent may do better.
        record.promised(self.audit.admit().map_err(|_| Code::QueueFull)?);
        if open.deadline_ms == Some(0) {
            return Err(Code::DeadlineBefore);
        }
        if !service.gate.permits(Instant::now()) {
            return Err(Code::RateLimited);
        }
        Ok(Plan {
            service,
            admitted,
            leaving: self.leaving.clone(),
            announced: Arc::clone(&self.announced),
        })
    }
}

/// All of a call that waits.
async fn whole(
    plan: &Plan,
    open: &Open,
    body: RequestReader,
    answer: &mut AnswerWriter,
    record: &mut Record,
    begun: &AtomicBool,
) -> Last {
    if let Some(caller) = &plan.service.caller {
        let mut proving = pin!(caller.verify(&open.headers));
        let proved = match futures_util::poll!(proving.as_mut()) {
            Poll::Ready(proved) => proved,
            // Keys have to be asked for: the relay hears first that the call has come.
            Poll::Pending => match answer.accept().await {
                Ok(()) => proving.await,
                Err(gone) => return Last::Gone(gone),
            },
        };
        match proved {
            Ok(subject) => record.proved(subject.as_deref()),
            Err(denied) => return denied_caller(open, &denied),
        }
    }
    match &open.upgrade {
        // Boxed, because it is rare and would make every call's future larger.
        Some(protocol) => {
            let asked = (open, protocol.as_str());
            Box::pin(switch::carry(plan, asked, body, answer, record, begun)).await
        }
        None => carry(plan, open, body, answer, record, begun).await,
    }
}

/// Queue, judge, connect, send, and pass the answer on.
async fn carry(
    plan: &Plan,
    open: &Open,
    body: RequestReader,
    answer: &mut AnswerWriter,
    record: &mut Record,
    begun: &AtomicBool,
) -> Last {
    let turn = match turn(plan, answer, record).await {
        Ok(turn) => turn,
        Err(last) => return last,
    };
    let outgoing = match judge::outgoing(&plan.service, open, body, record).await {
        Ok(outgoing) => outgoing,
        Err(error) => return not_made(open, &error),
    };
    let policy = outgoing.judge.clone();
    let sent = match &plan.service.stdio {
        Some(server) => stdio::send(plan, server, open, outgoing, record, begun).await,
        None => send(plan, open, outgoing, record, begun).await,
    };
    let Sent { reply, load } = match sent {
        Ok(sent) => sent,
        Err(last) => return last,
    };
    let reply = match policy {
        Some(policy) => judge::answer(&policy, reply).await,
        None => Ok(reply),
    };
    let last = match reply {
        Ok(reply) => {
            let reply = plan.announced.watch(&plan.service, open, reply);
            pass(reply, open, answer, record).await
        }
        Err(failure) => Last::Abort(code_of(failure)),
    };
    drop((turn, load));
    last
}

/// The call's turn at its service; the relay is told that it is waited for.
async fn turn(plan: &Plan, answer: &mut AnswerWriter, record: &mut Record) -> Result<Turn, Last> {
    let entry = plan.service.gate.enter();
    if let Entry::Now(_) | Entry::Wait(_) = entry {
        answer.accept().await.map_err(Last::Gone)?;
    }
    match entry {
        Entry::Full => Err(Last::Refuse(Code::QueueFull)),
        Entry::Now(turn) => Ok(turn),
        Entry::Wait(ticket) => {
            let turn = ticket.turn().await;
            record.queued();
            turn.map_err(|_| Last::Refuse(Code::QueueTimeout))
        }
    }
}

/// A call whose end user has not proved to be one that may make it.
fn denied_caller(open: &Open, denied: &CallerDenied) -> Last {
    tracing::debug!(service = %open.service, reason = chain(denied), "a caller is not believed");
    match denied {
        CallerDenied::Keys(_) => Last::Refuse(Code::BackendUnreachable),
        CallerDenied::Missing(_)
        | CallerDenied::Algorithm
        | CallerDenied::Token(_)
        | CallerDenied::UnknownKey
        | CallerDenied::Claim(_) => Last::Refuse(Code::Policy),
    }
}

/// A request that was judged, and of which nothing is sent.
fn not_made(open: &Open, error: &NotMade) -> Last {
    tracing::debug!(service = %open.service, reason = chain(error), "a request is not made");
    match error {
        NotMade::Cut(_) => Last::Abort(code_of(BackendFailure::Request)),
        NotMade::Held => Last::Refuse(Code::QueueFull),
        NotMade::TooLarge | NotMade::Coded | NotMade::Unreadable(_) | NotMade::Tool(_) => {
            Last::Refuse(Code::Policy)
        }
    }
}

/// Nothing of the call was offered to a backend: the reason stays here.
fn unreachable(open: &Open, error: &dyn std::error::Error) -> Last {
    let reason = chain(error);
    tracing::debug!(service = %open.service, reason, "no backend can be reached");
    Last::Refuse(Code::BackendUnreachable)
}

/// Offers the call to a backend.
async fn send(
    plan: &Plan,
    open: &Open,
    outgoing: Outgoing,
    record: &mut Record,
    begun: &AtomicBool,
) -> Result<Sent, Last> {
    let backends = &plan.service.backends;
    let connected = match backends.connect(rand::random).await {
        Ok(connected) => connected,
        Err(error) => return Err(unreachable(open, &error)),
    };
    record.connected(connected.connect_time());
    let mut head = connected
        .backend
        .head(open.method.clone(), &plan.admitted, outgoing.headers)
        .map_err(|_| Last::Refuse(Code::Policy))?;
    announced::ask_uncoded(&plan.service, &open.method, &mut head.headers);
    if open.wants_trailers {
        head.headers
            .insert(TE, HeaderValue::from_static("trailers"));
    }
    begun.store(true, Ordering::Relaxed);
    match connected.send(head, outgoing.body).await {
        Ok(Called { answer, load }) => Ok(Sent {
            reply: answer.response.map(ReplyBody::Backend),
            load,
        }),
        Err(SendError::NotOffered(error)) => {
            begun.store(false, Ordering::Relaxed);
            Err(unreachable(open, &error))
        }
        Err(SendError::Begun(failure)) => Err(Last::Abort(code_of(failure))),
    }
}

/// Passes the answer on, piece by piece as it comes.
async fn pass(
    reply: Response<ReplyBody>,
    open: &Open,
    answer: &mut AnswerWriter,
    record: &mut Record,
) -> Last {
    let (mut parts, body) = reply.into_parts();
    record.head(parts.status.as_u16());
    let announced: Vec<_> = parts.headers.get_all(TRAILER).iter().cloned().collect();
    parts.headers = headers::answer(parts.headers);
    // The head takes the names out again.
    for names in announced {
        parts.headers.append(TRAILER, names);
    }
    // Nobody asked for another protocol: the header was never sent.
    if parts.status == StatusCode::SWITCHING_PROTOCOLS {
        return Last::Abort(Code::BackendProtocol);
    }
    let Ok(head) = Head::new(parts) else {
        return Last::Abort(Code::BackendProtocol);
    };
    if let Err(error) = answer.head(head).await {
        return last_of(error);
    }
    let (_, bytes_out) = record.counters();
    match answer.pass(Passing::new(body, bytes_out)).await {
        Ok(passed) if open.wants_trailers => Last::End(headers::answer_trailers(passed.trailers)),
        Ok(_) => Last::End(HeaderMap::new()),
        Err(PassError::Body(failure)) => Last::Abort(code_of(failure)),
        Err(PassError::Call(error)) => last_of(error),
    }
}

async fn deadline(ms: Option<u64>) {
    match ms {
        Some(ms) => tokio::time::sleep(Duration::from_millis(ms)).await,
        None => std::future::pending().await,
    }
}
