//! The OpenAI dialect: models, chat, completions, embeddings.

use http::{Response, StatusCode};
use serde_json::{Value, json};

use super::script::FAULT_MODELS;
use super::stream::{self, Events, data};
use super::{Ask, answer};
use crate::fault_io::FaultSwitch;
use crate::serve::Body;

/// Seconds since the epoch that every answer claims to be made at.
pub(super) const CREATED: u64 = 1_790_000_000;
/// Dimensions of an embedding.
const DIMENSIONS: usize = 8;
/// Models besides those that fail.
const MODELS: [&str; 8] = [
    "demo-model",
    "fast",
    "echo",
    "headers",
    "embed-small",
    "image-small",
    "voice",
    "meta-llama/Llama-3.1-8B-Instruct",
];

/// All models, or the one that a path names.
pub(super) fn models(one: Option<&str>) -> Response<Body> {
    let model =
        |id: &str| json!({"id": id, "object": "model", "created": CREATED, "owned_by": "fixture"});
    let mut names = MODELS
        .into_iter()
        .chain(FAULT_MODELS.into_iter().map(|(name, _)| name));
    if let Some(wanted) = one {
        let wanted = wanted.replace("%2F", "/");
        return match names.find(|name| *name == wanted) {
            Some(name) => answer::json(StatusCode::OK, &model(name)),
            None => error(StatusCode::NOT_FOUND, "no such model"),
        };
    }
    let data: Vec<Value> = names.map(model).collect();
    answer::json(StatusCode::OK, &json!({"object": "list", "data": data}))
}

pub(super) fn error(status: StatusCode, message: &str) -> Response<Body> {
    let kind = if status.is_server_error() {
        "server_error"
    } else {
        "invalid_request_error"
    };
    answer::json(
        status,
        &json!({"error": {"message": message, "type": kind, "param": null, "code": format!("fixture_{}", status.as_u16())}}),
    )
}

pub(super) async fn chat(ask: Ask, switch: FaultSwitch) -> Response<Body> {
    let reply = Reply::of(&ask);
    if ask.json["stream"].as_bool() == Some(true) {
        return stream_chat(ask, &reply, switch);
    }
    ask.script.pass_time().await;
    let message = match &reply {
        Reply::Text(pieces) => {
            json!({"role": "assistant", "content": pieces.concat(), "refusal": null})
        }
        Reply::Call { name, arguments } => {
            json!({"role": "assistant", "content": null, "tool_calls": [tool_call(name, arguments)]})
        }
    };
    let body = json!({
        "id": "chatcmpl-fixture", "object": "chat.completion", "created": CREATED, "model": ask.json["model"],
        "choices": [{"index": 0, "message": message, "logprobs": null, "finish_reason": reply.finish()}],
        "usage": usage(&ask, &reply),
    });
    answer::dressed(
        answer::done(ask.active, answer::json(StatusCode::OK, &body)),
        &ask.script,
    )
}

