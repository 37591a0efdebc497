//! MCP servers on stdio, run by the agent, behind the tunnel.

use std::fmt::Write as _;
use std::path::Path;

use culvert_tests::client::Reply;
use culvert_tests::key_proxy::KeyProxy;
use culvert_tests::programs::Programs;
use culvert_tests::sdk::{Node, Python};
use culvert_tests::wait;
use culvert_tests::world::World;
use http::Method;
use serde_json::{Value, json};

const SERVICE: &str = "tools";

/// A world whose MCP services are commands; each with further keys.
async fn world(services: &[(&str, Vec<String>, &str)]) -> World {
    let mut file = "services:\n".to_owned();
    for (name, command, more) in services {
        let command = json!(command);
        let text = format!("  - name: {name}\n    kind: mcp\n    command: {command}\n{more}");
        file.write_str(&text).unwrap();
    }
    let world = World::builder().agent_file(&file).start().await.unwrap();
    for (name, _, _) in services {
        let up = wait::until("the server", wait::PATIENCE, || async {
            // Without a session, who answers is the agent.
            match post(&world, name, None, &request(1, "ping", json!({}))).await {
                reply if reply.status == 400 => Ok(()),
                reply => Err(format!("{} {}", reply.status, reply.text())),
            }
        });
        up.await.map_err(|error| world.explain(&error)).unwrap();
    }
    world
}

async fn fixture(more: &str) -> World {
    let fixture = Programs::built().await.unwrap().path("mcp-fixture");
    let command = vec![fixture.display().to_string(), "--stdio".to_owned()];
    world(&[(SERVICE, command, more)]).await
}

/// A server in shell; `cases` are branches of its `case` beside `initialize` and `pid`.
fn shell(cases: &str) -> Vec<String> {
    let script = format!(
        r#"reply() {{ printf '{{"jsonrpc":"2.0","id":%s,"result":%s}}\n' "$id" "$1"; }}
while IFS= read -r line; do
  id=${{line#*\"id\":}}; id=${{id%%[,\}}]*}}
  case $line in
    {cases}
    *'"initialize"'*) reply '{{"protocolVersion":"2025-11-25","capabilities":{{}},"serverInfo":{{"name":"sh","version":"1"}}}}' ;;
    *'"pid"'*) reply "{{\"pid\":$$}}" ;;
    *'"id"'*) printf '{{"jsonrpc":"2.0","id":%s,"error":{{"code":-32601,"message":"no"}}}}\n' "$id" ;;
  esac
done"#
    );
    // In the file a brace after a dollar begins a reference.
    let script = script.replace("${", "$${");
    ["sh", "-c", &script].map(str::to_owned).to_vec()
}

fn request(id: u64, method: &str, params: Value) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params})
}

async fn post(world: &World, service: &str, session: Option<&str>, body: &Value) -> Reply {
    let mut request = world
        .client()
        .request(Method::POST, &format!("/mcp/dev/{service}"))
        .header("content-type", "application/json")
        .header("accept", "application/json, text/event-stream");
    if let Some(session) = session {
        request = request.header("mcp-session-id", session);
    }
    let sent = world.client().send(request, body.to_string().into()).await;
    sent.map_err(|error| world.explain(&error)).unwrap()
}

