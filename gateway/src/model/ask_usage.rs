//! Asking for the token counts of a stream where its caller did not, and hiding that we did.
//!
//! OpenAI's chat and text completions count the tokens of a stream only where the request says
//! `stream_options.include_usage`. The few bytes that say so are put into the body; the one chunk that
//! comes back for them, with no choices, is taken out of the stream again.

use std::{borrow::Cow, fmt, ops::Range};

use bytes::{Bytes, BytesMut};
use memchr::memmem;
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::{Value, value::RawValue};

/// Longest `stream_options` that is looked into, in bytes: it has a handful of flags.
const MAX_OPTIONS: usize = 4 * 1024;
/// Longest event that may be the extra one, in bytes; a longer one passes as it comes.
const MAX_EVENT: usize = 16 * 1024;

/// Bytes that take the place of others in a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Splice {
    /// Which; empty where nothing is replaced.
    pub at: Range<usize>,
    /// By what.
    pub by: &'static str,
}

/// What makes a body ask for usage; none where it does already, or where it cannot be told. `options`
/// are all values of `stream_options` in the body.
pub fn splice(body: &[u8], options: &[&RawValue]) -> Option<Splice> {
    let within = |raw: &RawValue| raw.get().as_ptr().addr() - body.as_ptr().addr();
    let replace = |raw: &RawValue, by| {
        let start = within(raw);
        let at = start..start + raw.get().len();
        Some(Splice { at, by })
    };
    let insert = |at: usize, by| Some(Splice { at: at..at, by });
    let options = match options {
        [] => {
            let open = memchr::memchr(b'{', body)?;
            return insert(open + 1, r#""stream_options":{"include_usage":true},"#);
        }
        [options] => *options,
        _ => return None,
    };
    if options.get() == "null" {
        return replace(options, r#"{"include_usage":true}"#);
    }
    let flags = Flags::of(options.get())?;
    match flags.usage.as_slice() {
        [] if flags.others => insert(within(options) + 1, r#""include_usage":true,"#),
        [] => insert(within(options) + 1, r#""include_usage":true"#),
        [flag] if matches!(flag.get(), "false" | "null") => replace(flag, "true"),
        _ => None,
    }
}

/// The flags of `stream_options`.
#[derive(Default)]
struct Flags<'a> {
    usage: Vec<&'a RawValue>,
    others: bool,
}

impl<'a> Flags<'a> {
    fn of(options: &'a str) -> Option<Self> {
        let short = (options.len() <= MAX_OPTIONS).then_some(options)?;
        serde_json::from_str(short).ok()
    }
}

#[derive(Deserialize)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Flags<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Flags<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Flags<'de>, A::Error> {
                let mut flags = Flags::default();
                while let Some((Key(key), value)) = map.next_entry::<Key<'_>, &RawValue>()? {
                    if key == "include_usage" {
                        flags.usage.push(value);
                    } else {
                        flags.others = true;
                    }
                }
                Ok(flags)
            }
        }
        deserializer.deserialize_map(Object)
    }
}

/// Takes the extra chunk out of an event stream. All other bytes pass in their order; of an event that
/// has begun, nothing passes before it is known not to be the one.
#[derive(Default)]
pub struct UsageFilter {
    held: BytesMut,
    /// How much of `held` has been looked at.
    scanned: usize,
    line: Line,
    /// The event is too long to be the one: it passes.
    long: bool,
}

/// Where in its lines a stream stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Line {
    /// At the beginning of one.
    #[default]
    Start,
    /// Inside of one.
    Inside,
    /// Behind a carriage return, of an empty line or of another; a line feed may belong to it.
    Return { empty: bool },
}

impl UsageFilter {
    /// What may pass now that these bytes have come.
    pub fn pass(&mut self, data: Bytes) -> Bytes {
        let between = self.held.is_empty() && self.line == Line::Start && !self.long;
        if between && data.ends_with(b"\n\n") && !mentions_usage(&data) {
            return data;
        }
        self.held.extend_from_slice(&data);
        let mut passing = BytesMut::new();
        while let Some(end) = self.next_end() {
            let event = self.held.split_to(end);
            self.scanned = 0;
            if self.long || !is_extra(&event) {
                passing.unsplit(event);
            }
            self.long = false;
        }
        self.long |= self.held.len() > MAX_EVENT;
        if self.long {
            passing.unsplit(self.held.split());
            self.scanned = 0;
        }
        passing.freeze()
    }

