//! One record per accepted request, whatever becomes of it.
//!
//! A [`Guard`] is made when the head of a request has been read and lives until the last byte of the
//! answer has been handed over, or until somebody lets go of it. Its drop writes the record: no path
//! through the handler can forget to, and none can do it twice.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use jiff::Timestamp;
use serde::Serialize;
use tokio::sync::mpsc;

use crate::{
    error::{CallerCode, Problem},
    metrics::EdgeMetrics,
    model::usage::Usage,
};

/// Longest text of a record, in bytes: what a caller can make longer would push other records out.
const LONGEST: usize = 1024;
/// What stands at the end of a text that was cut.
const CUT_HERE: &str = "…";

/// What is kept of one request: never a body, a key or a header's value but the metadata.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Record {
    /// When the head had been read.
    pub ts: Timestamp,
    /// Ours, UUIDv7.
    pub request_id: String,
    /// The caller's own, as it was sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_request_id: Option<String>,
    /// `<region>/<zone>` of the plane that took the request.
    pub plane: String,
    /// Who called.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub caller: Option<Caller>,
    /// The kind of endpoint: `model`, `models`, `mcp`, `http`, `other`.
    pub kind: &'static str,
    /// The method of the request.
    pub method: String,
    /// The path, without its query.
    pub path: String,
    /// The connector that the call was routed to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connector: Option<String>,
    /// The service that answered, or the only one that could.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// The agent that answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// What carried the call.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transport: Option<String>,
    /// The model, by the backend's id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// The JSON-RPC method of an MCP message.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rpc_method: Option<String>,
    /// The tool, prompt or resource of an MCP message.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool: Option<String>,
    /// `ok`, `refused` (by us), `cut` (after the first byte) or `caller_gone`.
    pub outcome: &'static str,
    /// The stable code of an error of ours, else the class of the answer.
    pub code: &'static str,
    /// The status of the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// How often the call was tried.
    pub attempts: u32,
    /// Whether a backend may have executed the call although the caller was told of an error.
    pub maybe_executed: bool,
    /// Bytes of the request's body that were read.
    pub bytes_in: u64,
    /// Bytes of the answer's body that were handed over.
    pub bytes_out: u64,
    /// Tokens of the prompt, where the backend counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens_in: Option<u64>,
    /// Tokens of the answer, where the backend counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens_out: Option<u64>,
    /// Milliseconds until the first byte of the answer's body.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_byte_ms: Option<u64>,
    /// Milliseconds from head to end.
    pub total_ms: u64,
    /// What the caller said about the request, and where it entered.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
}

/// What the relay says of a call, for its record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Note {
    /// The service that answered.
    pub service: Option<String>,
    /// The agent that answered, or was tried last.
    pub agent: Option<String>,
    /// What carried the call.
    pub transport: Option<String>,
    /// How often it was tried.
    pub attempts: u32,
    /// Whether a backend may have executed it although there is no answer.
    pub maybe_executed: bool,
    /// The status of the answer.
    pub status: Option<u16>,
}

impl Record {
    /// Takes over what the relay says.
    pub fn note(&mut self, note: Note) {
        let Note {
            service,
            agent,
            transport,
            attempts,
            maybe_executed,
            status,
        } = note;
        self.service = service.or_else(|| self.service.take());
        (self.agent, self.transport, self.attempts) = (agent, transport, attempts);
        self.maybe_executed = maybe_executed;
        self.status = status.or(self.status);
    }

    /// Cuts every text that a caller or a backend chose the length of.
    fn bound(&mut self) {
        shorten(&mut self.path);
        shorten(&mut self.method);
        let named = [
            &mut self.connector,
            &mut self.service,
            &mut self.agent,
            &mut self.model,
            &mut self.rpc_method,
            &mut self.tool,
        ];
        named.into_iter().flatten().for_each(shorten);
        if let Some(caller) = &mut self.caller {
            shorten(&mut caller.tenant);
            shorten(&mut caller.key_id);
        }
    }
}

/// Cuts a text that is too long for a record, between two characters, and marks it as cut.
fn shorten(text: &mut String) {
    if text.len() > LONGEST {
        let mut end = LONGEST - CUT_HERE.len();
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text.push_str(CUT_HERE);
        text.shrink_to_fit();
    }
}

