//! The life of a link.

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use culvert_agent::link::Revoked;
use culvert_agent::links::Phase;
use culvert_agent::pause::Paused;
use culvert_certs::store::CredentialStore;
use culvert_certs::{Identity, JoinAnswer, LEAF_LIFETIME, RenewRequest};
use culvert_tunnel::{DriveEnd, Failure, OutgoingCall, Piece};
use culvert_wire::{
    AcceptorCommand, AcceptorEvent, Ask, CallKnowledge, Code, End, Reject, Renewed, ServiceState,
};
use http::HeaderMap;

use crate::backend::{Backend, stream, text};
use crate::world::{World, chat, done, mcp, model, post, services_of};

async fn hello_world() -> Backend {
    Backend::new(|_| async { text("hello") }).await
}

/// Waits until the agent shows so many links that serve.
async fn serving(world: &World, count: usize) {
    let mut now = world.links.serving();
    done("links that serve", now.wait_for(|n| *n == count))
        .await
        .expect("links");
}

#[tokio::test]
async fn a_link_is_dialled_again_for_ever() {
    let backend = hello_world().await;
    let mut world = World::new(&model(backend.addr, ""));
    let first = world.link().await;
    serving(&world, 1).await;
    first.connection.close(Code::Busy, "go");
    // Rejected, and dialled again all the same.
    let second = world.hello().await;
    second.reject(Reject::new(Code::NotAllowed)).await;
    let third = world.link().await;
    assert_eq!(third.hello.instance, first.hello.instance);
    serving(&world, 1).await;
    let info = &world.links.all()[0];
    assert_eq!(
        (info.phase, info.plane.as_deref(), info.dials),
        (Phase::Serve, Some("US/ORF"), 3)
    );
}

#[tokio::test]
async fn health_and_new_offers_go_up_a_live_link() {
    let backend = hello_world().await;
    let mut world = World::new(&model(backend.addr, ""));
    let mut link = world.link().await;
    link.event("health", |event| {
        matches!(event, AcceptorEvent::Health(health) if health.services.len() == 1 && health.services[0].state == ServiceState::Up)
    })
    .await;
    let two = model(backend.addr, "")
        + &model(backend.addr, "")
            .replace("services:\n", "")
            .replace("llama", "second");
    world.services.apply(&services_of(&two)).expect("applied");
    let event = link
        .event("an offer", |event| matches!(event, AcceptorEvent::Offer(_)))
        .await;
    let AcceptorEvent::Offer(offer) = event else {
        panic!("{event:?}");
    };
    assert!(offer.seq > link.hello.offer.seq);
    assert_eq!(offer.services.len(), 2);
    assert!(
        link.driver.try_join_next().is_none(),
        "the link was not touched"
    );
}

#[tokio::test]
async fn a_drain_finishes_what_has_begun() {
    let (pieces, body) = stream();
    let body = Arc::new(Mutex::new(Some(body)));
    let backend = Backend::new(move |_| {
        let body = body.lock().expect("lock").take();
        async move { body.unwrap_or_else(|| text("probe")) }
    })
    .await;
    let mut world = World::new(&mcp(backend.addr));
    let mut link = world.link().await;
    let OutgoingCall {
        request,
        mut answer,
    } = link.open(post()).await;
    done("request", request.end(HeaderMap::new()))
        .await
        .expect("sent");
    done("head", answer.head()).await.expect("a head");

    world.leaving.cancel();
    link.event("draining", |event| {
        matches!(event, AcceptorEvent::Draining { .. })
    })
    .await;
    pieces.send("late").await.expect("a reader");
    assert!(
        matches!(done("piece", answer.next()).await, Ok(Some(Piece::Data(data))) if data == "late")
    );
    drop(pieces);
    assert!(matches!(
        done("end", answer.next()).await,
        Ok(Some(Piece::End(_)))
    ));
    drop(answer);
    let ended = done("the agent leaves", world.agent.join_next()).await;
    assert_eq!(ended.expect("a link").expect("no panic"), Ok(()));
    let end = done("the relay's end", link.driver.join_next())
        .await
        .expect("a driver")
        .expect("no panic");
    assert!(
        matches!(
            end,
            DriveEnd::Machine(End::Drained { .. } | End::Left { .. })
                | DriveEnd::Connection(_)
                | DriveEnd::Stream(_)
        ),
        "{end:?}"
    );
}

