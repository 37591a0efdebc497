//! Minting join tokens. Control keeps the public half only.

use std::time::{Duration, SystemTime};

use culvert_certs::{
    JoinSubject, JoinToken, SecretText, TokenId, TokenRecord, TokenSpec,
    name::{ConnectorName, TenantName, Zone},
    token::TokenError,
};
use serde::{Deserialize, Serialize};

use crate::{
    audit::{Actor, Subject},
    control::Control,
    error::ControlError,
    resource::{PlaneSpec, ResourceKind},
    store::{Expected, Key, Kind},
};

/// How long a token is good unless asked otherwise.
pub const TOKEN_LIFETIME: Duration = Duration::from_secs(3600);

/// Longest life that can be asked for: a token is a secret in somebody's clipboard.
pub const MAX_TOKEN_LIFETIME: Duration = Duration::from_secs(7 * 24 * 3600);

/// A fresh token.
#[derive(Debug)]
pub struct MintedToken {
    /// What it is known by.
    pub id: TokenId,
    /// The token itself, shown once.
    pub text: SecretText,
    /// When it stops being good.
    pub expiry: SystemTime,
}

/// What is stored of a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StoredToken {
    pub(crate) record: TokenRecord,
    /// The authority's epoch when it was minted: a restore voids what was not redeemed.
    pub(crate) epoch: u64,
    /// Who redeemed it: the identity that control chose.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) redeemed_by: Option<String>,
}

impl Control {
    /// Mints a token that lets one machine join as an agent of a connector.
    ///
    /// # Errors
    /// Where the connector does not exist or was revoked, the lifetime is out of range, or no
    /// address has been announced.
    pub async fn mint_connector_token(
        &self,
        actor: &Actor,
        tenant: &TenantName,
        connector: &ConnectorName,
        lifetime: Duration,
    ) -> Result<MintedToken, ControlError> {
        self.document(ResourceKind::Tenant, None, tenant.as_str())
            .await?;
        self.document(ResourceKind::Connector, Some(tenant), connector.as_str())
            .await?;
        if self.is_revoked(tenant, connector, None).await? {
            return Err(ControlError::Ruled("the connector was revoked".to_owned()));
        }
        let (tenant, connector) = (tenant.clone(), connector.clone());
        let subject = JoinSubject::Connector { tenant, connector };
        self.mint(actor, subject, lifetime).await
    }

    /// Mints a token that lets one process join as a replica of a plane.
    ///
    /// # Errors
    /// As [`Control::mint_connector_token`].
    pub async fn mint_plane_token(
        &self,
        actor: &Actor,
        zone: &Zone,
        lifetime: Duration,
    ) -> Result<MintedToken, ControlError> {
        let (plane, _) = self
            .document(ResourceKind::Plane, None, zone.as_str())
            .await?;
        let region = plane.view::<PlaneSpec>()?.region;
        let subject = JoinSubject::Plane {
            region,
            zone: zone.clone(),
        };
        self.mint(actor, subject, lifetime).await
    }

    async fn mint(
        &self,
        actor: &Actor,
        subject: JoinSubject,
        lifetime: Duration,
    ) -> Result<MintedToken, ControlError> {
        if lifetime.is_zero() || lifetime > MAX_TOKEN_LIFETIME {
            return Err(ControlError::argument(
                "lifetime",
                "must be above 0 and at most 7d",
            ));
        }
        let authority = self.inner.records.authority();
        let spec = TokenSpec {
            addresses: self.places().addresses,
            trust_domain: self.trust_domain().clone(),
            subject: subject.clone(),
            pins: authority.pins()?,
            expiry: self.now() + lifetime,
        };
        let (token, record) = JoinToken::mint(spec).map_err(refuse)?;
        let text = token.encode().map_err(refuse)?;
        let epoch = self.bundle().epoch();
        let stored = StoredToken {
            record,
            epoch,
            redeemed_by: None,
        };
        let key = token_key(stored.record.id)?;
        self.inner
            .records
            .put(&key, Expected::Absent, &stored)
            .await?;
        let (id, expiry) = (stored.record.id, stored.record.expiry);
        let about = Subject {
            tenant: subject.tenant().cloned(),
            name: subject.to_string(),
        };
        self.done(actor, "token.mint", about).await;
        Ok(MintedToken { id, text, expiry })
    }
}

pub(crate) fn token_key(id: TokenId) -> Result<Key, ControlError> {
    Ok(Key::global(Kind::Token, &id.to_string())?)
}

fn refuse(error: TokenError) -> ControlError {
    ControlError::Make("a join token", error.into())
}
