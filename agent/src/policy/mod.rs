//! What can be called: the agent's own answer, whatever a plane has let through.
//!
//! A call is admitted by its method and path alone, which are pure facts of its head;
//! [`Rules::admit`] gives back the target that is sent, and nothing else is.

mod model;
mod path;
mod pattern;
mod tools;

use http::Method;

pub use path::{CleanPath, MAX_PATH_BYTES, PathError, decode_path};
pub use pattern::{PathRule, PatternError};
pub use tools::{
    Events, JsonError, MAX_MESSAGE_BYTES, NamePattern, Request, TooLong, ToolDenied, ToolPolicy,
    ToolRules, Unreadable,
};

/// Longest query that is passed on, in bytes.
pub const MAX_QUERY_BYTES: usize = 16 * 1024;
/// What the realtime API changes to.
const WEBSOCKET: &str = "websocket";

/// What a service lets be called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rules {
    /// The pairs of the model APIs, below `/v1`.
    Model,
    /// The one url of the service.
    Mcp,
    /// What the service's `allow` lists.
    Http(Vec<Allow>),
}

/// One entry of `allow`: each of the methods on each of the paths.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allow {
    /// Exact methods.
    pub methods: Vec<Method>,
    /// Patterns of paths.
    pub paths: Vec<PathRule>,
    /// Protocols that a call may change to, in lower case: from then on nothing looks at its bytes.
    pub upgrade: Vec<String>,
}

/// The path of a service's url, which everything that is sent to it begins with.
#[derive(Clone, PartialEq, Eq)]
pub struct Base {
    /// `""` or `/v1`: without a trailing slash.
    prefix: String,
    /// Path and query of the url as it is written, for `mcp`.
    whole: String,
}

/// A call that may be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admitted {
    segments: Vec<String>,
    query: Option<String>,
    /// Path and query as the backend itself named them, in the place of all else.
    announced: Option<String>,
}

impl Admitted {
    /// A call to a path that the service's own backend has announced.
    pub(crate) const fn endpoint(target: String) -> Self {
        Self {
            segments: Vec::new(),
            query: None,
            announced: Some(target),
        }
    }
}

/// Why a call may not be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// The path has more than one reading.
    #[error(transparent)]
    Path(#[from] PathError),
    /// The query holds a character that HTTP does not allow there, or is too long.
    #[error("the query is malformed or too long")]
    Query,
    /// Nothing of what is allowed matches.
    #[error("this method and path are not allowed")]
    NotListed,
    /// The call may be made, but not change its protocol.
    #[error("this change of protocol is not allowed")]
    Protocol,
}

impl Rules {
    /// Whether `method` on `target` (path and query as the caller's plane gave them) may be
    /// called.
    ///
    /// # Errors
    /// [`Denied`] with the first reason found.
    pub fn admit(&self, method: &Method, target: &str) -> Result<Admitted, Denied> {
        let (path, query) = match target.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (target, None),
        };
        let path = decode_path(path)?;
        if query.is_some_and(|query| !is_query(query)) {
            return Err(Denied::Query);
        }
        let segments = self
            .listed(method, &path, query)
            .ok_or(Denied::NotListed)?
            .to_vec();
        Ok(Admitted {
            segments,
            query: query.map(str::to_owned),
            announced: None,
        })
    }

    /// As [`Self::admit`], for a call that wants to change to `protocol`.
    ///
    /// # Errors
    /// [`Denied`] with the first reason found.
    pub fn admit_upgrade(
        &self,
        method: &Method,
        target: &str,
        protocol: &str,
    ) -> Result<Admitted, Denied> {
        let admitted = self.admit(method, target)?;
        let listed = match self {
            Self::Model => {
                admitted.segments == ["realtime"] && protocol.eq_ignore_ascii_case(WEBSOCKET)
            }
            Self::Mcp => false,
            Self::Http(allow) => {
                let path = decode_path(target.split('?').next().unwrap_or(target))?;
                allow.iter().any(|entry| {
                    entry.matches(method, &path)
                        && entry
                            .upgrade
                            .iter()
                            .any(|own| protocol.eq_ignore_ascii_case(own))
                })
            }
        };
        listed.then_some(admitted).ok_or(Denied::Protocol)
    }

    /// The segments to send below the url's path.
    fn listed<'p>(
        &self,
        method: &Method,
        path: &'p CleanPath,
        query: Option<&str>,
    ) -> Option<&'p [String]> {
        match self {
            Self::Model => path
                .below("v1")
                .filter(|segments| model::is_listed(method, segments)),
            Self::Mcp => {
                let is_url = matches!(path.as_slice(), [only] if only.is_empty());
                let is_method = [Method::POST, Method::GET, Method::DELETE].contains(method);
                (is_url && is_method && query.is_none()).then_some(&[])
            }
            Self::Http(allow) => allow
                .iter()
                .any(|entry| entry.matches(method, path))
                .then(|| path.as_slice()),
        }
    }
}

