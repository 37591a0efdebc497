//! Identity on the link port, with certificates really made: who is believed, and who learns nothing.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use culvert_certs::{Identity, JoinToken, KeyPair};
use culvert_tests::attacker::{FalseAgent, Outcome, Papers};
use culvert_tests::stranger::join_by_hand;
use culvert_tests::wait::{self, PATIENCE};
use culvert_tests::world::World;
use culvert_wire::Code;
use quinn::ConnectionError;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::json;

/// The bound within which an agent says that its path swallows UDP.
const NAMED_WITHIN: Duration = Duration::from_secs(3);

fn links(world: &World) -> SocketAddr {
    world.gateway.link_port().unwrap()
}

fn private(key: &KeyPair) -> PrivateKeyDer<'static> {
    PrivatePkcs8KeyDer::from(key.pkcs8().to_vec()).into()
}

async fn world_and_papers() -> (World, Papers, Identity) {
    let world = World::builder().without_agent().start().await.unwrap();
    let token: JoinToken = world.gateway.line.join_token.parse().unwrap();
    let (papers, identity) = join_by_hand(&token).await.unwrap();
    (world, papers, identity)
}

/// What the gateway makes of `papers`.
async fn outcome(world: &World, papers: Option<&Papers>) -> Outcome {
    FalseAgent::new(papers)
        .unwrap()
        .say_hello(links(world))
        .await
        .unwrap()
}

/// Waits until the gateway has logged `count` lines with all of `parts`.
async fn logged(world: &World, parts: &[&str], count: usize) {
    let log = world.gateway.process.log();
    wait::until(
        &format!("{count} lines with {parts:?}"),
        PATIENCE,
        || async {
            let text = log.text();
            let seen = text
                .lines()
                .filter(|line| parts.iter().all(|part| line.contains(part)))
                .count();
            if seen == count {
                Ok(())
            } else {
                Err(format!("{seen} lines in\n{text}"))
            }
        },
    )
    .await
    .unwrap();
}

#[tokio::test]
async fn real_papers_are_welcomed_and_no_ticket_is_given() {
    let (world, papers, _) = world_and_papers().await;
    let agent = FalseAgent::new(Some(&papers)).unwrap();
    let met = agent.say_hello(links(&world)).await.unwrap();
    assert!(matches!(met, Outcome::Welcome(_)), "{met:?}");
    assert_eq!(agent.tickets(), 0, "nobody comes back by resumption");
}

#[tokio::test]
async fn who_shows_nothing_and_who_has_stolen_a_chain_hear_no_word() {
    let (world, real, _) = world_and_papers().await;
    let thief = Papers {
        chain: real.chain.clone(),
        key: private(&KeyPair::generate().unwrap()),
    };
    // Both are told by TLS itself what they know already; 116 is certificate_required, 51 decrypt_error.
    for (papers, alert) in [(None, 116), (Some(&thief), 51)] {
        let Outcome::Closed(ConnectionError::ConnectionClosed(close)) =
            outcome(&world, papers).await
        else {
            panic!("no alert of TLS");
        };
        assert_eq!(u64::from(close.error_code), 0x100 + alert, "{close:?}");
        assert!(close.reason.is_empty(), "{close:?}");
    }
    logged(
        &world,
        &["handshake refused", "peer sent no certificates"],
        1,
    )
    .await;
    logged(&world, &["handshake refused", "BadSignature"], 1).await;
}

