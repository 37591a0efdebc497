//! Where to dial: a host and a port, as they stand in tokens and answers.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use rustls::pki_types::{DnsName, ServerName};

use crate::text::text_codec;

/// `name:port`, `1.2.3.4:port` or `[::1]:port`. The port is never 0.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HostPort {
    host: Host,
    port: u16,
}

/// A DNS name or an address.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Host {
    Name(DnsName<'static>),
    Address(IpAddr),
}

/// A text is not `host:port`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an address of the form host:port")]
pub struct HostPortError;

impl HostPort {
    /// A host (a DNS name or an IP address, without brackets) and a port.
    pub fn new(host: &str, port: u16) -> Result<Self, HostPortError> {
        if port == 0 {
            return Err(HostPortError);
        }
        let host = match host.parse::<IpAddr>() {
            Ok(address) => Host::Address(address),
            Err(_) => Host::Name(dns_name(host)?),
        };
        Ok(Self { host, port })
    }

    /// The host without brackets.
    pub fn host(&self) -> String {
        match &self.host {
            Host::Name(name) => name.as_ref().to_owned(),
            Host::Address(address) => address.to_string(),
        }
    }

    /// The address, where the host is one and nothing has to be resolved.
    pub fn ip(&self) -> Option<IpAddr> {
        match self.host {
            Host::Name(_) => None,
            Host::Address(address) => Some(address),
        }
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The name that TLS is told: SNI for a DNS name, none for an address.
    pub fn server_name(&self) -> ServerName<'static> {
        match &self.host {
            Host::Name(name) => ServerName::DnsName(name.clone()),
            Host::Address(address) => ServerName::IpAddress((*address).into()),
        }
    }
}

impl FromStr for HostPort {
    type Err = HostPortError;

    fn from_str(text: &str) -> Result<Self, HostPortError> {
        let (host, port) = text.rsplit_once(':').ok_or(HostPortError)?;
        let plain = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
        let port = port.parse().map_err(|_| HostPortError)?;
        if !plain {
            return Err(HostPortError);
        }
        let bracketed = host
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'));
        match bracketed {
            Some(inner) => {
                let address: Ipv6Addr = inner.parse().map_err(|_| HostPortError)?;
                Self::new(&address.to_string(), port)
            }
            None if host.contains(':') => Err(HostPortError),
            None => Self::new(host, port),
        }
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let port = self.port;
        match &self.host {
            Host::Name(name) => write!(f, "{}:{port}", name.as_ref()),
            Host::Address(IpAddr::V4(address)) => write!(f, "{address}:{port}"),
            Host::Address(IpAddr::V6(address)) => write!(f, "[{address}]:{port}"),
        }
    }
}

text_codec!(HostPort);

fn dns_name(host: &str) -> Result<DnsName<'static>, HostPortError> {
    DnsName::try_from(host.to_ascii_lowercase()).map_err(|_| HostPortError)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_forms_round_trip() {
        for text in [
            "gw.example.com:443",
            "127.0.0.1:8443",
            "[::1]:8443",
            "localhost:1",
        ] {
            assert_eq!(text.parse::<HostPort>().unwrap().to_string(), text);
        }
        let name: HostPort = "GW.example.com:443".parse().unwrap();
        assert_eq!((name.host().as_str(), name.port()), ("gw.example.com", 443));
        let v6: HostPort = "[::1]:443".parse().unwrap();
        assert_eq!(v6.host(), "::1");
        assert!(v6.ip().is_some());
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "",
            "a",
            ":1",
            "a:",
            "a:0",
            "a:65536",
            "a:+1",
            "::1:443",
            "[::1]",
            "[a]:1",
            "a b:1",
            "http://a:1",
            "user@a:1",
            "a:1/x",
        ] {
            assert!(text.parse::<HostPort>().is_err(), "{text}");
        }
    }
}