impl Allow {
    fn matches(&self, method: &Method, path: &CleanPath) -> bool {
        self.methods.contains(method) && self.paths.iter().any(|rule| rule.matches(path))
    }
}

impl Base {
    /// From a url that was checked at the edge: see [`decode_path`].
    ///
    /// # Errors
    /// [`PathError`] where the url's own path has more than one reading.
    pub fn new(url: &url::Url) -> Result<Self, PathError> {
        decode_path(url.path())?;
        let whole = match url.query() {
            Some(query) => format!("{}?{query}", url.path()),
            None => url.path().to_owned(),
        };
        Ok(Self {
            prefix: url.path().trim_end_matches('/').to_owned(),
            whole,
        })
    }

    /// Path and query of the url as it is written.
    pub fn whole(&self) -> &str {
        &self.whole
    }

    /// What every path begins with: `""` or `/v1`.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The names of the query of the url, in their order. Its values may be secrets.
    pub fn query_names(&self) -> Vec<String> {
        let query = self.whole.split_once('?').map_or("", |(_, query)| query);
        url::form_urlencoded::parse(query.as_bytes())
            .map(|(name, value)| {
                // A query without names is nothing but a value.
                let name = if value.is_empty() { "" } else { name.as_ref() };
                name.to_owned()
            })
            .collect()
    }

    /// Path and query that are sent to the backend.
    pub fn target(&self, admitted: &Admitted) -> String {
        if let Some(announced) = &admitted.announced {
            return announced.clone();
        }
        if admitted.segments.is_empty() {
            return self.whole.clone();
        }
        let mut out = self.prefix.clone();
        path::encode_segments(&admitted.segments, &mut out);
        if let Some(query) = &admitted.query {
            out.push('?');
            out.push_str(query);
        }
        out
    }
}

impl std::fmt::Debug for Base {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Base")
            .field("prefix", &self.prefix)
            .finish_non_exhaustive()
    }
}

