//! Callers in web pages: origins that the operator has listed may call from a browser.
//!
//! Keys travel in headers, never in cookies, so credentials are not allowed for.

use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header, request::Parts};

use bytes::Bytes;

/// What a page may read of an answer beside the few headers that it always may.
const EXPOSED: &str =
    "x-request-id, x-culvert-region, x-culvert-zone, server-timing, retry-after, mcp-session-id";
/// How long a browser remembers what it asked, in seconds.
const MAX_AGE: &str = "600";

/// The listed origins.
#[derive(Clone, Debug, Default)]
pub struct Cors {
    origins: Vec<String>,
}

impl Cors {
    /// Whole origins, such as `https://app.example`.
    pub fn new(origins: &[String]) -> Self {
        Self {
            origins: origins
                .iter()
                .map(|origin| origin.to_ascii_lowercase())
                .collect(),
        }
    }

    /// The origin of a request, if it is a listed one.
    pub fn listed(&self, headers: &HeaderMap) -> Option<HeaderValue> {
        let origin = headers.get(header::ORIGIN)?;
        let text = origin.to_str().ok()?.to_ascii_lowercase();
        self.origins.contains(&text).then(|| origin.clone())
    }
}

/// A good answer to a browser that asks whether a page may call; `None` where it asks for something else.
pub fn preflight(head: &Parts) -> Option<Response<Bytes>> {
    if head.method != Method::OPTIONS {
        return None;
    }
    let method = head.headers.get(header::ACCESS_CONTROL_REQUEST_METHOD)?;
    let mut answer = Response::new(Bytes::new());
    *answer.status_mut() = StatusCode::NO_CONTENT;
    let headers = answer.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, method.clone());
    if let Some(names) = head.headers.get(header::ACCESS_CONTROL_REQUEST_HEADERS) {
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, names.clone());
    }
    headers.insert(
        header::ACCESS_CONTROL_MAX_AGE,
        HeaderValue::from_static(MAX_AGE),
    );
    Some(answer)
}

/// Says on an answer that the page of `origin` may read it.
pub fn mark(headers: &mut HeaderMap, origin: HeaderValue) {
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.insert(
        header::ACCESS_CONTROL_EXPOSE_HEADERS,
        HeaderValue::from_static(EXPOSED),
    );
    headers.append(header::VARY, HeaderValue::from_static("origin"));
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn head(method: Method, headers: &[(&'static str, &'static str)]) -> Parts {
        let mut request = Request::builder().method(method);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn only_listed_origins_and_only_preflights() {
        let cors = Cors::new(&["https://App.example".into()]);
        let asks = ("access-control-request-method", "POST");
        let wants = ("access-control-request-headers", "authorization");
        let good = head(
            Method::OPTIONS,
            &[("origin", "https://app.example"), asks, wants],
        );
        assert!(cors.listed(&good.headers).is_some());
        let answer = preflight(&good).unwrap();
        assert_eq!(answer.headers()["access-control-allow-methods"], "POST");
        assert_eq!(
            answer.headers()["access-control-allow-headers"],
            "authorization"
        );
        for bad in [
            head(Method::OPTIONS, &[("origin", "https://app.example")]),
            head(Method::POST, &[("origin", "https://app.example"), asks]),
        ] {
            assert!(preflight(&bad).is_none());
        }
        let other = head(Method::OPTIONS, &[("origin", "https://evil.example"), asks]);
        assert!(cors.listed(&other.headers).is_none());
        assert!(
            Cors::default().listed(&good.headers).is_none(),
            "off by default"
        );
    }
}
