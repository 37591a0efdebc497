//! Patterns: which targets a key may call.

use std::{fmt, str::FromStr};

use culvert_certs::name::ConnectorName;

/// Longest pattern in bytes: a connector, a service and a model id of usual length.
const MAX_PATTERN: usize = 512;

/// A text in which `*` stands for any run of characters, also none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern(Box<str>);

impl Pattern {
    /// Whether all of `text` matches. Takes time in proportion to the product of both lengths.
    #[must_use]
    pub fn matches(&self, text: &str) -> bool {
        glob(self.0.as_bytes(), text.as_bytes())
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Pattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        let printable = text.chars().all(|c| !c.is_whitespace() && !c.is_control());
        if (1..=MAX_PATTERN).contains(&text.len()) && printable {
            Ok(Self(text.into()))
        } else {
            Err(PatternError::Form)
        }
    }
}

/// Backtracks to the last `*` only: an earlier one can always leave what it took to a later one.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut star = None;
    while t < text.len() {
        if pattern.get(p) == Some(&b'*') {
            star = Some((p, t));
            p += 1;
        } else if pattern.get(p) == text.get(t) {
            (p, t) = (p + 1, t + 1);
        } else if let Some((star_p, star_t)) = star {
            star = Some((star_p, star_t + 1));
            (p, t) = (star_p + 1, star_t + 1);
        } else {
            return false;
        }
    }
    pattern
        .get(p..)
        .is_some_and(|rest| rest.iter().all(|b| *b == b'*'))
}

/// Which targets a key may call: `connector/service`, or `connector/service:model` for some
/// models of it only. Each part may hold `*`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetPattern {
    connector: Pattern,
    service: Pattern,
    model: Option<Pattern>,
}

impl TargetPattern {
    /// Whether a call of this service, for this model if it is for one, is covered.
    #[must_use]
    pub fn matches(&self, connector: &ConnectorName, service: &str, model: Option<&str>) -> bool {
        let model_fits = match (&self.model, model) {
            (None, _) => true,
            (Some(pattern), Some(model)) => pattern.matches(model),
            (Some(_), None) => false,
        };
        model_fits && self.connector.matches(connector.as_str()) && self.service.matches(service)
    }
}

impl fmt::Display for TargetPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.connector, self.service)?;
        match &self.model {
            Some(model) => write!(f, ":{model}"),
            None => Ok(()),
        }
    }
}

impl FromStr for TargetPattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        let (connector, rest) = text.split_once('/').ok_or(PatternError::Target)?;
        let (service, model) = match rest.split_once(':') {
            Some((service, model)) => (service, Some(model.parse()?)),
            None => (rest, None),
        };
        let name = |part: &str| {
            let allowed =
                |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-*".contains(&b);
            part.bytes().all(allowed)
        };
        if !name(connector) || !name(service) {
            return Err(PatternError::Target);
        }
        Ok(Self {
            connector: connector.parse()?,
            service: service.parse()?,
            model,
        })
    }
}

/// Why a text is no pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// Empty, too long, or with white space.
    #[error("must be 1 to {MAX_PATTERN} bytes without white space")]
    Form,
    /// Not of the form of a target.
    #[error("must be connector/service or connector/service:model, with * where any name fits")]
    Target,
}

/// What a key may call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Allow {
    /// Every target of its tenant.
    All,
    /// The targets that one of these covers.
    Only(Vec<TargetPattern>),
}

impl Allow {
    /// Whether a call of this service, for this model if it is for one, is allowed.
    #[must_use]
    pub fn permits(&self, connector: &ConnectorName, service: &str, model: Option<&str>) -> bool {
        match self {
            Self::All => true,
            Self::Only(patterns) => patterns
                .iter()
                .any(|pattern| pattern.matches(connector, service, model)),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn permits(pattern: &str, connector: &str, service: &str, model: Option<&str>) -> bool {
        let allow = Allow::Only(vec![pattern.parse().unwrap()]);
        allow.permits(&connector.parse().unwrap(), service, model)
    }

    #[test]
    fn targets_match_part_by_part() {
        assert!(permits("dev/*", "dev", "llama", Some("a/b")));
        assert!(permits("*/*", "prod", "tickets", None));
        assert!(permits("prod-*/tickets", "prod-vpc", "tickets", None));
        assert!(!permits("dev/*", "dev2", "llama", None));
        assert!(!permits("dev/llama", "dev", "llama2", None));
        assert!(permits(
            "dev/llama:meta/*",
            "dev",
            "llama",
            Some("meta/x/y")
        ));
        assert!(!permits("dev/llama:meta/*", "dev", "llama", Some("other")));
        assert!(
            !permits("dev/llama:*", "dev", "llama", None),
            "not a model call"
        );
    }

    #[test]
    fn what_is_no_target_is_refused() {
        for text in [
            "", "*", "dev", "dev/", "/x", "dev/a/b", "Dev/x", "dev/x:", "dev/x y", "**",
        ] {
            assert!(text.parse::<TargetPattern>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_hostile_pattern_is_not_slow() {
        let pattern: Pattern = "*a".repeat(200).parse().unwrap();
        assert!(!pattern.matches(&"a".repeat(2_000).replace("aa", "ab")[..150]));
    }

    /// The definition, spelled out: exponential, but obviously right.
    fn definition(pattern: &[u8], text: &[u8]) -> bool {
        match (pattern.split_first(), text.split_first()) {
            (None, None) => true,
            (Some((b'*', rest)), _) => {
                definition(rest, text) || (!text.is_empty() && definition(pattern, &text[1..]))
            }
            (Some((p, pattern)), Some((t, text))) => p == t && definition(pattern, text),
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn matching_is_as_defined(pattern in "[ab*]{1,8}", text in "[ab]{0,10}") {
            let ours = pattern.parse::<Pattern>().unwrap().matches(&text);
            prop_assert_eq!(ours, definition(pattern.as_bytes(), text.as_bytes()));
        }
    }
}
