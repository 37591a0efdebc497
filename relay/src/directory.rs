//! Who serves what: for each tenant and connector, the links and what they offer.
//!
//! Readers take immutable snapshots and never wait. Writers change a tenant's book under its own
//! lock and publish at most one snapshot per [`REBUILD_EVERY`](crate::limits::REBUILD_EVERY); that a link left, drains or was
//! superseded is seen at once, by a flag in the link that every snapshot shares.
//!
//! Links are registered and unregistered by id, through a guard, so that a late goodbye can never
//! remove a newcomer. Of the links of one agent instance, the newest serving one is selectable and
//! no other.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use arc_swap::ArcSwap;
use culvert_certs::TenantName;
use culvert_wire::{Offer, ServiceHealth};
use tokio::sync::{Notify, watch};
use tokio::time::timeout;

use crate::book::{CapReached, Newcomer, Tenant};
use crate::handle::Link;
use crate::limits::CATCH_UP;
use crate::link::LinkEntry;
use crate::policy::ServiceBound;
use crate::view::TenantView;

/// The links of this replica and what they offer, by tenant.
///
/// `H` is what a selected link is used through.
#[derive(Debug)]
pub struct Directory<H = Link> {
    shards: Vec<Shard<H>>,
    hasher: RandomState,
    /// Tenants whose snapshot is behind, and when it may be rebuilt.
    behind: Mutex<HashMap<TenantName, Instant>>,
    wake: Notify,
}

/// Unregisters its link, and no other, when dropped.
#[derive(Debug)]
pub(crate) struct Registration<H> {
    directory: Arc<Directory<H>>,
    tenant: Arc<Tenant<H>>,
    entry: Arc<LinkEntry<H>>,
}

#[derive(Debug)]
struct Shard<H> {
    tenants: ArcSwap<HashMap<TenantName, Arc<Tenant<H>>>>,
    inserting: Mutex<()>,
}

impl<H> Default for Directory<H> {
    fn default() -> Self {
        Self::new()
    }
}

impl<H> Directory<H> {
    /// Tenants are spread over this many maps, so that a new tenant copies a small one.
    const SHARDS: usize = 64;

    /// An empty directory.
    #[must_use]
    pub fn new() -> Self {
        let shard = || Shard {
            tenants: ArcSwap::default(),
            inserting: Mutex::new(()),
        };
        Self {
            shards: std::iter::repeat_with(shard).take(Self::SHARDS).collect(),
            hasher: RandomState::new(),
            behind: Mutex::default(),
            wake: Notify::new(),
        }
    }

    /// What `tenant`'s links offer at present; empty where it has none.
    #[must_use]
    pub fn view(&self, tenant: &TenantName) -> Arc<TenantView<H>> {
        self.tenant(tenant).map_or_else(
            || Arc::new(TenantView::empty(tenant.clone())),
            |tenant| tenant.view(),
        )
    }

    /// The views of all tenants that have had a link, in no order.
    #[must_use]
    pub fn views(&self) -> Vec<Arc<TenantView<H>>> {
        let tenants = |shard: &Shard<H>| shard.tenants.load_full();
        self.shards
            .iter()
            .map(tenants)
            .flat_map(|map| map.values().map(|tenant| tenant.view()).collect::<Vec<_>>())
            .collect()
    }

    /// Announces each new snapshot of `tenant` by its revision.
    #[must_use]
    pub fn changes(&self, tenant: &TenantName) -> watch::Receiver<u64> {
        self.tenant_or_new(tenant).revision.subscribe()
    }

    pub(crate) fn tenant(&self, name: &TenantName) -> Option<Arc<Tenant<H>>> {
        self.shard(name).tenants.load().get(name).cloned()
    }

