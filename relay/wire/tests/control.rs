//! The rules of the control stream, one by one.

use std::time::{Duration, Instant};

use bytes::Bytes;
use culvert_wire::limits::{ASKS_PENDING_MAX, GREETING_TIMEOUT, PING_IDLE};
use culvert_wire::{
    Acceptor, AcceptorCommand, AcceptorEvent, Answer, Ask, CallId, CallKnowledge, Code,
    ControlFrame, Dialer, DialerCommand, DialerEvent, Drain, End, FrameType, Health, Hello,
    InstanceId, Machine, Observation, Offer, Ping, PlaneName, Pong, Reject, Renewed, ReplicaId,
    RequestId, SessionId, Settings, Violation, Welcome,
};

const SECOND: Duration = Duration::from_secs(1);

fn hello(version: u16) -> Hello {
    Hello {
        version,
        features: vec![],
        instance: InstanceId::from_bytes([1; 16]),
        attach: None,
        offer: offer(3),
    }
}

fn offer(seq: u64) -> Offer {
    Offer {
        seq,
        services: vec![],
    }
}

fn welcome() -> Welcome {
    Welcome {
        session: SessionId::from_bytes([2; 16]),
        replica: ReplicaId::from_bytes([3; 16]),
        plane: PlaneName::default(),
        siblings: vec![],
        settings: Settings::default(),
        features: vec![],
    }
}

fn ask(number: u16) -> Ask {
    let mut id = [0; 16];
    id[..2].copy_from_slice(&number.to_be_bytes());
    let call_id = CallId {
        request: RequestId::from_bytes(id),
        attempt: 0,
    };
    Ask { call_id, age_ms: 5 }
}

fn quiet(calls: u32) -> Observation {
    Observation {
        received_bytes: 0,
        round_trip: Duration::from_millis(10),
        calls_in_flight: calls,
        calls_begun: u64::from(calls),
    }
}

fn frames<M: Machine>(machine: &mut M, now: Instant) -> Vec<ControlFrame> {
    std::iter::from_fn(|| machine.poll_frame(now)).collect()
}

fn kinds<M: Machine>(machine: &mut M, now: Instant) -> Vec<FrameType> {
    frames(machine, now)
        .iter()
        .map(ControlFrame::kind)
        .collect()
}

fn events<M: Machine>(machine: &mut M) -> Vec<M::Event> {
    std::iter::from_fn(|| machine.poll_event()).collect()
}

/// An agent whose session stands since `now`.
fn dialer(now: Instant) -> Dialer {
    let mut dialer = Dialer::new(now, hello(1));
    assert_eq!(kinds(&mut dialer, now), [FrameType::Hello]);
    dialer
        .handle_frame(now, ControlFrame::Welcome(welcome()))
        .expect("permitted");
    assert_eq!(events(&mut dialer), [DialerEvent::Welcome(welcome())]);
    dialer
}

/// A relay whose session stands since `now`.
fn acceptor(now: Instant) -> Acceptor {
    let mut acceptor = Acceptor::new(now);
    acceptor
        .handle_frame(now, ControlFrame::Hello(hello(1)))
        .expect("permitted");
    assert_eq!(
        events(&mut acceptor),
        [AcceptorEvent::Hello(Box::new(hello(1)))]
    );
    acceptor.handle_command(now, AcceptorCommand::Welcome(welcome()));
    assert_eq!(
        frames(&mut acceptor, now),
        [ControlFrame::Welcome(welcome())]
    );
    acceptor
}

#[test]
fn nothing_but_the_greeting_is_said_before_the_session_stands() {
    let now = Instant::now();
    let mut dialer = Dialer::new(now, hello(1));
    dialer.handle_command(now, DialerCommand::Offer(offer(4)));
    dialer.handle_command(now, DialerCommand::Health(Health::default()));
    assert_eq!(frames(&mut dialer, now), [ControlFrame::Hello(hello(1))]);
    let later = now + 9 * SECOND;
    dialer.handle_timeout(later);
    assert_eq!(frames(&mut dialer, later), []);
    dialer
        .handle_frame(later, ControlFrame::Welcome(welcome()))
        .expect("permitted");
    assert_eq!(
        kinds(&mut dialer, later),
        [FrameType::Offer, FrameType::Health]
    );
}

