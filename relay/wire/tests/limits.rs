//! What is not a frame: each bound is refused by its name, and before it costs anything.

mod support;

use bytes::{BufMut, Bytes, BytesMut};
use culvert_wire::{
    CallDecoder, CallFrame, CallItem, Code, ControlDecoder, ControlFrame, FrameError, FrameType,
    Offer, ServiceKind, ServiceName, ServiceOffer, frame::Stream, limits,
};
use http::header::{HeaderMap, HeaderName, HeaderValue};
use minicbor::Encoder;
use support::samples;

fn envelope(number: u8, length: u32, payload: &[u8]) -> Bytes {
    let mut out = BytesMut::new();
    out.put_u8(number);
    out.put_u32(length);
    out.put_slice(payload);
    out.freeze()
}

fn frame(kind: FrameType, payload: &[u8]) -> Bytes {
    envelope(kind as u8, payload.len() as u32, payload)
}

fn control(bytes: Bytes) -> Result<Option<ControlFrame>, FrameError> {
    let mut decoder = ControlDecoder::new();
    decoder.push(bytes);
    decoder.next_frame()
}

fn call(kind: FrameType, bytes: Bytes) -> Result<Option<CallItem>, FrameError> {
    let mut decoder = support::decoder_before(kind);
    decoder.push(bytes);
    decoder.next_item()
}

/// The payload of a map, written by hand.
fn map(fields: u64, write: impl FnOnce(&mut Encoder<Vec<u8>>)) -> Vec<u8> {
    let mut encoder = Encoder::new(Vec::new());
    encoder.map(fields).expect("to memory");
    write(&mut encoder);
    encoder.into_writer()
}

#[test]
fn a_length_above_the_limit_is_refused_from_the_envelope_alone() {
    for kind in FrameType::ALL
        .iter()
        .filter(|kind| **kind != FrameType::Data)
    {
        let bytes = envelope(*kind as u8, kind.limit() + 1, &[]);
        let error = match kind.stream() {
            Stream::Control => control(bytes).expect_err("too long"),
            Stream::Call => call(*kind, bytes).expect_err("too long"),
        };
        let too_long = FrameError::TooLong {
            kind: Some(*kind),
            bytes: u64::from(kind.limit()) + 1,
            limit: kind.limit(),
        };
        assert_eq!(error, too_long);
        assert_eq!(error.code(), Code::Limit);
    }
}

#[test]
fn a_frame_of_the_other_stream_is_out_of_place() {
    for kind in FrameType::ALL {
        let bytes = envelope(*kind as u8, 0, &[]);
        let error = match kind.stream() {
            Stream::Control => {
                let mut decoder = CallDecoder::request();
                decoder.push(bytes);
                decoder.next_item().expect_err("misplaced")
            }
            Stream::Call => control(bytes).expect_err("misplaced"),
        };
        assert_eq!(error, FrameError::Misplaced(*kind));
    }
}

#[test]
fn unknown_types_below_64_are_critical_and_a_few_above_are_skipped() {
    for number in (0..64).filter(|number| FrameType::from_u8(*number).is_none()) {
        let error = control(envelope(number, 0, &[])).expect_err("critical");
        assert_eq!(error, FrameError::UnknownCritical(number));
        assert_eq!(error.code(), Code::UnknownCritical);
    }
    let ping = support::control_bytes(&ControlFrame::DrainAck);
    for (unknown, expected) in [(16, Ok(2)), (17, Err(FrameError::TooManyUnknown))] {
        let mut decoder = ControlDecoder::new();
        // Twice, with a known frame in between: only those in a row count.
        for _ in 0..2 {
            for number in 0..unknown {
                decoder.push(envelope(64 + number * 11, 3, b"abc"));
            }
            decoder.push(ping.clone());
        }
        let mut count = 0;
        let result = loop {
            match decoder.next_frame() {
                Ok(Some(_)) => count += 1,
                Ok(None) => break Ok(count),
                Err(error) => break Err(error),
            }
        };
        assert_eq!(result, expected);
    }
    let error = control(envelope(64, limits::UNKNOWN_MAX_BYTES + 1, &[])).expect_err("too long");
    assert_eq!(error.code(), Code::Limit);
}

