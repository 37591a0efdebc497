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

use culvert_certs::{Expect, Identity, Zone, tls};
use culvert_tunnel::{Connection, DialError, Dialer, Target, Verify};
use culvert_wire::{Backoff, Code, InstanceId};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::call::Calls;
use crate::error::chain;
use crate::links::{LinkGuard, LinkInfo, Phase};
use crate::renewal::{NotRevived, Renewal};
use crate::session::Session;

/// What a session may have told before it is heard.
const NOTICES: usize = 4;

/// What all links share.
#[derive(Debug)]
pub struct Linking {
    /// Who we are, and where we joined; renewed while we run.
    pub identity: Renewal,
    /// This start of the agent.
    pub instance: InstanceId,
    /// What calls need.
    pub calls: Arc<Calls>,
    /// Dials, over one socket of each family.
    pub dialer: Arc<Dialer>,
    /// Whether a link without the post-quantum group is one.
    pub post_quantum: tls::PostQuantum,
    /// Zones of the planes that may be served; all where none is named.
    pub zones: watch::Receiver<Option<Vec<String>>>,
    /// Longest drain.
    pub drain_timeout: watch::Receiver<Duration>,
    /// The agent is leaving.
    pub leaving: CancellationToken,
}

impl Linking {
    /// Why a plane may not be served, where the file names zones and not its own.
    pub(crate) fn excludes(&self, peer: &Identity) -> Option<String> {
        let zones = self.zones.borrow();
        let (Some(zones), Identity::Plane(plane)) = (zones.as_ref(), peer) else {
            return None;
        };
        let is_named = zones.iter().any(|zone| is_zone(zone, &plane.zone));
        (!is_named).then(|| {
            format!(
                "the plane {}/{} is not in `planes`",
                plane.region, plane.zone
            )
        })
    }
}

/// Control has said, and signed, that this identity is no more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revoked;

/// How a session, or the attempt at one, ended.
pub(crate) enum Ended {
    /// The agent has left.
    Left,
    /// To be dialled again, after a pause of the back-off's choice or this one.
    Again(String, Option<Duration>),
    /// For good.
    Revoked,
}

/// What one session tells the loop that dials.
pub(crate) enum Notice {
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
    let mut sessions = Sessions {
        linking,
        target,
        guard: Arc::new(guard),
        tasks: JoinSet::new(),
        generation: 0,
        retire: Vec::new(),
        backoff: Backoff::new(),
    };
    let mut zones = sessions.linking.zones.clone();
    loop {
        // What this dial reads is no reason to shorten the pause after it.
        zones.mark_unchanged();
        let notices = sessions.begin();
        let pause = match sessions.watch(notices).await {
            Next::Dial(pause) => pause,
            Next::Left => return Ok(()),
            Next::Revoked => return Err(Revoked),
        };
        tokio::select! {
            biased;
            () = sessions.linking.leaving.cancelled() => return sessions.leave().await,
            () = tokio::time::sleep(pause) => {}
            // A zone that was just named is served at once.
            Ok(()) = zones.changed() => {}
        }
    }
}

/// The sessions of a link: the newest, and those that it replaces and that still finish.
struct Sessions {
    linking: Arc<Linking>,
    target: Target,
    guard: Arc<LinkGuard>,
    tasks: JoinSet<(u64, Ended)>,
    /// The newest session's number.
    generation: u64,
    /// Of each session, what makes it leave.
    retire: Vec<CancellationToken>,
    backoff: Backoff,
}

/// What to do when something has happened to a session.
enum Next {
    /// Dial again, after this long.
    Dial(Duration),
    Left,
    Revoked,
}

impl Sessions {
    /// Starts another session; those that are there go on.
    fn begin(&mut self) -> mpsc::Receiver<Notice> {
        let (notices, told) = mpsc::channel(NOTICES);
        let retire = self.linking.leaving.child_token();
        self.retire.push(retire.clone());
        self.generation += 1;
        let attempt = attempt(
            Arc::clone(&self.linking),
            self.target.clone(),
            Shown {
                guard: Arc::clone(&self.guard),
                quiet: !self.tasks.is_empty(),
            },
            notices,
            retire,
        );
        let generation = self.generation;
        self.tasks.spawn(async move { (generation, attempt.await) });
        told
    }

