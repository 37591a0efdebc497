//! The edge over real sockets, in front of a real control and a relay that has no links.
#![expect(clippy::unwrap_used, reason = "a test fails where it stands")]

mod expect;
mod ports;
mod reload;
mod slow;
mod tls;
mod world;

use culvert_gateway::settings::EdgeSpec;
use serde_json::json;
use tokio::{io::AsyncWriteExt, net::TcpStream};

use self::world::{Answer, World, exchange};

#[tokio::test]
async fn bad_keys_all_look_the_same() {
    let world = World::start().await;
    let mut seen = Vec::new();
    let damaged = format!("authorization: Bearer {}x", world.key);
    let revoked = format!("x-api-key: {}", world.revoked_key);
    let other_scheme = format!("authorization: Basic {}", world.key);
    for header in [
        "x-none: 1",
        "authorization: Bearer cvk_nope",
        &damaged,
        &revoked,
        &other_scheme,
    ] {
        let answer = world.send("GET /v1/models", &[header], "").await;
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (401, "invalid_key"),
            "{header}"
        );
        assert_eq!(answer.header("x-culvert-zone"), Some("orf"));
        let id = answer.json()["error"]["request_id"]
            .as_str()
            .unwrap()
            .to_owned();
        seen.push(answer.body.replace(&id, "ID"));
    }
    assert!(seen.windows(2).all(|pair| pair[0] == pair[1]), "{seen:?}");
    for header in [
        world.bearer(),
        format!("x-api-key: {}", world.key),
        format!("x-culvert-key: {}", world.key),
    ] {
        assert_eq!(
            world.send("GET /v1/models", &[&header], "").await.status,
            200,
            "{header}"
        );
    }
}

