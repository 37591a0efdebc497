//! Who may have a link: decided from the proven leaf and the latest configuration, purely.
//!
//! Nothing here is read from a frame: tenant, connector and agent come out of the leaf that the
//! handshake proved, and whether they may serve comes out of the snapshot that the embedder
//! publishes.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use culvert_certs::{
    AgentId, AgentIdentity, ConnectorName, DenyList, Identity, PeerLeaf, TenantName, Zone,
};
use culvert_wire::{Code, ServiceName, ServiceOffer};

use crate::limits::MAX_STALENESS;

/// What the embedder knows about who may link; published whole, never changed in place.
#[derive(Debug, Clone)]
pub struct Admission {
    /// The connectors that exist, with their rules.
    pub connectors: HashMap<(TenantName, ConnectorName), ConnectorPolicy>,
    /// Who must not link although its certificate is good.
    pub deny: DenyList,
    /// Control's signed statements on who was revoked, for those who try: without its statement an
    /// agent does not believe that it was.
    pub statements: HashMap<Subject, Bytes>,
    /// What happens when two live instances use one identity.
    pub clones: ClonePolicy,
}

/// Whom a statement of control is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Subject {
    /// All agents of a tenant.
    Tenant(TenantName),
    /// All agents of a connector.
    Connector(TenantName, ConnectorName),
    /// One agent.
    Agent(AgentId),
}

/// The rules of one connector.
#[derive(Debug, Clone, Default)]
pub struct ConnectorPolicy {
    /// The only service names that may be offered; all if there is no such list.
    pub services: Option<BTreeSet<ServiceName>>,
    /// Whether a new agent serves at once.
    pub approve: Approve,
    /// The only zones whose planes may serve the connector; all if there is no such list.
    pub zones: Option<BTreeSet<Zone>>,
}

/// Whether a new agent serves at once.
#[derive(Debug, Clone, Default)]
pub enum Approve {
    /// It does.
    #[default]
    Auto,
    /// It is held until its id is in this set.
    Manual(BTreeSet<AgentId>),
}

/// What happens when two live instances use one identity.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ClonePolicy {
    /// Both serve, and the log says so.
    #[default]
    Alarm,
    /// The newcomer is rejected.
    Refuse,
}

/// A link that may be.
#[derive(Debug, Clone)]
pub(crate) struct Admitted {
    pub(crate) identity: AgentIdentity,
    /// Not selectable until approved.
    pub(crate) held: bool,
}

/// Why a link may not be: the code for the wire, and the reason for the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    /// The peer proved to be a plane, and links between planes are not served here.
    #[error("the peer is not an agent")]
    NotAnAgent,
    /// The leaf is past its lifetime.
    #[error("the certificate has expired")]
    Expired,
    /// Agent, connector or tenant are on the deny-list.
    #[error("the identity was revoked")]
    Revoked,
    /// No such connector is configured.
    #[error("the connector is not known")]
    UnknownConnector,
    /// The connector forbids this plane.
    #[error("the connector does not allow this zone")]
    ZoneNotAllowed,
    /// The store has been silent for too long to know who was revoked.
    #[error("this replica has not heard the store for too long")]
    Stale,
    /// The tenant opens links faster than it may.
    #[error("the tenant opens too many links a second")]
    TooFast,
    /// The tenant has as many connections as it may that have not greeted.
    #[error("too many connections of the tenant have not greeted yet")]
    TooManySilent,
    /// A cap of the directory.
    #[error(transparent)]
    Full(#[from] crate::book::CapReached),
    /// The replica is leaving.
    #[error("this replica is leaving")]
    Leaving,
    /// This instance has a link here that answers.
    #[error("the instance has a link to this replica already")]
    Duplicate,
    /// Another instance with the same key answers, and policy refuses a second one.
    #[error("another live instance uses this identity")]
    Clone,
    /// `attach` names no session of this instance and key.
    #[error("there is no such session of this instance to attach to")]
    NoSession,
}

impl Rejected {
    /// What the agent is told.
    #[must_use]
    pub fn code(self) -> Code {
        match self {
            Self::NotAnAgent | Self::UnknownConnector | Self::ZoneNotAllowed | Self::NoSession => {
                Code::NotAllowed
            }
            Self::Expired => Code::Expired,
            Self::Revoked => Code::Revoked,
            Self::Stale => Code::Stale,
            Self::TooFast | Self::TooManySilent | Self::Full(_) | Self::Leaving => Code::Busy,
            Self::Duplicate => Code::Duplicate,
            Self::Clone => Code::Clone,
        }
    }
}

