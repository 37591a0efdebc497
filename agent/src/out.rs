//! Standard output: the only place that writes to it.

use std::io::{self, Write as _};

/// Writes text and a line's end, whole, through the lock.
///
/// # Errors
/// Standard output cannot be written. A reader that has gone is not an error: there is
/// nobody to tell.
pub fn print(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    let written = stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.write_all(b"\n"))
        .and_then(|()| stdout.flush());
    match written {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

/// Writes a message for the person at the terminal to standard error.
///
/// # Errors
/// Standard error cannot be written.
pub fn complain(text: &str) -> io::Result<()> {
    let mut stderr = io::stderr().lock();
    writeln!(stderr, "culvert-agent: {text}")
}
