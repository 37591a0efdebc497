//! What planes see: published soon, living things only, and nothing that control did not sign.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod world;

use std::time::Duration;

use bytes::Bytes;
use culvert_certs::{Denied, SecretKey};
use culvert_control::{
    Control, ControlError,
    resource::ResourceKind,
    revoke::Revoked,
    snapshot::Serving,
    store::{Expected, Key, Kind, RedbStore, Scope, Store, list_all},
};
use serde_json::json;
use world::{
    Running, World, acme, connector_document, dev, join, operator, put, spec, tenant_document,
    until,
};

async fn key(control: &Control, name: &str, value: serde_json::Value) -> SecretKey {
    control
        .create_key(&operator(), &acme(), name, spec(value))
        .await
        .unwrap()
        .secret
}

#[tokio::test]
async fn a_key_works_until_it_expires_or_is_revoked_and_then_looks_unknown() {
    let world = World::new();
    let running = Running::start(world.with_connector().await);
    let control = &running.control;
    let lasting = key(control, "lasting", json!({"allow": ["dev/llama"]})).await;
    let expires = culvert_control::resource::Timestamp::from(world.now() + Duration::from_secs(60));
    let ending = json!({"all": true, "expires": expires.to_string()});
    let ending = key(control, "ending", ending).await;

    let snapshot = until(control, |snapshot| snapshot.keys.len() == 2).await;
    let found = snapshot.key(lasting.expose(), world.now()).unwrap();
    assert_eq!(
        (found.tenant.clone(), found.id.as_str()),
        (acme(), "lasting")
    );
    assert!(found.allow.permits(&dev(), "llama", None));
    assert!(!found.allow.permits(&dev(), "tickets", None));
    assert!(snapshot.key(ending.expose(), world.now()).is_some());
    assert!(
        snapshot
            .key(ending.expose(), world.now() + Duration::from_secs(60))
            .is_none()
    );
    assert!(snapshot.key("cvk_unknown", world.now()).is_none());

    let (by, of) = (operator(), acme());
    control
        .revoke_key(&by, ResourceKind::Key, Some(&of), "lasting")
        .await
        .unwrap();
    let gone = |s: &std::sync::Arc<culvert_control::ConfigSnapshot>| {
        s.key(lasting.expose(), world.now()).is_none()
    };
    until(control, gone).await;
    running.stop().await;
}

/// That the store still answers is no news: who follows the configuration is not woken by it.
#[tokio::test(start_paused = true)]
async fn hearing_the_store_changes_no_configuration() {
    let world = World::new();
    let running = Running::start(world.with_connector().await);
    let control = &running.control;
    until(control, |snapshot| snapshot.connectors.len() == 1).await;
    let mut heard = control.heard_at();
    for _ in 0..3 {
        // The follower may have begun to watch, and published what was there.
        let mut config = control.snapshot();
        config.borrow_and_update();
        world.pass(Duration::from_secs(3_600));
        let moved = heard.wait_for(|at| *at == world.now());
        tokio::time::timeout(Duration::from_secs(30), moved)
            .await
            .unwrap()
            .unwrap();
        assert!(!config.has_changed().unwrap());
    }
    running.stop().await;
}

#[tokio::test]
async fn connectors_are_told_with_their_rules_and_serving_agents() {
    let world = World::new();
    let running = Running::start(world.with_connector().await);
    let control = &running.control;
    let member = join(&world, control).await;
    let agent = member.identity.agent().unwrap().agent;
    let id = (acme(), dev());
    let snapshot = until(control, |snapshot| snapshot.connectors.contains_key(&id)).await;
    let view = &snapshot.connectors[&id];
    assert_eq!(
        (&view.services, &view.zones, &view.serving),
        (&None, &None, &Serving::Every)
    );

    let rules = json!({"services": ["llama"], "zones": ["ORF"], "approve": "manual"});
    put(control, connector_document(rules)).await.unwrap();
    let ruled = until(control, |snapshot| snapshot.connectors[&id].zones.is_some()).await;
    let view = &ruled.connectors[&id];
    assert_eq!(view.services, Some(["llama".to_owned()].into()));
    assert_eq!(
        view.serving,
        Serving::Only([agent].into()),
        "approved when it joined"
    );

    let name = agent.to_string();
    let found = control
        .document(ResourceKind::Agent, Some(&acme()), &name)
        .await
        .unwrap();
    let mut document = found.0;
    document.spec.insert("locked".into(), true.into());
    put(control, document).await.unwrap();
    let none = Serving::Only([].into());
    until(control, |snapshot| snapshot.connectors[&id].serving == none).await;
    running.stop().await;
}

