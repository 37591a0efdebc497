//! The Anthropic dialect: messages and their tokens.

use http::{Response, StatusCode};
use serde_json::{Value, json};

use super::stream::{self, Events, named};
use super::{Ask, answer};
use crate::fault_io::FaultSwitch;
use crate::serve::Body;

pub(super) fn error(status: StatusCode, message: &str) -> Response<Body> {
    let kind = match status.as_u16() {
        429 => "rate_limit_error",
        500.. => "api_error",
        _ => "invalid_request_error",
    };
    answer::json(
        status,
        &json!({"type": "error", "error": {"type": kind, "message": message}}),
    )
}

pub(super) fn count_tokens(ask: Ask) -> Response<Body> {
    let body = json!({"input_tokens": input_tokens(&ask.json)});
    answer::dressed(
        answer::done(ask.active, answer::json(StatusCode::OK, &body)),
        &ask.script,
    )
}

pub(super) async fn messages(ask: Ask, switch: FaultSwitch) -> Response<Body> {
    if ask.json["stream"].as_bool() == Some(true) {
        return stream_messages(ask, switch);
    }
    ask.script.pass_time().await;
    let mut message = message(&ask, ask.script.tokens, json!("end_turn"));
    message["content"] = json!([{"type": "text", "text": text(&ask).concat()}]);
    answer::dressed(
        answer::done(ask.active, answer::json(StatusCode::OK, &message)),
        &ask.script,
    )
}

fn stream_messages(ask: Ask, switch: FaultSwitch) -> Response<Body> {
    let opening = vec![
        named(
            "message_start",
            &json!({"type": "message_start", "message": message(&ask, 0, Value::Null)}),
        ),
        named(
            "content_block_start",
            &json!({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}),
        ),
    ];
    let paced = text(&ask)
        .into_iter()
        .map(|piece| {
            let delta = json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": piece}});
            named("content_block_delta", &delta)
        })
        .collect();
    let end = json!({"type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": null},
        "usage": {"output_tokens": ask.script.tokens}});
    let closing = vec![
        named(
            "content_block_stop",
            &json!({"type": "content_block_stop", "index": 0}),
        ),
        named("message_delta", &end),
        named("message_stop", &json!({"type": "message_stop"})),
    ];
    stream::play(
        Events {
            opening,
            paced,
            closing,
        },
        ask.script,
        ask.active,
        switch,
    )
}

fn message(ask: &Ask, output_tokens: u32, stop: Value) -> Value {
    json!({"id": "msg_fixture", "type": "message", "role": "assistant", "model": ask.json["model"], "content": [],
        "stop_reason": stop, "stop_sequence": null,
        "usage": {"input_tokens": input_tokens(&ask.json), "output_tokens": output_tokens}})
}

fn text(ask: &Ask) -> Vec<String> {
    if ask.json["model"] == "headers" {
        return vec![serde_json::to_string(&ask.seen).unwrap_or_default()];
    }
    (0..ask.script.tokens)
        .map(|index| ask.script.token(index))
        .collect()
}

/// One token per four bytes of the messages, at least one.
fn input_tokens(body: &Value) -> usize {
    (body["messages"].to_string().len() / 4).max(1)
}
