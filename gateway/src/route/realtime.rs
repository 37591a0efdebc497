//! The model of a realtime call, which its query names.

use std::ops::Range;

use culvert_control::resource::Allow;
use culvert_wire::ServiceKind;
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
/// transcription) goes where a call about a stored response would. As nobody reads what is said then,
/// and the model can be chosen there, the key must permit all that the service offers.
pub fn destination(
    path: &str,
    wanted: Option<&str>,
    catalog: &Catalog,
    allow: &Allow,
) -> Result<(Target, String), Problem> {
    let Some(named) = Named::find(path)? else {
        let target = resolve::unnamed(wanted, None, catalog, allow)?;
        return Ok((whole(target, catalog, allow)?, path.to_owned()));
    };
    let target = resolve::model(&named.model, catalog, allow)?;
    let id = target.model.as_deref().unwrap_or(&named.model);
    let path = named.with_model(path, id);
    Ok((whole(target, catalog, allow)?, path))
}

/// Of the services of a target those of which the key may call every model.
fn whole(mut target: Target, catalog: &Catalog, allow: &Allow) -> Result<Target, Problem> {
    let own = &target.connector;
    let entry = catalog.connector(own.as_str()).map(|(_, entry)| entry);
    target.services.retain(|name| {
        let service = entry.and_then(|entry| entry.service(name, ServiceKind::Model));
        let may = |model| allow.permits(own, name.as_str(), model);
        may(None) || service.is_some_and(|service| service.models.iter().all(|id| may(Some(id))))
    });
    if target.services.is_empty() {
        let what = "A realtime call can change its model unseen, and this key may not call all models of the service.";
        return Err(Problem::new(CallerCode::ModelNotFound, what).about("model"));
    }
    Ok(target)
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
    use crate::route::catalog::{Connector, Service};

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
    fn a_key_for_some_models_has_no_conversation() {
        let mut catalog = Catalog::default();
        let service = Service {
            name: "gpu".parse().unwrap(),
            kind: ServiceKind::Model,
            models: vec!["small".to_owned(), "big".to_owned()],
        };
        let connector = Connector {
            linked: true,
            services: vec![service],
        };
        catalog.insert("dev".parse().unwrap(), connector);
        let go = |allow: &[&str], target: &str| {
            let patterns = allow.iter().map(|text| text.parse().unwrap()).collect();
            let found = destination(target, None, &catalog, &Allow::Only(patterns));
            found
                .map(|(_, path)| path)
                .map_err(|problem| problem.code())
        };
        let (named, unnamed) = ("/v1/realtime?model=dev/small", "/v1/realtime?intent=x");
        for target in [named, unnamed] {
            let refused = go(&["dev/gpu:small"], target);
            assert_eq!(refused, Err(CallerCode::ModelNotFound), "{target}");
            for all in [
                &["dev/gpu"][..],
                &["dev/gpu:*"],
                &["dev/gpu:small", "dev/gpu:big"],
            ] {
                assert!(go(all, target).is_ok(), "{all:?} {target}");
            }
        }
        assert_eq!(
            go(&["dev/gpu"], named).as_deref(),
            Ok("/v1/realtime?model=small")
        );
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
