//! Session ids that any replica of a plane can read: what a caller is given to come back with is
//! sealed, so that it names what it must without a shared table, and nobody else can make one.
//!
//! A sealed id is `cs1.<key id>.<base64url(nonce + ciphertext)>`: AES-256-GCM-SIV, where a nonce
//! that comes twice gives nothing away but that two texts are equal. It is bound to the tenant, the
//! key and the route that it was made for. The keys are a tenant's own, and are kept wrapped under
//! the keys of the planes that may serve it.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use data_encoding::{BASE64URL_NOPAD, HEXLOWER};
use zeroize::Zeroizing;

use crate::key::sha256;
use crate::name::TenantName;
use crate::proof::SignedInput;
use crate::random;
use crate::seal::{Place, SealError, SealingKey};

const DOMAIN: &[u8] = b"culvert-session-v1\0";
const KEY_ID_DOMAIN: &[u8] = b"culvert-session-key-v1\0";

/// The format, in front of every sealed id.
const FORMAT: &str = "cs1";
/// What wrapped keys are, to the key that they are wrapped under.
const KIND: &str = "session-key";
const KEY_ID_LEN: usize = 8;
/// Longest sealed id that is looked at, in bytes: what it names is bounded by whoever seals it.
const MAX_TEXT: usize = 8 * 1024;

/// A tenant's key for session ids. Masked when formatted, wiped when dropped.
#[derive(Clone)]
pub struct SessionKey {
    bytes: Zeroizing<[u8; 32]>,
    id: SessionKeyId,
}

/// What a sealed id names its key by: 16 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionKeyId([u8; KEY_ID_LEN]);

/// A text that is no name of a session key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a session key is named by {} lower-case hexadecimal digits", 2 * KEY_ID_LEN)]
pub struct InvalidSessionKeyId;

impl SessionKey {
    /// A fresh key.
    pub fn generate() -> Self {
        Self::from_bytes(Zeroizing::new(random::bytes()))
    }

    /// What sealed ids name this key by.
    pub fn id(&self) -> SessionKeyId {
        self.id
    }

    /// This key, for whoever has `under`.
    pub fn wrap(&self, tenant: &TenantName, under: &SealingKey) -> Result<Vec<u8>, SealError> {
        let name = self.id.to_string();
        under.seal(place(tenant, &name), &*self.bytes)
    }

    /// The key of this name that was wrapped for the same tenant.
    pub fn unwrap(
        tenant: &TenantName,
        id: SessionKeyId,
        under: &SealingKey,
        wrapped: &[u8],
    ) -> Result<Self, SealError> {
        let name = id.to_string();
        let opened = under.open(place(tenant, &name), wrapped)?;
        let bytes: [u8; 32] = opened[..].try_into().map_err(|_| SealError::BadKey)?;
        let key = Self::from_bytes(Zeroizing::new(bytes));
        if key.id == id {
            Ok(key)
        } else {
            Err(SealError::BadKey)
        }
    }

    /// Seals what a session is, for one route of a tenant.
    pub fn seal(
        &self,
        tenant: &TenantName,
        route: &str,
        session: &[u8],
    ) -> Result<String, SealError> {
        let nonce: [u8; NONCE_LEN] = random::bytes();
        let mut body = session.to_vec();
        self.cipher()?
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key(nonce),
                self.binding(tenant, route),
                &mut body,
            )
            .map_err(|_| SealError::Refused)?;
        let sealed = BASE64URL_NOPAD.encode(&[&nonce[..], &body].concat());
        Ok(format!("{FORMAT}.{}.{sealed}", self.id))
    }

    /// Opens what this key has sealed for the same route of the same tenant.
    pub fn open(
        &self,
        tenant: &TenantName,
        route: &str,
        text: &str,
    ) -> Result<Zeroizing<Vec<u8>>, SealError> {
        let (id, sealed) = parts(text).ok_or(SealError::Malformed)?;
        if id != self.id {
            return Err(SealError::Refused);
        }
        let sealed = BASE64URL_NOPAD.decode(sealed.as_bytes());
        let sealed = sealed.map_err(|_| SealError::Malformed)?;
        let (nonce, body) = sealed
            .split_first_chunk::<NONCE_LEN>()
            .ok_or(SealError::Malformed)?;
        let mut body = Zeroizing::new(body.to_vec());
        let length = self
            .cipher()?
            .open_in_place(
                Nonce::assume_unique_for_key(*nonce),
                self.binding(tenant, route),
                &mut body,
            )
            .map_err(|_| SealError::Refused)?
            .len();
        body.truncate(length);
        Ok(body)
    }

    fn from_bytes(bytes: Zeroizing<[u8; 32]>) -> Self {
        let input = Zeroizing::new(SignedInput::new(KEY_ID_DOMAIN).field(&*bytes).finish());
        let digest = sha256(&input);
        Self {
            bytes,
            id: SessionKeyId(std::array::from_fn(|i| digest[i])),
        }
    }

    fn cipher(&self) -> Result<LessSafeKey, SealError> {
        UnboundKey::new(&AES_256_GCM_SIV, &*self.bytes)
            .map(LessSafeKey::new)
            .map_err(|_| SealError::BadKey)
    }

    fn binding(&self, tenant: &TenantName, route: &str) -> Aad<Vec<u8>> {
        Aad::from(
            SignedInput::new(DOMAIN)
                .field(tenant.as_str().as_bytes())
                .field(&self.id.0)
                .field(route.as_bytes())
                .finish(),
        )
    }
}

