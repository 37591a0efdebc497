//! Silent streams: comments keep the caller's connection, and nobody else gets any.

use bytes::Bytes;
use culvert_tests::client::Reply;
use culvert_tests::world::{World, chat_body};
use http::{Method, header::CONTENT_TYPE};
use serde_json::{Value, json};

const COMMENT: &str = ": keep-alive\n\n";
/// Longer than the silence that is filled, in milliseconds.
const SILENCE: u64 = 17_000;

async fn chat(world: &World, more: Value, keep_alive: &str) -> Reply {
    let client = world.client();
    let request = client
        .request(Method::POST, "/v1/chat/completions")
        .header(CONTENT_TYPE, "application/json")
        .header("culvert-timeout-ms", SILENCE.to_string())
        .header("culvert-keep-alive", keep_alive);
    let body = chat_body("fast", more).to_string();
    client.send(request, Bytes::from(body)).await.unwrap()
}

#[tokio::test]
async fn silence_is_filled_where_a_stream_was_asked_for() {
    let world = World::start().await.unwrap();
    world.serves().await.unwrap();
    let silent = |stream: bool| json!({"stream": stream, "fixture": {"fault": "silent"}});
    let pauses = json!({"stream": true, "fixture": {"first_ms": SILENCE - 1_000, "tokens": 1}});
    let (filled, off, whole, paused, unfilled) = tokio::join!(
        chat(&world, silent(true), "on"),
        chat(&world, silent(true), "off"),
        chat(&world, silent(false), "on"),
        chat(&world, pauses.clone(), "on"),
        chat(&world, pauses, "off"),
    );
    // Before the first byte: a head of ours, and the end of the caller's time as an event.
    assert_eq!(filled.status, 200);
    assert_eq!(filled.header("content-type"), "text/event-stream");
    let text = filled.text();
    let event = text.strip_prefix(COMMENT).unwrap();
    assert!(
        event.starts_with("data: {") && event.contains("deadline_exceeded"),
        "{text}"
    );
    assert!(!text.contains("[DONE]"), "{text}");
    // Who wants none, or no stream, gets the status.
    for reply in [off, whole] {
        assert_eq!(reply.status, 504, "{}", reply.text());
        assert!(!reply.text().contains("keep-alive"));
    }
    // In the middle of a stream.
    let text = paused.text();
    assert_eq!(text.matches(COMMENT).count(), 1, "{text}");
    assert_eq!(text.replace(COMMENT, ""), unfilled.text());
    assert!(text.ends_with("data: [DONE]\n\n"), "{text}");
}
