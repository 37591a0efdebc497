//! Memory of an idle link and of idle streams.

use serde_json::json;

use super::Effort;
use super::idle::{Bare, Dialler};
use super::report::Report;
use super::usage::resident_kib;
use crate::client::Events;
use crate::error::HarnessError;
use crate::wait::{self, PATIENCE};
use crate::world::{Agent, AgentSpec, CONNECTOR, World, chat_body};

/// Connections, and streams of each, that are opened before any is counted.
const WARMING: u32 = 8;

const FILE: &str = "services:
  - { name: llm, kind: model, url: \"http://{backend}/v1\", limits: { concurrency: 4096 } }
";

pub(super) async fn measure(effort: Effort, report: &mut Report) -> Result<(), HarnessError> {
    let idle = u32::try_from(effort.idle_streams).unwrap_or(u32::MAX);
    let per_stream = bare_stream(idle).await?;
    let world = warm_world().await?;
    let held = streams(&world, effort.idle_streams, per_stream, report).await;
    held.map_err(|error| world.explain(&error))?;
    // Links in a world of their own: what the streams have left behind would hide what they need.
    drop(world);
    let per_connection = bare_connection(effort.idle_links).await?;
    let world = warm_world().await?;
    let held = links(&world, effort.idle_links, per_connection, report).await;
    held.map_err(|error| world.explain(&error))
}

async fn warm_world() -> Result<World, HarnessError> {
    let world = World::builder().agent_file(FILE).start().await?;
    world.serves().await?;
    Ok(world)
}

/// What quinn alone needs for a held stream, at both ends together, in KiB.
async fn bare_stream(count: u32) -> Result<f64, HarnessError> {
    let bare = Bare::start(count + WARMING).await?;
    let _warm = warmed(&bare).await?;
    let mut one = bare.dial().await?;
    one.open(WARMING).await?;
    let before = bare.resident_kib()? + one.resident_kib()?;
    one.open(count).await?;
    let after = bare.resident_kib()? + one.resident_kib()?;
    Ok((after - before) / f64::from(count))
}

/// What quinn alone needs for an idle connection, at the end that listens, in KiB.
#[expect(clippy::cast_precision_loss, reason = "counts are small")]
async fn bare_connection(count: usize) -> Result<f64, HarnessError> {
    let bare = Bare::start(WARMING).await?;
    let _warm = warmed(&bare).await?;
    let before = bare.resident_kib()?;
    let mut held = Vec::with_capacity(count);
    for _ in 0..count {
        held.push(bare.dial().await?);
    }
    Ok((bare.resident_kib()? - before) / count as f64)
}

/// The first ones pay for what each thread of a process keeps, as the first calls of a world that has served did.
async fn warmed(bare: &Bare) -> Result<Vec<Dialler>, HarnessError> {
    let mut warm = Vec::new();
    for _ in 0..WARMING {
        let mut dialler = bare.dial().await?;
        dialler.open(WARMING).await?;
        warm.push(dialler);
    }
    Ok(warm)
}

#[expect(clippy::cast_precision_loss, reason = "counts are small")]
async fn streams(
    world: &World,
    count: usize,
    bare: f64,
    report: &mut Report,
) -> Result<(), HarnessError> {
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
        Some(bare),
    )?;
    drop(held);
    Ok(())
}

/// Joins more agents of the same connector and sees what the gateway needs for each.
#[expect(clippy::cast_precision_loss, reason = "counts are small")]
async fn links(
    world: &World,
    count: usize,
    bare: f64,
    report: &mut Report,
) -> Result<(), HarnessError> {
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
        Some(bare),
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
