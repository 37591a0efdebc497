//! Identity on the link port, with certificates really made: who is believed, and who learns nothing.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use culvert_certs::{
    Authority, Identity, JoinAnswer, JoinRequest, JoinToken, KeyPair, LEAF_LIFETIME,
};
use culvert_tests::attacker::{FalseAgent, FalseGateway, Outcome, Papers};
use culvert_tests::stranger::post_join;
use culvert_tests::wait::{self, PATIENCE};
use culvert_tests::world::World;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::json;

fn links(world: &World) -> SocketAddr {
    world.gateway.links_address().parse().unwrap()
}

fn private(key: &KeyPair) -> PrivateKeyDer<'static> {
    PrivatePkcs8KeyDer::from(key.pkcs8().to_vec()).into()
}

/// Joins by hand with `token`: real papers in the wrong hands, and the identity on them.
async fn joined(token: &JoinToken) -> (Papers, Identity) {
    let key = KeyPair::generate().unwrap();
    let request = JoinRequest::new(token, key.csr().unwrap()).unwrap();
    let reply = post_join(token, &serde_json::to_string(&request).unwrap())
        .await
        .unwrap();
    let answer: JoinAnswer = serde_json::from_str(&reply.body).unwrap();
    (
        Papers {
            chain: answer.chain,
            key: private(&key),
        },
        answer.id,
    )
}

async fn world_and_papers() -> (World, Papers, Identity) {
    let world = World::builder().without_agent().start().await.unwrap();
    let token: JoinToken = world.gateway.line.join_token.parse().unwrap();
    let (papers, identity) = joined(&token).await;
    (world, papers, identity)
}

/// Papers for `identity` from an authority of the attacker's own, in the same trust domain.
fn forged(identity: &Identity) -> Papers {
    let authority = Authority::create(identity.trust_domain().clone(), SystemTime::now()).unwrap();
    let made = authority
        .enroll(
            identity,
            &["localhost".to_owned()],
            LEAF_LIFETIME,
            SystemTime::now(),
        )
        .unwrap();
    Papers {
        chain: made.chain.clone(),
        key: private(&made.key),
    }
}

async fn outcome(world: &World, papers: Option<&Papers>) -> Outcome {
    FalseAgent::new(papers)
        .unwrap()
        .say_hello(links(world))
        .await
        .unwrap()
}

fn refused(outcome: &Outcome) {
    assert!(
        !matches!(outcome, Outcome::Welcome),
        "an attacker was welcomed"
    );
}

#[tokio::test]
async fn real_papers_are_welcomed_and_no_ticket_is_given() {
    let (world, papers, _) = world_and_papers().await;
    let agent = FalseAgent::new(Some(&papers)).unwrap();
    assert_eq!(
        agent.say_hello(links(&world)).await.unwrap(),
        Outcome::Welcome,
        "{}",
        world.gateway.process.log().text()
    );
    assert_eq!(agent.tickets(), 0, "nobody comes back by resumption");
}

