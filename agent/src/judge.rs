//! The tool policy in the life of a call: the request is read whole, judged, and sent as the agent
//! writes it; an answer that may list tools is filtered.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use culvert_tunnel::{CallError, Piece, RequestReader};
use culvert_wire::Open;
use http::header::{
    ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue,
};
use http::{HeaderMap, Method, Response, StatusCode};
use http_body::Body;
use http_body_util::{BodyExt as _, Empty, Full, Limited};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::backend::{BackendFailure, OutBody};
use crate::passing::{Passing, boxed};
use crate::policy::{MAX_MESSAGE_BYTES, Request, ToolDenied, ToolPolicy, Unreadable};
use crate::record::{Counter, Record};
use crate::reply::{FilteredEvents, Held, ReplyBody};
use crate::service::Service;

/// Bytes of requests that are held at once, of all services.
const MAX_HELD_BYTES: usize = 256 << 20;
/// What a place stands for, in bytes.
const PLACE_BYTES: usize = 1 << 10;
/// Headers about the body as the caller wrote it.
const OF_ANOTHER_BODY: [&str; 7] = [
    "content-type",
    "content-encoding",
    "content-length",
    "content-digest",
    "repr-digest",
    "digest",
    "content-md5",
];
/// Of these, what says how the body was.
const DIGESTS: [&str; 4] = ["content-digest", "repr-digest", "digest", "content-md5"];

const _: () = assert!(MAX_HELD_BYTES >= 16 * MAX_MESSAGE_BYTES);

/// How much is held of requests that are judged. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Holding(Arc<Semaphore>);

impl Default for Holding {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(MAX_HELD_BYTES / PLACE_BYTES)))
    }
}

/// A request as a backend gets it.
pub(crate) struct Outgoing {
    /// The caller's headers, as far as the body is another.
    pub(crate) headers: HeaderMap,
    /// The body.
    pub(crate) body: OutBody,
    /// What judges the answer.
    pub(crate) judge: Option<Arc<ToolPolicy>>,
}

/// Why a request is not made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotMade {
    /// Its own body has broken off.
    #[error("the request's body was not complete")]
    Cut(#[source] CallError),
    /// Too much is held already.
    #[error("requests of {MAX_HELD_BYTES} bytes are held already")]
    Held,
    /// It is larger than what is read.
    #[error("the request is larger than {MAX_MESSAGE_BYTES} bytes")]
    TooLarge,
    /// Its body is coded.
    #[error("the request's body is compressed")]
    Coded,
    /// It has more than one reading.
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    /// It calls a tool that may not be called.
    #[error(transparent)]
    Tool(#[from] ToolDenied),
}

/// The request of a call, judged where its service has a tool policy.
pub(crate) async fn outgoing(
    service: &Service,
    open: &Open,
    body: RequestReader,
    record: &mut Record,
) -> Result<Outgoing, NotMade> {
    let (counter, _) = record.counters();
    let mut headers = open.headers.clone();
    let Some(policy) = &service.tools else {
        let declared = open.declared_length();
        let body = Passing::request(body, declared, counter, service.def.headers.clone());
        return Ok(Outgoing {
            headers,
            body: body.map_err(boxed).boxed_unsync(),
            judge: None,
        });
    };
    // Nothing is read that is compressed.
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    if open.method != Method::POST {
        // Only a POST says something to an MCP server.
        headers.remove(CONTENT_LENGTH);
        return Ok(Outgoing {
            headers,
            body: Empty::new().map_err(|never| match never {}).boxed_unsync(),
            judge: (open.method == Method::GET).then(|| Arc::clone(policy)),
        });
    }
    if !is_plain(&headers) {
        return Err(NotMade::Coded);
    }
    let (whole, place) = whole(body, open.declared_length(), &service.holding, &counter).await?;
    let request = Request::read(&headers, &whole)?;
    drop(whole);
    record.asked(request.method(), request.tools());
    policy.admit(&request)?;
    for name in OF_ANOTHER_BODY {
        remove(&mut headers, name);
    }
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CONTENT_LENGTH, request.body.len().into());
    Ok(Outgoing {
        headers,
        judge: request.lists_tools().then(|| Arc::clone(policy)),
        body: Held::new(request.body.into(), place).boxed_unsync(),
    })
}

