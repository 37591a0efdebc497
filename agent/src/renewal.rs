//! The identity while the agent runs, renewed over whichever link is there.
//!
//! From half-life on, with jitter, a link carries a request for a certificate on a fresh key to
//! control; the plane is only the courier. What comes back is checked like an answer to joining,
//! kept, and used by every dial from then on.
//!
//! An agent that slept through the end of its leaf has no link any more. For a time it is still
//! renewed on the same proof, where it joined, before it dials.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use culvert_certs::store::{CredentialStore, StoredIdentity};
use culvert_certs::{Credentials, JoinAnswer, KeyPair, LEAF_LIFETIME, RenewRequest, VerifyError};
use culvert_wire::Renewed;
use culvert_wire::backoff::scaled;
use tokio::sync::watch;

use crate::error::chain;
use crate::join::{self, JoinFailure};
use crate::session::revokes;

/// Renewals of a fleet that joined together are smeared over this part of a leaf's life.
const JITTER_PARTS: u32 = 20;
/// After an attempt, successful or not, before the next.
const NEXT_TRY: Duration = Duration::from_secs(600);
/// A request without an answer was lost with its link.
const LOST: Duration = Duration::from_secs(60);
/// For all addresses together, where it is asked at the door: before another one may begin.
const KNOCK_WAIT: Duration = Duration::from_secs(50);

const _: () = assert!(KNOCK_WAIT.as_secs() < LOST.as_secs());

/// The identity, and the renewal that is under way.
#[derive(Debug)]
pub struct Renewal {
    current: watch::Sender<Arc<StoredIdentity>>,
    store: Arc<CredentialStore>,
    /// How much earlier than at half-life this agent begins.
    early: Duration,
    attempt: Mutex<Attempt>,
    /// How often it was asked at the door.
    knocks: AtomicU64,
}

#[derive(Debug)]
enum Attempt {
    /// Nothing is under way; not before this moment.
    Idle(Option<Instant>),
    /// Asked over a link at this moment, for a certificate on this key.
    Asked(Instant, KeyPair),
    /// Asking at the door since this moment, for the so manieth time; whoever asks has the key.
    Knocking(Instant, u64),
}

/// What is asked at the door.
struct Knock {
    number: u64,
    key: KeyPair,
    request: Bytes,
}

/// Why a leaf that has expired is not renewed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotRevived {
    /// Control has signed that this identity is no more: all retrying ends.
    #[error("the identity was revoked")]
    Revoked,
    /// Later it may be.
    #[error("{0}")]
    NotYet(String),
}

impl Renewal {
    /// The identity as it was kept; `chance` spreads agents that joined together.
    pub fn new(identity: StoredIdentity, store: Arc<CredentialStore>, chance: u64) -> Self {
        Self {
            current: watch::Sender::new(Arc::new(identity)),
            store,
            early: scaled(LEAF_LIFETIME / JITTER_PARTS, chance),
            attempt: Mutex::new(Attempt::Idle(None)),
            knocks: AtomicU64::new(0),
        }
    }

    /// The identity now.
    pub fn current(&self) -> Arc<StoredIdentity> {
        Arc::clone(&self.current.borrow())
    }

    /// Told when it was renewed.
    pub fn changes(&self) -> watch::Receiver<Arc<StoredIdentity>> {
        self.current.subscribe()
    }

    /// The request to send, where it is time and none is under way.
    pub(crate) fn request(&self, now: Instant, clock: SystemTime) -> Option<Bytes> {
        if !self.is_due(&self.current().credentials, clock) {
            return None;
        }
        let mut attempt = self.attempt();
        let (key, request) = self.begin(&mut attempt, now)?;
        *attempt = Attempt::Asked(now, key);
        Some(request)
    }

