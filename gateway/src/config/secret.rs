//! Where a key at rest comes from: `${file:PATH}` or `${env:NAME}`, never the file's own text.

use std::path::PathBuf;

use culvert_certs::seal::SealError;
use culvert_control::{AuthorityKey, PlaneKey};
use serde::{Deserialize, Deserializer, de};

/// Where a key is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeySource {
    /// In a file of its own.
    File(PathBuf),
    /// In an environment variable.
    Env(String),
}

impl KeySource {
    /// Opens it as an authority key. `create` makes one where the file is not there yet.
    ///
    /// # Errors
    /// It cannot be read or made, or is no key.
    pub fn authority(&self, create: bool) -> Result<AuthorityKey, SealError> {
        match self {
            Self::File(path) => AuthorityKey::from_file(path, create),
            Self::Env(name) => AuthorityKey::from_env(name),
        }
    }

    /// Opens it as a plane key.
    ///
    /// # Errors
    /// As [`KeySource::authority`].
    pub fn plane(&self, create: bool) -> Result<PlaneKey, SealError> {
        match self {
            Self::File(path) => PlaneKey::from_file(path, create),
            Self::Env(name) => PlaneKey::from_env(name),
        }
    }

    fn parse(text: &str) -> Option<Self> {
        let inner = text.strip_prefix("${")?.strip_suffix('}')?;
        match inner.split_once(':')? {
            ("file", path) if !path.is_empty() => Some(Self::File(path.into())),
            ("env", name) if !name.is_empty() => Some(Self::Env(name.to_owned())),
            _ => None,
        }
    }
}

impl<'de> Deserialize<'de> for KeySource {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        // The text may be the secret itself: it is not repeated.
        Self::parse(&text).ok_or_else(|| de::Error::custom("must be ${file:PATH} or ${env:NAME}"))
    }
}
