//! The raw document: what is stored, and what the admin API shows.

use std::{fmt, str::FromStr};

use culvert_certs::{
    identity::AgentId,
    name::{ConnectorName, TenantName, Zone, check_name},
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{
    fields::{Fields, Finding, Problem},
    specs::{AdminKeySpec, AgentSpec, ConnectorSpec, KeySpec, PlaneSpec, Spec, TenantSpec},
};
use crate::store::{Key, Kind};

/// A resource as it is written, stored and shown.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Document {
    /// What it is.
    pub kind: ResourceKind,
    /// Whose it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<TenantName>,
    /// Its name within kind and tenant.
    pub name: ResourceName,
    /// What people say about it.
    #[serde(default)]
    pub spec: Map<String, Value>,
    /// What control says about it; never taken from a file.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub status: Map<String, Value>,
    /// What another version of this program put beside these.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

impl Document {
    /// A document with an empty `spec`.
    ///
    /// # Errors
    /// Where the kind does not take that name, or wants a tenant and has none, or the reverse.
    pub fn new(
        kind: ResourceKind,
        tenant: Option<TenantName>,
        name: &str,
    ) -> Result<Self, InvalidDocument> {
        Ok(Self {
            name: kind.check(tenant.as_ref(), name)?,
            kind,
            tenant,
            spec: Map::new(),
            status: Map::new(),
            other: Map::new(),
        })
    }

    /// Where it is stored.
    ///
    /// # Errors
    /// Where the kind does not take its name or tenant.
    pub fn key(&self) -> Result<Key, InvalidDocument> {
        self.kind.key(self.tenant.as_ref(), self.name.as_str())
    }

    /// Its typed view, read leniently: what this build does not know is passed over.
    ///
    /// # Errors
    /// Where it is of another kind, or a known field is missing or bad.
    pub fn view<S: Spec>(&self) -> Result<S, InvalidDocument> {
        let (view, mut findings) = self.read::<S>();
        findings.retain(|finding| finding.problem != Problem::Unknown);
        view.filter(|_| findings.is_empty())
            .ok_or(InvalidDocument(findings))
    }

    /// Everything wrong with its `spec`, read strictly. `stored` is what it will replace: a field
    /// that this build does not know may stand where it stands there with the same value, so that
    /// what was shown can be written back.
    #[must_use]
    pub fn strict_findings(&self, stored: Option<&Self>) -> Vec<Finding> {
        let mut findings = self.findings();
        findings.retain(|finding| {
            let known_elsewhere = stored.is_some_and(|stored| {
                let there = at(&stored.spec, &finding.path);
                there.is_some() && there == at(&self.spec, &finding.path)
            });
            finding.problem != Problem::Unknown || !known_elsewhere
        });
        findings
    }

    /// Takes over from `stored` what a replacement of its `spec` does not speak of: status, and
    /// the fields that this build does not know.
    pub fn inherit(&mut self, stored: &Self) {
        for finding in stored.findings() {
            let name = finding.path.strip_prefix("spec.");
            let name = name.filter(|_| finding.problem == Problem::Unknown);
            if let Some((name, value)) = name.and_then(|name| stored.spec.get_key_value(name)) {
                self.spec.entry(name).or_insert_with(|| value.clone());
            }
        }
        self.status.clone_from(&stored.status);
        self.other.clone_from(&stored.other);
    }

    /// A text of its status.
    #[must_use]
    pub fn status_text(&self, name: &str) -> Option<&str> {
        self.status.get(name).and_then(Value::as_str)
    }

    /// Sets a text of its status.
    pub fn set_status(&mut self, name: &str, value: impl fmt::Display) {
        self.status
            .insert(name.to_owned(), value.to_string().into());
    }

    fn findings(&self) -> Vec<Finding> {
        match self.kind {
            ResourceKind::Tenant => self.read::<TenantSpec>().1,
            ResourceKind::Connector => self.read::<ConnectorSpec>().1,
            ResourceKind::Agent => self.read::<AgentSpec>().1,
            ResourceKind::Plane => self.read::<PlaneSpec>().1,
            ResourceKind::Key => self.read::<KeySpec>().1,
            ResourceKind::AdminKey => self.read::<AdminKeySpec>().1,
        }
    }

    fn read<S: Spec>(&self) -> (Option<S>, Vec<Finding>) {
        if self.kind != S::KIND {
            let why = format!("must be {}", S::KIND);
            return (
                None,
                vec![Finding {
                    path: "kind".into(),
                    problem: Problem::Invalid(why),
                }],
            );
        }
        let mut fields = Fields::new(&self.spec, "spec");
        let view = S::read(&mut fields);
        (view, fields.finish())
    }
}

/// The field of a `spec` that a finding is about, if it is at its top level.
fn at<'d>(spec: &'d Map<String, Value>, path: &str) -> Option<&'d Value> {
    spec.get(path.strip_prefix("spec.")?)
}

