//! The Anthropic dialect: messages, their tools and their tokens.

use http::{Response, StatusCode};
use serde_json::{Value, json};

use super::stream::{self, Events, named};
use super::{Ask, openai};
use crate::fault_io::FaultSwitch;
use crate::serve::Body;

pub(super) fn error(status: StatusCode, message: &str) -> Response<Body> {
    let kind = match status.as_u16() {
        429 => "rate_limit_error",
        500.. => "api_error",
        _ => "invalid_request_error",
    };
    super::answer::json(
        status,
        &json!({"type": "error", "error": {"type": kind, "message": message}}),
    )
}

pub(super) async fn answer(api: &str, ask: Ask, switch: FaultSwitch) -> Response<Body> {
    if api == "/messages/count_tokens" {
        let body = json!({"input_tokens": input_tokens(&ask.json)});
        return whole(ask, &body);
    }
    let reply = Reply::of(&ask);
    if ask.json["stream"].as_bool() == Some(true) {
        return stream_message(ask, &reply, switch);
    }
    ask.script.pass_time().await;
    let mut message = message(&ask, ask.script.tokens, json!(reply.stop_reason()));
    message["content"] = json!([reply.block()]);
    whole(ask, &message)
}

fn whole(ask: Ask, body: &Value) -> Response<Body> {
    let response = super::answer::json(StatusCode::OK, body);
    super::answer::dressed(super::answer::done(ask.active, response), &ask.script)
}

fn stream_message(ask: Ask, reply: &Reply, switch: FaultSwitch) -> Response<Body> {
    let opening = vec![
        named(
            "message_start",
            &json!({"type": "message_start", "message": message(&ask, 0, Value::Null)}),
        ),
        named(
            "content_block_start",
            &json!({"type": "content_block_start", "index": 0, "content_block": reply.empty_block()}),
        ),
    ];
    let paced = reply
        .deltas()
        .into_iter()
        .map(|delta| {
            let event = json!({"type": "content_block_delta", "index": 0, "delta": delta});
            named("content_block_delta", &event)
        })
        .collect();
    let end = json!({"type": "message_delta", "delta": {"stop_reason": reply.stop_reason(), "stop_sequence": null},
        "usage": {"output_tokens": ask.script.tokens}});
    let closing = vec![
        named(
            "content_block_stop",
            &json!({"type": "content_block_stop", "index": 0}),
        ),
        named("message_delta", &end),
        named("message_stop", &json!({"type": "message_stop"})),
    ];
    let events = Events {
        opening,
        paced,
        closing,
    };
    stream::play(events, ask.script, ask.active, switch)
}

fn message(ask: &Ask, output_tokens: u32, stop: Value) -> Value {
    json!({"id": "msg_fixture", "type": "message", "role": "assistant", "model": ask.json["model"], "content": [],
        "stop_reason": stop, "stop_sequence": null,
        "usage": {"input_tokens": input_tokens(&ask.json), "output_tokens": output_tokens}})
}

/// What a message answers: text, or the use of the first tool that was offered.
enum Reply {
    Text(Vec<String>),
    Use { name: String, input: String },
}

impl Reply {
    fn of(ask: &Ask) -> Self {
        if ask.json["model"] == "headers" {
            return Self::Text(vec![serde_json::to_string(&ask.seen).unwrap_or_default()]);
        }
        let last = ask.json["messages"].as_array().and_then(|all| all.last());
        if let Some(last) = last
            && last["content"][0]["type"] == "tool_result"
        {
            let result = &last["content"][0]["content"];
            let text = result.as_str().or_else(|| result[0]["text"].as_str());
            let said = text.unwrap_or_default().to_owned();
            return Self::Text(vec!["The tool said: ".to_owned(), said]);
        }
        let tool = &ask.json["tools"][0];
        if let Some(name) = tool["name"].as_str() {
            return Self::Use {
                name: name.to_owned(),
                input: openai::arguments_for(&tool["input_schema"]),
            };
        }
        Self::Text(
            (0..ask.script.tokens)
                .map(|index| ask.script.token(index))
                .collect(),
        )
    }

    fn stop_reason(&self) -> &'static str {
        match self {
            Self::Text(_) => "end_turn",
            Self::Use { .. } => "tool_use",
        }
    }

    fn block(&self) -> Value {
        match self {
            Self::Text(pieces) => json!({"type": "text", "text": pieces.concat()}),
            Self::Use { name, input } => {
                let input: Value = serde_json::from_str(input).unwrap_or_default();
                json!({"type": "tool_use", "id": "toolu_1", "name": name, "input": input})
            }
        }
    }

    fn empty_block(&self) -> Value {
        match self {
            Self::Text(_) => json!({"type": "text", "text": ""}),
            Self::Use { name, .. } => {
                json!({"type": "tool_use", "id": "toolu_1", "name": name, "input": {}})
            }
        }
    }

    fn deltas(&self) -> Vec<Value> {
        match self {
            Self::Text(pieces) => pieces
                .iter()
                .map(|piece| json!({"type": "text_delta", "text": piece}))
                .collect(),
            Self::Use { input, .. } => {
                let (first, second) = input.split_at(input.len() / 2);
                [first, second]
                    .map(|piece| json!({"type": "input_json_delta", "partial_json": piece}))
                    .into()
            }
        }
    }
}

/// One token per four bytes of the messages, at least one.
fn input_tokens(body: &Value) -> usize {
    (body["messages"].to_string().len() / 4).max(1)
}