#[tokio::test]
async fn a_replica_that_leaves_is_replaced_before_it_is_gone() {
    let (pieces, body) = stream();
    let body = Arc::new(Mutex::new(Some(body)));
    let backend = Backend::new(move |request| {
        let body = match request.uri().path() {
            "/v1/chat/completions" => body.lock().expect("lock").take(),
            _ => None,
        };
        async move { body.unwrap_or_else(|| text("hello")) }
    })
    .await;
    let mut world = World::new(&model(backend.addr, ""));
    let old = world.link().await;
    let OutgoingCall {
        request,
        mut answer,
    } = old.open(chat()).await;
    done("request", request.end(HeaderMap::new()))
        .await
        .expect("sent");
    done("head", answer.head()).await.expect("a head");

    let (leave_in, smear) = (Duration::from_secs(60), Duration::from_millis(50));
    old.command(AcceptorCommand::GoAway { leave_in, smear })
        .await;
    let new = world.link().await;
    assert_eq!(new.hello.instance, old.hello.instance);
    // The old one still serves what has begun, and what crossed the message.
    let OutgoingCall {
        request,
        answer: mut crossing,
    } = old.open(chat()).await;
    done("request", request.end(HeaderMap::new()))
        .await
        .expect("sent");
    assert_eq!(
        done("head", crossing.head()).await.expect("a head").status,
        200
    );
    pieces.send("late").await.expect("a reader");
    assert!(matches!(
        done("piece", answer.next()).await,
        Ok(Some(Piece::Data(_)))
    ));
    old.connection.close(Code::Draining, "gone");
    let OutgoingCall {
        request,
        mut answer,
    } = new.open(chat()).await;
    done("request", request.end(HeaderMap::new()))
        .await
        .expect("sent");
    assert_eq!(
        done("head", answer.head()).await.expect("a head").status,
        200
    );
}

#[tokio::test]
async fn only_control_ends_the_retrying() {
    let backend = hello_world().await;
    let mut world = World::new(&model(backend.addr, ""));
    // A plane's own word, another tenant's agent, and another kind of record change nothing.
    for signed in [
        None,
        Some(world.revocation("agent-other")),
        Some("forged".into()),
    ] {
        let link = world.hello().await;
        let reject = Reject {
            signed,
            ..Reject::new(Code::Revoked)
        };
        link.reject(reject).await;
    }
    let link = world.link().await;
    serving(&world, 1).await;
    let signed = world.revocation(&format!("agent-{}", world.me.agent));
    link.command(AcceptorCommand::Revoked(signed)).await;
    let ended = done("the agent gives up", world.agent.join_next()).await;
    assert_eq!(ended.expect("a link").expect("no panic"), Err(Revoked));
}

#[tokio::test]
async fn the_agent_says_whether_a_call_has_come() {
    let backend = hello_world().await;
    let mut world = World::new(&model(backend.addr, ""));
    let mut link = world.link().await;
    let seen = chat();
    let never = chat();
    let OutgoingCall {
        request,
        mut answer,
    } = link.open(seen.clone()).await;
    done("request", request.end(HeaderMap::new()))
        .await
        .expect("sent");
    done("head", answer.head()).await.expect("a head");
    for (call, knowledge) in [
        (&seen, CallKnowledge::Seen),
        (&never, CallKnowledge::NeverSeen),
    ] {
        let ask = Ask {
            call_id: call.call_id,
            age_ms: 10,
        };
        link.command(AcceptorCommand::Ask(ask)).await;
        let event = link
            .event("an answer", |event| {
                matches!(event, AcceptorEvent::Answered(_))
            })
            .await;
        assert!(
            matches!(event, AcceptorEvent::Answered(answer) if answer.knowledge == knowledge),
            "{event:?}"
        );
    }
    // What was said is kept: the late one is refused.
    let OutgoingCall {
        request,
        mut answer,
    } = link.open(never).await;
    done("request", request.end(HeaderMap::new())).await.ok();
    let refused = done("a refusal", answer.head()).await.expect_err("refused");
    assert_eq!(refused.failure, Failure::Refused(Code::Tombstone));
}

