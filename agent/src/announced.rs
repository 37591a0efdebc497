//! Endpoints that servers of the old HTTP+SSE transport of MCP announce.
//!
//! Such a server answers GET with a stream of events, the first of which names the path that takes
//! the messages of this one client. The name never leaves the agent: the caller is told a reference
//! of our own, `?endpoint=<agent>.<random>` below the service's one url, and what is posted there goes
//! to the announced path, of the same origin, for as long as the stream is open, and by whoever opened
//! it: the same key of the same tenant, as the plane says.

use std::collections::HashMap;
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use culvert_certs::Identity;
use culvert_wire::{Code, Open};
use data_encoding::HEXLOWER;
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use http_body::{Body, Frame};
use http_body_util::BodyExt as _;
use url::Url;

use crate::backend::BackendFailure;
use crate::config::ServiceKind;
use crate::policy::{Admitted, Events};
use crate::reply::ReplyBody;
use crate::service::Service;

/// What stands before a reference, below the service's url.
const REFERENCE: &str = "/?endpoint=";

/// The endpoints whose streams are open.
#[derive(Debug)]
pub struct Announced {
    /// Says in each reference where it leads, so that planes can send what is posted there.
    agent: String,
    open: Mutex<HashMap<String, Endpoint>>,
}

/// Where a reference leads.
#[derive(Debug)]
struct Endpoint {
    /// As it was defined when the stream began.
    service: Weak<Service>,
    /// Path and query at its backend.
    target: String,
    owner: Owner,
}

/// Who opened a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Owner {
    tenant: String,
    key_id: String,
}

impl Owner {
    fn of(open: &Open) -> Self {
        Self {
            tenant: open.caller.tenant.clone(),
            key_id: open.caller.key_id.clone(),
        }
    }
}

impl Announced {
    /// None yet, of the agent with this identity.
    pub fn new(identity: &Identity) -> Self {
        let agent = identity.agent().map(|agent| agent.agent.to_string());
        Self {
            agent: agent.unwrap_or_default(),
            open: Mutex::default(),
        }
    }

    /// What a call to a reference is, as long as that is good.
    ///
    /// # Errors
    /// A reference that is not: as if there were no such service, which is not the refusal of a
    /// call that may be made again otherwise.
    pub(crate) fn find(
        &self,
        service: &Arc<Service>,
        open: &Open,
    ) -> Result<Option<Admitted>, Code> {
        let reference = open.target.as_str().strip_prefix(REFERENCE);
        let posts = service.def.kind == ServiceKind::Mcp && open.method == Method::POST;
        let Some(reference) = reference.filter(|_| posts) else {
            return Ok(None);
        };
        let known = self.open();
        let endpoint = known.get(reference).filter(|endpoint| {
            std::ptr::eq(endpoint.service.as_ptr(), Arc::as_ptr(service))
                && endpoint.owner == Owner::of(open)
        });
        let endpoint = endpoint.ok_or(Code::UnknownService)?;
        Ok(Some(Admitted::endpoint(endpoint.target.clone())))
    }

    /// The answer to a call, whose announcement, should it begin with one, is replaced by a reference.
    pub(crate) fn watch(
        self: &Arc<Self>,
        service: &Arc<Service>,
        open: &Open,
        reply: Response<ReplyBody>,
    ) -> Response<ReplyBody> {
        let announces = may_announce(service, &open.method) && reply.status() == StatusCode::OK;
        if !announces || !is_event_stream(&reply) {
            return reply;
        }
        let (mut head, body) = reply.into_parts();
        // The reference has a length of its own.
        head.headers.remove(CONTENT_LENGTH);
        let announcing = Announcing {
            body,
            stage: Stage::First(Events::default()),
            announced: Arc::clone(self),
            service: Arc::clone(service),
            owner: Owner::of(open),
            entered: None,
        };
        Response::from_parts(head, ReplyBody::Boxed(announcing.boxed_unsync()))
    }

    fn enter(self: &Arc<Self>, service: &Arc<Service>, target: String, owner: Owner) -> Entered {
        let random: [u8; 16] = rand::random();
        let reference = format!("{}.{}", self.agent, HEXLOWER.encode(&random));
        let endpoint = Endpoint {
            service: Arc::downgrade(service),
            target,
            owner,
        };
        self.open().insert(reference.clone(), endpoint);
        Entered {
            announced: Arc::clone(self),
            reference,
        }
    }

