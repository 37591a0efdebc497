//! Sessions of MCP clients over replicas and agents, and what the gateway says of them itself.

use bytes::Bytes;
use culvert_tests::client::Reply;
use culvert_tests::wait::{self, PATIENCE};
use culvert_tests::world::{Agent, AgentSpec, MCP_SERVICE, World};
use http::Method;
use serde_json::{Value, json};

const PATH: &str = "/mcp/dev/tools";

async fn post(world: &World, path: &str, headers: &[(&str, &str)], message: &Value) -> Reply {
    let client = world.client();
    let mut builder = client
        .request(Method::POST, path)
        .header("content-type", "application/json")
        .header("accept", "application/json, text/event-stream");
    for (name, value) in headers {
        builder = builder.header(*name, *value);
    }
    let sent = client.send(builder, message.to_string().into());
    sent.await.unwrap()
}

/// Begins a session, and returns its id.
async fn begin(world: &World) -> String {
    let initialize = json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {
        "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}});
    let reply = post(world, PATH, &[], &initialize).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let id = reply.header("mcp-session-id").to_owned();
    let told = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
    let told = post(world, PATH, &[("mcp-session-id", &id)], &told).await;
    assert_eq!(told.status, 202, "{}", told.text());
    id
}

async fn list(world: &World, path: &str, id: &str) -> Reply {
    let list = json!({"jsonrpc": "2.0", "id": "l", "method": "tools/list"});
    post(world, path, &[("mcp-session-id", id)], &list).await
}

/// Waits until a session goes on.
async fn goes_on(world: &World, id: &str) {
    let listed = wait::until("the session's list of tools", PATIENCE, || async {
        let reply = list(world, PATH, id).await;
        if reply.status == 200 {
            Ok(())
        } else {
            Err(format!("{} {}", reply.status, reply.text()))
        }
    });
    listed.await.map_err(|error| world.explain(&error)).unwrap();
}

#[tokio::test]
async fn a_session_outlives_the_gateway_that_began_it() {
    let world = World::start().await.unwrap();
    let id = begin(&world).await;
    assert!(id.starts_with("cs1."), "{id}");
    let World {
        gateway,
        agent,
        backend,
        tools,
    } = world;
    let world = World {
        gateway: gateway.restart().await.unwrap(),
        agent,
        backend,
        tools,
    };
    goes_on(&world, &id).await;
}

#[tokio::test]
async fn a_session_goes_on_at_another_agent_that_is_alike() {
    let mut world = World::start().await.unwrap();
    let tokens = "/v1/tenants/dev/connectors/dev:token";
    let minted = world.admin().post(tokens, &json!({})).await.unwrap();
    let token = minted.json()["token"].as_str().unwrap().to_owned();
    let spec = AgentSpec::joining(&token).usual_services(&world.backend, &world.tools);
    let mut second = Agent::start(spec).await.unwrap();
    linked(&world, 2).await;
    let id = begin(&world).await;
    // Whichever of the two has it, one of these takes it away.
    let (process, spec, state) = world.agent.take().unwrap().into_parts();
    process.kill().await.unwrap();
    goes_on(&world, &id).await;
    linked(&world, 1).await;
    world.agent = Some(Agent::start_in(state, spec).await.unwrap());
    linked(&world, 2).await;
    let (process, spec, state) = second.into_parts();
    process.kill().await.unwrap();
    goes_on(&world, &id).await;
    second = Agent::start_in(state, spec).await.unwrap();
    drop(second);
}

async fn linked(world: &World, agents: usize) {
    let there = wait::until("the links of the agents", PATIENCE, || async {
        let status = world.admin().get("/v1/status").await;
        let status = status.map_err(|error| error.to_string())?;
        let links = status.json()["links"].as_array().map_or(0, Vec::len);
        if links == agents {
            Ok(())
        } else {
            Err(status.text())
        }
    });
    there.await.map_err(|error| world.explain(&error)).unwrap();
}

#[tokio::test]
async fn what_is_no_session_of_this_path_is_404_in_json_rpc() {
    let file = "services:
  - { name: tools, kind: mcp, url: \"http://{tools}/mcp\" }
  - { name: other, kind: mcp, url: \"http://{tools}/mcp\" }
  - { name: llm, kind: model, url: \"http://{backend}/v1\" }
";
    let world = World::builder().agent_file(file).start().await.unwrap();
    let id = begin(&world).await;
    assert_eq!(list(&world, PATH, &id).await.status, 200);
    let before = world.tools.requests().await.unwrap().len();
    let (front, back) = id.split_at(id.len() - 1);
    let changed = format!("{front}{}", if back == "A" { "B" } else { "A" });
    for (path, id) in [
        ("/mcp/dev/other", id.as_str()),
        (PATH, changed.as_str()),
        (PATH, "made-up"),
        (PATH, "cs1.0011223344556677.AAAA"),
    ] {
        let refused = list(&world, path, id).await;
        let body = refused.json();
        assert_eq!(refused.status, 404, "{path} {id}: {}", refused.text());
        assert_eq!(
            (&body["jsonrpc"], &body["id"]),
            (&json!("2.0"), &json!("l"))
        );
        assert_eq!(body["error"]["code"], -32001);
        assert_eq!(body["error"]["data"]["code"], "session_not_found");
    }
    for method in [Method::GET, Method::DELETE] {
        let request = world
            .client()
            .request(method.clone(), PATH)
            .header("accept", "text/event-stream")
            .header("mcp-session-id", "made-up");
        let refused = world.client().send(request, Bytes::new()).await.unwrap();
        assert_eq!(refused.status, 404, "{method}");
        assert_eq!(refused.json()["id"], Value::Null);
    }
    assert_eq!(world.tools.requests().await.unwrap().len(), before);
    assert_eq!(list(&world, PATH, &id).await.status, 200, "{MCP_SERVICE}");
}

#[tokio::test]
async fn headers_that_differ_from_a_stateless_body_are_refused_before_the_server() {
    let world = World::start().await.unwrap();
    let call = json!({"jsonrpc": "2.0", "id": 9, "method": "tools/call", "params": {"name": "slow", "arguments": {},
        "_meta": {"io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {}}}});
    let version = ("mcp-protocol-version", "2026-07-28");
    let method = ("mcp-method", "tools/call");
    for headers in [
        &[version, method][..],
        &[version, method, ("mcp-name", "fast")],
        &[version, ("mcp-method", "tools/list"), ("mcp-name", "slow")],
        &[
            ("mcp-protocol-version", "2025-11-25"),
            method,
            ("mcp-name", "slow"),
        ],
    ] {
        let refused = post(&world, PATH, headers, &call).await;
        let body = refused.json();
        assert_eq!(refused.status, 400, "{headers:?}: {}", refused.text());
        assert_eq!(
            (&body["id"], &body["error"]["code"]),
            (&json!(9), &json!(-32020))
        );
    }
    assert!(world.tools.requests().await.unwrap().is_empty());
}
