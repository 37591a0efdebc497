//! Where records go: a file of JSON lines that is turned over when it has grown, or the log.

use std::{io, path::PathBuf};

use tokio::{
    fs::{self, File, OpenOptions},
    io::{AsyncWriteExt, BufWriter},
    sync::mpsc,
};

use crate::record::Record;

/// Records that wait to be written; more are lost, and counted.
pub const QUEUE: usize = 4096;
/// Size at which the file is renamed to `<name>.1` and a new one begun, in bytes.
const TURN_AT: u64 = 64 * 1024 * 1024;
/// Older files that are kept, `<name>.1` the youngest: 640 MiB with the one that is written.
const KEPT: usize = 9;

/// Writes records, off the path of the calls.
#[derive(Debug)]
pub enum Journal {
    /// To a file.
    File(RecordFile),
    /// To the log, one event each.
    Log,
}

/// The file of records.
#[derive(Debug)]
pub struct RecordFile {
    path: PathBuf,
    file: BufWriter<File>,
    size: u64,
}

impl Journal {
    /// Opens the file, to append to it; a new one is readable by its owner only. Without a path,
    /// records go to the log.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub async fn open(path: Option<PathBuf>) -> io::Result<Self> {
        let Some(path) = path else {
            return Ok(Self::Log);
        };
        let (file, size) = open(&path).await?;
        Ok(Self::File(RecordFile {
            path,
            file: BufWriter::new(file),
            size,
        }))
    }

    /// Writes until all senders are gone, and what is queued by then.
    pub async fn run(self, mut records: mpsc::Receiver<Record>) {
        match self {
            Self::File(file) => file.run(records).await,
            Self::Log => {
                while let Some(record) = records.recv().await {
                    log(&record);
                }
            }
        }
    }
}

impl RecordFile {
    async fn run(mut self, mut records: mpsc::Receiver<Record>) {
        let mut failing = false;
        while let Some(record) = records.recv().await {
            match self.write(&record, records.is_empty()).await {
                Ok(()) => failing = false,
                Err(error) if !failing => {
                    failing = true;
                    tracing::error!(%error, path = %self.path.display(), "records cannot be written");
                }
                Err(_) => {}
            }
        }
        if let Err(error) = self.file.flush().await {
            tracing::error!(%error, "the last records cannot be written");
        }
    }

    async fn write(&mut self, record: &Record, flush: bool) -> io::Result<()> {
        let mut line = serde_json::to_vec(record)?;
        line.push(b'\n');
        self.file.write_all(&line).await?;
        self.size += line.len() as u64;
        if flush || self.size > TURN_AT {
            self.file.flush().await?;
        }
        if self.size > TURN_AT {
            self.turn().await
        } else {
            Ok(())
        }
    }

    async fn turn(&mut self) -> io::Result<()> {
        for older in (1..KEPT).rev() {
            match fs::rename(self.old(older), self.old(older + 1)).await {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => {}
            }
        }
        fs::rename(&self.path, self.old(1)).await?;
        let (file, size) = open(&self.path).await?;
        (self.file, self.size) = (BufWriter::new(file), size);
        Ok(())
    }

    /// Where the file was put so many turns ago.
    fn old(&self, turns: usize) -> PathBuf {
        let mut old = self.path.clone().into_os_string();
        old.push(format!(".{turns}"));
        old.into()
    }
}

fn log(record: &Record) {
    let caller = record.caller.as_ref();
    tracing::info!(
        request_id = record.request_id,
        client_request_id = record.client_request_id,
        tenant = caller.map(|caller| caller.tenant.as_str()),
        key_id = caller.map(|caller| caller.key_id.as_str()),
        kind = record.kind,
        method = record.method,
        path = record.path,
        connector = record.connector,
        service = record.service,
        agent = record.agent,
        transport = record.transport,
        model = record.model,
        rpc_method = record.rpc_method,
        tool = record.tool,
        outcome = record.outcome,
        code = record.code,
        status = record.status,
        attempts = record.attempts,
        maybe_executed = record.maybe_executed,
        bytes_in = record.bytes_in,
        bytes_out = record.bytes_out,
        tokens_in = record.tokens_in,
        tokens_out = record.tokens_out,
        first_byte_ms = record.first_byte_ms,
        total_ms = record.total_ms,
        "record"
    );
}

async fn open(path: &PathBuf) -> io::Result<(File, u64)> {
    let file = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
        .await?;
    let size = file.metadata().await?.len();
    Ok((file, size))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_line_each_and_a_turn() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("records.jsonl");
        let Journal::File(mut file) = Journal::open(Some(path.clone())).await.unwrap() else {
            panic!("not a file")
        };
        let record = Record {
            kind: "model",
            code: "ok",
            ..Record::default()
        };
        file.write(&record, true).await.unwrap();
        file.size = TURN_AT;
        file.write(&record, true).await.unwrap();
        let (queue, records) = mpsc::channel(4);
        queue.send(record).await.unwrap();
        drop(queue);
        Journal::File(file).run(records).await;
        let old = std::fs::read_to_string(folder.path().join("records.jsonl.1")).unwrap();
        let new = std::fs::read_to_string(path).unwrap();
        assert_eq!((old.lines().count(), new.lines().count()), (2, 1));
        let line: serde_json::Value = serde_json::from_str(new.trim()).unwrap();
        assert_eq!(line["kind"], "model");
    }

    #[tokio::test]
    async fn a_bounded_number_of_old_files_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("records.jsonl");
        let Journal::File(mut file) = Journal::open(Some(path)).await.unwrap() else {
            panic!("not a file")
        };
        for turn in 0..KEPT as u32 + 3 {
            let record = Record {
                attempts: turn,
                ..Record::default()
            };
            file.size = TURN_AT;
            file.write(&record, true).await.unwrap();
        }
        for turns in 1..=KEPT {
            let text = std::fs::read_to_string(file.old(turns)).unwrap();
            let line: serde_json::Value = serde_json::from_str(text.trim()).unwrap();
            assert_eq!(line["attempts"], KEPT + 3 - turns);
        }
        assert!(!file.old(KEPT + 1).exists());
    }
}
