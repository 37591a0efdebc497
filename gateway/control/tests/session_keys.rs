//! The keys for session ids: each tenant has one, they are replaced in time, and go with their tenant.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod world;

use std::time::Duration;

use culvert_control::{
    Control, PlaneKey,
    resource::{Document, ResourceKind},
    session_keys::{SESSION_LIFETIME, WrappedKey},
};
use tokio::task::JoinSet;
use world::{Running, World, acme, operator, put, until};

const DAY: Duration = Duration::from_secs(24 * 3600);

fn plane_key(world: &World, name: &str) -> PlaneKey {
    PlaneKey::from_file(&world.path(name), true).unwrap()
}

fn keys_of(control: &Control, tenant: &str) -> Vec<WrappedKey> {
    let snapshot = control.snapshot().borrow().clone();
    let keys = snapshot.session_keys.get(tenant);
    keys.cloned().unwrap_or_default()
}

#[tokio::test]
async fn every_tenant_has_a_key_that_its_plane_opens_and_no_other() {
    let world = World::new();
    let running = Running::start(world.with_connector().await);
    let control = running.control.clone();
    let plane = plane_key(&world, "plane.key");
    until(&control, |snapshot| !snapshot.tenants.is_empty()).await;
    control.mint_session_keys(&plane).await.unwrap();
    let keys = keys_of(&control, "acme");
    let [wrapped] = keys.as_slice() else {
        panic!("one key, not {keys:?}")
    };
    let key = wrapped.open(&acme(), &plane).unwrap();
    assert_eq!(key.id(), wrapped.id);
    let other = plane_key(&world, "other.key");
    assert!(wrapped.open(&acme(), &other).is_none());
    assert!(wrapped.open(&"other".parse().unwrap(), &plane).is_none());
    assert!(WrappedKey::current(&keys, &other, world.now()).is_none());
    // Once is enough; a plane with another key gets one of its own.
    control.mint_session_keys(&plane).await.unwrap();
    assert_eq!(keys_of(&control, "acme"), keys);
    control.mint_session_keys(&other).await.unwrap();
    let both = keys_of(&control, "acme");
    assert_eq!(both.len(), 2);
    let own = WrappedKey::current(&both, &plane, world.now()).unwrap();
    assert_eq!(own.id, key.id());
    running.stop().await;
}

#[tokio::test]
async fn a_new_tenant_gets_its_key_without_being_asked_for() {
    let world = World::new();
    let running = Running::start(world.with_connector().await);
    let control = running.control.clone();
    let plane = plane_key(&world, "plane.key");
    let mut keeping = JoinSet::new();
    let keeper = control.clone();
    keeping.spawn(async move { keeper.keep_session_keys(plane).await });
    until(&control, |snapshot| snapshot.session_keys.len() == 1).await;
    let tenant = Document::new(ResourceKind::Tenant, None, "other").unwrap();
    put(&control, tenant).await.unwrap();
    until(&control, |snapshot| snapshot.session_keys.len() == 2).await;
    keeping.shutdown().await;
    running.stop().await;
}

#[tokio::test]
async fn a_key_is_replaced_and_kept_while_its_sessions_last() {
    let world = World::new();
    let running = Running::start(world.with_connector().await);
    let control = running.control.clone();
    let plane = plane_key(&world, "plane.key");
    until(&control, |snapshot| !snapshot.tenants.is_empty()).await;
    control.mint_session_keys(&plane).await.unwrap();
    let [old] = keys_of(&control, "acme").try_into().unwrap();
    world.pass(7 * DAY);
    control.mint_session_keys(&plane).await.unwrap();
    let keys = keys_of(&control, "acme");
    assert_eq!(keys.len(), 2);
    let current = |after| {
        let now = world.now() + after;
        WrappedKey::current(&keys, &plane, now).unwrap().id
    };
    // Other replicas may not have heard of the new one yet.
    assert_eq!(current(Duration::ZERO), old.id);
    assert_ne!(current(Duration::from_secs(60)), old.id);
    // Where somebody looks late, and then hears late of the new one, the old one is sealed with for
    // two hours more.
    let late = Duration::from_secs(2 * 3600 + 60);
    world.pass(SESSION_LIFETIME + late);
    control.sweep().await.unwrap();
    control.refresh().await.unwrap();
    assert_eq!(keys_of(&control, "acme").len(), 2);
    world.pass(Duration::from_secs(1));
    control.sweep().await.unwrap();
    control.refresh().await.unwrap();
    let left = keys_of(&control, "acme");
    assert_eq!(left.len(), 1);
    assert_ne!(left[0].id, old.id);
    running.stop().await;
}

/// A snapshot may stay as it is while the store already has the key.
#[tokio::test]
async fn a_key_that_the_store_has_is_not_made_again() {
    let world = World::new();
    let running = Running::start(world.with_connector().await);
    let control = running.control.clone();
    let plane = plane_key(&world, "plane.key");
    until(&control, |snapshot| !snapshot.tenants.is_empty()).await;
    let old = control.snapshot().borrow().clone();
    for _ in 0..3 {
        let minting = control.mint_session_keys_missing_in(&old, &plane);
        minting.await.unwrap();
    }
    assert_eq!(keys_of(&control, "acme").len(), 1);
    running.stop().await;
}

#[tokio::test]
async fn a_deleted_tenant_has_no_key() {
    let world = World::new();
    let running = Running::start(world.with_connector().await);
    let control = running.control.clone();
    let plane = plane_key(&world, "plane.key");
    until(&control, |snapshot| !snapshot.tenants.is_empty()).await;
    control.mint_session_keys(&plane).await.unwrap();
    assert_eq!(keys_of(&control, "acme").len(), 1);
    control
        .delete_document(
            &operator(),
            ResourceKind::Tenant,
            None,
            "acme",
            culvert_control::documents::Precondition::None,
        )
        .await
        .unwrap();
    until(&control, |snapshot| snapshot.session_keys.is_empty()).await;
    running.stop().await;
}
