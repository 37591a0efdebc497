//! What a caller asks an MCP server to do: a JSON-RPC message or a batch, read once and written
//! again.

use std::borrow::Cow;
use std::collections::BTreeMap;

use data_encoding::BASE64;
use http::{HeaderMap, HeaderName};
use serde_json::value::RawValue;

use super::json::{JsonError, normalised};

/// The header that repeats the method of a message.
const METHOD_HEADER: &str = "mcp-method";
/// The header that repeats what a message names.
const NAME_HEADER: &str = "mcp-name";
/// Calls a tool.
const TOOLS_CALL: &str = "tools/call";
/// Lists the tools.
const TOOLS_LIST: &str = "tools/list";

/// What a request's body asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The body in our own writing: what is sent.
    pub body: String,
    asked: Vec<Asked>,
    is_batch: bool,
}

/// One message of it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Asked {
    /// None where it is the answer to a question of the server.
    method: Option<String>,
    /// What `mcp-name` repeats: of a tool its name.
    name: Option<String>,
}

/// Why nothing is known of a request, and so it is not made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// The body has another reading.
    #[error(transparent)]
    Json(#[from] JsonError),
    /// The body is not what JSON-RPC says.
    #[error("it is not a JSON-RPC message: {0}")]
    Message(&'static str),
    /// A header says something else than the body.
    #[error("the header `{0}` does not repeat the body")]
    Header(&'static str),
}

impl Request {
    /// Reads a body, and the headers that repeat it.
    ///
    /// # Errors
    /// [`Unreadable`].
    pub fn read(headers: &HeaderMap, body: &[u8]) -> Result<Self, Unreadable> {
        let body = normalised(body)?;
        let is_batch = body.starts_with('[');
        let asked = match is_batch {
            false => vec![Asked::read(&body)?],
            true => batch(&body)?,
        };
        let request = Self {
            body,
            asked,
            is_batch,
        };
        request.repeated(headers)?;
        Ok(request)
    }

    /// The tools that it calls.
    pub fn tools(&self) -> impl Iterator<Item = &str> {
        let calls = self.asked.iter().filter(|asked| asked.is(TOOLS_CALL));
        calls.map(|asked| asked.name.as_deref().unwrap_or_default())
    }

    /// Whether its answer lists tools.
    pub fn lists_tools(&self) -> bool {
        self.asked.iter().any(|asked| asked.is(TOOLS_LIST))
    }

    /// The method, for people.
    pub fn method(&self) -> &str {
        match self.asked.first() {
            _ if self.is_batch => "batch",
            Some(asked) => asked.method.as_deref().unwrap_or("answer"),
            None => "",
        }
    }

    /// The headers that repeat the body say what it says: servers and what stands before them
    /// may act on either.
    fn repeated(&self, headers: &HeaderMap) -> Result<(), Unreadable> {
        let method = one(headers, METHOD_HEADER)?;
        let name = one(headers, NAME_HEADER)?;
        let [asked] = self.asked.as_slice() else {
            return match (method, name) {
                (None, None) => Ok(()),
                _ => Err(Unreadable::Header(METHOD_HEADER)),
            };
        };
        if method.is_some() && method.as_deref() != asked.method.as_deref() {
            return Err(Unreadable::Header(METHOD_HEADER));
        }
        match (name, &asked.name) {
            (Some(name), Some(ours)) if name == *ours => Ok(()),
            (None, _) => Ok(()),
            // What other methods name is the server's to know.
            (Some(_), None) if !asked.is(TOOLS_CALL) => Ok(()),
            (Some(_), _) => Err(Unreadable::Header(NAME_HEADER)),
        }
    }
}

impl Asked {
    fn read(message: &str) -> Result<Self, Unreadable> {
        let members = object(message, "a message is an object", &["method", "params"])?;
        let Some(method) = members.get("method") else {
            let answers = members.contains_key("result") || members.contains_key("error");
            return match answers {
                true => Ok(Self {
                    method: None,
                    name: None,
                }),
                false => Err(Unreadable::Message("it has neither a method nor a result")),
            };
        };
        let method = text(method).ok_or(Unreadable::Message("the method is a text"))?;
        let params = match members.get("params") {
            // By position: nothing has a name there.
            Some(params) if params.get().starts_with('{') => {
                object(params.get(), "the params are an object", &["name", "uri"])?
            }
            Some(_) | None => BTreeMap::new(),
        };
        let key = match method.as_str() {
            TOOLS_CALL | "prompts/get" => "name",
            "resources/read" | "resources/subscribe" | "resources/unsubscribe" => "uri",
            _ => "",
        };
        let name = params.get(key).and_then(|name| text(name));
        if method == TOOLS_CALL && name.is_none() {
            return Err(Unreadable::Message("it names no tool"));
        }
        Ok(Self {
            method: Some(method),
            name,
        })
    }

    fn is(&self, method: &str) -> bool {
        self.method.as_deref() == Some(method)
    }
}

fn batch(body: &str) -> Result<Vec<Asked>, Unreadable> {
    let messages: Vec<&RawValue> =
        serde_json::from_str(body).map_err(|_| Unreadable::Message("a batch is an array"))?;
    if messages.is_empty() {
        return Err(Unreadable::Message("the batch is empty"));
    }
    messages.iter().map(|one| Asked::read(one.get())).collect()
}

/// The members of an object. Some servers take `Method` for `method`: such a key is refused.
fn object<'a>(
    text: &'a str,
    what: &'static str,
    exact: &[&str],
) -> Result<BTreeMap<Cow<'a, str>, &'a RawValue>, Unreadable> {
    let members: BTreeMap<Cow<'a, str>, &'a RawValue> =
        serde_json::from_str(text).map_err(|_| Unreadable::Message(what))?;
    let is_look_alike = |key: &str| {
        let folded = key.to_uppercase().to_lowercase();
        key != folded && exact.contains(&folded.as_str())
    };
    if members.keys().any(|key| is_look_alike(key)) {
        return Err(Unreadable::Message("a key differs by its case only"));
    }
    Ok(members)
}

fn text(value: &RawValue) -> Option<String> {
    serde_json::from_str(value.get()).ok()
}

/// The only value of a header, as text; none where it is not there. Another spelling of the name
/// would be read as the same variable by many servers.
fn one(headers: &HeaderMap, name: &'static str) -> Result<Option<String>, Unreadable> {
    let wrong = Unreadable::Header(name);
    let same =
        |other: &HeaderName| other.as_str() != name && other.as_str().replace('_', "-") == name;
    if headers.keys().any(same) {
        return Err(wrong);
    }
    let mut values = headers.get_all(name).iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return match headers.contains_key(name) {
            true => Err(wrong),
            false => Ok(None),
        };
    };
    decoded(value.to_str().map_err(|_| wrong)?)
        .ok_or(wrong)
        .map(Some)
}