/// Who called, as the key says.
#[derive(Clone, Debug, Serialize)]
pub struct Caller {
    /// The tenant of the key.
    pub tenant: String,
    /// The key's public id.
    pub key_id: String,
}

/// Where records go: they are counted, and queued for their writer.
#[derive(Clone, Debug)]
pub struct Recorder {
    metrics: EdgeMetrics,
    queue: mpsc::Sender<Record>,
}

impl Recorder {
    /// `queue` is bounded by its maker; what does not fit is counted and lost, calls go on.
    pub const fn new(metrics: EdgeMetrics, queue: mpsc::Sender<Record>) -> Self {
        Self { metrics, queue }
    }

    /// Begins the record of a request whose head has been read.
    pub fn begin(&self, mut record: Record) -> Guard {
        self.metrics.began(record.kind);
        record.bound();
        Guard {
            record,
            end: End::Pending,
            began: Instant::now(),
            bytes_in: Arc::default(),
            recorder: self.clone(),
        }
    }
}

/// How far a request has come; the last state says how it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// No answer yet, or not all of it: dropped here, the caller has gone.
    Pending,
    /// All of an answer was handed over.
    Whole,
    /// An error of ours was the answer.
    Refused(CallerCode),
    /// The answer was cut after it had begun.
    Cut(CallerCode),
}

/// The record of a request under way. Dropping it writes it.
#[derive(Debug)]
pub struct Guard {
    record: Record,
    end: End,
    began: Instant,
    bytes_in: Arc<AtomicU64>,
    recorder: Recorder,
}

impl Guard {
    /// The fields that the phases fill in as they learn them.
    pub const fn fields(&mut self) -> &mut Record {
        &mut self.record
    }

    /// Ours, for answers and events.
    pub fn request_id(&self) -> &str {
        &self.record.request_id
    }

    /// When the request began.
    pub const fn began(&self) -> Instant {
        self.began
    }

    /// Counts the request's body while it goes up.
    pub fn bytes_in(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.bytes_in)
    }

    /// Whether no byte of the request's body was read.
    pub fn nothing_read(&self) -> bool {
        self.bytes_in.load(Ordering::Relaxed) == 0
    }

    /// The answer is an error of ours.
    pub fn refused(&mut self, problem: &Problem) {
        self.end = End::Refused(problem.code());
        self.record.status = Some(problem.code().status().as_u16());
    }

    /// Bytes of the answer's body were handed over.
    pub fn sent(&mut self, bytes: usize) {
        self.record.bytes_out += bytes as u64;
        if self.record.first_byte_ms.is_none() && bytes > 0 {
            self.record.first_byte_ms = Some(self.elapsed_ms());
        }
    }

    /// The answer was handed over to its end. An error of ours stays one.
    pub fn whole(&mut self) {
        if self.end == End::Pending {
            self.end = End::Whole;
        }
    }

    /// The answer was cut after it had begun.
    pub fn cut(&mut self, problem: &Problem) {
        self.end = End::Cut(problem.code());
    }

    /// What the backend counted.
    pub fn tokens(&mut self, usage: Usage) {
        (self.record.tokens_in, self.record.tokens_out) = (usage.input, usage.output);
    }

    fn elapsed_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let total_ms = self.elapsed_ms();
        let mut record = std::mem::take(&mut self.record);
        record.bound();
        record.total_ms = total_ms;
        record.bytes_in = self.bytes_in.load(Ordering::Relaxed);
        (record.outcome, record.code) = match self.end {
            End::Pending => ("caller_gone", "caller_gone"),
            End::Whole => ("ok", class(record.status)),
            End::Refused(code) => ("refused", code.name()),
            End::Cut(code) => ("cut", code.name()),
        };
        let millis = std::time::Duration::from_millis;
        self.recorder.metrics.ended(
            record.kind,
            record.code,
            self.began.elapsed(),
            record.first_byte_ms.map(millis),
        );
        if self.recorder.queue.try_send(record).is_err() {
            self.recorder.metrics.record_lost();
        }
    }
}

