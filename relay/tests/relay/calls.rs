//! Calls: heads, streaming bodies, and why there is nobody to call.

use bytes::Bytes;
use culvert_relay::{CallFailed, FailCause, NoTarget};
use culvert_tunnel::Piece;
use culvert_wire::{Code, DialerCommand, Health, ServiceHealth, ServiceKind, ServiceState};
use http::{HeaderMap, Request, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt as _, Empty, Full};
use tokio::sync::mpsc;

use crate::agent::{TestAgent, head, script};
use crate::world::{World, acme, done, failed, get, meta, post, streamed, target, text, vpc};

#[tokio::test]
async fn a_call_reaches_the_agent_and_its_answer_comes_back() {
    let world = World::new().await;
    let agent = TestAgent::new(
        world.agent(),
        script(|mut call, _| async move {
            assert_eq!(call.open.target.as_str(), "/v1/echo?x=1");
            assert_eq!(call.open.headers["x-test"], "yes");
            assert_eq!(call.open.caller.key_id, "k1");
            call.answer.accept().await.unwrap();
            call.answer
                .head(head(StatusCode::IM_A_TEAPOT))
                .await
                .unwrap();
            while let Some(Piece::Data(data)) = call.body.next().await.unwrap() {
                call.answer.data(data).await.unwrap();
            }
            call.answer.end(HeaderMap::new()).await.unwrap();
        }),
    );
    let link = agent.link(&world).await;
    let answered = world.call(post("hello")).await.unwrap();
    assert_eq!(answered.response.status(), StatusCode::IM_A_TEAPOT);
    assert_eq!(answered.response.headers()["x-from"], "backend");
    assert_eq!(
        (answered.route.agent, answered.route.attempts),
        (agent.id(), 1)
    );
    assert_eq!(answered.route.session, link.welcome.session);
    assert_eq!(answered.route.kind, ServiceKind::Http);
    assert!(answered.timings.sent <= answered.timings.accepted);
    assert!(answered.timings.accepted <= answered.timings.head);
    assert_eq!(text(answered).await, "hello");
    world
        .until("no call left", |status| status.links[0].calls == 0)
        .await;
}

#[tokio::test]
async fn both_bodies_stream_piece_by_piece_at_the_same_time() {
    let world = World::new().await;
    let agent = TestAgent::echo(&world);
    let _link = agent.link(&world).await;
    let (say, pieces) = mpsc::channel(4);
    let request = Request::post("/chat").body(streamed(pieces)).unwrap();
    let answered = done(
        "the head",
        world.relay.call(target("echo"), meta(), request),
    )
    .await
    .unwrap();
    let mut body = answered.response.into_body();
    for word in ["one", "two", "three"] {
        say.send(Ok(Frame::data(Bytes::from_static(word.as_bytes()))))
            .await
            .unwrap();
        let frame = done("the echo", body.frame()).await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), word);
    }
    drop(say);
    assert!(done("the end", body.frame()).await.is_none());
}

#[tokio::test]
async fn a_gigantic_body_passes_both_ways_without_being_kept() {
    let world = World::new().await;
    let agent = TestAgent::echo(&world);
    let _link = agent.link(&world).await;
    let (say, pieces) = mpsc::channel(4);
    let request = Request::post("/big").body(streamed(pieces)).unwrap();
    let piece = Bytes::from(vec![7; 64 * 1024]);
    let (sent, received) = tokio::join!(
        async {
            for _ in 0..256 {
                say.send(Ok(Frame::data(piece.clone()))).await.unwrap();
            }
            drop(say);
            256 * piece.len()
        },
        async {
            let call = world.relay.call(target("echo"), meta(), request);
            let body = done("the head", call).await.unwrap().response.into_body();
            done("the body", body.collect())
                .await
                .unwrap()
                .to_bytes()
                .len()
        }
    );
    assert_eq!(sent, received);
}

