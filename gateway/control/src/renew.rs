//! Renewing: an agent gets a certificate for a new key by proving the current one.
//!
//! The plane that carries the request is a courier: nothing that it says is looked at. What it or
//! anybody else has seen of a request can be sent again: the same key gets the same certificate
//! again, and nothing is written down. A leaf that was superseded proves nothing: whoever has it
//! has a copy of the agent's past, and that is written into the audit log.

use std::{
    net::SocketAddr,
    time::{Duration, SystemTime},
};

use culvert_certs::{
    AgentIdentity, Chain, Identity, JoinAnswer, LEAF_LIFETIME, PeerLeaf, ProofError, RenewRequest,
    SignedRecord, VerifiedCsr,
};

use crate::{
    audit::{Actor, Subject},
    control::Control,
    error::ControlError,
    join::{is_held, subject_of},
    lineage::{Claim, claim, write_next},
    resource::{Document, ResourceKind, Timestamp},
};

/// From this part of its life left on, an agent may want a new certificate: half-life, and the
/// jitter with which a fleet that joined together begins earlier.
const DUE_AT: Duration = Duration::from_secs(LEAF_LIFETIME.as_secs() / 5 * 3);

/// An agent whose certificate is not due gets one in each of these.
const EARLY_EVERY: Duration = Duration::from_secs(3600);

/// An agent whose certificate is due gets one in each of these: its answer may have been lost on
/// the way, and it asks again after a minute.
const DUE_EVERY: Duration = Duration::from_secs(30);

/// What an agent is told whose certificate is not renewed.
#[derive(Debug, thiserror::Error)]
pub enum RenewRefusal {
    /// It was revoked, in control's own signed words: final, all retrying ends.
    #[error("the identity was revoked")]
    Revoked(Box<SignedRecord>),
    /// The proof does not hold, or the member is locked or gone: later it may be let in again.
    #[error("the certificate is not renewed")]
    Refused,
    /// The agent has a new certificate already, and asks for another too soon.
    #[error("the certificate was renewed a short time ago")]
    TooSoon,
    /// Control cannot answer now.
    #[error("renewing is not possible at the moment, try again")]
    Unavailable,
}

