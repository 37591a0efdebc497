//! The state directory, the sealed authority, and signed records: what must survive, and what
//! must be noticed.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use culvert_certs::record::RecordError;
use culvert_certs::seal::SealError;
use culvert_certs::store::StoreError;
use culvert_certs::{
    Authority, AuthorityError, CredentialStore, Credentials, Membership, RecordHeader, Refusal,
    SealingKey, SignedRecord, TokenId, TrustBundle,
};
use tempfile::TempDir;

use crate::world::World;

struct State {
    dir: TempDir,
    world: World,
}

impl State {
    fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            world: World::new(),
        }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("agent")
    }

    fn open(&self) -> CredentialStore {
        CredentialStore::open(&self.path()).unwrap()
    }

    /// The published generations, by name.
    fn generations(&self) -> Vec<String> {
        names(&self.path())
            .into_iter()
            .filter(|name| name.starts_with("identity-"))
            .collect()
    }
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn membership() -> Membership {
    Membership {
        addresses: vec!["gw.example.com:443".parse().unwrap()],
        dns_suffixes: vec!["example.com".to_owned()],
        token_id: Some(TokenId::from_bytes([7; 16])),
    }
}

fn same(left: &Credentials, right: &Credentials) -> bool {
    left.identity == right.identity
        && left.chain == right.chain
        && left.key.pkcs8() == right.key.pkcs8()
        && left.bundle == right.bundle
}

#[test]
fn an_identity_comes_back_whole() {
    let state = State::new();
    let agent = state.world.agent();
    {
        let store = state.open();
        assert!(store.load().unwrap().is_none());
        store.publish(&agent, &membership()).unwrap();
    }
    let loaded = state.open().load().unwrap().unwrap();
    assert!(same(&loaded.credentials, &agent));
    assert_eq!(loaded.membership, membership());
}

#[test]
fn only_the_owner_can_read() {
    let state = State::new();
    let store = state.open();
    store.publish(&state.world.agent(), &membership()).unwrap();
    store.keep_refusal(&refusal(None, None)).unwrap();
    let generation = state.path().join("identity-0000000001");
    assert_eq!(mode(&state.path()), 0o700);
    assert_eq!(mode(&generation), 0o700);
    assert_eq!(
        names(&generation),
        ["bundle.cbor", "chain.pem", "identity.json", "key.pem"]
    );
    for name in names(&generation) {
        assert_eq!(mode(&generation.join(&name)), 0o600, "{name}");
    }
    for name in ["lock", "refused.json"] {
        assert_eq!(mode(&state.path().join(name)), 0o600, "{name}");
    }
}

#[test]
fn the_files_are_what_other_tools_read() {
    let state = State::new();
    let agent = state.world.agent();
    state.open().publish(&agent, &membership()).unwrap();
    let generation = state.path().join("identity-0000000001");
    let read = |name: &str| fs::read_to_string(generation.join(name)).unwrap();
    let key = rcgen::KeyPair::from_pem(&read("key.pem")).unwrap();
    assert_eq!(key.serialized_der(), agent.key.pkcs8());
    assert_eq!(
        read("chain.pem")
            .matches("-----BEGIN CERTIFICATE-----\n")
            .count(),
        3
    );
    assert!(read("chain.pem").lines().all(|line| line.len() <= 64));
    let json: serde_json::Value = serde_json::from_str(&read("identity.json")).unwrap();
    assert_eq!(json["id"], agent.identity.to_string());
    assert_eq!(json["addresses"][0], "gw.example.com:443");
}

#[test]
fn the_newest_identity_replaces_the_old_one() {
    let state = State::new();
    let store = state.open();
    let (first, second) = (state.world.agent(), state.world.agent());
    store.publish(&first, &membership()).unwrap();
    store.publish(&second, &membership()).unwrap();
    assert!(same(&store.load().unwrap().unwrap().credentials, &second));
    assert_eq!(state.generations(), ["identity-0000000002"]);
}

