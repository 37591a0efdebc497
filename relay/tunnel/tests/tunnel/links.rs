//! Dialling, accepting, and what stands in the way.

use std::net::{Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use culvert_certs::{Expect, Identity, tls};
use culvert_tunnel::limits::DIAL_TIMEOUT;
use culvert_tunnel::limits::ENDPOINTS_PER_FAMILY;
use culvert_tunnel::udp_path::{Tap, Verdict};
use culvert_tunnel::{
    Connection, ConnectionEnd, DialError, Dialer, FloodLimits, HandshakeError, HandshakeRate,
    ResetKeys, Target, Transport, UdpOptions,
};
use culvert_wire::Code;

use crate::world::{Link, Relay, Town, done, echo_all, round_trip, run, target};

/// The bound of a dial that gets no reply.
const NO_REPLY: Duration = Duration::from_secs(3);

#[tokio::test]
async fn a_link_proves_both_ends_and_shows_its_group() {
    let link = Link::up().await;
    assert!(matches!(link.relay.peer().identity, Identity::Agent(_)));
    assert!(matches!(link.agent.peer().identity, Identity::Plane(_)));
    for end in [&link.relay, &link.agent] {
        assert_eq!(end.transport(), Transport::Quic);
        assert_eq!(end.group(), "X25519MLKEM768");
        assert!(end.stats().received_datagrams > 0);
        assert_eq!(end.stats().send_errors.total(), 0);
    }
    assert_eq!(link.agent.remote(), link.listener.address);
    assert_eq!(link.listener.listener.open_handshakes(), 0);
}

#[tokio::test]
async fn silence_is_reported_with_host_and_port_in_time() {
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    let named = Target {
        host: "relay.culvert.test".to_owned(),
        port,
        addresses: vec![[127, 0, 0, 1].into()],
    };
    let town = Town::new();
    let dialer = Dialer::new(UdpOptions::default());
    let started = Instant::now();
    let error = dial(&dialer, &town, &named).await.unwrap_err();
    let took = started.elapsed();
    println!("no reply after {took:?}");
    assert!(took >= DIAL_TIMEOUT && took < NO_REPLY * 5, "{took:?}");
    let DialError::NoReply {
        host,
        port: said,
        after,
        forbidden,
    } = &error
    else {
        panic!("{error:?}")
    };
    assert_eq!(
        (host.as_str(), *said, *forbidden),
        ("relay.culvert.test", port, false)
    );
    assert!(*after < NO_REPLY * 5);
    let text = error.to_string();
    assert!(
        text.contains(&format!("relay.culvert.test:{port}")),
        "{text}"
    );
}

#[tokio::test]
async fn a_firewall_of_this_machine_is_named() {
    let deny: Tap = Arc::new(|_| Verdict::Refuse(EPERM));
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let dialer = Dialer::new(UdpOptions {
        tap: Some(deny),
        ..UdpOptions::default()
    });
    let target = target(silent.local_addr().unwrap());
    let error = dial(&dialer, &Town::new(), &target).await.unwrap_err();
    assert!(
        matches!(
            error,
            DialError::NoReply {
                forbidden: true,
                ..
            }
        ),
        "{error:?}"
    );
    assert!(error.to_string().contains("EPERM"), "{error}");
}

#[tokio::test]
async fn after_silence_the_next_dial_leaves_from_another_port() {
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    silent.set_read_timeout(Some(NO_REPLY)).unwrap();
    let target = target(silent.local_addr().unwrap());
    let (town, dialer) = (Town::new(), Dialer::new(UdpOptions::default()));
    let mut ports = Vec::new();
    for _ in 0..2 {
        dial(&dialer, &town, &target).await.unwrap_err();
        ports.push(last_sender(&silent).port());
    }
    assert_ne!(ports[0], ports[1]);
}

#[tokio::test]
async fn a_dead_path_is_left_and_other_links_stay() {
    let mut link = Link::up().await;
    let target = link.listener.target();
    let first = link.relay.remote();
    let (again, same) =
        dial_and_accept(&link.dialer, &link.town, &mut link.listener, &target).await;
    assert_eq!(same.remote(), first, "one socket serves all links");
    link.dialer.path_died(&again);
    let (_moved, other) =
        dial_and_accept(&link.dialer, &link.town, &mut link.listener, &target).await;
    assert_ne!(other.remote(), first);
    assert!(link.agent.end().is_none() && again.end().is_none());
}

#[tokio::test]
async fn a_relay_of_another_authority_is_not_accepted_nor_accepts() {
    let (ours, theirs) = (Town::new(), Town::new());
    let mut relay = Relay::bind(&theirs, UdpOptions::default());
    let dialer = Dialer::new(UdpOptions::default());
    let target = relay.target();
    let accepting = async {
        let incoming = relay.listener.accept().await.unwrap();
        incoming
            .handshake(theirs.authority.bundle(), Expect::Agent)
            .await
    };
    let (dialled, accepted) = done("refused", async {
        tokio::join!(dial(&dialer, &ours, &target), accepting)
    })
    .await;
    assert!(matches!(dialled, Err(DialError::Tls(_))), "{dialled:?}");
    assert!(
        matches!(accepted, Err(HandshakeError::Ended(..))),
        "{accepted:?}"
    );

    // An agent that accepts anybody is refused by the relay all the same.
    let tls = tls::agent_link_client(&ours.agent()).unwrap();
    let trusting =
        culvert_certs::Credentials::with_bundle(&ours.agent(), theirs.authority.bundle().clone());
    drop(tls);
    let tls = tls::agent_link_client(&trusting).unwrap();
    let verify = theirs.verify(Expect::Plane);
    let accepting = async {
        let incoming = relay.listener.accept().await.unwrap();
        incoming
            .handshake(theirs.authority.bundle(), Expect::Agent)
            .await
    };
    let (dialled, accepted) = done("refused", async {
        tokio::join!(dialer.dial(&target, tls, &verify), accepting)
    })
    .await;
    assert!(
        matches!(accepted, Err(HandshakeError::Ended(..))),
        "{accepted:?}"
    );
    // The dialler's handshake is done before the relay looks at its certificate.
    match dialled {
        Ok(connection) => {
            let end = done("closed", connection.closed()).await;
            assert!(matches!(end, ConnectionEnd::PeerTransport(_)), "{end:?}");
        }
        Err(error) => assert!(matches!(error, DialError::PeerTls(_)), "{error:?}"),
    }
}

#[tokio::test]
async fn a_name_that_does_not_resolve_is_named() {
    let unknown = Target {
        host: "no-such-host.invalid".to_owned(),
        port: 1,
        addresses: Vec::new(),
    };
    let dialer = Dialer::new(UdpOptions::default());
    let error = dial(&dialer, &Town::new(), &unknown).await.unwrap_err();
    assert!(matches!(error, DialError::Resolve { .. }), "{error:?}");
    assert!(
        error.to_string().contains("no-such-host.invalid"),
        "{error}"
    );
}

#[tokio::test]
async fn the_address_that_answers_wins_over_one_that_is_silent() {
    let town = Town::new();
    let mut relay = Relay::bind(&town, UdpOptions::default());
    // 127.0.0.2 is this machine too, and nothing listens there.
    let target = Target {
        host: "relay.culvert.test".to_owned(),
        port: relay.address.port(),
        addresses: vec![[127, 0, 0, 2].into(), [127, 0, 0, 1].into()],
    };
    let dialer = Dialer::new(UdpOptions::default());
    let (agent, _relay) = dial_and_accept(&dialer, &town, &mut relay, &target).await;
    assert_eq!(agent.remote(), relay.address);
}

/// However often paths are said to be dead, what stands is not closed to make room.
#[tokio::test]
async fn a_dial_never_closes_a_connection_that_stands() {
    let town = Town::new();
    let mut relay = Relay::bind(&town, UdpOptions::default());
    let dialer = Dialer::new(UdpOptions::default());
    let target = relay.target();
    let mut links = Vec::new();
    for _ in 0..ENDPOINTS_PER_FAMILY + 2 {
        let link = dial_and_accept(&dialer, &town, &mut relay, &target).await;
        dialer.path_died(&link.0);
        links.push(link);
    }
    for (agent, _relay) in &links {
        assert_eq!(agent.end(), None);
    }
}

#[tokio::test]
async fn under_flood_addresses_are_proven_and_then_refused() {
    let town = Town::new();
    let limits = FloodLimits {
        retry_above: 0,
        refuse_above: 1_024,
    };
    let mut relay = Relay::bind(&town, UdpOptions::default()).with_flood_limits(limits);
    let dialer = Dialer::new(UdpOptions::default());
    let target = relay.target();
    let (agent, _relay) = dial_and_accept(&dialer, &town, &mut relay, &target).await;
    assert!(agent.end().is_none());

    let limits = FloodLimits {
        retry_above: 0,
        refuse_above: 0,
    };
    let mut relay = Relay::bind(&town, UdpOptions::default()).with_flood_limits(limits);
    let target = relay.target();
    let error = done("refused", async {
        tokio::select! {
            dialled = dial(&dialer, &town, &target) => dialled.unwrap_err(),
            accepted = relay.listener.accept() => panic!("{accepted:?}"),
        }
    })
    .await;
    assert!(matches!(error, DialError::PeerTls(_)), "{error:?}");
}

/// One handshake a second at a door: of a crowd most are turned away, and not all.
#[tokio::test]
async fn above_the_rate_of_handshakes_newcomers_are_refused() {
    let town = Town::new();
    let rate = HandshakeRate::new(1);
    let mut relay = Relay::bind(&town, UdpOptions::default()).with_handshake_rate(rate);
    let (dialer, target) = (Dialer::new(UdpOptions::default()), relay.target());
    let crowd = async {
        let dials = (0..20).map(|_| dial(&dialer, &town, &target));
        futures_util::future::join_all(dials).await
    };
    let accepting = async {
        let mut let_in = Vec::new();
        loop {
            let_in.push(relay.accept().await);
        }
    };
    let dials = done("the crowd", async {
        tokio::select! {
            dials = crowd => dials,
            () = accepting => unreachable!("it accepts for ever"),
        }
    })
    .await;
    let let_in = dials.iter().filter(|dialled| dialled.is_ok()).count();
    println!("{let_in} of {} were let in", dials.len());
    assert!((1..20).contains(&let_in));
    for refused in dials.into_iter().filter_map(Result::err) {
        assert!(matches!(refused, DialError::PeerTls(_)), "{refused:?}");
    }
}

#[tokio::test]
async fn a_call_is_served_over_ipv6() {
    let town = Town::new();
    let loopback = SocketAddr::from((Ipv6Addr::LOCALHOST, 0));
    if UdpSocket::bind(loopback).is_err() {
        return println!("SKIPPED: this machine has no IPv6 loopback");
    }
    let keys = ResetKeys::random().unwrap();
    let mut relay = Relay::bind_to(loopback, &town, keys, UdpOptions::default());
    let (dialer, target) = (Dialer::new(UdpOptions::default()), relay.target());
    assert_eq!(target.host, "::1");
    let (agent, relay) = dial_and_accept(&dialer, &town, &mut relay, &target).await;
    assert!(agent.remote().is_ipv6() && relay.remote().is_ipv6());
    let serving = run(echo_all(agent));
    let back = done("the echo", round_trip(&relay, "over IPv6".into())).await;
    assert_eq!(back.unwrap(), b"over IPv6");
    relay.close(Code::Draining, "");
    serving.output("the agent").await;
}

#[tokio::test]
async fn what_paths_have_seen_is_counted() {
    let link = Link::up().await;
    let totals = link.dialer.totals();
    assert_eq!((totals.send_errors.total(), totals.black_holes), (0, 0));
    assert!(totals.least_mtu.is_some_and(|mtu| mtu >= 1_200));
    let Link { agent, dialer, .. } = link;
    agent.close(Code::Draining, "");
    assert_eq!(dialer.totals().least_mtu, None, "no path stands");
}

/// A process that ends with its last word unsent leaves the peer to a time-out.
#[tokio::test]
async fn a_closed_connection_has_told_its_peer_before_the_dialler_goes() {
    let town = Arc::new(Town::new());
    let mut relay = Relay::bind(&town, UdpOptions::default());
    let (target, agents_town) = (relay.target(), town.clone());
    let agent = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let dialer = Dialer::new(UdpOptions::default());
            let connection = dial(&dialer, &agents_town, &target).await.unwrap();
            connection.close(Code::Draining, "");
            done("the goodbye", dialer.goodbyes()).await;
        });
    });
    let connection = done("link up", relay.accept()).await;
    let end = done("the close", connection.closed()).await;
    let draining = |end: &ConnectionEnd| matches!(end, ConnectionEnd::Peer { code, .. } if *code == Code::Draining);
    assert!(draining(&end), "{end:?}");
    agent.join().unwrap();
}

