//! Added time to the first token while 200 streams of 50 tokens a second run.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::BodyExt;
use serde_json::json;
use tokio::task::JoinSet;

use super::Effort;
use super::driver::Call;
use super::paths::{Path, Paths};
use super::report::{Report, median, percentile_us};
use crate::error::HarnessError;

const STREAMS: usize = 200;
const PATHS: [Path; 3] = [Path::Direct, Path::Nginx, Path::Ours];
/// Time between two tokens of a stream.
const TOKEN_MS: u64 = 20;

/// Times of one round, in order of size.
#[derive(Debug, Default)]
struct Times {
    first_token: Vec<Duration>,
    gap: Vec<Duration>,
}

pub(super) async fn measure(
    paths: &Paths,
    effort: Effort,
    report: &mut Report,
) -> Result<(), HarnessError> {
    let tokens = u64::try_from(effort.round.as_millis()).unwrap_or(u64::MAX) / TOKEN_MS / 2;
    let fixture = json!({"stream": true, "fixture": {"tokens": tokens, "interval_ms": TOKEN_MS, "first_ms": 0}});
    let mut figures: BTreeMap<(Path, &str), Vec<f64>> = BTreeMap::new();
    for _ in 0..effort.rounds {
        for path in PATHS {
            let Some(call) = paths.chat(path, "demo-model", &fixture) else {
                continue;
            };
            let times = one_round(&call, effort.round).await?;
            for (name, list, share) in [
                ("first_token_p50", &times.first_token, 0.5),
                ("first_token_p99", &times.first_token, 0.99),
                ("token_gap_p99", &times.gap, 0.99),
            ] {
                figures
                    .entry((path, name))
                    .or_default()
                    .push(percentile_us(list, share));
            }
        }
    }
    for name in ["first_token_p50", "first_token_p99", "token_gap_p99"] {
        let of = |path| figures.get(&(path, name)).map(|list| median(list.clone()));
        let direct = of(Path::Direct).unwrap_or_default();
        let added = of(Path::Ours).unwrap_or_default() - direct;
        report.figure(
            &format!("added_{name}_{STREAMS}_streams_vs_two_nginx"),
            added,
            "us",
            of(Path::Nginx).map(|nginx| nginx - direct),
        )?;
    }
    Ok(())
}

/// Holds all streams for `time`: each caller begins the next stream when the last has ended, and they begin spread out.
async fn one_round(call: &Call, time: Duration) -> Result<Times, HarnessError> {
    let mut tasks = JoinSet::new();
    let from = Instant::now();
    for index in 0..STREAMS {
        let call = call.clone();
        tasks.spawn(async move {
            let mut caller = call.connect().await?;
            #[expect(clippy::cast_possible_truncation, reason = "at most 200")]
            tokio::time::sleep(time / 2 * index as u32 / STREAMS as u32).await;
            let mut times = Times::default();
            while from.elapsed() < time {
                let began = Instant::now();
                let mut body = caller.open().await?.into_body();
                let mut last = None;
                while let Some(frame) = body.frame().await {
                    let frame = frame.map_err(|error| HarnessError::Http(error.to_string()))?;
                    if !has_token(frame.data_ref()) {
                        continue;
                    }
                    let now = Instant::now();
                    match last.replace(now) {
                        None => times.first_token.push(now - began),
                        Some(before) => times.gap.push(now - before),
                    }
                }
            }
            Ok::<_, HarnessError>(times)
        });
    }
    let mut all = Times::default();
    while let Some(ended) = tasks.join_next().await {
        let times = ended.map_err(std::io::Error::other)??;
        all.first_token.extend(times.first_token);
        all.gap.extend(times.gap);
    }
    all.first_token.sort_unstable();
    all.gap.sort_unstable();
    Ok(all)
}

fn has_token(data: Option<&Bytes>) -> bool {
    data.is_some_and(|data| {
        data.windows(11)
            .any(|window| window == b"\"content\":\"" && !data.ends_with(b"\"content\":\"\""))
    })
}
