//! Responses of the backend, made of parts that all routes share.

use std::io;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, LOCATION};
use http::{HeaderName, HeaderValue, Response, StatusCode};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;

use super::script::Script;
use super::stats::Active;
use crate::serve::Body;

/// Bytes of the header that no limit admits.
const HUGE_HEADER_BYTES: usize = 160 * 1024;

pub(super) fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into())
        .map_err(|never| match never {})
        .boxed_unsync()
}

pub(super) fn json(status: StatusCode, value: &serde_json::Value) -> Response<Body> {
    typed(status, "application/json", value.to_string())
}

pub(super) fn text(status: StatusCode, text: &str) -> Response<Body> {
    typed(status, "text/plain; charset=utf-8", text.to_owned())
}

pub(super) fn typed(
    status: StatusCode,
    content_type: &'static str,
    body: impl Into<Bytes>,
) -> Response<Body> {
    let mut response = Response::new(full(body));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// An answer that is complete once it is handed over.
pub(super) fn done(mut active: Active, response: Response<Body>) -> Response<Body> {
    active.complete();
    response
}

/// Adds the headers that the request asked for.
pub(super) fn dressed(mut response: Response<Body>, script: &Script) -> Response<Body> {
    for (name, value) in &script.headers {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            response.headers_mut().append(name, value);
        }
    }
    response
}

pub(super) fn huge_headers() -> Response<Body> {
    let mut response = text(StatusCode::OK, "never seen");
    if let Ok(value) = HeaderValue::try_from("h".repeat(HUGE_HEADER_BYTES)) {
        response.headers_mut().insert("x-huge", value);
    }
    response
}

pub(super) fn redirect(to: &'static str) -> Response<Body> {
    let mut response = text(StatusCode::FOUND, "elsewhere");
    response
        .headers_mut()
        .insert(LOCATION, HeaderValue::from_static(to));
    response
}

/// An answer whose body fails after a few bytes of its declared length.
pub(super) fn broken() -> Response<Body> {
    let pieces = [
        Ok(Frame::data(Bytes::from_static(b"{\"cut\":"))),
        Err(io::Error::other("cut as told")),
    ];
    let mut response =
        Response::new(StreamBody::new(futures_util::stream::iter(pieces)).boxed_unsync());
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response.headers_mut().insert(
        http::header::CONTENT_LENGTH,
        HeaderValue::from_static("4096"),
    );
    response
}
