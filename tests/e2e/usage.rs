//! Tokens of streams, and what callers of a connector are told about it.

use std::process::Stdio;
use std::time::Duration;

use culvert_tests::client::{Client, Reply};
use culvert_tests::programs::Programs;
use culvert_tests::world::{World, chat_body};
use serde_json::{Value, json};
use tokio::process::Command;

/// The record of an answer.
async fn record(world: &World, reply: &Reply) -> Value {
    let (id, log) = (reply.header("x-request-id"), &world.gateway.process);
    log.logged(id, Duration::from_secs(5)).await.unwrap();
    let log = log.log().text();
    let lines = log
        .lines()
        .filter(|line| line.contains(id) && line.contains("outcome"));
    let records: Vec<Value> = lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(records.len(), 1, "{log}");
    records[0].clone()
}

#[tokio::test]
async fn every_stream_is_counted_and_its_caller_sees_what_it_asked_for() {
    let world = World::start().await.unwrap();
    world.serves().await.unwrap();
    let direct = Client::new(world.backend.url());
    for path in ["/v1/chat/completions", "/v1/completions"] {
        for more in [
            json!({"stream": true}),
            json!({"stream": true, "stream_options": null}),
            json!({"stream": true, "stream_options": {"include_usage": false}}),
            json!({"stream": true, "stream_options": {"include_usage": true}}),
        ] {
            let mut body = chat_body("fast", more.clone());
            body["prompt"] = json!("hello");
            let through = world.client().post(path, &body).await.unwrap();
            body["model"] = json!("fast");
            let wanted = direct.post(path, &body).await.unwrap();
            assert_eq!(through.status, 200, "{path}: {}", through.text());
            assert_eq!(through.text(), wanted.text(), "{path} with {more}");
            let record = record(&world, &through).await;
            assert_eq!(
                record["tokens_out"],
                json!(12),
                "{path} with {more}: {record}"
            );
            assert!(record["tokens_in"].is_u64(), "{record}");
            assert_eq!(record["bytes_out"], json!(through.body.len()));
        }
    }
}

#[tokio::test]
async fn other_answers_are_counted_too() {
    let world = World::start().await.unwrap();
    world.serves().await.unwrap();
    let client = world.client();
    for (path, more, out) in [
        ("/v1/chat/completions", json!({}), true),
        ("/v1/embeddings", json!({"input": "hello"}), false),
        ("/v1/responses", json!({"input": "hello"}), true),
        (
            "/v1/responses",
            json!({"input": "hello", "stream": true}),
            true,
        ),
        ("/v1/messages", json!({"max_tokens": 64}), true),
        (
            "/v1/messages",
            json!({"max_tokens": 64, "stream": true}),
            true,
        ),
    ] {
        let reply = client.post(path, &chat_body("fast", more.clone())).await;
        let reply = reply.unwrap();
        assert_eq!(reply.status, 200, "{path}: {}", reply.text());
        let record = record(&world, &reply).await;
        assert!(record["tokens_in"].is_u64(), "{path} with {more}: {record}");
        assert_eq!(
            record["tokens_out"].is_u64(),
            out,
            "{path} with {more}: {record}"
        );
    }
}

#[tokio::test]
async fn an_operator_gets_snippets_for_what_is_offered_now() {
    let world = World::start().await.unwrap();
    world.serves().await.unwrap();
    let program = Programs::built().await.unwrap().path("culvert-gateway");
    let output = Command::new(program)
        .args(["get", "connector", "dev", "-o", "client", "--data-dir"])
        .arg(world.gateway.data_folder())
        .stdin(Stdio::null())
        .output()
        .await
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{errors}");
    let gateway = world.gateway.url();
    assert!(
        text.contains(&format!("base_url=\"{gateway}/v1\"")),
        "{text}"
    );
    assert!(
        text.contains(&format!("\"url\": \"{gateway}/mcp/dev/tools\"")),
        "{text}"
    );
    assert!(text.contains("\"dev/fast\""), "{text}");

    // The curl, as it stands there.
    let from = text.find("\ncurl ").unwrap();
    let script = &text[from..][..text[from..].find("\n##").unwrap()];
    let output = Command::new("sh")
        .args(["-c", script])
        .env("CULVERT_API_KEY", &world.gateway.line.api_key)
        .output()
        .await
        .unwrap();
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(
        answer["choices"][0]["message"]["content"].is_string(),
        "{answer}"
    );
}