#[tokio::test]
async fn a_plane_is_no_agent() {
    let world = World::builder().without_agent().start().await.unwrap();
    let plane = json!({"kind": "Plane", "name": "EVL", "spec": {"region": "US"}});
    let put = world
        .admin()
        .request(http::Method::PUT, "/v1/planes/EVL")
        .header("content-type", "application/json");
    let put = world
        .admin()
        .send(put, plane.to_string().into())
        .await
        .unwrap();
    assert!(put.status.is_success(), "{}", put.text());
    let minted = world
        .admin()
        .post("/v1/planes/EVL:token", &json!({}))
        .await
        .unwrap();
    let token: JoinToken = minted.json()["token"]
        .as_str()
        .unwrap_or_else(|| panic!("{}", minted.text()))
        .parse()
        .unwrap();
    let (papers, identity) = join_by_hand(&token).await.unwrap();
    assert!(identity.to_string().contains("/plane/"), "{identity}");
    // Its certificate is a good one, so it is told what is wrong: a code, and no word.
    let Outcome::Closed(ConnectionError::ApplicationClosed(close)) =
        outcome(&world, Some(&papers)).await
    else {
        panic!("a plane is served as an agent");
    };
    assert_eq!(
        close.error_code.into_inner(),
        u64::from(Code::NotAllowed.to_u16())
    );
    assert!(close.reason.is_empty(), "{close:?}");
    logged(
        &world,
        &["handshake refused", "plane is not accepted here"],
        1,
    )
    .await;
}

#[tokio::test]
async fn a_path_that_swallows_udp_is_named_and_tried_again() {
    let mut world = World::start().await.unwrap();
    let (process, line, arguments, data) = world.gateway.into_parts();
    let address: SocketAddr = line.links.parse().unwrap();
    process.kill().await.unwrap();
    let silent = tokio::net::UdpSocket::bind(address).await.unwrap();
    // An agent that starts on such a path has nothing before the dial: the bound of 3 s counts from the start.
    let agent = world.agent.take().unwrap().restart().await.unwrap();
    let started = Instant::now();
    let named = format!("no reply over UDP from 127.0.0.1:{}", address.port());
    agent
        .process
        .logged(&named, 5 * NAMED_WITHIN)
        .await
        .unwrap();
    println!("named after {:?}", started.elapsed());
    world.agent = Some(agent);
    drop(silent);
    world.gateway = culvert_tests::world::Gateway::again(line, arguments, data)
        .await
        .unwrap();
    world.serves().await.unwrap();
}

#[tokio::test]
async fn a_revoked_agent_is_cut_and_cannot_come_back() {
    let mut world = World::start().await.unwrap();
    let state = world.agent.as_ref().unwrap().state_folder();
    let papers = Papers::of_state(&state).unwrap();
    let client = FalseAgent::new(Some(&papers)).unwrap();
    let met = client.say_hello(links(&world)).await.unwrap();
    assert!(matches!(met, Outcome::Welcome(_)), "{met:?}");
    let name = world
        .admin()
        .get("/v1/tenants/dev/agents")
        .await
        .unwrap()
        .json()["items"][0]["name"]
        .as_str()
        .unwrap()
        .to_owned();
    let body = culvert_tests::world::chat_body(
        "demo-model",
        json!({"stream": true, "fixture": {"tokens": 1000, "interval_ms": 50}}),
    );
    let mut events = world
        .client()
        .stream("/v1/chat/completions", &body)
        .await
        .unwrap();
    events.next().await.unwrap().unwrap();
    let revoked = world
        .admin()
        .post(&format!("/v1/tenants/dev/agents/{name}:revoke"), &json!({}))
        .await
        .unwrap();
    assert!(revoked.status.is_success(), "{}", revoked.text());
    // Streams are cut within 5 s; the clock is real, so five times the bound.
    let cut = tokio::time::timeout(Duration::from_secs(25), events.rest())
        .await
        .unwrap();
    let clean = cut
        .as_ref()
        .is_ok_and(|events| events.last().is_some_and(|last| last == "data: [DONE]"));
    assert!(!clean, "{cut:?}");
    world
        .agent
        .as_mut()
        .unwrap()
        .process
        .exits(77, Duration::from_secs(25))
        .await
        .unwrap();
    // Nor by resumption: the very client comes again, with all that TLS has given it.
    let met = client.say_hello(links(&world)).await.unwrap();
    assert_eq!(met, Outcome::Rejected(Code::Revoked));
    assert_eq!(client.tickets(), 0);
    // A restart with the same identity and token exits without dialling.
    let mut agent = world.agent.take().unwrap().restart().await.unwrap();
    agent
        .process
        .exits(77, Duration::from_secs(10))
        .await
        .unwrap();
}
