//! What is fuzzed: one function for each decoder and for the machines behind them. Each asserts what
//! must hold for any bytes. `cargo fuzz run <name>` drives one; `cargo test` replays the corpus.

#![allow(dead_code, reason = "each fuzz target uses one function")]

use std::fmt::Display;
use std::str::FromStr;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use culvert_wire::{
    Acceptor, AcceptorCommand, CallDecoder, CallFrame, CallId, CallItem, ControlDecoder,
    ControlFrame, Dialer, FrameError, Head, Hello, InstanceId, Machine, Observation, Offer, Open,
    PlaneName, ReplicaId, RequestHead, RequestId, ServiceName, SessionId, Settings, Welcome, head,
};
use http::header::{HeaderMap, HeaderName, HeaderValue};

type Control = (Vec<ControlFrame>, Option<FrameError>);

/// The control stream: the same frames however the bytes are cut, and each can be sent again.
pub(crate) fn control(data: &[u8]) {
    let data = Bytes::copy_from_slice(data);
    let whole = read_control([data.clone()]);
    assert_eq!(whole, read_control(bytewise(&data)));
    for frame in &whole.0 {
        let mut out = BytesMut::new();
        frame
            .encode(&mut out)
            .expect("what was read can be written");
        assert_eq!(read_control([out.freeze()]), (vec![frame.clone()], None));
    }
}

/// What the opener of a call sends.
pub(crate) fn request(data: &[u8]) {
    call(data, CallDecoder::request);
}

/// What the agent answers.
pub(crate) fn answer(data: &[u8]) {
    call(data, CallDecoder::answer);
    call(data, CallDecoder::probe_answer);
}

/// Both control machines, fed by whoever, at any times: bounded work, and silence after the end.
pub(crate) fn machines(data: &[u8]) {
    let start = Instant::now();
    let mut dialer = Dialer::new(start, hello());
    let mut acceptor = Acceptor::new(start);
    let mut decoder = ControlDecoder::new();
    // A byte of time before each piece of seven bytes: frames arrive in pieces, too.
    let mut now = start;
    for piece in data.chunks(8) {
        let (time, bytes) = piece.split_at(1);
        now += Duration::from_millis(u64::from(time[0]) * 40);
        decoder.push(Bytes::copy_from_slice(bytes));
        while let Ok(Some(frame)) = decoder.next_frame() {
            step(&mut dialer, now, frame.clone());
            step(&mut acceptor, now, frame);
        }
        if time[0].is_multiple_of(2) {
            acceptor.handle_command(now, AcceptorCommand::Welcome(welcome()));
        }
    }
}

/// Heads of an HTTP library: what is taken can be sent, and holds nothing of a connection.
pub(crate) fn head(data: &[u8]) {
    let mut map = HeaderMap::new();
    for line in data.split(|byte| *byte == b'\n').take(600) {
        let colon = line
            .iter()
            .position(|byte| *byte == b':')
            .unwrap_or(line.len());
        let (name, value) = line.split_at(colon);
        let value = HeaderValue::from_bytes(value.get(1..).unwrap_or_default());
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), value) {
            map.append(name, value);
        }
    }
    let mut request = http::Request::new(());
    *request.headers_mut() = map.clone();
    if let Ok(taken) = RequestHead::new(request.into_parts().0) {
        assert!(!taken.headers.keys().any(head::is_connection_header));
        let open = CallFrame::Open(Box::new(open(taken)));
        assert_passes(CallDecoder::request(), &open);
    }
    let mut response = http::Response::new(());
    *response.headers_mut() = map;
    if let Ok(taken) = Head::new(response.into_parts().0) {
        let mut decoder = CallDecoder::answer();
        decoder.push(encoded(&CallFrame::Accepted));
        assert_eq!(
            decoder.next_item(),
            Ok(Some(CallItem::Frame(CallFrame::Accepted)))
        );
        assert_passes(decoder, &CallFrame::Head(Box::new(taken)));
    }
}

/// Names and ids: each text is one value, and each value one text.
pub(crate) fn names(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    canonical::<SessionId>(text);
    canonical::<RequestId>(text);
    canonical::<CallId>(text);
    canonical::<ServiceName>(text);
}

