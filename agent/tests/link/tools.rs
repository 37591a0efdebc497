//! What a tool policy makes of calls.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use culvert_tunnel::{CallError, Failure, OutgoingCall, Piece};
use culvert_wire::{Code, Head, Open};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};

use crate::backend::{Backend, text};
use crate::world::{World, done, open};

/// What reached the server: method, the headers that matter, body.
type Seen = Arc<Mutex<Vec<(String, HeaderMap, String)>>>;

/// A server that lists what it has and answers everything else with its own request.
async fn server(seen: &Seen) -> Backend {
    let seen = Arc::clone(seen);
    Backend::new(move |request| {
        let seen = Arc::clone(&seen);
        async move {
            let (parts, body) = request.into_parts();
            let body = body.collect().await.expect("a body").to_bytes();
            let body = String::from_utf8(body.to_vec()).expect("text");
            let method = parts.method.to_string();
            let list = json!({"jsonrpc": "2.0", "id": 1, "result": {"tools": [
                {"name": "search", "annotations": {"readOnlyHint": true}},
                {"name": "delete"},
            ]}});
            let answer = match body.contains("tools/list") {
                true if parts.headers["accept"] == "text/event-stream" => (
                    format!(": hello\n\nid: 9\ndata: {list}\n\n"),
                    "text/event-stream",
                ),
                true => (list.to_string(), "application/json"),
                false => (body.clone(), "application/json"),
            };
            seen.lock()
                .expect("lock")
                .push((method, parts.headers, body));
            let mut response = text(answer.0);
            let kind = HeaderValue::from_static(answer.1);
            response.headers_mut().insert("content-type", kind);
            response
        }
    })
    .await
}

fn yaml(backend: &Backend, more: &str) -> String {
    format!(
        "services:\n  - {{ name: llama, kind: mcp, url: 'http://{}/mcp', health: {{ every: 1h }}, {more} }}\n",
        backend.addr
    )
}

/// The tools of these tests.
const ALLOWED: &str = "tools: { allow: ['se*'] }";

fn with(headers: &[(&'static str, &'static str)]) -> Open {
    let mut open = open(Method::POST, "/");
    for (name, value) in headers {
        let value = HeaderValue::from_static(value);
        open.headers.append(HeaderName::from_static(name), value);
    }
    open
}

async fn exchange(call: OutgoingCall, body: String) -> Result<(Head, String), CallError> {
    let OutgoingCall {
        mut request,
        mut answer,
    } = call;
    let sending = async {
        request.data(Bytes::from(body)).await?;
        request.end(HeaderMap::new()).await
    };
    // A refusal may come before all is sent.
    drop(done("request", sending).await);
    let head = done("head", answer.head()).await?;
    let mut got = Vec::new();
    while let Some(piece) = done("body", answer.next()).await? {
        if let Piece::Data(data) = piece {
            got.extend_from_slice(&data);
        }
    }
    Ok((head, String::from_utf8(got).expect("text")))
}

fn call_of(tool: &str) -> Value {
    json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": tool, "arguments": {"q": 1}}})
}

#[tokio::test]
async fn what_was_judged_is_what_is_sent() {
    let seen = Seen::default();
    let backend = server(&seen).await;
    let mut world = World::new(&yaml(&backend, ALLOWED));
    let link = world.link().await;
    let spaced = call_of("search").to_string().replace(':', " : ");
    let mut call = with(&[("accept-encoding", "gzip"), ("content-md5", "x")]);
    let length = spaced.len().into();
    call.headers.insert("content-length", length);
    let (head, answer) = exchange(link.open(call).await, spaced)
        .await
        .expect("an answer");
    let ours = call_of("search").to_string();
    assert_eq!((head.status.as_u16(), &answer), (200, &ours));
    let seen = seen.lock().expect("lock");
    let (method, headers, body) = seen.last().expect("a request");
    assert_eq!((method.as_str(), body), ("POST", &ours));
    assert_eq!(headers["content-length"], ours.len().to_string());
    assert_eq!(headers["accept-encoding"], "identity");
    assert!(!headers.contains_key("content-md5"));
}

#[tokio::test]
async fn a_tool_that_is_not_allowed_is_not_called() {
    let seen = Seen::default();
    let backend = server(&seen).await;
    let mut world = World::new(&yaml(&backend, ALLOWED));
    let link = world.link().await;
    let search = || call_of("search").to_string();
    let twice = r#"{"method":"tools/list","method":"tools/call","params":{"name":"search"}}"#;
    let long = format!("{{\"method\":\"ping\",\"x\":\"{}\"}}", "x".repeat(4 << 20));
    for (open, body) in [
        (with(&[]), call_of("delete").to_string()),
        (
            with(&[]),
            json!([call_of("search"), call_of("delete")]).to_string(),
        ),
        (with(&[]), twice.to_owned()),
        (with(&[("mcp-name", "delete")]), search()),
        (with(&[("mcp-method", "tools/list")]), search()),
        (with(&[("content-encoding", "gzip")]), search()),
        (with(&[]), long),
    ] {
        let shown = body.get(..100).unwrap_or(&body).to_owned();
        let refused = exchange(link.open(open).await, body)
            .await
            .expect_err(&shown);
        assert_eq!(refused.failure, Failure::Refused(Code::Policy), "{shown}");
    }
    assert_eq!(seen.lock().expect("lock").len(), 0);

    drop(link);
    let lines = world.audited().await;
    let of = |line: &Value, key: &str| line[key].as_str().unwrap_or("-").to_owned();
    let tools: Vec<_> = lines.iter().map(|line| of(line, "tool")).collect();
    assert_eq!(tools, ["delete", "search,delete", "-", "-", "-", "-", "-"]);
    assert_eq!(of(&lines[0], "rpc_method"), "tools/call");
    assert!(lines.iter().all(|line| of(line, "code") == "policy"));
}

#[tokio::test]
async fn a_tool_that_is_not_allowed_is_not_listed() {
    let seen = Seen::default();
    let backend = server(&seen).await;
    let mut world = World::new(&yaml(&backend, ALLOWED));
    let link = world.link().await;
    let list = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list"}).to_string();
    for (accept, want) in [
        ("application/json", "{"),
        ("text/event-stream", ": hello\n\nid: 9\ndata: {"),
    ] {
        let call = link.open(with(&[("accept", accept)])).await;
        let (_, answer) = exchange(call, list.clone()).await.expect("an answer");
        assert!(answer.starts_with(want), "{answer}");
        assert!(
            answer.contains("search") && !answer.contains("delete"),
            "{answer}"
        );
    }
}

#[tokio::test]
async fn of_a_server_for_reading_only_what_it_says_is_for_reading_is_called() {
    let seen = Seen::default();
    let backend = server(&seen).await;
    let mut world = World::new(&yaml(&backend, "read_only: true"));
    let link = world.link().await;
    let list = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list"}).to_string();
    let call = async |tool: &str| {
        let call = link.open(with(&[])).await;
        exchange(call, call_of(tool).to_string())
            .await
            .map_err(|error| error.failure)
    };
    let policy = Err(Failure::Refused(Code::Policy));
    assert_eq!(call("search").await.map(|_| ()), policy, "not known yet");
    let listing = link.open(with(&[("accept", "application/json")])).await;
    let (_, answer) = exchange(listing, list).await.expect("an answer");
    assert!(
        answer.contains("search") && !answer.contains("delete"),
        "{answer}"
    );
    assert!(call("search").await.is_ok());
    assert_eq!(call("delete").await.map(|_| ()), policy);
}
