//! The official clients at pinned versions, installed once into `target/sdk`; a run that finds them there needs no network.

mod conformance;
mod node;
mod python;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

use crate::error::HarnessError;
use crate::programs;

pub use conformance::{Check, Verdict};
pub use node::Node;
pub use python::Python;

/// Time for one script.
const SCRIPT_LIMIT: Duration = Duration::from_secs(120);

/// Where the scripts are that use the clients.
fn scripts_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("sdk")
}

/// Makes `target/sdk/<name>` with `make`, unless what is there was made of the same `wanted`.
async fn installed(
    name: &str,
    wanted: &str,
    make: impl AsyncFnOnce(&Path) -> Result<(), HarnessError>,
) -> Result<PathBuf, HarnessError> {
    let root = programs::target_folder()?.join("sdk");
    let folder = root.join(name);
    fs::create_dir_all(&folder)?;
    let lock = File::create(root.join(format!("{name}.lock")))?;
    // Another test run may be installing: wait for it off the runtime.
    let _held = tokio::task::spawn_blocking(move || lock.lock().map(|()| lock))
        .await
        .map_err(std::io::Error::other)??;
    let stamp = root.join(format!("{name}.stamp"));
    if !fs::read_to_string(&stamp).is_ok_and(|have| have == wanted) {
        // Without the old stamp, a run that is killed half-way leaves nothing that looks finished.
        fs::write(&stamp, "")?;
        make(&folder).await?;
        fs::write(&stamp, wanted)?;
    }
    Ok(folder)
}

/// One step of an installation.
async fn step(what: &str, mut command: Command, how_to_get: &str) -> Result<(), HarnessError> {
    let output = command.stdin(Stdio::null()).output().await;
    let output =
        output.map_err(|error| HarnessError::Sdk(format!("{what}: {error}. {how_to_get}")))?;
    if output.status.success() {
        return Ok(());
    }
    Err(HarnessError::Sdk(format!(
        "{what} failed: {}\n{how_to_get}",
        printed(&output)
    )))
}

/// Runs a script to its end; it fails by its exit code.
async fn run_script(
    script: &str,
    mut command: Command,
    environment: &[(&str, &str)],
) -> Result<(), HarnessError> {
    command
        .envs(environment.iter().copied())
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
    Err(failed(printed(&output)))
}

/// What a program printed, both outputs.
fn printed(output: &std::process::Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_names_every_version_that_is_installed() {
        let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
        let page = fs::read_to_string(page).unwrap();
        for (name, version) in python::pins().into_iter().chain(node::pins()) {
            let named = format!("`{name}`");
            let mut lines = page.lines().filter(|line| line.contains(&named));
            assert!(
                lines.any(|line| line.contains(&version)),
                "{name} {version}"
            );
        }
    }
}
