//! The `Origin` check that MCP asks of servers: a web page may call only from an origin that is ours
//! or that the operator has listed.

use http::{HeaderMap, Uri, header::ORIGIN};

/// The origins that may call MCP paths.
#[derive(Clone, Debug, Default)]
pub struct Origins {
    listed: Vec<String>,
    hosts: Vec<String>,
}

impl Origins {
    /// `listed` are whole origins (`https://app.example`); `hosts` are the names of this gateway, each
    /// accepted with any scheme and port.
    pub fn new(listed: Vec<String>, hosts: Vec<String>) -> Self {
        let lower =
            |names: Vec<String>| names.into_iter().map(|n| n.to_ascii_lowercase()).collect();
        Self {
            listed: lower(listed),
            hosts: lower(hosts),
        }
    }

    /// Whether a request with these headers may go on. Clients that are not browsers send no `Origin`.
    pub fn admit(&self, headers: &HeaderMap) -> bool {
        headers.get_all(ORIGIN).iter().all(|origin| {
            origin
                .to_str()
                .is_ok_and(|origin| self.admits(&origin.to_ascii_lowercase()))
        })
    }

    fn admits(&self, origin: &str) -> bool {
        if self.listed.iter().any(|listed| listed == origin) {
            return true;
        }
        let Ok(uri) = origin.parse::<Uri>() else {
            return false;
        };
        let web = matches!(uri.scheme_str(), Some("http" | "https"));
        web && uri
            .host()
            .is_some_and(|host| self.hosts.iter().any(|ours| ours == host))
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn admit(origin: Option<&str>) -> bool {
        let origins = Origins::new(
            vec!["https://App.example".into()],
            vec![
                "localhost".into(),
                "127.0.0.1".into(),
                "[::1]".into(),
                "gw.example".into(),
            ],
        );
        let mut headers = HeaderMap::new();
        if let Some(origin) = origin {
            headers.insert(ORIGIN, HeaderValue::from_str(origin).unwrap());
        }
        origins.admit(&headers)
    }

    #[test]
    fn ours_and_listed_ones_only() {
        for good in [
            "https://app.example",
            "https://APP.example",
            "http://localhost:3000",
            "http://127.0.0.1",
            "http://[::1]:8080",
            "https://gw.example:8443",
        ] {
            assert!(admit(Some(good)), "{good}");
        }
        assert!(admit(None));
        for bad in [
            "https://evil.example",
            "null",
            "",
            "https://app.example.evil.example",
            "file://localhost",
            "http://app.example",
            "http://localhost.evil.example",
            "localhost",
        ] {
            assert!(!admit(Some(bad)), "{bad}");
        }
    }

    #[test]
    fn every_origin_header_counts() {
        let origins = Origins::new(vec!["https://a.example".into()], vec![]);
        let mut headers = HeaderMap::new();
        headers.append(ORIGIN, HeaderValue::from_static("https://a.example"));
        headers.append(ORIGIN, HeaderValue::from_static("https://evil.example"));
        assert!(!origins.admit(&headers));
    }
}
