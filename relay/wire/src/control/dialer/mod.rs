//! The agent's end of a control stream.
//!
//! ```text
//! Greeting --Welcome--> Serving --drain--> Draining --idle or late--> Closed
//!     |                    |                   |
//!     +--Reject, late------+--silence, breach--+------------------> Closed
//! ```

mod messages;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;
pub use messages::{DialerCommand, DialerEvent};

use super::liveness::Finding;
use super::pinger::Pinger;
use super::rate::Paced;
use super::{End, Machine, Observation, Violation, earlier, millis};
use crate::frame::{Answer, ControlFrame, Drain, Health, Hello, Offer, Pong};
use crate::ids::SessionId;
use crate::limits::{
    ASKS_PENDING_MAX, DRAIN_LINGER, DRAIN_TIMEOUT_MAX, GREETING_TIMEOUT, HEALTH_INTERVAL,
    OFFER_INTERVAL,
};

/// The agent's control machine.
#[derive(Debug)]
pub struct Dialer {
    state: State,
    outbox: Outbox,
    events: VecDeque<DialerEvent>,
    pinger: Pinger,
    /// Questions whose answer has not been written.
    asks_open: usize,
    renewal: Renewal,
    last_offer: u64,
}

#[derive(Debug)]
enum State {
    Greeting {
        deadline: Instant,
        attach: Option<SessionId>,
    },
    Serving,
    Draining {
        deadline: Instant,
        idle: Idle,
    },
    Closed(End),
}

/// How far a drain has come.
#[derive(Clone, Copy, Debug)]
enum Idle {
    /// The relay may still open calls.
    Unacknowledged,
    /// It does not, and some are in flight.
    Finishing,
    /// None has been in flight since then.
    Since(Instant),
}

#[derive(Debug)]
struct Outbox {
    hello: Option<Box<Hello>>,
    drain: Option<Drain>,
    answers: VecDeque<Answer>,
    offer: Paced<Offer>,
    health: Paced<Health>,
}

/// At most one renewal is under way.
#[derive(Debug)]
enum Renewal {
    Idle,
    Asking(Bytes),
    Asked { next: Option<Bytes> },
}

impl Dialer {
    /// Starts a control stream that begins with this greeting.
    #[must_use]
    pub fn new(now: Instant, hello: Hello) -> Self {
        let last_offer = hello.offer.seq;
        let attach = hello.attach;
        let mut outbox = Outbox {
            hello: Some(Box::new(hello)),
            drain: None,
            answers: VecDeque::new(),
            offer: Paced::new(OFFER_INTERVAL),
            health: Paced::new(HEALTH_INTERVAL),
        };
        outbox.offer.sent(now);
        Self {
            state: State::Greeting {
                deadline: now + GREETING_TIMEOUT,
                attach,
            },
            outbox,
            events: VecDeque::new(),
            pinger: Pinger::new(now),
            asks_open: 0,
            renewal: Renewal::Idle,
            last_offer,
        }
    }

    fn is_live(&self) -> bool {
        matches!(self.state, State::Serving | State::Draining { .. })
    }

    fn close(&mut self, end: End) {
        self.state = State::Closed(end);
    }

    fn greeted(
        &mut self,
        now: Instant,
        attach: Option<SessionId>,
        frame: ControlFrame,
    ) -> Result<(), Violation> {
        if let ControlFrame::Welcome(welcome) = frame {
            if attach.is_some_and(|session| session != welcome.session) {
                return Err(Violation::OtherSession);
            }
            self.state = State::Serving;
            self.pinger.start(now);
            self.events.push_back(DialerEvent::Welcome(welcome));
            return Ok(());
        }
        let ControlFrame::Reject(reject) = frame else {
            return Err(Violation::Misplaced(frame.kind()));
        };
        let end = End::Rejected(reject.code);
        self.events.push_back(DialerEvent::Rejected(reject));
        self.close(end);
        Ok(())
    }