/// A document that cannot stand, and every reason.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the document is invalid: {}", list(.0))]
pub struct InvalidDocument(pub Vec<Finding>);

impl InvalidDocument {
    /// One thing wrong at one place.
    #[must_use]
    pub fn at(path: &str, problem: Problem) -> Self {
        Self(vec![Finding {
            path: path.to_owned(),
            problem,
        }])
    }
}

fn list(findings: &[Finding]) -> String {
    let texts: Vec<_> = findings.iter().map(ToString::to_string).collect();
    texts.join("; ")
}

/// The kinds of resources that people see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ResourceKind {
    /// A customer of the SaaS.
    Tenant,
    /// A tenant's name for one private network.
    Connector,
    /// A process that joined and serves a connector.
    Agent,
    /// A gateway location.
    Plane,
    /// An API key of a tenant.
    Key,
    /// A key for the admin API.
    AdminKey,
}

impl ResourceKind {
    /// All of them, in the order in which a file's documents can be applied.
    pub const ALL: [Self; 6] = [
        Self::Plane,
        Self::Tenant,
        Self::Connector,
        Self::Agent,
        Self::Key,
        Self::AdminKey,
    ];

    /// Its word in documents.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Tenant => "Tenant",
            Self::Connector => "Connector",
            Self::Agent => "Agent",
            Self::Plane => "Plane",
            Self::Key => "Key",
            Self::AdminKey => "AdminKey",
        }
    }

    /// Its word in the paths of the admin API.
    #[must_use]
    pub const fn plural(self) -> &'static str {
        match self {
            Self::Tenant => "tenants",
            Self::Connector => "connectors",
            Self::Agent => "agents",
            Self::Plane => "planes",
            Self::Key => "keys",
            Self::AdminKey => "admin-keys",
        }
    }

    /// The kind that a path or a person means: `connectors`, `connector`, `Connector`.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|kind| [kind.word(), kind.plural(), kind.store().word()].contains(&word))
    }

    /// Where it is stored.
    #[must_use]
    pub const fn store(self) -> Kind {
        match self {
            Self::Tenant => Kind::Tenant,
            Self::Connector => Kind::Connector,
            Self::Agent => Kind::Agent,
            Self::Plane => Kind::Plane,
            Self::Key => Kind::Key,
            Self::AdminKey => Kind::AdminKey,
        }
    }

    /// Whether each belongs to a tenant.
    #[must_use]
    pub const fn has_tenant(self) -> bool {
        matches!(self, Self::Connector | Self::Agent | Self::Key)
    }

    /// The stored name of one.
    ///
    /// # Errors
    /// Where the kind does not take that name or tenant.
    pub fn key(self, tenant: Option<&TenantName>, name: &str) -> Result<Key, InvalidDocument> {
        self.check(tenant, name)?;
        let key = match tenant {
            Some(tenant) => Key::of_tenant(self.store(), tenant.as_str(), name),
            None => Key::global(self.store(), name),
        };
        key.map_err(|invalid| invalid_name(&invalid))
    }

    fn check(
        self,
        tenant: Option<&TenantName>,
        name: &str,
    ) -> Result<ResourceName, InvalidDocument> {
        match (self.has_tenant(), tenant) {
            (true, None) => return Err(InvalidDocument::at("tenant", Problem::Missing)),
            (false, Some(_)) => return Err(InvalidDocument::at("tenant", Problem::Unknown)),
            (true, Some(_)) | (false, None) => {}
        }
        match self {
            Self::Tenant => parses::<TenantName>(name),
            Self::Connector => parses::<ConnectorName>(name),
            Self::Agent => parses::<AgentId>(name),
            Self::Plane => parses::<Zone>(name),
            Self::Key | Self::AdminKey => check_name("key", name).map_err(|e| invalid_name(&e)),
        }?;
        Ok(ResourceName(name.into()))
    }
}

