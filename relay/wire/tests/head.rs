//! From requests and answers of an HTTP library to frames, and back.

mod support;

use bytes::BytesMut;
use culvert_wire::{
    BodyLength, CallFrame, CallItem, Head, HeadError, LengthMismatch, Open, RequestHead, head,
};
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use proptest::collection::vec;
use proptest::prelude::*;
use support::samples;

fn request_parts(fields: &[(&str, &str)]) -> http::request::Parts {
    let builder = Request::builder().uri("http://edge.example/path?q=1");
    let builder = fields
        .iter()
        .fold(builder, |b, (name, value)| b.header(*name, *value));
    builder.body(()).expect("a request").into_parts().0
}

fn answer_parts(status: u16, fields: &[(&str, &str)]) -> http::response::Parts {
    let builder = Response::builder().status(status);
    let builder = fields
        .iter()
        .fold(builder, |b, (name, value)| b.header(*name, *value));
    builder.body(()).expect("an answer").into_parts().0
}

fn request(fields: &[(&str, &str)]) -> Result<RequestHead, HeadError> {
    RequestHead::new(request_parts(fields))
}

fn answer(status: u16, fields: &[(&str, &str)]) -> Result<Head, HeadError> {
    Head::new(answer_parts(status, fields))
}

fn open(head: RequestHead) -> Open {
    let RequestHead {
        method,
        target,
        headers,
        upgrade,
        wants_trailers,
    } = head;
    Open {
        method,
        target,
        headers,
        upgrade,
        wants_trailers,
        ..samples::small_open()
    }
}

#[test]
fn what_belongs_to_a_connection_becomes_fields() {
    let head = request(&[
        ("host", "edge.example"),
        ("connection", "Upgrade, X-Private , keep-alive"),
        ("keep-alive", "timeout=5"),
        ("upgrade", "websocket"),
        ("x-private", "1"),
        ("te", "trailers;q=0.5, deflate"),
        ("transfer-encoding", "chunked"),
        ("proxy-connection", "close"),
        ("expect", "100-continue"),
        ("content-length", "5"),
        ("accept", "*/*"),
    ])
    .expect("a head");
    assert_eq!(head.target.as_str(), "/path?q=1");
    assert_eq!(head.upgrade.as_deref(), Some("websocket"));
    assert!(head.wants_trailers);
    let mut left: Vec<&str> = head.headers.keys().map(HeaderName::as_str).collect();
    left.sort_unstable();
    assert_eq!(left, ["accept", "content-length", "host"]);
}

#[test]
fn an_upgrade_that_connection_does_not_name_is_none() {
    let head = request(&[("upgrade", "websocket"), ("te", "gzip")]).expect("a head");
    assert_eq!((head.upgrade, head.wants_trailers), (None, false));
}

#[test]
fn connect_and_targets_of_a_proxy_are_refused() {
    let connect = Request::builder()
        .method(Method::CONNECT)
        .uri("example.com:443");
    let parts = connect.body(()).expect("a request").into_parts().0;
    assert_eq!(RequestHead::new(parts), Err(HeadError::InvalidMethod));
    let authority = Request::builder()
        .uri("example.com:443")
        .body(())
        .expect("a request");
    assert_eq!(
        RequestHead::new(authority.into_parts().0),
        Err(HeadError::InvalidTarget)
    );
}

#[test]
fn a_request_that_smuggles_is_refused() {
    let two = request(&[("content-length", "5"), ("content-length", "6")]);
    assert_eq!(two, Err(HeadError::InvalidLength));
    assert_eq!(
        request(&[("content-length", "5, 5")]),
        Err(HeadError::InvalidLength)
    );
}

#[test]
fn parts_of_a_request_are_what_the_agent_sends() {
    let parts = open(request(&[("accept", "*/*")]).expect("a head")).request_parts();
    assert_eq!(
        (parts.method, parts.uri.to_string()),
        (Method::GET, "/path?q=1".to_owned())
    );
    assert_eq!(parts.headers["accept"], "*/*");
}

#[test]
fn an_answer_keeps_its_trailer_names_and_loses_its_framing() {
    let head = answer(
        200,
        &[
            ("trailer", "X-Sum, content-length, grpc-status"),
            ("transfer-encoding", "chunked"),
            ("connection", "close, x-hop"),
            ("x-hop", "1"),
            ("x-end", "1"),
        ],
    )
    .expect("a head");
    assert_eq!(head.trailer_names, ["x-sum", "grpc-status"]);
    let parts = head.into_response_parts();
    assert_eq!(parts.status, StatusCode::OK);
    assert_eq!(parts.headers.keys().collect::<Vec<_>>(), ["x-end"]);
    assert_eq!(answer(103, &[]), Err(HeadError::InvalidStatus));
    assert!(answer(101, &[]).is_ok());
}

