//! What an operator sees: counters, and the account of the links.

use culvert_wire::Code;
use http::{HeaderMap, HeaderValue, StatusCode};
use http_body_util::BodyExt as _;
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;

use crate::agent::{NoLink, TestAgent, head, refuse, script};
use crate::world::{World, acme, done, get, post, text};

#[tokio::test]
async fn the_counters_have_their_names_and_no_tenant() {
    let world = World::new().await;
    let mut registry = Registry::default();
    world.relay.metrics().register(&mut registry);
    let exposed = || {
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        text
    };
    let serving = TestAgent::echo(&world);
    let refusing = TestAgent::new(world.agent(), refuse(Code::Policy));
    let _links = (serving.link(&world).await, refusing.link(&world).await);
    world.until_links(2).await;
    let (mut answered, mut refused) = (0, 0);
    while answered == 0 || refused == 0 {
        match world.call(post("x")).await {
            Ok(answer) => {
                text(answer).await;
                answered += 1;
            }
            Err(failed) => {
                assert_eq!(failed.code, Code::Policy);
                refused += 1;
            }
        }
    }
    let exposed = exposed();
    for line in [
        &format!("culvert_relay_requests_total{{kind=\"http\",code=\"ok\"}} {answered}"),
        &format!("culvert_relay_requests_total{{kind=\"http\",code=\"policy\"}} {refused}"),
        &format!("culvert_relay_refused_total{{code=\"policy\"}} {refused}"),
        "culvert_relay_calls_active 0",
        "culvert_relay_links{plane=\"ORF\",transport=\"quic\",group=\"X25519MLKEM768\"} 2",
        "culvert_relay_parked_bytes 0",
    ] {
        assert!(
            exposed.lines().any(|found| found == line),
            "{line} is not in\n{exposed}"
        );
    }
    for name in [
        "request_seconds_count",
        "first_byte_seconds_count",
        "link_rtt_seconds_count",
        "udp_send_errors_total",
        "quic_mtu_bytes",
        "quic_black_holes_total",
    ] {
        assert!(
            exposed.contains(&format!("\nculvert_relay_{name} ")),
            "{name} is not in\n{exposed}"
        );
    }
    assert!(
        !exposed.contains(acme().as_str()),
        "a tenant's name is in\n{exposed}"
    );
}

/// HTTP leaves a body once it has the declared bytes, and does not look for its end.
#[tokio::test]
async fn an_answer_read_to_its_declared_end_counts_as_whole() {
    let world = World::new().await;
    let mut registry = Registry::default();
    world.relay.metrics().register(&mut registry);
    let declared = script(|mut call, _| async move {
        let mut four = head(StatusCode::OK);
        four.headers
            .insert("content-length", HeaderValue::from_static("4"));
        call.answer.accept().await.unwrap();
        call.answer.head(four).await.unwrap();
        call.answer.data("data".into()).await.unwrap();
        call.answer.end(HeaderMap::new()).await.unwrap();
    });
    let _link = TestAgent::new(world.agent(), declared).link(&world).await;
    let answered = world.call(get()).await.unwrap();
    // All of it is here once a later answer is.
    let later = world.call(get()).await.unwrap();
    drop(text(later).await);
    let mut body = answered.response.into_body();
    let piece = done("the piece", body.frame()).await.unwrap().unwrap();
    assert_eq!(piece.into_data().unwrap(), "data");
    drop(body);
    let mut exposed = String::new();
    encode(&mut exposed, &registry).unwrap();
    let line = "culvert_relay_requests_total{kind=\"http\",code=\"ok\"} 2";
    assert!(exposed.lines().any(|found| found == line), "{exposed}");
}

#[tokio::test]
async fn the_status_is_one_document() {
    let world = World::new().await;
    let agent = TestAgent::echo(&world);
    let link = agent.link(&world).await;
    let status = serde_json::to_value(world.relay.status()).unwrap();
    assert_eq!(
        (&status["zone"], &status["phase"]),
        (&"ORF".into(), &"serving".into())
    );
    let shown = &status["links"][0];
    assert_eq!(shown["agent"], agent.id().to_string());
    assert_eq!(shown["state"], "serving");
    assert_eq!(shown["session"], format!("{}/0", link.welcome.session));
    assert_eq!(shown["services"][0]["name"], "echo");
    assert!(shown["certificate_ends"].as_u64().unwrap() > shown["since"].as_u64().unwrap());
}

/// By the rate of new links or by the cap of a connector's agents, whichever comes first.
#[tokio::test]
async fn a_crowd_of_agents_is_told_that_the_replica_is_busy() {
    let world = World::new().await;
    let mut links = Vec::new();
    let mut agents = Vec::new();
    let refused = loop {
        let agent = TestAgent::echo(&world);
        match agent.dial(&world, None).await {
            Ok(link) => links.push(link),
            Err(refused) => break refused,
        }
        agents.push(agent);
        assert!(
            links.len() <= culvert_relay::limits::MAX_AGENTS,
            "no limit is kept"
        );
    };
    let NoLink::Rejected(reject) = refused else {
        panic!("not rejected in order: {refused:?}")
    };
    assert_eq!(reject.code, Code::Busy);
    assert!(links.len() >= 50, "only {} links were let in", links.len());
    world.call(get()).await.unwrap();
}
