//! Both control machines over a real link.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use culvert_tunnel::limits::{CONTROL_FULL_LOOK, CONTROL_STALL};
use culvert_tunnel::{Connection, ConnectionEnd, DriveEnd, Driven, OpenError, UdpOptions};
use culvert_wire::{
    Acceptor, AcceptorCommand, AcceptorEvent, Code, ControlFrame, Dialer, DialerCommand,
    DialerEvent, Drain, End, Hello, InstanceId, Machine, Offer, PlaneName, Reject, ReplicaId,
    SessionId, Settings, Welcome,
};
use tokio::sync::mpsc;

use crate::raw::{RawAgent, RawRelay};
use crate::world::{Link, Running, done, ok, post, run};

/// One driven end.
struct End1<C, E> {
    commands: mpsc::Sender<C>,
    events: mpsc::Receiver<E>,
    driving: Running<DriveEnd>,
}

impl<C, E: std::fmt::Debug> End1<C, E> {
    async fn event(&mut self) -> E {
        done("event", self.events.recv())
            .await
            .expect("the driver is gone")
    }

    async fn command(&self, command: C) {
        assert!(
            self.commands.send(command).await.is_ok(),
            "the driver is gone"
        );
    }
}

type AgentEnd = End1<DialerCommand, DialerEvent>;
type RelayEnd = End1<AcceptorCommand, AcceptorEvent>;

async fn drive(link: &Link) -> (AgentEnd, RelayEnd) {
    (drive_agent(&link.agent).await, drive_relay(&link.relay))
}

async fn drive_agent(connection: &Connection) -> AgentEnd {
    let stream = connection.open_control().await.unwrap();
    let (commands, inlet) = mpsc::channel(8);
    let (outlet, events) = mpsc::channel(8);
    let driving = run(stream.drive(Dialer::new(Instant::now(), hello()), inlet, outlet));
    End1 {
        commands,
        events,
        driving,
    }
}

fn drive_relay(connection: &Connection) -> RelayEnd {
    let connection = connection.clone();
    let (commands, inlet) = mpsc::channel(8);
    let (outlet, events) = mpsc::channel(8);
    let driving = run(async move {
        let stream = connection.accept_control().await.unwrap();
        stream
            .drive(Acceptor::new(Instant::now()), inlet, outlet)
            .await
    });
    End1 {
        commands,
        events,
        driving,
    }
}

async fn greet(agent: &mut AgentEnd, relay: &mut RelayEnd) {
    assert_eq!(relay.event().await, AcceptorEvent::Hello(Box::new(hello())));
    relay.command(AcceptorCommand::Welcome(welcome())).await;
    assert_eq!(agent.event().await, DialerEvent::Welcome(welcome()));
}

#[tokio::test]
async fn a_session_is_greeted_offered_and_drained() {
    let link = Link::up().await;
    let (mut agent, mut relay) = drive(&link).await;
    greet(&mut agent, &mut relay).await;

    let offer = Offer {
        seq: 2,
        services: Vec::new(),
    };
    agent.command(DialerCommand::Offer(offer.clone())).await;
    assert_eq!(relay.event().await, AcceptorEvent::Offer(offer));

    let (mut call, mut taken) = link.call(post()).await;
    let timeout = Duration::from_secs(30);
    agent.command(DialerCommand::Drain { timeout }).await;
    assert_eq!(relay.event().await, AcceptorEvent::Draining { timeout });
    // Binding: no call is opened any more, while the one that had begun goes on.
    assert_eq!(
        link.relay.open_call(post()).await.unwrap_err(),
        OpenError::Draining
    );
    taken.answer.head(ok()).await.unwrap();
    taken.answer.end(http::HeaderMap::new()).await.unwrap();
    done("head", call.answer.head()).await.unwrap();
    done("end", call.answer.next()).await.unwrap();
    drop((call, taken.body));
    let ended = agent.driving.output("drained").await;
    assert_eq!(ended, DriveEnd::Machine(End::Drained { clean: true }));
    let ended = relay.driving.output("left").await;
    assert!(
        matches!(
            ended,
            DriveEnd::Machine(End::Drained { .. } | End::Left { .. })
                | DriveEnd::Connection(ConnectionEnd::Peer {
                    code: Code::Draining,
                    ..
                })
        ),
        "{ended:?}"
    );
}

