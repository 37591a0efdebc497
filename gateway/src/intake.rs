//! What the limit phase makes of a request: its terms, and a body that is held or passed on.

use std::sync::{Arc, atomic::AtomicU64};

use bytes::Bytes;
use culvert_wire::{RequestId, TraceContext};
use http::{HeaderMap, HeaderValue, Method, header, request::Parts};
use http_body::Body;
use tokio::time::Instant;

use crate::{
    error::{CallerCode, Problem},
    exchange::{Peer, Place},
    held::{BodyBudget, HeldBody, Share},
    hygiene::{self, KEEP_ALIVE, REQUEST_ID, Source, TARGET},
    limit::{self, Announced, HeldUp, Streamed, UpBody},
    mcp::peek::Peek,
    metadata::{METADATA, Metadata},
    model::{
        body::ModelBody,
        form::{self, Form},
    },
    route::endpoint::{Endpoint, Shape},
    upgrade::UpStream,
    upstream,
};

/// A request that may go on.
#[derive(Debug)]
pub struct Intake<B> {
    /// What it says about itself.
    pub terms: Terms,
    /// Its body.
    pub payload: Payload<B>,
}

/// What a request says about itself, and the headers that go up.
#[derive(Debug)]
pub struct Terms {
    /// The method.
    pub method: Method,
    /// Path and query, as the caller wrote them.
    pub path: String,
    /// What goes up.
    pub headers: HeaderMap,
    /// What the caller says about its body.
    pub announced: Announced,
    /// When the caller's time is over.
    pub deadline: Option<Instant>,
    /// Where the call stands in a trace.
    pub trace: Option<TraceContext>,
    /// The target that the caller names, for calls that name no model.
    pub wanted: Option<String>,
    /// Whether silence in a stream may be filled with comments.
    pub keep_alive: bool,
    /// What the caller says for rules and records.
    pub metadata: Metadata,
}

/// A request's body.
#[derive(Debug)]
pub enum Payload<B> {
    /// Held, and its model is known.
    Model(ModelBody, Share),
    /// A form, held up to its model.
    Form(Form<B>),
    /// What comes once the protocol has changed.
    Switched(UpStream),
    /// Held: an MCP message.
    Message(Bytes, Peek, Share),
    /// Passed on as it comes.
    Streamed(Streamed<B>),
}

impl Terms {
    /// Whether the tokens of a stream are counted only where the request asks for that.
    pub fn counts_when_asked(&self) -> bool {
        let path = self.path.split('?').next();
        matches!(path, Some("/v1/chat/completions" | "/v1/completions"))
    }

    /// Whether the answer is a response that may be asked for later, by its id.
    pub fn makes_response(&self) -> bool {
        self.method == Method::POST && self.path.split('?').next() == Some("/v1/responses")
    }
}

/// Reads and cleans the head.
pub fn terms(head: &Parts, peer: &Peer, place: &Place, id: RequestId) -> Result<Terms, Problem> {
    limit::check_head(&head.headers)?;
    let metadata = Metadata::read(&head.headers, &place.region, &place.zone)?;
    let deadline = upstream::deadline(&head.headers, Instant::now())?;
    let wanted = head
        .headers
        .get(TARGET)
        .and_then(|value| value.to_str().ok())
        .map(str::to_owned);
    let authority = head
        .uri
        .authority()
        .and_then(|name| HeaderValue::from_str(name.as_str()).ok());
    let host = head.headers.get(header::HOST).cloned().or(authority);
    let mut headers = head.headers.clone();
    let source = Source {
        address: peer.address,
        scheme: peer.scheme,
        host: host.as_ref(),
    };
    hygiene::clean_request(&mut headers, source);
    if let Some(value) = metadata.header() {
        headers.insert(METADATA, value);
    }
    if let Ok(value) = HeaderValue::from_str(&id.to_string()) {
        headers.insert(REQUEST_ID, value);
    }
    Ok(Terms {
        method: head.method.clone(),
        path: head
            .uri
            .path_and_query()
            .map_or("/", |path| path.as_str())
            .to_owned(),
        keep_alive: head
            .headers
            .get(KEEP_ALIVE)
            .is_none_or(|wanted| wanted != "off"),
        trace: upstream::trace(&head.headers),
        headers,
        announced: Announced::of(&head.headers),
        deadline,
        wanted,
        metadata,
    })
}

