//! Leaving, of either side, in the middle of answers.

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use culvert_relay::{AlreadyServed, FailCause, LinkState, NoTarget, Phase};
use culvert_wire::{Code, DialerCommand, DialerEvent, GoAway};
use http::{HeaderMap, Request, StatusCode};
use http_body::Frame;
use http_body_util::BodyExt as _;
use tokio::net::TcpStream;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use crate::agent::{NoLink, Script, TestAgent, TestLink, head, script};
use crate::world::{PATIENCE, Plan, World, done, get, meta, post, streamed, target, text};

/// Answers with a first half at once and the second when told to.
fn halves(go: &Arc<Notify>) -> Script {
    let go = Arc::clone(go);
    script(move |mut call, _| {
        let go = Arc::clone(&go);
        async move {
            call.answer.accept().await.unwrap();
            call.answer.head(head(StatusCode::OK)).await.unwrap();
            call.answer
                .data(Bytes::from_static(b"half "))
                .await
                .unwrap();
            go.notified().await;
            if call.answer.data(Bytes::from_static(b"whole")).await.is_ok() {
                call.answer.end(HeaderMap::new()).await.ok();
            }
        }
    })
}

async fn go_away(link: &mut TestLink) -> GoAway {
    link.event("GoAway", |event| {
        if let DialerEvent::GoAway(go_away) = event {
            Some(go_away)
        } else {
            None
        }
    })
    .await
}

/// Before a drain's deadline no started answer is cut, and after it nothing runs.
#[tokio::test]
async fn a_drain_finishes_what_has_begun_and_takes_nothing_new() {
    let mut world = World::new().await;
    let go = Arc::new(Notify::new());
    let agent = TestAgent::new(world.agent(), halves(&go));
    let mut link = agent.link(&world).await;
    let mut body = world.call(post("x")).await.unwrap().response.into_body();
    assert_eq!(
        done("half", body.frame())
            .await
            .unwrap()
            .unwrap()
            .into_data()
            .unwrap(),
        "half "
    );
    world.stop.cancel();
    assert_eq!(go_away(&mut link).await.leave_in_ms, 60_000);
    world.until_phase(Phase::Draining).await;
    let refused = world.call(get()).await.map(|_| ()).unwrap_err();
    assert_eq!(
        (refused.code, refused.cause),
        (Code::Draining, FailCause::Leaving)
    );
    let newcomer = TestAgent::echo(&world).dial(&world, None).await;
    assert!(matches!(newcomer, Err(NoLink::Closed(_))));
    assert!(world.is_serving());
    go.notify_one();
    let rest = done("the rest", body.collect()).await.unwrap().to_bytes();
    assert_eq!(rest, "whole");
    world.served().await;
    link.closed().await;
    assert!(world.relay.status().links.is_empty());
}

#[tokio::test]
async fn a_relay_that_drains_refuses_tcp() {
    let mut world = World::new().await;
    let go = Arc::new(Notify::new());
    let agent = TestAgent::new(world.agent(), halves(&go));
    let _link = agent.link(&world).await;
    let begun = world.call(post("x")).await.unwrap();
    world.stop.cancel();
    let refused = async {
        loop {
            match TcpStream::connect(world.relay.address()).await {
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => return,
                // Taken before the listener was closed, or reset by its end.
                Ok(_) | Err(_) => tokio::task::yield_now().await,
            }
        }
    };
    done("the refusal", refused).await;
    assert!(world.is_serving());
    go.notify_one();
    assert_eq!(text(begun).await, "half whole");
    world.served().await;
}

#[tokio::test]
async fn an_idle_relay_leaves_early() {
    let mut world = World::new().await;
    let agent = TestAgent::echo(&world);
    let link = agent.link(&world).await;
    assert_eq!(text(world.call(post("done")).await.unwrap()).await, "done");
    let started = Instant::now();
    world.stop.cancel();
    world.served().await;
    assert!(started.elapsed() < PATIENCE, "{:?}", started.elapsed());
    link.closed().await;
}

#[tokio::test]
async fn between_announcing_and_draining_calls_are_still_taken() {
    let mut world = World::new().await;
    let go = Arc::new(Notify::new());
    let agent = TestAgent::new(world.agent(), halves(&go));
    let mut link = agent.link(&world).await;
    let first = world.call(post("x")).await.unwrap();
    world.relay.announce_leaving();
    go_away(&mut link).await;
    assert_eq!(world.relay.phase(), Phase::Leaving);
    let second = world.call(post("y")).await.unwrap();
    go.notify_waiters();
    let both = async { tokio::join!(text(first), text(second)) };
    let (first, second) = done("both answers", both).await;
    assert_eq!(
        (first.as_str(), second.as_str()),
        ("half whole", "half whole")
    );
    // The link that is idle now takes a call that comes late, and then another.
    for _ in 0..20 {
        let late = world.call(post("z")).await.unwrap();
        go.notify_one();
        assert_eq!(text(late).await, "half whole");
        tokio::task::yield_now().await;
    }
    assert_eq!(link.connection.end(), None);
    assert!(world.is_serving());
    world.stop.cancel();
    world.served().await;
    link.closed().await;
}