#[tokio::test]
async fn a_revocation_is_denied_and_said() {
    let world = World::new();
    let running = Running::start(world.with_connector().await);
    let control = &running.control;
    let (one, other) = (join(&world, control).await, join(&world, control).await);
    let leaf = one.leaf(world.now()).unwrap();
    let identity = one.identity.agent().unwrap();
    let denied = async |why| {
        let wanted = |s: &std::sync::Arc<_>| denies(s, &leaf) == Some(why);
        until(control, wanted).await
    };
    control
        .revoke(&operator(), &Revoked::Agent(acme(), identity.agent))
        .await
        .unwrap();
    let snapshot = denied(Denied::Agent).await;
    assert!(snapshot.revocation(identity).is_some());
    assert!(
        snapshot
            .revocation(other.identity.agent().unwrap())
            .is_none()
    );
    assert_eq!(denies(&snapshot, &other.leaf(world.now()).unwrap()), None);
    assert_eq!(snapshot.deny.revision, snapshot.revision.get());

    let all = key(control, "all", json!({"all": true})).await;
    until(control, |snapshot| {
        snapshot.key(all.expose(), world.now()).is_some()
    })
    .await;
    control
        .revoke(&operator(), &Revoked::Tenant(acme()))
        .await
        .unwrap();
    let snapshot = until(control, |snapshot| snapshot.tenants.is_empty()).await;
    assert!(snapshot.connectors.is_empty());
    assert!(snapshot.key(all.expose(), world.now()).is_none());
    assert!(
        snapshot
            .revocation(other.identity.agent().unwrap())
            .is_some()
    );
    running.stop().await;
}

fn denies(
    snapshot: &culvert_control::ConfigSnapshot,
    leaf: &culvert_certs::PeerLeaf,
) -> Option<Denied> {
    snapshot.deny.denies(leaf)
}

#[tokio::test]
async fn revisions_of_snapshots_only_grow_and_restarts_lose_nothing() {
    let world = World::new();
    let control = world.with_connector().await;
    let secret = key(&control, "ci", json!({"all": true})).await;
    control.refresh().await.unwrap();
    let before = control.snapshot().borrow().clone();
    drop(control);
    let control = world.open().await;
    let after = control.snapshot().borrow().clone();
    assert_eq!(after.revision, before.revision);
    assert_eq!(after.keys, before.keys);
    assert!(after.key(secret.expose(), world.now()).is_some());
}

/// What a plane with stolen store credentials could try.
#[tokio::test]
async fn what_control_did_not_sign_in_this_place_counts_for_nothing() {
    let world = World::new();
    let control = world.with_connector().await;
    let secret = key(&control, "narrow", json!({"allow": ["dev/llama"]})).await;
    drop(control);
    let store = world.store().await;
    let text = |text: &str| text.parse::<Key>().unwrap();
    let tenant = store.get(&text("tenant._.acme")).await.unwrap().unwrap();
    // Another kind's record, another name's, and one of nobody.
    let connector = store
        .get(&text("connector.acme.dev"))
        .await
        .unwrap()
        .unwrap();
    for (key, value) in [
        ("connector.acme.other", connector.value.clone()),
        ("connector.beta.dev", connector.value.clone()),
        ("tenant._.beta", tenant.value.clone()),
        (
            "tenant._.gamma",
            Bytes::from_static(b"{\"kind\":\"Tenant\",\"name\":\"gamma\"}"),
        ),
    ] {
        store
            .put_if(&text(key), Expected::Absent, value)
            .await
            .unwrap();
    }
    drop(store);

    let control = world.open().await;
    let snapshot = control.snapshot().borrow().clone();
    assert_eq!(snapshot.tenants.len(), 1);
    assert_eq!(snapshot.connectors.len(), 1);
    assert!(snapshot.key(secret.expose(), world.now()).is_some());
    let forged = control.document(ResourceKind::Tenant, None, "beta").await;
    assert!(
        matches!(forged, Err(ControlError::Forged(..))),
        "{forged:?}"
    );
}

