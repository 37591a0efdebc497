//! A call as the embedder hands it over, and what it gets back.

use std::time::Duration;

use culvert_certs::{AgentId, ConnectorName, TenantName};
use culvert_tunnel::Transport;
use culvert_wire::{
    Caller, Code, HeadError, RequestId, ServiceKind, ServiceName, SessionId, TraceContext,
};
use tokio::time::Instant;

use crate::answer::AnswerBody;
use crate::select::NoTarget;

/// Where a call may be sent.
#[derive(Debug, Clone)]
pub struct CallTarget {
    /// Whose links are looked at; nothing crosses between tenants.
    pub tenant: TenantName,
    /// Services that are equally good.
    pub candidates: Vec<(ConnectorName, ServiceName)>,
    /// The model that the link must offer, if the call is for one.
    pub model: Option<String>,
    /// Where the caller's session is.
    pub affinity: Option<Affinity>,
}

/// What a session is bound to: calls of it go to its agent while that takes calls, and once it is
/// gone to agents that define the service in the same way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Affinity {
    /// The agent.
    pub agent: AgentId,
    /// The digest of the service's definition, as [`Route::definition`] told it; without one
    /// nobody can stand in for the agent.
    pub definition: Option<[u8; 32]>,
}

impl CallTarget {
    /// Any of these services, for whatever model, at whichever agent.
    #[must_use]
    pub fn new(tenant: TenantName, candidates: Vec<(ConnectorName, ServiceName)>) -> Self {
        Self {
            tenant,
            candidates,
            model: None,
            affinity: None,
        }
    }
}

/// What travels with a call besides the request.
#[derive(Debug, Clone)]
pub struct CallMeta {
    /// The embedder's id of the request, a UUIDv7.
    pub request_id: RequestId,
    /// When the caller's patience ends; without one there is no time limit on an answer.
    pub deadline: Option<Instant>,
    /// Who calls, as the agent's audit log will say.
    pub caller: Caller,
    /// Where the call stands in a trace.
    pub trace: Option<TraceContext>,
}

impl CallMeta {
    /// A call of nobody in particular, without a time limit.
    #[must_use]
    pub fn new(request_id: RequestId) -> Self {
        Self {
            request_id,
            deadline: None,
            caller: Caller::default(),
            trace: None,
        }
    }
}

/// An answer whose head is there.
#[derive(Debug)]
pub struct Answered {
    /// The backend's answer. Dropping its body cancels the call.
    pub response: http::Response<AnswerBody>,
    /// Who answered.
    pub route: Route,
    /// How long it took to get here.
    pub timings: Timings,
}

/// Who answered a call.
#[derive(Debug, Clone)]
pub struct Route {
    /// The connector of the service.
    pub connector: ConnectorName,
    /// The service.
    pub service: ServiceName,
    /// Its kind.
    pub kind: ServiceKind,
    /// The digest of its definition at this agent.
    pub definition: [u8; 32],
    /// The agent.
    pub agent: AgentId,
    /// The session of the link.
    pub session: SessionId,
    /// What carried the call.
    pub transport: Transport,
    /// How often the call was sent, 1 without a retry.
    pub attempts: u8,
}

/// Where the time of a call went until the head of its answer; since the call was handed over.
#[derive(Debug, Clone, Copy)]
pub struct Timings {
    /// Until the last attempt was sent.
    pub sent: Duration,
    /// Until the agent had taken it.
    pub accepted: Duration,
    /// Until the head was there.
    pub head: Duration,
}

/// A call that has no answer.
#[derive(Debug, thiserror::Error)]
#[error("the call failed with {code} after {attempts} attempts")]
pub struct CallFailed {
    /// Who is to blame, and what a caller is told.
    pub code: Code,
    /// Whether a backend may have begun with it.
    pub maybe_executed: bool,
    /// How often it was sent; 0 if never.
    pub attempts: u8,
    /// The agent of the last attempt.
    pub agent: Option<AgentId>,
    /// What happened.
    #[source]
    pub cause: FailCause,
}

/// What a failed call failed of.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FailCause {
    /// No link can take it.
    #[error(transparent)]
    NoTarget(NoTarget),
    /// The request cannot be carried: the caller's doing.
    #[error("the request cannot be carried")]
    Head(#[source] HeadError),
    /// The links carry as many calls as they may.
    #[error("every link carries as many calls as it may")]
    AtCap,
    /// The agent refused it, or gave it up.
    #[error("the agent ended the call with {0}")]
    Agent(Code),
    /// The link was lost before an answer came.
    #[error("the link was lost before an answer came")]
    LinkLost,
    /// Time was up.
    #[error("the deadline passed")]
    Deadline,
    /// The request's body broke off.
    #[error("the request's body broke off")]
    Caller,
    /// This replica is leaving and takes no new calls.
    #[error("this replica is leaving")]
    Leaving,
}
