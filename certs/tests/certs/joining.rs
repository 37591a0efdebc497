//! Joining and renewing as the two ends do it, and everything that must not work.

use std::time::{Duration, SystemTime};

use culvert_certs::bundle::BundleError;
use culvert_certs::credentials::CredentialsError;
use culvert_certs::request::{AnswerError, RENEW_AFTER_EXPIRY};
use culvert_certs::token::TokenError;
use culvert_certs::{
    Credentials, Expect, Identity, JoinAnswer, JoinRequest, JoinSubject, JoinToken, KeyPair,
    LEAF_LIFETIME, ProofError, RenewRequest, TokenRecord, TokenSpec, TrustBundle, VerifiedCsr,
    VerifyError, peer_leaf,
};
use proptest::prelude::*;

use crate::world::World;

const HOUR: Duration = Duration::from_secs(3600);
const SECOND: Duration = Duration::from_secs(1);

fn connector() -> JoinSubject {
    JoinSubject::Connector {
        tenant: "acme".parse().unwrap(),
        connector: "prod-vpc".parse().unwrap(),
    }
}

fn plane() -> JoinSubject {
    JoinSubject::Plane {
        region: "US".parse().unwrap(),
        zone: "ORF".parse().unwrap(),
    }
}

fn spec(world: &World, subject: JoinSubject) -> TokenSpec {
    TokenSpec {
        addresses: vec!["gw.example.com:443".parse().unwrap()],
        trust_domain: world.authority.trust_domain().clone(),
        subject,
        pins: world.authority.pins().unwrap(),
        expiry: world.now + HOUR,
    }
}

fn mint(world: &World) -> (JoinToken, TokenRecord) {
    JoinToken::mint(spec(world, connector())).unwrap()
}

/// Control's part, once the request has been accepted.
fn answer(world: &World, csr: &VerifiedCsr, identity: &Identity) -> JoinAnswer {
    let issued = match identity {
        Identity::Agent(agent) => world
            .authority
            .issue_agent(csr, agent, LEAF_LIFETIME, world.now),
        Identity::Plane(plane) => {
            world
                .authority
                .issue_plane(csr, plane, &[], LEAF_LIFETIME, world.now)
        }
    };
    JoinAnswer {
        id: identity.clone(),
        chain: issued.unwrap().certificates,
        bundle: world.authority.bundle().as_bytes().to_vec(),
        dns_suffixes: vec!["example.com".to_owned()],
        addresses: vec!["gw.example.com:443".parse().unwrap()],
        gateway_url: None,
    }
}

fn verify(
    world: &World,
    request: &JoinRequest,
    record: &TokenRecord,
) -> Result<VerifiedCsr, ProofError> {
    request.verify(record, world.authority.trust_domain(), world.now)
}

#[test]
fn a_token_leads_to_an_identity() {
    let world = World::new();
    for (subject, identity) in [
        (connector(), Identity::from(world.agent_identity())),
        (plane(), Identity::from(world.plane_identity())),
    ] {
        let (token, record) = JoinToken::mint(spec(&world, subject)).unwrap();
        let text = token.encode().unwrap();
        let token: JoinToken = format!(" {}\n", text.expose()).parse().unwrap();
        let key = KeyPair::generate().unwrap();
        let request = JoinRequest::new(&token, key.csr().unwrap()).unwrap();
        let sent = serde_json::to_string(&request).unwrap();
        let received: JoinRequest = serde_json::from_str(&sent).unwrap();
        assert_eq!(received.token_id, record.id);

        let csr = verify(&world, &received, &record).unwrap();
        assert_eq!(csr.key_digest(), key.digest());
        let answer = serde_json::to_string(&answer(&world, &csr, &identity)).unwrap();
        let answer: JoinAnswer = serde_json::from_str(&answer).unwrap();
        let credentials = answer.into_credentials(&token, key, world.now).unwrap();
        assert_eq!(credentials.identity, identity);
    }
}