#[test]
fn missing_keys_default_and_required_ones_are_required() {
    let ping = control(frame(FrameType::Ping, &[0xa0])).expect("decodes");
    assert_eq!(
        ping,
        Some(ControlFrame::Ping(culvert_wire::Ping { nonce: 0 }))
    );
    assert!(control(frame(FrameType::Hello, &[0xa0])).is_err());
    assert!(control(frame(FrameType::Ping, &[])).is_err());
    assert!(
        control(frame(FrameType::Ping, &[0xa0, 0x00])).is_err(),
        "trailing bytes"
    );
}

#[test]
fn a_kind_of_a_later_version_does_not_hide_the_other_services() {
    let service = |encoder: &mut Encoder<Vec<u8>>, name: &str, kind: u8| {
        encoder
            .map(2)
            .and_then(|e| e.u8(0)?.str(name)?.u8(1)?.u8(kind))
            .expect("to memory");
    };
    let payload = map(2, |encoder| {
        encoder
            .u8(0)
            .and_then(|e| e.u8(9)?.u8(1)?.array(2))
            .expect("to memory");
        service(encoder, "new-thing", 77);
        service(encoder, "llama", 1);
    });
    let Ok(Some(ControlFrame::Offer(offer))) = control(frame(FrameType::Offer, &payload)) else {
        panic!("an offer");
    };
    let names: Vec<&str> = offer
        .services
        .iter()
        .map(|service| &*service.name)
        .collect();
    assert_eq!((offer.seq, names), (9, vec!["llama"]));
}

#[test]
fn lists_are_bounded_before_they_grow() {
    let services = map(1, |encoder| {
        encoder
            .u8(1)
            .and_then(|e| e.array(limits::SERVICES_MAX as u64 + 1))
            .expect("to memory");
    });
    let error = control(frame(FrameType::Offer, &services)).expect_err("too many");
    assert_eq!(
        error.to_string(),
        "malformed Offer frame: decode error: list too long"
    );
    let headers = map(1, |encoder| {
        encoder
            .u8(1)
            .and_then(|e| e.array(2 * limits::HEADERS_MAX as u64 + 2))
            .expect("to memory");
    });
    let error = call(FrameType::Head, frame(FrameType::Head, &headers)).expect_err("too many");
    assert_eq!(
        error.to_string(),
        "malformed Head frame: more than 512 header fields"
    );
}

#[test]
fn an_offer_is_checked_where_it_is_configured() {
    let service = |models: Vec<String>| ServiceOffer {
        name: ServiceName::new("s").expect("a name"),
        kind: ServiceKind::Model,
        models,
        digest: [0; 32],
    };
    let offer = |services| Offer { seq: 1, services };
    let many = |count: usize, bytes: usize| vec!["m".repeat(bytes); count];
    assert_eq!(offer(vec![service(many(1_000, 200))]).check(), Ok(()));
    assert!(
        offer(vec![service(many(1_001, 1))]).check().is_err(),
        "models"
    );
    assert!(
        offer(vec![service(many(1, 257))]).check().is_err(),
        "a name"
    );
    assert!(
        offer(vec![service(vec![]); 257]).check().is_err(),
        "services"
    );
    let large = offer(vec![service(many(1_000, 256)); 2]);
    assert_eq!(
        large.check().map_err(|error| error.code()),
        Err(Code::Limit)
    );
}

/// A head whose one field is this, as a peer without rules would send it.
fn head_with(name: &str, value: &[u8]) -> Bytes {
    let payload = map(2, |encoder| {
        encoder
            .u8(0)
            .and_then(|e| e.u16(200)?.u8(1)?.array(2)?.str(name)?.bytes(value))
            .expect("to memory");
    });
    frame(FrameType::Head, &payload)
}

const CONNECTION_HEADERS: [&str; 8] = [
    "connection",
    "transfer-encoding",
    "keep-alive",
    "te",
    "trailer",
    "upgrade",
    "proxy-connection",
    "http2-settings",
];

#[test]
fn headers_of_a_connection_are_neither_read_nor_written() {
    for name in CONNECTION_HEADERS {
        let error = call(FrameType::Head, head_with(name, b"x")).expect_err(name);
        assert_eq!(
            error.to_string(),
            format!("malformed Head frame: header {name} may not pass")
        );
        let mut open = samples::small_open();
        open.headers
            .insert(HeaderName::from_static(name), HeaderValue::from_static("x"));
        let mut out = BytesMut::from(&b"before"[..]);
        assert!(
            CallFrame::Open(Box::new(open)).encode(&mut out).is_err(),
            "{name}"
        );
        assert_eq!(
            out,
            b"before"[..],
            "nothing is left of a frame that cannot be written"
        );
    }
}

