//! Which headers reach a backend, and which come back.
//!
//! Names are compared in a canonical spelling in which `_` is `-`: servers that make
//! variables of headers do not tell the two apart, so neither may a caller.

use std::borrow::Cow;

use culvert_wire::head::is_connection_header;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};

/// Credentials and metadata that reach a backend only where its service says `pass:`.
const DROPPED: &[&str] = &["authorization", "cookie", "x-api-key", "x-tfy-metadata"];

/// Families of them, by what they begin with.
const DROPPED_PREFIXES: &[&str] = &["proxy-", "x-culvert-"];

/// The header rules of one service.
#[derive(Clone, PartialEq, Eq)]
pub struct HeaderRules {
    inject: Vec<(HeaderName, HeaderValue)>,
    pass: Vec<HeaderName>,
    /// One more that is dropped unless it is passed: the end user's token.
    private: Option<HeaderName>,
}

/// Why a header cannot be injected or passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderRuleError {
    /// It belongs to the connection, not to the call.
    #[error("belongs to the connection and is never carried")]
    HopByHop,
    /// The length is the body's own.
    #[error("is decided by the body")]
    Length,
    /// `host` comes from the url or from `headers`.
    #[error("is decided by the url, or by `headers`")]
    Host,
}

impl HeaderRules {
    /// Rules that add `inject` and let `pass` through.
    ///
    /// # Errors
    /// The name of a header that can be neither, and why.
    pub fn new(
        inject: Vec<(HeaderName, HeaderValue)>,
        pass: Vec<HeaderName>,
    ) -> Result<Self, (HeaderName, HeaderRuleError)> {
        for name in inject.iter().map(|(name, _)| name).chain(&pass) {
            if is_hop_by_hop(&canonical(name)) {
                return Err((name.clone(), HeaderRuleError::HopByHop));
            }
            if name == header::CONTENT_LENGTH {
                return Err((name.clone(), HeaderRuleError::Length));
            }
        }
        if let Some(host) = pass.iter().find(|name| *name == header::HOST) {
            return Err((host.clone(), HeaderRuleError::Host));
        }
        let inject = inject
            .into_iter()
            .map(|(name, mut value)| {
                value.set_sensitive(true);
                (name, value)
            })
            .collect();
        Ok(Self {
            inject,
            pass,
            private: None,
        })
    }

    /// The same rules, where this header too is for the agent only unless it is passed.
    #[must_use]
    pub fn with_private(self, name: HeaderName) -> Self {
        Self {
            private: Some(name),
            ..self
        }
    }

    /// What is sent to a backend whose authority is `host`, of what the caller sent.
    pub fn outgoing(&self, mut caller: HeaderMap, host: &HeaderValue) -> HeaderMap {
        let named = connection_named(&caller);
        remove(&mut caller, |name| self.drops(name, &named));
        caller.insert(header::HOST, host.clone());
        for (name, value) in &self.inject {
            caller.insert(name.clone(), value.clone());
        }
        caller
    }

    /// What is sent of the trailers that end a request. No credential, and nothing that says
    /// where a call came from, has a place there, whatever `pass` names.
    pub fn trailers(&self, mut caller: HeaderMap) -> HeaderMap {
        remove(&mut caller, |name| {
            let canon = canonical(name);
            self.drops(name, &[])
                || is_private(canon.as_str())
                || is_provenance(canon.as_str())
                || name == header::CONTENT_LENGTH
        });
        caller
    }

    /// The headers of our own requests to the backend (probes, discovery).
    pub fn own(&self, host: &HeaderValue) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
        headers.insert(header::ACCEPT, HeaderValue::from_static("*/*"));
        self.outgoing(headers, host)
    }

    /// The names of what is injected, for people. Never the values.
    pub fn injected_names(&self) -> impl Iterator<Item = &str> {
        self.inject.iter().map(|(name, _)| name.as_str())
    }

    /// The names of what passes.
    pub fn passed_names(&self) -> impl Iterator<Item = &str> {
        self.pass.iter().map(HeaderName::as_str)
    }

    fn drops(&self, name: &HeaderName, named: &[HeaderName]) -> bool {
        let canon = canonical(name);
        if is_hop_by_hop(&canon) || named.contains(&canon) || *canon == header::HOST {
            return true;
        }
        if self.inject.iter().any(|(name, _)| canonical(name) == canon) {
            return true;
        }
        // `content_length` and its like would be read as the header that frames the body.
        if *canon == header::CONTENT_LENGTH && name != header::CONTENT_LENGTH {
            return true;
        }
        // Beside the one spelling that the gateway sets, or that `pass` names, another would be
        // read as the same variable.
        if is_provenance(canon.as_str()) && *name != *canon {
            return true;
        }
        let is_ours = self.private.as_ref() == Some(&*canon);
        (is_private(canon.as_str()) || is_ours) && !self.pass.contains(name)
    }
}

