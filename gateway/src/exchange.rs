//! One request and its answer: how it begins, and the three ways in which it is answered.

use std::{
    net::IpAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use culvert_certs::{Region, Zone};
use culvert_relay::{AnswerBody as RelayBody, Answered, CallFailed, Route, Timings};
use culvert_wire::RequestId;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Version, header, request::Parts};
use http_body::{Body, Frame, SizeHint};
use tokio::sync::watch;
use uuid::Uuid;

use crate::{
    answer::{AnswerBody, CutFlag, Watch},
    cors,
    dialect::Dialect,
    error::{CallerCode, Problem},
    hygiene::{self, REQUEST_ID},
    intake::{Payload, Terms},
    late::{Coming, EdgeBody, Late},
    mcp::session::Visit,
    model::stored::Remember,
    record::{Guard, Note, Record, Recorder},
    respond::{self, Hops, Stamp},
    route::{endpoint::Endpoint, resolve::Target},
    settings::Settings,
    sse,
    upgrade::{Asked, Pumps, Side, Switching},
    upstream,
};

/// How much of a caller's own request id is recorded, in characters.
const CLIENT_ID: usize = 128;

/// The body of an answer of this gateway; none where the protocol has changed with its head.
#[derive(Debug)]
pub struct EdgeAnswer(Option<AnswerBody<EdgeBody<RelayBody>>>);

/// The caller's side of a connection.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Its address.
    pub address: IpAddr,
    /// `http` or `https`.
    pub scheme: &'static str,
    /// Set when the connection must be reset.
    pub cut: CutFlag,
    /// Who carries what changes its protocol.
    pub pumps: Pumps,
}

/// The plane that serves.
#[derive(Clone, Debug)]
pub struct Place {
    /// Its label.
    pub region: Region,
    /// Its name.
    pub zone: Zone,
}

/// What all exchanges of a plane have in common.
#[derive(Debug)]
pub struct Desk {
    stamp: Stamp,
    plane: String,
    recorder: Recorder,
    settings: watch::Receiver<Arc<Settings>>,
}

/// One request under way: what its answer needs to know, whichever phase makes it.
#[derive(Debug)]
pub struct Exchange<'a> {
    desk: &'a Desk,
    /// The request's id, of ours.
    pub id: RequestId,
    /// Its record.
    pub guard: Guard,
    /// What callers meet, as it was when the request came.
    pub settings: Arc<Settings>,
    /// How errors are told.
    pub dialect: Dialect,
    /// The id of the JSON-RPC request in the body.
    pub rpc_id: Option<String>,
    /// Silence that is filled with comments, where the caller asked for a stream.
    pub keep_alive: Option<Duration>,
    /// The caller does not expect the chunk that counts the tokens of its stream.
    hides_usage: bool,
    /// What becomes of the id of the answer.
    pub remember: Option<Remember>,
    /// The MCP session that the call is in, or may begin.
    pub visit: Option<Visit>,
    /// What the caller wants its connection to become.
    pub asked: Option<Asked>,
    /// What the backend is asked for.
    pub switching: Option<Switching>,
    counts_tokens: bool,
    wants_trailers: bool,
    method: Method,
    /// The page that calls, if it may.
    origin: Option<HeaderValue>,
    cut: CutFlag,
    peer: Peer,
}

impl Desk {
    /// The desk of a plane.
    pub fn new(
        place: &Place,
        recorder: Recorder,
        settings: watch::Receiver<Arc<Settings>>,
    ) -> Self {
        let Place { region, zone } = place;
        Self {
            stamp: Stamp::new(region, zone),
            plane: format!("{region}/{zone}"),
            recorder,
            settings,
        }
    }

    /// The request exists from here on: it has an id and a record.
    pub fn begin(
        &self,
        head: &Parts,
        peer: &Peer,
        endpoint: &Result<Endpoint, Problem>,
    ) -> Exchange<'_> {
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
        let settings = Arc::clone(&self.settings.borrow());
        Exchange {
            desk: self,
            id,
            guard: self.recorder.begin(record),
            dialect: Dialect::of(head.uri.path(), &head.headers),
            rpc_id: None,
            keep_alive: None,
            hides_usage: false,
            remember: None,
            visit: None,
            asked: None,
            switching: None,
            counts_tokens: matches!(endpoint, Ok(Endpoint::Model(_))),
            wants_trailers: hygiene::wants_trailers(&head.headers),
            method: head.method.clone(),
            origin: settings.cors.listed(&head.headers),
            settings,
            cut: if resets {
                peer.cut.clone()
            } else {
                CutFlag::default()
            },
            peer: peer.clone(),
        }
    }
}

