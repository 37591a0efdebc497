//! The one thing that we change in a body: the text of the top-level `model`.
//!
//! The body is checked to be one JSON object, the value of `model` is found, and only its bytes are
//! replaced: what a backend reads is otherwise what the caller wrote. A second spelling of the key is
//! refused, because we would authorise one and a backend could obey the other; capitals count as the
//! same, since some JSON readers (Go's) ignore case.

use std::{borrow::Cow, fmt, ops::Range};

use bytes::{BufMut, Bytes, BytesMut};
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::value::RawValue;

/// Bodies up to this size are rewritten into one piece (one frame on the wire); above it, copying
/// would cost more than two more pieces do.
const COPY_LIMIT: usize = 64 * 1024;

/// A JSON request body whose top-level `model` has been found.
#[derive(Clone)]
pub struct ModelBody {
    bytes: Bytes,
    /// Where the JSON string of `model` stands, quotes included.
    at: Range<usize>,
    model: String,
    stream: bool,
}

/// Why a body names no model. None of these repeats bytes of the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// Not one JSON object.
    #[error("The body is not a JSON object (line {line}, column {column}).")]
    NotJson {
        /// Line of the first error, from 1; 0 where unknown.
        line: usize,
        /// Column of the first error, from 1; 0 where unknown.
        column: usize,
    },
    /// No `model`.
    #[error("The body has no `model`.")]
    Missing,
    /// `model` is not a string, or is empty.
    #[error("`model` must be a string that is not empty.")]
    NotText,
    /// More than one `model`, whatever its capitals.
    #[error("The body has `model` more than once.")]
    Duplicate,
}

impl ModelBody {
    /// Finds `model` in a whole body.
    pub fn parse(bytes: Bytes) -> Result<Self, BodyError> {
        let found: Found<'_> = serde_json::from_slice(&bytes).map_err(|e| BodyError::NotJson {
            line: e.line(),
            column: e.column(),
        })?;
        if found.models > 1 {
            return Err(BodyError::Duplicate);
        }
        let raw = found.model.ok_or(BodyError::Missing)?.get();
        let model: String = serde_json::from_str(raw).map_err(|_| BodyError::NotText)?;
        if model.is_empty() {
            return Err(BodyError::NotText);
        }
        let start = raw.as_ptr().addr() - bytes.as_ptr().addr();
        let at = start..start + raw.len();
        let stream = found.stream;
        Ok(Self {
            bytes,
            at,
            model,
            stream,
        })
    }

    /// The model that the caller named.
    pub fn model(&self) -> &str {
        &self.model
    }

    /// Whether the caller asked for a stream.
    pub const fn wants_stream(&self) -> bool {
        self.stream
    }

    /// The body with `name` as its model, in at most three pieces; no piece is empty.
    pub fn with_model(&self, name: &str) -> Vec<Bytes> {
        if name == self.model {
            return vec![self.bytes.clone()];
        }
        let name = serde_json::Value::from(name).to_string();
        let (before, after) = (&self.bytes[..self.at.start], &self.bytes[self.at.end..]);
        if self.bytes.len() > COPY_LIMIT {
            let (before, after) = (self.bytes.slice_ref(before), self.bytes.slice_ref(after));
            return vec![before, Bytes::from(name), after];
        }
        let mut whole = BytesMut::with_capacity(before.len() + name.len() + after.len());
        whole.put_slice(before);
        whole.put_slice(name.as_bytes());
        whole.put_slice(after);
        vec![whole.freeze()]
    }
}

impl fmt::Debug for ModelBody {
    /// Never the body.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ModelBody")
            .field("bytes", &self.bytes.len())
            .field("model", &self.model)
            .field("stream", &self.stream)
            .finish_non_exhaustive()
    }
}

#[derive(Default)]
struct Found<'a> {
    model: Option<&'a RawValue>,
    /// Keys that a careless reader could take for `model`.
    models: usize,
    stream: bool,
}

