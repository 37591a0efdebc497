//! Joining over TCP: what a newcomer may do, and what a stranger may not.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use culvert_certs::{
    Authority, Credentials, JoinAnswer, JoinRequest, JoinSubject, JoinToken, KeyPair, RenewRequest,
    TokenSpec, tls,
};
use culvert_relay::{ControlRequest, Edge, JoinRefusal};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::world::{PATIENCE, Plan, World, acme, done, plane, vpc};

async fn tcp(world: &World) -> TcpStream {
    done("the connection", TcpStream::connect(world.relay.address()))
        .await
        .unwrap()
}

async fn tls(world: &World) -> TlsStream<TcpStream> {
    let pins = world.authority.pins().unwrap();
    let config = tls::join_client(&pins, world.authority.trust_domain()).unwrap();
    let name = ServerName::try_from("127.0.0.1").unwrap();
    done(
        "the handshake",
        TlsConnector::from(config).connect(name, tcp(world).await),
    )
    .await
    .unwrap()
}

fn token(world: &World) -> JoinToken {
    let spec = TokenSpec {
        addresses: vec![world.relay.address().to_string().parse().unwrap()],
        trust_domain: world.authority.trust_domain().clone(),
        subject: JoinSubject::Connector {
            tenant: acme(),
            connector: vpc(),
        },
        pins: world.authority.pins().unwrap(),
        expiry: SystemTime::now() + Duration::from_secs(60),
    };
    JoinToken::mint(spec).unwrap().0
}

fn request(world: &World) -> JoinRequest {
    JoinRequest::new(&token(world), KeyPair::generate().unwrap().csr().unwrap()).unwrap()
}

