//! The life of one connection of an agent: receive, greet, admit, register, serve.
//!
//! The wire's machine decides about frames and liveness, and the tunnel's driver moves them; here
//! is what the relay does about it. When the agent drains, when this replica leaves, when the
//! certificate ends or is revoked, the same loop hears of it, and the machine closes the connection.

use std::sync::Arc;
use std::time::Instant;

use culvert_tunnel::Connection;
use culvert_tunnel::control::DriveEnd;
use culvert_wire::{Acceptor, AcceptorCommand, AcceptorEvent, Code, Hello, Reject};
use tokio::sync::mpsc;
use tokio::time::{self, timeout, timeout_at};

use crate::admit::{Ticket, admit_link};
use crate::book::Newcomer;
use crate::directory::Registration;
use crate::entry::{Place, Reception};
use crate::handle::{Errand, Link};
use crate::limits::{CONTROL_EVENTS, CONTROL_ORDERS, GREETING_WAIT, TURNED_AWAY_WAIT};
use crate::policy::{Rejected, service_bound, statement};
use crate::relay::Core;
use crate::serving::{Serving, order};

/// Serves a connection whose handshake is done, until it is closed.
pub(crate) async fn run(core: Arc<Core>, connection: Connection) {
    match core.receive(connection.peer()) {
        Reception::Welcome(place) => drive(core, connection, place, None).await,
        Reception::Tell(rejected, place) => {
            note_turned_away(&core, &connection, rejected);
            let told = drive(core, connection.clone(), place, Some(rejected));
            if timeout(TURNED_AWAY_WAIT, told).await.is_err() {
                connection.close(rejected.code(), "");
            }
        }
        Reception::Close(rejected) => {
            note_turned_away(&core, &connection, rejected);
            connection.close(rejected.code(), "");
        }
    }
}

/// Counts it once, whichever way the peer is then told.
fn note_turned_away(core: &Core, connection: &Connection, rejected: Rejected) {
    let (code, peer) = (rejected.code(), &connection.peer().identity);
    // No louder than a refused handshake: whoever does this may do it as often.
    tracing::info!(%peer, remote = %connection.remote(), %code, reason = %rejected, "link rejected");
    core.metrics.refused(code);
}

/// Runs the control stream to its end. Who is turned away is told so in answer to its `Hello`.
async fn drive(
    core: Arc<Core>,
    connection: Connection,
    place: Place,
    turned_away: Option<Rejected>,
) {
    let peer = connection.peer().identity.to_string();
    let greet_by = time::Instant::now() + GREETING_WAIT;
    let Ok(Ok(stream)) = timeout_at(greet_by, connection.accept_control()).await else {
        connection.close(Code::Protocol, "");
        return tracing::debug!(%peer, "no control stream");
    };
    let (orders, commands) = mpsc::channel(CONTROL_ORDERS);
    let (tell, events) = mpsc::channel(CONTROL_EVENTS);
    let session = Session {
        core,
        connection,
        orders,
        events,
        place,
        greet_by,
    };
    let driver = stream.drive(Acceptor::new(Instant::now()), commands, tell);
    let (end, ()) = tokio::join!(driver, session.live(turned_away));
    match end {
        DriveEnd::Machine(end) => tracing::info!(%peer, ?end, "link ended"),
        DriveEnd::Connection(end) => tracing::info!(%peer, %end, "link lost"),
        DriveEnd::Stream(error) => tracing::warn!(%peer, %error, "link closed: bad control stream"),
        DriveEnd::Stalled => {
            tracing::warn!(%peer, "link closed: the agent reads no control frames")
        }
        DriveEnd::Abandoned => tracing::debug!(%peer, "link abandoned"),
    }
}

/// One connection before it is registered.
struct Session {
    core: Arc<Core>,
    connection: Connection,
    orders: mpsc::Sender<AcceptorCommand>,
    events: mpsc::Receiver<AcceptorEvent>,
    /// It is counted until it is registered.
    place: Place,
    greet_by: time::Instant,
}

impl Session {
    async fn live(mut self, turned_away: Option<Rejected>) {
        let Some(hello) = self.greeted().await else {
            return;
        };
        if let Some(rejected) = turned_away {
            return self.tell(rejected).await;
        }
        let registered = match admit_link(&self.core, &self.connection, &hello).await {
            Ok(ticket) => self.register(ticket, hello),
            Err(rejected) => Err(rejected),
        };
        match registered {
            Ok((registration, errands)) => self.serve(registration, errands).await,
            Err(rejected) => self.reject(rejected).await,
        }
    }

    /// Waits for the `Hello`, and ends whoever is late.
    async fn greeted(&mut self) -> Option<Hello> {
        // The machine's first event, and it has no other one before it is ordered something.
        match timeout_at(self.greet_by, self.events.recv()).await {
            Ok(Some(AcceptorEvent::Hello(hello))) => Some(*hello),
            Ok(_) => None,
            Err(_) => {
                self.connection.close(Code::Protocol, "no greeting in time");
                None
            }
        }
    }

    async fn reject(self, rejected: Rejected) {
        let code = rejected.code();
        let peer = &self.connection.peer().identity;
        tracing::warn!(%peer, remote = %self.connection.remote(), %code, reason = %rejected, "link rejected");
        self.core.metrics.refused(code);
        self.tell(rejected).await;
    }

    /// Answers the `Hello` with a rejection, and with control's statement where there is one.
    async fn tell(mut self, rejected: Rejected) {
        let code = rejected.code();
        let is_revoked = rejected == Rejected::Revoked;
        let signed =
            is_revoked.then(|| statement(self.connection.peer(), &self.core.admission.borrow()));
        let signed = signed.flatten();
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
        hello: Hello,
    ) -> Result<(Registration<Link>, mpsc::Receiver<Errand>), Rejected> {
        let Ticket {
            admitted,
            session,
            attaches,
            replaced,
        } = ticket;
        let newcomer = Newcomer {
            session,
            attaches,
            tenant: admitted.identity.tenant.clone(),
            connector: admitted.identity.connector.clone(),
            agent: admitted.identity.agent,
            instance: hello.instance,
            held: admitted.held,
            bound: service_bound(&self.core.admission.borrow(), &admitted.identity),
            offer: hello.offer,
        };
        let (link, errands) = Link::new(self.connection.clone());
        let registration = self
            .core
            .directory
            .register(newcomer, link, Instant::now())?;
        for old in replaced {
            old.handle.replaced();
        }
        let peer = &self.connection.peer().identity;
        let (group, held) = (self.connection.group(), admitted.held);
        let id = registration.entry().id;
        tracing::info!(%peer, session = %id, group, held, remote = %self.connection.remote(), "link up");
        Ok((registration, errands))
    }

    async fn serve(self, registration: Registration<Link>, errands: mpsc::Receiver<Errand>) {
        let Self {
            core,
            connection,
            orders,
            events,
            place,
            ..
        } = self;
        drop(place);
        order(
            &orders,
            AcceptorCommand::Welcome(core.welcome(registration.entry().id.session)),
        );
        let serving = Serving::new(core, connection, registration, orders);
        serving.run(events, errands).await;
    }
}
