//! JSON-RPC messages as they pass through: only what has to change is taken apart, everything
//! else keeps its bytes and its order.

use std::fmt;

use bytes::Bytes;
use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

/// Any JSON, as it was written.
pub(super) type Raw = Box<RawValue>;

/// A JSON object whose members keep their order and their spelling. Duplicate keys are refused:
/// two readers may disagree about which one counts.
#[derive(Clone, Debug, Default)]
pub(super) struct Object(Vec<(String, Raw)>);

/// The id of a request: a text or a number.
#[derive(Clone, Debug)]
pub(super) struct Id {
    /// As it was written, to be given back.
    pub(super) raw: Raw,
    /// In one spelling, to be compared.
    pub(super) key: String,
}

/// What a message is.
#[derive(Clone, Debug)]
pub(super) enum Message {
    /// It wants an answer.
    Request(Request),
    /// It wants none.
    Notification { method: String, object: Object },
    /// An answer, or an error.
    Response { id: Id, object: Object },
}

/// A message that wants an answer.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) id: Id,
    pub(super) method: String,
    /// All of it.
    pub(super) object: Object,
}

/// Why some bytes are no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NotAMessage {
    /// Not JSON, or with a key twice, or too many of them: in itself, its `params` or its `_meta`.
    #[error("not a JSON object with unique keys, 1,024 at most")]
    Json,
    /// A batch: part of one revision of MCP, and taken out again.
    #[error("batches are not part of MCP any more")]
    Batch,
    /// What names a request is too long.
    #[error("an id or a progress token has at most 1,024 bytes")]
    LongName,
    /// JSON, but not JSON-RPC 2.0 as MCP has it.
    #[error("not a JSON-RPC 2.0 message")]
    JsonRpc,
}

/// Longest id, and longest progress token, in bytes: they are kept for as long as a request.
const MAX_NAME_BYTES: usize = 1_024;

impl Message {
    /// Reads one message.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, NotAMessage> {
        let object: Object = serde_json::from_slice(bytes).map_err(|_| {
            match bytes.iter().find(|b| !b.is_ascii_whitespace()) {
                Some(b'[') => NotAMessage::Batch,
                Some(_) | None => NotAMessage::Json,
            }
        })?;
        if object.get("jsonrpc").map(RawValue::get) != Some("\"2.0\"") {
            return Err(NotAMessage::JsonRpc);
        }
        // What is not taken apart is not rewritten: a token of one caller would be another's.
        let params = inner(object.get("params"))?;
        let meta = inner(params.as_ref().and_then(|params| params.get("_meta")))?;
        let token = meta.as_ref().and_then(|meta| meta.get("progressToken"));
        let is_long = |name: &RawValue| name.get().len() > MAX_NAME_BYTES;
        if object.get("id").is_some_and(is_long) || token.is_some_and(is_long) {
            return Err(NotAMessage::LongName);
        }
        let id = match object.get("id") {
            Some(raw) => Some(Id::new(raw).ok_or(NotAMessage::JsonRpc)?),
            None => None,
        };
        let method = match object.get("method") {
            Some(raw) => Some(text(raw).ok_or(NotAMessage::JsonRpc)?),
            None => None,
        };
        let answers = object.get("result").is_some() || object.get("error").is_some();
        match (method, id, answers) {
            (Some(method), Some(id), false) => Ok(Self::Request(Request { id, method, object })),
            (Some(method), None, false) => Ok(Self::Notification { method, object }),
            (None, Some(id), true) => Ok(Self::Response { id, object }),
            _ => Err(NotAMessage::JsonRpc),
        }
    }
}

/// The object in a member, where it is one.
fn inner(member: Option<&RawValue>) -> Result<Option<Object>, NotAMessage> {
    match member {
        Some(raw) if raw.get().starts_with('{') => {
            Object::parse(raw).map(Some).ok_or(NotAMessage::Json)
        }
        Some(_) | None => Ok(None),
    }
}

impl Id {
    /// None where it is neither text nor number.
    pub(super) fn new(raw: &RawValue) -> Option<Self> {
        let value: serde_json::Value = serde_json::from_str(raw.get()).ok()?;
        (value.is_string() || value.is_number()).then(|| Self {
            raw: raw.to_owned(),
            key: value.to_string(),
        })
    }
}