#[tokio::test]
async fn a_replica_that_leaves_keeps_an_idle_link_until_no_calls_come() {
    let link = Link::up().await;
    let (mut agent, mut relay) = drive(&link).await;
    greet(&mut agent, &mut relay).await;
    let (leave_in, smear) = (Duration::from_secs(60), Duration::ZERO);
    relay
        .command(AcceptorCommand::GoAway { leave_in, smear })
        .await;
    assert!(matches!(agent.event().await, DialerEvent::GoAway(_)));
    let (call, taken) = link.call(post()).await;
    relay.command(AcceptorCommand::EndCalls).await;
    assert_eq!(relay.event().await, AcceptorEvent::CallsEnd);
    assert_eq!(
        link.relay.open_call(post()).await.unwrap_err(),
        OpenError::Draining
    );
    assert_eq!(link.relay.end(), None, "a call is in flight");
    drop((call, taken));
    let ended = relay.driving.output("left").await;
    assert_eq!(ended, DriveEnd::Machine(End::Left { clean: true }));
}

/// The last words take a round trip, and a call that was opened in it would be cut.
#[tokio::test]
async fn no_call_is_opened_while_the_last_words_are_on_their_way() {
    let link = Link::up().await;
    let (mut agent, mut relay) = drive(&link).await;
    greet(&mut agent, &mut relay).await;
    relay.command(AcceptorCommand::Close(Code::Duplicate)).await;
    // The driver's turn comes when this one yields; the agent reads nothing meanwhile.
    tokio::task::yield_now().await;
    assert_eq!(
        link.relay.open_call(post()).await.unwrap_err(),
        OpenError::Draining
    );
    relay.driving.output("closed").await;
}

#[tokio::test]
async fn a_rejection_arrives_before_the_close_that_follows_it() {
    for _ in 0..20 {
        let link = Link::up().await;
        let (mut agent, mut relay) = drive(&link).await;
        relay.event().await;
        let reject = Reject {
            minimum: Some(3),
            ..Reject::new(Code::Upgrade)
        };
        relay.command(AcceptorCommand::Reject(reject.clone())).await;
        assert_eq!(agent.event().await, DialerEvent::Rejected(reject));
        let ended = agent.driving.output("rejected").await;
        assert_eq!(ended, DriveEnd::Machine(End::Rejected(Code::Upgrade)));
        relay.driving.output("closed").await;
    }
}

#[tokio::test]
async fn a_probe_that_the_machine_asks_for_is_answered_over_the_link() {
    let link = Link::up().await;
    let (mut agent, mut relay) = drive(&link).await;
    greet(&mut agent, &mut relay).await;
    let echo = run(crate::world::echo_all(link.agent.clone()));
    relay.command(AcceptorCommand::Suspect).await;
    let AcceptorEvent::Probe { nonce } = relay.event().await else {
        panic!("no probe")
    };
    done("probe", link.relay.probe(nonce)).await.unwrap();
    relay
        .command(AcceptorCommand::ProbeAnswered { nonce })
        .await;
    link.relay.close(Code::Draining, "");
    echo.output("echo ends").await;
    let ended = agent.driving.output("lost").await;
    assert!(
        matches!(ended, DriveEnd::Connection(ConnectionEnd::Peer { .. })),
        "{ended:?}"
    );
}

