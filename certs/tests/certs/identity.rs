//! The identity matrix: every certificate that must not get in, and what it is refused for.
//!
//! Each case is judged twice: by [`peer_leaf`], and in a handshake with the real configurations,
//! where both sides must agree that there is no link, and the reason must stay on our side.

use std::sync::Arc;
use std::time::Duration;

use culvert_certs::{
    Authority, Expect, Identity, KeyPair, LEAF_LIFETIME, Role, VerifyError, peer_leaf, refusal_of,
    tls,
};
use rcgen::{ExtendedKeyUsagePurpose, KeyUsagePurpose};
use rustls::crypto::aws_lc_rs::sign::any_ecdsa_type;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};

use crate::forge::{ClientAuth, Forge, Forged, LeafSpec, Life, ServerAuth};
use crate::world::{Failure, Pair, World, handshake};

/// The forger at work in a world.
struct Scene {
    world: World,
    forge: Forge,
    agent: String,
    plane: String,
}

impl Scene {
    fn new() -> Self {
        let world = World::new();
        Self {
            forge: Forge::of(&world.authority),
            agent: world.agent_identity().to_string(),
            plane: world.plane_identity().to_string(),
            world,
        }
    }

    fn agent_spec(&self) -> LeafSpec {
        LeafSpec::new(&[&self.agent], &[ClientAuth])
    }

    fn plane_spec(&self) -> LeafSpec {
        LeafSpec::new(&[&self.plane], &[ServerAuth, ClientAuth])
    }

    /// An agent's leaf, forged but for the signature as the authority makes them.
    fn agent(&self, spec: LeafSpec) -> Forged {
        self.forge.under(&self.forge.agents, spec)
    }

    fn plane(&self, spec: LeafSpec) -> Forged {
        self.forge.under(&self.forge.planes, spec)
    }

    fn judge(&self, forged: &Forged, expect: Expect) -> Result<Identity, VerifyError> {
        let bundle = self.world.authority.bundle();
        peer_leaf(&forged.chain, bundle, expect, self.world.now).map(|leaf| leaf.identity)
    }

    /// The forged leaf dials a relay.
    fn dial(&self, forged: &Forged) -> Result<Pair, Box<Failure>> {
        let mut client = (*tls::agent_link_client(&self.world.agent()).unwrap()).clone();
        client.client_auth_cert_resolver = resolver(forged);
        let server = tls::link_server(&self.world.plane()).unwrap();
        handshake(Arc::new(client), server)
    }

    /// An agent dials the forged leaf.
    fn serve(&self, forged: &Forged) -> Result<Pair, Box<Failure>> {
        let mut server = (*tls::link_server(&self.world.plane()).unwrap()).clone();
        server.cert_resolver = resolver(forged);
        let client = tls::agent_link_client(&self.world.agent()).unwrap();
        handshake(client, Arc::new(server))
    }

    /// Refused as a dialler of a relay, for this reason.
    fn relay_refuses(&self, what: &str, forged: &Forged, why: &VerifyError) {
        let judged = self.judge(forged, Expect::AgentOrPlane);
        assert_eq!(judged.as_ref(), Err(why), "{what}");
        let failure = self.dial(forged).expect_err(what);
        let reason = failure.server.as_ref().and_then(refusal_of);
        assert_eq!(reason, Some(why), "{what}");
        tells_nothing(what, failure.client.as_ref());
    }

    /// Refused as a plane that an agent dials, for this reason.
    fn agent_refuses(&self, what: &str, forged: &Forged, why: &VerifyError) {
        let judged = self.judge(forged, Expect::Plane);
        assert_eq!(judged.as_ref(), Err(why), "{what}");
        let failure = self.serve(forged).expect_err(what);
        let reason = failure.client.as_ref().and_then(refusal_of);
        assert_eq!(reason, Some(why), "{what}");
        tells_nothing(what, failure.server.as_ref());
    }

