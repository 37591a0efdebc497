//! Connections that change their protocol: the realtime API, WebSockets and other protocols of HTTP services.

use std::time::{Duration, Instant};

use bytes::Bytes;
use culvert_tests::world::World;
use futures_util::{SinkExt, StreamExt};
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async};

const FILE: &str = r#"
services:
  - name: llm
    kind: model
    url: http://{backend}/v1
  - name: web
    kind: http
    url: http://{backend}
    allow:
      - { methods: [GET], paths: ["/ws", "/switch/*"], upgrade: [websocket, echo] }
      - { methods: [GET, POST], paths: ["/__echo/**", "/v1/realtime"] }
"#;
/// Five times the bound of 100 ms: the clock is real and the machine is shared.
const CANCEL_LIMIT: Duration = Duration::from_millis(500);
/// Nothing here takes longer.
const PATIENCE: Duration = Duration::from_secs(20);

type Socket = WebSocketStream<TcpStream>;

async fn world() -> World {
    World::builder().agent_file(FILE).start().await.unwrap()
}

fn address(world: &World) -> String {
    world.gateway.url().trim_start_matches("http://").to_owned()
}

async fn within<F: Future>(what: &str, future: F) -> F::Output {
    let done = tokio::time::timeout(PATIENCE, future).await;
    done.unwrap_or_else(|_| panic!("{what}: not within {PATIENCE:?}"))
}

async fn try_open(
    world: &World,
    path: &str,
    headers: &[(&str, &str)],
) -> Result<(Socket, Response<Option<Vec<u8>>>), Error> {
    let address = address(world);
    let mut request = format!("ws://{address}{path}")
        .into_client_request()
        .unwrap();
    for (name, value) in headers {
        let name: HeaderName = name.parse().unwrap();
        request
            .headers_mut()
            .insert(name, HeaderValue::from_str(value).unwrap());
    }
    let stream = TcpStream::connect(&address).await.unwrap();
    within("a handshake", client_async(request, stream)).await
}

async fn open(world: &World, path: &str) -> Socket {
    let key = format!("Bearer {}", world.gateway.line.api_key);
    let opened = try_open(world, path, &[("authorization", &key)]).await;
    opened.unwrap().0
}

async fn next(socket: &mut Socket) -> Message {
    within("a message", socket.next()).await.unwrap().unwrap()
}

async fn event(socket: &mut Socket) -> Value {
    serde_json::from_str(next(socket).await.to_text().unwrap()).unwrap()
}

async fn noticed(world: &World, pointer: &str, count: u64) {
    let left = Instant::now();
    let counted = world.backend.counts(pointer, count, PATIENCE).await;
    counted.map_err(|error| world.explain(&error)).unwrap();
    assert!(left.elapsed() < CANCEL_LIMIT, "after {:?}", left.elapsed());
}

/// Waits until the backend has nothing left to do, and has seen nobody leave.
async fn whole(world: &World) {
    noticed(world, "/counts/active", 0).await;
    let stats = world.backend.stats().await.unwrap();
    assert_eq!(stats["counts"]["cancelled"], 0, "{stats}");
}

/// Waits for the socket to be over, in whatever way.
async fn over(socket: &mut Socket) -> Duration {
    let began = Instant::now();
    while let Some(Ok(_)) = within("an end", socket.next()).await {}
    began.elapsed()
}