#[tokio::test]
async fn the_call_handler_answers_probes() {
    let backend = hello_world().await;
    let mut world = World::new(&model(backend.addr, ""));
    let link = world.link().await;
    done("a probe", link.connection.probe(7))
        .await
        .expect("answered");
}

/// The leaf of this world is past its half-life: the first link renews it.
#[tokio::test]
async fn a_certificate_is_renewed_and_its_link_replaced() {
    let backend = hello_world().await;
    let mut world = World::new(&model(backend.addr, ""));
    let mut old = world.link().await;
    let event = old
        .event("a renewal", |event| {
            matches!(event, AcceptorEvent::Renew(_))
        })
        .await;
    let AcceptorEvent::Renew(request) = event else {
        panic!("{event:?}");
    };
    let request = RenewRequest::decode(&request).expect("a request");
    let now = SystemTime::now();
    let verified = request
        .verify(world.authority.bundle(), now)
        .expect("proven");
    assert_eq!(verified.leaf.identity, Identity::Agent(world.me.clone()));
    let chain = world
        .authority
        .issue_agent(&verified.csr, &world.me, LEAF_LIFETIME, now)
        .expect("a chain");
    let answer = JoinAnswer {
        id: Identity::Agent(world.me.clone()),
        chain: chain.certificates,
        bundle: world.authority.bundle().as_bytes().to_vec(),
        dns_suffixes: Vec::new(),
        addresses: Vec::new(),
        gateway_url: None,
    };
    let answer = serde_json::to_vec(&answer).expect("json");
    old.command(AcceptorCommand::Renewed(Renewed::Issued(answer.into())))
        .await;

    let new = world.link().await;
    assert_eq!(new.hello.instance, old.hello.instance);
    assert_eq!(new.connection.peer().key_digest, verified.csr.key_digest());
    old.event("the old one leaves", |event| {
        matches!(event, AcceptorEvent::Draining { .. })
    })
    .await;
    serving(&world, 1).await;
    let kept = CredentialStore::peek(&world.dir.path().join("state"))
        .expect("a store")
        .expect("an identity");
    let leaf = kept.credentials.leaf(now).expect("a leaf");
    assert_eq!(leaf.key_digest, verified.csr.key_digest());
}

/// A replacement that fails at first is tried again while the old one still finishes.
#[tokio::test]
async fn a_replacement_is_dialled_until_there_is_one() {
    let (pieces, body) = stream();
    let body = Arc::new(Mutex::new(Some(body)));
    let backend = Backend::new(move |_| {
        let body = body.lock().expect("lock").take();
        async move { body.expect("one call") }
    })
    .await;
    let mut world = World::new(&mcp(backend.addr));
    let old = world.link().await;
    // A replica that leaves and has nothing to finish is gone at once.
    let OutgoingCall {
        request,
        mut answer,
    } = old.open(post()).await;
    done("request", request.end(HeaderMap::new()))
        .await
        .expect("sent");
    done("head", answer.head()).await.expect("a head");
    let (leave_in, smear) = (Duration::from_secs(60), Duration::ZERO);
    old.command(AcceptorCommand::GoAway { leave_in, smear })
        .await;
    for _ in 0..2 {
        let busy = world.hello().await;
        busy.reject(Reject::new(Code::Busy)).await;
        assert_eq!(
            world.links.all()[0].phase,
            Phase::Serve,
            "the old one serves"
        );
    }
    let _new = world.link().await;
    pieces.send("late").await.expect("a reader");
    assert!(matches!(
        done("piece", answer.next()).await,
        Ok(Some(Piece::Data(_)))
    ));
    serving(&world, 1).await;
}

