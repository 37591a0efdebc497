//! The catalogs of all tenants, each rebuilt when its directory or the configuration has changed.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
};

use culvert_certs::{ConnectorName, TenantName};
use culvert_control::{ConfigSnapshot, store::Revision};
use culvert_relay::TenantView;
use tokio::sync::watch;

use crate::route::catalog::{Catalog, Connector, Service};

/// Catalogs by tenant.
#[derive(Debug, Default)]
pub struct Names {
    tenants: RwLock<HashMap<TenantName, Known>>,
}

/// What a catalog was built from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Source {
    /// Revision of the configuration.
    configuration: Revision,
    /// Revision of the tenant's part of the directory.
    directory: u64,
}

#[derive(Debug)]
struct Known {
    source: Source,
    catalog: Arc<Catalog>,
}

impl Names {
    /// What a tenant has by this configuration and this part of the directory.
    pub fn current<H>(
        &self,
        tenant: &TenantName,
        snapshot: &ConfigSnapshot,
        view: &TenantView<H>,
    ) -> Arc<Catalog> {
        let source = Source {
            configuration: snapshot.revision,
            directory: view.revision,
        };
        self.catalog(tenant, source, || {
            let all = snapshot.connectors.keys();
            let own = all.filter(|(of, _)| of == tenant);
            build(own.map(|(_, connector)| connector), view)
        })
    }

    /// The catalog of a tenant. `build` is asked where what is known is of another source.
    fn catalog(
        &self,
        tenant: &TenantName,
        source: Source,
        build: impl FnOnce() -> Catalog,
    ) -> Arc<Catalog> {
        let read = self.tenants.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = read.get(tenant)
            && known.source == source
        {
            return Arc::clone(&known.catalog);
        }
        drop(read);
        let mut catalog = build();
        let mut tenants = self.tenants.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = tenants.get(tenant) {
            catalog.remember(&known.catalog);
        }
        let catalog = Arc::new(catalog);
        tenants.insert(
            tenant.clone(),
            Known {
                source,
                catalog: Arc::clone(&catalog),
            },
        );
        catalog
    }

    /// Forgets the tenants that are not configured any more, as long as there is a configuration.
    pub async fn follow(self: Arc<Self>, mut config: watch::Receiver<Arc<ConfigSnapshot>>) {
        while config.changed().await.is_ok() {
            let snapshot = Arc::clone(&config.borrow_and_update());
            self.keep(|tenant| snapshot.tenants.contains(tenant));
        }
    }

    fn keep(&self, configured: impl Fn(&TenantName) -> bool) {
        let mut tenants = self.tenants.write().unwrap_or_else(PoisonError::into_inner);
        tenants.retain(|tenant, _| configured(tenant));
    }
}

/// Puts what is configured and what is linked together. A connector that is not configured is not
/// there, whatever links it may still have.
fn build<'a, H>(
    configured: impl Iterator<Item = &'a ConnectorName>,
    view: &TenantView<H>,
) -> Catalog {
    let mut catalog = Catalog::default();
    for name in configured {
        let connector = view
            .connectors
            .get(name)
            .map_or_else(Connector::default, |linked| {
                let services = linked.services.iter().filter_map(|(name, service)| {
                    let models = service.models.iter().cloned().collect();
                    Some(Service {
                        name: name.parse().ok()?,
                        kind: service.kind,
                        models,
                    })
                });
                Connector {
                    linked: !linked.links.is_empty(),
                    services: services.collect(),
                }
            });
        catalog.insert(name.clone(), connector);
    }
    catalog
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use culvert_certs::Authority;
    use culvert_wire::ServiceKind;

    use super::*;

    fn one(linked: bool, models: &[&str]) -> Catalog {
        let mut catalog = Catalog::default();
        let services = vec![Service {
            name: "s".parse().unwrap(),
            kind: ServiceKind::Model,
            models: models.iter().map(|m| (*m).to_owned()).collect(),
        }];
        let services = if linked { services } else { vec![] };
        catalog.insert("dev".parse().unwrap(), Connector { linked, services });
        catalog
    }

    #[test]
    fn a_catalog_is_built_once_per_source_and_remembers() {
        let names = Names::default();
        let tenant: TenantName = "acme".parse().unwrap();
        let source = |directory| Source {
            configuration: Revision::new(1),
            directory,
        };
        let first = names.catalog(&tenant, source(1), || one(true, &["m"]));
        let again = names.catalog(&tenant, source(1), || unreachable!());
        assert!(Arc::ptr_eq(&first, &again));
        let gone = names.catalog(&tenant, source(2), || one(false, &[]));
        let (_, entry) = gone.connector("dev").unwrap();
        assert!(!entry.linked && entry.services[0].models == ["m"]);
    }

    fn configured(tenants: &[&str]) -> Arc<ConfigSnapshot> {
        let now = SystemTime::now();
        let authority = Authority::create("culvert.test".parse().unwrap(), now).unwrap();
        Arc::new(ConfigSnapshot {
            revision: Revision::new(1),
            epoch: 0,
            bundle: Arc::clone(authority.bundle()),
            tenants: Arc::new(tenants.iter().map(|name| name.parse().unwrap()).collect()),
            connectors: Arc::default(),
            planes: Arc::default(),
            keys: Arc::default(),
            session_keys: Arc::default(),
            deny: Arc::default(),
            revocations: Arc::default(),
        })
    }

    #[tokio::test]
    async fn a_tenant_that_is_gone_is_forgotten() {
        let names = Arc::new(Names::default());
        let source = Source {
            configuration: Revision::new(1),
            directory: 1,
        };
        for tenant in ["acme", "gone"] {
            names.catalog(&tenant.parse().unwrap(), source, || one(true, &["m"]));
        }
        let (config, following) = watch::channel(configured(&["acme", "gone"]));
        let follow = Arc::clone(&names).follow(following);
        config.send(configured(&["acme"])).unwrap();
        drop(config);
        follow.await;
        let left: Vec<_> = names.tenants.read().unwrap().keys().cloned().collect();
        assert_eq!(left, ["acme".parse().unwrap()]);
    }
}
