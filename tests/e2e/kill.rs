//! Kill and restart each part in turn under load: what fails is typed, what should come back does by itself.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use culvert_tests::client::Client;
use culvert_tests::effort;
use culvert_tests::world::{World, chat_body};
use serde_json::json;
use tokio::task::JoinSet;

/// Callers of the load.
const CALLERS: usize = 8;

/// Callers that never stop, and what they met.
struct Load {
    stop: Arc<AtomicBool>,
    outcomes: Arc<Mutex<BTreeMap<String, u64>>>,
    callers: JoinSet<()>,
}

impl Load {
    fn start(client: &Client) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let outcomes = Arc::new(Mutex::new(BTreeMap::new()));
        let mut callers = JoinSet::new();
        for caller in 0..CALLERS {
            let (client, stop, outcomes) =
                (client.clone(), Arc::clone(&stop), Arc::clone(&outcomes));
            callers.spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let outcome = one(&client, caller.is_multiple_of(2)).await;
                    *outcomes.lock().unwrap().entry(outcome).or_insert(0) += 1;
                    // A caller that is refused at once would else spin.
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            });
        }
        Self {
            stop,
            outcomes,
            callers,
        }
    }

    async fn end(mut self) -> BTreeMap<String, u64> {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.callers.join_next().await {
            ended.unwrap();
        }
        self.outcomes.lock().unwrap().clone()
    }
}

/// One call; its outcome as a word: `whole`, `cut`, `refused` (no connection), or status and code.
async fn one(client: &Client, streaming: bool) -> String {
    let fixture = json!({"stream": streaming, "fixture": {"tokens": 5, "interval_ms": 10}});
    let Ok(mut events) = client
        .stream("/v1/chat/completions", &chat_body("demo-model", fixture))
        .await
    else {
        return "refused".to_owned();
    };
    let status = events.status;
    match events.rest().await {
        Err(_) => "cut".to_owned(),
        Ok(all) if status.is_success() && streaming => {
            let last = all.last().cloned().unwrap_or_default();
            if last == "data: [DONE]" {
                "whole".to_owned()
            } else {
                format!("event {}", code_of(last.trim_start_matches("data: ")))
            }
        }
        Ok(_) if status.is_success() => "whole".to_owned(),
        Ok(_) => status.as_u16().to_string(),
    }
}

fn code_of(json: &str) -> String {
    let value: serde_json::Value = serde_json::from_str(json).unwrap_or_default();
    value["error"]["code"].as_str().unwrap_or(json).to_owned()
}

/// Outcomes that a caller can act on: everything but a clean end without `[DONE]` and statuses that nobody promised.
fn typed(outcomes: &BTreeMap<String, u64>) {
    for outcome in outcomes.keys() {
        let known = ["whole", "cut", "refused", "502", "503", "504"].contains(&outcome.as_str())
            || outcome.starts_with("event ");
        assert!(known, "{outcome} in {outcomes:?}");
    }
    assert!(
        outcomes.get("whole").is_some_and(|count| *count > 0),
        "{outcomes:?}"
    );
}

#[tokio::test]
async fn a_killed_agent_comes_back() {
    let mut world = World::start().await.unwrap();
    let load = Load::start(&world.client());
    for _ in 0..effort::rounds() {
        world.serves().await.unwrap();
        let agent = world.agent.take().unwrap();
        world.agent = Some(agent.restart().await.unwrap());
    }
    world.serves().await.unwrap();
    let outcomes = load.end().await;
    typed(&outcomes);
    assert!(
        !outcomes.contains_key("refused"),
        "the gateway was there all the time: {outcomes:?}"
    );
}

#[tokio::test]
async fn a_killed_gateway_comes_back_with_keys_and_agents() {
    let mut world = World::start().await.unwrap();
    let load = Load::start(&world.client());
    for _ in 0..effort::rounds() {
        world.serves().await.unwrap();
        let (before, gateway) = {
            let World {
                gateway,
                agent,
                backend,
                tools,
            } = world;
            let key = gateway.line.api_key.clone();
            world = World {
                gateway: gateway.restart().await.unwrap(),
                agent,
                backend,
                tools,
            };
            (key, &world.gateway)
        };
        assert_eq!(gateway.line.api_key, before, "the key is kept");
    }
    world.serves().await.unwrap();
    typed(&load.end().await);
}

#[tokio::test]
async fn a_killed_backend_comes_back_and_never_takes_the_link_down() {
    let mut world = World::start().await.unwrap();
    let load = Load::start(&world.client());
    for _ in 0..effort::rounds() {
        world.serves().await.unwrap();
        world.backend.kill().await.unwrap();
        culvert_tests::wait::until("a typed failure", Duration::from_secs(15), || async {
            let reply = world
                .chat("fast", json!({}))
                .await
                .map_err(|error| error.to_string())?;
            let code = reply.json()["error"]["code"].clone();
            if code == "backend_unreachable" || code == "agent_unavailable" {
                Ok(())
            } else {
                Err(reply.text())
            }
        })
        .await
        .unwrap();
        world.backend.restart().await.unwrap();
    }
    world.serves().await.unwrap();
    typed(&load.end().await);
    let agent = world.agent.as_ref().unwrap().process.log();
    assert!(!agent.contains("panicked"), "{}", agent.text());
}

#[tokio::test]
async fn a_frozen_agent_is_left_and_taken_back() {
    let world = World::start().await.unwrap();
    let agent = &world.agent.as_ref().unwrap().process;
    agent.signal(rustix::process::Signal::STOP).unwrap();
    world.refuses_with("agent_unavailable").await.unwrap();
    agent.signal(rustix::process::Signal::CONT).unwrap();
    world.serves().await.unwrap();
}
