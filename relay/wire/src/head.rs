//! Heads: which headers may pass, and how `http` requests and answers become frames.
//!
//! A header that frames a message (`transfer-encoding`) or belongs to one connection (`connection`
//! and whatever it names) never crosses the tunnel: what it says is said by the frames. Both ends
//! check, so a head that was decoded can be given to an HTTP library as it is.

use http::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, HOST, HeaderMap, HeaderName, HeaderValue,
    PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use http::uri::PathAndQuery;
use http::{Method, StatusCode};

use crate::error::{HeadError, LengthMismatch};
use crate::frame::{Head, Open};
use crate::limits::{
    HEADER_BYTES_MAX, HEADERS_MAX, NAME_MAX_BYTES, TRAILERS_MAX, TRAILERS_MAX_BYTES,
};

static KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
static PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
static HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");

/// What a set of fields must keep to.
#[derive(Debug)]
pub(crate) struct Rules {
    fields: usize,
    bytes: usize,
    trailers: bool,
}

/// Headers of a request or an answer.
pub(crate) const HEADERS: Rules = Rules {
    fields: HEADERS_MAX,
    bytes: HEADER_BYTES_MAX,
    trailers: false,
};

/// Trailers; the frame has to hold them with their framing.
pub(crate) const TRAILERS: Rules = Rules {
    fields: TRAILERS_MAX,
    bytes: TRAILERS_MAX_BYTES as usize - 8 * TRAILERS_MAX - 64,
    trailers: true,
};

impl Rules {
    pub(crate) fn check(&self, map: &HeaderMap) -> Result<(), HeadError> {
        self.count(map.len())?;
        let mut bytes = 0;
        for (name, value) in map {
            bytes += name.as_str().len() + value.len();
            self.field(name, value)?;
        }
        self.bytes(bytes)?;
        self.whole(map)
    }

    pub(crate) fn count(&self, fields: usize) -> Result<(), HeadError> {
        if fields > self.fields {
            Err(HeadError::TooManyHeaders(self.fields))
        } else {
            Ok(())
        }
    }

    pub(crate) fn bytes(&self, bytes: usize) -> Result<(), HeadError> {
        if bytes > self.bytes {
            Err(HeadError::HeadersTooLarge(self.bytes))
        } else {
            Ok(())
        }
    }

    pub(crate) fn field(&self, name: &HeaderName, value: &HeaderValue) -> Result<(), HeadError> {
        let framing = is_connection_header(name)
            || self.trailers && (*name == CONTENT_LENGTH || *name == HOST);
        if framing {
            return Err(HeadError::Forbidden(name.clone()));
        }
        if *name == CONTENT_LENGTH {
            decimal(value)?;
        }
        Ok(())
    }

    /// A length is declared once.
    pub(crate) fn whole(&self, map: &HeaderMap) -> Result<(), HeadError> {
        declared(map).map(|_| ())
    }
}

/// Whether a header frames the message or belongs to one connection, by its name alone.
#[must_use]
pub fn is_connection_header(name: &HeaderName) -> bool {
    [&CONNECTION, &TRANSFER_ENCODING, &TE, &TRAILER, &UPGRADE].contains(&name)
        || [&KEEP_ALIVE, &PROXY_CONNECTION, &HTTP2_SETTINGS].contains(&name)
        || [&PROXY_AUTHENTICATE, &PROXY_AUTHORIZATION].contains(&name)
}

/// Removes what frames the message or belongs to one connection, and whatever `connection` names.
pub fn strip_connection_headers(map: &mut HeaderMap) {
    let named: Vec<HeaderName> = map
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named {
        map.remove(name);
    }
    for name in [CONNECTION, TRANSFER_ENCODING, TE, TRAILER, UPGRADE] {
        map.remove(name);
    }
    for name in [PROXY_AUTHENTICATE, PROXY_AUTHORIZATION] {
        map.remove(name);
    }
    for name in [&KEEP_ALIVE, &PROXY_CONNECTION, &HTTP2_SETTINGS] {
        map.remove(name);
    }
}

/// A status that may head an answer: interim ones are read and dropped by the agent.
pub(crate) fn is_final_or_switching(status: StatusCode) -> bool {
    status == StatusCode::SWITCHING_PROTOCOLS || (200..600).contains(&status.as_u16())
}

/// What a request says besides its headers, as the edge's HTTP library has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestHead {
    /// The method.
    pub method: Method,
    /// Path and query.
    pub target: PathAndQuery,
    /// Headers that may pass.
    pub headers: HeaderMap,
    /// The protocol that the caller wants to change to.
    pub upgrade: Option<String>,
    /// Whether the caller said `te: trailers`.
    pub wants_trailers: bool,
}

impl RequestHead {
    /// Takes what may pass from a request: connection headers become the fields that stand for
    /// them, `expect` is dropped (the edge answers it).
    ///
    /// # Errors
    /// The target, the method or a header cannot be carried.
    pub fn new(parts: http::request::Parts) -> Result<Self, HeadError> {
        let http::request::Parts {
            method,
            uri,
            mut headers,
            ..
        } = parts;
        if method == Method::CONNECT {
            return Err(HeadError::InvalidMethod);
        }
        let target = uri
            .into_parts()
            .path_and_query
            .ok_or(HeadError::InvalidTarget)?;
        if !target.as_str().starts_with('/') && target != "*" {
            return Err(HeadError::InvalidTarget);
        }
        let wants_trailers = has_token(&headers, &TE, "trailers");
        let upgrade = upgrade(&headers)?;
        strip_connection_headers(&mut headers);
        headers.remove(EXPECT);
        HEADERS.check(&headers)?;
        Ok(Self {
            method,
            target,
            headers,
            upgrade,
            wants_trailers,
        })
    }
}

