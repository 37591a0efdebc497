//! Legal answers that are seldom seen: `/odd/headers` (64 KiB of them, some twice), `/odd/trailers`, `/odd/chunks` (pieces of
//! many sizes), `/odd/early` (413 while the upload runs), `/odd/empty` (200 with a length of 0).

use std::io;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::header::{CONTENT_LENGTH, TRAILER};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};

use super::answer;
use crate::serve::Body;

/// Headers of `/odd/headers` and the size of each value.
const HEADERS: usize = 128;
const VALUE_BYTES: usize = 500;
/// Pieces of `/odd/chunks`: one byte, two, three, and so on.
const CHUNKS: usize = 300;

/// Answers one of the paths above, by what stands behind `/odd/`.
pub(super) fn answer(what: &str, upload: Incoming) -> Option<Response<Body>> {
    Some(match what {
        "headers" => headers(),
        "trailers" => trailers(),
        "chunks" => chunks(),
        "early" => early(upload),
        "empty" => {
            let mut response = answer::text(StatusCode::OK, "");
            let length = HeaderValue::from_static("0");
            response.headers_mut().insert(CONTENT_LENGTH, length);
            response
        }
        _ => return None,
    })
}

/// The answer comes while the upload runs, which is read away behind it.
fn early(upload: Incoming) -> Response<Body> {
    let first = Frame::data(Bytes::from_static(b"no more of this"));
    let rest = stream::unfold(upload, |mut upload| async move {
        while let Some(Ok(_)) = upload.frame().await {}
        None::<(io::Result<Frame<Bytes>>, Incoming)>
    });
    let body = StreamBody::new(stream::iter([Ok(first)]).chain(rest));
    let mut response = Response::new(body.boxed_unsync());
    *response.status_mut() = StatusCode::PAYLOAD_TOO_LARGE;
    response
}

fn headers() -> Response<Body> {
    let mut response = answer::text(StatusCode::OK, "many");
    for index in 0..HEADERS {
        let name = format!("x-odd-{}", index / 2);
        let value = format!("{index} {}", "v".repeat(VALUE_BYTES));
        if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), HeaderValue::from_str(&value)) {
            response.headers_mut().append(name, value);
        }
    }
    response
        .headers_mut()
        .insert("x-odd-bytes", HeaderValue::from_static("tab\there"));
    response
}

fn trailers() -> Response<Body> {
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", HeaderValue::from_static("42"));
    trailers.append("x-twice", HeaderValue::from_static("a"));
    trailers.append("x-twice", HeaderValue::from_static("b"));
    let frames = [
        Frame::data(Bytes::from_static(b"with trailers")),
        Frame::trailers(trailers),
    ];
    let body = StreamBody::new(stream::iter(frames.map(Ok::<_, io::Error>)));
    let mut response = Response::new(body.boxed_unsync());
    let names = HeaderValue::from_static("x-sum, x-twice");
    response.headers_mut().insert(TRAILER, names);
    response
}

fn chunks() -> Response<Body> {
    let pieces = (1..=CHUNKS).map(|size| Ok::<_, io::Error>(Frame::data(vec![b'c'; size].into())));
    Response::new(StreamBody::new(stream::iter(pieces)).boxed_unsync())
}