/// A backend's own error is no error of ours, yet not a success either.
const fn class(status: Option<u16>) -> &'static str {
    match status {
        Some(400..=499) => "backend_4xx",
        Some(500..) => "backend_5xx",
        Some(_) | None => "ok",
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::{encoding::text::encode, registry::Registry};

    use super::*;

    struct Sink {
        recorder: Recorder,
        records: mpsc::Receiver<Record>,
        registry: Registry,
    }

    fn sink(capacity: usize) -> Sink {
        let mut registry = Registry::default();
        let (sender, records) = mpsc::channel(capacity);
        let recorder = Recorder::new(EdgeMetrics::new(&mut registry), sender);
        Sink {
            recorder,
            records,
            registry,
        }
    }

    impl Sink {
        fn metrics(&self) -> String {
            let mut text = String::new();
            encode(&mut text, &self.registry).unwrap();
            text
        }
    }

    fn record() -> Record {
        Record {
            kind: "model",
            ..Record::default()
        }
    }

    #[test]
    fn every_end_is_one_record() {
        let mut sink = sink(16);
        type Act = fn(&mut Guard);
        let ends: [(&str, &str, Act); 6] = [
            ("caller_gone", "caller_gone", |_| ()),
            ("caller_gone", "caller_gone", |g| g.sent(5)),
            ("ok", "ok", |g| {
                g.fields().status = Some(200);
                g.whole();
            }),
            ("ok", "backend_4xx", |g| {
                g.fields().status = Some(429);
                g.whole();
            }),
            ("refused", "invalid_key", |g| {
                g.refused(&Problem::new(CallerCode::InvalidKey, ""));
                g.whole();
            }),
            ("cut", "answer_cut", |g| {
                g.sent(1);
                g.cut(&Problem::new(CallerCode::AnswerCut, ""));
                g.whole();
            }),
        ];
        for (outcome, code, act) in ends {
            let mut guard = sink.recorder.begin(record());
            act(&mut guard);
            drop(guard);
            let record = sink.records.try_recv().unwrap();
            assert_eq!((record.outcome, record.code), (outcome, code));
            assert!(sink.records.try_recv().is_err());
        }
        let text = sink.metrics();
        assert!(
            text.contains(r#"culvert_gateway_requests_total{kind="model",code="answer_cut"} 1"#),
            "{text}"
        );
        assert!(
            text.contains(r#"culvert_gateway_calls_active{kind="model"} 0"#),
            "{text}"
        );
    }

    #[test]
    fn a_full_queue_loses_the_record_and_says_so() {
        let sink = sink(1);
        drop(sink.recorder.begin(record()));
        drop(sink.recorder.begin(record()));
        assert!(
            sink.metrics()
                .contains("culvert_gateway_records_lost_total 1")
        );
    }

    #[test]
    fn long_texts_are_cut_and_say_so() {
        let mut sink = sink(1);
        let mut guard = sink.recorder.begin(Record {
            path: format!("/a{}", "é".repeat(30_000)),
            ..record()
        });
        assert!(guard.fields().path.len() <= LONGEST, "from the beginning");
        guard.fields().model = Some("m".repeat(LONGEST + 1));
        guard.fields().tool = Some("t".repeat(LONGEST));
        drop(guard);
        let record = sink.records.try_recv().unwrap();
        assert!(record.path.starts_with("/aé") && record.path.ends_with(CUT_HERE));
        assert!(record.path.len() > LONGEST - 8);
        assert_eq!(record.model.as_ref().unwrap().len(), LONGEST);
        assert!(record.model.unwrap().ends_with(CUT_HERE));
        assert_eq!(record.tool.unwrap(), "t".repeat(LONGEST));
    }

    #[test]
    fn bytes_and_first_byte() {
        let mut sink = sink(1);
        let mut guard = sink.recorder.begin(record());
        guard.bytes_in().fetch_add(7, Ordering::Relaxed);
        guard.sent(0);
        assert!(guard.fields().first_byte_ms.is_none());
        guard.sent(3);
        guard.sent(4);
        drop(guard);
        let record = sink.records.try_recv().unwrap();
        assert_eq!((record.bytes_in, record.bytes_out), (7, 7));
        assert!(record.first_byte_ms.is_some());
    }
}
