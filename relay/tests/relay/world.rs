//! An authority, a relay that serves, and what a test does with them.

use std::collections::HashMap;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use culvert_certs::{
    AgentId, AgentIdentity, Authority, ConnectorName, Credentials, DenyList, Identity,
    PlaneIdentity, ReplicaId, TenantName,
};
use culvert_relay::{
    Admission, Affinity, Answered, CallFailed, CallMeta, CallTarget, ClonePolicy, ConnectorPolicy,
    ControlRequest, DoorLimits, Edge, ParkedLimits, Phase, Relay, RelayConfig, RelayInputs,
    RelayStatus,
};
use culvert_tunnel::ResetKeys;
use culvert_wire::{Caller, RequestId, ServiceKind, ServiceOffer};
use http::Request;
use http_body::{Body, Frame};
use http_body_util::{BodyExt as _, Full, StreamBody};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

/// The longest that a step of a test may take; far above what any of them needs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Waits for a step that has to end.
pub(crate) async fn done<F: Future>(step: &str, future: F) -> F::Output {
    match timeout(PATIENCE, future).await {
        Ok(output) => output,
        Err(_elapsed) => panic!("{step}: not done within {PATIENCE:?}"),
    }
}

pub(crate) fn acme() -> TenantName {
    "acme".parse().unwrap()
}

pub(crate) fn vpc() -> ConnectorName {
    "prod-vpc".parse().unwrap()
}

/// A relay that serves, with everything that its embedder would hold.
pub(crate) struct World {
    pub(crate) authority: Authority,
    pub(crate) relay: Relay,
    pub(crate) admission: watch::Sender<Arc<Admission>>,
    pub(crate) heard_at: watch::Sender<SystemTime>,
    pub(crate) control: mpsc::Receiver<ControlRequest>,
    pub(crate) stop: CancellationToken,
    pub(crate) serving: JoinSet<()>,
    _credentials: watch::Sender<Arc<Credentials>>,
}

/// What a test decides about its world.
pub(crate) struct Plan {
    pub(crate) drain_timeout: Duration,
    pub(crate) clones: ClonePolicy,
    pub(crate) policy: ConnectorPolicy,
    pub(crate) heard_at: SystemTime,
    pub(crate) edge: Option<Edge>,
    pub(crate) parked: ParkedLimits,
    pub(crate) doors: DoorLimits,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            drain_timeout: Duration::from_secs(60),
            clones: ClonePolicy::Alarm,
            policy: ConnectorPolicy::default(),
            heard_at: SystemTime::now(),
            edge: None,
            parked: ParkedLimits::default(),
            doors: DoorLimits::default(),
        }
    }
}

impl World {
    pub(crate) async fn new() -> Self {
        Self::with(Plan::default()).await
    }

    pub(crate) async fn with(plan: Plan) -> Self {
        let authority =
            Authority::create("culvert.test".parse().unwrap(), SystemTime::now()).unwrap();
        Self::of(authority, plan).await
    }

    pub(crate) async fn of(authority: Authority, plan: Plan) -> Self {
        let (credentials, follow) = watch::channel(Arc::new(plane(&authority)));
        let (heard_at, hear) = watch::channel(plan.heard_at);
        let (admission, admitted) = watch::channel(Arc::new(Admission {
            connectors: HashMap::from([((acme(), vpc()), plan.policy)]),
            deny: DenyList::default(),
            statements: HashMap::new(),
            clones: plan.clones,
        }));
        let mut config = RelayConfig::new(SocketAddr::from(([127, 0, 0, 1], 0)));
        config.drain_timeout = plan.drain_timeout;
        config.drain_smear = Duration::ZERO;
        config.parked = plan.parked;
        config.doors = plan.doors;
        let inputs = RelayInputs {
            credentials: follow,
            admission: admitted,
            heard_at: hear,
            reset_keys: ResetKeys::random().unwrap(),
            edge: plan.edge,
        };
        let (relay, control) = Relay::bind(config, inputs).await.unwrap();
        let stop = CancellationToken::new();
        let (server, stopped) = (relay.clone(), stop.clone());
        let mut serving = JoinSet::new();
        serving.spawn(async move { server.serve(stopped.cancelled()).await.unwrap() });
        Self {
            authority,
            relay,
            admission,
            heard_at,
            control,
            stop,
            serving,
            _credentials: credentials,
        }
    }

    /// A new agent of the known connector.
    pub(crate) fn agent(&self) -> Credentials {
        agent_of(&self.authority, acme(), vpc(), Duration::from_secs(3_600))
    }

