//! What those may occupy who are not linked, and what they take from nobody.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use culvert_certs::{Authority, Credentials, Expect, tls};
use culvert_relay::limits::{
    MAX_JOINS_PER_SOURCE, MAX_TCP_PENDING_PER_SOURCE, MAX_TURNED_AWAY_PER_TENANT, TURNED_AWAY_WAIT,
};
use culvert_relay::{DoorLimits, Edge, Subject};
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

/// The places of those who may greet to hear why are few, and one tenant's are its own.
#[tokio::test]
async fn a_crowd_that_is_turned_away_waits_for_no_greeting() {
    let world = World::new().await;
    let signed = revoke_acme(&world);
    let deadline = Instant::now() + PATIENCE;
    loop {
        let crowd = (0..MAX_TURNED_AWAY_PER_TENANT).map(|_| silent(&world));
        let crowd = join_all(crowd).await;
        match TestAgent::echo(&world).dial(&world, None).await {
            Err(NoLink::Closed(_)) => break,
            // The crowd was gone before it came.
            Err(NoLink::Rejected(reject)) => assert_eq!(reject.signed, Some(signed.clone())),
            Ok(link) => panic!("the link stands: {:?}", link.welcome),
        }
        assert!(Instant::now() < deadline, "{} may wait", crowd.len());
    }
    // Another tenant's unknown connector is told in order meanwhile.
    let (rival, vpc) = ("rival".parse().unwrap(), "prod-vpc".parse().unwrap());
    let hour = Duration::from_secs(3_600);
    let stranger = crate::world::agent_of(&world.authority, rival, vpc, hour);
    let stranger = TestAgent::new(stranger, crate::agent::echo());
    assert_eq!(
        rejected(stranger.dial(&world, None).await),
        Code::NotAllowed
    );
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

#[tokio::test]
async fn those_who_join_and_say_nothing_take_places_from_their_own_address_only() {
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
    let mut silent = Vec::new();
    while is_answered(&world, HERE).await {
        assert!(silent.len() < 4 * MAX_JOINS_PER_SOURCE, "no cap is kept");
        for _ in 0..MAX_JOINS_PER_SOURCE {
            silent.push(secure(&world, HERE, b"culvert-join/1").await.unwrap());
        }
    }
    assert!(is_answered(&world, THERE).await);
    let _public = secure(&world, HERE, b"http/1.1").await.unwrap();
    done("the edge", edge.recv()).await.unwrap();
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

#[tokio::test]
async fn handshakes_over_udp_and_tcp_share_their_rate() {
    let doors = DoorLimits {
        handshakes_per_second: 5,
        ..DoorLimits::default()
    };
    let world = World::with(Plan {
        doors,
        ..Plan::default()
    })
    .await;
    let started = Instant::now();
    let agent = world.agent();
    let links = join_all((0..20).map(|_| connect(&world, &agent)));
    let joins = join_all((0..20).map(|_| secure(&world, HERE, b"culvert-join/1")));
    let (links, joins) = tokio::join!(links, joins);
    let took = started.elapsed();
    let links = links.iter().filter(|link| link.is_ok()).count();
    let joins = joins.iter().filter(|join| join.is_ok()).count();
    println!("{links} links and {joins} joins in {took:?}");
    assert!(links + joins >= 5);
    // The burst, what comes back meanwhile, and one for the clock.
    let most = 5.0 + 5.0 * took.as_secs_f64() + 1.0;
    assert!(((links + joins) as f64) <= most, "more than {most}");
}
