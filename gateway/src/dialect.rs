//! The shapes in which the APIs that we serve tell errors, as bodies and as events of a stream.

use bytes::Bytes;
use http::HeaderMap;
use serde_json::{Value, json};

use crate::error::{CallerCode, Problem};

/// Which client library is listening: decided by the path alone, but for `/v1/models`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// `{"error": {...}}`.
    OpenAi,
    /// `{"error": {...}}`; in a stream an event named `error`, as the Responses API has it.
    OpenAiResponses,
    /// `{"type": "error", "error": {...}}`.
    Anthropic,
    /// A JSON-RPC error object.
    JsonRpc,
}

impl Dialect {
    /// The dialect of a path. `/v1/models` exists in two APIs: `anthropic-version` tells them apart.
    pub fn of(path: &str, headers: &HeaderMap) -> Self {
        if path.starts_with("/mcp/") {
            Self::JsonRpc
        } else if is_or_below(path, "/v1/messages")
            || (is_or_below(path, "/v1/models") && headers.contains_key("anthropic-version"))
        {
            Self::Anthropic
        } else if is_or_below(path, "/v1/responses") {
            Self::OpenAiResponses
        } else {
            Self::OpenAi
        }
    }

    /// The body of an error answer, `application/json`. `call` is the id of the JSON-RPC request, in JSON.
    pub fn body(self, problem: &Problem, request_id: &str, call: Option<&str>) -> Bytes {
        Bytes::from(self.object(problem, request_id, call).to_string())
    }

    /// One whole server-sent event that ends a stream with an error.
    pub fn event(self, problem: &Problem, request_id: &str, call: Option<&str>) -> Bytes {
        let name = match self {
            Self::OpenAi => "",
            Self::OpenAiResponses | Self::Anthropic => "event: error\n",
            Self::JsonRpc => "event: message\n",
        };
        let object = match self {
            Self::OpenAi | Self::Anthropic | Self::JsonRpc => {
                self.object(problem, request_id, call)
            }
            Self::OpenAiResponses => {
                let mut object = self.object(problem, request_id, call);
                object["type"] = json!("error");
                object["code"] = json!(problem.code().name());
                object["message"] = object["error"]["message"].clone();
                object["param"] = json!(problem.param());
                object
            }
        };
        Bytes::from(format!("{name}data: {object}\n\n"))
    }

    fn object(self, problem: &Problem, request_id: &str, call: Option<&str>) -> Value {
        let code = problem.code();
        let message = format!("{} [request {request_id}]", problem.message());
        match self {
            Self::OpenAi | Self::OpenAiResponses => json!({ "error": {
                "message": message,
                "type": openai_type(code),
                "param": problem.param(),
                "code": code.name(),
                "request_id": request_id,
            }}),
            Self::Anthropic => json!({
                "type": "error",
                "error": { "type": anthropic_type(code), "message": message, "code": code.name() },
                "request_id": request_id,
            }),
            Self::JsonRpc => {
                let id = call
                    .and_then(|id| serde_json::from_str(id).ok())
                    .unwrap_or(Value::Null);
                let data = json!({ "code": code.name(), "request_id": request_id });
                let error = json!({ "code": jsonrpc_code(code), "message": message, "data": data });
                json!({ "jsonrpc": "2.0", "id": id, "error": error })
            }
        }
    }
}

fn is_or_below(path: &str, root: &str) -> bool {
    path.strip_prefix(root)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

const fn openai_type(code: CallerCode) -> &'static str {
    match code {
        CallerCode::InvalidKey => "authentication_error",
        CallerCode::NotAllowed => "permission_error",
        CallerCode::ModelNotFound | CallerCode::RouteNotFound | CallerCode::SessionNotFound => {
            "not_found_error"
        }
        CallerCode::BadRequest
        | CallerCode::HeaderMismatch
        | CallerCode::BodyTooLarge
        | CallerCode::HeadersTooLarge => "invalid_request_error",
        CallerCode::RateLimited | CallerCode::QueueFull => "rate_limit_error",
        CallerCode::AgentUnavailable | CallerCode::PlaneNotAllowed | CallerCode::Overloaded => {
            "service_unavailable_error"
        }
        CallerCode::BackendUnreachable
        | CallerCode::BackendProtocol
        | CallerCode::AnswerCut
        | CallerCode::MaybeExecuted => "api_error",
        CallerCode::DeadlineExceeded => "timeout_error",
    }
}

const fn anthropic_type(code: CallerCode) -> &'static str {
    match code {
        CallerCode::InvalidKey => "authentication_error",
        CallerCode::NotAllowed => "permission_error",
        CallerCode::ModelNotFound | CallerCode::RouteNotFound | CallerCode::SessionNotFound => {
            "not_found_error"
        }
        CallerCode::BadRequest | CallerCode::HeaderMismatch | CallerCode::HeadersTooLarge => {
            "invalid_request_error"
        }
        CallerCode::BodyTooLarge => "request_too_large",
        CallerCode::RateLimited | CallerCode::QueueFull => "rate_limit_error",
        CallerCode::AgentUnavailable | CallerCode::PlaneNotAllowed | CallerCode::Overloaded => {
            "overloaded_error"
        }
        CallerCode::BackendUnreachable
        | CallerCode::BackendProtocol
        | CallerCode::AnswerCut
        | CallerCode::MaybeExecuted => "api_error",
        CallerCode::DeadlineExceeded => "timeout_error",
    }
}

