//! What those may occupy who are not linked, and what they take from nobody.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use culvert_certs::{
    Authority, Credentials, Expect, JoinRequest, JoinSubject, JoinToken, KeyPair, TokenSpec, tls,
};
use culvert_relay::limits::{
    GREETING_WAIT, MAX_GREETING_PER_AGENT, MAX_JOINS, MAX_JOINS_PER_SOURCE,
    MAX_TCP_PENDING_PER_SOURCE, MAX_TURNED_AWAY, TURNED_AWAY_WAIT,
};
use culvert_relay::{ControlRequest, DoorLimits, Edge, EdgeConnection, Subject};
use culvert_tunnel::{Connection, ConnectionEnd, DialError, Dialer, Target, UdpOptions, Verify};
use culvert_wire::Code;
use futures_util::future::join_all;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::agent::{NoLink, TestAgent, rejected};
use crate::world::{PATIENCE, Plan, World, acme, done, plane};

/// A connection whose handshake is done, and that says nothing.
async fn connect(world: &World, credentials: &Credentials) -> Result<Connection, DialError> {
    let address = world.relay.address();
    let target = Target {
        host: address.ip().to_string(),
        port: address.port(),
        addresses: vec![address.ip()],
    };
    let verify = Verify {
        bundle: credentials.bundle.clone(),
        expect: Expect::Plane,
    };
    let tls = tls::agent_link_client(credentials).unwrap();
    let dialer = Dialer::new(UdpOptions::default());
    done("the dial", dialer.dial(&target, tls, &verify)).await
}

async fn silent(world: &World) -> Connection {
    connect(world, &world.agent()).await.unwrap()
}

fn code(end: &ConnectionEnd) -> Code {
    let ConnectionEnd::Peer { code, .. } = end else {
        panic!("not closed with a code: {end}")
    };
    *code
}

fn revoke_acme(world: &World) -> Bytes {
    let signed = Bytes::from_static(b"signed by control");
    world.change_admission(|admission| {
        admission.deny.deny_tenant(acme(), SystemTime::now());
        let tenant = Subject::Tenant(acme());
        admission.statements.insert(tenant, signed.clone());
    });
    signed
}

#[tokio::test]
async fn who_was_revoked_is_closed_with_the_code_though_it_says_nothing() {
    let world = World::new().await;
    revoke_acme(&world);
    let started = Instant::now();
    let end = done("the close", silent(&world).await.closed()).await;
    println!("closed after {:?}", started.elapsed());
    assert_eq!(code(&end), Code::Revoked);
    assert!(started.elapsed() < TURNED_AWAY_WAIT * 5);
}

/// Whoever has the key of one that was revoked takes the places of that one alone.
#[tokio::test]
async fn a_crowd_that_was_revoked_leaves_others_the_word() {
    let world = World::new().await;
    let signed = revoke_acme(&world);
    let stolen = world.agent();
    let deadline = Instant::now() + PATIENCE;
    loop {
        let crowd = (0..2 * MAX_TURNED_AWAY).map(|_| connect(&world, &stolen));
        let crowd = join_all(crowd).await;
        // Its own places are taken, or the crowd was gone before it came.
        let last = TestAgent::new(stolen.clone(), crate::agent::echo());
        let is_full = match last.dial(&world, None).await {
            Err(NoLink::TurnedAway(Code::Revoked)) => true,
            Err(NoLink::Rejected(_)) => false,
            other => panic!("{:?}", other.err()),
        };
        match TestAgent::echo(&world).dial(&world, None).await {
            Err(NoLink::Rejected(reject)) => assert_eq!(reject.signed, Some(signed.clone())),
            other => panic!("told nothing: {:?}", other.err()),
        }
        if is_full {
            break;
        }
        assert!(Instant::now() < deadline, "{} may wait", crowd.len());
    }
}

/// Only control's word is more than the code: who is turned away for anything else takes no place.
#[tokio::test]
async fn who_was_not_revoked_is_closed_with_the_code() {
    let world = World::new().await;
    let (rival, vpc) = ("rival".parse().unwrap(), "prod-vpc".parse().unwrap());
    let hour = Duration::from_secs(3_600);
    let stranger = crate::world::agent_of(&world.authority, rival, vpc, hour);
    let stranger = TestAgent::new(stranger, crate::agent::echo());
    match stranger.dial(&world, None).await {
        Err(NoLink::TurnedAway(code)) => assert_eq!(code, Code::NotAllowed),
        other => panic!("{:?}", other.err()),
    }
}

