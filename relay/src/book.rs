//! One tenant's book: what is true of its links now, and the snapshot that was published of it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use arc_swap::ArcSwap;
use culvert_certs::{AgentId, ConnectorName, TenantName};
use culvert_wire::limits::CONNECTIONS_MAX;
use culvert_wire::{InstanceId, Offer, ServiceHealth, ServiceName, ServiceOffer, SessionId};
use tokio::sync::watch;

use crate::budget::RetryBudget;
use crate::limits::{MAX_AGENTS, MAX_LINKS, REBUILD_EVERY};
use crate::link::{LinkEntry, LinkId, LinkState};
use crate::meter::ServiceMeter;
use crate::policy::{ServiceBound, allowed_offer};
use crate::view::{TenantView, build_view};

/// A cap of the directory that a newcomer would exceed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CapReached {
    /// More distinct agents than one connector may have.
    #[error("the connector has {MAX_AGENTS} agents on this replica, which is the limit")]
    Agents,
    /// More links than one connector may hold.
    #[error("the connector has {MAX_LINKS} links to this replica, which is the limit")]
    Links,
    /// More connections than one session may have.
    #[error("the session has {CONNECTIONS_MAX} connections, which is the limit")]
    Connections,
    /// The session that the newcomer joins has lost its last connection meanwhile: its numbers
    /// must not begin again.
    #[error("the session has ended")]
    Session,
}

/// A link that asks to be registered.
#[derive(Debug, Clone)]
pub(crate) struct Newcomer {
    /// A new one, or the one of this start that it joins.
    pub(crate) session: SessionId,
    /// It joins that one.
    pub(crate) attaches: bool,
    pub(crate) tenant: TenantName,
    pub(crate) connector: ConnectorName,
    pub(crate) agent: AgentId,
    pub(crate) instance: InstanceId,
    /// Not selectable until somebody approves the agent.
    pub(crate) held: bool,
    /// What the agent offers.
    pub(crate) offer: Offer,
    /// What of it may be served.
    pub(crate) bound: ServiceBound,
}

/// One tenant's book and its published snapshot.
#[derive(Debug)]
pub(crate) struct Tenant<H> {
    pub(crate) name: TenantName,
    book: Mutex<Book<H>>,
    view: ArcSwap<TenantView<H>>,
    pub(crate) revision: watch::Sender<u64>,
    pub(crate) retries: RetryBudget,
}

/// What is true now; in order of arrival.
#[derive(Debug)]
struct Book<H> {
    links: Vec<Written<H>>,
    /// As long as they have a link.
    sessions: HashMap<SessionId, Session>,
    rebuilt: Option<Instant>,
}

/// What the connections of a session have in common.
#[derive(Debug)]
struct Session {
    /// The number of its next connection; none is given twice.
    next: u32,
    /// The newest that any of its connections has brought.
    offer: Offer,
    bound: ServiceBound,
}

/// The services of one link, with what is known of each.
type Services = BTreeMap<ServiceName, (ServiceOffer, Arc<ServiceMeter>)>;

/// One link with its present offer.
#[derive(Debug)]
pub(crate) struct Written<H> {
    pub(crate) entry: Arc<LinkEntry<H>>,
    pub(crate) services: Services,
    standing: Standing,
}

/// What keeps a link from taking calls; each has a cause of its own.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Standing {
    /// Its agent waits for approval.
    pub(crate) held: bool,
    /// What serves calls at its agent does not answer.
    pub(crate) silent: bool,
    /// Its agent drains, or the link is being ended.
    pub(crate) leaving: bool,
}

impl Standing {
    /// The state, given whether a newer link of the same instance takes the calls.
    fn state(self, superseded: bool) -> LinkState {
        match self {
            Self { leaving: true, .. } => LinkState::Leaving,
            Self { held: true, .. } => LinkState::Held,
            Self { silent: true, .. } => LinkState::Silent,
            _ if superseded => LinkState::Superseded,
            _ => LinkState::Serving,
        }
    }

    fn can_serve(self) -> bool {
        !(self.held || self.silent || self.leaving)
    }
}

