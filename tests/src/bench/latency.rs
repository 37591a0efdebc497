//! Added latency at 1, 16 and 256 callers, and requests per CPU-second.

use std::collections::BTreeMap;

use serde_json::json;

use super::Effort;
use super::driver::closed_loop;
use super::paths::{Path, Paths};
use super::report::{Report, median, percentile_us};
use super::usage::cpu_seconds;
use crate::error::HarnessError;

const CALLERS: [usize; 3] = [1, 16, 256];
const PATHS: [Path; 3] = [Path::Direct, Path::Nginx, Path::Ours];

/// The figures of one path, one entry per round.
#[derive(Debug, Default)]
struct Figures {
    p50: Vec<f64>,
    p99: Vec<f64>,
    per_second: Vec<f64>,
    per_cpu_second: Vec<f64>,
}

pub(super) async fn measure(
    paths: &Paths,
    effort: Effort,
    report: &mut Report,
) -> Result<(), HarnessError> {
    for callers in CALLERS {
        let mut figures: BTreeMap<Path, Figures> = BTreeMap::new();
        for _ in 0..effort.rounds {
            for path in PATHS {
                one_round(
                    paths,
                    path,
                    callers,
                    effort,
                    figures.entry(path).or_default(),
                )
                .await?;
            }
        }
        tell(&figures, callers, report)?;
    }
    Ok(())
}

async fn one_round(
    paths: &Paths,
    path: Path,
    callers: usize,
    effort: Effort,
    figures: &mut Figures,
) -> Result<(), HarnessError> {
    let Some(call) = paths.chat(path, "fast", &json!({"max_tokens": 3})) else {
        return Ok(());
    };
    let ids = paths.processes(path);
    let before = cpu_seconds(&ids)?;
    let round = closed_loop(&call, callers, effort.round).await?;
    let cpu = cpu_seconds(&ids)? - before;
    #[expect(
        clippy::cast_precision_loss,
        reason = "counts of requests are far below 2^52"
    )]
    let count = round.sorted.len() as f64;
    figures.p50.push(percentile_us(&round.sorted, 0.5));
    figures.p99.push(percentile_us(&round.sorted, 0.99));
    figures.per_second.push(count / round.took.as_secs_f64());
    if cpu > 0.0 {
        figures.per_cpu_second.push(count / cpu);
    }
    Ok(())
}

fn tell(
    figures: &BTreeMap<Path, Figures>,
    callers: usize,
    report: &mut Report,
) -> Result<(), HarnessError> {
    type Pick = fn(&Figures) -> &Vec<f64>;
    let of = |path: Path, pick: Pick| {
        figures
            .get(&path)
            .map(pick)
            .filter(|list| !list.is_empty())
            .map(|list| median(list.clone()))
    };
    let latencies: [(&str, Pick); 2] = [
        ("p50", |figures| &figures.p50),
        ("p99", |figures| &figures.p99),
    ];
    for (name, pick) in latencies {
        let direct = of(Path::Direct, pick).unwrap_or_default();
        let ours = of(Path::Ours, pick).unwrap_or_default();
        report.figure(
            &format!("latency_{name}_{callers}_callers"),
            ours,
            "us",
            Some(direct),
        )?;
        let nginx_added = of(Path::Nginx, pick).map(|nginx| nginx - direct);
        report.figure(
            &format!("added_{name}_{callers}_callers_vs_two_nginx"),
            ours - direct,
            "us",
            nginx_added,
        )?;
    }
    let rates: [(&str, Pick); 2] = [
        ("requests_per_second", |figures| &figures.per_second),
        ("requests_per_cpu_second", |figures| &figures.per_cpu_second),
    ];
    for (name, pick) in rates {
        let ours = of(Path::Ours, pick).unwrap_or_default();
        report.figure(
            &format!("{name}_{callers}_callers_vs_two_nginx"),
            ours,
            "1/s",
            of(Path::Nginx, pick),
        )?;
    }
    Ok(())
}
