//! What can go wrong between a caller and a server on stdio, and what the caller is told: one
//! table of status and JSON-RPC code, in the codes of the gateway.

use bytes::Bytes;
use http::StatusCode;
use serde_json::json;

use super::rpc::{NotAMessage, Raw};

/// Why a process ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum End {
    /// By itself.
    #[error("the server has ended ({0})")]
    Exited(String),
    /// It runs, and will not say anything any more.
    #[error("the server has closed its output")]
    Closed,
    /// One of its lines has no end.
    #[error("the server has written a line of more than {0} bytes")]
    TooLong(usize),
    /// Its output is something else.
    #[error("the server writes what is no JSON-RPC")]
    NotRpc,
    /// It talks without end, to nobody.
    #[error("the server floods its output")]
    Flood,
    /// It does not listen.
    #[error("the server does not read its input")]
    Hung,
    /// The agent has ended it.
    #[error("the server was ended by the agent")]
    Stopped,
}

/// Why there is no process to talk to. As text it is what callers may read: what a server
/// complains about, and what a start needs, stay here ([`StartError::reason`]).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum StartError {
    /// It cannot be started.
    #[error("the server cannot be started")]
    Spawn(String),
    /// It ended before it had answered anything.
    #[error("{end}")]
    Ended {
        end: End,
        /// The last of its standard error.
        words: String,
    },
    /// It has not answered in time.
    #[error("no answer to `initialize` in time")]
    Silent,
    /// It does not want to.
    #[error("`initialize` is answered by an error: {0}")]
    Refused(String),
    /// It will be tried again later.
    #[error("the server cannot be started; it is tried again")]
    Waits(String),
    /// As many run as may.
    #[error("as many processes run as `limits.instances` permits")]
    Full,
    /// The agent ends it.
    #[error("the service ends")]
    Stopped,
}

impl StartError {
    /// For the status and the log of the agent: with what the server said on its standard error.
    pub(super) fn reason(&self) -> String {
        match self {
            Self::Spawn(reason) => reason.clone(),
            Self::Ended { end, words } if !words.is_empty() => format!("{end}: {words}"),
            Self::Waits(reason) => format!("{reason} (it is tried again)"),
            Self::Ended { .. } | Self::Silent | Self::Refused(_) | Self::Full | Self::Stopped => {
                self.to_string()
            }
        }
    }
}

/// What a caller is told by the agent, in the place of the server.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Problem {
    /// The body is no message.
    #[error("{0}")]
    Message(NotAMessage),
    /// The body is too long.
    #[error("a message has at most {0} bytes")]
    TooLarge(usize),
    /// The body has not arrived whole.
    #[error("the message is not complete")]
    Incomplete,
    /// Not JSON, as it says itself.
    #[error("content-type must be application/json")]
    ContentType,
    /// The caller cannot read what it would get.
    #[error("accept must name {0}")]
    Accept(&'static str),
    /// Another method than the protocol has.
    #[error("this method is not part of the protocol")]
    Method,
    /// A session is needed.
    #[error("mcp-session-id is missing; a session begins with `initialize`")]
    NoSession,
    /// It has ended, or never was.
    #[error("there is no such session (any more); begin one with `initialize`")]
    UnknownSession,
    /// A session cannot begin within another.
    #[error("`initialize` within a session")]
    HasSession,
    /// A version that nobody speaks.
    #[error("mcp-protocol-version is not one that is supported")]
    Version,
    /// The server does not speak the stateless protocol.
    #[error("this server speaks the versions up to 2025-11-25; begin with `initialize`")]
    OlderServer,
    /// Headers say something else than the body.
    #[error("{0}")]
    Headers(String),
    /// The stateless protocol wants more of a request.
    #[error("{0}")]
    Meta(String),
    /// A resource whose name is too long to be kept.
    #[error("a uri that is subscribed to has at most {0} bytes")]
    Uri(usize),
    /// The stateless protocol has requests of clients only.
    #[error("the stateless protocol has no answers of clients")]
    Answer,
    /// A place in a stream that is not kept.
    #[error("the events after this one are not kept any more")]
    Event,
    /// Too much at once.
    #[error("too many requests at once")]
    Busy,
    /// The answer is more than the caller's stream takes.
    #[error("the answer does not fit: too much is waiting to be read")]
    TooMuch,
    /// The server has ended.
    #[error("{0}")]
    Ended(End),
    /// The server has not answered `initialize`.
    #[error("{0}")]
    Start(StartError),
}