    fn both_refuse(&self, what: &str, spec: impl Fn(LeafSpec) -> LeafSpec, why: &VerifyError) {
        self.relay_refuses(what, &self.agent(spec(self.agent_spec())), why);
        self.relay_refuses(what, &self.plane(spec(self.plane_spec())), why);
        self.agent_refuses(what, &self.plane(spec(self.plane_spec())), why);
    }
}

/// One alert for every reason: whoever tries learns that it did not work, and no more.
fn tells_nothing(what: &str, peer_saw: Option<&rustls::Error>) {
    let alert = rustls::Error::AlertReceived(rustls::AlertDescription::CertificateUnknown);
    assert_eq!(peer_saw, Some(&alert), "{what}");
}

fn resolver(forged: &Forged) -> Arc<SingleCertAndKey> {
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(forged.key.pkcs8()));
    let key = any_ecdsa_type(&key).unwrap();
    Arc::new(CertifiedKey::new(forged.chain.clone(), key).into())
}

/// The forger's leaves are refused for what is wrong with them, not for being the forger's.
#[test]
fn a_leaf_with_nothing_wrong_gets_in() {
    let scene = Scene::new();
    let agent = scene.agent(scene.agent_spec());
    scene.dial(&agent).unwrap();
    assert_eq!(
        scene.judge(&agent, Expect::Agent).unwrap().to_string(),
        scene.agent
    );
    let plane = scene.plane(scene.plane_spec().dns("gw.example.com"));
    scene.serve(&plane).unwrap();
    scene.dial(&plane).unwrap();
    assert_eq!(
        scene.judge(&plane, Expect::Plane).unwrap().to_string(),
        scene.plane
    );
}

#[test]
fn another_authority_is_unknown_whatever_it_claims() {
    let scene = Scene::new();
    let domain = scene.world.authority.trust_domain().clone();
    let other = Forge::of(&Authority::create(domain, scene.world.now).unwrap());
    let agent = other.under(&other.agents, scene.agent_spec());
    let plane = other.under(&other.planes, scene.plane_spec());
    scene.relay_refuses("its agent", &agent, &VerifyError::UnknownIssuer);
    scene.agent_refuses("its plane", &plane, &VerifyError::UnknownIssuer);

    let mut dressed = plane;
    dressed.chain[1] = scene.forge.planes.certificate.clone();
    dressed.chain[2] = scene.forge.root.certificate.clone();
    for expect in [Expect::Plane, Expect::AgentOrPlane] {
        let judged = scene.judge(&dressed, expect);
        assert!(judged.is_err(), "our issuer's certificate beside its leaf");
    }
    scene.serve(&dressed).unwrap_err();
}

#[test]
fn another_trust_domain_under_our_root_is_not_ours() {
    let scene = Scene::new();
    let uri = scene.agent.replace("culvert.test", "elsewhere.test");
    let forged = scene.agent(LeafSpec::new(&[&uri], &[ClientAuth]));
    let why = VerifyError::WrongTrustDomain("elsewhere.test".parse().unwrap());
    scene.relay_refuses("an agent of elsewhere", &forged, &why);
}

/// Which tenant somebody is comes from the leaf; that it is not the one it should be is for the
/// relay to notice, which it can only if it is told the truth.
#[test]
fn other_certificates_of_the_chain_change_nothing() {
    let scene = Scene::new();
    let victim = scene.world.agent();
    let plane = scene.world.plane();
    let uri = scene.agent.replace("/acme/", "/mallory/");
    let mallory = scene.agent(LeafSpec::new(&[&uri], &[ClientAuth]));
    for (extra, place) in [
        (&victim.chain[0], 1),
        (&victim.chain[0], 3),
        (&plane.chain[0], 1),
    ] {
        let mut dressed = mallory.clone();
        dressed.chain.insert(place, extra.clone());
        let identity = scene.judge(&dressed, Expect::AgentOrPlane).unwrap();
        assert_eq!(identity.to_string(), uri);
        let pair = scene.dial(&dressed).unwrap();
        let seen = pair.server.peer_certificates().unwrap();
        let leaf = peer_leaf(
            seen,
            scene.world.authority.bundle(),
            Expect::AgentOrPlane,
            scene.world.now,
        );
        assert_eq!(leaf.unwrap().identity.to_string(), uri);
    }
}

