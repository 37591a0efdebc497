//! SIGTERM: nothing that has begun is cut, nothing new begins, and the program ends by itself.

use std::time::Duration;

use culvert_tests::client::Events;
use culvert_tests::world::{World, chat_body};
use rustix::process::Signal;
use serde_json::json;

/// A stream of 3 s.
fn long() -> serde_json::Value {
    chat_body(
        "demo-model",
        json!({"stream": true, "fixture": {"tokens": 30, "interval_ms": 100}}),
    )
}

async fn begun(world: &World) -> Events {
    let mut events = world
        .client()
        .stream("/v1/chat/completions", &long())
        .await
        .unwrap();
    events.next().await.unwrap().unwrap();
    events
}

#[tokio::test]
async fn an_agent_that_drains_finishes_its_streams_and_exits_0() {
    let mut world = World::start().await.unwrap();
    let mut events = begun(&world).await;
    world
        .agent
        .as_ref()
        .unwrap()
        .process
        .signal(Signal::TERM)
        .unwrap();
    let rest = events
        .rest()
        .await
        .map_err(|error| world.explain(&error))
        .unwrap();
    assert_eq!(
        rest.last().map(String::as_str),
        Some("data: [DONE]"),
        "{rest:?}"
    );
    world
        .agent
        .as_mut()
        .unwrap()
        .process
        .exits(0, Duration::from_secs(10))
        .await
        .unwrap();
    let refused = world.chat("fast", json!({})).await.unwrap();
    assert_eq!(
        (refused.status.as_u16(), &refused.json()["error"]["code"]),
        (503, &json!("agent_unavailable"))
    );
}

#[tokio::test]
async fn an_idle_agent_leaves_at_once() {
    let mut world = World::start().await.unwrap();
    let agent = world.agent.as_mut().unwrap();
    agent.process.signal(Signal::TERM).unwrap();
    agent
        .process
        .exits(0, Duration::from_secs(5))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_second_sigterm_ends_an_agent_now() {
    let mut world = World::start().await.unwrap();
    let _events = begun(&world).await;
    let agent = world.agent.as_mut().unwrap();
    agent.process.signal(Signal::TERM).unwrap();
    agent
        .process
        .logged("leaving", Duration::from_secs(5))
        .await
        .unwrap();
    agent.process.signal(Signal::TERM).unwrap();
    agent.process.exit(Duration::from_secs(2)).await.unwrap();
}

#[tokio::test]
async fn a_gateway_that_drains_finishes_its_streams_and_exits_0() {
    let mut world = World::start().await.unwrap();
    let mut events = begun(&world).await;
    world.gateway.process.signal(Signal::TERM).unwrap();
    let rest = events
        .rest()
        .await
        .map_err(|error| world.explain(&error))
        .unwrap();
    assert_eq!(
        rest.last().map(String::as_str),
        Some("data: [DONE]"),
        "{rest:?}"
    );
    world
        .gateway
        .process
        .exits(0, Duration::from_secs(15))
        .await
        .unwrap();
}