#[test]
fn headers_are_tokens_and_values_without_control_bytes() {
    for (name, value) in [
        ("Upper", &b"x"[..]),
        ("", b"x"),
        ("sp ace", b"x"),
        ("colon:", b"x"),
        ("x-lf", b"a\nb"),
        ("x-cr", b"a\rb"),
        ("x-nul", b"a\0b"),
        ("content-length", b"-1"),
        ("content-length", b"+1"),
        ("content-length", b"1, 1"),
        ("content-length", b""),
        ("content-length", b"18446744073709551616"),
    ] {
        assert!(
            call(FrameType::Head, head_with(name, value)).is_err(),
            "{name} {value:?}"
        );
    }
    assert!(call(FrameType::Head, head_with("x-latin", b"\xe9\t ")).is_ok());
}

#[test]
fn a_length_is_declared_once_and_trailers_declare_none() {
    let mut headers = HeaderMap::new();
    headers.append("content-length", HeaderValue::from_static("1"));
    headers.append("content-length", HeaderValue::from_static("1"));
    let mut out = BytesMut::new();
    let mut open = samples::small_open();
    open.headers = headers.clone();
    assert!(CallFrame::Open(Box::new(open)).encode(&mut out).is_err());
    headers.remove("content-length");
    headers.insert("content-length", HeaderValue::from_static("1"));
    assert!(CallFrame::End(headers).encode(&mut out).is_err());
}

#[test]
fn methods_targets_and_statuses_are_checked() {
    let open_with = |method: &str, target: &str| {
        let payload = map(4, |encoder| {
            encoder
                .u8(0)
                .and_then(|e| e.str("llama")?.u8(1)?.map(1)?.u8(0)?.bytes(&[7; 16]))
                .and_then(|e| e.u8(7)?.str(method)?.u8(8)?.str(target))
                .expect("to memory");
        });
        call(FrameType::Open, frame(FrameType::Open, &payload))
    };
    assert!(open_with("GET", "/").is_ok());
    assert!(open_with("OPTIONS", "*").is_ok());
    assert!(
        open_with(
            "GET",
            &format!("/{}", "x".repeat(limits::TARGET_MAX_BYTES - 1))
        )
        .is_ok()
    );
    for (method, target) in [
        ("CONNECT", "/"),
        ("", "/"),
        ("G ET", "/"),
        (&"M".repeat(limits::METHOD_MAX_BYTES + 1), "/"),
        ("GET", ""),
        ("GET", "x"),
        ("GET", "http://example.com/"),
        ("GET", "/a#fragment"),
        ("GET", "/a b"),
        ("GET", "/\r\nhost: x"),
        ("GET", &format!("/{}", "x".repeat(limits::TARGET_MAX_BYTES))),
    ] {
        assert!(open_with(method, target).is_err(), "{method} {target}");
    }
    for (status, valid) in [
        (100, false),
        (101, true),
        (103, false),
        (200, true),
        (599, true),
    ]
    .into_iter()
    .chain([(0, false), (600, false), (999, false), (65_535, false)])
    {
        let payload = map(1, |encoder| {
            encoder
                .u8(0)
                .and_then(|e| e.u16(status))
                .expect("to memory");
        });
        let head = call(FrameType::Head, frame(FrameType::Head, &payload));
        assert_eq!(head.is_ok(), valid, "{status}");
    }
}

#[test]
fn the_largest_head_fits() {
    let mut open = samples::small_open();
    // 512 fields of 256 bytes: 128 KiB exactly.
    for number in 0..limits::HEADERS_MAX {
        let name = format!("x-{number:03}")
            .parse::<HeaderName>()
            .expect("a name");
        open.headers.append(
            name,
            HeaderValue::from_bytes(&[b'v'; 251]).expect("a value"),
        );
    }
    let frame = CallFrame::Open(Box::new(open.clone()));
    let bytes = support::call_bytes(&frame);
    assert_eq!(
        call(FrameType::Open, bytes),
        Ok(Some(CallItem::Frame(frame)))
    );
    open.headers.insert(
        "x-000",
        HeaderValue::from_bytes(&[b'v'; 252]).expect("a value"),
    );
    assert!(
        CallFrame::Open(Box::new(open))
            .encode(&mut BytesMut::new())
            .is_err()
    );
}