fn http(body: &str) -> String {
    format!(
        "POST /v1/join HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// Everything that comes until the relay closes; a reset counts as the end.
async fn rest(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut all = Vec::new();
    let mut some = [0; 4096];
    let read = async {
        while let Ok(count @ 1..) = stream.read(&mut some).await {
            all.extend_from_slice(&some[..count]);
        }
    };
    done("the relay's close", read).await;
    String::from_utf8_lossy(&all).into_owned()
}

async fn exchange(world: &World, request: &str) -> String {
    let mut stream = tls(world).await;
    stream.write_all(request.as_bytes()).await.unwrap();
    rest(&mut stream).await
}

fn status(answer: &str) -> &str {
    answer
        .split(' ')
        .nth(1)
        .unwrap_or_else(|| panic!("no answer: {answer:?}"))
}

#[tokio::test]
async fn a_join_is_handed_to_control_and_its_answer_comes_back() {
    let mut world = World::new().await;
    let request = request(&world);
    let answer = JoinAnswer {
        id: world.agent().identity,
        chain: world.agent().chain,
        bundle: world.authority.bundle().as_bytes().to_vec(),
        dns_suffixes: Vec::new(),
        addresses: vec![world.relay.address().to_string().parse().unwrap()],
        gateway_url: None,
    };
    let sent = http(&serde_json::to_string(&request).unwrap());
    let mut stream = tls(&world).await;
    stream.write_all(sent.as_bytes()).await.unwrap();
    let asked = done("the request", world.control.recv()).await.unwrap();
    let ControlRequest::Join {
        request: got,
        source,
        reply,
    } = asked
    else {
        panic!("{asked:?}")
    };
    assert_eq!(got, request);
    assert_eq!(source, stream.get_ref().0.local_addr().unwrap());
    reply.send(Ok(answer.clone())).unwrap();
    let text = rest(&mut stream).await;
    assert_eq!(status(&text), "200");
    let body = text.split_once("\r\n\r\n").unwrap().1;
    assert_eq!(serde_json::from_str::<JoinAnswer>(body).unwrap(), answer);
}

fn renewal(credentials: &Credentials) -> Vec<u8> {
    let next = KeyPair::generate().unwrap();
    let request = RenewRequest::new(credentials, &next).unwrap();
    request.encode().unwrap()
}

/// The credentials of an agent whose leaf is past its end.
fn expired(world: &World) -> Credentials {
    let hour = Duration::from_secs(3_600);
    let long_ago = SystemTime::now() - 2 * hour;
    let identity = world.agent().identity;
    world
        .authority
        .enroll(&identity, &[], hour, long_ago)
        .unwrap()
}

async fn post_renewal(world: &World, body: &[u8]) -> TlsStream<TcpStream> {
    let mut stream = tls(world).await;
    let length = body.len();
    let head = format!("POST /v1/renew HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(body).await.unwrap();
    stream
}

/// A world that is old enough for agents whose leaf has expired.
async fn old_world() -> World {
    let born = SystemTime::now() - Duration::from_secs(24 * 3_600);
    let authority = Authority::create("culvert.test".parse().unwrap(), born).unwrap();
    World::of(authority, Plan::default()).await
}

/// Without a link, and with nothing believed but the proof that the request carries.
#[tokio::test]
async fn a_renewal_of_an_expired_agent_is_handed_to_control_and_its_answer_comes_back() {
    let mut world = old_world().await;
    let sent = renewal(&expired(&world));
    let word = Bytes::from_static(b"control's words");
    for (answer, expected, holds) in [
        (Ok(Bytes::from_static(b"{\"id\":1}")), "200", "{\"id\":1}"),
        (Err(JoinRefusal::Refused), "403", "\"refused\""),
        (
            Err(JoinRefusal::Revoked(word)),
            "403",
            "\"signed\":\"Y29udHJvbCdzIHdvcmRz\"",
        ),
        (Err(JoinRefusal::Unavailable), "503", "\"unavailable\""),
    ] {
        let mut stream = post_renewal(&world, &sent).await;
        let asked = done("the request", world.control.recv()).await.unwrap();
        let ControlRequest::Renew {
            source,
            request,
            reply,
        } = asked
        else {
            panic!("{asked:?}")
        };
        assert_eq!(request, sent);
        assert_eq!(source, stream.get_ref().0.local_addr().unwrap());
        reply.send(answer).unwrap();
        let text = rest(&mut stream).await;
        assert_eq!(status(&text), expected);
        assert!(text.contains(holds), "{text}");
    }
}

/// What the relay can see for itself costs control nothing.
#[tokio::test]
async fn only_an_expired_agent_with_a_proof_renews_at_the_door_and_once_at_a_time() {
    let mut world = old_world().await;
    let agent = expired(&world);
    let mut forged = RenewRequest::new(&agent, &KeyPair::generate().unwrap()).unwrap();
    forged.csr = KeyPair::generate().unwrap().csr().unwrap();
    let hour = Duration::from_secs(3_600);
    let long_ago = SystemTime::now() - 2 * hour;
    let identity = plane(&world.authority).identity;
    let replica = world
        .authority
        .enroll(&identity, &[], hour, long_ago)
        .unwrap();
    for (sent, expected) in [
        (b"no renewal".to_vec(), "400"),
        (forged.encode().unwrap(), "403"),
        (renewal(&replica), "403"),
        (renewal(&world.agent()), "503"),
    ] {
        let mut stream = post_renewal(&world, &sent).await;
        assert_eq!(status(&rest(&mut stream).await), expected);
        assert!(world.control.try_recv().is_err());
    }
    let _first = post_renewal(&world, &renewal(&agent)).await;
    let asked = done("the request", world.control.recv()).await.unwrap();
    let mut second = post_renewal(&world, &renewal(&agent)).await;
    assert_eq!(status(&rest(&mut second).await), "503");
    drop(asked);
}

#[tokio::test]
async fn refusals_look_alike_and_silence_is_unavailable() {
    let mut world = World::new().await;
    let sent = http(&serde_json::to_string(&request(&world)).unwrap());
    for (answer, expected) in [
        (Some(JoinRefusal::Refused), "403"),
        (Some(JoinRefusal::Unavailable), "503"),
        (None, "503"),
    ] {
        let mut stream = tls(&world).await;
        stream.write_all(sent.as_bytes()).await.unwrap();
        let asked = done("the request", world.control.recv()).await.unwrap();
        let ControlRequest::Join { reply, .. } = asked else {
            panic!("{asked:?}")
        };
        match answer {
            Some(refusal) => reply.send(Err(refusal)).unwrap(),
            None => drop(reply),
        }
        let text = rest(&mut stream).await;
        assert_eq!(status(&text), expected);
        assert_eq!(text.contains("retry-after"), expected == "503");
    }
    // Nobody takes requests any more.
    world.control.close();
    assert_eq!(status(&exchange(&world, &sent).await), "503");
}

#[tokio::test]
async fn only_one_post_to_one_path_is_served() {
    let mut world = World::new().await;
    let cases = [
        ("GET /v1/join HTTP/1.1\r\nhost: x\r\n\r\n", "405"),
        (
            "POST /v1/other HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n",
            "404",
        ),
        ("GET / HTTP/1.1\r\nhost: x\r\n\r\n", "404"),
        ("GET /v1/renew HTTP/1.1\r\nhost: x\r\n\r\n", "405"),
        (
            "POST /v1/join HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\n\r\nnull",
            "400",
        ),
        (
            "POST /v1/join HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}",
            "400",
        ),
        ("this is no HTTP\r\n\r\n", "400"),
    ];
    for (sent, expected) in cases {
        assert_eq!(status(&exchange(&world, sent).await), expected, "{sent}");
    }
    assert!(world.control.try_recv().is_err());
}

#[tokio::test]
async fn huge_input_is_refused_without_being_read() {
    let mut world = World::new().await;
    let declared = "POST /v1/join HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n";
    assert_eq!(
        status(&exchange(&world, &format!("{declared}{}", "x".repeat(20_000))).await),
        "413"
    );
    let chunk = format!("4e20\r\n{}\r\n", "x".repeat(20_000));
    let chunked =
        format!("POST /v1/join HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n{chunk}");
    assert_eq!(status(&exchange(&world, &chunked).await), "413");
    let head = format!(
        "POST /v1/join HTTP/1.1\r\nx: {}\r\n\r\n",
        "x".repeat(40_000)
    );
    assert_eq!(status(&exchange(&world, &head).await), "431");
    assert!(world.control.try_recv().is_err());
}

/// The bounds are 5 s each; a test on the real clock gives them five times that.
#[tokio::test]
async fn slow_input_is_cut_off() {
    let world = World::new().await;
    let started = Instant::now();
    let slow_hello = async {
        let mut stream = tcp(&world).await;
        stream.write_all(&[0x16, 3, 1]).await.unwrap();
        rest(&mut stream).await
    };
    let slow_head = async {
        let mut stream = tls(&world).await;
        stream.write_all(b"POST /v1/jo").await.unwrap();
        rest(&mut stream).await
    };
    let slow_body = async {
        let mut stream = tls(&world).await;
        let head = b"POST /v1/join HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{";
        stream.write_all(head).await.unwrap();
        rest(&mut stream).await
    };
    let (hello, head, body) = tokio::join!(slow_hello, slow_head, slow_body);
    assert!(started.elapsed() < Duration::from_secs(25));
    assert_eq!((hello.as_str(), status(&body)), ("", "408"));
    assert!(head.is_empty() || status(&head) == "408", "{head}");
}

#[tokio::test]
async fn what_is_no_tls_hello_is_closed() {
    let world = World::new().await;
    let mut endless = vec![0x16, 3, 1, 0x40, 0, 1, 0, 0xff, 0xff];
    endless.resize(64 * 1024, 0);
    let seed: u64 = 20_261_122;
    let noise: Vec<u8> = (0..4_096_u64)
        .map(|n| {
            (seed
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(n * n * 2_654_435_761)
                >> 24) as u8
        })
        .collect();
    for garbage in [b"GET / HTTP/1.1\r\n\r\n".to_vec(), endless, noise] {
        let mut stream = tcp(&world).await;
        // The relay may have closed before all of it is written.
        stream.write_all(&garbage).await.ok();
        let started = Instant::now();
        rest(&mut stream).await;
        assert!(started.elapsed() < PATIENCE);
    }
    assert_eq!(
        status(&exchange(&world, "GET / HTTP/1.1\r\nhost: x\r\n\r\n").await),
        "404"
    );
}

fn public_client(world: &World, protocols: &[&[u8]]) -> TlsConnector {
    let pins = world.authority.pins().unwrap();
    let config = tls::join_client(&pins, world.authority.trust_domain()).unwrap();
    let mut config = rustls::ClientConfig::clone(&config);
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    TlsConnector::from(Arc::new(config))
}

#[tokio::test]
async fn the_public_reaches_the_edge_of_the_embedder_and_not_the_join() {
    let authority = Authority::create("culvert.test".parse().unwrap(), SystemTime::now()).unwrap();
    let (_hold, follow) = watch::channel(tls::edge_server(&plane(&authority)).unwrap());
    let (connections, mut edge) = mpsc::channel(4);
    let plan = Plan {
        edge: Some(Edge {
            tls: follow,
            connections,
        }),
        ..Plan::default()
    };
    let world = World::of(authority, plan).await;
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let connector = public_client(&world, &[b"h2", b"http/1.1"]);
    let mut client = done("the handshake", connector.connect(name, tcp(&world).await))
        .await
        .unwrap();
    let mut served = done("the edge", edge.recv()).await.unwrap();
    assert_eq!(served.stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    assert_eq!(served.source, client.get_ref().0.local_addr().unwrap());
    served.stream.write_all(b"hello").await.unwrap();
    served.stream.flush().await.unwrap();
    let mut hello = [0; 5];
    done("the greeting", client.read_exact(&mut hello))
        .await
        .unwrap();
    assert_eq!(&hello, b"hello");
}

#[tokio::test]
async fn without_an_edge_the_public_is_turned_away_and_links_over_tcp_are_not_served() {
    let world = World::new().await;
    for protocols in [&[&b"h2"[..]][..], &[&b"culvert/1"[..]][..], &[][..]] {
        let name = ServerName::try_from("127.0.0.1").unwrap();
        let connector = public_client(&world, protocols);
        let outcome = done("the handshake", connector.connect(name, tcp(&world).await)).await;
        assert!(outcome.is_err(), "{protocols:?}");
    }
}
