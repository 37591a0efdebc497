//! The Python clients.

use std::path::PathBuf;

use tokio::process::Command;
use tokio::sync::OnceCell;

use super::{installed, run_script, scripts_folder, step};
use crate::error::HarnessError;
use crate::process::Process;

/// What is installed; a change of it makes a new environment.
const REQUIREMENTS: [&str; 3] = [
    "openai[realtime]==3.54.0",
    "anthropic==2.12.0",
    "mcp==2.3.0",
];

const HOW_TO_GET: &str = "The official SDKs are part of the tests. They need Python 3.10 or newer with its venv module \
(Debian: apt-get install python3-venv) and a package index that pip reaches; \
CULVERT_PYTHON names another interpreter.";

/// A Python environment with the clients.
#[derive(Clone, Debug)]
pub struct Python {
    program: PathBuf,
}

static READY: OnceCell<Python> = OnceCell::const_new();

impl Python {
    /// Installs the clients, or finds them installed.
    ///
    /// # Errors
    /// [`HarnessError::Sdk`] that says how to get what is missing.
    pub async fn ready() -> Result<&'static Self, HarnessError> {
        READY.get_or_try_init(install).await
    }

    /// Runs a script of `tests/sdk`, which fails by its exit code.
    ///
    /// # Errors
    /// [`HarnessError::Script`] with what it printed.
    pub async fn run(
        &self,
        script: &str,
        environment: &[(&str, &str)],
    ) -> Result<(), HarnessError> {
        let mut command = Command::new(&self.program);
        command
            .arg(scripts_folder().join(script))
            .env("PYTHONDONTWRITEBYTECODE", "1");
        run_script(script, command, environment).await
    }

    /// Starts a script of `tests/sdk` that serves until it is dropped.
    ///
    /// # Errors
    /// [`HarnessError::Start`].
    pub fn start(&self, script: &str) -> Result<Process, HarnessError> {
        let mut command = Command::new(&self.program);
        command
            .arg(scripts_folder().join(script))
            .env("PYTHONDONTWRITEBYTECODE", "1");
        Process::start(script, command)
    }
}

async fn install() -> Result<Python, HarnessError> {
    let folder = installed("python", &REQUIREMENTS.join("\n"), async |folder| {
        let interpreter = std::env::var("CULVERT_PYTHON").unwrap_or_else(|_| "python3".to_owned());
        let mut make = Command::new(&interpreter);
        make.args(["-m", "venv", "--clear"])
            .arg(folder.join("venv"));
        step(&format!("{interpreter} -m venv"), make, HOW_TO_GET).await?;
        let mut fetch = Command::new(folder.join("venv/bin/python"));
        fetch
            .args(["-m", "pip", "install", "--quiet"])
            .arg("--disable-pip-version-check")
            .args(REQUIREMENTS);
        let what = format!("pip install {}", REQUIREMENTS.join(" "));
        step(&what, fetch, HOW_TO_GET).await
    })
    .await?;
    Ok(Python {
        program: folder.join("venv/bin/python"),
    })
}

/// Name and version of each client.
#[cfg(test)]
pub(super) fn pins() -> Vec<(String, String)> {
    let pins = REQUIREMENTS.iter().filter_map(|pin| pin.split_once("=="));
    pins.map(|(name, version)| {
        (
            name.split('[').next().unwrap_or(name).to_owned(),
            version.to_owned(),
        )
    })
    .collect()
}