#[tokio::test]
async fn garbage_on_the_control_stream_closes_the_link_with_a_code() {
    let unknown: &[u8] = &[63, 0, 0, 0, 0];
    let too_long: &[u8] = &[1, 0xff, 0xff, 0xff, 0xff];
    let misplaced: &[u8] = &[2, 0, 0, 0, 1, 0xa0];
    let call: &[u8] = &[34, 0, 0, 0, 0];
    for (bytes, code) in [
        (unknown, Code::UnknownCritical),
        (too_long, Code::Limit),
        (misplaced, Code::Protocol),
        (call, Code::Protocol),
    ] {
        let peer = RawAgent::up().await;
        let relay = drive_relay(&peer.relay);
        let (mut send, _recv) = peer.agent.open_bi().await.unwrap();
        send.write_all(bytes).await.unwrap();
        let ended = relay.driving.output("ended").await;
        assert!(
            matches!(ended, DriveEnd::Stream(_) | DriveEnd::Machine(_)),
            "{ended:?}"
        );
        let closed = done("closed", peer.agent.closed()).await;
        assert_eq!(closed, application_close(&closed, code));

        let peer = RawRelay::up().await;
        let agent = drive_agent(&peer.agent).await;
        let (mut send, _recv) = done("control", peer.relay.accept_bi()).await.unwrap();
        // A rejection that cannot be decoded, in place of the frame that an agent may get.
        let bytes = if bytes == misplaced {
            &[1, 0, 0, 0, 1, 0xa0]
        } else {
            bytes
        };
        send.write_all(bytes).await.unwrap();
        let ended = agent.driving.output("ended").await;
        assert!(
            matches!(ended, DriveEnd::Stream(_) | DriveEnd::Machine(_)),
            "{ended:?}"
        );
        let closed = done("closed", peer.relay.closed()).await;
        assert_eq!(closed, application_close(&closed, code));
    }
}

#[tokio::test]
async fn a_control_stream_that_ends_ends_the_link() {
    for reset in [true, false] {
        let peer = RawAgent::up().await;
        let relay = drive_relay(&peer.relay);
        let (mut send, _recv) = peer.agent.open_bi().await.unwrap();
        send.write_all(&[1]).await.unwrap();
        if reset {
            send.reset(0_u32.into()).unwrap();
        } else {
            send.finish().unwrap();
        }
        let ended = relay.driving.output("ended").await;
        assert!(matches!(ended, DriveEnd::Stream(_)), "{ended:?}");
        let closed = done("closed", peer.agent.closed()).await;
        assert_eq!(closed, application_close(&closed, Code::AgentGone));
    }
}

/// An agent's process may end before the close that follows its last word has left.
#[tokio::test]
async fn an_agent_that_drained_and_went_without_a_close_has_drained() {
    let peer = RawAgent::up().await;
    let mut relay = drive_relay(&peer.relay);
    let (mut send, _recv) = peer.agent.open_bi().await.unwrap();
    send.write_all(&frame(ControlFrame::Hello(hello())))
        .await
        .unwrap();
    relay.event().await;
    relay.command(AcceptorCommand::Welcome(welcome())).await;
    let drain = ControlFrame::Drain(Drain { timeout_ms: 1_000 });
    send.write_all(&frame(drain)).await.unwrap();
    assert!(matches!(
        relay.event().await,
        AcceptorEvent::Draining { .. }
    ));
    send.finish().unwrap();
    let ended = relay.driving.output("ended").await;
    assert_eq!(ended, DriveEnd::Machine(End::Drained { clean: true }));
}

/// Has always something to say, as a machine has whose ping is due.
struct Talker {
    turns: Arc<AtomicUsize>,
}

impl Machine for Talker {
    type Command = DialerCommand;
    type Event = DialerEvent;

    fn observe(&mut self, _now: Instant, _seen: culvert_wire::Observation) {
        self.turns.fetch_add(1, Ordering::SeqCst);
    }

    fn handle_command(&mut self, _now: Instant, _command: DialerCommand) {}

    fn handle_frame(
        &mut self,
        _now: Instant,
        _frame: ControlFrame,
    ) -> Result<(), culvert_wire::Violation> {
        Ok(())
    }

    fn handle_timeout(&mut self, _now: Instant) {}

    fn poll_event(&mut self) -> Option<DialerEvent> {
        None
    }

    fn poll_frame(&mut self, _now: Instant) -> Option<ControlFrame> {
        Some(ControlFrame::Planes(vec![0; 32 << 10].into()))
    }

    fn poll_timeout(&self) -> Option<Instant> {
        Some(Instant::now())
    }

    fn end(&self) -> Option<End> {
        None
    }
}

impl Driven for Talker {
    fn ends_calls(_event: &DialerEvent) -> bool {
        false
    }
}

