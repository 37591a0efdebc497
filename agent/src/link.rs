//! One link: an address that is dialled for ever.
//!
//! ```text
//! dial > register > serve > drain
//!   ^       |         |
//!   +-pause-+---------+   a random part of a growing bound; it starts over only after a link
//!                         was accepted and stood
//! ```
//!
//! A replica that says `GoAway` goes on serving what has begun, beside its replacement.

use std::sync::Arc;
use std::time::{Duration, Instant};

use culvert_certs::store::StoredIdentity;
use culvert_certs::{Identity, SignedRecord, Zone, tls};
use culvert_tunnel::{Connection, DialError, Dialer, DriveEnd, Target, Verify};
use culvert_wire::{Backoff, Code, DialerCommand, DialerEvent, End, Hello, InstanceId, Reject};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::call::Calls;
use crate::error::chain;
use crate::links::{LinkGuard, Phase};
use crate::serve::serve;

/// How often health goes up while nothing but counts change.
const HEALTH_EVERY: Duration = Duration::from_secs(1);
/// Commands that may wait for the control stream; offers and health replace older ones there.
const COMMANDS: usize = 64;
/// Events that may wait for us.
const EVENTS: usize = 64;
/// Before an address whose replica we have a link to already is dialled again.
const DUPLICATE_PAUSE: Duration = Duration::from_secs(30);
/// How long a drained link may take beyond the drain's own limit.
const DRAIN_GRACE: Duration = Duration::from_secs(5);

/// What all links share.
#[derive(Debug)]
pub struct Linking {
    /// Who we are, and where we joined.
    pub identity: StoredIdentity,
    /// This start of the agent.
    pub instance: InstanceId,
    /// What calls need.
    pub calls: Arc<Calls>,
    /// Dials, over one socket of each family.
    pub dialer: Dialer,
    /// Zones of the planes that may be served; all where none is named.
    pub zones: watch::Receiver<Option<Vec<String>>>,
    /// Longest drain.
    pub drain_timeout: watch::Receiver<Duration>,
    /// The agent is leaving.
    pub leaving: CancellationToken,
}

/// Control has said, and signed, that this identity is no more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revoked;

/// How a session, or the attempt at one, ended.
enum Ended {
    /// The agent has left.
    Left,
    /// To be dialled again, after a pause of the back-off's choice or this one.
    Again(String, Option<Duration>),
    /// For good.
    Revoked,
}

/// What one session tells the loop that dials.
enum Notice {
    /// It serves.
    Accepted,
    /// It wants a replacement, dialled after this long.
    Replace(Duration),
}

/// Keeps a link to one address until the agent leaves.
///
/// # Errors
/// [`Revoked`]: it is useless to go on.
pub async fn run(linking: Arc<Linking>, target: Target, guard: LinkGuard) -> Result<(), Revoked> {
    let guard = Arc::new(guard);
    let mut backoff = Backoff::new();
    let mut sessions: JoinSet<Ended> = JoinSet::new();
    loop {
        let (notices, mut told) = mpsc::channel(4);
        let session = session(
            Arc::clone(&linking),
            target.clone(),
            Arc::clone(&guard),
            notices,
        );
        sessions.spawn(session);
        let pause = loop {
            tokio::select! {
                biased;
                Some(notice) = told.recv() => match notice {
                    Notice::Accepted => backoff.accepted(Instant::now()),
                    Notice::Replace(after) => break after,
                },
                Some(ended) = sessions.join_next() => match ended {
                    Ok(Ended::Left) if sessions.is_empty() => return Ok(()),
                    Ok(Ended::Left) => {}
                    Ok(Ended::Revoked) => return Err(Revoked),
                    // One that was replaced has ended; its replacement goes on.
                    Ok(Ended::Again(..)) if !sessions.is_empty() => {}
                    Ok(Ended::Again(reason, pause)) => {
                        let pause = pause
                            .unwrap_or_else(|| backoff.next(Instant::now(), rand::random()));
                        note_pause(&guard, &target, reason, pause);
                        break pause;
                    }
                    Err(error) => {
                        tracing::error!(%error, "a session has a bug");
                        break backoff.next(Instant::now(), rand::random());
                    }
                },
            }
        };
        tokio::select! {
            biased;
            () = linking.leaving.cancelled() => {
                while let Some(ended) = sessions.join_next().await {
                    if let Ok(Ended::Revoked) = ended {
                        return Err(Revoked);
                    }
                }
                return Ok(());
            }
            () = tokio::time::sleep(pause) => {}
        }
    }
}