/// To put the victim's leaf first is to be asked for the victim's key.
#[test]
fn a_certificate_without_its_key_gets_nowhere() {
    let scene = Scene::new();
    let thief = KeyPair::generate().unwrap();
    let stolen = |chain: Vec<CertificateDer<'static>>| Forged {
        chain,
        key: thief.clone(),
    };
    let bad = rustls::Error::InvalidCertificate(rustls::CertificateError::BadSignature);
    let failure = scene.dial(&stolen(scene.world.agent().chain)).unwrap_err();
    assert_eq!(failure.server, Some(bad.clone()));
    let failure = scene.serve(&stolen(scene.world.plane().chain)).unwrap_err();
    assert_eq!(failure.client, Some(bad));
}

#[test]
fn an_agent_is_no_plane() {
    let scene = Scene::new();
    let genuine = Forged::from(&scene.world.agent());
    scene.agent_refuses("an agent's leaf", &genuine, &VerifyError::WrongUsage);
    let claim = scene.agent(scene.plane_spec());
    scene.agent_refuses(
        "a plane's path and usage from the agents issuer",
        &claim,
        &VerifyError::WrongUsage,
    );
    let why = VerifyError::RoleMismatch {
        issuer: Role::Agent,
        path: Role::Plane,
    };
    scene.relay_refuses("the same at a relay", &claim, &why);
    let quiet = scene.agent(LeafSpec::new(&[&scene.plane], &[ClientAuth]));
    scene.relay_refuses("a plane's path, an agent's usage", &quiet, &why);
}

#[test]
fn a_plane_is_no_agent() {
    let scene = Scene::new();
    let why = VerifyError::RoleMismatch {
        issuer: Role::Plane,
        path: Role::Agent,
    };
    for usages in [&[ClientAuth][..], &[ServerAuth, ClientAuth]] {
        let forged = scene.plane(LeafSpec::new(&[&scene.agent], usages));
        scene.relay_refuses("an agent's path from the planes issuer", &forged, &why);
    }
    let genuine = Forged::from(&scene.world.plane());
    assert_eq!(
        scene.judge(&genuine, Expect::Agent),
        Err(VerifyError::NotExpected(Role::Plane))
    );
    let forged = scene.plane(LeafSpec::new(&[&scene.agent], &[ServerAuth, ClientAuth]));
    scene.agent_refuses("an agent's path that serves", &forged, &why);
}

#[test]
fn exactly_one_uri_counts() {
    let scene = Scene::new();
    let second = scene.agent.replace("/acme/", "/other/");
    for (uris, count) in [
        (vec![&*scene.agent, &*second], 2),
        (vec![&*scene.agent, &*scene.agent], 2),
        (vec![&*scene.agent, &*scene.plane], 2),
        (vec![&*scene.agent, "https://example.com/"], 2),
        (vec![], 0),
    ] {
        let forged = scene.agent(LeafSpec::new(&uris, &[ClientAuth]).dns("localhost"));
        scene.relay_refuses("URIs", &forged, &VerifyError::UriCount(count));
        let forged = scene.plane(LeafSpec::new(&uris, &[ServerAuth, ClientAuth]).dns("localhost"));
        scene.agent_refuses("URIs", &forged, &VerifyError::UriCount(count));
    }
}

#[test]
fn a_uri_that_is_no_identity_is_refused() {
    let scene = Scene::new();
    for uri in [
        "https://culvert.test/",
        "spiffe://culvert.test/tenant/acme",
        &scene.agent.to_uppercase(),
        &format!("{}/", scene.agent),
        &scene.agent.replace("/acme/", "/acme/../other/"),
    ] {
        let forged = scene.agent(LeafSpec::new(&[uri], &[ClientAuth]));
        let judged = scene.judge(&forged, Expect::AgentOrPlane);
        assert!(matches!(judged, Err(VerifyError::Identity(_))), "{uri}");
        scene.dial(&forged).unwrap_err();
    }
}