#[tokio::test]
async fn nobody_to_call_says_why() {
    let world = World::new().await;
    let why = |failed: CallFailed| {
        assert_eq!((failed.code, failed.attempts), (Code::NoLink, 0));
        failed.cause
    };
    let no_link = FailCause::NoTarget(NoTarget::NoLink);
    assert_eq!(why(failed(world.call(get()).await)), no_link);
    let agent = TestAgent::echo(&world);
    let link = agent.link(&world).await;
    let mut other = target("echo");
    other.tenant = "rival".parse().unwrap();
    let outcome = world.relay.call(other, meta(), get().map(Full::new)).await;
    assert_eq!(why(failed(outcome)), no_link);
    let mut model = target("echo");
    model.model = Some("gpt".into());
    let outcome = world.relay.call(model, meta(), get().map(Full::new)).await;
    assert_eq!(why(failed(outcome)), FailCause::NoTarget(NoTarget::NoModel));
    let services = vec![ServiceHealth {
        name: "echo".parse().unwrap(),
        state: ServiceState::Down,
        in_flight: 0,
        capacity: 0,
        load: None,
        latency_us: 0,
    }];
    link.order(DialerCommand::Health(Health { services })).await;
    world
        .until("down", |status| status.links[0].services[0].state == "down")
        .await;
    let outcome = world.call(get()).await;
    assert_eq!(
        why(failed(outcome)),
        FailCause::NoTarget(NoTarget::Unhealthy)
    );
    assert_eq!(agent.arrived(), 0);
}

#[tokio::test]
async fn a_head_that_cannot_be_carried_is_the_callers_doing() {
    let world = World::new().await;
    let agent = TestAgent::echo(&world);
    let _link = agent.link(&world).await;
    let request = Request::connect("example.com:443")
        .body(Empty::<Bytes>::new())
        .unwrap();
    let outcome = world.relay.call(target("echo"), meta(), request).await;
    assert!(matches!(failed(outcome).cause, FailCause::Head(_)));
    let huge = Request::get("/").header("x-huge", "v".repeat(200_000));
    let outcome = world.relay.call(
        target("echo"),
        meta(),
        huge.body(Empty::<Bytes>::new()).unwrap(),
    );
    assert!(matches!(failed(outcome.await).cause, FailCause::Head(_)));
    assert_eq!(agent.arrived(), 0);
}

#[tokio::test]
async fn many_calls_at_once_share_one_link() {
    let world = World::new().await;
    let agent = TestAgent::echo(&world);
    let _link = agent.link(&world).await;
    let calls = (0..300).map(|n| {
        let relay = world.relay.clone();
        async move {
            let body = format!("call {n}");
            let call = relay.call(target("echo"), meta(), post(body.clone()).map(Full::new));
            assert_eq!(text(done("a call", call).await.unwrap()).await, body);
        }
    });
    futures_util::future::join_all(calls).await;
    assert_eq!(agent.arrived(), 300);
}

#[tokio::test]
async fn the_instance_in_a_hello_gives_no_access_to_another_agents_calls() {
    let world = World::new().await;
    let honest = TestAgent::echo(&world);
    let _link = honest.link(&world).await;
    // Another agent of the connector claims the same instance: it is another agent all the same.
    let mut liar = TestAgent::echo(&world);
    liar.instance = honest.instance;
    let _other = liar.link(&world).await;
    world
        .until("both serve", |status| {
            let serving =
                |link: &&culvert_relay::LinkStatus| link.state == culvert_relay::LinkState::Serving;
            status.links.iter().filter(serving).count() == 2
        })
        .await;
}

/// A service that refuses at once would look like the quickest one, and take all calls.
#[tokio::test]
async fn only_answers_that_did_something_say_how_quick_a_service_is() {
    let world = World::new().await;
    let agent = TestAgent::new(
        world.agent(),
        script(|mut call, _| async move {
            let status = call.open.headers["x-status"].to_str().unwrap();
            let status = status.parse::<StatusCode>().unwrap();
            call.answer.accept().await.unwrap();
            call.answer.head(head(status)).await.unwrap();
            call.answer.end(HeaderMap::new()).await.unwrap();
        }),
    );
    let _link = agent.link(&world).await;
    let measured = || {
        let view = world.relay.directory().view(&acme());
        let service = view.service(&vpc(), "echo").unwrap();
        service.links[0].meter.head_time()
    };
    for (status, counts) in [
        ("400", false),
        ("429", false),
        ("500", false),
        ("204", true),
    ] {
        let request = Request::get("/").header("x-status", status);
        let request = request.body(Bytes::new()).unwrap();
        text(world.call(request).await.unwrap()).await;
        assert_eq!(measured().is_some(), counts, "{status}");
    }
}
