//! What the gateway reads of an MCP message: method, tool name and id. The bytes pass unchanged.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

/// Names longer than this are not recorded whole: they come from a caller.
const NAME_LIMIT: usize = 128;

/// The observed parts of a JSON-RPC message; all absent where the body is something else.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peek {
    /// The JSON-RPC method, `batch` for an array.
    pub method: Option<String>,
    /// The tool, prompt or resource that is named.
    pub name: Option<String>,
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
        let named = message.params.and_then(|params| {
            serde_json::from_str::<Params<'_>>(params.get())
                .ok()
                .and_then(|p| p.name.or(p.uri))
        });
        Self {
            method: message.method.as_deref().map(bounded),
            name: named.as_deref().map(bounded),
            id: message
                .id
                .map(RawValue::get)
                .filter(|id| is_id(id))
                .map(str::to_owned),
        }
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

#[derive(Deserialize)]
struct Params<'a> {
    #[serde(borrow, default)]
    name: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    uri: Option<Cow<'a, str>>,
}

/// JSON-RPC ids are strings or numbers; others are not repeated.
fn is_id(json: &str) -> bool {
    json.len() <= NAME_LIMIT
        && json.starts_with(|c: char| c == '"' || c == '-' || c.is_ascii_digit())
}

fn bounded(name: &str) -> String {
    name.chars().take(NAME_LIMIT).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn method_tool_and_id() {
        let peek = Peek::at(
            br#"{"jsonrpc":"2.0","id":"a\"1","method":"tools/call","params":{"name":"search","arguments":{}}}"#,
        );
        assert_eq!(peek.method.as_deref(), Some("tools/call"));
        assert_eq!(peek.name.as_deref(), Some("search"));
        assert_eq!(peek.id.as_deref(), Some(r#""a\"1""#));
        let read = Peek::at(br#"{"id":7,"method":"resources/read","params":{"uri":"file:///x"}}"#);
        assert_eq!(
            (read.name.as_deref(), read.id.as_deref()),
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
    }
}
