//! The official Python clients at pinned versions, installed once into `target/sdk`.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;
use tokio::sync::OnceCell;

use crate::error::HarnessError;
use crate::programs;

/// What is installed; a change of it makes a new environment.
const REQUIREMENTS: [&str; 3] = ["openai==3.54.0", "anthropic==2.12.0", "mcp==2.3.0"];
/// Time for one script.
const SCRIPT_LIMIT: Duration = Duration::from_secs(120);

const HOW_TO_GET: &str = "The official SDKs are part of the tests. They need Python 3.10 or newer with its venv module \
(Debian: apt-get install python3-venv) and a package index that pip reaches; \
CULVERT_PYTHON names another interpreter.";

/// A Python environment with the clients.
#[derive(Clone, Debug)]
pub struct Sdk {
    python: PathBuf,
}

static READY: OnceCell<Sdk> = OnceCell::const_new();

impl Sdk {
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
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("sdk");
        let mut command = Command::new(&self.python);
        command
            .arg(folder.join(script))
            .envs(environment.iter().copied())
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("NO_PROXY", "127.0.0.1")
            .stdin(Stdio::null())
            .kill_on_drop(true);
        let failed = |output: String| HarnessError::Script {
            script: script.to_owned(),
            output,
        };
        let ended = tokio::time::timeout(SCRIPT_LIMIT, command.output()).await;
        let output = ended.map_err(|_| failed(format!("no end within {SCRIPT_LIMIT:?}")))??;
        if output.status.success() {
            return Ok(());
        }
        Err(failed(format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        )))
    }
}

async fn install() -> Result<Sdk, HarnessError> {
    let folder = programs::target_folder()?.join("sdk");
    fs::create_dir_all(&folder)?;
    let lock = File::create(folder.join("lock"))?;
    // Another test run may be installing: wait for it off the runtime.
    let _held = tokio::task::spawn_blocking(move || lock.lock().map(|()| lock))
        .await
        .map_err(std::io::Error::other)??;
    let environment = folder.join("venv");
    let python = environment.join("bin/python");
    let stamp = folder.join("stamp");
    let wanted = REQUIREMENTS.join("\n");
    if python.exists() && fs::read_to_string(&stamp).is_ok_and(|have| have == wanted) {
        return Ok(Sdk { python });
    }
    let interpreter = std::env::var("CULVERT_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let mut make = Command::new(&interpreter);
    make.args(["-m", "venv", "--clear"]).arg(&environment);
    step(&format!("{interpreter} -m venv"), make).await?;
    let mut fetch = Command::new(&python);
    fetch
        .args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
        ])
        .args(REQUIREMENTS);
    step(&format!("pip install {}", REQUIREMENTS.join(" ")), fetch).await?;
    fs::write(stamp, wanted)?;
    Ok(Sdk { python })
}

async fn step(what: &str, mut command: Command) -> Result<(), HarnessError> {
    let output = command.stdin(Stdio::null()).output().await;
    let output =
        output.map_err(|error| HarnessError::Sdk(format!("{what}: {error}. {HOW_TO_GET}")))?;
    if output.status.success() {
        return Ok(());
    }
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Err(HarnessError::Sdk(format!(
        "{what} failed: {said}\n{HOW_TO_GET}"
    )))
}
