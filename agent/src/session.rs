//! One session of a link: register, serve, drain, over one connection.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use culvert_certs::{Credentials, Identity, SignedRecord};
use culvert_tunnel::{Connection, ConnectionEnd, DriveEnd};
use culvert_wire::backoff::scaled;
use culvert_wire::{Code, DialerCommand, DialerEvent, End, Health, Hello, Offer, Reject, Welcome};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::error::chain;
use crate::link::{Ended, Linking, Notice, Shown};
use crate::links::Phase;
use crate::serve::serve;

/// How often health goes up while nothing but counts change.
const HEALTH_EVERY: Duration = Duration::from_secs(1);
/// Commands that may wait for the control stream; offers and health replace older ones there.
const COMMANDS: usize = 64;
/// Events that may wait for us.
const EVENTS: usize = 64;
/// Before an address whose replica we have a link to already is dialled again.
const DUPLICATE_PAUSE: Duration = Duration::from_secs(30);
/// Within this time after a renewal each link is replaced by one with the new certificate.
const REPLACE_SMEAR: Duration = Duration::from_secs(2);
/// How long the calls of a connection that is closed may take to notice it.
const AFTERMATH: Duration = Duration::from_secs(5);
/// Kind of the records with which control revokes.
const REVOKED_KIND: &str = "revoked";

/// A connection that becomes a session.
pub(crate) struct Session {
    pub(crate) linking: Arc<Linking>,
    pub(crate) shown: Shown,
    pub(crate) connection: Connection,
    pub(crate) notices: mpsc::Sender<Notice>,
    /// The agent is leaving, or a newer session serves in place of this one.
    pub(crate) retire: CancellationToken,
}

impl Session {
    /// Runs to its end, whatever it is.
    pub(crate) async fn run(self) -> Ended {
        let mut offers = self.linking.calls.services.offers();
        let offer = offers.borrow_and_update().as_ref().clone();
        self.shown.enter(Phase::Register);
        let control = match self.connection.open_control().await {
            Ok(control) => control,
            Err(end) => return Ended::Again(chain(&end), None),
        };
        let hello = Hello {
            version: culvert_wire::VERSION,
            features: Vec::new(),
            instance: self.linking.instance,
            attach: None,
            offer,
        };
        let machine = culvert_wire::Dialer::new(Instant::now(), hello);
        let (commands, orders) = mpsc::channel(COMMANDS);
        let (tell, events) = mpsc::channel(EVENTS);
        let (calls_end, calls_ended) = oneshot::channel();
        let mut tasks = JoinSet::new();
        let (calls, connection) = (Arc::clone(&self.linking.calls), self.connection.clone());
        tasks.spawn(async move {
            let end = serve(calls, connection).await;
            // Nobody waits where the control stream has ended first.
            drop(calls_end.send(end));
        });
        let driving = control.drive(machine, orders, tell);
        let serving = self.serve(&commands, events, &mut offers);
        let mut serving = std::pin::pin!(serving);
        let mut driving = std::pin::pin!(driving);
        let (verdict, end) = tokio::select! {
                biased;
                verdict = &mut serving => {
                    if let Verdict::Revoked = verdict {
                        self.connection.close(Code::Revoked, "");
                    }
                    (verdict, driving.await)
                }
                end = &mut driving => (serving.await, end),
        };
        tracing::debug!(?end, "a session's control stream has ended");
        self.finish_calls(calls_ended).await;
        while tasks.join_next().await.is_some() {}
        self.ended(verdict, &end)
    }

    /// The connection is closed: its calls notice.
    async fn finish_calls(&self, ended: oneshot::Receiver<ConnectionEnd>) {
        if tokio::time::timeout(AFTERMATH, ended).await.is_err() {
            self.connection.close(Code::AgentGone, "");
        }
    }

    fn ended(&self, verdict: Verdict, end: &DriveEnd) -> Ended {
        match &verdict {
            Verdict::Revoked => return Ended::Revoked,
            Verdict::Rejected(reject) => return self.rejected(reject),
            Verdict::Over | Verdict::Excluded(_) => {}
        }
        if *end == DriveEnd::Machine(End::TransportDead) {
            self.linking.dialer.path_died(&self.connection);
        }
        if let Verdict::Excluded(reason) = verdict {
            return Ended::Again(reason, None);
        }
        if self.retire.is_cancelled() {
            if *end == DriveEnd::Machine(End::Drained { clean: false }) {
                tracing::warn!("the drain's time is over; calls were cut");
            }
            return Ended::Left;
        }
        Ended::Again(describe(end), None)
    }

