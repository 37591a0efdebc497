//! Any frame that can be sent.

use bytes::Bytes;
use culvert_wire::{
    Answer, Ask, BackendLoad, CallFrame, CallId, CallKnowledge, Caller, Code, ControlFrame, Drain,
    Forward, GoAway, Head, Health, Hello, InstanceId, Offer, Open, Ping, PlaneName, Pong, Reject,
    Renewed, ReplicaId, RequestId, ServiceHealth, ServiceKind, ServiceName, ServiceOffer,
    ServiceState, SessionId, Settings, Sibling, TraceContext, Welcome,
};
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

pub(crate) fn control_frame() -> impl Strategy<Value = ControlFrame> {
    let number = any::<u64>;
    prop_oneof![
        hello().prop_map(ControlFrame::Hello),
        welcome().prop_map(ControlFrame::Welcome),
        (code(), option::of(any::<u16>()), option::of(opaque())).prop_map(
            |(code, minimum, signed)| ControlFrame::Reject(Reject {
                code,
                minimum,
                signed
            })
        ),
        offer().prop_map(ControlFrame::Offer),
        vec(service_health(), 0..6).prop_map(|services| ControlFrame::Health(Health { services })),
        number().prop_map(|nonce| ControlFrame::Ping(Ping { nonce })),
        (number(), option::of(number()), option::of(number())).prop_map(
            |(nonce, probe_age_ms, probe_waiting_ms)| {
                ControlFrame::Pong(Pong {
                    nonce,
                    probe_age_ms,
                    probe_waiting_ms,
                })
            }
        ),
        (call_id(), number())
            .prop_map(|(call_id, age_ms)| ControlFrame::Ask(Ask { call_id, age_ms })),
        (call_id(), 0..3usize).prop_map(|(call_id, at)| {
            let all = [
                CallKnowledge::Unknown,
                CallKnowledge::NeverSeen,
                CallKnowledge::Seen,
            ];
            ControlFrame::Answer(Answer {
                call_id,
                knowledge: all[at],
            })
        }),
        opaque().prop_map(ControlFrame::Renew),
        opaque().prop_map(|chain| ControlFrame::Renewed(Renewed::Issued(chain))),
        code().prop_map(|code| ControlFrame::Renewed(Renewed::Refused(code))),
        opaque().prop_map(ControlFrame::Planes),
        (number(), number()).prop_map(|(leave_in_ms, smear_ms)| {
            ControlFrame::GoAway(GoAway {
                leave_in_ms,
                smear_ms,
            })
        }),
        number().prop_map(|timeout_ms| ControlFrame::Drain(Drain { timeout_ms })),
        Just(ControlFrame::DrainAck),
        opaque().prop_map(ControlFrame::Revoked),
    ]
}

/// A whole request: its first frame, pieces of a body, and its last frame.
pub(crate) fn request() -> impl Strategy<Value = (CallFrame, Vec<Bytes>, CallFrame)> {
    let first = prop_oneof![
        4 => open().prop_map(|open| CallFrame::Open(Box::new(open))),
        1 => (text(), text(), vec(any::<[u8; 16]>(), 0..4), open()).prop_map(
            |(tenant, connector, exclude, open)| {
                let exclude = exclude.into_iter().map(SessionId::from_bytes).collect();
                CallFrame::Forward(Box::new(Forward { tenant, connector, exclude, open }))
            }
        ),
    ];
    (first, vec(opaque(), 0..4), last())
}

/// A whole answer that has begun: its head, pieces of a body, and its last frame.
pub(crate) fn answer() -> impl Strategy<Value = (CallFrame, Vec<Bytes>, CallFrame)> {
    let head = (status(), headers(), vec(header_name(), 0..3)).prop_map(
        |(status, headers, trailer_names)| {
            CallFrame::Head(Box::new(Head {
                status,
                headers,
                trailer_names,
            }))
        },
    );
    (head, vec(opaque(), 0..4), last())
}

fn last() -> impl Strategy<Value = CallFrame> {
    prop_oneof![
        headers().prop_map(CallFrame::End),
        code().prop_map(CallFrame::Abort),
    ]
}

fn hello() -> impl Strategy<Value = Hello> {
    let attach = option::of(any::<[u8; 16]>());
    (
        1..u16::MAX,
        vec(text(), 0..4),
        any::<[u8; 16]>(),
        attach,
        offer(),
    )
        .prop_map(|(version, features, instance, attach, offer)| Hello {
            version,
            features,
            instance: InstanceId::from_bytes(instance),
            attach: attach.map(SessionId::from_bytes),
            offer,
        })
}

fn welcome() -> impl Strategy<Value = Welcome> {
    let sibling = (any::<[u8; 16]>(), vec(text(), 0..3), any::<u16>()).prop_map(
        |(replica, addresses, weight)| Sibling {
            replica: ReplicaId::from_bytes(replica),
            addresses,
            weight,
        },
    );
    let ids = (any::<[u8; 16]>(), any::<[u8; 16]>());
    (
        ids,
        text(),
        text(),
        vec(sibling, 0..4),
        any::<u8>(),
        vec(text(), 0..4),
    )
        .prop_map(
            |((session, replica), region, zone, siblings, connections, features)| Welcome {
                session: SessionId::from_bytes(session),
                replica: ReplicaId::from_bytes(replica),
                plane: PlaneName { region, zone },
                siblings,
                settings: Settings { connections },
                features,
            },
        )
}

