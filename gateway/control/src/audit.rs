//! The audit log: who did what, and what was refused and why.
//!
//! Every entry goes to the log as an event and into the store, where it is listed by time. What
//! anybody on the network can cause without proving anything is bounded, so that nobody can fill
//! the store by knocking.

use std::{
    fmt,
    net::SocketAddr,
    sync::Mutex,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use culvert_certs::name::TenantName;
use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};

use crate::{
    control::Control,
    error::ControlError,
    records::Records,
    resource::Timestamp,
    store::{Expected, Key, Kind, MAX_PAGE, Page, Scope},
};

/// How long entries are kept.
pub(crate) const KEEP_AUDIT: Duration = Duration::from_secs(90 * 24 * 3600);

/// Refusals of strangers that are stored at once, before [`REFUSAL_EVERY`] holds.
const REFUSAL_BURST: u32 = 100;

/// Beyond the burst, one refusal of a stranger is stored in each of these.
const REFUSAL_EVERY: Duration = Duration::from_secs(1);

/// Most pages of entries before the wanted time that one answer passes over.
const OLD_PAGES: usize = 50;

/// One thing that was done or refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditEvent {
    /// When, RFC 3339.
    pub ts: String,
    /// Who: `admin-key/ops`, `agent/<id>`, `token/<id>`, `control`.
    pub actor: String,
    /// From where, as the network showed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// What: `join`, `connector.put`, `key.create`.
    pub action: String,
    /// Whose it concerns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<TenantName>,
    /// What it was done to: `connector/dev`.
    pub subject: String,
    /// Whether it was done.
    pub outcome: Outcome,
    /// Why it was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// How many like this one went unrecorded before it.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub suppressed: u64,
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It was done.
    Done,
    /// It was refused.
    Refused,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "the signature that serde calls"
)]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// Who asks, as the audit log names them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Actor {
    name: String,
    source: Option<String>,
}

impl Actor {
    /// Control itself: bootstrapping, sweeping.
    #[must_use]
    pub fn control() -> Self {
        Self {
            name: "control".to_owned(),
            source: None,
        }
    }

    /// Somebody of this kind and name.
    pub fn new(kind: &str, name: impl fmt::Display) -> Self {
        Self {
            name: format!("{kind}/{name}"),
            source: None,
        }
    }

    /// The same, at this address as the network showed it.
    #[must_use]
    pub fn from(self, source: Option<SocketAddr>) -> Self {
        Self {
            source: source.map(|address| address.to_string()),
            ..self
        }
    }
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// What an audit entry is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Subject {
    pub(crate) tenant: Option<TenantName>,
    pub(crate) name: String,
}

impl Subject {
    pub(crate) fn new(tenant: Option<&TenantName>, kind: &str, name: impl fmt::Display) -> Self {
        Self {
            tenant: tenant.cloned(),
            name: format!("{kind}/{name}"),
        }
    }
}

/// Which entries are wanted.
#[derive(Debug, Clone)]
pub struct AuditQuery {
    /// Of this tenant only; `None` for all, and those of the fleet.
    pub tenant: Option<TenantName>,
    /// From this time on.
    pub since: SystemTime,
    /// After the page that ended with this.
    pub after: Option<String>,
    /// At most so many; as many as pages have by default.
    pub limit: Option<usize>,
}

impl Control {
    /// A page of the audit log in the order of time within each tenant, and what
    /// [`AuditQuery::after`] says for the next.
    ///
    /// # Errors
    /// Where the store fails, or `after` is not what an earlier page said.
    pub async fn audit(
        &self,
        query: AuditQuery,
    ) -> Result<(Vec<AuditEvent>, Option<String>), ControlError> {
        let scope = match &query.tenant {
            Some(tenant) => Scope::Tenant(Kind::Audit, tenant.as_str().parse()?),
            None => Scope::Kind(Kind::Audit),
        };
        let since = entry_prefix(query.since);
        let start = match (&query.after, &query.tenant) {
            (Some(after), _) => Some(after.parse()?),
            (None, Some(tenant)) => Some(Key::of_tenant(Kind::Audit, tenant.as_str(), &since)?),
            (None, None) => None,
        };
        let limit = query.limit.unwrap_or(MAX_PAGE);
        let mut page = Page {
            after: start,
            limit,
        };
        for _ in 0..OLD_PAGES {
            let found = self.inner.records.list(&scope, page).await?;
            let recent = found
                .records
                .iter()
                .filter(|r| r.key.name.as_str() >= since.as_str());
            let events: Vec<_> = recent.filter_map(|record| record.parse().ok()).collect();
            match found.next {
                Some(after) if events.is_empty() => {
                    page = Page {
                        after: Some(after),
                        limit,
                    }
                }
                next => return Ok((events, next.map(|key| key.to_string()))),
            }
        }
        Ok((Vec::new(), page.after.map(|key| key.to_string())))
    }
}

