//! The model APIs as the official clients see them.

use std::time::{Duration, Instant};

use culvert_tests::sdk::Python;
use culvert_tests::world::{World, chat_body};
use futures_util::future::join_all;
use serde_json::json;

#[tokio::test]
async fn the_official_openai_client_does_everything() {
    let sdk = Python::ready().await.unwrap();
    let world = World::start().await.unwrap();
    sdk.run("openai_basic.py", &world.sdk_environment())
        .await
        .map_err(|error| world.explain(&error))
        .unwrap();
}

#[tokio::test]
async fn every_error_is_the_right_exception_of_the_openai_client() {
    let sdk = Python::ready().await.unwrap();
    let world = World::start().await.unwrap();
    sdk.run("openai_errors.py", &world.sdk_environment())
        .await
        .map_err(|error| world.explain(&error))
        .unwrap();
}

#[tokio::test]
async fn with_the_agent_gone_the_openai_client_sees_503() {
    let sdk = Python::ready().await.unwrap();
    let mut world = World::start().await.unwrap();
    world.agent.take().unwrap().process.kill().await.unwrap();
    // The relay learns of a killed agent by its silence; until then a call may fail as one that may have begun.
    world.refuses_with("agent_unavailable").await.unwrap();
    sdk.run("openai_gone.py", &world.sdk_environment())
        .await
        .map_err(|error| world.explain(&error))
        .unwrap();
}

#[tokio::test]
async fn the_official_anthropic_client_speaks_its_dialect() {
    let sdk = Python::ready().await.unwrap();
    let world = World::start().await.unwrap();
    sdk.run("anthropic_basic.py", &world.sdk_environment())
        .await
        .map_err(|error| world.explain(&error))
        .unwrap();
}

#[tokio::test]
async fn tokens_arrive_when_they_are_made() {
    let world = World::start().await.unwrap();
    // Five tokens 300 ms apart: collected ones would arrive together after 1.2 s.
    let fixture =
        json!({"stream": true, "fixture": {"tokens": 5, "interval_ms": 300, "first_ms": 0}});
    let started = Instant::now();
    let mut events = world
        .client()
        .stream("/v1/chat/completions", &chat_body("demo-model", fixture))
        .await
        .unwrap();
    let mut arrivals = Vec::new();
    while let Some(event) = events.next().await.unwrap() {
        if event.contains("\"content\":\"") && !event.contains("\"content\":\"\"") {
            arrivals.push(started.elapsed());
        }
    }
    assert_eq!(arrivals.len(), 5, "{arrivals:?}");
    let first_to_last = arrivals[4] - arrivals[0];
    assert!(
        first_to_last > Duration::from_millis(900),
        "tokens came in a heap: {arrivals:?}"
    );
}

#[tokio::test]
async fn three_hundred_streams_run_at_once() {
    let world = World::start().await.unwrap();
    let body = chat_body(
        "demo-model",
        json!({"stream": true, "fixture": {"tokens": 3, "interval_ms": 500}}),
    );
    let client = world.client();
    let streams = (0..300).map(|_| async {
        let mut events = client.stream("/v1/chat/completions", &body).await?;
        let status = events.status;
        events
            .rest()
            .await
            .map(|events| (status, events.last().cloned().unwrap_or_default()))
    });
    for outcome in join_all(streams).await {
        let (status, last) = outcome.map_err(|error| world.explain(&error)).unwrap();
        assert_eq!((status.as_u16(), last.as_str()), (200, "data: [DONE]"));
    }
    assert_eq!(
        world.backend.stats().await.unwrap()["by_model"]["demo-model"],
        300
    );
}

#[tokio::test]
async fn a_large_body_passes_and_one_above_the_limit_is_413() {
    let world = World::start().await.unwrap();
    let filler = |mib: usize| json!({"user": "u".repeat(mib * 1024 * 1024)});
    let passed = world.chat("fast", filler(20)).await.unwrap();
    assert_eq!(passed.status, 200, "{}", passed.text());
    let requests = world.backend.requests().await.unwrap();
    let received = requests
        .iter()
        .filter_map(|request| request["body_bytes"].as_u64())
        .max()
        .unwrap();
    assert!(received > 20 * 1024 * 1024, "{received}");
    match world.chat("fast", filler(33)).await {
        Ok(refused) => assert_eq!(
            (refused.status.as_u16(), &refused.json()["error"]["code"]),
            (413, &json!("body_too_large"))
        ),
        // Closing while the client still sends may lose the answer on the way; what counts is that nothing went through.
        Err(error) => assert!(error.to_string().contains("connection"), "{error}"),
    }
    assert_eq!(world.backend.stats().await.unwrap()["by_model"]["fast"], 1);
}

#[tokio::test]
async fn the_body_passes_byte_for_byte_but_for_the_name_of_the_model() {
    let world = World::start().await.unwrap();
    let odd = r#"{ "z" : 1.0e2, "model":"dev/headers",  "messages":[{"role":"user","content":"\u00e4\/"}], "a":[1, 2 ,3], "big":123456789012345678901234567890 }"#;
    let request = world
        .client()
        .request(http::Method::POST, "/v1/chat/completions")
        .header("content-type", "application/json");
    let reply = world.client().send(request, odd.into()).await.unwrap();
    assert_eq!(reply.status, 200, "{}", reply.text());
    let requests = world.backend.requests().await.unwrap();
    let seen = requests.last().unwrap()["body"]
        .as_str()
        .unwrap()
        .to_owned();
    assert_eq!(seen, odd.replace("dev/headers", "headers"));
    assert_eq!(
        reply.json()["model"],
        "headers",
        "the answer keeps the backend's name"
    );
}

#[tokio::test]
async fn an_answer_says_where_it_came_from_and_how_long_it_took() {
    let world = World::start().await.unwrap();
    let reply = world.chat("fast", json!({})).await.unwrap();
    assert_eq!(reply.status, 200);
    for header in [
        "x-request-id",
        "x-culvert-region",
        "x-culvert-zone",
        "server-timing",
    ] {
        assert!(
            !reply.header(header).is_empty(),
            "{header} is missing: {:?}",
            reply.headers
        );
    }
    for hop in ["gateway", "tunnel", "backend"] {
        assert!(
            reply.header("server-timing").contains(hop),
            "{}",
            reply.header("server-timing")
        );
    }
    let again = world.chat("fast", json!({})).await.unwrap();
    assert_ne!(reply.header("x-request-id"), again.header("x-request-id"));
}
