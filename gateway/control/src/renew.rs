//! Renewing: a member gets a certificate for a new key by proving the current one.
//!
//! The plane that carries the request is a courier: nothing that it says is looked at.

use std::net::SocketAddr;

use culvert_certs::{
    AgentIdentity, Chain, Identity, JoinAnswer, PlaneIdentity, ProofError, RenewRequest,
    SignedRecord, VerifiedCsr,
};

use crate::{
    audit::{Actor, Subject},
    control::Control,
    error::ControlError,
    join::{is_held, subject_of, write_leaf},
    resource::{PlaneSpec, ResourceKind, Timestamp},
};

/// What a member is told whose certificate is not renewed.
#[derive(Debug, thiserror::Error)]
pub enum RenewRefusal {
    /// It was revoked, in control's own signed words: final, all retrying ends.
    #[error("the identity was revoked")]
    Revoked(Box<SignedRecord>),
    /// The proof does not hold, or the member is locked or gone: later it may be let in again.
    #[error("the certificate is not renewed")]
    Refused,
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
        let (id, csr) = (verified.leaf.identity, verified.csr);
        let subject = subject_of(&id);
        let actor = Actor::new("member", &subject.name).from(source);
        let renewed = match &id {
            Identity::Agent(agent) => self.renew_agent(agent, &id, &csr).await,
            Identity::Plane(plane) => self.renew_plane(plane, &id, &csr).await,
        };
        match renewed {
            Ok(chain) => {
                self.done(&actor, "renew", subject).await;
                Ok(self.answer(id, chain))
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
        id: &Identity,
        csr: &VerifiedCsr,
    ) -> Result<Chain, Reason> {
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
        let chain = self.issue(csr, id, &[])?;
        let renewed = Timestamp::from(self.now());
        self.change(ResourceKind::Agent, Some(tenant), &name, |document| {
            write_leaf(document, &chain, csr);
            document.set_status("renewed", renewed);
            Ok(())
        })
        .await?;
        Ok(chain)
    }

    async fn renew_plane(
        &self,
        plane: &PlaneIdentity,
        id: &Identity,
        csr: &VerifiedCsr,
    ) -> Result<Chain, Reason> {
        let found = self
            .find(ResourceKind::Plane, None, plane.zone.as_str())
            .await?;
        let (document, _) = found.ok_or(Reason::Gone)?;
        let spec: PlaneSpec = document.view().map_err(ControlError::from)?;
        if spec.region != plane.region {
            return Err(Reason::Gone);
        }
        Ok(self.issue(csr, id, &spec.dns_names)?)
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

impl Reason {
    fn told(self) -> RenewRefusal {
        match self {
            Self::Revoked(record) => RenewRefusal::Revoked(record),
            Self::Proof(_) | Self::Locked | Self::Gone => RenewRefusal::Refused,
            Self::Control(_) => RenewRefusal::Unavailable,
        }
    }
}
