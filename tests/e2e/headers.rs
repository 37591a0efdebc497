//! What reaches a backend, and what comes back from one.

use bytes::Bytes;
use culvert_tests::world::{World, chat_body};
use http::Method;
use serde_json::{Value, json};

const FILE: &str = r#"
services:
  - name: llm
    kind: model
    url: http://{backend}/v1
    headers:
      authorization: "Bearer the-real-one"
      x-api-key: the-real-key
      x-injected: from-the-agent
  - name: plain
    kind: model
    url: http://{backend}/v1
    models: [only-here]
  - name: passing
    kind: model
    url: http://{backend}/v1
    models: [passing]
    pass: [x-tfy-metadata]
  - name: web
    kind: http
    url: http://{backend}
    allow: [{ methods: [GET], paths: ["/dirty"] }]
"#;

async fn last_request(world: &World) -> Value {
    world
        .backend
        .requests()
        .await
        .unwrap()
        .last()
        .cloned()
        .unwrap_or_default()
}

/// All values of `name` in a request as the backend saw it.
fn values(request: &Value, name: &str) -> Vec<String> {
    let headers = request["headers"].as_array().cloned().unwrap_or_default();
    let all = headers.iter().filter(|pair| {
        pair[0]
            .as_str()
            .is_some_and(|have| have.eq_ignore_ascii_case(name))
    });
    all.filter_map(|pair| pair[1].as_str().map(str::to_owned))
        .collect()
}

async fn post_exact(world: &World, model: &str, headers: &[&str]) -> String {
    let body = chat_body(model, json!({})).to_string();
    let mut lines = vec![
        "content-type: application/json".to_owned(),
        format!("content-length: {}", body.len()),
    ];
    lines.extend(headers.iter().map(|header| (*header).to_owned()));
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    world
        .client()
        .exact_with_body("POST /v1/chat/completions HTTP/1.1", &lines, &body)
        .await
        .unwrap()
}

#[tokio::test]
async fn a_caller_cannot_add_or_override_an_injected_header() {
    let world = World::builder().agent_file(FILE).start().await.unwrap();
    let spellings: [&[&str]; 7] = [
        &["X-Injected: forged"],
        &["x-injected: forged", "X-INJECTED: forged-again"],
        &["x-injected: forged,from-the-agent"],
        &["X-Api-Key: forged"],
        &["x-api-key: forged", "X-API-KEY: twice"],
        &["connection: close, x-injected"],
        &["connection: x-api-key, authorization"],
    ];
    for headers in spellings {
        let answer = post_exact(&world, "fast", headers).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{headers:?}: {answer}");
        let seen = last_request(&world).await;
        assert_eq!(
            values(&seen, "x-injected"),
            ["from-the-agent"],
            "{headers:?}"
        );
        assert_eq!(values(&seen, "x-api-key"), ["the-real-key"], "{headers:?}");
        assert_eq!(
            values(&seen, "authorization"),
            ["Bearer the-real-one"],
            "{headers:?}"
        );
        assert!(!seen.to_string().contains("forged"), "{headers:?}: {seen}");
    }
    // What is no name of a header at all never becomes one: refused, or handed on as the other name that it is.
    for (broken, passes) in [
        ("x-injected : forged", false),
        (" x-injected: forged", false),
        ("x-injected\t: forged", false),
        ("x_injected: forged", true),
    ] {
        let before = world.backend.requests().await.unwrap().len();
        let answer = post_exact(&world, "fast", &[broken]).await;
        let status = if passes {
            "HTTP/1.1 200"
        } else {
            "HTTP/1.1 400"
        };
        assert!(answer.starts_with(status), "{broken:?}: {answer}");
        let requests = world.backend.requests().await.unwrap();
        let arrived: Vec<&Value> = requests[before..]
            .iter()
            .filter(|request| request["method"] == "POST")
            .collect();
        assert_eq!(arrived.len(), usize::from(passes), "{broken:?}");
        for request in arrived {
            assert_eq!(values(request, "x-injected"), ["from-the-agent"]);
        }
    }
}

