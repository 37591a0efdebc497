//! What a caller says of bodies: its own, and those that it can read.

use http::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderName};

pub(super) const JSON: &str = "application/json";
pub(super) const EVENTS: &str = "text/event-stream";

/// Whether its own is JSON.
pub(super) fn is_json(headers: &HeaderMap) -> bool {
    names(headers, &CONTENT_TYPE, &[JSON])
}

/// Whether `accept` lets a media type through.
pub(super) fn accepts(headers: &HeaderMap, media: &str) -> bool {
    let family = media.split_once('/').map_or("", |(family, _)| family);
    names(headers, &ACCEPT, &[media, "*/*", &format!("{family}/*")])
}

/// Whether a header lists one of these media types.
fn names(headers: &HeaderMap, header: &HeaderName, wanted: &[&str]) -> bool {
    let values = headers.get_all(header).iter();
    values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|entry| entry.split(';').next())
        .any(|media| wanted.iter().any(|w| media.trim().eq_ignore_ascii_case(w)))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn media_types_have_parameters_and_families() {
        let with = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT, HeaderValue::from_static(value));
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(value));
            headers
        };
        for (value, json, events) in [
            ("application/json, text/event-stream", true, true),
            ("Application/JSON; charset=utf-8", true, false),
            ("*/*", true, true),
            ("text/*;q=0.5", false, true),
            ("text/plain", false, false),
        ] {
            let headers = with(value);
            assert_eq!(accepts(&headers, JSON), json, "{value}");
            assert_eq!(accepts(&headers, EVENTS), events, "{value}");
        }
        assert!(is_json(&with("application/json;charset=utf-8")));
        assert!(!is_json(&with("text/plain")) && !is_json(&HeaderMap::new()));
    }
}
