//! API keys and admin keys: made here, shown once, kept as a digest.

use std::time::SystemTime;

use culvert_certs::{KeyDigest, KeyKind, SecretKey, name::TenantName};
use serde_json::{Map, Value};

use crate::{
    audit::Actor,
    control::Control,
    documents::about,
    error::ControlError,
    resource::{AdminKeySpec, Document, InvalidDocument, ResourceKind, Role, Timestamp},
    store::{Expected, Scope},
};

/// The field of a key's status that holds its digest. Never shown: nobody needs it.
pub(crate) const DIGEST: &str = "digest";

/// Most admin keys: every request to the admin API is compared with each.
const MAX_ADMIN_KEYS: usize = 256;

/// A fresh key, and the document that is kept of it.
#[derive(Debug)]
pub struct CreatedKey {
    /// The key itself, shown once.
    pub secret: SecretKey,
    /// What is kept.
    pub document: Document,
}

/// Who proved an admin key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admin {
    /// The key's name.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// Whose resources it may see; `None` for everybody's and the fleet's.
    pub tenant: Option<TenantName>,
}

impl Control {
    /// Makes an API key. `spec` is a Key's: it says what the key may call, or `all: true`.
    ///
    /// # Errors
    /// [`ControlError::Invalid`], [`ControlError::NotFound`] for the tenant, or
    /// [`ControlError::Conflict`] where the name is taken.
    pub async fn create_key(
        &self,
        actor: &Actor,
        tenant: &TenantName,
        name: &str,
        spec: Map<String, Value>,
    ) -> Result<CreatedKey, ControlError> {
        self.of_living_tenant(Some(tenant)).await?;
        let document = Document::new(ResourceKind::Key, Some(tenant.clone()), name)?;
        self.create(actor, KeyKind::Api, Document { spec, ..document })
            .await
    }

    /// Makes an admin key. `spec` is an AdminKey's.
    ///
    /// # Errors
    /// As [`Control::create_key`]; [`ControlError::Ruled`] where there are too many.
    pub async fn create_admin_key(
        &self,
        actor: &Actor,
        name: &str,
        spec: Map<String, Value>,
    ) -> Result<CreatedKey, ControlError> {
        let scope = Scope::Kind(ResourceKind::AdminKey.store());
        if self.documents(&scope).await?.len() >= MAX_ADMIN_KEYS {
            let why = format!("there are {MAX_ADMIN_KEYS} admin keys, the most that there can be");
            return Err(ControlError::Ruled(why));
        }
        let document = Document::new(ResourceKind::AdminKey, None, name)?;
        self.create(actor, KeyKind::Admin, Document { spec, ..document })
            .await
    }

    /// Ends a key at once; its document stays and says so.
    ///
    /// # Errors
    /// [`ControlError::NotFound`]; [`ControlError::Ruled`] for the last owner's key.
    pub async fn revoke_key(
        &self,
        actor: &Actor,
        kind: ResourceKind,
        tenant: Option<&TenantName>,
        name: &str,
    ) -> Result<(), ControlError> {
        if kind == ResourceKind::AdminKey {
            let (document, _) = self.document(kind, tenant, name).await?;
            self.keep_an_owner(&document).await?;
        }
        let revoked = Timestamp::from(self.now());
        let (document, _) = self
            .change(kind, tenant, name, |document| {
                if document.status_text("revoked").is_none() {
                    document.set_status("revoked", revoked);
                }
                Ok(())
            })
            .await?;
        self.done(actor, "key.revoke", about(&document)).await;
        Ok(())
    }

    /// Whose admin key this is, if it is one that works now.
    ///
    /// # Errors
    /// Where the store fails.
    pub async fn admin_of(&self, presented: &str) -> Result<Option<Admin>, ControlError> {
        let digest = KeyDigest::of(presented);
        let keys = self
            .documents(&Scope::Kind(ResourceKind::AdminKey.store()))
            .await?;
        let now = self.now();
        let found = keys.iter().find(|(key, _)| {
            let stored = key.status_text(DIGEST).and_then(|text| text.parse().ok());
            stored == Some(digest) && key.status_text("revoked").is_none()
        });
        Ok(found.and_then(|(key, _)| admin(key, now)))
    }

    async fn create(
        &self,
        actor: &Actor,
        kind: KeyKind,
        mut document: Document,
    ) -> Result<CreatedKey, ControlError> {
        let findings = document.strict_findings(None);
        if !findings.is_empty() {
            return Err(InvalidDocument(findings).into());
        }
        let secret = SecretKey::generate(kind);
        document.set_status("created", Timestamp::from(self.now()));
        document.set_status(DIGEST, secret.digest());
        self.save(&document, Expected::Absent).await?;
        self.done(actor, "key.create", about(&document)).await;
        Ok(CreatedKey { secret, document })
    }
}

fn admin(key: &Document, now: SystemTime) -> Option<Admin> {
    let spec: AdminKeySpec = key.view().ok()?;
    let alive = spec.expires.is_none_or(|end| now < end.system());
    alive.then(|| Admin {
        name: key.name.to_string(),
        role: spec.role,
        tenant: spec.tenant,
    })
}
