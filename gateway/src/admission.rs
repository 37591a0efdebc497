//! What the relay has to know of the configuration: who may link, kept up to date.

use std::{collections::HashMap, sync::Arc};

use culvert_control::{
    ConfigSnapshot,
    snapshot::{ConnectorView, Serving},
};
use culvert_relay::{Admission, Approve, ClonePolicy, ConnectorPolicy};
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
        statements: HashMap::new(),
        heard_at: snapshot.heard_at,
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