impl Open {
    /// The request as `http` has it: method, `/path?query`, headers.
    ///
    /// `upgrade` and `wants_trailers` are not turned into headers: the agent's HTTP client adds
    /// what its own connection needs.
    #[must_use]
    pub fn request_parts(&self) -> http::request::Parts {
        let (mut parts, ()) = http::Request::new(()).into_parts();
        parts.method = self.method.clone();
        parts.uri = http::Uri::from(self.target.clone());
        parts.headers = self.headers.clone();
        parts
    }

    /// The length that the request declares for its body, checked when it was decoded.
    #[must_use]
    pub fn declared_length(&self) -> Option<u64> {
        declared(&self.headers).ok().flatten()
    }
}

impl Head {
    /// Takes what may pass from an answer.
    ///
    /// # Errors
    /// The status is an interim one, or a header cannot be carried.
    pub fn new(parts: http::response::Parts) -> Result<Self, HeadError> {
        let http::response::Parts {
            status,
            mut headers,
            ..
        } = parts;
        if !is_final_or_switching(status) {
            return Err(HeadError::InvalidStatus);
        }
        let trailer_names = trailer_names(&headers);
        strip_connection_headers(&mut headers);
        HEADERS.check(&headers)?;
        Ok(Self {
            status,
            headers,
            trailer_names,
        })
    }

    /// The answer as `http` has it: status and headers. Trailer names are not turned into a header:
    /// whether trailers may be announced is known to the edge.
    #[must_use]
    pub fn into_response_parts(self) -> http::response::Parts {
        let (mut parts, ()) = http::Response::new(()).into_parts();
        parts.status = self.status;
        parts.headers = self.headers;
        parts
    }

    /// The length that the body must have by its headers: `None` where none is declared, and where
    /// the answer has no body whatever its headers say (to HEAD, and 1xx, 204, 304).
    #[must_use]
    pub fn declared_length(&self, method: &Method) -> Option<u64> {
        let bodiless = *method == Method::HEAD
            || self.status.is_informational()
            || self.status == StatusCode::NO_CONTENT
            || self.status == StatusCode::NOT_MODIFIED;
        if bodiless {
            None
        } else {
            declared(&self.headers).ok().flatten()
        }
    }
}

/// Counts the bytes of a body against its declared length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BodyLength {
    declared: Option<u64>,
    actual: u64,
}

impl BodyLength {
    /// Starts to count.
    #[must_use]
    pub fn new(declared: Option<u64>) -> Self {
        Self {
            declared,
            actual: 0,
        }
    }

    /// Counts bytes that have come.
    ///
    /// # Errors
    /// More bytes than declared.
    pub fn add(&mut self, bytes: u64) -> Result<(), LengthMismatch> {
        self.actual = self.actual.saturating_add(bytes);
        self.compare(|declared, actual| actual <= declared)
    }

    /// The body has ended.
    ///
    /// # Errors
    /// Other than the declared number of bytes has come.
    pub fn end(self) -> Result<(), LengthMismatch> {
        self.compare(|declared, actual| actual == declared)
    }

    /// Bytes that have come.
    #[must_use]
    pub fn actual(&self) -> u64 {
        self.actual
    }

    fn compare(&self, holds: impl Fn(u64, u64) -> bool) -> Result<(), LengthMismatch> {
        let actual = self.actual;
        match self.declared {
            Some(declared) if !holds(declared, actual) => Err(LengthMismatch { declared, actual }),
            Some(_) | None => Ok(()),
        }
    }
}

fn declared(headers: &HeaderMap) -> Result<Option<u64>, HeadError> {
    let mut values = headers.get_all(CONTENT_LENGTH).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => decimal(value).map(Some),
        (Some(_), Some(_)) => Err(HeadError::InvalidLength),
    }
}

/// Digits only: no sign, no list of equal numbers, which RFC 9110 lets a recipient refuse.
fn decimal(value: &HeaderValue) -> Result<u64, HeadError> {
    value
        .to_str()
        .ok()
        .filter(|text| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()))
        .and_then(|text| text.parse().ok())
        .ok_or(HeadError::InvalidLength)
}

fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    tokens(headers, name).any(|item| {
        item.split(';')
            .next()
            .is_some_and(|first| first.trim().eq_ignore_ascii_case(token))
    })
}

/// The protocol of an upgrade that `connection` really asks for.
fn upgrade(headers: &HeaderMap) -> Result<Option<String>, HeadError> {
    if !has_token(headers, &CONNECTION, "upgrade") {
        return Ok(None);
    }
    let Some(protocol) = tokens(headers, &UPGRADE).next() else {
        return Ok(None);
    };
    if protocol.len() > NAME_MAX_BYTES {
        return Err(HeadError::InvalidText("upgrade"));
    }
    Ok(Some(protocol.to_owned()))
}

fn trailer_names(headers: &HeaderMap) -> Vec<HeaderName> {
    tokens(headers, &TRAILER)
        .filter_map(|name| name.parse().ok())
        .filter(|name| !is_connection_header(name) && *name != CONTENT_LENGTH)
        .take(TRAILERS_MAX)
        .collect()
}

fn tokens<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|item| !item.is_empty())
}
