//! The official MCP conformance suite, directly against the fixture and through the tunnel: every check gives the same result,
//! with the fixture behind HTTP, and on the standard streams of a process that the agent runs.

use std::collections::BTreeMap;

use culvert_tests::key_proxy::KeyProxy;
use culvert_tests::programs::Programs;
use culvert_tests::sdk::{Check, Node, Verdict};
use culvert_tests::world::World;

/// Checks that a reference server passes, so that a suite that skips what it cannot find is noticed.
const PASSED_2025_11_25: usize = 83;
const PASSED_2026_07_28: usize = 197;
/// Checks that the suite makes only of answers that are streams, and of streams that can be resumed. What a process
/// on standard streams answers at once is one JSON object, and nobody keeps what a cut stream lost.
const NOT_ON_STDIO: [&str; 3] = [
    "server-sse-streams-functional",
    "server-sse-priming-event",
    "server-sse-retry-field",
];

#[tokio::test]
async fn every_check_of_2025_11_25_is_the_same_through_the_tunnel() {
    compare("2025-11-25", PASSED_2025_11_25).await;
}

#[tokio::test]
async fn every_check_of_2026_07_28_is_the_same_through_the_tunnel() {
    compare("2026-07-28", PASSED_2026_07_28).await;
}

#[tokio::test]
async fn a_server_on_stdio_gives_the_same_in_2025_11_25() {
    compare_stdio("2025-11-25").await;
}

#[tokio::test]
async fn a_server_on_stdio_gives_the_same_in_2026_07_28() {
    compare_stdio("2026-07-28").await;
}

/// The same fixture over HTTP directly, and on the standard streams of a process that the agent runs.
async fn compare_stdio(revision: &str) {
    let node = Node::ready().await.unwrap();
    let program = Programs::built().await.unwrap().path("mcp-fixture");
    let file = format!(
        "services:\n  - {{ name: tools, kind: mcp, command: [{program:?}, --stdio] }}\n  - {{ name: llm, kind: model, url: \"http://{{backend}}/v1\" }}\n"
    );
    let world = World::builder().agent_file(&file).start().await.unwrap();
    let direct_url = format!("{}/mcp", world.tools.url());
    let mut direct = node.conformance(&direct_url, revision).await.unwrap();
    direct.retain(|check, _| !NOT_ON_STDIO.contains(&check.id.as_str()));
    let through = through_the_tunnel(node, &world, revision).await;
    expect_equal(&world, &direct, &through);
}

async fn compare(revision: &str, passed: usize) {
    let node = Node::ready().await.unwrap();
    let world = World::start().await.unwrap();
    let direct_url = format!("{}/mcp", world.tools.url());
    let direct = node.conformance(&direct_url, revision).await.unwrap();
    assert_eq!(successes(&direct), passed, "{:#?}", failures(&direct));

    let through = through_the_tunnel(node, &world, revision).await;
    expect_equal(&world, &direct, &through);
}

async fn through_the_tunnel(
    node: &Node,
    world: &World,
    revision: &str,
) -> BTreeMap<Check, Verdict> {
    let proxy = KeyProxy::start(world.gateway.url(), &world.gateway.line.api_key)
        .await
        .unwrap();
    let url = format!("{}/mcp/dev/tools", proxy.url());
    node.conformance(&url, revision).await.unwrap()
}

fn expect_equal(
    world: &World,
    direct: &BTreeMap<Check, Verdict>,
    through: &BTreeMap<Check, Verdict>,
) {
    let differences = differences(direct, through);
    assert!(
        differences.is_empty(),
        "{differences:#?}\n-- gateway --\n{}",
        world.gateway.process.log().text()
    );
}

fn successes(checks: &BTreeMap<Check, Verdict>) -> usize {
    let passed = checks
        .values()
        .filter(|verdict| verdict.status == "SUCCESS");
    passed.count()
}

fn failures(checks: &BTreeMap<Check, Verdict>) -> Vec<(&Check, &Verdict)> {
    let failed = checks
        .iter()
        .filter(|(_, verdict)| verdict.status != "SUCCESS");
    failed.collect()
}

/// Every check with its two results, where they differ or where one side has none.
fn differences(
    direct: &BTreeMap<Check, Verdict>,
    through: &BTreeMap<Check, Verdict>,
) -> Vec<String> {
    let mut all: Vec<&Check> = direct.keys().chain(through.keys()).collect();
    all.sort();
    all.dedup();
    let status = |verdict: Option<&Verdict>| verdict.map(|verdict| verdict.status.clone());
    all.into_iter()
        .map(|check| (check, direct.get(check), through.get(check)))
        .filter(|(_, direct, through)| status(*direct) != status(*through))
        .map(|(check, direct, through)| {
            format!("{check:?}: direct {direct:?}, through the tunnel {through:?}")
        })
        .collect()
}