    fn served(&mut self, now: Instant, frame: ControlFrame) -> Result<(), Violation> {
        let kind = frame.kind();
        let event = match frame {
            ControlFrame::Pong(pong) => return self.pong(now, pong),
            ControlFrame::DrainAck => return self.drain_acknowledged(now),
            ControlFrame::Ask(ask) => {
                self.asks_open += 1;
                if self.asks_open > ASKS_PENDING_MAX {
                    return Err(Violation::TooMany(kind));
                }
                DialerEvent::Ask(ask)
            }
            ControlFrame::Renewed(renewed) => {
                self.renewal = match std::mem::replace(&mut self.renewal, Renewal::Idle) {
                    Renewal::Asked { next: Some(next) } => Renewal::Asking(next),
                    Renewal::Asked { next: None } => Renewal::Idle,
                    Renewal::Idle | Renewal::Asking(_) => return Err(Violation::Unasked(kind)),
                };
                DialerEvent::Renewed(renewed)
            }
            ControlFrame::Planes(signed) => DialerEvent::Planes(signed),
            ControlFrame::GoAway(go_away) => DialerEvent::GoAway(go_away),
            ControlFrame::Revoked(signed) => DialerEvent::Revoked(signed),
            ControlFrame::Hello(_)
            | ControlFrame::Welcome(_)
            | ControlFrame::Reject(_)
            | ControlFrame::Offer(_)
            | ControlFrame::Health(_)
            | ControlFrame::Ping(_)
            | ControlFrame::Answer(_)
            | ControlFrame::Renew(_)
            | ControlFrame::Drain(_) => return Err(Violation::Misplaced(kind)),
        };
        self.events.push_back(event);
        Ok(())
    }

    fn pong(&mut self, now: Instant, pong: Pong) -> Result<(), Violation> {
        let kind = ControlFrame::Pong(pong).kind();
        let seen = self
            .pinger
            .pong(now, &pong)
            .ok_or(Violation::Unasked(kind))?;
        self.events.push_back(DialerEvent::Alive {
            round_trip: seen.round_trip,
            probe_age: pong.probe_age_ms.map(Duration::from_millis),
        });
        if seen.serving_dead {
            self.events.push_back(DialerEvent::ServingDead);
        }
        Ok(())
    }

    fn drain_acknowledged(&mut self, now: Instant) -> Result<(), Violation> {
        match &mut self.state {
            State::Draining {
                idle: idle @ Idle::Unacknowledged,
                ..
            } => {
                *idle = Idle::Finishing;
                self.watch_idle(now);
                Ok(())
            }
            State::Greeting { .. } | State::Serving | State::Draining { .. } | State::Closed(_) => {
                Err(Violation::Unasked(ControlFrame::DrainAck.kind()))
            }
        }
    }

    fn begin_drain(&mut self, now: Instant, timeout: Duration) {
        let timeout = timeout.min(DRAIN_TIMEOUT_MAX);
        match self.state {
            // Without a session there is nothing to finish.
            State::Greeting { .. } => self.close(End::Drained { clean: true }),
            State::Serving => {
                self.outbox.drain = Some(Drain {
                    timeout_ms: millis(timeout),
                });
                self.state = State::Draining {
                    deadline: now + timeout,
                    idle: Idle::Unacknowledged,
                };
            }
            State::Draining { .. } | State::Closed(_) => {}
        }
    }

    /// Keeps the time since which no call is in flight.
    fn watch_idle(&mut self, now: Instant) {
        let in_flight = self.pinger.calls_in_flight() > 0;
        if let State::Draining { idle, .. } = &mut self.state {
            *idle = match *idle {
                Idle::Unacknowledged => Idle::Unacknowledged,
                Idle::Finishing | Idle::Since(_) if in_flight => Idle::Finishing,
                Idle::Finishing => Idle::Since(now),
                Idle::Since(since) => Idle::Since(since),
            };
        }
    }

    fn drain_deadline(&self) -> Option<Instant> {
        let State::Draining { deadline, idle } = self.state else {
            return None;
        };
        match idle {
            Idle::Unacknowledged | Idle::Finishing => Some(deadline),
            Idle::Since(since) => Some(deadline.min(since + self.linger())),
        }
    }

    /// How long a call that was opened before `DrainAck` may take to arrive after it.
    fn linger(&self) -> Duration {
        DRAIN_LINGER.max(self.pinger.round_trip() * 4)
    }

    fn check_drain(&mut self, now: Instant) {
        if self
            .drain_deadline()
            .is_some_and(|deadline| now >= deadline)
        {
            let clean = self.pinger.calls_in_flight() == 0;
            self.close(End::Drained { clean });
        }
    }
}