/// The whole body, and its place among what is held.
async fn whole(
    mut body: RequestReader,
    declared: Option<u64>,
    holding: &Holding,
    counter: &Counter,
) -> Result<(Bytes, OwnedSemaphorePermit), NotMade> {
    let most = match declared {
        Some(declared) => usize::try_from(declared).unwrap_or(usize::MAX),
        None => MAX_MESSAGE_BYTES,
    };
    if most > MAX_MESSAGE_BYTES {
        return Err(NotMade::TooLarge);
    }
    let places = |bytes: usize| u32::try_from(bytes.div_ceil(PLACE_BYTES)).unwrap_or(u32::MAX);
    let mut place = Arc::clone(&holding.0)
        .try_acquire_many_owned(places(most))
        .map_err(|_| NotMade::Held)?;
    let mut whole = BytesMut::new();
    while let Some(piece) = body.next().await.map_err(NotMade::Cut)? {
        // No trailer says anything to an MCP server.
        let Piece::Data(piece) = piece else {
            break;
        };
        counter.add(piece.len());
        if whole.len() + piece.len() > MAX_MESSAGE_BYTES {
            return Err(NotMade::TooLarge);
        }
        whole.extend_from_slice(&piece);
    }
    let unused =
        place.num_permits() - usize::min(place.num_permits(), whole.len().div_ceil(PLACE_BYTES));
    drop(place.split(unused));
    Ok((whole.freeze(), place))
}

/// An answer with no other tools in its lists than may be called.
///
/// # Errors
/// [`BackendFailure`]: it is cut, or nobody can say what it lists.
pub(crate) async fn answer<B>(
    policy: &Arc<ToolPolicy>,
    response: Response<B>,
) -> Result<Response<ReplyBody>, BackendFailure>
where
    B: Body<Data = Bytes, Error = BackendFailure> + Unpin + Send + 'static,
{
    let (mut parts, body) = response.into_parts();
    if !is_plain(&parts.headers) {
        return Err(BackendFailure::Protocol);
    }
    for name in DIGESTS {
        remove(&mut parts.headers, name);
    }
    let body = match Media::of(&parts.headers) {
        Media::Events => {
            parts.headers.remove(CONTENT_LENGTH);
            FilteredEvents::new(Arc::clone(policy), body).boxed_unsync()
        }
        Media::Json => {
            let whole = read(body).await?;
            let judged = policy.filter(&whole);
            let body = match judged {
                Ok(Some(filtered)) => Bytes::from(filtered),
                Ok(None) => whole,
                // An error of something before the server lists no tools.
                Err(_) if whole.is_empty() || !parts.status.is_success() => whole,
                Err(_) => return Err(BackendFailure::Protocol),
            };
            parts.headers.insert(CONTENT_LENGTH, body.len().into());
            Full::new(body)
                .map_err(|never| match never {})
                .boxed_unsync()
        }
        // Nothing that a client would take for a list.
        Media::Other if parts.status != StatusCode::OK || body.is_end_stream() => {
            body.boxed_unsync()
        }
        Media::Other => return Err(BackendFailure::Protocol),
    };
    Ok(Response::from_parts(parts, ReplyBody::Boxed(body)))
}

async fn read<B>(body: B) -> Result<Bytes, BackendFailure>
where
    B: Body<Data = Bytes, Error = BackendFailure>,
{
    let whole = Limited::new(body, MAX_MESSAGE_BYTES).collect().await;
    whole
        .map(http_body_util::Collected::to_bytes)
        .map_err(|error| match error.downcast::<BackendFailure>() {
            Ok(failure) => *failure,
            Err(_) => BackendFailure::Protocol,
        })
}

/// What an answer is.
enum Media {
    Json,
    Events,
    Other,
}

