//! What the gateway reads of an MCP message: method, names, version and id. The bytes pass unchanged.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

/// Names longer than this are not recorded whole: they come from a caller.
const NAME_LIMIT: usize = 128;
/// Longest id that an error of ours repeats, in bytes.
const ID_LIMIT: usize = 128;

/// The observed parts of a JSON-RPC message; all absent where the body is something else.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peek {
    /// The JSON-RPC method, `batch` for an array.
    pub method: Option<String>,
    /// The tool or prompt that is named.
    pub name: Option<String>,
    /// The resource that is named.
    pub uri: Option<String>,
    /// The protocol version that the request itself states, as the stateless era has it.
    pub version: Option<String>,
    /// The request's id as it stands in the JSON: what an error of ours must answer.
    pub id: Option<String>,
}

impl Peek {
    /// Looks at a whole body. The server judges it; whatever is malformed reads as nothing.
    pub fn at(body: &[u8]) -> Self {
        if body.trim_ascii_start().first() == Some(&b'[') {
            return Self {
                method: Some("batch".into()),
                ..Self::default()
            };
        }
        let Ok(message) = serde_json::from_slice::<Message<'_>>(body) else {
            return Self::default();
        };
        let params = message
            .params
            .and_then(|params| serde_json::from_str::<Params<'_>>(params.get()).ok())
            .unwrap_or_default();
        let meta = params
            .meta
            .and_then(|meta| serde_json::from_str::<Meta<'_>>(meta.get()).ok());
        Self {
            method: message.method.map(Cow::into_owned),
            name: params.name.map(Cow::into_owned),
            uri: params.uri.map(Cow::into_owned),
            version: meta.and_then(|meta| meta.version).map(Cow::into_owned),
            id: message
                .id
                .map(RawValue::get)
                .filter(|id| is_id(id))
                .map(str::to_owned),
        }
    }

    /// The method as a record has it.
    pub fn recorded_method(&self) -> Option<String> {
        self.method.as_deref().map(bounded)
    }

    /// The tool, prompt or resource as a record has it.
    pub fn recorded_name(&self) -> Option<String> {
        let name = self.name.as_deref().or(self.uri.as_deref());
        name.map(bounded)
    }
}

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow, default)]
    method: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    id: Option<&'a RawValue>,
    #[serde(borrow, default)]
    params: Option<&'a RawValue>,
}

#[derive(Default, Deserialize)]
struct Params<'a> {
    #[serde(borrow, default)]
    name: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    uri: Option<Cow<'a, str>>,
    #[serde(borrow, default, rename = "_meta")]
    meta: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Meta<'a> {
    #[serde(borrow, default, rename = "io.modelcontextprotocol/protocolVersion")]
    version: Option<Cow<'a, str>>,
}

/// JSON-RPC ids are strings or numbers; others are not repeated.
fn is_id(json: &str) -> bool {
    json.len() <= ID_LIMIT && json.starts_with(|c: char| c == '"' || c == '-' || c.is_ascii_digit())
}

fn bounded(name: &str) -> String {
    name.chars().take(NAME_LIMIT).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn method_tool_version_and_id() {
        let peek = Peek::at(
            br#"{"jsonrpc":"2.0","id":"a\"1","method":"tools/call","params":{"name":"search","arguments":{},
                "_meta":{"progressToken":1,"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}}"#,
        );
        assert_eq!(peek.method.as_deref(), Some("tools/call"));
        assert_eq!(peek.recorded_name().as_deref(), Some("search"));
        assert_eq!(peek.version.as_deref(), Some("2026-07-28"));
        assert_eq!(peek.id.as_deref(), Some(r#""a\"1""#));
        let read = Peek::at(br#"{"id":7,"method":"resources/read","params":{"uri":"file:///x"}}"#);
        assert_eq!(
            (read.recorded_name().as_deref(), read.id.as_deref()),
            (Some("file:///x"), Some("7"))
        );
        let note = Peek::at(br#"{"method":"notifications/initialized"}"#);
        assert_eq!((note.id, note.name), (None, None));
    }

    #[test]
    fn odd_bodies_read_as_nothing() {
        for body in [
            &b""[..],
            b"null",
            b"{",
            b"\xff",
            br#"{"id":1,"id":2,"method":"x"}"#,
            b"3",
        ] {
            assert_eq!(Peek::at(body), Peek::default(), "{body:?}");
        }
        assert_eq!(Peek::at(b" [ ]").method.as_deref(), Some("batch"));
        assert_eq!(
            Peek::at(br#"{"method":"m","params":[1],"id":{"a":1}}"#).id,
            None
        );
        let odd = Peek::at(br#"{"method":"m","params":{"_meta":[1]}}"#);
        assert_eq!((odd.method.as_deref(), odd.version), (Some("m"), None));
    }

    #[test]
    fn records_are_bounded() {
        let long = "x".repeat(1_000);
        let body = format!(r#"{{"method":"{long}","params":{{"name":"{long}"}}}}"#);
        let peek = Peek::at(body.as_bytes());
        assert_eq!(peek.recorded_method().unwrap().len(), NAME_LIMIT);
        assert_eq!(peek.recorded_name().unwrap().len(), NAME_LIMIT);
    }
}
