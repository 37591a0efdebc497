//! What an operator and a customer can see: health, metrics, status, audit lines.

use std::fs;
use std::time::Duration;

use bytes::Bytes;
use culvert_tests::client::Client;
use culvert_tests::listeners;
use culvert_tests::wait::{self, PATIENCE};
use culvert_tests::world::World;
use http::Method;
use serde_json::{Value, json};

/// A client of the agent's health listener, which is the only port that it has.
async fn health(world: &World) -> Client {
    let id = world.agent.as_ref().unwrap().process.id().unwrap();
    let addresses = wait::until("the agent's listener", PATIENCE, || async {
        let all = listeners::of(id).map_err(|error| error.to_string())?;
        if all.len() == 1 {
            Ok(all)
        } else {
            Err(format!("{all:?}"))
        }
    })
    .await
    .unwrap();
    Client::new(format!("http://{}", addresses[0]))
}

#[tokio::test]
async fn the_agent_tells_its_health_and_metrics_on_loopback() {
    let world = World::start().await.unwrap();
    world.serves().await.unwrap();
    let client = health(&world).await;
    assert_eq!(client.get("/healthz").await.unwrap().status, 200);
    assert_eq!(client.get("/readyz").await.unwrap().status, 200);
    let metrics = client.get("/metrics").await.unwrap().text();
    for name in [
        "culvert_agent_requests_total",
        "culvert_agent_links",
        "culvert_agent_calls_active",
    ] {
        assert!(metrics.contains(name), "{name} is missing:\n{metrics}");
    }
    assert!(
        metrics.contains("X25519MLKEM768"),
        "the negotiated group is shown:\n{metrics}"
    );
}

#[tokio::test]
async fn the_gateway_shows_metrics_and_status() {
    let world = World::start().await.unwrap();
    world.serves().await.unwrap();
    let status = world.admin().get("/v1/status").await.unwrap();
    assert_eq!(status.status, 200, "{}", status.text());
    assert!(status.text().contains("dev"), "{}", status.text());
    let without_key = Client::new(world.gateway.admin_url())
        .get("/v1/status")
        .await
        .unwrap();
    assert_eq!(without_key.status, 401, "{}", without_key.text());
    let metrics = world.admin().get("/metrics").await.unwrap();
    assert_eq!(metrics.status, 200);
    for name in ["culvert_gateway_requests_total", "culvert_relay_links"] {
        assert!(
            metrics.text().contains(name),
            "{name} is missing:\n{}",
            metrics.text()
        );
    }
    assert!(!metrics.text().contains(&world.gateway.line.api_key));
}

#[tokio::test]
async fn the_admin_api_refuses_other_hosts_and_origins() {
    let world = World::builder().without_agent().start().await.unwrap();
    let admin = world.admin();
    for (header, status) in [("origin: https://evil.example", 403), ("x: y", 200)] {
        let answer = admin
            .exact("GET /v1/status HTTP/1.1", &[header])
            .await
            .unwrap();
        let line = format!("HTTP/1.1 {status}");
        assert!(answer.starts_with(&line), "{header:?}: {answer}");
    }
    let rebound = admin
        .request(Method::GET, "/v1/status")
        .header("host", "evil.example");
    let refused = admin.send(rebound, Bytes::new()).await.unwrap();
    assert_eq!(refused.status, 403, "{}", refused.text());
}

#[tokio::test]
async fn every_call_is_one_audit_line_of_the_agent() {
    let world = World::start().await.unwrap();
    world.serves().await.unwrap();
    let state = world.agent.as_ref().unwrap().state_folder();
    let marked = world
        .chat("fast", json!({"user": "nobody-may-read-this"}))
        .await
        .unwrap();
    assert_eq!(marked.status, 200);
    let request_id = marked.header("x-request-id").to_owned();
    let lines = wait::until("the audit line", PATIENCE, || async {
        let text =
            fs::read_to_string(state.join("audit.jsonl")).map_err(|error| error.to_string())?;
        if text.contains(&request_id) {
            Ok(text)
        } else {
            Err(text)
        }
    })
    .await
    .unwrap();
    let mine: Vec<Value> = lines
        .lines()
        .filter(|line| line.contains(&request_id))
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(mine.len(), 1, "{mine:?}");
    let line = &mine[0];
    assert_eq!(
        (&line["service"], &line["kind"], &line["status"]),
        (&json!("llm"), &json!("model"), &json!(200)),
        "{line}"
    );
    assert!(
        line["path"]
            .as_str()
            .unwrap()
            .ends_with("/chat/completions"),
        "{line}"
    );
    for field in [
        "ts",
        "attempt",
        "plane",
        "caller",
        "method",
        "outcome",
        "bytes_in",
        "bytes_out",
        "total_ms",
    ] {
        assert!(!line[field].is_null(), "{field} is missing: {line}");
    }
    assert!(
        !lines.contains("nobody-may-read-this"),
        "a body is in the audit log"
    );
}