impl SessionKeyId {
    /// The key that a sealed id names; none where it is no sealed id.
    pub fn of(text: &str) -> Option<Self> {
        parts(text).map(|(id, _)| id)
    }
}

/// Key and ciphertext of a sealed id.
fn parts(text: &str) -> Option<(SessionKeyId, &str)> {
    if text.len() > MAX_TEXT {
        return None;
    }
    let rest = text.strip_prefix(FORMAT)?.strip_prefix('.')?;
    let (id, sealed) = rest.split_once('.')?;
    Some((id.parse().ok()?, sealed))
}

fn place<'a>(tenant: &'a TenantName, name: &'a str) -> Place<'a> {
    Place {
        kind: KIND,
        tenant: Some(tenant),
        name,
    }
}

impl fmt::Debug for SessionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SessionKey({})", self.id)
    }
}

impl fmt::Display for SessionKeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for SessionKeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for SessionKeyId {
    type Err = InvalidSessionKeyId;

    fn from_str(text: &str) -> Result<Self, InvalidSessionKeyId> {
        let bytes = HEXLOWER.decode(text.as_bytes());
        let bytes = bytes.map_err(|_| InvalidSessionKeyId)?;
        bytes.try_into().map(Self).map_err(|_| InvalidSessionKeyId)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn acme() -> TenantName {
        "acme".parse().unwrap()
    }

    #[test]
    fn what_is_sealed_opens_for_its_tenant_route_and_key_only() {
        let key = SessionKey::generate();
        let text = key.seal(&acme(), "dev/tickets", b"session").unwrap();
        let opened = key.open(&acme(), "dev/tickets", &text).unwrap();
        assert_eq!(opened.as_slice(), b"session");
        assert!(key.open(&acme(), "dev/other", &text).is_err());
        let other: TenantName = "other".parse().unwrap();
        assert!(key.open(&other, "dev/tickets", &text).is_err());
        assert!(
            SessionKey::generate()
                .open(&acme(), "dev/tickets", &text)
                .is_err()
        );
        let again = key.seal(&acme(), "dev/tickets", b"session").unwrap();
        assert_ne!(text, again, "nobody sees that two sessions are the same");
    }

    #[test]
    fn the_text_names_its_format_and_key_and_fits_a_header() {
        let key = SessionKey::generate();
        let text = key.seal(&acme(), "r", &[0xff; 300]).unwrap();
        let rest = text.strip_prefix("cs1.").unwrap();
        let (id, sealed) = rest.split_once('.').unwrap();
        assert_eq!(id, key.id().to_string());
        assert_eq!(SessionKeyId::of(&text), Some(key.id()));
        let visible = |byte: u8| byte.is_ascii_graphic();
        assert!(sealed.bytes().all(visible) && !sealed.contains('='));
        for no_id in ["", "cs1", "cs1.", "cs2.0011223344556677.x", "cs1.00.x", "x"] {
            assert_eq!(SessionKeyId::of(no_id), None, "{no_id}");
        }
        assert!("00112233445566AA".parse::<SessionKeyId>().is_err());
    }

    #[test]
    fn a_key_is_wrapped_for_its_tenant_and_name() {
        let (key, plane) = (SessionKey::generate(), SealingKey::generate());
        let wrapped = key.wrap(&acme(), &plane).unwrap();
        let same = SessionKey::unwrap(&acme(), key.id(), &plane, &wrapped).unwrap();
        let text = key.seal(&acme(), "r", b"x").unwrap();
        assert_eq!(same.open(&acme(), "r", &text).unwrap().as_slice(), b"x");
        let other: TenantName = "other".parse().unwrap();
        assert!(SessionKey::unwrap(&other, key.id(), &plane, &wrapped).is_err());
        let name = SessionKey::generate().id();
        assert!(SessionKey::unwrap(&acme(), name, &plane, &wrapped).is_err());
        let elsewhere = SealingKey::generate();
        let refused = SessionKey::unwrap(&acme(), key.id(), &elsewhere, &wrapped);
        assert!(matches!(refused, Err(SealError::OtherKey(_))));
        assert!(!format!("{key:?}").contains(&HEXLOWER.encode(&*key.bytes)));
    }

    proptest! {
        #[test]
        fn a_changed_text_never_opens(at in 0usize..120, to in any::<u8>()) {
            let key = SessionKey::generate();
            let text = key.seal(&acme(), "r", &[7; 40]).unwrap();
            let mut bytes = text.into_bytes();
            let at = at % bytes.len();
            prop_assume!(bytes[at] != to);
            bytes[at] = to;
            let Ok(changed) = String::from_utf8(bytes) else { return Ok(()) };
            prop_assert!(key.open(&acme(), "r", &changed).is_err());
        }

        #[test]
        fn any_text_is_refused_without_a_panic(text in ".*") {
            prop_assert!(SessionKey::generate().open(&acme(), "r", &text).is_err());
        }
    }
}
