//! Certificates really made, good ones and bad ones, shown to the real gateway and to the real agent.
//!
//! Each bad one is refused, the refuser logs why, and whoever showed it learns the one alert that all get.

mod faults;

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use culvert_certs::{Identity, JoinToken};
use culvert_tests::attacker::{FalseAgent, Outcome, Papers};
use culvert_tests::false_gateway::FalseGateway;
use culvert_tests::insider::{By, Insider, Leaf};
use culvert_tests::process::Process;
use culvert_tests::stranger::join_by_hand;
use culvert_tests::wait::{self, PATIENCE};
use culvert_tests::world::{Gateway, World};
use culvert_wire::Code;
use faults::{Case, USAGE, chained};
use quinn::ConnectionError;
use rcgen::ExtendedKeyUsagePurpose as Purpose;
use serde_json::{Value, json};

/// Stops the gateway of `world`, takes the authority out of its folder, and starts it again.
async fn insider(world: &mut World) -> Insider {
    let gateway = std::mem::replace(&mut world.gateway, Gateway::start(&[]).await.unwrap());
    let (process, line, arguments, data) = gateway.into_parts();
    process.kill().await.unwrap();
    let insider = Insider::open(data.path()).await.unwrap();
    world.gateway = Gateway::again(line, arguments, data).await.unwrap();
    insider
}

fn plane_of(identity: &Identity) -> String {
    let domain = identity.trust_domain();
    format!("spiffe://{domain}/plane/US/DEV/{}", "a".repeat(26))
}

/// Sees that `told` is the alert `certificate_unknown` without a word.
fn bare_alert(name: &str, told: &ConnectionError) {
    let ConnectionError::ConnectionClosed(close) = told else {
        panic!("{name}: no alert of TLS: {told:?}");
    };
    assert_eq!(u64::from(close.error_code), 0x100 + 46, "{name}: {close:?}");
    assert!(
        close.reason.is_empty(),
        "{name}: the refusal tells why: {:?}",
        String::from_utf8_lossy(&close.reason)
    );
}

/// Waits until the log has `count` lines with `what`, and sees `reason` in the last of them.
async fn logged(process: &Process, what: &str, count: usize, reason: &str) {
    let last = process.logged_times(what, count, PATIENCE).await.unwrap();
    assert!(
        last.contains(reason),
        "{reason:?} is not the reason in {last}"
    );
}

async fn outcome(address: SocketAddr, papers: &Papers) -> Outcome {
    let agent = FalseAgent::new(Some(papers)).unwrap();
    agent.say_hello(address).await.unwrap()
}

fn faults_of_agents(insider: &Insider, good: &Leaf, plane: &str) -> Vec<Case> {
    let with = |purposes: &[Purpose]| Leaf {
        purposes: purposes.to_vec(),
        ..good.clone()
    };
    let sign = |by, leaf: &Leaf| insider.sign(by, leaf).unwrap();
    let of_planes = with(&[Purpose::ServerAuth, Purpose::ClientAuth]);
    let says_plane = Leaf::of_agent(plane);
    vec![
        (
            "a server",
            sign(By::Agents, &with(&[Purpose::ServerAuth])),
            USAGE,
        ),
        ("a server too", sign(By::Agents, &of_planes), USAGE),
        (
            "a plane by the issuer of agents",
            sign(By::Agents, &says_plane),
            "the path says plane",
        ),
        (
            "an agent by the issuer of planes",
            sign(By::Planes, &of_planes),
            "the path says agent",
        ),
    ]
}

#[tokio::test]
async fn a_gateway_refuses_every_bad_certificate_alike_and_logs_why() {
    let mut world = World::builder().without_agent().start().await.unwrap();
    let token: JoinToken = world.gateway.line.join_token.parse().unwrap();
    let (_, identity) = join_by_hand(&token).await.unwrap();
    let insider = insider(&mut world).await;
    let uri = identity.to_string();
    let good = Leaf::of_agent(&uri);
    let mut cases = faults::all(&insider, By::Agents, &good);
    cases.extend(faults_of_agents(&insider, &good, &plane_of(&identity)));
    let address = world.gateway.link_port().unwrap();
    let mut first = None;
    for (count, (name, papers, reason)) in cases.iter().enumerate() {
        let Outcome::Closed(told) = outcome(address, papers).await else {
            panic!("{name}: not refused in the handshake");
        };
        bare_alert(name, &told);
        assert_eq!(
            *first.get_or_insert_with(|| told.clone()),
            told,
            "{name} is told more"
        );
        logged(
            &world.gateway.process,
            "handshake refused",
            count + 1,
            reason,
        )
        .await;
    }
    // The right one is welcomed: what was refused was refused for its fault.
    let real = insider.sign(By::Agents, &good).unwrap();
    let met = outcome(address, &real).await;
    assert!(matches!(met, Outcome::Welcome(_)), "{met:?}");
    // A perfect certificate for a connector that does not exist, and for a tenant that does not.
    for (count, uri) in [
        uri.replace("/connector/dev/", "/connector/none/"),
        uri.replace("/tenant/dev/", "/tenant/acme/"),
    ]
    .iter()
    .enumerate()
    {
        let nowhere = insider.sign(By::Agents, &Leaf::of_agent(uri)).unwrap();
        assert_eq!(
            outcome(address, &nowhere).await.code(),
            Some(Code::NotAllowed)
        );
        let reason = "the connector is not known";
        logged(&world.gateway.process, "link rejected", count + 1, reason).await;
    }
}