impl Media {
    fn of(headers: &HeaderMap) -> Self {
        let kind = headers
            .get(CONTENT_TYPE)
            .and_then(|kind| kind.to_str().ok());
        let kind = kind
            .unwrap_or_default()
            .split(';')
            .next()
            .unwrap_or_default();
        match kind.trim().to_ascii_lowercase().as_str() {
            "application/json" => Self::Json,
            json if json.ends_with("+json") => Self::Json,
            "text/event-stream" => Self::Events,
            _ => Self::Other,
        }
    }
}

/// Removes a header in every spelling that a server could take for it.
fn remove(headers: &mut HeaderMap, name: &str) {
    let is_it = |key: &&HeaderName| key.as_str().replace('_', "-") == name;
    let spelt: Vec<HeaderName> = headers.keys().filter(is_it).cloned().collect();
    for name in spelt {
        headers.remove(name);
    }
}

/// Whether a body is as it is written, in whatever spelling its coding is named.
fn is_plain(headers: &HeaderMap) -> bool {
    let is_coding =
        |name: &HeaderName| name.as_str().replace('_', "-") == CONTENT_ENCODING.as_str();
    headers
        .iter()
        .filter(|(name, _)| is_coding(name))
        .all(|(_, value)| value.as_bytes().eq_ignore_ascii_case(b"identity"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{NamePattern, ToolRules};

    fn policy() -> Arc<ToolPolicy> {
        let rules = ToolRules {
            allow: vec![NamePattern::parse("a*").expect("a pattern")],
            deny: Vec::new(),
            read_only: false,
        };
        Arc::new(ToolPolicy::new(rules, None))
    }

    const LIST: &str = r#"{"id":1,"result":{"tools":[{"name":"a1"},{"name":"b"}]}}"#;

    async fn answered(
        status: u16,
        headers: &[(&'static str, &'static str)],
        body: &'static str,
    ) -> Result<(HeaderMap, String), BackendFailure> {
        let mut response = Response::new(Full::from(body).map_err(|never| match never {}));
        *response.status_mut() = StatusCode::from_u16(status).expect("a status");
        for (name, value) in headers {
            let value = HeaderValue::from_static(value);
            response.headers_mut().insert(*name, value);
        }
        let (parts, body) = answer(&policy(), response).await?.into_parts();
        let bytes = body.collect().await?.to_bytes();
        Ok((
            parts.headers,
            String::from_utf8(bytes.to_vec()).expect("text"),
        ))
    }

    #[tokio::test]
    async fn lists_are_filtered_as_json_and_as_events() {
        let json = [
            ("content-type", "application/json; charset=utf-8"),
            ("content-length", "99"),
        ];
        let (headers, body) = answered(200, &json, LIST).await.expect("an answer");
        assert_eq!(body, r#"{"id":1,"result":{"tools":[{"name":"a1"}]}}"#);
        assert_eq!(headers["content-length"], body.len().to_string());
        let events = [
            ("content-type", "text/event-stream"),
            ("content-length", "99"),
        ];
        let (headers, body) = answered(
            200,
            &events,
            "data: {\"result\":{\"tools\":[{\"name\":\"b\"}]}}\n\n",
        )
        .await
        .expect("an answer");
        assert_eq!(body, "data: {\"result\":{\"tools\":[]}}\n\n");
        assert!(!headers.contains_key("content-length"));
    }

    #[tokio::test]
    async fn what_cannot_be_judged_is_no_answer() {
        let json = ("content-type", "application/json");
        for (headers, body) in [
            (&[json, ("content-encoding", "gzip")][..], LIST),
            (&[json], "{\"result\":{},\"result\":{}}"),
            (&[json], "<html>"),
            (&[("content-type", "text/plain")], LIST),
            (&[], LIST),
        ] {
            let failed = answered(200, headers, body).await;
            assert_eq!(failed, Err(BackendFailure::Protocol), "{headers:?}");
        }
        // Errors of whatever stands before the server are passed on.
        for headers in [&[json][..], &[("content-type", "text/html")]] {
            let (_, body) = answered(502, headers, "<html>").await.expect("an answer");
            assert_eq!(body, "<html>");
        }
    }
}
