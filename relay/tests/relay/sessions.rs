//! The sessions of an agent beside each other, and what they carry.

use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use culvert_relay::{ClonePolicy, ControlRequest, FailCause, JoinRefusal, LinkState, NoTarget};
use culvert_wire::{Code, DialerCommand, DialerEvent, Renewed, ServiceKind, ServiceOffer};
use http_body_util::Full;
use tokio::time::Instant;

use crate::agent::{TestAgent, echo, rejected, script};
use crate::world::{PATIENCE, Plan, World, done, get, meta, offer, post, target, text};

#[tokio::test]
async fn the_welcome_names_the_replica_and_its_plane() {
    let world = World::new().await;
    let link = TestAgent::echo(&world).link(&world).await;
    let status = world.relay.status();
    assert_eq!(
        (
            link.welcome.plane.region.as_str(),
            link.welcome.plane.zone.as_str()
        ),
        ("US", "ORF")
    );
    assert_eq!(link.welcome.replica.to_string(), status.replica);
    assert_eq!(status.links[0].group, "X25519MLKEM768");
    assert_eq!(
        (status.links[0].transport, status.links[0].state),
        ("quic", LinkState::Serving)
    );
}

/// At most one selectable session per agent instance and replica.
#[tokio::test]
async fn a_second_dial_of_a_live_instance_is_a_duplicate() {
    let world = World::new().await;
    let agent = TestAgent::echo(&world);
    let _first = agent.link(&world).await;
    assert_eq!(rejected(agent.dial(&world, None).await), Code::Duplicate);
    world.until_links(1).await;
    assert_eq!(
        text(world.call(post("still here")).await.unwrap()).await,
        "still here"
    );
}

#[tokio::test]
async fn a_redial_replaces_a_session_that_does_not_answer_and_its_late_goodbye_changes_nothing() {
    let world = World::new().await;
    let agent = TestAgent::echo(&world);
    // Whoever served calls on the old path is gone; the connection itself still stands.
    let old = agent.link(&world).await.abandon();
    let new = agent.link(&world).await;
    assert_eq!(text(world.call(post("new")).await.unwrap()).await, "new");
    // The newcomer had the old one closed; a goodbye from there comes late.
    done("the end of the old session", old.closed()).await;
    old.close(Code::Draining, "a late goodbye");
    world.until_links(1).await;
    let status = world.relay.status();
    assert!(
        status.links[0]
            .session
            .starts_with(&new.welcome.session.to_string())
    );
    assert_eq!(status.links[0].state, LinkState::Serving);
    assert_eq!(
        text(world.call(post("after")).await.unwrap()).await,
        "after"
    );
}

#[tokio::test]
async fn an_attached_connection_takes_the_calls_and_gives_them_back() {
    let world = World::new().await;
    let agent = TestAgent::echo(&world);
    let first = agent.link(&world).await;
    let second = agent
        .dial(&world, Some(first.welcome.session))
        .await
        .unwrap();
    assert_eq!(second.welcome.session, first.welcome.session);
    let states = |states: [LinkState; 2]| {
        move |status: &culvert_relay::RelayStatus| {
            status.links.iter().map(|link| link.state).eq(states)
        }
    };
    world
        .until(
            "one selectable",
            states([LinkState::Superseded, LinkState::Serving]),
        )
        .await;
    second.connection.close(Code::Draining, "moved back");
    world
        .until("the first again", |status| {
            status.links.len() == 1 && status.links[0].state == LinkState::Serving
        })
        .await;
    assert_eq!(text(world.call(post("back")).await.unwrap()).await, "back");
}

#[tokio::test]
async fn only_the_same_start_with_the_same_key_may_attach() {
    let world = World::new().await;
    let agent = TestAgent::echo(&world);
    let first = agent.link(&world).await;
    let session = Some(first.welcome.session);
    let restarted = TestAgent::new(agent.credentials.clone(), echo());
    assert_eq!(
        rejected(restarted.dial(&world, session).await),
        Code::NotAllowed
    );
    let mut stranger = TestAgent::echo(&world);
    stranger.instance = agent.instance;
    assert_eq!(
        rejected(stranger.dial(&world, session).await),
        Code::NotAllowed
    );
    let mut more = Vec::new();
    for _ in 1..4 {
        more.push(agent.dial(&world, session).await.unwrap());
    }
    assert_eq!(rejected(agent.dial(&world, session).await), Code::Busy);
}

