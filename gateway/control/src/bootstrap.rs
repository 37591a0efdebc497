//! The first run of `dev`: a tenant, a connector, an API key and an owner key.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use culvert_certs::{
    SecretText,
    name::{ConnectorName, TenantName},
};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value, json};

use crate::{
    audit::Actor,
    control::Control,
    documents::Precondition,
    error::ControlError,
    resource::{Document, ResourceKind},
};

/// The tenant, the connector and the keys of `dev` all have this name.
const DEV: &str = "dev";

/// Largest `dev.json` that is read, in bytes.
const MAX_DEV_FILE: u64 = 64 * 1024;

/// What `dev` keeps for itself and for the operator's verbs: `dev.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DevFile {
    /// The tenant.
    pub tenant: TenantName,
    /// Its connector.
    pub connector: ConnectorName,
    /// A key that may call everything of the tenant.
    #[serde(serialize_with = "expose", deserialize_with = "take")]
    pub api_key: SecretText,
    /// An owner's key.
    #[serde(serialize_with = "expose", deserialize_with = "take")]
    pub admin_key: SecretText,
    /// Where the admin API was last served, as a URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub admin: Option<String>,
    /// Where callers were last served, as a URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<String>,
}

impl DevFile {
    /// Reads the file, if there is one.
    ///
    /// # Errors
    /// Where it cannot be read, or is not one.
    pub fn read(path: &Path) -> io::Result<Option<Self>> {
        let text = match fs::metadata(path) {
            Ok(found) if found.len() > MAX_DEV_FILE => {
                return Err(io::Error::other("the file is larger than expected"));
            }
            Ok(_) => fs::read_to_string(path)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        Ok(Some(serde_json::from_str(&text)?))
    }

    /// Writes the file whole, readable by its owner only.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        let temporary = path.with_extension("json.new");
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&temporary)?;
        file.write_all(&serde_json::to_vec_pretty(self)?)?;
        file.write_all(b"\n")?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    }
}

fn expose<S: Serializer>(secret: &SecretText, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(secret.expose())
}

fn take<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SecretText, D::Error> {
    String::deserialize(deserializer).map(SecretText::from)
}

impl Control {
    /// Makes what `dev` needs, as far as it is not there, and returns it. `kept` is what an
    /// earlier run returned: keys in it that still work stay, others are made anew.
    ///
    /// # Errors
    /// Where the store fails; [`ControlError::Ruled`] where the tenant was revoked.
    pub async fn bootstrap_dev(&self, kept: Option<DevFile>) -> Result<DevFile, ControlError> {
        let invalid = |error: culvert_certs::name::NameError| {
            ControlError::argument("name", error.to_string())
        };
        let tenant: TenantName = DEV.parse().map_err(invalid)?;
        let connector: ConnectorName = DEV.parse().map_err(invalid)?;
        self.ensure(ResourceKind::Tenant, None).await?;
        self.ensure(ResourceKind::Connector, Some(&tenant)).await?;
        if self.is_revoked(&tenant, &connector, None).await? {
            return Err(ControlError::Ruled(
                "the tenant of dev was revoked".to_owned(),
            ));
        }
        self.refresh().await?;
        let (admin, gateway) = kept
            .as_ref()
            .map_or((None, None), |k| (k.admin.clone(), k.gateway.clone()));
        let api_key = self.dev_api_key(&tenant, kept.as_ref()).await?;
        let admin_key = self.dev_admin_key(kept.as_ref()).await?;
        self.refresh().await?;
        Ok(DevFile {
            tenant,
            connector,
            api_key,
            admin_key,
            admin,
            gateway,
        })
    }

    async fn ensure(
        &self,
        kind: ResourceKind,
        tenant: Option<&TenantName>,
    ) -> Result<(), ControlError> {
        let document = Document::new(kind, tenant.cloned(), DEV)?;
        let put = self
            .put_document(&Actor::control(), document, Precondition::Absent)
            .await;
        match put {
            Ok(_) | Err(ControlError::Conflict(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn dev_api_key(
        &self,
        tenant: &TenantName,
        kept: Option<&DevFile>,
    ) -> Result<SecretText, ControlError> {
        let snapshot = self.snapshot();
        let works = |key: &SecretText| {
            let snapshot = snapshot.borrow();
            snapshot
                .key(key.expose(), self.now())
                .is_some_and(|key| key.tenant == *tenant)
        };
        if let Some(kept) = kept.filter(|kept| works(&kept.api_key)) {
            return Ok(kept.api_key.clone());
        }
        self.forget_key(ResourceKind::Key, Some(tenant)).await?;
        let spec = object(json!({"all": true, "description": "made by dev"}));
        let created = self
            .create_key(&Actor::control(), tenant, DEV, spec)
            .await?;
        Ok(created.secret.expose().to_owned().into())
    }

    async fn dev_admin_key(&self, kept: Option<&DevFile>) -> Result<SecretText, ControlError> {
        if let Some(kept) = kept
            && self.admin_of(kept.admin_key.expose()).await?.is_some()
        {
            return Ok(kept.admin_key.clone());
        }
        self.forget_key(ResourceKind::AdminKey, None).await?;
        let spec = object(json!({"role": "owner", "description": "made by dev"}));
        let created = self.create_admin_key(&Actor::control(), DEV, spec).await?;
        Ok(created.secret.expose().to_owned().into())
    }

    /// Takes away a key of `dev` whose text is lost.
    async fn forget_key(
        &self,
        kind: ResourceKind,
        tenant: Option<&TenantName>,
    ) -> Result<(), ControlError> {
        match self.find(kind, tenant, DEV).await? {
            Some((document, _)) => self.remove(&document).await,
            None => Ok(()),
        }
    }
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            Map::new()
        }
    }
}