    /// Writes a link down; it supersedes the other links of its instance.
    pub(crate) fn register(
        self: &Arc<Self>,
        newcomer: Newcomer,
        handle: H,
        now: Instant,
    ) -> Result<Registration<H>, CapReached> {
        let tenant = self.tenant_or_new(&newcomer.tenant);
        let entry = tenant.write(newcomer, handle)?;
        self.changed(&tenant, now);
        Ok(Registration {
            directory: Arc::clone(self),
            tenant,
            entry,
        })
    }

    /// Waits until the snapshot of `tenant` says what is true now; at once if it does already, and
    /// no longer than a snapshot takes where somebody publishes.
    pub(crate) async fn caught_up(&self, tenant: &Tenant<H>) {
        let mut revision = tenant.revision.subscribe();
        if self.behind().contains_key(&tenant.name) {
            drop(timeout(CATCH_UP, revision.changed()).await);
        }
    }

    /// Publishes what is due, and says when to come again.
    pub(crate) fn publish_due(&self, now: Instant) -> Option<Instant> {
        let due: Vec<TenantName> = {
            let behind = self.behind();
            behind
                .iter()
                .filter(|(_, due)| **due <= now)
                .map(|(name, _)| name.clone())
                .collect()
        };
        for name in due {
            // Published under the lock, so that what is not behind is surely published.
            let mut behind = self.behind();
            behind.remove(&name);
            if let Some(tenant) = self.tenant(&name) {
                tenant.publish(now);
            }
        }
        self.behind().values().min().copied()
    }

    /// Publishes snapshots as they come due, for ever.
    pub(crate) async fn keep_published(&self) {
        loop {
            let next = self.publish_due(Instant::now());
            match next {
                None => self.wake.notified().await,
                Some(due) => {
                    tokio::select! {
                        () = self.wake.notified() => {}
                        () = tokio::time::sleep_until(due.into()) => {}
                    }
                }
            }
        }
    }

    /// Publishes at once where the last snapshot is old enough, else when it will be.
    fn changed(&self, tenant: &Arc<Tenant<H>>, now: Instant) {
        if !tenant.publish_if_due(now) {
            self.publish_later(tenant);
        }
    }

    fn publish_later(&self, tenant: &Tenant<H>) {
        // Without a snapshot there is nothing that could be behind.
        if let Some(due) = tenant.due() {
            self.behind().insert(tenant.name.clone(), due);
            self.wake.notify_one();
        }
    }

    fn behind(&self) -> MutexGuard<'_, HashMap<TenantName, Instant>> {
        self.behind.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn shard(&self, name: &TenantName) -> &Shard<H> {
        let hash = self.hasher.hash_one(name);
        // The remainder of a small divisor fits any usize.
        #[expect(clippy::cast_possible_truncation, reason = "less than SHARDS")]
        let index = (hash % Self::SHARDS as u64) as usize;
        &self.shards[index]
    }

    fn tenant_or_new(&self, name: &TenantName) -> Arc<Tenant<H>> {
        if let Some(tenant) = self.tenant(name) {
            return tenant;
        }
        let shard = self.shard(name);
        let _inserting = shard
            .inserting
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(tenant) = self.tenant(name) {
            return tenant;
        }
        let tenant = Arc::new(Tenant::new(name.clone()));
        let mut tenants = HashMap::clone(&shard.tenants.load());
        tenants.insert(name.clone(), Arc::clone(&tenant));
        shard.tenants.store(Arc::new(tenants));
        tenant
    }
}

impl<H> Registration<H> {
    pub(crate) fn entry(&self) -> &Arc<LinkEntry<H>> {
        &self.entry
    }

    /// Replaces what the session offers, if this is newer; what is known of services that stay is
    /// kept.
    pub(crate) fn offer(&self, offer: Offer, now: Instant) {
        if self.tenant.offer(self.entry.id.session, offer) {
            self.directory.changed(&self.tenant, now);
        }
    }

    /// Bounds what of the offer may be served.
    pub(crate) fn bind(&self, bound: ServiceBound, now: Instant) {
        if self.tenant.bind(self.entry.id.session, bound) {
            self.directory.changed(&self.tenant, now);
        }
    }