#[test]
fn a_greeting_that_does_not_come_ends_the_connection() {
    let now = Instant::now();
    let mut dialer = Dialer::new(now, hello(1));
    let mut silent = Acceptor::new(now);
    let mut undecided = Acceptor::new(now);
    undecided
        .handle_frame(now, ControlFrame::Hello(hello(1)))
        .expect("permitted");
    assert_eq!(events(&mut undecided).len(), 1);
    let late = now + GREETING_TIMEOUT;
    assert_eq!(
        (dialer.poll_timeout(), silent.poll_timeout()),
        (Some(late), Some(late))
    );
    dialer.handle_timeout(late);
    silent.handle_timeout(late);
    undecided.handle_timeout(late);
    for end in [dialer.end(), silent.end(), undecided.end()] {
        assert_eq!(end, Some(End::NoGreeting));
    }
}

#[test]
fn a_rejection_is_told_before_the_end() {
    let now = Instant::now();
    let reject = Reject::new(Code::Busy);
    let mut acceptor = Acceptor::new(now);
    acceptor
        .handle_frame(now, ControlFrame::Hello(hello(1)))
        .expect("permitted");
    assert_eq!(events(&mut acceptor).len(), 1);
    acceptor.handle_command(now, AcceptorCommand::Reject(reject.clone()));
    assert_eq!(acceptor.end(), None, "it has not been written");
    assert_eq!(
        frames(&mut acceptor, now),
        [ControlFrame::Reject(reject.clone())]
    );
    assert_eq!(acceptor.end(), Some(End::Rejected(Code::Busy)));

    let mut dialer = Dialer::new(now, hello(1));
    dialer
        .handle_frame(now, ControlFrame::Reject(reject.clone()))
        .expect("permitted");
    assert_eq!(dialer.end(), None, "it has not been told");
    assert_eq!(events(&mut dialer), [DialerEvent::Rejected(reject)]);
    assert_eq!(dialer.end().map(|end| end.code()), Some(Code::Busy));
}

#[test]
fn a_connection_is_added_to_the_session_that_was_named() {
    let now = Instant::now();
    let own = welcome().session;
    let other = Violation::OtherSession;
    for (attach, welcomed) in [(own, Ok(())), (SessionId::from_bytes([9; 16]), Err(other))] {
        let mut dialer = Dialer::new(
            now,
            Hello {
                attach: Some(attach),
                ..hello(1)
            },
        );
        assert_eq!(
            dialer.handle_frame(now, ControlFrame::Welcome(welcome())),
            welcomed
        );
    }
}

#[test]
fn a_version_that_is_too_old_is_told_the_least() {
    let now = Instant::now();
    let mut acceptor = Acceptor::new(now);
    acceptor
        .handle_frame(now, ControlFrame::Hello(hello(0)))
        .expect("permitted");
    assert_eq!(events(&mut acceptor), [], "nobody has to decide");
    let reject = Reject {
        code: Code::Upgrade,
        minimum: Some(1),
        signed: None,
    };
    assert_eq!(frames(&mut acceptor, now), [ControlFrame::Reject(reject)]);
    assert_eq!(acceptor.end(), Some(End::Rejected(Code::Upgrade)));
}

#[test]
fn pings_come_every_three_seconds_and_every_second_near_calls() {
    let start = Instant::now();
    let mut dialer = dialer(start);
    let mut pings = vec![];
    for tick in 0..=400u32 {
        let now = start + tick * Duration::from_millis(100);
        // A call from second 10 to second 15; something is heard all the time.
        let calls = u32::from((100..150).contains(&tick));
        let received_bytes = u64::from(tick);
        dialer.observe(
            now,
            Observation {
                received_bytes,
                calls_begun: 0,
                ..quiet(calls)
            },
        );
        dialer.handle_timeout(now);
        for frame in frames(&mut dialer, now) {
            let ControlFrame::Ping(Ping { nonce }) = frame else {
                panic!("{frame:?}")
            };
            pings.push(tick / 10);
            let pong = ControlFrame::Pong(Pong {
                nonce,
                ..Pong::default()
            });
            dialer.handle_frame(now, pong).expect("permitted");
        }
    }
    let mut expected = vec![3, 6, 9];
    expected.extend(10..=25);
    expected.extend([28, 31, 34, 37, 40]);
    assert_eq!(pings, expected);
}

