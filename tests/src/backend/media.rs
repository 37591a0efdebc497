//! Sound and images of the OpenAI dialect: answers that are no JSON, and requests that are forms.

use bytes::Bytes;
use http::{Response, StatusCode};
use serde_json::{Value, json};

use super::stream::{self, Events};
use super::{Ask, answer, openai};
use crate::fault_io::FaultSwitch;
use crate::serve::Body;

/// Bytes of a spoken text, per character of it: enough that an answer is many pieces on the wire.
const SPEECH_BYTES: usize = 4_096;
/// Seconds since the epoch that every image claims to be made at.
const CREATED: u64 = 1_790_000_000;

/// Bytes that cannot be taken for text, in an order that shows a lost or doubled piece.
pub(super) async fn speech(ask: Ask) -> Response<Body> {
    ask.script.pass_time().await;
    let characters = ask.json["input"]
        .as_str()
        .map_or(0, |text| text.chars().count());
    let bytes: Bytes = (0..characters * SPEECH_BYTES)
        .map(|index| u8::try_from(index % 251).unwrap_or_default())
        .collect();
    answer::dressed(
        answer::done(
            ask.active,
            answer::typed(StatusCode::OK, "audio/mpeg", bytes),
        ),
        &ask.script,
    )
}

/// The text of a sound says which file arrived.
pub(super) fn transcription(ask: Ask, switch: FaultSwitch) -> Response<Body> {
    let file = &ask.json["file"];
    let text = format!(
        "{} {} {}",
        show(&file["file"]),
        file["bytes"],
        show(&file["sha256"])
    );
    if show(&ask.json["stream"]) == "true" {
        return stream_text(ask, &text, switch);
    }
    let response = match show(&ask.json["response_format"]).as_str() {
        "text" => answer::text(StatusCode::OK, &text),
        "verbose_json" => answer::json(
            StatusCode::OK,
            &json!({"task": "transcribe", "language": "english", "duration": 1.5, "text": text, "segments": []}),
        ),
        _ => answer::json(StatusCode::OK, &json!({"text": text})),
    };
    answer::dressed(answer::done(ask.active, response), &ask.script)
}

fn stream_text(ask: Ask, text: &str, switch: FaultSwitch) -> Response<Body> {
    let paced = text
        .split_inclusive(' ')
        .map(|word| stream::data(&json!({"type": "transcript.text.delta", "delta": word})))
        .collect();
    let last = json!({"type": "transcript.text.done", "text": text,
        "usage": {"type": "tokens", "input_tokens": 1, "output_tokens": 3, "total_tokens": 4}});
    let events = Events {
        opening: Vec::new(),
        paced,
        closing: vec![stream::data(&last), "data: [DONE]\n\n".to_owned()],
    };
    stream::play(events, ask.script, ask.active, switch)
}

/// Each image is the digest of what it was made of: the prompt, or the images that arrived.
pub(super) async fn images(ask: Ask) -> Response<Body> {
    ask.script.pass_time().await;
    let image = &ask.json["image"];
    let of = if image.is_null() {
        &ask.json["prompt"]
    } else {
        image
    };
    let wanted = show(&ask.json["n"]).parse().unwrap_or(1_usize);
    let image = data_encoding::BASE64.encode(of.to_string().as_bytes());
    let data: Vec<Value> = (0..wanted).map(|_| json!({"b64_json": image})).collect();
    let body = json!({"created": CREATED, "data": data, "usage": openai::input_usage(1, 2)});
    answer::dressed(
        answer::done(ask.active, answer::json(StatusCode::OK, &body)),
        &ask.script,
    )
}

/// A value as text: fields of a form are texts where JSON has numbers and truths.
fn show(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}