    /// Takes over a health report; services that the link does not offer are skipped.
    pub(crate) fn health(&self, report: &[ServiceHealth]) {
        self.tenant.health(self.entry.id.session, report);
    }

    /// Holds the link until its agent is approved, or lets it serve.
    pub(crate) fn hold(&self, held: bool) {
        self.tenant
            .stand(&self.entry, |standing| standing.held = held);
    }

    /// Takes the link out of selection while what serves calls at its agent does not answer.
    pub(crate) fn silent(&self, silent: bool) {
        self.tenant
            .stand(&self.entry, |standing| standing.silent = silent);
    }

    /// Takes the link out of selection for good; started calls go on.
    pub(crate) fn leaving(&self) {
        self.tenant
            .stand(&self.entry, |standing| standing.leaving = true);
    }
}

impl<H> Drop for Registration<H> {
    fn drop(&mut self) {
        self.tenant.strike(&self.entry);
        self.directory.publish_later(&self.tenant);
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeSet;

    use culvert_certs::{AgentId, ConnectorName};
    use culvert_wire::limits::CONNECTIONS_MAX;
    use culvert_wire::{InstanceId, ServiceKind, ServiceOffer, ServiceState, SessionId};
    use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};

    use super::*;
    use crate::limits::REBUILD_EVERY;
    use crate::limits::{MAX_AGENTS, MAX_LINKS};
    use crate::link::LinkState;

    /// A link of agent `agent` to be, in its start `instance`, as connection `session`/0.
    pub(crate) fn newcomer(
        session: u8,
        agent: u8,
        instance: u8,
        offer: Vec<ServiceOffer>,
    ) -> Newcomer {
        Newcomer {
            session: SessionId::from_bytes([session; 16]),
            attaches: false,
            tenant: "acme".parse().unwrap(),
            connector: "vpc".parse().unwrap(),
            agent: AgentId::from_bytes([agent; 16]),
            instance: InstanceId::from_bytes([instance; 16]),
            held: false,
            offer: Offer {
                seq: 1,
                services: offer,
            },
            bound: None,
        }
    }

    fn offer(seq: u64, services: Vec<ServiceOffer>) -> Offer {
        Offer { seq, services }
    }

    pub(crate) fn service(name: &str, kind: ServiceKind, models: &[&str]) -> ServiceOffer {
        ServiceOffer {
            name: name.parse().unwrap(),
            kind,
            models: models.iter().map(ToString::to_string).collect(),
            digest: [0; 32],
        }
    }

    pub(crate) fn health(name: &str, state: ServiceState) -> ServiceHealth {
        let name = name.parse().unwrap();
        ServiceHealth {
            name,
            state,
            in_flight: 0,
            capacity: 0,
            load: None,
            latency_us: 0,
        }
    }

    fn llama() -> Vec<ServiceOffer> {
        vec![service("llama", ServiceKind::Model, &["llama-8b"])]
    }

    fn acme() -> TenantName {
        "acme".parse().unwrap()
    }

    fn vpc() -> ConnectorName {
        "vpc".parse().unwrap()
    }

    #[test]
    fn a_link_is_seen_from_registration_to_drop() {
        let directory = Arc::new(Directory::new());
        let now = Instant::now();
        assert!(directory.view(&acme()).connectors.is_empty());
        let registration = directory
            .register(newcomer(1, 1, 1, llama()), "link", now)
            .unwrap();
        let view = directory.view(&acme());
        let service = view.service(&vpc(), "llama").unwrap();
        assert!(service.is_up() && service.models.contains("llama-8b"));
        drop(registration);
        // The old snapshot knows at once, the new one is published when it is due.
        assert!(!service.is_up());
        assert_eq!(directory.publish_due(now + REBUILD_EVERY), None);
        assert!(directory.view(&acme()).service(&vpc(), "llama").is_none());
    }