/// Why renewing failed, for the audit log.
#[derive(Debug, thiserror::Error)]
enum Reason {
    #[error(transparent)]
    Proof(#[from] ProofError),
    #[error("the identity was revoked")]
    Revoked(Box<SignedRecord>),
    #[error("the agent is locked")]
    Locked,
    #[error("the member was deleted")]
    Gone,
    #[error("a plane does not renew here")]
    NotAnAgent,
    #[error("the leaf was superseded: somebody has a copy of an earlier identity")]
    Superseded,
    #[error("the certificate was renewed a short time ago")]
    TooSoon,
    #[error(transparent)]
    Control(#[from] ControlError),
}

impl Control {
    /// Issues a certificate for the key of a renewal whose proof fits. `source` is where it came
    /// from, where that is known.
    ///
    /// # Errors
    /// [`RenewRefusal`]; the reason is in the audit log.
    pub async fn renew(
        &self,
        request: &RenewRequest,
        source: Option<SocketAddr>,
    ) -> Result<JoinAnswer, RenewRefusal> {
        let verified = match request.verify(self.bundle(), self.now()) {
            Ok(verified) => verified,
            Err(error) => {
                let actor = Actor::new("stranger", "unproven").from(source);
                let subject = Subject::new(None, "renewal", "unproven");
                let reason = Reason::from(error);
                self.refused(&actor, "renew", subject, &reason.to_string())
                    .await;
                return Err(reason.told());
            }
        };
        let (leaf, csr) = (verified.leaf, verified.csr);
        let id = leaf.identity.clone();
        let subject = subject_of(&id);
        let actor = Actor::new("member", &subject.name).from(source);
        let renewed = match &id {
            Identity::Agent(agent) => self.renew_agent(agent, &leaf, &csr).await,
            // Replicas share the store with control, and are renewed where they run.
            Identity::Plane(_) => Err(Reason::NotAnAgent),
        };
        match renewed {
            Ok(Issued::New(chain)) => {
                self.done(&actor, "renew", subject).await;
                Ok(self.answer(id, chain))
            }
            Ok(Issued::Again(chain)) => {
                tracing::debug!(subject = subject.name, "a renewal was answered again");
                Ok(self.answer(id, chain))
            }
            // Whoever asks all the time fills no log with it.
            Err(Reason::TooSoon) => {
                tracing::debug!(subject = subject.name, "a renewal came too soon");
                Err(RenewRefusal::TooSoon)
            }
            Err(reason) => {
                self.refused(&actor, "renew", subject, &reason.to_string())
                    .await;
                Err(reason.told())
            }
        }
    }

    async fn renew_agent(
        &self,
        agent: &AgentIdentity,
        leaf: &PeerLeaf,
        csr: &VerifiedCsr,
    ) -> Result<Issued, Reason> {
        let (tenant, connector) = (&agent.tenant, &agent.connector);
        let revoked = self
            .revocation(tenant, connector, Some(agent.agent))
            .await?;
        if let Some(record) = revoked {
            return Err(Reason::Revoked(Box::new(record)));
        }
        let name = agent.agent.to_string();
        let found = self.find(ResourceKind::Agent, Some(tenant), &name).await?;
        let (document, _) = found.ok_or(Reason::Gone)?;
        if is_held(&document)? {
            return Err(Reason::Locked);
        }
        let now = self.now();
        match claim(&document, leaf, csr) {
            Claim::Superseded => return Err(Reason::Superseded),
            Claim::Again => return self.issue_again(&document, agent, csr).map(Issued::Again),
            Claim::New if is_too_soon(&document, leaf, now) => return Err(Reason::TooSoon),
            Claim::New => {}
        }
        let chain = self.issue(csr, &leaf.identity, &[])?;
        let changed = self
            .change(ResourceKind::Agent, Some(tenant), &name, |document| {
                // Another request of the same agent was faster: one of them gets a certificate.
                if claim(document, leaf, csr) != Claim::New || is_too_soon(document, leaf, now) {
                    return Err(ControlError::Conflict(None));
                }
                write_next(document, leaf, &chain, csr);
                document.set_status(RENEWED, Timestamp::from(now));
                Ok(())
            })
            .await;
        match changed {
            Ok(_) => Ok(Issued::New(chain)),
            Err(ControlError::Conflict(_)) => Err(Reason::TooSoon),
            Err(error) => Err(error.into()),
        }
    }

    /// The certificate of a key that has one, for as long as that one lives: nothing is won by
    /// asking for it again.
    fn issue_again(
        &self,
        document: &Document,
        agent: &AgentIdentity,
        csr: &VerifiedCsr,
    ) -> Result<Chain, Reason> {
        let now = self.now();
        let end = document.status_text("not_after");
        let end = end.and_then(|text| text.parse::<Timestamp>().ok());
        let left = end.and_then(|end| end.system().duration_since(now).ok());
        let left = left.filter(|left| !left.is_zero()).ok_or(Reason::TooSoon)?;
        let issued = self
            .inner
            .records
            .authority()
            .issue_agent(csr, agent, left, now);
        Ok(issued.map_err(ControlError::from)?)
    }

    fn answer(&self, id: Identity, chain: Chain) -> JoinAnswer {
        let places = self.places();
        JoinAnswer {
            id,
            chain: chain.certificates,
            bundle: self.bundle().as_bytes().to_vec(),
            dns_suffixes: places.dns_suffixes,
            addresses: places.addresses,
            gateway_url: places.gateway_url,
        }
    }
}

/// A certificate for an agent.
enum Issued {
    /// Its first for this key.
    New(Chain),
    /// One more for a key that has one.
    Again(Chain),
}

/// When the certificate of an agent was last renewed, in its status.
const RENEWED: &str = "renewed";

/// Whether the agent was given a certificate so lately that the owner of `leaf` needs none.
fn is_too_soon(agent: &Document, leaf: &PeerLeaf, now: SystemTime) -> bool {
    let renewed = agent.status_text(RENEWED);
    let Some(renewed) = renewed.and_then(|text| text.parse::<Timestamp>().ok()) else {
        return false;
    };
    let is_due = leaf.not_after <= now + DUE_AT;
    let every = if is_due { DUE_EVERY } else { EARLY_EVERY };
    // A clock that was set back makes nobody wait for it.
    now.duration_since(renewed.system())
        .is_ok_and(|since| since < every)
}

impl Reason {
    fn told(self) -> RenewRefusal {
        match self {
            Self::Revoked(record) => RenewRefusal::Revoked(record),
            Self::Proof(_) | Self::Locked | Self::Gone | Self::NotAnAgent | Self::Superseded => {
                RenewRefusal::Refused
            }
            Self::TooSoon => RenewRefusal::TooSoon,
            Self::Control(_) => RenewRefusal::Unavailable,
        }
    }
}
