//! Who gets a link, and who loses it.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use culvert_certs::{Authority, Credentials};
use culvert_relay::{Approve, ConnectorPolicy, FailCause, LinkState, NoTarget, Subject};
use culvert_wire::{Code, DialerCommand, DialerEvent, Offer};

use crate::agent::{NoLink, TestAgent, TestLink, closed, echo, rejected};
use crate::world::{Plan, World, acme, agent_of, get, offer, plane, post, text, vpc};

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
        let reason = match dialled {
            Err(NoLink::TurnedAway(code)) => code.to_string(),
            other => closed(other),
        };
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
    world.heard_at.send_replace(long_ago);
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
        Err(NoLink::TurnedAway(code)) => assert_eq!(code, Code::Expired),
        Err(NoLink::Closed(_)) => {}
        Err(other) => panic!("{other:?}"),
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