/// The time that a drain leaves to what has begun is counted from where nothing more begins.
#[tokio::test]
async fn announcing_for_longer_than_a_drain_may_take_cuts_nothing() {
    let drain_timeout = Duration::from_millis(300);
    let plan = Plan {
        drain_timeout,
        ..Plan::default()
    };
    let mut world = World::with(plan).await;
    let go = Arc::new(Notify::new());
    let agent = TestAgent::new(world.agent(), halves(&go));
    let mut link = agent.link(&world).await;
    let begun = world.call(post("x")).await.unwrap();
    world.relay.announce_leaving();
    go_away(&mut link).await;
    let announced = Instant::now();
    while announced.elapsed() < 3 * drain_timeout {
        let late = world.call(post("z")).await.unwrap();
        drop(late);
    }
    assert_eq!(link.connection.end(), None);
    world.stop.cancel();
    world.until_phase(Phase::Draining).await;
    go.notify_waiters();
    assert_eq!(text(begun).await, "half whole");
    world.served().await;
}

/// A caller that has stopped reading may hold its upload open, and neither sends nor leaves.
#[tokio::test]
async fn the_end_of_a_relay_waits_for_no_upload() {
    let plan = Plan {
        drain_timeout: Duration::from_millis(200),
        ..Plan::default()
    };
    let mut world = World::with(plan).await;
    let agent = TestAgent::new(world.agent(), halves(&Arc::new(Notify::new())));
    let _link = agent.link(&world).await;
    let (say, pieces) = mpsc::channel(1);
    say.send(Ok(Frame::data(Bytes::from_static(b"begun"))))
        .await
        .unwrap();
    let request = Request::post("/upload").body(streamed(pieces)).unwrap();
    let call = world.relay.call(target("echo"), meta(), request);
    let answered = done("the head", call).await.unwrap();
    world.stop.cancel();
    world.served().await;
    assert!(say.is_closed(), "nobody reads the upload any more");
    drop(answered);
}

#[tokio::test]
async fn at_its_deadline_a_drain_cuts_what_is_left_and_the_cut_is_no_end() {
    let plan = Plan {
        drain_timeout: Duration::from_millis(500),
        ..Plan::default()
    };
    let mut world = World::with(plan).await;
    let agent = TestAgent::new(world.agent(), halves(&Arc::new(Notify::new())));
    let _link = agent.link(&world).await;
    let body = world.call(post("x")).await.unwrap().response.into_body();
    world.stop.cancel();
    world.served().await;
    let cut = done("the cut", body.collect())
        .await
        .map(|_| ())
        .unwrap_err();
    assert_eq!(cut.code, Code::AgentGone);
}

#[tokio::test]
async fn a_relay_that_is_dropped_ends_everything_of_it() {
    let mut world = World::new().await;
    let agent = TestAgent::new(world.agent(), halves(&Arc::new(Notify::new())));
    let link = agent.link(&world).await;
    let body = world.call(post("x")).await.unwrap().response.into_body();
    world.serving.abort_all();
    let end = done("the relay's end", world.serving.join_next())
        .await
        .unwrap();
    assert!(end.unwrap_err().is_cancelled());
    link.closed().await;
    done("the cut", body.collect())
        .await
        .map(|_| ())
        .unwrap_err();
    // Nobody publishes snapshots any more, and a call does not wait for one.
    let failed = world.call(get()).await.map(|_| ()).unwrap_err();
    assert_eq!(failed.code, Code::NoLink);
    assert_eq!(
        world.relay.serve(std::future::pending()).await,
        Err(AlreadyServed)
    );
}

#[tokio::test]
async fn an_agent_that_drains_gets_no_new_calls_and_finishes_the_old_ones() {
    let world = World::new().await;
    let go = Arc::new(Notify::new());
    let agent = TestAgent::new(world.agent(), halves(&go));
    let link = agent.link(&world).await;
    let first = world.call(post("x")).await.unwrap();
    link.order(DialerCommand::Drain {
        timeout: Duration::from_secs(60),
    })
    .await;
    world
        .until("leaving", |status| {
            status.links[0].state == LinkState::Leaving
        })
        .await;
    let refused = world.call(get()).await.map(|_| ()).unwrap_err();
    assert_eq!(refused.cause, FailCause::NoTarget(NoTarget::NotServing));
    let other = TestAgent::echo(&world);
    let _other_link = other.link(&world).await;
    assert_eq!(world.call(get()).await.unwrap().route.agent, other.id());
    go.notify_one();
    assert_eq!(text(first).await, "half whole");
    link.closed().await;
    assert_eq!(agent.arrived(), 1);
}
