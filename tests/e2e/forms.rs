//! Multipart uploads: only the model's name changes on the way, and what comes behind it is streamed.

use bytes::Bytes;
use culvert_tests::client::Reply;
use culvert_tests::world::World;
use http::Method;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const BOUNDARY: &str = "----e2e-form";
const KIND: &str = "multipart/form-data; boundary=----e2e-form";
const PATH: &str = "/v1/audio/transcriptions";

fn part(head: &str, text: &str) -> String {
    format!("--{BOUNDARY}\r\nContent-Disposition: form-data; {head}\r\n\r\n{text}\r\n")
}

fn last() -> String {
    format!("--{BOUNDARY}--\r\n")
}

async fn upload(world: &World, path: &str, form: String) -> Reply {
    let request = world.client().request(Method::POST, path);
    let request = request.header("content-type", KIND);
    let client = world.client();
    let reply = client.send(request, Bytes::from(form)).await;
    reply.map_err(|error| world.explain(&error)).unwrap()
}

/// The body of the last form that reached the backend, as far as it is remembered.
async fn arrived(world: &World) -> (u64, String) {
    let seen = world.backend.requests().await.unwrap();
    let mut forms = seen.iter().filter(|seen| seen["method"] == "POST");
    let last = forms.next_back().expect("a form");
    let body = last["body"].as_str().unwrap().to_owned();
    (last["body_bytes"].as_u64().unwrap(), body)
}

#[tokio::test]
async fn a_form_arrives_under_the_backends_name_for_the_model() {
    let world = World::start().await.unwrap();
    let form = |model: &str| {
        let file = part(
            "name=\"file\"; filename=\"a.wav\"\r\nContent-Type: audio/wav",
            "RIFF\r\n--\r\n",
        );
        let model = part("name=\"model\"", model);
        format!("{file}{model}{}{}", part("name=\"language\"", "en"), last())
    };
    for path in [
        PATH,
        "/v1/audio/translations",
        "/v1/images/edits",
        "/v1/images/variations",
    ] {
        let reply = upload(&world, path, form("dev/demo-model")).await;
        assert_eq!(reply.status, 200, "{path}: {}", reply.text());
        let (bytes, body) = arrived(&world).await;
        assert_eq!(body, form("demo-model"), "{path}");
        assert_eq!(bytes, body.len() as u64);
    }
    // In chunks, cut anywhere.
    let address = world.gateway.url().trim_start_matches("http://").to_owned();
    let mut stream = TcpStream::connect(&address).await.unwrap();
    let head = format!(
        "POST {PATH} HTTP/1.1\r\nhost: {address}\r\nx-culvert-key: {}\r\ncontent-type: {KIND}\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n",
        world.gateway.line.api_key
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    for piece in form("dev/demo-model").as_bytes().chunks(7) {
        let chunk = [format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat();
        stream.write_all(&chunk).await.unwrap();
    }
    stream.write_all(b"0\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(arrived(&world).await.1, form("demo-model"));
}

#[tokio::test]
async fn what_comes_behind_the_model_has_no_limit() {
    let world = World::start().await.unwrap();
    let size = 48 * 1024 * 1024;
    let form = |model: &str| {
        let file = part("name=\"file\"; filename=\"a.wav\"", &"z".repeat(size));
        format!("{}{file}{}", part("name=\"model\"", model), last())
    };
    let reply = upload(&world, PATH, form("dev/demo-model")).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(arrived(&world).await.0, form("demo-model").len() as u64);
    let file = part("name=\"file\"; filename=\"a.wav\"", &"z".repeat(size));
    let late = format!(
        "{file}{}{}",
        part("name=\"model\"", "dev/demo-model"),
        last()
    );
    let request = world.client().request(Method::POST, PATH);
    let request = request.header("content-type", KIND);
    // The gateway may close the connection while the rest is still on its way.
    if let Ok(reply) = world.client().send(request, Bytes::from(late)).await {
        assert_eq!(reply.status, 413, "{}", reply.text());
        assert_eq!(reply.json()["error"]["code"], "body_too_large");
        assert!(
            reply.text().contains("before the files"),
            "{}",
            reply.text()
        );
    }
}

#[tokio::test]
async fn a_second_model_reaches_no_backend() {
    let world = World::start().await.unwrap();
    let model = part("name=\"model\"", "dev/demo-model");
    let before = world.backend.stats().await.unwrap()["by_model"].clone();
    // Near and far: within what is held, and in the middle of what is streamed.
    for size in [10, 4 * 1024 * 1024] {
        let file = part("name=\"file\"; filename=\"a.wav\"", &"z".repeat(size));
        for second in [
            "name=\"model\"",
            "name=Model",
            "name=\"model[]\"",
            "name*=UTF-8''model",
        ] {
            let form = format!("{model}{file}{}{}", part(second, "fast"), last());
            let reply = upload(&world, PATH, form).await;
            let error = &reply.json()["error"];
            assert_eq!(
                (reply.status.as_u16(), &error["code"]),
                (400, &json!("bad_request")),
                "{second}"
            );
            assert_eq!(error["param"], "model", "{second}: {error}");
        }
    }
    let none = format!("{}{}", part("name=\"file\"", "x"), last());
    let reply = upload(&world, PATH, none).await;
    assert!(
        reply.status == 400 && reply.text().contains("no part `model`"),
        "{}",
        reply.text()
    );
    let wrong = format!("{}{}", part("name=\"model\"", "dev/nothing"), last());
    let reply = upload(&world, PATH, wrong).await;
    assert_eq!(reply.json()["error"]["code"], "model_not_found");
    let elsewhere = upload(&world, "/v1/chat/completions", format!("{model}{}", last())).await;
    assert_eq!(elsewhere.status, 400);
    assert_eq!(world.backend.stats().await.unwrap()["by_model"], before);
    world.serves().await.unwrap();
}
