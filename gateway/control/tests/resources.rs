//! Writing and deleting resources: strict, compare-and-set, and names not reused too soon.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod world;

use std::time::Duration;

use culvert_certs::{KeyPair, RenewRequest};
use culvert_control::{
    ControlError, NAME_REUSE, RenewRefusal,
    documents::Precondition,
    resource::{Document, Problem, ResourceKind},
    revoke::Revoked,
    store::{Kind, Page, Revision, Scope},
};
use serde_json::json;
use world::{
    World, acme, audit, connector_document, dev, join, mint, operator, put, request, spec,
    tenant_document,
};

async fn delete(
    control: &culvert_control::Control,
    kind: ResourceKind,
    name: &str,
) -> Result<(), ControlError> {
    let tenant = kind.has_tenant().then(acme);
    let none = Precondition::None;
    control
        .delete_document(&operator(), kind, tenant.as_ref(), name, none)
        .await
}

#[tokio::test]
async fn a_document_that_cannot_be_enforced_is_refused_with_every_reason() {
    let world = World::new();
    let control = world.with_connector().await;
    let bad = connector_document(json!({"services": ["Llama"], "limit": 3}));
    let Err(ControlError::Invalid(invalid)) = put(&control, bad).await else {
        panic!("it was taken");
    };
    let places: Vec<_> = invalid
        .0
        .iter()
        .map(|finding| finding.path.as_str())
        .collect();
    assert_eq!(places, ["spec.services[0]", "spec.limit"]);
    assert_eq!(invalid.0[1].problem, Problem::Unknown);
}

#[tokio::test]
async fn preconditions_hold_or_nothing_is_written() {
    let world = World::new();
    let control = world.with_connector().await;
    let write = async |value: &str, precondition| {
        let document = connector_document(json!({"description": value}));
        control
            .put_document(&operator(), document, precondition)
            .await
    };
    let first = write("one", Precondition::None).await.unwrap();
    assert!(!first.created);
    let exists = write("two", Precondition::Absent).await.unwrap_err();
    assert!(matches!(exists, ControlError::Conflict(Some(at)) if at == first.revision));
    let stale = write("two", Precondition::At(Revision::new(1)))
        .await
        .unwrap_err();
    assert!(matches!(stale, ControlError::Conflict(_)));
    let second = write("two", Precondition::At(first.revision))
        .await
        .unwrap();
    assert!(second.revision > first.revision);
    let found = control
        .document(ResourceKind::Connector, Some(&acme()), "dev")
        .await
        .unwrap();
    assert_eq!(
        (found.0.spec["description"].as_str(), found.1),
        (Some("two"), second.revision)
    );
}

#[tokio::test]
async fn what_belongs_to_a_tenant_needs_the_tenant() {
    let world = World::new();
    let control = world.open().await;
    let refused = put(&control, connector_document(json!({})))
        .await
        .unwrap_err();
    assert!(matches!(refused, ControlError::NotFound(_)), "{refused}");
    let key = control
        .create_key(&operator(), &acme(), "ci", spec(json!({"all": true})))
        .await;
    assert!(matches!(key, Err(ControlError::NotFound(_))));
}

#[tokio::test]
async fn agents_and_keys_do_not_come_about_by_writing_them() {
    let world = World::new();
    let control = world.with_connector().await;
    let agent = Document::new(
        ResourceKind::Agent,
        Some(acme()),
        "aebagbafaydqqcikbmga2dqpca",
    );
    let mut key = Document::new(ResourceKind::Key, Some(acme()), "ci").unwrap();
    key.spec = spec(json!({"all": true}));
    let mut owner = Document::new(ResourceKind::AdminKey, None, "me").unwrap();
    owner.spec = spec(json!({"role": "owner"}));
    for document in [agent.unwrap(), key, owner] {
        let refused = put(&control, document).await.unwrap_err();
        assert!(matches!(refused, ControlError::Ruled(_)), "{refused}");
    }
}