#[test]
fn a_length_counts_only_where_there_is_a_body() {
    let length = |status, method: &Method| {
        answer(status, &[("content-length", "7")])
            .expect("a head")
            .declared_length(method)
    };
    assert_eq!(length(200, &Method::GET), Some(7));
    assert_eq!(length(404, &Method::POST), Some(7));
    assert_eq!(length(200, &Method::HEAD), None);
    for status in [101, 204, 304] {
        assert_eq!(length(status, &Method::GET), None);
    }
    assert_eq!(
        answer(200, &[])
            .expect("a head")
            .declared_length(&Method::GET),
        None
    );
}

#[test]
fn a_body_keeps_to_its_declared_length() {
    let mut exact = BodyLength::new(Some(5));
    assert_eq!(
        exact.end(),
        Err(LengthMismatch {
            declared: 5,
            actual: 0
        })
    );
    assert_eq!(exact.add(3), Ok(()));
    assert_eq!(
        exact.end(),
        Err(LengthMismatch {
            declared: 5,
            actual: 3
        })
    );
    assert_eq!(exact.add(2), Ok(()));
    assert_eq!((exact.end(), exact.actual()), (Ok(()), 5));
    assert_eq!(
        exact.add(1),
        Err(LengthMismatch {
            declared: 5,
            actual: 6
        })
    );
    let mut open_ended = BodyLength::new(None);
    assert_eq!(
        (open_ended.add(u64::MAX), open_ended.add(1)),
        (Ok(()), Ok(()))
    );
    assert_eq!(open_ended.end(), Ok(()));
}

#[test]
fn every_spelling_of_a_connection_header_is_stripped() {
    let mut map = HeaderMap::new();
    for name in [
        "Connection",
        "KEEP-ALIVE",
        "Te",
        "trailer",
        "Transfer-Encoding",
        "upgrade",
    ] {
        map.append(
            name.parse::<HeaderName>().expect("a name"),
            HeaderValue::from_static("x"),
        );
    }
    head::strip_connection_headers(&mut map);
    assert!(map.is_empty(), "{map:?}");
}

/// Names that matter here, and others.
fn field() -> impl Strategy<Value = (String, Vec<u8>)> {
    let name = prop_oneof![
        prop::sample::select(vec![
            "connection",
            "upgrade",
            "te",
            "trailer",
            "transfer-encoding",
            "keep-alive",
            "content-length",
            "expect",
            "proxy-connection",
            "http2-settings",
            "x-a",
            "host",
        ])
        .prop_map(str::to_owned),
        "[A-Za-z0-9!#$%&'*+.^_`|~-]{1,12}",
    ];
    let value = prop_oneof![
        "[0-9]{1,3}".prop_map(String::into_bytes),
        "(x-a|close|upgrade|te|,| ){0,6}".prop_map(String::into_bytes),
        vec(any::<u8>(), 0..10),
    ];
    (name, value)
}

fn map_of(fields: Vec<(String, Vec<u8>)>) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in fields {
        if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), HeaderValue::from_bytes(&value))
        {
            map.append(name, value);
        }
    }
    map
}

fn passes(mut decoder: culvert_wire::CallDecoder, frame: &CallFrame) -> bool {
    let mut out = BytesMut::new();
    if frame.encode(&mut out).is_err() {
        return false;
    }
    decoder.push(out.freeze());
    decoder.next_item() == Ok(Some(CallItem::Frame(frame.clone())))
}

proptest! {
    /// What is taken from a request can always be sent, and arrives as it is.
    #[test]
    fn a_head_that_is_taken_passes(fields in vec(field(), 0..12)) {
        let mut request = Request::new(());
        *request.headers_mut() = map_of(fields.clone());
        if let Ok(head) = RequestHead::new(request.into_parts().0) {
            prop_assert!(!head.headers.keys().any(head::is_connection_header));
            let frame = CallFrame::Open(Box::new(open(head)));
            prop_assert!(passes(support::decoder_before(frame.kind()), &frame));
        }
        let mut response = Response::new(());
        *response.headers_mut() = map_of(fields);
        if let Ok(head) = Head::new(response.into_parts().0) {
            let frame = CallFrame::Head(Box::new(head));
            prop_assert!(passes(support::decoder_before(frame.kind()), &frame));
        }
    }
}
