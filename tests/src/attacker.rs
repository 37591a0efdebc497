//! Agents that do not behave: whatever certificates, and no belief in anything the other end shows.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use culvert_certs::tls::ALPN_LINK;
use culvert_wire::frame::Offer;
use culvert_wire::{Code, ControlDecoder, ControlFrame, Hello, InstanceId, SessionId, VERSION};
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{Connection, ConnectionError, Endpoint, RecvStream, SendStream};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{
    ClientSessionMemoryCache, ClientSessionStore, ResolvesClientCert, Resumption,
    Tls12ClientSessionValue, Tls13ClientSessionValue,
};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, DigitallySignedStruct, NamedGroup, SignatureScheme};

use crate::error::HarnessError;

/// Time for a link port to make up its mind.
const ANSWER_LIMIT: Duration = Duration::from_secs(15);

/// What an attacker shows for itself: any chain, any key, whether or not they belong together.
#[derive(Debug)]
pub struct Papers {
    /// Leaf first.
    pub chain: Vec<CertificateDer<'static>>,
    /// The key that signs the handshake.
    pub key: PrivateKeyDer<'static>,
}

/// What came of a `Hello`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// There is a session.
    Welcome(SessionId),
    /// There is none, with a code.
    Rejected(Code),
    /// The connection was closed: all that the other end told, its code and its text.
    Closed(ConnectionError),
}

impl Outcome {
    /// The code of ours with which it was turned away, in a frame or in the close alone.
    #[must_use]
    pub fn code(&self) -> Option<Code> {
        match self {
            Self::Rejected(code) => Some(*code),
            Self::Closed(ConnectionError::ApplicationClosed(close)) => {
                Some(Code::from_transport(close.error_code.into_inner()))
            }
            Self::Welcome(_) | Self::Closed(_) => None,
        }
    }
}

/// An agent that dials with papers of its choice; sessions of TLS are resumed if the other end lets it.
#[derive(Debug)]
pub struct FalseAgent {
    config: quinn::ClientConfig,
    tickets: Arc<Tickets>,
}

/// A connection of a [`FalseAgent`], held open.
#[derive(Debug)]
pub struct Held {
    /// What came of the `Hello`.
    pub outcome: Outcome,
    connection: Option<Connection>,
    /// Dropped, they would end the link.
    _control: Option<Control>,
    _endpoint: Endpoint,
}

/// The control stream's two halves.
type Control = (SendStream, RecvStream);

impl Held {
    /// Waits for the other end to close it.
    ///
    /// # Errors
    /// It stays open, or never was.
    pub async fn closed(&self, within: Duration) -> Result<ConnectionError, HarnessError> {
        let connection = self.connection.as_ref();
        let connection =
            connection.ok_or_else(|| HarnessError::Http("it was never open".to_owned()))?;
        let closed = tokio::time::timeout(within, connection.closed()).await;
        closed.map_err(|_| HarnessError::Http(format!("open after {within:?}")))
    }
}

impl Papers {
    /// The chain and the key of an agent's state folder.
    ///
    /// # Errors
    /// Files that are not there or no PEM.
    pub fn of_state(state: &Path) -> Result<Self, HarnessError> {
        let find = |name: &str| {
            find(state, name)
                .ok_or_else(|| HarnessError::Http(format!("no {name} below {}", state.display())))
        };
        let chain = CertificateDer::pem_file_iter(find("chain.pem")?).map_err(other)?;
        Ok(Self {
            chain: chain.collect::<Result<_, _>>().map_err(other)?,
            key: PrivateKeyDer::from_pem_file(find("key.pem")?).map_err(other)?,
        })
    }

    /// The same papers again.
    #[must_use]
    pub fn copy(&self) -> Self {
        Self {
            chain: self.chain.clone(),
            key: self.key.clone_key(),
        }
    }

    pub(crate) fn certified(&self) -> Result<Arc<CertifiedKey>, HarnessError> {
        let key = aws_lc_rs::sign::any_supported_type(&self.key).map_err(other)?;
        Ok(Arc::new(CertifiedKey::new(self.chain.clone(), key)))
    }
}

