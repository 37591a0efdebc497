//! Responses of the OpenAI dialect: made, streamed, and kept for whoever asks for them by their ids.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use http::{Method, Response, StatusCode};
use serde_json::{Value, json};

use super::openai::{self, CREATED, prompt_tokens};
use super::stats::Active;
use super::stream::{self, Events, named};
use super::{Ask, answer};
use crate::fault_io::FaultSwitch;
use crate::serve::Body;

/// How many responses are kept; the oldest is forgotten.
const KEPT: usize = 256;

/// The responses of one backend.
#[derive(Debug, Default)]
pub(super) struct Kept {
    made: AtomicU64,
    responses: Mutex<VecDeque<Value>>,
}

impl Kept {
    /// Makes a response, whole or streamed.
    pub(super) async fn create(&self, ask: Ask, switch: FaultSwitch) -> Response<Body> {
        let whole = self.response(&ask);
        if ask.json["stream"].as_bool() == Some(true) {
            return streamed(ask, &whole, switch);
        }
        ask.script.pass_time().await;
        answer::dressed(
            answer::done(ask.active, answer::json(StatusCode::OK, &whole)),
            &ask.script,
        )
    }

    /// What a call about a response with an id asks for: `rest` is the path behind `/responses/`.
    pub(super) fn about(&self, method: &Method, rest: &str, active: Active) -> Response<Body> {
        let (id, action) = rest.split_once('/').unwrap_or((rest, ""));
        let mut responses = self
            .responses
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let Some(at) = responses.iter().position(|response| response["id"] == id) else {
            let response = openai::error(StatusCode::NOT_FOUND, "no such response");
            return answer::done(active, response);
        };
        let body = match (method, action) {
            (&Method::GET, "") => responses[at].clone(),
            (&Method::GET, "input_items") => {
                json!({"object": "list", "data": [responses[at]["fixture_input"]], "has_more": false,
                    "first_id": "item_1", "last_id": "item_1"})
            }
            (&Method::POST, "cancel") => {
                responses[at]["status"] = json!("cancelled");
                responses[at].clone()
            }
            (&Method::DELETE, "") => {
                responses.remove(at);
                json!({"id": id, "object": "response", "deleted": true})
            }
            _ => {
                let response = openai::error(StatusCode::METHOD_NOT_ALLOWED, "not so");
                return answer::done(active, response);
            }
        };
        answer::done(active, answer::json(StatusCode::OK, &body))
    }

    fn response(&self, ask: &Ask) -> Value {
        let id = format!("resp_{}", self.made.fetch_add(1, Ordering::Relaxed) + 1);
        let item = json!({"id": "msg_1", "type": "message", "status": "completed", "role": "assistant",
            "content": [{"type": "output_text", "text": ask.script.text(), "annotations": []}]});
        let background = ask.json["background"].as_bool() == Some(true);
        let status = if background {
            "in_progress"
        } else {
            "completed"
        };
        let mut response = response(ask, &id, status, json!([item]));
        response["fixture_input"] = json!({"id": "item_1", "type": "message", "role": "user", "status": "completed",
            "content": [{"type": "input_text", "text": ask.json["input"]}]});
        let mut responses = self
            .responses
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if responses.len() == KEPT {
            responses.pop_front();
        }
        responses.push_back(response.clone());
        response
    }
}

/// How many tokens an input has.
pub(super) fn input_tokens(ask: Ask) -> Response<Body> {
    let body = json!({"object": "response.input_tokens", "input_tokens": prompt_tokens(&ask.json)});
    answer::dressed(
        answer::done(ask.active, answer::json(StatusCode::OK, &body)),
        &ask.script,
    )
}

/// A conversation made short.
pub(super) fn compact(ask: Ask) -> Response<Body> {
    let output = json!([{"id": "cmp_1", "type": "compaction", "encrypted_content": "c2hvcnQ="}]);
    let body = json!({"id": "resp_compact", "object": "response.compaction", "created_at": CREATED, "output": output,
        "usage": usage(&ask)});
    answer::dressed(
        answer::done(ask.active, answer::json(StatusCode::OK, &body)),
        &ask.script,
    )
}

fn streamed(ask: Ask, whole: &Value, switch: FaultSwitch) -> Response<Body> {
    let id = whole["id"].as_str().unwrap_or_default();
    let created = response(&ask, id, "in_progress", json!([]));
    let paced = (0..ask.script.tokens)
        .map(|index| {
            let event = json!({"type": "response.output_text.delta", "sequence_number": index + 1, "item_id": "msg_1",
                "output_index": 0, "content_index": 0, "delta": ask.script.token(index), "logprobs": []});
            named("response.output_text.delta", &event)
        })
        .collect();
    let first = json!({"type": "response.created", "sequence_number": 0, "response": created});
    let last = json!({"type": "response.completed", "sequence_number": ask.script.tokens + 1, "response": whole});
    let events = Events {
        opening: vec![named("response.created", &first)],
        paced,
        closing: vec![named("response.completed", &last)],
    };
    stream::play(events, ask.script, ask.active, switch)
}

fn response(ask: &Ask, id: &str, status: &str, output: Value) -> Value {
    json!({"id": id, "object": "response", "created_at": CREATED, "status": status, "model": ask.json["model"],
        "output": output, "parallel_tool_calls": true, "tool_choice": "auto", "tools": [], "error": null,
        "incomplete_details": null, "instructions": null, "metadata": {}, "temperature": 1.0, "top_p": 1.0,
        "usage": usage(ask)})
}

fn usage(ask: &Ask) -> Value {
    openai::input_usage(prompt_tokens(&ask.json), ask.script.tokens)
}