#[tokio::test]
async fn no_key_of_ours_and_no_credential_of_a_caller_reaches_a_backend() {
    let world = World::builder().agent_file(FILE).start().await.unwrap();
    let key = world.gateway.line.api_key.clone();
    let by_header = [
        format!("x-culvert-key: {key}"),
        format!("x-api-key: {key}"),
        format!("authorization: Bearer {key}"),
    ];
    let nobody = culvert_tests::client::Client::new(world.gateway.url());
    for header in &by_header {
        let body = chat_body("only-here", json!({})).to_string();
        let length = format!("content-length: {}", body.len());
        let lines = [
            "content-type: application/json",
            &length,
            header,
            "cookie: a=b",
            "proxy-authorization: Basic eA==",
        ];
        let answer = nobody
            .exact_with_body("POST /v1/chat/completions HTTP/1.1", &lines, &body)
            .await
            .unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{header}: {answer}");
        let seen = last_request(&world).await;
        assert!(
            !seen.to_string().contains(&key),
            "the key reached the backend by {header}: {seen}"
        );
        for name in [
            "authorization",
            "x-api-key",
            "x-culvert-key",
            "cookie",
            "proxy-authorization",
        ] {
            assert_eq!(
                values(&seen, name),
                Vec::<String>::new(),
                "{name} by {header}: {seen}"
            );
        }
    }
}

#[tokio::test]
async fn our_own_headers_and_forwarding_headers_from_a_caller_are_dropped() {
    let world = World::builder().agent_file(FILE).start().await.unwrap();
    let answer = post_exact(
        &world,
        "only-here",
        &[
            "x-culvert-region: EVIL",
            "X-Culvert-Tenant: other",
            "x-culvert-anything: 1",
            "x-forwarded-for: 6.6.6.6",
            "forwarded: for=6.6.6.6",
            "x-real-ip: 6.6.6.6",
            "x-custom: kept",
            "x-tfy-metadata: {\"a\":\"b\"}",
        ],
    )
    .await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let seen = last_request(&world).await;
    assert!(
        !seen.to_string().contains("6.6.6.6") && !seen.to_string().contains("EVIL"),
        "{seen}"
    );
    assert!(
        !seen["headers"].to_string().contains("x-culvert-"),
        "{seen}"
    );
    assert_eq!(
        values(&seen, "x-tfy-metadata"),
        Vec::<String>::new(),
        "metadata passes only where a service says so"
    );
    assert_eq!(values(&seen, "x-custom"), ["kept"], "other headers pass");
    assert!(
        values(&seen, "host")[0].starts_with("127.0.0.1"),
        "the host is the backend's: {seen}"
    );
}

#[tokio::test]
async fn metadata_is_completed_by_the_gateway_and_cannot_be_forged() {
    let world = World::builder().agent_file(FILE).start().await.unwrap();
    let forged = r#"x-tfy-metadata: {"team":"blue","tfy_gateway_region":"EVIL","tfy_x":"1","culvert_y":"2"}"#;
    let answer = post_exact(&world, "passing", &[forged]).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let seen = last_request(&world).await;
    let metadata: Value = serde_json::from_str(&values(&seen, "x-tfy-metadata")[0]).unwrap();
    assert_eq!(metadata["team"], "blue");
    assert!(
        metadata["tfy_gateway_region"].is_string() && metadata["tfy_gateway_zone"].is_string(),
        "{metadata}"
    );
    assert_ne!(metadata["tfy_gateway_region"], "EVIL");
    assert!(
        metadata.get("tfy_x").is_none() && metadata.get("culvert_y").is_none(),
        "{metadata}"
    );
}

#[tokio::test]
async fn headers_that_would_speak_for_the_gateway_are_taken_from_answers() {
    let world = World::builder().agent_file(FILE).start().await.unwrap();
    let reply = world
        .client()
        .send(
            world.client().request(Method::GET, "/http/dev/web/dirty"),
            Bytes::new(),
        )
        .await
        .unwrap();
    assert_eq!(
        (reply.status.as_u16(), reply.text().as_str()),
        (200, "dirty")
    );
    for name in [
        "alt-svc",
        "strict-transport-security",
        "clear-site-data",
        "service-worker-allowed",
        "nel",
        "report-to",
        "reporting-endpoints",
        "set-cookie",
        "access-control-allow-origin",
    ] {
        assert!(
            !reply.headers.contains_key(name),
            "{name} passed: {:?}",
            reply.headers
        );
    }
    assert_ne!(reply.header("x-culvert-region"), "FORGED");
    assert!(
        !reply.header("server-timing").contains("forged"),
        "{}",
        reply.header("server-timing")
    );
    assert_eq!(reply.header("x-content-type-options"), "nosniff");
    assert_eq!(reply.header("content-security-policy"), "sandbox");
    assert!(
        reply.header("cache-control").contains("private")
            && !reply.header("cache-control").contains("public")
    );
    assert!(
        reply.header("vary").contains("authorization"),
        "{}",
        reply.header("vary")
    );
}