fn note_pause(guard: &LinkGuard, target: &Target, reason: String, pause: Duration) {
    let (host, port) = (&target.host, target.port);
    let pause_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
    tracing::warn!(host, port, reason, pause_ms, "no link; dialling again");
    guard.enter(Phase::Pause, |info| info.last_error = Some(reason));
}

/// One session, from the dial to its end.
async fn session(
    linking: Arc<Linking>,
    target: Target,
    guard: Arc<LinkGuard>,
    notices: mpsc::Sender<Notice>,
) -> Ended {
    guard.enter(Phase::Dial, |info| info.dials += 1);
    let connection = tokio::select! {
        biased;
        () = linking.leaving.cancelled() => return Ended::Left,
        dialled = dial(&linking, &target) => match dialled {
            Ok(connection) => connection,
            Err(reason) => return Ended::Again(reason, None),
        },
    };
    Session {
        linking,
        guard,
        connection,
        notices,
    }
    .run()
    .await
}

async fn dial(linking: &Linking, target: &Target) -> Result<Connection, String> {
    let credentials = &linking.identity.credentials;
    let config = tls::agent_link_client(credentials).map_err(|error| chain(&error))?;
    let verify = Verify {
        bundle: Arc::clone(&credentials.bundle),
        expect: culvert_certs::Expect::Plane,
    };
    let dialled = linking.dialer.dial(target, config, &verify).await;
    let connection = dialled.map_err(|error| match &error {
        DialError::NoReply { .. } => format!(
            "{}; is UDP to this port allowed on the way out?",
            chain(&error)
        ),
        _ => chain(&error),
    })?;
    let zones = linking.zones.borrow().clone();
    if let (Some(zones), Identity::Plane(plane)) = (zones, &connection.peer().identity)
        && !zones.iter().any(|zone| is_zone(zone, &plane.zone))
    {
        connection.close(Code::NotAllowed, "this plane is not in the agent's file");
        return Err(format!(
            "the plane {}/{} is not in `planes`",
            plane.region, plane.zone
        ));
    }
    Ok(connection)
}

fn is_zone(text: &str, zone: &Zone) -> bool {
    text.eq_ignore_ascii_case(zone.as_str())
}

/// A connection that becomes a session.
struct Session {
    linking: Arc<Linking>,
    guard: Arc<LinkGuard>,
    connection: Connection,
    notices: mpsc::Sender<Notice>,
}

impl Session {
    async fn run(self) -> Ended {
        let mut offers = self.linking.calls.services.offers();
        let offer = offers.borrow_and_update().as_ref().clone();
        self.guard.enter(Phase::Register, |_| {});
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
        self.finish_calls(calls_ended).await;
        while tasks.join_next().await.is_some() {}
        self.ended(verdict, &end)
    }

    /// The connection is closed: its calls notice.
    async fn finish_calls(&self, ended: oneshot::Receiver<culvert_tunnel::ConnectionEnd>) {
        if tokio::time::timeout(DRAIN_GRACE, ended).await.is_err() {
            self.connection.close(Code::AgentGone, "");
        }
    }

    fn ended(&self, verdict: Verdict, end: &DriveEnd) -> Ended {
        match verdict {
            Verdict::Revoked => return Ended::Revoked,
            Verdict::Rejected(reject) => return self.rejected(&reject),
            Verdict::Over => {}
        }
        if *end == DriveEnd::Machine(End::TransportDead) {
            self.linking.dialer.path_died(&self.connection);
        }
        if self.linking.leaving.is_cancelled() {
            if *end == DriveEnd::Machine(End::Drained { clean: false }) {
                tracing::warn!("the drain's time is over; calls were cut");
            }
            return Ended::Left;
        }
        Ended::Again(describe(end), None)
    }

    fn rejected(&self, reject: &Reject) -> Ended {
        match reject.code {
            Code::Revoked if self.proves(reject.signed.as_deref()) => Ended::Revoked,
            Code::Revoked => Ended::Again(
                "a plane says that this identity is revoked, without control's signature"
                    .to_owned(),
                None,
            ),
            Code::Duplicate => Ended::Again(
                "this replica has a link of this agent already".to_owned(),
                Some(DUPLICATE_PAUSE),
            ),
            code => Ended::Again(
                match reject.minimum {
                    Some(minimum) => {
                        format!("rejected: {code}; at least version {minimum} is needed")
                    }
                    None => format!("rejected: {code}"),
                },
                None,
            ),
        }
    }

