//! The relay's end of a control stream.
//!
//! ```text
//! Waiting --Hello--> Deciding --welcome--> Serving --Drain--> Draining
//!                        |                    |                  |
//!                      reject                 +----go_away---> Leaving
//!                        |                    |                  |
//!                        +-------late, silence, breach, idle-----+-> Closed
//! ```

mod asks;
mod leaving;
mod messages;
mod outbox;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use asks::Asks;
pub use messages::{AcceptorCommand, AcceptorEvent};
use outbox::Outbox;

use super::liveness::Finding;
use super::prober::{ProbeSeen, Prober};
use super::rate::Rate;
use super::{End, Machine, Observation, Violation, earlier};
use crate::VERSION_MIN;
use crate::code::Code;
use crate::frame::{ControlFrame, FrameType, Offer, Reject, Welcome};
use crate::limits::{GREETING_TIMEOUT, HEALTH_INTERVAL, OFFER_INTERVAL, PING_BUSY};

/// The relay's control machine.
#[derive(Debug)]
pub struct Acceptor {
    state: State,
    outbox: Outbox,
    events: VecDeque<AcceptorEvent>,
    prober: Prober,
    asks: Asks,
    /// Whether the agent waits for a certificate.
    renewing: bool,
    last_offer: u64,
    offers: Rate,
    reports: Rate,
    pings: Rate,
}

#[derive(Debug)]
enum State {
    Waiting {
        deadline: Instant,
    },
    Deciding {
        deadline: Instant,
    },
    Serving,
    /// The agent leaves, and closes.
    Draining {
        deadline: Instant,
    },
    /// We leave: when idle after the smear and after the last new call, or at the deadline, which
    /// counts from there.
    Leaving {
        leave_in: Duration,
        smeared: Instant,
        calls: Calls,
    },
    Closed(End),
}

/// Whether calls are still opened on a link that is left.
#[derive(Clone, Copy, Debug)]
enum Calls {
    /// They are: what begins now is not cut for having begun late.
    Opened,
    /// They are to end, which the owner is yet to hear.
    Ending { deadline: Instant },
    /// What the owner counts from here on is all there is.
    Ended { deadline: Instant },
}

impl Calls {
    fn deadline(self) -> Option<Instant> {
        match self {
            Self::Opened => None,
            Self::Ending { deadline } | Self::Ended { deadline } => Some(deadline),
        }
    }

    /// When a link that is idle is left, at the earliest.
    fn idle_from(self, smeared: Instant) -> Option<Instant> {
        match self {
            Self::Opened | Self::Ending { .. } => None,
            Self::Ended { .. } => Some(smeared),
        }
    }
}

