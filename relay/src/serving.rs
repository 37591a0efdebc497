//! A registered link: what its agent says, what is asked of it, and what ends it.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use culvert_tunnel::Connection;
use culvert_wire::{AcceptorCommand, AcceptorEvent, CallId, CallKnowledge, Code, Renewed};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::directory::Registration;
use crate::handle::{Errand, Link};
use crate::join::JoinRefusal;
use crate::limits::{LIFETIME_CHECK, LIFETIME_CHECK_MIN, RENEW_ANSWER_WAIT, REVOKED_NOTICE};
use crate::metrics::{LinkCount, LinkLabels};
use crate::policy::{Rejected, keep, service_bound, statement};
use crate::relay::{Core, Phase};
use crate::status::transport;

/// One registered connection.
pub(crate) struct Serving {
    core: Arc<Core>,
    connection: Connection,
    registration: Registration<Link>,
    orders: mpsc::Sender<AcceptorCommand>,
    asked: HashMap<CallId, oneshot::Sender<CallKnowledge>>,
    /// Probes and renewals under way; they end with the session.
    work: JoinSet<Option<AcceptorCommand>>,
    /// It was cut off, and only waits for its end.
    cut: bool,
    _count: LinkCount,
}

impl Serving {
    pub(crate) fn new(
        core: Arc<Core>,
        connection: Connection,
        registration: Registration<Link>,
        orders: mpsc::Sender<AcceptorCommand>,
    ) -> Self {
        let labels = LinkLabels {
            plane: core.plane.zone.to_string(),
            transport: transport(connection.transport()),
            group: connection.group(),
        };
        Self {
            _count: core.metrics.link(&labels),
            core,
            connection,
            registration,
            orders,
            asked: HashMap::new(),
            work: JoinSet::new(),
            cut: false,
        }
    }

    /// Serves until the machine has no more events, which is when the connection is closed.
    pub(crate) async fn run(
        mut self,
        mut events: mpsc::Receiver<AcceptorEvent>,
        mut errands: mpsc::Receiver<Errand>,
    ) {
        let mut admission = self.core.admission.clone();
        let mut phase = self.core.phases();
        // This replica may have begun to leave while the link was being registered.
        phase.mark_changed();
        // One timer for all turns: however much happens, the end of a leaf is noticed.
        let mut check = pin!(sleep(self.until_check()));
        loop {
            tokio::select! {
                biased;
                event = events.recv() => match event {
                    Some(event) => self.happened(event),
                    None => return,
                },
                Some(errand) = errands.recv() => self.run_errand(errand),
                Some(done) = self.work.join_next() => {
                    match done {
                        Ok(Some(AcceptorCommand::Close(code))) => self.close(code),
                        Ok(Some(command)) => order(&self.orders, command),
                        Ok(None) | Err(_) => {}
                    }
                }
                // Without its embedder the snapshot stays as it is.
                Ok(()) = admission.changed() => {
                    self.recheck();
                    self.bind_offer();
                }
                Ok(()) = phase.changed() => {
                    let phase = *phase.borrow_and_update();
                    self.leave(phase);
                }
                () = &mut check => {
                    self.recheck();
                    check.as_mut().reset(tokio::time::Instant::now() + self.until_check());
                }
            }
        }
    }

    /// The links stay for as long as this replica takes calls.
    fn leave(&self, phase: Phase) {
        if phase != Phase::Serving {
            order(&self.orders, self.core.go_away());
        }
        if phase == Phase::Draining {
            order(&self.orders, AcceptorCommand::EndCalls);
        }
    }

    fn happened(&mut self, event: AcceptorEvent) {
        match event {
            AcceptorEvent::Offer(offer) => self.registration.offer(offer, Instant::now()),
            AcceptorEvent::Health(health) => self.registration.health(&health.services),
            AcceptorEvent::Probe { nonce } => self.probe(nonce),
            AcceptorEvent::ServingDead => {
                tracing::warn!(link = %self.registration.entry().id, "the agent does not serve calls");
                self.registration.silent(true);
            }
            AcceptorEvent::ServingBack => self.registration.silent(false),
            AcceptorEvent::Answered(answer) => {
                if let Some(reply) = self.asked.remove(&answer.call_id) {
                    // Whoever asked may have stopped waiting.
                    reply.send(answer.knowledge).ok();
                }
            }
            AcceptorEvent::Renew(request) => self.renew(request),
            AcceptorEvent::Draining { timeout } => {
                tracing::info!(link = %self.registration.entry().id, ?timeout, "the agent drains");
                self.registration.leaving();
            }
            AcceptorEvent::CallsEnd => self.registration.leaving(),
            AcceptorEvent::Hello(_) => {}
        }
    }