#[tokio::test]
async fn an_agent_that_dials_and_says_nothing_leaves_its_tenant_the_places() {
    let doors = DoorLimits {
        greeting: 2 * MAX_GREETING_PER_AGENT,
        ..DoorLimits::default()
    };
    let world = World::with(Plan {
        doors,
        ..Plan::default()
    })
    .await;
    let culprit = world.agent();
    let dials = (0..3 * MAX_GREETING_PER_AGENT).map(|_| connect(&world, &culprit));
    let silent = join_all(dials).await;
    let again = TestAgent::new(culprit, crate::agent::echo());
    assert_eq!(rejected(again.dial(&world, None).await), Code::Busy);
    let _link = TestAgent::echo(&world).link(&world).await;
    drop(silent);
}

/// The bound is 5 s; a test on the real clock gives it five times that.
#[tokio::test]
async fn who_does_not_greet_is_closed() {
    let world = World::new().await;
    let started = Instant::now();
    let (mute, open) = (silent(&world).await, silent(&world).await);
    let control = open.open_control().await.unwrap();
    let ends = tokio::join!(mute.closed(), open.closed());
    drop(control);
    println!("closed after {:?}", started.elapsed());
    assert_eq!(
        (code(&ends.0), code(&ends.1)),
        (Code::Protocol, Code::Protocol)
    );
    assert!(started.elapsed() >= GREETING_WAIT);
    assert!(started.elapsed() < GREETING_WAIT * 5);
}

#[tokio::test]
async fn proven_connections_are_counted_until_they_are_linked() {
    let doors = DoorLimits {
        greeting: 2,
        ..DoorLimits::default()
    };
    let world = World::with(Plan {
        doors,
        ..Plan::default()
    })
    .await;
    let agent = TestAgent::echo(&world);
    let first = connect(&world, &agent.credentials).await.unwrap();
    let second = silent(&world).await;
    let deadline = Instant::now() + PATIENCE;
    while let Ok(link) = TestAgent::echo(&world).dial(&world, None).await {
        // The relay has not seen the end of both handshakes yet.
        drop(link);
        assert!(Instant::now() < deadline, "no cap is kept");
    }
    assert_eq!(
        rejected(TestAgent::echo(&world).dial(&world, None).await),
        Code::Busy
    );
    let _link = agent.greet(first, None).await.unwrap();
    while let Err(refused) = TestAgent::echo(&world).dial(&world, None).await {
        assert!(Instant::now() < deadline, "still {refused:?}");
    }
    assert_eq!(second.end(), None, "it was the first that made room");
}

fn connector(world: &World, protocol: &[u8]) -> TlsConnector {
    let pins = world.authority.pins().unwrap();
    let config = tls::join_client(&pins, world.authority.trust_domain()).unwrap();
    let mut config = rustls::ClientConfig::clone(&config);
    config.alpn_protocols = vec![protocol.to_vec()];
    TlsConnector::from(Arc::new(config))
}

async fn tcp(world: &World, from: [u8; 4]) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from((from, 0))).unwrap();
    let connecting = socket.connect(world.relay.address());
    done("the connection", connecting).await.unwrap()
}

async fn secure(
    world: &World,
    from: [u8; 4],
    protocol: &[u8],
) -> std::io::Result<TlsStream<TcpStream>> {
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let stream = tcp(world, from).await;
    done(
        "the handshake",
        connector(world, protocol).connect(name, stream),
    )
    .await
}

/// Whether the desk of those who join answers a request from this address.
async fn is_answered(world: &World, from: [u8; 4]) -> bool {
    let Ok(mut stream) = secure(world, from, b"culvert-join/1").await else {
        return false;
    };
    stream
        .write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .ok();
    let mut answer = Vec::new();
    done("the answer", stream.read_to_end(&mut answer))
        .await
        .ok();
    answer.starts_with(b"HTTP/1.1 404")
}

const HERE: [u8; 4] = [127, 0, 0, 2];
const THERE: [u8; 4] = [127, 0, 0, 3];

/// A world whose port serves the public too.
async fn public_world(
    doors: DoorLimits,
) -> (
    World,
    mpsc::Receiver<EdgeConnection>,
    watch::Sender<Arc<rustls::ServerConfig>>,
) {
    let authority = Authority::create("culvert.test".parse().unwrap(), SystemTime::now()).unwrap();
    let (hold, follow) = watch::channel(tls::edge_server(&plane(&authority)).unwrap());
    let (connections, edge) = mpsc::channel(64);
    let plan = Plan {
        edge: Some(Edge {
            tls: follow,
            connections,
        }),
        doors,
        ..Plan::default()
    };
    (World::of(authority, plan).await, edge, hold)
}

