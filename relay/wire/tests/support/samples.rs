//! One or more of every frame, with every field of it set in one and missing in another.

use bytes::Bytes;
use culvert_wire::{
    Answer, Ask, BackendLoad, CallFrame, CallId, CallKnowledge, Caller, Code, ControlFrame, Data,
    Drain, Forward, GoAway, Head, Health, Hello, InstanceId, Offer, Open, Ping, PlaneName, Pong,
    Reject, Renewed, ReplicaId, RequestId, ServiceHealth, ServiceKind, ServiceName, ServiceOffer,
    ServiceState, SessionId, Settings, Sibling, TraceContext, Welcome,
};
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::uri::PathAndQuery;
use http::{Method, StatusCode};

/// Every sample, encoded.
pub(crate) fn all() -> Vec<(&'static str, Bytes)> {
    let control = control()
        .into_iter()
        .map(|(name, frame)| (name, super::control_bytes(&frame)));
    let call = call()
        .into_iter()
        .map(|(name, frame)| (name, super::call_bytes(&frame)));
    control.chain(call).collect()
}

pub(crate) fn control() -> Vec<(&'static str, ControlFrame)> {
    let mut frames = greetings();
    frames.extend(reports());
    frames.extend(vec![
        ("ping", ControlFrame::Ping(Ping { nonce: 7 })),
        (
            "pong",
            ControlFrame::Pong(Pong {
                nonce: 7,
                ..Pong::default()
            }),
        ),
        (
            "pong_with_probe",
            ControlFrame::Pong(Pong {
                nonce: 1 << 40,
                probe_age_ms: Some(1500),
                probe_waiting_ms: Some(250),
            }),
        ),
        (
            "ask",
            ControlFrame::Ask(Ask {
                call_id: call_id(1),
                age_ms: 1234,
            }),
        ),
        ("answer_unknown", answer(CallKnowledge::Unknown)),
        ("answer_never_seen", answer(CallKnowledge::NeverSeen)),
        ("answer_seen", answer(CallKnowledge::Seen)),
        (
            "renew",
            ControlFrame::Renew(Bytes::from_static(b"csr and proof")),
        ),
        (
            "renewed",
            ControlFrame::Renewed(Renewed::Issued(Bytes::from_static(b"chain"))),
        ),
        (
            "renewed_refused",
            ControlFrame::Renewed(Renewed::Refused(Code::NotAllowed)),
        ),
        (
            "planes",
            ControlFrame::Planes(Bytes::from_static(b"signed planes")),
        ),
        (
            "go_away",
            ControlFrame::GoAway(GoAway {
                leave_in_ms: 300_000,
                smear_ms: 5_000,
            }),
        ),
        (
            "drain",
            ControlFrame::Drain(Drain {
                timeout_ms: 300_000,
            }),
        ),
        ("drain_ack", ControlFrame::DrainAck),
        (
            "revoked",
            ControlFrame::Revoked(Bytes::from_static(b"signed revocation")),
        ),
    ]);
    frames
}

pub(crate) fn call() -> Vec<(&'static str, CallFrame)> {
    vec![
        ("open_small", CallFrame::Open(Box::new(small_open()))),
        ("open", CallFrame::Open(Box::new(open()))),
        (
            "forward",
            CallFrame::Forward(Box::new(Forward {
                tenant: "acme".into(),
                connector: "prod-vpc".into(),
                exclude: vec![
                    SessionId::from_bytes([8; 16]),
                    SessionId::from_bytes([9; 16]),
                ],
                open: small_open(),
            })),
        ),
        ("accepted", CallFrame::Accepted),
        ("refused", CallFrame::Refused(Code::QueueFull)),
        ("head_small", CallFrame::Head(Box::new(small_head()))),
        ("head", CallFrame::Head(Box::new(head()))),
        ("data", CallFrame::Data(Data { len: 16_372 })),
        ("end", CallFrame::End(HeaderMap::new())),
        (
            "end_with_trailers",
            CallFrame::End(headers(&[("grpc-status", "0"), ("x-sum", "a")])),
        ),
        ("abort", CallFrame::Abort(Code::BackendReset)),
        (
            "abort_of_a_later_version",
            CallFrame::Abort(Code::from_u16(299)),
        ),
        ("enough", CallFrame::Enough),
        ("probe", CallFrame::Probe(3)),
        ("probe_ack", CallFrame::ProbeAck(3)),
    ]
}

pub(crate) fn small_open() -> Open {
    Open {
        service: service("llama"),
        call_id: call_id(0),
        deadline_ms: None,
        trace: None,
        caller: Caller::default(),
        wants_trailers: false,
        upgrade: None,
        method: Method::GET,
        target: PathAndQuery::from_static("/v1/models"),
        headers: HeaderMap::new(),
    }
}

