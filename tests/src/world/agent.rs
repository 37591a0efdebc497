//! `culvert-agent run` as a process.

use std::fs;
use std::path::PathBuf;

use tempfile::TempDir;
use tokio::process::Command;

use super::{Fixture, MCP_SERVICE, MODEL_SERVICE};
use crate::error::HarnessError;
use crate::process::Process;
use crate::programs::Programs;

/// How an agent is started.
#[derive(Clone, Debug, Default)]
pub struct AgentSpec {
    /// `--join`, if any.
    pub token: Option<String>,
    /// Arguments after `run`.
    pub arguments: Vec<String>,
    /// The configuration file's text, if any.
    pub file: Option<String>,
    /// Its environment besides ours.
    pub environment: Vec<(String, String)>,
    /// Where its health is told; none is any port of loopback.
    pub health: Option<String>,
    /// A program and arguments that end by running what follows them; none runs it as it is.
    pub wrapper: Vec<String>,
}

/// A running agent with a state folder of its own.
#[derive(Debug)]
pub struct Agent {
    /// The running program.
    pub process: Process,
    spec: AgentSpec,
    state: TempDir,
}

impl AgentSpec {
    /// An agent that joins with `token`.
    pub fn joining(token: &str) -> Self {
        Self {
            token: Some(token.to_owned()),
            ..Self::default()
        }
    }

    /// The usual two services as flags.
    #[must_use]
    pub fn usual_services(mut self, backend: &Fixture, tools: &Fixture) -> Self {
        self.arguments.extend([
            "--model".to_owned(),
            format!("{MODEL_SERVICE}={}/v1", backend.url()),
            "--mcp".to_owned(),
            format!("{MCP_SERVICE}={}/mcp", tools.url()),
        ]);
        self
    }
}

impl Agent {
    /// Starts an agent in a new state folder.
    ///
    /// # Errors
    /// A program that cannot be started.
    pub async fn start(spec: AgentSpec) -> Result<Self, HarnessError> {
        Self::start_in(TempDir::new()?, spec).await
    }

    /// Starts an agent in `state`.
    ///
    /// # Errors
    /// A program that cannot be started.
    pub async fn start_in(state: TempDir, spec: AgentSpec) -> Result<Self, HarnessError> {
        let program = Programs::built().await?.path("culvert-agent");
        let mut command = match spec.wrapper.split_first() {
            Some((wrapper, arguments)) => {
                let mut command = Command::new(wrapper);
                command.args(arguments).arg(program);
                command
            }
            None => Command::new(program),
        };
        let health = spec.health.as_deref().unwrap_or("127.0.0.1:0");
        command.arg("run").args(["--health-listen", health]);
        command.arg("--state-dir").arg(state.path().join("state"));
        if let Some(text) = &spec.file {
            let path = state.path().join("agent.yaml");
            fs::write(&path, text)?;
            command.arg("--config").arg(path);
        }
        if let Some(token) = &spec.token {
            command.args(["--join", token]);
        }
        // A file of the person who runs the tests is none of the test's business.
        command
            .env("XDG_CONFIG_HOME", state.path())
            .envs(spec.environment.iter().cloned())
            .args(&spec.arguments);
        Ok(Self {
            process: Process::start("culvert-agent", command)?,
            spec,
            state,
        })
    }

    /// The state folder that it was given.
    pub fn state_folder(&self) -> PathBuf {
        self.state.path().join("state")
    }

    /// Its configuration file, where it was started with one.
    pub fn file(&self) -> PathBuf {
        self.state.path().join("agent.yaml")
    }

    /// Kills it without a goodbye and starts it again with the same state.
    ///
    /// # Errors
    /// A program that cannot be started.
    pub async fn restart(self) -> Result<Self, HarnessError> {
        let Self {
            process,
            spec,
            state,
        } = self;
        process.kill().await?;
        Self::start_in(state, spec).await
    }

    /// Takes it apart: the process, and what is needed to start it again.
    pub fn into_parts(self) -> (Process, AgentSpec, TempDir) {
        (self.process, self.spec, self.state)
    }
}
