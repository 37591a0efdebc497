//! Taking away what nobody can need any more, once an hour.

use std::time::{Duration, SystemTime};

use serde::de::DeserializeOwned;

use crate::{
    audit::{Actor, KEEP_AUDIT, Subject, entry_prefix},
    control::Control,
    documents::parse,
    error::ControlError,
    records::Record,
    resource::TenantSpec,
    retire::{NAME_REUSE, RetiredName, moment},
    revoke::in_force,
    session_keys::{self, WrappedKey},
    store::{Kind, Page, Scope},
    tokens::StoredToken,
};

/// How often the store is swept.
const EVERY: Duration = Duration::from_secs(3600);

/// How long an expired or redeemed token is remembered, so that a late redeemer's refusal says
/// in the audit log what it was.
const KEEP_TOKENS: Duration = Duration::from_secs(7 * 24 * 3600);

/// Sweeps until it is dropped.
pub(crate) async fn every_hour(control: &Control) {
    loop {
        if let Err(error) = control.sweep().await {
            tracing::warn!(error = %error, "the store was not swept, the next time is in an hour");
        }
        tokio::time::sleep(EVERY).await;
    }
}

impl Control {
    /// Takes away what is past its time: tokens, audit entries, retired names, revocations of
    /// what was deleted, session keys, agents that can no longer renew, tenants past their retention.
    ///
    /// # Errors
    /// Where the store fails; what is left is swept the next time.
    pub async fn sweep(&self) -> Result<(), ControlError> {
        let now = self.now();
        self.sweep_kind(Kind::Token, |record| {
            let token: StoredToken = lenient(record)?;
            Some(now > token.record.expiry + KEEP_TOKENS)
        })
        .await?;
        let oldest = entry_prefix(
            now.checked_sub(KEEP_AUDIT)
                .unwrap_or(SystemTime::UNIX_EPOCH),
        );
        self.sweep_kind(Kind::Audit, |record| {
            Some(record.key.name.as_str() < oldest.as_str())
        })
        .await?;
        self.sweep_kind(Kind::Retired, |record| {
            let retired: RetiredName = lenient(record)?;
            Some(now > moment(&retired.until)?)
        })
        .await?;
        self.sweep_kind(Kind::Revoked, |record| {
            Some(in_force(record, now).is_none())
        })
        .await?;
        self.sweep_kind(Kind::SessionKey, |record| {
            Some(now > WrappedKey::read(record)?.made() + session_keys::KEEP)
        })
        .await?;
        self.sweep_kind(Kind::Agent, |record| {
            let (agent, _) = parse(record).ok()?;
            Some(now > moment(agent.status_text("not_after")?)? + NAME_REUSE)
        })
        .await?;
        self.erase_tenants(now).await
    }

    async fn sweep_kind(
        &self,
        kind: Kind,
        is_past: impl Fn(&Record) -> Option<bool>,
    ) -> Result<(), ControlError> {
        let records = &self.inner.records;
        let mut page = Some(Page::FIRST);
        while let Some(wanted) = page.take() {
            let found = records.list(&Scope::Kind(kind), wanted).await?;
            for record in found
                .records
                .iter()
                .filter(|record| is_past(record) == Some(true))
            {
                match records.delete(&record.key, record.revision).await {
                    Ok(_) | Err(ControlError::Conflict(_)) => {}
                    Err(error) => return Err(error),
                }
            }
            page = found.next.map(Page::after);
        }
        Ok(())
    }

    async fn erase_tenants(&self, now: SystemTime) -> Result<(), ControlError> {
        for (tenant, _) in self.documents(&Scope::Kind(Kind::Tenant)).await? {
            let Some(deleted) = tenant.status_text("deleted").and_then(moment) else {
                continue;
            };
            let retention = tenant.view::<TenantSpec>()?.retention.duration();
            if now > deleted + retention {
                self.erase_tenant(&tenant).await?;
                let subject = Subject::new(None, "tenant", &tenant.name);
                self.done(&Actor::control(), "tenant.erase", subject).await;
            }
        }
        Ok(())
    }
}

/// A record as what it should be; one that is not stays, for somebody to look at.
fn lenient<T: DeserializeOwned>(record: &Record) -> Option<T> {
    record.parse().ok()
}