    fn rejected(&self, reject: &Reject) -> Ended {
        if reject.code == Code::Revoked {
            return if self.proves(reject.signed.as_deref()) {
                Ended::Revoked
            } else {
                Ended::Again(
                    "a plane says that this identity is revoked, without control's signature"
                        .to_owned(),
                    None,
                )
            };
        }
        let pause = (reject.code == Code::Duplicate).then_some(DUPLICATE_PAUSE);
        let least = reject
            .minimum
            .map(|minimum| format!("; at least version {minimum} is needed"))
            .unwrap_or_default();
        Ended::Again(format!("rejected: {}{least}", reject.code), pause)
    }

    fn proves(&self, signed: Option<&[u8]>) -> bool {
        let identity = self.linking.identity.current();
        signed.is_some_and(|signed| revokes(signed, &identity.credentials))
    }

    /// Says what is offered and how it is, and hears what the relay has to say.
    async fn serve(
        &self,
        commands: &mpsc::Sender<DialerCommand>,
        mut events: mpsc::Receiver<DialerEvent>,
        offers: &mut watch::Receiver<Arc<Offer>>,
    ) -> Verdict {
        let mut changes = self.linking.calls.services.changes();
        let mut ticks = tokio::time::interval(HEALTH_EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut reported = None;
        let mut leaving = std::pin::pin!(self.retire.cancelled());
        let mut renewed = self.linking.identity.changes();
        let mut zones = self.linking.zones.clone();
        // What has changed since the dial counts too.
        zones.mark_changed();
        // What it will have come to, once it drains.
        let mut drains = None;
        loop {
            let command = tokio::select! {
                biased;
                () = &mut leaving, if drains.is_none() => {
                    if self.linking.leaving.is_cancelled() {
                        self.shown.drains();
                    }
                    drains = Some(Verdict::Over);
                    Some(self.drain())
                }
                Ok(()) = zones.changed(), if drains.is_none() => {
                    drains = self.excluded();
                    drains.is_some().then(|| self.drain())
                }
                event = events.recv() => match event {
                    None => return drains.unwrap_or(Verdict::Over),
                    Some(event) => match self.hear(event).await {
                        Heard::Command(command) => Some(command),
                        Heard::Nothing => None,
                        Heard::Verdict(verdict) => return verdict,
                    },
                },
                Ok(()) = offers.changed() => {
                    Some(DialerCommand::Offer(offers.borrow_and_update().as_ref().clone()))
                }
                Ok(()) = changes.changed() => None,
                Ok(()) = renewed.changed(), if drains.is_none() => {
                    self.replace(REPLACE_SMEAR).await;
                    None
                }
                _ = ticks.tick() => {
                    let request = self.linking.identity.request(Instant::now(), SystemTime::now());
                    request.map(DialerCommand::Renew)
                }
            };
            for command in command.into_iter().chain(self.news(&mut reported)) {
                if commands.send(command).await.is_err() {
                    // The driver is over; its last events are still there.
                    tracing::trace!("a command came too late");
                }
            }
        }
    }

    fn drain(&self) -> DialerCommand {
        DialerCommand::Drain {
            timeout: *self.linking.drain_timeout.borrow(),
        }
    }

    /// Whether the file has ceased to name the zone of this link's plane.
    fn excluded(&self) -> Option<Verdict> {
        let reason = self.linking.excludes(&self.connection.peer().identity)?;
        tracing::info!(reason, "a link is drained");
        self.shown.drains();
        Some(Verdict::Excluded(reason))
    }

    /// The health of the services, where it is another than was `reported`.
    fn news(&self, reported: &mut Option<Health>) -> Option<DialerCommand> {
        let health = self.linking.calls.services.health();
        if reported.as_ref() == Some(&health) {
            return None;
        }
        *reported = Some(health.clone());
        Some(DialerCommand::Health(health))
    }

    async fn hear(&self, event: DialerEvent) -> Heard {
        match event {
            DialerEvent::Welcome(welcome) => {
                self.welcomed(&welcome);
                drop(self.notices.send(Notice::Accepted).await);
            }
            DialerEvent::Rejected(reject) => return Heard::Verdict(Verdict::Rejected(reject)),
            DialerEvent::Alive { .. } if self.retire.is_cancelled() => {}
            DialerEvent::Alive { round_trip, .. } => self.shown.note(|info| {
                let rtt = round_trip.unwrap_or_else(|| self.connection.rtt());
                info.rtt_ms = Some(rtt.as_secs_f64() * 1000.0);
            }),
            DialerEvent::ServingDead => {
                tracing::warn!("the relay's probes do not come through; dialling a replacement");
                self.replace(Duration::ZERO).await;
            }
            DialerEvent::Ask(ask) => {
                return Heard::Command(DialerCommand::Answer(self.linking.calls.asked(ask)));
            }
            DialerEvent::GoAway(go_away) => {
                let smear =
                    Duration::from_millis(go_away.smear_ms).min(culvert_wire::limits::SMEAR_MAX);
                tracing::info!(leave_in_ms = go_away.leave_in_ms, "the replica leaves");
                self.replace(smear).await;
            }
            DialerEvent::Revoked(signed) if self.proves(Some(&signed)) => {
                return Heard::Verdict(Verdict::Revoked);
            }
            DialerEvent::Revoked(_) => tracing::warn!("a revocation without control's signature"),
            DialerEvent::Renewed(renewed) => {
                self.linking.identity.answered(&renewed, Instant::now());
            }
            DialerEvent::Planes(_) => {}
        }
        Heard::Nothing
    }

    /// Asks for a replacement, dialled at a random moment within `smear`. A loop that has gone
    /// on to another session needs none.
    async fn replace(&self, smear: Duration) {
        let after = scaled(smear, rand::random());
        drop(self.notices.send(Notice::Replace(after)).await);
    }

    fn welcomed(&self, welcome: &Welcome) {
        let plane = format!("{}/{}", welcome.plane.region, welcome.plane.zone);
        tracing::info!(plane, replica = %welcome.replica, session = %welcome.session, group = self.connection.group(), "a link serves");
        self.shown.serves(|info| {
            info.plane = Some(plane);
            info.replica = Some(welcome.replica.to_string());
            info.session = Some(welcome.session.to_string());
            info.transport = Some(self.connection.transport().to_string());
            info.group = Some(self.connection.group().to_owned());
            info.rtt_ms = Some(self.connection.rtt().as_secs_f64() * 1000.0);
            info.last_error = None;
        });
    }
}

/// What the control stream has come to.
enum Verdict {
    /// See its end.
    Over,
    /// The file does not name its plane's zone any more, and so it was drained.
    Excluded(String),
    Rejected(Reject),
    Revoked,
}

enum Heard {
    Nothing,
    Command(DialerCommand),
    Verdict(Verdict),
}

fn describe(end: &DriveEnd) -> String {
    match end {
        DriveEnd::Connection(end) => chain(end),
        DriveEnd::Stream(error) => format!("the control stream broke: {}", chain(error)),
        DriveEnd::Stalled => "the control stream takes nothing any more".to_owned(),
        DriveEnd::Abandoned => "the session was abandoned".to_owned(),
        DriveEnd::Machine(End::TransportDead) => {
            "the path is dead: nothing comes any more".to_owned()
        }
        DriveEnd::Machine(End::NoGreeting) => "no greeting in time".to_owned(),
        DriveEnd::Machine(End::Violation(violation)) => {
            format!("the relay broke the protocol: {violation}")
        }
        DriveEnd::Machine(End::Rejected(code) | End::Closed(code)) => format!("closed: {code}"),
        DriveEnd::Machine(End::Drained { .. } | End::Left { .. }) => {
            "the link was drained".to_owned()
        }
    }
}

/// Whether control has signed that this agent, its connector or its tenant is revoked. No
/// plane's own word is believed.
pub(crate) fn revokes(signed: &[u8], credentials: &Credentials) -> bool {
    let Identity::Agent(me) = &credentials.identity else {
        return false;
    };
    let Ok(record) = SignedRecord::verify(signed, &credentials.bundle) else {
        return false;
    };
    let header = record.header();
    let names = [
        "tenant".to_owned(),
        format!("connector-{}", me.connector),
        format!("agent-{}", me.agent),
    ];
    header.kind == REVOKED_KIND
        && header.tenant.as_ref() == Some(&me.tenant)
        && names.contains(&header.name)
}