    /// What is left at the end of the stream.
    pub fn rest(&mut self) -> Bytes {
        let event = self.held.split().freeze();
        let whole = self.line == Line::Return { empty: true };
        if whole && is_extra(&event) {
            return Bytes::new();
        }
        event
    }

    /// The end of the first event in what is held, behind its empty line.
    fn next_end(&mut self) -> Option<usize> {
        while let Some(byte) = self.held.get(self.scanned) {
            let (line, ends) = match (self.line, byte) {
                // The line feed may be missing, and then the event ends before this byte.
                (Line::Return { empty: true }, byte) if *byte != b'\n' => {
                    self.line = Line::Start;
                    return Some(self.scanned);
                }
                (Line::Return { empty }, b'\n') => (Line::Start, empty),
                (Line::Start, b'\n') => (Line::Start, true),
                (Line::Inside, b'\n') => (Line::Start, false),
                (Line::Inside, b'\r') => (Line::Return { empty: false }, false),
                (Line::Start | Line::Return { .. }, b'\r') => (Line::Return { empty: true }, false),
                (Line::Start | Line::Inside | Line::Return { .. }, _) => (Line::Inside, false),
            };
            self.line = line;
            self.scanned += 1;
            if ends {
                return Some(self.scanned);
            }
        }
        None
    }
}

impl fmt::Debug for UsageFilter {
    /// Never the bytes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UsageFilter")
            .field("held", &self.held.len())
            .finish_non_exhaustive()
    }
}

fn mentions_usage(event: &[u8]) -> bool {
    memmem::find(event, b"\"usage\"").is_some()
}

