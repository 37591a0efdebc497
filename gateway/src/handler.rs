//! The life of a request, in the order in which it happens:
//!
//! ```text
//!  begin -> authenticate -> limit ----> route -----> dispatch -----> record
//!           whose key?      origin,     which        relay to an     the body of the answer
//!                           head,       service?     agent, wait     carries the record's
//!                           body                     for the head    guard to its end
//! ```
//!
//! Each phase is one function. Whatever ends a request, the guard that `begin` made writes its record.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use culvert_control::{ConfigSnapshot, snapshot::KeyView};
use culvert_relay::{AnswerBody as RelayBody, Answered, CallMeta, FailCause, Relay};
use culvert_wire::ServiceKind;
use http::{Request, Response, StatusCode, request::Parts};
use http_body::Body;
use tokio::{sync::watch, time::timeout};

use crate::{
    auth,
    error::{CallerCode, Problem},
    exchange::{Desk, EdgeAnswer, Exchange, Peer, Place},
    fault::{Fault, Noted},
    held::{BodyBudget, HELD_BUDGET},
    intake::{self, Intake, Payload, Terms},
    late::{self, Coming},
    limit::{self, Announced, UpBody},
    mcp::{
        era,
        session::{Sessions, Visit},
    },
    metrics::EdgeMetrics,
    model::{
        list,
        stored::{Remember, Stored},
    },
    names::Names,
    record::{Caller, Recorder},
    respond,
    route::{
        catalog::Catalog,
        endpoint::Endpoint,
        realtime,
        resolve::{self, Target},
    },
    settings::Settings,
    upgrade::{self, Asked},
    upstream,
};

/// What a handler is made of.
#[derive(Debug)]
pub struct Wiring {
    /// Where we are.
    pub place: Place,
    /// Who may do what.
    pub config: watch::Receiver<Arc<ConfigSnapshot>>,
    /// The links.
    pub relay: Relay,
    /// What callers meet.
    pub settings: watch::Receiver<Arc<Settings>>,
    /// What the sessions of MCP clients are sealed with.
    pub sessions: Sessions,
    /// Where records go.
    pub recorder: Recorder,
    /// What the edge counts.
    pub metrics: EdgeMetrics,
}

/// Answers the requests of callers.
#[derive(Debug)]
pub struct Handler {
    desk: Desk,
    place: Place,
    config: watch::Receiver<Arc<ConfigSnapshot>>,
    relay: Relay,
    sessions: Sessions,
    metrics: EdgeMetrics,
    names: Arc<Names>,
    stored: Arc<Stored>,
    budget: BodyBudget,
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
    request: Request<Noted<UpBody<B>>>,
    fault: Fault,
    terms: Terms,
}

/// An answer, of ours or of a backend with the time that the call took to reach the relay; or none
/// yet, for a caller that asked for a stream.
enum Done {
    Here(Response<Bytes>),
    Away(Box<Answered>, Duration),
    Late(Coming<RelayBody>),
}

impl Handler {
    /// A handler for one plane.
    pub fn new(wiring: Wiring) -> Self {
        let Wiring {
            place,
            config,
            relay,
            settings,
            sessions,
            recorder,
            metrics,
        } = wiring;
        Self {
            desk: Desk::new(&place, recorder, settings),
            names: Arc::default(),
            stored: Arc::default(),
            budget: BodyBudget::new(HELD_BUDGET, metrics.clone()),
            place,
            config,
            relay,
            sessions,
            metrics,
        }
    }

    /// What the edge counts.
    pub const fn metrics(&self) -> &EdgeMetrics {
        &self.metrics
    }

    /// The catalogs of all tenants.
    pub const fn names(&self) -> &Arc<Names> {
        &self.names
    }

