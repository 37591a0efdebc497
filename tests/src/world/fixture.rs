//! A server of ours as a process.

use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;
use tokio::process::Command;

use crate::client::Client;
use crate::error::HarnessError;
use crate::process::Process;
use crate::programs::Programs;
use crate::wait;

/// A model backend or an MCP server.
#[derive(Debug)]
pub struct Fixture {
    program: &'static str,
    port: u16,
    process: Option<Process>,
}

#[derive(Deserialize)]
struct PortLine {
    port: u16,
}

impl Fixture {
    /// Starts `program` on a port of the system's choice.
    ///
    /// # Errors
    /// A program that does not come up.
    pub async fn start(program: &'static str) -> Result<Self, HarnessError> {
        let (process, port) = launch(program, 0).await?;
        Ok(Self {
            program,
            port,
            process: Some(process),
        })
    }

    /// `127.0.0.1:port`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// `http://127.0.0.1:port`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address())
    }

    /// The process id, while it runs.
    pub fn id(&self) -> Option<u32> {
        self.process.as_ref().and_then(Process::id)
    }

    /// Kills it.
    ///
    /// # Errors
    /// A wait that the system refuses.
    pub async fn kill(&mut self) -> Result<(), HarnessError> {
        match self.process.take() {
            Some(process) => process.kill().await,
            None => Ok(()),
        }
    }

    /// Starts it again on the same port.
    ///
    /// # Errors
    /// A program that does not come up.
    pub async fn restart(&mut self) -> Result<(), HarnessError> {
        self.kill().await?;
        let (process, _) = launch(self.program, self.port).await?;
        self.process = Some(process);
        Ok(())
    }

    /// Its counts.
    ///
    /// # Errors
    /// No answer.
    pub async fn stats(&self) -> Result<Value, HarnessError> {
        Ok(Client::new(self.url()).get("/__stats").await?.json())
    }

    /// Waits until one of its counts, a JSON pointer into [`Fixture::stats`], is `count`.
    ///
    /// # Errors
    /// A deadline, with the last counts.
    pub async fn counts(
        &self,
        pointer: &str,
        count: u64,
        within: Duration,
    ) -> Result<(), HarnessError> {
        wait::until(
            &format!("{pointer} = {count} at {}", self.program),
            within,
            || async {
                let stats = self.stats().await.map_err(|error| error.to_string())?;
                let seen = stats.pointer(pointer).and_then(Value::as_u64);
                if seen == Some(count) {
                    Ok(())
                } else {
                    Err(stats.to_string())
                }
            },
        )
        .await
    }

    /// The requests that reached it, the oldest first.
    ///
    /// # Errors
    /// No answer.
    pub async fn requests(&self) -> Result<Vec<Value>, HarnessError> {
        let list = Client::new(self.url()).get("/__requests").await?.json();
        Ok(list.as_array().cloned().unwrap_or_default())
    }
}

async fn launch(program: &'static str, port: u16) -> Result<(Process, u16), HarnessError> {
    let mut command = Command::new(Programs::built().await?.path(program));
    command.env("PORT", port.to_string());
    let mut process = Process::start(program, command)?;
    let line: PortLine = process.json_line().await?;
    Ok((process, line.port))
}
