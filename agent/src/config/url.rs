//! The url of a backend.

use http::HeaderValue;
use url::{Host, Url};

use super::service::ServiceKind;
use crate::policy::Base;

/// Where a backend is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceUrl {
    /// Plain or TLS.
    pub scheme: Scheme,
    /// A name, or an address without brackets.
    pub host: String,
    /// The port, given or the scheme's.
    pub port: u16,
    /// The value of `Host`.
    pub authority: HeaderValue,
    /// What every path begins with.
    pub base: Base,
    /// The url says `localhost` or a loopback address.
    pub loopback: bool,
    /// As it was written, for people, without the query: that may hold a secret.
    pub text: String,
}

/// The scheme of a url.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// `http`.
    Http,
    /// `https`.
    Https,
}

impl ServiceUrl {
    /// Reads a url; what it would hide is an error. No error repeats the url: a secret may have
    /// been expanded into it.
    pub(super) fn parse(text: &str, kind: ServiceKind) -> Result<Self, String> {
        let url = Url::parse(text).map_err(|error| format!("not a url: {error}"))?;
        let scheme = match url.scheme() {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            other => return Err(format!("`{other}` is neither http nor https")),
        };
        if !url.username().is_empty() || url.password().is_some() {
            return Err("credentials go to `headers`, not into the url".to_owned());
        }
        if url.fragment().is_some() || (url.query().is_some() && kind != ServiceKind::Mcp) {
            return Err("a query or fragment has no place here".to_owned());
        }
        let (Some(host), Some(port)) = (url.host(), url.port_or_known_default()) else {
            return Err("the url names no host".to_owned());
        };
        let loopback = match &host {
            Host::Domain(name) => {
                let name = name.trim_end_matches('.');
                name == "localhost" || name.ends_with(".localhost")
            }
            Host::Ipv4(ip) => ip.is_loopback(),
            Host::Ipv6(ip) => ip.is_loopback(),
        };
        let authority = match url.port() {
            Some(port) => format!("{host}:{port}"),
            None => host.to_string(),
        };
        Ok(Self {
            scheme,
            host: match &host {
                Host::Domain(name) => (*name).to_owned(),
                Host::Ipv4(ip) => ip.to_string(),
                Host::Ipv6(ip) => ip.to_string(),
            },
            port,
            authority: HeaderValue::try_from(authority).map_err(|error| error.to_string())?,
            base: Base::new(&url).map_err(|error| format!("the url's path: {error}"))?,
            loopback,
            text: match text.split_once('?') {
                Some((shown, _)) => format!("{shown}?…"),
                None => text.to_owned(),
            },
        })
    }
}
