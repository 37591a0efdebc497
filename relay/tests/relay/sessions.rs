//! Who gets a link, and what ends it.

use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use culvert_certs::{AgentIdentity, Authority, Credentials, Identity};
use culvert_relay::{
    Approve, ClonePolicy, ConnectorPolicy, ControlRequest, FailCause, JoinRefusal, LinkState,
    NoTarget, Subject,
};
use culvert_wire::{Code, DialerCommand, DialerEvent, Offer, Renewed, ServiceKind, ServiceOffer};
use http_body_util::Full;
use tokio::time::Instant;

use crate::agent::{NoLink, TestAgent, TestLink, echo, script};
use crate::world::{
    PATIENCE, Plan, World, acme, agent_of, done, get, meta, offer, plane, post, target, text, vpc,
};

fn rejected(outcome: Result<TestLink, NoLink>) -> Code {
    match outcome {
        Ok(link) => panic!("the link stands: {:?}", link.welcome),
        Err(NoLink::Rejected(reject)) => reject.code,
        Err(other) => panic!("not rejected in order: {other:?}"),
    }
}

fn closed(outcome: Result<TestLink, NoLink>) -> String {
    match outcome {
        Err(NoLink::Closed(reason)) => reason,
        Err(NoLink::Rejected(reject)) => panic!("got as far as a rejection: {reject:?}"),
        Ok(link) => panic!("the link stands: {:?}", link.welcome),
    }
}

fn identity(credentials: &Credentials) -> &AgentIdentity {
    match &credentials.identity {
        Identity::Agent(agent) => agent,
        Identity::Plane(_) => panic!("not an agent"),
    }
}

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
async fn identities_that_prove_nothing_here_get_no_link_and_learn_no_reason() {
    let world = World::new().await;
    let now = SystemTime::now();
    let other = Authority::create("culvert.test".parse().unwrap(), now).unwrap();
    let strangers = [
        (
            "another authority",
            agent_of(&other, acme(), vpc(), Duration::from_secs(60)),
        ),
        ("a plane", plane(&world.authority)),
    ];
    for (name, mut credentials) in strangers {
        // It believes in the relay all the same.
        credentials.bundle = world.authority.bundle().clone();
        let dialled = if name == "a plane" {
            plane_dial(&world, &credentials).await
        } else {
            TestAgent::new(credentials, echo()).dial(&world, None).await
        };
        let reason = closed(dialled);
        assert!(
            !reason.contains("issuer") && !reason.contains("role"),
            "{name}: {reason}"
        );
    }
    world.until_links(0).await;
}

/// A plane that dials as if it were an agent.
async fn plane_dial(world: &World, credentials: &Credentials) -> Result<TestLink, NoLink> {
    use culvert_certs::{Expect, tls};
    use culvert_tunnel::{Dialer, Target, UdpOptions, Verify};
    let address = world.relay.address();
    let target = Target {
        host: address.ip().to_string(),
        port: address.port(),
        addresses: vec![address.ip()],
    };
    let verify = Verify {
        bundle: credentials.bundle.clone(),
        expect: Expect::Plane,
    };
    let tls = tls::plane_link_client(credentials).unwrap();
    let dialer = Dialer::new(UdpOptions::default());
    match dialer.dial(&target, tls, &verify).await {
        Err(error) => Err(NoLink::Closed(error.to_string())),
        Ok(connection) => {
            TestAgent::new(world.agent(), echo())
                .greet(connection, None)
                .await
        }
    }
}

#[tokio::test]
async fn what_the_configuration_does_not_know_is_not_admitted() {
    let world = World::new().await;
    let hour = Duration::from_secs(3_600);
    for (tenant, connector) in [("acme", "unknown"), ("rival", "prod-vpc")] {
        let (tenant, connector) = (tenant.parse().unwrap(), connector.parse().unwrap());
        let agent = TestAgent::new(agent_of(&world.authority, tenant, connector, hour), echo());
        assert_eq!(rejected(agent.dial(&world, None).await), Code::NotAllowed);
    }
    let zones = Some([("LHR".parse().unwrap())].into());
    let elsewhere = ConnectorPolicy {
        zones,
        ..ConnectorPolicy::default()
    };
    let world = World::with(Plan {
        policy: elsewhere,
        ..Plan::default()
    })
    .await;
    assert_eq!(
        rejected(TestAgent::echo(&world).dial(&world, None).await),
        Code::NotAllowed
    );
}

#[tokio::test]
async fn a_replica_that_has_not_heard_the_store_admits_nobody_and_keeps_whom_it_has() {
    let world = World::new().await;
    let agent = TestAgent::echo(&world);
    let _link = agent.link(&world).await;
    let long_ago = SystemTime::now() - Duration::from_secs(25 * 3_600);
    world.change_admission(|admission| admission.heard_at = long_ago);
    assert_eq!(
        rejected(TestAgent::echo(&world).dial(&world, None).await),
        Code::Stale
    );
    assert_eq!(
        text(world.call(post("served")).await.unwrap()).await,
        "served"
    );
}

