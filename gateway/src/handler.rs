//! The life of a request, in the order in which it happens:
//!
//! ```text
//!  accept -> authenticate -> limit ----> route -----> dispatch -----> record
//!            whose key?      origin,     which        relay to an     the body of the answer
//!                            head,       service?     agent, wait     carries the record's
//!                            body                     for the head    guard to its end
//! ```
//!
//! Each phase is one function. Whatever ends a request, the guard that `accept` made writes its record.

use std::{net::IpAddr, sync::Arc, time::SystemTime};

use bytes::Bytes;
use culvert_certs::{Region, Zone};
use culvert_control::{ConfigSnapshot, snapshot::KeyView};
use culvert_relay::{AnswerBody as RelayBody, Answered, CallFailed, CallMeta, Relay};
use culvert_wire::{RequestId, ServiceKind};
use http::{Request, Response, StatusCode, Version, header, request::Parts};
use http_body::Body;
use tokio::sync::watch;
use uuid::Uuid;

use crate::{
    answer::{AnswerBody, CutFlag, Watch},
    auth,
    dialect::Dialect,
    error::{CallerCode, Problem},
    hygiene::REQUEST_ID,
    intake::{self, Intake, Payload},
    limit::{BodyBudget, HELD_BUDGET, UpBody},
    mcp::origin::Origins,
    metrics::EdgeMetrics,
    model::list,
    names::{self, Names},
    record::{Caller, Guard, Record, Recorder},
    respond::{self, Hops, Stamp},
    route::{
        catalog::Catalog,
        endpoint::Endpoint,
        resolve::{self, Target},
    },
    upstream,
};

/// How much of a caller's own request id is recorded, in characters.
const CLIENT_ID: usize = 128;

/// The body of an answer of this gateway.
pub type EdgeAnswer = AnswerBody<RelayBody>;

/// The caller's side of a connection.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Its address.
    pub address: IpAddr,
    /// `http` or `https`.
    pub scheme: &'static str,
    /// Set when the connection must be reset.
    pub cut: CutFlag,
}

/// The plane that a handler serves for.
#[derive(Clone, Debug)]
pub struct Place {
    /// Its label.
    pub region: Region,
    /// Its name.
    pub zone: Zone,
}

/// What a handler is made of.
#[derive(Debug)]
pub struct Wiring {
    /// Where we are.
    pub place: Place,
    /// Who may do what.
    pub config: watch::Receiver<Arc<ConfigSnapshot>>,
    /// The links.
    pub relay: Relay,
    /// Which web pages may call MCP servers.
    pub origins: Origins,
    /// Where records go.
    pub recorder: Recorder,
    /// What the edge counts.
    pub metrics: EdgeMetrics,
}

/// Answers the requests of callers.
#[derive(Debug)]
pub struct Handler {
    wiring: Wiring,
    stamp: Stamp,
    plane: String,
    names: Names,
    budget: BodyBudget,
}

/// One request under way: what its answer needs to know, whichever phase makes it.
struct Exchange {
    id: RequestId,
    guard: Guard,
    dialect: Dialect,
    /// The id of the JSON-RPC request in the body.
    rpc_id: Option<String>,
    /// The caller asked for a stream.
    streams: bool,
    counts_tokens: bool,
    head_only: bool,
    cut: CutFlag,
}

/// What routing has decided.
enum Routed<B> {
    /// The gateway answers itself.
    Here(Response<Bytes>),
    /// An agent does.
    Away(Box<Outbound<B>>),
}

struct Outbound<B> {
    target: Target,
    request: Request<UpBody<B>>,
    terms: intake::Terms,
}

/// An answer, of ours or of a backend.
enum Done {
    Here(Response<Bytes>),
    Away(Box<(Answered, std::time::Duration)>),
}

