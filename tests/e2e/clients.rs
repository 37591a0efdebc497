//! The official clients against every endpoint: what they cover beyond the first calls of `openai` and `mcp`.

use std::time::Duration;

use culvert_tests::key_proxy::KeyProxy;
use culvert_tests::sdk::{Node, Python};
use culvert_tests::world::World;

/// Five times the bound of 100 ms, and the pace of the backend: the clock is real and the machine is shared.
const CANCEL_LIMIT: Duration = Duration::from_millis(600);

async fn python(scripts: &[&str]) -> World {
    let sdk = Python::ready().await.unwrap();
    let world = World::start().await.unwrap();
    for script in scripts {
        let ran = sdk.run(script, &world.sdk_environment()).await;
        ran.map_err(|error| world.explain(&error)).unwrap();
    }
    world
}

#[tokio::test]
async fn sound_images_and_scores_in_python() {
    python(&["openai_media.py"]).await;
}

#[tokio::test]
async fn kept_responses_and_realtime_in_python() {
    python(&["openai_stored.py", "openai_realtime.py"]).await;
}

#[tokio::test]
async fn cut_answers_are_errors_for_both_clients() {
    python(&["openai_cut.py", "anthropic_more.py"]).await;
}

#[tokio::test]
async fn clients_that_leave_are_gone_at_the_backend() {
    let world = python(&["leaving.py"]).await;
    let gone = world.backend.counts("/counts/cancelled", 3, CANCEL_LIMIT);
    gone.await.map_err(|error| world.explain(&error)).unwrap();
}

async fn node(runs: &[(&str, &[(&str, &str)])]) -> World {
    let sdk = Node::ready().await.unwrap();
    let world = World::start().await.unwrap();
    for (script, more) in runs {
        let mut environment = world.sdk_environment();
        environment.push(("LINKS", world.gateway.links_address()));
        environment.extend(more.iter().copied());
        let ran = sdk.run(script, &environment).await;
        ran.map_err(|error| world.explain(&error)).unwrap();
    }
    world
}

#[tokio::test]
async fn the_openai_client_for_node_does_everything() {
    let world = node(&[("openai.mjs", &[]), ("openai_realtime.mjs", &[])]).await;
    // It left one stream, and the backend cut another.
    let gone = world.backend.counts("/counts/cancelled", 2, CANCEL_LIMIT);
    gone.await.map_err(|error| world.explain(&error)).unwrap();
}

#[tokio::test]
async fn the_mcp_clients_for_node_in_both_eras() {
    let runs: [(&str, &[(&str, &str)]); 3] = [
        ("mcp_sdk.mjs", &[]),
        ("mcp_client.mjs", &[("MODE", "auto")]),
        ("mcp_client.mjs", &[("MODE", "legacy")]),
    ];
    let world = node(&runs).await;
    // Each of them gives up one call: the server hears of it.
    let heard = world.tools.counts("/counts/cancelled", 3, CANCEL_LIMIT);
    heard.await.map_err(|error| world.explain(&error)).unwrap();
}

#[tokio::test]
async fn servers_ask_the_mcp_client_for_python_back_in_both_eras() {
    let sdk = Python::ready().await.unwrap();
    let world = World::start().await.unwrap();
    for mode in ["auto", "legacy"] {
        let mut environment = world.sdk_environment();
        environment.push(("MODE", mode));
        let ran = sdk.run("mcp_asking.py", &environment).await;
        ran.map_err(|error| world.explain(&error)).unwrap();
    }
}

#[tokio::test]
async fn a_cut_stream_of_a_session_is_resumed() {
    let (python, node) = (Python::ready().await.unwrap(), Node::ready().await.unwrap());
    let world = World::start().await.unwrap();
    let resumed = async |client: &str| {
        let key = &world.gateway.line.api_key;
        let proxy = KeyProxy::cutting_once(world.gateway.url(), key)
            .await
            .unwrap();
        let url = format!("{}/mcp/dev/tools", proxy.url());
        let mut environment = world.sdk_environment();
        environment.push(("MCP_URL", &url));
        let ran = match client {
            "python" => python.run("mcp_resume.py", &environment).await,
            _ => node.run("mcp_resume.mjs", &environment).await,
        };
        ran.map_err(|error| world.explain(&error)).unwrap();
        assert!(proxy.has_cut(), "the stream was never broken");
    };
    tokio::join!(resumed("python"), resumed("node"));
    let stats = world.tools.stats().await.unwrap();
    assert_eq!(stats["by_route"]["tool slow"], 2, "each call ran once");
}
