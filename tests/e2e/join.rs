//! Joining: one token, one agent; whoever tries otherwise learns nothing.

use std::time::{Duration, SystemTime};

use culvert_certs::{JoinAnswer, JoinRequest, JoinToken, KeyPair, TokenSpec};
use culvert_tests::client::Client;
use culvert_tests::stranger::{JoinReply, post_join};
use culvert_tests::wait::{self, PATIENCE};
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

/// Every refusal is this one, to the byte, whatever its reason.
fn refused(reply: &JoinReply) {
    let told =
        r#"{"error":{"code":"refused","message":"the request was refused; ask for a new token"}}"#;
    assert_eq!((reply.status, reply.body.as_str()), (403, told));
}

/// Waits until the gateway has refused `count` joins, and sees why it refused the last one.
async fn audited(world: &World, count: usize, reason: &str) {
    let process = &world.gateway.process;
    let last = process
        .logged_times("audit: refused", count, PATIENCE)
        .await
        .unwrap();
    assert!(
        last.contains(reason),
        "{reason:?} is not the reason in {last}"
    );
}

async fn joins(token: &JoinToken) {
    let reply = post_join(token, &json(&request(token).1)).await.unwrap();
    assert_eq!(reply.status, 200, "{}", reply.body);
}

/// The names of the agents that control knows.
async fn agents(world: &World) -> Vec<String> {
    let list = world
        .admin()
        .get("/v1/tenants/dev/agents")
        .await
        .unwrap()
        .json();
    let items = list["items"].as_array().cloned().unwrap_or_default();
    items
        .iter()
        .map(|agent| agent["name"].as_str().unwrap().to_owned())
        .collect()
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
    refused(&post_join(&token, &json(&first)).await.unwrap());
    audited(&world, 1, "the join token has been used").await;
    refused(&post_join(&token, &json(&request(&token).1)).await.unwrap());
    audited(&world, 2, "the join token has been used").await;
    let name = identity.rsplit('/').next().unwrap().to_owned();
    assert_eq!(agents(&world).await, [name]);
}

#[tokio::test]
async fn a_token_is_good_until_it_expires_and_not_after() {
    let (world, _) = gateway().await;
    let tokens = "/v1/tenants/dev/connectors/dev:token";
    let mut short = Vec::new();
    for _ in 0..3 {
        let spec = serde_json::json!({"lifetime": "6s"});
        let minted = world.admin().post(tokens, &spec).await.unwrap();
        let text = minted.json()["token"].as_str().map(str::to_owned);
        short.push(text.unwrap_or_else(|| panic!("{}", minted.text())));
    }
    let read = |text: &String| text.parse::<JoinToken>().unwrap();
    // Its own expiry is what is waited for, and the first is used before it.
    joins(&read(&short[0])).await;
    let late = read(&short[1]);
    // In whole seconds: the last one may expire later than the one before it.
    let last = late.expiry.max(read(&short[2]).expiry);
    wait::until("the tokens' expiry", PATIENCE, || async {
        let now = SystemTime::now();
        last.duration_since(now)
            .map_or(Ok(()), |left| Err(format!("{left:?} left")))
    })
    .await
    .unwrap();
    refused(&post_join(&late, &json(&request(&late).1)).await.unwrap());
    audited(&world, 1, "the join token has expired").await;
    // The program that is given one says so and ends.
    let spec = AgentSpec::joining(&short[2]).usual_services(&world.backend, &world.tools);
    let mut agent = Agent::start(spec).await.unwrap();
    agent.process.exits(77, PATIENCE).await.unwrap();
    assert_eq!(agents(&world).await.len(), 1);
}

#[tokio::test]
async fn a_used_token_stays_used_after_a_restart() {
    let (mut world, token) = gateway().await;
    let (_, first) = request(&token);
    assert_eq!(post_join(&token, &json(&first)).await.unwrap().status, 200);
    world.gateway = world.gateway.restart().await.unwrap();
    // The recorded request, to the byte, and a new one with the same token.
    refused(&post_join(&token, &json(&first)).await.unwrap());
    audited(&world, 1, "the join token has been used").await;
    refused(&post_join(&token, &json(&request(&token).1)).await.unwrap());
    audited(&world, 2, "the join token has been used").await;
    assert_eq!(agents(&world).await.len(), 1);
    // Every start mints a fresh one.
    joins(&world.gateway.line.join_token.parse().unwrap()).await;
}

