//! The record of one call: every exit of a call passes through here, once.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use culvert_wire::{Code, Open};

use crate::audit::{Audit, CallerClaim, Line, Outcome, Slot};
use crate::clock;
use crate::metrics::Metrics;

/// Longest text of a caller's choice in a line, in bytes: lines wait in memory, and logs roll
/// over by size.
const MAX_TEXT_BYTES: usize = 1024;

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// The answer was passed on whole.
    Answered,
    /// Refused: nothing of it reached a backend.
    Refused(Code),
    /// It may have begun, and has no whole answer.
    Failed(Code),
    /// The caller, or the link, went away.
    Cancelled(Code),
}

/// What is noted while a call goes on. Dropped without an end it was cancelled, by the end of
/// its link or of the agent.
#[derive(Debug)]
pub(crate) struct Record {
    line: Line,
    began: Instant,
    bytes_in: Counter,
    bytes_out: Counter,
    slot: Option<Slot>,
    audit: Audit,
    metrics: Arc<Metrics>,
    ended: Option<Ended>,
}

/// Bytes that have passed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counter(Arc<AtomicU64>);

impl Counter {
    pub(crate) fn add(&self, bytes: usize) {
        self.0.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    fn total(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Record {
    pub(crate) fn new(open: &Open, plane: &str, audit: &Audit, metrics: &Arc<Metrics>) -> Self {
        metrics.calls_active.inc();
        let path = open.target.path();
        let some = |text: &str| (!text.is_empty()).then(|| bounded(text));
        Self {
            line: Line {
                request_id: open.call_id.request.to_string(),
                attempt: open.call_id.attempt,
                plane: plane.to_owned(),
                caller: CallerClaim {
                    tenant: bounded(&open.caller.tenant),
                    key_id: some(&open.caller.key_id),
                    user: open.caller.user.as_deref().map(bounded),
                    subject: None,
                },
                service: open.service.to_string(),
                method: bounded(open.method.as_str()),
                path: bounded(path),
                model: path.strip_prefix("/v1/models/").map(bounded),
                began: clock::now_text(),
                ..Line::default()
            },
            began: Instant::now(),
            bytes_in: Counter::default(),
            bytes_out: Counter::default(),
            slot: None,
            audit: audit.clone(),
            metrics: Arc::clone(metrics),
            ended: None,
        }
    }

    /// The place in the audit log that this call has been promised.
    pub(crate) fn promised(&mut self, slot: Slot) {
        self.slot = Some(slot);
    }

    pub(crate) fn kind(&mut self, kind: &'static str) {
        self.line.kind = kind;
    }

    /// What a tool policy has read.
    pub(crate) fn asked<'t>(&mut self, method: &str, tools: impl Iterator<Item = &'t str>) {
        self.line.rpc_method = Some(bounded(method));
        let tools: Vec<&str> = tools.collect();
        self.line.tool = (!tools.is_empty()).then(|| bounded(&tools.join(",")));
    }

    /// Who the end user has proved to be.
    pub(crate) fn proved(&mut self, subject: Option<&str>) {
        self.line.caller.subject = subject.map(bounded);
    }

    pub(crate) fn queued(&mut self) {
        self.line.queue_ms = self.since_began();
    }

    pub(crate) fn connected(&mut self, took: Duration) {
        self.line.connect_ms = millis(took);
    }

    pub(crate) fn head(&mut self, status: u16) {
        self.line.status = Some(status);
        self.line.first_byte_ms = Some(self.since_began());
    }

    pub(crate) fn counters(&self) -> (Counter, Counter) {
        (self.bytes_in.clone(), self.bytes_out.clone())
    }

    pub(crate) fn end(&mut self, ended: Ended) {
        self.ended = Some(ended);
    }

    fn since_began(&self) -> u64 {
        millis(self.began.elapsed())
    }

    fn count(&self, ended: Ended) {
        let code = match ended {
            Ended::Answered => match self.line.status {
                Some(status) => format!("{}xx", status / 100),
                None => "other".to_owned(),
            },
            Ended::Refused(code) => {
                self.metrics.refused(code.name().to_owned());
                code.name().to_owned()
            }
            Ended::Failed(code) | Ended::Cancelled(code) => code.name().to_owned(),
        };
        #[expect(clippy::cast_precision_loss, reason = "milliseconds of a call")]
        let first_byte = self.line.first_byte_ms.map(|ms| ms as f64 / 1000.0);
        let seconds = self.began.elapsed().as_secs_f64();
        let kind = if self.line.kind.is_empty() {
            "other"
        } else {
            self.line.kind
        };
        self.metrics.call(kind, code, seconds, first_byte);
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let ended = self.ended.unwrap_or(Ended::Cancelled(Code::AgentGone));
        self.metrics.calls_active.dec();
        self.count(ended);
        let (outcome, code) = match ended {
            Ended::Answered => (Outcome::Answered, None),
            Ended::Refused(code) => (Outcome::Refused, Some(code)),
            Ended::Failed(code) => (Outcome::Failed, Some(code)),
            Ended::Cancelled(code) => (Outcome::Cancelled, Some(code)),
        };
        let mut line = std::mem::take(&mut self.line);
        line.outcome = outcome;
        line.code = code.map(|code| code.name().to_owned());
        line.bytes_in = self.bytes_in.total();
        line.bytes_out = self.bytes_out.total();
        line.total_ms = self.since_began();
        line.ts = clock::now_text();
        tracing::debug!(
            request_id = line.request_id,
            service = line.service,
            outcome = outcome.as_str(),
            code = line.code,
            "a call ended"
        );
        match self.slot.take() {
            Some(slot) => slot.write(line),
            None => self.audit.note(line),
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The text, cut where it is too long, and marked as cut.
fn bounded(text: &str) -> String {
    if text.len() <= MAX_TEXT_BYTES {
        return text.to_owned();
    }
    let whole = |at: &usize| text.is_char_boundary(*at);
    let end = (0..=MAX_TEXT_BYTES).rev().find(whole).unwrap_or(0);
    format!("{}…", &text[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_of_a_line_is_bounded_and_marked_as_cut() {
        assert_eq!(bounded("/v1/models"), "/v1/models");
        let cut = bounded(&"ä".repeat(40_000));
        assert!(cut.ends_with("ä…") && cut.len() <= MAX_TEXT_BYTES + "…".len());
    }
}
