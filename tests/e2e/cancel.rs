//! A caller that leaves is felt by the backend.

use std::time::{Duration, Instant};

use culvert_tests::world::{World, chat_body};
use serde_json::json;

/// Five times the bound of 100 ms: the clock is real and the machine is shared.
const CANCEL_LIMIT: Duration = Duration::from_millis(500);

async fn cancelled(world: &World, count: u64) {
    let left = Instant::now();
    let noticed = world
        .backend
        .counts("/counts/cancelled", count, Duration::from_secs(10))
        .await;
    noticed.map_err(|error| world.explain(&error)).unwrap();
    assert!(
        left.elapsed() < CANCEL_LIMIT,
        "the backend noticed after {:?}",
        left.elapsed()
    );
}

#[tokio::test]
async fn leaving_after_the_first_token_reaches_the_backend() {
    let world = World::start().await.unwrap();
    let body = chat_body(
        "demo-model",
        json!({"stream": true, "fixture": {"tokens": 10000, "interval_ms": 20}}),
    );
    for round in 1..=5 {
        let mut events = world
            .client()
            .stream("/v1/chat/completions", &body)
            .await
            .unwrap();
        events.next().await.unwrap().unwrap();
        drop(events);
        cancelled(&world, round).await;
    }
    assert_eq!(world.backend.stats().await.unwrap()["counts"]["active"], 0);
}

#[tokio::test]
async fn leaving_before_any_answer_reaches_a_silent_backend() {
    let world = World::start().await.unwrap();
    let client = world.client();
    let body = chat_body("fault-silent", json!({}));
    let call = tokio::time::timeout(
        Duration::from_secs(2),
        client.post("/v1/chat/completions", &body),
    );
    let waited = world
        .backend
        .counts("/by_model/fault-silent", 1, Duration::from_secs(10));
    tokio::select! {
        reply = call => panic!("a silent backend answered: {reply:?}"),
        seen = waited => seen.map_err(|error| world.explain(&error)).unwrap(),
    }
    cancelled(&world, 1).await;
}

#[tokio::test]
async fn a_deadline_of_the_caller_ends_the_call_at_both_ends() {
    let world = World::start().await.unwrap();
    let client = world.client();
    let request = client
        .request(http::Method::POST, "/v1/chat/completions")
        .header("content-type", "application/json")
        .header("culvert-timeout-ms", "700");
    let started = Instant::now();
    let reply = client
        .send(
            request,
            chat_body("fault-silent", json!({})).to_string().into(),
        )
        .await
        .unwrap();
    assert_eq!(
        (reply.status.as_u16(), &reply.json()["error"]["code"]),
        (504, &json!("deadline_exceeded")),
        "{}",
        reply.text()
    );
    let took = started.elapsed();
    assert!(
        took >= Duration::from_millis(690) && took < Duration::from_millis(3_500),
        "{took:?}"
    );
    cancelled(&world, 1).await;
}