/// Writes the log.
#[derive(Debug, Default)]
pub(crate) struct Audit {
    strangers: Mutex<Option<Budget>>,
}

impl Audit {
    /// Something was done by somebody who may.
    pub(crate) async fn done(
        &self,
        records: &Records,
        now: SystemTime,
        actor: &Actor,
        action: &str,
        subject: Subject,
    ) {
        let event = event(now, actor, action, subject, Outcome::Done, None);
        tracing::info!(actor = %event.actor, source = event.source, action, subject = event.subject,
            tenant = event.tenant.as_ref().map(TenantName::as_str), "audit: done");
        store(records, now, &event).await;
    }

    /// Something was refused to somebody who proved nothing.
    pub(crate) async fn refused(
        &self,
        records: &Records,
        now: SystemTime,
        actor: &Actor,
        action: &str,
        subject: Subject,
        reason: &str,
    ) {
        let mut event = event(now, actor, action, subject, Outcome::Refused, Some(reason));
        tracing::warn!(actor = %event.actor, source = event.source, action, subject = event.subject,
            tenant = event.tenant.as_ref().map(TenantName::as_str), reason, "audit: refused");
        if let Some(suppressed) = self.take(now) {
            event.suppressed = suppressed;
            store(records, now, &event).await;
        }
    }

    fn take(&self, now: SystemTime) -> Option<u64> {
        let mut budget = self
            .strangers
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        budget.get_or_insert_with(|| Budget::full(now)).take(now)
    }
}

fn event(
    now: SystemTime,
    actor: &Actor,
    action: &str,
    subject: Subject,
    outcome: Outcome,
    reason: Option<&str>,
) -> AuditEvent {
    AuditEvent {
        ts: Timestamp::from(now).to_string(),
        actor: actor.name.clone(),
        source: actor.source.clone(),
        action: action.to_owned(),
        tenant: subject.tenant,
        subject: subject.name,
        outcome,
        reason: reason.map(str::to_owned),
        suppressed: 0,
    }
}

/// What was done stays done when its entry cannot be stored; the event went to the log.
async fn store(records: &Records, now: SystemTime, event: &AuditEvent) {
    let key = entry_name(now, rand::random(), event.tenant.as_ref());
    let stored = match key {
        Ok(key) => records.put(&key, Expected::Absent, event).await.map(drop),
        Err(error) => Err(error),
    };
    if let Err(error) = stored {
        tracing::error!(error = %error, action = event.action, "an audit entry was not stored");
    }
}

/// Names of entries are in the order of their times.
fn entry_name(
    now: SystemTime,
    salt: [u8; 4],
    tenant: Option<&TenantName>,
) -> Result<Key, ControlError> {
    let name = format!("{}-{}", entry_prefix(now), HEXLOWER.encode(&salt));
    Ok(match tenant {
        Some(tenant) => Key::of_tenant(Kind::Audit, tenant.as_str(), &name)?,
        None => Key::global(Kind::Audit, &name)?,
    })
}

/// What the names of all entries from `time` on are not below.
pub(crate) fn entry_prefix(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    format!("{:017}", since.as_micros())
}

/// How many refusals of strangers may still be stored.
#[derive(Debug)]
struct Budget {
    left: u32,
    counted: SystemTime,
    suppressed: u64,
}

impl Budget {
    fn full(now: SystemTime) -> Self {
        Self {
            left: REFUSAL_BURST,
            counted: now,
            suppressed: 0,
        }
    }

    /// Whether one more may be stored; if so, how many were not since the last that was.
    fn take(&mut self, now: SystemTime) -> Option<u64> {
        let passed = now.duration_since(self.counted).unwrap_or_default();
        let earned = passed.as_secs() / REFUSAL_EVERY.as_secs();
        if earned > 0 {
            let earned = u32::try_from(earned).unwrap_or(REFUSAL_BURST);
            self.left = self.left.saturating_add(earned).min(REFUSAL_BURST);
            self.counted = now;
        }
        if self.left == 0 {
            self.suppressed += 1;
            return None;
        }
        self.left -= 1;
        Some(std::mem::take(&mut self.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_cannot_fill_the_store() {
        let start = UNIX_EPOCH + Duration::from_secs(1_000);
        let mut budget = Budget::full(start);
        let stored = (0..500).filter(|_| budget.take(start).is_some()).count();
        assert_eq!(stored, 100);
        assert_eq!(budget.take(start + REFUSAL_EVERY), Some(400));
        assert_eq!(budget.take(start + REFUSAL_EVERY), None);
    }

    #[test]
    fn names_are_in_the_order_of_time() {
        let at = |secs| {
            let time = UNIX_EPOCH + Duration::from_secs(secs);
            entry_name(time, [0; 4], None).unwrap().to_string()
        };
        assert!(at(9) < at(10));
        assert!(at(1_790_000_000) < at(4_000_000_000));
    }
}
