//! Heads of answers: what every one carries, and the answers that the gateway makes itself.

use std::{fmt::Write, time::Duration};

use bytes::Bytes;
use culvert_certs::{Region, Zone};
use culvert_relay::TrailerNames;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, header, response::Parts,
};
use http_body::Body;
use http_body_util::BodyExt;

use crate::{
    answer::Cut,
    dialect::Dialect,
    error::Problem,
    hygiene::{self, Granted, REQUEST_ID},
    sse,
};

/// The region of the plane that took the request.
pub const REGION: HeaderName = HeaderName::from_static("x-culvert-region");
/// The zone of the plane that took the request.
pub const ZONE: HeaderName = HeaderName::from_static("x-culvert-zone");
/// Where the time went.
pub const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

/// What every answer of this plane says.
#[derive(Clone, Debug)]
pub struct Stamp {
    region: HeaderValue,
    zone: HeaderValue,
}

/// Where the time went until the head of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hops {
    /// In the gateway, choosing a link included.
    pub gateway: Duration,
    /// From the gateway to the agent's word that it has the call.
    pub tunnel: Duration,
    /// From there to the head of the backend's answer.
    pub backend: Duration,
}

impl Stamp {
    /// The stamp of a plane.
    pub fn new(region: &Region, zone: &Zone) -> Self {
        let value =
            |text: &str| HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static(""));
        Self {
            region: value(region.as_str()),
            zone: value(zone.as_str()),
        }
    }

    /// Stamps an answer's head.
    pub fn mark(&self, headers: &mut HeaderMap, request_id: &str, hops: Option<Hops>) {
        headers.insert(REGION, self.region.clone());
        headers.insert(ZONE, self.zone.clone());
        if let Ok(id) = HeaderValue::from_str(request_id) {
            headers.insert(REQUEST_ID, id);
        }
        if let Some(timing) = hops.and_then(|hops| HeaderValue::from_str(&hops.to_header()).ok()) {
            headers.insert(SERVER_TIMING, timing);
        }
    }
}

impl Hops {
    fn to_header(self) -> String {
        let mut text = String::with_capacity(64);
        for (name, time) in [
            ("gateway", self.gateway),
            ("tunnel", self.tunnel),
            ("backend", self.backend),
        ] {
            let comma = if text.is_empty() { "" } else { ", " };
            // Writing to a String cannot fail.
            let _ok = write!(text, "{comma}{name};dur={:.3}", time.as_secs_f64() * 1000.0);
        }
        text
    }
}

/// Cleans a backend's head, and keeps proxies before us from holding back its events.
pub fn dress(headers: &mut HeaderMap, granted: Granted) {
    hygiene::clean_answer(headers, granted);
    if sse::media_type(headers).is_some_and(|kind| kind.eq_ignore_ascii_case("text/event-stream")) {
        headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    }
}

/// Says which trailers come behind the body: servers of HTTP/1.1 send no others.
pub fn announce_trailers(head: &mut Parts) {
    let Some(TrailerNames(names)) = head.extensions.get() else {
        return;
    };
    let names: Vec<&str> = names.iter().map(HeaderName::as_str).collect();
    if let Ok(names) = HeaderValue::from_str(&names.join(", "))
        && !names.is_empty()
    {
        head.headers.insert(header::TRAILER, names);
    }
}

/// The head of a stream that begins before its answer is there.
pub fn early_head() -> Response<()> {
    let mut head = Response::new(());
    let headers = head.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/event-stream"),
    );
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    dress(headers, Granted::default());
    head
}

/// Whether token counts can be read out of an answer with this head.
pub fn has_readable_usage(headers: &HeaderMap) -> bool {
    let json =
        sse::media_type(headers).is_some_and(|kind| kind.eq_ignore_ascii_case("application/json"));
    sse::is_event_stream(headers) || (json && !headers.contains_key(header::CONTENT_ENCODING))
}