fn parses<T: FromStr<Err: fmt::Display>>(name: &str) -> Result<(), InvalidDocument> {
    match name.parse::<T>() {
        Ok(_) => Ok(()),
        Err(error) => Err(invalid_name(&error)),
    }
}

fn invalid_name(error: &dyn fmt::Display) -> InvalidDocument {
    InvalidDocument::at("name", Problem::Invalid(error.to_string()))
}

impl fmt::Display for ResourceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// A resource's name. Its kind says what form it has.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ResourceName(Box<str>);

impl ResourceName {
    /// Its text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ResourceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::resource::{Allow, Approval};

    fn document(value: Value) -> Document {
        serde_json::from_value(value).unwrap()
    }

    fn connector(spec: Value) -> Document {
        document(json!({"kind": "Connector", "tenant": "acme", "name": "dev", "spec": spec}))
    }

    #[test]
    fn unknown_fields_survive_a_rewrite_and_a_replacement() {
        let mut stored = connector(json!({"services": ["a"], "later": {"deep": 1}}));
        stored.other.insert("annotations".into(), json!({"x": "y"}));
        let back = document(serde_json::to_value(&stored).unwrap());
        assert_eq!(back, stored);

        let mut new = connector(json!({"services": ["b"]}));
        new.inherit(&stored);
        assert_eq!(new.spec["later"], json!({"deep": 1}));
        assert_eq!(new.spec["services"], json!(["b"]));
        assert_eq!(new.other, stored.other);
    }

    #[test]
    fn strict_reading_refuses_what_lenient_reading_passes_over() {
        let stored = connector(json!({"later": 1}));
        assert!(stored.view::<ConnectorSpec>().is_ok());
        let found = stored.strict_findings(None);
        assert_eq!(found[0].path, "spec.later");
        assert_eq!(found[0].problem, Problem::Unknown);
        assert_eq!(stored.strict_findings(Some(&stored)), []);
        let other_value = connector(json!({"later": 2}));
        assert_eq!(other_value.strict_findings(Some(&stored)).len(), 1);
    }

    #[test]
    fn a_bad_value_is_refused_by_both() {
        let bad = connector(json!({"services": "llama", "approve": "perhaps"}));
        let refused = bad.view::<ConnectorSpec>().unwrap_err();
        let places: Vec<_> = refused.0.iter().map(|f| f.path.as_str()).collect();
        assert_eq!(places, ["spec.services", "spec.approve"]);
        assert_eq!(bad.strict_findings(Some(&bad)).len(), 2);
    }

    #[test]
    fn defaults_are_what_the_documents_say() {
        let view: ConnectorSpec = connector(json!({})).view().unwrap();
        assert_eq!(view.approve, Approval::Auto);
        assert_eq!(view.services, None);
        assert_eq!(view.zones, None);
    }

    #[test]
    fn a_key_that_may_call_everything_says_so() {
        let key = |spec: Value| {
            document(json!({"kind": "Key", "tenant": "acme", "name": "ci", "spec": spec}))
                .view::<KeySpec>()
        };
        assert!(key(json!({})).is_err());
        assert!(key(json!({"allow": []})).is_err());
        assert!(key(json!({"allow": ["dev/*"], "all": true})).is_err());
        assert!(key(json!({"allow": ["dev"]})).is_err());
        assert_eq!(key(json!({"all": true})).unwrap().allow, Allow::All);
        assert!(matches!(
            key(json!({"allow": ["dev/*"]})).unwrap().allow,
            Allow::Only(_)
        ));
    }

    #[test]
    fn names_and_tenants_are_those_of_the_kind() {
        let acme: TenantName = "acme".parse().unwrap();
        let key = |kind: ResourceKind, tenant: Option<&TenantName>, name: &str| {
            kind.key(tenant, name).map(|key| key.to_string()).ok()
        };
        let dev = key(ResourceKind::Connector, Some(&acme), "dev");
        assert_eq!(dev.as_deref(), Some("connector.acme.dev"));
        assert_eq!(
            key(ResourceKind::Plane, None, "ORF").as_deref(),
            Some("plane._.ORF")
        );
        assert_eq!(key(ResourceKind::Connector, None, "dev"), None);
        assert_eq!(key(ResourceKind::Tenant, Some(&acme), "acme"), None);
        assert_eq!(key(ResourceKind::Plane, None, "orf"), None);
        assert_eq!(key(ResourceKind::Agent, Some(&acme), "not-an-id"), None);
        assert_eq!(key(ResourceKind::Key, Some(&acme), "a.b"), None);
    }
}