/// The header of a mismatch, as the protocol has it.
const HEADER_MISMATCH: i32 = -32020;
const INVALID_REQUEST: i32 = -32600;
const INVALID_PARAMS: i32 = -32602;
const PARSE: i32 = -32700;
/// As the gateway has them.
const OVERLOADED: (i32, &str) = (-32015, "overloaded");
const PROTOCOL: (i32, &str) = (-32016, "backend_protocol");
const CUT: (i32, &str) = (-32017, "answer_cut");
const LATE: (i32, &str) = (-32018, "deadline_exceeded");

impl Problem {
    /// The status of an answer that consists of it.
    pub(super) fn status(&self) -> StatusCode {
        self.terms().0
    }

    /// The answer to the request `id`, where one is known, as JSON-RPC.
    pub(super) fn line(&self, id: Option<&Raw>) -> Bytes {
        let (_, code, name) = self.terms();
        let error = json!({"code": code, "message": self.to_string(), "data": {"code": name}});
        let object = match id {
            Some(id) => json!({"jsonrpc": "2.0", "id": id, "error": error}),
            None => json!({"jsonrpc": "2.0", "id": null, "error": error}),
        };
        Bytes::from(object.to_string())
    }

    fn terms(&self) -> (StatusCode, i32, &'static str) {
        let bad = |code| (StatusCode::BAD_REQUEST, code, "bad_request");
        let with = |status, (code, name)| (status, code, name);
        match self {
            Self::Message(NotAMessage::Json) => bad(PARSE),
            Self::Message(NotAMessage::Batch | NotAMessage::LongName | NotAMessage::JsonRpc)
            | Self::Incomplete
            | Self::NoSession
            | Self::HasSession
            | Self::Version
            | Self::OlderServer
            | Self::Answer
            | Self::Event => bad(INVALID_REQUEST),
            Self::Headers(_) => bad(HEADER_MISMATCH),
            Self::Meta(_) | Self::Uri(_) => bad(INVALID_PARAMS),
            Self::TooLarge(_) => (
                StatusCode::PAYLOAD_TOO_LARGE,
                INVALID_REQUEST,
                "body_too_large",
            ),
            Self::ContentType => (
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                INVALID_REQUEST,
                "bad_request",
            ),
            Self::Accept(_) => (StatusCode::NOT_ACCEPTABLE, INVALID_REQUEST, "bad_request"),
            Self::Method => (
                StatusCode::METHOD_NOT_ALLOWED,
                INVALID_REQUEST,
                "bad_request",
            ),
            Self::UnknownSession => (StatusCode::NOT_FOUND, INVALID_REQUEST, "session_not_found"),
            Self::Busy => with(StatusCode::SERVICE_UNAVAILABLE, OVERLOADED),
            Self::TooMuch => with(StatusCode::BAD_GATEWAY, CUT),
            Self::Ended(end) => match end {
                End::Exited(_) | End::Closed => with(StatusCode::BAD_GATEWAY, CUT),
                End::TooLong(_) | End::NotRpc | End::Flood => {
                    with(StatusCode::BAD_GATEWAY, PROTOCOL)
                }
                End::Hung => with(StatusCode::GATEWAY_TIMEOUT, LATE),
                End::Stopped => with(StatusCode::SERVICE_UNAVAILABLE, OVERLOADED),
            },
            Self::Start(error) => match error {
                StartError::Silent => with(StatusCode::GATEWAY_TIMEOUT, LATE),
                StartError::Spawn(_)
                | StartError::Ended { .. }
                | StartError::Refused(_)
                | StartError::Waits(_) => with(StatusCode::BAD_GATEWAY, CUT),
                StartError::Full | StartError::Stopped => {
                    with(StatusCode::SERVICE_UNAVAILABLE, OVERLOADED)
                }
            },
        }
    }
}