/// A crash between the renaming and the tidying leaves two; the newer one counts.
#[test]
fn of_two_generations_the_newer_counts() {
    let state = State::new();
    let store = state.open();
    let (first, second) = (state.world.agent(), state.world.agent());
    store.publish(&first, &membership()).unwrap();
    let kept = state.dir.path().join("kept");
    fs::rename(state.path().join("identity-0000000001"), &kept).unwrap();
    store.publish(&second, &membership()).unwrap();
    let newer = state.path().join("identity-0000000010");
    fs::rename(state.path().join("identity-0000000001"), newer).unwrap();
    fs::rename(kept, state.path().join("identity-0000000009")).unwrap();
    assert!(same(&store.load().unwrap().unwrap().credentials, &second));
    store.publish(&first, &membership()).unwrap();
    assert_eq!(state.generations(), ["identity-0000000011"]);
}

/// A crash before the renaming leaves a hidden directory: it is never read, and goes away with
/// the next identity.
#[test]
fn a_half_written_identity_is_ignored() {
    let state = State::new();
    let store = state.open();
    let agent = state.world.agent();
    store.publish(&agent, &membership()).unwrap();
    let half = state.path().join(".00112233.tmp");
    fs::create_dir(&half).unwrap();
    fs::write(half.join("key.pem"), "-----BEGIN PRIV").unwrap();
    assert!(same(&store.load().unwrap().unwrap().credentials, &agent));
    store.publish(&state.world.agent(), &membership()).unwrap();
    assert!(!half.exists());
}

#[test]
fn damage_is_an_error_not_an_empty_store() {
    let state = State::new();
    let store = state.open();
    let agent = state.world.agent();
    for name in ["bundle.cbor", "chain.pem", "identity.json", "key.pem"] {
        store.publish(&agent, &membership()).unwrap();
        let path = state.path().join(&state.generations()[0]).join(name);
        let whole = fs::read(&path).unwrap();
        fs::write(&path, &whole[..whole.len() / 2]).unwrap();
        assert!(store.load().is_err(), "{name} cut");
        fs::remove_file(&path).unwrap();
        assert!(store.load().is_err(), "{name} gone");
    }
}

#[test]
fn an_identity_of_other_files_is_refused() {
    let state = State::new();
    let store = state.open();
    store.publish(&state.world.agent(), &membership()).unwrap();
    let generation = state.path().join("identity-0000000001");
    let other = state.world.agent();
    let key = rcgen::KeyPair::try_from(other.key.pkcs8()).unwrap();
    fs::write(generation.join("key.pem"), key.serialize_pem()).unwrap();
    assert!(matches!(store.load(), Err(StoreError::Credentials(_))));
}

#[test]
fn one_process_at_a_time() {
    let state = State::new();
    let held = state.open();
    let second = CredentialStore::open(&state.path());
    assert!(matches!(second, Err(StoreError::Locked(path)) if path == state.path()));
    assert!(CredentialStore::peek(&state.path()).unwrap().is_none());
    drop(held);
    state.open();
}

fn refusal(credentials: Option<&Credentials>, token_id: Option<TokenId>) -> Refusal {
    Refusal {
        code: "revoked".to_owned(),
        reason: "the connector was revoked".to_owned(),
        identity: credentials.map(|credentials| credentials.identity.clone()),
        token_id,
    }
}

#[test]
fn a_refusal_is_kept_until_something_new_is_tried() {
    let state = State::new();
    let agent = state.world.agent();
    let (old, new) = (TokenId::from_bytes([1; 16]), TokenId::from_bytes([2; 16]));
    let store = state.open();
    assert_eq!(store.refusal().unwrap(), None);
    store
        .keep_refusal(&refusal(Some(&agent), Some(old)))
        .unwrap();
    let kept = store.refusal().unwrap().unwrap();
    let me = Some(&agent.identity);
    assert!(kept.stands(me, None), "the same identity, no token");
    assert!(kept.stands(me, Some(old)), "the same identity and token");
    assert!(!kept.stands(me, Some(new)), "a new token");
    let other = state.world.agent();
    assert!(!kept.stands(Some(&other.identity), None), "a new identity");

    store.publish(&other, &membership()).unwrap();
    assert_eq!(store.refusal().unwrap(), None, "a new identity clears it");
    store.keep_refusal(&refusal(None, Some(old))).unwrap();
    assert!(store.refusal().unwrap().unwrap().stands(None, Some(old)));
    store.clear_refusal().unwrap();
    store.clear_refusal().unwrap();
    assert_eq!(store.refusal().unwrap(), None);
}

