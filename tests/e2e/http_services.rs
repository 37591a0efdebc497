//! HTTP services: streamed both ways without a limit on size.

use std::time::{Duration, Instant};

use bytes::Bytes;
use culvert_tests::world::World;
use http::Method;
use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const FILE: &str = r#"
services:
  - name: llm
    kind: model
    url: http://{backend}/v1
  - name: web
    kind: http
    url: http://{backend}
    allow: [{ methods: [GET, POST, PUT, HEAD], paths: ["/**"] }]
"#;

async fn world() -> World {
    World::builder().agent_file(FILE).start().await.unwrap()
}

#[tokio::test]
async fn a_large_answer_arrives_whole() {
    let world = world().await;
    let size = 100 * 1024 * 1024_usize;
    let request = world
        .client()
        .request(Method::GET, &format!("/http/dev/web/bytes/{size}"));
    let answer = world.client().open(request, Bytes::new()).await.unwrap();
    assert_eq!(
        answer.headers()["content-length"],
        size.to_string().as_str()
    );
    let mut body = answer.into_body();
    let mut received = 0;
    while let Some(frame) = body.frame().await {
        received += frame.unwrap().data_ref().map_or(0, Bytes::len);
    }
    assert_eq!(received, size);
}

#[tokio::test]
async fn a_large_body_arrives_whole_and_unchanged() {
    let world = world().await;
    let size = 50 * 1024 * 1024_usize;
    let body: Bytes = (0..size)
        .map(|index| (index % 251) as u8)
        .collect::<Vec<u8>>()
        .into();
    let request = world.client().request(Method::POST, "/http/dev/web/mirror");
    let reply = world.client().send(request, body.clone()).await.unwrap();
    assert_eq!(reply.status, 200);
    assert!(
        reply.body == body,
        "the body came back changed, {} bytes of {size}",
        reply.body.len()
    );
}

#[tokio::test]
async fn both_directions_flow_at_once() {
    let world = world().await;
    let address = world.gateway.url().trim_start_matches("http://").to_owned();
    let mut stream = TcpStream::connect(&address).await.unwrap();
    let key = &world.gateway.line.api_key;
    let head = format!(
        "POST /http/dev/web/mirror HTTP/1.1\r\nhost: {address}\r\nx-culvert-key: {key}\r\ntransfer-encoding: chunked\r\n\r\n5\r\nfirst\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let started = Instant::now();
    let mut seen = String::new();
    let mut buffer = [0_u8; 4096];
    while !seen.contains("first") {
        let read = tokio::time::timeout(Duration::from_secs(10), stream.read(&mut buffer))
            .await
            .unwrap()
            .unwrap();
        assert!(read > 0, "closed after {seen:?}");
        seen.push_str(&String::from_utf8_lossy(&buffer[..read]));
    }
    assert!(
        started.elapsed() < Duration::from_secs(5),
        "an answer must not wait for the end of the request"
    );
    stream.write_all(b"6\r\nsecond\r\n0\r\n\r\n").await.unwrap();
    while !seen.contains("0\r\n\r\n") {
        let read = tokio::time::timeout(Duration::from_secs(10), stream.read(&mut buffer))
            .await
            .unwrap()
            .unwrap();
        assert!(read > 0, "closed after {seen:?}");
        seen.push_str(&String::from_utf8_lossy(&buffer[..read]));
    }
    assert!(seen.contains("second"), "{seen:?}");
}

#[tokio::test]
async fn every_status_of_a_backend_passes_as_it_is() {
    let world = world().await;
    for status in [
        200, 201, 204, 304, 400, 401, 403, 404, 409, 418, 429, 500, 502, 503, 504,
    ] {
        let reply = world
            .client()
            .get(&format!("/http/dev/web/status/{status}"))
            .await
            .unwrap();
        assert_eq!(reply.status.as_u16(), status);
        if status != 204 && status != 304 {
            assert_eq!(reply.text(), "as told", "{status}");
        }
    }
}

#[tokio::test]
async fn a_head_request_has_the_length_and_no_body() {
    let world = world().await;
    let answer = world
        .client()
        .exact("HEAD /http/dev/web/bytes/12345 HTTP/1.1", &[])
        .await
        .unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(
        answer.to_lowercase().contains("content-length: 12345"),
        "{answer}"
    );
    assert!(answer.ends_with("\r\n\r\n"), "{answer}");
}

#[tokio::test]
async fn heads_above_the_limits_are_431() {
    let world = world().await;
    let huge = format!("x-huge: {}", "h".repeat(200 * 1024));
    let answer = world
        .client()
        .exact("GET /http/dev/web/status/200 HTTP/1.1", &[&huge])
        .await
        .unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 431"),
        "{}",
        &answer[..answer.len().min(300)]
    );
    let fine: Vec<String> = (0..200)
        .map(|index| format!("x-many-{index}: {}", "v".repeat(300)))
        .collect();
    let fine: Vec<&str> = fine.iter().map(String::as_str).collect();
    let answer = world
        .client()
        .exact("GET /http/dev/web/status/200 HTTP/1.1", &fine)
        .await
        .unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 200"),
        "{}",
        &answer[..answer.len().min(300)]
    );
}