/// Whether nothing may follow a head: HTTP servers do not ask such a body for its end.
pub fn is_bodiless(status: StatusCode, headers: &HeaderMap, method: &Method) -> bool {
    *method == Method::HEAD
        || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
        || headers
            .get(header::CONTENT_LENGTH)
            .is_some_and(|length| length == "0")
}

/// Reads a call to its end where its answer is only a head: a call that is let go of before its end
/// counts as cancelled.
pub async fn finish<B>(mut body: B) -> Result<B, Problem>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Cut>,
{
    while !body.is_end_stream() {
        match body.frame().await {
            Some(Ok(_)) => {}
            Some(Err(error)) => return Err(error.into().into_problem()),
            None => break,
        }
    }
    Ok(body)
}

/// The answer to a call that failed: its head, and all of its body.
pub fn problem(
    problem: &Problem,
    dialect: Dialect,
    request_id: &str,
    call: Option<&str>,
) -> Response<Bytes> {
    let body = dialect.body(problem, request_id, call);
    let mut answer = json(problem.code().status(), body);
    let headers = answer.headers_mut();
    if let Some(wait) = problem.retry_after() {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(wait.as_secs()));
    }
    if problem.closes() {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    if problem.code().status() == StatusCode::UNAUTHORIZED {
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    answer
}

/// A JSON answer of ours.
pub fn json(status: StatusCode, body: Bytes) -> Response<Bytes> {
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    answer
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::CallerCode;

    #[test]
    fn every_answer_says_where_and_which() {
        let stamp = Stamp::new(&"US".parse().unwrap(), &"ORF".parse().unwrap());
        let mut headers = HeaderMap::new();
        let millis = Duration::from_millis;
        let hops = Hops {
            gateway: millis(1),
            tunnel: Duration::from_micros(1500),
            backend: millis(20),
        };
        stamp.mark(&mut headers, "r1", Some(hops));
        assert_eq!(headers["x-culvert-region"], "US");
        assert_eq!(headers["x-culvert-zone"], "ORF");
        assert_eq!(headers["x-request-id"], "r1");
        assert_eq!(
            headers["server-timing"],
            "gateway;dur=1.000, tunnel;dur=1.500, backend;dur=20.000"
        );
    }

    #[test]
    fn trailers_are_announced() {
        let (mut head, ()) = Response::new(()).into_parts();
        announce_trailers(&mut head);
        head.extensions.insert(TrailerNames(Vec::new()));
        announce_trailers(&mut head);
        assert!(!head.headers.contains_key("trailer"));
        let names = ["x-sum", "x-twice"].map(HeaderName::from_static);
        head.extensions.insert(TrailerNames(names.into()));
        announce_trailers(&mut head);
        assert_eq!(head.headers["trailer"], "x-sum, x-twice");
    }

    #[test]
    fn heads_without_a_body() {
        let mut none = HeaderMap::new();
        none.insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
        let plain = HeaderMap::new();
        let ok = StatusCode::OK;
        assert!(is_bodiless(StatusCode::ACCEPTED, &none, &Method::POST));
        assert!(is_bodiless(ok, &plain, &Method::HEAD));
        assert!(is_bodiless(StatusCode::NO_CONTENT, &plain, &Method::GET));
        assert!(!is_bodiless(ok, &plain, &Method::GET));
    }

    #[test]
    fn failures_say_when_to_come_back() {
        let nothing_up = Problem::new(CallerCode::AgentUnavailable, "x.");
        let answer = problem(&nothing_up, Dialect::OpenAi, "r", None);
        assert_eq!(answer.status(), 503);
        assert_eq!(answer.headers()["retry-after"], "2");
        let slow = Problem::new(CallerCode::BadRequest, "x.").closing();
        assert_eq!(
            problem(&slow, Dialect::OpenAi, "r", None).headers()["connection"],
            "close"
        );
    }
}
