//! What a server writes to its standard error, in the log of the agent: line by line, within
//! bounds of length and pace. The last lines also say why it ended.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::AsyncRead;
use tokio::time::Instant;

use super::framing::{Line, Lines};

/// Longest line, in bytes; the rest of it is left out.
const MAX_LINE_BYTES: usize = 2 * 1024;
/// Lines that may come at once.
const BURST: u32 = 200;
/// Time in which one more line may come.
const PACE: Duration = Duration::from_millis(100);
/// Lines that are kept to say why a server ended.
const KEPT: usize = 5;

/// The last lines.
#[derive(Clone, Debug, Default)]
pub(super) struct LastWords(Arc<Mutex<VecDeque<String>>>);

impl LastWords {
    fn add(&self, line: &str) {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() == KEPT {
            lines.pop_front();
        }
        lines.push_back(line.to_owned());
    }

    /// All of them, on one line.
    pub(super) fn text(&self) -> String {
        let lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        lines.join(" | ")
    }
}

/// Logs until the end of the stream.
pub(super) async fn log(
    service: &str,
    pid: i32,
    stderr: impl AsyncRead + Unpin,
    words: LastWords,
) -> std::io::Result<()> {
    let mut lines = Lines::new(stderr, MAX_LINE_BYTES);
    let mut pace = Allowance::new(Instant::now());
    while let Some(line) = lines.next().await? {
        let (Line::Whole(line) | Line::Cut(line)) = line;
        let line = String::from_utf8_lossy(&line);
        let line = line.trim_end();
        if line.is_empty() {
            continue;
        }
        words.add(line);
        match pace.take(Instant::now()) {
            Some(0) => tracing::debug!(service, pid, ?line, "a server says"),
            Some(lost) => tracing::debug!(service, pid, ?line, lost, "a server says"),
            None => {}
        }
    }
    Ok(())
}

/// How many lines may still come.
#[derive(Debug)]
struct Allowance {
    left: u32,
    since: Instant,
    lost: u64,
}

impl Allowance {
    fn new(now: Instant) -> Self {
        Self {
            left: BURST,
            since: now,
            lost: 0,
        }
    }

    /// Whether a line may come now: how many were left out before it, if so.
    fn take(&mut self, now: Instant) -> Option<u64> {
        let earned = now.duration_since(self.since).as_millis() / PACE.as_millis();
        let earned = u32::try_from(earned).unwrap_or(u32::MAX);
        self.since += PACE.saturating_mul(earned);
        self.left = self.left.saturating_add(earned).min(BURST);
        match self.left.checked_sub(1) {
            Some(left) => {
                self.left = left;
                Some(std::mem::take(&mut self.lost))
            }
            None => {
                self.lost += 1;
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_have_a_pace() {
        let mut now = Instant::now();
        let mut pace = Allowance::new(now);
        for _ in 0..BURST {
            assert_eq!(pace.take(now), Some(0));
        }
        for _ in 0..7 {
            assert_eq!(pace.take(now), None);
        }
        now += PACE;
        assert_eq!(pace.take(now), Some(7), "it says what was left out");
        assert_eq!(pace.take(now), None);
        now += PACE * 10_000;
        let in_a_row = (0..2 * BURST).filter(|_| pace.take(now).is_some()).count();
        assert_eq!(in_a_row, BURST as usize);
    }

    #[tokio::test]
    async fn the_last_lines_are_kept() {
        let words = LastWords::default();
        let text = (0..9).map(|n| format!("line {n}\n\n")).collect::<String>();
        log("s", 1, text.as_bytes(), words.clone())
            .await
            .expect("in memory");
        assert_eq!(words.text(), "line 4 | line 5 | line 6 | line 7 | line 8");
    }
}
