//! Which headers pass, in both directions: one list each.

use std::{borrow::Cow, net::IpAddr};

use bytes::Bytes;
use culvert_wire::head::is_connection_header;
use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{self, Entry},
};
use http_body::Frame;

/// The caller's own header that names the target of a call without a model.
pub const TARGET: HeaderName = HeaderName::from_static("x-culvert-target");
/// The caller's deadline, in milliseconds from the arrival of the request.
pub const TIMEOUT: HeaderName = HeaderName::from_static("culvert-timeout-ms");
/// `off` where the caller of a stream wants no comments in it.
pub const KEEP_ALIVE: HeaderName = HeaderName::from_static("culvert-keep-alive");
/// The request's id: ours to the caller and to the backend, the caller's own in its request.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Prefix of the headers that only a gateway writes.
pub const OURS: &str = "x-culvert-";

/// What the edge answers itself, and what says where a request came from: ours replace the caller's.
const NOT_FROM_CALLERS: [&str; 17] = [
    "cf-connecting-ip",
    "culvert-keep-alive",
    "culvert-timeout-ms",
    "expect",
    "fly-client-ip",
    "forwarded",
    "host",
    "true-client-ip",
    "via",
    "x-client-ip",
    "x-cluster-client-ip",
    "x-original-forwarded-for",
    "x-real-ip",
    "x-request-id",
    "x-tfy-metadata",
    "x-original-url",
    "x-rewrite-url",
];

/// What a backend may not say to the callers of a host that many backends share.
const NOT_FROM_BACKENDS: [&str; 9] = [
    "alt-svc",
    "strict-transport-security",
    "clear-site-data",
    "service-worker-allowed",
    "nel",
    "report-to",
    "reporting-endpoints",
    "set-cookie",
    "server-timing",
];

/// What the head of an answer says in our words, and trailers may not say over again.
const NOT_AGAIN: [&str; 5] = [
    "cache-control",
    "content-security-policy",
    "vary",
    "x-content-type-options",
    "x-request-id",
];

/// What the operator lets one service say to its callers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Granted {
    /// Its cookies reach them.
    pub cookies: bool,
    /// It says itself which web pages may read its answers.
    pub cors: bool,
}

/// Where a request came from.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// The caller's address.
    pub address: IpAddr,
    /// `http` or `https`.
    pub scheme: &'static str,
    /// The authority that the caller used.
    pub host: Option<&'a HeaderValue>,
}

/// Removes from a request what must not go up, and says where it came from.
pub fn clean_request(headers: &mut HeaderMap, source: Source<'_>) {
    let trailers = wants_trailers(headers);
    remove_hop_by_hop(headers);
    if trailers {
        // The relay carries the fact, not the header.
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    remove_each(headers, &NOT_FROM_CALLERS);
    remove_prefixed(headers, &[OURS, "x-forwarded-"]);
    if let Ok(address) = HeaderValue::from_str(&source.address.to_canonical().to_string()) {
        headers.insert("x-forwarded-for", address);
    }
    headers.insert("x-forwarded-proto", HeaderValue::from_static(source.scheme));
    if let Some(host) = source.host {
        headers.insert("x-forwarded-host", host.clone());
    }
}

/// Removes from an answer what backends may not say, and adds what keeps browsers and caches honest.
pub fn clean_answer(headers: &mut HeaderMap, granted: Granted) {
    remove_hop_by_hop(headers);
    remove_where(headers, |name| {
        let may = granted.cookies && *name == header::SET_COOKIE;
        !may && NOT_FROM_BACKENDS.contains(&name.as_str())
    });
    remove_prefixed(headers, &[OURS]);
    if !granted.cors {
        remove_prefixed(headers, &["access-control-"]);
    }
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    headers.insert(
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static("sandbox"),
    );
    headers.append(
        header::VARY,
        HeaderValue::from_static("authorization, x-api-key"),
    );
    make_private(headers);
}

/// Trailers without what a backend may not say.
pub fn cleaned(frame: Frame<Bytes>) -> Frame<Bytes> {
    match frame.into_trailers() {
        Ok(mut trailers) => {
            clean_trailers(&mut trailers);
            Frame::trailers(trailers)
        }
        Err(other) => other,
    }
}

/// Removes from the trailers of an answer what its head may not say either.
fn clean_trailers(trailers: &mut HeaderMap) {
    remove_hop_by_hop(trailers);
    remove_each(trailers, &NOT_FROM_BACKENDS);
    remove_each(trailers, &NOT_AGAIN);
    remove_prefixed(trailers, &[OURS, "access-control-"]);
}

/// Removes a header in every spelling that some backend could read as it.
pub fn remove_spelled(headers: &mut HeaderMap, name: &HeaderName) {
    remove_where(headers, |own| own == name);
}

/// Whether the caller said that it reads trailers.
pub fn wants_trailers(headers: &HeaderMap) -> bool {
    list(headers, header::TE).any(|token| token.eq_ignore_ascii_case("trailers"))
}

/// An answer to one key is never for a shared cache.
fn make_private(headers: &mut HeaderMap) {
    let Entry::Occupied(mut entry) = headers.entry(header::CACHE_CONTROL) else {
        return;
    };
    for value in entry.iter_mut() {
        let Ok(text) = value.to_str() else { continue };
        let directives = text.split(',').map(str::trim).map(|directive| {
            let shared = directive.to_ascii_lowercase();
            match shared.as_str() {
                "public" => "private",
                s if s.starts_with("s-maxage") => "",
                _ => directive,
            }
        });
        let kept: Vec<_> = directives
            .filter(|directive| !directive.is_empty())
            .collect();
        if let Ok(replaced) = HeaderValue::from_str(&kept.join(", ")) {
            *value = replaced;
        }
    }
}

fn remove_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = list(headers, header::CONNECTION)
        .filter_map(|token| token.parse().ok())
        .collect();
    for name in named {
        // A message that names its own length as hop-by-hop would lose it.
        if name != header::CONTENT_LENGTH {
            headers.remove(name);
        }
    }
    remove_where(headers, is_connection_header);
}