#[tokio::test]
async fn a_status_cannot_be_written() {
    let world = World::new();
    let control = world.with_connector().await;
    let created = control
        .create_key(&operator(), &acme(), "ci", spec(json!({"all": true})))
        .await;
    let mut document = created.unwrap().document;
    document
        .status
        .insert("digest".into(), "0".repeat(64).into());
    document.spec = spec(json!({"allow": ["dev/*"]}));
    let put = put(&control, document).await.unwrap();
    assert_ne!(
        put.document.status_text("digest"),
        Some("0".repeat(64).as_str())
    );
    assert_eq!(put.document.spec["allow"], json!(["dev/*"]));
}

#[tokio::test]
async fn a_key_says_what_it_may_call_or_is_not_made() {
    let world = World::new();
    let control = world.with_connector().await;
    for bad in [
        json!({}),
        json!({"allow": []}),
        json!({"allow": ["x"]}),
        json!({"all": false}),
    ] {
        let made = control
            .create_key(&operator(), &acme(), "ci", spec(bad))
            .await;
        assert!(matches!(made, Err(ControlError::Invalid(_))));
    }
    let good = spec(json!({"allow": ["dev/*"]}));
    control
        .create_key(&operator(), &acme(), "ci", good.clone())
        .await
        .unwrap();
    let taken = control.create_key(&operator(), &acme(), "ci", good).await;
    assert!(matches!(taken, Err(ControlError::Conflict(Some(_)))));
}

#[tokio::test]
async fn the_last_owner_stays() {
    let world = World::new();
    let control = world.open().await;
    let make = async |name: &str, role: &str| {
        let spec = spec(json!({"role": role}));
        control
            .create_admin_key(&operator(), name, spec)
            .await
            .unwrap()
    };
    let (first, _) = (make("first", "owner").await, make("viewer", "viewer").await);
    let remove = async |name| delete(&control, ResourceKind::AdminKey, name).await;
    assert!(matches!(remove("first").await, Err(ControlError::Ruled(_))));
    let revoke = control
        .revoke_key(&operator(), ResourceKind::AdminKey, None, "first")
        .await;
    assert!(matches!(revoke, Err(ControlError::Ruled(_))));
    let mut demoted = first.document;
    demoted.spec = spec(json!({"role": "viewer"}));
    assert!(matches!(
        put(&control, demoted).await,
        Err(ControlError::Ruled(_))
    ));

    make("second", "owner").await;
    remove("first").await.unwrap();
    remove("viewer").await.unwrap();
    assert!(matches!(
        remove("second").await,
        Err(ControlError::Ruled(_))
    ));
}

#[tokio::test]
async fn an_admin_key_opens_until_it_is_revoked_or_expires() {
    let world = World::new();
    let control = world.open().await;
    let expires = culvert_control::resource::Timestamp::from(world.now() + Duration::from_secs(60));
    let owner = control
        .create_admin_key(&operator(), "o", spec(json!({"role": "owner"})))
        .await;
    let owner = owner.unwrap();
    let ending = json!({"role": "operator", "tenant": "acme", "expires": expires.to_string()});
    let ending = control
        .create_admin_key(&operator(), "e", spec(ending))
        .await
        .unwrap();
    let admin = control
        .admin_of(ending.secret.expose())
        .await
        .unwrap()
        .unwrap();
    assert_eq!((admin.name.as_str(), admin.tenant), ("e", Some(acme())));
    world.pass(Duration::from_secs(60));
    assert_eq!(
        control.admin_of(ending.secret.expose()).await.unwrap(),
        None
    );
    assert!(
        control
            .admin_of(owner.secret.expose())
            .await
            .unwrap()
            .is_some()
    );
    assert_eq!(control.admin_of("").await.unwrap(), None);
}

#[tokio::test]
async fn a_deleted_connector_takes_its_agents_with_it_and_its_name_rests() {
    let world = World::new();
    let control = world.with_connector().await;
    let token = mint(&control).await;
    join(&world, &control).await;
    delete(&control, ResourceKind::Connector, "dev")
        .await
        .unwrap();
    let agents = control
        .document_page(&Scope::Kind(Kind::Agent), Page::FIRST)
        .await
        .unwrap();
    assert_eq!(agents.documents.len(), 0);
    assert!(
        control
            .join(&request(&token).0, world::SOURCE)
            .await
            .is_err()
    );

    let again = put(&control, connector_document(json!({}))).await;
    assert!(matches!(again, Err(ControlError::Retired(_))), "{again:?}");
    world.pass(NAME_REUSE - Duration::from_secs(1));
    assert!(put(&control, connector_document(json!({}))).await.is_err());
    world.pass(Duration::from_secs(2));
    put(&control, connector_document(json!({}))).await.unwrap();
    let member = join(&world, &control).await;

    // The new one is revoked like any other, whatever is left of the old one's revocation.
    control
        .revoke(&operator(), &Revoked::Connector(acme(), dev()))
        .await
        .unwrap();
    control.sweep().await.unwrap();
    let request = RenewRequest::new(&member, &KeyPair::generate().unwrap()).unwrap();
    let renewed = control.renew(&request, None).await;
    assert!(
        matches!(renewed, Err(RenewRefusal::Revoked(_))),
        "{renewed:?}"
    );
}

