//! The one writer of the log.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::mpsc;

use super::rotate::RotatingFile;
use super::{Line, Shared};
use crate::config::{AuditSpec, WhenFull};

/// Lines of one write.
const BATCH_LINES: usize = 256;
/// How long a refusing disk is left alone before the next try.
const RETRY: Duration = Duration::from_millis(500);
/// How often a line that cannot be written is tried once no call can come any more.
const LAST_TRIES: u32 = 3;

/// Writes lines until every [`super::Audit`] is gone and the queue is empty.
#[derive(Debug)]
pub struct Writer {
    file: RotatingFile,
    queue: mpsc::Receiver<Line>,
    shared: Arc<Shared>,
    when_full: WhenFull,
}

impl Writer {
    pub(super) fn new(spec: AuditSpec, queue: mpsc::Receiver<Line>, shared: Arc<Shared>) -> Self {
        Self {
            file: RotatingFile::new(spec.path, spec.rotate, spec.keep),
            queue,
            shared,
            when_full: spec.when_full,
        }
    }

    /// Runs to the end of the queue.
    pub async fn run(mut self) {
        let mut lines = Vec::with_capacity(BATCH_LINES);
        while self.queue.recv_many(&mut lines, BATCH_LINES).await > 0 {
            let count = lines.len() as u64;
            let bytes = encode(&lines);
            lines.clear();
            self = self.write(bytes, count).await;
        }
    }

    async fn write(mut self, bytes: Vec<u8>, count: u64) -> Self {
        let bytes = Arc::new(bytes);
        let mut tries = 0;
        loop {
            let (file, result) = append(self.file, Arc::clone(&bytes)).await;
            self.file = file;
            let Err(error) = result else {
                if self.shared.failing.swap(false, Ordering::Relaxed) {
                    tracing::info!("the audit log is written again");
                }
                return self;
            };
            if !self.shared.failing.swap(true, Ordering::Relaxed) {
                tracing::error!(%error, when_full = ?self.when_full, "the audit log cannot be written");
            }
            tries += 1;
            let gives_up = match self.when_full {
                WhenFull::Drop => true,
                WhenFull::Refuse => self.queue.is_closed() && tries >= LAST_TRIES,
            };
            if gives_up {
                self.shared.lost.fetch_add(count, Ordering::Relaxed);
                return self;
            }
            tokio::time::sleep(RETRY).await;
        }
    }
}

/// Writes on a thread that may block.
async fn append(
    mut file: RotatingFile,
    bytes: Arc<Vec<u8>>,
) -> (RotatingFile, Result<(), std::io::Error>) {
    let spare = file.reopened();
    let task = tokio::task::spawn_blocking(move || {
        let result = file.append(&bytes);
        (file, result)
    });
    match task.await {
        Ok(done) => done,
        Err(error) => (spare, Err(std::io::Error::other(error))),
    }
}

fn encode(lines: &[Line]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for line in lines {
        let before = bytes.len();
        match serde_json::to_writer(&mut bytes, line) {
            Ok(()) => bytes.push(b'\n'),
            Err(error) => {
                bytes.truncate(before);
                tracing::error!(%error, "a line of the audit log cannot be encoded");
            }
        }
    }
    bytes
}