fn faults_of_planes(insider: &Insider, good: &Leaf, own: &Papers, agent: &Identity) -> Vec<Case> {
    let sign = |by, leaf: &Leaf| insider.sign(by, leaf).unwrap();
    let mut behind = own.chain.clone();
    behind.insert(1, sign(By::Planes, good).chain[0].clone());
    let client = Leaf {
        purposes: vec![Purpose::ClientAuth],
        ..good.clone()
    };
    let says_agent = Leaf::of_plane(&agent.to_string());
    vec![
        ("the agent's own leaf", own.copy(), USAGE),
        (
            "the agent's own leaf before a plane's",
            chained(own, behind),
            USAGE,
        ),
        ("a client", sign(By::Planes, &client), USAGE),
        (
            "a plane by the issuer of agents",
            sign(By::Agents, good),
            USAGE,
        ),
        (
            "an agent by the issuer of planes",
            sign(By::Planes, &says_agent),
            "the path says agent",
        ),
    ]
}

/// The identity of the world's one agent.
async fn identity_of(world: &World) -> Identity {
    let status = world.admin().get("/v1/status").await.unwrap().json();
    let agents = world
        .admin()
        .get("/v1/tenants/dev/agents")
        .await
        .unwrap()
        .json();
    let (domain, name) = (&status["trust_domain"], &agents["items"][0]["name"]);
    let (domain, name) = (domain.as_str().unwrap(), name.as_str().unwrap());
    let text = format!("spiffe://{domain}/tenant/dev/connector/dev/agent/{name}");
    text.parse().unwrap()
}

#[tokio::test]
async fn an_agent_refuses_every_false_plane_alike_logs_why_and_finds_the_real_one_again() {
    let mut world = World::start().await.unwrap();
    let own = Papers::of_state(&world.agent.as_ref().unwrap().state_folder()).unwrap();
    let insider = insider(&mut world).await;
    let agent: Identity = identity_of(&world).await;
    let good = Leaf::of_plane(&plane_of(&agent));
    let mut cases = faults::all(&insider, By::Planes, &good);
    cases.extend(faults_of_planes(&insider, &good, &own, &agent));
    let address = world.gateway.link_port().unwrap();
    let (process, line, arguments, data) = world.gateway.into_parts();
    process.kill().await.unwrap();
    let false_gateway = FalseGateway::bind(address, &own).unwrap();
    let mut first = None;
    for (name, papers, reason) in &cases {
        // A new start dials at once: what came before it has no part in its log, nor in its pauses.
        let restarted = world.agent.take().unwrap().restart().await.unwrap();
        let told = false_gateway.refused_dial(papers, PATIENCE).await;
        let told = told.map_err(|error| format!("{name}: {error}")).unwrap();
        bare_alert(name, &told);
        assert_eq!(
            *first.get_or_insert_with(|| told.clone()),
            told,
            "{name} is told more"
        );
        let log = restarted.process.log().clone();
        wait::until(&format!("{name}: {reason:?}"), PATIENCE, || async {
            let text = log.text();
            let said = text
                .lines()
                .any(|line| line.contains("no link; dialling again") && line.contains(reason));
            if said { Ok(()) } else { Err(text) }
        })
        .await
        .unwrap();
        world.agent = Some(restarted);
    }
    false_gateway.close().await;
    world.gateway = Gateway::again(line, arguments, data).await.unwrap();
    world.serves().await.unwrap();
}

async fn put(world: &World, path: &str, document: &Value) {
    let admin = world.admin();
    let request = admin
        .request(http::Method::PUT, path)
        .header("content-type", "application/json");
    let put = admin
        .send(request, document.to_string().into())
        .await
        .unwrap();
    assert!(put.status.is_success(), "{}", put.text());
}

/// A member of another tenant, in a connector of the same name.
async fn mallory(world: &World) -> (Papers, Identity) {
    put(
        world,
        "/v1/tenants/other",
        &json!({"kind": "Tenant", "name": "other"}),
    )
    .await;
    let connector = json!({"kind": "Connector", "tenant": "other", "name": "dev"});
    put(world, "/v1/tenants/other/connectors/dev", &connector).await;
    let minted = world
        .admin()
        .post("/v1/tenants/other/connectors/dev:token", &json!({}))
        .await
        .unwrap();
    let token = minted.json()["token"].as_str().map(str::to_owned);
    let token = token.unwrap_or_else(|| panic!("{}", minted.text()));
    join_by_hand(&token.parse().unwrap()).await.unwrap()
}

