//! Joining and renewing: one winner, every refusal logged with its reason and told as one.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod world;

use std::{sync::Arc, time::Duration};

use culvert_certs::{
    Authority, Credentials, Expect, Identity, JoinRequest, JoinToken, KeyPair, LEAF_LIFETIME,
    RenewRequest, SignedRecord, TokenSpec, peer_leaf,
};
use culvert_control::{
    Control, JoinRefusal, RenewRefusal,
    audit::Outcome,
    join::MAX_AGENTS,
    resource::{AgentSpec, ResourceKind},
    revoke::Revoked,
    tokens::TOKEN_LIFETIME,
};
use serde_json::json;
use tokio::task::JoinSet;
use world::{
    SOURCE, World, acme, audit, connector_document, dev, join, mint, operator, put, refusals,
    request, tenant_document,
};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// Refused as every other, and logged with exactly this reason.
async fn refused(control: &Control, request: &JoinRequest, reason: &str) {
    let told = control.join(request, SOURCE).await.unwrap_err();
    assert_eq!(told, JoinRefusal::Refused);
    assert_eq!(refusals(control, "join").await, [reason]);
    let events = audit(control).await;
    let event = events
        .iter()
        .find(|event| event.outcome == Outcome::Refused)
        .unwrap();
    assert_eq!(event.actor, format!("token/{}", request.token_id));
    assert_eq!(event.source.as_deref(), Some("192.0.2.7:4711"));
}

#[tokio::test]
async fn a_token_makes_a_member_whose_identity_control_chose() {
    let world = World::new();
    let control = world.with_connector().await;
    let member = join(&world, &control).await;
    let Identity::Agent(agent) = &member.identity else {
        panic!("{}", member.identity);
    };
    assert_eq!((&agent.tenant, &agent.connector), (&acme(), &dev()));

    let name = agent.agent.to_string();
    let (document, _) = control
        .document(ResourceKind::Agent, Some(&acme()), &name)
        .await
        .unwrap();
    assert_eq!(document.status_text("connector"), Some("dev"));
    assert_eq!(document.status_text("source"), Some("192.0.2.7"));
    assert!(document.view::<AgentSpec>().unwrap().approved);
    let actions: Vec<_> = audit(&control)
        .await
        .into_iter()
        .map(|e| e.action)
        .collect();
    assert!(actions.contains(&"join".to_owned()), "{actions:?}");
}

#[tokio::test]
async fn two_members_are_two() {
    let world = World::new();
    let control = world.with_connector().await;
    let (one, other) = (join(&world, &control).await, join(&world, &control).await);
    assert_ne!(one.identity, other.identity);
}

#[tokio::test]
async fn nothing_of_a_signing_request_but_its_key_gets_into_the_certificate() {
    let world = World::new();
    let control = world.with_connector().await;
    let token = mint(&control).await;
    let key = KeyPair::generate().unwrap();
    // A request that asks to be somebody else, in every way that there is.
    let names = ["spiffe://culvert.test/plane/US/ORF/aaaaaaaaaaaaaaaaaaaaaaaaaa".to_owned()];
    let mut params = rcgen::CertificateParams::default();
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, "root");
    let uri = rcgen::string::Ia5String::try_from(names[0].clone()).unwrap();
    params.subject_alt_names.push(rcgen::SanType::URI(uri));
    params.is_ca = rcgen::IsCa::NoCa;
    let csr = params.serialize_request(&key).unwrap();
    let request = JoinRequest::new(&token, csr.der().to_vec()).unwrap();
    let answer = control.join(&request, SOURCE).await.unwrap();
    let member = answer.into_credentials(&token, key, world.now()).unwrap();
    assert!(
        matches!(member.identity, Identity::Agent(_)),
        "{}",
        member.identity
    );
}

#[tokio::test]
async fn a_used_token_is_refused() {
    let world = World::new();
    let control = world.with_connector().await;
    let token = mint(&control).await;
    control.join(&request(&token).0, SOURCE).await.unwrap();
    refused(&control, &request(&token).0, "the join token has been used").await;
}