impl Object {
    /// The object in some JSON, where it is one.
    pub(super) fn parse(raw: &RawValue) -> Option<Self> {
        serde_json::from_str(raw.get()).ok()
    }

    /// A member.
    pub(super) fn get(&self, key: &str) -> Option<&RawValue> {
        self.0
            .iter()
            .find(|(name, _)| name == key)
            .map(|(_, value)| &**value)
    }

    /// Gives a member another value, or adds it.
    pub(super) fn set(&mut self, key: &str, value: Raw) {
        match self.0.iter_mut().find(|(name, _)| name == key) {
            Some((_, old)) => *old = value,
            None => self.0.push((key.to_owned(), value)),
        }
    }

    /// What stands at a path of keys.
    pub(super) fn at(&self, path: &[&str]) -> Option<Raw> {
        let (first, rest) = path.split_first()?;
        let value = self.get(first)?;
        if rest.is_empty() {
            return Some(value.to_owned());
        }
        Self::parse(value)?.at(rest)
    }

    /// The text at a path of keys.
    pub(super) fn text_at(&self, path: &[&str]) -> Option<String> {
        text(&self.at(path)?)
    }

    /// Gives what stands at a path another value; nothing where there is nothing.
    pub(super) fn replace(&mut self, path: &[&str], value: Raw) {
        let Some((first, rest)) = path.split_first() else {
            return;
        };
        let Some(old) = self.get(first) else {
            return;
        };
        if rest.is_empty() {
            self.set(first, value);
        } else if let Some(mut inner) = Self::parse(old) {
            inner.replace(rest, value);
            self.set(first, raw(&inner));
        }
    }

    /// The message on one line, without its end. Outside of texts line breaks are space, and
    /// inside of them they do not stand as themselves.
    pub(super) fn line(&self) -> Bytes {
        let mut line = serde_json::to_vec(self).unwrap_or_default();
        for byte in &mut line {
            if matches!(byte, b'\n' | b'\r') {
                *byte = b' ';
            }
        }
        line.into()
    }
}

/// Some value of ours as JSON.
pub(super) fn raw(value: &impl Serialize) -> Raw {
    serde_json::value::to_raw_value(value).unwrap_or_else(|_| RawValue::NULL.to_owned())
}

/// The text in some JSON, where it is one.
pub(super) fn text(raw: &RawValue) -> Option<String> {
    serde_json::from_str(raw.get()).ok()
}

impl Serialize for Object {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(key, value)| (key, value)))
    }
}

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Members)
    }
}

/// Most members of one object that is taken apart: uniqueness is looked for one by one.
const MAX_MEMBERS: usize = 1_024;

struct Members;