fn open() -> Open {
    Open {
        deadline_ms: Some(30_000),
        trace: Some(TraceContext {
            trace_id: [0xaa; 16],
            span_id: [0xbb; 8],
            flags: 1,
            state: Some("vendor=1".into()),
        }),
        caller: Caller {
            tenant: "acme".into(),
            key_id: "k1".into(),
            user: Some("kim@example.com".into()),
        },
        wants_trailers: true,
        upgrade: Some("websocket".into()),
        method: Method::POST,
        target: PathAndQuery::from_static("/v1/chat/completions?beta=1"),
        headers: headers(&[
            ("content-type", "application/json"),
            ("accept", "text/event-stream"),
            ("content-length", "42"),
            ("x-twice", "one"),
            ("x-twice", "two"),
        ]),
        ..small_open()
    }
}

fn small_head() -> Head {
    Head {
        status: StatusCode::NO_CONTENT,
        headers: HeaderMap::new(),
        trailer_names: vec![],
    }
}

fn head() -> Head {
    let mut headers = headers(&[
        ("content-type", "text/event-stream"),
        ("cache-control", "no-cache"),
    ]);
    let opaque = HeaderValue::from_bytes(b"caf\xe9").expect("obs-text is a value");
    headers.append("x-latin", opaque);
    Head {
        status: StatusCode::OK,
        headers,
        trailer_names: vec![HeaderName::from_static("grpc-status")],
    }
}

fn greetings() -> Vec<(&'static str, ControlFrame)> {
    let instance = InstanceId::from_bytes([1; 16]);
    let small = Hello {
        version: 1,
        features: vec![],
        instance,
        attach: None,
        offer: Offer::default(),
    };
    let hello = Hello {
        features: vec!["a-feature".into()],
        attach: Some(SessionId::from_bytes([2; 16])),
        offer: offer(),
        ..small
    };
    let welcome = Welcome {
        session: SessionId::from_bytes([2; 16]),
        replica: ReplicaId::from_bytes([3; 16]),
        plane: PlaneName {
            region: "US".into(),
            zone: "ORF".into(),
        },
        siblings: vec![
            Sibling {
                replica: ReplicaId::from_bytes([4; 16]),
                addresses: vec!["192.0.2.1:443".into(), "[2001:db8::1]:443".into()],
                weight: 10,
            },
            Sibling {
                replica: ReplicaId::from_bytes([5; 16]),
                addresses: vec![],
                weight: 0,
            },
        ],
        settings: Settings { connections: 2 },
        features: vec!["a-feature".into()],
    };
    let upgrade = Reject {
        code: Code::Upgrade,
        minimum: Some(2),
        signed: None,
    };
    let revoked = Bytes::from_static(b"signed by control");
    vec![
        ("hello_small", ControlFrame::Hello(small)),
        ("hello", ControlFrame::Hello(hello)),
        ("welcome", ControlFrame::Welcome(welcome)),
        ("reject_busy", ControlFrame::Reject(Reject::new(Code::Busy))),
        ("reject_upgrade", ControlFrame::Reject(upgrade)),
        (
            "reject_revoked",
            ControlFrame::Reject(Reject {
                code: Code::Revoked,
                minimum: None,
                signed: Some(revoked),
            }),
        ),
        ("offer", ControlFrame::Offer(offer())),
        (
            "offer_of_nothing",
            ControlFrame::Offer(Offer {
                seq: 5,
                services: vec![],
            }),
        ),
    ]
}

fn reports() -> Vec<(&'static str, ControlFrame)> {
    let health = |name: &str, state| ServiceHealth {
        name: service(name),
        state,
        in_flight: 0,
        capacity: 0,
        load: None,
        latency_us: 0,
    };
    let loaded = ServiceHealth {
        in_flight: 3,
        capacity: 64,
        load: Some(BackendLoad {
            running: 3,
            waiting: 1,
            cache_permille: 875,
        }),
        latency_us: 48_000,
        ..health("llama", ServiceState::Up)
    };
    let services = vec![
        loaded,
        health("tickets", ServiceState::Down),
        health("new", ServiceState::Unknown),
    ];
    vec![("health", ControlFrame::Health(Health { services }))]
}

fn offer() -> Offer {
    let service = |name, kind, models: &[&str]| ServiceOffer {
        name: service(name),
        kind,
        models: models.iter().map(|model| model.to_string()).collect(),
        digest: [0xd1; 32],
    };
    Offer {
        seq: 4,
        services: vec![
            service(
                "llama",
                ServiceKind::Model,
                &["meta-llama/Llama-3.1-8B-Instruct"],
            ),
            service("tickets", ServiceKind::Mcp, &[]),
            service("billing", ServiceKind::Http, &[]),
        ],
    }
}

fn answer(knowledge: CallKnowledge) -> ControlFrame {
    ControlFrame::Answer(Answer {
        call_id: call_id(1),
        knowledge,
    })
}

fn call_id(attempt: u8) -> CallId {
    CallId {
        request: RequestId::from_bytes([0x07; 16]),
        attempt,
    }
}

fn service(name: &str) -> ServiceName {
    ServiceName::new(name).expect("a valid name")
}

fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in fields {
        map.append(*name, HeaderValue::from_static(value));
    }
    map
}