impl Handler {
    /// A handler for one plane.
    pub fn new(wiring: Wiring) -> Self {
        let Place { region, zone } = &wiring.place;
        Self {
            stamp: Stamp::new(region, zone),
            plane: format!("{region}/{zone}"),
            names: Names::default(),
            budget: BodyBudget::new(HELD_BUDGET, wiring.metrics.clone()),
            wiring,
        }
    }

    /// What the edge counts.
    pub const fn metrics(&self) -> &EdgeMetrics {
        &self.wiring.metrics
    }

    /// Answers one request.
    pub async fn handle<B>(&self, request: Request<B>, peer: Peer) -> Response<EdgeAnswer>
    where
        B: Body<Data = Bytes> + Unpin + Send + 'static,
    {
        let (head, body) = request.into_parts();
        let endpoint = Endpoint::parse(&head.method, &head.uri);
        let mut exchange = self.accept(&head, &peer, &endpoint);
        match Box::pin(self.phases(&mut exchange, endpoint, head, body, &peer)).await {
            Ok(Done::Here(answer)) => self.own(exchange, answer),
            Ok(Done::Away(answered)) => Box::pin(self.pass(exchange, *answered)).await,
            Err(problem) => self.refuse(exchange, &problem),
        }
    }

    async fn phases<B>(
        &self,
        exchange: &mut Exchange,
        endpoint: Result<Endpoint, Problem>,
        mut head: Parts,
        body: B,
        peer: &Peer,
    ) -> Result<Done, Problem>
    where
        B: Body<Data = Bytes> + Unpin + Send + 'static,
    {
        let key = self.authenticate(exchange, &mut head)?;
        let endpoint = endpoint?;
        let intake = self.limit(exchange, &endpoint, head, body, peer).await?;
        match self.route(exchange, &key, endpoint, intake)? {
            Routed::Here(answer) => Ok(Done::Here(answer)),
            Routed::Away(outbound) => self.dispatch(exchange, &key, *outbound).await,
        }
    }

    /// The request exists from here on: it has an id and a record.
    fn accept(&self, head: &Parts, peer: &Peer, endpoint: &Result<Endpoint, Problem>) -> Exchange {
        let id = RequestId::from_bytes(Uuid::now_v7().into_bytes());
        let client_id = head
            .headers
            .get(REQUEST_ID)
            .and_then(|value| value.to_str().ok());
        let record = Record {
            ts: jiff::Timestamp::now(),
            request_id: id.to_string(),
            client_request_id: client_id.map(|id| id.chars().take(CLIENT_ID).collect()),
            plane: self.plane.clone(),
            kind: endpoint.as_ref().map_or("other", Endpoint::kind),
            method: head.method.to_string(),
            path: head.uri.path().to_owned(),
            ..Record::default()
        };
        // Only to HTTP/1.0 is a closed connection a good end.
        let resets = head.version == Version::HTTP_10;
        Exchange {
            id,
            guard: self.wiring.recorder.begin(record),
            dialect: Dialect::of(head.uri.path(), &head.headers),
            rpc_id: None,
            streams: false,
            counts_tokens: matches!(endpoint, Ok(Endpoint::Model)),
            head_only: head.method == http::Method::HEAD,
            cut: if resets {
                peer.cut.clone()
            } else {
                CutFlag::default()
            },
        }
    }

    /// Whose key is it?
    fn authenticate(&self, exchange: &mut Exchange, head: &mut Parts) -> Result<KeyView, Problem> {
        let snapshot = Arc::clone(&self.wiring.config.borrow());
        let key = auth::authenticate(&mut head.headers, &snapshot, SystemTime::now())?;
        exchange.guard.fields().caller = Some(Caller {
            tenant: key.tenant.to_string(),
            key_id: key.id.clone(),
        });
        Ok(key)
    }

