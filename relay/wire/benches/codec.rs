//! What a head costs: `cargo bench -p culvert-wire`. One JSON line per measurement, in nanoseconds.

#![expect(
    clippy::print_stdout,
    reason = "a benchmark's output is its standard output"
)]

use std::hint::black_box;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use culvert_wire::{
    CallDecoder, CallFrame, CallId, CallItem, Caller, ControlDecoder, ControlFrame, Open, Ping,
    RequestId, ServiceName,
};
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::uri::PathAndQuery;

/// How long each measurement runs, and how often: the median is what is printed.
const ROUND: Duration = Duration::from_millis(100);
const ROUNDS: usize = 11;

fn main() {
    let open = CallFrame::Open(Box::new(open()));
    let head = encoded(|out| open.encode(out).expect("a head"));
    let mut out = BytesMut::with_capacity(4096);
    report("open_15_headers_encode", || {
        out.clear();
        black_box(&open).encode(&mut out).expect("a head");
        black_box(&out);
    });
    report("open_15_headers_decode", || {
        let mut decoder = CallDecoder::request();
        decoder.push(black_box(head.clone()));
        let item = decoder.next_item().expect("a head");
        assert!(matches!(black_box(item), Some(CallItem::Frame(_))));
    });
    let piece = Bytes::from(vec![0; 16 * 1024]);
    let mut body = BytesMut::from(&head[..]);
    for _ in 0..64 {
        let data = CallFrame::data(piece.len()).expect("fits");
        data.encode(&mut body).expect("data");
        body.extend_from_slice(&piece);
    }
    let body = body.freeze();
    report("body_of_64_pieces_of_16_kib_decode", || {
        let mut decoder = CallDecoder::request();
        decoder.push(black_box(body.clone()));
        while let Some(item) = decoder.next_item().expect("a request") {
            black_box(item);
        }
    });
    let ping = ControlFrame::Ping(Ping { nonce: 12_345 });
    let ping = encoded(|out| ping.encode(out).expect("a ping"));
    let mut control = ControlDecoder::new();
    report("ping_decode", || {
        control.push(black_box(ping.clone()));
        black_box(control.next_frame()).expect("a ping");
    });
}

/// Runs one thing over and over, and prints the median of its mean times.
fn report(name: &str, mut work: impl FnMut()) {
    let mut nanos: Vec<u128> = (0..ROUNDS)
        .map(|_| {
            let start = Instant::now();
            let mut times = 0;
            while start.elapsed() < ROUND {
                for _ in 0..100 {
                    work();
                }
                times += 100;
            }
            start.elapsed().as_nanos() / times
        })
        .collect();
    nanos.sort_unstable();
    println!(
        r#"{{"name":"{name}","value":{},"unit":"ns"}}"#,
        nanos[ROUNDS / 2]
    );
}

fn encoded(write: impl FnOnce(&mut BytesMut)) -> Bytes {
    let mut out = BytesMut::new();
    write(&mut out);
    out.freeze()
}

/// What a model's SDK sends.
fn open() -> Open {
    let fields = [
        ("host", "gateway.example.com"),
        ("accept", "application/json"),
        ("accept-encoding", "gzip, deflate, br"),
        ("user-agent", "OpenAI/Python 2.8.1"),
        ("content-type", "application/json"),
        ("content-length", "1843"),
        ("x-stainless-lang", "python"),
        ("x-stainless-package-version", "2.8.1"),
        ("x-stainless-os", "Linux"),
        ("x-stainless-arch", "x64"),
        ("x-stainless-runtime", "CPython"),
        ("x-stainless-runtime-version", "3.13.1"),
        ("x-stainless-async", "false"),
        ("x-stainless-retry-count", "0"),
        (
            "traceparent",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ),
    ];
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        headers.append(
            HeaderName::from_static(name),
            HeaderValue::from_static(value),
        );
    }
    Open {
        service: ServiceName::new("llama").expect("a name"),
        call_id: CallId {
            request: RequestId::from_bytes([7; 16]),
            attempt: 0,
        },
        deadline_ms: Some(600_000),
        trace: None,
        caller: Caller {
            tenant: "acme".into(),
            key_id: "k1".into(),
            user: None,
        },
        wants_trailers: false,
        upgrade: None,
        method: http::Method::POST,
        target: PathAndQuery::from_static("/v1/chat/completions"),
        headers,
    }
}
