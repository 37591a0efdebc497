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
use culvert_certs::{Expect, Identity, Zone, tls};
use culvert_tunnel::{Connection, DialError, Dialer, Target, Verify};
use culvert_wire::{Backoff, Code, InstanceId};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::call::Calls;
use crate::error::chain;
use crate::links::{LinkGuard, Phase};
use crate::session::Session;

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
    /// Whether a link without the post-quantum group is one.
    pub post_quantum: tls::PostQuantum,
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
