//! The one place where the programs of this crate write to standard output.

use std::io::{self, Write};

/// Writes one line to standard output and flushes it, so that whoever reads a pipe sees it at once.
///
/// # Errors
/// What the write says, a closed pipe above all.
pub fn line(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}")?;
    out.flush()
}
