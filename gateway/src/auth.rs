//! Who is calling: one key is taken out of the headers, and looked up by its digest.

use std::{fmt, time::SystemTime};

use culvert_control::{ConfigSnapshot, snapshot::KeyView};

use http::{HeaderMap, HeaderName, HeaderValue, header::AUTHORIZATION};

use crate::error::{CallerCode, Problem};

/// Where a key is looked for first: it leaves the other two to the backend.
const OWN: HeaderName = HeaderName::from_static("x-culvert-key");
/// Where Anthropic's clients put theirs.
const API_KEY: HeaderName = HeaderName::from_static("x-api-key");
/// What every key of a gateway begins with; nothing that does goes on to a backend.
const PREFIXES: [&str; 2] = ["cvk_", "cvadm_"];

/// A key as a caller presented it.
struct Presented(String);

impl Presented {
    /// Takes the key out of the headers, with every header that held it or another key of a gateway.
    fn take(headers: &mut HeaderMap) -> Option<Self> {
        let found = consume(headers, OWN, text)
            .or_else(|| consume(headers, AUTHORIZATION, bearer))
            .or_else(|| consume(headers, API_KEY, text));
        headers.remove(OWN);
        for name in [AUTHORIZATION, API_KEY] {
            if headers.get_all(&name).iter().any(holds_key) {
                headers.remove(name);
            }
        }
        found
    }

    /// The text, to be digested.
    fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Presented {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Presented(***)")
    }
}

/// Takes the caller's key out of the headers and finds whose it is. A key that is missing, unknown,
/// expired or revoked is looked up and answered in the same way.
pub fn authenticate(
    headers: &mut HeaderMap,
    snapshot: &ConfigSnapshot,
    now: SystemTime,
) -> Result<KeyView, Problem> {
    let presented = Presented::take(headers);
    let text = presented.as_ref().map_or("", Presented::expose);
    snapshot.key(text, now).cloned().ok_or_else(refused)
}

fn refused() -> Problem {
    Problem::new(
        CallerCode::InvalidKey,
        "The API key is missing or not valid.",
    )
}

fn consume(
    headers: &mut HeaderMap,
    name: HeaderName,
    read: fn(&HeaderValue) -> Option<String>,
) -> Option<Presented> {
    let found = headers.get_all(&name).iter().find_map(read)?;
    headers.remove(name);
    Some(Presented(found))
}

fn text(value: &HeaderValue) -> Option<String> {
    value.to_str().ok().map(|text| text.trim().to_owned())
}

fn bearer(value: &HeaderValue) -> Option<String> {
    let (scheme, token) = value.to_str().ok()?.trim_start().split_once(' ')?;
    scheme
        .eq_ignore_ascii_case("bearer")
        .then(|| token.trim().to_owned())
}

fn holds_key(value: &HeaderValue) -> bool {
    let mut words = value
        .as_bytes()
        .split(|b| b.is_ascii_whitespace() || *b == b',');
    words.any(|word| {
        PREFIXES
            .iter()
            .any(|prefix| word.starts_with(prefix.as_bytes()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(pairs: &[(&'static str, &'static str)]) -> (Option<String>, Vec<String>) {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_static(value));
        }
        let key = Presented::take(&mut headers).map(|key| key.expose().to_owned());
        let mut left: Vec<_> = headers.keys().map(ToString::to_string).collect();
        left.sort();
        (key, left)
    }

    #[test]
    fn order_and_what_is_left_for_the_backend() {
        let all = [
            ("x-culvert-key", "k1"),
            ("authorization", "Bearer k2"),
            ("x-api-key", "k3"),
        ];
        let left = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(
            take(&all),
            (Some("k1".into()), left(&["authorization", "x-api-key"]))
        );
        assert_eq!(take(&all[1..]), (Some("k2".into()), left(&["x-api-key"])));
        assert_eq!(take(&all[2..]), (Some("k3".into()), left(&[])));
        assert_eq!(take(&[]), (None, left(&[])));
    }

    #[test]
    fn bearer_in_any_capitals_and_other_schemes_are_not_ours() {
        assert_eq!(
            take(&[("authorization", "bearer  k ")]).0.as_deref(),
            Some("k")
        );
        let basic = take(&[("authorization", "Basic dTpw"), ("x-api-key", "k")]);
        assert_eq!(basic, (Some("k".into()), vec!["authorization".into()]));
        assert_eq!(take(&[("authorization", "Bearer")]).0, None);
    }

    #[test]
    fn no_header_with_a_key_of_ours_is_left() {
        let (key, left) = take(&[
            ("x-culvert-key", "cvk_a"),
            ("authorization", "Bearer cvk_a"),
            ("x-api-key", "cvadm_b"),
        ]);
        assert_eq!((key.as_deref(), left.len()), (Some("cvk_a"), 0));
        let (key, left) = take(&[
            ("authorization", "Bearer cvk_a"),
            ("authorization", "Bearer other"),
        ]);
        assert_eq!((key.as_deref(), left.len()), (Some("cvk_a"), 0));
        let (_, left) = take(&[("x-culvert-key", "k"), ("x-culvert-key", "k2")]);
        assert!(left.is_empty());
    }

    #[test]
    fn debug_shows_nothing() {
        assert_eq!(
            format!("{:?}", Presented("cvk_secret".into())),
            "Presented(***)"
        );
    }
}
