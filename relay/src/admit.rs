//! Admitting a connection that said `Hello`: policy again, and the links that its agent has already.
//!
//! A new start of an agent replaces nothing. A second dial of the same start replaces the first
//! only where that one does not answer any more: an agent behind a balancer has to learn that it
//! came to the same replica twice, and an agent whose path died must not wait for us to notice.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use culvert_tunnel::Connection;
use culvert_wire::{Hello, SessionId};
use futures_util::future::join_all;
use rand::RngExt as _;
use tokio::time::timeout;

use crate::handle::Link;
use crate::limits::PROOF_WAIT;
use crate::link::LinkEntry;
use crate::policy::{Admitted, ClonePolicy, Rejected, admit};
use crate::relay::{Core, Phase};

/// What an admitted connection is registered as.
#[derive(Debug)]
pub(crate) struct Ticket {
    pub(crate) admitted: Admitted,
    /// A new one, or the one that it joins.
    pub(crate) session: SessionId,
    /// It joins that one.
    pub(crate) attaches: bool,
    /// Earlier links of the same start that do not answer any more.
    pub(crate) replaced: Vec<Arc<LinkEntry<Link>>>,
}

/// Decides about a connection by its proven leaf; the `Hello` says only which start of the agent
/// it is, and whether it joins a session of that start.
pub(crate) async fn admit_link(
    core: &Core,
    connection: &Connection,
    hello: &Hello,
) -> Result<Ticket, Rejected> {
    if core.phase() != Phase::Serving {
        return Err(Rejected::Leaving);
    }
    let snapshot = core.admission.borrow().clone();
    let admitted = admit(
        connection.peer(),
        &snapshot,
        *core.heard_at.borrow(),
        &core.plane.zone,
        SystemTime::now(),
    )?;
    let standing = standing_links(core, &admitted);
    let (mut same, others): (Vec<_>, Vec<_>) = standing
        .into_iter()
        .partition(|link| link.instance == hello.instance);
    // A start that has renewed meanwhile goes on beside what it had; another start on another key
    // is no less a clone for that.
    let key = connection.peer().key_digest;
    same.retain(|link| link.handle.connection().peer().key_digest == key);
    if let Some(session) = hello.attach {
        if !same.iter().any(|link| link.id.session == session) {
            return Err(Rejected::NoSession);
        }
        return Ok(Ticket {
            admitted,
            session,
            attaches: true,
            replaced: Vec::new(),
        });
    }
    if any_alive(&same).await {
        return Err(Rejected::Duplicate);
    }
    if !others.is_empty() {
        check_clones(core, &admitted, others, snapshot.clones).await?;
    }
    Ok(Ticket {
        admitted,
        session: SessionId::from_bytes(rand::rng().random()),
        attaches: false,
        replaced: same,
    })
}

/// The links of this agent, whichever of its keys they use.
fn standing_links(core: &Core, admitted: &Admitted) -> Vec<Arc<LinkEntry<Link>>> {
    let Some(tenant) = core.directory.tenant(&admitted.identity.tenant) else {
        return Vec::new();
    };
    let mut links = tenant.links_of(admitted.identity.agent);
    links.retain(|link| link.handle.is_open());
    links
}

/// Whether another start of the agent lives beside this one.
async fn check_clones(
    core: &Core,
    admitted: &Admitted,
    others: Vec<Arc<LinkEntry<Link>>>,
    policy: ClonePolicy,
) -> Result<(), Rejected> {
    let agent = admitted.identity.agent;
    match policy {
        ClonePolicy::Refuse if any_alive(&others).await => {
            tracing::warn!(%agent, "refused a second live instance of one identity");
            Err(Rejected::Clone)
        }
        ClonePolicy::Refuse => Ok(()),
        // Nobody waits for the alarm: a restarted agent serves at once.
        ClonePolicy::Alarm => {
            core.sessions.spawn(async move {
                if any_alive(&others).await {
                    tracing::warn!(%agent, "two live instances use one identity");
                }
            });
            Ok(())
        }
    }
}

/// Whether one of the links proves that what serves calls at its other end is alive.
async fn any_alive(links: &[Arc<LinkEntry<Link>>]) -> bool {
    let proofs = links.iter().map(|link| async {
        let connection = link.handle.connection();
        let wait = PROOF_WAIT.max(4 * connection.rtt()).min(MOST_PATIENCE);
        let nonce = rand::rng().random();
        matches!(timeout(wait, connection.probe(nonce)).await, Ok(Ok(_)))
    });
    join_all(proofs).await.contains(&true)
}

/// However long a round trip is said to take, the newcomer is answered before it gives up.
const MOST_PATIENCE: Duration = Duration::from_secs(3);