#[tokio::test]
async fn a_replay_is_refused_also_after_a_restart() {
    let world = World::new();
    let control = world.with_connector().await;
    let token = mint(&control).await;
    let (recorded, _) = request(&token);
    control.join(&recorded, SOURCE).await.unwrap();
    drop(control);

    let control = world.open().await;
    refused(&control, &recorded, "the join token has been used").await;
}

#[tokio::test]
async fn an_expired_token_is_refused() {
    let world = World::new();
    let control = world.with_connector().await;
    let token = mint(&control).await;
    world.pass(TOKEN_LIFETIME);
    refused(&control, &request(&token).0, "the join token has expired").await;
}

#[tokio::test]
async fn an_unknown_token_is_refused() {
    let world = World::new();
    let control = world.with_connector().await;
    let (token, _) = JoinToken::mint(forged_spec(&mint(&control).await)).unwrap();
    refused(&control, &request(&token).0, "no token has this id").await;
}

#[tokio::test]
async fn a_forged_proof_is_refused_and_does_not_use_the_token_up() {
    let world = World::new();
    let control = world.with_connector().await;
    let token = mint(&control).await;
    let (other, _) = JoinToken::mint(forged_spec(&token)).unwrap();
    let mut forged = request(&other).0;
    forged.token_id = token.id();
    refused(&control, &forged, "the signature does not fit the request").await;
    control.join(&request(&token).0, SOURCE).await.unwrap();
}

#[tokio::test]
async fn a_signing_request_swapped_on_the_way_is_refused() {
    let world = World::new();
    let control = world.with_connector().await;
    let token = mint(&control).await;
    let mut swapped = request(&token).0;
    swapped.csr = KeyPair::generate().unwrap().csr().unwrap();
    refused(&control, &swapped, "the signature does not fit the request").await;
}

