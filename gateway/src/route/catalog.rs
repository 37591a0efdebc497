//! What a tenant's agents offer, in the form in which names are looked up. Immutable once built.

use std::collections::BTreeMap;

use culvert_certs::name::ConnectorName;

use super::allow::{Allow, Kind};

/// The targets of one tenant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Catalog {
    connectors: BTreeMap<ConnectorName, Connector>,
}

/// One connector and what is known to be behind it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Connector {
    /// Whether an agent of it is linked now. If not, `services` is what its agents offered last.
    pub linked: bool,
    /// The offers of its agents, pooled by name.
    pub services: Vec<Service>,
}

/// One service of a connector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// As the agent's file names it.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// The ids of its models; empty for other kinds.
    pub models: Vec<String>,
}

impl Catalog {
    /// Puts a connector into the catalog, replacing what was known of it.
    pub fn insert(&mut self, name: ConnectorName, connector: Connector) {
        self.connectors.insert(name, connector);
    }

    /// Takes over from an earlier catalog what the connectors without a link offered last, so that a
    /// call to them is answered "nothing is connected" and not "no such thing".
    pub fn remember(&mut self, earlier: &Self) {
        for (name, connector) in &mut self.connectors {
            if !connector.linked
                && let Some(known) = earlier.connectors.get(name)
            {
                connector.services.clone_from(&known.services);
            }
        }
    }

    /// A connector by name.
    pub fn connector(&self, name: &str) -> Option<&Connector> {
        self.connectors.get(name)
    }

    /// Every connector, in order of their names.
    pub fn connectors(&self) -> impl Iterator<Item = (&ConnectorName, &Connector)> {
        self.connectors.iter()
    }

    /// Every model that the key may call and a linked agent offers, as (connector, model id): sorted,
    /// each once.
    pub fn models<'a>(&'a self, allow: &'a Allow) -> Vec<(&'a ConnectorName, &'a str)> {
        let mut found: Vec<_> = self
            .connectors
            .iter()
            .filter(|(_, connector)| connector.linked)
            .flat_map(|(name, connector)| connector.models().map(move |model| (name, model)))
            .filter(|(name, model)| allow.permits(Kind::Model, name.as_str(), model))
            .collect();
        found.sort_unstable();
        found.dedup();
        found
    }
}

impl Connector {
    /// The ids of all models, as often as services offer them.
    pub fn models(&self) -> impl Iterator<Item = &str> {
        self.services
            .iter()
            .flat_map(|service| service.models.iter().map(String::as_str))
    }

    /// The names of the model services that offer this id.
    pub fn offering(&self, model: &str) -> Vec<String> {
        let offers = |s: &&Service| s.kind == Kind::Model && s.models.iter().any(|m| m == model);
        self.services
            .iter()
            .filter(offers)
            .map(|s| s.name.clone())
            .collect()
    }

    /// A service by name and kind.
    pub fn service(&self, name: &str, kind: Kind) -> Option<&Service> {
        self.services
            .iter()
            .find(|service| service.name == name && service.kind == kind)
    }
}