#[tokio::test]
async fn a_realtime_conversation_passes_as_it_is() {
    let world = world().await;
    let mut socket = open(&world, "/v1/realtime?intent=x&model=dev%2Fdemo-model").await;
    let greeting = event(&mut socket).await;
    assert_eq!(greeting["type"], "session.created");
    assert_eq!(greeting["session"]["query"], "intent=x&model=demo-model");
    socket
        .send(Message::text(
            json!({"type": "response.create"}).to_string(),
        ))
        .await
        .unwrap();
    for kind in [
        "response.created",
        "response.output_text.delta",
        "response.done",
    ] {
        assert_eq!(event(&mut socket).await["type"], kind);
    }
    let large = Bytes::from(vec![7; 3 * 1024 * 1024]);
    for message in [
        Message::text("plain"),
        Message::binary(Bytes::from_static(&[0, 255, 1])),
        Message::binary(large),
    ] {
        socket.send(message.clone()).await.unwrap();
        assert_eq!(next(&mut socket).await, message);
    }
    socket
        .send(Message::Ping(Bytes::from_static(b"are you there")))
        .await
        .unwrap();
    let pong = next(&mut socket).await;
    assert_eq!(pong, Message::Pong(Bytes::from_static(b"are you there")));
    // The code and the reason of the backend's own close.
    socket
        .send(Message::text("close 4001 no more of this"))
        .await
        .unwrap();
    let frame = CloseFrame {
        code: CloseCode::from(4001),
        reason: "no more of this".into(),
    };
    assert_eq!(next(&mut socket).await, Message::Close(Some(frame)));
    over(&mut socket).await;
    noticed(&world, "/counts/active", 0).await;
}

#[tokio::test]
async fn the_callers_close_reaches_the_backend_and_the_record_knows_the_bytes() {
    let world = world().await;
    let mut socket = open(&world, "/v1/realtime?model=demo-model").await;
    event(&mut socket).await;
    socket.send(Message::text("x".repeat(1000))).await.unwrap();
    next(&mut socket).await;
    socket.close(None).await.unwrap();
    over(&mut socket).await;
    whole(&world).await;
    let recorded = world.gateway.process.logged("/v1/realtime", PATIENCE).await;
    recorded.map_err(|error| world.explain(&error)).unwrap();
    let log = world.gateway.process.log().text();
    let record = log
        .lines()
        .find(|line| line.contains("/v1/realtime"))
        .unwrap();
    for part in ["101", "demo-model"] {
        assert!(record.contains(part), "{part}: {record}");
    }
    let agent = world
        .agent
        .as_ref()
        .unwrap()
        .state_folder()
        .join("audit.jsonl");
    let lines = std::fs::read_to_string(agent).unwrap();
    let line = lines
        .lines()
        .find(|line| line.contains("/v1/realtime"))
        .unwrap();
    let line: Value = serde_json::from_str(line).unwrap();
    assert_eq!(line["status"], 101);
    for counted in ["bytes_in", "bytes_out"] {
        assert!(line[counted].as_u64().unwrap() > 1000, "{line}");
    }
}