    /// Answers one request.
    pub async fn handle<B>(&self, mut request: Request<B>, peer: Peer) -> Response<EdgeAnswer>
    where
        B: Body<Data = Bytes> + Unpin + Send + 'static,
    {
        let asked = Asked::take(&mut request);
        let (mut head, body) = request.into_parts();
        let announced = Announced::of(&head.headers);
        let endpoint = Endpoint::parse(&head.method, &head.uri);
        let mut exchange = self.desk.begin(&head, &peer, &endpoint);
        exchange.asked = asked;
        if let Some(answer) = exchange.settings.preflight(&head, &endpoint) {
            return exchange.own(answer);
        }
        let admitted = self
            .authenticate(&mut exchange, &mut head)
            .and_then(|key| Ok((key, endpoint?)));
        let (key, endpoint) = match admitted {
            Ok(admitted) => admitted,
            Err(problem) => {
                let problem = if limit::discard(announced, body).await {
                    problem
                } else {
                    problem.closing()
                };
                return exchange.refuse(&problem);
            }
        };
        match Box::pin(self.phases(&mut exchange, key, endpoint, head, body, &peer)).await {
            Ok(Done::Here(answer)) => exchange.own(answer),
            Ok(Done::Away(answered, before)) => Box::pin(exchange.pass(*answered, before)).await,
            Ok(Done::Late(coming)) => exchange.early(coming),
            Err(problem) if announced.waits && exchange.guard.nothing_read() => {
                exchange.refuse(&problem.closing())
            }
            Err(problem) => exchange.refuse(&problem),
        }
    }

    async fn phases<B>(
        &self,
        exchange: &mut Exchange<'_>,
        key: KeyView,
        endpoint: Endpoint,
        head: Parts,
        body: B,
        peer: &Peer,
    ) -> Result<Done, Problem>
    where
        B: Body<Data = Bytes> + Unpin + Send + 'static,
    {
        let limited = self.limit(exchange, &key, &endpoint, head, body, peer);
        let intake = limited.await?;
        match self.route(exchange, &key, endpoint, intake)? {
            Routed::Here(answer) => Ok(Done::Here(answer)),
            Routed::Away(outbound) => self.dispatch(exchange, &key, *outbound).await,
        }
    }

    /// Whose key is it?
    fn authenticate(
        &self,
        exchange: &mut Exchange<'_>,
        head: &mut Parts,
    ) -> Result<KeyView, Problem> {
        let snapshot = Arc::clone(&self.config.borrow());
        upgrade::take_key(&mut head.headers);
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
        exchange: &mut Exchange<'_>,
        key: &KeyView,
        endpoint: &Endpoint,
        head: Parts,
        body: B,
        peer: &Peer,
    ) -> Result<Intake<B>, Problem>
    where
        B: Body<Data = Bytes> + Unpin,
    {
        if matches!(endpoint, Endpoint::Mcp(_)) && !exchange.settings.origins.admit(&head.headers) {
            let what = "This `Origin` may not call MCP servers here.";
            return Err(Problem::new(CallerCode::NotAllowed, what));
        }
        let mut terms = intake::terms(&head, peer, &self.place, exchange.id)?;
        exchange
            .guard
            .fields()
            .metadata
            .clone_from(terms.metadata.entries());
        let has_body = terms.announced.length.is_some_and(|length| length > 0);
        let has_body = has_body || !body.is_end_stream();
        let (asked, id) = (exchange.asked.take(), *exchange.id.as_bytes());
        let switching = Asked::admit(asked, endpoint, has_body, &mut terms.headers, id)?;
        if let Some((switching, stream)) = switching {
            exchange.switching = Some(switching);
            let payload = Payload::Switched(stream);
            return Ok(Intake { terms, payload });
        }
        let count = exchange.guard.bytes_in();
        let budget = self.budget.of(&key.tenant);
        let payload = intake::payload(endpoint, &terms, body, &budget, count).await?;
        match &payload {
            Payload::Message(_, peek, _) => {
                exchange.rpc_id.clone_from(&peek.id);
                let fields = exchange.guard.fields();
                fields.rpc_method = peek.recorded_method();
                fields.tool = peek.recorded_name();
                era::check(&terms.headers, peek)?;
            }
            Payload::Model(..) | Payload::Form(_) | Payload::Streamed(_) | Payload::Switched(_) => {
            }
        }
        Ok(Intake { terms, payload })
    }