#[tokio::test]
async fn a_record_from_the_future_is_not_believed() {
    let world = World::new();
    let control = world.with_connector().await;
    for n in 0..5 {
        put(
            &control,
            connector_document(json!({"description": n.to_string()})),
        )
        .await
        .unwrap();
    }
    drop(control);
    let read = async |store: &RedbStore, key: &str| {
        store.get(&key.parse().unwrap()).await.unwrap().unwrap()
    };
    let store = world.store().await;
    let late = read(&store, "connector.acme.dev").await;
    let authority = read(&store, "authority._.current").await;
    drop(store);

    // Into a younger store of the same authority: there it would stand below what it names.
    std::fs::remove_file(world.path("culvert.redb")).unwrap();
    let store = world.store().await;
    for entry in [authority, late] {
        store
            .put_if(&entry.key, Expected::Absent, entry.value)
            .await
            .unwrap();
    }
    drop(store);
    let control = world.open().await;
    let found = control
        .document(ResourceKind::Connector, Some(&acme()), "dev")
        .await;
    assert!(
        matches!(found, Err(ControlError::Forged(_, None))),
        "{found:?}"
    );
}

#[tokio::test]
async fn nothing_secret_is_stored_in_plain() {
    let world = World::new();
    let control = world.with_connector().await;
    let secret = key(&control, "ci", json!({"all": true})).await;
    let token = world::mint(&control).await.encode().unwrap();
    join(&world, &control).await;
    drop(control);
    let store = world.store().await;
    let (_, entries) = list_all(&store, &Scope::All).await.unwrap();
    assert!(entries.iter().any(|entry| entry.key.kind == Kind::Token));
    let body = |secret: &str| secret.split_once('_').unwrap().1.as_bytes().to_vec();
    for secret in [body(secret.expose()), body(token.expose())] {
        for entry in &entries {
            let found = entry
                .value
                .windows(secret.len())
                .any(|window| window == secret);
            assert!(!found, "{}", entry.key);
        }
    }
}

#[tokio::test]
async fn a_wrong_authority_key_or_trust_domain_opens_nothing() {
    let world = World::new();
    drop(world.open().await);
    let mut config = world.config().await;
    config.trust_domain = "other.test".parse().unwrap();
    let refused = Control::open(config).await.unwrap_err();
    assert!(refused.to_string().contains("culvert.test"), "{refused}");

    std::fs::remove_file(world.path("authority.key")).unwrap();
    let refused = Control::open(world.config().await).await.unwrap_err();
    let text = format!("{refused:?}");
    assert!(text.contains("OtherKey"), "{text}");
}

#[tokio::test]
async fn a_deleted_tenant_is_gone_for_planes_at_once() {
    let world = World::new();
    let running = Running::start(world.with_connector().await);
    let control = &running.control;
    until(control, |snapshot| snapshot.connectors.len() == 1).await;
    let none = culvert_control::documents::Precondition::None;
    let by = operator();
    control
        .delete_document(&by, ResourceKind::Tenant, None, "acme", none)
        .await
        .unwrap();
    let snapshot = until(control, |snapshot| snapshot.tenants.is_empty()).await;
    assert!(snapshot.connectors.is_empty());
    let again = put(control, tenant_document(json!({}))).await;
    assert!(matches!(again, Err(ControlError::Ruled(_))), "{again:?}");
    running.stop().await;
}
