//! The headers of the stateless protocol, which repeat what the body says: whoever reads the
//! body has to refuse a request in which the two differ (2026-07-28, "Server Validation").

use data_encoding::BASE64;
use http::HeaderMap;

use super::error::Problem;
use super::rpc::Object;
use super::version;

const METHOD: &str = "mcp-method";
const NAME: &str = "mcp-name";

/// Checks a request. `malformed` of the answer says that its `_meta` lacks what it must have: an
/// error of the server about it is one of the request.
pub(super) fn check(
    headers: &HeaderMap,
    method: &str,
    object: &Object,
) -> Result<Checked, Problem> {
    let Some(spoken) = object.text_at(&version::IN_BODY) else {
        let key = version::IN_BODY[2];
        return Err(Problem::Meta(format!("_meta has no {key}")));
    };
    let named = single(headers, version::HEADER)?
        .ok_or_else(|| Problem::Headers("mcp-protocol-version is missing".to_owned()))?;
    if named != spoken {
        return Err(Problem::Headers(format!(
            "mcp-protocol-version is `{named}`, the body says `{spoken}`"
        )));
    }
    let named =
        single(headers, METHOD)?.ok_or_else(|| Problem::Headers(format!("{METHOD} is missing")))?;
    if named != method {
        return Err(Problem::Headers(format!(
            "{METHOD} is `{named}`, the body says `{method}`"
        )));
    }
    if let Some(key) = name_key(method)
        && let Some(said) = object.text_at(&["params", key])
    {
        let named =
            single(headers, NAME)?.ok_or_else(|| Problem::Headers(format!("{NAME} is missing")))?;
        let named = decoded(named)
            .ok_or_else(|| Problem::Headers(format!("{NAME} is not valid Base64")))?;
        if named != said {
            return Err(Problem::Headers(format!(
                "{NAME} is `{named}`, the body says `{said}`"
            )));
        }
    }
    Ok(Checked {
        malformed: object.at(&version::CAPABILITIES).is_none(),
    })
}

/// What was found out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Checked {
    pub(super) malformed: bool,
}

/// The status of an answer of the server, of which the stateless protocol gives some a status
/// of their own.
pub(super) fn status_of(line: &[u8], checked: Checked) -> http::StatusCode {
    let answer: Option<Object> = serde_json::from_slice(line).ok();
    let code = answer.and_then(|answer| answer.at(&["error", "code"]));
    match code.as_ref().map(|code| code.get()) {
        Some("-32020" | "-32021" | "-32022") => http::StatusCode::BAD_REQUEST,
        Some("-32602") if checked.malformed => http::StatusCode::BAD_REQUEST,
        Some("-32601") => http::StatusCode::NOT_FOUND,
        Some(_) | None => http::StatusCode::OK,
    }
}

/// Which parameter a method's name is.
fn name_key(method: &str) -> Option<&'static str> {
    match method {
        "tools/call" | "prompts/get" => Some("name"),
        "resources/read" => Some("uri"),
        "tasks/get" | "tasks/update" | "tasks/cancel" => Some("taskId"),
        _ => None,
    }
}

/// The one value of a header: intermediaries differ in which of several they believe.
pub(super) fn single<'h>(headers: &'h HeaderMap, name: &str) -> Result<Option<&'h str>, Problem> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    if values.next().is_some() {
        return Err(Problem::Headers(format!("{name} is there twice")));
    }
    value
        .to_str()
        .map(|text| Some(text.trim()))
        .map_err(|_| Problem::Headers(format!("{name} has characters that a header cannot have")))
}

/// A value in the form for what a header cannot hold.
pub(super) fn decoded(value: &str) -> Option<String> {
    match value
        .strip_prefix("=?base64?")
        .and_then(|rest| rest.strip_suffix("?="))
    {
        Some(inner) => String::from_utf8(BASE64.decode(inner.as_bytes()).ok()?).ok(),
        None => Some(value.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};
    use serde_json::{Value, json};

    use super::*;

    fn call(name: &str) -> Object {
        let meta = json!({
            "io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientCapabilities": {},
        });
        object(&json!({"method": "tools/call", "params": {"name": name, "_meta": meta}}))
    }

    fn object(value: &Value) -> Object {
        serde_json::from_value(value.clone()).expect("an object")
    }

    fn headers(list: &[(&'static str, &str)]) -> HeaderMap {
        let value = |text: &str| HeaderValue::from_str(text).expect("a value");
        list.iter()
            .map(|(name, text)| (HeaderName::from_static(name), value(text)))
            .collect()
    }

    #[test]
    fn headers_and_body_have_to_agree() {
        let good = [
            ("mcp-protocol-version", "2026-07-28"),
            ("mcp-method", "tools/call"),
            ("mcp-name", "x"),
        ];
        let checked = check(&headers(&good), "tools/call", &call("x"));
        assert_eq!(checked, Ok(Checked { malformed: false }));
        for at in 0..good.len() {
            let mut less = good.to_vec();
            less.remove(at);
            let refused = check(&headers(&less), "tools/call", &call("x"));
            assert!(matches!(refused, Err(Problem::Headers(_))), "{less:?}");
            let mut other = good.to_vec();
            other[at].1 = "y";
            let refused = check(&headers(&other), "tools/call", &call("x"));
            assert!(matches!(refused, Err(Problem::Headers(_))), "{other:?}");
        }
        let mut twice = headers(&good);
        twice.append("mcp-method", HeaderValue::from_static("tools/call"));
        assert!(check(&twice, "tools/call", &call("x")).is_err());
    }

    #[test]
    fn a_name_may_be_encoded() {
        let named = |name: &str| {
            headers(&[
                ("mcp-protocol-version", "2026-07-28"),
                ("mcp-method", "tools/call"),
                ("mcp-name", name),
            ])
        };
        let body = call("Hello, 世界");
        let encoded = named("=?base64?SGVsbG8sIOS4lueVjA==?=");
        assert!(check(&encoded, "tools/call", &body).is_ok());
        assert!(check(&named("=?base64?!?="), "tools/call", &body).is_err());
    }

    #[test]
    fn what_a_request_lacks_is_its_fault() {
        let bare = object(&json!({"method": "tools/list", "params": {}}));
        let named = headers(&[
            ("mcp-protocol-version", "2026-07-28"),
            ("mcp-method", "tools/list"),
        ]);
        let refused = check(&named, "tools/list", &bare);
        assert!(matches!(refused, Err(Problem::Meta(_))));
        let meta = json!({"io.modelcontextprotocol/protocolVersion": "2026-07-28"});
        let bare = object(&json!({"method": "tools/list", "params": {"_meta": meta}}));
        let checked = check(&named, "tools/list", &bare).expect("agrees");
        let status = |code: i32, checked| {
            let line = json!({"id": 1, "error": {"code": code}}).to_string();
            status_of(line.as_bytes(), checked).as_u16()
        };
        assert_eq!(status(-32602, checked), 400);
        assert_eq!(status(-32602, Checked { malformed: false }), 200);
        for (code, wanted) in [(-32601, 404), (-32022, 400), (-32000, 200)] {
            assert_eq!(status(code, checked), wanted);
        }
        assert_eq!(status_of(br#"{"id":1,"result":{}}"#, checked), 200);
    }
}