    #[test]
    fn tenants_see_nothing_of_each_other() {
        let directory = Arc::new(Directory::new());
        let _link = directory
            .register(newcomer(1, 1, 1, llama()), (), Instant::now())
            .unwrap();
        assert!(
            directory
                .view(&"other".parse().unwrap())
                .connectors
                .is_empty()
        );
        assert_eq!(directory.views().len(), 1);
    }

    /// A stale goodbye never removes a newer session, and only the newest is selectable.
    #[test]
    fn a_late_goodbye_does_not_evict_the_newcomer() {
        let directory = Arc::new(Directory::new());
        let now = Instant::now();
        let old = directory
            .register(newcomer(1, 1, 1, llama()), "old", now)
            .unwrap();
        let new = directory
            .register(newcomer(2, 1, 1, llama()), "new", now)
            .unwrap();
        assert_eq!(old.entry().state(), LinkState::Superseded);
        assert_eq!(new.entry().state(), LinkState::Serving);
        drop(old);
        assert_eq!(new.entry().state(), LinkState::Serving);
        directory.publish_due(now + REBUILD_EVERY);
        let view = directory.view(&acme());
        let links = &view.connectors[&vpc()].links;
        assert_eq!(
            links.iter().map(|link| link.handle).collect::<Vec<_>>(),
            ["new"]
        );
    }

    #[test]
    fn the_older_link_takes_over_again_when_the_newer_one_goes_first() {
        let directory = Arc::new(Directory::new());
        let now = Instant::now();
        let old = directory
            .register(newcomer(1, 1, 1, llama()), (), now)
            .unwrap();
        let new = directory
            .register(newcomer(2, 1, 1, llama()), (), now)
            .unwrap();
        new.leaving();
        assert_eq!(
            (old.entry().state(), new.entry().state()),
            (LinkState::Serving, LinkState::Leaving)
        );
        drop(new);
        assert_eq!(old.entry().state(), LinkState::Serving);
    }

    #[test]
    fn a_held_agent_serves_once_it_is_approved() {
        let directory = Arc::new(Directory::new());
        let held = Newcomer {
            held: true,
            ..newcomer(1, 1, 1, llama())
        };
        let link = directory.register(held, (), Instant::now()).unwrap();
        let view = directory.view(&acme());
        let is_up = || view.service(&vpc(), "llama").unwrap().is_up();
        assert!(!is_up());
        link.hold(false);
        assert!(is_up());
        link.hold(true);
        assert!(!is_up());
        link.leaving();
        link.hold(false);
        assert_eq!(link.entry().state(), LinkState::Leaving);
    }

    /// At most one selectable session per agent instance, whatever happens in whatever order.
    #[test]
    fn at_most_one_link_of_an_instance_is_selectable_over_random_histories() {
        for seed in 0..200 {
            let mut rng = SmallRng::seed_from_u64(seed);
            let directory = Arc::new(Directory::new());
            let mut links: Vec<Registration<()>> = Vec::new();
            let now = Instant::now();
            for session in 0..60 {
                match rng.random_range(0..5) {
                    0 | 1 => {
                        let (agent, instance) = (rng.random_range(0..2), rng.random_range(0..3));
                        let newcomer = newcomer(session, agent, instance, llama());
                        let newcomer = Newcomer {
                            held: rng.random_bool(0.2),
                            ..newcomer
                        };
                        links.push(directory.register(newcomer, (), now).unwrap());
                    }
                    2 if !links.is_empty() => {
                        drop(links.swap_remove(rng.random_range(0..links.len())))
                    }
                    3 if !links.is_empty() => links[rng.random_range(0..links.len())].leaving(),
                    4 if !links.is_empty() => {
                        links[rng.random_range(0..links.len())].hold(rng.random_bool(0.5));
                    }
                    _ => {}
                }
                let mut selectable = BTreeSet::new();
                let mut could_be = BTreeSet::new();
                for link in &links {
                    let who = (
                        *link.entry().agent.as_bytes(),
                        *link.entry().instance.as_bytes(),
                    );
                    if link.entry().state() == LinkState::Serving {
                        assert!(selectable.insert(who), "two selectable links, seed {seed}");
                    }
                    if matches!(
                        link.entry().state(),
                        LinkState::Serving | LinkState::Superseded
                    ) {
                        could_be.insert(who);
                    }
                }
                assert_eq!(
                    selectable, could_be,
                    "an instance has no selectable link, seed {seed}"
                );
            }
        }
    }