fn canonical<T: FromStr + Display>(text: &str) {
    if let Ok(value) = text.parse::<T>() {
        assert_eq!(value.to_string(), text);
    }
}

fn call(data: &[u8], start: fn() -> CallDecoder) {
    let data = Bytes::copy_from_slice(data);
    let whole = read_call(start(), [data.clone()]);
    assert_eq!(whole, read_call(start(), bytewise(&data)));
    let announced: u64 = whole.0.iter().map(announced).sum();
    assert!(
        whole.1.len() as u64 <= announced,
        "a body longer than its frames"
    );
}

fn announced(frame: &CallFrame) -> u64 {
    if let CallFrame::Data(data) = frame {
        u64::from(data.len)
    } else {
        0
    }
}

fn read_control(pieces: impl IntoIterator<Item = Bytes>) -> Control {
    let mut decoder = ControlDecoder::new();
    let mut frames = vec![];
    for piece in pieces {
        decoder.push(piece);
        loop {
            match decoder.next_frame() {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(error) => return (frames, Some(error)),
            }
        }
    }
    (frames, None)
}

fn read_call(
    mut decoder: CallDecoder,
    pieces: impl IntoIterator<Item = Bytes>,
) -> (Vec<CallFrame>, Vec<u8>, Result<(), FrameError>) {
    let (mut frames, mut body) = (vec![], vec![]);
    for piece in pieces {
        decoder.push(piece);
        loop {
            match decoder.next_item() {
                Ok(Some(CallItem::Frame(frame))) => frames.push(frame),
                Ok(Some(CallItem::Body(bytes))) => body.extend_from_slice(&bytes),
                Ok(None) => break,
                Err(error) => return (frames, body, Err(error)),
            }
        }
    }
    (frames, body, decoder.finish())
}

fn bytewise(bytes: &Bytes) -> impl Iterator<Item = Bytes> + '_ {
    (0..bytes.len()).map(|at| bytes.slice(at..at + 1))
}

fn step<M: Machine>(machine: &mut M, now: Instant, frame: ControlFrame) {
    let over = machine.end().is_some();
    machine.observe(
        now,
        Observation {
            received_bytes: 0,
            round_trip: Duration::from_millis(20),
            calls_in_flight: 0,
            calls_begun: 0,
        },
    );
    machine.handle_timeout(now);
    let judged = machine.handle_frame(now, frame);
    assert!(judged.is_ok() || !over, "an ended machine does not judge");
    let events = std::iter::from_fn(|| machine.poll_event())
        .take(100)
        .count();
    let frames = std::iter::from_fn(|| machine.poll_frame(now))
        .take(100)
        .count();
    assert!(
        events < 100 && frames < 100,
        "one frame, and no end of answers"
    );
    assert!(!over || events + frames == 0, "something after the end");
    assert!(machine.end().is_none() || machine.poll_timeout().is_none());
}

fn assert_passes(mut decoder: CallDecoder, frame: &CallFrame) {
    decoder.push(encoded(frame));
    assert_eq!(
        decoder.next_item(),
        Ok(Some(CallItem::Frame(frame.clone())))
    );
}

fn encoded(frame: &CallFrame) -> Bytes {
    let mut out = BytesMut::new();
    frame.encode(&mut out).expect("what was taken can be sent");
    out.freeze()
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
        service: ServiceName::new("service").expect("a name"),
        call_id: CallId {
            request: RequestId::from_bytes([0; 16]),
            attempt: 0,
        },
        deadline_ms: None,
        trace: None,
        caller: culvert_wire::Caller::default(),
        wants_trailers,
        upgrade,
        method,
        target,
        headers,
    }
}

fn hello() -> Hello {
    Hello {
        version: culvert_wire::VERSION,
        features: vec![],
        instance: InstanceId::from_bytes([0; 16]),
        attach: None,
        offer: Offer::default(),
    }
}

fn welcome() -> Welcome {
    Welcome {
        session: SessionId::from_bytes([0; 16]),
        replica: ReplicaId::from_bytes([0; 16]),
        plane: PlaneName::default(),
        siblings: vec![],
        settings: Settings::default(),
        features: vec![],
    }
}