    fn run_errand(&mut self, errand: Errand) {
        match errand {
            Errand::Ask(ask, reply) => {
                self.asked.insert(ask.call_id, reply);
                order(&self.orders, AcceptorCommand::Ask(ask));
            }
            Errand::Suspect => order(&self.orders, AcceptorCommand::Suspect),
            Errand::Replaced => order(&self.orders, AcceptorCommand::Close(Code::Duplicate)),
        }
    }

    /// Opens a probe beside the calls; one that is not answered says nothing by itself.
    fn probe(&mut self, nonce: u64) {
        let connection = self.connection.clone();
        self.work.spawn(async move {
            let answered = connection.probe(nonce).await.is_ok();
            answered.then_some(AcceptorCommand::ProbeAnswered { nonce })
        });
    }

    /// Carries a request for a certificate to control, and control's answer back.
    fn renew(&mut self, request: Bytes) {
        let peer = &self.connection.peer().identity;
        let turn = peer
            .agent()
            .and_then(|agent| self.core.renewals.begin(agent));
        let Some(turn) = turn else {
            let busy = Renewed::Refused(Code::Busy);
            return order(&self.orders, AcceptorCommand::Renewed(busy));
        };
        let (control, source) = (self.core.control.clone(), self.connection.remote());
        self.work.spawn(async move {
            let carried = turn.carry(&control, source, request, RENEW_ANSWER_WAIT);
            Some(AcceptorCommand::Renewed(match carried.await {
                Ok(issued) => Renewed::Issued(issued),
                // The statement itself comes over the link.
                Err(JoinRefusal::Refused | JoinRefusal::Revoked(_)) => {
                    Renewed::Refused(Code::NotAllowed)
                }
                Err(JoinRefusal::Unavailable) => Renewed::Refused(Code::Busy),
            }))
        });
    }

    /// What the agent may offer can change without it.
    fn bind_offer(&self) {
        if let Some(identity) = self.connection.peer().identity.agent() {
            let bound = service_bound(&self.core.admission.borrow(), identity);
            self.registration.bind(bound, Instant::now());
        }
    }

    /// Applies the present policy and the present time to the link that stands.
    fn recheck(&mut self) {
        if self.cut {
            return;
        }
        let admission = self.core.admission.borrow().clone();
        match keep(
            self.connection.peer(),
            &admission,
            &self.core.plane.zone,
            SystemTime::now(),
        ) {
            Ok(admitted) => self.registration.hold(admitted.held),
            Err(rejected) => self.cut_off(rejected, statement(self.connection.peer(), &admission)),
        }
    }

    /// Ends the link for good: no call from now on, and the agent is told why before it is closed.
    fn cut_off(&mut self, rejected: Rejected, statement: Option<Bytes>) {
        let code = rejected.code();
        let link = self.registration.entry().id;
        tracing::warn!(peer = %self.connection.peer().identity, %link, %code, reason = %rejected, "link cut");
        self.registration.leaving();
        self.cut = true;
        match statement.filter(|_| code == Code::Revoked) {
            None => self.close(code),
            Some(signed) => {
                order(&self.orders, AcceptorCommand::Revoked(signed));
                self.work.spawn(async move {
                    sleep(REVOKED_NOTICE).await;
                    Some(AcceptorCommand::Close(code))
                });
            }
        }
    }

    /// Has the machine end the link. One that takes no orders is passed by: the door is shut all the same.
    fn close(&self, code: Code) {
        if self.orders.try_send(AcceptorCommand::Close(code)).is_err() {
            self.connection.close(code, "");
        }
    }

    fn until_check(&self) -> Duration {
        let left = self
            .connection
            .peer()
            .not_after
            .duration_since(SystemTime::now());
        left.unwrap_or_default()
            .clamp(LIFETIME_CHECK_MIN, LIFETIME_CHECK)
    }
}

/// Orders are few; a machine that does not take them is one whose peer does not read.
pub(crate) fn order(orders: &mpsc::Sender<AcceptorCommand>, command: AcceptorCommand) {
    if let Err(mpsc::error::TrySendError::Full(command)) = orders.try_send(command) {
        tracing::warn!(?command, "a link takes no orders");
    }
}
