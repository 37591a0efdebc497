//! Names: trust domain, tenant, connector, region, zone. Checked once, cheap to clone.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::text::text_codec;

/// Longest tenant or connector name, so that each fits a DNS label.
pub const MAX_NAME: usize = 63;
/// Longest trust domain; with it a SPIFFE id stays far below its limit of 2,048 bytes.
pub const MAX_TRUST_DOMAIN: usize = 128;
/// Longest region or zone name.
pub const MAX_PLACE: usize = 16;

/// Why a name was not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The text is empty.
    #[error("a {0} name is not empty")]
    Empty(&'static str),
    /// The text is longer than the kind allows.
    #[error("a {0} name has at most {1} characters")]
    TooLong(&'static str, usize),
    /// The text has a character, or an end, that the kind does not allow.
    #[error("a {0} name matches {1}")]
    Form(&'static str, &'static str),
}

/// Declares a name type over checked, shared text.
macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $check:path) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                $check(text)?;
                Ok(Self(text.into()))
            }
        }

        impl TryFrom<&str> for $name {
            type Error = NameError;

            fn try_from(text: &str) -> Result<Self, NameError> {
                text.parse()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        text_codec!($name);
    };
}

name!(
    /// The name of an authority's world, the host part of every SPIFFE id in it.
    TrustDomain,
    trust_domain
);
name!(
    /// One customer of the SaaS: `[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?`.
    TenantName,
    tenant
);
name!(
    /// A tenant's name for one private network: `[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?`.
    ConnectorName,
    connector
);
name!(
    /// The region that a plane is labelled with: `[A-Z0-9-]{1,16}`.
    Region,
    region
);
name!(
    /// The zone that a plane is named by: `[A-Z0-9-]{1,16}`.
    Zone,
    zone
);

/// Checks the rule that tenants, connectors and everything beside them in a name space share.
pub fn check_name(kind: &'static str, text: &str) -> Result<(), NameError> {
    length(kind, text, MAX_NAME)?;
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let ends = !text.starts_with('-') && !text.ends_with('-');
    if ends && text.bytes().all(inner) {
        Ok(())
    } else {
        Err(NameError::Form(kind, "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"))
    }
}

fn tenant(text: &str) -> Result<(), NameError> {
    check_name("tenant", text)
}

fn connector(text: &str) -> Result<(), NameError> {
    check_name("connector", text)
}

fn region(text: &str) -> Result<(), NameError> {
    place("region", text)
}

fn zone(text: &str) -> Result<(), NameError> {
    place("zone", text)
}

fn place(kind: &'static str, text: &str) -> Result<(), NameError> {
    length(kind, text, MAX_PLACE)?;
    let allowed = |b: u8| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'-';
    if text.bytes().all(allowed) {
        Ok(())
    } else {
        Err(NameError::Form(kind, "[A-Z0-9-]{1,16}"))
    }
}

/// The characters of the SPIFFE standard (section 2.1), with an alphanumeric at both ends.
fn trust_domain(text: &str) -> Result<(), NameError> {
    const KIND: &str = "trust domain";
    length(KIND, text, MAX_TRUST_DOMAIN)?;
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let inner = |b: u8| plain(b) || matches!(b, b'.' | b'-' | b'_');
    let bytes = text.as_bytes();
    let ends = bytes.first().is_some_and(|b| plain(*b)) && bytes.last().is_some_and(|b| plain(*b));
    if ends && bytes.iter().all(|b| inner(*b)) {
        Ok(())
    } else {
        Err(NameError::Form(KIND, "[a-z0-9]([a-z0-9._-]*[a-z0-9])?"))
    }
}

fn length(kind: &'static str, text: &str, max: usize) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty(kind));
    }
    if text.len() > max {
        return Err(NameError::TooLong(kind, max));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tenant_names_follow_the_rule() {
        for good in ["a", "0", "acme", "a-b", "a--b", &"x".repeat(63)] {
            assert!(good.parse::<TenantName>().is_ok(), "{good}");
        }
        for bad in [
            "",
            "-a",
            "a-",
            "A",
            "a.b",
            "a/b",
            "a b",
            "ä",
            &"x".repeat(64),
        ] {
            assert!(bad.parse::<TenantName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn places_are_upper_case_and_short() {
        assert!("ORF".parse::<Zone>().is_ok());
        assert!("US-EAST-1".parse::<Region>().is_ok());
        for bad in ["", "us", "A_B", "A/B", &"X".repeat(17)] {
            assert!(bad.parse::<Zone>().is_err(), "{bad}");
        }
    }

    #[test]
    fn trust_domains_follow_spiffe() {
        for good in ["culvert.local", "a", "a_b-c.d"] {
            assert!(good.parse::<TrustDomain>().is_ok(), "{good}");
        }
        for bad in [
            "",
            "A.b",
            ".a",
            "a.",
            "a/b",
            "a:1",
            "user@a",
            &"x".repeat(129),
        ] {
            assert!(bad.parse::<TrustDomain>().is_err(), "{bad}");
        }
    }
}
