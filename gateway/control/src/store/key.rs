//! Names of stored entries: `<kind>.<tenant>.<name>`, `_` where there is no tenant.
//!
//! The text form is at the same time a valid NATS subject, so that both engines use the same one.

use std::{fmt, str::FromStr};

/// Longest name in bytes; the longest we make is a revoked connector's, of 73.
const MAX_SEGMENT: usize = 96;

/// The tenant part of entries that belong to no tenant.
const NO_TENANT: &str = "_";

/// The name of one stored entry.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// What it is.
    pub kind: Kind,
    /// Whose it is; `None` for what belongs to the fleet.
    pub tenant: Option<Segment>,
    /// Its name within kind and tenant.
    pub name: Segment,
}

impl Key {
    /// The name of something of the whole fleet.
    ///
    /// # Errors
    /// Where `name` cannot be a part of a key.
    pub fn global(kind: Kind, name: &str) -> Result<Self, InvalidKey> {
        Ok(Self {
            kind,
            tenant: None,
            name: name.parse()?,
        })
    }

    /// The name of something of one tenant.
    ///
    /// # Errors
    /// Where `tenant` or `name` cannot be a part of a key.
    pub fn of_tenant(kind: Kind, tenant: &str, name: &str) -> Result<Self, InvalidKey> {
        Ok(Self {
            kind,
            tenant: Some(tenant.parse()?),
            name: name.parse()?,
        })
    }

    /// The tenant's name, if it has one.
    #[must_use]
    pub fn tenant_str(&self) -> Option<&str> {
        self.tenant.as_ref().map(Segment::as_str)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tenant = self.tenant_str().unwrap_or(NO_TENANT);
        write!(f, "{}.{}.{}", self.kind, tenant, self.name)
    }
}

impl FromStr for Key {
    type Err = InvalidKey;

    fn from_str(text: &str) -> Result<Self, InvalidKey> {
        let invalid = || InvalidKey(text.to_owned());
        let mut parts = text.split('.');
        let (Some(kind), Some(tenant), Some(name), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(invalid());
        };
        Ok(Self {
            kind: Kind::from_word(kind).ok_or_else(invalid)?,
            tenant: match tenant {
                NO_TENANT => None,
                name => Some(name.parse()?),
            },
            name: name.parse()?,
        })
    }
}

/// One part of a key: 1 to 96 letters, digits, `-` and, not alone, `_`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Segment(Box<str>);

impl Segment {
    /// Its text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Segment {
    type Err = InvalidKey;

    fn from_str(text: &str) -> Result<Self, InvalidKey> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        let fits = (1..=MAX_SEGMENT).contains(&text.len());
        if fits && text != NO_TENANT && text.bytes().all(allowed) {
            Ok(Self(text.into()))
        } else {
            Err(InvalidKey(text.to_owned()))
        }
    }
}

/// A text that cannot be (a part of) a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} cannot be a part of a stored name")]
pub struct InvalidKey(pub String);

/// What can be stored. The first seven are resources that people see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A customer of the SaaS.
    Tenant,
    /// A tenant's name for one private network.
    Connector,
    /// A process that joined and serves a connector.
    Agent,
    /// A gateway location.
    Plane,
    /// An API key of a tenant.
    Key,
    /// A key for the admin API.
    AdminKey,
    /// One entry of the audit log.
    Audit,
    /// The public half of a join token.
    Token,
    /// One entry of the deny-list.
    Revoked,
    /// A deleted name that cannot be used again yet.
    Retired,
    /// A tenant's key for session ids, wrapped for planes.
    SessionKey,
    /// The sealed authority.
    Authority,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::Tenant,
        Self::Connector,
        Self::Agent,
        Self::Plane,
        Self::Key,
        Self::AdminKey,
        Self::Audit,
        Self::Token,
        Self::Revoked,
        Self::Retired,
        Self::SessionKey,
        Self::Authority,
    ];

    /// Its word in keys, documents and signed records.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Tenant => "tenant",
            Self::Connector => "connector",
            Self::Agent => "agent",
            Self::Plane => "plane",
            Self::Key => "key",
            Self::AdminKey => "admin-key",
            Self::Audit => "audit",
            Self::Token => "token",
            Self::Revoked => "revoked",
            Self::Retired => "retired",
            Self::SessionKey => "session-key",
            Self::Authority => "authority",
        }
    }

    /// The kind of this word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.word() == word)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// Which entries a listing or a watch is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// Every entry.
    All,
    /// Every entry of one kind.
    Kind(Kind),
    /// Every entry of one kind and one tenant.
    Tenant(Kind, Segment),
}

impl Scope {
    /// Whether `key` is in it.
    #[must_use]
    pub fn contains(&self, key: &Key) -> bool {
        match self {
            Self::All => true,
            Self::Kind(kind) => key.kind == *kind,
            Self::Tenant(kind, tenant) => key.kind == *kind && key.tenant.as_ref() == Some(tenant),
        }
    }

    /// What the text of every key in it starts with; no other key's text does.
    #[must_use]
    pub fn prefix(&self) -> String {
        match self {
            Self::All => String::new(),
            Self::Kind(kind) => format!("{kind}."),
            Self::Tenant(kind, tenant) => format!("{kind}.{tenant}."),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_key_are_one_to_one() {
        for text in ["tenant._.acme", "key.acme.ci", "plane._.ORF", "audit.a.1-f"] {
            let key: Key = text.parse().unwrap();
            assert_eq!(key.to_string(), text);
        }
    }

    #[test]
    fn what_could_name_another_key_is_refused() {
        for text in [
            "",
            "key",
            "key.a",
            "key.a.",
            "key..b",
            "key.a.b.c",
            "key.a.*",
            "key.>.b",
            "key.a.b/c",
            "key.a._",
            "nothing.a.b",
            "Key.a.b",
            "key.a.ä",
        ] {
            assert!(text.parse::<Key>().is_err(), "{text}");
        }
        assert!("a".repeat(97).parse::<Segment>().is_err());
    }

    #[test]
    fn a_scope_contains_what_its_prefix_selects() {
        let keys: Vec<Key> = ["key.a.x", "key.ab.x", "key._.x", "admin-key._.x"]
            .iter()
            .map(|text| text.parse().unwrap())
            .collect();
        let tenant = Scope::Tenant(Kind::Key, "a".parse().unwrap());
        for scope in [Scope::All, Scope::Kind(Kind::Key), tenant] {
            for key in &keys {
                let by_prefix = key.to_string().starts_with(&scope.prefix());
                assert_eq!(scope.contains(key), by_prefix, "{scope:?} {key}");
            }
        }
    }
}
