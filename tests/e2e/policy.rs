//! What can be called through an agent, and where an agent connects to.

use bytes::Bytes;
use culvert_tests::wait::{self, PATIENCE};
use culvert_tests::world::{Agent, AgentSpec, World};
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
    // With the port of a server that would answer on loopback, and the reason that the agent has to have.
    let forbidden = [
        ("169.254.169.254", "169.254.169.254 is a"),
        ("[fd00:ec2::254]", "fd00:ec2::254 is a"),
        ("[::ffff:169.254.169.254]", "169.254.169.254 is a"),
        ("[64:ff9b::a9fe:a9fe]", "169.254.169.254 is a"),
        ("[2002:a9fe:a9fe::]", "169.254.169.254 is a"),
        ("0.0.0.0", "0.0.0.0 is a"),
        ("224.0.0.1", "224.0.0.1 is a"),
        ("255.255.255.255", "255.255.255.255 is a"),
        ("[fe80::1]", "fe80::1 is a"),
        ("[::]", ":: is a"),
        ("100.100.100.200", "100.100.100.200 is a"),
    ];
    let mut world = World::builder().without_agent().start().await.unwrap();
    let backend = world.backend.address();
    let (_, port) = backend.rsplit_once(':').unwrap();
    let services: String = forbidden
        .iter()
        .enumerate()
        .map(|(index, (address, _))| {
            format!("  - name: bad-{index}\n    kind: http\n    url: http://{address}:{port}\n    allow: [{{ methods: [GET], paths: [\"/**\"] }}]\n")
        })
        .collect();
    let mut spec = AgentSpec::joining(&world.gateway.line.join_token);
    spec.file = Some(format!(
        "services:\n  - name: llm\n    kind: model\n    url: http://{backend}/v1\n{services}"
    ));
    spec.environment = vec![("CULVERT_LOG".to_owned(), "debug".to_owned())];
    world.agent = Some(Agent::start(spec).await.unwrap());
    world.ready().await.unwrap();
    for (index, (address, reason)) in forbidden.iter().enumerate() {
        let (service, url) = (
            format!("\"bad-{index}\""),
            format!("http://{address}:{port}"),
        );
        unreachable(
            &world,
            &format!("/http/dev/bad-{index}/__stats"),
            [&service, &url],
            reason,
        )
        .await;
    }
    assert_eq!(reached(&world).await, Vec::<String>::new());
}

/// Sees that a service cannot be called, and waits until the agent has said why: of its name when a call tried, or of its
/// url when a probe did. Which of the two was first decides what the caller is told.
async fn unreachable(world: &World, path: &str, names: [&str; 2], reason: &str) {
    let answer = world.client().get(path).await.unwrap();
    let code = answer.json()["error"]["code"].clone();
    let told = (answer.status.as_u16(), code.as_str().unwrap_or_default());
    assert!(
        [(502, "backend_unreachable"), (503, "agent_unavailable")].contains(&told),
        "{path}: {}",
        answer.text()
    );
    let log = world.agent.as_ref().unwrap().process.log();
    wait::until(&format!("{reason:?} of {path}"), PATIENCE, || async {
        if names.iter().any(|name| log.count(&[name, reason]) > 0) {
            Ok(())
        } else {
            Err(log.text())
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn the_agents_own_listener_is_no_backend() {
    let mut world = World::start().await.unwrap();
    let listening = listeners(&world);
    assert!(
        listening.len() == 1 && listening[0].ip().is_loopback(),
        "one listener, for health, on loopback: {listening:?}"
    );
    // The port is known only now: the agent starts again with it, and with a service that names it.
    let (process, mut spec, state) = world.agent.take().unwrap().into_parts();
    process.kill().await.unwrap();
    let own = listening[0];
    spec.health = Some(own.to_string());
    spec.environment = vec![("CULVERT_LOG".to_owned(), "debug".to_owned())];
    let file = state.path().join("own.yaml");
    spec.arguments
        .extend(["--config".to_owned(), file.display().to_string()]);
    let yaml = format!(
        "services:\n  - name: own\n    kind: http\n    url: http://{own}\n    allow: [{{ methods: [GET], paths: [\"/healthz\"] }}]\n"
    );
    std::fs::write(file, yaml).unwrap();
    world.agent = Some(Agent::start_in(state, spec).await.unwrap());
    world.serves().await.unwrap();
    assert_eq!(listeners(&world), [own]);
    let there = culvert_tests::client::Client::new(format!("http://{own}"));
    assert_eq!(
        there.get("/healthz").await.unwrap().status,
        200,
        "it answers"
    );
    let names = ["\"own\"", &format!("http://{own}")];
    unreachable(
        &world,
        "/http/dev/own/healthz",
        names,
        "is this agent's own listener",
    )
    .await;
}

fn listeners(world: &World) -> Vec<std::net::SocketAddr> {
    let agent = world.agent.as_ref().unwrap();
    culvert_tests::listeners::of(agent.process.id().unwrap()).unwrap()
}