fn offer() -> impl Strategy<Value = Offer> {
    let kind =
        (0..3usize).prop_map(|at| [ServiceKind::Model, ServiceKind::Mcp, ServiceKind::Http][at]);
    let service = (service_name(), kind, vec(text(), 0..4), any::<[u8; 32]>()).prop_map(
        |(name, kind, models, digest)| ServiceOffer {
            name,
            kind,
            models,
            digest,
        },
    );
    (any::<u64>(), vec(service, 0..4)).prop_map(|(seq, services)| Offer { seq, services })
}

fn service_health() -> impl Strategy<Value = ServiceHealth> {
    let load = (any::<u32>(), any::<u32>(), any::<u16>()).prop_map(
        |(running, waiting, cache_permille)| BackendLoad {
            running,
            waiting,
            cache_permille,
        },
    );
    let state = (0..3usize)
        .prop_map(|at| [ServiceState::Unknown, ServiceState::Up, ServiceState::Down][at]);
    (
        service_name(),
        state,
        any::<u32>(),
        any::<u32>(),
        option::of(load),
        any::<u64>(),
    )
        .prop_map(
            |(name, state, in_flight, capacity, load, latency_us)| ServiceHealth {
                name,
                state,
                in_flight,
                capacity,
                load,
                latency_us,
            },
        )
}

fn open() -> impl Strategy<Value = Open> {
    let about = (
        service_name(),
        call_id(),
        option::of(any::<u64>()),
        option::of(trace()),
        caller(),
    );
    let request = (
        method(),
        "/[!-\"$-~]{0,40}",
        headers(),
        option::of(text()),
        any::<bool>(),
    );
    (about, request).prop_filter_map("a target", |(about, request)| {
        let (service, call_id, deadline_ms, trace, caller) = about;
        let (method, target, headers, upgrade, wants_trailers) = request;
        let target = target.parse().ok().filter(|parsed| *parsed == *target)?;
        Some(Open {
            service,
            call_id,
            deadline_ms,
            trace,
            caller,
            wants_trailers,
            upgrade,
            method,
            target,
            headers,
        })
    })
}

fn trace() -> impl Strategy<Value = TraceContext> {
    (
        any::<[u8; 16]>(),
        any::<[u8; 8]>(),
        any::<u8>(),
        option::of(text()),
    )
        .prop_map(|(trace_id, span_id, flags, state)| TraceContext {
            trace_id,
            span_id,
            flags,
            state,
        })
}

fn caller() -> impl Strategy<Value = Caller> {
    (text(), text(), option::of(text())).prop_map(|(tenant, key_id, user)| Caller {
        tenant,
        key_id,
        user,
    })
}

fn method() -> impl Strategy<Value = Method> {
    "[A-Z]{1,12}".prop_filter_map("a method that may pass", |text| {
        text.parse()
            .ok()
            .filter(|method| *method != Method::CONNECT)
    })
}

fn status() -> impl Strategy<Value = StatusCode> {
    prop_oneof![Just(101u16), 200..600u16]
        .prop_filter_map("a status", |status| StatusCode::from_u16(status).ok())
}

/// Fields that may stand in headers and trailers alike.
fn headers() -> impl Strategy<Value = HeaderMap> {
    vec((header_name(), vec(any::<u8>(), 0..20)), 0..8).prop_map(|fields| {
        let mut map = HeaderMap::new();
        for (name, value) in fields {
            if let Ok(value) = HeaderValue::from_bytes(&value) {
                map.append(name, value);
            }
        }
        map
    })
}

fn header_name() -> impl Strategy<Value = HeaderName> {
    prop_oneof![
        "x-[a-z0-9_.!-]{0,10}",
        prop::sample::select(vec!["accept", "content-type", "authorization", "etag"])
            .prop_map(str::to_owned),
    ]
    .prop_filter_map("a name", |name| name.parse().ok())
}

fn code() -> impl Strategy<Value = Code> {
    any::<u16>().prop_map(Code::from_u16)
}

fn call_id() -> impl Strategy<Value = CallId> {
    (any::<[u8; 16]>(), any::<u8>()).prop_map(|(request, attempt)| CallId {
        request: RequestId::from_bytes(request),
        attempt,
    })
}

fn service_name() -> impl Strategy<Value = ServiceName> {
    "[a-z0-9]([a-z0-9-]{0,10}[a-z0-9])?"
        .prop_filter_map("a name", |name| ServiceName::new(&name).ok())
}

fn text() -> impl Strategy<Value = String> {
    "\\PC{0,16}"
}

fn opaque() -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..300).prop_map(Bytes::from)
}
