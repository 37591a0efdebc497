//! A small agent: dials, says what it offers, and does with calls what the test says.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use culvert_certs::{Credentials, Expect, Identity, tls};
use culvert_tunnel::control::DriveEnd;
use culvert_tunnel::{
    Arrival, Connection, ConnectionEnd, Dialer, IncomingCall, Piece, Target, UdpOptions, Verify,
};
use culvert_wire::{
    Answer, CallMemory, Code, DialerCommand, DialerEvent, Head, Hello, InstanceId, Offer, Reject,
    ServiceOffer, SessionId, VERSION, Welcome,
};
use http::{HeaderMap, HeaderValue, StatusCode};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::world::{World, done, offer};

/// What an agent does with a call.
pub(crate) type Script =
    Arc<dyn Fn(IncomingCall, Connection) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

pub(crate) fn script<F, Fut>(run: F) -> Script
where
    F: Fn(IncomingCall, Connection) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    Arc::new(move |call, connection| Box::pin(run(call, connection)))
}

/// One start of an agent.
pub(crate) struct TestAgent {
    pub(crate) credentials: Credentials,
    pub(crate) instance: InstanceId,
    pub(crate) services: Vec<ServiceOffer>,
    pub(crate) script: Script,
    /// Calls that have arrived, over all links.
    pub(crate) calls: Arc<AtomicUsize>,
    pub(crate) memory: Arc<Mutex<CallMemory>>,
    /// Whether what serves calls answers probes.
    pub(crate) alive: Arc<AtomicBool>,
    pub(crate) dialer: Dialer,
}

/// One link of a test agent; dropped, its tasks end without a goodbye.
pub(crate) struct TestLink {
    pub(crate) connection: Connection,
    pub(crate) welcome: Welcome,
    pub(crate) orders: mpsc::Sender<DialerCommand>,
    pub(crate) events: mpsc::Receiver<DialerEvent>,
    /// Whether questions about calls are answered here.
    pub(crate) answers: Arc<AtomicBool>,
    tasks: JoinSet<Option<DriveEnd>>,
}

/// Why a dial led to no link.
#[derive(Debug)]
pub(crate) enum NoLink {
    Rejected(Reject),
    /// The connection was closed with this code before there was an answer.
    TurnedAway(Code),
    /// The connection was closed without a word on the control stream, or never stood.
    Closed(String),
}

impl From<ConnectionEnd> for NoLink {
    fn from(end: ConnectionEnd) -> Self {
        if let ConnectionEnd::Peer { code, .. } = end {
            return Self::TurnedAway(code);
        }
        Self::Closed(end.to_string())
    }
}

impl TestAgent {
    pub(crate) fn new(credentials: Credentials, script: Script) -> Self {
        Self {
            credentials,
            instance: InstanceId::from_bytes(*culvert_certs::AgentId::random().as_bytes()),
            services: vec![offer("echo")],
            script,
            calls: Arc::default(),
            memory: Arc::new(Mutex::new(CallMemory::new())),
            alive: Arc::new(AtomicBool::new(true)),
            dialer: Dialer::new(UdpOptions::default()),
        }
    }

    pub(crate) fn echo(world: &World) -> Self {
        Self::new(world.agent(), echo())
    }

    pub(crate) fn id(&self) -> culvert_certs::AgentId {
        match &self.credentials.identity {
            Identity::Agent(agent) => agent.agent,
            Identity::Plane(_) => panic!("not an agent"),
        }
    }

    pub(crate) fn arrived(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }

    pub(crate) async fn link(&self, world: &World) -> TestLink {
        self.dial(world, None).await.unwrap()
    }

    pub(crate) async fn dial(
        &self,
        world: &World,
        attach: Option<SessionId>,
    ) -> Result<TestLink, NoLink> {
        let address = world.relay.address();
        let target = Target {
            host: address.ip().to_string(),
            port: address.port(),
            addresses: vec![address.ip()],
        };
        let tls = tls::agent_link_client(&self.credentials).unwrap();
        let verify = Verify {
            bundle: self.credentials.bundle.clone(),
            expect: Expect::Plane,
        };
        let dialled = done("the dial", self.dialer.dial(&target, tls, &verify)).await;
        let connection = dialled.map_err(|error| NoLink::Closed(error.to_string()))?;
        self.greet(connection, attach).await
    }

