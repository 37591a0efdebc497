//! The deny-list: members whose certificates are still good, but who are not.
//!
//! An entry is needed only as long as a certificate from before it could still be used or
//! renewed; [`DenyList::expire`] drops it after that.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, SystemTime};

use minicbor::bytes::{ByteSlice, ByteVec};
use minicbor::{Decode, Encode};

use crate::authority::LEAF_LIFETIME;
use crate::identity::{AgentId, Identity, ReplicaId};
use crate::name::{ConnectorName, TenantName};
use crate::request::RENEW_AFTER_EXPIRY;
use crate::time::to_secs;
use crate::verifier::PeerLeaf;

/// How long an entry is kept where leaves live as long as by default: a leaf's life, and the time
/// after it in which the leaf may still renew itself (37 days).
pub const KEEP: Duration = LEAF_LIFETIME.saturating_add(RENEW_AFTER_EXPIRY);

/// Who is refused although its certificate is good. Values are seconds since the epoch: when.
#[derive(Debug, Clone, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct DenyList {
    /// The authority's epoch when the list was made.
    #[n(1)]
    pub epoch: u64,
    /// The store's revision when the list was made; only grows within an epoch.
    #[n(2)]
    pub revision: u64,
    #[n(3)]
    #[cbor(default)]
    serials: BTreeMap<ByteVec, u64>,
    #[n(4)]
    #[cbor(default)]
    agents: BTreeMap<AgentId, u64>,
    #[n(5)]
    #[cbor(default)]
    connectors: BTreeMap<TenantName, BTreeMap<ConnectorName, u64>>,
    #[n(6)]
    #[cbor(default)]
    tenants: BTreeMap<TenantName, u64>,
    #[n(7)]
    #[cbor(default)]
    replicas: BTreeMap<ReplicaId, u64>,
}

/// Which entry refuses a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denied {
    /// This one certificate.
    Serial,
    /// The agent.
    Agent,
    /// Its connector.
    Connector,
    /// Its tenant.
    Tenant,
    /// The plane's replica.
    Replica,
}

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Serial => "the certificate is revoked",
            Self::Agent => "the agent is revoked",
            Self::Connector => "the connector is revoked",
            Self::Tenant => "the tenant is revoked",
            Self::Replica => "the replica is revoked",
        })
    }
}

/// The bytes are not a deny-list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the deny-list is malformed")]
pub struct DenyListError;

impl DenyList {
    /// Whether, and by which entry, a proven peer is refused.
    pub fn denies(&self, leaf: &PeerLeaf) -> Option<Denied> {
        let serial: &ByteSlice = leaf.serial[..].into();
        if self.serials.contains_key(serial) {
            return Some(Denied::Serial);
        }
        match &leaf.identity {
            Identity::Agent(agent) => {
                let connectors = self.connectors.get(&agent.tenant);
                if self.agents.contains_key(&agent.agent) {
                    Some(Denied::Agent)
                } else if connectors.is_some_and(|c| c.contains_key(&agent.connector)) {
                    Some(Denied::Connector)
                } else if self.tenants.contains_key(&agent.tenant) {
                    Some(Denied::Tenant)
                } else {
                    None
                }
            }
            Identity::Plane(plane) => self
                .replicas
                .contains_key(&plane.replica)
                .then_some(Denied::Replica),
        }
    }

    /// Refuses one certificate.
    pub fn deny_serial(&mut self, serial: &[u8], now: SystemTime) {
        self.serials.insert(serial.to_vec().into(), to_secs(now));
    }

    /// Refuses an agent.
    pub fn deny_agent(&mut self, agent: AgentId, now: SystemTime) {
        self.agents.insert(agent, to_secs(now));
    }

    /// Refuses all agents of a connector.
    pub fn deny_connector(
        &mut self,
        tenant: TenantName,
        connector: ConnectorName,
        now: SystemTime,
    ) {
        let connectors = self.connectors.entry(tenant).or_default();
        connectors.insert(connector, to_secs(now));
    }

    /// Refuses all agents of a tenant.
    pub fn deny_tenant(&mut self, tenant: TenantName, now: SystemTime) {
        self.tenants.insert(tenant, to_secs(now));
    }

    /// Refuses a replica of a plane.
    pub fn deny_replica(&mut self, replica: ReplicaId, now: SystemTime) {
        self.replicas.insert(replica, to_secs(now));
    }

    /// Adds the entries of another list; where both have one, the later time counts. A restored
    /// authority takes back what snapshots remember this way.
    pub fn merge(&mut self, other: &Self) {
        merge(&mut self.serials, &other.serials);
        merge(&mut self.agents, &other.agents);
        merge(&mut self.tenants, &other.tenants);
        merge(&mut self.replicas, &other.replicas);
        for (tenant, connectors) in &other.connectors {
            merge(
                self.connectors.entry(tenant.clone()).or_default(),
                connectors,
            );
        }
    }

