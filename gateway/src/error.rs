//! What a caller is told when a call fails: a closed list of codes, each with one status.
//!
//! A backend's own status is never relabelled: these codes are for what the gateway itself decides.

use std::{borrow::Cow, time::Duration};

use http::StatusCode;

/// How long a caller is asked to wait before it tries again, where the code says that waiting helps
/// and nothing better is known: an agent re-dials within a second or two.
const RETRY_AFTER: Duration = Duration::from_secs(2);

/// The stable codes of the gateway's own errors. Callers may branch on [`CallerCode::name`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CallerCode {
    /// No key, or one that is unknown, expired or revoked: all alike.
    InvalidKey,
    /// The key, the origin or the customer's policy forbids this call.
    NotAllowed,
    /// No such model, or none that this key may call.
    ModelNotFound,
    /// No such path, connector or service, or none that this key may call.
    RouteNotFound,
    /// The MCP session has ended, or was never begun here.
    SessionNotFound,
    /// The request cannot be understood.
    BadRequest,
    /// The headers of an MCP request say something else than its body.
    HeaderMismatch,
    /// The body is larger than the gateway holds.
    BodyTooLarge,
    /// The head has too many headers or bytes.
    HeadersTooLarge,
    /// A limit of the key was reached.
    RateLimited,
    /// The customer's concurrency limit and its queue are full.
    QueueFull,
    /// Nothing that serves this target is connected.
    AgentUnavailable,
    /// The connector forbids the zone of this plane.
    PlaneNotAllowed,
    /// This replica has no memory left for another body, or is leaving.
    Overloaded,
    /// The agent could not connect to the backend.
    BackendUnreachable,
    /// The backend, or the way to it, broke the protocol or the connection.
    BackendProtocol,
    /// The answer began and did not reach its end.
    AnswerCut,
    /// The call was lost on the way; the backend may have executed it.
    MaybeExecuted,
    /// The caller's deadline passed.
    DeadlineExceeded,
}

impl CallerCode {
    /// Every code, in the order of the reference documentation.
    pub const ALL: [Self; 19] = [
        Self::InvalidKey,
        Self::NotAllowed,
        Self::ModelNotFound,
        Self::RouteNotFound,
        Self::SessionNotFound,
        Self::BadRequest,
        Self::HeaderMismatch,
        Self::BodyTooLarge,
        Self::HeadersTooLarge,
        Self::RateLimited,
        Self::QueueFull,
        Self::AgentUnavailable,
        Self::PlaneNotAllowed,
        Self::Overloaded,
        Self::BackendUnreachable,
        Self::BackendProtocol,
        Self::AnswerCut,
        Self::MaybeExecuted,
        Self::DeadlineExceeded,
    ];

    /// The code as callers, records and metrics see it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::InvalidKey => "invalid_key",
            Self::NotAllowed => "not_allowed",
            Self::ModelNotFound => "model_not_found",
            Self::RouteNotFound => "route_not_found",
            Self::SessionNotFound => "session_not_found",
            Self::BadRequest => "bad_request",
            Self::HeaderMismatch => "header_mismatch",
            Self::BodyTooLarge => "body_too_large",
            Self::HeadersTooLarge => "headers_too_large",
            Self::RateLimited => "rate_limited",
            Self::QueueFull => "queue_full",
            Self::AgentUnavailable => "agent_unavailable",
            Self::PlaneNotAllowed => "plane_not_allowed",
            Self::Overloaded => "overloaded",
            Self::BackendUnreachable => "backend_unreachable",
            Self::BackendProtocol => "backend_protocol",
            Self::AnswerCut => "answer_cut",
            Self::MaybeExecuted => "maybe_executed",
            Self::DeadlineExceeded => "deadline_exceeded",
        }
    }

    /// The HTTP status of an answer that carries this code.
    pub const fn status(self) -> StatusCode {
        match self {
            Self::InvalidKey => StatusCode::UNAUTHORIZED,
            Self::NotAllowed => StatusCode::FORBIDDEN,
            Self::ModelNotFound | Self::RouteNotFound | Self::SessionNotFound => {
                StatusCode::NOT_FOUND
            }
            Self::BadRequest | Self::HeaderMismatch => StatusCode::BAD_REQUEST,
            Self::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::HeadersTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::RateLimited | Self::QueueFull => StatusCode::TOO_MANY_REQUESTS,
            Self::AgentUnavailable | Self::PlaneNotAllowed | Self::Overloaded => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::BackendUnreachable
            | Self::BackendProtocol
            | Self::AnswerCut
            | Self::MaybeExecuted => StatusCode::BAD_GATEWAY,
            Self::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    /// What the caller can do about it: one sentence.
    pub const fn advice(self) -> &'static str {
        match self {
            Self::InvalidKey => {
                "Send a valid API key as `Authorization: Bearer cvk_...`, `x-api-key` or `x-culvert-key`."
            }
            Self::NotAllowed => "Ask the operator, or the owner of the agent, to allow it.",
            Self::ModelNotFound => "Choose one of the models listed by GET /v1/models.",
            Self::RouteNotFound => "Check the path, the connector and the service.",
            Self::SessionNotFound => "Begin a new session with `initialize`.",
            Self::HeaderMismatch => {
                "Send `MCP-Protocol-Version`, `Mcp-Method` and `Mcp-Name` as the body has them."
            }
            Self::BadRequest => "Correct the request; sending it again unchanged will not help.",
            Self::BodyTooLarge => "Send a smaller body.",
            Self::HeadersTooLarge => "Send fewer or smaller headers.",
            Self::RateLimited | Self::QueueFull => "Wait as `retry-after` says and try again.",
            Self::AgentUnavailable => {
                "Try again as `retry-after` says; if it lasts, check the agent in the private network."
            }
            Self::PlaneNotAllowed => "Call through a plane that the connector allows.",
            Self::Overloaded => "Wait as `retry-after` says and try again.",
            Self::BackendUnreachable => {
                "Check that the backend is up and reachable from the agent (`culvert-agent check`)."
            }
            Self::BackendProtocol => {
                "Check the backend; whether it executed the call is not known."
            }
            Self::AnswerCut => "What arrived is not the whole answer: discard it or call again.",
            Self::MaybeExecuted => {
                "The backend may have executed it: repeat it only if that is safe."
            }
            Self::DeadlineExceeded => "Allow more time, or ask for less.",
        }
    }

    /// Whether an answer with this code asks the caller to wait and try again.
    pub const fn asks_to_wait(self) -> bool {
        match self {
            Self::RateLimited
            | Self::QueueFull
            | Self::AgentUnavailable
            | Self::PlaneNotAllowed
            | Self::Overloaded => true,
            Self::InvalidKey
            | Self::NotAllowed
            | Self::ModelNotFound
            | Self::RouteNotFound
            | Self::SessionNotFound
            | Self::BadRequest
            | Self::HeaderMismatch
            | Self::BodyTooLarge
            | Self::HeadersTooLarge
            | Self::BackendUnreachable
            | Self::BackendProtocol
            | Self::AnswerCut
            | Self::MaybeExecuted
            | Self::DeadlineExceeded => false,
        }
    }
}

