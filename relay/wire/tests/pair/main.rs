//! Both control machines against each other, on a virtual clock, over thousands of seeds.
//!
//! `CULVERT_SEED=n` runs one seed of every test.

mod frames;
mod peer;
mod random;
mod world;

use std::time::{Duration, Instant};

use bytes::Bytes;
use culvert_wire::{
    Acceptor, AcceptorCommand, ControlFrame, Dialer, DialerCommand, End, FrameType, Health, Machine,
};
use random::Random;
use world::{Action, Direction, Millis, World};

const SECOND: Millis = 1000;
/// The second look, the rounding of timers, and the order of things within one millisecond.
const SLACK: Millis = 60;

/// Runs a scenario for each seed; the seed of a failure is the last line of its output.
fn seeds(count: u64, scenario: impl Fn(u64) + std::panic::RefUnwindSafe) {
    let one: Option<u64> = std::env::var("CULVERT_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok());
    let range = one.map_or(0..count, |seed| seed..seed + 1);
    for seed in range {
        let result = std::panic::catch_unwind(|| scenario(seed));
        assert!(result.is_ok(), "failed with CULVERT_SEED={seed}");
    }
}

/// What goes on on any link: offers, reports, questions, calls.
fn bustle(world: &mut World, until: Millis) {
    let busy = world.random.chance(60);
    for _ in 0..world.random.below(40) {
        let when = 2 * SECOND + world.random.below(until - 2 * SECOND);
        let action = match world.random.below(8) {
            0 => Action::Offer,
            1 => Action::Agent(DialerCommand::Health(Health::default())),
            2 => Action::Agent(DialerCommand::Renew(Bytes::from_static(b"csr"))),
            3 => Action::Ask {
                opened: world.random.chance(50),
            },
            4 => Action::Relay(AcceptorCommand::Planes(Bytes::from_static(b"planes"))),
            5 => Action::Relay(AcceptorCommand::Suspect),
            _ if busy => Action::OpenCall {
                lasts: world.random.below(15 * SECOND),
            },
            _ => Action::Offer,
        };
        // Sometimes all at once.
        let times = if world.random.chance(10) { 30 } else { 1 };
        for _ in 0..times {
            world.at(when, action.clone());
        }
    }
}

fn assert_offers_grow(world: &World) {
    assert!(
        world.seen.offers.is_sorted_by(|a, b| a < b),
        "{:?}",
        world.seen.offers
    );
}

#[test]
fn a_live_link_lives_whatever_goes_on() {
    seeds(2000, |seed| {
        let mut world = World::new(seed);
        let until = 30 * SECOND + world.random.below(90 * SECOND);
        bustle(&mut world, until);
        let (from, lasts) = (world.random.below(until), world.random.below(500));
        world.stall(from, lasts);
        world.run(until);
        assert!(world.seen.welcomed.is_some());
        assert_eq!((&world.agent.end, &world.relay.end), (&None, &None));
        assert_eq!(
            world
                .seen
                .agent_serving_dead
                .or(world.seen.relay_serving_dead),
            None
        );
        assert!(world.agent.sent(FrameType::Ping) >= until / (4 * SECOND));
        assert!(world.seen.probes >= 1, "the serving code is proved");
        assert_offers_grow(&world);
        world.assert_no_storm();
    });
}

#[test]
fn what_was_asked_is_answered_and_the_newest_offer_arrives() {
    seeds(500, |seed| {
        let mut world = World::new(seed);
        bustle(&mut world, 40 * SECOND);
        world.at(40 * SECOND, Action::Offer);
        world.at(40 * SECOND, Action::Offer);
        world.run(50 * SECOND);
        let asked = world.relay.sent(FrameType::Ask);
        assert_eq!(world.agent.sent(FrameType::Answer), asked);
        assert_eq!(world.seen.answers, asked);
        assert_eq!(world.seen.renewed, world.agent.sent(FrameType::Renew));
        let last = world.seen.offers.last();
        assert!(last.is_some_and(|last| *last > 2), "{last:?}");
        assert_offers_grow(&world);
    });
}

/// Both directions, or one of them, go silent for good at a random moment.
#[test]
fn a_dead_path_is_noticed_in_bound() {
    seeds(3000, |seed| {
        let mut world = World::new(seed);
        let cut = 5 * SECOND + world.random.below(60 * SECOND);
        bustle(&mut world, cut + 20 * SECOND);
        let which = world.random.below(3);
        if which != 1 {
            world.at(cut, Action::Cut(Direction::Up));
        }
        if which != 0 {
            world.at(cut, Action::Cut(Direction::Down));
        }
        world.run(cut + 120 * SECOND);
        let agent = world.agent.end.clone().expect("the agent notices");
        let relay = world.relay.end.clone().expect("the relay notices");
        // A ping of an idle link, and a silence after it; the relay waits for the ping first.
        let limit = world.silence_limit();
        let agent_alone = cut + 3 * SECOND + limit + SLACK;
        let relay_alone = cut + 3 * SECOND + 2 * limit + world.round_trip() + 2 * SLACK;
        match which {
            // The agent may hear probes of the relay until that gives up.
            0 => assert!(relay.1 <= relay_alone && agent.1 <= relay.1 + world.round_trip()),
            1 => assert!(agent.1 <= agent_alone && relay.1 <= agent.1 + world.round_trip()),
            _ => assert!(agent.1 <= agent_alone && relay.1 <= relay_alone),
        }
        assert!(
            [&agent.0, &relay.0].contains(&&End::TransportDead),
            "{agent:?} {relay:?}"
        );
        assert_offers_grow(&world);
        world.assert_no_storm();
    });
}

/// With a call in flight, pings come every second, and so does death.
#[test]
fn a_dead_path_under_load_is_noticed_sooner() {
    seeds(1000, |seed| {
        let mut world = World::new(seed);
        let cut = 20 * SECOND + world.random.below(20 * SECOND);
        world.at(
            5 * SECOND,
            Action::OpenCall {
                lasts: 300 * SECOND,
            },
        );
        world.at(cut, Action::Cut(Direction::Up));
        world.at(cut, Action::Cut(Direction::Down));
        world.run(cut + 60 * SECOND);
        let limit = world.silence_limit();
        let agent = world.agent.end.clone().expect("the agent notices");
        assert_eq!(agent.0, End::TransportDead);
        assert!(
            agent.1 <= cut + SECOND + limit + SLACK,
            "{agent:?} after {cut}"
        );
        let relay = world.relay.end.clone().expect("the relay notices");
        assert!(
            relay.1 <= cut + SECOND + 2 * limit + world.round_trip() + 2 * SLACK,
            "{relay:?}"
        );
    });
}

/// Bytes flow, but nobody answers probes.
#[test]
fn dead_serving_code_is_noticed_by_both_ends() {
    seeds(1000, |seed| {
        let mut world = World::new(seed);
        let wedge = 5 * SECOND + world.random.below(40 * SECOND);
        world.at(wedge, Action::Wedge);
        let suspected = world.random.chance(50);
        if suspected {
            world.at(wedge + SECOND, Action::Relay(AcceptorCommand::Suspect));
        }
        world.run(wedge + 60 * SECOND);
        let relay = world.seen.relay_serving_dead.expect("the relay notices");
        let agent = world.seen.agent_serving_dead.expect("the agent notices");
        // The tenth ping of an idle link, unless somebody doubts before.
        let probe = if suspected { SECOND } else { 30 * SECOND };
        let bound = wedge + probe + 5 * SECOND + world.round_trip() + SLACK;
        assert!(relay <= bound, "{relay} > {bound}");
        // The next pong tells.
        assert!(
            agent <= bound + 3 * SECOND + world.round_trip(),
            "{agent} > {bound}"
        );
        assert_eq!(world.relay.end, None, "calls in flight go on");
        assert_eq!(world.agent.end, None);
        // Every ping probes now, so life is noticed with the next.
        world.at(wedge + 60 * SECOND, Action::Unwedge);
        world.run(wedge + 65 * SECOND);
        let back = world.seen.relay_serving_back.expect("the relay notices");
        assert!(
            back <= wedge + 63 * SECOND + 2 * world.round_trip() + SLACK,
            "{back}"
        );
        world.assert_no_storm();
    });
}

#[test]
fn a_drain_ends_when_idle_or_at_its_deadline() {
    seeds(2000, |seed| {
        let mut world = World::new(seed);
        let drain = 5 * SECOND + world.random.below(30 * SECOND);
        bustle(&mut world, drain + 30 * SECOND);
        let timeout = SECOND + world.random.below(20 * SECOND);
        let command = DialerCommand::Drain {
            timeout: Duration::from_millis(timeout),
        };
        world.at(drain, Action::Agent(command));
        let cut = world.random.chance(20);
        if cut {
            let when = drain + world.random.below(timeout);
            world.at(when, Action::Cut(Direction::Up));
            world.at(when, Action::Cut(Direction::Down));
        }
        world.run(drain + 400 * SECOND);
        let agent = world.agent.end.clone().expect("the drain ends");
        assert!(
            agent.1 <= drain + timeout + SLACK,
            "{agent:?} after {drain} + {timeout}"
        );
        assert!(world.relay.end.is_some(), "the relay follows");
        assert_eq!(world.seen.opened_after_drain, 0);
        if !cut {
            let clean = world.agent.calls == 0;
            assert_eq!(agent.0, End::Drained { clean });
            // It ends early when idle: an acknowledgement and a last stray call later.
            let idle = world.seen.last_call.0.max(drain + world.round_trip());
            let early = idle + 100.max(4 * world.round_trip()) + SLACK;
            assert!(
                !clean || agent.1 <= early.min(drain + timeout) + SLACK,
                "{agent:?} > {early}"
            );
            // Before its deadline nothing that had begun is cut.
            assert!(clean || agent.1 >= drain + timeout, "{agent:?}");
        }
        world.assert_no_storm();
    });
}

#[test]
fn a_replica_leaves_when_idle_or_at_its_deadline() {
    seeds(2000, |seed| {
        let mut world = World::new(seed);
        let leave = 5 * SECOND + world.random.below(30 * SECOND);
        bustle(&mut world, leave);
        let leave_in = SECOND + world.random.below(20 * SECOND);
        let smear = world.random.below(10 * SECOND);
        let command = AcceptorCommand::GoAway {
            leave_in: Duration::from_millis(leave_in),
            smear: Duration::from_millis(smear),
        };
        world.at(leave, Action::Relay(command));
        let last_call = leave + world.random.below(10 * SECOND);
        world.at(last_call, Action::Relay(AcceptorCommand::EndCalls));
        world.run(leave + 60 * SECOND);
        let (end, when) = world.relay.end.clone().expect("the replica leaves");
        let clean = world.relay.calls == 0;
        assert_eq!(end, End::Left { clean });
        // What began with the last call has as long as what began before.
        let deadline = last_call + leave_in;
        assert!(when <= deadline + SLACK);
        assert!(
            when >= last_call.max(leave + smear).min(deadline),
            "agents have time to dial, and callers to call"
        );
        assert!(
            clean || when >= deadline,
            "nothing is cut before the deadline"
        );
        let idle = world
            .seen
            .last_call
            .1
            .max(leave + smear)
            .max(last_call)
            .min(deadline);
        assert!(!clean || when <= idle + SLACK, "it ends early when idle");
        assert!(world.agent.end.is_some(), "the agent hears of it");
        world.assert_no_storm();
    });
}

/// A process that stood still does not take its own absence for the death of the other end.
#[test]
fn a_suspended_agent_asks_again_before_it_judges() {
    seeds(1000, |seed| {
        let mut world = World::new(seed);
        let when = 5 * SECOND + world.random.below(30 * SECOND);
        let lasts = 100 + world.random.below(3500);
        world.at(when, Action::Suspend { lasts });
        world.run(when + 60 * SECOND);
        // The relay may have given it up; the agent itself has not.
        let agent = world.agent.end.as_ref().map(|(end, _)| end.clone());
        assert_ne!(agent, Some(End::TransportDead));
        assert_eq!(world.seen.agent_serving_dead, None);
        world.assert_no_storm();
    });
}

/// Frames in any order, from a peer that keeps no rule: an end with a code, never a panic.
#[test]
fn a_peer_without_rules_only_ends_its_own_link() {
    seeds(3000, |seed| {
        let mut random = Random::new(seed);
        let base = Instant::now();
        let mut now = base;
        let mut acceptor = Acceptor::new(now);
        let mut dialer = Dialer::new(now, frames::hello());
        for _ in 0..200 {
            now += Duration::from_millis(random.below(700));
            let frame = frames::any_frame(&mut random);
            misuse(&mut acceptor, now, frame.clone());
            misuse(&mut dialer, now, frame);
            if let Some(command) = frames::any_acceptor_command(&mut random) {
                acceptor.handle_command(now, command);
            }
        }
        assert!(acceptor.end().is_some(), "nothing random is a session");
        assert!(dialer.end().is_some());
    });
}

fn misuse<M: Machine>(machine: &mut M, now: Instant, frame: ControlFrame) {
    let over = machine.end().is_some();
    machine.handle_timeout(now);
    let result = machine.handle_frame(now, frame);
    assert!(result.is_ok() || !over, "an ended machine does not judge");
    let events = std::iter::from_fn(|| machine.poll_event())
        .take(100)
        .count();
    let frames = std::iter::from_fn(|| machine.poll_frame(now))
        .take(100)
        .count();
    assert!(
        events < 100 && frames < 100,
        "{events} events, {frames} frames for one"
    );
    assert!(!over || events + frames == 0, "something after the end");
}
