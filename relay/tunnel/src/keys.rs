//! QUIC's keys that all replicas of a plane share.
//!
//! Whoever receives a packet of a dead or misrouted connection can reset it with them, so that an
//! agent learns of a lost replica one round trip after its next packet instead of after the
//! liveness bound.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::{hkdf, hmac, rand};

/// The stateless-reset key, connection-id key and retry-token key of a plane.
#[derive(Clone)]
pub struct ResetKeys {
    reset: Arc<hmac::Key>,
    token: Arc<hkdf::Prk>,
    connection_id: u64,
}

/// A key could not be made.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the operating system gives no randomness, or a key could not be derived")]
pub struct KeyError;

impl ResetKeys {
    /// The keys that follow from a plane's key: the same on each of its replicas.
    ///
    /// # Errors
    /// [`KeyError`] where the derivation fails, which the sizes below rule out.
    pub fn derive(plane_key: &[u8; 32]) -> Result<Self, KeyError> {
        let master = hkdf::Salt::new(hkdf::HKDF_SHA256, DOMAIN).extract(plane_key);
        let reset: [u8; 32] = expand(&master, b"stateless reset")?;
        let token: [u8; 32] = expand(&master, b"retry token")?;
        let connection_id: [u8; 32] = expand(&master, b"connection id")?;
        let mut id = [0; 8];
        id.copy_from_slice(&connection_id[..8]);
        Ok(Self {
            reset: Arc::new(hmac::Key::new(hmac::HMAC_SHA256, &reset)),
            token: Arc::new(hkdf::Salt::new(hkdf::HKDF_SHA256, DOMAIN).extract(&token)),
            connection_id: u64::from_be_bytes(id),
        })
    }

    /// Keys of this process alone.
    ///
    /// # Errors
    /// [`KeyError`] where the operating system gives no randomness.
    pub fn random() -> Result<Self, KeyError> {
        let mut key = [0; 32];
        rand::fill(&mut key).map_err(|_| KeyError)?;
        Self::derive(&key)
    }

    pub(crate) fn reset(&self) -> Arc<hmac::Key> {
        self.reset.clone()
    }

    pub(crate) fn token(&self) -> Arc<hkdf::Prk> {
        self.token.clone()
    }

    pub(crate) fn connection_id(&self) -> u64 {
        self.connection_id
    }
}

impl fmt::Debug for ResetKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ResetKeys(..)")
    }
}

fn expand(master: &hkdf::Prk, purpose: &[u8]) -> Result<[u8; 32], KeyError> {
    let mut key = [0; 32];
    master
        .expand(&[purpose], hkdf::HKDF_SHA256)
        .and_then(|okm| okm.fill(&mut key))
        .map_err(|_| KeyError)?;
    Ok(key)
}

const DOMAIN: &[u8] = b"culvert-quic-v1";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replicas_of_a_plane_share_their_keys_and_planes_do_not() {
        let sign = |keys: &ResetKeys| hmac::sign(&keys.reset(), b"id").as_ref().to_vec();
        let (one, two) = (
            ResetKeys::derive(&[1; 32]).unwrap(),
            ResetKeys::derive(&[1; 32]).unwrap(),
        );
        assert_eq!(sign(&one), sign(&two));
        assert_eq!(one.connection_id(), two.connection_id());
        let other = ResetKeys::derive(&[2; 32]).unwrap();
        assert_ne!(sign(&one), sign(&other));
        assert_ne!(one.connection_id(), other.connection_id());
        assert_eq!(format!("{one:?}"), "ResetKeys(..)");
    }
}
