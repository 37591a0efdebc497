//! Memory of an idle link and of idle streams.

use serde_json::json;

use super::Effort;
use super::report::Report;
use super::usage::resident_kib;
use crate::client::Events;
use crate::error::HarnessError;
use crate::wait::{self, PATIENCE};
use crate::world::{Agent, AgentSpec, CONNECTOR, World, chat_body};

/// What quinn alone needs: a bare idle connection, and a held stream at both ends, in KiB.
const BARE_CONNECTION_KIB: f64 = 38.0;
const BARE_STREAM_KIB: f64 = 1.8;

const FILE: &str = "services:
  - { name: llm, kind: model, url: \"http://{backend}/v1\", limits: { concurrency: 4096 } }
";

pub(super) async fn measure(effort: Effort, report: &mut Report) -> Result<(), HarnessError> {
    let world = World::builder().agent_file(FILE).start().await?;
    world.serves().await?;
    let measured = async {
        streams(&world, effort.idle_streams, report).await?;
        links(&world, effort.idle_links, report).await
    };
    let outcome = measured.await;
    outcome.map_err(|error| world.explain(&error))
}

#[expect(clippy::cast_precision_loss, reason = "counts are small")]
async fn streams(world: &World, count: usize, report: &mut Report) -> Result<(), HarnessError> {
    let gateway = world.gateway.process.id().unwrap_or_default();
    let agent = world
        .agent
        .as_ref()
        .and_then(|agent| agent.process.id())
        .unwrap_or_default();
    report.figure(
        "gateway_resident_idle",
        resident_kib(gateway)? / 1024.0,
        "MiB",
        None,
    )?;
    report.figure(
        "agent_resident_idle",
        resident_kib(agent)? / 1024.0,
        "MiB",
        None,
    )?;
    let before = (resident_kib(gateway)?, resident_kib(agent)?);
    let body = chat_body(
        "demo-model",
        json!({"stream": true, "fixture": {"fault": "stall", "after": 1, "interval_ms": 0}}),
    );
    let client = world.client();
    let mut held: Vec<Events> = Vec::with_capacity(count);
    for _ in 0..count {
        let mut events = client.stream("/v1/chat/completions", &body).await?;
        events.next().await?;
        held.push(events);
    }
    let after = (resident_kib(gateway)?, resident_kib(agent)?);
    let per_stream = |before: f64, after: f64| (after - before) / count as f64;
    let (at_gateway, at_agent) = (per_stream(before.0, after.0), per_stream(before.1, after.1));
    report.figure(
        &format!("gateway_kib_per_idle_stream_of_{count}"),
        at_gateway,
        "KiB",
        None,
    )?;
    report.figure(
        &format!("agent_kib_per_idle_stream_of_{count}"),
        at_agent,
        "KiB",
        None,
    )?;
    report.figure(
        &format!("kib_per_idle_stream_of_{count}_vs_bare_quinn"),
        at_gateway + at_agent,
        "KiB",
        Some(BARE_STREAM_KIB),
    )?;
    drop(held);
    Ok(())
}

/// Joins more agents of the same connector and sees what the gateway needs for each.
#[expect(clippy::cast_precision_loss, reason = "counts are small")]
async fn links(world: &World, count: usize, report: &mut Report) -> Result<(), HarnessError> {
    let gateway = world.gateway.process.id().unwrap_or_default();
    let before = resident_kib(gateway)?;
    let mut agents = Vec::with_capacity(count);
    for _ in 0..count {
        let token = fresh_token(world).await?;
        let mut spec = AgentSpec::joining(&token);
        spec.file = Some(crate::world::fill(FILE, world));
        agents.push(Agent::start(spec).await?);
    }
    linked(world, count + 1).await?;
    let per_link = (resident_kib(gateway)? - before) / count as f64;
    report.figure(
        &format!("gateway_kib_per_idle_link_of_{count}_vs_bare_quinn"),
        per_link,
        "KiB",
        Some(BARE_CONNECTION_KIB),
    )
}

async fn fresh_token(world: &World) -> Result<String, HarnessError> {
    let path = format!("/v1/tenants/dev/connectors/{CONNECTOR}:token");
    let reply = world.admin().post(&path, &json!({})).await?;
    let token = reply.json()["token"].as_str().map(str::to_owned);
    token.ok_or_else(|| HarnessError::Http(format!("no token: {} {}", reply.status, reply.text())))
}

/// Waits until the gateway has `count` links.
async fn linked(world: &World, count: usize) -> Result<(), HarnessError> {
    let admin = world.admin();
    wait::until("all agents are linked", PATIENCE, || async {
        let status = admin
            .get("/v1/status")
            .await
            .map_err(|error| error.to_string())?;
        let links = status.json()["links"].as_array().map_or(0, Vec::len);
        if links >= count {
            Ok(())
        } else {
            Err(format!("{links} links"))
        }
    })
    .await
}