#[test]
fn the_record_survives_storage_and_cannot_redeem() {
    let world = World::new();
    let (token, record) = mint(&world);
    let stored = serde_json::to_string(&record).unwrap();
    let loaded: TokenRecord = serde_json::from_str(&stored).unwrap();
    assert_eq!(loaded.id, token.id());
    assert_eq!(loaded.uses_left, 1);
    let life = loaded.expiry.duration_since(world.now).unwrap();
    assert!(
        life <= HOUR && life > HOUR - SECOND,
        "whole seconds are kept"
    );
    let text = token.encode().unwrap();
    assert!(!format!("{token:?}{text:?}").contains(&text.expose()[7..]));
}

#[test]
fn expired_used_and_foreign_tokens_are_told_apart_inside() {
    let world = World::new();
    let (token, record) = mint(&world);
    let request = JoinRequest::new(&token, KeyPair::generate().unwrap().csr().unwrap()).unwrap();
    verify(&world, &request, &record).unwrap();

    let late = request.verify(&record, world.authority.trust_domain(), record.expiry);
    assert_eq!(late, Err(ProofError::Expired));
    let used = TokenRecord {
        uses_left: 0,
        ..record.clone()
    };
    assert_eq!(verify(&world, &request, &used), Err(ProofError::Used));
    let (_, other) = mint(&world);
    assert_eq!(
        verify(&world, &request, &other),
        Err(ProofError::OtherToken)
    );
    let newer = JoinRequest {
        version: 2,
        ..request
    };
    assert_eq!(verify(&world, &newer, &record), Err(ProofError::Version(2)));
}

/// Without the seed one learns the same about a token that is good, used or expired: nothing.
#[test]
fn a_forged_request_learns_nothing() {
    let world = World::new();
    let (token, record) = mint(&world);
    let (forger, _) = mint(&world);
    let csr = KeyPair::generate().unwrap().csr().unwrap();
    let mut forged = JoinRequest::new(&forger, csr).unwrap();
    forged.token_id = token.id();
    for record in [
        record.clone(),
        TokenRecord {
            uses_left: 0,
            ..record.clone()
        },
        TokenRecord {
            expiry: SystemTime::UNIX_EPOCH,
            ..record
        },
    ] {
        assert_eq!(
            verify(&world, &forged, &record),
            Err(ProofError::BadSignature)
        );
    }
}

#[test]
fn nobody_on_the_way_can_swap_the_key() {
    let world = World::new();
    let (token, record) = mint(&world);
    let honest = KeyPair::generate().unwrap().csr().unwrap();
    let thief = KeyPair::generate().unwrap().csr().unwrap();
    let mut swapped = JoinRequest::new(&token, honest).unwrap();
    swapped.csr = thief;
    assert_eq!(
        verify(&world, &swapped, &record),
        Err(ProofError::BadSignature)
    );
}

#[test]
fn a_request_is_good_in_its_own_world_only() {
    let world = World::new();
    let (token, record) = mint(&world);
    let request = JoinRequest::new(&token, KeyPair::generate().unwrap().csr().unwrap()).unwrap();
    let elsewhere = "elsewhere.test".parse().unwrap();
    let refused = request.verify(&record, &elsewhere, world.now);
    assert_eq!(refused, Err(ProofError::BadSignature));
}

/// A signing request counts only with its key's own signature, and only for its key.
#[test]
fn signing_requests_are_checked() {
    let key = KeyPair::generate().unwrap();
    let csr = key.csr().unwrap();
    assert_eq!(VerifiedCsr::parse(&csr).unwrap().key_digest(), key.digest());
    let trailing = [&csr[..], &[0]].concat();
    let huge = vec![0x30; 5000];
    for bad in [&trailing[..], &huge, b"", b"nonsense"] {
        assert_eq!(VerifiedCsr::parse(bad), Err(ProofError::BadCsr));
    }
    for at in 0..csr.len() {
        let mut changed = csr.clone();
        changed[at] ^= 1;
        // Another spelling of the same request would be harmless; a different key would not.
        if let Ok(parsed) = VerifiedCsr::parse(&changed) {
            assert_eq!(parsed.key_digest(), key.digest(), "byte {at}");
        }
    }
    let other_curve = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    let request = rcgen::CertificateParams::default()
        .serialize_request(&other_curve)
        .unwrap();
    assert_eq!(VerifiedCsr::parse(request.der()), Err(ProofError::BadCsr));
}