    #[test]
    fn caps_are_typed_and_name_their_limit() {
        let directory = Arc::new(Directory::new());
        let now = Instant::now();
        let mut links = Vec::new();
        for agent in 0..MAX_AGENTS {
            let agent = u8::try_from(agent).unwrap();
            links.push(
                directory
                    .register(newcomer(agent, agent, agent, vec![]), (), now)
                    .unwrap(),
            );
        }
        let refused = directory.register(newcomer(200, 200, 200, vec![]), (), now);
        let error = refused.map(|_| ()).unwrap_err();
        assert_eq!(error, CapReached::Agents);
        assert!(error.to_string().contains("64"), "{error}");
        // An agent that is there already may have another link.
        let second = directory
            .register(newcomer(201, 1, 201, vec![]), (), now)
            .unwrap();
        drop(second);
        links.clear();
        for link in 0..MAX_LINKS {
            let session = u8::try_from(link % 250).unwrap();
            let newcomer = newcomer(session, 1, session, vec![]);
            links.push(directory.register(newcomer, (), now).unwrap());
        }
        let refused = directory.register(newcomer(251, 1, 251, vec![]), (), now);
        assert_eq!(refused.map(|_| ()).unwrap_err(), CapReached::Links);
    }

    #[test]
    fn a_tenant_is_rebuilt_at_most_once_in_its_interval() {
        let directory = Arc::new(Directory::new());
        let start = Instant::now();
        let link = directory
            .register(newcomer(1, 1, 1, vec![]), (), start)
            .unwrap();
        let revision = || directory.view(&acme()).revision;
        assert_eq!(revision(), 1);
        for seq in 2..100 {
            link.offer(offer(seq, llama()), start + REBUILD_EVERY / 2);
        }
        assert_eq!(revision(), 1);
        let due = directory.publish_due(start + REBUILD_EVERY / 2);
        assert_eq!(due, Some(start + REBUILD_EVERY));
        assert_eq!(directory.publish_due(start + REBUILD_EVERY), None);
        assert_eq!(revision(), 2);
        assert!(directory.view(&acme()).service(&vpc(), "llama").is_some());
        link.offer(offer(100, vec![]), start + 3 * REBUILD_EVERY);
        assert_eq!(revision(), 3);
    }

    #[test]
    fn health_changes_the_published_view_without_a_rebuild() {
        let directory = Arc::new(Directory::new());
        let link = directory
            .register(newcomer(1, 1, 1, llama()), (), Instant::now())
            .unwrap();
        let view = directory.view(&acme());
        link.health(&[
            health("llama", ServiceState::Down),
            health("unknown", ServiceState::Up),
        ]);
        assert!(!view.service(&vpc(), "llama").unwrap().is_up());
        link.health(&[health("llama", ServiceState::Up)]);
        assert!(view.service(&vpc(), "llama").unwrap().is_up());
        assert_eq!(directory.view(&acme()).revision, view.revision);
    }

