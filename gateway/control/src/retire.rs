//! Deleting what certificates were issued for: revoked first, then erased, and its name not given
//! to anybody else while one of those certificates could still come back.

use std::time::{Duration, SystemTime};

use culvert_certs::{LEAF_LIFETIME, name::TenantName, request::RENEW_AFTER_EXPIRY};
use serde::{Deserialize, Serialize};

use crate::{
    audit::Actor,
    control::Control,
    documents::parse,
    error::ControlError,
    join::agents_of,
    resource::{Document, ResourceKind, TenantSpec, Timestamp},
    revoke::Revoked,
    store::{Expected, Key, Kind, Scope},
};

/// How long a deleted name stays unused: the life of a certificate issued the moment before, and
/// the time in which it may renew itself afterwards.
pub const NAME_REUSE: Duration = Duration::from_secs(37 * 24 * 3600);

const _: () =
    assert!(NAME_REUSE.as_secs() >= LEAF_LIFETIME.as_secs() + RENEW_AFTER_EXPIRY.as_secs());

/// A name that was deleted.
#[derive(Debug)]
pub(crate) struct Retirement(Key);

/// What is stored of it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct RetiredName {
    pub(crate) until: String,
}

impl Retirement {
    pub(crate) fn of(document: &Document) -> Result<Self, ControlError> {
        let name = format!("{}-{}", document.kind.store(), document.name);
        Ok(Self(match &document.tenant {
            Some(tenant) => Key::of_tenant(Kind::Retired, tenant.as_str(), &name)?,
            None => Key::global(Kind::Retired, &name)?,
        }))
    }
}

impl Control {
    /// Until when a name cannot be used, if it cannot.
    pub(crate) async fn retired_until(
        &self,
        retirement: &Retirement,
    ) -> Result<Option<SystemTime>, ControlError> {
        let Some(record) = self.inner.records.get(&retirement.0).await? else {
            return Ok(None);
        };
        let until = moment(&record.parse::<RetiredName>()?.until);
        Ok(until.filter(|until| *until > self.now()))
    }

    /// Revokes a tenant and marks it; the sweep erases it when its retention is over.
    pub(crate) async fn delete_tenant(
        &self,
        actor: &Actor,
        tenant: &Document,
    ) -> Result<(), ControlError> {
        let name: TenantName = tenant_name(tenant)?;
        self.deny(actor, &Revoked::Tenant(name.clone()), None)
            .await?;
        let deleted = Timestamp::from(self.now());
        let (tenant, _) = self
            .change(ResourceKind::Tenant, None, name.as_str(), |tenant| {
                if tenant.status_text("deleted").is_none() {
                    tenant.set_status("deleted", deleted);
                }
                Ok(())
            })
            .await?;
        if tenant.view::<TenantSpec>()?.retention.duration().is_zero() {
            self.erase_tenant(&tenant).await?;
        }
        Ok(())
    }

    /// Takes away everything of a deleted tenant but its audit entries, which name ids only, and
    /// its revocation.
    pub(crate) async fn erase_tenant(&self, tenant: &Document) -> Result<(), ControlError> {
        let name = tenant_name(tenant)?;
        for kind in [
            Kind::Connector,
            Kind::Agent,
            Kind::Key,
            Kind::SessionKey,
            Kind::Retired,
        ] {
            let scope = Scope::Tenant(kind, name.as_str().parse()?);
            for record in self.inner.records.list_all(&scope).await?.1 {
                self.inner
                    .records
                    .delete(&record.key, record.revision)
                    .await?;
            }
        }
        let control = Actor::control();
        let until = self.now() + NAME_REUSE;
        self.deny(&control, &Revoked::Tenant(name), Some(until))
            .await?;
        self.retire(tenant, until).await?;
        self.remove(tenant).await
    }

    pub(crate) async fn delete_connector(
        &self,
        actor: &Actor,
        connector: &Document,
    ) -> Result<(), ControlError> {
        let tenant = connector
            .tenant
            .as_ref()
            .ok_or_else(|| crate::documents::missing("tenant"))?;
        let until = self.now() + NAME_REUSE;
        let name = connector.name.as_str().parse().map_err(invalid_name)?;
        self.deny(
            actor,
            &Revoked::Connector(tenant.clone(), name),
            Some(until),
        )
        .await?;
        for record in self.inner.records.list_all(&agents_of(tenant)?).await?.1 {
            let (agent, revision) = parse(&record)?;
            if agent.status_text("connector") == Some(connector.name.as_str()) {
                self.inner.records.delete(&record.key, revision).await?;
            }
        }
        self.retire(connector, until).await?;
        self.remove(connector).await
    }

    pub(crate) async fn delete_agent(
        &self,
        actor: &Actor,
        agent: &Document,
    ) -> Result<(), ControlError> {
        let tenant = agent
            .tenant
            .as_ref()
            .ok_or_else(|| crate::documents::missing("tenant"))?;
        let id = agent.name.as_str().parse().map_err(invalid_name)?;
        let until = self.now() + NAME_REUSE;
        self.deny(actor, &Revoked::Agent(tenant.clone(), id), Some(until))
            .await?;
        self.remove(agent).await
    }

    async fn retire(&self, document: &Document, until: SystemTime) -> Result<(), ControlError> {
        let Retirement(key) = Retirement::of(document)?;
        let stored = self.inner.records.get(&key).await?;
        let expected = stored.map_or(Expected::Absent, |record| Expected::At(record.revision));
        let until = Timestamp::from(until).to_string();
        self.inner
            .records
            .put(&key, expected, &RetiredName { until })
            .await?;
        Ok(())
    }
}

/// The moment of a stored time, if it is one.
pub(crate) fn moment(text: &str) -> Option<SystemTime> {
    text.parse::<Timestamp>().ok().map(Timestamp::system)
}

fn tenant_name(tenant: &Document) -> Result<TenantName, ControlError> {
    tenant.name.as_str().parse().map_err(invalid_name)
}

fn invalid_name(error: impl std::fmt::Display) -> ControlError {
    ControlError::argument("name", error.to_string())
}
