//! Backends behind TLS: private CA, client certificate, name, and HTTP/2 where both have it.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::tests::ground;
use super::{Backends, ConnectError, SendError};
use crate::config::{Flags, ServiceDef, Sources, parse_text};

/// A private CA that writes what it makes to a directory.
struct Ca {
    issuer: Issuer<'static, KeyPair>,
    der: rustls::pki_types::CertificateDer<'static>,
}

impl Ca {
    fn new(dir: &Path, name: &str) -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let cert = params.self_signed(&key).expect("a certificate");
        std::fs::write(dir.join(format!("{name}.pem")), cert.pem()).expect("written");
        Self {
            der: cert.der().clone(),
            issuer: Issuer::new(params, key),
        }
    }

    fn issue(&self, dir: &Path, name: &str) -> (rcgen::Certificate, KeyPair) {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec![name.to_owned()]).expect("parameters");
        let cert = params.signed_by(&key, &self.issuer).expect("a certificate");
        std::fs::write(dir.join(format!("{name}.crt")), cert.pem()).expect("written");
        std::fs::write(dir.join(format!("{name}.key")), key.serialize_pem()).expect("written");
        (cert, key)
    }

    fn roots(&self) -> Arc<RootCertStore> {
        let mut roots = RootCertStore::empty();
        roots.add(self.der.clone()).expect("a root");
        Arc::new(roots)
    }
}

/// Serves `mcp.internal` on loopback, asks for a certificate of the same CA, says which version
/// was spoken and for which host.
async fn server(ca: &Ca, dir: &Path, alpn: &[&[u8]]) -> (SocketAddr, JoinSet<()>) {
    server_of(ca, dir, alpn, (1, 1)).await
}

/// As [`server`]; it answers only once so many requests are there, each connection taking so many
/// of them at a time.
async fn server_of(
    ca: &Ca,
    dir: &Path,
    alpn: &[&[u8]],
    (together, each): (usize, u32),
) -> (SocketAddr, JoinSet<()>) {
    let all_here = Arc::new(tokio::sync::Barrier::new(together));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(ca.roots(), Arc::clone(&provider))
        .build()
        .expect("a verifier");
    let (cert, key) = ca.issue(dir, "mcp.internal");
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(key.serialize_der());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![cert.der().clone()], key.into())
        .expect("a configuration");
    config.alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let addr = listener.local_addr().expect("an address");
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut served = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(stream) = acceptor.accept(stream).await else {
                continue;
            };
            let all_here = Arc::clone(&all_here);
            let service = service_fn(move |request: Request<Incoming>| {
                let all_here = Arc::clone(&all_here);
                async move {
                    all_here.wait().await;
                    let host = request
                        .headers()
                        .get("host")
                        .map(|h| h.to_str().expect("text").to_owned());
                    let host = host.or_else(|| request.uri().authority().map(ToString::to_string));
                    let text = format!("{:?} {}", request.version(), host.unwrap_or_default());
                    Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(text))))
                }
            });
            served.spawn(async move {
                let mut builder = auto::Builder::new(TokioExecutor::new());
                builder.http2().max_concurrent_streams(each);
                builder
                    .serve_connection(TokioIo::new(stream), service)
                    .await
                    .ok()
            });
        }
    });
    (addr, tasks)
}

async fn call(addr: SocketAddr, tls: &str) -> Result<String, SendError> {
    let yaml = format!(
        "services:\n  - {{ name: t, kind: mcp, url: 'https://localhost:{}/mcp', tls: {{ {tls} }} }}\n",
        addr.port()
    );
    let config = parse_text(&yaml, &Flags::default(), &Sources::SYSTEM).expect("a configuration");
    let def = &config.services[0];
    let backends = Backends::new(def, &ground(&[]), None).expect("backends");
    // Twice: the second goes over what the first has left.
    let first = one(&backends, def).await?;
    assert_eq!(first, one(&backends, def).await?);
    Ok(first)
}