impl Exchange<'_> {
    /// A backend's answer: its head in our terms, its body as it comes. `before` is the time that the
    /// call took to reach the relay.
    pub async fn pass(mut self, answered: Answered, before: Duration) -> Response<EdgeAnswer> {
        let status = answered.response.status();
        match self.switching.take() {
            Some(switching) if status == StatusCode::SWITCHING_PROTOCOLS => {
                return self.switch(switching, answered, before);
            }
            Some(switching) if switching.may_decline(status) => switching.decline(),
            None if status != StatusCode::SWITCHING_PROTOCOLS => {}
            Some(_) | None => {
                let what = "The backend did not do as it was asked with the protocol.";
                return self.refuse(&Problem::new(CallerCode::BackendProtocol, what));
            }
        }
        let Answered {
            response,
            route,
            timings,
        } = answered;
        let (mut head, mut body) = response.into_parts();
        if let Some(visit) = self.visit.take()
            && let Err(problem) = visit.answer(&mut head.headers, &route)
        {
            return self.refuse(&problem);
        }
        self.guard.fields().note(note(&route, status.as_u16()));
        if respond::is_bodiless(head.status, &head.headers, &self.method) {
            body = match respond::finish(body).await {
                Ok(body) => body,
                Err(problem) => return self.refuse(&problem),
            };
        }
        self.dress(&mut head.headers, &route, before, timings);
        if self.wants_trailers {
            respond::announce_trailers(&mut head);
        }
        if let Some(origin) = self.origin.take() {
            cors::mark(&mut head.headers, origin);
        }
        self.remember = self
            .remember
            .take()
            .map(|all| all.from_service(route.service));
        let watch = self.watch(respond::has_readable_usage(&head.headers));
        let body = AnswerBody::new(EdgeBody::Prompt(body), &head.headers, self.guard, watch);
        Response::from_parts(head, EdgeAnswer(Some(body)))
    }

    /// The backend has changed the protocol: its bytes and the caller's are carried from now on.
    fn switch(
        mut self,
        switching: Switching,
        answered: Answered,
        before: Duration,
    ) -> Response<EdgeAnswer> {
        let Answered {
            response,
            route,
            timings,
        } = answered;
        let (mut head, down) = response.into_parts();
        self.guard.fields().note(note(&route, head.status.as_u16()));
        self.dress(&mut head.headers, &route, before, timings);
        let side = Side {
            down,
            guard: self.guard,
            cut: self.peer.cut,
        };
        let (mut head, pump) = switching.agree(Response::from_parts(head, ()), side);
        if let Err(mut guard) = self.peer.pumps.start(pump) {
            let what = "The connection serves nobody any more.";
            guard.refused(&Problem::new(CallerCode::Overloaded, what));
            head = Response::new(());
            *head.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        }
        head.map(|()| EdgeAnswer(None))
    }

    /// How a stream from this target is for its caller: whether its silence is filled, and whether its
    /// tokens are counted although the caller did not ask.
    pub fn stream_from<B>(&mut self, target: &Target, terms: &Terms, payload: &mut Payload<B>) {
        let Payload::Model(body, _) = payload else {
            return;
        };
        if !body.wants_stream() {
            return;
        }
        let wanted = self.settings.keep_alive(target);
        self.keep_alive = wanted.filter(|_| terms.keep_alive);
        let may = terms.counts_when_asked() && self.settings.may_ask_usage(target);
        self.hides_usage = may && body.ask_usage();
    }

    /// A backend's head in our terms. `before` is the time that the call took to reach the relay.
    fn dress(&self, headers: &mut HeaderMap, route: &Route, before: Duration, timings: Timings) {
        let hops = Hops {
            gateway: before + timings.sent,
            tunnel: timings.accepted.saturating_sub(timings.sent),
            backend: timings.head.saturating_sub(timings.accepted),
        };
        let granted = self.settings.granted(&route.connector, &route.service);
        respond::dress(headers, granted);
        if self.hides_usage && sse::is_event_stream(headers) {
            headers.remove(header::CONTENT_LENGTH);
        }
        self.desk
            .stamp
            .mark(headers, self.guard.request_id(), Some(hops));
    }

    /// A stream that begins before its answer is there.
    pub fn early(mut self, coming: Coming<RelayBody>) -> Response<EdgeAnswer> {
        let (mut head, ()) = respond::early_head().into_parts();
        self.guard.fields().status = Some(head.status.as_u16());
        self.desk
            .stamp
            .mark(&mut head.headers, self.guard.request_id(), None);
        if let Some(origin) = self.origin.take() {
            cors::mark(&mut head.headers, origin);
        }
        let watch = self.watch(true);
        let (late, noted) = Late::new(coming, self.dialect);
        let body = AnswerBody::early(EdgeBody::Late(late), noted, self.guard, watch);
        Response::from_parts(head, EdgeAnswer(Some(body)))
    }

    fn watch(&mut self, readable: bool) -> Watch {
        Watch {
            dialect: self.dialect,
            call: self.rpc_id.take(),
            keep_alive: self.keep_alive,
            hide_usage: self.hides_usage,
            remember: self.remember.take(),
            count_tokens: self.counts_tokens && readable,
            cut: self.cut.clone(),
        }
    }

    /// What is told of a call that failed.
    pub fn failed(&mut self, failed: &CallFailed) -> Problem {
        self.guard.fields().note(upstream::note_failure(failed));
        let request_id = self.guard.request_id();
        tracing::debug!(request_id, error = %failed.cause, "a call failed");
        let visit = self.visit.as_ref();
        let ended = visit.and_then(|visit| visit.failed(failed));
        ended.unwrap_or_else(|| upstream::failed(failed))
    }

    /// An error of ours.
    pub fn refuse(mut self, problem: &Problem) -> Response<EdgeAnswer> {
        self.guard.refused(problem);
        let id = self.guard.request_id();
        let answer = respond::problem(problem, self.dialect, id, self.rpc_id.as_deref());
        self.own(answer)
    }

    /// An answer of ours.
    pub fn own(mut self, answer: Response<Bytes>) -> Response<EdgeAnswer> {
        let (mut head, bytes) = answer.into_parts();
        self.guard.fields().status = Some(head.status.as_u16());
        self.desk
            .stamp
            .mark(&mut head.headers, self.guard.request_id(), None);
        if let Some(origin) = self.origin.take() {
            cors::mark(&mut head.headers, origin);
        }
        if head.status != StatusCode::NO_CONTENT {
            head.headers
                .insert(header::CONTENT_LENGTH, bytes.len().into());
        }
        let bytes = if self.method == Method::HEAD {
            Bytes::new()
        } else {
            bytes
        };
        let body = AnswerBody::own(bytes, self.guard);
        Response::from_parts(head, EdgeAnswer(Some(body)))
    }
}

