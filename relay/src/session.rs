//! The life of one connection of an agent: greet, admit, register, serve.
//!
//! The wire's machine decides about frames and liveness, and the tunnel's driver moves them; here
//! is what the relay does about it. When the agent drains, when this replica leaves, when the
//! certificate ends or is revoked, the same loop hears of it, and the machine closes the connection.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use culvert_tunnel::Connection;
use culvert_tunnel::control::DriveEnd;
use culvert_wire::{
    Acceptor, AcceptorCommand, AcceptorEvent, Ask, CallId, CallKnowledge, Code, Hello, Offer,
    Reject, Renewed,
};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::admit::{Ticket, admit_link};
use crate::directory::{Newcomer, Registration};
use crate::join::{ControlRequest, JoinRefusal, ask_control};
use crate::limits::{
    CONTROL_EVENTS, CONTROL_ORDERS, ERRANDS, LIFETIME_CHECK, RENEW_ANSWER_WAIT, REVOKED_NOTICE,
};
use crate::metrics::{LinkCount, LinkLabels};
use crate::policy::{Rejected, allowed_offer, keep, statement};
use crate::relay::{Core, Phase};
use crate::status::transport;

/// What a registered link is used through.
#[derive(Debug)]
pub struct Link {
    connection: Connection,
    errands: mpsc::Sender<Errand>,
    since: SystemTime,
}

/// What others ask of a link's session.
#[derive(Debug)]
enum Errand {
    /// Ask the agent about a call.
    Ask(Ask, oneshot::Sender<CallKnowledge>),
    /// Somebody doubts that the agent serves.
    Suspect,
    /// A newer link has taken its place.
    Replaced,
}

impl Link {
    pub(crate) fn connection(&self) -> &Connection {
        &self.connection
    }

    pub(crate) fn since(&self) -> SystemTime {
        self.since
    }

    pub(crate) fn is_open(&self) -> bool {
        self.connection.end().is_none()
    }

    /// Has the agent probed soon; a session that is too busy to hear it is probed anyway.
    pub(crate) fn suspect(&self) {
        drop(self.errands.try_send(Errand::Suspect));
    }

    /// Asks the agent about a call that was sent to it so long ago over another link.
    pub(crate) async fn ask(&self, call_id: CallId, age: Duration) -> Option<CallKnowledge> {
        let (reply, answer) = oneshot::channel();
        let age_ms = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
        self.errands
            .send(Errand::Ask(Ask { call_id, age_ms }, reply))
            .await
            .ok()?;
        answer.await.ok()
    }

    fn replaced(&self) {
        if self.errands.try_send(Errand::Replaced).is_err() {
            self.connection
                .close(Code::Duplicate, "replaced by a newer link");
        }
    }
}

/// Serves a connection whose handshake is done, until it is closed.
pub(crate) async fn run(core: Arc<Core>, connection: Connection) {
    let peer = connection.peer().identity.to_string();
    let Ok(stream) = connection.accept_control().await else {
        return tracing::debug!(%peer, "no control stream");
    };
    let (orders, commands) = mpsc::channel(CONTROL_ORDERS);
    let (tell, events) = mpsc::channel(CONTROL_EVENTS);
    let session = Session {
        core,
        connection,
        orders,
        events,
    };
    let driver = stream.drive(Acceptor::new(Instant::now()), commands, tell);
    let (end, ()) = tokio::join!(driver, session.live());
    match end {
        DriveEnd::Machine(end) => tracing::info!(%peer, ?end, "link ended"),
        DriveEnd::Connection(end) => tracing::info!(%peer, %end, "link lost"),
        DriveEnd::Stream(error) => tracing::warn!(%peer, %error, "link closed: bad control stream"),
        DriveEnd::Abandoned => tracing::debug!(%peer, "link abandoned"),
    }
}

/// One connection before it is registered.
struct Session {
    core: Arc<Core>,
    connection: Connection,
    orders: mpsc::Sender<AcceptorCommand>,
    events: mpsc::Receiver<AcceptorEvent>,
}

impl Session {
    async fn live(mut self) {
        let Some(hello) = self.greeted().await else {
            return;
        };
        let registered = match admit_link(&self.core, &self.connection, &hello).await {
            Ok(ticket) => self.register(ticket, &hello),
            Err(rejected) => Err(rejected),
        };
        match registered {
            Ok((registration, errands)) => self.serve(registration, errands, hello.offer).await,
            Err(rejected) => self.reject(rejected).await,
        }
    }

    /// Waits for the `Hello`; the machine ends whoever is late.
    async fn greeted(&mut self) -> Option<Hello> {
        match self.events.recv().await? {
            AcceptorEvent::Hello(hello) => Some(*hello),
            other => {
                tracing::error!(?other, "an event before the greeting");
                None
            }
        }
    }

    async fn reject(mut self, rejected: Rejected) {
        let code = rejected.code();
        let peer = &self.connection.peer().identity;
        tracing::warn!(%peer, remote = %self.connection.remote(), %code, reason = %rejected, "link rejected");
        self.core.metrics.refused(code);
        let signed = match rejected {
            Rejected::Revoked => statement(self.connection.peer(), &self.core.admission.borrow()),
            _ => None,
        };
        order(
            &self.orders,
            AcceptorCommand::Reject(Reject {
                signed,
                ..Reject::new(code)
            }),
        );
        // The driver drops its end once the rejection is written.
        while self.events.recv().await.is_some() {}
    }