/// Within the range that JSON-RPC leaves to servers and MCP does not reserve (-32019 to -32000), and
/// clear of -32000 to -32002, which MCP libraries use for their own purposes; but for what MCP has a
/// code for, and for sessions, where theirs is the very thing meant.
const fn jsonrpc_code(code: CallerCode) -> i32 {
    match code {
        CallerCode::BadRequest | CallerCode::BodyTooLarge | CallerCode::HeadersTooLarge => -32600,
        CallerCode::HeaderMismatch => -32020,
        CallerCode::SessionNotFound => -32001,
        CallerCode::InvalidKey => -32011,
        CallerCode::NotAllowed => -32012,
        CallerCode::ModelNotFound | CallerCode::RouteNotFound => -32013,
        CallerCode::RateLimited | CallerCode::QueueFull => -32014,
        CallerCode::AgentUnavailable | CallerCode::PlaneNotAllowed | CallerCode::Overloaded => {
            -32015
        }
        CallerCode::BackendUnreachable | CallerCode::BackendProtocol => -32016,
        CallerCode::AnswerCut | CallerCode::MaybeExecuted => -32017,
        CallerCode::DeadlineExceeded => -32018,
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn parsed(bytes: &Bytes) -> Value {
        serde_json::from_slice(bytes).unwrap()
    }

    #[test]
    fn the_path_decides() {
        let plain = HeaderMap::new();
        let mut anthropic = HeaderMap::new();
        anthropic.insert("anthropic-version", HeaderValue::from_static("2023-06-01"));
        let cases = [
            ("/v1/chat/completions", Dialect::OpenAi, Dialect::OpenAi),
            ("/v1/messages", Dialect::Anthropic, Dialect::Anthropic),
            (
                "/v1/messages/count_tokens",
                Dialect::Anthropic,
                Dialect::Anthropic,
            ),
            ("/v1/messagesx", Dialect::OpenAi, Dialect::OpenAi),
            ("/v1/models", Dialect::OpenAi, Dialect::Anthropic),
            ("/v1/models/a/b", Dialect::OpenAi, Dialect::Anthropic),
            (
                "/v1/responses/r1",
                Dialect::OpenAiResponses,
                Dialect::OpenAiResponses,
            ),
            ("/mcp/dev/tickets", Dialect::JsonRpc, Dialect::JsonRpc),
            ("/http/dev/billing/", Dialect::OpenAi, Dialect::OpenAi),
        ];
        for (path, without, with) in cases {
            assert_eq!(Dialect::of(path, &plain), without, "{path}");
            assert_eq!(Dialect::of(path, &anthropic), with, "{path}");
        }
    }

    #[test]
    fn bodies_carry_code_advice_and_request_id() {
        let problem =
            Problem::new(CallerCode::ModelNotFound, "Model `x` was not found.").about("model");
        let openai = parsed(&Dialect::OpenAi.body(&problem, "r-1", None));
        assert_eq!(openai["error"]["code"], "model_not_found");
        assert_eq!(openai["error"]["param"], "model");
        let message = openai["error"]["message"].as_str().unwrap();
        assert!(
            message.contains("GET /v1/models") && message.contains("r-1"),
            "{message}"
        );

        let anthropic = parsed(&Dialect::Anthropic.body(&problem, "r-1", None));
        assert_eq!(anthropic["type"], "error");
        assert_eq!(anthropic["error"]["type"], "not_found_error");

        let rpc = parsed(&Dialect::JsonRpc.body(&problem, "r-1", Some("\"a7\"")));
        assert_eq!((&rpc["jsonrpc"], &rpc["id"]), (&json!("2.0"), &json!("a7")));
        assert_eq!(rpc["error"]["data"]["code"], "model_not_found");
        assert_eq!(
            parsed(&Dialect::JsonRpc.body(&problem, "r-1", None))["id"],
            Value::Null
        );
    }

    #[test]
    fn events_are_one_event_each() {
        let problem = Problem::new(CallerCode::AnswerCut, "The agent went\naway.");
        for dialect in [
            Dialect::OpenAi,
            Dialect::OpenAiResponses,
            Dialect::Anthropic,
            Dialect::JsonRpc,
        ] {
            let event = dialect.event(&problem, "r", None);
            let text = std::str::from_utf8(&event).unwrap();
            assert!(text.ends_with("\n\n"), "{text}");
            assert_eq!(text.matches("data: ").count(), 1);
            assert_eq!(text.trim_end().matches("\n\n").count(), 0);
        }
    }

    #[test]
    fn jsonrpc_codes_stay_out_of_reserved_ranges() {
        for code in CallerCode::ALL {
            let number = jsonrpc_code(code);
            assert!(
                matches!(number, -32600 | -32020 | -32001) || (-32019..=-32010).contains(&number),
                "{code:?}"
            );
        }
    }
}
