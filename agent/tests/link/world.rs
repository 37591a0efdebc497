//! An authority, a relay made of the tunnel's own parts, and an agent's link to it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use culvert_agent::announced::Announced;
use culvert_agent::audit::Audit;
use culvert_agent::call::Calls;
use culvert_agent::config::{AuditSpec, Flags, ServiceDef, Sources, WhenFull, parse_text};
use culvert_agent::link::{self, Linking, Revoked};
use culvert_agent::links::Links;
use culvert_agent::metrics::Metrics;
use culvert_agent::renewal::Renewal;
use culvert_agent::service::Services;
use culvert_certs::store::{CredentialStore, Membership, StoredIdentity};
use culvert_certs::{
    AgentId, AgentIdentity, Authority, Credentials, Expect, Identity, PlaneIdentity, RecordHeader,
    tls,
};
use culvert_tunnel::{
    Connection, Dialer, DriveEnd, OutgoingCall, QuicListener, ResetKeys, Target, UdpOptions,
};
use culvert_wire::{
    Acceptor, AcceptorCommand, AcceptorEvent, CallId, CallMemory, Caller, Hello, InstanceId, Open,
    PlaneName, Reject, ReplicaId, RequestId, ServiceName, SessionId, Settings, Welcome,
};
use http::{HeaderMap, Method};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Far above what any step needs.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) async fn done<F: Future>(step: &str, future: F) -> F::Output {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(output) => output,
        Err(_) => panic!("{step}: not done within {PATIENCE:?}"),
    }
}

pub(crate) struct World {
    pub(crate) authority: Authority,
    pub(crate) me: AgentIdentity,
    pub(crate) services: Arc<Services>,
    pub(crate) links: Links,
    pub(crate) leaving: CancellationToken,
    pub(crate) agent: JoinSet<Result<(), Revoked>>,
    listener: QuicListener,
    _tls: TlsNow,
    background: TaskTracker,
    audit: Audit,
    audit_path: PathBuf,
    pub(crate) dir: tempfile::TempDir,
    pub(crate) zones: watch::Sender<Option<Vec<String>>>,
    _drain: watch::Sender<Duration>,
}

/// A link as the relay holds it.
pub(crate) struct RelayLink {
    pub(crate) hello: Hello,
    pub(crate) connection: Connection,
    pub(crate) commands: mpsc::Sender<AcceptorCommand>,
    pub(crate) events: mpsc::Receiver<AcceptorEvent>,
    pub(crate) driver: JoinSet<DriveEnd>,
}

pub(crate) fn services_of(yaml: &str) -> Vec<ServiceDef> {
    parse_text(yaml, &Flags::default(), &Sources::SYSTEM)
        .expect("a configuration")
        .services
}

pub(crate) fn model(addr: SocketAddr, more: &str) -> String {
    format!(
        "services:\n  - {{ name: llama, kind: model, url: 'http://{addr}/v1', models: [m], health: {{ every: 1h }}{more} }}\n"
    )
}

/// A service whose probes only connect: the first request of its backend is the test's.
pub(crate) fn mcp(addr: SocketAddr) -> String {
    format!(
        "services:\n  - {{ name: llama, kind: mcp, url: 'http://{addr}/mcp', health: {{ every: 1h }} }}\n"
    )
}