async fn begin(world: &World) -> String {
    let params = json!({"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}});
    let reply = post(world, SERVICE, None, &request(1, "initialize", params)).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.header("mcp-session-id").to_owned()
}

async fn pid(world: &World, session: &str) -> String {
    let reply = post(world, SERVICE, Some(session), &request(2, "pid", json!({}))).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.json()["result"]["pid"].to_string()
}

/// Until a process is gone, and buried.
async fn gone(pid: &str) {
    let path = format!("/proc/{pid}");
    let gone = wait::until("the end of a process", wait::PATIENCE, || async {
        if Path::new(&path).exists() {
            Err(format!("{pid} lives"))
        } else {
            Ok(())
        }
    });
    gone.await.unwrap();
}

async fn node(world: &World, script: &str, more: &[(&str, &str)]) {
    let node = Node::ready().await.unwrap();
    let mut environment = world.sdk_environment();
    environment.extend(more.iter().copied());
    let ran = node.run(script, &environment).await;
    ran.map_err(|error| world.explain(&error)).unwrap();
}

#[tokio::test]
async fn official_clients_for_node_in_both_eras() {
    let world = fixture("").await;
    node(&world, "mcp_sdk.mjs", &[]).await;
    node(&world, "mcp_client.mjs", &[("MODE", "auto")]).await;
    node(&world, "mcp_client.mjs", &[("MODE", "legacy")]).await;
}

#[tokio::test]
async fn the_official_python_client_in_both_eras_and_on_a_shared_process() {
    let python = Python::ready().await.unwrap();
    for (mode, more) in [
        ("auto", ""),
        ("legacy", ""),
        ("legacy", "    instances: shared\n"),
    ] {
        let world = fixture(more).await;
        let mut environment = world.sdk_environment();
        environment.push(("MODE", mode));
        let ran = python.run("mcp_basic.py", &environment).await;
        ran.map_err(|error| world.explain(&error)).unwrap();
    }
}

#[tokio::test]
async fn public_servers_with_official_clients() {
    let node_program = Node::ready().await.unwrap();
    let folder = tempfile::TempDir::new().unwrap();
    let folder = folder.path().display().to_string();
    let server = |name: &str, argument: &str| {
        let file = node_program.file(&format!(
            "@modelcontextprotocol/server-{name}/dist/index.js"
        ));
        let program = node_program.program().display().to_string();
        vec![program, file.display().to_string(), argument.to_owned()]
    };
    let memory =
        format!("    instances: shared\n    env: {{ MEMORY_FILE_PATH: {folder}/memory.json }}\n");
    let world = world(&[
        (
            "everything",
            server("everything", "stdio"),
            "    env: { GREETING: hello }\n",
        ),
        ("files", server("filesystem", &folder), ""),
        ("memory", server("memory", ""), &memory),
    ])
    .await;
    node(&world, "stdio_public.mjs", &[("FOLDER", &folder)]).await;
}

/// What is about streams that the bridge opens only where there is more than an answer, and that a
/// server on stdio has no way to break off.
const OF_STREAMS: [&str; 2] = ["server-sse-multiple-streams", "server-sse-polling"];

/// The official suite over HTTP, directly, and over stdio, through the tunnel.
async fn conformance(revision: &str, passed: usize) {
    let node = Node::ready().await.unwrap();
    let world = fixture("").await;
    let direct_url = format!("{}/mcp", world.tools.url());
    let direct = node.conformance(&direct_url, revision).await.unwrap();
    let proxy = KeyProxy::start(world.gateway.url(), &world.gateway.line.api_key).await;
    let through_url = format!("{}/mcp/dev/{SERVICE}", proxy.as_ref().unwrap().url());
    let through = node.conformance(&through_url, revision).await.unwrap();
    let differences: Vec<String> = direct
        .iter()
        .filter(|(check, _)| !OF_STREAMS.contains(&check.scenario.as_str()))
        .map(|(check, verdict)| (check, verdict, through.get(check)))
        .filter(|(_, direct, through)| {
            through.is_none_or(|through| through.status != direct.status)
        })
        .map(|(check, direct, through)| {
            format!("{check:?}: direct {direct:?}, on stdio {through:?}")
        })
        .collect();
    assert!(
        differences.is_empty(),
        "{differences:#?}\n{}",
        world.gateway.process.log().text()
    );
    let successes = through
        .values()
        .filter(|verdict| verdict.status == "SUCCESS");
    assert_eq!(successes.count(), passed);
}

#[tokio::test]
async fn the_conformance_suite_of_2025_11_25() {
    conformance("2025-11-25", 80).await;
}

#[tokio::test]
async fn the_conformance_suite_of_2026_07_28() {
    conformance("2026-07-28", 196).await;
}

#[tokio::test]
async fn a_server_that_misbehaves_costs_its_own_calls_only() {
    let cases = r#"*'"crash"'*) exit 7 ;;
    *'"hang"'*) sleep 1000 ;;
    *'"flood"'*) while :; do printf '{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}\n'; done ;;
    *'"endless"'*) while :; do printf xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx; done ;;
    *'"prose"'*) while :; do echo Listening on port 80; done ;;"#;
    let world = world(&[(SERVICE, shell(cases), "")]).await;
    let good = begin(&world).await;
    let kept = pid(&world, &good).await;
    for (misdeed, status, code) in [
        ("crash", 502, "answer_cut"),
        ("flood", 502, "backend_protocol"),
        ("endless", 502, "backend_protocol"),
        ("prose", 502, "backend_protocol"),
    ] {
        let session = begin(&world).await;
        let victim = pid(&world, &session).await;
        let reply = post(
            &world,
            SERVICE,
            Some(&session),
            &request(5, misdeed, json!({})),
        )
        .await;
        assert_eq!(reply.status, status, "{misdeed}: {}", reply.text());
        let error = reply.json();
        assert_eq!(error["error"]["data"]["code"], code, "{misdeed}: {error}");
        assert_eq!(error["id"], 5, "{misdeed}: {error}");
        gone(&victim).await;
        let late = post(
            &world,
            SERVICE,
            Some(&session),
            &request(6, "pid", json!({})),
        )
        .await;
        assert_eq!(late.status, 404, "{misdeed}: {}", late.text());
    }
    // One that hangs holds nobody up; its session can be ended.
    let session = begin(&world).await;
    let victim = pid(&world, &session).await;
    let hang = request(5, "hang", json!({}));
    let hanging = post(&world, SERVICE, Some(&session), &hang);
    let ended = async {
        assert_eq!(pid(&world, &good).await, kept);
        let delete = world
            .client()
            .request(Method::DELETE, &format!("/mcp/dev/{SERVICE}"))
            .header("mcp-session-id", &session);
        let deleted = world
            .client()
            .send(delete, bytes::Bytes::new())
            .await
            .unwrap();
        assert!(deleted.status.is_success(), "{}", deleted.text());
    };
    let (reply, ()) = tokio::join!(hanging, ended);
    assert!(!reply.text().contains("\"result\""), "{}", reply.text());
    gone(&victim).await;
    assert_eq!(pid(&world, &good).await, kept);
}

