//! Joining: one token, one agent; whoever tries otherwise learns nothing.

use std::time::{Duration, SystemTime};

use culvert_certs::{JoinAnswer, JoinRequest, JoinToken, KeyPair, TokenSpec};
use culvert_tests::client::Client;
use culvert_tests::stranger::{JoinReply, post_join};
use culvert_tests::world::{Agent, AgentSpec, World};
use futures_util::future::join_all;

fn request(token: &JoinToken) -> (KeyPair, JoinRequest) {
    let key = KeyPair::generate().unwrap();
    let request = JoinRequest::new(token, key.csr().unwrap()).unwrap();
    (key, request)
}

fn json(request: &JoinRequest) -> String {
    serde_json::to_string(request).unwrap()
}

async fn gateway() -> (World, JoinToken) {
    let world = World::builder().without_agent().start().await.unwrap();
    let token: JoinToken = world.gateway.line.join_token.parse().unwrap();
    (world, token)
}

/// Every refusal looks the same, whatever its reason.
fn refused(reply: &JoinReply) {
    assert_eq!(reply.status, 403, "{}", reply.body);
    for hint in [
        "expired",
        " used",
        "already",
        "signature",
        "unknown",
        "csr",
        "tenant",
    ] {
        assert!(
            !reply.body.to_lowercase().contains(hint),
            "a refusal tells why: {}",
            reply.body
        );
    }
}