#[test]
fn an_expired_identity_still_loads() {
    let state = State::new();
    let store = state.open();
    let past = state.world.now - std::time::Duration::from_secs(20 * 24 * 3600);
    let identity = state.world.agent_identity().into();
    let authority = Authority::create("culvert.test".parse().unwrap(), past).unwrap();
    let expired = authority
        .enroll(&identity, &[], culvert_certs::LEAF_LIFETIME, past)
        .unwrap();
    store.publish(&expired, &membership()).unwrap();
    let loaded = store.load().unwrap().unwrap().credentials;
    assert!(loaded.leaf(state.world.now).is_err());
    assert!(loaded.leaf(past).is_ok());
}

#[test]
fn the_authority_opens_under_its_own_key_only() {
    let world = World::new();
    let key = SealingKey::generate();
    let sealed = world.authority.seal(&key).unwrap();
    let opened = Authority::open(&sealed, &key).unwrap();
    assert_eq!(opened.pins().unwrap(), world.authority.pins().unwrap());
    assert_eq!(opened.bundle(), world.authority.bundle());
    let agent = opened
        .enroll(
            &world.agent_identity().into(),
            &[],
            culvert_certs::LEAF_LIFETIME,
            world.now,
        )
        .unwrap();
    assert!(agent.leaf(world.now).is_ok());

    let plane_key = SealingKey::generate();
    let refused = Authority::open(&sealed, &plane_key).unwrap_err();
    assert!(matches!(refused, AuthorityError::Seal(SealError::OtherKey(id)) if id == key.id()));
    let secret = agent.key.pkcs8();
    assert!(!sealed.windows(16).any(|bytes| bytes == &secret[..16]));
}

#[test]
fn the_bundle_is_believed_by_pin_and_never_goes_back() {
    let world = World::new();
    let bundle = world.authority.bundle();
    let pins = world.authority.pins().unwrap();
    assert_eq!(
        TrustBundle::from_signed(bundle.as_bytes(), &pins).as_ref(),
        Ok(&**bundle)
    );
    assert_eq!(bundle.pins(), pins);
    assert_eq!(bundle.successor(bundle.as_bytes()).as_ref(), Ok(&**bundle));
    let stranger = World::new();
    let theirs = stranger.authority.bundle().as_bytes();
    TrustBundle::from_signed(theirs, &pins).unwrap_err();
    bundle.successor(theirs).unwrap_err();
    for at in 0..bundle.as_bytes().len() {
        let mut changed = bundle.as_bytes().to_vec();
        changed[at] ^= 1;
        if let Ok(accepted) = TrustBundle::from_signed(&changed, &pins) {
            assert_eq!(accepted.anchors(), bundle.anchors(), "byte {at}");
        }
    }
}

fn header(world: &World, name: &str) -> RecordHeader {
    RecordHeader {
        kind: "connector".to_owned(),
        tenant: Some("acme".parse().unwrap()),
        name: name.to_owned(),
        revision: 7,
        epoch: world.authority.bundle().epoch(),
    }
}

#[test]
fn control_signs_records_and_members_believe_them() {
    let world = World::new();
    let bundle = world.authority.bundle();
    let signed = world
        .authority
        .sign_record(header(&world, "prod-vpc"), b"spec".to_vec())
        .unwrap();
    let read = SignedRecord::verify(signed.as_bytes(), bundle).unwrap();
    assert_eq!(read, signed);
    assert_eq!(read.header(), &header(&world, "prod-vpc"));
    assert_eq!(read.payload(), b"spec");

    let stranger = World::new();
    let unknown = SignedRecord::verify(signed.as_bytes(), stranger.authority.bundle());
    assert!(matches!(unknown, Err(RecordError::UnknownKey(_))));
}

#[test]
fn every_changed_byte_of_a_record_is_noticed() {
    let world = World::new();
    let signed = world
        .authority
        .sign_record(header(&world, "prod-vpc"), b"spec".to_vec())
        .unwrap();
    for at in 0..signed.as_bytes().len() {
        let mut changed = signed.as_bytes().to_vec();
        changed[at] ^= 1;
        let read = SignedRecord::verify(&changed, world.authority.bundle());
        assert!(read.is_err(), "byte {at}");
    }
}
