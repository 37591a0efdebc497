//! A relay inside a hyper server, complete: an authority in memory, one connector, one token.
//!
//! `cargo run -p culvert-relay --example embed`, then give the token that it prints to an agent
//! that serves something under the name `echo`, and `curl http://127.0.0.1:8080/`.

use std::collections::HashMap;
use std::convert::Infallible;
use std::error::Error;
use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use culvert_certs::{
    AgentId, AgentIdentity, Authority, ConnectorName, DenyList, Identity, JoinAnswer, JoinRequest,
    JoinSubject, JoinToken, PlaneIdentity, ReplicaId, TenantName, TokenRecord, TokenSpec,
};
use culvert_relay::{
    Admission, CallMeta, CallTarget, ClonePolicy, ConnectorPolicy, ControlRequest, JoinRefusal,
    Relay, RelayConfig, RelayInputs,
};
use culvert_tunnel::ResetKeys;
use culvert_wire::RequestId;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, combinators::BoxBody};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

const DAY: Duration = Duration::from_secs(24 * 3_600);

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let authority = Authority::create("example.test".parse()?, SystemTime::now())?;
    let connector = ("acme".parse()?, "dev".parse()?);
    let links = SocketAddr::from(([127, 0, 0, 1], 8443));
    let clients = TcpListener::bind(("127.0.0.1", 8080)).await?;

    let (_credentials, _admission, inputs) = inputs(&authority, &connector)?;
    let (relay, requests) = Relay::bind(RelayConfig::new(links), inputs).await?;
    let (token, record) = mint(&authority, &connector, relay.address())?;
    writeln!(
        std::io::stdout(),
        "culvert-agent run --join {token} --http echo=http://127.0.0.1:9000"
    )?;

    let mut tasks = JoinSet::new();
    tasks.spawn(redeem(authority, record, requests));
    tasks.spawn(serve_clients(clients, relay.clone(), connector));
    // On the first Ctrl-C the relay drains: started answers finish, idle links close at once.
    relay
        .serve(async { tokio::signal::ctrl_c().await.unwrap_or_default() })
        .await?;
    Ok(())
}

/// The embedder's own hyper server; nothing in it is about tunnels but one call.
async fn serve_clients(clients: TcpListener, relay: Relay, connector: (TenantName, ConnectorName)) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = clients.accept().await {
        let (relay, connector) = (relay.clone(), connector.clone());
        connections.spawn(async move {
            let service =
                service_fn(move |request| answer(relay.clone(), connector.clone(), request));
            let served = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            // An answer that was cut ends its connection: the client is not to take it for whole.
            served.await.is_ok()
        });
        while connections.try_join_next().is_some() {}
    }
}

type Answer = Response<BoxBody<Bytes, Box<dyn Error + Send + Sync>>>;

/// Hands a request to an agent, and its answer back.
async fn answer(
    relay: Relay,
    (tenant, connector): (TenantName, ConnectorName),
    request: Request<Incoming>,
) -> Result<Answer, Infallible> {
    let Ok(service) = "echo".parse() else {
        return Ok(failure(StatusCode::NOT_FOUND, "no such service"));
    };
    let target = CallTarget::new(tenant, vec![(connector, service)]);
    let meta = CallMeta::new(RequestId::from_bytes(rand::random()));
    Ok(match relay.call(target, meta, request).await {
        Ok(answered) => answered
            .response
            .map(|body| body.map_err(Into::into).boxed()),
        Err(failed) if failed.maybe_executed => {
            failure(StatusCode::BAD_GATEWAY, &failed.to_string())
        }
        Err(failed) => failure(StatusCode::SERVICE_UNAVAILABLE, &failed.to_string()),
    })
}

fn failure(status: StatusCode, why: &str) -> Answer {
    let body = Full::new(Bytes::from(format!("{why}\n"))).map_err(|never| match never {});
    let mut response = Response::new(body.boxed());
    *response.status_mut() = status;
    response
}

type Held = (
    watch::Sender<Arc<culvert_certs::Credentials>>,
    watch::Sender<Arc<Admission>>,
    RelayInputs,
);

/// What the relay has to know; new values sent to the watches take effect at once.
fn inputs(
    authority: &Authority,
    connector: &(TenantName, ConnectorName),
) -> Result<Held, Box<dyn Error>> {
    let plane = Identity::Plane(PlaneIdentity {
        trust_domain: authority.trust_domain().clone(),
        region: "LOCAL".parse()?,
        zone: "LAPTOP".parse()?,
        replica: ReplicaId::random(),
    });
    let hosts = ["127.0.0.1".to_owned()];
    let enrolled = authority.enroll(&plane, &hosts, 7 * DAY, SystemTime::now())?;
    let (credentials, follow_credentials) = watch::channel(Arc::new(enrolled));
    let (admission, follow_admission) = watch::channel(Arc::new(Admission {
        connectors: HashMap::from([(connector.clone(), ConnectorPolicy::default())]),
        deny: DenyList::default(),
        statements: HashMap::new(),
        clones: ClonePolicy::Alarm,
    }));
    let inputs = RelayInputs {
        credentials: follow_credentials,
        admission: follow_admission,
        // This store is the program itself; others move it on as they hear theirs.
        heard_at: watch::Sender::new(SystemTime::now()).subscribe(),
        reset_keys: ResetKeys::random()?,
        edge: None,
    };
    Ok((credentials, admission, inputs))
}

fn mint(
    authority: &Authority,
    (tenant, connector): &(TenantName, ConnectorName),
    links: SocketAddr,
) -> Result<(String, TokenRecord), Box<dyn Error>> {
    let (token, record) = JoinToken::mint(TokenSpec {
        addresses: vec![links.to_string().parse()?],
        trust_domain: authority.trust_domain().clone(),
        subject: JoinSubject::Connector {
            tenant: tenant.clone(),
            connector: connector.clone(),
        },
        pins: authority.pins()?,
        expiry: SystemTime::now() + Duration::from_secs(3_600),
    })?;
    Ok((token.encode()?.expose().to_owned(), record))
}

/// What control does in a real deployment: redeems the one token, and renews nothing.
async fn redeem(
    authority: Authority,
    mut record: TokenRecord,
    mut requests: mpsc::Receiver<ControlRequest>,
) {
    while let Some(request) = requests.recv().await {
        // Whoever asked may have gone; the answer is then for nobody.
        match request {
            ControlRequest::Join { request, reply, .. } => {
                let answer = join(&authority, &mut record, &request);
                reply.send(answer.map_err(|_| JoinRefusal::Refused)).ok();
            }
            ControlRequest::Renew { reply, .. } => {
                reply.send(Err(JoinRefusal::Unavailable)).ok();
            }
        }
    }
}

fn join(
    authority: &Authority,
    record: &mut TokenRecord,
    request: &JoinRequest,
) -> Result<JoinAnswer, Box<dyn Error>> {
    let now = SystemTime::now();
    let csr = request.verify(record, authority.trust_domain(), now)?;
    let JoinSubject::Connector { tenant, connector } = record.subject.clone() else {
        return Err("the token is for a plane".into());
    };
    record.uses_left -= 1;
    let trust_domain = authority.trust_domain().clone();
    let identity = AgentIdentity {
        trust_domain,
        tenant,
        connector,
        agent: AgentId::random(),
    };
    Ok(JoinAnswer {
        chain: authority
            .issue_agent(&csr, &identity, 7 * DAY, now)?
            .certificates,
        id: Identity::Agent(identity),
        bundle: authority.bundle().as_bytes().to_vec(),
        dns_suffixes: Vec::new(),
        addresses: Vec::new(),
        gateway_url: None,
    })
}