#[tokio::test]
async fn errors_are_in_the_callers_dialect() {
    let world = World::start().await;
    let key = world.bearer();
    let openai = world
        .send("POST /v1/chat/completions", &[&key], r#"{"model":"dev/x"}"#)
        .await;
    assert_eq!(
        (openai.status, openai.code().as_str()),
        (503, "agent_unavailable")
    );
    assert!(openai.header("retry-after").is_some());
    let anthropic = world
        .send("POST /v1/messages", &[&key], r#"{"model":"x"}"#)
        .await;
    assert_eq!(
        (anthropic.status, &anthropic.json()["type"]),
        (404, &json!("error"))
    );
    let rpc = world
        .send("POST /mcp/dev/x", &[&key], r#"{"id":7,"method":"ping"}"#)
        .await;
    assert_eq!((rpc.status, &rpc.json()["id"]), (503, &json!(7)));
    let unknown = world.send("POST /v1/nothing", &[&key], "{}").await;
    assert_eq!(
        (unknown.status, unknown.code().as_str()),
        (404, "route_not_found")
    );
    let evil = world
        .send(
            "POST /mcp/dev/x",
            &[&key, "origin: https://evil.example"],
            "{}",
        )
        .await;
    assert_eq!(evil.status, 403);
}

#[tokio::test]
async fn what_a_key_may_not_call_is_not_there() {
    let world = World::start().await;
    let key = format!("x-api-key: {}", world.narrow_key);
    let hidden = world.send("POST /mcp/dev/other", &[&key], "{}").await;
    let absent = world.send("POST /mcp/none/other", &[&key], "{}").await;
    assert_eq!((hidden.status, absent.status), (404, 404));
    let allowed = world.send("POST /mcp/dev/only", &[&key], "{}").await;
    assert_eq!(
        allowed.status, 503,
        "it may know that nothing is connected: {}",
        allowed.body
    );
}

#[tokio::test]
async fn bodies_and_heads_have_limits() {
    let world = World::start().await;
    let key = world.bearer();
    let large = ["content-length: 33554433", &key];
    let too_large = world.send("POST /v1/chat/completions", &large, "").await;
    assert_eq!(
        (too_large.status, too_large.code().as_str()),
        (413, "body_too_large")
    );
    let rest = "x".repeat(200 * 1024);
    let refused = world.send("POST /v1/chat/completions", &[], &rest).await;
    assert_eq!(
        refused.status, 401,
        "the answer comes before the end of the connection"
    );
    let twice = world
        .send(
            "POST /v1/embeddings",
            &[&key],
            r#"{"model":"a","MODEL":"b"}"#,
        )
        .await;
    assert_eq!((twice.status, twice.code().as_str()), (400, "bad_request"));
    let wide = format!("x-wide: {}", "a".repeat(140 * 1024));
    assert_eq!(
        world
            .send("GET /v1/models", &[&key, &wide], "")
            .await
            .status,
        431
    );
    let many: Vec<String> = (0..600).map(|i| format!("x-{i}: 1")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert_eq!(world.send("GET /v1/models", &many, "").await.status, 431);
}

#[tokio::test]
async fn listed_pages_may_call_and_others_may_not() {
    let world = World::start().await;
    let asks = [
        "origin: https://app.example",
        "access-control-request-method: POST",
    ];
    let preflight = world.send("OPTIONS /v1/chat/completions", &asks, "").await;
    assert_eq!(preflight.status, 204);
    assert_eq!(
        preflight.header("access-control-allow-origin"),
        Some("https://app.example")
    );
    let other = [
        "origin: https://evil.example",
        "access-control-request-method: POST",
    ];
    let refused = world.send("OPTIONS /v1/chat/completions", &other, "").await;
    assert_eq!(
        (
            refused.status,
            refused.header("access-control-allow-origin")
        ),
        (401, None)
    );
}

#[tokio::test]
async fn a_listed_page_may_read_every_answer() {
    let world = World::start().await;
    let (key, origin) = (world.bearer(), "origin: https://app.example");
    for (line, headers, status) in [
        ("GET /v1/models", &[origin, &key][..], 200),
        ("GET /v1/models", &[origin], 401),
        ("GET /v1/nothing", &[origin, &key], 404),
        ("GET /mcp/dev/x", &[origin, &key], 503),
    ] {
        let answer = world.send(line, headers, "").await;
        assert_eq!(answer.status, status, "{line}: {}", answer.body);
        let allowed = answer.header("access-control-allow-origin");
        assert_eq!(allowed, Some("https://app.example"), "{line}");
        assert!(answer.header("access-control-allow-credentials").is_none());
        let exposed = answer.header("access-control-expose-headers").unwrap();
        for name in [
            "x-request-id",
            "x-culvert-region",
            "x-culvert-zone",
            "server-timing",
            "retry-after",
            "mcp-session-id",
        ] {
            assert!(exposed.contains(name), "{name}");
        }
        let varies = answer.head.lines().any(|line| line == "vary: origin");
        assert!(varies, "{}", answer.head);
    }
    let other = ["origin: https://evil.example", &key];
    let answer = world.send("GET /v1/models", &other, "").await;
    assert_eq!(
        answer.status, 200,
        "the key decides; a browser shows it to no page"
    );
    assert_eq!(answer.header("access-control-allow-origin"), None);
}

#[tokio::test]
async fn no_page_may_call_unless_it_is_listed() {
    let world = World::with(|plane| plane.edge = EdgeSpec::default()).await;
    let asks = [
        "origin: https://app.example",
        "access-control-request-method: GET",
    ];
    let preflight = world.send("OPTIONS /v1/models", &asks, "").await;
    assert_eq!(preflight.status, 401);
    assert_eq!(preflight.header("access-control-allow-origin"), None);
}

#[tokio::test]
async fn every_request_is_one_record() {
    let world = World::start().await;
    let key = world.bearer();
    let client_id = "x-request-id: mine";
    assert_eq!(
        world
            .send("GET /v1/models", &[&key, client_id], "")
            .await
            .status,
        200
    );
    assert_eq!(world.send("HEAD /v1/models", &[&key], "").await.status, 200);
    assert_eq!(world.send("GET /v1/models", &[], "").await.status, 401);
    assert_eq!(
        world
            .send("POST /v1/messages", &[&key], r#"{"model":"x"}"#)
            .await
            .status,
        404
    );
    let two = format!(
        "GET /v1/models HTTP/1.1\r\nhost: gw\r\n{key}\r\n\r\nGET /a HTTP/1.1\r\nhost: gw\r\n{key}\r\nconnection: close\r\n\r\n"
    );
    assert_eq!(
        world.raw(two.as_bytes()).await.matches("HTTP/1.1 ").count(),
        2
    );
    // A caller that leaves in the middle of its body.
    let mut gone = TcpStream::connect(world.address).await.unwrap();
    let half =
        format!("POST /v1/embeddings HTTP/1.1\r\nhost: gw\r\n{key}\r\ncontent-length: 9\r\n\r\n{{");
    gone.write_all(half.as_bytes()).await.unwrap();
    drop(gone);
    let key_text = world.key.clone();
    let records = world.records().await;
    let got: Vec<_> = records
        .iter()
        .map(|r| {
            (
                r["path"].as_str().unwrap(),
                r["outcome"].as_str().unwrap(),
                r["code"].as_str().unwrap(),
            )
        })
        .collect();
    let wanted = [
        ("/v1/models", "ok", "ok"),
        ("/v1/models", "ok", "ok"),
        ("/v1/models", "refused", "invalid_key"),
        ("/v1/messages", "refused", "model_not_found"),
        ("/v1/models", "ok", "ok"),
        ("/a", "refused", "route_not_found"),
    ];
    assert_eq!(got[..6], wanted);
    assert!(
        got.len() <= 7 && got[6..].iter().all(|(path, ..)| *path == "/v1/embeddings"),
        "{got:?}"
    );
    assert_eq!(records[0]["client_request_id"], "mine");
    assert!(
        !records
            .iter()
            .any(|record| record.to_string().contains(&key_text))
    );
}

#[tokio::test]
async fn the_admin_listener_asks_for_a_key() {
    let world = World::start().await;
    let request = b"GET /v1/status HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    let answer = Answer::parse(&exchange(world.admin, request).await);
    assert_eq!(answer.status, 401);
}

#[tokio::test]
async fn machines_ask_the_admin_listener_without_a_key() {
    let world = World::start().await;
    world.send("GET /v1/models", &[&world.bearer()], "").await;
    let get = async |path: &str| {
        let head = format!("GET {path} HTTP/1.1\r\nhost: 10.0.0.9\r\nconnection: close\r\n\r\n");
        Answer::parse(&exchange(world.admin, head.as_bytes()).await)
    };
    assert_eq!(get("/healthz").await.status, 200);
    assert_eq!(get("/readyz").await.status, 200);
    let metrics = get("/metrics").await;
    assert_eq!(metrics.status, 200);
    let counted = "culvert_gateway_requests_total{kind=\"models\",code=\"ok\"} 1";
    for name in [counted, "culvert_relay_calls_active"] {
        assert!(metrics.body.contains(name), "{name}: {}", metrics.body);
    }
    assert!(!metrics.body.contains(&world.key));
}