#[tokio::test]
async fn a_token_makes_one_identity_and_no_second() {
    let (world, token) = gateway().await;
    let (key, first) = request(&token);
    let reply = post_join(&token, &json(&first)).await.unwrap();
    assert_eq!(reply.status, 200, "{}", reply.body);
    let answer: JoinAnswer = serde_json::from_str(&reply.body).unwrap();
    let identity = answer.id.to_string();
    assert!(identity.contains("/connector/dev/agent/"), "{identity}");
    answer
        .into_credentials(&token, key, SystemTime::now())
        .unwrap();
    // The very same request again, and another one with the same token.
    let again = post_join(&token, &json(&first)).await.unwrap();
    refused(&again);
    let other = post_join(&token, &json(&request(&token).1)).await.unwrap();
    refused(&other);
    assert_eq!(again.body, other.body);
    world
        .gateway
        .process
        .logged("used", Duration::from_secs(5))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_used_token_stays_used_after_a_restart() {
    let (mut world, token) = gateway().await;
    assert_eq!(
        post_join(&token, &json(&request(&token).1))
            .await
            .unwrap()
            .status,
        200
    );
    world.gateway = world.gateway.restart().await.unwrap();
    refused(&post_join(&token, &json(&request(&token).1)).await.unwrap());
    let fresh: JoinToken = world.gateway.line.join_token.parse().unwrap();
    assert_eq!(
        post_join(&fresh, &json(&request(&fresh).1))
            .await
            .unwrap()
            .status,
        200,
        "every start mints a fresh token"
    );
}

#[tokio::test]
async fn of_fifty_that_redeem_at_once_one_wins() {
    let (_world, token) = gateway().await;
    let attempts = (0..50).map(|_| async {
        let (_, request) = request(&token);
        post_join(&token, &json(&request))
            .await
            .map(|reply| reply.status)
    });
    let statuses = join_all(attempts).await;
    let won = statuses
        .iter()
        .filter(|status| matches!(status, Ok(200)))
        .count();
    assert_eq!(won, 1, "{statuses:?}");
    let other = statuses
        .iter()
        .find(|status| !matches!(status, Ok(200 | 403 | 503)));
    assert!(other.is_none(), "{other:?}");
}

#[tokio::test]
async fn a_signing_request_that_is_swapped_on_the_way_is_refused() {
    let (world, token) = gateway().await;
    let (_, mut stolen) = request(&token);
    stolen.csr = KeyPair::generate().unwrap().csr().unwrap();
    refused(&post_join(&token, &json(&stolen)).await.unwrap());
    world
        .gateway
        .process
        .logged("signature", Duration::from_secs(5))
        .await
        .unwrap();
    // The token is still good for who holds its seed.
    assert_eq!(
        post_join(&token, &json(&request(&token).1))
            .await
            .unwrap()
            .status,
        200
    );
}

#[tokio::test]
async fn forged_tokens_are_refused() {
    let (_world, token) = gateway().await;
    // Everything right but the seed: a token of the attacker's own making.
    let spec = TokenSpec {
        addresses: token.addresses.clone(),
        trust_domain: token.trust_domain.clone(),
        subject: token.subject.clone(),
        pins: token.pins,
        expiry: token.expiry,
    };
    let (forged, _) = JoinToken::mint(spec).unwrap();
    refused(
        &post_join(&forged, &json(&request(&forged).1))
            .await
            .unwrap(),
    );
    // The real token's id under a signature of the forged one.
    let (_, mut mixed) = request(&forged);
    mixed.token_id = token.id();
    refused(&post_join(&token, &json(&mixed)).await.unwrap());
}

#[tokio::test]
async fn what_is_no_join_request_is_refused_without_harm() {
    let (_world, token) = gateway().await;
    let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
    let large = format!("{{\"csr\":\"{}\"}}", "A".repeat(1024 * 1024));
    for body in ["", "{}", "null", "not json", &deep, &large] {
        // A server that does not read all of a body may reset the connection behind its answer.
        if let Ok(reply) = post_join(&token, body).await {
            assert!(
                (400..500).contains(&reply.status),
                "{}: {}",
                &body[..body.len().min(40)],
                reply.status
            );
        }
    }
    assert_eq!(
        post_join(&token, &json(&request(&token).1))
            .await
            .unwrap()
            .status,
        200
    );
}

#[tokio::test]
async fn an_agent_with_a_bad_token_exits_77_and_remembers() {
    let (world, token) = gateway().await;
    assert_eq!(
        post_join(&token, &json(&request(&token).1))
            .await
            .unwrap()
            .status,
        200
    );
    let used = &world.gateway.line.join_token;
    let spec = AgentSpec::joining(used).usual_services(&world.backend, &world.tools);
    let mut agent = Agent::start(spec).await.unwrap();
    agent
        .process
        .exits(77, Duration::from_secs(20))
        .await
        .unwrap();
    // The same token again: refused without dialling, so even with the gateway gone.
    let gateway = world.gateway.process;
    gateway.kill().await.unwrap();
    let mut agent = agent.restart().await.unwrap();
    agent
        .process
        .exits(77, Duration::from_secs(5))
        .await
        .unwrap();
}

#[tokio::test]
async fn an_agent_that_has_an_identity_needs_no_token() {
    let mut world = World::start().await.unwrap();
    let (process, mut spec, state) = world.agent.take().unwrap().into_parts();
    process.kill().await.unwrap();
    // With the used token it starts as well: one line says that the token was ignored.
    world.agent = Some(Agent::start_in(state, spec.clone()).await.unwrap());
    world.serves().await.unwrap();
    let (process, _, state) = world.agent.take().unwrap().into_parts();
    process.kill().await.unwrap();
    spec.token = None;
    world.agent = Some(Agent::start_in(state, spec).await.unwrap());
    world.serves().await.unwrap();
    world.agent.take().unwrap().process.kill().await.unwrap();
}

#[tokio::test]
async fn the_token_and_the_keys_are_secrets() {
    let world = World::start().await.unwrap();
    world.serves().await.unwrap();
    let logs = format!(
        "{}{}",
        world.gateway.process.log().text(),
        world.agent.as_ref().unwrap().process.log().text()
    );
    // The one line on standard output that hands them out is the first.
    let logs = logs
        .lines()
        .filter(|line| !line.contains("\"join_token\""))
        .collect::<Vec<_>>()
        .join("\n");
    let line = &world.gateway.line;
    for secret in [&line.api_key, &line.admin_key, &line.join_token] {
        assert!(!logs.contains(secret.as_str()), "a secret is in the logs");
    }
    for root in [
        world.agent.as_ref().unwrap().state_folder(),
        world.gateway.data_folder().to_owned(),
    ] {
        for file in walk(&root) {
            let private = file
                .ancestors()
                .take_while(|path| path.starts_with(&root))
                .any(|path| open_to_others(path) == 0);
            assert!(private, "{} is open to others", file.display());
            let holds_a_key = ["key.pem", "dev.json", "authority.key", "plane.key"]
                .iter()
                .any(|name| file.ends_with(name));
            assert!(
                !holds_a_key || open_to_others(&file) == 0,
                "{} is open to others",
                file.display()
            );
        }
    }
    let reply = Client::new(world.gateway.url())
        .with_key(&line.admin_key)
        .get("/v1/models")
        .await
        .unwrap();
    assert_eq!(reply.status, 401, "an admin key is no API key");
}

/// The permissions of `path` that are not its owner's.
fn open_to_others(path: &std::path::Path) -> u32 {
    std::os::unix::fs::MetadataExt::mode(&path.metadata().unwrap()) & 0o077
}

/// All files below `folder`.
fn walk(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(walk(&path))
        } else {
            found.push(path)
        }
    }
    found
}