async fn one(backends: &Backends, def: &ServiceDef) -> Result<String, SendError> {
    let admitted = def.rules.admit(&Method::POST, "/").expect("admitted");
    let connected = backends
        .connect(|| 0)
        .await
        .map_err(SendError::NotOffered)?;
    let head = connected
        .backend
        .head(Method::POST, &admitted, HeaderMap::new())
        .expect("a head");
    let body = Full::new(Bytes::from_static(b"{}"));
    let body = body.map_err(|never| match never {}).boxed_unsync();
    let called = connected.send(head, body).await?;
    let body = called.answer.response.into_body().collect().await;
    let bytes = body.map_err(SendError::Begun)?.to_bytes();
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[tokio::test]
async fn private_ca_client_certificate_and_name_are_used() {
    let dir = tempfile::tempdir().expect("a directory");
    let at = |name: &str| dir.path().join(name).display().to_string();
    let ca = Ca::new(dir.path(), "ca");
    let _client = ca.issue(dir.path(), "agent.internal");
    let client = format!(
        "cert: {}, key: {}",
        at("agent.internal.crt"),
        at("agent.internal.key")
    );
    let all = format!("ca: {}, {client}, server_name: mcp.internal", at("ca.pem"));

    let (addr, _h1) = server(&ca, dir.path(), &[b"http/1.1"]).await;
    let answer = call(addr, &all).await.expect("an answer");
    assert_eq!(answer, format!("HTTP/1.1 localhost:{}", addr.port()));
    let (addr, _h2) = server(&ca, dir.path(), &[b"h2", b"http/1.1"]).await;
    let answer = call(addr, &all).await.expect("an answer");
    assert_eq!(answer, format!("HTTP/2.0 localhost:{}", addr.port()));

    // Without the name, with another CA: no connection, and nothing was offered.
    Ca::new(dir.path(), "other");
    let wrong_name = format!("ca: {}, {client}", at("ca.pem"));
    let wrong_ca = format!(
        "ca: {}, {client}, server_name: mcp.internal",
        at("other.pem")
    );
    for tls in [wrong_name, wrong_ca] {
        match call(addr, &tls).await {
            Err(SendError::NotOffered(ConnectError::Shared(error)))
                if matches!(*error, ConnectError::Tls(_)) => {}
            other => panic!("{tls}: {other:?}"),
        }
    }
    // Without a client certificate the server ends the connection, in TLS 1.3 after our side
    // of the handshake is done.
    let anonymous = format!("ca: {}, server_name: mcp.internal", at("ca.pem"));
    assert!(call(addr, &anonymous).await.is_err());
}

/// A service at `addr` with all that [`server`] asks for.
fn trusted(dir: &Path, addr: SocketAddr) -> ServiceDef {
    let at = |name: &str| dir.join(name).display().to_string();
    let yaml = format!(
        "services:\n  - {{ name: t, kind: mcp, url: 'https://localhost:{}/mcp', tls: {{ ca: {}, cert: {}, key: {}, server_name: mcp.internal }} }}\n",
        addr.port(),
        at("ca.pem"),
        at("agent.internal.crt"),
        at("agent.internal.key"),
    );
    let config = parse_text(&yaml, &Flags::default(), &Sources::SYSTEM).expect("a configuration");
    config.services.into_iter().next().expect("a service")
}

/// HTTP/2 would wait without a word where its peer permits no other stream.
#[tokio::test]
async fn a_full_connection_is_not_waited_for() {
    let dir = tempfile::tempdir().expect("a directory");
    let ca = Ca::new(dir.path(), "ca");
    let _client = ca.issue(dir.path(), "agent.internal");
    let (addr, _h2) = server_of(&ca, dir.path(), &[b"h2"], (3, 1)).await;
    let def = &trusted(dir.path(), addr);
    let backends = Backends::new(def, &ground(&[]), None).expect("backends");
    // The peer's limit is known from its first settings on.
    drop(backends.connect(|| 0).await.expect("a connection"));
    // A live connection is the probe: no other is opened for one.
    backends.list[0].pool.sweep();
    for _ in 0..3 {
        backends.list[0].pool.try_connect().await.expect("live");
    }
    assert_eq!(backends.list[0].pool.shared(), 1);
    let three = [(); 3].map(|()| one(&backends, def));
    let answers = futures_util::future::join_all(three);
    let answers = tokio::time::timeout(std::time::Duration::from_secs(30), answers).await;
    for answer in answers.expect("nobody waits for another") {
        assert_eq!(
            answer.expect("an answer"),
            format!("HTTP/2.0 localhost:{}", addr.port())
        );
    }
}

/// Calls that come together to a backend that was not connected to yet share what they can.
#[tokio::test]
async fn a_cold_burst_opens_as_few_connections_as_will_do() {
    let dir = tempfile::tempdir().expect("a directory");
    let ca = Ca::new(dir.path(), "ca");
    let _client = ca.issue(dir.path(), "agent.internal");
    for (each, connections) in [(100, 1), (8, 3)] {
        let (addr, _h2) = server_of(&ca, dir.path(), &[b"h2"], (20, each)).await;
        let def = &trusted(dir.path(), addr);
        let backends = Backends::new(def, &ground(&[]), None).expect("backends");
        let burst = futures_util::future::join_all([(); 20].map(|()| one(&backends, def)));
        let answers = tokio::time::timeout(std::time::Duration::from_secs(30), burst).await;
        for answer in answers.expect("all are carried at once") {
            answer.expect("an answer");
        }
        assert_eq!(backends.list[0].pool.shared(), connections, "{each} each");
    }
}

/// One that speaks HTTP/1.1 is known as such after the first connection; and what was not
/// connected is told to all who waited.
#[tokio::test]
async fn a_cold_burst_over_http_1_has_a_connection_for_each() {
    let dir = tempfile::tempdir().expect("a directory");
    let ca = Ca::new(dir.path(), "ca");
    let _client = ca.issue(dir.path(), "agent.internal");
    let (addr, mut server) = server_of(&ca, dir.path(), &[b"http/1.1"], (20, 1)).await;
    let def = &trusted(dir.path(), addr);
    let burst = |backends| async move {
        let calls = futures_util::future::join_all([(); 20].map(|()| one(backends, def)));
        let answers = tokio::time::timeout(std::time::Duration::from_secs(30), calls).await;
        answers.expect("nobody waits for another")
    };
    let backends = Backends::new(def, &ground(&[]), None).expect("backends");
    assert!(burst(&backends).await.iter().all(Result::is_ok));

    server.shutdown().await;
    let backends = Backends::new(def, &ground(&[]), None).expect("backends");
    for answer in burst(&backends).await {
        let Err(SendError::NotOffered(error)) = answer else {
            panic!("{answer:?}");
        };
        assert!(
            crate::error::chain(&error).contains("no connection"),
            "{error}"
        );
    }
}