    /// May this request take up our memory, and what does it say about itself?
    async fn limit<B>(
        &self,
        exchange: &mut Exchange,
        endpoint: &Endpoint,
        head: Parts,
        body: B,
        peer: &Peer,
    ) -> Result<Intake<B>, Problem>
    where
        B: Body<Data = Bytes> + Unpin,
    {
        if matches!(endpoint, Endpoint::Mcp(_)) && !self.wiring.origins.admit(&head.headers) {
            return Err(Problem::new(
                CallerCode::NotAllowed,
                "This `Origin` may not call MCP servers here.",
            ));
        }
        let terms = intake::terms(&head, peer, &self.wiring.place)?;
        exchange
            .guard
            .fields()
            .metadata
            .clone_from(terms.metadata.entries());
        let count = exchange.guard.bytes_in();
        let payload = intake::payload(endpoint, &terms, body, &self.budget, count).await?;
        match &payload {
            Payload::Model(body, _) => exchange.streams = body.wants_stream(),
            Payload::Message(_, peek, _) => {
                exchange.rpc_id.clone_from(&peek.id);
                let fields = exchange.guard.fields();
                fields.rpc_method.clone_from(&peek.method);
                fields.tool.clone_from(&peek.name);
            }
            Payload::Streamed(_) => {}
        }
        Ok(Intake { terms, payload })
    }

    /// Which services may serve it?
    fn route<B>(
        &self,
        exchange: &mut Exchange,
        key: &KeyView,
        endpoint: Endpoint,
        intake: Intake<B>,
    ) -> Result<Routed<B>, Problem> {
        let catalog = self.catalog(key);
        let Intake { terms, payload } = intake;
        let dialect = exchange.dialect;
        let (target, path) = match endpoint {
            Endpoint::ModelList => {
                let body = list::list(&catalog.models(&key.allow), dialect);
                return Ok(Routed::Here(respond::json(StatusCode::OK, body)));
            }
            Endpoint::ModelEntry(name) => {
                let found = resolve::model(&name, &catalog, &key.allow)?;
                let id = found.model.as_deref().unwrap_or_default();
                let body = list::entry(&found.connector, id, dialect);
                return Ok(Routed::Here(respond::json(StatusCode::OK, body)));
            }
            Endpoint::Model => {
                let name = payload.model_name()?;
                (
                    resolve::model(name, &catalog, &key.allow)?,
                    terms.path.clone(),
                )
            }
            Endpoint::StoredResponse => {
                let wanted = terms.wanted.as_deref();
                (
                    resolve::unnamed(wanted, &catalog, &key.allow)?,
                    terms.path.clone(),
                )
            }
            Endpoint::Mcp(path) => (
                resolve::service(&path, ServiceKind::Mcp, &catalog, &key.allow)?,
                "/".to_owned(),
            ),
            Endpoint::Http { service, target } => (
                resolve::service(&service, ServiceKind::Http, &catalog, &key.allow)?,
                target,
            ),
        };
        let fields = exchange.guard.fields();
        fields.connector = Some(target.connector.to_string());
        fields.service = match target.services.as_slice() {
            [only] => Some(only.to_string()),
            _ => None,
        };
        fields.model.clone_from(&target.model);
        let (headers, body) = payload.outbound(terms.headers.clone(), target.model.as_deref());
        let request = upstream::request(terms.method.clone(), &path, headers, body)?;
        Ok(Routed::Away(Box::new(Outbound {
            target,
            request,
            terms,
        })))
    }

    /// Hands the call to the relay and waits for the head of an answer. Dropping this cancels the call.
    async fn dispatch<B>(
        &self,
        exchange: &mut Exchange,
        key: &KeyView,
        outbound: Outbound<B>,
    ) -> Result<Done, Problem>
    where
        B: Body<Data = Bytes> + Unpin + Send + 'static,
    {
        let Outbound {
            target,
            request,
            terms,
        } = outbound;
        let meta = CallMeta {
            request_id: exchange.id,
            deadline: terms.deadline,
            caller: upstream::caller(key),
            trace: terms.trace,
        };
        let target = upstream::call_target(key.tenant.clone(), &target);
        let before = exchange.guard.began().elapsed();
        let called = self.wiring.relay.call(target, meta, request);
        match Box::pin(called).await {
            Ok(answered) => Ok(Done::Away(Box::new((answered, before)))),
            Err(failed) => {
                note_failure(exchange.guard.fields(), &failed);
                tracing::debug!(request_id = exchange.guard.request_id(), error = %failed.cause, "call failed");
                Err(upstream::failed(&failed))
            }
        }
    }