fn stream_chat(ask: Ask, reply: &Reply, switch: FaultSwitch) -> Response<Body> {
    let model = ask.json["model"].clone();
    let chunk = |choices: Value, usage: Value| {
        data(&json!({
            "id": "chatcmpl-fixture", "object": "chat.completion.chunk", "created": CREATED, "model": model,
            "choices": choices, "usage": usage,
        }))
    };
    let delta = |delta: Value, finish: Value| {
        chunk(
            json!([{"index": 0, "delta": delta, "logprobs": null, "finish_reason": finish}]),
            Value::Null,
        )
    };
    let paced = match reply {
        Reply::Text(pieces) => pieces
            .iter()
            .map(|piece| delta(json!({"content": piece}), Value::Null))
            .collect(),
        Reply::Call { name, arguments } => {
            let (first, second) = arguments.split_at(arguments.len() / 2);
            let piece = |text: &str| {
                delta(
                    json!({"tool_calls": [{"index": 0, "function": {"arguments": text}}]}),
                    Value::Null,
                )
            };
            let head = json!({"tool_calls": [{"index": 0, "id": "call_1", "type": "function", "function": {"name": name, "arguments": ""}}]});
            vec![delta(head, Value::Null), piece(first), piece(second)]
        }
    };
    let mut closing = vec![delta(json!({}), json!(reply.finish()))];
    if ask.json["stream_options"]["include_usage"].as_bool() == Some(true) {
        closing.push(chunk(json!([]), usage(&ask, reply)));
    }
    closing.push("data: [DONE]\n\n".to_owned());
    let opening = vec![delta(
        json!({"role": "assistant", "content": ""}),
        Value::Null,
    )];
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

pub(super) async fn completions(ask: Ask, switch: FaultSwitch) -> Response<Body> {
    let body = |text: &str, finish: Value, usage: Value| {
        json!({
            "id": "cmpl-fixture", "object": "text_completion", "created": CREATED, "model": ask.json["model"],
            "choices": [{"index": 0, "text": text, "logprobs": null, "finish_reason": finish}], "usage": usage,
        })
    };
    let usage = token_usage(prompt_tokens(&ask.json), ask.script.tokens);
    if ask.json["stream"].as_bool() == Some(true) {
        let paced = (0..ask.script.tokens)
            .map(|index| data(&body(&ask.script.token(index), Value::Null, Value::Null)))
            .collect();
        let closing = vec![
            data(&body("", json!("stop"), usage)),
            "data: [DONE]\n\n".to_owned(),
        ];
        return stream::play(
            Events {
                opening: Vec::new(),
                paced,
                closing,
            },
            ask.script,
            ask.active,
            switch,
        );
    }
    ask.script.pass_time().await;
    let whole = body(&ask.script.text(), json!("stop"), usage);
    answer::dressed(
        answer::done(ask.active, answer::json(StatusCode::OK, &whole)),
        &ask.script,
    )
}

pub(super) fn embeddings(ask: Ask) -> Response<Body> {
    let strings = ask.json["input"]
        .as_array()
        .filter(|items| items.iter().all(Value::is_string));
    let inputs = strings.map_or(1, Vec::len);
    let base64 = ask.json["encoding_format"] == "base64";
    let data: Vec<Value> = (0..inputs)
        .map(|index| json!({"object": "embedding", "index": index, "embedding": embedding(index, base64)}))
        .collect();
    let tokens = prompt_tokens(&ask.json);
    let body = json!({
        "object": "list", "data": data, "model": ask.json["model"],
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    });
    answer::dressed(
        answer::done(ask.active, answer::json(StatusCode::OK, &body)),
        &ask.script,
    )
}

fn embedding(index: usize, base64: bool) -> Value {
    let value = |dimension: usize| (index + 1) as f32 / (dimension + 2) as f32;
    if !base64 {
        return (0..DIMENSIONS).map(value).collect();
    }
    let bytes: Vec<u8> = (0..DIMENSIONS)
        .flat_map(|dimension| value(dimension).to_le_bytes())
        .collect();
    json!(data_encoding::BASE64.encode(&bytes))
}

/// What a chat answers: text, or a call of the first tool that was offered.
enum Reply {
    Text(Vec<String>),
    Call { name: String, arguments: String },
}

impl Reply {
    fn of(ask: &Ask) -> Self {
        let last = &ask.json["messages"][ask.json["messages"]
            .as_array()
            .map_or(0, |all| all.len().saturating_sub(1))];
        let content = last["content"].as_str().unwrap_or_default().to_owned();
        if last["role"] == "tool" {
            return Self::Text(vec!["The tool said: ".to_owned(), content]);
        }
        let tool = &ask.json["tools"][0]["function"];
        if let Some(name) = tool["name"].as_str()
            && ask.json["tool_choice"] != "none"
        {
            return Self::Call {
                name: name.to_owned(),
                arguments: arguments_for(&tool["parameters"]),
            };
        }
        match ask.json["model"].as_str() {
            Some("echo") => Self::Text(vec![content]),
            Some("headers") => {
                Self::Text(vec![serde_json::to_string(&ask.seen).unwrap_or_default()])
            }
            _ => Self::Text(
                (0..ask.script.tokens)
                    .map(|index| ask.script.token(index))
                    .collect(),
            ),
        }
    }

    fn finish(&self) -> &'static str {
        match self {
            Self::Text(_) => "stop",
            Self::Call { .. } => "tool_calls",
        }
    }

    fn tokens(&self) -> u32 {
        match self {
            Self::Text(pieces) => u32::try_from(pieces.len()).unwrap_or(u32::MAX),
            Self::Call { .. } => 3,
        }
    }
}

fn tool_call(name: &str, arguments: &str) -> Value {
    json!({"id": "call_1", "type": "function", "function": {"name": name, "arguments": arguments}})
}

/// A value of the right type for each property of a schema.
pub(super) fn arguments_for(schema: &Value) -> String {
    let mut arguments = serde_json::Map::new();
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        let value = match property["type"].as_str() {
            Some("integer" | "number") => json!(7),
            Some("boolean") => json!(true),
            _ => json!("fixture"),
        };
        arguments.insert(name.clone(), value);
    }
    Value::Object(arguments).to_string()
}

fn usage(ask: &Ask, reply: &Reply) -> Value {
    token_usage(prompt_tokens(&ask.json), reply.tokens())
}

fn token_usage(prompt: u32, completion: u32) -> Value {
    json!({"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion})
}

/// Usage as responses and images tell it.
pub(super) fn input_usage(input: u32, output: u32) -> Value {
    json!({"input_tokens": input, "output_tokens": output, "total_tokens": input + output,
        "input_tokens_details": {"cached_tokens": 0, "image_tokens": 0, "text_tokens": input},
        "output_tokens_details": {"reasoning_tokens": 0}})
}

/// One token per four bytes of the input, at least one.
pub(super) fn prompt_tokens(body: &Value) -> u32 {
    let bytes: usize = ["messages", "prompt", "input"]
        .iter()
        .map(|name| body[*name].to_string().len())
        .sum();
    u32::try_from(bytes / 4).unwrap_or(u32::MAX).max(1)
}
