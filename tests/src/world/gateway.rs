//! `culvert-gateway dev` as a process.

use std::net::SocketAddr;

use serde::Deserialize;
use tempfile::TempDir;
use tokio::process::Command;

use crate::error::HarnessError;
use crate::process::Process;
use crate::programs::Programs;

/// The line that `dev --print-json` prints once it serves.
#[derive(Clone, Debug, Deserialize)]
pub struct DevLine {
    /// The edge, as a URL.
    pub gateway: String,
    /// The link port, as `host:port`.
    pub links: String,
    /// The admin API, as a URL.
    pub admin: String,
    /// The API key of the first tenant.
    pub api_key: String,
    /// The owner's key.
    pub admin_key: String,
    /// A fresh token for the connector `dev`.
    pub join_token: String,
    /// Where it keeps its state.
    pub data_dir: String,
}

/// A gateway with everything in one process.
#[derive(Debug)]
pub struct Gateway {
    /// The running program.
    pub process: Process,
    /// What it said when it came up.
    pub line: DevLine,
    arguments: Vec<String>,
    data: TempDir,
}

impl Gateway {
    /// Starts `dev` on ports of the system's choice and in a folder of its own.
    ///
    /// # Errors
    /// A program that does not come up.
    pub async fn start(arguments: &[String]) -> Result<Self, HarnessError> {
        let data = TempDir::new()?;
        let (process, line) = launch(&data, arguments, ["127.0.0.1:0"; 3]).await?;
        Ok(Self {
            process,
            line,
            arguments: arguments.to_vec(),
            data,
        })
    }

    /// The edge, as a URL without a slash at its end.
    pub fn url(&self) -> &str {
        self.line.gateway.trim_end_matches('/')
    }

    /// The admin API, as a URL without a slash at its end.
    pub fn admin_url(&self) -> &str {
        self.line.admin.trim_end_matches('/')
    }

    /// The link port, as `host:port`.
    pub fn links_address(&self) -> &str {
        address_of(&self.line.links)
    }

    /// The link port as an address.
    ///
    /// # Errors
    /// A gateway that printed something else.
    pub fn link_port(&self) -> Result<SocketAddr, HarnessError> {
        let parsed = self.links_address().parse();
        parsed.map_err(|error| HarnessError::Http(format!("{}: {error}", self.line.links)))
    }

    /// The folder of its state.
    pub fn data_folder(&self) -> &std::path::Path {
        self.data.path()
    }

    /// Kills it without a goodbye and starts it again on the same ports and state.
    ///
    /// # Errors
    /// A program that does not come up.
    pub async fn restart(self) -> Result<Self, HarnessError> {
        let Self {
            process,
            line,
            arguments,
            data,
        } = self;
        process.kill().await?;
        Self::again(line, arguments, data).await
    }

    /// Starts a gateway again that has ended, on the same ports and state.
    ///
    /// # Errors
    /// A program that does not come up.
    pub async fn again(
        line: DevLine,
        arguments: Vec<String>,
        data: TempDir,
    ) -> Result<Self, HarnessError> {
        let ports = [
            address_of(&line.gateway),
            address_of(&line.links),
            address_of(&line.admin),
        ];
        let (process, line) = launch(&data, &arguments, ports).await?;
        Ok(Self {
            process,
            line,
            arguments,
            data,
        })
    }

    /// Takes it apart: what is needed to start it again, and the process.
    pub fn into_parts(self) -> (Process, DevLine, Vec<String>, TempDir) {
        (self.process, self.line, self.arguments, self.data)
    }
}

async fn launch(
    data: &TempDir,
    arguments: &[String],
    ports: [&str; 3],
) -> Result<(Process, DevLine), HarnessError> {
    let mut command = Command::new(Programs::built().await?.path("culvert-gateway"));
    command
        .arg("dev")
        .arg("--data-dir")
        .arg(data.path())
        .args([
            "--listen",
            ports[0],
            "--link-listen",
            ports[1],
            "--admin-listen",
            ports[2],
            "--print-json",
        ])
        .args(arguments);
    let mut process = Process::start("culvert-gateway", command)?;
    let line = process.json_line().await?;
    Ok((process, line))
}

/// `host:port` of a URL or of itself.
fn address_of(text: &str) -> &str {
    let address = text.split_once("://").map_or(text, |(_, address)| address);
    address.trim_end_matches('/')
}
