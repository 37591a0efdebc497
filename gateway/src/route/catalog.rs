//! What a tenant's agents offer, in the form in which names are looked up. Immutable once built.

use std::collections::BTreeMap;

use culvert_certs::name::ConnectorName;
use culvert_control::resource::Allow;
use culvert_wire::{ServiceKind, ServiceName};

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
    pub name: ServiceName,
    /// What it is.
    pub kind: ServiceKind,
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
    pub fn connector(&self, name: &str) -> Option<(&ConnectorName, &Connector)> {
        self.connectors.get_key_value(name)
    }

    /// Every connector, in order of their names.
    pub fn connectors(&self) -> impl Iterator<Item = (&ConnectorName, &Connector)> {
        self.connectors.iter()
    }

    /// Every model that the key may call and a linked agent offers, as (connector, model id): sorted,
    /// each once.
    pub fn models(&self, allow: &Allow) -> Vec<(&ConnectorName, &str)> {
        let mut found = Vec::new();
        for (name, connector) in self.connectors.iter().filter(|(_, c)| c.linked) {
            for service in &connector.services {
                let may = |id: &&str| allow.permits(name, service.name.as_str(), Some(id));
                let models = service.models.iter().map(String::as_str).filter(may);
                found.extend(models.map(|id| (name, id)));
            }
        }
        found.sort_unstable();
        found.dedup();
        found
    }
}

impl Connector {
    /// The model services that offer this id and that the key may call for it.
    pub fn offering(&self, own: &ConnectorName, id: &str, allow: &Allow) -> Vec<ServiceName> {
        let offers = |s: &&Service| {
            s.kind == ServiceKind::Model
                && s.models.iter().any(|m| m == id)
                && allow.permits(own, s.name.as_str(), Some(id))
        };
        self.services
            .iter()
            .filter(offers)
            .map(|s| s.name.clone())
            .collect()
    }

    /// A service by name and kind.
    pub fn service(&self, name: &ServiceName, kind: ServiceKind) -> Option<&Service> {
        self.services
            .iter()
            .find(|service| service.name == *name && service.kind == kind)
    }
}
