//! The versions of MCP, and which of its two eras a message belongs to.

use http::HeaderMap;
use serde_json::{Value, json};

use super::rpc::{Message, Object};

/// The versions with sessions, oldest first.
const WITH_SESSIONS: [&str; 4] = ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"];
/// The newest of them: what servers are greeted with.
const LATEST_WITH_SESSIONS: &str = "2025-11-25";
/// The first without.
const STATELESS: &str = "2026-07-28";

/// The header that names a version.
pub(super) const HEADER: &str = "mcp-protocol-version";
/// Where a request of the stateless protocol names it.
pub(super) const IN_BODY: [&str; 3] =
    ["params", "_meta", "io.modelcontextprotocol/protocolVersion"];
/// What else such a request has to say.
pub(super) const CAPABILITIES: [&str; 3] = [
    "params",
    "_meta",
    "io.modelcontextprotocol/clientCapabilities",
];
/// The error of a server that speaks the stateless protocol, in another version.
const UNSUPPORTED_VERSION: &str = "-32022";

/// Whether a version with sessions is known.
pub(super) fn is_known(version: &str) -> bool {
    WITH_SESSIONS.contains(&version)
}

/// Whether streams of this version begin with an event that carries nothing but its id.
pub(super) fn primes(version: &str) -> bool {
    version >= LATEST_WITH_SESSIONS
}

/// Whether a version, known or not, has no sessions.
pub(super) fn is_without_sessions(version: &str) -> bool {
    is_date(version) && version >= STATELESS
}

/// Whether a message belongs to the stateless protocol.
pub(super) fn is_stateless_call(headers: &HeaderMap, message: Option<&Message>) -> bool {
    match message {
        Some(Message::Request(request)) if request.method == "initialize" => return false,
        Some(Message::Request(request)) if request.method == "server/discover" => return true,
        Some(Message::Request(request)) if request.object.at(&IN_BODY).is_some() => return true,
        Some(_) | None => {}
    }
    let named = headers.get(HEADER).and_then(|value| value.to_str().ok());
    named.is_some_and(is_without_sessions)
}

/// Whether an answer to `server/discover` is one of a server that speaks the stateless protocol.
pub(super) fn is_stateless(answer: &Object) -> bool {
    answer.at(&["result", "supportedVersions"]).is_some()
        || answer
            .at(&["error", "code"])
            .is_some_and(|code| code.get() == UNSUPPORTED_VERSION)
}

/// What is asked of a server first.
pub(super) fn discover() -> Value {
    json!({"_meta": {
        "io.modelcontextprotocol/protocolVersion": STATELESS,
        "io.modelcontextprotocol/clientInfo": client(),
        "io.modelcontextprotocol/clientCapabilities": {},
    }})
}

/// How a server is greeted that serves several sessions, or is only looked at.
pub(super) fn initialize() -> Value {
    json!({"protocolVersion": LATEST_WITH_SESSIONS, "capabilities": {}, "clientInfo": client()})
}

fn client() -> Value {
    json!({"name": "culvert-agent", "version": env!("CARGO_PKG_VERSION")})
}

fn is_date(text: &str) -> bool {
    let shape = |(at, byte): (usize, u8)| match at {
        4 | 7 => byte == b'-',
        _ => byte.is_ascii_digit(),
    };
    text.len() == 10 && text.bytes().enumerate().all(shape)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn message(value: &Value) -> Message {
        Message::parse(value.to_string().as_bytes()).expect("a message")
    }

    #[test]
    fn header_or_body_tell_the_era() {
        let with = |version: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(HEADER, HeaderValue::from_static(version));
            headers
        };
        let request = |method: &str, params: Value| {
            message(&json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}))
        };
        let none = HeaderMap::new();
        let list = request("tools/list", json!({}));
        let initialize = request("initialize", json!({"protocolVersion": STATELESS}));
        let modern = request(
            "tools/list",
            json!({"_meta": {"io.modelcontextprotocol/protocolVersion": "1999-01-01"}}),
        );
        for (headers, message, is) in [
            (&none, Some(&list), false),
            (&with("2025-11-25"), Some(&list), false),
            (&with("2026-07-28"), Some(&list), true),
            (&with("2027-01-01"), Some(&list), true),
            (&with("zzzz"), Some(&list), false),
            (&with("2026-07-28"), None, true),
            (&none, None, false),
            (&none, Some(&modern), true),
            (&none, Some(&request("server/discover", json!({}))), true),
            (&with("2026-07-28"), Some(&initialize), false),
        ] {
            assert_eq!(
                is_stateless_call(headers, message),
                is,
                "{headers:?} {message:?}"
            );
        }
    }

    #[test]
    fn servers_tell_their_era() {
        let answer = |value: Value| -> Object { serde_json::from_value(value).expect("an object") };
        assert!(is_stateless(&answer(
            json!({"id": 1, "result": {"supportedVersions": ["2026-07-28"]}})
        )));
        assert!(is_stateless(&answer(
            json!({"id": 1, "error": {"code": -32022, "data": {}}})
        )));
        for code in [-32601, -32602, -32000] {
            assert!(!is_stateless(&answer(
                json!({"id": 1, "error": {"code": code}})
            )));
        }
        assert!(!is_stateless(&answer(json!({"id": 1, "result": {}}))));
    }
}