const USER_AGENT: &str = concat!("culvert-agent/", env!("CARGO_PKG_VERSION"));

/// What of a backend's answer goes back: all but what belongs to the connection.
pub fn answer(mut headers: HeaderMap) -> HeaderMap {
    let named = connection_named(&headers);
    remove(&mut headers, |name| {
        let canon = canonical(name);
        is_hop_by_hop(&canon) || named.contains(&canon)
    });
    headers
}

/// What goes back of the trailers that end an answer: nothing that frames it either.
pub fn answer_trailers(trailers: HeaderMap) -> HeaderMap {
    let mut trailers = answer(trailers);
    remove(&mut trailers, |name| {
        *canonical(name) == header::CONTENT_LENGTH
    });
    trailers
}

fn remove(headers: &mut HeaderMap, dropped: impl Fn(&HeaderName) -> bool) {
    let dropped: Vec<HeaderName> = headers.keys().filter(|n| dropped(n)).cloned().collect();
    for name in dropped {
        headers.remove(name);
    }
}

fn connection_named(headers: &HeaderMap) -> Vec<HeaderName> {
    headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| HeaderName::try_from(name.trim().replace('_', "-")).ok())
        .collect()
}

fn canonical(name: &HeaderName) -> Cow<'_, HeaderName> {
    if !name.as_str().contains('_') {
        return Cow::Borrowed(name);
    }
    HeaderName::try_from(name.as_str().replace('_', "-")).map_or(Cow::Borrowed(name), Cow::Owned)
}

/// Hop-by-hop (RFC 9110, 7.6.1) and framing headers, as no link carries them; and `expect`, which
/// the edge has answered.
fn is_hop_by_hop(canon: &HeaderName) -> bool {
    is_connection_header(canon) || *canon == header::EXPECT
}

fn is_private(canon: &str) -> bool {
    DROPPED.contains(&canon) || DROPPED_PREFIXES.iter().any(|p| canon.starts_with(p))
}

/// What says where a call came from: the gateway's to say, in the spelling with `-`.
fn is_provenance(canon: &str) -> bool {
    canon == "forwarded" || canon == "x-real-ip" || canon.starts_with("x-forwarded-")
}

impl std::fmt::Debug for HeaderRules {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HeaderRules")
            .field("inject", &self.injected_names().collect::<Vec<_>>())
            .field("pass", &self.pass)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rules(inject: &[(&str, &str)], pass: &[&str]) -> HeaderRules {
        HeaderRules::new(
            inject
                .iter()
                .map(|(n, v)| (n.parse().expect("a name"), v.parse().expect("a value")))
                .collect(),
            pass.iter().map(|n| n.parse().expect("a name")).collect(),
        )
        .expect("rules")
    }

