//! Plain HTTP routes: what a private HTTP service might do.

use std::io;

use bytes::Bytes;
use futures_util::stream;
use http::header::{CONTENT_LENGTH, HeaderValue};
use http::{HeaderName, Request, Response, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use serde_json::json;

use super::answer;
use super::stats::{Active, Seen, Stats};
use crate::serve::Body;

/// Size of the pieces of `/bytes/<n>`.
const PIECE_BYTES: usize = 64 * 1024;

/// Headers that a gateway must take away from an answer.
const DIRTY: [(&str, &str); 12] = [
    ("alt-svc", "h3=\":443\""),
    ("strict-transport-security", "max-age=1"),
    ("clear-site-data", "\"*\""),
    ("service-worker-allowed", "/"),
    ("nel", "{}"),
    ("report-to", "{}"),
    ("reporting-endpoints", "a=\"https://example.com\""),
    ("set-cookie", "a=b"),
    ("access-control-allow-origin", "*"),
    ("x-culvert-region", "FORGED"),
    ("server-timing", "forged;dur=1"),
    ("cache-control", "public, max-age=60"),
];

pub(super) async fn handle(
    stats: &Stats,
    path: &str,
    request: Request<Incoming>,
    active: Active,
) -> Response<Body> {
    let (parts, body) = request.into_parts();
    if path == "/mirror" {
        stats.remember(Seen::new(&parts, &[]));
        return mirror(body, active);
    }
    if path == "/sink" {
        return sink(body, active).await;
    }
    let Ok(body) = body
        .collect()
        .await
        .map(http_body_util::Collected::to_bytes)
    else {
        return answer::text(StatusCode::BAD_REQUEST, "the body was cut");
    };
    let seen = Seen::new(&parts, &body);
    stats.remember(seen.clone());
    if let Some(count) = path
        .strip_prefix("/bytes/")
        .and_then(|count| count.parse().ok())
    {
        return zeros(count, active);
    }
    let code = path
        .strip_prefix("/status/")
        .and_then(|code| code.parse().ok())
        .and_then(|code| StatusCode::from_u16(code).ok());
    let response = match (path, code) {
        (_, Some(code)) => answer::text(code, "as told"),
        ("/redirect", _) => answer::redirect("/elsewhere"),
        ("/dirty", _) => dirty(),
        (path, _)
            if path == "/__echo" || path.starts_with("/__echo/") || path.starts_with("/api/") =>
        {
            answer::json(
                StatusCode::OK,
                &serde_json::to_value(&seen).unwrap_or_default(),
            )
        }
        _ => answer::json(StatusCode::NOT_FOUND, &json!({"detail": "Not Found"})),
    };
    answer::done(active, response)
}

fn dirty() -> Response<Body> {
    let mut response = answer::text(StatusCode::OK, "dirty");
    for (name, value) in DIRTY {
        response.headers_mut().append(
            HeaderName::from_static(name),
            HeaderValue::from_static(value),
        );
    }
    response
}

fn zeros(count: usize, active: Active) -> Response<Body> {
    let pieces = stream::unfold((count, active), |(left, mut active)| async move {
        if left == 0 {
            active.complete();
            return None;
        }
        static PIECE: [u8; PIECE_BYTES] = [0; PIECE_BYTES];
        let size = left.min(PIECE_BYTES);
        Some((
            Ok::<_, io::Error>(Frame::data(Bytes::from_static(&PIECE[..size]))),
            (left - size, active),
        ))
    });
    let mut response = Response::new(StreamBody::new(pieces).boxed_unsync());
    response
        .headers_mut()
        .insert(CONTENT_LENGTH, HeaderValue::from(count));
    response
}

async fn sink(mut body: Incoming, active: Active) -> Response<Body> {
    let mut received = 0_usize;
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(frame) => received += frame.data_ref().map_or(0, Bytes::len),
            Err(_) => return answer::text(StatusCode::BAD_REQUEST, "the body was cut"),
        }
    }
    answer::done(
        active,
        answer::json(StatusCode::OK, &json!({"received": received})),
    )
}

fn mirror(body: Incoming, active: Active) -> Response<Body> {
    let pieces = stream::unfold((body, active), |(mut body, mut active)| async move {
        match body.frame().await {
            Some(frame) => Some((frame.map_err(io::Error::other), (body, active))),
            None => {
                active.complete();
                None
            }
        }
    });
    Response::new(StreamBody::new(pieces).boxed_unsync())
}
