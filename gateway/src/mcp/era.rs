//! The two eras of MCP on one URL, and the headers that the stateless one mirrors from its bodies.
//!
//! Up to 2025-11-25 a client initializes a session and comes back with its id. From 2026-07-28 on each
//! request stands for itself, and says in headers what its body says, so that those on the way need
//! not read it; whoever does read it has to refuse what differs. Versions that came later are
//! judged by the server alone.

use http::{HeaderMap, HeaderName};

use super::peek::Peek;
use crate::error::{CallerCode, Problem};

/// The version of MCP that a request speaks.
pub const PROTOCOL_VERSION: HeaderName = HeaderName::from_static("mcp-protocol-version");
const METHOD: HeaderName = HeaderName::from_static("mcp-method");
const NAME: HeaderName = HeaderName::from_static("mcp-name");

/// The first version without sessions, and the one whose headers are checked.
const STATELESS: &str = "2026-07-28";

const BASE64_PREFIX: &str = "=?base64?";
const BASE64_SUFFIX: &str = "?=";

/// How a request is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Era {
    /// Within a session that its client has begun, or is about to.
    Sessions,
    /// For itself.
    Stateless,
}

impl Era {
    /// The era of a request with these headers, and of what its body says.
    pub fn of(headers: &HeaderMap, peek: Option<&Peek>) -> Self {
        let header = headers.get(PROTOCOL_VERSION);
        let header = header.and_then(|value| value.to_str().ok());
        let body = peek.and_then(|peek| peek.version.as_deref());
        if header.is_some_and(is_stateless) || body.is_some_and(is_stateless) {
            Self::Stateless
        } else {
            Self::Sessions
        }
    }
}

/// Versions are dates: the order of their texts is that of time.
fn is_stateless(version: &str) -> bool {
    let is_date =
        version.len() == STATELESS.len() && version.starts_with(|c: char| c.is_ascii_digit());
    is_date && version >= STATELESS
}

/// Refuses a request of the stateless era whose headers say something else than its body.
pub fn check(headers: &HeaderMap, peek: &Peek) -> Result<(), Problem> {
    // The headers of notifications are not specified.
    let (Some(method), Some(_id)) = (peek.method.as_deref(), &peek.id) else {
        return Ok(());
    };
    // What states no version in its body is not of that era, or not well formed: the server's to say.
    let Some(version) = peek.version.as_deref() else {
        return Ok(());
    };
    if method == "initialize" || Era::of(headers, Some(peek)) == Era::Sessions {
        return Ok(());
    }
    equal(headers, &PROTOCOL_VERSION, version, str::to_owned)?;
    if version != STATELESS {
        return Ok(());
    }
    equal(headers, &METHOD, method, str::to_owned)?;
    let named = match method {
        "tools/call" | "prompts/get" => peek.name.as_deref(),
        "resources/read" => peek.uri.as_deref(),
        _ => None,
    };
    named.map_or(Ok(()), |name| equal(headers, &NAME, name, decoded))
}

/// One header, and what the body says.
fn equal(
    headers: &HeaderMap,
    name: &HeaderName,
    body: &str,
    read: fn(&str) -> String,
) -> Result<(), Problem> {
    let mut values = headers.get_all(name).iter();
    let why = match (values.next(), values.next()) {
        (None, _) => "is missing",
        (Some(_), Some(_)) => "is there more than once",
        (Some(value), None) => match value.to_str() {
            Ok(text) if read(text) == body => return Ok(()),
            Ok(_) => "differs from the body",
            Err(_) => "has characters that no header may have",
        },
    };
    let what = format!("Header mismatch: `{name}` {why}.");
    Err(Problem::new(CallerCode::HeaderMismatch, what))
}

