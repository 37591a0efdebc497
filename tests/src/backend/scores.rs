//! Endpoints that judge instead of generating: rerank and moderations.

use http::{Response, StatusCode};
use serde_json::{Value, json};

use super::{Ask, answer};
use crate::serve::Body;

const CATEGORIES: [&str; 13] = [
    "harassment",
    "harassment/threatening",
    "hate",
    "hate/threatening",
    "illicit",
    "illicit/violent",
    "self-harm",
    "self-harm/instructions",
    "self-harm/intent",
    "sexual",
    "sexual/minors",
    "violence",
    "violence/graphic",
];

/// The longer a document, the better it fits.
pub(super) fn rerank(ask: Ask) -> Response<Body> {
    let documents = ask.json["documents"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let length = |index: &usize| documents[*index].to_string().len();
    let mut order: Vec<usize> = (0..documents.len()).collect();
    order.sort_by_key(|index| std::cmp::Reverse(length(index)));
    let results: Vec<Value> = order
        .into_iter()
        .map(|index| {
            let document = json!({"text": documents[index]});
            json!({"index": index, "relevance_score": 1.0 - 1.0 / length(&index) as f64, "document": document})
        })
        .collect();
    let body = json!({"id": "rerank-fixture", "model": ask.json["model"], "results": results, "usage": {"total_tokens": 1}});
    ok(ask, &body)
}

/// A text is flagged as violent where it says so.
pub(super) fn moderations(ask: Ask) -> Response<Body> {
    let input = &ask.json["input"];
    let results: Vec<Value> = match input.as_array() {
        Some(several) => several.iter().map(judged).collect(),
        None => vec![judged(input)],
    };
    let body = json!({"id": "modr-fixture", "model": ask.json["model"], "results": results});
    ok(ask, &body)
}

fn judged(input: &Value) -> Value {
    let violent = input.to_string().contains("violence");
    let each = |value: &dyn Fn(&str) -> Value| -> Value {
        CATEGORIES
            .iter()
            .map(|name| ((*name).to_owned(), value(name)))
            .collect::<serde_json::Map<String, Value>>()
            .into()
    };
    let hit = |name: &str| violent && name == "violence";
    json!({
        "flagged": violent,
        "categories": each(&|name| json!(hit(name))),
        "category_scores": each(&|name| json!(if hit(name) { 0.9 } else { 0.1 })),
        "category_applied_input_types": each(&|_| json!(["text"])),
    })
}

fn ok(ask: Ask, body: &Value) -> Response<Body> {
    let response = answer::json(StatusCode::OK, body);
    answer::dressed(answer::done(ask.active, response), &ask.script)
}