/// What else a signing request asks for is not even looked at.
#[test]
fn a_signing_request_chooses_nothing_but_its_key() {
    let world = World::new();
    let key = KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(vec!["evil.example.com".to_owned()]).unwrap();
    let uri = "spiffe://culvert.test/tenant/victim/connector/c/agent/aebagbafaydqqcikbmga2dqpca";
    params
        .subject_alt_names
        .push(rcgen::SanType::URI(uri.try_into().unwrap()));
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let csr = params.serialize_request(&key).unwrap();
    let csr = VerifiedCsr::parse(csr.der()).unwrap();
    let identity = world.agent_identity();
    let chain = world
        .authority
        .issue_agent(&csr, &identity, LEAF_LIFETIME, world.now)
        .unwrap();
    let bundle = world.authority.bundle();
    let leaf = peer_leaf(&chain.certificates, bundle, Expect::Agent, world.now).unwrap();
    assert_eq!(leaf.identity, identity.into());
    assert_eq!(
        (leaf.serial, leaf.not_after),
        (chain.serial, chain.not_after)
    );
    let der = &chain.certificates[0];
    assert!(!der.windows(4).any(|bytes| bytes == b"evil"));
}

#[test]
fn an_answer_must_be_what_the_token_promised() {
    let world = World::new();
    let (token, _) = mint(&world);
    let key = KeyPair::generate().unwrap();
    let csr = VerifiedCsr::parse(&key.csr().unwrap()).unwrap();
    let mine = Identity::from(world.agent_identity());
    let good = answer(&world, &csr, &mine);
    let check = |answer: JoinAnswer| {
        answer
            .into_credentials(&token, key.clone(), world.now)
            .map(|credentials| credentials.identity)
    };
    assert_eq!(check(good.clone()), Ok(mine.clone()));

    let stranger = World::new();
    let theirs = answer(&stranger, &csr, &mine);
    let untrusted = AnswerError::Bundle(BundleError::Untrusted);
    assert_eq!(check(theirs.clone()), Err(untrusted));
    let mixed = JoinAnswer {
        chain: theirs.chain,
        ..good
    };
    let unknown = CredentialsError::Chain(VerifyError::UnknownIssuer);
    assert_eq!(check(mixed), Err(unknown.into()));

    let other_key = KeyPair::generate().unwrap();
    let other_key = VerifiedCsr::parse(&other_key.csr().unwrap()).unwrap();
    let for_other = answer(&world, &other_key, &mine);
    assert_eq!(check(for_other), Err(CredentialsError::WrongKey.into()));

    let mut elsewhere = world.agent_identity();
    elsewhere.tenant = "other".parse().unwrap();
    for other in [elsewhere.into(), Identity::from(world.plane_identity())] {
        let refused = check(answer(&world, &csr, &other));
        assert_eq!(refused, Err(AnswerError::OtherSubject(other)));
    }
}

#[test]
fn tokens_say_what_is_wrong_with_them() {
    let world = World::new();
    let (token, _) = mint(&world);
    let text = token.encode().unwrap();
    let text = text.expose();
    let parse = |text: &str| text.parse::<JoinToken>().map(|token| token.id());
    assert_eq!(parse(text), Ok(token.id()));
    assert_eq!(parse(&text[..text.len() - 3]), Err(TokenError::Damaged));
    assert_eq!(parse("cvjoin_"), Err(TokenError::Damaged));
    assert_eq!(parse("cvk_abc"), Err(TokenError::NotAToken));
    assert_eq!(parse(""), Err(TokenError::NotAToken));
    assert_eq!(
        parse(&format!("{text}{text}{text}")),
        Err(TokenError::Damaged)
    );
}