    /// Renews a leaf that has expired; one that is alive needs nothing, and one that is not alive
    /// yet shows a clock that is wrong here: whoever is dialled judges by its own.
    ///
    /// # Errors
    /// Why there is still no leaf that a plane would take.
    pub async fn revive(&self) -> Result<(), NotRevived> {
        let current = self.current();
        let expired = Err(VerifyError::Expired);
        if current.credentials.leaf(SystemTime::now()) != expired {
            return Ok(());
        }
        let Some(knock) = self.knock(Instant::now()) else {
            let reason = "the certificate has expired; it is not yet time to ask again";
            return Err(NotRevived::NotYet(reason.to_owned()));
        };
        let (addresses, bundle) = (&current.membership.addresses, &current.credentials.bundle);
        tracing::warn!("the certificate has expired; asking for a new one where we joined");
        let asking = join::renew(addresses, bundle, knock.request);
        let answer = tokio::time::timeout(KNOCK_WAIT, asking).await;
        let answer = answer.unwrap_or_else(|_| {
            let reason = "nobody has answered in time".to_owned();
            Err(JoinFailure::Unreachable(reason))
        });
        let pause = match &answer {
            // Whoever dials again has a back-off.
            Err(JoinFailure::Unreachable(_)) => None,
            Ok(_) | Err(JoinFailure::Refused { .. } | JoinFailure::Broken(_)) => {
                Some(Instant::now() + NEXT_TRY)
            }
        };
        self.knocked(knock.number, pause);
        let taken = match answer {
            Ok(answer) => self.take(answer, knock.key),
            Err(JoinFailure::Unreachable(reason) | JoinFailure::Broken(reason)) => Err(reason),
            Err(JoinFailure::Refused {
                signed: Some(signed),
                ..
            }) if revokes(&signed, &current.credentials) => return Err(NotRevived::Revoked),
            Err(JoinFailure::Refused { message, .. }) => Err(message),
        };
        taken.map_err(|reason| {
            NotRevived::NotYet(format!(
                "the certificate has expired and is not renewed: {reason}"
            ))
        })?;
        tracing::info!("the certificate was renewed");
        Ok(())
    }

    /// Begins to ask at the door, where nothing else is under way.
    fn knock(&self, now: Instant) -> Option<Knock> {
        let mut attempt = self.attempt();
        let (key, request) = self.begin(&mut attempt, now)?;
        let number = self.knocks.fetch_add(1, Ordering::Relaxed);
        *attempt = Attempt::Knocking(now, number);
        Some(Knock {
            number,
            key,
            request,
        })
    }

    /// That one has ended; another one that has begun since goes on.
    fn knocked(&self, number: u64, pause: Option<Instant>) {
        let mut attempt = self.attempt();
        if matches!(&*attempt, Attempt::Knocking(_, other) if *other == number) {
            *attempt = Attempt::Idle(pause);
        }
    }

    /// A request for a certificate on a fresh key, where none is under way.
    fn begin(&self, attempt: &mut Attempt, now: Instant) -> Option<(KeyPair, Bytes)> {
        let waits = match attempt {
            Attempt::Idle(until) => until.is_some_and(|until| now < until),
            Attempt::Asked(at, _) | Attempt::Knocking(at, _) => {
                now.saturating_duration_since(*at) < LOST
            }
        };
        if waits {
            return None;
        }
        let current = self.current();
        let made = KeyPair::generate()
            .map_err(|error| chain(&error))
            .and_then(|key| {
                let request =
                    RenewRequest::new(&current.credentials, &key).map_err(|error| chain(&error))?;
                let bytes = request.encode().map_err(|error| chain(&error))?;
                Ok((key, bytes.into()))
            });
        match made {
            Ok(made) => Some(made),
            Err(error) => {
                tracing::error!(error, "a renewal cannot be asked for");
                *attempt = Attempt::Idle(Some(now + NEXT_TRY));
                None
            }
        }
    }

    /// What has come back.
    pub(crate) fn answered(&self, renewed: &Renewed, now: Instant) {
        let Some(key) = self.asked(now) else {
            return tracing::debug!("a renewal that nobody waits for");
        };
        let taken = match renewed {
            Renewed::Issued(answer) => serde_json::from_slice(answer)
                .map_err(|error| error.to_string())
                .and_then(|answer| self.take(answer, key)),
            Renewed::Refused(code) => Err(format!("refused: {code}")),
        };
        match taken {
            Ok(()) => tracing::info!("the certificate was renewed"),
            Err(error) => tracing::error!(error, "the certificate is not renewed; trying again"),
        }
    }

