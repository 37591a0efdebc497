//! Two machines, a virtual clock, and a network between them that delays, stalls, loses and cuts.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use culvert_wire::{
    Acceptor, AcceptorCommand, AcceptorEvent, Answer, Ask, CallId, CallMemory, Dialer,
    DialerCommand, DialerEvent, End, FrameType, Machine, Offer, Renewed,
};

use crate::frames::{call_id, closed, hello, welcome};
use crate::peer::Peer;
use crate::random::Random;

/// Milliseconds of the virtual clock.
pub(crate) type Millis = u64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    /// Agent to relay.
    Up,
    /// Relay to agent.
    Down,
}

impl Direction {
    fn back(self) -> Self {
        match self {
            Self::Up => Self::Down,
            Self::Down => Self::Up,
        }
    }
}

/// What the owners of the machines do.
#[derive(Clone, Debug)]
pub(crate) enum Action {
    Agent(DialerCommand),
    Relay(AcceptorCommand),
    /// The agent offers anew.
    Offer,
    /// The relay asks, about its last call or one that never was.
    Ask {
        opened: bool,
    },
    OpenCall {
        lasts: Millis,
    },
    Cut(Direction),
    /// The agent's serving code answers no probe any more.
    Wedge,
    /// It does again.
    Unwedge,
    /// The agent's process stands still.
    Suspend {
        lasts: Millis,
    },
}

#[derive(Debug)]
enum Happening {
    Do(Action),
    Bytes(Direction, Bytes),
    Acknowledgement(Direction),
    Probe(u64),
    ProbeAnswer(u64),
    Close(Direction),
    CallOpens { call: CallId, lasts: Millis },
    CallEnds,
    CallEnded,
    Resume,
}

#[derive(Debug)]
pub(crate) struct World {
    base: Instant,
    pub(crate) now: Millis,
    pub(crate) random: Random,
    pub(crate) agent: Peer<Dialer>,
    pub(crate) relay: Peer<Acceptor>,
    timeline: BTreeMap<(Millis, u64), Happening>,
    order: u64,
    /// One way, without jitter.
    pub(crate) delay: Millis,
    jitter: Millis,
    stall: (Millis, Millis),
    last_arrival: [Millis; 2],
    cut_at: [Millis; 2],
    suspended_until: Millis,
    wedged: bool,
    memory: CallMemory,
    next_call: u64,
    may_open: bool,
    offered: u64,
    pub(crate) seen: Seen,
}

/// What the owners were told.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) welcomed: Option<Millis>,
    pub(crate) draining: Option<Millis>,
    pub(crate) agent_serving_dead: Option<Millis>,
    pub(crate) relay_serving_dead: Option<Millis>,
    pub(crate) relay_serving_back: Option<Millis>,
    pub(crate) offers: Vec<u64>,
    pub(crate) probes: u64,
    pub(crate) answers: u64,
    pub(crate) renewed: u64,
    pub(crate) opened_after_drain: u64,
    /// When the last call had ended at the agent, and when the relay knew.
    pub(crate) last_call: (Millis, Millis),
}

