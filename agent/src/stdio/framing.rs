//! Lines of a child's output, each within a bound.

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader};

/// Read from the pipe at a time, in bytes: what a pipe of Linux holds.
const BUFFER_BYTES: usize = 64 * 1024;

/// The lines of a stream of bytes.
#[derive(Debug)]
pub(super) struct Lines<R> {
    source: BufReader<R>,
    max: usize,
    line: BytesMut,
    /// What is left of a line that was too long is passed over.
    skipping: bool,
}

/// One of them.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// All of it, without its end.
    Whole(Bytes),
    /// The beginning of one that is too long.
    Cut(Bytes),
}

impl<R: AsyncRead + Unpin> Lines<R> {
    /// Lines of at most `max` bytes.
    pub(super) fn new(source: R, max: usize) -> Self {
        Self {
            source: BufReader::with_capacity(BUFFER_BYTES, source),
            max,
            line: BytesMut::new(),
            skipping: false,
        }
    }

    /// The next line; none at the end. The last one needs no line break.
    ///
    /// Nothing is lost where the future is dropped.
    pub(super) async fn next(&mut self) -> std::io::Result<Option<Line>> {
        loop {
            let read = self.source.fill_buf().await?;
            if read.is_empty() {
                let rest = self.line.split().freeze();
                let skipping = std::mem::take(&mut self.skipping);
                return Ok((!skipping && !rest.is_empty()).then_some(Line::Whole(rest)));
            }
            let end = memchr(b'\n', read);
            let taken = end.unwrap_or(read.len());
            if !self.skipping {
                let room = self.max - self.line.len();
                self.line.extend_from_slice(&read[..taken.min(room)]);
                if taken > room {
                    self.skipping = end.is_none();
                    self.source.consume(taken + usize::from(end.is_some()));
                    return Ok(Some(Line::Cut(self.line.split().freeze())));
                }
            }
            self.source.consume(taken + usize::from(end.is_some()));
            if end.is_some() && !std::mem::take(&mut self.skipping) {
                return Ok(Some(Line::Whole(self.line.split().freeze())));
            }
        }
    }
}

fn memchr(wanted: u8, bytes: &[u8]) -> Option<usize> {
    bytes.iter().position(|byte| *byte == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn lines(text: &str, max: usize) -> Vec<String> {
        let mut lines = Lines::new(text.as_bytes(), max);
        let mut all = Vec::new();
        while let Some(line) = lines.next().await.expect("in memory") {
            all.push(match line {
                Line::Whole(line) => String::from_utf8_lossy(&line).into_owned(),
                Line::Cut(line) => format!("{}…", String::from_utf8_lossy(&line)),
            });
        }
        all
    }

    #[tokio::test]
    async fn lines_end_with_a_line_break_or_with_the_stream() {
        assert_eq!(lines("a\nbc\n\nd", 9).await, ["a", "bc", "", "d"]);
        assert_eq!(lines("", 9).await, [""; 0]);
    }

    #[tokio::test]
    async fn what_is_too_long_is_cut_and_passed_over() {
        assert_eq!(lines("abcd\nabcde\nx\n", 4).await, ["abcd", "abcd…", "x"]);
        let long = format!("{}\nafter\n", "y".repeat(3 * BUFFER_BYTES));
        assert_eq!(lines(&long, 5).await, ["yyyyy…", "after"]);
        assert_eq!(lines("abcdef", 4).await, ["abcd…"]);
    }
}