    #[test]
    fn what_one_connection_of_a_session_hears_is_about_all_of_them() {
        let directory = Arc::new(Directory::new());
        let now = Instant::now();
        let first = directory
            .register(newcomer(1, 1, 1, llama()), (), now)
            .unwrap();
        let second = directory
            .register(newcomer(1, 1, 1, llama()), (), now)
            .unwrap();
        assert_eq!(second.entry().id.connection, 1);
        first.offer(
            offer(2, vec![service("tools", ServiceKind::Mcp, &[])]),
            now + REBUILD_EVERY,
        );
        let view = directory.view(&acme());
        assert!(view.service(&vpc(), "llama").is_none());
        let tools = view.service(&vpc(), "tools").unwrap();
        assert_eq!((tools.links.len(), tools.is_up()), (2, true));
        first.health(&[health("tools", ServiceState::Down)]);
        assert!(!tools.is_up());
    }

    #[test]
    fn what_is_known_of_a_service_survives_a_new_offer() {
        let directory = Arc::new(Directory::new());
        let now = Instant::now();
        let link = directory
            .register(newcomer(1, 1, 1, llama()), (), now)
            .unwrap();
        link.health(&[health("llama", ServiceState::Down)]);
        link.offer(
            offer(2, vec![service("llama", ServiceKind::Model, &["new"])]),
            now + REBUILD_EVERY,
        );
        let view = directory.view(&acme());
        assert!(
            view.service(&vpc(), "llama")
                .unwrap()
                .models
                .contains("new")
        );
        assert!(!view.service(&vpc(), "llama").unwrap().is_up());
    }

    #[test]
    fn a_kind_conflict_refuses_the_newcomers_service_and_differing_digests_are_shown() {
        let directory = Arc::new(Directory::new());
        let now = Instant::now();
        let _first = directory
            .register(newcomer(1, 1, 1, llama()), (), now)
            .unwrap();
        let tools = service("tools", ServiceKind::Mcp, &[]);
        let offer = vec![service("llama", ServiceKind::Http, &[]), tools.clone()];
        let _second = directory
            .register(newcomer(2, 2, 2, offer), (), now)
            .unwrap();
        let other = ServiceOffer {
            digest: [1; 32],
            ..tools
        };
        let _third = directory
            .register(newcomer(3, 3, 3, vec![other]), (), now)
            .unwrap();
        directory.publish_due(now + REBUILD_EVERY);
        let view = directory.view(&acme());
        let connector = &view.connectors[&vpc()];
        assert_eq!(connector.services["llama"].kind, ServiceKind::Model);
        assert_eq!(connector.services["llama"].links.len(), 1);
        assert_eq!(connector.conflicts.len(), 1);
        assert_eq!(connector.conflicts[0].agent, AgentId::from_bytes([2; 16]));
        assert_eq!(connector.services["tools"].links.len(), 2);
        assert_eq!(connector.services["tools"].digests.len(), 2);
    }

    /// Whoever brings it and when: what the agent said last is what it offers.
    #[test]
    fn an_older_offer_never_replaces_a_newer_one() {
        let directory = Arc::new(Directory::new());
        let now = Instant::now();
        let tools = || vec![service("tools", ServiceKind::Mcp, &[])];
        let first = directory
            .register(newcomer(1, 1, 1, llama()), (), now)
            .unwrap();
        first.offer(offer(5, tools()), now);
        let second = directory
            .register(newcomer(1, 1, 1, llama()), (), now)
            .unwrap();
        second.offer(offer(3, llama()), now);
        let names = |ticks: u32| {
            directory.publish_due(now + ticks * REBUILD_EVERY);
            let view = directory.view(&acme());
            let services = &view.connectors[&vpc()].services;
            let names = services.iter().map(|(name, service)| {
                assert_eq!(service.links.len(), 2);
                name.to_string()
            });
            names.collect::<Vec<_>>()
        };
        assert_eq!(names(10), ["tools"]);
        second.bind(Some(["llama".parse().unwrap()].into()), now);
        assert!(names(20).is_empty());
        first.bind(None, now);
        assert_eq!(names(30), ["tools"]);
        let revision = directory.view(&acme()).revision;
        second.bind(None, now + 40 * REBUILD_EVERY);
        second.offer(offer(5, tools()), now + 40 * REBUILD_EVERY);
        assert_eq!(directory.publish_due(now + 50 * REBUILD_EVERY), None);
        let same = directory.view(&acme()).revision;
        assert_eq!(same, revision, "nothing changed, and nothing was rebuilt");
    }

