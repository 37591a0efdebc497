//! One party among those who connect, as far as addresses tell.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// Where connections come from, as far as one party can be told from another: an IPv4 address, or
/// the 64 bits of an IPv6 address that a network is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Source(IpAddr);

impl Source {
    /// Who stands behind an address.
    #[must_use]
    pub fn of(address: SocketAddr) -> Self {
        match address.ip().to_canonical() {
            v4 @ IpAddr::V4(_) => Self(v4),
            IpAddr::V6(v6) => {
                let network = v6.to_bits() & !u128::from(u64::MAX);
                Self(Ipv6Addr::from_bits(network).into())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_an_address_or_a_network() {
        let source = |text: &str| Source::of(SocketAddr::new(text.parse().unwrap(), 1));
        assert_ne!(source("192.0.2.1"), source("192.0.2.2"));
        assert_eq!(source("::ffff:192.0.2.1"), source("192.0.2.1"));
        assert_eq!(source("2001:db8::1"), source("2001:db8::ffff:1"));
        assert_ne!(source("2001:db8::1"), source("2001:db8:0:1::1"));
    }
}
