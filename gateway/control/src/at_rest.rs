//! The two keys at rest, as two types: what takes one cannot be given the other.

use std::path::Path;

use culvert_certs::{Authority, AuthorityError, SealingKey, seal::SealError};

/// Opens the authority. Only a process that runs the control role has one.
#[derive(Debug)]
pub struct AuthorityKey(SealingKey);

impl AuthorityKey {
    /// The key in a file; with `create`, a fresh one where there is no file, readable by its
    /// owner only.
    ///
    /// # Errors
    /// Where the file cannot be read or made, or holds no key.
    pub fn from_file(path: &Path, create: bool) -> Result<Self, SealError> {
        SealingKey::from_file(path, create).map(Self)
    }

    /// The key in an environment variable.
    ///
    /// # Errors
    /// Where it is not set, or holds no key.
    pub fn from_env(variable: &str) -> Result<Self, SealError> {
        SealingKey::from_env(variable).map(Self)
    }

    pub(crate) fn seal(&self, authority: &Authority) -> Result<Vec<u8>, AuthorityError> {
        authority.seal(&self.0)
    }

    pub(crate) fn open(&self, sealed: &[u8]) -> Result<Authority, AuthorityError> {
        Authority::open(sealed, &self.0)
    }
}

/// Seals what a plane keeps, and gives its replicas their shared keys. Nothing in this crate
/// opens an authority with one.
#[derive(Debug, Clone)]
pub struct PlaneKey(SealingKey);

impl PlaneKey {
    /// As [`AuthorityKey::from_file`].
    ///
    /// # Errors
    /// Where the file cannot be read or made, or holds no key.
    pub fn from_file(path: &Path, create: bool) -> Result<Self, SealError> {
        SealingKey::from_file(path, create).map(Self)
    }

    /// As [`AuthorityKey::from_env`].
    ///
    /// # Errors
    /// Where it is not set, or holds no key.
    pub fn from_env(variable: &str) -> Result<Self, SealError> {
        SealingKey::from_env(variable).map(Self)
    }

    /// The key to seal and derive with.
    #[must_use]
    pub fn sealing_key(&self) -> &SealingKey {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn the_plane_key_does_not_open_the_authority() {
        let folder = tempfile::tempdir().unwrap();
        let authority_path = folder.path().join("authority.key");
        let authority_key = AuthorityKey::from_file(&authority_path, true).unwrap();
        let plane_key = PlaneKey::from_file(&folder.path().join("plane.key"), true).unwrap();
        let domain = "culvert.test".parse().unwrap();
        let authority = Authority::create(domain, SystemTime::now()).unwrap();
        let sealed = authority_key.seal(&authority).unwrap();

        let refused = Authority::open(&sealed, plane_key.sealing_key()).unwrap_err();
        assert!(
            matches!(refused, AuthorityError::Seal(SealError::OtherKey(_))),
            "{refused:?}"
        );
        let same = AuthorityKey::from_file(&authority_path, false).unwrap();
        assert_eq!(same.open(&sealed).unwrap().bundle(), authority.bundle());
    }
}