#[tokio::test]
async fn a_deleted_tenant_is_kept_for_its_retention_then_erased_but_for_its_audit() {
    let world = World::new();
    let control = world.open().await;
    put(&control, tenant_document(json!({"retention": "5d"})))
        .await
        .unwrap();
    put(&control, connector_document(json!({}))).await.unwrap();
    join(&world, &control).await;
    delete(&control, ResourceKind::Tenant, "acme")
        .await
        .unwrap();
    assert!(
        control
            .mint_connector_token(&operator(), &acme(), &dev(), Duration::from_secs(60))
            .await
            .is_err()
    );
    let connectors = async || {
        control
            .document_page(&Scope::Kind(Kind::Connector), Page::FIRST)
            .await
            .unwrap()
            .documents
            .len()
    };
    world.pass(Duration::from_secs(4 * 86_400));
    control.sweep().await.unwrap();
    assert_eq!(connectors().await, 1);
    world.pass(Duration::from_secs(2 * 86_400));
    control.sweep().await.unwrap();
    assert_eq!(connectors().await, 0);
    let gone = control.document(ResourceKind::Tenant, None, "acme").await;
    assert!(matches!(gone, Err(ControlError::NotFound(_))));
    assert!(
        audit(&control)
            .await
            .iter()
            .any(|event| event.tenant == Some(acme()))
    );
    let again = put(&control, tenant_document(json!({}))).await;
    assert!(matches!(again, Err(ControlError::Retired(_))));
}

#[tokio::test]
async fn a_sweep_takes_what_is_past_and_nothing_else() {
    let world = World::new();
    let control = world.with_connector().await;
    mint(&control).await;
    let count = async |kind| {
        let store_kind = Scope::Kind(kind);
        control_count(&control, &store_kind).await
    };
    control.sweep().await.unwrap();
    assert!(count(Kind::Connector).await == 1 && audit(&control).await.len() >= 3);
    world.pass(Duration::from_secs(91 * 86_400));
    control.sweep().await.unwrap();
    assert_eq!(audit(&control).await.len(), 0);
    assert_eq!(count(Kind::Connector).await, 1);
}

async fn control_count(control: &culvert_control::Control, scope: &Scope) -> usize {
    control
        .document_page(scope, Page::FIRST)
        .await
        .unwrap()
        .documents
        .len()
}

#[tokio::test]
async fn bootstrapping_dev_twice_changes_nothing_and_lost_keys_are_made_anew() {
    let world = World::new();
    let control = world.open().await;
    let path = world.path("dev.json");
    let first = control.bootstrap_dev(None).await.unwrap();
    first.write(&path).unwrap();
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(
        std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let kept = culvert_control::DevFile::read(&path).unwrap();
    let second = control.bootstrap_dev(kept).await.unwrap();
    assert_eq!(second.api_key.expose(), first.api_key.expose());
    assert_eq!(second.admin_key.expose(), first.admin_key.expose());

    let third = control.bootstrap_dev(None).await.unwrap();
    assert_ne!(third.api_key.expose(), first.api_key.expose());
    let snapshot = control.snapshot().borrow().clone();
    assert!(snapshot.key(third.api_key.expose(), world.now()).is_some());
    assert!(snapshot.key(first.api_key.expose(), world.now()).is_none());
    let admin = control
        .admin_of(third.admin_key.expose())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(admin.role, culvert_control::resource::Role::Owner);
    assert!(
        !format!("{third:?}").contains(third.api_key.expose()),
        "masked"
    );
}