fn list(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &str> {
    let values = headers.get_all(name).into_iter();
    values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|text| text.split(','))
        .map(str::trim)
}

fn remove_each(headers: &mut HeaderMap, names: &[&str]) {
    remove_where(headers, |name| names.contains(&name.as_str()));
}

fn remove_prefixed(headers: &mut HeaderMap, prefixes: &[&str]) {
    remove_where(headers, |name| {
        prefixes
            .iter()
            .any(|prefix| name.as_str().starts_with(prefix))
    });
}

fn remove_where(headers: &mut HeaderMap, unwanted: impl Fn(&HeaderName) -> bool) {
    let matching = |name: &&HeaderName| unwanted(&spelled(name));
    let names: Vec<HeaderName> = headers.keys().filter(matching).cloned().collect();
    for name in names {
        headers.remove(name);
    }
}

/// Names are compared with `-` for `_`: many backends read both spellings as one variable.
fn spelled(name: &HeaderName) -> Cow<'_, HeaderName> {
    let text = name.as_str();
    let other = text.contains('_').then(|| text.replace('_', "-"));
    match other.and_then(|text| text.parse().ok()) {
        Some(other) => Cow::Owned(other),
        None => Cow::Borrowed(name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    fn source() -> Source<'static> {
        Source {
            address: "::ffff:192.0.2.7".parse().unwrap(),
            scheme: "http",
            host: None,
        }
    }

    #[test]
    fn requests_lose_what_is_not_theirs_to_say() {
        let mut headers = map(&[
            ("connection", "x-drop, Close, content-length"),
            ("content-length", "3"),
            ("x-drop", "1"),
            ("te", "trailers"),
            ("upgrade", "websocket"),
            ("transfer-encoding", "chunked"),
            ("host", "gw"),
            ("expect", "100-continue"),
            ("forwarded", "for=1.2.3.4"),
            ("x-forwarded-for", "1.2.3.4"),
            ("x-forwarded-prefix", "/x"),
            ("x-real-ip", "1.2.3.4"),
            ("x-culvert-tenant", "other"),
            ("x-culvert-target", "a/b"),
            ("x-request-id", "theirs"),
            ("accept", "text/event-stream"),
            ("mcp-session-id", "s"),
        ]);
        clean_request(&mut headers, source());
        let mut left: Vec<_> = headers
            .iter()
            .map(|(n, v)| format!("{n}: {}", v.to_str().unwrap()))
            .collect();
        left.sort();
        assert_eq!(
            left,
            [
                "accept: text/event-stream",
                "content-length: 3",
                "mcp-session-id: s",
                "te: trailers",
                "x-forwarded-for: 192.0.2.7",
                "x-forwarded-proto: http",
            ]
        );
    }

    #[test]
    fn what_belongs_to_one_connection_ends_here() {
        let names = [
            "connection",
            "http2-settings",
            "keep-alive",
            "proxy-authenticate",
            "proxy-authorization",
            "proxy-connection",
            "trailer",
            "transfer-encoding",
            "upgrade",
        ];
        let mut headers = map(&names.map(|name| (name, "x")));
        let mut answer = headers.clone();
        clean_request(&mut headers, source());
        clean_answer(&mut answer, Granted::default());
        for name in names {
            assert!(
                !headers.contains_key(name) && !answer.contains_key(name),
                "{name}"
            );
        }
    }

    #[test]
    fn another_spelling_is_the_same_name() {
        let mut headers = map(&[
            ("x_tfy_metadata", "{}"),
            ("x_culvert-tenant", "other"),
            ("x_forwarded_for", "127.0.0.1"),
            ("x-real_ip", "127.0.0.1"),
            ("x_team", "a"),
            ("transfer_encoding", "chunked"),
            ("keep_alive", "timeout=5"),
        ]);
        clean_request(&mut headers, source());
        let mut left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["x-forwarded-for", "x-forwarded-proto", "x_team"]);
        let mut headers = map(&[("x_culvert_zone", "FAKE"), ("set_cookie", "a=b")]);
        clean_answer(&mut headers, Granted::default());
        assert!(headers.keys().all(|name| !name.as_str().contains('_')));
    }

    #[test]
    fn answers_lose_what_speaks_for_the_host() {
        let mut headers = map(&[
            ("alt-svc", "h3=\":443\""),
            ("strict-transport-security", "max-age=1"),
            ("clear-site-data", "*"),
            ("service-worker-allowed", "/"),
            ("nel", "x"),
            ("report-to", "x"),
            ("reporting-endpoints", "x"),
            ("set-cookie", "a=b"),
            ("set-cookie", "c=d"),
            ("access-control-allow-origin", "*"),
            ("access-control-expose-headers", "x"),
            ("x-culvert-zone", "FAKE"),
            ("server-timing", "db;dur=1"),
            ("connection", "close"),
            ("content-type", "application/json"),
            ("retry-after", "3"),
            ("vary", "accept"),
            ("cache-control", "Public, max-age=60, s-maxage=5"),
        ]);
        clean_answer(&mut headers, Granted::default());
        let mut left: Vec<_> = headers
            .iter()
            .map(|(n, v)| format!("{n}: {}", v.to_str().unwrap()))
            .collect();
        left.sort();
        assert_eq!(
            left,
            [
                "cache-control: private, max-age=60",
                "content-security-policy: sandbox",
                "content-type: application/json",
                "retry-after: 3",
                "vary: accept",
                "vary: authorization, x-api-key",
                "x-content-type-options: nosniff",
            ]
        );
    }

    #[test]
    fn a_service_says_more_where_the_operator_lets_it() {
        let all = map(&[
            ("set-cookie", "a=b"),
            ("set-cookie", "c=d"),
            ("access-control-allow-origin", "https://app.example"),
            ("clear-site-data", "*"),
        ]);
        for (cookies, cors) in [(false, false), (true, false), (false, true)] {
            let mut headers = all.clone();
            clean_answer(&mut headers, Granted { cookies, cors });
            let left = headers.get_all("set-cookie").iter().count();
            assert_eq!(left, if cookies { 2 } else { 0 });
            assert_eq!(headers.contains_key("access-control-allow-origin"), cors);
            assert!(!headers.contains_key("clear-site-data"));
        }
    }

    #[test]
    fn nothing_is_invented_for_caches() {
        let mut headers = map(&[("cache-control", "no-store")]);
        clean_answer(&mut headers, Granted::default());
        assert_eq!(headers["cache-control"], "no-store");
        let mut headers = HeaderMap::new();
        clean_answer(&mut headers, Granted::default());
        assert!(!headers.contains_key("cache-control"));
        let mut headers = map(&[
            ("cache-control", "public"),
            ("cache-control", "PUBLIC,max-age=1"),
        ]);
        clean_answer(&mut headers, Granted::default());
        let left: Vec<_> = headers.get_all("cache-control").iter().collect();
        assert_eq!(left, ["private", "private, max-age=1"]);
    }
}