#[test]
fn bytes_of_any_kind_count_against_the_death_of_the_transport() {
    let start = Instant::now();
    let dead_at = |bytes_at: Option<u64>| {
        let mut dialer = dialer(start);
        (0..10_000u64).find(|at| {
            let now = start + Duration::from_millis(*at);
            let received_bytes = bytes_at.map_or(0, |bytes_at| u64::from(*at >= bytes_at));
            dialer.observe(
                now,
                Observation {
                    received_bytes,
                    ..quiet(0)
                },
            );
            dialer.handle_timeout(now);
            frames(&mut dialer, now);
            assert_eq!(events(&mut dialer), []);
            dialer.end() == Some(End::TransportDead)
        })
    };
    // The ping of second 3, a second of silence, and the second look.
    assert_eq!(dead_at(None), Some(4050));
    assert_eq!(dead_at(Some(2999)), Some(4050), "before the ping");
    // Then the ping of second 6.
    assert_eq!(dead_at(Some(3500)), Some(7050), "after the ping");
    assert_eq!(dead_at(Some(4020)), Some(7050), "between the two looks");
}

#[test]
fn only_the_newest_offer_is_sent_and_one_a_second() {
    let start = Instant::now();
    let mut dialer = dialer(start);
    for seq in [4, 5, 3, 6] {
        dialer.handle_command(start, DialerCommand::Offer(offer(seq)));
    }
    assert_eq!(frames(&mut dialer, start), [], "the greeting carried one");
    assert_eq!(dialer.poll_timeout(), Some(start + SECOND));
    let now = start + SECOND;
    assert_eq!(frames(&mut dialer, now), [ControlFrame::Offer(offer(6))]);
    dialer.handle_command(now, DialerCommand::Offer(offer(6)));
    assert_eq!(frames(&mut dialer, now + SECOND), [], "it has been sent");
}

#[test]
fn one_renewal_at_a_time() {
    let now = Instant::now();
    let mut dialer = dialer(now);
    let request = |text: &'static str| Bytes::from_static(text.as_bytes());
    for text in ["one", "two"] {
        dialer.handle_command(now, DialerCommand::Renew(request(text)));
    }
    assert_eq!(
        frames(&mut dialer, now),
        [ControlFrame::Renew(request("two"))]
    );
    dialer.handle_command(now, DialerCommand::Renew(request("three")));
    assert_eq!(frames(&mut dialer, now), []);
    let refused = Renewed::Refused(Code::NotAllowed);
    dialer
        .handle_frame(now, ControlFrame::Renewed(refused.clone()))
        .expect("permitted");
    assert_eq!(events(&mut dialer), [DialerEvent::Renewed(refused)]);
    assert_eq!(
        frames(&mut dialer, now),
        [ControlFrame::Renew(request("three"))]
    );
}

#[test]
fn a_question_is_asked_once_and_too_many_are_answered_here() {
    let now = Instant::now();
    let mut acceptor = acceptor(now);
    let cap = u16::try_from(ASKS_PENDING_MAX).expect("a small cap");
    for number in 0..cap {
        acceptor.handle_command(now, AcceptorCommand::Ask(ask(number)));
    }
    acceptor.handle_command(now, AcceptorCommand::Ask(ask(0)));
    assert_eq!(events(&mut acceptor), []);
    acceptor.handle_command(now, AcceptorCommand::Ask(ask(cap)));
    let unknown = Answer {
        call_id: ask(cap).call_id,
        knowledge: CallKnowledge::Unknown,
    };
    assert_eq!(events(&mut acceptor), [AcceptorEvent::Answered(unknown)]);
    assert_eq!(frames(&mut acceptor, now).len(), ASKS_PENDING_MAX);
    let seen = Answer {
        call_id: ask(0).call_id,
        knowledge: CallKnowledge::Seen,
    };
    acceptor
        .handle_frame(now, ControlFrame::Answer(seen))
        .expect("permitted");
    assert_eq!(events(&mut acceptor), [AcceptorEvent::Answered(seen)]);
    let again = acceptor.handle_frame(now, ControlFrame::Answer(seen));
    assert_eq!(again, Err(Violation::Unasked(FrameType::Answer)));
}