    fn open(&self) -> MutexGuard<'_, HashMap<String, Endpoint>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps a reference good until dropped.
struct Entered {
    announced: Arc<Announced>,
    reference: String,
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.announced.open().remove(&self.reference);
    }
}

/// A stream of events whose first one may be an announcement.
struct Announcing {
    body: ReplyBody,
    stage: Stage,
    announced: Arc<Announced>,
    service: Arc<Service>,
    owner: Owner,
    entered: Option<Entered>,
}

enum Stage {
    /// Up to the first event.
    First(Events),
    /// Behind it: passed on as it comes.
    Rest,
}

impl Announcing {
    /// What is passed on of a first piece; nothing as long as its event is not whole.
    fn first(&mut self, piece: &[u8]) -> Result<Option<Bytes>, BackendFailure> {
        let Stage::First(mut events) = std::mem::replace(&mut self.stage, Stage::Rest) else {
            return Ok(None);
        };
        let passed = first_event(&mut events, piece, |endpoint| self.announce(endpoint))?;
        if !passed.over {
            self.stage = Stage::First(events);
        }
        Ok((!passed.out.is_empty()).then_some(passed.out))
    }

    /// The announcement that the caller gets instead.
    fn announce(&mut self, endpoint: &str) -> Result<String, BackendFailure> {
        let base = self.service.def.urls.first();
        let base = base.and_then(|url| Url::parse(&url.text).ok());
        let target = base.and_then(|base| same_origin(&base, endpoint));
        let target = target.ok_or_else(|| {
            tracing::warn!(service = %self.service.name, "an MCP server announced an endpoint of another origin");
            BackendFailure::Protocol
        })?;
        let owner = self.owner.clone();
        let entered = self.announced.enter(&self.service, target, owner);
        let event = format!("event: endpoint\ndata: ?endpoint={}\n\n", entered.reference);
        self.entered = Some(entered);
        Ok(event)
    }
}

impl Body for Announcing {
    type Data = Bytes;
    type Error = BackendFailure;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BackendFailure>>> {
        loop {
            let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
            let Stage::First(events) = &mut self.stage else {
                return Poll::Ready(frame);
            };
            let Some(frame) = frame else {
                let rest = events.rest();
                self.stage = Stage::Rest;
                return Poll::Ready(rest.map(|rest| Ok(Frame::data(rest))));
            };
            match frame?.into_data() {
                Ok(piece) => {
                    if let Some(out) = self.first(&piece)? {
                        return Poll::Ready(Some(Ok(Frame::data(out))));
                    }
                }
                Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
            }
        }
    }
}

impl fmt::Debug for Announcing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Announcing")
            .field("service", &self.service.name)
            .field("announced", &self.entered.is_some())
            .finish_non_exhaustive()
    }
}

/// What is passed on, and whether the first event is among it.
struct Passed {
    out: Bytes,
    over: bool,
}

/// Comments as they come, and the first event, with another one in the place of an announcement.
fn first_event(
    events: &mut Events,
    piece: &[u8],
    announce: impl FnOnce(&str) -> Result<String, BackendFailure>,
) -> Result<Passed, BackendFailure> {
    events.push(piece);
    let mut out = BytesMut::new();
    while let Some(event) = events.next_event().map_err(|_| BackendFailure::Protocol)? {
        let Some((name, data)) = parsed(&event) else {
            // A comment.
            out.extend_from_slice(&event);
            continue;
        };
        if name == "endpoint" {
            out.extend_from_slice(announce(&data)?.as_bytes());
        } else {
            out.extend_from_slice(&event);
        }
        out.extend_from_slice(&events.rest().unwrap_or_default());
        let out = out.freeze();
        return Ok(Passed { out, over: true });
    }
    let out = out.freeze();
    Ok(Passed { out, over: false })
}

/// Whether the answer of a service to this method may begin with an announcement.
fn may_announce(service: &Service, method: &Method) -> bool {
    let over_http = service.def.kind == ServiceKind::Mcp && service.stdio.is_none();
    over_http && method == Method::GET
}

