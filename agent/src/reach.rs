//! Where a backend connection may go: judged on the address that is connected to.
//!
//! A name is resolved here, each address is checked before it is dialled, and the
//! connected peer is checked again: a name that changes between two look-ups changes
//! nothing.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;

/// Which addresses a service may connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reach {
    /// The networks of the service, where it names any: then nothing else is reached.
    pub networks: Option<Vec<IpNet>>,
    /// The url says `localhost` or a loopback literal.
    pub loopback: bool,
}

/// Why an address is not connected to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Forbidden {
    /// Loopback, and the url does not say so.
    #[error("{0} is loopback, which only a url with localhost or a loopback address reaches")]
    Loopback(IpAddr),
    /// Unspecified, multicast, broadcast, link-local or reserved.
    #[error("{0} is a {1} address; `networks` would have to name its own network")]
    Special(IpAddr, &'static str),
    /// Not in the service's `networks`.
    #[error("{0} is not in the service's networks")]
    Outside(IpAddr),
    /// A listener of this agent.
    #[error("{0} is this agent's own listener")]
    OwnListener(SocketAddr),
}

impl Reach {
    /// Whether `addr` may be connected to; `own` are the listeners of this agent.
    ///
    /// # Errors
    /// [`Forbidden`] with the first reason, for the address or what it wraps.
    pub fn check(&self, addr: SocketAddr, own: &[SocketAddr]) -> Result<(), Forbidden> {
        self.check_ip(addr.ip())?;
        let mut inner = addr.ip();
        while let Some(wrapped) = unwrap(inner) {
            self.check_ip(wrapped)?;
            inner = wrapped;
        }
        let hits = |own: &&SocketAddr| {
            own.port() == addr.port()
                && (own.ip() == inner || (own.ip().is_unspecified() && inner.is_loopback()))
        };
        match own.iter().find(hits) {
            Some(own) => Err(Forbidden::OwnListener(*own)),
            None => Ok(()),
        }
    }

    /// As [`Reach::check`], of a connection that exists: `local` is our end of it. A peer
    /// with our own address is this host, whatever the interface.
    ///
    /// # Errors
    /// [`Forbidden`].
    pub fn check_connected(
        &self,
        peer: SocketAddr,
        local: SocketAddr,
        own: &[SocketAddr],
    ) -> Result<(), Forbidden> {
        self.check(peer, own)?;
        let same_host = peer.ip() == local.ip();
        let open_to_all =
            |own: &&SocketAddr| own.ip().is_unspecified() && own.port() == peer.port();
        match own.iter().find(open_to_all) {
            Some(own) if same_host => Err(Forbidden::OwnListener(*own)),
            _ => Ok(()),
        }
    }

    fn check_ip(&self, ip: IpAddr) -> Result<(), Forbidden> {
        if ip.is_loopback() && !self.loopback {
            return Err(Forbidden::Loopback(ip));
        }
        if let Some((block, what)) = special(ip)
            && !self.names(ip, block)
        {
            return Err(Forbidden::Special(ip, what));
        }
        match &self.networks {
            // What wraps an address is judged by what it wraps.
            Some(networks) if unwrap(ip).is_none() && !contains(networks, ip) => {
                Err(Forbidden::Outside(ip))
            }
            _ => Ok(()),
        }
    }

    /// Whether a network of the service lies inside the special block and holds the
    /// address. `0.0.0.0/0` says nothing about a metadata address.
    fn names(&self, ip: IpAddr, block: IpNet) -> bool {
        self.networks.as_ref().is_some_and(|networks| {
            networks
                .iter()
                .any(|network| block.contains(network) && network.contains(&ip))
        })
    }
}

fn contains(networks: &[IpNet], ip: IpAddr) -> bool {
    networks.iter().any(|network| network.contains(&ip))
}

/// The IPv4 address that an IPv6 address leads to: v4-mapped, v4-compatible, 6to4, NAT64
/// (well-known prefix) and Teredo.
fn unwrap(ip: IpAddr) -> Option<IpAddr> {
    let IpAddr::V6(v6) = ip else { return None };
    let s = v6.segments();
    let v4 = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        Some(IpAddr::V4(Ipv4Addr::new(a, b, c, d)))
    };
    match s {
        [0, 0, 0, 0, 0, 0xffff, high, low] => v4(high, low),
        [0, 0, 0, 0, 0, 0, high, low] if high != 0 || low > 1 => v4(high, low),
        [0x2002, high, low, ..] => v4(high, low),
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => v4(high, low),
        [0x2001, 0, .., high, low] => v4(!high, !low),
        _ => None,
    }
}

/// The special block that holds the address, with its name.
fn special(ip: IpAddr) -> Option<(IpNet, &'static str)> {
    SPECIAL
        .iter()
        .map(|(net, bits, what)| (IpNet::new_assert(*net, *bits), *what))
        .find(|(net, _)| net.contains(&ip))
}

const fn v4(a: u8, b: u8, c: u8, d: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(a, b, c, d))
}

const fn v6(s: [u16; 8]) -> IpAddr {
    let [a, b, c, d, e, f, g, h] = s;
    IpAddr::V6(Ipv6Addr::new(a, b, c, d, e, f, g, h))
}

const METADATA: &str = "cloud metadata";