#[tokio::test]
async fn every_answer_is_one_record_of_the_gateway() {
    let world = World::start().await.unwrap();
    world.serves().await.unwrap();
    let refused = world.chat("no-such-model", json!({})).await.unwrap();
    let answered = world
        .chat(
            "fast",
            json!({"stream": true, "stream_options": {"include_usage": true}}),
        )
        .await
        .unwrap();
    for reply in [&refused, &answered] {
        let id = reply.header("x-request-id");
        assert!(!id.is_empty());
        world
            .gateway
            .process
            .logged(id, Duration::from_secs(5))
            .await
            .unwrap();
        let log = world.gateway.process.log().text();
        let records = log
            .lines()
            .filter(|line| line.contains(id) && line.contains("outcome"))
            .count();
        assert_eq!(records, 1, "{id}:\n{log}");
    }
    let log = world.gateway.process.log().text();
    let record = |reply: &culvert_tests::client::Reply| -> Value {
        let id = reply.header("x-request-id");
        let line = log
            .lines()
            .find(|line| line.contains(id) && line.contains("outcome"));
        serde_json::from_str(line.unwrap()).unwrap()
    };
    let (good, bad) = (record(&answered), record(&refused));
    assert_eq!(
        (&good["outcome"], &good["status"], &good["tokens_out"]),
        (&json!("ok"), &json!(200), &json!(12)),
        "{good}"
    );
    assert_eq!(
        (&bad["outcome"], &bad["code"], &bad["status"]),
        (&json!("refused"), &json!("model_not_found"), &json!(404)),
        "{bad}"
    );
}

const FILE: &str = "services:\n  - name: llm\n    kind: model\n    url: http://{backend}/v1\n    headers: { x-generation: \"one\" }\n";

#[tokio::test]
async fn a_changed_file_is_taken_up_and_a_bad_one_is_not() {
    let world = World::builder().agent_file(FILE).start().await.unwrap();
    let agent = world.agent.as_ref().unwrap();
    let file = agent.file();
    let good = fs::read_to_string(&file).unwrap();
    let body = json!({"stream": true, "fixture": {"tokens": 60, "interval_ms": 50}});
    let mut events = world
        .client()
        .stream(
            "/v1/chat/completions",
            &culvert_tests::world::chat_body("demo-model", body),
        )
        .await
        .unwrap();
    events.next().await.unwrap().unwrap();

    fs::write(
        &file,
        "services:\n  - name: llm\n    kind: model\n    uurl: nothing\n",
    )
    .unwrap();
    agent
        .process
        .logged("uurl", Duration::from_secs(10))
        .await
        .unwrap();
    assert_eq!(
        world.chat("fast", json!({})).await.unwrap().status,
        200,
        "a bad file changes nothing"
    );

    fs::write(&file, good.replace("\"one\"", "\"two\"")).unwrap();
    wait::until("the new header at the backend", PATIENCE, || async {
        world
            .chat("fast", json!({}))
            .await
            .map_err(|error| error.to_string())?;
        let requests = world
            .backend
            .requests()
            .await
            .map_err(|error| error.to_string())?;
        let last = requests
            .iter()
            .rev()
            .find(|request| request["method"] == "POST")
            .cloned()
            .unwrap_or_default();
        if last["headers"].to_string().contains("\"two\"") {
            Ok(())
        } else {
            Err(last["headers"].to_string())
        }
    })
    .await
    .map_err(|error| world.explain(&error))
    .unwrap();
    let rest = events.rest().await.unwrap();
    assert_eq!(
        rest.last().map(String::as_str),
        Some("data: [DONE]"),
        "a reload touches no stream"
    );
}