impl Body for EdgeAnswer {
    type Data = Bytes;
    type Error = Problem;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Problem>>> {
        match &mut self.0 {
            Some(body) => Pin::new(body).poll_frame(cx),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.0
            .as_ref()
            .map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

/// What the relay says of a call that was answered.
pub fn note(route: &Route, status: u16) -> Note {
    Note {
        service: Some(route.service.to_string()),
        agent: Some(route.agent.to_string()),
        transport: Some(route.transport.to_string()),
        attempts: u32::from(route.attempts),
        maybe_executed: false,
        status: Some(status),
    }
}

#[cfg(test)]
mod tests {
    use culvert_relay::Transport;
    use culvert_wire::{ServiceKind, SessionId};
    use http::Request;
    use http_body_util::Full;
    use prometheus_client::registry::Registry;
    use tokio::sync::mpsc;

    use super::*;
    use crate::{
        held::{BodyBudget, HELD_BUDGET},
        intake,
        metrics::EdgeMetrics,
        settings::{EdgeSpec, KEEP_ALIVE},
    };

    struct Case {
        desk: Desk,
        place: Place,
        budget: BodyBudget,
        _settings: watch::Sender<Arc<Settings>>,
        _records: mpsc::Receiver<Record>,
    }

    fn case(spec: &EdgeSpec) -> Case {
        let metrics = EdgeMetrics::new(&mut Registry::default());
        let place = Place {
            region: "US".parse().unwrap(),
            zone: "ORF".parse().unwrap(),
        };
        let (queue, records) = mpsc::channel(16);
        let settings = watch::Sender::new(Arc::new(Settings::new(spec, &[])));
        let recorder = Recorder::new(metrics.clone(), queue);
        Case {
            desk: Desk::new(&place, recorder, settings.subscribe()),
            budget: BodyBudget::new(HELD_BUDGET, metrics),
            place,
            _settings: settings,
            _records: records,
        }
    }

    impl Case {
        /// What is made of a call to `dev/llama`: the comments, whether counts are hidden, and the body.
        async fn call(&self, path: &str, keep_alive: &str, body: &str) -> Made<'_> {
            let request = Request::post(path).header("culvert-keep-alive", keep_alive);
            let (head, ()) = request.body(()).unwrap().into_parts();
            let peer = Peer {
                address: [192, 0, 2, 1].into(),
                scheme: "https",
                cut: CutFlag::default(),
                pumps: Pumps::new().0,
            };
            let endpoint = Endpoint::parse(&head.method, &head.uri);
            let mut exchange = self.desk.begin(&head, &peer, &endpoint);
            let terms = intake::terms(&head, &peer, &self.place, exchange.id).unwrap();
            let body = Full::new(Bytes::copy_from_slice(body.as_bytes()));
            let count = exchange.guard.bytes_in();
            let endpoint = endpoint.unwrap();
            let payload = intake::payload(&endpoint, &terms, body, &self.budget, count);
            let mut payload = payload.await.unwrap();
            let target = Target {
                connector: "dev".parse().unwrap(),
                services: vec!["llama".parse().unwrap()],
                model: Some("m".into()),
            };
            exchange.stream_from(&target, &terms, &mut payload);
            let Payload::Model(body, _) = payload else {
                panic!()
            };
            let sent = body.with_model("m").concat();
            Made {
                exchange,
                sent: String::from_utf8(sent).unwrap(),
            }
        }
    }

    struct Made<'a> {
        exchange: Exchange<'a>,
        sent: String,
    }

    const STREAM: &str = r#"{"model":"m","stream":true}"#;

    #[tokio::test]
    async fn streams_get_comments_and_are_counted_unless_somebody_does_not_want_it() {
        let usual = case(&EdgeSpec::default());
        let made = usual.call("/v1/chat/completions", "on", STREAM).await;
        assert_eq!(made.exchange.keep_alive, Some(KEEP_ALIVE));
        assert!(made.exchange.hides_usage && made.sent.contains("include_usage"));
        let made = usual.call("/v1/completions", "off", STREAM).await;
        assert_eq!(made.exchange.keep_alive, None);
        assert!(made.exchange.hides_usage);
        for (path, body) in [
            ("/v1/chat/completions", r#"{"model":"m"}"#),
            ("/v1/messages", STREAM),
            ("/v1/responses", STREAM),
        ] {
            let made = usual.call(path, "on", body).await;
            assert_eq!(made.exchange.keep_alive.is_some(), body == STREAM, "{path}");
            assert_eq!(
                (made.exchange.hides_usage, &*made.sent),
                (false, body),
                "{path}"
            );
        }
        let excepted = case(&EdgeSpec {
            silent: vec!["dev/llama".parse().unwrap()],
            unasked: vec!["*/*:m".parse().unwrap()],
            ..EdgeSpec::default()
        });
        let made = excepted.call("/v1/chat/completions", "on", STREAM).await;
        assert_eq!(made.exchange.keep_alive, None);
        assert_eq!((made.exchange.hides_usage, &*made.sent), (false, STREAM));
    }

    #[tokio::test]
    async fn a_service_says_what_the_operator_lets_it() {
        let case = case(&EdgeSpec {
            cookies: vec!["dev/app".parse().unwrap()],
            ..EdgeSpec::default()
        });
        let made = case.call("/v1/chat/completions", "on", STREAM).await;
        for (service, cookies) in [("app", true), ("other", false)] {
            let route = Route {
                connector: "dev".parse().unwrap(),
                service: service.parse().unwrap(),
                kind: ServiceKind::Http,
                definition: [0; 32],
                agent: culvert_certs::AgentId::from_bytes([1; 16]),
                session: SessionId::from_bytes([1; 16]),
                transport: Transport::Quic,
                attempts: 1,
            };
            let timings = Timings {
                sent: Duration::ZERO,
                accepted: Duration::ZERO,
                head: Duration::ZERO,
            };
            let mut headers = HeaderMap::new();
            for (name, value) in [
                ("set-cookie", "a=b"),
                ("content-type", "text/event-stream"),
                ("content-length", "9"),
            ] {
                headers.insert(name, HeaderValue::from_static(value));
            }
            let exchange = &made.exchange;
            exchange.dress(&mut headers, &route, Duration::ZERO, timings);
            assert_eq!(headers.contains_key("set-cookie"), cookies, "{service}");
            let length = headers.get("content-length");
            assert_eq!(length, None, "a chunk of it may be taken out");
            assert!(headers.contains_key("server-timing"));
        }
    }
}