/// A value as it was before it was made fit for a header; one that cannot be read stays as it is,
/// and differs.
fn decoded(text: &str) -> String {
    let coded = text
        .strip_prefix(BASE64_PREFIX)
        .and_then(|rest| rest.strip_suffix(BASE64_SUFFIX));
    let plain = coded.and_then(|coded| {
        let bytes = data_encoding::BASE64.decode(coded.as_bytes()).ok()?;
        String::from_utf8(bytes).ok()
    });
    plain.unwrap_or_else(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use serde_json::{Value, json};

    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        headers
    }

    fn request(method: &str, version: Option<&str>, params: Value) -> Peek {
        let mut params = params;
        if let Some(version) = version {
            params["_meta"] = json!({"io.modelcontextprotocol/protocolVersion": version});
        }
        let body = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
        Peek::at(body.to_string().as_bytes())
    }

    const VERSION: (&str, &str) = ("mcp-protocol-version", STATELESS);

    fn code(headers: &HeaderMap, peek: &Peek) -> Option<CallerCode> {
        check(headers, peek).err().map(|problem| problem.code())
    }

    #[test]
    fn the_version_decides_the_era() {
        for (header, body, era) in [
            (None, None, Era::Sessions),
            (Some("2025-11-25"), None, Era::Sessions),
            (Some("2026-07-28"), None, Era::Stateless),
            (Some("2031-01-01"), None, Era::Stateless),
            (Some("zzzz-zz-zz"), None, Era::Sessions),
            (Some("3"), None, Era::Sessions),
            (None, Some("2026-07-28"), Era::Stateless),
            (Some("2025-06-18"), Some("2026-07-28"), Era::Stateless),
        ] {
            let headers = header.map_or_else(HeaderMap::new, |version| {
                headers(&[("mcp-protocol-version", version)])
            });
            let peek = request("tools/list", body, json!({}));
            assert_eq!(Era::of(&headers, Some(&peek)), era, "{header:?} {body:?}");
        }
        assert_eq!(Era::of(&HeaderMap::new(), None), Era::Sessions);
    }

    #[test]
    fn headers_that_say_what_the_body_says_pass() {
        let call = request("tools/call", Some(STATELESS), json!({"name": "search"}));
        let plain = headers(&[
            VERSION,
            ("mcp-method", "tools/call"),
            ("mcp-name", "search"),
        ]);
        assert_eq!(code(&plain, &call), None);
        let read = request(
            "resources/read",
            Some(STATELESS),
            json!({"uri": "memo://ä"}),
        );
        let coded = headers(&[
            VERSION,
            ("mcp-method", "resources/read"),
            ("mcp-name", "=?base64?bWVtbzovL8Ok?="),
        ]);
        assert_eq!(code(&coded, &read), None);
        let list = request("tools/list", Some(STATELESS), json!({}));
        let no_name = headers(&[VERSION, ("mcp-method", "tools/list")]);
        assert_eq!(code(&no_name, &list), None);
    }

    #[test]
    fn what_is_missing_doubled_or_different_is_refused() {
        let call = request("tools/call", Some(STATELESS), json!({"name": "search"}));
        let method = ("mcp-method", "tools/call");
        let name = ("mcp-name", "search");
        for wrong in [
            headers(&[method, name]),
            headers(&[("mcp-protocol-version", "2025-11-25"), method, name]),
            headers(&[VERSION, VERSION, method, name]),
            headers(&[VERSION, name]),
            headers(&[VERSION, ("mcp-method", "Tools/Call"), name]),
            headers(&[VERSION, method, method, name]),
            headers(&[VERSION, method]),
            headers(&[VERSION, method, ("mcp-name", "other")]),
            headers(&[VERSION, method, ("mcp-name", "=?base64?b3RoZXI=?=")]),
            headers(&[VERSION, method, ("mcp-name", "=?base64?%%%?=")]),
            headers(&[VERSION, method, ("mcp-name", "sürch")]),
        ] {
            assert_eq!(
                code(&wrong, &call),
                Some(CallerCode::HeaderMismatch),
                "{wrong:?}"
            );
        }
        // A name that looks like a coded one has to be coded itself.
        let odd = request(
            "tools/call",
            Some(STATELESS),
            json!({"name": "=?base64?eA==?="}),
        );
        let raw = headers(&[VERSION, method, ("mcp-name", "=?base64?eA==?=")]);
        assert_eq!(code(&raw, &odd), Some(CallerCode::HeaderMismatch));
    }

    #[test]
    fn what_is_not_of_that_era_is_the_servers_to_judge() {
        let any = headers(&[("mcp-method", "other"), ("mcp-name", "other")]);
        for peek in [
            request("tools/call", None, json!({"name": "search"})),
            request("tools/call", Some("2025-11-25"), json!({"name": "search"})),
            Peek::at(
                br#"{"method":"notifications/x","params":{"_meta":
                {"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}}"#,
            ),
            Peek::at(b"[1]"),
            Peek::at(b"no json"),
        ] {
            assert_eq!(code(&any, &peek), None, "{peek:?}");
        }
        let later = request("tools/call", Some("2031-01-01"), json!({"name": "search"}));
        let version = headers(&[("mcp-protocol-version", "2031-01-01")]);
        assert_eq!(code(&version, &later), None);
        let unstated = request("tools/call", None, json!({"name": "search"}));
        assert_eq!(code(&headers(&[VERSION]), &unstated), None);
    }
}
