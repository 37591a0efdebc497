//! An authority, a relay's listener and an agent's dialler in one process.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use culvert_certs::{
    AgentId, AgentIdentity, Authority, Credentials, Expect, Identity, PlaneIdentity, tls,
};
use culvert_tunnel::{
    Arrival, CallError, Connection, Dialer, FloodLimits, HandshakeRate, IncomingCall, Piece,
    QuicListener, ResetKeys, Target, UdpOptions, Verify,
};
use culvert_wire::{CallId, Caller, Head, Open, RequestId, ServiceName};
use http::{HeaderMap, Method, StatusCode};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// The longest that a step of a test may take; far above what any of them needs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Waits for a step that has to end.
pub(crate) async fn done<F: Future>(step: &str, future: F) -> F::Output {
    match timeout(PATIENCE, future).await {
        Ok(output) => output,
        Err(_elapsed) => panic!("{step}: not done within {PATIENCE:?}"),
    }
}

/// A task that is awaited or, where the test fails before, aborted.
pub(crate) struct Running<T>(JoinSet<T>);

pub(crate) fn run<T: Send + 'static>(task: impl Future<Output = T> + Send + 'static) -> Running<T> {
    let mut tasks = JoinSet::new();
    tasks.spawn(task);
    Running(tasks)
}

impl<T: 'static> Running<T> {
    pub(crate) async fn output(mut self, step: &str) -> T {
        done(step, self.0.join_next()).await.unwrap().unwrap()
    }
}

/// Who is who.
pub(crate) struct Town {
    pub(crate) authority: Authority,
}

impl Town {
    pub(crate) fn new() -> Self {
        let domain = "culvert.test".parse().unwrap();
        Self {
            authority: Authority::create(domain, SystemTime::now()).unwrap(),
        }
    }

    pub(crate) fn plane(&self) -> Credentials {
        self.enroll(Identity::Plane(PlaneIdentity {
            trust_domain: self.authority.trust_domain().clone(),
            region: "US".parse().unwrap(),
            zone: "ORF".parse().unwrap(),
            replica: culvert_certs::ReplicaId::random(),
        }))
    }

    pub(crate) fn agent(&self) -> Credentials {
        self.enroll(Identity::Agent(AgentIdentity {
            trust_domain: self.authority.trust_domain().clone(),
            tenant: "acme".parse().unwrap(),
            connector: "prod-vpc".parse().unwrap(),
            agent: AgentId::random(),
        }))
    }

    pub(crate) fn verify(&self, expect: Expect) -> Verify {
        Verify {
            bundle: self.authority.bundle().clone(),
            expect,
        }
    }

    fn enroll(&self, identity: Identity) -> Credentials {
        let lifetime = Duration::from_secs(3_600);
        self.authority
            .enroll(&identity, &[], lifetime, SystemTime::now())
            .unwrap()
    }
}

/// A relay that listens.
pub(crate) struct Relay {
    pub(crate) listener: QuicListener,
    pub(crate) address: SocketAddr,
    verify: Verify,
    /// Holds the TLS configuration open.
    _tls: watch::Sender<Arc<rustls::ServerConfig>>,
}

impl Relay {
    pub(crate) fn bind(town: &Town, udp: UdpOptions) -> Self {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        Self::bind_to(any, town, ResetKeys::random().unwrap(), udp)
    }

    pub(crate) fn bind_to(
        address: SocketAddr,
        town: &Town,
        keys: ResetKeys,
        udp: UdpOptions,
    ) -> Self {
        let (sender, tls) = watch::channel(tls::link_server(&town.plane()).unwrap());
        let listener = QuicListener::bind(address, tls, keys, udp).unwrap();
        let address = listener.local_addr().unwrap();
        Self {
            listener,
            address,
            verify: town.verify(Expect::Agent),
            _tls: sender,
        }
    }

    pub(crate) fn with_flood_limits(mut self, limits: FloodLimits) -> Self {
        self.listener = self.listener.with_flood_limits(limits);
        self
    }

    pub(crate) fn with_handshake_rate(mut self, rate: HandshakeRate) -> Self {
        self.listener = self.listener.with_handshake_rate(rate);
        self
    }

    pub(crate) async fn accept(&mut self) -> Connection {
        let incoming = self.listener.accept().await.unwrap();
        incoming
            .handshake(&self.verify.bundle, self.verify.expect)
            .await
            .unwrap()
    }

    pub(crate) fn target(&self) -> Target {
        target(self.address)
    }
}