#[tokio::test]
async fn who_is_of_another_tenant_stays_there_whatever_it_shows_and_says() {
    let world = World::start().await.unwrap();
    let agent = Papers::of_state(&world.agent.as_ref().unwrap().state_folder()).unwrap();
    let (papers, identity) = mallory(&world).await;
    assert!(
        identity.to_string().contains("/tenant/other/"),
        "{identity}"
    );
    let address = world.gateway.link_port().unwrap();
    let gateway = &world.gateway.process;
    let links = world.admin().get("/v1/status").await.unwrap().json()["links"].clone();
    assert_eq!(links.as_array().map(Vec::len), Some(1), "{links}");
    let session = links[0]["session"]
        .as_str()
        .unwrap()
        .split('/')
        .next()
        .unwrap();

    // It says that it belongs to a session of the other.
    let liar = FalseAgent::new(Some(&papers)).unwrap();
    let met = liar
        .hold(address, Some(session.parse().unwrap()))
        .await
        .unwrap();
    assert_eq!(met.outcome, Outcome::Rejected(Code::NotAllowed));
    logged(gateway, "link rejected", 1, "no such session").await;

    // It shows the other's leaf among its own certificates: it is believed as what its own leaf says.
    for (count, place) in (1..=papers.chain.len()).enumerate() {
        let mut chain = papers.chain.clone();
        chain.insert(place, agent.chain[0].clone());
        let shown = FalseAgent::new(Some(&chained(&papers, chain))).unwrap();
        let held = shown.hold(address, None).await.unwrap();
        assert!(
            matches!(held.outcome, Outcome::Welcome(_)),
            "{:?}",
            held.outcome
        );
        logged(gateway, "link up", count + 2, &identity.to_string()).await;
    }
    // First in the chain, the other's leaf asks for the other's key.
    let mut chain = agent.chain[..1].to_vec();
    chain.extend(papers.chain.iter().cloned());
    let met = outcome(address, &chained(&papers, chain)).await;
    assert!(
        matches!(&met, Outcome::Closed(ConnectionError::ConnectionClosed(close))
            if u64::from(close.error_code) == 0x100 + 51 && close.reason.is_empty()),
        "{met:?}"
    );
    logged(gateway, "handshake refused", 1, "BadSignature").await;
    // The other has the one link that it had, and serves.
    let text = gateway.log().text();
    let others = text
        .lines()
        .filter(|line| line.contains("link up") && line.contains("/tenant/dev/"));
    assert_eq!(others.count(), 1, "{text}");
    world.serves().await.unwrap();
}

#[tokio::test]
async fn a_leaf_that_expires_ends_its_link_and_cannot_come_back_by_resumption() {
    let mut world = World::builder().without_agent().start().await.unwrap();
    let token: JoinToken = world.gateway.line.join_token.parse().unwrap();
    let (_, identity) = join_by_hand(&token).await.unwrap();
    let insider = insider(&mut world).await;
    let address = world.gateway.link_port().unwrap();
    let mut short = Leaf::of_agent(&identity.to_string());
    // Whole seconds, as certificates have them.
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let ends = Duration::from_secs(now.unwrap().as_secs() + 5);
    short.not_after = SystemTime::UNIX_EPOCH + ends;
    let papers = insider.sign(By::Agents, &short).unwrap();
    let agent = FalseAgent::new(Some(&papers)).unwrap();
    let held = agent.hold(address, None).await.unwrap();
    assert!(
        matches!(held.outcome, Outcome::Welcome(_)),
        "{:?}",
        held.outcome
    );
    held.closed(Duration::from_secs(25)).await.unwrap();
    assert!(
        SystemTime::now() >= short.not_after,
        "closed before its time"
    );
    let reason = "the certificate has expired";
    logged(&world.gateway.process, "link cut", 1, reason).await;
    // Admission counts the last second as over; TLS, whose times are inclusive, refuses from the next one on.
    let told = wait::until("TLS refuses", PATIENCE, || async {
        match agent.say_hello(address).await {
            Ok(met) if met.code() == Some(Code::Expired) => Err("rejected by admission".to_owned()),
            Ok(Outcome::Closed(told)) => Ok(told),
            met => panic!("an expired leaf came back: {met:?}"),
        }
    });
    let told = told.await.unwrap();
    bare_alert("expired", &told);
    logged(
        &world.gateway.process,
        "handshake refused",
        1,
        "has expired",
    )
    .await;
    assert_eq!(agent.tickets(), 0, "there is nothing to resume by");
}