#[test]
fn a_common_name_is_never_an_identity() {
    let scene = Scene::new();
    let nameless = LeafSpec::new(&[], &[ClientAuth]).common_name(&scene.agent);
    let why = VerifyError::UriCount(0);
    scene.relay_refuses("identity in the CN alone", &scene.agent(nameless), &why);

    let other = scene.agent.replace("/acme/", "/other/");
    let both = scene.agent(scene.agent_spec().common_name(&other));
    let identity = scene.judge(&both, Expect::Agent).unwrap();
    assert_eq!(identity.to_string(), scene.agent);
}

#[test]
fn the_wrong_usage_is_refused() {
    let scene = Scene::new();
    let usages: [&[ExtendedKeyUsagePurpose]; 4] = [
        &[ExtendedKeyUsagePurpose::CodeSigning],
        &[ServerAuth],
        &[ClientAuth, ExtendedKeyUsagePurpose::CodeSigning],
        &[],
    ];
    for usages in usages {
        let forged = scene.agent(LeafSpec::new(&[&scene.agent], usages));
        scene.relay_refuses(&format!("{usages:?}"), &forged, &VerifyError::WrongUsage);
    }
    let any = [ExtendedKeyUsagePurpose::Any];
    for usages in [&[ClientAuth][..], &[ServerAuth], &any, &[]] {
        let forged = scene.plane(LeafSpec::new(&[&scene.plane], usages));
        scene.agent_refuses(&format!("{usages:?}"), &forged, &VerifyError::WrongUsage);
    }
}

#[test]
fn a_leaf_signs_handshakes_and_nothing_else() {
    let scene = Scene::new();
    for usages in [
        &[][..],
        &[KeyUsagePurpose::KeyEncipherment],
        &[KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::CrlSign],
        &[
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::KeyCertSign,
        ],
    ] {
        scene.both_refuse(
            &format!("{usages:?}"),
            |leaf| leaf.key_usages(usages),
            &VerifyError::WrongUsage,
        );
    }
    let authority = VerifyError::Chain(webpki::Error::CaUsedAsEndEntity);
    scene.both_refuse(
        "a leaf that is an authority",
        LeafSpec::authority,
        &authority,
    );
}

#[test]
fn a_leaf_lives_when_it_lives() {
    let scene = Scene::new();
    let past = |leaf: LeafSpec| leaf.life(Life::Past);
    let future = |leaf: LeafSpec| leaf.life(Life::Future);
    scene.both_refuse("expired", past, &VerifyError::Expired);
    scene.both_refuse("not yet valid", future, &VerifyError::NotYetValid);
}

/// What a relay does again and again while a link lives.
#[test]
fn a_proven_chain_expires_with_its_leaf() {
    let scene = Scene::new();
    let agent = scene.world.agent();
    let bundle = scene.world.authority.bundle();
    let at = |now| peer_leaf(&agent.chain, bundle, Expect::Agent, now);
    let leaf = at(scene.world.now).unwrap();
    let life = leaf.not_after.duration_since(scene.world.now).unwrap();
    assert!(life <= LEAF_LIFETIME && life > LEAF_LIFETIME - Duration::from_secs(2));
    at(leaf.not_after).unwrap();
    let second = Duration::from_secs(1);
    assert_eq!(at(leaf.not_after + second), Err(VerifyError::Expired));
    // Back-dated by ten minutes, for clocks that are behind.
    let minutes = Duration::from_secs(60);
    at(scene.world.now - 9 * minutes).unwrap();
    let before = at(scene.world.now - 11 * minutes);
    assert_eq!(before, Err(VerifyError::NotYetValid));
}