#[test]
fn a_pong_tells_of_the_probe() {
    let start = Instant::now();
    let mut acceptor = acceptor(start);
    let ping = |acceptor: &mut Acceptor, nonce: u64, seconds: u32| {
        let now = start + seconds * SECOND;
        acceptor
            .handle_frame(now, ControlFrame::Ping(Ping { nonce }))
            .expect("permitted");
        (events(acceptor), frames(acceptor, now))
    };
    let pong = |nonce, probe_age_ms, probe_waiting_ms| {
        vec![ControlFrame::Pong(Pong {
            nonce,
            probe_age_ms,
            probe_waiting_ms,
        })]
    };
    let first = vec![AcceptorEvent::Probe { nonce: 1 }];
    assert_eq!(ping(&mut acceptor, 1, 3), (first, pong(1, None, Some(0))));
    assert_eq!(
        ping(&mut acceptor, 2, 4),
        (vec![], pong(2, None, Some(1000)))
    );
    let answered = AcceptorCommand::ProbeAnswered { nonce: 1 };
    acceptor.handle_command(start + 5 * SECOND, answered);
    for nonce in 3..=10 {
        let age = (nonce - 2) * 1000;
        let seconds = u32::try_from(nonce).expect("small") + 3;
        assert_eq!(
            ping(&mut acceptor, nonce, seconds),
            (vec![], pong(nonce, Some(age), None))
        );
    }
    assert_eq!(
        ping(&mut acceptor, 11, 14).0,
        [AcceptorEvent::Probe { nonce: 2 }]
    );
}

#[test]
fn a_doubt_makes_one_probe() {
    let now = Instant::now();
    let mut acceptor = acceptor(now);
    for _ in 0..3 {
        acceptor.handle_command(now, AcceptorCommand::Suspect);
    }
    assert_eq!(events(&mut acceptor), [AcceptorEvent::Probe { nonce: 1 }]);
    // An answer to a probe that was never sent proves nothing.
    acceptor.handle_command(now, AcceptorCommand::ProbeAnswered { nonce: 2 });
    acceptor.handle_command(now, AcceptorCommand::Suspect);
    assert_eq!(events(&mut acceptor), []);
}

#[test]
fn a_pong_that_waits_too_long_for_a_probe_means_redial_once() {
    let start = Instant::now();
    let mut dialer = dialer(start);
    let mut said = 0;
    for (ping, waiting) in [(1, 1000), (2, 4000), (3, 5000), (4, 8000)] {
        let now = start + ping * PING_IDLE;
        let nonce = u64::from(ping);
        assert_eq!(
            frames(&mut dialer, now),
            [ControlFrame::Ping(Ping { nonce })]
        );
        let pong = Pong {
            nonce,
            probe_age_ms: None,
            probe_waiting_ms: Some(waiting),
        };
        dialer
            .handle_frame(now, ControlFrame::Pong(pong))
            .expect("permitted");
        let dead = events(&mut dialer).contains(&DialerEvent::ServingDead);
        assert_eq!(dead, ping == 3, "with ping {ping}");
        said += u32::from(dead);
    }
    assert_eq!((said, dialer.end()), (1, None));
}

#[test]
fn a_drain_binds_and_is_acknowledged_after_it_was_told() {
    let now = Instant::now();
    let (mut dialer, mut acceptor) = (dialer(now), acceptor(now));
    dialer.observe(now, quiet(0));
    dialer.handle_command(
        now,
        DialerCommand::Drain {
            timeout: 60 * SECOND,
        },
    );
    let drain = ControlFrame::Drain(Drain { timeout_ms: 60_000 });
    assert_eq!(frames(&mut dialer, now), std::slice::from_ref(&drain));
    acceptor
        .handle_frame(now, drain.clone())
        .expect("permitted");
    assert_eq!(
        events(&mut acceptor),
        [AcceptorEvent::Draining {
            timeout: 60 * SECOND
        }]
    );
    assert_eq!(frames(&mut acceptor, now), [ControlFrame::DrainAck]);
    assert_eq!(
        acceptor.handle_frame(now, drain),
        Err(Violation::Misplaced(FrameType::Drain))
    );
    dialer
        .handle_frame(now, ControlFrame::DrainAck)
        .expect("permitted");
    // What was opened before the acknowledgement may still come.
    let lingered = now + Duration::from_millis(100);
    assert_eq!(dialer.poll_timeout(), Some(lingered));
    dialer.handle_timeout(lingered - Duration::from_millis(1));
    assert_eq!(dialer.end(), None);
    dialer.handle_timeout(lingered);
    assert_eq!(dialer.end(), Some(End::Drained { clean: true }));
}