/// Never reached unless `networks` names them. Metadata services outside of link-local:
/// Alibaba, Oracle, Azure's wire server, AWS (Nitro, v6), Google (v6), Oracle (v6), Scaleway
/// (v6). Where in an address of the local-use NAT64 prefix (RFC 8215) the IPv4 address stands
/// is the network's choice, so all of it is special.
const SPECIAL: &[(IpAddr, u8, &str)] = &[
    (v4(0, 0, 0, 0), 8, "unspecified"),
    (v4(169, 254, 0, 0), 16, "link-local"),
    (v4(224, 0, 0, 0), 4, "multicast"),
    (v4(240, 0, 0, 0), 4, "broadcast or reserved"),
    (v4(100, 100, 100, 200), 32, METADATA),
    (v4(192, 0, 0, 192), 32, METADATA),
    (v4(168, 63, 129, 16), 32, METADATA),
    (v6([0; 8]), 128, "unspecified"),
    (v6([0xfe80, 0, 0, 0, 0, 0, 0, 0]), 10, "link-local"),
    (v6([0xff00, 0, 0, 0, 0, 0, 0, 0]), 8, "multicast"),
    (v6([0xfd00, 0xec2, 0, 0, 0, 0, 0, 0]), 32, METADATA),
    (v6([0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254]), 128, METADATA),
    (
        v6([0xfd00, 0xc1, 0, 0, 0, 0, 0xa9fe, 0xa9fe]),
        128,
        METADATA,
    ),
    (v6([0xfd00, 0x42, 0, 0, 0, 0, 0, 0x42]), 128, METADATA),
    (v6([0x64, 0xff9b, 1, 0, 0, 0, 0, 0]), 48, "local-use NAT64"),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ip: &str) -> SocketAddr {
        SocketAddr::new(ip.parse().expect(ip), 80)
    }

    fn check(reach: &Reach, ip: &str) -> Result<(), Forbidden> {
        reach.check(at(ip), &[])
    }

    fn anywhere() -> Reach {
        Reach {
            networks: None,
            loopback: false,
        }
    }

    fn networks(nets: &[&str]) -> Reach {
        Reach {
            networks: Some(nets.iter().map(|n| n.parse().expect(n)).collect()),
            loopback: false,
        }
    }

    #[test]
    fn private_and_public_addresses_are_reached() {
        for ip in [
            "10.1.2.3",
            "192.168.0.9",
            "8.8.8.8",
            "fd12::1",
            "2600::1",
            "64:ff9b::a01:203",
        ] {
            assert_eq!(check(&anywhere(), ip), Ok(()), "{ip}");
        }
    }

    #[test]
    fn special_addresses_are_not_however_they_are_wrapped() {
        for ip in [
            "0.0.0.0",
            "0.1.2.3",
            "127.0.0.1",
            "127.9.9.9",
            "169.254.169.254",
            "169.254.170.2",
            "224.0.0.1",
            "255.255.255.255",
            "100.100.100.200",
            "168.63.129.16",
            "192.0.0.192",
            "::",
            "::1",
            "fe80::1",
            "ff02::1",
            "fd00:ec2::254",
            "fd20:ce::254",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "::169.254.169.254",
            "::127.0.0.1",
            "2002:a9fe:a9fe::1",
            "2002:7f00:1::",
            "64:ff9b::169.254.169.254",
            "64:ff9b:1::169.254.169.254",
            "64:ff9b:1:a9fe:a9:fe00:808:808",
            "fd00:c1::a9fe:a9fe",
            "fd00:42::42",
            "2001:0:4136:e378:8000:63bf:5601:5601",
        ] {
            assert!(check(&anywhere(), ip).is_err(), "{ip}");
            assert!(
                check(&networks(&["0.0.0.0/0", "::/0"]), ip).is_err(),
                "{ip}"
            );
        }
    }

    #[test]
    fn networks_bound_and_can_name_a_special_one() {
        let reach = networks(&["10.0.0.0/8", "169.254.7.0/24"]);
        assert_eq!(check(&reach, "10.9.9.9"), Ok(()));
        assert_eq!(check(&reach, "::ffff:10.9.9.9"), Ok(()));
        assert_eq!(check(&reach, "169.254.7.1"), Ok(()));
        assert!(check(&reach, "169.254.169.254").is_err());
        assert!(check(&reach, "11.0.0.1").is_err());
        assert!(check(&reach, "2600::1").is_err());
    }

    #[test]
    fn loopback_wants_a_url_that_says_so() {
        let reach = Reach {
            networks: None,
            loopback: true,
        };
        assert_eq!(check(&reach, "127.0.0.1"), Ok(()));
        assert_eq!(check(&reach, "::1"), Ok(()));
        assert!(check(&reach, "169.254.169.254").is_err());
    }

    #[test]
    fn own_listeners_are_never_reached() {
        let reach = Reach {
            networks: None,
            loopback: true,
        };
        let own: SocketAddr = "127.0.0.1:9091".parse().expect("an address");
        assert!(reach.check(own, &[own]).is_err());
        assert_eq!(
            reach.check("127.0.0.1:80".parse().expect("an address"), &[own]),
            Ok(())
        );
        let all: SocketAddr = "0.0.0.0:9091".parse().expect("an address");
        assert!(reach.check(own, &[all]).is_err());
        let here: SocketAddr = "10.0.0.5:9091".parse().expect("an address");
        let ours: SocketAddr = "10.0.0.5:40000".parse().expect("an address");
        assert!(reach.check_connected(here, ours, &[all]).is_err());
        let other: SocketAddr = "10.0.0.6:40000".parse().expect("an address");
        assert_eq!(reach.check_connected(here, other, &[all]), Ok(()));
    }
}