#[tokio::test]
async fn a_replica_resets_what_another_one_of_its_plane_knew() {
    let town = Town::new();
    let keys = ResetKeys::derive(&[9; 32]).unwrap();
    let silenced = Arc::new(AtomicBool::new(false));
    let mute = silenced.clone();
    let tap: Tap = Arc::new(move |_| {
        if mute.load(Ordering::SeqCst) {
            Verdict::Drop
        } else {
            Verdict::Pass
        }
    });
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let udp = UdpOptions {
        tap: Some(tap),
        ..UdpOptions::default()
    };
    let mut first = Relay::bind_to(any, &town, keys.clone(), udp);
    let (address, target) = (first.address, first.target());
    let dialer = Dialer::new(UdpOptions::default());
    let (agent, relay) = dial_and_accept(&dialer, &town, &mut first, &target).await;

    // It dies without a word, and another replica gets its port.
    silenced.store(true, Ordering::SeqCst);
    let closer = first.listener.closer();
    closer.close(Code::Draining, "");
    drop(relay);
    done("first gone", closer.wait_idle()).await;
    drop((first, closer));
    let _second = rebind(address, &town, keys).await;

    let started = Instant::now();
    let probe = agent.probe(1);
    let (end, _probe) = done("reset", async { tokio::join!(agent.closed(), probe) }).await;
    println!("reset after {:?}", started.elapsed());
    assert_eq!(end, ConnectionEnd::Reset);
    assert!(
        started.elapsed() < Duration::from_secs(5),
        "not by a time-out"
    );
}

