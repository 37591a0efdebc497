//! The typed views of what people write, one per kind of resource.

use std::{collections::BTreeSet, str::FromStr};

use culvert_certs::name::{NameError, Region, TenantName, Zone, check_name};

use super::{
    document::ResourceKind,
    fields::Fields,
    pattern::Allow,
    value::{Span, Timestamp, ValueError},
};

/// How long a deleted tenant's documents are kept where its own do not say.
const DEFAULT_RETENTION: Span = Span::days(30);

/// Most DNS names of one plane.
const MAX_DNS_NAMES: usize = 16;

/// The typed view of a kind's `spec`.
pub trait Spec: Sized {
    /// Whose view it is.
    const KIND: ResourceKind;

    /// Reads it. `None` where `fields` has noted why not.
    fn read(fields: &mut Fields<'_>) -> Option<Self>;
}

/// A customer of the SaaS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantSpec {
    /// For people.
    pub display_name: Option<String>,
    /// How long its documents stay after it was deleted (revoked at once). 30 days by default.
    pub retention: Span,
}

impl Spec for TenantSpec {
    const KIND: ResourceKind = ResourceKind::Tenant;

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        Some(Self {
            display_name: fields.text("display_name"),
            retention: fields.text("retention").unwrap_or(DEFAULT_RETENTION),
        })
    }
}

/// A tenant's name for one private network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectorSpec {
    /// For people.
    pub description: Option<String>,
    /// The only names of services that its agents may offer; `None` for all.
    pub services: Option<BTreeSet<String>>,
    /// Whether an agent that joined serves at once.
    pub approve: Approval,
    /// The only zones whose planes may serve it; `None` for all.
    pub zones: Option<BTreeSet<Zone>>,
}

impl Spec for ConnectorSpec {
    const KIND: ResourceKind = ResourceKind::Connector;

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let services: Option<Vec<ServiceName>> = fields.list("services");
        let zones: Option<Vec<Zone>> = fields.list("zones");
        Some(Self {
            description: fields.text("description"),
            services: services.map(|names| names.into_iter().map(|name| name.0).collect()),
            approve: fields.text("approve").unwrap_or(Approval::Auto),
            zones: zones.map(BTreeSet::from_iter),
        })
    }
}

/// The name of a service, while it is read.
struct ServiceName(String);

impl FromStr for ServiceName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        check_name("service", text)?;
        Ok(Self(text.to_owned()))
    }
}

/// What happens to an agent that has just joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Approval {
    /// It serves.
    Auto,
    /// It is held until somebody approves it.
    Manual,
}

impl FromStr for Approval {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        match text {
            "auto" => Ok(Self::Auto),
            "manual" => Ok(Self::Manual),
            _ => Err(ValueError("auto or manual")),
        }
    }
}

/// What an operator says about an agent; the agent itself came by joining.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentSpec {
    /// For people.
    pub description: Option<String>,
    /// It serves. Set at joining from its connector's `approve`; until then its links are held.
    pub approved: bool,
    /// It neither serves nor renews until this is taken away; not final, unlike a revocation.
    pub locked: bool,
}

impl Spec for AgentSpec {
    const KIND: ResourceKind = ResourceKind::Agent;

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        Some(Self {
            description: fields.text("description"),
            approved: fields.flag("approved").unwrap_or(false),
            locked: fields.flag("locked").unwrap_or(false),
        })
    }
}

/// A gateway location. Its name is its zone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlaneSpec {
    /// For people.
    pub description: Option<String>,
    /// The region that it is labelled with.
    pub region: Region,
    /// DNS names in its leaf, for callers of its edge.
    pub dns_names: Vec<String>,
}

impl Spec for PlaneSpec {
    const KIND: ResourceKind = ResourceKind::Plane;

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let dns_names: Vec<String> = fields.list("dns_names").unwrap_or_default();
        if dns_names.len() > MAX_DNS_NAMES {
            fields.invalid("dns_names", format!("must be at most {MAX_DNS_NAMES}"));
        }
        Some(Self {
            description: fields.text("description"),
            region: fields.required_text("region")?,
            dns_names,
        })
    }
}

/// An API key of a tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeySpec {
    /// For people.
    pub description: Option<String>,
    /// What it may call.
    pub allow: Allow,
    /// When it stops working.
    pub expires: Option<Timestamp>,
}

impl Spec for KeySpec {
    const KIND: ResourceKind = ResourceKind::Key;

    /// A key says what it may call, in one of two ways: a key that may call everything must not
    /// come about by leaving something out.
    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let all = fields.flag("all").unwrap_or(false);
        let allow = match (all, fields.list("allow")) {
            (true, None) => Allow::All,
            (false, Some(only)) if !only.is_empty() => Allow::Only(only),
            (true, Some(_)) => {
                fields.invalid("all", "cannot stand beside allow");
                return None;
            }
            (false, None) if fields.has_failed() => return None,
            (false, _) => {
                fields.invalid("allow", "must name a target, or all: true stand instead");
                return None;
            }
        };
        Some(Self {
            description: fields.text("description"),
            allow,
            expires: fields.text("expires"),
        })
    }
}

/// A key for the admin API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdminKeySpec {
    /// For people.
    pub description: Option<String>,
    /// What it may do.
    pub role: Role,
    /// Whose resources it sees and changes; `None` for everybody's and the fleet's.
    pub tenant: Option<TenantName>,
    /// When it stops working.
    pub expires: Option<Timestamp>,
}

impl Spec for AdminKeySpec {
    const KIND: ResourceKind = ResourceKind::AdminKey;

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        Some(Self {
            description: fields.text("description"),
            role: fields.required_text("role")?,
            tenant: fields.text("tenant"),
            expires: fields.text("expires"),
        })
    }
}

/// What the holder of an admin key may do; each may do what those before it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Read.
    Viewer,
    /// Change resources, mint tokens and API keys, revoke.
    Operator,
    /// Manage admin keys, and delete tenants.
    Owner,
}

impl Role {
    /// Its word in documents.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Owner => "owner",
        }
    }
}

impl FromStr for Role {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        [Self::Viewer, Self::Operator, Self::Owner]
            .into_iter()
            .find(|role| role.word() == text)
            .ok_or(ValueError("owner, operator or viewer"))
    }
}
