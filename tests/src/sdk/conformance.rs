//! The official MCP conformance suite: its run against one URL, read check by check.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde::Deserialize;
use tempfile::TempDir;
use tokio::process::Command;

use super::{Node, printed};
use crate::error::HarnessError;

const SUITE: &str = "@modelcontextprotocol/conformance/dist/index.js";
/// Time for all scenarios of one revision.
const SUITE_LIMIT: Duration = Duration::from_secs(300);
/// Length of `-2026-07-28T17-47-19-791Z`, which the suite puts behind the name of a scenario's folder.
const TIME_BYTES: usize = 25;

/// One check of one scenario; the same id may be checked several times.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Check {
    /// The scenario, as the suite lists it.
    pub scenario: String,
    /// The check, as the suite names it.
    pub id: String,
    /// Which of the checks of that id.
    pub index: usize,
}

/// What became of a check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// `SUCCESS`, `FAILURE`, `WARNING` or `SKIPPED`.
    pub status: String,
    /// Why it is not a success.
    pub why: String,
}

/// A check as the suite writes it. `INFO` is its log, not a check.
#[derive(Deserialize)]
struct Written {
    id: String,
    status: String,
    #[serde(default, rename = "errorMessage")]
    why: String,
}

impl Node {
    /// Runs all that `revision` requires of a server against `url`.
    ///
    /// # Errors
    /// A suite that does not end, or that leaves no results; failed checks are results.
    pub async fn conformance(
        &self,
        url: &str,
        revision: &str,
    ) -> Result<BTreeMap<Check, Verdict>, HarnessError> {
        let results = TempDir::new()?;
        let mut command = Command::new(self.program());
        command
            .arg(self.file(SUITE))
            .args(["server", "--url", url, "--requirements", revision, "-o"])
            .arg(results.path())
            .current_dir(results.path())
            .env("NO_PROXY", "127.0.0.1")
            .stdin(Stdio::null())
            .kill_on_drop(true);
        let failed = |output: String| HarnessError::Script {
            script: format!("the conformance suite for {revision}"),
            output,
        };
        let ended = tokio::time::timeout(SUITE_LIMIT, command.output()).await;
        let output = ended.map_err(|_| failed(format!("no end within {SUITE_LIMIT:?}")))??;
        let checks = read(results.path())?;
        if checks.is_empty() {
            return Err(failed(printed(&output)));
        }
        Ok(checks)
    }
}

fn read(results: &Path) -> Result<BTreeMap<Check, Verdict>, HarnessError> {
    let mut checks = BTreeMap::new();
    for entry in fs::read_dir(results)? {
        let folder = entry?;
        let name = folder.file_name().to_string_lossy().into_owned();
        let scenario = name
            .len()
            .checked_sub(TIME_BYTES)
            .and_then(|end| name.get(..end)?.strip_prefix("server-"));
        let Some(scenario) = scenario else { continue };
        let file = folder.path().join("checks.json");
        let written: Vec<Written> =
            serde_json::from_slice(&fs::read(&file)?).map_err(|error| HarnessError::BadLine {
                name: "the conformance suite".to_owned(),
                line: file.display().to_string(),
                why: error.to_string(),
            })?;
        for check in written.into_iter().filter(|check| check.status != "INFO") {
            let key = |index| Check {
                scenario: scenario.to_owned(),
                id: check.id.clone(),
                index,
            };
            let index = (0..).find(|index| !checks.contains_key(&key(*index)));
            let verdict = Verdict {
                status: check.status,
                why: check.why,
            };
            checks.insert(key(index.unwrap_or_default()), verdict);
        }
    }
    Ok(checks)
}