/// Decides whether the owner of `leaf` may have a link at this moment; the store was last heard at
/// `heard_at`.
pub(crate) fn admit(
    leaf: &PeerLeaf,
    admission: &Admission,
    heard_at: SystemTime,
    zone: &Zone,
    now: SystemTime,
) -> Result<Admitted, Rejected> {
    let admitted = keep(leaf, admission, zone, now)?;
    // Only newcomers are refused for a silent store: what is linked goes on serving.
    if age(heard_at, now) > MAX_STALENESS {
        return Err(Rejected::Stale);
    }
    Ok(admitted)
}

/// Decides whether a link that was admitted may stay.
pub(crate) fn keep(
    leaf: &PeerLeaf,
    admission: &Admission,
    zone: &Zone,
    now: SystemTime,
) -> Result<Admitted, Rejected> {
    let Identity::Agent(identity) = &leaf.identity else {
        return Err(Rejected::NotAnAgent);
    };
    if admission.deny.denies(leaf).is_some() {
        return Err(Rejected::Revoked);
    }
    if leaf.not_after <= now {
        return Err(Rejected::Expired);
    }
    let key = (identity.tenant.clone(), identity.connector.clone());
    let policy = admission
        .connectors
        .get(&key)
        .ok_or(Rejected::UnknownConnector)?;
    if policy
        .zones
        .as_ref()
        .is_some_and(|zones| !zones.contains(zone))
    {
        return Err(Rejected::ZoneNotAllowed);
    }
    let held = match &policy.approve {
        Approve::Auto => false,
        Approve::Manual(approved) => !approved.contains(&identity.agent),
    };
    Ok(Admitted {
        identity: identity.clone(),
        held,
    })
}

/// Control's statement that the owner of `leaf` was revoked, should there be one.
pub(crate) fn statement(leaf: &PeerLeaf, admission: &Admission) -> Option<Bytes> {
    let Identity::Agent(AgentIdentity {
        tenant,
        connector,
        agent,
        ..
    }) = &leaf.identity
    else {
        return None;
    };
    let subjects = [
        Subject::Agent(*agent),
        Subject::Connector(tenant.clone(), connector.clone()),
        Subject::Tenant(tenant.clone()),
    ];
    subjects
        .iter()
        .find_map(|subject| admission.statements.get(subject))
        .cloned()
}

/// The only services that a connector may serve; all if there is no such set.
pub(crate) type ServiceBound = Option<BTreeSet<ServiceName>>;

/// What bounds the offers of this agent.
pub(crate) fn service_bound(admission: &Admission, identity: &AgentIdentity) -> ServiceBound {
    let key = (identity.tenant.clone(), identity.connector.clone());
    let policy = admission.connectors.get(&key)?;
    policy.services.clone()
}

/// The part of an offer that is within the bound.
pub(crate) fn allowed_offer<'a>(
    offer: &'a [ServiceOffer],
    bound: &'a ServiceBound,
) -> impl Iterator<Item = &'a ServiceOffer> {
    let allowed = |service: &&ServiceOffer| {
        bound
            .as_ref()
            .is_none_or(|names| names.contains(&service.name))
    };
    offer.iter().filter(allowed)
}

