//! Joining: a token's bearer becomes a member.
//!
//! A token is redeemed by compare-and-set before anything is issued, so of any number of
//! redeemers one wins, on whichever replica they knock. Whoever is refused is told one thing,
//! whatever the reason was; the reason goes into the audit log.

use std::net::SocketAddr;

use culvert_certs::{
    AgentId, AgentIdentity, Chain, Identity, JoinAnswer, JoinRequest, JoinSubject, LEAF_LIFETIME,
    PlaneIdentity, ProofError, ReplicaId, TokenId, VerifiedCsr,
    name::{ConnectorName, Region, TenantName, Zone},
};

use crate::{
    audit::{Actor, Subject},
    control::Control,
    error::ControlError,
    lineage::write_first,
    resource::{AgentSpec, Approval, ConnectorSpec, Document, PlaneSpec, ResourceKind, Timestamp},
    store::{Expected, Revision, Scope},
    tokens::{StoredToken, token_key},
};

/// Most agents of one connector, the bound that relays keep too.
pub const MAX_AGENTS: usize = 64;

/// What a refused newcomer is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum JoinRefusal {
    /// Whatever was wrong, the token does not work: a new one is needed.
    #[error("the join token is not valid: unknown, expired, used or revoked. Mint a new one")]
    Refused,
    /// Control cannot answer now; the token may still be good.
    #[error("joining is not possible at the moment, try again")]
    Unavailable,
}