/// A copy of an agent's past that has renewed is on a key of its own, and a clone all the same.
#[tokio::test]
async fn a_clone_on_another_key_is_a_clone_and_a_renewed_start_is_none() {
    let world = World::with(Plan {
        clones: ClonePolicy::Refuse,
        ..Plan::default()
    })
    .await;
    let agent = TestAgent::echo(&world);
    let _first = agent.link(&world).await;
    let hour = Duration::from_secs(3_600);
    let identity = &agent.credentials.identity;
    let other_key = world
        .authority
        .enroll(identity, &[], hour, SystemTime::now())
        .unwrap();
    let clone = TestAgent::new(other_key.clone(), echo());
    assert_eq!(rejected(clone.dial(&world, None).await), Code::Clone);
    let mut renewed = TestAgent::new(other_key, echo());
    renewed.instance = agent.instance;
    let _second = renewed.link(&world).await;
}

#[tokio::test]
async fn a_clone_is_refused_or_served_by_policy_and_a_dead_one_is_no_clone() {
    let world = World::with(Plan {
        clones: ClonePolicy::Refuse,
        ..Plan::default()
    })
    .await;
    let agent = TestAgent::echo(&world);
    let _first = agent.link(&world).await;
    let clone = TestAgent::new(agent.credentials.clone(), echo());
    assert_eq!(rejected(clone.dial(&world, None).await), Code::Clone);
    agent.alive.store(false, Ordering::SeqCst);
    let _restarted = clone.link(&world).await;
    world.until_links(2).await;

    let world = World::new().await;
    let agent = TestAgent::echo(&world);
    let _first = agent.link(&world).await;
    let clone = TestAgent::new(agent.credentials.clone(), echo());
    let _second = clone.link(&world).await;
    world.until_links(2).await;
}

#[tokio::test]
async fn agents_that_disagree_about_a_kind_are_shown() {
    let world = World::new().await;
    let first = TestAgent::echo(&world);
    let _first = first.link(&world).await;
    let mut second = TestAgent::echo(&world);
    second.services = vec![ServiceOffer {
        kind: ServiceKind::Mcp,
        ..offer("echo")
    }];
    let _second = second.link(&world).await;
    world
        .until("the conflict", |status| status.conflicts.len() == 1)
        .await;
    let status = world.relay.status();
    assert_eq!(status.conflicts[0].agent, second.id().to_string());
    assert_eq!(
        (status.conflicts[0].offered, status.conflicts[0].serving),
        ("mcp", "http")
    );
    for _ in 0..10 {
        assert_eq!(world.call(get()).await.unwrap().route.agent, first.id());
    }
}

#[tokio::test]
async fn a_renewal_is_carried_to_control_and_back() {
    let mut world = World::new().await;
    let agent = TestAgent::echo(&world);
    let mut link = agent.link(&world).await;
    let cases = [
        (
            Ok(Bytes::from_static(b"a new chain")),
            Renewed::Issued(Bytes::from_static(b"a new chain")),
        ),
        (
            Err(JoinRefusal::Refused),
            Renewed::Refused(Code::NotAllowed),
        ),
        (Err(JoinRefusal::Unavailable), Renewed::Refused(Code::Busy)),
    ];
    for (answer, expected) in cases {
        link.order(DialerCommand::Renew(Bytes::from_static(b"a request")))
            .await;
        let asked = done("the request", world.control.recv()).await.unwrap();
        let ControlRequest::Renew {
            source,
            request,
            reply,
        } = asked
        else {
            panic!("{asked:?}")
        };
        assert_eq!(request, "a request");
        assert!(source.ip().is_loopback());
        reply.send(answer).unwrap();
        let renewed = link.event("the answer", |event| {
            if let DialerEvent::Renewed(renewed) = event {
                Some(renewed)
            } else {
                None
            }
        });
        assert_eq!(renewed.await, expected);
    }
}

#[tokio::test]
async fn an_agent_whose_calls_are_not_served_goes_out_of_selection_and_comes_back() {
    let world = World::new().await;
    // Takes no call and answers no probe, while its control stream goes on as if nothing was.
    let stuck = script(|call, _| async move {
        let mut call = call;
        call.answer.cancelled().await;
        call.answer.accept().await.ok();
    });
    let agent = TestAgent::new(world.agent(), stuck);
    agent.alive.store(false, Ordering::SeqCst);
    let _link = agent.link(&world).await;
    let mut patient = meta();
    patient.deadline = Some(Instant::now() + PATIENCE);
    let call = world
        .relay
        .call(target("echo"), patient, get().map(Full::new));
    let silent = world.until("silent", |status| {
        status.links[0].state == LinkState::Silent
    });
    tokio::select! {
        () = silent => {}
        outcome = call => panic!("the call ended: {:?}", outcome.map(|_| ())),
    }
    let failed = world.call(get()).await.map(|_| ()).unwrap_err();
    assert_eq!(failed.cause, FailCause::NoTarget(NoTarget::NotServing));
    agent.alive.store(true, Ordering::SeqCst);
    world
        .until("back", |status| status.links[0].state == LinkState::Serving)
        .await;
}