    /// A backend's answer: its head in our terms, its body as it comes.
    async fn pass(
        &self,
        mut exchange: Exchange,
        (answered, before): (Answered, std::time::Duration),
    ) -> Response<EdgeAnswer> {
        let Answered {
            response,
            route,
            timings,
        } = answered;
        let (mut head, body) = response.into_parts();
        let fields = exchange.guard.fields();
        fields.service = Some(route.service.to_string());
        fields.agent = Some(route.agent.to_string());
        fields.transport = Some(route.transport.to_string());
        fields.attempts = u32::from(route.attempts);
        fields.status = Some(head.status.as_u16());
        let hops = Hops {
            gateway: before + timings.sent,
            tunnel: timings.accepted.saturating_sub(timings.sent),
            backend: timings.head.saturating_sub(timings.accepted),
        };
        let bodiless = exchange.head_only
            || matches!(
                head.status,
                StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED
            );
        let body = match respond::body_of(body, bodiless).await {
            Ok(body) => body,
            Err(problem) => return self.refuse(exchange, &problem),
        };
        respond::dress(&mut head.headers);
        self.stamp
            .mark(&mut head.headers, exchange.guard.request_id(), Some(hops));
        let watch = Watch {
            dialect: exchange.dialect,
            call: exchange.rpc_id,
            keep_alive: exchange.streams,
            count_tokens: exchange.counts_tokens && respond::has_readable_usage(&head.headers),
            cut: exchange.cut,
        };
        let body = AnswerBody::new(body, &head.headers, exchange.guard, watch);
        Response::from_parts(head, body)
    }

    /// An answer of ours to a call that failed.
    fn refuse(&self, mut exchange: Exchange, problem: &Problem) -> Response<EdgeAnswer> {
        exchange.guard.refused(problem);
        let answer = respond::problem(
            problem,
            exchange.dialect,
            exchange.guard.request_id(),
            exchange.rpc_id.as_deref(),
        );
        self.own(exchange, answer)
    }

    /// An answer of ours.
    fn own(&self, mut exchange: Exchange, answer: Response<Bytes>) -> Response<EdgeAnswer> {
        let (mut head, bytes) = answer.into_parts();
        exchange.guard.fields().status = Some(head.status.as_u16());
        self.stamp
            .mark(&mut head.headers, exchange.guard.request_id(), None);
        head.headers
            .insert(header::CONTENT_LENGTH, bytes.len().into());
        let bytes = if exchange.head_only {
            Bytes::new()
        } else {
            bytes
        };
        Response::from_parts(head, AnswerBody::own(bytes, exchange.guard))
    }

    fn catalog(&self, key: &KeyView) -> Arc<Catalog> {
        let snapshot = Arc::clone(&self.wiring.config.borrow());
        let view = self.wiring.relay.directory().view(&key.tenant);
        let source = names::Source {
            configuration: snapshot.revision,
            directory: view.revision,
        };
        self.names.catalog(&key.tenant, source, || {
            let own = snapshot
                .connectors
                .keys()
                .filter(|(tenant, _)| *tenant == key.tenant);
            names::build(own.map(|(_, connector)| connector), &view)
        })
    }
}

fn note_failure(record: &mut Record, failed: &CallFailed) {
    record.attempts = u32::from(failed.attempts);
    record.maybe_executed = failed.maybe_executed;
    record.agent = failed.agent.map(|agent| agent.to_string());
}