    /// The key of what was asked over a link; whoever asks at the door goes on.
    fn asked(&self, now: Instant) -> Option<KeyPair> {
        let mut attempt = self.attempt();
        if !matches!(*attempt, Attempt::Asked(..)) {
            return None;
        }
        match std::mem::replace(&mut *attempt, Attempt::Idle(Some(now + NEXT_TRY))) {
            Attempt::Asked(_, key) => Some(key),
            Attempt::Idle(_) | Attempt::Knocking(..) => None,
        }
    }

    /// Checks an answer against what is known, keeps it, and makes it the identity.
    fn take(&self, answer: JoinAnswer, key: KeyPair) -> Result<(), String> {
        let old = self.current();
        let bundle = old
            .credentials
            .bundle
            .successor(&answer.bundle)
            .map_err(|error| chain(&error))?;
        let credentials = Credentials::new(answer.chain, key, Arc::new(bundle), SystemTime::now())
            .map_err(|error| chain(&error))?;
        if credentials.identity != old.credentials.identity {
            return Err(format!("it is for {}", credentials.identity));
        }
        let mut membership = old.membership.clone();
        if !answer.addresses.is_empty() {
            membership.addresses = answer.addresses;
        }
        self.store
            .publish(&credentials, &membership)
            .map_err(|error| chain(&error))?;
        self.current.send_replace(Arc::new(StoredIdentity {
            credentials,
            membership,
        }));
        Ok(())
    }

    fn is_due(&self, credentials: &Credentials, clock: SystemTime) -> bool {
        // One that has expired has no leaf any more: [`Renewal::revive`] sees to it.
        credentials
            .leaf(clock)
            .is_ok_and(|leaf| clock + LEAF_LIFETIME / 2 + self.early >= leaf.not_after)
    }

    fn attempt(&self) -> MutexGuard<'_, Attempt> {
        self.attempt.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use culvert_certs::store::Membership;
    use culvert_certs::{AgentId, AgentIdentity, Authority, Identity};

    use super::*;

    fn renewal(dir: &std::path::Path) -> Renewal {
        let now = SystemTime::now();
        let domain = "culvert.test".parse().expect("a domain");
        let authority = Authority::create(domain, now).expect("an authority");
        let identity = Identity::Agent(AgentIdentity {
            trust_domain: authority.trust_domain().clone(),
            tenant: "acme".parse().expect("a name"),
            connector: "vpc".parse().expect("a name"),
            agent: AgentId::random(),
        });
        let hour = Duration::from_secs(3_600);
        let credentials = authority.enroll(&identity, &[], hour, now).expect("a leaf");
        let membership = Membership::default();
        let store = CredentialStore::open(dir).expect("a store");
        let stored = StoredIdentity {
            credentials,
            membership,
        };
        Renewal::new(stored, Arc::new(store), 0)
    }

    /// One that answers late must neither end the next one nor take its key.
    #[test]
    fn who_asks_at_the_door_ends_its_own_turn_only() {
        let dir = tempfile::tempdir().expect("a directory");
        let (renewal, start) = (renewal(dir.path()), Instant::now());
        let first = renewal.knock(start).expect("the first");
        assert!(renewal.knock(start + LOST / 2).is_none());
        let second = renewal.knock(start + LOST).expect("the second");
        assert_ne!(first.number, second.number);
        renewal.knocked(first.number, None);
        let later = start + LOST + LOST / 2;
        assert!(renewal.knock(later).is_none(), "the second is under way");
        // Nor does an answer over a link that nobody waits for.
        let refused = Renewed::Refused(culvert_wire::Code::Busy);
        renewal.answered(&refused, later);
        assert!(matches!(*renewal.attempt(), Attempt::Knocking(..)));
        renewal.knocked(second.number, None);
        assert!(renewal.knock(later).is_some());
    }
}