impl<H> Tenant<H> {
    pub(crate) fn new(name: TenantName) -> Self {
        let view = ArcSwap::from_pointee(TenantView::empty(name.clone()));
        let book = Mutex::new(Book {
            links: Vec::new(),
            sessions: HashMap::new(),
            rebuilt: None,
        });
        Self {
            name,
            book,
            view,
            revision: watch::Sender::new(0),
            retries: RetryBudget::new(),
        }
    }

    pub(crate) fn view(&self) -> Arc<TenantView<H>> {
        self.view.load_full()
    }

    /// The newest link of this instance that is as wanted, serving or finishing.
    pub(crate) fn newest_link(
        &self,
        agent: AgentId,
        instance: InstanceId,
        wanted: impl Fn(&LinkEntry<H>) -> bool,
    ) -> Option<Arc<LinkEntry<H>>> {
        let links = self.links_of(agent);
        links
            .into_iter()
            .find(|entry| entry.instance == instance && wanted(entry))
    }

    /// All links of one agent, newest first.
    pub(crate) fn links_of(&self, agent: AgentId) -> Vec<Arc<LinkEntry<H>>> {
        let book = self.book();
        let links = book.links.iter().rev().map(|written| &written.entry);
        links
            .filter(|entry| entry.agent == agent)
            .cloned()
            .collect()
    }

    /// Writes a link down; it supersedes the other links of its instance.
    pub(crate) fn write(
        &self,
        newcomer: Newcomer,
        handle: H,
    ) -> Result<Arc<LinkEntry<H>>, CapReached> {
        let standing = Standing {
            held: newcomer.held,
            ..Standing::default()
        };
        let mut book = self.book();
        book.check_caps(&newcomer)?;
        let id = book.join_session(&newcomer);
        let entry = Arc::new(LinkEntry::new(&newcomer, id, standing.state(false), handle));
        book.links.push(Written {
            entry: Arc::clone(&entry),
            services: BTreeMap::new(),
            standing,
        });
        book.apply_offer(id.session);
        book.settle(&entry);
        Ok(entry)
    }

    /// Strikes a link out, and no other.
    pub(crate) fn strike(&self, entry: &Arc<LinkEntry<H>>) {
        let mut book = self.book();
        entry.set_state(LinkState::Gone);
        book.links
            .retain(|written| !Arc::ptr_eq(&written.entry, entry));
        let session = entry.id.session;
        if book.of_session(session).next().is_none() {
            book.sessions.remove(&session);
        }
        book.settle(entry);
    }

    /// Replaces what a session offers by what is newer, whichever of its connections brings it; it
    /// is about all of them. What is known of services that stay is kept. Whether anything changed.
    pub(crate) fn offer(&self, session: SessionId, offer: Offer) -> bool {
        let mut book = self.book();
        book.renew_offer(session, |known| {
            let newer = offer.seq > known.offer.seq;
            if newer {
                known.offer = offer;
            }
            newer
        })
    }

    /// Bounds what a session may offer. Whether anything changed.
    pub(crate) fn bind(&self, session: SessionId, bound: ServiceBound) -> bool {
        let mut book = self.book();
        book.renew_offer(session, |known| {
            let other = known.bound != bound;
            if other {
                known.bound = bound;
            }
            other
        })
    }

    /// Takes over a health report; services that the session does not offer are skipped.
    pub(crate) fn health(&self, session: SessionId, report: &[ServiceHealth]) {
        for written in self.book().of_session(session) {
            for health in report {
                if let Some((_, meter)) = written.services.get(&health.name) {
                    meter.report(health);
                }
            }
        }
    }

    /// Changes what keeps a link from taking calls.
    pub(crate) fn stand(&self, entry: &Arc<LinkEntry<H>>, change: impl FnOnce(&mut Standing)) {
        let mut book = self.book();
        if let Some(written) = book.find(entry) {
            change(&mut written.standing);
            book.settle(entry);
        }
    }