    fn register(
        &self,
        ticket: Ticket,
        hello: &Hello,
    ) -> Result<(Registration<Link>, mpsc::Receiver<Errand>), Rejected> {
        let Ticket {
            admitted,
            id,
            replaced,
        } = ticket;
        let offer = allowed_offer(
            &hello.offer.services,
            &self.core.admission.borrow(),
            &admitted.identity,
        );
        let newcomer = Newcomer {
            id,
            tenant: admitted.identity.tenant.clone(),
            connector: admitted.identity.connector.clone(),
            agent: admitted.identity.agent,
            instance: hello.instance,
            held: admitted.held,
            offer,
        };
        let (ask, errands) = mpsc::channel(ERRANDS);
        let link = Link {
            connection: self.connection.clone(),
            errands: ask,
            since: SystemTime::now(),
        };
        let registration = self
            .core
            .directory
            .register(newcomer, link, Instant::now())?;
        for old in replaced {
            old.handle.replaced();
        }
        let peer = &self.connection.peer().identity;
        let (group, held) = (self.connection.group(), admitted.held);
        tracing::info!(%peer, session = %id, group, held, remote = %self.connection.remote(), "link up");
        Ok((registration, errands))
    }

    async fn serve(
        self,
        registration: Registration<Link>,
        errands: mpsc::Receiver<Errand>,
        offer: Offer,
    ) {
        let Self {
            core,
            connection,
            orders,
            events,
        } = self;
        order(
            &orders,
            AcceptorCommand::Welcome(core.welcome(registration.entry().id.session)),
        );
        let labels = LinkLabels {
            plane: core.plane.zone.to_string(),
            transport: transport(connection.transport()),
            group: connection.group(),
        };
        let serving = Serving {
            _count: core.metrics.link(&labels),
            core,
            connection,
            registration,
            orders,
            asked: HashMap::new(),
            work: JoinSet::new(),
            offer,
        };
        serving.run(events, errands).await;
    }
}

/// One registered connection.
struct Serving {
    core: Arc<Core>,
    connection: Connection,
    registration: Registration<Link>,
    orders: mpsc::Sender<AcceptorCommand>,
    asked: HashMap<CallId, oneshot::Sender<CallKnowledge>>,
    /// Probes and renewals under way; they end with the session.
    work: JoinSet<Option<AcceptorCommand>>,
    /// What the agent offers, before the connector's bounds.
    offer: Offer,
    _count: LinkCount,
}

impl Serving {
    async fn run(
        mut self,
        mut events: mpsc::Receiver<AcceptorEvent>,
        mut errands: mpsc::Receiver<Errand>,
    ) {
        let mut admission = self.core.admission.clone();
        let mut phase = self.core.phases();
        loop {
            let check = sleep(self.until_check());
            tokio::select! {
                biased;
                event = events.recv() => match event {
                    Some(event) => self.happened(event),
                    None => return,
                },
                Some(errand) = errands.recv() => self.run_errand(errand),
                Some(done) = self.work.join_next() => {
                    if let Ok(Some(command)) = done {
                        order(&self.orders, command);
                    }
                }
                // Without its embedder the snapshot stays as it is.
                Ok(()) = admission.changed() => {
                    self.recheck();
                    self.publish_offer();
                }
                Ok(()) = phase.changed() => {
                    if *phase.borrow_and_update() != Phase::Serving {
                        order(&self.orders, self.core.go_away());
                    }
                }
                () = check => self.recheck(),
            }
        }
    }

    fn happened(&mut self, event: AcceptorEvent) {
        match event {
            AcceptorEvent::Offer(offer) => {
                self.offer = offer;
                self.publish_offer();
            }
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
        let control = self.core.control.clone();
        let leaf = self.connection.peer().clone();
        self.work.spawn(async move {
            let (reply, answer) = oneshot::channel();
            let asked = ControlRequest::Renew {
                leaf,
                request,
                reply,
            };
            let renewed = match ask_control(&control, asked, answer, RENEW_ANSWER_WAIT).await {
                Ok(issued) => Renewed::Issued(issued),
                Err(JoinRefusal::Refused) => Renewed::Refused(Code::NotAllowed),
                Err(JoinRefusal::Unavailable) => Renewed::Refused(Code::Busy),
            };
            Some(AcceptorCommand::Renewed(renewed))
        });
    }

    fn publish_offer(&self) {
        let identity = self.connection.peer().identity.agent();
        if let Some(identity) = identity {
            let offer = allowed_offer(
                &self.offer.services,
                &self.core.admission.borrow(),
                identity,
            );
            self.registration.offer(offer, Instant::now());
        }
    }

    /// Applies the present policy and the present time to the link that stands.
    fn recheck(&mut self) {
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
        match statement.filter(|_| code == Code::Revoked) {
            None => order(&self.orders, AcceptorCommand::Close(code)),
            Some(signed) => {
                order(&self.orders, AcceptorCommand::Revoked(signed));
                self.work.spawn(async move {
                    sleep(REVOKED_NOTICE).await;
                    Some(AcceptorCommand::Close(code))
                });
            }
        }
    }

    fn until_check(&self) -> Duration {
        let left = self
            .connection
            .peer()
            .not_after
            .duration_since(SystemTime::now());
        // A moment more than nothing: a clock that stands still must not make this loop spin.
        left.unwrap_or_default()
            .clamp(Duration::from_millis(50), LIFETIME_CHECK)
    }
}

/// Orders are few; a machine that does not take them is one whose peer does not read.
fn order(orders: &mpsc::Sender<AcceptorCommand>, command: AcceptorCommand) {
    if let Err(mpsc::error::TrySendError::Full(command)) = orders.try_send(command) {
        tracing::warn!(?command, "a link takes no orders");
    }
}
