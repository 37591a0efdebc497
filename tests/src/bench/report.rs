//! Figures as JSON lines, and the statistics behind them.

use std::time::Duration;

use serde::Serialize;

use crate::error::HarnessError;
use crate::out;

/// Writes figures as they are ready.
#[derive(Debug, Default)]
pub(super) struct Report {
    lines: usize,
}

#[derive(Serialize)]
struct Line<'a> {
    name: &'a str,
    value: f64,
    unit: &'a str,
    baseline: Option<f64>,
    ratio: Option<f64>,
}

impl Report {
    /// One figure; `ratio` is value over baseline.
    pub(super) fn figure(
        &mut self,
        name: &str,
        value: f64,
        unit: &str,
        baseline: Option<f64>,
    ) -> Result<(), HarnessError> {
        let ratio = baseline
            .filter(|base| *base != 0.0)
            .map(|base| round(value / base));
        let line = Line {
            name,
            value: round(value),
            unit,
            baseline: baseline.map(round),
            ratio,
        };
        let text =
            serde_json::to_string(&line).map_err(|error| HarnessError::Http(error.to_string()))?;
        self.lines += 1;
        Ok(out::line(&text)?)
    }
}

/// Three digits behind the point.
fn round(value: f64) -> f64 {
    (value * 1_000.0).round() / 1_000.0
}

/// The middle of `values`; 0 of none.
pub(super) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => 0.0,
        count if count % 2 == 1 => values[count / 2],
        count => f64::midpoint(values[count / 2 - 1], values[count / 2]),
    }
}

/// The value below which `share` (0 to 1) of `sorted` lies, in microseconds.
pub(super) fn percentile_us(sorted: &[Duration], share: f64) -> f64 {
    let last = sorted.len().saturating_sub(1);
    // The index of a percentile is at most the length, which fits.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "an index below the length"
    )]
    let index = (last as f64 * share).round() as usize;
    sorted
        .get(index)
        .map_or(0.0, |value| value.as_secs_f64() * 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_is_the_middle() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(median(Vec::new()), 0.0);
    }

    #[test]
    fn a_percentile_is_a_value_of_the_list() {
        let list: Vec<Duration> = (1..=100).map(Duration::from_micros).collect();
        assert_eq!(percentile_us(&list, 0.5), 51.0);
        assert_eq!(percentile_us(&list, 0.99), 99.0);
        assert_eq!(percentile_us(&[], 0.99), 0.0);
    }
}