    /// When the snapshot may be published again; never, as long as none ever was.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.book().rebuilt.map(|rebuilt| rebuilt + REBUILD_EVERY)
    }

    fn book(&self) -> MutexGuard<'_, Book<H>> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn publish_if_due(&self, now: Instant) -> bool {
        let mut book = self.book();
        let due = book
            .rebuilt
            .is_none_or(|rebuilt| now.saturating_duration_since(rebuilt) >= REBUILD_EVERY);
        if due {
            self.rebuild(&mut book, now);
        }
        due
    }

    pub(crate) fn publish(&self, now: Instant) {
        self.rebuild(&mut self.book(), now);
    }

    /// Under the book's lock, so that snapshots are published in the order of their books.
    fn rebuild(&self, book: &mut Book<H>, now: Instant) {
        let revision = *self.revision.borrow() + 1;
        self.view.store(Arc::new(build_view(
            self.name.clone(),
            revision,
            &book.links,
        )));
        book.rebuilt = Some(now);
        self.revision.send_replace(revision);
    }
}

impl<H> Book<H> {
    fn find(&mut self, entry: &Arc<LinkEntry<H>>) -> Option<&mut Written<H>> {
        self.links
            .iter_mut()
            .find(|written| Arc::ptr_eq(&written.entry, entry))
    }

    fn of_session(&mut self, session: SessionId) -> impl Iterator<Item = &mut Written<H>> {
        self.links
            .iter_mut()
            .filter(move |written| written.entry.id.session == session)
    }

    /// The newcomer's place in its session.
    fn join_session(&mut self, newcomer: &Newcomer) -> LinkId {
        let session = self.sessions.entry(newcomer.session);
        let session = session.or_insert_with(|| Session {
            next: 0,
            offer: newcomer.offer.clone(),
            bound: newcomer.bound.clone(),
        });
        if newcomer.offer.seq > session.offer.seq {
            session.offer = newcomer.offer.clone();
        }
        let connection = session.next;
        session.next = connection.saturating_add(1);
        LinkId {
            session: newcomer.session,
            connection,
        }
    }

    fn renew_offer(&mut self, id: SessionId, renew: impl FnOnce(&mut Session) -> bool) -> bool {
        let changed = self.sessions.get_mut(&id).is_some_and(renew);
        if changed {
            self.apply_offer(id);
        }
        changed
    }

    /// Writes what a session offers to each of its links.
    fn apply_offer(&mut self, id: SessionId) {
        let Some(session) = self.sessions.get(&id) else {
            return;
        };
        let of_session = |written: &&mut Written<H>| written.entry.id.session == id;
        for written in self.links.iter_mut().filter(of_session) {
            let allowed = allowed_offer(&session.offer.services, &session.bound);
            written.services = meters(allowed, &written.services);
        }
    }

    fn check_caps(&self, newcomer: &Newcomer) -> Result<(), CapReached> {
        if newcomer.attaches && !self.sessions.contains_key(&newcomer.session) {
            return Err(CapReached::Session);
        }
        let of_session = |written: &&Written<H>| written.entry.id.session == newcomer.session;
        if self.links.iter().filter(of_session).count() >= usize::from(CONNECTIONS_MAX) {
            return Err(CapReached::Connections);
        }
        let links = || {
            self.links
                .iter()
                .filter(|written| written.entry.connector == newcomer.connector)
        };
        if links().count() >= MAX_LINKS {
            return Err(CapReached::Links);
        }
        let mut agents: BTreeSet<_> = links()
            .map(|written| *written.entry.agent.as_bytes())
            .collect();
        agents.insert(*newcomer.agent.as_bytes());
        if agents.len() > MAX_AGENTS {
            return Err(CapReached::Agents);
        }
        Ok(())
    }

    /// Of the links of the same agent instance, only the newest that can serve is selectable.
    fn settle(&self, changed: &LinkEntry<H>) {
        let same = |written: &&Written<H>| {
            written.entry.instance == changed.instance && written.entry.agent == changed.agent
        };
        let mut chosen = false;
        for written in self.links.iter().rev().filter(same) {
            written.entry.set_state(written.standing.state(chosen));
            chosen |= written.standing.can_serve();
        }
    }
}

/// One meter for each offered service; those that were offered before keep theirs.
fn meters<'a>(offer: impl Iterator<Item = &'a ServiceOffer>, old: &Services) -> Services {
    let keep = |service: &ServiceOffer| match old.get(&service.name) {
        Some((before, meter)) if before.kind == service.kind => Arc::clone(meter),
        _ => Arc::default(),
    };
    offer
        .map(|service| (service.name.clone(), (service.clone(), keep(service))))
        .collect()
}