fn join_request(world: &World) -> String {
    let spec = TokenSpec {
        addresses: vec![world.relay.address().to_string().parse().unwrap()],
        trust_domain: world.authority.trust_domain().clone(),
        subject: JoinSubject::Connector {
            tenant: acme(),
            connector: crate::world::vpc(),
        },
        pins: world.authority.pins().unwrap(),
        expiry: SystemTime::now() + Duration::from_secs(60),
    };
    let token = JoinToken::mint(spec).unwrap().0;
    let csr = KeyPair::generate().unwrap().csr().unwrap();
    let body = serde_json::to_string(&JoinRequest::new(&token, csr).unwrap()).unwrap();
    format!(
        "POST /v1/join HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// Slow requests occupy what a connection in its handshake would, and nothing of control's.
#[tokio::test]
async fn slow_requests_from_many_addresses_keep_nobody_from_joining() {
    let (mut world, mut edge, _hold) = public_world(DoorLimits::default()).await;
    let mut slow = Vec::new();
    for last in 10..10 + (2 * MAX_JOINS / MAX_JOINS_PER_SOURCE) as u8 {
        for _ in 0..MAX_JOINS_PER_SOURCE {
            let from = [127, 0, 0, last];
            let mut stream = secure(&world, from, b"culvert-join/1").await.unwrap();
            let head = b"POST /v1/join HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{";
            stream.write_all(head).await.unwrap();
            slow.push(stream);
        }
    }
    let sent = join_request(&world);
    let mut honest = secure(&world, HERE, b"culvert-join/1").await.unwrap();
    honest.write_all(sent.as_bytes()).await.unwrap();
    let asked = done("the request", world.control.recv()).await.unwrap();
    assert!(matches!(asked, ControlRequest::Join { .. }), "{asked:?}");
    let _public = secure(&world, HERE, b"http/1.1").await.unwrap();
    done("the edge", edge.recv()).await.unwrap();
}

#[tokio::test]
async fn one_address_has_its_share_of_control_and_is_told_to_come_back() {
    let mut world = World::new().await;
    let sent = join_request(&world);
    let mut asked = Vec::new();
    let mut streams = Vec::new();
    for _ in 0..MAX_JOINS_PER_SOURCE {
        let mut stream = secure(&world, HERE, b"culvert-join/1").await.unwrap();
        stream.write_all(sent.as_bytes()).await.unwrap();
        asked.push(done("the request", world.control.recv()).await.unwrap());
        streams.push(stream);
    }
    let mut surplus = secure(&world, HERE, b"culvert-join/1").await.unwrap();
    surplus.write_all(sent.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let read = surplus.read_to_end(&mut answer);
    done("the answer", read).await.ok();
    assert!(answer.starts_with(b"HTTP/1.1 503"), "{answer:?}");
    let mut other = secure(&world, THERE, b"culvert-join/1").await.unwrap();
    other.write_all(sent.as_bytes()).await.unwrap();
    done("the request", world.control.recv()).await.unwrap();
}

#[tokio::test]
async fn connections_without_a_hello_take_places_from_their_own_address_only() {
    let world = World::new().await;
    let mut silent = Vec::new();
    while is_answered(&world, HERE).await {
        assert!(
            silent.len() < 4 * MAX_TCP_PENDING_PER_SOURCE,
            "no cap is kept"
        );
        for _ in 0..MAX_TCP_PENDING_PER_SOURCE {
            silent.push(tcp(&world, HERE).await);
        }
    }
    assert!(is_answered(&world, THERE).await);
}

/// Links that flood the port are turned away above their rate; the public waits for its turn in its
/// own, and nobody of it is cut.
#[tokio::test]
async fn a_flood_of_links_closes_no_connection_of_the_public() {
    let doors = DoorLimits {
        handshakes_per_second: 18,
        ..DoorLimits::default()
    };
    let (world, mut edge, _hold) = public_world(doors).await;
    let started = Instant::now();
    let agent = world.agent();
    let links = join_all((0..60).map(|_| connect(&world, &agent)));
    let callers = join_all((0..15).map(|n| {
        let from = [127, 0, 0, 2 + n % 3];
        secure(&world, from, b"http/1.1")
    }));
    let taken = async {
        for _ in 0..15 {
            edge.recv().await.unwrap();
        }
    };
    let (links, callers, ()) =
        done("the crowd", async { tokio::join!(links, callers, taken) }).await;
    let took = started.elapsed();
    let links = links.iter().filter(|link| link.is_ok()).count();
    println!("{links} links in {took:?}");
    for caller in callers {
        caller.unwrap();
    }
    // The burst, what comes back meanwhile, and one for the clock.
    let most = 12.0 + 12.0 * took.as_secs_f64() + 1.0;
    assert!(
        (1..60).contains(&links) && (links as f64) <= most,
        "{links} of {most}"
    );
}