/// Asks for an answer that can be read, where it may hold an announcement.
pub(crate) fn ask_uncoded(service: &Service, method: &Method, headers: &mut HeaderMap) {
    if may_announce(service, method) {
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    }
}

/// Whether an answer is a stream of events that can be read.
fn is_event_stream(reply: &Response<ReplyBody>) -> bool {
    let kind = reply.headers().get(CONTENT_TYPE);
    let kind = kind.and_then(|kind| kind.to_str().ok()?.split(';').next());
    kind.is_some_and(|kind| kind.trim().eq_ignore_ascii_case("text/event-stream"))
        && !reply.headers().contains_key(CONTENT_ENCODING)
}

/// Name and data of an event; nothing of one that has neither.
fn parsed(event: &[u8]) -> Option<(String, String)> {
    let text = std::str::from_utf8(event).ok()?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let (mut name, mut data) = (None, None);
    for line in text.split(['\n', '\r']) {
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => name = Some(value.to_owned()),
            "data" => data = Some(value.to_owned()),
            _ => {}
        }
    }
    (name.is_some() || data.is_some()).then(|| (name.unwrap_or_default(), data.unwrap_or_default()))
}

/// Path and query of an announced endpoint, if it is of the service's own origin.
fn same_origin(base: &Url, endpoint: &str) -> Option<String> {
    let url = base.join(endpoint.trim()).ok()?;
    let bare = url.username().is_empty() && url.password().is_none();
    let target = match url.query() {
        Some(query) => format!("{}?{query}", url.path()),
        None => url.path().to_owned(),
    };
    (bare && url.origin() == base.origin()).then_some(target)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_endpoints_of_the_same_origin_count() {
        let base: Url = "https://mcp.internal/team/sse".parse().expect("a url");
        for (announced, target) in [
            ("/messages?session=1", Some("/messages?session=1")),
            ("messages", Some("/team/messages")),
            ("?session=1", Some("/team/sse?session=1")),
            ("https://mcp.internal/m", Some("/m")),
            ("https://mcp.internal:443/m", Some("/m")),
            ("http://mcp.internal/m", None),
            ("https://mcp.internal:8443/m", None),
            ("//evil.example/m", None),
            ("https://user@mcp.internal/m", None),
            ("https://evil.example", None),
            ("file:///etc/passwd", None),
        ] {
            assert_eq!(
                same_origin(&base, announced).as_deref(),
                target,
                "{announced}"
            );
        }
    }

    /// What passes of these pieces, and what was announced.
    fn passed(pieces: &[&str]) -> (String, Option<String>) {
        let (mut events, mut out, mut announced) = (Events::default(), String::new(), None);
        for (at, piece) in pieces.iter().enumerate() {
            let passed = first_event(&mut events, piece.as_bytes(), |endpoint| {
                announced = Some(endpoint.to_owned());
                Ok("<reference>".to_owned())
            });
            let passed = passed.expect("short events");
            out.push_str(std::str::from_utf8(&passed.out).expect("text"));
            if passed.over {
                out.push_str(&pieces[at + 1..].concat());
                break;
            }
        }
        (out, announced)
    }

    #[test]
    fn only_an_announcement_in_front_is_replaced() {
        let (out, announced) = passed(&[
            ": hi\n\nevent: endp",
            "oint\ndata: /m?s=1\n",
            "\ndata: x\n\n",
        ]);
        assert_eq!(out, ": hi\n\n<reference>data: x\n\n");
        assert_eq!(announced.as_deref(), Some("/m?s=1"));
        let late = "data: x\n\nevent: endpoint\ndata: /m\n\n";
        assert_eq!(passed(&[late]), (late.to_owned(), None));
        assert_eq!(passed(&["data: not ", "whole\n"]), (String::new(), None));
    }

    #[test]
    fn events_are_read_as_the_standard_has_them() {
        let read = |text: &str| parsed(text.as_bytes());
        let endpoint = Some(("endpoint".to_owned(), "/m".to_owned()));
        assert_eq!(read("event: endpoint\ndata: /m\n\n"), endpoint);
        assert_eq!(read("event:endpoint\r\ndata:/m\r\n\r\n"), endpoint);
        assert_eq!(read(": ping\n\n"), None);
        assert_eq!(read("data: x\n\n"), Some((String::new(), "x".to_owned())));
    }
}