#[tokio::test]
async fn of_fifty_that_redeem_at_once_one_wins() {
    let (world, token) = gateway().await;
    // Who is not answered, or told to come again, does: at the end each has a verdict.
    let attempts = (0..50).map(|_| async {
        let (_, request) = request(&token);
        let body = json(&request);
        wait::until("a verdict", PATIENCE, || async {
            match post_join(&token, &body).await {
                Ok(reply) if reply.status != 503 => Ok(reply),
                other => Err(format!("{other:?}")),
            }
        })
        .await
        .unwrap()
    });
    let replies = join_all(attempts).await;
    let (won, lost): (Vec<_>, Vec<_>) = replies.iter().partition(|reply| reply.status == 200);
    assert_eq!((won.len(), lost.len()), (1, 49), "{replies:?}");
    lost.into_iter().for_each(refused);
    let winner: JoinAnswer = serde_json::from_str(&won[0].body).unwrap();
    let name = winner.id.to_string().rsplit('/').next().unwrap().to_owned();
    assert_eq!(
        agents(&world).await,
        [name],
        "one agent, and it is the winner"
    );
    audited(&world, 49, "used").await;
}

#[tokio::test]
async fn a_signing_request_that_is_swapped_on_the_way_is_refused() {
    let (world, token) = gateway().await;
    let (_, mut stolen) = request(&token);
    stolen.csr = KeyPair::generate().unwrap().csr().unwrap();
    refused(&post_join(&token, &json(&stolen)).await.unwrap());
    audited(&world, 1, "the signature does not fit the request").await;
    assert!(agents(&world).await.is_empty());
    // The token is still good for who holds its seed.
    joins(&token).await;
}

#[tokio::test]
async fn forged_tokens_are_refused() {
    let (world, token) = gateway().await;
    // Everything right but the seed: a token of the attacker's own making.
    let spec = TokenSpec {
        addresses: token.addresses.clone(),
        trust_domain: token.trust_domain.clone(),
        subject: token.subject.clone(),
        pins: token.pins,
        expiry: token.expiry,
    };
    let (forged, _) = JoinToken::mint(spec).unwrap();
    let (_, request_of_forged) = request(&forged);
    refused(&post_join(&forged, &json(&request_of_forged)).await.unwrap());
    audited(&world, 1, "no token has this id").await;
    // The real token's id under a signature of the forged one.
    let (_, mut mixed) = request(&forged);
    mixed.token_id = token.id();
    refused(&post_join(&token, &json(&mixed)).await.unwrap());
    audited(&world, 2, "the signature does not fit the request").await;
    // None of it has spent the real one.
    joins(&token).await;
}

#[tokio::test]
async fn what_is_no_join_request_is_refused_without_harm() {
    let (_world, token) = gateway().await;
    let deep = format!("{}{}", "[".repeat(5_000), "]".repeat(5_000));
    let large = format!("{{\"csr\":\"{}\"}}", "A".repeat(1024 * 1024));
    for body in ["", "{}", "null", "not json", &deep, &large] {
        let met = post_join(&token, body).await;
        let shown = &body[..body.len().min(40)];
        match &met {
            Ok(reply) if body.len() > 64 * 1024 => assert_eq!(reply.status, 413, "{shown}"),
            Ok(reply) => assert_eq!(reply.status, 400, "{shown}"),
            // A server that does not read all of a body may reset the connection, and the answer is lost with it.
            Err(_) => assert!(body.len() > 64 * 1024, "{shown}: {met:?}"),
        }
    }
    joins(&token).await;
}

#[tokio::test]
async fn an_agent_with_a_bad_token_exits_77_and_remembers() {
    let (world, token) = gateway().await;
    joins(&token).await;
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