impl<'de> Visitor<'de> for Members {
    type Value = Object;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object, A::Error> {
        let mut object = Object::default();
        while let Some((key, value)) = map.next_entry::<String, Raw>()? {
            if object.get(&key).is_some() {
                return Err(A::Error::custom("a key is there twice"));
            }
            if object.0.len() >= MAX_MEMBERS {
                return Err(A::Error::custom("too many members"));
            }
            object.0.push((key, value));
        }
        Ok(object)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(text: &str) -> Object {
        serde_json::from_str(text).expect("an object")
    }

    #[test]
    fn a_message_is_what_its_members_say() {
        let kind = |text: &str| match Message::parse(text.as_bytes()) {
            Ok(Message::Request(request)) => format!("{} {}", request.method, request.id.key),
            Ok(Message::Notification { method, .. }) => method,
            Ok(Message::Response { id, .. }) => format!("answer {}", id.key),
            Err(error) => format!("{error:?}"),
        };
        for (text, is) in [
            (r#"{"jsonrpc":"2.0","id":7,"method":"a"}"#, "a 7"),
            (r#"{"jsonrpc":"2.0","id":"\u0061","method":"a"}"#, "a \"a\""),
            (r#"{"jsonrpc":"2.0","method":"n"}"#, "n"),
            (r#"{"jsonrpc":"2.0","id":7,"result":{}}"#, "answer 7"),
            (r#"{"jsonrpc":"2.0","id":7,"error":{}}"#, "answer 7"),
            (r#"{"jsonrpc":"2.0","id":null,"method":"a"}"#, "JsonRpc"),
            (
                r#"{"jsonrpc":"2.0","id":7,"method":"a","result":1}"#,
                "JsonRpc",
            ),
            (r#"{"jsonrpc":"1.0","id":7,"method":"a"}"#, "JsonRpc"),
            (r#"{"jsonrpc":"2.0","jsonrpc":"2.0","method":"a"}"#, "Json"),
            (r#" [{"jsonrpc":"2.0","method":"a"}]"#, "Batch"),
            ("Server ready on stdio", "Json"),
            ("", "Json"),
        ] {
            assert_eq!(kind(text), is, "{text}");
        }
    }

    #[test]
    fn what_is_not_changed_keeps_its_bytes() {
        let text = r#"{"jsonrpc":"2.0","id":1,"params":{"z":1.10,"a":123456789012345678901234567890,"_meta":{"progressToken":"t","x":1e2}},"method":"m"}"#;
        let mut message = object(text);
        assert_eq!(message.line(), text);
        message.set("id", raw(&42));
        message.replace(&["params", "_meta", "progressToken"], raw(&42));
        message.replace(&["params", "none", "progressToken"], raw(&43));
        let wanted = text.replace("\"id\":1", "\"id\":42").replace("\"t\"", "42");
        assert_eq!(message.line(), wanted);
    }

    #[test]
    fn a_message_is_one_line() {
        let message = object("{\n\"params\": {\r\n  \"a\": \"b\\nc\"\n}\n}");
        let line = message.line();
        assert!(!line.contains(&b'\n') && !line.contains(&b'\r'), "{line:?}");
        assert_eq!(message.text_at(&["params", "a"]).as_deref(), Some("b\nc"));
    }

    #[test]
    fn what_names_a_caller_can_be_taken_apart_or_is_no_message() {
        let crowd: Vec<String> = (0..=MAX_MEMBERS).map(|n| format!("\"{n}\":0")).collect();
        let crowd = crowd.join(",");
        for inner in ["\"a\":1,\"a\":2", "\"a\":1,\"\\u0061\":2", &crowd] {
            for text in [
                format!(r#"{{"jsonrpc":"2.0","id":1,"method":"m","params":{{{inner}}}}}"#),
                format!(
                    r#"{{"jsonrpc":"2.0","id":1,"method":"m","params":{{"_meta":{{"progressToken":7,{inner}}}}}}}"#
                ),
                format!(
                    r#"{{"jsonrpc":"2.0","method":"notifications/progress","params":{{"progressToken":7,{inner}}}}}"#
                ),
            ] {
                let parsed = Message::parse(text.as_bytes());
                assert!(matches!(parsed, Err(NotAMessage::Json)), "{text:.99}");
            }
        }
        for text in [
            r#"{"jsonrpc":"2.0","id":1,"method":"m","params":{"arguments":{"a":1,"a":2}}}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"m","params":{"_meta":null}}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"m","params":[1]}"#,
        ] {
            assert!(Message::parse(text.as_bytes()).is_ok(), "{text}");
        }
    }

    #[test]
    fn what_is_kept_of_a_request_is_short() {
        for (length, fits) in [(MAX_NAME_BYTES, true), (MAX_NAME_BYTES + 1, false)] {
            let name = "x".repeat(length - 2);
            for text in [
                format!(r#"{{"jsonrpc":"2.0","id":"{name}","method":"m"}}"#),
                format!(
                    r#"{{"jsonrpc":"2.0","id":1,"method":"m","params":{{"_meta":{{"progressToken":"{name}"}}}}}}"#
                ),
            ] {
                let refused = Message::parse(text.as_bytes()).err();
                assert_eq!(
                    refused,
                    (!fits).then_some(NotAMessage::LongName),
                    "{length}"
                );
            }
        }
    }

    #[test]
    fn too_many_members_are_no_message() {
        let members: Vec<String> = (0..=MAX_MEMBERS).map(|n| format!("\"{n}\":0")).collect();
        let text = format!("{{{}}}", members.join(","));
        assert!(serde_json::from_str::<Object>(&text).is_err());
    }
}
