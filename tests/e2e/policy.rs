//! What can be called through an agent, and where an agent connects to.

use std::time::Duration;

use bytes::Bytes;
use culvert_tests::wait;
use culvert_tests::world::World;
use http::Method;
use serde_json::json;

const FILE: &str = r#"
services:
  - name: llm
    kind: model
    url: http://{backend}/v1
  - name: web
    kind: http
    url: http://{backend}
    allow:
      - { methods: [GET], paths: ["/api/v1/*", "/api/deep/**", "/redirect"] }
      - { methods: [POST], paths: ["/api/v1/orders"] }
"#;

async fn world() -> World {
    World::builder().agent_file(FILE).start().await.unwrap()
}

/// The path of every request that reached the backend, but for the agent's own.
async fn reached(world: &World) -> Vec<String> {
    let requests = world.backend.requests().await.unwrap();
    let targets = requests.iter().filter_map(|request| {
        Some(format!(
            "{} {}",
            request["method"].as_str()?,
            request["target"].as_str()?
        ))
    });
    targets
        .filter(|target| {
            !["/models", "/health", "/metrics"]
                .iter()
                .any(|own| target.ends_with(own))
        })
        .collect()
}

#[tokio::test]
async fn what_the_file_allows_passes_with_its_query() {
    let world = world().await;
    let client = world.client();
    let echo = client
        .get("/http/dev/web/api/v1/42?q=a%20b&r=%2F")
        .await
        .unwrap();
    assert_eq!(echo.status, 200, "{}", echo.text());
    assert_eq!(echo.json()["target"], "/api/v1/42?q=a%20b&r=%2F");
    assert_eq!(
        client
            .get("/http/dev/web/api/deep/a/b/c")
            .await
            .unwrap()
            .status,
        200
    );
    let order = client
        .post("/http/dev/web/api/v1/orders", &json!({"n": 1}))
        .await
        .unwrap();
    assert_eq!(
        (order.status.as_u16(), &order.json()["body"]),
        (200, &json!("{\"n\":1}")),
        "{}",
        order.text()
    );
}

#[tokio::test]
async fn spellings_that_could_mean_another_path_are_refused() {
    let world = world().await;
    let client = world.client();
    let refused = [
        "GET /http/dev/web/api/v1/../delete",
        "GET /http/dev/web/../api/delete",
        "GET /http/dev/web/api/v1/%2e%2e/delete",
        "GET /http/dev/web/api/v1/%2e%2e%2fdelete",
        "GET /http/dev/web/api/v1/..;/delete",
        "GET /http/dev/web/api/v1/x;y=1",
        "GET /http/dev/web/api/v1/..%5cdelete",
        "GET /http/dev/web/api/v1/x%00",
        "GET /http/dev/web//api/v1/x",
        "GET /http/dev/web/api//v1/x",
        "GET /http/dev/web/api/v1/%2fdelete",
        "GET /http/dev/web/api/v1/a%2fb",
        "GET /http/dev/web/api/v1/.",
        "GET /http/dev/web/./api/v1/x",
        "GET /http/dev/web/api/v1/%",
        "GET /http/dev/web/api/v1/%zz",
        "GET /http/dev/web/api/v1/a/b",
        "GET /http/dev/web/api/other",
        "GET /http/dev/web/API/v1/x",
        "GET /http/dev/web/__stats",
        "DELETE /http/dev/web/api/v1/x",
        "POST /http/dev/web/api/v1/x",
        "GET /http/dev/web/api/v1/orders/%252e%252e",
        "GET /http/dev/web/api/deep/../../__stats",
        "GET /http/dev/web/api/deep/%2e%2e/%2e%2e/__stats",
        "GET /http/dev/web",
    ];
    for target in refused {
        let answer = client
            .exact(&format!("{target} HTTP/1.1"), &[])
            .await
            .unwrap();
        let status = answer.split(' ').nth(1).unwrap_or_default();
        assert!(
            ["400", "403", "404"].contains(&status),
            "{target}: {answer}"
        );
    }
    // Decoded once: a double encoding stays what it is, and is no parent of anything.
    let reached: Vec<String> = reached(&world).await;
    assert!(reached.is_empty(), "these reached the backend: {reached:?}");
}

#[tokio::test]
async fn model_services_serve_the_model_apis_and_nothing_else() {
    let world = world().await;
    let client = world.client();
    for (method, path) in [
        (Method::POST, "/v1/../__stats"),
        (Method::DELETE, "/v1/models/dev%2Fdemo-model"),
        (Method::POST, "/v1/fine_tuning/jobs"),
        (Method::POST, "/v1/load_lora_adapter"),
        (Method::GET, "/v1/chat/completions"),
        (Method::POST, "/v1/chat/completions/"),
        (Method::POST, "/v1//chat/completions"),
        (Method::POST, "/v1/files"),
    ] {
        let body = json!({"model": "dev/demo-model"}).to_string();
        let lines = [
            "content-type: application/json".to_owned(),
            format!("content-length: {}", body.len()),
        ];
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        let answer = client
            .exact_with_body(&format!("{method} {path} HTTP/1.1"), &lines, &body)
            .await
            .unwrap();
        let status = answer.split(' ').nth(1).unwrap_or_default();
        assert!(
            ["400", "403", "404", "405"].contains(&status),
            "{method} {path}: {answer}"
        );
    }
    assert!(
        reached(&world).await.is_empty(),
        "{:?}",
        reached(&world).await
    );
}

