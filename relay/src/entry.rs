//! The first look at a peer, right after its handshake and before it has said a word.
//!
//! Identity and tenant are proven by then, so that everything which does not depend on the `Hello`
//! is decided at once: who is not welcome costs no more than its handshake did. One thing is owed
//! to it: an agent believes that it was revoked by control's signed statement only, and that travels
//! in the answer to a `Hello`. So a few of those who are turned away may greet, for a short time;
//! all others are closed with the code alone, and come again after their back-off.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use culvert_certs::{Identity, PeerLeaf, TenantName};

use crate::config::DoorLimits;
use crate::limits::{
    MAX_GREETING, MAX_TURNED_AWAY, MAX_TURNED_AWAY_PER_TENANT, NEW_LINKS_PER_SECOND,
};
use crate::policy::{Rejected, admit};
use crate::rate::RatePer;
use crate::relay::{Core, Phase};
use crate::slots::{Slot, Slots};

/// What those may occupy who are proven and not linked.
#[derive(Debug)]
pub(crate) struct Entry {
    new_links: RatePer<TenantName>,
    /// Those who are welcome, until they are registered.
    greeting: Arc<Slots<TenantName>>,
    /// Those who are not, until they were told.
    turned_away: Arc<Slots<TenantName>>,
}

/// What a connection holds until it is registered or gone.
pub(crate) type Place = Slot<TenantName>;

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
            turned_away: Slots::new(MAX_TURNED_AWAY, MAX_TURNED_AWAY_PER_TENANT),
        }
    }

    /// Takes a place among those who are to greet.
    fn admit(&self, tenant: &TenantName, now: Instant) -> Result<Place, Rejected> {
        if !self.new_links.take(tenant, now) {
            return Err(Rejected::TooFast);
        }
        self.greeting.take(tenant).ok_or(Rejected::TooManySilent)
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
            .and_then(|()| self.entry.admit(&agent.tenant, Instant::now()));
        match admitted {
            Ok(place) => Reception::Welcome(place),
            Err(rejected) => match self.entry.turned_away.take(&agent.tenant) {
                Some(place) => Reception::Tell(rejected, place),
                None => Reception::Close(rejected),
            },
        }
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