impl Machine for Dialer {
    type Command = DialerCommand;
    type Event = DialerEvent;

    fn observe(&mut self, now: Instant, observation: Observation) {
        self.pinger.observe(now, observation);
        self.watch_idle(now);
    }

    fn handle_command(&mut self, now: Instant, command: DialerCommand) {
        if let State::Closed(_) = self.state {
            return;
        }
        match command {
            DialerCommand::Offer(offer) => {
                if offer.seq > self.last_offer {
                    self.last_offer = offer.seq;
                    self.outbox.offer.set(offer);
                }
            }
            DialerCommand::Health(health) => self.outbox.health.set(health),
            DialerCommand::Answer(answer) => {
                if self.outbox.answers.len() < self.asks_open {
                    self.outbox.answers.push_back(answer);
                }
            }
            DialerCommand::Renew(request) => {
                self.renewal = match std::mem::replace(&mut self.renewal, Renewal::Idle) {
                    Renewal::Idle | Renewal::Asking(_) => Renewal::Asking(request),
                    Renewal::Asked { .. } => Renewal::Asked {
                        next: Some(request),
                    },
                };
            }
            DialerCommand::Drain { timeout } => self.begin_drain(now, timeout),
            DialerCommand::Close(code) => self.close(End::Closed(code)),
        }
    }

    fn handle_frame(&mut self, now: Instant, frame: ControlFrame) -> Result<(), Violation> {
        self.pinger.heard(now);
        let handled = match self.state {
            State::Greeting { attach, .. } => self.greeted(now, attach, frame),
            State::Serving | State::Draining { .. } => self.served(now, frame),
            State::Closed(_) => Ok(()),
        };
        if let Err(violation) = handled {
            self.events.clear();
            self.close(End::Violation(violation));
        }
        handled
    }

    fn handle_timeout(&mut self, now: Instant) {
        if let State::Greeting { deadline, .. } = self.state
            && now >= deadline
        {
            self.close(End::NoGreeting);
        }
        if !self.is_live() {
            return;
        }
        match self.pinger.handle_timeout(now) {
            Some(Finding::TransportDead) => return self.close(End::TransportDead),
            Some(Finding::ServingDead) => self.events.push_back(DialerEvent::ServingDead),
            None => {}
        }
        self.check_drain(now);
    }

    fn poll_event(&mut self) -> Option<DialerEvent> {
        self.events.pop_front()
    }

    fn poll_frame(&mut self, now: Instant) -> Option<ControlFrame> {
        if let State::Greeting { .. } = self.state {
            return self
                .outbox
                .hello
                .take()
                .map(|hello| ControlFrame::Hello(*hello));
        }
        if !self.is_live() {
            return None;
        }
        if let Some(drain) = self.outbox.drain.take() {
            return Some(ControlFrame::Drain(drain));
        }
        if let Some(ping) = self.pinger.ping(now) {
            return Some(ControlFrame::Ping(ping));
        }
        if let Some(answer) = self.outbox.answers.pop_front() {
            self.asks_open -= 1;
            return Some(ControlFrame::Answer(answer));
        }
        if let Renewal::Asking(request) = &mut self.renewal {
            let request = std::mem::take(request);
            self.renewal = Renewal::Asked { next: None };
            return Some(ControlFrame::Renew(request));
        }
        if let Some(offer) = self.outbox.offer.take(now) {
            return Some(ControlFrame::Offer(offer));
        }
        self.outbox.health.take(now).map(ControlFrame::Health)
    }

    fn poll_timeout(&self) -> Option<Instant> {
        match self.state {
            State::Greeting { deadline, .. } => Some(deadline),
            State::Closed(_) => None,
            State::Serving | State::Draining { .. } => {
                let paced = earlier(self.outbox.offer.due(), self.outbox.health.due());
                let alive = earlier(Some(self.pinger.poll_timeout()), self.drain_deadline());
                earlier(paced, alive)
            }
        }
    }

    fn end(&self) -> Option<End> {
        match &self.state {
            // What was to be said comes first.
            State::Closed(end) if self.events.is_empty() => Some(end.clone()),
            State::Greeting { .. } | State::Serving | State::Draining { .. } | State::Closed(_) => {
                None
            }
        }
    }
}