    /// Until the newest session is over, or wants to be replaced.
    async fn watch(&mut self, mut told: mpsc::Receiver<Notice>) -> Next {
        loop {
            tokio::select! {
                biased;
                Some(notice) = told.recv() => match notice {
                    Notice::Accepted => {
                        self.backoff.accepted(Instant::now());
                        self.retire_older();
                    }
                    Notice::Replace(after) => return Next::Dial(after),
                },
                Some(ended) = self.tasks.join_next() => match ended {
                    Ok((_, Ended::Revoked)) => return Next::Revoked,
                    Ok((_, Ended::Left)) if self.tasks.is_empty() && self.is_leaving() => {
                        return Next::Left;
                    }
                    Ok((generation, Ended::Again(reason, pause)))
                        if generation == self.generation =>
                    {
                        return Next::Dial(self.failed(reason, pause));
                    }
                    // One that was replaced has ended; its replacement goes on.
                    Ok((_, Ended::Left | Ended::Again(..))) => {}
                    Err(error) => {
                        tracing::error!(%error, "a session has a bug");
                        return Next::Dial(self.failed("a bug".to_owned(), None));
                    }
                },
                // Nobody is left to hear of, and the agent stays.
                else => return Next::Dial(self.failed("every session ended".to_owned(), None)),
            }
        }
    }

    /// The newest serves: the others take no new calls, finish, and close.
    fn retire_older(&mut self) {
        let newest = self.retire.pop();
        self.retire.drain(..).for_each(|older| older.cancel());
        self.retire.extend(newest);
    }

    fn failed(&mut self, reason: String, pause: Option<Duration>) -> Duration {
        let pause = pause.unwrap_or_else(|| self.backoff.next(Instant::now(), rand::random()));
        let (host, port) = (&self.target.host, self.target.port);
        let pause_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
        tracing::warn!(host, port, reason, pause_ms, "no link; dialling again");
        if self.tasks.is_empty() {
            self.guard
                .enter(Phase::Pause, |info| info.last_error = Some(reason));
        } else {
            self.guard.note(|info| info.last_error = Some(reason));
        }
        pause
    }

    fn is_leaving(&self) -> bool {
        self.linking.leaving.is_cancelled()
    }

    async fn leave(&mut self) -> Result<(), Revoked> {
        while let Some(ended) = self.tasks.join_next().await {
            if let Ok((_, Ended::Revoked)) = ended {
                return Err(Revoked);
            }
        }
        Ok(())
    }
}

/// How a session shows itself.
pub(crate) struct Shown {
    guard: Arc<LinkGuard>,
    /// An older one serves still: what this one does before it serves is not shown.
    quiet: bool,
}

impl Shown {
    pub(crate) fn enter(&self, phase: Phase) {
        if !self.quiet {
            self.guard.enter(phase, |_| {});
        }
    }

    pub(crate) fn serves(&self, note: impl FnOnce(&mut LinkInfo)) {
        self.guard.enter(Phase::Serve, note);
    }

    pub(crate) fn note(&self, note: impl FnOnce(&mut LinkInfo)) {
        self.guard.note(note);
    }

    pub(crate) fn drains(&self) {
        self.guard.enter(Phase::Drain, |_| {});
    }
}

/// One session, from the dial to its end.
async fn attempt(
    linking: Arc<Linking>,
    target: Target,
    shown: Shown,
    notices: mpsc::Sender<Notice>,
    retire: CancellationToken,
) -> Ended {
    shown.enter(Phase::Dial);
    shown.note(|info| info.dials += 1);
    let connection = tokio::select! {
        biased;
        () = retire.cancelled() => return Ended::Left,
        dialled = dial(&linking, &target) => match dialled {
            Ok(connection) => connection,
            Err(ended) => return ended,
        },
    };
    Session {
        linking,
        shown,
        connection,
        notices,
        retire,
    }
    .run()
    .await
}

async fn dial(linking: &Linking, target: &Target) -> Result<Connection, Ended> {
    match linking.identity.revive().await {
        Ok(()) => {}
        Err(NotRevived::Revoked) => return Err(Ended::Revoked),
        Err(NotRevived::NotYet(reason)) => return Err(Ended::Again(reason, None)),
    }
    let connection = connect(linking, target).await;
    connection.map_err(|reason| Ended::Again(reason, None))
}

async fn connect(linking: &Linking, target: &Target) -> Result<Connection, String> {
    let identity = linking.identity.current();
    let credentials = &identity.credentials;
    let config = tls::agent_link_client_with(credentials, linking.post_quantum)
        .map_err(|error| chain(&error))?;
    let verify = Verify {
        bundle: Arc::clone(&credentials.bundle),
        expect: Expect::Plane,
    };
    let dialled = linking.dialer.dial(target, config, &verify).await;
    let connection = dialled.map_err(|error| {
        let silent = matches!(error, DialError::NoReply { .. });
        let hint = "; is UDP to this port allowed on the way out?";
        chain(&error) + if silent { hint } else { "" }
    })?;
    if let Some(reason) = linking.excludes(&connection.peer().identity) {
        connection.close(Code::NotAllowed, "this plane is not in the agent's file");
        return Err(reason);
    }
    Ok(connection)
}

fn is_zone(text: &str, zone: &Zone) -> bool {
    text.eq_ignore_ascii_case(zone.as_str())
}