impl Acceptor {
    /// Waits for a `Hello` on a new control stream.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self {
            state: State::Waiting {
                deadline: now + GREETING_TIMEOUT,
            },
            outbox: Outbox::default(),
            events: VecDeque::new(),
            prober: Prober::new(now),
            asks: Asks::default(),
            renewing: false,
            last_offer: 0,
            offers: Rate::new(OFFER_INTERVAL),
            reports: Rate::new(HEALTH_INTERVAL),
            pings: Rate::new(PING_BUSY),
        }
    }

    fn is_live(&self) -> bool {
        match self.state {
            State::Serving | State::Draining { .. } | State::Leaving { .. } => true,
            State::Waiting { .. } | State::Deciding { .. } | State::Closed(_) => false,
        }
    }

    fn close(&mut self, end: End) {
        self.state = State::Closed(end);
    }

    fn greeted(&mut self, now: Instant, frame: ControlFrame) -> Result<(), Violation> {
        let ControlFrame::Hello(hello) = frame else {
            return Err(Violation::Misplaced(frame.kind()));
        };
        self.state = State::Deciding {
            deadline: now + GREETING_TIMEOUT,
        };
        if hello.version < VERSION_MIN {
            let minimum = Some(VERSION_MIN);
            self.reject(Reject {
                code: Code::Upgrade,
                minimum,
                signed: None,
            });
            return Ok(());
        }
        self.last_offer = hello.offer.seq;
        self.events.push_back(AcceptorEvent::Hello(Box::new(hello)));
        Ok(())
    }

    fn reject(&mut self, reject: Reject) {
        if let State::Deciding { .. } = self.state {
            self.outbox.greeting = Some(ControlFrame::Reject(reject));
        }
    }

    fn welcome(&mut self, now: Instant, welcome: Welcome) {
        if let State::Deciding { .. } = self.state
            && self.outbox.greeting.is_none()
        {
            self.outbox.greeting = Some(ControlFrame::Welcome(welcome));
            self.state = State::Serving;
            self.prober.start(now);
        }
    }

    fn served(&mut self, now: Instant, frame: ControlFrame) -> Result<(), Violation> {
        let kind = frame.kind();
        match frame {
            ControlFrame::Ping(ping) => {
                if !self.pings.permit(now) {
                    return Err(Violation::TooFast(kind));
                }
                self.outbox.pong = Some(ping.nonce);
                let probe = self.prober.ping(now);
                self.probe(probe);
            }
            ControlFrame::Offer(offer) => {
                self.take_offer(now, offer)?;
            }
            ControlFrame::Health(health) => {
                if !self.reports.permit(now) {
                    return Err(Violation::TooFast(kind));
                }
                self.events.push_back(AcceptorEvent::Health(health));
            }
            ControlFrame::Answer(answer) => {
                if !self.asks.answered(&answer.call_id) {
                    return Err(Violation::Unasked(kind));
                }
                self.events.push_back(AcceptorEvent::Answered(answer));
            }
            ControlFrame::Renew(request) => {
                if std::mem::replace(&mut self.renewing, true) {
                    return Err(Violation::TooMany(kind));
                }
                self.events.push_back(AcceptorEvent::Renew(request));
            }
            ControlFrame::Drain(drain) => {
                self.begin_drain(now, Duration::from_millis(drain.timeout_ms))?;
            }
            ControlFrame::Hello(_)
            | ControlFrame::Welcome(_)
            | ControlFrame::Reject(_)
            | ControlFrame::Pong(_)
            | ControlFrame::Ask(_)
            | ControlFrame::Renewed(_)
            | ControlFrame::Planes(_)
            | ControlFrame::GoAway(_)
            | ControlFrame::DrainAck
            | ControlFrame::Revoked(_) => return Err(Violation::Misplaced(kind)),
        }
        Ok(())
    }

    fn take_offer(&mut self, now: Instant, offer: Offer) -> Result<(), Violation> {
        if offer.seq <= self.last_offer {
            return Err(Violation::StaleOffer {
                seq: offer.seq,
                last: self.last_offer,
            });
        }
        if !self.offers.permit(now) {
            return Err(Violation::TooFast(FrameType::Offer));
        }
        self.last_offer = offer.seq;
        self.events.push_back(AcceptorEvent::Offer(offer));
        Ok(())
    }

    fn probe(&mut self, nonce: Option<u64>) {
        self.events
            .extend(nonce.map(|nonce| AcceptorEvent::Probe { nonce }));
    }

    fn probe_answered(&mut self, now: Instant, nonce: u64) {
        if let Some(ProbeSeen::Back) = self.prober.answered(now, nonce) {
            self.events.push_back(AcceptorEvent::ServingBack);
        }
    }

    /// Ends what has a deadline of its own.
    fn check_deadlines(&mut self, now: Instant) {
        let idle = self.prober.calls_in_flight() == 0;
        match self.state {
            State::Waiting { deadline } | State::Deciding { deadline } if now >= deadline => {
                self.close(End::NoGreeting);
            }
            State::Draining { deadline } if now >= deadline => {
                self.close(End::Drained { clean: idle });
            }
            State::Leaving { .. } if self.own_deadline().is_some_and(|end| now >= end) => {
                self.close(End::Left { clean: idle });
            }
            State::Waiting { .. }
            | State::Deciding { .. }
            | State::Serving
            | State::Draining { .. }
            | State::Leaving { .. }
            | State::Closed(_) => {}
        }
    }

    fn own_deadline(&self) -> Option<Instant> {
        let idle = self.prober.calls_in_flight() == 0;
        match self.state {
            State::Waiting { deadline }
            | State::Deciding { deadline }
            | State::Draining { deadline } => Some(deadline),
            State::Leaving { smeared, calls, .. } => {
                let idle_from = calls.idle_from(smeared).filter(|_| idle);
                earlier(calls.deadline(), idle_from)
            }
            State::Serving | State::Closed(_) => None,
        }
    }
}

