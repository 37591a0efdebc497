//! Joining against a plane on loopback, with real certificates, and what is kept of it.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use culvert_agent::error::AgentError;
use culvert_agent::identity::obtain;
use culvert_agent::renewal::{NotRevived, Renewal};
use culvert_certs::store::{CredentialStore, Membership, StoredIdentity};
use culvert_certs::{
    AgentId, AgentIdentity, Authority, HostPort, Identity, JoinAnswer, JoinRequest, JoinSubject,
    JoinToken, PlaneIdentity, RecordHeader, RenewRequest, TokenRecord, TokenSpec, tls,
};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

const NO_PATIENCE: Duration = Duration::ZERO;
const DAY: Duration = Duration::from_secs(24 * 3_600);

/// A plane that joins whoever has the one token, or answers a status of choice.
struct Plane {
    authority: Arc<Authority>,
    address: HostPort,
    asked: Arc<AtomicUsize>,
    signed: watch::Sender<String>,
    _tasks: JoinSet<()>,
}

fn authority() -> Arc<Authority> {
    let domain = "culvert.test".parse().expect("a domain");
    let born = SystemTime::now() - 10 * DAY;
    Arc::new(Authority::create(domain, born).expect("an authority"))
}

fn subject() -> JoinSubject {
    JoinSubject::Connector {
        tenant: "acme".parse().expect("a name"),
        connector: "prod-vpc".parse().expect("a name"),
    }
}

fn mint(authority: &Authority, address: &HostPort) -> (JoinToken, TokenRecord) {
    JoinToken::mint(TokenSpec {
        addresses: vec![address.clone()],
        trust_domain: authority.trust_domain().clone(),
        subject: subject(),
        pins: authority.pins().expect("pins"),
        expiry: SystemTime::now() + Duration::from_secs(3_600),
    })
    .expect("a token")
}

fn redeem(authority: &Authority, record: &TokenRecord, body: &[u8]) -> Option<JoinAnswer> {
    let request: JoinRequest = serde_json::from_slice(body).ok()?;
    let csr = request
        .verify(record, authority.trust_domain(), SystemTime::now())
        .ok()?;
    let identity = AgentIdentity {
        trust_domain: authority.trust_domain().clone(),
        tenant: "acme".parse().ok()?,
        connector: "prod-vpc".parse().ok()?,
        agent: AgentId::random(),
    };
    let lifetime = Duration::from_secs(3_600);
    let chain = authority
        .issue_agent(&csr, &identity, lifetime, SystemTime::now())
        .ok()?;
    Some(JoinAnswer {
        id: Identity::Agent(identity),
        chain: chain.certificates,
        bundle: authority.bundle().as_bytes().to_vec(),
        dns_suffixes: Vec::new(),
        addresses: Vec::new(),
        gateway_url: Some("http://gateway.test:8080".to_owned()),
    })
}

fn renew(authority: &Authority, body: &[u8]) -> Option<JoinAnswer> {
    let (request, now) = (RenewRequest::decode(body).ok()?, SystemTime::now());
    let verified = request.verify(authority.bundle(), now).ok()?;
    let identity = verified.leaf.identity.agent()?.clone();
    let chain = authority
        .issue_agent(&verified.csr, &identity, DAY, now)
        .ok()?;
    Some(JoinAnswer {
        id: Identity::Agent(identity),
        chain: chain.certificates,
        bundle: authority.bundle().as_bytes().to_vec(),
        dns_suffixes: Vec::new(),
        addresses: Vec::new(),
        gateway_url: None,
    })
}

/// An identity whose leaf has expired a week ago, as it is kept.
async fn expired(plane: &Plane, dir: &Path) -> Renewal {
    let identity = Identity::Agent(AgentIdentity {
        trust_domain: plane.authority.trust_domain().clone(),
        tenant: "acme".parse().expect("a name"),
        connector: "prod-vpc".parse().expect("a name"),
        agent: AgentId::random(),
    });
    let born = SystemTime::now() - 8 * DAY;
    let credentials = plane
        .authority
        .enroll(&identity, &[], DAY, born)
        .expect("credentials");
    let membership = Membership {
        addresses: vec![plane.address.clone()],
        ..Membership::default()
    };
    let store = CredentialStore::open(dir).expect("a store");
    store.publish(&credentials, &membership).expect("kept");
    let stored = obtain(&store, None, NO_PATIENCE)
        .await
        .expect("an identity");
    Renewal::new(stored, Arc::new(store), 0)
}