/// Holds the body where it has to be read, and leaves it alone elsewhere.
pub async fn payload<B>(
    endpoint: &Endpoint,
    terms: &Terms,
    body: B,
    budget: &BodyBudget,
    count: Arc<AtomicU64>,
) -> Result<Payload<B>, Problem>
where
    B: Body<Data = Bytes> + Unpin,
{
    match endpoint {
        Endpoint::Model(shape) => {
            check_coding(&terms.headers)?;
            if let Some(boundary) = form::boundary(&terms.headers)? {
                check_form(*shape)?;
                let terms = (terms.announced, terms.deadline);
                let form = Form::read(&boundary, terms, body, budget, count).await?;
                return Ok(Payload::Form(form));
            }
            let HeldBody { bytes, share } = budget
                .hold(terms.announced, terms.deadline, body, &count)
                .await?;
            let model = ModelBody::parse(bytes).map_err(|error| {
                Problem::new(CallerCode::BadRequest, error.to_string()).about("model")
            })?;
            Ok(Payload::Model(model, share))
        }
        Endpoint::Mcp(_) if terms.method == Method::POST => {
            let HeldBody { bytes, share } = budget
                .hold(terms.announced, terms.deadline, body, &count)
                .await?;
            let peek = Peek::at(&bytes);
            Ok(Payload::Message(bytes, peek, share))
        }
        Endpoint::Mcp(_)
        | Endpoint::StoredResponse(_)
        | Endpoint::Realtime
        | Endpoint::ModelList
        | Endpoint::ModelEntry(_)
        | Endpoint::Http { .. } => Ok(Payload::Streamed(Streamed::new(body, count))),
    }
}

impl<B> Payload<B> {
    /// The model that the body names.
    pub fn model_name(&self) -> Result<&str, Problem> {
        match self {
            Self::Model(body, _) => Ok(body.model()),
            Self::Form(form) => Ok(form.model()),
            Self::Message(..) | Self::Streamed(_) | Self::Switched(_) => {
                Err(Problem::new(CallerCode::BadRequest, "The body names no model.").about("model"))
            }
        }
    }

    /// What an MCP message says.
    pub const fn message(&self) -> Option<&Peek> {
        if let Self::Message(_, peek, _) = self {
            Some(peek)
        } else {
            None
        }
    }

    /// The headers and the body that go up; `model` is the name by which the backend knows it.
    pub fn outbound(self, mut headers: HeaderMap, model: Option<&str>) -> (HeaderMap, UpBody<B>) {
        let (pieces, share) = match self {
            Self::Streamed(streamed) => return (headers, UpBody::Streamed(streamed)),
            Self::Switched(stream) => return (headers, UpBody::Switched(stream)),
            Self::Form(form) => {
                let name = model.unwrap_or_else(|| form.model()).to_owned();
                let (form, change) = form.with_model(&name);
                change_length(&mut headers, change);
                headers.remove(header::ACCEPT_ENCODING);
                return (headers, UpBody::Form(form));
            }
            Self::Message(bytes, _, share) => (vec![bytes], share),
            Self::Model(body, share) => {
                let name = model.unwrap_or_else(|| body.model());
                (body.with_model(name), share)
            }
        };
        let length: usize = pieces.iter().map(Bytes::len).sum();
        headers.insert(header::CONTENT_LENGTH, length.into());
        // We look into these answers, and put our own events into their streams.
        headers.remove(header::ACCEPT_ENCODING);
        (headers, UpBody::Held(HeldUp::new(pieces, share)))
    }
}

/// The length that the head declares, if it does, after a change of the body.
fn change_length(headers: &mut HeaderMap, change: i64) {
    let length = headers.get(header::CONTENT_LENGTH);
    let length: Option<u64> = length.and_then(|text| text.to_str().ok()?.parse().ok());
    if let Some(length) = length.and_then(|length| length.checked_add_signed(change)) {
        headers.insert(header::CONTENT_LENGTH, length.into());
    }
}

/// Refuses early what could not be read, with a better reason than its first byte.
fn check_coding(headers: &HeaderMap) -> Result<(), Problem> {
    let coding = headers.get(header::CONTENT_ENCODING);
    let plain = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"identity");
    if coding.is_some_and(|coding| !plain(coding)) {
        let what = "Compressed request bodies are not served.";
        return Err(Problem::new(CallerCode::BadRequest, what).closing());
    }
    Ok(())
}

fn check_form(shape: Shape) -> Result<(), Problem> {
    match shape {
        Shape::Form => Ok(()),
        Shape::Json => {
            let what = "This path takes a JSON object, not a form.";
            Err(Problem::new(CallerCode::BadRequest, what).closing())
        }
    }
}

