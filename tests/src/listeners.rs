//! Which TCP ports a process listens on, as the kernel says.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// `TCP_LISTEN` in the kernel's tables.
const LISTEN: &str = "0A";

/// The addresses that process `id` accepts TCP connections on.
///
/// # Errors
/// A process that is gone, or a system without `/proc`.
pub fn of(id: u32) -> io::Result<Vec<SocketAddr>> {
    let inodes = sockets(id)?;
    let mut addresses = Vec::new();
    for table in ["tcp", "tcp6"] {
        let Ok(text) = fs::read_to_string(format!("/proc/{id}/net/{table}")) else {
            continue;
        };
        addresses.extend(
            text.lines()
                .skip(1)
                .filter_map(|line| listener(line, &inodes)),
        );
    }
    Ok(addresses)
}

fn sockets(id: u32) -> io::Result<HashSet<String>> {
    let mut inodes = HashSet::new();
    for entry in fs::read_dir(format!("/proc/{id}/fd"))? {
        // A descriptor may be closed between the two looks.
        let Ok(target) = fs::read_link(entry?.path()) else {
            continue;
        };
        let target = target.to_string_lossy().into_owned();
        if let Some(inode) = target
            .strip_prefix("socket:[")
            .and_then(|rest| rest.strip_suffix(']'))
        {
            inodes.insert(inode.to_owned());
        }
    }
    Ok(inodes)
}

fn listener(line: &str, inodes: &HashSet<String>) -> Option<SocketAddr> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let (local, state, inode) = (fields.get(1)?, fields.get(3)?, fields.get(9)?);
    if *state != LISTEN || !inodes.contains(*inode) {
        return None;
    }
    let (address, port) = local.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let words: Vec<u32> = (0..address.len() / 8)
        .filter_map(|word| u32::from_str_radix(address.get(word * 8..word * 8 + 8)?, 16).ok())
        .collect();
    // The kernel prints each word in its own byte order.
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
    let ip = match bytes.len() {
        4 => IpAddr::from(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?)),
        16 => IpAddr::from(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?)),
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_a_listener_of_this_process() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let found = of(std::process::id()).unwrap();
        assert!(found.contains(&listener.local_addr().unwrap()), "{found:?}");
    }
}
