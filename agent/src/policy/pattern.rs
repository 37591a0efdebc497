//! Patterns of paths: `*` within a segment, `**` across segments.

use std::fmt;

use super::path::{CleanPath, PathError, decode_path};

/// One pattern, for example `/v1/invoices/*` or `/files/**`.
///
/// `*` stands for any number of characters of one segment, but a segment that is only `*`
/// wants at least one. `**` is a segment of its own and stands for any number of segments;
/// at the end of a pattern it wants at least one, which may be empty (`/files/` matches
/// `/files/**`, `/files` does not).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathRule {
    text: String,
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Exact(String),
    /// The pieces between the stars, at least two.
    Glob(Vec<String>),
    Across,
}

/// Why a pattern is not one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// `a**` or `***`.
    #[error("`**` has to be a whole segment")]
    PartialAcross,
    /// The rest of it is not a path.
    #[error(transparent)]
    Path(#[from] PathError),
}

impl PathRule {
    /// Reads a pattern; it is percent-encoded like a path.
    ///
    /// # Errors
    /// [`PatternError`] where it could match nothing that [`decode_path`] lets through.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        let clean = decode_path(text)?;
        let parts = clean.segments().map(part).collect::<Result<_, _>>()?;
        Ok(Self {
            text: text.to_owned(),
            parts,
        })
    }

    /// Whether the path matches, whole.
    pub fn matches(&self, path: &CleanPath) -> bool {
        self.matches_segments(path.as_slice())
    }

    pub(crate) fn matches_segments(&self, segments: &[String]) -> bool {
        // Two pointers and one place to come back to: the cost is at most the product of
        // both lengths, whatever the pattern.
        let (mut part, mut at) = (0, 0);
        let mut back: Option<(usize, usize)> = None;
        while at < segments.len() {
            match self.parts.get(part) {
                Some(Part::Across) if part + 1 == self.parts.len() => return true,
                Some(Part::Across) => {
                    back = Some((part, at));
                    part += 1;
                    continue;
                }
                Some(other) if other.matches(&segments[at]) => {
                    part += 1;
                    at += 1;
                    continue;
                }
                _ => {}
            }
            let Some((across, from)) = back else {
                return false;
            };
            back = Some((across, from + 1));
            part = across + 1;
            at = from + 1;
        }
        part == self.parts.len()
    }
}

impl Part {
    fn matches(&self, segment: &str) -> bool {
        match self {
            Self::Exact(text) => segment == text,
            Self::Glob(pieces) => glob(pieces, segment),
            Self::Across => false,
        }
    }
}

fn part(segment: &str) -> Result<Part, PatternError> {
    if segment == "**" {
        return Ok(Part::Across);
    }
    if segment.contains("**") {
        return Err(PatternError::PartialAcross);
    }
    if segment.contains('*') {
        return Ok(Part::Glob(segment.split('*').map(str::to_owned).collect()));
    }
    Ok(Part::Exact(segment.to_owned()))
}

/// The first piece is a prefix, the last a suffix, the others stand in between in order:
/// taking each at its first place is enough.
pub(super) fn glob(pieces: &[String], segment: &str) -> bool {
    let [first, middle @ .., last] = pieces else {
        return false;
    };
    let Some(mut rest) = segment.strip_prefix(first.as_str()) else {
        return false;
    };
    for piece in middle {
        match rest.find(piece.as_str()) {
            Some(at) => rest = &rest[at + piece.len()..],
            None => return false,
        }
    }
    rest.ends_with(last.as_str()) && !segment.is_empty()
}

impl fmt::Display for PathRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn matches(pattern: &str, path: &str) -> bool {
        PathRule::parse(pattern)
            .expect(pattern)
            .matches(&decode_path(path).expect(path))
    }

    #[test]
    fn star_stays_in_its_segment() {
        assert!(matches("/v1/invoices/*", "/v1/invoices/7"));
        assert!(!matches("/v1/invoices/*", "/v1/invoices/7/lines"));
        assert!(!matches("/v1/invoices/*", "/v1/invoices/"));
        assert!(!matches("/v1/invoices/*", "/v1/invoices"));
        assert!(!matches("/v1/invoices/*", "/V1/invoices/7"));
        assert!(matches("/v1/*.json", "/v1/a.json"));
        assert!(matches("/v1/a*b*c", "/v1/aXbYc"));
        assert!(!matches("/v1/a*b*c", "/v1/aXc"));
        assert!(!matches("/v1/ab*bc", "/v1/abc"));
        assert!(matches("/caf%C3%A9/*", "/caf%c3%a9/x"));
    }

    #[test]
    fn two_stars_cross_segments() {
        assert!(matches("/files/**", "/files/a/b/c"));
        assert!(matches("/files/**", "/files/"));
        assert!(!matches("/files/**", "/files"));
        assert!(matches("/**", "/"));
        assert!(matches("/a/**/z", "/a/z"));
        assert!(matches("/a/**/z", "/a/b/z/z"));
        assert!(!matches("/a/**/z", "/a/b/z/y"));
        assert!(matches("/**/x/**/y/*", "/x/x/q/y/1"));
    }

    #[test]
    fn patterns_that_mean_nothing_are_errors() {
        assert_eq!(PathRule::parse("/a**"), Err(PatternError::PartialAcross));
        assert_eq!(PathRule::parse("/***"), Err(PatternError::PartialAcross));
        assert!(PathRule::parse("a/b").is_err());
        assert!(PathRule::parse("/a/../b").is_err());
        assert!(PathRule::parse("").is_err());
    }

    /// The specification of the matcher, by recursion.
    fn reference(parts: &[Part], segments: &[String]) -> bool {
        match (parts.split_first(), segments.split_first()) {
            (None, None) => true,
            (Some((Part::Across, [])), _) => !segments.is_empty(),
            (Some((Part::Across, rest)), _) => {
                (0..=segments.len()).any(|skip| reference(rest, &segments[skip..]))
            }
            (Some((part, parts)), Some((segment, segments))) => {
                part.matches(segment) && reference(parts, segments)
            }
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn agrees_with_its_specification(
            pattern in "(/(\\*\\*|\\*|a|b|a\\*|\\*b)){1,6}",
            path in "(/(a|b|ab|aab)){1,7}/?",
        ) {
            let rule = PathRule::parse(&pattern).expect("a pattern");
            let path = decode_path(&path).expect("a path");
            prop_assert_eq!(rule.matches(&path), reference(&rule.parts, path.as_slice()));
        }
    }
}