/// Both leave at once: the agent's word that no call may come any more counts here as well.
#[test]
fn a_drain_binds_a_replica_that_leaves_and_still_takes_calls() {
    let now = Instant::now();
    let mut acceptor = acceptor(now);
    acceptor.observe(now, quiet(0));
    acceptor.handle_command(
        now,
        AcceptorCommand::GoAway {
            leave_in: 60 * SECOND,
            smear: Duration::ZERO,
        },
    );
    assert_eq!(kinds(&mut acceptor, now), [FrameType::GoAway]);
    acceptor.handle_timeout(now);
    assert_eq!(acceptor.end(), None, "idle, and calls may still come");
    acceptor
        .handle_frame(now, ControlFrame::Drain(Drain { timeout_ms: 30_000 }))
        .expect("permitted");
    let timeout = 30 * SECOND;
    assert_eq!(events(&mut acceptor), [AcceptorEvent::Draining { timeout }]);
    assert_eq!(kinds(&mut acceptor, now), [FrameType::DrainAck]);
    acceptor.observe(now, quiet(0));
    acceptor.handle_timeout(now);
    assert!(acceptor.end().is_some(), "idle, and none can come any more");
}

#[test]
fn what_a_peer_may_not_send_ends_the_link() {
    let now = Instant::now();
    let unasked = [
        (
            ControlFrame::DrainAck,
            Violation::Unasked(FrameType::DrainAck),
        ),
        (
            ControlFrame::Renewed(Renewed::Refused(Code::Busy)),
            Violation::Unasked(FrameType::Renewed),
        ),
        (
            ControlFrame::Pong(Pong::default()),
            Violation::Unasked(FrameType::Pong),
        ),
        (
            ControlFrame::Ping(Ping { nonce: 1 }),
            Violation::Misplaced(FrameType::Ping),
        ),
        (
            ControlFrame::Hello(hello(1)),
            Violation::Misplaced(FrameType::Hello),
        ),
        (
            ControlFrame::Welcome(welcome()),
            Violation::Misplaced(FrameType::Welcome),
        ),
    ];
    for (frame, violation) in unasked {
        let mut dialer = dialer(now);
        assert_eq!(dialer.handle_frame(now, frame), Err(violation));
        assert_eq!(dialer.end(), Some(End::Violation(violation)));
        assert_eq!(dialer.poll_timeout(), None);
    }
    let stale = Violation::StaleOffer { seq: 3, last: 3 };
    let unpermitted = [
        (ControlFrame::Offer(offer(3)), stale),
        (
            ControlFrame::Hello(hello(1)),
            Violation::Misplaced(FrameType::Hello),
        ),
        (
            ControlFrame::Pong(Pong::default()),
            Violation::Misplaced(FrameType::Pong),
        ),
        (
            ControlFrame::Planes(Bytes::new()),
            Violation::Misplaced(FrameType::Planes),
        ),
    ];
    for (frame, violation) in unpermitted {
        let mut acceptor = acceptor(now);
        assert_eq!(acceptor.handle_frame(now, frame), Err(violation));
        assert_eq!(acceptor.end(), Some(End::Violation(violation)));
        assert_eq!(acceptor.poll_timeout(), None);
    }
}

#[test]
fn floods_end_the_link_with_limit() {
    let now = Instant::now();
    let flood = |frame: &dyn Fn(u64) -> ControlFrame| {
        let mut acceptor = acceptor(now);
        (4..10_000).find_map(|number| acceptor.handle_frame(now, frame(number)).err())
    };
    let pings = flood(&|nonce| ControlFrame::Ping(Ping { nonce }));
    assert_eq!(pings, Some(Violation::TooFast(FrameType::Ping)));
    let offers = flood(&|seq| ControlFrame::Offer(offer(seq)));
    assert_eq!(offers, Some(Violation::TooFast(FrameType::Offer)));
    let reports = flood(&|_| ControlFrame::Health(Health::default()));
    assert_eq!(reports, Some(Violation::TooFast(FrameType::Health)));
    let renewals = flood(&|_| ControlFrame::Renew(Bytes::new()));
    assert_eq!(renewals, Some(Violation::TooMany(FrameType::Renew)));
    let mut dialer = dialer(now);
    let asks = (0..2000).find_map(|n| dialer.handle_frame(now, ControlFrame::Ask(ask(n))).err());
    assert_eq!(asks, Some(Violation::TooMany(FrameType::Ask)));
    assert_eq!(asks.map(Violation::code), Some(Code::Limit));
}