    /// Numbers and the cap are of the book, where no two newcomers look at once.
    #[test]
    fn connections_of_a_session_have_numbers_of_their_own_and_a_bound() {
        let directory = Arc::new(Directory::new());
        let now = Instant::now();
        let attach = || directory.register(newcomer(1, 1, 1, llama()), (), now);
        let first = attach().unwrap();
        let gone = attach().unwrap();
        drop(gone);
        let other = attach().unwrap();
        let numbers = [first.entry().id.connection, other.entry().id.connection];
        assert_eq!(numbers, [0, 2], "a number is not given twice");
        let rest = u32::from(CONNECTIONS_MAX) - 2;
        let _rest: Vec<_> = (0..rest).map(|_| attach().unwrap()).collect();
        assert_eq!(attach().unwrap_err(), CapReached::Connections);
    }

    /// Its numbers began again otherwise, and a call that was lost on one would be asked for nowhere.
    #[test]
    fn nobody_joins_a_session_that_has_lost_its_last_connection() {
        let directory = Arc::new(Directory::new());
        let attaching = || Newcomer {
            attaches: true,
            ..newcomer(1, 1, 1, llama())
        };
        let attach = || directory.register(attaching(), (), Instant::now());
        let first = directory.register(newcomer(1, 1, 1, llama()), (), Instant::now());
        drop(attach().unwrap());
        drop(first);
        assert_eq!(attach().unwrap_err(), CapReached::Session);
    }

    /// Two links may have the same number, should one be given again: they are told apart all the same.
    #[test]
    fn a_link_that_goes_strikes_itself_and_not_another_of_its_number() {
        let directory = Arc::new(Directory::new());
        let now = Instant::now();
        let first = directory
            .register(newcomer(1, 1, 1, llama()), (), now)
            .unwrap();
        let tenant = directory.tenant(&acme()).unwrap();
        tenant.strike(first.entry());
        let second = directory
            .register(newcomer(1, 1, 1, llama()), (), now)
            .unwrap();
        assert_eq!(first.entry().id, second.entry().id);
        drop(first);
        assert_eq!(second.entry().state(), LinkState::Serving);
        assert_eq!(tenant.links_of(second.entry().agent).len(), 1);
    }

    #[test]
    fn newcomers_on_many_threads_never_share_a_number_nor_pass_the_cap() {
        let directory = Arc::new(Directory::new());
        let now = Instant::now();
        let most = usize::from(CONNECTIONS_MAX);
        let taken: Vec<_> = std::thread::scope(|scope| {
            let attach = || directory.register(newcomer(1, 1, 1, llama()), (), now);
            let threads: Vec<_> = (0..4 * most).map(|_| scope.spawn(attach)).collect();
            let joined = threads.into_iter().map(|thread| thread.join().unwrap());
            joined.filter_map(Result::ok).collect()
        });
        let numbers: BTreeSet<_> = taken
            .iter()
            .map(|link| link.entry().id.connection)
            .collect();
        assert_eq!((taken.len(), numbers.len()), (most, most));
    }

    #[tokio::test(start_paused = true)]
    async fn changes_are_announced_by_revision() {
        let directory = Arc::new(Directory::new());
        let mut changes = directory.changes(&acme());
        let link = directory
            .register(newcomer(1, 1, 1, llama()), (), Instant::now())
            .unwrap();
        changes.changed().await.unwrap();
        drop(link);
        tokio::select! {
            () = directory.keep_published() => {}
            changed = changes.changed() => changed.unwrap(),
        }
        assert!(directory.view(&acme()).connectors.is_empty());
    }
}