/// Whether an event is the chunk that has the counts and no choices.
fn is_extra(event: &[u8]) -> bool {
    if !mentions_usage(event) {
        return false;
    }
    let lines = event.split(|byte| matches!(byte, b'\n' | b'\r'));
    let data: Vec<&[u8]> = lines
        .filter_map(|line| line.strip_prefix(b"data:"))
        .collect();
    let Ok(chunk) = serde_json::from_slice::<Value>(&data.join(&b'\n')) else {
        return false;
    };
    let without_choices = chunk["choices"].as_array().is_some_and(Vec::is_empty);
    without_choices && chunk["usage"].is_object()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const EXTRA: &str = "data: {\"id\":\"x\",\"choices\":[],\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":2}}\n\n";
    const CHUNK: &str = "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}],\"usage\":null}\n\n";
    const DONE: &str = "data: [DONE]\n\n";

    fn filtered(pieces: &[&str]) -> String {
        let mut filter = UsageFilter::default();
        let mut passed = Vec::new();
        for piece in pieces {
            passed.extend_from_slice(&filter.pass(Bytes::copy_from_slice(piece.as_bytes())));
        }
        passed.extend_from_slice(&filter.rest());
        String::from_utf8(passed).unwrap()
    }

    #[test]
    fn the_extra_chunk_goes_and_nothing_else() {
        assert_eq!(filtered(&[CHUNK, EXTRA, DONE]), [CHUNK, DONE].concat());
        assert_eq!(
            filtered(&[&[CHUNK, EXTRA, DONE].concat()]),
            [CHUNK, DONE].concat()
        );
        let crlf = |text: &str| text.replace('\n', "\r\n");
        let all = crlf(&[CHUNK, EXTRA, DONE].concat());
        assert_eq!(filtered(&[&all]), crlf(&[CHUNK, DONE].concat()));
        let returns = [CHUNK, EXTRA, DONE].concat().replace('\n', "\r");
        assert_eq!(
            filtered(&[&returns]),
            [CHUNK, DONE].concat().replace('\n', "\r")
        );
        for other in [
            // Counts beside the last choice: some backends always do that.
            "data: {\"choices\":[{\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":1}}\n\n",
            "data: {\"choices\":[],\"prompt_filter_results\":[]}\n\n",
            "data: {\"choices\":[],\"usage\":null}\n\n",
            "data: \"usage\"\n\n",
            ": \"usage\"\n\n",
            "data: {\"choices\":[],\"usage\":{",
        ] {
            assert_eq!(filtered(&[other]), other);
        }
    }

    #[test]
    fn whole_events_pass_at_once_and_without_a_copy() {
        let mut filter = UsageFilter::default();
        let data = Bytes::from_static(b"data: {\"choices\":[{}]}\n\n");
        assert_eq!(filter.pass(data.clone()).as_ptr(), data.as_ptr());
        assert_eq!(filter.pass(Bytes::from_static(b"data: {")), "");
        assert_eq!(
            filter.pass(Bytes::from_static(b"}\n\ndata: x")),
            "data: {}\n\n"
        );
    }

    #[test]
    fn memory_is_bounded_and_long_events_pass() {
        let long = format!("data: \"{}\"\n\n", "x".repeat(5 * MAX_EVENT));
        let mut filter = UsageFilter::default();
        let mut passed = Vec::new();
        for piece in [long.as_bytes(), EXTRA.as_bytes(), long.as_bytes()] {
            for piece in piece.chunks(999) {
                passed.extend_from_slice(&filter.pass(Bytes::copy_from_slice(piece)));
                assert!(filter.held.len() <= MAX_EVENT);
            }
        }
        assert_eq!(passed, [long.as_bytes(), long.as_bytes()].concat());
    }

    fn asked(body: &str) -> Option<String> {
        #[derive(Deserialize)]
        struct Body<'a> {
            #[serde(borrow, default)]
            stream_options: Option<&'a RawValue>,
        }
        let found: Body<'_> = serde_json::from_str(body).unwrap();
        let options: Vec<&RawValue> = found.stream_options.into_iter().collect();
        let splice = splice(body.as_bytes(), &options)?;
        let mut text = body.to_owned();
        text.replace_range(splice.at, splice.by);
        Some(text)
    }

    #[test]
    fn a_body_is_made_to_ask() {
        for (body, wanted) in [
            (
                r#" {"model":"m"}"#,
                r#" {"stream_options":{"include_usage":true},"model":"m"}"#,
            ),
            (
                r#"{"stream_options":{ } }"#,
                r#"{"stream_options":{"include_usage":true } }"#,
            ),
            (
                r#"{"stream_options":{"x":1}}"#,
                r#"{"stream_options":{"include_usage":true,"x":1}}"#,
            ),
            (
                r#"{"stream_options":{"include_usage": false}}"#,
                r#"{"stream_options":{"include_usage": true}}"#,
            ),
            (
                r#"{"stream_options":{"include\u005fusage":null}}"#,
                r#"{"stream_options":{"include\u005fusage":true}}"#,
            ),
        ] {
            assert_eq!(asked(body).as_deref(), Some(wanted));
        }
        for body in [
            r#"{"stream_options":{"include_usage":true}}"#,
            r#"{"stream_options":{"include_usage":1}}"#,
            r#"{"stream_options":{"include_usage":false,"include_usage":false}}"#,
            r#"{"stream_options":[]}"#,
            r#"{"stream_options":"x"}"#,
        ] {
            assert_eq!(asked(body), None, "{body}");
        }
    }

    proptest! {
        #[test]
        fn pieces_do_not_matter(
            events in prop::collection::vec(prop_oneof![
                Just(CHUNK), Just(EXTRA), Just(DONE), Just(": ping\n\n"), Just("event: x\ndata: 1\n\n"),
            ], 0..8),
            ends in prop_oneof![Just("\n"), Just("\r\n"), Just("\r")],
            cuts in prop::collection::vec(1_usize..40, 1..20),
        ) {
            let all = events.concat().replace('\n', ends);
            let wanted: Vec<_> = events.iter().copied().filter(|event| *event != EXTRA).collect();
            let (mut rest, mut pieces, mut cuts) = (all.as_str(), Vec::new(), cuts.iter().cycle());
            while !rest.is_empty() {
                let (piece, more) = rest.split_at((*cuts.next().unwrap()).min(rest.len()));
                pieces.push(piece);
                rest = more;
            }
            prop_assert_eq!(filtered(&pieces), wanted.concat().replace('\n', ends));
        }
    }
}