    pub(crate) async fn greet(
        &self,
        connection: Connection,
        attach: Option<SessionId>,
    ) -> Result<TestLink, NoLink> {
        let stream = connection.open_control().await.map_err(NoLink::from)?;
        let hello = Hello {
            version: VERSION,
            features: Vec::new(),
            instance: self.instance,
            attach,
            offer: Offer {
                seq: 1,
                services: self.services.clone(),
            },
        };
        let (orders, commands) = mpsc::channel(64);
        let (tell, mut told) = mpsc::channel(64);
        let machine = culvert_wire::Dialer::new(Instant::now(), hello);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { Some(stream.drive(machine, commands, tell).await) });
        let welcome = match done("the greeting", told.recv()).await {
            Some(DialerEvent::Welcome(welcome)) => welcome,
            Some(DialerEvent::Rejected(reject)) => return Err(NoLink::Rejected(reject)),
            Some(other) => return Err(NoLink::Closed(format!("{other:?}"))),
            None => return Err(done("the close", connection.closed()).await.into()),
        };
        tasks.spawn(self.serve(connection.clone()));
        let (pass, events) = mpsc::channel(256);
        let answers = Arc::new(AtomicBool::new(true));
        tasks.spawn(answer_asks(
            Arc::clone(&self.memory),
            Arc::clone(&answers),
            told,
            orders.clone(),
            pass,
        ));
        Ok(TestLink {
            connection,
            welcome,
            orders,
            events,
            answers,
            tasks,
        })
    }

    fn serve(
        &self,
        connection: Connection,
    ) -> impl Future<Output = Option<DriveEnd>> + Send + use<> {
        let (script, calls) = (Arc::clone(&self.script), Arc::clone(&self.calls));
        let (memory, alive) = (Arc::clone(&self.memory), Arc::clone(&self.alive));
        async move {
            let mut handlers = JoinSet::new();
            while let Ok(stream) = connection.accept_call().await {
                let (script, calls) = (Arc::clone(&script), Arc::clone(&calls));
                let (memory, alive) = (Arc::clone(&memory), Arc::clone(&alive));
                let connection = connection.clone();
                handlers.spawn(async move {
                    match stream.read().await {
                        Ok(Arrival::Probe(probe)) if alive.load(Ordering::SeqCst) => {
                            probe.answer().await.ok();
                        }
                        Ok(Arrival::Probe(_)) | Err(_) => {}
                        Ok(Arrival::Call(call)) => {
                            memory
                                .lock()
                                .unwrap()
                                .opened(Instant::now(), call.open.call_id);
                            calls.fetch_add(1, Ordering::SeqCst);
                            script(*call, connection).await;
                        }
                    }
                });
            }
            None
        }
    }
}

impl TestLink {
    /// The link's next event of the kind that `pick` picks.
    pub(crate) async fn event<T>(
        &mut self,
        what: &str,
        pick: impl Fn(DialerEvent) -> Option<T>,
    ) -> T {
        done(what, async {
            loop {
                let event = self.events.recv().await;
                let event = event.unwrap_or_else(|| panic!("{what}: the link ended"));
                if let Some(found) = pick(event) {
                    return found;
                }
            }
        })
        .await
    }

    pub(crate) async fn order(&self, command: DialerCommand) {
        self.orders.send(command).await.unwrap();
    }

    /// Waits until the connection is closed, by whichever side hears of the end first.
    pub(crate) async fn closed(&self) {
        done("the end of the link", self.connection.closed()).await;
    }

    /// Leaves without a goodbye; the connection itself stays open as long as somebody holds it.
    pub(crate) fn abandon(mut self) -> Connection {
        self.tasks.abort_all();
        self.connection.clone()
    }
}

async fn answer_asks(
    memory: Arc<Mutex<CallMemory>>,
    answers: Arc<AtomicBool>,
    mut told: mpsc::Receiver<DialerEvent>,
    orders: mpsc::Sender<DialerCommand>,
    pass: mpsc::Sender<DialerEvent>,
) -> Option<DriveEnd> {
    while let Some(event) = told.recv().await {
        if let DialerEvent::Ask(ask) = event
            && answers.load(Ordering::SeqCst)
        {
            let age = Duration::from_millis(ask.age_ms);
            let knowledge = memory
                .lock()
                .unwrap()
                .asked(Instant::now(), ask.call_id, age);
            let answer = Answer {
                call_id: ask.call_id,
                knowledge,
            };
            orders.send(DialerCommand::Answer(answer)).await.ok();
        }
        // Nobody looks at most of them.
        pass.try_send(event).ok();
    }
    None
}

pub(crate) fn head(status: StatusCode) -> Head {
    let mut headers = HeaderMap::new();
    headers.insert("x-from", HeaderValue::from_static("backend"));
    Head {
        status,
        headers,
        trailer_names: Vec::new(),
    }
}

/// Answers with the request's own body, piece by piece.
pub(crate) fn echo() -> Script {
    script(|mut call, _| async move {
        call.answer.accept().await.ok();
        call.answer.head(head(StatusCode::OK)).await.ok();
        loop {
            match call.body.next().await {
                Ok(Some(Piece::Data(data))) => {
                    if call.answer.data(data).await.is_err() {
                        return;
                    }
                }
                Ok(Some(Piece::End(_)) | None) => break,
                Err(_) => return,
            }
        }
        call.answer.end(HeaderMap::new()).await.ok();
    })
}

/// Refuses every call.
pub(crate) fn refuse(code: Code) -> Script {
    script(move |call, _| async move {
        call.answer.refuse(code).await.ok();
    })
}

/// Takes every call and says nothing more, until the caller leaves; then counts that.
pub(crate) fn silent(cancelled: Arc<AtomicUsize>) -> Script {
    script(move |mut call, _| {
        let cancelled = Arc::clone(&cancelled);
        async move {
            call.answer.accept().await.ok();
            call.answer.cancelled().await;
            cancelled.fetch_add(1, Ordering::SeqCst);
        }
    })
}

/// The code with which a dial was turned away, in a rejection or at the door.
pub(crate) fn rejected(outcome: Result<TestLink, NoLink>) -> Code {
    match outcome {
        Ok(link) => panic!("the link stands: {:?}", link.welcome),
        Err(NoLink::Rejected(reject)) => reject.code,
        Err(NoLink::TurnedAway(code)) => code,
        Err(other) => panic!("not rejected in order: {other:?}"),
    }
}

/// What a dial says that did not even get a rejection.
pub(crate) fn closed(outcome: Result<TestLink, NoLink>) -> String {
    match outcome {
        Err(NoLink::Closed(reason)) => reason,
        Err(NoLink::Rejected(reject)) => panic!("got as far as a rejection: {reject:?}"),
        Err(NoLink::TurnedAway(code)) => panic!("got as far as the door: {code:?}"),
        Ok(link) => panic!("the link stands: {:?}", link.welcome),
    }
}