/// As MCP writes what does not fit into a header: `=?base64?…?=`.
fn decoded(value: &str) -> Option<String> {
    let coded = value
        .strip_prefix("=?base64?")
        .and_then(|rest| rest.strip_suffix("?="));
    match coded {
        None => Some(value.to_owned()),
        Some(coded) => String::from_utf8(BASE64.decode(coded.as_bytes()).ok()?).ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            let value = http::HeaderValue::from_static(value);
            map.append(HeaderName::from_static(name), value);
        }
        map
    }

    fn read(body: &str) -> Result<Request, Unreadable> {
        Request::read(&HeaderMap::new(), body.as_bytes())
    }

    const CALL: &str = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"search","arguments":{"Name":1}}}"#;

    #[test]
    fn each_message_is_read() {
        let call = read(CALL).expect("a call");
        assert_eq!(call.tools().collect::<Vec<_>>(), ["search"]);
        assert_eq!((call.method(), call.lists_tools()), ("tools/call", false));
        assert_eq!(call.body, CALL);

        let batch = read(&format!(
            r#"[{CALL},{{"method":"tools/list","id":"x"}},{{"result":{{}},"id":3}}]"#
        ))
        .expect("a batch");
        assert_eq!(batch.tools().collect::<Vec<_>>(), ["search"]);
        assert_eq!((batch.method(), batch.lists_tools()), ("batch", true));
    }

    #[test]
    fn what_another_server_could_read_as_a_call_is_refused() {
        for body in [
            r#"{"method":"tools/list","method":"tools/call","params":{"name":"x"}}"#,
            r#"{"method":"tools/list","Method":"tools/call","params":{"name":"x"}}"#,
            r#"{"method":"tools/list","METHOD":"tools/call","params":{"name":"x"}}"#,
            r#"{"method":"tools/call","params":{"name":"search","NAME":"delete"}}"#,
            r#"{"method":"tools/call","params":{"name":"search"},"param\u017f":{"name":"delete"}}"#,
            r#"{"method":"tools/call","params":["delete"]}"#,
            r#"{"method":"tools/call","params":{"name":["delete"]}}"#,
            r#"{"method":"tools/call"}"#,
            r#"{"method":["tools/call"]}"#,
            r#"{"Method":"tools/call","params":{"name":"x"}}"#,
            r#"{}"#,
            r#"[]"#,
            r#"[[{"method":"tools/call","params":{"name":"x"}}]]"#,
            r#""tools/call""#,
            "null",
            "",
        ] {
            assert!(read(body).is_err(), "{body}");
        }
    }

    #[test]
    fn headers_repeat_the_body() {
        let with = |pairs: &[(&'static str, &'static str)]| {
            Request::read(&headers(pairs), CALL.as_bytes()).map(|_| ())
        };
        let method = Err(Unreadable::Header(METHOD_HEADER));
        let name = Err(Unreadable::Header(NAME_HEADER));
        assert_eq!(
            with(&[("mcp-method", "tools/call"), ("mcp-name", "search")]),
            Ok(())
        );
        assert_eq!(with(&[("mcp-name", "=?base64?c2VhcmNo?=")]), Ok(()));
        assert_eq!(with(&[("mcp-name", "=?base64?!?=")]), name);
        assert_eq!(with(&[("mcp-method", "tools/list")]), method);
        assert_eq!(with(&[("mcp-name", "delete")]), name);
        assert_eq!(
            with(&[("mcp-name", "search"), ("mcp-name", "search")]),
            name
        );
        assert_eq!(with(&[("mcp_name", "search")]), name);
        let batch = format!("[{CALL}]");
        let one = headers(&[("mcp-method", "tools/call")]);
        assert!(
            Request::read(&one, batch.as_bytes()).is_ok(),
            "a batch of one"
        );
        let batch = format!("[{CALL},{CALL}]");
        assert!(Request::read(&one, batch.as_bytes()).is_err());
    }
}