/// A clock that was set back makes news look fresh, never stale.
fn age(heard_at: SystemTime, now: SystemTime) -> Duration {
    now.duration_since(heard_at).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use culvert_certs::{PlaneIdentity, ReplicaId};
    use culvert_wire::ServiceKind;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3_600);

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + 500_000 * HOUR
    }

    fn zone() -> Zone {
        "ORF".parse().unwrap()
    }

    fn identity() -> AgentIdentity {
        AgentIdentity {
            trust_domain: "culvert.test".parse().unwrap(),
            tenant: "acme".parse().unwrap(),
            connector: "vpc".parse().unwrap(),
            agent: AgentId::from_bytes([1; 16]),
        }
    }

    fn leaf(identity: Identity) -> PeerLeaf {
        PeerLeaf {
            identity,
            serial: vec![1],
            not_after: now() + HOUR,
            key_digest: [0; 32],
        }
    }

    fn agent() -> PeerLeaf {
        leaf(Identity::Agent(identity()))
    }

    fn admission(policy: ConnectorPolicy) -> Admission {
        let AgentIdentity {
            tenant, connector, ..
        } = identity();
        Admission {
            connectors: HashMap::from([((tenant, connector), policy)]),
            deny: DenyList::default(),
            statements: HashMap::new(),
            clones: ClonePolicy::Alarm,
        }
    }

    fn decide(leaf: &PeerLeaf, admission: &Admission) -> Result<bool, Rejected> {
        decide_at(leaf, admission, now())
    }

    fn decide_at(
        leaf: &PeerLeaf,
        admission: &Admission,
        heard_at: SystemTime,
    ) -> Result<bool, Rejected> {
        admit(leaf, admission, heard_at, &zone(), now()).map(|admitted| admitted.held)
    }

    #[test]
    fn a_known_agent_is_admitted_and_a_plane_is_not() {
        assert_eq!(
            decide(&agent(), &admission(ConnectorPolicy::default())),
            Ok(false)
        );
        let plane = leaf(Identity::Plane(PlaneIdentity {
            trust_domain: "culvert.test".parse().unwrap(),
            region: "US".parse().unwrap(),
            zone: "ORF".parse().unwrap(),
            replica: ReplicaId::from_bytes([2; 16]),
        }));
        assert_eq!(
            decide(&plane, &admission(ConnectorPolicy::default())),
            Err(Rejected::NotAnAgent)
        );
    }

    #[test]
    fn who_was_revoked_expired_or_deleted_is_not_admitted_and_does_not_stay() {
        let mut denied = admission(ConnectorPolicy::default());
        denied.deny.deny_agent(identity().agent, now());
        let mut deleted = admission(ConnectorPolicy::default());
        deleted.connectors.clear();
        let expired = PeerLeaf {
            not_after: now(),
            ..agent()
        };
        let fine = admission(ConnectorPolicy::default());
        for (leaf, admission, expected) in [
            (agent(), &denied, Rejected::Revoked),
            (agent(), &deleted, Rejected::UnknownConnector),
            (expired, &fine, Rejected::Expired),
        ] {
            assert_eq!(decide(&leaf, admission), Err(expected));
            let kept = keep(&leaf, admission, &zone(), now());
            assert_eq!(kept.map(|_| ()), Err(expected));
        }
    }

    #[test]
    fn a_silent_store_stops_newcomers_only() {
        let fine = admission(ConnectorPolicy::default());
        let heard = |at| decide_at(&agent(), &fine, at);
        assert_eq!(heard(now() - MAX_STALENESS), Ok(false));
        let too_long = now() - MAX_STALENESS - Duration::from_secs(1);
        assert_eq!(heard(too_long), Err(Rejected::Stale));
        assert!(keep(&agent(), &fine, &zone(), now()).is_ok());
        assert_eq!(heard(now() + HOUR), Ok(false));
    }

    #[test]
    fn zones_and_approval_follow_the_connectors_policy() {
        let elsewhere = Some(["LHR".parse().unwrap()].into());
        let policy = ConnectorPolicy {
            zones: elsewhere,
            ..ConnectorPolicy::default()
        };
        assert_eq!(
            decide(&agent(), &admission(policy)),
            Err(Rejected::ZoneNotAllowed)
        );
        let manual = |agents: &[AgentId]| {
            let approve = Approve::Manual(agents.iter().copied().collect());
            admission(ConnectorPolicy {
                approve,
                ..ConnectorPolicy::default()
            })
        };
        assert_eq!(decide(&agent(), &manual(&[])), Ok(true));
        assert_eq!(decide(&agent(), &manual(&[identity().agent])), Ok(false));
    }

    #[test]
    fn an_offer_is_cut_down_to_the_names_that_the_connector_may_have() {
        let offer: Vec<ServiceOffer> = ["llama", "files"]
            .map(|name| ServiceOffer {
                name: name.parse().unwrap(),
                kind: ServiceKind::Http,
                models: Vec::new(),
                digest: [0; 32],
            })
            .into();
        let allowed = |policy| {
            let bound = service_bound(&admission(policy), &identity());
            allowed_offer(&offer, &bound).cloned().collect::<Vec<_>>()
        };
        assert_eq!(allowed(ConnectorPolicy::default()), offer);
        let services = Some(["files".parse().unwrap()].into());
        let some = ConnectorPolicy {
            services,
            ..ConnectorPolicy::default()
        };
        assert_eq!(allowed(some), offer[1..]);
    }

    #[test]
    fn the_narrowest_statement_about_an_agent_is_the_one_it_gets() {
        let mut admission = admission(ConnectorPolicy::default());
        assert_eq!(statement(&agent(), &admission), None);
        let AgentIdentity {
            tenant,
            connector,
            agent: id,
            ..
        } = identity();
        for (subject, signed) in [
            (Subject::Tenant(tenant.clone()), "tenant"),
            (Subject::Connector(tenant, connector), "connector"),
            (Subject::Agent(id), "agent"),
        ] {
            admission.statements.insert(subject, Bytes::from(signed));
            assert_eq!(statement(&agent(), &admission).unwrap(), signed);
        }
    }
}