#[tokio::test]
async fn no_process_outlives_the_agent() {
    let cases = r#"*'"leave"'*) sleep 1000 & reply "{\"left\":$!}" ;;"#;
    let mut world = world(&[(SERVICE, shell(cases), "")]).await;
    let session = begin(&world).await;
    let server = pid(&world, &session).await;
    let leave = request(3, "leave", json!({}));
    let reply = post(&world, SERVICE, Some(&session), &leave).await;
    let grandchild = reply.json()["result"]["left"].to_string();
    assert!(Path::new(&format!("/proc/{grandchild}")).exists());
    let (mut process, _, _state) = world.agent.take().unwrap().into_parts();
    process.signal(rustix::process::Signal::TERM).unwrap();
    process.exits(0, wait::PATIENCE).await.unwrap();
    gone(&server).await;
    gone(&grandchild).await;
}

#[tokio::test]
async fn the_customer_s_rules_hold_for_stdio_too() {
    let world = fixture("    tools: { allow: [\"e*\"] }\n").await;
    let session = begin(&world).await;
    let list = post(
        &world,
        SERVICE,
        Some(&session),
        &request(2, "tools/list", json!({})),
    )
    .await;
    let text = list.text();
    assert!(
        text.contains("\"echo\"") && !text.contains("\"add\""),
        "{text}"
    );
    let call = |name: &str| {
        request(
            3,
            "tools/call",
            json!({"name": name, "arguments": {"text": "t", "a": 1, "b": 2}}),
        )
    };
    let allowed = post(&world, SERVICE, Some(&session), &call("echo")).await;
    assert_eq!(allowed.status, 200, "{}", allowed.text());
    let refused = post(&world, SERVICE, Some(&session), &call("add")).await;
    assert_eq!(refused.status, 403, "{}", refused.text());
}
