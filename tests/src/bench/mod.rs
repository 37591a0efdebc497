//! `cargo bench-path`: what the tunnel adds to a call, against the same call without it, through two nginx, and through a bare copy.
//!
//! Every measure runs its paths in turn, round by round, and reports the median of the rounds, so that a noisy minute of the
//! machine meets all of them. One JSON object per line: name, value, unit, baseline, ratio.

mod bare;
mod bulk;
pub mod copy;
mod driver;
pub mod idle;
mod latency;
mod memory;
mod nginx;
mod paths;
mod report;
mod streams;
mod usage;

use std::time::Duration;

use crate::error::HarnessError;
use paths::Paths;
use report::Report;

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Rounds of every measure.
    pub rounds: usize,
    /// Time of one path in one round.
    pub round: Duration,
    /// Bytes of one bulk transfer.
    pub bulk_bytes: usize,
    /// Streams that are held idle.
    pub idle_streams: usize,
    /// Links that are held idle.
    pub idle_links: usize,
}

impl Effort {
    /// Enough for a figure that can be compared.
    pub const FULL: Self = Self {
        rounds: 5,
        round: Duration::from_secs(2),
        bulk_bytes: 256 * 1024 * 1024,
        idle_streams: 1_000,
        idle_links: 16,
    };
    /// Enough to see that the benchmark works.
    pub const QUICK: Self = Self {
        rounds: 1,
        round: Duration::from_millis(500),
        bulk_bytes: 16 * 1024 * 1024,
        idle_streams: 100,
        idle_links: 2,
    };
}

/// A part of the benchmark.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Measure {
    /// Added latency and requests per CPU-second at 1, 16 and 256 callers.
    Latency,
    /// Added time to the first token at 200 streams.
    Streams,
    /// MiB/s up and down.
    Bulk,
    /// Memory of idle links and idle streams.
    Memory,
}

/// Runs `measures`, all where none is named.
///
/// # Errors
/// A path that does not come up or does not answer.
pub async fn run(effort: Effort, measures: &[Measure]) -> Result<(), HarnessError> {
    let wanted = |measure| measures.is_empty() || measures.contains(&measure);
    let paths = Paths::start().await?;
    let mut report = Report::default();
    let measured = async {
        if wanted(Measure::Latency) {
            latency::measure(&paths, effort, &mut report).await?;
        }
        if wanted(Measure::Streams) {
            streams::measure(&paths, effort, &mut report).await?;
        }
        if wanted(Measure::Bulk) {
            bulk::measure(&paths, effort, &mut report).await?;
        }
        if wanted(Measure::Memory) {
            memory::measure(effort, &mut report).await?;
        }
        Ok(())
    };
    let outcome: Result<(), HarnessError> = measured.await;
    outcome.map_err(|error| paths.world.explain(&error))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::Method;

    use super::copy::CopyChain;
    use super::driver::{Call, closed_loop};
    use super::nginx::NginxChain;
    use super::*;
    use crate::world::Fixture;

    #[tokio::test]
    async fn the_chains_that_we_compare_with_carry_calls() {
        let backend = Fixture::start("model-backend").await.unwrap();
        let copy = CopyChain::start(&backend.address()).await.unwrap();
        let nginx = NginxChain::start(&backend.address()).await.unwrap();
        let mut addresses = vec![backend.address(), copy.address.clone()];
        addresses.extend(nginx.as_ref().map(|chain| chain.address.clone()));
        for address in addresses {
            let path = "/bytes/100000".to_owned();
            let call = Call {
                address,
                method: Method::GET,
                path,
                key: None,
                body: Bytes::new(),
            };
            let round = closed_loop(&call, 4, Duration::from_millis(50))
                .await
                .unwrap();
            assert!(round.sorted.len() >= 4, "{call:?}");
        }
    }
}
