//! Real handshakes in memory: both ends are rustls connections, the wire is a buffer.

use std::sync::Arc;

use culvert_certs::tls::{self, PostQuantum, TlsError};
use culvert_certs::{Expect, Role, peer_leaf};
use rustls::{HandshakeKind, NamedGroup};

use crate::world::{World, complete, handshake};

#[test]
fn a_link_is_mutual_and_both_ends_learn_the_other() {
    let world = World::new();
    let (agent, plane) = (world.agent(), world.plane());
    let pair = complete(
        tls::agent_link_client(&agent).unwrap(),
        tls::link_server(&plane).unwrap(),
    );
    let seen_by_server = peer_leaf(
        pair.server.peer_certificates().unwrap(),
        &plane.bundle,
        Expect::AgentOrPlane,
        world.now,
    )
    .unwrap();
    let seen_by_client = peer_leaf(
        pair.client.peer_certificates().unwrap(),
        &agent.bundle,
        Expect::Plane,
        world.now,
    )
    .unwrap();
    assert_eq!(seen_by_server.identity, agent.identity);
    assert_eq!(seen_by_server.key_digest, agent.key.digest());
    assert_eq!(seen_by_client.identity, plane.identity);
    assert_eq!(pair.client.alpn_protocol(), Some(tls::ALPN_LINK));
    assert_eq!(
        pair.client.protocol_version(),
        Some(rustls::ProtocolVersion::TLSv1_3)
    );
}

#[test]
fn the_group_is_post_quantum_unless_avoided() {
    let world = World::new();
    let server = tls::link_server(&world.plane()).unwrap();
    let agent = world.agent();
    for (choice, group) in [
        (PostQuantum::Require, NamedGroup::X25519MLKEM768),
        (PostQuantum::Prefer, NamedGroup::X25519MLKEM768),
        (PostQuantum::Avoid, NamedGroup::X25519),
    ] {
        let client = tls::agent_link_client_with(&agent, choice).unwrap();
        let pair = complete(client, Arc::clone(&server));
        for end in [
            pair.client.negotiated_key_exchange_group(),
            pair.server.negotiated_key_exchange_group(),
        ] {
            assert_eq!(end.unwrap().name(), group, "{choice:?}");
        }
        assert_eq!(pair.client.handshake_kind(), Some(HandshakeKind::Full));
    }
}

#[test]
fn every_handshake_is_a_full_one() {
    let world = World::new();
    let client = tls::agent_link_client(&world.agent()).unwrap();
    let server = tls::link_server(&world.plane()).unwrap();
    for _ in 0..3 {
        let mut pair = complete(Arc::clone(&client), Arc::clone(&server));
        assert_eq!(pair.client.handshake_kind(), Some(HandshakeKind::Full));
        assert_eq!(pair.server.handshake_kind(), Some(HandshakeKind::Full));
        assert_eq!(pair.client.tls13_tickets_received(), 0);
        assert!(pair.client.early_data().is_none());
    }
}

/// The server alone keeps the promise, whatever a client of somebody else's making stores.
#[test]
fn a_client_that_would_resume_is_given_nothing_to_resume() {
    let world = World::new();
    let mut client = (*tls::agent_link_client(&world.agent()).unwrap()).clone();
    client.resumption = rustls::client::Resumption::in_memory_sessions(8);
    client.enable_early_data = true;
    let client = Arc::new(client);
    let server = tls::link_server(&world.plane()).unwrap();
    for _ in 0..2 {
        let pair = complete(Arc::clone(&client), Arc::clone(&server));
        assert_eq!(pair.server.handshake_kind(), Some(HandshakeKind::Full));
        assert_eq!(pair.client.tls13_tickets_received(), 0);
    }
}