#[test]
fn only_an_issuer_below_the_root_vouches() {
    let scene = Scene::new();
    let forge = &scene.forge;
    let direct = forge.under(&forge.root, scene.agent_spec());
    scene.relay_refuses("signed by the root", &direct, &VerifyError::NotFromIssuer);

    let member = scene.agent(scene.agent_spec());
    let mut by_leaf = forge.under(&(&member).into(), scene.agent_spec());
    by_leaf.chain.insert(2, forge.agents.certificate.clone());
    let judged = scene.judge(&by_leaf, Expect::AgentOrPlane);
    assert!(judged.is_err(), "signed by a leaf");
    scene.dial(&by_leaf).unwrap_err();

    let below = forge.agents.issuer(&[ClientAuth], Life::Now);
    let mut deep = forge.under(&below, scene.agent_spec());
    deep.chain.insert(2, forge.agents.certificate.clone());
    let judged = scene.judge(&deep, Expect::AgentOrPlane);
    assert!(judged.is_err(), "signed by an issuer's issuer");
    scene.dial(&deep).unwrap_err();

    // Where the path length would allow it, we do not.
    let between = forge.root.issuer(&[ClientAuth], Life::Now);
    let mut long = forge.under(
        &between.issuer(&[ClientAuth], Life::Now),
        scene.agent_spec(),
    );
    long.chain.insert(2, between.certificate);
    scene.relay_refuses("two issuers", &long, &VerifyError::NotFromIssuer);
}

#[test]
fn an_issuer_vouches_for_the_role_that_the_root_gave_it() {
    let scene = Scene::new();
    let root = &scene.forge.root;
    let none = scene
        .forge
        .under(&root.issuer(&[], Life::Now), scene.agent_spec());
    scene.relay_refuses("no usage", &none, &VerifyError::WrongUsage);
    let more = [ClientAuth, ExtendedKeyUsagePurpose::CodeSigning];
    let more = scene
        .forge
        .under(&root.issuer(&more, Life::Now), scene.agent_spec());
    scene.relay_refuses("more than a role", &more, &VerifyError::WrongUsage);
    let expired = root.issuer(&[ClientAuth], Life::Past);
    let expired = scene.forge.under(&expired, scene.agent_spec());
    scene.relay_refuses("an expired issuer", &expired, &VerifyError::Expired);
}

#[test]
fn chains_are_bounded_and_complete() {
    let scene = Scene::new();
    let genuine = Forged::from(&scene.world.agent());
    let cut = |length: usize| Forged {
        chain: genuine.chain[..length].to_vec(),
        key: genuine.key.clone(),
    };
    assert_eq!(
        scene.judge(&cut(0), Expect::Agent),
        Err(VerifyError::NoCertificate)
    );
    scene.relay_refuses("the leaf alone", &cut(1), &VerifyError::UnknownIssuer);
    scene
        .dial(&cut(2))
        .expect("the root is known without being sent");
    let mut long = genuine.clone();
    long.chain.extend(genuine.chain[1..].iter().cloned());
    scene.relay_refuses("five certificates", &long, &VerifyError::ChainTooLong);
    let mut garbage = genuine.clone();
    garbage.chain[0] = b"not a certificate".to_vec().into();
    assert_eq!(
        scene.judge(&garbage, Expect::Agent),
        Err(VerifyError::Malformed)
    );
}

/// After a change of root, members that hold only the pin accept whoever sends the new root.
#[test]
fn the_next_root_is_known_by_its_pin() {
    let scene = Scene::new();
    let next = &scene.forge.next_root;
    let planes = next.issuer(&[ServerAuth, ClientAuth], Life::Now);
    let mut renewed = scene.forge.under(&planes, scene.plane_spec());
    scene.agent_refuses("a root not sent", &renewed, &VerifyError::UnknownIssuer);
    renewed.chain[2] = next.certificate.clone();
    scene.serve(&renewed).unwrap();
}
