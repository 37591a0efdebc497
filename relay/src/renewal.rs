//! Renewals on their way to control and back: the relay is their courier, and no more.
//!
//! Each costs control a signature and a write, so an agent has one under way at a time, over all
//! its links, and a tenant no more than its share of what control works on at once.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use culvert_certs::{AgentId, AgentIdentity, TenantName};
use tokio::sync::{mpsc, oneshot};

use crate::join::{ControlRequest, JoinRefusal, ask_control};
use crate::limits::{MAX_RENEWALS, MAX_RENEWALS_PER_TENANT};
use crate::slots::{Slot, Slots};

/// The renewals that are under way.
#[derive(Debug, Clone)]
pub(crate) struct Renewals {
    agents: Arc<Slots<AgentId>>,
    tenants: Arc<Slots<TenantName>>,
}

/// One renewal under way.
#[derive(Debug)]
pub(crate) struct Turn {
    _agent: Slot<AgentId>,
    _tenant: Slot<TenantName>,
}

impl Renewals {
    pub(crate) fn new() -> Self {
        Self {
            agents: Slots::new(MAX_RENEWALS, 1),
            tenants: Slots::new(MAX_RENEWALS, MAX_RENEWALS_PER_TENANT),
        }
    }

    /// The agent's turn, unless it has one already or too many others have.
    pub(crate) fn begin(&self, agent: &AgentIdentity) -> Option<Turn> {
        Some(Turn {
            _agent: self.agents.take(&agent.agent)?,
            _tenant: self.tenants.take(&agent.tenant)?,
        })
    }
}

impl Turn {
    /// Asks control; the turn ends with its answer, or with `wait`.
    pub(crate) async fn carry(
        self,
        control: &mpsc::Sender<ControlRequest>,
        source: SocketAddr,
        request: Bytes,
        wait: Duration,
    ) -> Result<Bytes, JoinRefusal> {
        let (reply, answer) = oneshot::channel();
        let asked = ControlRequest::Renew {
            source,
            request,
            reply,
        };
        ask_control(control, asked, answer, wait).await
    }
}
