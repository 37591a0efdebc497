//! Callers that hold connections: without a request, without taking answers, or too many.

use std::time::Duration;

use bytes::Bytes;
use culvert_gateway::server::Bounds;
use http::{Request, Uri};
use http_body_util::Empty;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    task::JoinSet,
    time::{Instant, timeout},
};

use crate::{
    tls::{connect, is_served},
    world::{PATIENCE, World},
};

const HEAD: Duration = Duration::from_millis(500);
const STALL: Duration = Duration::from_secs(1);

async fn world(head_timeout: Duration) -> World {
    World::with(|plane| {
        plane.bounds = Bounds {
            head_timeout,
            write_stall: STALL,
            ..plane.bounds
        };
    })
    .await
}

/// Reads until the gateway ends the connection, and says after how long it did.
async fn until_end(caller: &mut TcpStream, bound: Duration) -> Duration {
    let began = Instant::now();
    let mut read = Vec::new();
    let ended = timeout(5 * bound, caller.read_to_end(&mut read)).await;
    assert!(ended.is_ok(), "still there after five times {bound:?}");
    began.elapsed()
}

#[tokio::test]
async fn connections_without_a_request_end() {
    let world = world(HEAD).await;
    let key = world.bearer();
    let get = format!("GET /v1/models HTTP/1.1\r\nhost: gw\r\n{key}\r\n\r\n");
    // Nothing at all, half a head, and a whole request with nothing behind it.
    for said in ["", "GET /v1/mod", &get] {
        let mut caller = TcpStream::connect(world.address).await.unwrap();
        caller.write_all(said.as_bytes()).await.unwrap();
        let lasted = until_end(&mut caller, 2 * HEAD).await;
        assert!(lasted >= HEAD / 2, "{lasted:?} after {said:?}");
    }
}

#[tokio::test]
async fn a_caller_that_takes_nothing_is_let_go_of() {
    // That half a head stands behind what it has asked for is not what ends it.
    let world = world(10 * PATIENCE).await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut caller = socket.connect(world.address).await.unwrap();
    let key = world.bearer();
    let get = format!("GET /v1/models HTTP/1.1\r\nhost: gw\r\n{key}\r\n\r\n").repeat(64);
    // It asks on and on, and reads no answer: the gateway cannot write, and so reads no further.
    let asking = async { while caller.write_all(get.as_bytes()).await.is_ok() {} };
    let ended = timeout(5 * STALL + PATIENCE, asking).await;
    assert!(ended.is_ok(), "the gateway waits for ever");
}

#[tokio::test]
async fn a_caller_that_grants_no_window_is_let_go_of() {
    let world = world(HEAD).await;
    let stream = TcpStream::connect(world.address).await.unwrap();
    let mut client = http2::Builder::new(TokioExecutor::new());
    client.initial_stream_window_size(0);
    let (mut sender, connection) = client.handshake(TokioIo::new(stream)).await.unwrap();
    let mut driving = JoinSet::new();
    driving.spawn(connection);
    let uri: Uri = format!("http://{}/v1/models", world.address)
        .parse()
        .unwrap();
    let request = Request::get(uri).header("x-culvert-key", &world.key);
    let request = request.body(Empty::<Bytes>::new()).unwrap();
    let answer = timeout(PATIENCE, sender.send_request(request))
        .await
        .unwrap();
    assert_eq!(
        answer.as_ref().unwrap().status(),
        200,
        "the head needs no window"
    );
    let began = Instant::now();
    let ended = timeout(5 * (STALL + HEAD), driving.join_next()).await;
    assert!(ended.is_ok(), "the gateway waits for ever");
    assert!(began.elapsed() >= STALL / 2, "not at once");
    drop(answer);
}

#[tokio::test]
async fn one_address_has_its_share_of_connections_over_tls() {
    let world = World::with(|plane| plane.bounds.connections = 8).await;
    let mut own = Vec::new();
    for _ in 0..2 {
        let mut caller = connect(world.callers, world.roots.roots()).await.unwrap();
        assert!(is_served(&mut caller).await);
        own.push(caller);
    }
    assert!(!is_served(&mut connect(world.callers, world.roots.roots()).await.unwrap()).await);
    own.pop();
    // That it has gone is seen a moment later.
    let again = async {
        while !is_served(&mut connect(world.callers, world.roots.roots()).await.unwrap()).await {}
    };
    timeout(PATIENCE, again).await.unwrap();
    // Without TLS they may all come from a balancer.
    let mut plain = Vec::new();
    for _ in 0..4 {
        let caller = TcpStream::connect(world.address).await.unwrap();
        plain.push(caller);
    }
    assert_eq!(
        world
            .send("GET /v1/models", &[&world.bearer()], "")
            .await
            .status,
        200
    );
}