#[cfg(test)]
mod tests {
    use http::Request;
    use http_body_util::{BodyExt, Full};
    use prometheus_client::registry::Registry;

    use super::*;
    use crate::{answer::CutFlag, held::HELD_BUDGET, metrics::EdgeMetrics, upgrade::Pumps};

    fn head(uri: &str, headers: &[(&'static str, &'static str)]) -> Parts {
        let mut request = Request::post(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn read(head: &Parts) -> Result<Terms, Problem> {
        let peer = Peer {
            address: [192, 0, 2, 1].into(),
            scheme: "https",
            cut: CutFlag::default(),
            pumps: Pumps::new().0,
        };
        let place = place();
        terms(head, &peer, &place, RequestId::from_bytes([7; 16]))
    }

    fn place() -> Place {
        Place {
            region: "US".parse().unwrap(),
            zone: "ORF".parse().unwrap(),
        }
    }

    async fn take(head: &Parts, body: &'static str) -> Result<Payload<Full<Bytes>>, CallerCode> {
        let endpoint = Endpoint::parse(&head.method, &head.uri).map_err(|p| p.code())?;
        let terms = read(head).map_err(|p| p.code())?;
        let budget = BodyBudget::new(HELD_BUDGET, EdgeMetrics::new(&mut Registry::default()));
        payload(&endpoint, &terms, Full::from(body), &budget, Arc::default())
            .await
            .map_err(|p| p.code())
    }

    #[test]
    fn terms_of_a_request() {
        let terms = read(&head(
            "https://gw.example/v1/messages?beta=true",
            &[
                ("x-culvert-target", "dev/a"),
                ("culvert-timeout-ms", "100"),
                ("x-request-id", "mine"),
                ("x-culvert-tenant", "other"),
                ("x-tfy-metadata", r#"{"a":"b","tfy_x":"c"}"#),
            ],
        ))
        .unwrap();
        assert_eq!(terms.path, "/v1/messages?beta=true");
        assert_eq!(terms.wanted.as_deref(), Some("dev/a"));
        assert!(terms.deadline.is_some());
        let mut names: Vec<_> = terms.headers.keys().map(ToString::to_string).collect();
        names.sort();
        assert_eq!(
            names,
            [
                "x-forwarded-for",
                "x-forwarded-host",
                "x-forwarded-proto",
                "x-request-id",
                "x-tfy-metadata"
            ]
        );
        assert_eq!(terms.headers["x-forwarded-host"], "gw.example");
        assert_eq!(
            terms.headers["x-tfy-metadata"],
            r#"{"a":"b","tfy_gateway_region":"US","tfy_gateway_zone":"ORF"}"#
        );
    }

    #[tokio::test]
    async fn a_model_body_goes_up_under_the_backends_name() {
        let head = head(
            "/v1/chat/completions",
            &[("content-length", "99"), ("accept-encoding", "gzip")],
        );
        let payload = take(&head, r#"{"model":"dev/a/b","stream":true}"#)
            .await
            .unwrap();
        assert_eq!(payload.model_name().unwrap(), "dev/a/b");
        let (headers, body) = payload.outbound(head.headers, Some("a/b"));
        let bytes = body.collect().await.unwrap().to_bytes();
        assert_eq!(bytes, r#"{"model":"a/b","stream":true}"#);
        assert_eq!(headers["content-length"], bytes.len().to_string());
        assert!(!headers.contains_key("accept-encoding"));
    }

    #[tokio::test]
    async fn messages_pass_unchanged_and_are_peeked_at() {
        let head = head("/mcp/dev/tickets", &[]);
        let text = r#" {"id":1, "method":"tools/call","params":{"name":"x"}} "#;
        let Payload::Message(bytes, peek, _) = take(&head, text).await.unwrap() else {
            panic!()
        };
        assert_eq!(
            (bytes, peek.name.as_deref()),
            (Bytes::from(text), Some("x"))
        );
    }

    #[tokio::test]
    async fn what_cannot_be_read_is_refused() {
        for (headers, body) in [
            (
                &[("content-type", "multipart/form-data; boundary=x")][..],
                "",
            ),
            (&[("content-encoding", "gzip")], ""),
            (&[], "not json"),
            (&[], r#"{"model":"a","model":"b"}"#),
        ] {
            let head = head("/v1/chat/completions", headers);
            assert_eq!(
                take(&head, body).await.unwrap_err(),
                CallerCode::BadRequest,
                "{body}"
            );
        }
    }
}