/// Why joining failed, for the audit log alone.
#[derive(Debug, thiserror::Error)]
enum Reason {
    #[error("no token has this id")]
    UnknownToken,
    #[error(transparent)]
    Proof(#[from] ProofError),
    #[error("the token is of an earlier epoch of the authority")]
    EarlierEpoch,
    #[error("the token was used: somebody else was faster")]
    LostRace,
    #[error("the connector or its tenant was deleted or revoked")]
    NotInvited,
    #[error("the connector has {MAX_AGENTS} agents")]
    TooManyAgents,
    #[error(transparent)]
    Control(#[from] ControlError),
}

/// A request whose token was found and whose proof fits.
struct Proven {
    csr: VerifiedCsr,
    token: StoredToken,
    revision: Revision,
}

impl Control {
    /// Redeems a token: chooses an identity, and issues a certificate for it.
    ///
    /// # Errors
    /// [`JoinRefusal`], which tells a stranger nothing; the reason is in the audit log.
    pub async fn join(
        &self,
        request: &JoinRequest,
        source: SocketAddr,
    ) -> Result<JoinAnswer, JoinRefusal> {
        let actor = Actor::new("token", request.token_id).from(Some(source));
        match self.redeem(request, source).await {
            Ok(answer) => {
                let subject = subject_of(&answer.id);
                self.done(&actor, "join", subject).await;
                Ok(answer)
            }
            Err(reason) => {
                let tenant = self.tenant_of_token(request.token_id).await;
                let subject = Subject::new(tenant.as_ref(), "token", request.token_id);
                self.refused(&actor, "join", subject, &reason.to_string())
                    .await;
                Err(reason.told())
            }
        }
    }

    /// Whose token it was, so that the tenant sees who knocked.
    async fn tenant_of_token(&self, id: TokenId) -> Option<TenantName> {
        let record = self.inner.records.get(&token_key(id).ok()?).await.ok()??;
        let token: StoredToken = record.parse().ok()?;
        token.record.subject.tenant().cloned()
    }

    async fn redeem(
        &self,
        request: &JoinRequest,
        source: SocketAddr,
    ) -> Result<JoinAnswer, Reason> {
        let proven = self.prove(request).await?;
        let (id, hosts, document) = match &proven.token.record.subject {
            JoinSubject::Connector { tenant, connector } => {
                let (agent, document) = self.new_agent(tenant, connector).await?;
                (Identity::Agent(agent), Vec::new(), Some(document))
            }
            JoinSubject::Plane { region, zone } => {
                let (plane, hosts) = self.new_replica(region, zone).await?;
                (Identity::Plane(plane), hosts, None)
            }
        };
        self.use_up(&proven, &id).await?;
        let chain = self.issue(&proven.csr, &id, &hosts)?;
        if let Some(mut document) = document {
            write_first(&mut document, &chain, &proven.csr);
            document.set_status("source", source.ip());
            document.set_status("token", request.token_id);
            self.save(&document, Expected::Absent).await?;
        }
        let places = self.places();
        Ok(JoinAnswer {
            id,
            chain: chain.certificates,
            bundle: self.bundle().as_bytes().to_vec(),
            dns_suffixes: places.dns_suffixes,
            addresses: places.addresses,
            gateway_url: places.gateway_url,
        })
    }

    async fn prove(&self, request: &JoinRequest) -> Result<Proven, Reason> {
        let key = token_key(request.token_id)?;
        let record = self
            .inner
            .records
            .get(&key)
            .await?
            .ok_or(Reason::UnknownToken)?;
        let token: StoredToken = record.parse()?;
        let csr = request.verify(&token.record, self.trust_domain(), self.now())?;
        if token.epoch < self.bundle().epoch() {
            return Err(Reason::EarlierEpoch);
        }
        Ok(Proven {
            csr,
            token,
            revision: record.revision,
        })
    }

    /// The one step that decides who wins. What fails after it costs the token, not its secrecy.
    async fn use_up(&self, proven: &Proven, winner: &Identity) -> Result<(), Reason> {
        let mut token = proven.token.clone();
        token.record.uses_left = token.record.uses_left.saturating_sub(1);
        token.redeemed_by = Some(winner.to_string());
        let key = token_key(token.record.id)?;
        let expected = Expected::At(proven.revision);
        match self.inner.records.put(&key, expected, &token).await {
            Ok(_) => Ok(()),
            Err(ControlError::Conflict(_)) => Err(Reason::LostRace),
            Err(error) => Err(error.into()),
        }
    }

    /// An identity that nobody asked for: control chooses it.
    async fn new_agent(
        &self,
        tenant: &TenantName,
        connector: &ConnectorName,
    ) -> Result<(AgentIdentity, Document), Reason> {
        let invited = self
            .find(ResourceKind::Connector, Some(tenant), connector.as_str())
            .await?;
        let (invited, _) = invited.ok_or(Reason::NotInvited)?;
        if self
            .find(ResourceKind::Tenant, None, tenant.as_str())
            .await?
            .is_none()
            || self.is_revoked(tenant, connector, None).await?
        {
            return Err(Reason::NotInvited);
        }
        if self.count_agents(tenant, connector).await? >= MAX_AGENTS {
            return Err(Reason::TooManyAgents);
        }
        let agent = AgentId::random();
        let mut document = Document::new(
            ResourceKind::Agent,
            Some(tenant.clone()),
            &agent.to_string(),
        )
        .map_err(ControlError::from)?;
        let approve = invited
            .view::<ConnectorSpec>()
            .map_err(ControlError::from)?
            .approve;
        let approved = approve == Approval::Auto;
        document.spec.insert("approved".to_owned(), approved.into());
        document.set_status("connector", connector);
        document.set_status("joined", Timestamp::from(self.now()));
        let identity = AgentIdentity {
            trust_domain: self.trust_domain().clone(),
            tenant: tenant.clone(),
            connector: connector.clone(),
            agent,
        };
        document.set_status("id", &identity);
        Ok((identity, document))
    }

    async fn count_agents(
        &self,
        tenant: &TenantName,
        connector: &ConnectorName,
    ) -> Result<usize, ControlError> {
        let agents = self.documents(&agents_of(tenant)?).await?;
        let of_connector =
            |agent: &Document| agent.status_text("connector") == Some(connector.as_str());
        Ok(agents
            .iter()
            .filter(|(agent, _)| of_connector(agent))
            .count())
    }

    async fn new_replica(
        &self,
        region: &Region,
        zone: &Zone,
    ) -> Result<(PlaneIdentity, Vec<String>), Reason> {
        let plane = self.find(ResourceKind::Plane, None, zone.as_str()).await?;
        let (plane, _) = plane.ok_or(Reason::NotInvited)?;
        let plane: PlaneSpec = plane.view().map_err(ControlError::from)?;
        if plane.region != *region {
            return Err(Reason::NotInvited);
        }
        let identity = PlaneIdentity {
            trust_domain: self.trust_domain().clone(),
            region: region.clone(),
            zone: zone.clone(),
            replica: ReplicaId::random(),
        };
        Ok((identity, plane.dns_names))
    }

    pub(crate) fn issue(
        &self,
        csr: &VerifiedCsr,
        id: &Identity,
        hosts: &[String],
    ) -> Result<Chain, ControlError> {
        let (authority, now) = (self.inner.records.authority(), self.now());
        let chain = match id {
            Identity::Agent(agent) => authority.issue_agent(csr, agent, LEAF_LIFETIME, now),
            Identity::Plane(plane) => authority.issue_plane(csr, plane, hosts, LEAF_LIFETIME, now),
        };
        Ok(chain?)
    }
}

pub(crate) fn agents_of(tenant: &TenantName) -> Result<Scope, ControlError> {
    let tenant = tenant.as_str().parse()?;
    Ok(Scope::Tenant(ResourceKind::Agent.store(), tenant))
}

pub(crate) fn subject_of(id: &Identity) -> Subject {
    match id {
        Identity::Agent(agent) => Subject::new(Some(&agent.tenant), "agent", agent.agent),
        Identity::Plane(plane) => Subject::new(None, "plane", &plane.zone),
    }
}

impl Reason {
    /// One answer to everything that is the newcomer's doing.
    fn told(&self) -> JoinRefusal {
        match self {
            Self::UnknownToken
            | Self::Proof(_)
            | Self::EarlierEpoch
            | Self::LostRace
            | Self::NotInvited
            | Self::TooManyAgents => JoinRefusal::Refused,
            Self::Control(_) => JoinRefusal::Unavailable,
        }
    }
}

/// The view of an agent's own document that joining and renewing share.
pub(crate) fn is_held(agent: &Document) -> Result<bool, ControlError> {
    Ok(agent.view::<AgentSpec>()?.locked)
}
