//! The model of a realtime call, which its query names.

use std::ops::Range;

use culvert_control::resource::Allow;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use super::{
    catalog::Catalog,
    resolve::{self, Target},
};
use crate::error::{CallerCode, Problem};

/// What a value of a query may hold as it is (RFC 3986, section 2.3).
const KEPT: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// Where a realtime call goes, and the path and query that it goes with. One that names no model (a
/// transcription) goes where a call about a stored response would.
pub fn destination(
    path: &str,
    wanted: Option<&str>,
    catalog: &Catalog,
    allow: &Allow,
) -> Result<(Target, String), Problem> {
    let Some(named) = Named::find(path)? else {
        let target = resolve::unnamed(wanted, None, catalog, allow)?;
        return Ok((target, path.to_owned()));
    };
    let target = resolve::model(&named.model, catalog, allow)?;
    let id = target.model.as_deref().unwrap_or(&named.model);
    let path = named.with_model(path, id);
    Ok((target, path))
}

/// A path and query whose `model` has been found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// The model.
    pub model: String,
    at: Range<usize>,
}

impl Named {
    /// Finds `model` in the query; nothing where it is not there. A second one, in a spelling that some
    /// reader could take for it, is refused: we would authorise one and a backend could obey the other.
    pub fn find(target: &str) -> Result<Option<Self>, Problem> {
        let Some((path, query)) = target.split_once('?') else {
            return Ok(None);
        };
        let mut found = None;
        let mut named = 0;
        let mut at = path.len() + 1;
        for pair in query.split('&') {
            // Some readers still divide at `;`.
            for piece in pair.split(';') {
                let key = piece.split('=').next().unwrap_or_default();
                named += usize::from(decoded(key).eq_ignore_ascii_case("model"));
            }
            if let Some(value) = pair.strip_prefix("model=") {
                let start = at + pair.len() - value.len();
                found = Some((decoded(value), start..start + value.len()));
            }
            at += pair.len() + 1;
        }
        match (named, found) {
            (0, _) => Ok(None),
            (1, Some((model, at))) if !model.is_empty() => Ok(Some(Self { model, at })),
            (_, _) => {
                let what = "The query must name one `model`, in these letters.";
                Err(Problem::new(CallerCode::BadRequest, what).about("model"))
            }
        }
    }

    /// The same path and query with another model.
    pub fn with_model(&self, target: &str, name: &str) -> String {
        if name == self.model {
            return target.to_owned();
        }
        let name = utf8_percent_encode(name, KEPT);
        format!(
            "{}{name}{}",
            &target[..self.at.start],
            &target[self.at.end..]
        )
    }
}

/// As forms are read: `+` is a blank.
fn decoded(text: &str) -> String {
    let text = text.replace('+', " ");
    percent_decode_str(&text).decode_utf8_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_name_changes() {
        for (target, model, sent) in [
            (
                "/v1/realtime?model=dev/x",
                "dev/x",
                "/v1/realtime?model=a%2Fb",
            ),
            (
                "/v1/realtime?a=%20&model=dev%2Fx&b;c",
                "dev/x",
                "/v1/realtime?a=%20&model=a%2Fb&b;c",
            ),
            (
                "/v1/realtime?model=a%2fb",
                "a/b",
                "/v1/realtime?model=a%2fb",
            ),
        ] {
            let found = Named::find(target).unwrap().unwrap();
            assert_eq!(found.model, model);
            assert_eq!(found.with_model(target, "a/b"), sent);
        }
    }

    #[test]
    fn no_model_and_more_than_one() {
        for none in ["/v1/realtime", "/v1/realtime?", "/v1/realtime?models=x"] {
            assert_eq!(Named::find(none), Ok(None));
        }
        for query in [
            "model=a&model=b",
            "model=a&Model=b",
            "mod%65l=a",
            "model=a&x;model=b",
            "model=a;model=b",
            "MODEL=a",
            "model",
            "model=",
        ] {
            assert!(
                Named::find(&format!("/v1/realtime?{query}")).is_err(),
                "{query}"
            );
        }
    }
}
