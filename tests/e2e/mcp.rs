//! MCP servers behind the tunnel.

use std::time::Duration;

use bytes::Bytes;
use culvert_tests::client::{Events, Reply};
use culvert_tests::sdk::Python;
use culvert_tests::world::World;
use http::Method;
use serde_json::{Value, json};

const PATH: &str = "/mcp/dev/tools";

async fn sdk_in(mode: &str) {
    let sdk = Python::ready().await.unwrap();
    let world = World::start().await.unwrap();
    let mut environment = world.sdk_environment();
    environment.push(("MODE", mode));
    sdk.run("mcp_basic.py", &environment)
        .await
        .map_err(|error| world.explain(&error))
        .unwrap();
}

#[tokio::test]
async fn the_official_mcp_client_in_the_stateless_era() {
    sdk_in("auto").await;
}

#[tokio::test]
async fn the_official_mcp_client_in_the_era_of_sessions() {
    sdk_in("legacy").await;
}

fn request(world: &World, method: Method) -> http::request::Builder {
    world
        .client()
        .request(method, PATH)
        .header("content-type", "application/json")
        .header("accept", "application/json, text/event-stream")
}

fn initialize() -> Value {
    json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {"protocolVersion": "2025-11-25", "capabilities": {},
        "clientInfo": {"name": "test", "version": "1"}}})
}

async fn session(world: &World) -> String {
    let reply = world
        .client()
        .send(
            request(world, Method::POST),
            initialize().to_string().into(),
        )
        .await
        .unwrap();
    assert_eq!(reply.status, 200, "{}", reply.text());
    let id = reply.header("mcp-session-id").to_owned();
    assert!(!id.is_empty(), "{:?}", reply.headers);
    let initialized = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
    let told = request(world, Method::POST).header("mcp-session-id", &id);
    assert_eq!(
        world
            .client()
            .send(told, initialized.to_string().into())
            .await
            .unwrap()
            .status,
        202
    );
    id
}

#[tokio::test]
async fn closing_the_answer_of_a_stateless_call_cancels_the_tool() {
    let world = World::start().await.unwrap();
    let meta = json!({"progressToken": 1, "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {}, "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"}});
    let call = json!({"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": {"_meta": meta, "name": "slow",
        "arguments": {"steps": 1000, "step_ms": 50}}});
    let builder = request(&world, Method::POST)
        .header("mcp-protocol-version", "2026-07-28")
        .header("mcp-method", "tools/call")
        .header("mcp-name", "slow");
    let answer = world
        .client()
        .open(builder, call.to_string().into())
        .await
        .unwrap();
    let mut events = Events::new(answer);
    assert_eq!(events.status, 200);
    let first = events.next().await.unwrap().unwrap();
    assert!(first.contains("notifications/progress"), "{first}");
    drop(events);
    let cancelled = world
        .tools
        .counts("/counts/cancelled", 1, Duration::from_secs(5))
        .await;
    cancelled.map_err(|error| world.explain(&error)).unwrap();
}

#[tokio::test]
async fn the_stream_of_a_session_stays_open_and_delete_ends_it() {
    let world = World::start().await.unwrap();
    let id = session(&world).await;
    let listen = request(&world, Method::GET).header("mcp-session-id", &id);
    let stream = world.client().open(listen, Bytes::new()).await.unwrap();
    assert_eq!(stream.status(), 200);
    assert_eq!(stream.headers()["content-type"], "text/event-stream");
    let delete = request(&world, Method::DELETE).header("mcp-session-id", &id);
    let gone: Reply = world.client().send(delete, Bytes::new()).await.unwrap();
    assert!(gone.status.is_success(), "{} {}", gone.status, gone.text());
    let late = request(&world, Method::POST).header("mcp-session-id", &id);
    let list = json!({"jsonrpc": "2.0", "id": 2, "method": "tools/list"});
    let refused = world
        .client()
        .send(late, list.to_string().into())
        .await
        .unwrap();
    assert_eq!(refused.status, 404, "{}", refused.text());
}

#[tokio::test]
async fn errors_of_the_gateway_are_json_rpc() {
    let world = World::start().await.unwrap();
    let client = world.client();
    let ping = json!({"jsonrpc": "2.0", "id": "a", "method": "ping"});
    let unknown = client.post("/mcp/dev/nothing", &ping).await.unwrap();
    assert_eq!(
        (unknown.status.as_u16(), &unknown.json()["jsonrpc"]),
        (404, &json!("2.0")),
        "{}",
        unknown.text()
    );
    let stranger = culvert_tests::client::Client::new(world.gateway.url()).with_key("cvk_nothing");
    let refused = stranger.post(PATH, &ping).await.unwrap();
    assert_eq!(
        (refused.status.as_u16(), &refused.json()["jsonrpc"]),
        (401, &json!("2.0")),
        "{}",
        refused.text()
    );
    assert!(
        refused.json()["error"]["code"].is_i64(),
        "{}",
        refused.text()
    );
    let wrong_origin = request(&world, Method::POST).header("origin", "https://evil.example");
    let refused = client
        .send(wrong_origin, initialize().to_string().into())
        .await
        .unwrap();
    assert_eq!(refused.status, 403, "{}", refused.text());
    assert!(
        world.tools.requests().await.unwrap().is_empty(),
        "nothing of these reached the server"
    );
}

#[tokio::test]
async fn errors_of_the_server_pass_unchanged() {
    let world = World::start().await.unwrap();
    let server = culvert_tests::client::Client::new(world.tools.url());
    let direct = |method: Method| server.request(method, "/mcp");
    let client = world.client();
    let through = |method: Method| client.request(method, PATH);
    // A POST that accepts no answer, a session of nobody's, a version that nobody has.
    let list = json!({"jsonrpc": "2.0", "id": 2, "method": "tools/list"}).to_string();
    let meta = json!({"io.modelcontextprotocol/protocolVersion": "2031-01-01", "io.modelcontextprotocol/clientCapabilities": {}});
    let later =
        json!({"jsonrpc": "2.0", "id": 3, "method": "tools/list", "params": {"_meta": meta}});
    for (method, headers, body) in [
        (Method::POST, &[("accept", "text/plain")][..], list.clone()),
        (Method::DELETE, &[], String::new()),
        (
            Method::POST,
            &[
                ("accept", "application/json, text/event-stream"),
                ("mcp-protocol-version", "2031-01-01"),
            ],
            later.to_string(),
        ),
    ] {
        let dressed = |mut builder: http::request::Builder| {
            for (name, value) in headers {
                builder = builder.header(*name, *value);
            }
            builder.header("content-type", "application/json")
        };
        let through = dressed(through(method.clone()));
        let through = client.send(through, body.clone().into()).await.unwrap();
        let direct = server.send(dressed(direct(method)), body.into()).await;
        let direct = direct.unwrap();
        assert!(direct.status.is_client_error(), "{}", direct.text());
        assert_eq!(
            (through.status, through.text()),
            (direct.status, direct.text())
        );
    }
}

#[tokio::test]
async fn only_the_one_url_of_the_server_can_be_reached() {
    let world = World::start().await.unwrap();
    for path in [
        "/mcp/dev/tools/__stats",
        "/mcp/dev/tools/../__stats",
        "/mcp/dev/tools%2f..%2f__stats",
        "/mcp/dev/tools//",
    ] {
        let answer = world
            .client()
            .exact(&format!("GET {path} HTTP/1.1"), &[])
            .await
            .unwrap();
        let status = answer.lines().next().unwrap_or_default().to_owned();
        assert!(
            !status.contains(" 200 ") && !answer.contains("by_route"),
            "{path}: {answer}"
        );
    }
}