#[tokio::test]
async fn a_revoked_agent_is_cut_off_told_by_control_and_not_let_in_again() {
    let world = World::new().await;
    let agent = TestAgent::echo(&world);
    let other = TestAgent::echo(&world);
    let mut link = agent.link(&world).await;
    let _other_link = other.link(&world).await;
    let signed = Bytes::from_static(b"signed by control");
    world.change_admission(|admission| {
        admission.deny.deny_agent(agent.id(), SystemTime::now());
        admission
            .statements
            .insert(Subject::Agent(agent.id()), signed.clone());
    });
    let told = link.event("the statement", |event| {
        if let DialerEvent::Revoked(signed) = event {
            Some(signed)
        } else {
            None
        }
    });
    assert_eq!(told.await, signed);
    link.closed().await;
    world.until_links(1).await;
    for _ in 0..2 {
        let Err(NoLink::Rejected(reject)) = agent.dial(&world, None).await else {
            panic!("a revoked agent came back");
        };
        assert_eq!(
            (reject.code, reject.signed),
            (Code::Revoked, Some(signed.clone()))
        );
    }
    // Whoever was not revoked goes on.
    assert_eq!(world.call(get()).await.unwrap().route.agent, other.id());
}

#[tokio::test]
async fn a_revoked_tenant_and_a_deleted_connector_lose_their_links() {
    for revoke in [true, false] {
        let world = World::new().await;
        let agent = TestAgent::echo(&world);
        let link = agent.link(&world).await;
        world.change_admission(|admission| {
            if revoke {
                admission.deny.deny_tenant(acme(), SystemTime::now());
            } else {
                admission.connectors.clear();
            }
        });
        let expected = if revoke {
            Code::Revoked
        } else {
            Code::NotAllowed
        };
        link.closed().await;
        world.until_links(0).await;
        assert_eq!(rejected(agent.dial(&world, None).await), expected);
    }
}

#[tokio::test]
async fn a_link_ends_with_the_life_of_its_certificate() {
    let world = World::new().await;
    let life = Duration::from_secs(3);
    let agent = TestAgent::new(agent_of(&world.authority, acme(), vpc(), life), echo());
    let link = agent.link(&world).await;
    assert_eq!(
        text(world.call(post("alive")).await.unwrap()).await,
        "alive"
    );
    link.closed().await;
    world.until_links(0).await;
    // In the last second of its life the relay says why, after it the handshake says nothing.
    match agent.dial(&world, None).await {
        Err(NoLink::Rejected(reject)) => assert_eq!(reject.code, Code::Expired),
        Err(NoLink::Closed(_)) => {}
        Ok(link) => panic!("an expired agent is linked: {:?}", link.welcome),
    }
}

#[tokio::test]
async fn a_new_agent_is_held_until_it_is_approved() {
    let manual =
        |agents: &[culvert_certs::AgentId]| Approve::Manual(agents.iter().copied().collect());
    let policy = ConnectorPolicy {
        approve: manual(&[]),
        ..ConnectorPolicy::default()
    };
    let world = World::with(Plan {
        policy,
        ..Plan::default()
    })
    .await;
    let agent = TestAgent::echo(&world);
    let _link = agent.link(&world).await;
    world
        .until("held", |status| status.links[0].state == LinkState::Held)
        .await;
    let failed = world.call(get()).await.map(|_| ()).unwrap_err();
    assert_eq!(failed.cause, FailCause::NoTarget(NoTarget::NotServing));
    world.change_admission(|admission| {
        let policy = admission.connectors.get_mut(&(acme(), vpc())).unwrap();
        policy.approve = manual(&[agent.id()]);
    });
    world
        .until("approved", |status| {
            status.links[0].state == LinkState::Serving
        })
        .await;
    world.call(get()).await.unwrap();
    assert_eq!(identity(&agent.credentials).tenant, acme());
}

#[tokio::test]
async fn only_the_services_that_the_connector_may_have_are_served_and_an_offer_replaces_the_last() {
    let policy = ConnectorPolicy {
        services: Some(["echo".parse().unwrap(), "later".parse().unwrap()].into()),
        ..ConnectorPolicy::default()
    };
    let world = World::with(Plan {
        policy,
        ..Plan::default()
    })
    .await;
    let mut agent = TestAgent::echo(&world);
    agent.services = vec![offer("echo"), offer("forbidden")];
    let link = agent.link(&world).await;
    let names = |expected: &'static [&'static str]| {
        move |status: &culvert_relay::RelayStatus| {
            status.links[0]
                .services
                .iter()
                .map(|service| service.name.as_str())
                .eq(expected.iter().copied())
        }
    };
    world.until("the bounded offer", names(&["echo"])).await;
    let services = vec![offer("later"), offer("forbidden")];
    link.order(DialerCommand::Offer(Offer { seq: 2, services }))
        .await;
    world.until("the second offer", names(&["later"])).await;
    world.change_admission(|admission| {
        admission
            .connectors
            .get_mut(&(acme(), vpc()))
            .unwrap()
            .services = None;
    });
    world
        .until("without bounds", names(&["forbidden", "later"]))
        .await;
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
            leaf,
            request,
            reply,
        } = asked
        else {
            panic!("{asked:?}")
        };
        assert_eq!(request, "a request");
        assert_eq!(leaf.identity, agent.credentials.identity);
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