#[tokio::test]
async fn certificates_change_under_a_listener() {
    let town = Town::new();
    let (sender, tls) = tokio::sync::watch::channel(tls::link_server(&town.plane()).unwrap());
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let keys = ResetKeys::random().unwrap();
    let mut listener =
        culvert_tunnel::QuicListener::bind(any, tls, keys, UdpOptions::default()).unwrap();
    let target = target(listener.local_addr().unwrap());
    let dialer = Dialer::new(UdpOptions::default());
    let mut serials = Vec::new();
    for _ in 0..2 {
        let accepting = async {
            let incoming = listener.accept().await.unwrap();
            incoming
                .handshake(town.authority.bundle(), Expect::Agent)
                .await
                .unwrap()
        };
        let (agent, _relay) = done("link up", async {
            tokio::join!(dial(&dialer, &town, &target), accepting)
        })
        .await;
        serials.push(agent.unwrap().peer().serial.clone());
        sender
            .send(tls::link_server(&town.plane()).unwrap())
            .unwrap();
    }
    assert_ne!(serials[0], serials[1]);
}

async fn dial(dialer: &Dialer, town: &Town, target: &Target) -> Result<Connection, DialError> {
    let tls = tls::agent_link_client(&town.agent()).unwrap();
    done(
        "dial",
        dialer.dial(target, tls, &town.verify(Expect::Plane)),
    )
    .await
}

async fn dial_and_accept(
    dialer: &Dialer,
    town: &Town,
    relay: &mut Relay,
    target: &Target,
) -> (Connection, Connection) {
    let up = async { tokio::join!(dial(dialer, town, target), relay.accept()) };
    let (agent, relay) = done("link up", up).await;
    (agent.unwrap(), relay)
}

/// The port becomes free once the last task of the old endpoint has gone.
async fn rebind(address: SocketAddr, town: &Town, keys: ResetKeys) -> Relay {
    done("port free", async {
        while UdpSocket::bind(address).is_err() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    Relay::bind_to(address, town, keys, UdpOptions::default())
}

fn last_sender(socket: &UdpSocket) -> SocketAddr {
    let mut buffer = [0; 2_048];
    let (_, mut sender) = socket.recv_from(&mut buffer).unwrap();
    socket.set_nonblocking(true).unwrap();
    while let Ok((_, later)) = socket.recv_from(&mut buffer) {
        sender = later;
    }
    socket.set_nonblocking(false).unwrap();
    sender
}

/// EPERM on Linux and everywhere else.
const EPERM: i32 = 1;
