//! The first look at a peer, right after its handshake and before it has said a word.
//!
//! Identity and tenant are proven by then, so that everything which does not depend on the `Hello`
//! is decided at once: who is not welcome costs no more than its handshake did. One thing is owed
//! to it: an agent believes that it was revoked by control's signed statement only, and that travels
//! in the answer to a `Hello`. So a few of those for whom there is such a statement may greet, for a
//! short time; all others are closed with the code alone, which tells them as much.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use culvert_certs::{AgentId, AgentIdentity, Identity, PeerLeaf, TenantName};
use culvert_tunnel::RatePer;

use crate::config::DoorLimits;
use crate::limits::{
    MAX_GREETING, MAX_GREETING_PER_AGENT, MAX_TURNED_AWAY, MAX_TURNED_AWAY_PER_AGENT,
    NEW_LINKS_PER_SECOND,
};
use crate::policy::{Rejected, admit, statement};
use crate::relay::{Core, Phase};
use crate::slots::{Slot, Slots};

/// What those may occupy who are proven and not linked.
#[derive(Debug)]
pub(crate) struct Entry {
    new_links: RatePer<TenantName>,
    /// Those who are welcome, until they are registered.
    greeting: Arc<Slots<TenantName>>,
    greeting_agents: Arc<Slots<AgentId>>,
    /// Those who were revoked, until they were told.
    turned_away: Arc<Slots<AgentId>>,
}

/// What a connection holds until it is registered or gone.
#[derive(Debug)]
pub(crate) struct Place {
    _agent: Slot<AgentId>,
    _tenant: Option<Slot<TenantName>>,
}

/// How a peer is received.
#[derive(Debug)]
pub(crate) enum Reception {
    /// It is welcome, and may greet.
    Welcome(Place),
    /// It may greet, to be told why it is turned away.
    Tell(Rejected, Place),
    /// It is closed with the code.
    Close(Rejected),
}

impl Entry {
    pub(crate) fn new(limits: DoorLimits) -> Self {
        Self {
            new_links: RatePer::new(NEW_LINKS_PER_SECOND, NEW_LINKS_PER_SECOND),
            greeting: Slots::new(MAX_GREETING, limits.greeting),
            greeting_agents: Slots::new(MAX_GREETING, MAX_GREETING_PER_AGENT),
            turned_away: Slots::new(MAX_TURNED_AWAY, MAX_TURNED_AWAY_PER_AGENT),
        }
    }

    /// Takes a place among those who are to greet.
    fn admit(&self, agent: &AgentIdentity, now: Instant) -> Result<Place, Rejected> {
        // Whoever finds no place costs its tenant no permit.
        let silent = Rejected::TooManySilent;
        let own = self.greeting_agents.take(&agent.agent).ok_or(silent)?;
        let place = self.greeting.take(&agent.tenant).ok_or(silent)?;
        if !self.new_links.take(&agent.tenant, now) {
            return Err(Rejected::TooFast);
        }
        Ok(Place {
            _agent: own,
            _tenant: Some(place),
        })
    }
}

impl Core {
    /// Decides by the proven leaf, the phase, and the latest configuration.
    pub(crate) fn receive(&self, leaf: &PeerLeaf) -> Reception {
        let Identity::Agent(agent) = &leaf.identity else {
            return Reception::Close(Rejected::NotAnAgent);
        };
        let admitted = self
            .admits(leaf)
            .and_then(|()| self.entry.admit(agent, Instant::now()));
        match admitted {
            Ok(place) => Reception::Welcome(place),
            Err(rejected) => match self.place_to_be_told(leaf, agent.agent, rejected) {
                Some(place) => Reception::Tell(rejected, place),
                None => Reception::Close(rejected),
            },
        }
    }

    /// Only control's statement says more than the code does.
    fn place_to_be_told(
        &self,
        leaf: &PeerLeaf,
        agent: AgentId,
        rejected: Rejected,
    ) -> Option<Place> {
        let is_stated =
            rejected == Rejected::Revoked && statement(leaf, &self.admission.borrow()).is_some();
        let place = is_stated.then(|| self.entry.turned_away.take(&agent))??;
        Some(Place {
            _agent: place,
            _tenant: None,
        })
    }

    fn admits(&self, leaf: &PeerLeaf) -> Result<(), Rejected> {
        if self.phase() != Phase::Serving {
            return Err(Rejected::Leaving);
        }
        let (admission, heard_at) = (self.admission.borrow(), *self.heard_at.borrow());
        admit(
            leaf,
            &admission,
            heard_at,
            &self.plane.zone,
            SystemTime::now(),
        )
        .map(drop)
    }
}