#[derive(Deserialize)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Found<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Found<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Found<'de>, A::Error> {
                let mut found = Found::default();
                while let Some((Key(key), value)) = map.next_entry::<Key<'_>, &RawValue>()? {
                    if key.eq_ignore_ascii_case("model") {
                        found.models += 1;
                    }
                    if key == "model" {
                        found.model = Some(value);
                    } else if key == "stream" {
                        found.stream = value.get() == "true";
                    }
                }
                Ok(found)
            }
        }
        deserializer.deserialize_map(Object)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Map, Value, json};

    use super::*;

    fn parse(text: &str) -> Result<ModelBody, BodyError> {
        ModelBody::parse(Bytes::copy_from_slice(text.as_bytes()))
    }

    fn replaced(text: &str, name: &str) -> String {
        let pieces = parse(text).unwrap().with_model(name);
        assert!(pieces.iter().all(|piece| !piece.is_empty()) && pieces.len() <= 3);
        String::from_utf8(pieces.concat()).unwrap()
    }

    #[test]
    fn only_the_name_changes() {
        let text =
            " {\t\"a\" : 1.0e+3, \"model\" :\r\n \"dev\\/x\" , \"b\":[{\"model\":\"y\"}] }\n";
        assert_eq!(parse(text).unwrap().model(), "dev/x");
        assert_eq!(
            replaced(text, "q\"x"),
            " {\t\"a\" : 1.0e+3, \"model\" :\r\n \"q\\\"x\" , \"b\":[{\"model\":\"y\"}] }\n"
        );
        assert_eq!(replaced(text, "dev/x"), text);
    }

    #[test]
    fn stream_is_read_aside() {
        assert!(
            parse(r#"{"stream":true,"model":"m"}"#)
                .unwrap()
                .wants_stream()
        );
        assert!(
            !parse(r#"{"stream":false,"model":"m"}"#)
                .unwrap()
                .wants_stream()
        );
        assert!(
            !parse(r#"{"model":"m","x":{"stream":true}}"#)
                .unwrap()
                .wants_stream()
        );
    }

    #[test]
    fn a_second_model_is_refused_in_any_spelling() {
        for second in ["model", "Model", "MODEL", r"mod\u0065l", r"M\u006fdel"] {
            for (a, b) in [("model", second), (second, "model")] {
                let text = format!(r#"{{"{a}":"x","{b}":"y"}}"#);
                assert_eq!(parse(&text).unwrap_err(), BodyError::Duplicate, "{text}");
            }
        }
        assert_eq!(parse(r#"{"Model":"x"}"#).unwrap_err(), BodyError::Missing);
    }

    #[test]
    fn what_is_not_an_object_with_a_name_is_refused() {
        for text in ["{}", r#"{"x":1}"#] {
            assert_eq!(parse(text).unwrap_err(), BodyError::Missing, "{text}");
        }
        for text in [
            r#"{"model":1}"#,
            r#"{"model":null}"#,
            r#"{"model":""}"#,
            r#"{"model":"\ud800"}"#,
        ] {
            assert_eq!(parse(text).unwrap_err(), BodyError::NotText, "{text}");
        }
        for text in [
            "",
            "[]",
            "null",
            r#"{"model":"x""#,
            r#"{"model":"x"}}"#,
            r#"{"model":"x",}"#,
            "{\"model\":\"x\"}\0",
            "\u{feff}{\"model\":\"x\"}",
            r#"{'model':'x'}"#,
            r#"{"model":"x"} {}"#,
        ] {
            assert!(
                matches!(parse(text), Err(BodyError::NotJson { .. })),
                "{text}"
            );
        }
        let invalid = Bytes::from_static(b"{\"model\":\"x\",\"y\":\"\xff\"}");
        assert!(matches!(
            ModelBody::parse(invalid),
            Err(BodyError::NotJson { .. })
        ));
    }

    #[test]
    fn deep_nesting_does_not_exhaust_the_stack() {
        let deep = format!(
            "{{\"a\":{}{},\"model\":\"m\"}}",
            "[".repeat(200_000),
            "]".repeat(200_000)
        );
        assert_eq!(parse(&deep).unwrap().model(), "m");
    }

    #[test]
    fn large_bodies_are_not_copied() {
        let text = format!(r#"{{"x":"{}","model":"m","y":1}}"#, "z".repeat(COPY_LIMIT));
        let body = parse(&text).unwrap();
        let pieces = body.with_model("other");
        assert_eq!(pieces.len(), 3);
        assert_eq!(pieces[0].as_ptr(), body.bytes.as_ptr());
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                prop::collection::vec((any::<String>(), inner), 0..6)
                    .prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn replacing_changes_the_name_and_nothing_else(
            before in prop::collection::vec(("[a-l]{1,6}", any_json()), 0..4),
            after in prop::collection::vec(("[n-z]{1,6}", any_json()), 0..4),
            old in ".{1,40}", new in ".{1,40}", pretty in any::<bool>(),
        ) {
            let mut object = Map::new();
            object.extend(before);
            object.insert("model".into(), json!(old));
            object.extend(after);
            let value = Value::Object(object);
            let text = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) };
            let text = text.unwrap();
            let body = parse(&text).unwrap();
            prop_assert_eq!(body.model(), &old);
            let out = replaced(&text, &new);
            let mut wanted = value;
            wanted["model"] = json!(new);
            prop_assert_eq!(serde_json::from_str::<Value>(&out).unwrap(), wanted);
            prop_assert_eq!(replaced(&out, &old), text);
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(body) = ModelBody::parse(Bytes::from(bytes)) {
                prop_assert!(!body.model().is_empty());
            }
        }
    }
}
