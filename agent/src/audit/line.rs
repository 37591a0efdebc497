//! The fields of one line.

use serde::Serialize;

/// One call, as the audit log keeps it. Times are in milliseconds since `began`, sizes in
/// bytes of body.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Line {
    /// When the line was written (RFC 3339, UTC).
    pub ts: String,
    /// The gateway's request id.
    pub request_id: String,
    /// Which try of it.
    pub attempt: u8,
    /// The identity of the plane that made the call, proven by its certificate.
    pub plane: String,
    /// Who called, as that plane claims.
    pub caller: CallerClaim,
    /// The service.
    pub service: String,
    /// Its kind.
    pub kind: &'static str,
    /// The method.
    pub method: String,
    /// The path, without its query.
    pub path: String,
    /// The MCP tool, where a tool policy has read it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool: Option<String>,
    /// The JSON-RPC method, where a tool policy has read it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rpc_method: Option<String>,
    /// The model, where the path names it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// How it ended.
    pub outcome: Outcome,
    /// The wire's code, where it did not end well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// The backend's status.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// When the call came (RFC 3339, UTC).
    pub began: String,
    /// Bytes of the request's body.
    pub bytes_in: u64,
    /// Bytes of the answer's body.
    pub bytes_out: u64,
    /// Waiting for its turn.
    pub queue_ms: u64,
    /// Until a connection to the backend was there; 0 where one was kept.
    pub connect_ms: u64,
    /// Until the backend's head.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_byte_ms: Option<u64>,
    /// Until the end.
    pub total_ms: u64,
}

/// The caller, as the plane claims; only the tenant could be told from its certificate.
#[derive(Clone, Debug, Default, Serialize)]
pub struct CallerClaim {
    /// The tenant.
    pub tenant: String,
    /// The id of the key that was used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_id: Option<String>,
    /// The user, where the gateway knows one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The end user, as a token says that the agent itself has verified.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
}

/// How a call ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The backend's answer was passed on whole.
    #[default]
    Answered,
    /// Nothing was sent to a backend.
    Refused,
    /// The backend failed after the call may have begun.
    Failed,
    /// The caller went away.
    Cancelled,
}

impl Outcome {
    /// The word of the log and of metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Refused => "refused",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}
