//! What we change in a body: the text of the top-level `model`, and, where it is asked for, whether the
//! tokens of its stream are counted.
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

use super::ask_usage::{self, Splice};

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
    /// What would make it ask for usage.
    usage: Option<Splice>,
    asks_usage: bool,
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
        let usage = ask_usage::splice(&bytes, &found.options);
        Ok(Self {
            bytes,
            at,
            model,
            stream,
            usage,
            asks_usage: false,
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

    /// Makes it ask for the usage of its stream, and says whether that is news: then the caller does not
    /// expect the chunk that comes for it.
    pub const fn ask_usage(&mut self) -> bool {
        self.asks_usage = self.stream && self.usage.is_some();
        self.asks_usage
    }

    /// The body with `name` as its model, in at most five pieces; no piece is empty.
    pub fn with_model(&self, name: &str) -> Vec<Bytes> {
        let mut changes: Vec<(Range<usize>, Bytes)> = Vec::new();
        if name != self.model {
            let name = serde_json::Value::from(name).to_string();
            changes.push((self.at.clone(), name.into()));
        }
        if let Some(usage) = self.usage.as_ref().filter(|_| self.asks_usage) {
            let by = Bytes::from_static(usage.by.as_bytes());
            changes.push((usage.at.clone(), by));
        }
        changes.sort_unstable_by_key(|(at, _)| at.start);
        let (mut pieces, mut done) = (Vec::new(), 0);
        for (at, by) in changes {
            pieces.extend([self.bytes.slice(done..at.start), by]);
            done = at.end;
        }
        pieces.push(self.bytes.slice(done..));
        pieces.retain(|piece| !piece.is_empty());
        if pieces.len() == 1 || self.bytes.len() > COPY_LIMIT {
            return pieces;
        }
        let mut whole = BytesMut::with_capacity(pieces.iter().map(Bytes::len).sum());
        for piece in pieces {
            whole.put_slice(&piece);
        }
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
    /// The values of `stream_options`; more than two say no more than two do.
    options: Vec<&'a RawValue>,
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
                    } else if key == "stream_options" && found.options.len() < 2 {
                        found.options.push(value);
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
    fn a_stream_is_made_to_count_its_tokens() {
        let asked = |text: &str, name| {
            let mut body = parse(text).unwrap();
            body.ask_usage()
                .then(|| String::from_utf8(body.with_model(name).concat()).unwrap())
        };
        assert_eq!(
            asked(r#"{"stream":true,"model":"m"}"#, "n").unwrap(),
            r#"{"stream_options":{"include_usage":true},"stream":true,"model":"n"}"#
        );
        assert_eq!(
            asked(r#"{"model":"m","stream":true,"stream_options":null}"#, "m").unwrap(),
            r#"{"model":"m","stream":true,"stream_options":{"include_usage":true}}"#
        );
        for said in [
            r#"{"model":"m"}"#,
            r#"{"model":"m","stream":false}"#,
            r#"{"model":"m","stream":true,"stream_options":{"include_usage":true}}"#,
            r#"{"model":"m","stream":true,"stream_options":null,"stream_options":null}"#,
        ] {
            assert_eq!(asked(said, "n"), None, "{said}");
        }
        let large = format!(
            r#"{{"model":"m","x":"{}","stream":true}}"#,
            "z".repeat(COPY_LIMIT)
        );
        let mut body = parse(&large).unwrap();
        assert!(body.ask_usage());
        let pieces = body.with_model("other");
        assert!(pieces.len() == 5 && pieces.iter().all(|piece| !piece.is_empty()));
        assert_eq!(
            pieces[4].as_ptr(),
            body.bytes[body.at.end..].as_ptr(),
            "not copied"
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
    fn what_is_legal_if_odd_passes_as_it_was_written() {
        for text in [
            r#"{"n":1e99999999,"m":-0.0,"k":123456789012345678901234567890,"model":"x"}"#,
            r#"{"":1,"":2,"a":{"model":"y","model":"z"},"model":"x","\u006d":3}"#,
            r#"{"modelx":1," model":2,"models":[],"model":"x"}"#,
            "{\"s\":\"\\ud83d\\ude00 \u{1f600} \u{feff}\",\"model\":\"x\"}",
            r#"{"mod\u0065l":"x"}"#,
        ] {
            assert_eq!(parse(text).unwrap().model(), "x", "{text}");
            let out = replaced(text, "other");
            let (at, end) = (
                text.rfind("\"x\"").unwrap(),
                text.rfind("\"x\"").unwrap() + 3,
            );
            assert_eq!(out, format!("{}\"other\"{}", &text[..at], &text[end..]));
        }
    }

    #[test]
    fn bombs_are_no_work() {
        let began = std::time::Instant::now();
        let open = "{\"a\":[".repeat(300_000);
        assert!(matches!(parse(&open), Err(BodyError::NotJson { .. })));
        let keys: String = (0..100_000).map(|n| format!("\"k{n}\":0,")).collect();
        assert!(parse(&format!("{{{keys}\"model\":\"m\"}}")).is_ok());
        let digits = format!("{{\"n\":{},\"model\":\"m\"}}", "9".repeat(1_000_000));
        assert!(parse(&digits).is_ok());
        // Each reads its bytes once; a square of them would take hours.
        assert!(began.elapsed().as_secs() < 60, "{:?}", began.elapsed());
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
