//! The demo: the main job with the real programs, told step by step, and then left for a person to try.

mod calls;

use std::io;
use std::time::{Duration, Instant};

use crate::error::HarnessError;
use crate::out;
use crate::programs::Programs;
use crate::table::Table;
use crate::timing;
use crate::wait;
use crate::world::{Agent, AgentSpec, CONNECTOR, Fixture, Gateway, MCP_SERVICE, World};

/// What happened, for the table at the end.
#[derive(Debug, Default)]
struct Story {
    steps: Vec<(String, String, Duration)>,
    hops: Vec<(&'static str, String)>,
}

impl Story {
    fn tell(&mut self, step: &str, what: &str, since: Instant) -> io::Result<()> {
        let took = since.elapsed();
        out::line(&format!("[{:>7.1} ms] {step}: {what}", ms(took)))?;
        self.steps.push((step.to_owned(), what.to_owned(), took));
        Ok(())
    }
}

/// Runs the demo; with `once` it ends after the table instead of staying up.
///
/// # Errors
/// Whatever kept the main job from happening, with the logs of the programs.
pub async fn run(once: bool) -> Result<(), HarnessError> {
    let mut story = Story::default();
    let from = Instant::now();
    Programs::built().await?;
    story.tell("build", "culvert-gateway and culvert-agent are built", from)?;

    let world = start(&mut story).await?;
    let told = tell_calls(&world, &mut story).await;
    told.map_err(|error| world.explain(&error))?;
    out::line(&tables(&story))?;
    if once {
        return leave(world).await;
    }
    out::line(&invitation(&world))?;
    tokio::signal::ctrl_c().await?;
    leave(world).await
}

async fn start(story: &mut Story) -> Result<World, HarnessError> {
    let from = Instant::now();
    let backend = Fixture::start("model-backend").await?;
    let tools = Fixture::start("mcp-fixture").await?;
    story.tell(
        "private network",
        &format!(
            "a model server on {} and an MCP server on {}",
            backend.address(),
            tools.address()
        ),
        from,
    )?;

    let from = Instant::now();
    let gateway = Gateway::start(&[]).await?;
    let line = &gateway.line;
    let what = format!(
        "clients on {}, agents on {}, its own authority",
        line.gateway, line.links
    );
    story.tell("gateway", &what, from)?;

    let from = Instant::now();
    let spec = AgentSpec::joining(&line.join_token).usual_services(&backend, &tools);
    let agent = Agent::start(spec).await?;
    let world = World {
        gateway,
        agent: Some(agent),
        backend,
        tools,
    };
    world.ready().await?;
    let what = format!(
        "joined as connector {CONNECTOR:?} with a one-use token, opened an mTLS QUIC link, offered its services"
    );
    story.tell("agent", &what, from)?;
    Ok(world)
}

async fn tell_calls(world: &World, story: &mut Story) -> Result<(), HarnessError> {
    let from = Instant::now();
    let models = world.client().get("/v1/models").await?;
    let count = models.json()["data"].as_array().map_or(0, Vec::len);
    story.tell(
        "models",
        &format!("{count} private models are listed, {CONNECTOR}/demo-model among them"),
        from,
    )?;

    let from = Instant::now();
    let chat = calls::stream_chat(world).await?;
    let what = format!(
        "{} tokens, the first after {:.1} ms: {:?}",
        chat.tokens,
        ms(chat.first_token),
        chat.text
    );
    story.tell("completion", &what, from)?;
    story.hops.push(("completion", chat.server_timing));

    let from = Instant::now();
    let whole = world.chat("fast", serde_json::json!({})).await?;
    story.tell(
        "short call",
        &format!(
            "a model that answers at once, status {}",
            whole.status.as_u16()
        ),
        from,
    )?;
    story
        .hops
        .push(("short call", whole.header("server-timing").to_owned()));

    let from = Instant::now();
    let tool = calls::call_tool(world).await?;
    story.tell(
        "MCP tool",
        &format!("add(40, 2) on {CONNECTOR}/{MCP_SERVICE} gave {}", tool.text),
        from,
    )?;
    story.hops.push(("MCP tool", tool.server_timing));

    let from = Instant::now();
    calls::leave_a_stream(world).await?;
    story.tell(
        "cancelled stream",
        "the caller left, and the model server stopped generating",
        from,
    )?;

    let from = Instant::now();
    let refused = calls::forbidden(world).await?;
    story.tell(
        "forbidden path",
        &format!("/v1/../__stats was refused with status {refused}"),
        from,
    )?;
    Ok(())
}

fn tables(story: &Story) -> String {
    let mut steps = Table::new(&["step", "took", "what happened"]);
    for (step, what, took) in &story.steps {
        steps.row(&[step, &format!("{:.1} ms", ms(*took)), what]);
    }
    let mut hops = Table::new(&["call", "gateway", "tunnel", "backend"]);
    for (call, header) in &story.hops {
        let times = timing::hops(header);
        let of = |name: &str| {
            times
                .iter()
                .find(|(hop, _)| hop == name)
                .map_or_else(|| "?".to_owned(), |(_, ms)| format!("{ms:.2} ms"))
        };
        hops.row(&[call, &of("gateway"), &of("tunnel"), &of("backend")]);
    }
    format!(
        "\nWhat happened\n\n{steps}\nWhere the time went until the first byte (Server-Timing)\n\n{hops}"
    )
}

fn invitation(world: &World) -> String {
    let (url, key) = (world.gateway.url(), &world.gateway.line.api_key);
    let admin = world.gateway.admin_url();
    format!(
        "Everything stays up until you press Ctrl-C. Try:\n
  curl {url}/v1/models -H 'authorization: Bearer {key}'\n
  curl -N {url}/v1/chat/completions -H 'authorization: Bearer {key}' -H 'content-type: application/json' \\
    -d '{{\"model\": \"{CONNECTOR}/demo-model\", \"stream\": true, \"messages\": [{{\"role\": \"user\", \"content\": \"hello\"}}]}}'\n
  curl -N {url}/mcp/{CONNECTOR}/{MCP_SERVICE} -H 'authorization: Bearer {key}' -H 'content-type: application/json' \\
    -H 'accept: application/json, text/event-stream' -d '{initialize}'\n
  curl {admin}/v1/status -H 'authorization: Bearer {admin_key}'",
        initialize = calls::initialize(),
        admin_key = world.gateway.line.admin_key,
    )
}

/// Ends both programs the way an operator would, and waits for their ends.
async fn leave(mut world: World) -> Result<(), HarnessError> {
    use rustix::process::Signal;
    if let Some(agent) = &mut world.agent {
        agent.process.signal(Signal::TERM)?;
        agent.process.exit(wait::PATIENCE).await?;
    }
    world.gateway.process.signal(Signal::TERM)?;
    world.gateway.process.exit(wait::PATIENCE).await?;
    Ok(())
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1_000.0
}
