//! The identity while the agent runs, renewed over whichever link is there.
//!
//! From half-life on, with jitter, a link carries a request for a certificate on a fresh key to
//! control; the plane is only the courier. What comes back is checked like an answer to joining,
//! kept, and used by every dial from then on.
//!
//! An agent that slept through the end of its leaf has no link any more. For a time it is still
//! renewed on the same proof, where it joined, before it dials.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use culvert_certs::store::{CredentialStore, StoredIdentity};
use culvert_certs::{Credentials, JoinAnswer, KeyPair, LEAF_LIFETIME, RenewRequest};
use culvert_wire::Renewed;
use culvert_wire::backoff::scaled;
use tokio::sync::watch;

use crate::error::chain;
use crate::join::{self, JoinFailure};

/// Renewals of a fleet that joined together are smeared over this part of a leaf's life.
const JITTER_PARTS: u32 = 20;
/// After an attempt, successful or not, before the next.
const NEXT_TRY: Duration = Duration::from_secs(600);
/// A request without an answer was lost with its link.
const LOST: Duration = Duration::from_secs(60);

/// The identity, and the renewal that is under way.
#[derive(Debug)]
pub struct Renewal {
    current: watch::Sender<Arc<StoredIdentity>>,
    store: Arc<CredentialStore>,
    /// How much earlier than at half-life this agent begins.
    early: Duration,
    attempt: Mutex<Attempt>,
}

#[derive(Debug)]
enum Attempt {
    /// Nothing is under way; not before this moment.
    Idle(Option<Instant>),
    /// Asked at this moment, for a certificate on this key.
    Asked(Instant, KeyPair),
}

impl Renewal {
    /// The identity as it was kept; `chance` spreads agents that joined together.
    pub fn new(identity: StoredIdentity, store: Arc<CredentialStore>, chance: u64) -> Self {
        Self {
            current: watch::Sender::new(Arc::new(identity)),
            store,
            early: scaled(LEAF_LIFETIME / JITTER_PARTS, chance),
            attempt: Mutex::new(Attempt::Idle(None)),
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
        let is_due = self.is_due(&self.current().credentials, clock);
        is_due.then(|| self.begin(now)).flatten()
    }

    /// Renews a leaf that has expired; one that is alive needs nothing.
    ///
    /// # Errors
    /// Why there is still no leaf that a plane would take.
    pub async fn revive(&self) -> Result<(), String> {
        let current = self.current();
        if current.credentials.leaf(SystemTime::now()).is_ok() {
            return Ok(());
        }
        let Some(request) = self.begin(Instant::now()) else {
            return Err("the certificate has expired; it is not yet time to ask again".to_owned());
        };
        let (addresses, bundle) = (&current.membership.addresses, &current.credentials.bundle);
        tracing::warn!("the certificate has expired; asking for a new one where we joined");
        let answer = join::renew(addresses, bundle, request).await;
        let pause = match &answer {
            // Whoever dials again has a back-off.
            Err(JoinFailure::Unreachable(_)) => None,
            Ok(_) | Err(JoinFailure::Refused { .. } | JoinFailure::Broken(_)) => {
                Some(Instant::now() + NEXT_TRY)
            }
        };
        let attempt = std::mem::replace(&mut *self.attempt(), Attempt::Idle(pause));
        let Attempt::Asked(_, key) = attempt else {
            return Err("another renewal has come between".to_owned());
        };
        let taken = match answer {
            Ok(answer) => self.take(answer, key),
            Err(JoinFailure::Unreachable(reason) | JoinFailure::Broken(reason)) => Err(reason),
            Err(JoinFailure::Refused { message, .. }) => Err(message),
        };
        taken.map_err(|reason| {
            format!("the certificate has expired and is not renewed: {reason}")
        })?;
        tracing::info!("the certificate was renewed");
        Ok(())
    }

    /// A request for a certificate on a fresh key, where none is under way.
    fn begin(&self, now: Instant) -> Option<Bytes> {
        let mut attempt = self.attempt();
        let waits = match &*attempt {
            Attempt::Idle(until) => until.is_some_and(|until| now < until),
            Attempt::Asked(at, _) => now.saturating_duration_since(*at) < LOST,
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
                Ok((key, bytes))
            });
        match made {
            Ok((key, bytes)) => {
                *attempt = Attempt::Asked(now, key);
                Some(bytes.into())
            }
            Err(error) => {
                tracing::error!(error, "a renewal cannot be asked for");
                *attempt = Attempt::Idle(Some(now + NEXT_TRY));
                None
            }
        }
    }

    /// What has come back.
    pub(crate) fn answered(&self, renewed: &Renewed, now: Instant) {
        let next = Attempt::Idle(Some(now + NEXT_TRY));
        let attempt = std::mem::replace(&mut *self.attempt(), next);
        let Attempt::Asked(_, key) = attempt else {
            tracing::debug!("a renewal that nobody waits for");
            return;
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