impl World {
    pub(crate) fn new(yaml: &str) -> Self {
        let domain = "culvert.test".parse().expect("a domain");
        let authority = Authority::create(domain, SystemTime::now()).expect("an authority");
        let me = AgentIdentity {
            trust_domain: authority.trust_domain().clone(),
            tenant: "acme".parse().expect("a name"),
            connector: "prod-vpc".parse().expect("a name"),
            agent: AgentId::random(),
        };
        let (listener, tls) = listen(&authority);
        let dir = tempfile::tempdir().expect("a directory");
        let audit_path = dir.path().join("audit.jsonl");
        let background = TaskTracker::new();
        let services = Arc::new(Services::new(Arc::from([]), background.clone()));
        services.apply(&services_of(yaml)).expect("services");
        let keeper = Arc::clone(&services);
        background.spawn(async move { keeper.run().await });
        let (audit, writer) = Audit::new(&audit_spec(&audit_path));
        background.spawn(writer.run());
        let leaving = CancellationToken::new();
        let (zones, zones_now) = watch::channel(None);
        let (drain, drain_now) = watch::channel(Duration::from_secs(30));
        let calls = Calls {
            services: Arc::clone(&services),
            audit: audit.clone(),
            metrics: Arc::new(Metrics::default()),
            memory: Mutex::new(CallMemory::new()),
            leaving: leaving.clone(),
            announced: Arc::new(Announced::new(&Identity::Agent(me.clone()))),
        };
        let store = CredentialStore::open(&dir.path().join("state")).expect("a store");
        let identity = StoredIdentity {
            credentials: enroll(&authority, &Identity::Agent(me.clone())),
            membership: Membership::default(),
        };
        let linking = Linking {
            identity: Renewal::new(identity, Arc::new(store), 0),
            instance: InstanceId::from_bytes([1; 16]),
            calls: Arc::new(calls),
            dialer: Arc::new(Dialer::new(UdpOptions::default())),
            post_quantum: tls::PostQuantum::Require,
            zones: zones_now,
            drain_timeout: drain_now,
            leaving: leaving.clone(),
        };
        let links = Links::default();
        let agent = dial(linking, &links, listener.local_addr().expect("an address"));
        Self {
            authority,
            me,
            services,
            links,
            leaving,
            agent,
            listener,
            _tls: tls,
            background,
            audit,
            audit_path,
            dir,
            zones,
            _drain: drain,
        }
    }

    /// The next connection of the agent, up to its `Hello`.
    pub(crate) async fn hello(&mut self) -> RelayLink {
        let accepting = async {
            let incoming = self.listener.accept().await.expect("a connection");
            let connection = incoming
                .handshake(self.authority.bundle(), Expect::Agent)
                .await
                .expect("a handshake");
            let control = connection.accept_control().await.expect("a control stream");
            let (commands, orders) = mpsc::channel(16);
            let (tell, mut events) = mpsc::channel(256);
            let mut driver = JoinSet::new();
            driver.spawn(async move {
                let machine = Acceptor::new(std::time::Instant::now());
                control.drive(machine, orders, tell).await
            });
            let Some(AcceptorEvent::Hello(hello)) = events.recv().await else {
                panic!("no hello");
            };
            RelayLink {
                hello: *hello,
                connection,
                commands,
                events,
                driver,
            }
        };
        done("hello", accepting).await
    }

    /// The next link of the agent, welcomed.
    pub(crate) async fn link(&mut self) -> RelayLink {
        let link = self.hello().await;
        let welcome = Welcome {
            session: SessionId::from_bytes(rand::random()),
            replica: ReplicaId::from_bytes([3; 16]),
            plane: PlaneName {
                region: "US".to_owned(),
                zone: "ORF".to_owned(),
            },
            siblings: Vec::new(),
            settings: Settings::default(),
            features: Vec::new(),
        };
        link.command(AcceptorCommand::Welcome(welcome)).await;
        link
    }

    pub(crate) fn revocation(&self, name: &str) -> bytes::Bytes {
        let header = RecordHeader {
            kind: "revoked".to_owned(),
            tenant: Some(self.me.tenant.clone()),
            name: name.to_owned(),
            revision: 1,
            epoch: 0,
        };
        let record = self
            .authority
            .sign_record(header, b"{}".to_vec())
            .expect("signed");
        record.as_bytes().to_vec().into()
    }