#[tokio::test]
async fn a_web_page_sends_its_key_as_a_sub_protocol_and_no_backend_sees_it() {
    let world = world().await;
    let key = &world.gateway.line.api_key;
    let offered = format!("realtime, openai-insecure-api-key.{key}, openai-beta.realtime-v1");
    let path = "/v1/realtime?model=dev/demo-model";
    let offers = [("sec-websocket-protocol", offered.as_str())];
    // `dev` shows it once itself.
    let logged = || {
        world
            .gateway
            .process
            .log()
            .text()
            .matches(key.as_str())
            .count()
    };
    let before = logged();
    let (mut socket, head) = try_open(&world, path, &offers).await.unwrap();
    assert_eq!(head.headers()["sec-websocket-protocol"], "realtime");
    event(&mut socket).await;
    let wrong = [(
        "sec-websocket-protocol",
        "realtime, openai-insecure-api-key.cvk_wrong",
    )];
    let Err(Error::Http(refused)) = try_open(&world, path, &wrong).await else {
        panic!("a wrong key was let in");
    };
    assert_eq!(refused.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(logged(), before, "the log repeats the key");
    let seen = world.backend.requests().await.unwrap();
    let seen = serde_json::to_string(&seen).unwrap();
    assert!(seen.contains("realtime") && !seen.contains(key), "{seen}");
}

#[tokio::test]
async fn what_is_no_websocket_or_names_no_model_is_told_so() {
    let world = world().await;
    let key = format!("Bearer {}", world.gateway.line.api_key);
    for (path, status) in [
        ("/v1/realtime?model=dev/nothing", 404),
        ("/v1/realtime?model=demo-model&model=other", 400),
        // No `upgrade` in this entry of `allow`.
        ("/http/dev/web/v1/realtime", 403),
        ("/http/dev/web/nowhere", 403),
    ] {
        let refused = try_open(&world, path, &[("authorization", &key)]).await;
        let Err(Error::Http(refused)) = refused else {
            panic!("{path} was let through");
        };
        assert_eq!(refused.status().as_u16(), status, "{path}");
    }
    let plain = world
        .client()
        .get("/v1/realtime?model=demo-model")
        .await
        .unwrap();
    assert_eq!(
        (plain.status.as_u16(), &plain.json()["error"]["code"]),
        (400, &json!("bad_request"))
    );
    // Clients offer HTTP/2 by the way (curl does); nobody has to hear that.
    for path in ["/http/dev/web/__echo/x", "/v1/models"] {
        let request = world.client().request(Method::GET, path);
        let request = request
            .header("connection", "Upgrade, HTTP2-Settings")
            .header("upgrade", "h2c")
            .header("http2-settings", "AAMAAABkAAQAAP__");
        let reply = world.client().send(request, Bytes::new()).await.unwrap();
        assert_eq!(reply.status, 200);
        assert!(
            !reply.text().to_lowercase().contains("h2c"),
            "{}",
            reply.text()
        );
    }
}

/// Asks for `protocol` by hand; the head of the answer, and what is left of the connection.
async fn ask(world: &World, path: &str, protocol: &str) -> (String, TcpStream) {
    let (address, key) = (address(world), &world.gateway.line.api_key);
    let mut stream = TcpStream::connect(&address).await.unwrap();
    let request = format!(
        "GET {path} HTTP/1.1\r\nhost: {address}\r\nx-culvert-key: {key}\r\nconnection: upgrade\r\nupgrade: {protocol}\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(within("a head", stream.read_u8()).await.unwrap());
    }
    (String::from_utf8(head).unwrap().to_lowercase(), stream)
}

#[tokio::test]
async fn another_protocol_passes_where_it_is_listed_half_closed_too() {
    let world = world().await;
    let (head, mut stream) = ask(&world, "/http/dev/web/switch/echo", "echo").await;
    assert!(
        head.starts_with("http/1.1 101") && head.contains("\r\nupgrade: echo\r\n"),
        "{head}"
    );
    stream.write_all(b"one").await.unwrap();
    let mut piece = [0; 3];
    within("an echo", stream.read_exact(&mut piece))
        .await
        .unwrap();
    assert_eq!(&piece, b"one");
    stream.shutdown().await.unwrap();
    let mut rest = Vec::new();
    within("an end", stream.read_to_end(&mut rest))
        .await
        .unwrap();
    assert_eq!(rest, b"bye", "the backend spoke behind the caller's end");
    whole(&world).await;
}

#[tokio::test]
async fn an_answer_instead_of_a_change_passes_and_an_odd_change_does_not() {
    let world = world().await;
    for (how, status, body) in [
        ("declined", "426", "not with me"),
        ("fine", "200", "as if nothing had been asked"),
        ("unasked", "502", "backend_protocol"),
        ("other", "502", "backend_protocol"),
    ] {
        let path = format!("/http/dev/web/switch/{how}");
        let (head, mut stream) = ask(&world, &path, "echo").await;
        assert!(
            head.starts_with(&format!("http/1.1 {status}")),
            "{how}: {head}"
        );
        let length = head.split("content-length: ").nth(1).unwrap();
        let length: usize = length.split('\r').next().unwrap().parse().unwrap();
        let mut answer = vec![0; length];
        within("a body", stream.read_exact(&mut answer))
            .await
            .unwrap();
        let answer = String::from_utf8(answer).unwrap();
        assert!(answer.contains(body), "{how}: {answer}");
    }
    let unasked = world
        .client()
        .get("/http/dev/web/switch/unasked")
        .await
        .unwrap();
    assert_eq!(unasked.json()["error"]["code"], "backend_protocol");
    // Neither harmed anybody else.
    world.serves().await.unwrap();
}

#[tokio::test]
async fn whoever_goes_the_other_side_is_told_at_once() {
    let world = world().await;
    let silent = || async {
        let mut socket = open(&world, "/v1/realtime?model=demo-model").await;
        event(&mut socket).await;
        socket.send(Message::text("silence")).await.unwrap();
        socket
    };
    // The caller, without a word.
    for round in 1..=3 {
        let socket = silent().await;
        drop(socket);
        noticed(&world, "/counts/cancelled", round).await;
    }
    // The backend, in order but without a closing handshake.
    let mut socket = open(&world, "/http/dev/web/ws").await;
    socket.send(Message::text("die")).await.unwrap();
    let took = over(&mut socket).await;
    assert!(took < CANCEL_LIMIT, "{took:?}");
    noticed(&world, "/counts/active", 0).await;
}

#[tokio::test]
async fn a_dead_backend_and_a_cut_link_close_the_callers_connection() {
    let mut world = world().await;
    let mut socket = open(&world, "/v1/realtime?model=demo-model").await;
    event(&mut socket).await;
    world.backend.kill().await.unwrap();
    let took = over(&mut socket).await;
    assert!(took < CANCEL_LIMIT, "{took:?}");
    world.backend.restart().await.unwrap();
    world.serves().await.unwrap();
    let mut socket = open(&world, "/v1/realtime?model=demo-model").await;
    event(&mut socket).await;
    let agent = world.agent.take().unwrap();
    agent.process.kill().await.unwrap();
    // The death of a link is noticed within two seconds.
    let took = over(&mut socket).await;
    assert!(took < Duration::from_secs(10), "{took:?}");
}

#[tokio::test]
async fn http2_asks_by_extended_connect() {
    let world = world().await;
    let stream = TcpStream::connect(address(&world)).await.unwrap();
    let shaken = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let (mut sender, connection) = within("a preface", shaken).await.unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(connection);
    // The server's settings say that it may be asked so.
    let uri = |path: &str| format!("{}{path}", world.gateway.url());
    let plain = Request::get(uri("/v1/models"))
        .header("x-culvert-key", &world.gateway.line.api_key)
        .body(Empty::<Bytes>::new())
        .unwrap();
    within("a list", sender.send_request(plain)).await.unwrap();
    let request = Request::connect(uri("/v1/realtime?model=dev/demo-model"))
        .header("x-culvert-key", &world.gateway.line.api_key)
        .header("sec-websocket-version", "13")
        .extension(hyper::ext::Protocol::from_static("websocket"))
        .body(Empty::<Bytes>::new())
        .unwrap();
    let answer = within("a change", sender.send_request(request))
        .await
        .unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    for absent in ["upgrade", "connection", "sec-websocket-accept"] {
        assert!(!answer.headers().contains_key(absent), "{absent}");
    }
    let io = within("an upgrade", hyper::upgrade::on(answer))
        .await
        .unwrap();
    let role = tokio_tungstenite::tungstenite::protocol::Role::Client;
    let mut socket = WebSocketStream::from_raw_socket(TokioIo::new(io), role, None).await;
    let greeting = within("a greeting", socket.next()).await.unwrap().unwrap();
    assert!(greeting.to_text().unwrap().contains("model=demo-model"));
    socket.send(Message::text("hello")).await.unwrap();
    let echo = within("an echo", socket.next()).await.unwrap().unwrap();
    assert_eq!(echo, Message::text("hello"));
    // A decline is the backend's own answer, unless it would read as agreement.
    for (path, status) in [("declined", 426), ("fine", 502), ("websocket", 200)] {
        let request = Request::connect(uri(&format!("/http/dev/web/switch/{path}")))
            .header("x-culvert-key", &world.gateway.line.api_key)
            .extension(hyper::ext::Protocol::from_static("websocket"))
            .body(Empty::<Bytes>::new())
            .unwrap();
        let answer = within("an answer", sender.send_request(request))
            .await
            .unwrap();
        assert_eq!(answer.status().as_u16(), status, "{path}");
        if status == 426 {
            let body = within("a body", answer.into_body().collect())
                .await
                .unwrap();
            assert_eq!(body.to_bytes(), "not with me");
        }
    }
    drop(socket);
    noticed(&world, "/counts/active", 0).await;
}
