//! MiB/s up and down, against a bare copy from TCP to a QUIC stream to TCP in the same places.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use http::Method;

use super::Effort;
use super::driver::Call;
use super::paths::{Path, Paths};
use super::report::{Report, median};
use super::usage::cpu_seconds;
use crate::error::HarnessError;

const PATHS: [Path; 4] = [Path::Direct, Path::Nginx, Path::Copy, Path::Ours];
const MIB: f64 = 1024.0 * 1024.0;

pub(super) async fn measure(
    paths: &Paths,
    effort: Effort,
    report: &mut Report,
) -> Result<(), HarnessError> {
    let zeros = Bytes::from(vec![0_u8; effort.bulk_bytes]);
    for direction in ["down", "up"] {
        let mut speed: BTreeMap<Path, Vec<f64>> = BTreeMap::new();
        let mut cpu: BTreeMap<Path, Vec<f64>> = BTreeMap::new();
        for _ in 0..effort.rounds {
            for path in PATHS {
                let call = match direction {
                    "down" => paths.plain(
                        path,
                        Method::GET,
                        &format!("/bytes/{}", effort.bulk_bytes),
                        Bytes::new(),
                    ),
                    _ => paths.plain(path, Method::POST, "/sink", zeros.clone()),
                };
                let Some(call) = call else { continue };
                let ids = paths.processes(path);
                let before = cpu_seconds(&ids)?;
                let took = transfer(&call).await?;
                let used = cpu_seconds(&ids)? - before;
                #[expect(clippy::cast_precision_loss, reason = "sizes are far below 2^52")]
                let mib = effort.bulk_bytes as f64 / MIB;
                speed
                    .entry(path)
                    .or_default()
                    .push(mib / took.as_secs_f64());
                cpu.entry(path).or_default().push(used / (mib / 1024.0));
            }
        }
        let of = |figures: &BTreeMap<Path, Vec<f64>>, path| {
            figures.get(&path).map(|list| median(list.clone()))
        };
        let ours = of(&speed, Path::Ours).unwrap_or_default();
        report.figure(
            &format!("mib_per_second_{direction}_vs_quinn_copy"),
            ours,
            "MiB/s",
            of(&speed, Path::Copy),
        )?;
        report.figure(
            &format!("mib_per_second_{direction}_vs_two_nginx"),
            ours,
            "MiB/s",
            of(&speed, Path::Nginx),
        )?;
        report.figure(
            &format!("mib_per_second_{direction}_vs_direct"),
            ours,
            "MiB/s",
            of(&speed, Path::Direct),
        )?;
        let ours = of(&cpu, Path::Ours).unwrap_or_default();
        report.figure(
            &format!("cpu_seconds_per_gib_{direction}_vs_quinn_copy"),
            ours,
            "s/GiB",
            of(&cpu, Path::Copy),
        )?;
    }
    Ok(())
}

async fn transfer(call: &Call) -> Result<Duration, HarnessError> {
    let mut caller = call.connect().await?;
    caller.exchange().await
}