pub(crate) fn target(address: SocketAddr) -> Target {
    Target {
        host: address.ip().to_string(),
        port: address.port(),
        addresses: Vec::new(),
    }
}

/// A link whose control streams are open and otherwise silent.
pub(crate) struct Link {
    pub(crate) relay: Connection,
    pub(crate) agent: Connection,
    pub(crate) listener: Relay,
    pub(crate) dialer: Dialer,
    pub(crate) town: Town,
}

impl Link {
    pub(crate) async fn up() -> Self {
        Self::up_with(UdpOptions::default(), UdpOptions::default()).await
    }

    pub(crate) async fn up_with(relay_udp: UdpOptions, agent_udp: UdpOptions) -> Self {
        let town = Town::new();
        let mut listener = Relay::bind(&town, relay_udp);
        let dialer = Dialer::new(agent_udp);
        let target = listener.target();
        let tls = tls::agent_link_client(&town.agent()).unwrap();
        let verify = town.verify(Expect::Plane);
        let dialled = dialer.dial(&target, tls, &verify);
        let (agent, relay) = done("link up", async {
            tokio::join!(dialled, listener.accept())
        })
        .await;
        Self {
            relay,
            agent: agent.unwrap(),
            listener,
            dialer,
            town,
        }
    }

    /// Opens a call and lets the agent take it; nothing is accepted yet.
    pub(crate) async fn call(&self, open: Open) -> (culvert_tunnel::OutgoingCall, IncomingCall) {
        let mut call = self.relay.open_call(open).await.unwrap();
        let taken = done("call taken", async {
            tokio::select! {
                biased;
                // The head leaves with the first thing that is asked for.
                early = call.answer.accepted() => panic!("answered before it was taken: {early:?}"),
                taken = take_call(&self.agent) => taken,
            }
        })
        .await;
        (call, taken)
    }
}

pub(crate) async fn take_call(agent: &Connection) -> IncomingCall {
    match agent.accept_call().await.unwrap().read().await.unwrap() {
        Arrival::Call(call) => *call,
        Arrival::Probe(probe) => panic!("{probe:?}"),
    }
}

pub(crate) fn open(method: Method, path: &str) -> Open {
    Open {
        service: ServiceName::new("llama").unwrap(),
        call_id: CallId {
            request: RequestId::from_bytes([7; 16]),
            attempt: 0,
        },
        deadline_ms: None,
        trace: None,
        caller: Caller::default(),
        wants_trailers: false,
        upgrade: None,
        method,
        target: path.parse().unwrap(),
        headers: HeaderMap::new(),
    }
}

pub(crate) fn post() -> Open {
    open(Method::POST, "/v1/chat/completions")
}

pub(crate) fn ok() -> Head {
    Head {
        status: StatusCode::OK,
        headers: HeaderMap::new(),
        trailer_names: Vec::new(),
    }
}

pub(crate) fn length(headers: &mut HeaderMap, bytes: u64) {
    headers.insert(http::header::CONTENT_LENGTH, bytes.into());
}

/// Answers every call with its own body, until the connection ends.
pub(crate) async fn echo_all(agent: Connection) {
    let mut tasks = JoinSet::new();
    while let Ok(stream) = agent.accept_call().await {
        tasks.spawn(async move {
            match stream.read().await? {
                Arrival::Call(call) => echo(*call).await,
                Arrival::Probe(probe) => probe.answer().await,
            }
        });
        while tasks.try_join_next().is_some() {}
    }
}

pub(crate) async fn echo(call: IncomingCall) -> Result<(), CallError> {
    let IncomingCall {
        mut body,
        mut answer,
        ..
    } = call;
    answer.accept().await?;
    answer.head(ok()).await?;
    loop {
        match body.next().await? {
            Some(Piece::Data(piece)) => answer.data(piece).await?,
            Some(Piece::End(trailers)) => return answer.end(trailers).await,
            None => panic!("no end"),
        }
    }
}

/// A call with a body that comes back; what comes back.
pub(crate) async fn round_trip(relay: &Connection, body: Bytes) -> Result<Vec<u8>, CallError> {
    let mut call = relay.open_call(post()).await.unwrap();
    let upload = async {
        call.request.data(body).await?;
        call.request.end(HeaderMap::new()).await
    };
    let download = async {
        call.answer.head().await?;
        let mut back = Vec::new();
        while let Some(piece) = call.answer.next().await? {
            if let Piece::Data(piece) = piece {
                back.extend_from_slice(&piece);
            }
        }
        Ok(back)
    };
    let (sent, back) = tokio::join!(upload, download);
    sent.and(back)
}
