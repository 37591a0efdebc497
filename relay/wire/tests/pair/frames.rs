//! What the owners of the machines say, and what a peer without rules does.

use std::time::Duration;

use bytes::Bytes;
use culvert_wire::{
    AcceptorCommand, Answer, Ask, CallId, CallKnowledge, Code, ControlFrame, Drain, GoAway, Health,
    Hello, InstanceId, Offer, Ping, PlaneName, Pong, Reject, Renewed, ReplicaId, RequestId,
    SessionId, Settings, Welcome,
};

use crate::random::Random;

pub(crate) fn closed() -> Code {
    Code::AgentGone
}

pub(crate) fn call_id(number: u64) -> CallId {
    let mut bytes = [0; 16];
    bytes[8..].copy_from_slice(&number.to_be_bytes());
    CallId {
        request: RequestId::from_bytes(bytes),
        attempt: 0,
    }
}

pub(crate) fn welcome() -> Welcome {
    Welcome {
        session: SessionId::from_bytes([2; 16]),
        replica: ReplicaId::from_bytes([3; 16]),
        plane: PlaneName {
            region: "US".into(),
            zone: "ORF".into(),
        },
        siblings: vec![],
        settings: Settings::default(),
        features: vec![],
    }
}

pub(crate) fn hello() -> Hello {
    Hello {
        version: culvert_wire::VERSION,
        features: vec![],
        instance: InstanceId::from_bytes([1; 16]),
        attach: None,
        offer: Offer {
            seq: 1,
            services: vec![],
        },
    }
}

/// Any control frame, with small numbers so that they sometimes fit.
pub(crate) fn any_frame(random: &mut Random) -> ControlFrame {
    let call = call_id(random.below(3));
    let small = random.below(5);
    match random.below(24) {
        0 => ControlFrame::Hello(hello()),
        1 => ControlFrame::Welcome(welcome()),
        2 => ControlFrame::Reject(Reject::new(Code::Busy)),
        3 => ControlFrame::Offer(Offer {
            seq: small,
            services: vec![],
        }),
        4 => ControlFrame::Health(Health::default()),
        5 => ControlFrame::Pong(Pong {
            nonce: small,
            ..Pong::default()
        }),
        6 => ControlFrame::Ask(Ask {
            call_id: call,
            age_ms: small,
        }),
        7 => ControlFrame::Answer(Answer {
            call_id: call,
            knowledge: CallKnowledge::Seen,
        }),
        8 => ControlFrame::Renew(Bytes::new()),
        9 => ControlFrame::Renewed(Renewed::Refused(Code::NotAllowed)),
        10 => ControlFrame::Planes(Bytes::new()),
        11 => ControlFrame::GoAway(GoAway {
            leave_in_ms: u64::MAX,
            smear_ms: u64::MAX,
        }),
        12 => ControlFrame::Drain(Drain {
            timeout_ms: u64::MAX,
        }),
        13 => ControlFrame::DrainAck,
        14 => ControlFrame::Revoked(Bytes::new()),
        _ => ControlFrame::Ping(Ping {
            nonce: random.next(),
        }),
    }
}

pub(crate) fn any_acceptor_command(random: &mut Random) -> Option<AcceptorCommand> {
    Some(match random.below(12) {
        0 => AcceptorCommand::Welcome(welcome()),
        1 => AcceptorCommand::Ask(Ask {
            call_id: call_id(random.below(3)),
            age_ms: 0,
        }),
        2 => AcceptorCommand::Suspect,
        3 => AcceptorCommand::ProbeAnswered {
            nonce: random.below(4),
        },
        4 => AcceptorCommand::GoAway {
            leave_in: Duration::MAX,
            smear: Duration::MAX,
        },
        5 => AcceptorCommand::Planes(Bytes::new()),
        6 => AcceptorCommand::EndCalls,
        _ => return None,
    })
}
