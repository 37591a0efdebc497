//! A world: the real gateway, real agents, backends, all as separate processes on ports that the system chose.

mod agent;
mod fixture;
mod gateway;

pub use agent::{Agent, AgentSpec};
pub use fixture::Fixture;
pub use gateway::{DevLine, Gateway};

use serde_json::{Value, json};

use crate::client::{Client, Reply};
use crate::error::HarnessError;
use crate::wait;

/// The connector that `dev` makes.
pub const CONNECTOR: &str = "dev";
/// The model service of a world.
pub const MODEL_SERVICE: &str = "llm";
/// The MCP service of a world.
pub const MCP_SERVICE: &str = "tools";

/// A gateway with one joined agent, a model backend and an MCP server behind it.
#[derive(Debug)]
pub struct World {
    /// The gateway with everything in one process.
    pub gateway: Gateway,
    /// The agent, until a test takes it away.
    pub agent: Option<Agent>,
    /// The model server.
    pub backend: Fixture,
    /// The MCP server.
    pub tools: Fixture,
}

/// How a world differs from the usual one.
#[derive(Debug, Default)]
pub struct WorldBuilder {
    agent_file: Option<String>,
    gateway_arguments: Vec<String>,
    agent_environment: Vec<(String, String)>,
    without_agent: bool,
}

impl World {
    /// A world to be changed before it starts.
    pub fn builder() -> WorldBuilder {
        WorldBuilder::default()
    }

    /// The usual world, ready to be called.
    ///
    /// # Errors
    /// Whatever kept it from being ready, with the logs.
    pub async fn start() -> Result<Self, HarnessError> {
        Self::builder().start().await
    }

    /// A client of the gateway with the API key.
    pub fn client(&self) -> Client {
        Client::new(self.gateway.url()).with_key(&self.gateway.line.api_key)
    }

    /// A client of the admin API with the owner's key.
    pub fn admin(&self) -> Client {
        Client::new(self.gateway.admin_url()).with_key(&self.gateway.line.admin_key)
    }

    /// What the scripts of `tests/sdk` read.
    pub fn sdk_environment(&self) -> Vec<(&str, &str)> {
        vec![
            ("GATEWAY", self.gateway.url()),
            ("API_KEY", &self.gateway.line.api_key),
            ("CONNECTOR", CONNECTOR),
            ("SERVICE", MCP_SERVICE),
        ]
    }

    /// One chat of `model` (`dev/...` is put before it) with the fields of `more`.
    ///
    /// # Errors
    /// No answer.
    pub async fn chat(&self, model: &str, more: Value) -> Result<Reply, HarnessError> {
        self.client()
            .post("/v1/chat/completions", &chat_body(model, more))
            .await
    }

    /// Waits until the gateway lists a model of the agent.
    ///
    /// # Errors
    /// A deadline, with the last list and the logs.
    pub async fn ready(&self) -> Result<(), HarnessError> {
        let client = self.client();
        let wanted = format!("{CONNECTOR}/demo-model");
        let listed = wait::until("a model in the gateway's list", wait::PATIENCE, || async {
            let reply = client
                .get("/v1/models")
                .await
                .map_err(|error| error.to_string())?;
            let has = reply.json()["data"]
                .as_array()
                .is_some_and(|all| all.iter().any(|model| model["id"] == *wanted));
            if has {
                Ok(())
            } else {
                Err(format!("{} {}", reply.status, reply.text()))
            }
        })
        .await;
        listed.map_err(|error| self.explain(&error))
    }

    /// Waits until a chat answers 200.
    ///
    /// # Errors
    /// A deadline, with the last answer and the logs.
    pub async fn serves(&self) -> Result<(), HarnessError> {
        let served = wait::until("a chat with status 200", wait::PATIENCE, || async {
            let reply = self
                .chat("fast", json!({}))
                .await
                .map_err(|error| error.to_string())?;
            if reply.status.is_success() {
                Ok(())
            } else {
                Err(format!("{} {}", reply.status, reply.text()))
            }
        })
        .await;
        served.map_err(|error| self.explain(&error))
    }

    /// Waits until a chat is refused with `code`.
    ///
    /// # Errors
    /// A deadline, with the last answer and the logs.
    pub async fn refuses_with(&self, code: &str) -> Result<(), HarnessError> {
        let refused = wait::until(code, wait::PATIENCE, || async {
            let reply = self
                .chat("fast", json!({}))
                .await
                .map_err(|error| error.to_string())?;
            if reply.json()["error"]["code"] == code {
                Ok(())
            } else {
                Err(reply.text())
            }
        })
        .await;
        refused.map_err(|error| self.explain(&error))
    }

    /// An error with the logs of the programs behind it.
    pub fn explain(&self, error: &HarnessError) -> HarnessError {
        let agent = self
            .agent
            .as_ref()
            .map(|agent| agent.process.log().text())
            .unwrap_or_default();
        let log = format!(
            "{error}\n-- gateway --\n{}-- agent --\n{agent}",
            self.gateway.process.log().text()
        );
        HarnessError::Ended {
            name: "the world".to_owned(),
            log,
        }
    }
}

impl WorldBuilder {
    /// The agent's file instead of its flags; `{backend}` and `{tools}` stand for the two servers as `127.0.0.1:port`.
    #[must_use]
    pub fn agent_file(mut self, yaml: &str) -> Self {
        self.agent_file = Some(yaml.to_owned());
        self
    }

    /// More arguments for `culvert-gateway dev`.
    #[must_use]
    pub fn gateway_argument(mut self, argument: &str) -> Self {
        self.gateway_arguments.push(argument.to_owned());
        self
    }

    /// A variable of the agent's environment.
    #[must_use]
    pub fn agent_variable(mut self, name: &str, value: &str) -> Self {
        self.agent_environment
            .push((name.to_owned(), value.to_owned()));
        self
    }

    /// No agent yet: the test starts it itself.
    #[must_use]
    pub fn without_agent(mut self) -> Self {
        self.without_agent = true;
        self
    }

    /// Starts it, and waits until it can be called.
    ///
    /// # Errors
    /// Whatever kept it from being ready, with the logs.
    pub async fn start(self) -> Result<World, HarnessError> {
        let backend = Fixture::start("model-backend").await?;
        let tools = Fixture::start("mcp-fixture").await?;
        let gateway = Gateway::start(&self.gateway_arguments).await?;
        let mut world = World {
            gateway,
            agent: None,
            backend,
            tools,
        };
        if self.without_agent {
            return Ok(world);
        }
        let mut spec = AgentSpec::joining(&world.gateway.line.join_token);
        spec.environment = self.agent_environment;
        match self.agent_file {
            Some(yaml) => spec.file = Some(fill(&yaml, &world)),
            None => spec = spec.usual_services(&world.backend, &world.tools),
        }
        let has_models = spec
            .file
            .as_ref()
            .is_none_or(|file| file.contains("kind: model"));
        world.agent = Some(Agent::start(spec).await?);
        if has_models {
            world.ready().await?;
        }
        Ok(world)
    }
}

/// `yaml` with the addresses of the world's servers.
pub fn fill(yaml: &str, world: &World) -> String {
    yaml.replace("{backend}", &world.backend.address())
        .replace("{tools}", &world.tools.address())
}

/// The body of a chat with `model` of the usual connector.
pub fn chat_body(model: &str, more: Value) -> Value {
    let mut body = json!({"model": format!("{CONNECTOR}/{model}"), "messages": [{"role": "user", "content": "hello"}]});
    if let (Some(body), Value::Object(more)) = (body.as_object_mut(), more) {
        body.extend(more);
    }
    body
}
