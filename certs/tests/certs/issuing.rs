//! What the authority puts into certificates.

use std::time::Duration;

use culvert_certs::{AuthorityError, Credentials, Expect, LEAF_LIFETIME, peer_leaf};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};

use crate::world::World;

const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

fn end_entity<'a>(leaf: &'a CertificateDer<'a>) -> webpki::EndEntityCert<'a> {
    leaf.try_into().unwrap()
}

fn answers_to(credentials: &Credentials, host: &str) -> bool {
    end_entity(&credentials.chain[0])
        .verify_is_valid_for_subject_name(&ServerName::try_from(host).unwrap())
        .is_ok()
}

#[test]
fn a_plane_answers_to_its_hosts_besides_its_identity() {
    let world = World::new();
    let identity = world.plane_identity().into();
    let hosts = ["gw.example.com", "127.0.0.1", "::1"].map(str::to_owned);
    let plane = world
        .authority
        .enroll(&identity, &hosts, LEAF_LIFETIME, world.now)
        .unwrap();
    for host in &hosts {
        assert!(answers_to(&plane, host), "{host}");
    }
    assert!(!answers_to(&plane, "other.example.com"));
    assert_eq!(plane.leaf(world.now).unwrap().identity, identity);
    for bad in ["", "a b", "*.*", "host:443", "spiffe://x/y"] {
        let refused =
            world
                .authority
                .enroll(&identity, &[bad.to_owned()], LEAF_LIFETIME, world.now);
        assert!(matches!(refused, Err(AuthorityError::BadHost(host)) if host == bad));
    }
}

/// A public client that knows nothing of ours, given the root, accepts the edge by its name.
#[test]
fn an_ordinary_tls_client_accepts_the_edge() {
    let world = World::new();
    let plane = world.plane();
    let anchor = webpki::anchor_from_trusted_cert(&plane.chain[2]).unwrap();
    end_entity(&plane.chain[0])
        .verify_for_usage(
            webpki::ALL_VERIFICATION_ALGS,
            &[anchor],
            &plane.chain[1..],
            UnixTime::since_unix_epoch(world.now.duration_since(std::time::UNIX_EPOCH).unwrap()),
            webpki::KeyUsage::server_auth(),
            None,
            None,
        )
        .map(drop)
        .unwrap();
    assert!(answers_to(&plane, "localhost"));
}

#[test]
fn no_leaf_outlives_its_issuer() {
    let world = World::new();
    for lifetime in [100 * YEAR, Duration::MAX] {
        let agent = world
            .authority
            .enroll(&world.agent_identity().into(), &[], lifetime, world.now)
            .unwrap();
        let end = agent.leaf(world.now).unwrap().not_after;
        let life = end.duration_since(world.now).unwrap();
        assert!(life <= 5 * YEAR && life > 5 * YEAR - Duration::from_secs(2));
        peer_leaf(&agent.chain, &agent.bundle, Expect::Agent, end).unwrap();
    }
}

#[test]
fn serials_and_keys_are_never_alike() {
    let world = World::new();
    let (one, other) = (world.agent(), world.agent());
    let (one, other) = (one.leaf(world.now).unwrap(), other.leaf(world.now).unwrap());
    assert_ne!(one.serial, other.serial);
    assert_ne!(one.key_digest, other.key_digest);
    assert_eq!(one.serial.len(), 16);
}

#[test]
fn an_identity_of_another_world_is_not_issued() {
    let world = World::new();
    let mut identity = world.agent_identity();
    identity.trust_domain = "elsewhere.test".parse().unwrap();
    let refused = world
        .authority
        .enroll(&identity.into(), &[], LEAF_LIFETIME, world.now);
    assert!(matches!(refused, Err(AuthorityError::WrongTrustDomain(_))));
}