#[test]
fn a_token_has_room_for_addresses_but_not_for_any_number() {
    let world = World::new();
    let with = |addresses: Vec<String>| {
        let addresses = addresses.iter().map(|a| a.parse().unwrap()).collect();
        JoinToken::mint(TokenSpec {
            addresses,
            ..spec(&world, connector())
        })
    };
    assert_eq!(with(vec![]).unwrap_err(), TokenError::Addresses);
    let nine = vec!["a:1".to_owned(); 9];
    assert_eq!(with(nine).unwrap_err(), TokenError::Addresses);
    let eight = vec![format!("{}.example.com:443", "x".repeat(40)); 8];
    let (token, _) = with(eight).unwrap();
    assert!(token.encode().unwrap().expose().len() <= 1024);
    let long = vec![format!("{0}.{0}.{0}:443", "x".repeat(60)); 8];
    assert_eq!(with(long).unwrap_err(), TokenError::Addresses);
}

proptest! {
    #[test]
    fn garbage_is_never_a_token(text in "(cvjoin_)?\\PC{0,400}") {
        prop_assert!(text.parse::<JoinToken>().is_err());
    }

    #[test]
    fn garbage_is_never_a_renewal_or_a_bundle(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(RenewRequest::decode(&bytes).is_err());
        prop_assert!(TrustBundle::from_signed(&bytes, &[]).is_err());
        prop_assert!(TrustBundle::from_stored(&bytes).is_err());
    }
}

fn renewal(current: &Credentials) -> (KeyPair, RenewRequest) {
    let next = KeyPair::generate().unwrap();
    let request = RenewRequest::new(current, &next).unwrap();
    let travelled = RenewRequest::decode(&request.encode().unwrap()).unwrap();
    assert_eq!(travelled, request);
    (next, travelled)
}

#[test]
fn a_member_renews_itself() {
    let world = World::new();
    let bundle = world.authority.bundle();
    for current in [world.agent(), world.plane()] {
        let (next, request) = renewal(&current);
        let verified = request.verify(bundle, world.now).unwrap();
        assert_eq!(verified.leaf.identity, current.identity);
        assert_eq!(verified.csr.key_digest(), next.digest());
    }
}

#[test]
fn an_expired_leaf_renews_for_a_while_and_does_nothing_else() {
    let world = World::new();
    let agent = world.agent();
    let bundle = world.authority.bundle();
    let end = agent.leaf(world.now).unwrap().not_after;
    let (_, request) = renewal(&agent);
    for now in [end, end + SECOND, end + RENEW_AFTER_EXPIRY] {
        assert_eq!(
            request.verify(bundle, now).unwrap().leaf.identity,
            agent.identity
        );
    }
    let late = request.verify(bundle, end + RENEW_AFTER_EXPIRY + SECOND);
    assert_eq!(late, Err(ProofError::TooLate));
    assert_eq!(agent.leaf(end + SECOND), Err(VerifyError::Expired));
    let early = request.verify(bundle, world.now - HOUR);
    assert_eq!(early, Err(ProofError::Chain(VerifyError::NotYetValid)));
}

#[test]
fn a_renewal_is_the_leafs_own() {
    let world = World::new();
    let bundle = world.authority.bundle();
    let (agent, other) = (world.agent(), world.agent());
    let (_, request) = renewal(&agent);
    let (_, theirs) = renewal(&other);

    let swapped = RenewRequest {
        csr: theirs.csr.clone(),
        ..request.clone()
    };
    assert_eq!(
        swapped.verify(bundle, world.now),
        Err(ProofError::BadSignature)
    );
    let taken = RenewRequest {
        chain: agent.chain.clone(),
        ..theirs
    };
    assert_eq!(
        taken.verify(bundle, world.now),
        Err(ProofError::BadSignature)
    );
    // A leaf that is not ours, with a proof that fits it.
    let (_, stranger) = renewal(&World::new().agent());
    let unknown = ProofError::Chain(VerifyError::UnknownIssuer);
    assert_eq!(stranger.verify(bundle, world.now), Err(unknown));
    let empty = RenewRequest {
        chain: Vec::new(),
        ..request
    };
    let nothing = ProofError::Chain(VerifyError::NoCertificate);
    assert_eq!(empty.verify(bundle, world.now), Err(nothing));
}