    pub(crate) fn change_admission(&self, change: impl FnOnce(&mut Admission)) {
        self.admission
            .send_modify(|admission| change(Arc::make_mut(admission)));
    }

    /// Waits until the relay's own account of itself is as the test wants it.
    pub(crate) async fn until(&self, what: &str, is: impl Fn(&RelayStatus) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let status = self.relay.status();
            if is(&status) {
                return;
            }
            assert!(Instant::now() < deadline, "{what}: still {status:#?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until nothing of the relay runs any more.
    pub(crate) async fn served(&mut self) {
        done("the relay's end", self.serving.join_next())
            .await
            .unwrap()
            .unwrap();
    }

    pub(crate) fn is_serving(&mut self) -> bool {
        self.serving.try_join_next().is_none()
    }

    pub(crate) async fn until_links(&self, links: usize) {
        self.until(&format!("{links} links"), |status| {
            status.links.len() == links
        })
        .await;
    }

    pub(crate) async fn until_phase(&self, phase: Phase) {
        self.until(&format!("{phase:?}"), |status| status.phase == phase)
            .await;
    }

    /// Sends a request with a whole body to the service `echo`.
    pub(crate) async fn call(&self, request: Request<Bytes>) -> Result<Answered, CallFailed> {
        let call = self
            .relay
            .call(target("echo"), meta(), request.map(Full::new));
        done("the call", call).await
    }
}

pub(crate) fn plane(authority: &Authority) -> Credentials {
    let identity = Identity::Plane(PlaneIdentity {
        trust_domain: authority.trust_domain().clone(),
        region: "US".parse().unwrap(),
        zone: "ORF".parse().unwrap(),
        replica: ReplicaId::random(),
    });
    let hosts = ["127.0.0.1".to_owned()];
    authority
        .enroll(
            &identity,
            &hosts,
            Duration::from_secs(3_600),
            SystemTime::now(),
        )
        .unwrap()
}

pub(crate) fn agent_of(
    authority: &Authority,
    tenant: TenantName,
    connector: ConnectorName,
    lifetime: Duration,
) -> Credentials {
    let identity = Identity::Agent(AgentIdentity {
        trust_domain: authority.trust_domain().clone(),
        tenant,
        connector,
        agent: AgentId::random(),
    });
    authority
        .enroll(&identity, &[], lifetime, SystemTime::now())
        .unwrap()
}

pub(crate) fn offer(service: &str) -> ServiceOffer {
    ServiceOffer {
        name: service.parse().unwrap(),
        kind: ServiceKind::Http,
        models: Vec::new(),
        digest: [0; 32],
    }
}

pub(crate) fn target(service: &str) -> CallTarget {
    CallTarget {
        tenant: acme(),
        candidates: vec![(vpc(), service.parse().unwrap())],
        model: None,
        affinity: None,
    }
}

/// A session at this agent, of a service that [`offer`] made.
pub(crate) fn session_at(agent: AgentId) -> Affinity {
    Affinity {
        agent,
        definition: Some([0; 32]),
    }
}

pub(crate) fn meta() -> CallMeta {
    CallMeta {
        request_id: RequestId::from_bytes(*ReplicaId::random().as_bytes()),
        deadline: None,
        caller: Caller {
            tenant: "acme".into(),
            key_id: "k1".into(),
            user: None,
        },
        trace: None,
    }
}

pub(crate) fn post(body: impl Into<Bytes>) -> Request<Bytes> {
    Request::post("/v1/echo?x=1")
        .header("x-test", "yes")
        .body(body.into())
        .unwrap()
}

pub(crate) fn get() -> Request<Bytes> {
    Request::get("/v1/echo").body(Bytes::new()).unwrap()
}

/// The whole body of an answer.
pub(crate) async fn text(answered: Answered) -> String {
    let body = done("the answer", answered.response.into_body().collect())
        .await
        .unwrap();
    String::from_utf8(body.to_bytes().to_vec()).unwrap()
}

pub(crate) type Pieces = mpsc::Receiver<Result<Frame<Bytes>, std::io::Error>>;

/// A request body that a test sends piece by piece.
pub(crate) fn streamed(pieces: Pieces) -> impl Body<Data = Bytes, Error = std::io::Error> + Send {
    StreamBody::new(futures_util::stream::unfold(
        pieces,
        |mut pieces| async move { pieces.recv().await.map(|piece| (piece, pieces)) },
    ))
}

/// Why a call that must fail did.
pub(crate) fn failed(outcome: Result<Answered, CallFailed>) -> CallFailed {
    match outcome {
        Ok(answered) => panic!("the call was answered: {:?}", answered.response.status()),
        Err(failed) => failed,
    }
}