    /// Which services may serve it?
    fn route<B>(
        &self,
        exchange: &mut Exchange<'_>,
        key: &KeyView,
        endpoint: Endpoint,
        intake: Intake<B>,
    ) -> Result<Routed<B>, Problem> {
        let (catalog, allow) = (self.catalog(key), &key.allow);
        let Intake {
            mut terms,
            mut payload,
        } = intake;
        let (target, path) = match endpoint {
            Endpoint::ModelList => {
                let body = list::list(&catalog.models(allow), exchange.dialect);
                return Ok(Routed::Here(respond::json(StatusCode::OK, body)));
            }
            Endpoint::ModelEntry(name) => {
                let found = resolve::model(&name, &catalog, allow)?;
                let id = found.model.as_deref().unwrap_or_default();
                let body = list::entry(&found.connector, id, exchange.dialect);
                return Ok(Routed::Here(respond::json(StatusCode::OK, body)));
            }
            Endpoint::Model(_) => {
                let target = resolve::model(payload.model_name()?, &catalog, allow)?;
                (target, terms.path.clone())
            }
            Endpoint::Realtime => {
                realtime::destination(&terms.path, terms.wanted.as_deref(), &catalog, allow)?
            }
            Endpoint::StoredResponse(id) => {
                let known = self.stored.find(&key.tenant, &id);
                let wanted = terms.wanted.as_deref();
                let target = resolve::unnamed(wanted, known.as_ref(), &catalog, allow)?;
                (target, terms.path.clone())
            }
            Endpoint::Mcp(path) => {
                let target = resolve::service(&path, ServiceKind::Mcp, &catalog, allow)?;
                let message = payload.message();
                let visit = self.sessions.arrive(key, &path, message, &mut terms)?;
                let at = visit.target();
                exchange.visit = Some(visit);
                (target, at)
            }
            Endpoint::Http {
                service,
                target: path,
            } => {
                let target = resolve::service(&service, ServiceKind::Http, &catalog, allow)?;
                (target, path)
            }
        };
        let fields = exchange.guard.fields();
        fields.connector = Some(target.connector.to_string());
        fields.service = match target.services.as_slice() {
            [only] => Some(only.to_string()),
            _ => None,
        };
        fields.model.clone_from(&target.model);
        if terms.makes_response() {
            exchange.remember = Remember::of(&self.stored, &key.tenant, &target);
        }
        exchange.stream_from(&target, &terms, &mut payload);
        let (headers, body) = payload.outbound(terms.headers.clone(), target.model.as_deref());
        let fault = Fault::default();
        let body = Noted::new(body, fault.clone());
        let request = upstream::request(terms.method.clone(), &path, headers, body)?;
        Ok(Routed::Away(Box::new(Outbound {
            target,
            request,
            fault,
            terms,
        })))
    }

    /// Hands the call to the relay and waits for the head of an answer. Dropping this cancels it.
    async fn dispatch<B>(
        &self,
        exchange: &mut Exchange<'_>,
        key: &KeyView,
        outbound: Outbound<B>,
    ) -> Result<Done, Problem>
    where
        B: Body<Data = Bytes> + Unpin + Send + 'static,
    {
        let Outbound {
            target,
            request,
            fault,
            terms,
        } = outbound;
        let meta = CallMeta {
            request_id: exchange.id,
            deadline: terms.deadline,
            caller: upstream::caller(key),
            trace: terms.trace,
        };
        let mut target = upstream::call_target(key.tenant.clone(), &target);
        target.affinity = exchange.visit.as_ref().and_then(Visit::affinity);
        let before = exchange.guard.began().elapsed();
        let relay = self.relay.clone();
        let mut call = Box::pin(async move { relay.call(target, meta, request).await });
        let called = if let Some(silence) = exchange.keep_alive {
            match timeout(silence, call.as_mut()).await {
                Ok(called) => called,
                Err(_silent) => return Ok(Done::Late(Box::pin(late::settled(call)))),
            }
        } else {
            call.await
        };
        match called {
            Ok(answered) => Ok(Done::Away(Box::new(answered), before)),
            Err(failed) => {
                let said = exchange.failed(&failed);
                let own = (failed.cause == FailCause::Caller).then(|| fault.problem());
                Err(own.flatten().unwrap_or(said))
            }
        }
    }

    /// What the key's tenant has, as of now.
    fn catalog(&self, key: &KeyView) -> Arc<Catalog> {
        let snapshot = Arc::clone(&self.config.borrow());
        let view = self.relay.directory().view(&key.tenant);
        self.names.current(&key.tenant, &snapshot, &view)
    }
}
