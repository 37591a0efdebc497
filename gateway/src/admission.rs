//! What the relay has to know of the configuration: who may link, kept up to date.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use culvert_certs::record::SignedRecord;
use culvert_control::{
    ConfigSnapshot,
    snapshot::{ConnectorView, Revocations, Serving},
};
use culvert_relay::{Admission, Approve, ClonePolicy, ConnectorPolicy, Subject};
use tokio::sync::watch;

/// The admission that follows from a snapshot.
pub fn of(snapshot: &ConfigSnapshot) -> Admission {
    let policies = snapshot
        .connectors
        .iter()
        .map(|(name, view)| (name.clone(), policy(view)));
    Admission {
        connectors: policies.collect::<HashMap<_, _>>(),
        deny: (*snapshot.deny).clone(),
        statements: statements(&snapshot.revocations),
        clones: ClonePolicy::default(),
    }
}

/// Publishes the admission of every snapshot, until either side is gone.
pub async fn follow(
    mut config: watch::Receiver<Arc<ConfigSnapshot>>,
    admission: watch::Sender<Arc<Admission>>,
) {
    while config.changed().await.is_ok() {
        let snapshot = Arc::clone(&config.borrow_and_update());
        if admission.send(Arc::new(of(&snapshot))).is_err() {
            return;
        }
    }
}

/// What those who were revoked are shown: they believe control's signature only.
fn statements(revocations: &Revocations) -> HashMap<Subject, Bytes> {
    let tenants = revocations
        .tenants
        .iter()
        .map(|(tenant, record)| (Subject::Tenant(tenant.clone()), word(record)));
    let connectors = revocations
        .connectors
        .iter()
        .map(|((tenant, name), record)| {
            let subject = Subject::Connector(tenant.clone(), name.clone());
            (subject, word(record))
        });
    let agents = revocations
        .agents
        .iter()
        .map(|(agent, record)| (Subject::Agent(*agent), word(record)));
    tenants.chain(connectors).chain(agents).collect()
}

fn word(record: &SignedRecord) -> Bytes {
    Bytes::copy_from_slice(record.as_bytes())
}

fn policy(view: &ConnectorView) -> ConnectorPolicy {
    let services = view.services.as_ref().map(|names| {
        // A name that no service can have bounds nothing.
        names.iter().filter_map(|name| name.parse().ok()).collect()
    });
    let approve = match &view.serving {
        Serving::Every => Approve::Auto,
        Serving::Only(agents) => Approve::Manual(agents.clone()),
    };
    ConnectorPolicy {
        services,
        approve,
        zones: view.zones.clone(),
    }
}