    /// Ends the agent, and reads what it has left in its audit log.
    pub(crate) async fn audited(self) -> Vec<serde_json::Value> {
        let Self {
            mut agent,
            services,
            background,
            audit,
            audit_path,
            dir,
            ..
        } = self;
        agent.shutdown().await;
        services.stop();
        // Kept connections, and the writer of the log, end with the last of those who use them.
        drop((services, audit));
        background.close();
        done("the audit log", background.wait()).await;
        let text = std::fs::read_to_string(&audit_path).unwrap_or_default();
        drop(dir);
        text.lines()
            .map(|line| serde_json::from_str(line).expect("a line of JSON"))
            .collect()
    }
}

impl RelayLink {
    pub(crate) async fn command(&self, command: AcceptorCommand) {
        self.commands.send(command).await.expect("the machine runs");
    }

    /// Turns the agent away, and sees to it that it hears why.
    pub(crate) async fn reject(mut self, reject: Reject) {
        self.command(AcceptorCommand::Reject(reject)).await;
        let end = done("the rejection", self.driver.join_next()).await;
        assert!(matches!(end, Some(Ok(_))), "{end:?}");
    }

    pub(crate) async fn event(
        &mut self,
        what: &str,
        mut is: impl FnMut(&AcceptorEvent) -> bool,
    ) -> AcceptorEvent {
        let waiting = async {
            loop {
                let event = self.events.recv().await.expect("the machine runs");
                if is(&event) {
                    return event;
                }
            }
        };
        done(what, waiting).await
    }

    pub(crate) async fn open(&self, open: Open) -> OutgoingCall {
        self.connection.open_call(open).await.expect("a stream")
    }
}

type TlsNow = watch::Sender<Arc<rustls::ServerConfig>>;

fn listen(authority: &Authority) -> (QuicListener, TlsNow) {
    let plane = Identity::Plane(PlaneIdentity {
        trust_domain: authority.trust_domain().clone(),
        region: "US".parse().expect("a region"),
        zone: "ORF".parse().expect("a zone"),
        replica: culvert_certs::ReplicaId::random(),
    });
    let server = tls::link_server(&enroll(authority, &plane)).expect("tls");
    let (tls, tls_now) = watch::channel(server);
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let keys = ResetKeys::random().expect("keys");
    let listener = QuicListener::bind(any, tls_now, keys, UdpOptions::default());
    (listener.expect("a listener"), tls)
}

fn dial(linking: Linking, links: &Links, address: SocketAddr) -> JoinSet<Result<(), Revoked>> {
    let target = Target {
        host: address.ip().to_string(),
        port: address.port(),
        addresses: Vec::new(),
    };
    let guard = links.add(&address.to_string());
    let mut agent = JoinSet::new();
    agent.spawn(link::run(Arc::new(linking), target, guard));
    agent
}

fn audit_spec(path: &Path) -> AuditSpec {
    AuditSpec {
        path: path.to_owned(),
        rotate: 1 << 20,
        keep: 1,
        when_full: WhenFull::Drop,
    }
}

fn enroll(authority: &Authority, identity: &Identity) -> Credentials {
    authority
        .enroll(identity, &[], Duration::from_secs(3_600), SystemTime::now())
        .expect("credentials")
}

/// A call to `llama`.
pub(crate) fn open(method: Method, target: &str) -> Open {
    Open {
        service: ServiceName::new("llama").expect("a name"),
        call_id: CallId {
            request: RequestId::from_bytes(rand::random()),
            attempt: 0,
        },
        deadline_ms: None,
        trace: None,
        caller: Caller {
            tenant: "acme".to_owned(),
            key_id: "k1".to_owned(),
            user: None,
        },
        wants_trailers: false,
        upgrade: None,
        method,
        target: target.parse().expect("a target"),
        headers: HeaderMap::new(),
    }
}

pub(crate) fn chat() -> Open {
    open(Method::POST, "/v1/chat/completions")
}

/// A call to `llama` where that is an MCP server.
pub(crate) fn post() -> Open {
    open(Method::POST, "/")
}