    /// Whether control has signed that this agent, its connector or its tenant is revoked. No
    /// plane's own word is believed.
    fn proves(&self, signed: Option<&[u8]>) -> bool {
        let credentials = &self.linking.identity.credentials;
        let Identity::Agent(me) = &credentials.identity else {
            return false;
        };
        let record = signed.map(|bytes| SignedRecord::verify(bytes, &credentials.bundle));
        let Some(Ok(record)) = record else {
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

    /// Says what is offered and how it is, and hears what the relay has to say.
    async fn serve(
        &self,
        commands: &mpsc::Sender<DialerCommand>,
        mut events: mpsc::Receiver<DialerEvent>,
        offers: &mut watch::Receiver<Arc<culvert_wire::Offer>>,
    ) -> Verdict {
        let services = Arc::clone(&self.linking.calls.services);
        let mut changes = services.changes();
        let mut ticks = tokio::time::interval(HEALTH_EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut reported = None;
        let mut leaving = std::pin::pin!(self.linking.leaving.cancelled());
        let mut drains = false;
        loop {
            let command = tokio::select! {
                biased;
                () = &mut leaving, if !drains => {
                    drains = true;
                    self.guard.enter(Phase::Drain, |_| {});
                    Some(DialerCommand::Drain { timeout: *self.linking.drain_timeout.borrow() })
                }
                event = events.recv() => match event {
                    None => return Verdict::Over,
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
                _ = ticks.tick() => None,
            };
            let health = services.health();
            let news = (reported.as_ref() != Some(&health)).then(|| {
                reported = Some(health.clone());
                DialerCommand::Health(health)
            });
            for command in command.into_iter().chain(news) {
                if commands.send(command).await.is_err() {
                    // The driver is over; its last events are still there.
                    tracing::trace!("a command came too late");
                }
            }
        }
    }

    async fn hear(&self, event: DialerEvent) -> Heard {
        match event {
            DialerEvent::Welcome(welcome) => {
                self.welcomed(&welcome);
                drop(self.notices.send(Notice::Accepted).await);
            }
            DialerEvent::Rejected(reject) => return Heard::Verdict(Verdict::Rejected(reject)),
            DialerEvent::Alive { round_trip, .. } => self.guard.note(|info| {
                let rtt = round_trip.unwrap_or_else(|| self.connection.rtt());
                info.rtt_ms = Some(rtt.as_secs_f64() * 1000.0);
            }),
            DialerEvent::ServingDead => {
                tracing::warn!("the relay's probes do not come through; dialling a replacement");
                drop(self.notices.send(Notice::Replace(Duration::ZERO)).await);
            }
            DialerEvent::Ask(ask) => {
                return Heard::Command(DialerCommand::Answer(self.linking.calls.asked(ask)));
            }
            DialerEvent::GoAway(go_away) => {
                let smear =
                    Duration::from_millis(go_away.smear_ms).min(culvert_wire::limits::SMEAR_MAX);
                let after = culvert_wire::backoff::scaled(smear, rand::random());
                tracing::info!(leave_in_ms = go_away.leave_in_ms, "the replica leaves");
                drop(self.notices.send(Notice::Replace(after)).await);
            }
            DialerEvent::Revoked(signed) if self.proves(Some(&signed)) => {
                return Heard::Verdict(Verdict::Revoked);
            }
            DialerEvent::Revoked(_) => tracing::warn!("a revocation without control's signature"),
            DialerEvent::Renewed(_) | DialerEvent::Planes(_) => {}
        }
        Heard::Nothing
    }

    fn welcomed(&self, welcome: &culvert_wire::Welcome) {
        let plane = format!("{}/{}", welcome.plane.region, welcome.plane.zone);
        tracing::info!(plane, replica = %welcome.replica, session = %welcome.session, group = self.connection.group(), "a link serves");
        self.guard.enter(Phase::Serve, |info| {
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

/// Kind of the records with which control revokes.
const REVOKED_KIND: &str = "revoked";

/// What the control stream has come to.
enum Verdict {
    /// See its end.
    Over,
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