    /// Drops entries older than `keep` (see [`KEEP`]).
    pub fn expire(&mut self, now: SystemTime, keep: Duration) {
        let oldest = to_secs(now).saturating_sub(keep.as_secs());
        self.serials.retain(|_, since| *since >= oldest);
        self.agents.retain(|_, since| *since >= oldest);
        self.tenants.retain(|_, since| *since >= oldest);
        self.replicas.retain(|_, since| *since >= oldest);
        self.connectors.retain(|_, connectors| {
            connectors.retain(|_, since| *since >= oldest);
            !connectors.is_empty()
        });
    }

    /// The list as CBOR; the same list always has the same bytes.
    pub fn encode(&self) -> Result<Vec<u8>, DenyListError> {
        minicbor::to_vec(self).map_err(|_| DenyListError)
    }

    /// Reads what [`Self::encode`] made; unknown fields are skipped.
    pub fn decode(bytes: &[u8]) -> Result<Self, DenyListError> {
        minicbor::decode(bytes).map_err(|_| DenyListError)
    }
}

fn merge<K: Ord + Clone>(into: &mut BTreeMap<K, u64>, from: &BTreeMap<K, u64>) {
    for (key, since) in from {
        let latest = into.entry(key.clone()).or_default();
        *latest = (*latest).max(*since);
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    const NOW: SystemTime = UNIX_EPOCH;

    fn leaf(identity: &str) -> PeerLeaf {
        PeerLeaf {
            identity: identity.parse().unwrap(),
            serial: vec![0x41, 2, 3],
            not_after: NOW,
            key_digest: [0; 32],
        }
    }

    fn agent() -> PeerLeaf {
        leaf("spiffe://t/tenant/acme/connector/prod/agent/aebagbafaydqqcikbmga2dqpca")
    }

    fn plane() -> PeerLeaf {
        leaf("spiffe://t/plane/US/ORF/aebagbafaydqqcikbmga2dqpca")
    }

    fn list(fill: impl FnOnce(&mut DenyList)) -> DenyList {
        let mut list = DenyList::default();
        fill(&mut list);
        list
    }

    #[test]
    fn each_kind_of_entry_refuses() {
        let id = agent().identity.agent().unwrap().agent;
        let replica = plane().identity.plane().unwrap().replica;
        let (acme, prod) = ("acme".parse().unwrap(), "prod".parse().unwrap());
        let cases = [
            (list(|l| l.deny_serial(&[0x41, 2, 3], NOW)), Denied::Serial),
            (list(|l| l.deny_agent(id, NOW)), Denied::Agent),
            (
                list(|l| l.deny_tenant("acme".parse().unwrap(), NOW)),
                Denied::Tenant,
            ),
            (
                list(|l| l.deny_connector(acme, prod, NOW)),
                Denied::Connector,
            ),
        ];
        for (list, why) in cases {
            assert_eq!(list.denies(&agent()), Some(why));
        }
        let list = list(|l| l.deny_replica(replica, NOW));
        assert_eq!(list.denies(&plane()), Some(Denied::Replica));
    }

    #[test]
    fn namesakes_and_others_pass() {
        let acme = || "acme".parse().unwrap();
        let list = list(|l| {
            l.deny_connector("other".parse().unwrap(), "prod".parse().unwrap(), NOW);
            l.deny_connector(acme(), "staging".parse().unwrap(), NOW);
            l.deny_serial(&[0x41, 2], NOW);
            l.deny_agent(AgentId::from_bytes([9; 16]), NOW);
            // The same bytes as the agent's: kinds of id do not mix.
            l.deny_replica(
                ReplicaId::from_bytes(std::array::from_fn(|i| i as u8 + 1)),
                NOW,
            );
        });
        assert_eq!(list.denies(&agent()), None);
    }

    #[test]
    fn lists_survive_their_encoding_merge_and_expire() {
        let at = |secs| UNIX_EPOCH + Duration::from_secs(secs);
        let mut old = list(|l| {
            l.deny_agent(AgentId::from_bytes([1; 16]), at(100));
            l.deny_connector("a".parse().unwrap(), "b".parse().unwrap(), at(100));
        });
        let new = list(|l| l.deny_agent(AgentId::from_bytes([1; 16]), at(200)));
        assert_eq!(DenyList::decode(&old.encode().unwrap()), Ok(old.clone()));
        old.merge(&new);
        old.expire(at(250), Duration::from_secs(100));
        assert_eq!(old, new);
        assert_eq!(KEEP, Duration::from_secs(37 * 24 * 3600));
        assert_eq!(DenyList::decode(b"nonsense"), Err(DenyListError));
    }
}