#[test]
fn a_direction_keeps_its_order() {
    use CallFrame as C;
    let open = || C::Open(Box::new(samples::small_open()));
    let end = || C::End(HeaderMap::new());
    let code = Code::Draining;
    let (_, head) = samples::call().remove(5);
    let data = || C::Data(culvert_wire::Data { len: 0 });
    let good: Vec<(CallDecoder, Vec<CallFrame>)> = vec![
        (CallDecoder::request(), vec![open(), data(), data(), end()]),
        (CallDecoder::request(), vec![open(), C::Abort(code)]),
        (CallDecoder::request(), vec![C::Probe(1)]),
        (CallDecoder::answer(), vec![C::Refused(code)]),
        (CallDecoder::answer(), vec![C::Accepted, C::Refused(code)]),
        (CallDecoder::answer(), vec![C::Accepted, C::Abort(code)]),
        (
            CallDecoder::answer(),
            vec![C::Accepted, C::Enough, head.clone(), data(), end()],
        ),
        (
            CallDecoder::answer(),
            vec![C::Accepted, head.clone(), C::Enough, C::Abort(code)],
        ),
        (CallDecoder::probe_answer(), vec![C::ProbeAck(1)]),
    ];
    for (decoder, frames) in good {
        assert_eq!(read(decoder, &frames), Ok(()), "{frames:?}");
    }
    let bad: Vec<(CallDecoder, Vec<CallFrame>)> = vec![
        (CallDecoder::request(), vec![data()]),
        (CallDecoder::request(), vec![end()]),
        (CallDecoder::request(), vec![C::Accepted]),
        (CallDecoder::request(), vec![open(), open()]),
        (CallDecoder::request(), vec![open(), end(), data()]),
        (CallDecoder::request(), vec![open(), end(), end()]),
        (CallDecoder::request(), vec![open(), C::Enough]),
        (CallDecoder::answer(), vec![head.clone()]),
        (CallDecoder::answer(), vec![C::Abort(code)]),
        (CallDecoder::answer(), vec![C::Accepted, C::Accepted]),
        (CallDecoder::answer(), vec![C::Accepted, data()]),
        (CallDecoder::answer(), vec![C::Accepted, end()]),
        (
            CallDecoder::answer(),
            vec![C::Accepted, head.clone(), C::Refused(code)],
        ),
        (CallDecoder::answer(), vec![C::Accepted, head.clone(), head]),
        (
            CallDecoder::answer(),
            vec![C::Accepted, C::Enough, C::Enough],
        ),
        (CallDecoder::answer(), vec![C::Refused(code), C::Accepted]),
        (CallDecoder::answer(), vec![C::ProbeAck(1)]),
        (CallDecoder::probe_answer(), vec![C::Accepted]),
    ];
    for (decoder, frames) in bad {
        let last = frames.last().map(CallFrame::kind);
        assert_eq!(
            read(decoder, &frames),
            Err(last.map(FrameError::Misplaced)),
            "{frames:?}"
        );
    }
}

/// Reads all frames to a complete direction; the error of the last one otherwise.
fn read(mut decoder: CallDecoder, frames: &[CallFrame]) -> Result<(), Option<FrameError>> {
    for (at, frame) in frames.iter().enumerate() {
        let whole = decoder.finish();
        assert_eq!(
            whole.is_ok(),
            decoder.is_complete(),
            "only the last word completes"
        );
        decoder.push(support::call_bytes(frame));
        match decoder.next_item() {
            Ok(item) => assert_eq!(item, Some(CallItem::Frame(frame.clone()))),
            Err(error) if at + 1 == frames.len() => {
                assert_eq!(decoder.next_item(), Err(error.clone()), "an error stays");
                assert_eq!(decoder.finish(), Err(error.clone()));
                return Err(Some(error));
            }
            Err(error) => panic!("{error} at {at}"),
        }
    }
    decoder.finish().map_err(Some)
}