/// A zone that the file does not name any more is left; one that it names again is served.
#[tokio::test]
async fn a_zone_taken_out_of_the_file_is_drained() {
    let (pieces, body) = stream();
    let body = Arc::new(Mutex::new(Some(body)));
    let backend = Backend::new(move |_| {
        let body = body.lock().expect("lock").take();
        async move { body.expect("one call") }
    })
    .await;
    let mut world = World::new(&mcp(backend.addr));
    let mut link = world.link().await;
    serving(&world, 1).await;
    let OutgoingCall {
        request,
        mut answer,
    } = link.open(post()).await;
    done("request", request.end(HeaderMap::new()))
        .await
        .expect("sent");
    done("head", answer.head()).await.expect("a head");

    // One that stays is not touched.
    let zones = |names: &[&str]| Some(names.iter().map(|n| (*n).to_owned()).collect());
    world.zones.send_replace(zones(&["orf", "IAD"]));
    world
        .services
        .apply(&services_of(&model(backend.addr, "")))
        .expect("applied");
    link.event("an offer of a link that stays", |event| {
        assert!(!matches!(event, AcceptorEvent::Draining { .. }));
        matches!(event, AcceptorEvent::Offer(_))
    })
    .await;

    world.zones.send_replace(zones(&["IAD"]));
    link.event("draining", |event| {
        matches!(event, AcceptorEvent::Draining { .. })
    })
    .await;
    // Named again before the link is gone, or a dial that is refused could come first.
    world.zones.send_replace(None);
    pieces.send("late").await.expect("a reader");
    assert!(
        matches!(done("piece", answer.next()).await, Ok(Some(Piece::Data(data))) if data == "late")
    );
    drop(pieces);
    done("end", answer.next()).await.expect("whole");
    drop(answer);
    done("the link ends", link.driver.join_next()).await;
    let _back = world.link().await;
    serving(&world, 1).await;
}

/// A pause holds whatever was reloaded before it, and ends where zones change during it.
#[tokio::test]
async fn a_reload_does_not_end_the_pauses_that_follow() {
    const ABSENCE: Duration = Duration::from_secs(1);
    let backend = hello_world().await;
    let mut world = World::new(&model(backend.addr, ""));
    let zones = |name: &str| Some(vec![name.to_owned()]);
    world.zones.send_replace(zones("ORF"));
    for _ in 0..2 {
        let link = world.hello().await;
        link.reject(Reject::new(Code::Duplicate)).await;
        let early = tokio::time::timeout(ABSENCE, world.hello()).await;
        assert!(early.is_err(), "dialled again within {ABSENCE:?} of 30 s");
        world.zones.send_replace(None);
    }
    let _link = world.link().await;
    serving(&world, 1).await;
}

/// The customer's switch: no new calls, and those that have begun finish.
#[tokio::test]
async fn a_paused_service_is_taken_out_of_the_offer() {
    let (pieces, body) = stream();
    let body = Arc::new(Mutex::new(Some(body)));
    let backend = Backend::new(move |_| {
        let body = body.lock().expect("lock").take();
        async move { body.unwrap_or_else(|| text("hello")) }
    })
    .await;
    let mut world = World::new(&mcp(backend.addr));
    let mut link = world.link().await;
    let OutgoingCall {
        request,
        mut answer,
    } = link.open(post()).await;
    done("request", request.end(HeaderMap::new()))
        .await
        .expect("sent");
    done("head", answer.head()).await.expect("a head");

    let mut paused = Paused::default();
    paused.pause(Some("llama"));
    world.services.pause(paused.clone());
    let offered = |count: usize| move |event: &AcceptorEvent| matches!(event, AcceptorEvent::Offer(offer) if offer.services.len() == count);
    link.event("an offer without it", offered(0)).await;
    let status = world.services.overview();
    assert_eq!(status[0].state, "paused");
    let OutgoingCall {
        request,
        answer: mut refused,
    } = link.open(post()).await;
    done("request", request.end(HeaderMap::new())).await.ok();
    let refused = done("a refusal", refused.head())
        .await
        .expect_err("refused");
    assert_eq!(refused.failure, Failure::Refused(Code::UnknownService));

    pieces.send("late").await.expect("a reader");
    assert!(
        matches!(done("piece", answer.next()).await, Ok(Some(Piece::Data(data))) if data == "late")
    );
    paused.resume(None, std::iter::empty());
    world.services.pause(paused);
    link.event("an offer with it", offered(1)).await;
    let OutgoingCall {
        request,
        answer: mut again,
    } = link.open(post()).await;
    done("request", request.end(HeaderMap::new()))
        .await
        .expect("sent");
    assert_eq!(
        done("head", again.head()).await.expect("a head").status,
        200
    );
}
