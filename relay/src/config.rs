//! What the embedder decides once, and what it keeps up to date.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use culvert_certs::Credentials;
use culvert_tunnel::{HandshakeRate, ResetKeys};
use tokio::sync::watch;

use crate::limits::{
    DRAIN_SMEAR, DRAIN_TIMEOUT, MAX_GREETING_PER_TENANT, PARKED_LINK_BYTES, PARKED_TENANT_BYTES,
    PARKED_TOTAL_BYTES,
};
use crate::policy::Admission;
use crate::tcp::Edge;

/// What the embedder decides once.
#[derive(Debug, Clone)]
pub struct RelayConfig {
    /// Where links (UDP) and joins (TCP) are taken; port 0 is any that is free for both.
    pub link_listen: SocketAddr,
    /// How long a drain lets started calls finish.
    pub drain_timeout: Duration,
    /// The time over which agents spread their replacement dials when this replica leaves.
    pub drain_smear: Duration,
    /// What answers may hold whose callers do not read.
    pub parked: ParkedLimits,
    /// What those may occupy who are not linked yet.
    pub doors: DoorLimits,
}

/// What those may occupy who are not linked yet.
#[derive(Debug, Clone, Copy)]
pub struct DoorLimits {
    /// Handshakes that may begin a second, over UDP and TCP together; neither takes more than two
    /// thirds of it, so that a storm of links leaves the public its part, and the other way round.
    pub handshakes_per_second: u32,
    /// Connections of one tenant that are proven and not registered.
    pub greeting: usize,
}

impl DoorLimits {
    /// What may begin a second on UDP, or on TCP.
    pub(crate) fn handshakes_of_one_door(&self) -> u32 {
        self.handshakes_per_second.saturating_mul(2) / 3
    }
}

impl Default for DoorLimits {
    /// For this machine: each of its cores can do so many handshakes beside its calls.
    fn default() -> Self {
        Self {
            handshakes_per_second: HandshakeRate::per_second_here(),
            greeting: MAX_GREETING_PER_TENANT,
        }
    }
}

/// What answers may hold whose callers do not read, in bytes; above, the longest parked are cut.
#[derive(Debug, Clone, Copy)]
pub struct ParkedLimits {
    /// Of one link.
    pub link: u64,
    /// Of one tenant.
    pub tenant: u64,
    /// Of the replica.
    pub total: u64,
}

impl Default for ParkedLimits {
    fn default() -> Self {
        Self {
            link: PARKED_LINK_BYTES,
            tenant: PARKED_TENANT_BYTES,
            total: PARKED_TOTAL_BYTES,
        }
    }
}

impl RelayConfig {
    /// The usual configuration for links at `link_listen`.
    #[must_use]
    pub fn new(link_listen: SocketAddr) -> Self {
        Self {
            link_listen,
            drain_timeout: DRAIN_TIMEOUT,
            drain_smear: DRAIN_SMEAR,
            parked: ParkedLimits::default(),
            doors: DoorLimits::default(),
        }
    }
}

/// What the embedder keeps up to date, and the keys of the plane.
#[derive(Debug)]
pub struct RelayInputs {
    /// The replica's own identity; renewed ones take effect for new handshakes.
    pub credentials: watch::Receiver<Arc<Credentials>>,
    /// Who may link. Each change is applied to the links that stand, too.
    pub admission: watch::Receiver<Arc<Admission>>,
    /// When the store was last heard: apart, because that it still speaks changes nothing for the
    /// links that stand.
    pub heard_at: watch::Receiver<SystemTime>,
    /// The keys that all replicas of a plane share.
    pub reset_keys: ResetKeys,
    /// Who takes the TLS connections of the public, should this port serve them too.
    pub edge: Option<Edge>,
}