fn is_query(query: &str) -> bool {
    query.len() <= MAX_QUERY_BYTES
        && query
            .bytes()
            .all(|b| (0x21..0x7f).contains(&b) && b != b'#')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn base(url: &str) -> Base {
        Base::new(&url::Url::parse(url).expect("a url")).expect("a base")
    }

    fn sent(rules: &Rules, url: &str, method: Method, target: &str) -> Result<String, Denied> {
        rules.admit(&method, target).map(|ok| base(url).target(&ok))
    }

    fn billing() -> Rules {
        Rules::Http(vec![Allow {
            methods: vec![Method::GET],
            paths: vec![PathRule::parse("/v1/invoices/*").expect("a pattern")],
            upgrade: Vec::new(),
        }])
    }

    #[test]
    fn model_calls_go_under_the_path_of_the_url() {
        let to = |url, method, target| sent(&Rules::Model, url, method, target);
        assert_eq!(
            to("http://h:8000/v1", Method::POST, "/v1/chat/completions").as_deref(),
            Ok("/v1/chat/completions")
        );
        assert_eq!(
            to("http://h/openai/v1/", Method::GET, "/v1/models/meta/x?a=b").as_deref(),
            Ok("/openai/v1/models/meta/x?a=b")
        );
        assert_eq!(
            to("http://h", Method::POST, "/v1/messages").as_deref(),
            Ok("/messages")
        );
        assert_eq!(
            to("http://h/v1", Method::POST, "/api/delete"),
            Err(Denied::NotListed)
        );
        assert_eq!(
            to("http://h/v1", Method::GET, "/v1"),
            Err(Denied::NotListed)
        );
    }

    #[test]
    fn mcp_is_one_url() {
        let to =
            |method, target| sent(&Rules::Mcp, "https://m.internal/mcp?team=a", method, target);
        assert_eq!(to(Method::POST, "/").as_deref(), Ok("/mcp?team=a"));
        assert_eq!(to(Method::DELETE, "/").as_deref(), Ok("/mcp?team=a"));
        assert_eq!(to(Method::POST, "/x"), Err(Denied::NotListed));
        assert_eq!(to(Method::POST, "/?team=b"), Err(Denied::NotListed));
        assert_eq!(to(Method::PUT, "/"), Err(Denied::NotListed));
    }

    #[test]
    fn http_is_what_allow_lists() {
        let to = |method, target| sent(&billing(), "https://b.internal/api", method, target);
        assert_eq!(
            to(Method::GET, "/v1/invoices/7?full=1").as_deref(),
            Ok("/api/v1/invoices/7?full=1")
        );
        assert_eq!(to(Method::HEAD, "/v1/invoices/7"), Err(Denied::NotListed));
        assert_eq!(to(Method::GET, "/v1/customers/7"), Err(Denied::NotListed));
        assert_eq!(
            to(Method::GET, "/v1/invoices/../customers"),
            Err(Denied::Path(PathError::DotSegment))
        );
        assert_eq!(to(Method::GET, "/v1/invoices/7?a b"), Err(Denied::Query));
        assert_eq!(to(Method::GET, "/v1/invoices/7?a#b"), Err(Denied::Query));
    }

    #[test]
    fn a_protocol_is_changed_only_where_it_is_listed() {
        let may = |rules: &Rules, method, target, protocol| {
            rules.admit_upgrade(&method, target, protocol).map(|_| ())
        };
        let realtime = "/v1/realtime?model=x";
        assert_eq!(
            may(&Rules::Model, Method::GET, realtime, "WebSocket"),
            Ok(())
        );
        for (method, target, protocol, denied) in [
            (Method::GET, realtime, "foo", Denied::Protocol),
            (Method::GET, "/v1/models", "websocket", Denied::Protocol),
            (Method::POST, "/v1/responses", "websocket", Denied::Protocol),
            (Method::POST, realtime, "websocket", Denied::NotListed),
        ] {
            assert_eq!(may(&Rules::Model, method, target, protocol), Err(denied));
        }
        let denied = may(&Rules::Mcp, Method::GET, "/", "websocket");
        assert_eq!(denied, Err(Denied::Protocol));
        let entry = |path: &str, upgrade: &[&str]| Allow {
            methods: vec![Method::GET],
            paths: vec![PathRule::parse(path).expect("a pattern")],
            upgrade: upgrade.iter().map(|&name| name.to_owned()).collect(),
        };
        let rules = Rules::Http(vec![entry("/**", &[]), entry("/ws/*", &["websocket"])]);
        assert_eq!(may(&rules, Method::GET, "/ws/a?b", "websocket"), Ok(()));
        for (target, protocol) in [("/a", "websocket"), ("/ws/a", "tcp")] {
            let denied = may(&rules, Method::GET, target, protocol);
            assert_eq!(denied, Err(Denied::Protocol), "{target} {protocol}");
        }
    }

    proptest! {
        /// Nothing leaves the one place that is allowed, as any server would read it.
        #[test]
        fn nothing_leaves_what_is_allowed(
            tail in "(/|\\.\\.|%2e|%2f|%5c|\\\\|;|%00|%25|\\?|#|[a-z0-9 ]|\\PC){0,24}",
        ) {
            let rules = billing();
            let target = format!("/v1/invoices/{tail}");
            if let Ok(path) = sent(&rules, "http://h/api", Method::GET, &target) {
                let url = url::Url::parse(&format!("http://h{path}")).expect("a url");
                let rest = url.path().strip_prefix("/api/v1/invoices/").expect("the prefix");
                prop_assert!(!rest.is_empty() && !rest.contains('/'), "{}", path);
            }
        }

        #[test]
        fn any_target_has_an_answer(target in "\\PC{0,80}") {
            for rules in [Rules::Model, Rules::Mcp, billing()] {
                if let Ok(admitted) = rules.admit(&Method::GET, &target) {
                    prop_assert!(target.starts_with('/'), "{:?}", admitted);
                }
            }
        }
    }
}