impl FalseAgent {
    /// An agent with these papers, or with none.
    ///
    /// # Errors
    /// A key that is none.
    pub fn new(papers: Option<&Papers>) -> Result<Self, HarnessError> {
        let tickets = Arc::new(Tickets::default());
        let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(other)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(BelieveAnything));
        let mut config = match papers {
            Some(papers) => builder.with_client_cert_resolver(Arc::new(Shown(papers.certified()?))),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![ALPN_LINK.to_vec()];
        config.resumption = Resumption::store(Arc::clone(&tickets) as Arc<dyn ClientSessionStore>);
        let config =
            quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(config).map_err(other)?));
        Ok(Self { config, tickets })
    }

    /// Tickets for resumption that it was given.
    pub fn tickets(&self) -> usize {
        self.tickets.given.load(Ordering::Relaxed)
    }

    /// Dials `address`, says `Hello`, and sees what comes of it.
    ///
    /// # Errors
    /// A socket that cannot be had, or no outcome in time.
    pub async fn say_hello(&self, address: SocketAddr) -> Result<Outcome, HarnessError> {
        Ok(self.hold(address, None).await?.outcome)
    }

    /// As [`FalseAgent::say_hello`], for one more connection of `attach`, and keeps what it has got.
    ///
    /// # Errors
    /// As [`FalseAgent::say_hello`].
    pub async fn hold(
        &self,
        address: SocketAddr,
        attach: Option<SessionId>,
    ) -> Result<Held, HarnessError> {
        let endpoint = Endpoint::client(SocketAddr::from(([127, 0, 0, 1], 0)))?;
        let connecting = endpoint
            .connect_with(self.config.clone(), address, "localhost")
            .map_err(other)?;
        let met = tokio::time::timeout(ANSWER_LIMIT, async {
            match connecting.await {
                Ok(connection) => {
                    let (outcome, control) = match hello(&connection, attach).await {
                        Ok((outcome, control)) => (outcome, Some(control)),
                        // A stream that breaks says less than the close that broke it.
                        Err(_) => (Outcome::Closed(connection.closed().await), None),
                    };
                    (outcome, Some(connection), control)
                }
                Err(error) => (Outcome::Closed(error), None, None),
            }
        });
        let (outcome, connection, control) = met
            .await
            .map_err(|_| HarnessError::Http(format!("no outcome within {ANSWER_LIMIT:?}")))?;
        Ok(Held {
            outcome,
            connection,
            _control: control,
            _endpoint: endpoint,
        })
    }
}

async fn hello(
    connection: &Connection,
    attach: Option<SessionId>,
) -> Result<(Outcome, Control), String> {
    let (mut send, mut receive) = connection
        .open_bi()
        .await
        .map_err(|error| error.to_string())?;
    let hello = Hello {
        version: VERSION,
        features: Vec::new(),
        instance: InstanceId::from_bytes([7; 16]),
        attach,
        offer: Offer::default(),
    };
    let mut bytes = BytesMut::new();
    ControlFrame::Hello(hello)
        .encode(&mut bytes)
        .map_err(|error| error.to_string())?;
    send.write_all(&bytes)
        .await
        .map_err(|error| error.to_string())?;
    let mut decoder = ControlDecoder::new();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let read = receive
            .read(&mut buffer)
            .await
            .map_err(|error| error.to_string())?;
        let read = read.ok_or_else(|| "the control stream ended".to_owned())?;
        decoder.push(Bytes::copy_from_slice(&buffer[..read]));
        while let Some(frame) = decoder.next_frame().map_err(|error| error.to_string())? {
            if let ControlFrame::Reject(reject) = frame {
                return Ok((Outcome::Rejected(reject.code), (send, receive)));
            }
            if let ControlFrame::Welcome(welcome) = frame {
                return Ok((Outcome::Welcome(welcome.session), (send, receive)));
            }
        }
    }
}

fn find(folder: &Path, name: &str) -> Option<std::path::PathBuf> {
    let mut open = vec![folder.to_owned()];
    while let Some(next) = open.pop() {
        for entry in std::fs::read_dir(&next).ok()?.flatten() {
            let path = entry.path();
            if path.is_dir() && !path.is_symlink() {
                open.push(path);
            } else if path.file_name().is_some_and(|file| file == name) {
                return Some(path);
            }
        }
    }
    None
}

/// Shows one certificate to everybody.
#[derive(Debug)]
pub(crate) struct Shown(pub(crate) Arc<CertifiedKey>);

impl ResolvesClientCert for Shown {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

impl rustls::server::ResolvesServerCert for Shown {
    fn resolve(&self, _: rustls::server::ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

/// Counts tickets, and uses what it has got.
#[derive(Debug)]
struct Tickets {
    given: AtomicUsize,
    kept: ClientSessionMemoryCache,
}

impl Default for Tickets {
    fn default() -> Self {
        Self {
            given: AtomicUsize::new(0),
            kept: ClientSessionMemoryCache::new(8),
        }
    }
}

impl ClientSessionStore for Tickets {
    fn set_kx_hint(&self, name: ServerName<'static>, group: NamedGroup) {
        self.kept.set_kx_hint(name, group);
    }

    fn kx_hint(&self, name: &ServerName<'_>) -> Option<NamedGroup> {
        self.kept.kx_hint(name)
    }

    fn set_tls12_session(&self, name: ServerName<'static>, session: Tls12ClientSessionValue) {
        self.kept.set_tls12_session(name, session);
    }

    fn tls12_session(&self, name: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.kept.tls12_session(name)
    }

    fn remove_tls12_session(&self, name: &ServerName<'static>) {
        self.kept.remove_tls12_session(name);
    }

    fn insert_tls13_ticket(&self, name: ServerName<'static>, ticket: Tls13ClientSessionValue) {
        self.given.fetch_add(1, Ordering::Relaxed);
        self.kept.insert_tls13_ticket(name, ticket);
    }

    fn take_tls13_ticket(&self, name: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.kept.take_tls13_ticket(name)
    }
}

/// An attacker does not care who answers.
#[derive(Debug)]
struct BelieveAnything;

impl ServerCertVerifier for BelieveAnything {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        aws_lc_rs::default_provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

pub(crate) fn other(error: impl std::error::Error) -> HarnessError {
    HarnessError::Http(error.to_string())
}
