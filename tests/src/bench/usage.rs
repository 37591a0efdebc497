//! CPU time and resident memory of processes, from `/proc`.

use std::fs;
use std::io;

/// Clock ticks of `/proc/<id>/stat` per second: `USER_HZ`, which is 100 on every Linux.
const TICKS_PER_SECOND: f64 = 100.0;

/// CPU-seconds that `ids` have used so far, in user and in kernel mode.
///
/// # Errors
/// A process that is gone.
pub(super) fn cpu_seconds(ids: &[u32]) -> io::Result<f64> {
    let mut ticks = 0.0;
    for id in ids {
        let stat = fs::read_to_string(format!("/proc/{id}/stat"))?;
        // The second field is the name in brackets and may hold anything; behind it come numbers.
        let fields: Vec<&str> = stat
            .rsplit(')')
            .next()
            .unwrap_or_default()
            .split_whitespace()
            .collect();
        for index in [11, 12] {
            let field = fields
                .get(index)
                .and_then(|field| field.parse::<f64>().ok());
            ticks += field.ok_or_else(|| io::Error::other(format!("no CPU time in {stat:?}")))?;
        }
    }
    Ok(ticks / TICKS_PER_SECOND)
}

/// Resident memory of `id` in KiB.
///
/// # Errors
/// A process that is gone.
pub(super) fn resident_kib(id: u32) -> io::Result<f64> {
    let status = fs::read_to_string(format!("/proc/{id}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok())
        .ok_or_else(|| io::Error::other(format!("no resident memory in {status:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_this_process() {
        let id = std::process::id();
        assert!(cpu_seconds(&[id]).unwrap() >= 0.0);
        assert!(resident_kib(id).unwrap() > 100.0);
    }
}