#[tokio::test]
async fn who_has_no_papers_or_papers_of_another_authority_is_refused() {
    let (world, real, identity) = world_and_papers().await;
    refused(&outcome(&world, None).await);
    let other = forged(&identity);
    refused(&outcome(&world, Some(&other)).await);
    // Their root and issuer among real ones, and real ones behind a false leaf.
    let mut mixed = other.copy();
    mixed.chain.truncate(1);
    mixed.chain.extend(real.chain[1..].iter().cloned());
    refused(&outcome(&world, Some(&mixed)).await);
    world
        .gateway
        .process
        .logged("refused", Duration::from_secs(5))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_real_chain_without_its_key_is_refused() {
    let (world, real, _) = world_and_papers().await;
    let thief = Papers {
        chain: real.chain.clone(),
        key: private(&KeyPair::generate().unwrap()),
    };
    refused(&outcome(&world, Some(&thief)).await);
}

#[tokio::test]
async fn another_certificate_in_the_chain_gives_no_other_identity() {
    let (world, real, identity) = world_and_papers().await;
    let other = forged(&identity);
    for place in 1..=real.chain.len() {
        let mut chain = real.chain.clone();
        chain.insert(place, other.chain[0].clone());
        let papers = Papers {
            chain,
            key: real.key.clone_key(),
        };
        // Refused, or believed as who the leaf says: never as the other.
        if outcome(&world, Some(&papers)).await == Outcome::Welcome {
            let status = world.admin().get("/v1/status").await.unwrap().text();
            assert!(!status.contains("mallory"), "{status}");
        }
    }
    let mut chain = other.chain[..1].to_vec();
    chain.extend(real.chain.iter().cloned());
    refused(
        &outcome(
            &world,
            Some(&Papers {
                chain: chain.clone(),
                key: other.key.clone_key(),
            }),
        )
        .await,
    );
    refused(
        &outcome(
            &world,
            Some(&Papers {
                chain,
                key: real.key.clone_key(),
            }),
        )
        .await,
    );
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
    let (papers, identity) = joined(&token).await;
    assert!(identity.to_string().contains("/plane/"), "{identity}");
    refused(&outcome(&world, Some(&papers)).await);
}

#[tokio::test]
async fn an_agent_believes_no_false_gateway_and_finds_the_real_one_again() {
    let mut world = World::start().await.unwrap();
    let state = world.agent.as_ref().unwrap().state_folder();
    let own = Papers::of_state(&state).unwrap();
    let other_plane: Identity = format!(
        "spiffe://{}/plane/US/DEV/{}",
        trust_domain(&world).await,
        "a".repeat(26)
    )
    .parse()
    .unwrap();
    let (process, line, arguments, data) = world.gateway.into_parts();
    let address: SocketAddr = line.links.parse().unwrap();
    process.kill().await.unwrap();
    // A perfect plane of another authority, and the agent's own leaf shown as if it were a plane's.
    for papers in [forged(&other_plane), own] {
        // The socket of the one before is closed by a task of its own.
        let listener = wait::until("the port", PATIENCE, || async {
            FalseGateway::bind(address, &papers).map_err(|error| error.to_string())
        });
        let listener = listener.await.unwrap();
        for _ in 0..2 {
            listener
                .refused_dial(Duration::from_secs(40))
                .await
                .unwrap();
        }
        listener.close().await;
    }
    world.gateway = culvert_tests::world::Gateway::again(line, arguments, data)
        .await
        .unwrap();
    world.serves().await.unwrap();
}

#[tokio::test]
async fn a_path_that_swallows_udp_is_named_and_tried_again() {
    let mut world = World::start().await.unwrap();
    let (process, line, arguments, data) = world.gateway.into_parts();
    let address: SocketAddr = line.links.parse().unwrap();
    process.kill().await.unwrap();
    let silent = tokio::net::UdpSocket::bind(address).await.unwrap();
    // The bound of 3 s counts from the dial; the loss of the link comes before it, and the clock is real.
    let named = format!("no reply over UDP from 127.0.0.1:{}", address.port());
    let agent = world.agent.as_ref().unwrap();
    agent
        .process
        .logged(&named, Duration::from_secs(30))
        .await
        .unwrap();
    drop(silent);
    world.gateway = culvert_tests::world::Gateway::again(line, arguments, data)
        .await
        .unwrap();
    world.serves().await.unwrap();
}

async fn trust_domain(world: &World) -> String {
    let status = world.admin().get("/v1/status").await.unwrap();
    status.json()["trust_domain"]
        .as_str()
        .unwrap_or_else(|| panic!("{}", status.text()))
        .to_owned()
}

#[tokio::test]
async fn a_revoked_agent_is_cut_and_cannot_come_back() {
    let mut world = World::start().await.unwrap();
    let state = world.agent.as_ref().unwrap().state_folder();
    let papers = Papers::of_state(&state).unwrap();
    let client = FalseAgent::new(Some(&papers)).unwrap();
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
    refused(&client.say_hello(links(&world)).await.unwrap());
    // A restart with the same identity and token exits without dialling.
    let mut agent = world.agent.take().unwrap().restart().await.unwrap();
    agent
        .process
        .exits(77, Duration::from_secs(10))
        .await
        .unwrap();
}