/// One error for one caller, before it is put into a dialect.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct Problem {
    code: CallerCode,
    what: Cow<'static, str>,
    param: Option<&'static str>,
    close: bool,
}

impl Problem {
    /// `what` says in one sentence what happened, without advice, ending in a full stop.
    pub fn new(code: CallerCode, what: impl Into<Cow<'static, str>>) -> Self {
        Self {
            code,
            what: what.into(),
            param: None,
            close: false,
        }
    }

    /// Names the request parameter that is to blame.
    #[must_use]
    pub const fn about(mut self, param: &'static str) -> Self {
        self.param = Some(param);
        self
    }

    /// The rest of the request body will not be read: an HTTP/1 connection cannot be used again.
    #[must_use]
    pub const fn closing(mut self) -> Self {
        self.close = true;
        self
    }

    /// The stable code.
    pub const fn code(&self) -> CallerCode {
        self.code
    }

    /// The parameter that is to blame, if there is one.
    pub const fn param(&self) -> Option<&'static str> {
        self.param
    }

    /// Whether the connection must be closed after the answer.
    pub const fn closes(&self) -> bool {
        self.close
    }

    /// How long to wait before trying again, where that helps.
    pub const fn retry_after(&self) -> Option<Duration> {
        if self.code.asks_to_wait() {
            Some(RETRY_AFTER)
        } else {
            None
        }
    }

    /// What happened, and what to do about it.
    pub fn message(&self) -> String {
        format!("{} {}", self.what, self.code.advice())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_are_distinct_and_complete() {
        let names: HashSet<_> = CallerCode::ALL.iter().map(|code| code.name()).collect();
        assert_eq!(names.len(), CallerCode::ALL.len());
    }

    #[test]
    fn statuses_are_those_of_the_table() {
        let table = [
            (401, &["invalid_key"][..]),
            (403, &["not_allowed"]),
            (
                404,
                &["model_not_found", "route_not_found", "session_not_found"],
            ),
            (400, &["bad_request", "header_mismatch"]),
            (413, &["body_too_large"]),
            (431, &["headers_too_large"]),
            (429, &["rate_limited", "queue_full"]),
            (
                503,
                &["agent_unavailable", "plane_not_allowed", "overloaded"],
            ),
            (
                502,
                &[
                    "backend_unreachable",
                    "backend_protocol",
                    "answer_cut",
                    "maybe_executed",
                ],
            ),
            (504, &["deadline_exceeded"]),
        ];
        for code in CallerCode::ALL {
            let found = table.iter().find(|(_, names)| names.contains(&code.name()));
            assert_eq!(
                found.map(|(status, _)| *status),
                Some(code.status().as_u16()),
                "{code:?}"
            );
        }
    }

    #[test]
    fn every_503_and_429_says_when_to_come_back() {
        for code in CallerCode::ALL {
            let waits = matches!(code.status().as_u16(), 429 | 503);
            assert_eq!(
                Problem::new(code, "x").retry_after().is_some(),
                waits,
                "{code:?}"
            );
        }
    }
}