#[tokio::test]
async fn an_agent_whose_leaf_has_expired_renews_where_it_joined() {
    let (plane, _token) = Plane::new(None).await;
    let dir = tempfile::tempdir().expect("a directory");
    let renewal = expired(&plane, dir.path()).await;
    let before = renewal.current();
    assert!(before.credentials.leaf(SystemTime::now()).is_err());
    renewal.revive().await.expect("renewed");
    let after = renewal.current();
    assert!(after.credentials.leaf(SystemTime::now()).is_ok());
    assert_eq!(after.credentials.identity, before.credentials.identity);
    // A leaf that is alive is left alone.
    renewal.revive().await.expect("nothing to do");
    assert_eq!(plane.asked.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn an_expired_agent_that_is_refused_does_not_ask_all_the_time() {
    let (plane, _token) = Plane::new(Some(403)).await;
    let dir = tempfile::tempdir().expect("a directory");
    let renewal = expired(&plane, dir.path()).await;
    let refused = renewal.revive().await.expect_err("refused").to_string();
    assert!(
        refused.contains("expired") && refused.contains("so"),
        "{refused}"
    );
    renewal.revive().await.expect_err("not yet");
    assert_eq!(plane.asked.load(Ordering::SeqCst), 1);
}

/// Whoever slept through its revocation and the end of its leaf has nobody else to tell it.
#[tokio::test]
async fn an_expired_agent_that_was_revoked_is_told_so_and_believes_control_alone() {
    for (is_ours, told) in [(true, "revoked"), (false, "not renewed")] {
        let (plane, _token) = Plane::new(Some(403)).await;
        let dir = tempfile::tempdir().expect("a directory");
        let renewal = expired(&plane, dir.path()).await;
        let signer = if is_ours {
            Arc::clone(&plane.authority)
        } else {
            authority()
        };
        let header = RecordHeader {
            kind: "revoked".to_owned(),
            tenant: Some("acme".parse().expect("a name")),
            name: "connector-prod-vpc".to_owned(),
            revision: 1,
            epoch: 0,
        };
        let word = signer.sign_record(header, b"{}".to_vec()).expect("signed");
        plane.says(word.as_bytes());
        let failure = renewal.revive().await.expect_err("refused");
        assert_eq!(failure == NotRevived::Revoked, is_ours, "{failure}");
        assert!(failure.to_string().contains(told), "{failure}");
    }
}

/// A clock that was set back shows a leaf that is not alive yet, and the planes' clocks are right.
#[tokio::test]
async fn a_leaf_that_is_not_alive_yet_is_left_alone() {
    let (plane, _token) = Plane::new(None).await;
    let dir = tempfile::tempdir().expect("a directory");
    let kept = expired(&plane, dir.path()).await.current();
    let born = SystemTime::now() + DAY;
    let identity = &kept.credentials.identity;
    let credentials = plane
        .authority
        .enroll(identity, &[], DAY, born)
        .expect("credentials");
    let early = StoredIdentity {
        credentials,
        membership: kept.membership.clone(),
    };
    let renewal = Renewal::new(early, Arc::new(open(dir.path())), 0);
    renewal.revive().await.expect("left alone");
    assert_eq!(plane.asked(), 0);
}

impl Plane {
    /// Gives control's words along with its refusals.
    fn says(&self, signed: &[u8]) {
        let text = data_encoding::BASE64.encode(signed);
        self.signed.send_replace(text);
    }

    /// Answers with `status` where it is given, else redeems the token that `record` is of.
    async fn new(status: Option<u16>) -> (Self, JoinToken) {
        let authority = authority();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let addr: SocketAddr = listener.local_addr().expect("an address");
        let address = HostPort::new(&addr.ip().to_string(), addr.port()).expect("an address");
        let (token, record) = mint(&authority, &address);
        let plane = Identity::Plane(PlaneIdentity {
            trust_domain: authority.trust_domain().clone(),
            region: "US".parse().expect("a region"),
            zone: "ORF".parse().expect("a zone"),
            replica: culvert_certs::ReplicaId::random(),
        });
        let lifetime = Duration::from_secs(3_600);
        let credentials = authority
            .enroll(&plane, &[], lifetime, SystemTime::now())
            .expect("credentials");
        let acceptor = TlsAcceptor::from(tls::join_server(&credentials).expect("tls"));
        let asked = Arc::new(AtomicUsize::new(0));
        let (count, signer) = (Arc::clone(&asked), Arc::clone(&authority));
        let (signed, words) = watch::channel(String::new());
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let Ok(stream) = acceptor.accept(stream).await else {
                    continue;
                };
                count.fetch_add(1, Ordering::SeqCst);
                let service = service_fn(|request: Request<Incoming>| {
                    let (signer, record) = (Arc::clone(&signer), record.clone());
                    let words = words.borrow().clone();
                    async move {
                        let path = request.uri().path().to_owned();
                        let body = request
                            .into_body()
                            .collect()
                            .await
                            .expect("a body")
                            .to_bytes();
                        let answer = match path.as_str() {
                            "/v1/join" => redeem(&signer, &record, &body),
                            "/v1/renew" => renew(&signer, &body),
                            other => panic!("asked for {other}"),
                        };
                        let (status, body) = told(status, answer, &words);
                        let mut response = Response::new(Full::new(Bytes::from(body)));
                        *response.status_mut() = StatusCode::from_u16(status).expect("a status");
                        Ok::<_, Infallible>(response)
                    }
                });
                hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .await
                    .ok();
            }
        });
        let plane = Self {
            authority,
            address,
            asked,
            signed,
            _tasks: tasks,
        };
        (plane, token)
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

/// Status and body of an answer.
fn told(status: Option<u16>, answer: Option<JoinAnswer>, signed: &str) -> (u16, Vec<u8>) {
    let error = |text: &str| format!(r#"{{"error":{text}}}"#).into_bytes();
    match (status, answer) {
        (None, Some(answer)) => (200, serde_json::to_vec(&answer).expect("json")),
        (None, None) => (403, error(r#"{"code":"refused","message":"no"}"#)),
        (Some(status), _) => {
            let told = format!(r#"{{"code":"told","message":"so","signed":"{signed}"}}"#);
            (status, error(&told))
        }
    }
}

fn open(dir: &Path) -> CredentialStore {
    CredentialStore::open(dir).expect("a store")
}

fn who(stored: &StoredIdentity) -> &Identity {
    &stored.credentials.identity
}

#[tokio::test]
async fn an_identity_is_had_once_and_kept() {
    let dir = tempfile::tempdir().expect("a directory");
    let (plane, token) = Plane::new(None).await;
    let joined = obtain(&open(dir.path()), Some(&token), NO_PATIENCE)
        .await
        .expect("joined");
    // An answer without addresses leaves those of the token.
    assert_eq!(
        joined.membership.addresses.as_slice(),
        std::slice::from_ref(&plane.address)
    );
    let kept = std::fs::read_to_string(dir.path().join("gateway.txt")).expect("kept");
    assert_eq!(kept, "http://gateway.test:8080");

    // A restart with the used token, with none, and with a newer one of the same place.
    for token in [Some(&token), None] {
        let again = obtain(&open(dir.path()), token, NO_PATIENCE)
            .await
            .expect("the same");
        assert_eq!(who(&again), who(&joined));
    }
    let moved = HostPort::new("moved.test", 443).expect("an address");
    let (newer, _) = mint(&plane.authority, &moved);
    let again = obtain(&open(dir.path()), Some(&newer), NO_PATIENCE)
        .await
        .expect("the same");
    assert_eq!(who(&again), who(&joined));
    assert_eq!(
        again.membership.addresses,
        [moved],
        "newer addresses are taken"
    );
    assert_eq!(plane.asked(), 1);

    // A token of another world replaces the identity.
    let (other, token) = Plane::new(None).await;
    let replaced = obtain(&open(dir.path()), Some(&token), NO_PATIENCE)
        .await
        .expect("joined");
    assert_ne!(who(&replaced), who(&joined));
    assert_eq!(other.asked(), 1);
}

#[tokio::test]
async fn a_refusal_is_kept_until_a_new_token_comes() {
    let dir = tempfile::tempdir().expect("a directory");
    let (plane, token) = Plane::new(Some(403)).await;
    for asked in [1, 1] {
        match obtain(&open(dir.path()), Some(&token), NO_PATIENCE).await {
            Err(error @ AgentError::Refused(_)) => assert_eq!(error.exit_code(), 77),
            other => panic!("{other:?}"),
        }
        assert_eq!(plane.asked(), asked, "a kept refusal asks nobody");
    }
    let refused = obtain(&open(dir.path()), None, NO_PATIENCE).await;
    assert!(
        matches!(refused, Err(AgentError::Refused(_))),
        "{refused:?}"
    );
    let (_plane, token) = Plane::new(None).await;
    obtain(&open(dir.path()), Some(&token), NO_PATIENCE)
        .await
        .expect("joined");
    obtain(&open(dir.path()), None, NO_PATIENCE)
        .await
        .expect("the refusal is gone");
}

#[tokio::test]
async fn nobody_and_the_wrong_one_are_unreachable() {
    let dir = tempfile::tempdir().expect("a directory");
    let gone = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let addr = gone.local_addr().expect("an address");
    drop(gone);
    let nobody = HostPort::new("127.0.0.1", addr.port()).expect("an address");
    // The same address, and a root that the token does not pin.
    let (impostor, _) = Plane::new(None).await;
    for address in [nobody, impostor.address.clone()] {
        let (token, _) = mint(&authority(), &address);
        match obtain(&open(dir.path()), Some(&token), NO_PATIENCE).await {
            Err(error @ AgentError::Unreachable(_)) => assert_eq!(error.exit_code(), 69),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(
        impostor.asked(),
        0,
        "nothing is said to a plane that proves nothing"
    );
    let (_plane, token) = Plane::new(Some(503)).await;
    let busy = obtain(&open(dir.path()), Some(&token), NO_PATIENCE).await;
    assert!(matches!(busy, Err(AgentError::Unreachable(_))), "{busy:?}");
}

#[tokio::test]
async fn without_identity_and_token_it_is_a_mistake() {
    let dir = tempfile::tempdir().expect("a directory");
    match obtain(&open(dir.path()), None, NO_PATIENCE).await {
        Err(error @ AgentError::Usage(_)) => assert_eq!(error.exit_code(), 64),
        other => panic!("{other:?}"),
    }
}
