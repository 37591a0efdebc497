//! From signed records to a snapshot. What cannot be read is left out: nobody gets more than
//! control said.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::SystemTime,
};

use culvert_certs::{
    AgentId, DenyList, KeyDigest, TrustBundle,
    name::{ConnectorName, Region, TenantName, Zone},
};

use super::{ConfigSnapshot, ConnectorView, KeyView, Revocations, Serving, SessionKeys};
use crate::{
    documents::parse,
    keys::DIGEST,
    records::{Record, believed},
    resource::{AgentSpec, Approval, ConnectorSpec, Document, KeySpec, PlaneSpec, Spec, Timestamp},
    retire::moment,
    revoke::{Revoked, in_force},
    session_keys::WrappedKey,
    store::{Entry, Key, Kind, Revision},
};

/// The records of the kinds that planes need.
#[derive(Debug)]
pub(super) struct Builder {
    bundle: Arc<TrustBundle>,
    records: BTreeMap<Key, Record>,
    revision: Revision,
}

impl Builder {
    /// The kinds that a snapshot is made of.
    pub(super) const KINDS: [Kind; 7] = [
        Kind::Tenant,
        Kind::Connector,
        Kind::Agent,
        Kind::Plane,
        Kind::Key,
        Kind::Revoked,
        Kind::SessionKey,
    ];

    pub(super) fn new(bundle: Arc<TrustBundle>) -> Self {
        Self {
            bundle,
            records: BTreeMap::new(),
            revision: Revision::ZERO,
        }
    }

    /// Takes a record, unless it is older than the one that is there: whoever can write to the
    /// store could otherwise bring back what control has said before.
    pub(super) fn set(&mut self, record: Record) {
        let known = self.records.get(&record.key);
        let signed = record.signed.header().revision;
        if known.is_some_and(|known| signed < known.signed.header().revision) {
            tracing::error!(key = %record.key, "the store gave an older record than before");
            return;
        }
        self.records.insert(record.key.clone(), record);
    }

    pub(super) fn set_entry(&mut self, entry: Entry) {
        if let Some(record) = believed(entry, &self.bundle) {
            self.set(record);
        }
    }

    /// Takes away what was deleted. A revocation stays until the time that it names itself: control
    /// deletes none before, and whoever else deletes one would let somebody back in.
    pub(super) fn remove(&mut self, key: &Key, now: SystemTime) {
        let stays = key.kind == Kind::Revoked
            && self
                .records
                .get(key)
                .is_some_and(|record| in_force(record, now).is_some());
        if stays {
            tracing::error!(key = %key, "the store lost a revocation before its time");
        } else {
            self.records.remove(key);
        }
    }

    pub(super) fn reached(&mut self, revision: Revision) {
        self.revision = self.revision.max(revision);
    }

    pub(super) fn snapshot(&self, now: SystemTime) -> ConfigSnapshot {
        let (mut deny, revocations) = self.deny(now);
        deny.epoch = self.bundle.epoch();
        deny.revision = self.revision.get();
        let tenants = self.tenants(&revocations);
        ConfigSnapshot {
            revision: self.revision,
            epoch: self.bundle.epoch(),
            bundle: Arc::clone(&self.bundle),
            connectors: Arc::new(self.connectors(&tenants, &revocations)),
            planes: Arc::new(self.planes()),
            keys: Arc::new(self.keys(&tenants)),
            session_keys: Arc::new(self.session_keys(&tenants)),
            tenants: Arc::new(tenants),
            deny: Arc::new(deny),
            revocations: Arc::new(revocations),
        }
    }

    fn deny(&self, now: SystemTime) -> (DenyList, Revocations) {
        let (mut deny, mut words) = (DenyList::default(), Revocations::default());
        for record in self.of(Kind::Revoked) {
            let Some(revocation) = in_force(record, now) else {
                continue;
            };
            let since = moment(&revocation.since).unwrap_or(now);
            let word = record.signed.clone();
            match revocation.revoked {
                Revoked::Tenant(tenant) => {
                    deny.deny_tenant(tenant.clone(), since);
                    words.tenants.insert(tenant, word);
                }
                Revoked::Connector(tenant, connector) => {
                    deny.deny_connector(tenant.clone(), connector.clone(), since);
                    words.connectors.insert((tenant, connector), word);
                }
                Revoked::Agent(_, agent) => {
                    deny.deny_agent(agent, since);
                    words.agents.insert(agent, word);
                }
            }
        }
        (deny, words)
    }

    fn tenants(&self, revocations: &Revocations) -> BTreeSet<TenantName> {
        let living = self
            .documents(Kind::Tenant)
            .filter(|tenant| tenant.status_text("deleted").is_none());
        let names = living.filter_map(|tenant| tenant.name.as_str().parse().ok());
        names
            .filter(|name| !revocations.tenants.contains_key(name))
            .collect()
    }

