//! Revocation: each is one signed record, and all of them together are the deny-list.
//!
//! The record itself is what a refused member is shown, so it says all that is needed: whom, and
//! since when. It stays for as long as a certificate it denies could still renew itself.

use std::time::SystemTime;

use culvert_certs::{
    AgentId, SignedRecord,
    name::{ConnectorName, TenantName},
};
use serde::{Deserialize, Serialize};

use crate::{
    audit::{Actor, Subject},
    control::Control,
    error::ControlError,
    records::Record,
    resource::{ResourceKind, Timestamp},
    retire::moment,
    store::{Expected, Key, Kind},
};

/// Who is revoked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Revoked {
    /// A tenant, and every connector and agent of it.
    Tenant(TenantName),
    /// A connector, and every agent of it.
    Connector(TenantName, ConnectorName),
    /// One agent.
    Agent(TenantName, AgentId),
}

/// What a revocation's record says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revocation {
    /// Who.
    pub revoked: Revoked,
    /// Since when, RFC 3339.
    pub since: String,
    /// Until when the record is kept, RFC 3339: set where what it denies was deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
}

impl Revoked {
    /// Whose it is.
    #[must_use]
    pub fn tenant(&self) -> &TenantName {
        match self {
            Self::Tenant(tenant) | Self::Connector(tenant, _) | Self::Agent(tenant, _) => tenant,
        }
    }

    pub(crate) fn key(&self) -> Result<Key, ControlError> {
        let name = match self {
            Self::Tenant(_) => "tenant".to_owned(),
            Self::Connector(_, connector) => format!("connector-{connector}"),
            Self::Agent(_, agent) => format!("agent-{agent}"),
        };
        Ok(Key::of_tenant(
            Kind::Revoked,
            self.tenant().as_str(),
            &name,
        )?)
    }

    fn subject(&self) -> Subject {
        let tenant = self.tenant();
        match self {
            Self::Tenant(_) => Subject::new(Some(tenant), "tenant", tenant),
            Self::Connector(_, connector) => Subject::new(Some(tenant), "connector", connector),
            Self::Agent(_, agent) => Subject::new(Some(tenant), "agent", agent),
        }
    }
}

impl Control {
    /// Revokes for good: links close on every replica that hears the store, the next dial is
    /// refused finally, nothing renews. Revoking again changes nothing.
    ///
    /// # Errors
    /// [`ControlError::NotFound`] where there is nothing of that name to revoke.
    pub async fn revoke(&self, actor: &Actor, revoked: &Revoked) -> Result<(), ControlError> {
        self.exists(revoked).await?;
        self.deny(actor, revoked, None).await
    }

    /// Puts the record in place, or lengthens its life.
    pub(crate) async fn deny(
        &self,
        actor: &Actor,
        revoked: &Revoked,
        until: Option<SystemTime>,
    ) -> Result<(), ControlError> {
        let (key, now) = (revoked.key()?, self.now());
        let stored = self.inner.records.get(&key).await?;
        let expected = match &stored {
            None => Expected::Absent,
            Some(record) => Expected::At(record.revision),
        };
        let earlier = stored.and_then(|record| in_force(&record, now));
        if let Some(earlier) = &earlier
            && (earlier.until.is_some() || until.is_none())
        {
            return Ok(());
        }
        let is_new = earlier.is_none();
        let revocation = Revocation {
            revoked: revoked.clone(),
            since: earlier.map_or_else(|| Timestamp::from(now).to_string(), |e| e.since),
            until: until.map(|until| Timestamp::from(until).to_string()),
        };
        self.inner.records.put(&key, expected, &revocation).await?;
        if is_new {
            self.done(actor, "revoke", revoked.subject()).await;
        }
        Ok(())
    }

    /// The record that revokes an agent, its connector or its tenant, if there is one.
    pub(crate) async fn revocation(
        &self,
        tenant: &TenantName,
        connector: &ConnectorName,
        agent: Option<AgentId>,
    ) -> Result<Option<SignedRecord>, ControlError> {
        let wide = [
            Revoked::Tenant(tenant.clone()),
            Revoked::Connector(tenant.clone(), connector.clone()),
        ];
        let narrow = agent.map(|agent| Revoked::Agent(tenant.clone(), agent));
        let now = self.now();
        for revoked in wide.into_iter().chain(narrow) {
            let stored = self.inner.records.get(&revoked.key()?).await?;
            if let Some(record) = stored.filter(|record| in_force(record, now).is_some()) {
                return Ok(Some(record.signed));
            }
        }
        Ok(None)
    }

    pub(crate) async fn is_revoked(
        &self,
        tenant: &TenantName,
        connector: &ConnectorName,
        agent: Option<AgentId>,
    ) -> Result<bool, ControlError> {
        Ok(self.revocation(tenant, connector, agent).await?.is_some())
    }

    async fn exists(&self, revoked: &Revoked) -> Result<(), ControlError> {
        let tenant = revoked.tenant();
        match revoked {
            Revoked::Tenant(_) => {
                self.document(ResourceKind::Tenant, None, tenant.as_str())
                    .await?;
            }
            Revoked::Connector(_, connector) => {
                let name = connector.as_str();
                self.document(ResourceKind::Connector, Some(tenant), name)
                    .await?;
            }
            Revoked::Agent(_, agent) => {
                let name = agent.to_string();
                self.document(ResourceKind::Agent, Some(tenant), &name)
                    .await?;
            }
        }
        Ok(())
    }
}

/// What a record says, unless its time is over.
pub(crate) fn in_force(record: &Record, now: SystemTime) -> Option<Revocation> {
    let revocation: Revocation = record.parse().ok()?;
    let until = revocation.until.as_deref().and_then(moment);
    until.is_none_or(|until| now <= until).then_some(revocation)
}