#[tokio::test]
async fn no_redirect_is_followed() {
    let world = world().await;
    let client = world.client();
    let answer = client
        .send(
            client.request(Method::GET, "/http/dev/web/redirect"),
            Bytes::new(),
        )
        .await
        .unwrap();
    assert_eq!(
        (answer.status.as_u16(), answer.header("location")),
        (302, "/elsewhere"),
        "a backend's own status passes"
    );
    assert_eq!(reached(&world).await, ["GET /redirect"]);
    let model = world.chat("fault-redirect", json!({})).await.unwrap();
    assert_eq!(model.status, 302, "{}", model.text());
}

#[tokio::test]
async fn metadata_addresses_and_hidden_loopback_are_never_dialled() {
    let forbidden = [
        "169.254.169.254",
        "[fd00:ec2::254]",
        "[::ffff:169.254.169.254]",
        "[64:ff9b::a9fe:a9fe]",
        "[2002:a9fe:a9fe::]",
        "0.0.0.0",
        "224.0.0.1",
        "255.255.255.255",
        "[fe80::1]",
        "[::]",
        "100.100.100.200",
    ];
    let services: String = forbidden
        .iter()
        .enumerate()
        .map(|(index, address)| {
            format!("  - name: bad-{index}\n    kind: http\n    url: http://{address}:{{port}}\n    allow: [{{ methods: [GET], paths: [\"/**\"] }}]\n")
        })
        .collect();
    let file = format!(
        "services:\n  - name: llm\n    kind: model\n    url: http://{{backend}}/v1\n{services}"
    );
    // A port that would answer, were the address not forbidden.
    let world = World::builder().without_agent().start().await.unwrap();
    let port = world
        .backend
        .address()
        .rsplit(':')
        .next()
        .unwrap_or_default()
        .to_owned();
    drop(world);
    let world = World::builder()
        .agent_file(&file.replace("{port}", &port))
        .start()
        .await;
    // A configuration that names such an address may be refused whole; that is as good.
    let Ok(world) = world else { return };
    for (index, address) in forbidden.iter().enumerate() {
        let answer = world
            .client()
            .get(&format!("/http/dev/bad-{index}/__stats"))
            .await
            .unwrap();
        let code = answer.json()["error"]["code"].clone();
        assert!(
            !answer.status.is_success(),
            "{}: {}",
            address,
            answer.text()
        );
        assert!(
            ["backend_unreachable", "not_allowed", "agent_unavailable"]
                .iter()
                .any(|known| code == *known),
            "{}: {}",
            address,
            answer.text()
        );
    }
}

#[tokio::test]
async fn a_name_that_resolves_to_loopback_is_refused_where_the_url_does_not_say_localhost() {
    let file = r#"
services:
  - name: llm
    kind: model
    url: http://{backend}/v1
  - name: sly
    kind: http
    url: http://{name}:{port}
    allow: [{ methods: [GET], paths: ["/**"] }]
"#;
    // The host's own name resolves to a loopback address on most machines; where it does not, it is refused as unreachable.
    let name =
        std::fs::read_to_string("/etc/hostname").unwrap_or_else(|_| "ip6-localhost".to_owned());
    let name = name.trim();
    let filled = file.replace("{name}", name).replace("{port}", "9");
    let world = World::builder().agent_file(&filled).start().await.unwrap();
    wait::until(
        "the service is offered",
        Duration::from_secs(10),
        || async {
            let answer = world
                .client()
                .get("/http/dev/sly/x")
                .await
                .map_err(|error| error.to_string())?;
            let code = answer.json()["error"]["code"].clone();
            if code == "backend_unreachable" || code == "not_allowed" || code == "agent_unavailable"
            {
                Ok(())
            } else {
                Err(answer.text())
            }
        },
    )
    .await
    .unwrap();
}

#[tokio::test]
async fn the_agents_own_listener_is_no_backend() {
    // The health port is chosen by the system, so the test asks for every loopback port that the agent itself listens on.
    let world = World::start().await.unwrap();
    let agent = world.agent.as_ref().unwrap();
    let listening = culvert_tests::listeners::of(agent.process.id().unwrap()).unwrap();
    assert!(
        listening.iter().all(|address| address.ip().is_loopback()),
        "the agent listens on {listening:?}"
    );
    assert!(
        listening.len() <= 1,
        "one listener, for health: {listening:?}"
    );
}