impl Machine for Acceptor {
    type Command = AcceptorCommand;
    type Event = AcceptorEvent;

    fn observe(&mut self, now: Instant, observation: Observation) {
        self.prober.observe(now, observation);
    }

    fn handle_command(&mut self, now: Instant, command: AcceptorCommand) {
        if let State::Closed(_) = self.state {
            return;
        }
        match command {
            AcceptorCommand::Welcome(welcome) => self.welcome(now, welcome),
            AcceptorCommand::Reject(reject) => self.reject(reject),
            AcceptorCommand::Ask(ask) => {
                let answer = self.asks.ask(ask);
                self.events.extend(answer.map(AcceptorEvent::Answered));
            }
            AcceptorCommand::Renewed(renewed) => {
                if std::mem::replace(&mut self.renewing, false) {
                    self.outbox.renewed = Some(renewed);
                }
            }
            AcceptorCommand::Planes(signed) => self.outbox.planes = Some(signed),
            AcceptorCommand::Revoked(signed) => self.outbox.revoked(signed),
            AcceptorCommand::GoAway { leave_in, smear } => self.go_away(now, leave_in, smear),
            AcceptorCommand::EndCalls => self.end_calls(now),
            AcceptorCommand::Suspect => {
                if self.is_live() {
                    let probe = self.prober.suspect(now);
                    self.probe(probe);
                }
            }
            AcceptorCommand::ProbeAnswered { nonce } => self.probe_answered(now, nonce),
            AcceptorCommand::Close(code) => self.close(End::Closed(code)),
        }
    }

    fn handle_frame(&mut self, now: Instant, frame: ControlFrame) -> Result<(), Violation> {
        self.prober.heard(now);
        let handled = match self.state {
            State::Waiting { .. } => self.greeted(now, frame),
            State::Deciding { .. } => Err(Violation::Misplaced(frame.kind())),
            State::Serving | State::Draining { .. } | State::Leaving { .. } => {
                self.served(now, frame)
            }
            State::Closed(_) => Ok(()),
        };
        if let Err(violation) = handled {
            self.events.clear();
            self.close(End::Violation(violation));
        }
        handled
    }

    fn handle_timeout(&mut self, now: Instant) {
        if self.is_live() {
            let (finding, probe) = self.prober.handle_timeout(now);
            match finding {
                Some(Finding::TransportDead) => return self.close(End::TransportDead),
                Some(Finding::ServingDead) => self.events.push_back(AcceptorEvent::ServingDead),
                None => {}
            }
            self.probe(probe);
        }
        self.check_deadlines(now);
    }

    fn poll_event(&mut self) -> Option<AcceptorEvent> {
        let event = self.events.pop_front()?;
        // Only now does the owner open no more, and what it counts from here on is all there is.
        if let AcceptorEvent::CallsEnd | AcceptorEvent::Draining { .. } = event
            && let State::Leaving { calls, .. } = &mut self.state
            && let Calls::Ending { deadline } = *calls
        {
            *calls = Calls::Ended { deadline };
        }
        Some(event)
    }

    fn poll_frame(&mut self, now: Instant) -> Option<ControlFrame> {
        if let Some(greeting) = self.outbox.greeting.take() {
            if let ControlFrame::Reject(reject) = &greeting {
                self.close(End::Rejected(reject.code));
            }
            return Some(greeting);
        }
        if self.is_live() {
            self.outbox.poll(now, &self.prober, &mut self.asks)
        } else {
            None
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let alive = if self.is_live() {
            self.prober.poll_timeout()
        } else {
            None
        };
        earlier(alive, self.own_deadline())
    }

    fn end(&self) -> Option<End> {
        match &self.state {
            State::Closed(end) if self.events.is_empty() => Some(end.clone()),
            State::Waiting { .. }
            | State::Deciding { .. }
            | State::Serving
            | State::Draining { .. }
            | State::Leaving { .. }
            | State::Closed(_) => None,
        }
    }
}