#[tokio::test]
async fn a_peer_that_reads_no_control_frames_ends_the_link_and_takes_no_core() {
    let peer = RawRelay::up().await;
    let stream = peer.agent.open_control().await.unwrap();
    let turns = Arc::new(AtomicUsize::new(0));
    let talker = Talker {
        turns: turns.clone(),
    };
    let (_commands, inlet) = mpsc::channel(8);
    let (outlet, _events) = mpsc::channel(8);
    let started = Instant::now();
    let driving = run(stream.drive(talker, inlet, outlet));
    let (_send, _recv) = done("control", peer.relay.accept_bi()).await.unwrap();
    assert_eq!(driving.output("stalled").await, DriveEnd::Stalled);
    let (took, turns) = (started.elapsed(), turns.load(Ordering::SeqCst));
    println!("stalled after {took:?}, {turns} turns");
    assert!(took >= CONTROL_STALL && took < CONTROL_STALL * 5);
    // The frames that the window takes, and a look now and then while nothing goes.
    let looks = took.as_millis() / CONTROL_FULL_LOOK.as_millis();
    assert!(turns as u128 <= 100 + 2 * looks, "{turns} turns");
    let closed = done("closed", peer.relay.closed()).await;
    assert_eq!(closed, application_close(&closed, Code::AgentGone));
}

#[tokio::test]
async fn an_owner_that_is_gone_ends_the_link() {
    let link = Link::up().await;
    let (agent, relay) = drive(&link).await;
    drop(relay.events);
    assert_eq!(relay.driving.output("ended").await, DriveEnd::Abandoned);
    let ended = agent.driving.output("ended").await;
    assert!(matches!(ended, DriveEnd::Connection(_)), "{ended:?}");
}

#[tokio::test]
async fn a_path_that_went_silent_is_found_dead_by_both_ends() {
    use std::sync::atomic::AtomicBool;

    use culvert_tunnel::udp_path::{Tap, Verdict};

    let dead = Arc::new(AtomicBool::new(false));
    let switch = dead.clone();
    let tap: Tap = Arc::new(move |_| {
        if switch.load(Ordering::SeqCst) {
            Verdict::Drop
        } else {
            Verdict::Pass
        }
    });
    let udp = UdpOptions {
        tap: Some(tap),
        ..UdpOptions::default()
    };
    let link = Link::up_with(udp.clone(), udp).await;
    let (mut agent, mut relay) = drive(&link).await;
    greet(&mut agent, &mut relay).await;
    dead.store(true, Ordering::SeqCst);
    let started = Instant::now();
    // An idle link pings every 3 s, and a dead one is silent for 1 s after a ping.
    let bound = Duration::from_secs(4);
    let ended = agent.driving.output("agent").await;
    println!("agent: dead after {:?}", started.elapsed());
    assert_eq!(ended, DriveEnd::Machine(End::TransportDead));
    assert!(started.elapsed() < bound * 5);
    // The events have to be taken, a probe among them.
    let draining = run(async move { while relay.events.recv().await.is_some() {} });
    let ended = relay.driving.output("relay").await;
    println!("relay: dead after {:?}", started.elapsed());
    assert_eq!(ended, DriveEnd::Machine(End::TransportDead));
    draining.output("draining").await;
}

fn frame(frame: ControlFrame) -> BytesMut {
    let mut bytes = BytesMut::new();
    frame.encode(&mut bytes).unwrap();
    bytes
}

fn hello() -> Hello {
    Hello {
        version: culvert_wire::VERSION,
        features: Vec::new(),
        instance: InstanceId::from_bytes([1; 16]),
        attach: None,
        offer: Offer {
            seq: 1,
            services: Vec::new(),
        },
    }
}

fn welcome() -> Welcome {
    Welcome {
        session: SessionId::from_bytes([2; 16]),
        replica: ReplicaId::from_bytes([3; 16]),
        plane: PlaneName {
            region: "US".to_owned(),
            zone: "ORF".to_owned(),
        },
        siblings: Vec::new(),
        settings: Settings::default(),
        features: Vec::new(),
    }
}

/// The close that is expected, with whatever words came with it.
fn application_close(seen: &quinn::ConnectionError, code: Code) -> quinn::ConnectionError {
    let reason = match seen {
        quinn::ConnectionError::ApplicationClosed(close) => close.reason.clone(),
        other => panic!("{other}"),
    };
    quinn::ConnectionError::ApplicationClosed(quinn::ApplicationClose {
        error_code: u32::from(code.to_u16()).into(),
        reason,
    })
}