#[tokio::test]
async fn a_token_of_a_revoked_connector_is_refused() {
    let world = World::new();
    let control = world.with_connector().await;
    let token = mint(&control).await;
    control
        .revoke(&operator(), &Revoked::Connector(acme(), dev()))
        .await
        .unwrap();
    let reason = "the connector or its tenant was deleted or revoked";
    refused(&control, &request(&token).0, reason).await;
    let minted = control
        .mint_connector_token(&operator(), &acme(), &dev(), TOKEN_LIFETIME)
        .await;
    assert!(minted.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_fifty_redeemers_at_once_one_wins() {
    let world = World::new();
    let control = world.with_connector().await;
    let token = Arc::new(mint(&control).await);
    let mut redeemers = JoinSet::new();
    for _ in 0..50 {
        let (control, token) = (control.clone(), Arc::clone(&token));
        redeemers.spawn(async move { control.join(&request(&token).0, SOURCE).await });
    }
    let outcomes = redeemers.join_all().await;
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1);
    assert!(
        outcomes
            .iter()
            .flat_map(|o| o.as_ref().err())
            .all(|e| *e == JoinRefusal::Refused)
    );
    let reasons = refusals(&control, "join").await;
    assert_eq!(reasons.len(), 49, "every refusal is logged");
    let lost = [
        "the token was used: somebody else was faster",
        "the join token has been used",
    ];
    assert!(
        reasons.iter().all(|reason| lost.contains(&reason.as_str())),
        "{reasons:?}"
    );
    let scope = culvert_control::store::Scope::Kind(culvert_control::store::Kind::Agent);
    let page = control
        .document_page(&scope, culvert_control::store::Page::FIRST)
        .await
        .unwrap();
    assert_eq!(page.documents.len(), 1, "one member");
}

#[tokio::test]
async fn a_connector_has_a_bounded_number_of_agents() {
    let world = World::new();
    let control = world.with_connector().await;
    for _ in 0..MAX_AGENTS {
        join(&world, &control).await;
    }
    refused(
        &control,
        &request(&mint(&control).await).0,
        "the connector has 64 agents",
    )
    .await;
}

#[tokio::test]
async fn an_agent_of_a_manual_connector_is_held() {
    let world = World::new();
    let control = world.open().await;
    put(&control, tenant_document(json!({}))).await.unwrap();
    put(&control, connector_document(json!({"approve": "manual"})))
        .await
        .unwrap();
    let member = join(&world, &control).await;
    let name = member.identity.agent().unwrap().agent.to_string();
    let (document, _) = control
        .document(ResourceKind::Agent, Some(&acme()), &name)
        .await
        .unwrap();
    assert!(!document.view::<AgentSpec>().unwrap().approved);
}

#[tokio::test]
async fn a_plane_joins_with_a_token_of_its_own() {
    let world = World::new();
    let control = world.open().await;
    let mut plane =
        culvert_control::resource::Document::new(ResourceKind::Plane, None, "ORF").unwrap();
    plane.spec = world::spec(json!({"region": "US", "dns_names": ["gateway.test"]}));
    put(&control, plane).await.unwrap();
    let zone = "ORF".parse().unwrap();
    let minted = control
        .mint_plane_token(&operator(), &zone, TOKEN_LIFETIME)
        .await
        .unwrap();
    let token: JoinToken = minted.text.expose().parse().unwrap();
    let (request, key) = request(&token);
    let answer = control.join(&request, SOURCE).await.unwrap();
    let member = answer.into_credentials(&token, key, world.now()).unwrap();
    assert_eq!(member.identity.plane().unwrap().zone, zone);
}

fn forged_spec(like: &JoinToken) -> TokenSpec {
    TokenSpec {
        addresses: like.addresses.clone(),
        trust_domain: like.trust_domain.clone(),
        subject: like.subject.clone(),
        pins: like.pins,
        expiry: like.expiry,
    }
}

#[tokio::test]
async fn a_member_renews_under_the_same_identity_with_a_new_key() {
    let world = World::new();
    let control = world.with_connector().await;
    let member = join(&world, &control).await;
    world.pass(LEAF_LIFETIME / 2);
    let next = KeyPair::generate().unwrap();
    let request = RenewRequest::new(&member, &next).unwrap();
    let answer = control.renew(&request, None).await.unwrap();
    assert_eq!(answer.id, member.identity);
    let bundle = Arc::clone(&member.bundle);
    let renewed = Credentials::new(answer.chain, next, bundle, world.now()).unwrap();
    let (old, new) = (
        member.leaf(world.now()).unwrap(),
        renewed.leaf(world.now()).unwrap(),
    );
    assert_eq!(new.identity, old.identity);
    assert_ne!(new.serial, old.serial);
    assert!(new.not_after > old.not_after);
}

#[tokio::test]
async fn an_expired_leaf_renews_for_thirty_days_and_no_longer() {
    let world = World::new();
    let control = world.with_connector().await;
    let member = join(&world, &control).await;
    let request = RenewRequest::new(&member, &KeyPair::generate().unwrap()).unwrap();
    world.pass(LEAF_LIFETIME + 29 * DAY);
    control.renew(&request, None).await.unwrap();
    world.pass(2 * DAY);
    let refused = control.renew(&request, None).await.unwrap_err();
    assert!(matches!(refused, RenewRefusal::Refused), "{refused:?}");
    let reasons = refusals(&control, "renew").await;
    assert_eq!(
        reasons,
        ["the certificate expired too long ago to be renewed"]
    );
}

#[tokio::test]
async fn a_revoked_member_is_told_so_in_controls_signed_words() {
    for name in ["agent", "connector", "tenant"] {
        let world = World::new();
        let control = world.with_connector().await;
        let member = join(&world, &control).await;
        let agent = member.identity.agent().unwrap().agent;
        let (revoked, word_name) = match name {
            "agent" => (Revoked::Agent(acme(), agent), format!("agent-{agent}")),
            "connector" => (Revoked::Connector(acme(), dev()), "connector-dev".into()),
            _ => (Revoked::Tenant(acme()), "tenant".into()),
        };
        control.revoke(&operator(), &revoked).await.unwrap();
        let request = RenewRequest::new(&member, &KeyPair::generate().unwrap()).unwrap();
        let Err(RenewRefusal::Revoked(word)) = control.renew(&request, Some(SOURCE)).await else {
            panic!("a revoked {name} renewed");
        };
        let word = SignedRecord::verify(word.as_bytes(), &member.bundle).unwrap();
        let header = word.header();
        assert_eq!(
            (header.kind.as_str(), &header.name),
            ("revoked", &word_name)
        );
        assert_eq!(header.tenant, Some(acme()));
    }
}

#[tokio::test]
async fn a_locked_member_does_not_renew_until_it_is_unlocked() {
    let world = World::new();
    let control = world.with_connector().await;
    let member = join(&world, &control).await;
    let request = RenewRequest::new(&member, &KeyPair::generate().unwrap()).unwrap();
    let name = member.identity.agent().unwrap().agent.to_string();
    for (locked, renews) in [(true, false), (false, true)] {
        let found = control
            .document(ResourceKind::Agent, Some(&acme()), &name)
            .await;
        let mut document = found.unwrap().0;
        document.spec.insert("locked".into(), locked.into());
        put(&control, document).await.unwrap();
        assert_eq!(
            control.renew(&request, None).await.is_ok(),
            renews,
            "locked: {locked}"
        );
    }
}

#[tokio::test]
async fn a_member_of_another_world_does_not_renew() {
    let world = World::new();
    let control = world.with_connector().await;
    let member = join(&world, &control).await;
    let other = Authority::create("culvert.test".parse().unwrap(), world.now()).unwrap();
    let stranger = other
        .enroll(&member.identity, &[], LEAF_LIFETIME, world.now())
        .unwrap();
    let request = RenewRequest::new(&stranger, &KeyPair::generate().unwrap()).unwrap();
    let refused = control.renew(&request, None).await.unwrap_err();
    assert!(matches!(refused, RenewRefusal::Refused), "{refused:?}");
}

/// Whoever has a new certificate needs no other, and fills no log with the wish.
#[tokio::test]
async fn an_agent_that_renews_again_and_again_gets_one_certificate_an_hour() {
    let world = World::new();
    let control = world.with_connector().await;
    let member = join(&world, &control).await;
    let renew = async || {
        let request = RenewRequest::new(&member, &KeyPair::generate().unwrap()).unwrap();
        control.renew(&request, None).await
    };
    renew().await.unwrap();
    let before = audit(&control).await.len();
    for _ in 0..10 {
        let refused = renew().await.unwrap_err();
        assert!(matches!(refused, RenewRefusal::TooSoon), "{refused:?}");
    }
    assert_eq!(audit(&control).await.len(), before);
    world.pass(Duration::from_secs(3600));
    renew().await.unwrap();
    // Past half-life an answer that was lost is asked for again a minute later.
    world.pass(LEAF_LIFETIME / 2);
    renew().await.unwrap();
    assert!(matches!(renew().await, Err(RenewRefusal::TooSoon)));
    world.pass(Duration::from_secs(60));
    renew().await.unwrap();
}

#[tokio::test]
async fn of_many_renewals_at_a_time_one_gets_a_certificate() {
    let world = World::new();
    let control = world.with_connector().await;
    let member = join(&world, &control).await;
    let mut tasks = JoinSet::new();
    for _ in 0..8 {
        let control = control.clone();
        let request = RenewRequest::new(&member, &KeyPair::generate().unwrap()).unwrap();
        tasks.spawn(async move { control.renew(&request, None).await });
    }
    let outcomes = tasks.join_all().await;
    let issued = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
    assert_eq!(issued, 1, "{outcomes:?}");
}

/// A renewal whose answer arrived.
async fn renewed(world: &World, control: &Control, member: &Credentials) -> Credentials {
    let next = KeyPair::generate().unwrap();
    let request = RenewRequest::new(member, &next).unwrap();
    let answer = control.renew(&request, None).await.unwrap();
    Credentials::new(answer.chain, next, Arc::clone(&member.bundle), world.now()).unwrap()
}

const SUPERSEDED: &str = "the leaf was superseded: somebody has a copy of an earlier identity";

#[tokio::test]
async fn a_superseded_leaf_is_refused_and_audited_as_a_copy() {
    let world = World::new();
    let control = world.with_connector().await;
    let copied = join(&world, &control).await;
    world.pass(LEAF_LIFETIME / 2);
    let first = renewed(&world, &control, &copied).await;
    world.pass(LEAF_LIFETIME / 2);
    let second = renewed(&world, &control, &first).await;
    world.pass(LEAF_LIFETIME / 2);
    let request = RenewRequest::new(&copied, &KeyPair::generate().unwrap()).unwrap();
    let refused = control.renew(&request, Some(SOURCE)).await.unwrap_err();
    assert!(matches!(refused, RenewRefusal::Refused), "{refused:?}");
    assert_eq!(refusals(&control, "renew").await, [SUPERSEDED]);
    // The agent itself goes on.
    renewed(&world, &control, &second).await;
}

/// Planes read requests; whoever keeps one and plays it again must not hold the agent up.
#[tokio::test]
async fn a_renewal_that_is_played_again_changes_nothing() {
    let world = World::new();
    let control = world.with_connector().await;
    let member = join(&world, &control).await;
    let name = member.identity.agent().unwrap().agent.to_string();
    let status = async || {
        let tenant = acme();
        let found = control.document(ResourceKind::Agent, Some(&tenant), &name);
        found.await.unwrap().1
    };
    world.pass(LEAF_LIFETIME / 2);
    let next = KeyPair::generate().unwrap();
    let recorded = RenewRequest::new(&member, &next).unwrap();
    let answer = control.renew(&recorded, None).await.unwrap();
    let bundle = Arc::clone(&member.bundle);
    let first = Credentials::new(answer.chain, next, bundle, world.now()).unwrap();
    world.pass(LEAF_LIFETIME / 2);

    // Between two renewals it gets the same certificate again, which ends when that one does.
    let (before, events) = (status().await, audit(&control).await.len());
    let again = control.renew(&recorded, None).await.unwrap();
    let end = first.leaf(world.now()).unwrap().not_after;
    let (bundle, now) = (&member.bundle, world.now());
    let repeated = peer_leaf(&again.chain, bundle, Expect::Agent, now).unwrap();
    assert_eq!(repeated.not_after, end);
    assert_eq!(
        (status().await, audit(&control).await.len()),
        (before, events)
    );
    let second = renewed(&world, &control, &first).await;

    // After the next one it is a superseded leaf's.
    world.pass(LEAF_LIFETIME / 2);
    let before = status().await;
    let refused = control.renew(&recorded, None).await.unwrap_err();
    assert!(matches!(refused, RenewRefusal::Refused), "{refused:?}");
    assert_eq!(status().await, before);
    renewed(&world, &control, &second).await;
}

/// The plane that lost an answer may play its request when the agent has asked again.
#[tokio::test]
async fn a_lost_request_that_comes_late_supersedes_nobody() {
    let world = World::new();
    let control = world.with_connector().await;
    let member = join(&world, &control).await;
    world.pass(LEAF_LIFETIME / 2);
    let lost = RenewRequest::new(&member, &KeyPair::generate().unwrap()).unwrap();
    control.renew(&lost, None).await.unwrap();
    world.pass(Duration::from_secs(60));
    let first = renewed(&world, &control, &member).await;
    world.pass(Duration::from_secs(60));
    control.renew(&lost, None).await.unwrap();
    world.pass(LEAF_LIFETIME / 2);
    renewed(&world, &control, &first).await;
}

/// A removed replica's disk is worth nothing at the door of those who renew.
#[tokio::test]
async fn a_plane_does_not_renew_where_agents_do() {
    let world = World::new();
    let control = world.open().await;
    let mut plane =
        culvert_control::resource::Document::new(ResourceKind::Plane, None, "ORF").unwrap();
    plane.spec = world::spec(json!({"region": "US", "dns_names": ["gateway.test"]}));
    put(&control, plane).await.unwrap();
    let zone = "ORF".parse().unwrap();
    let minted = control
        .mint_plane_token(&operator(), &zone, TOKEN_LIFETIME)
        .await
        .unwrap();
    let token: JoinToken = minted.text.expose().parse().unwrap();
    let (asked, key) = request(&token);
    let answer = control.join(&asked, SOURCE).await.unwrap();
    let member = answer.into_credentials(&token, key, world.now()).unwrap();
    let request = RenewRequest::new(&member, &KeyPair::generate().unwrap()).unwrap();
    let refused = control.renew(&request, Some(SOURCE)).await.unwrap_err();
    assert!(matches!(refused, RenewRefusal::Refused), "{refused:?}");
    assert_eq!(
        refusals(&control, "renew").await,
        ["a plane does not renew here"]
    );
}