    fn connectors(
        &self,
        tenants: &BTreeSet<TenantName>,
        revocations: &Revocations,
    ) -> BTreeMap<(TenantName, ConnectorName), ConnectorView> {
        let mut agents = self.agents();
        let mut connectors = BTreeMap::new();
        for document in self.documents(Kind::Connector) {
            let Some((tenant, spec)) = view::<ConnectorSpec>(&document, tenants) else {
                continue;
            };
            let Ok(name) = document.name.as_str().parse::<ConnectorName>() else {
                continue;
            };
            let id = (tenant, name);
            if revocations.connectors.contains_key(&id) {
                continue;
            }
            let agents = agents.remove(&id).unwrap_or_default();
            let view = ConnectorView {
                services: spec.services,
                serving: agents.serving(spec.approve),
                zones: spec.zones,
            };
            connectors.insert(id, view);
        }
        connectors
    }

    fn agents(&self) -> BTreeMap<(TenantName, ConnectorName), Agents> {
        let mut all: BTreeMap<_, Agents> = BTreeMap::new();
        for document in self.documents(Kind::Agent) {
            let connector = document
                .status_text("connector")
                .and_then(|name| name.parse().ok());
            let id = document.name.as_str().parse().ok();
            let (Some(tenant), Some(connector), Some(id)) = (&document.tenant, connector, id)
            else {
                continue;
            };
            let agents = all.entry((tenant.clone(), connector)).or_default();
            let spec = document.view::<AgentSpec>();
            if spec.is_ok_and(|spec| spec.approved && !spec.locked) {
                agents.serving.insert(id);
            } else {
                agents.held = true;
            }
        }
        all
    }

    fn planes(&self) -> BTreeMap<Zone, Region> {
        let planes = self.documents(Kind::Plane).filter_map(|document| {
            let zone = document.name.as_str().parse().ok()?;
            Some((zone, document.view::<PlaneSpec>().ok()?.region))
        });
        planes.collect()
    }

    fn keys(&self, tenants: &BTreeSet<TenantName>) -> HashMap<KeyDigest, KeyView> {
        let keys = self.documents(Kind::Key).filter_map(|document| {
            let (tenant, spec) = view::<KeySpec>(&document, tenants)?;
            let digest = document.status_text(DIGEST)?.parse().ok()?;
            let key = KeyView {
                tenant,
                id: document.name.to_string(),
                allow: spec.allow,
                expires: spec.expires.map(Timestamp::system),
            };
            document
                .status_text("revoked")
                .is_none()
                .then_some((digest, key))
        });
        keys.collect()
    }

    /// Newest first.
    fn session_keys(&self, tenants: &BTreeSet<TenantName>) -> SessionKeys {
        let mut all = SessionKeys::new();
        for record in self.of(Kind::SessionKey) {
            let tenant = record.key.tenant_str().and_then(|name| name.parse().ok());
            let tenant = tenant.filter(|tenant| tenants.contains(tenant));
            if let (Some(tenant), Some(key)) = (tenant, WrappedKey::read(record)) {
                all.entry(tenant).or_default().push(key);
            }
        }
        for keys in all.values_mut() {
            keys.sort_by_key(|key| std::cmp::Reverse(key.made()));
        }
        all
    }

    fn documents(&self, kind: Kind) -> impl Iterator<Item = Document> {
        self.of(kind)
            .filter_map(|record| Some(parse(record).ok()?.0))
    }

    fn of(&self, kind: Kind) -> impl Iterator<Item = &Record> {
        self.records
            .values()
            .filter(move |record| record.key.kind == kind)
    }
}

/// The agents of one connector.
#[derive(Debug, Default)]
struct Agents {
    serving: BTreeSet<AgentId>,
    held: bool,
}

impl Agents {
    /// Where nobody is held, an agent that joins is served by planes that have not heard of it.
    fn serving(self, approve: Approval) -> Serving {
        match approve {
            Approval::Auto if !self.held => Serving::Every,
            Approval::Auto | Approval::Manual => Serving::Only(self.serving),
        }
    }
}

/// A tenant's document as what it must be; one that cannot be read counts for nothing.
fn view<S: Spec>(document: &Document, tenants: &BTreeSet<TenantName>) -> Option<(TenantName, S)> {
    let tenant = document
        .tenant
        .as_ref()
        .filter(|tenant| tenants.contains(*tenant))?;
    match document.view() {
        Ok(spec) => Some((tenant.clone(), spec)),
        Err(error) => {
            tracing::error!(kind = %document.kind, tenant = %tenant, name = %document.name,
                error = %error, "a stored document cannot be used");
            None
        }
    }
}