/// And the client alone: a server that hands out tickets gets a full handshake all the same.
#[test]
fn a_server_that_hands_out_tickets_meets_a_client_that_drops_them() {
    let world = World::new();
    let client = tls::agent_link_client(&world.agent()).unwrap();
    let mut server = (*tls::link_server(&world.plane()).unwrap()).clone();
    server.session_storage = rustls::server::ServerSessionMemoryCache::new(8);
    server.send_tls13_tickets = 2;
    let server = Arc::new(server);
    for _ in 0..2 {
        let pair = complete(Arc::clone(&client), Arc::clone(&server));
        assert_eq!(pair.server.handshake_kind(), Some(HandshakeKind::Full));
    }
}

#[test]
fn a_client_without_a_certificate_gets_no_link() {
    let world = World::new();
    let pins = world.authority.pins().unwrap();
    let mut client = (*tls::join_client(&pins, world.authority.trust_domain()).unwrap()).clone();
    client.alpn_protocols = vec![tls::ALPN_LINK.to_vec()];
    let failure =
        handshake(Arc::new(client), tls::link_server(&world.plane()).unwrap()).unwrap_err();
    assert_eq!(failure.server, Some(rustls::Error::NoCertificatesPresented));
}

#[test]
fn planes_link_to_planes() {
    let world = World::new();
    let dialler = world.plane();
    let pair = complete(
        tls::plane_link_client(&dialler).unwrap(),
        tls::link_server(&world.plane()).unwrap(),
    );
    let chain = pair.server.peer_certificates().unwrap();
    let leaf = peer_leaf(chain, &dialler.bundle, Expect::AgentOrPlane, world.now).unwrap();
    assert_eq!(leaf.identity, dialler.identity);
}

#[test]
fn joining_needs_the_pin_and_no_certificate() {
    let world = World::new();
    let server = tls::join_server(&world.plane()).unwrap();
    let domain = world.authority.trust_domain();
    let pins = world.authority.pins().unwrap();
    let pair = complete(
        tls::join_client(&pins, domain).unwrap(),
        Arc::clone(&server),
    );
    assert_eq!(pair.server.alpn_protocol(), Some(tls::ALPN_JOIN));
    assert!(pair.server.peer_certificates().is_none());

    let strangers = World::new().authority.pins().unwrap();
    let client = tls::join_client(&strangers, domain).unwrap();
    handshake(client, Arc::clone(&server)).unwrap_err();

    let elsewhere = "elsewhere.test".parse().unwrap();
    let client = tls::join_client(&pins, &elsewhere).unwrap();
    handshake(client, server).unwrap_err();
}

#[test]
fn the_edge_asks_for_no_certificate_and_speaks_http() {
    let world = World::new();
    let pins = world.authority.pins().unwrap();
    let mut client = (*tls::join_client(&pins, world.authority.trust_domain()).unwrap()).clone();
    client.alpn_protocols = vec![b"http/1.1".to_vec()];
    let pair = complete(Arc::new(client), tls::edge_server(&world.plane()).unwrap());
    assert_eq!(pair.client.alpn_protocol(), Some(&b"http/1.1"[..]));
}

#[test]
fn other_protocols_are_refused_by_alpn() {
    let world = World::new();
    let pins = world.authority.pins().unwrap();
    let client = tls::join_client(&pins, world.authority.trust_domain()).unwrap();
    let failure = handshake(client, tls::edge_server(&world.plane()).unwrap()).unwrap_err();
    assert_eq!(failure.server, Some(rustls::Error::NoApplicationProtocol));
}

#[test]
fn credentials_serve_their_own_role_only() {
    let world = World::new();
    let (agent, plane) = (world.agent(), world.plane());
    let agent_only = Err(TlsError::WrongRole(Role::Plane));
    let plane_only = Some(TlsError::WrongRole(Role::Agent));
    assert_eq!(tls::agent_link_client(&plane).map(drop), agent_only);
    assert_eq!(tls::link_server(&agent).err(), plane_only);
    assert_eq!(tls::join_server(&agent).err(), plane_only);
    assert_eq!(tls::edge_server(&agent).err(), plane_only);
    assert_eq!(tls::plane_link_client(&agent).err(), plane_only);
}