    fn map(pairs: &[(&str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(
                name.parse::<HeaderName>().expect("a name"),
                value.parse().expect("a value"),
            );
        }
        map
    }

    fn host() -> HeaderValue {
        HeaderValue::from_static("h:1")
    }

    #[test]
    fn credentials_of_the_caller_stay_out() {
        let out = rules(&[], &[]).outgoing(
            map(&[
                ("authorization", "Bearer gateway-key"),
                ("cookie", "a=b"),
                ("x-api-key", "k"),
                ("x_api_key", "k"),
                ("proxy-authorization", "p"),
                ("x-culvert-key", "k"),
                ("x-culvert-anything", "k"),
                ("x_culvert_key", "k"),
                ("x-tfy-metadata", "{}"),
                ("accept", "text/event-stream"),
                ("mcp-session-id", "s"),
            ]),
            &host(),
        );
        let names: Vec<&str> = out.keys().map(HeaderName::as_str).collect();
        assert_eq!(names.len(), 3, "{names:?}");
        assert_eq!(out["accept"], "text/event-stream");
        assert_eq!(out["mcp-session-id"], "s");
        assert_eq!(out["host"], "h:1");
    }

    #[test]
    fn pass_lets_exactly_what_it_names_through() {
        let out = rules(&[], &["authorization", "X-Tfy-Metadata"]).outgoing(
            map(&[
                ("authorization", "user"),
                ("cookie", "c"),
                ("x-tfy-metadata", "{}"),
            ]),
            &host(),
        );
        assert_eq!(out["authorization"], "user");
        assert_eq!(out["x-tfy-metadata"], "{}");
        assert!(!out.contains_key("cookie"));
    }

    #[test]
    fn what_passes_passes_in_its_own_spelling_only() {
        let caller = map(&[
            ("x-tfy-metadata", "ours"),
            ("x_tfy_metadata", "theirs"),
            ("X_Tfy-Metadata", "theirs"),
            ("x-culvert_zone", "theirs"),
            ("x-forwarded-for", "ours"),
            ("x_forwarded_for", "theirs"),
            ("x-real_ip", "theirs"),
        ]);
        let out = rules(&[], &["x-tfy-metadata", "x-culvert-zone"]).outgoing(caller, &host());
        assert!(out.values().all(|value| value != "theirs"), "{out:?}");
        assert_eq!(out["x-tfy-metadata"], "ours");
        assert_eq!(out["x-forwarded-for"], "ours");
    }

    #[test]
    fn injected_headers_replace_every_spelling() {
        let out = rules(
            &[("X-Team-Id", "ours"), ("authorization", "Bearer vllm")],
            &["authorization"],
        )
        .outgoing(
            map(&[
                ("x-team-id", "1"),
                ("x-team-id", "2"),
                ("x_team_id", "3"),
                ("x-team_id", "4"),
                ("Authorization", "caller"),
                ("connection", "x-team-id"),
            ]),
            &host(),
        );
        assert_eq!(
            out.get_all("x-team-id").iter().collect::<Vec<_>>(),
            ["ours"]
        );
        assert_eq!(out["authorization"], "Bearer vllm");
        assert_eq!(out.len(), 3, "{out:?}");
    }

    #[test]
    fn what_belongs_to_the_connection_is_not_carried() {
        let caller = map(&[
            ("connection", "close, x-hop"),
            ("x-hop", "1"),
            ("te", "trailers"),
            ("transfer-encoding", "chunked"),
            ("transfer_encoding", "chunked"),
            ("content_length", "0"),
            ("content-length", "5"),
            ("upgrade", "h2c"),
            ("host", "evil"),
        ]);
        let out = rules(&[], &[]).outgoing(caller.clone(), &host());
        assert_eq!(out.len(), 2, "{out:?}");
        assert_eq!(out["content-length"], "5");
        assert_eq!(out["host"], "h:1");
        let back = answer(caller);
        assert!(!back.contains_key("x-hop") && !back.contains_key("transfer-encoding"));
    }

    #[test]
    fn trailers_carry_no_more_than_headers() {
        let sent = map(&[
            ("authorization", "caller"),
            ("x_team", "theirs"),
            ("x-team", "theirs"),
            ("x-culvert-key", "k"),
            ("x-forwarded-for", "1.2.3.4"),
            ("transfer-encoding", "chunked"),
            ("content-length", "5"),
            ("host", "evil"),
            ("x-checksum", "abc"),
        ]);
        let up = rules(&[("x-team", "ours")], &["authorization"]).trailers(sent.clone());
        assert_eq!(up, map(&[("x-checksum", "abc")]));
        let down = answer_trailers(sent);
        assert!(!down.contains_key("transfer-encoding") && !down.contains_key("content-length"));
        assert_eq!(down["x-checksum"], "abc");
    }

    #[test]
    fn rules_that_make_no_sense_are_errors() {
        let name = |n: &str| n.parse::<HeaderName>().expect("a name");
        let value = HeaderValue::from_static("1");
        assert!(HeaderRules::new(vec![(name("connection"), value.clone())], vec![]).is_err());
        assert!(HeaderRules::new(vec![(name("content-length"), value)], vec![]).is_err());
        assert!(HeaderRules::new(vec![], vec![name("host")]).is_err());
        // What no link carries cannot pass either.
        for never in ["transfer-encoding", "proxy-authorization", "expect"] {
            assert!(
                HeaderRules::new(vec![], vec![name(never)]).is_err(),
                "{never}"
            );
        }
    }

    #[test]
    fn the_end_users_token_stays_with_the_agent() {
        let caller = map(&[
            ("x-user-token", "t"),
            ("x_user_token", "t"),
            ("accept", "a"),
        ]);
        let name = HeaderName::from_static("x-user-token");
        let out = rules(&[], &[])
            .with_private(name.clone())
            .outgoing(caller.clone(), &host());
        assert_eq!(out.len(), 2, "{out:?}");
        let out = rules(&[], &["x-user-token"])
            .with_private(name)
            .outgoing(caller, &host());
        assert_eq!(
            (out.len(), &out["x-user-token"]),
            (3, &HeaderValue::from_static("t"))
        );
    }

    #[test]
    fn debug_hides_values() {
        let shown = format!("{:?}", rules(&[("authorization", "Bearer s3cret")], &[]));
        assert!(shown.contains("authorization") && !shown.contains("s3cret"));
    }

    proptest! {
        /// However it is spelt, a caller's value never stands beside or before ours.
        #[test]
        fn a_caller_cannot_override(spelling in "[xX][-_][tT][eE][aA][mM]", value in "[a-z]{1,8}") {
            let out = rules(&[("x-team", "OURS")], &[]).outgoing(map(&[(&spelling, &value)]), &host());
            for (name, value) in &out {
                if canonical(name).as_str() == "x-team" {
                    prop_assert_eq!(value, "OURS");
                }
            }
        }
    }
}
