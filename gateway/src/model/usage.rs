//! Token counts, read aside from an answer as it passes: the first and the last `usage` object.
//!
//! Only a bounded window of each end is kept. Both APIs put the totals into the last `usage` of a body
//! or stream; Anthropic's streams tell the input tokens in the first one only.

use bytes::BytesMut;
use memchr::memmem;
use serde::Deserialize;

/// How much of the beginning is kept: the first event of a stream, which carries no text.
const HEAD: usize = 4 * 1024;
/// How much of the end is kept: the last few events, or the tail of a JSON answer behind its text.
const TAIL: usize = 16 * 1024;
/// How many `usage` keys of the tail are looked at (`null` in each chunk but the last, or in a text).
const TRIES: usize = 8;

/// The tokens of one call, as the backend counted them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of the prompt.
    pub input: Option<u64>,
    /// Tokens of the answer.
    pub output: Option<u64>,
}

/// Watches the bytes of one answer.
#[derive(Default)]
pub struct UsageTap {
    head: Vec<u8>,
    tail: BytesMut,
}

impl UsageTap {
    /// Takes note of the next bytes of the answer.
    pub fn watch(&mut self, bytes: &[u8]) {
        let room = HEAD.saturating_sub(self.head.len()).min(bytes.len());
        self.head.extend_from_slice(&bytes[..room]);
        let kept = &bytes[bytes.len().saturating_sub(TAIL)..];
        if self.tail.len() + kept.len() > 2 * TAIL {
            let surplus = self.tail.len().saturating_sub(TAIL);
            self.tail = BytesMut::from(&self.tail[surplus..]);
        }
        self.tail.extend_from_slice(kept);
    }

    /// The beginning of the answer, as far as it is kept.
    pub fn beginning(&self) -> &[u8] {
        &self.head
    }

    /// What was counted, as far as it was seen.
    pub fn usage(&self) -> Usage {
        let last = last_usage(&self.tail).unwrap_or_default();
        let first = first_usage(&self.head).unwrap_or_default();
        Usage {
            input: last.input.or(first.input),
            output: last.output.or(first.output),
        }
    }
}

impl std::fmt::Debug for UsageTap {
    /// Never the bytes.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UsageTap")
            .field("usage", &self.usage())
            .finish_non_exhaustive()
    }
}

const KEY: &[u8] = b"\"usage\"";

fn first_usage(bytes: &[u8]) -> Option<Usage> {
    memmem::find_iter(bytes, KEY)
        .take(TRIES)
        .find_map(|at| read(&bytes[at + KEY.len()..]))
}

fn last_usage(bytes: &[u8]) -> Option<Usage> {
    memmem::rfind_iter(bytes, KEY)
        .take(TRIES)
        .find_map(|at| read(&bytes[at + KEY.len()..]))
}

/// Reads the object after the key; `None` where it is absent, null or has no counts.
fn read(bytes: &[u8]) -> Option<Usage> {
    #[derive(Deserialize)]
    struct Counts {
        #[serde(alias = "input_tokens")]
        prompt_tokens: Option<u64>,
        #[serde(alias = "output_tokens")]
        completion_tokens: Option<u64>,
    }
    let value = bytes.trim_ascii_start().strip_prefix(b":")?;
    let mut values = serde_json::Deserializer::from_slice(value).into_iter::<Counts>();
    let counts = values.next()?.ok()?;
    let usage = Usage {
        input: counts.prompt_tokens,
        output: counts.completion_tokens,
    };
    (usage != Usage::default()).then_some(usage)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pieces: &[&str]) -> Usage {
        let mut tap = UsageTap::default();
        for piece in pieces {
            tap.watch(piece.as_bytes());
        }
        tap.usage()
    }

    #[test]
    fn openai_json_and_stream() {
        let wanted = Usage {
            input: Some(3),
            output: Some(5),
        };
        let json =
            r#"{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":5,"total_tokens":8}}"#;
        assert_eq!(of(&[json]), wanted);
        let (a, b) = json.split_at(30);
        assert_eq!(of(&[a, b]), wanted);
        let chunk = "data: {\"choices\":[{\"delta\":{}}],\"usage\":null}\n\n";
        let last =
            "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":5}}\n\n";
        assert_eq!(of(&[&chunk.repeat(2000), last, "data: [DONE]\n\n"]), wanted);
    }

    #[test]
    fn anthropic_stream_tells_input_first() {
        let start = "event: message_start\ndata: {\"message\":{\"usage\":{\"input_tokens\":25,\"output_tokens\":1}}}\n\n";
        let text =
            "event: content_block_delta\ndata: {\"delta\":{\"text\":\"hello\"}}\n\n".repeat(1000);
        let delta = "event: message_delta\ndata: {\"usage\":{\"output_tokens\":15}}\n\n";
        assert_eq!(
            of(&[start, &text, delta]),
            Usage {
                input: Some(25),
                output: Some(15)
            }
        );
    }

    #[test]
    fn nothing_is_invented() {
        assert_eq!(of(&[]), Usage::default());
        assert_eq!(
            of(&["{\"text\":\"\\\"usage\\\" is a word\"}"]),
            Usage::default()
        );
        assert_eq!(of(&["\"usage\":{\"prompt_tokens\":-1}"]), Usage::default());
    }

    #[test]
    fn memory_is_bounded() {
        let mut tap = UsageTap::default();
        for _ in 0..1000 {
            tap.watch(&[b'x'; 10_000]);
            assert!(tap.tail.len() <= 2 * TAIL && tap.head.len() <= HEAD);
        }
        tap.watch(&vec![b'y'; 1 << 20]);
        assert!(tap.tail.len() <= 2 * TAIL);
    }
}