const NEVER: Millis = Millis::MAX;

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        let base = Instant::now();
        let mut random = Random::new(seed);
        let delay = [0, 1, 20, 150][random.below(4) as usize];
        Self {
            base,
            now: 0,
            agent: Peer::new(Dialer::new(base, hello())),
            relay: Peer::new(Acceptor::new(base)),
            timeline: BTreeMap::new(),
            order: 0,
            delay,
            jitter: random.below(30),
            stall: (NEVER, NEVER),
            last_arrival: [0; 2],
            cut_at: [NEVER; 2],
            suspended_until: 0,
            wedged: false,
            memory: CallMemory::new(),
            next_call: 0,
            may_open: false,
            offered: 1,
            seen: Seen {
                offers: vec![1],
                ..Seen::default()
            },
            random,
        }
    }

    /// Nothing is delivered for a while, then everything.
    pub(crate) fn stall(&mut self, from: Millis, lasts: Millis) {
        self.stall = (from, from + lasts);
    }

    pub(crate) fn at(&mut self, when: Millis, action: Action) {
        self.happen(when, Happening::Do(action));
    }

    /// Longest silence of a live path after a ping, as both machines reckon.
    pub(crate) fn silence_limit(&self) -> Millis {
        1000.max(4 * self.round_trip())
    }

    pub(crate) fn round_trip(&self) -> Millis {
        2 * self.delay + self.jitter
    }

    /// Runs until then.
    pub(crate) fn run(&mut self, until: Millis) {
        self.wake_agent(false);
        self.wake_relay(false);
        let mut wakes = 0;
        loop {
            let happening = self
                .timeline
                .first_key_value()
                .map_or(NEVER, |(key, _)| key.0);
            let next = happening.min(self.agent_timer()).min(self.relay_timer());
            if next > until {
                break;
            }
            wakes = if next > self.now { 0 } else { wakes + 1 };
            assert!(wakes < 1000, "the machines spin at {} ms", self.now);
            self.now = self.now.max(next);
            if happening <= self.now {
                if let Some((_, happening)) = self.timeline.pop_first() {
                    self.happened(happening);
                }
            } else if self.agent_timer() <= self.now {
                self.wake_agent(true);
            } else {
                self.wake_relay(true);
            }
        }
        self.now = until;
        if self.agent.end.is_some() {
            self.agent.assert_silent(self.instant());
        }
        if self.relay.end.is_some() {
            self.relay.assert_silent(self.instant());
        }
    }

    /// No more frames than the pace of each kind permits.
    pub(crate) fn assert_no_storm(&self) {
        let seconds = self.now / 1000 + 2;
        let agent = |kind| self.agent.sent(kind);
        assert!(agent(FrameType::Ping) <= seconds + 2, "pings");
        assert!(agent(FrameType::Offer) <= seconds, "offers");
        assert!(agent(FrameType::Health) <= 10 * seconds, "reports");
        assert_eq!(agent(FrameType::Hello), 1);
        assert!(agent(FrameType::Drain) <= 1);
        assert!(
            self.relay.sent(FrameType::Pong) <= agent(FrameType::Ping),
            "pongs"
        );
        assert!(self.relay.sent(FrameType::GoAway) <= 1);
        // Each look at the clock has a reason: a ping, a pace, a judgement.
        assert!(
            self.agent.timer_wakes <= 20 * seconds,
            "{} wakes",
            self.agent.timer_wakes
        );
        assert!(
            self.relay.timer_wakes <= 20 * seconds,
            "{} wakes",
            self.relay.timer_wakes
        );
        assert!(
            self.seen.probes <= 2 * seconds,
            "{} probes",
            self.seen.probes
        );
    }

    fn instant(&self) -> Instant {
        self.base + Duration::from_millis(self.now)
    }

    fn happen(&mut self, when: Millis, happening: Happening) {
        self.order += 1;
        self.timeline
            .insert((when.max(self.now), self.order), happening);
    }

    /// Sends something that is delivered in order, or not at all.
    fn send(&mut self, direction: Direction, happening: Happening) {
        let side = direction as usize;
        let mut arrival = self.now + self.delay + self.random.below(self.jitter / 2 + 1);
        if (self.stall.0..self.stall.1).contains(&arrival) {
            arrival = self.stall.1;
        }
        arrival = arrival.max(self.last_arrival[side]);
        self.last_arrival[side] = arrival;
        self.happen(arrival, happening);
    }

    fn timer(&self, due: Option<Instant>) -> Millis {
        // Rounded up: a timer never fires early.
        due.map_or(NEVER, |due| {
            let nanos = due.saturating_duration_since(self.base).as_nanos();
            nanos.div_ceil(1_000_000) as Millis
        })
    }

    fn agent_timer(&self) -> Millis {
        if self.agent.end.is_some() {
            return NEVER;
        }
        self.timer(self.agent.machine.poll_timeout())
            .max(self.suspended_until)
    }

    fn relay_timer(&self) -> Millis {
        if self.relay.end.is_some() {
            return NEVER;
        }
        self.timer(self.relay.machine.poll_timeout())
    }

    fn happened(&mut self, happening: Happening) {
        let direction = match &happening {
            Happening::Do(action) => return self.act(action.clone()),
            Happening::Resume => return self.wake_agent(false),
            Happening::Bytes(direction, _)
            | Happening::Acknowledgement(direction)
            | Happening::Close(direction) => *direction,
            Happening::Probe(_) | Happening::CallOpens { .. } => Direction::Down,
            Happening::ProbeAnswer(_) | Happening::CallEnded => Direction::Up,
            Happening::CallEnds => return self.end_call(),
        };
        if self.now >= self.cut_at[direction as usize] {
            return;
        }
        if direction == Direction::Down && self.now < self.suspended_until {
            // It waits in the socket.
            let resume = self.suspended_until;
            return self.happen(resume, happening);
        }
        self.arrive(direction, happening);
    }

    fn arrive(&mut self, direction: Direction, happening: Happening) {
        let closed = match direction {
            Direction::Up => self.relay.end.is_some(),
            Direction::Down => self.agent.end.is_some(),
        };
        if closed {
            return;
        }
        if !matches!(
            happening,
            Happening::Acknowledgement(_) | Happening::Close(_)
        ) {
            self.send(
                direction.back(),
                Happening::Acknowledgement(direction.back()),
            );
        }
        let received = match direction {
            Direction::Up => &mut self.relay.received,
            Direction::Down => &mut self.agent.received,
        };
        *received += 30;
        self.take(direction, happening);
        match direction {
            Direction::Up => self.wake_relay(false),
            Direction::Down => self.wake_agent(false),
        }
    }

    fn take(&mut self, direction: Direction, happening: Happening) {
        let (now, at) = (self.instant(), self.now);
        let cut = self.random.below(64) as usize;
        match (happening, direction) {
            (Happening::Bytes(_, bytes), Direction::Up) => self.relay.receive(now, &bytes, cut),
            (Happening::Bytes(_, bytes), Direction::Down) => self.agent.receive(now, &bytes, cut),
            (Happening::Close(_), Direction::Up) => {
                self.relay
                    .machine
                    .handle_command(now, AcceptorCommand::Close(closed()));
                self.relay.end.get_or_insert((End::Closed(closed()), at));
            }
            (Happening::Close(_), Direction::Down) => {
                self.agent
                    .machine
                    .handle_command(now, DialerCommand::Close(closed()));
                self.agent.end.get_or_insert((End::Closed(closed()), at));
            }
            (Happening::Probe(nonce), _) if !self.wedged => {
                self.send(Direction::Up, Happening::ProbeAnswer(nonce));
            }
            (Happening::ProbeAnswer(nonce), _) => {
                let answered = AcceptorCommand::ProbeAnswered { nonce };
                self.relay.machine.handle_command(now, answered);
            }
            (Happening::CallOpens { call, lasts }, _) => {
                self.memory.opened(now, call);
                self.agent.calls += 1;
                self.agent.begun += 1;
                self.happen(at + lasts, Happening::CallEnds);
            }
            (Happening::CallEnded, _) => {
                self.relay.calls -= 1;
                self.seen.last_call.1 = at;
            }
            (_, _) => {}
        }
    }

    fn end_call(&mut self) {
        if self.agent.end.is_some() {
            return;
        }
        self.agent.calls -= 1;
        self.seen.last_call.0 = self.now;
        self.send(Direction::Up, Happening::CallEnded);
        self.wake_agent(false);
    }

    fn wake_agent(&mut self, timer: bool) {
        let now = self.instant();
        if self.now < self.suspended_until || self.agent.end.is_some() {
            return;
        }
        self.agent.timer_wakes += u64::from(timer);
        let round_trip = Duration::from_millis(self.round_trip());
        self.agent.observe(now, round_trip);
        self.agent.machine.handle_timeout(now);
        loop {
            let (events, out) = self.agent.poll(now, self.now);
            if events.is_empty() && out.is_empty() {
                break;
            }
            if !out.is_empty() {
                self.send(Direction::Up, Happening::Bytes(Direction::Up, out));
            }
            for event in events {
                self.agent_event(now, event);
            }
        }
        if self.agent.end.is_some() {
            self.send(Direction::Up, Happening::Close(Direction::Up));
        }
    }

    fn agent_event(&mut self, now: Instant, event: DialerEvent) {
        match event {
            DialerEvent::Welcome(_) => self.seen.welcomed = Some(self.now),
            DialerEvent::ServingDead => {
                assert_eq!(self.seen.agent_serving_dead, None, "said once");
                self.seen.agent_serving_dead = Some(self.now);
            }
            DialerEvent::Ask(Ask { call_id, age_ms }) => {
                let age = Duration::from_millis(age_ms);
                let knowledge = self.memory.asked(now, call_id, age);
                let answer = Answer { call_id, knowledge };
                self.agent
                    .machine
                    .handle_command(now, DialerCommand::Answer(answer));
            }
            DialerEvent::Renewed(_) => self.seen.renewed += 1,
            DialerEvent::Alive { .. }
            | DialerEvent::Planes(_)
            | DialerEvent::GoAway(_)
            | DialerEvent::Rejected(_)
            | DialerEvent::Revoked(_) => {}
        }
    }

    fn wake_relay(&mut self, timer: bool) {
        let now = self.instant();
        if self.relay.end.is_some() {
            return;
        }
        self.relay.timer_wakes += u64::from(timer);
        let round_trip = Duration::from_millis(self.round_trip());
        self.relay.observe(now, round_trip);
        self.relay.machine.handle_timeout(now);
        loop {
            let (events, out) = self.relay.poll(now, self.now);
            if events.is_empty() && out.is_empty() {
                break;
            }
            if !out.is_empty() {
                self.send(Direction::Down, Happening::Bytes(Direction::Down, out));
            }
            for event in events {
                self.relay_event(now, event);
            }
        }
        if self.relay.end.is_some() {
            self.send(Direction::Down, Happening::Close(Direction::Down));
        }
    }

    fn relay_event(&mut self, now: Instant, event: AcceptorEvent) {
        match event {
            AcceptorEvent::Hello(_) => {
                self.may_open = true;
                self.relay
                    .machine
                    .handle_command(now, AcceptorCommand::Welcome(welcome()));
            }
            AcceptorEvent::Offer(offer) => self.seen.offers.push(offer.seq),
            AcceptorEvent::Probe { nonce } => {
                self.seen.probes += 1;
                self.send(Direction::Down, Happening::Probe(nonce));
            }
            AcceptorEvent::ServingDead => self.seen.relay_serving_dead = Some(self.now),
            AcceptorEvent::ServingBack => self.seen.relay_serving_back = Some(self.now),
            AcceptorEvent::Answered(_) => self.seen.answers += 1,
            AcceptorEvent::Renew(_) => {
                let renewed = Renewed::Issued(Bytes::from_static(b"chain"));
                self.relay
                    .machine
                    .handle_command(now, AcceptorCommand::Renewed(renewed));
            }
            AcceptorEvent::Draining { .. } => {
                self.seen.draining = Some(self.now);
                self.may_open = false;
            }
            AcceptorEvent::CallsEnd => self.may_open = false,
            AcceptorEvent::Health(_) => {}
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Cut(direction) => self.cut_at[direction as usize] = self.now,
            Action::Wedge => self.wedged = true,
            Action::Unwedge => self.wedged = false,
            Action::Suspend { lasts } => {
                self.suspended_until = self.now + lasts;
                self.happen(self.now + lasts, Happening::Resume);
            }
            Action::OpenCall { lasts } => self.open_call(lasts),
            Action::Offer => {
                self.offered += 1;
                let offer = Offer {
                    seq: self.offered,
                    services: vec![],
                };
                self.order_agent(DialerCommand::Offer(offer));
            }
            Action::Ask { opened } => {
                let number = if opened {
                    self.next_call.saturating_sub(1)
                } else {
                    NEVER
                };
                let ask = Ask {
                    call_id: call_id(number),
                    age_ms: 1000,
                };
                self.order_relay(AcceptorCommand::Ask(ask));
            }
            Action::Agent(command) => self.order_agent(command),
            Action::Relay(command) => self.order_relay(command),
        }
    }

    fn order_agent(&mut self, command: DialerCommand) {
        let now = self.instant();
        self.agent.machine.handle_command(now, command);
        self.wake_agent(false);
    }

    fn order_relay(&mut self, command: AcceptorCommand) {
        let now = self.instant();
        self.relay.machine.handle_command(now, command);
        self.wake_relay(false);
    }

    fn open_call(&mut self, lasts: Millis) {
        if !self.may_open || self.relay.end.is_some() {
            return;
        }
        self.seen.opened_after_drain += u64::from(self.seen.draining.is_some());
        let call = call_id(self.next_call);
        self.next_call += 1;
        self.relay.calls += 1;
        self.relay.begun += 1;
        self.send(Direction::Down, Happening::CallOpens { call, lasts });
        self.wake_relay(false);
    }
}
