//! The file of the log: appended whole lines, put aside at a size.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// An append-only file that is renamed to `.1`, `.2`, … as it grows.
#[derive(Debug)]
pub(super) struct RotatingFile {
    path: PathBuf,
    rotate: u64,
    keep: u32,
    open: Option<(File, u64)>,
}

impl RotatingFile {
    /// Nothing is opened before the first write.
    pub(super) fn new(path: PathBuf, rotate: u64, keep: u32) -> Self {
        Self {
            path,
            rotate,
            keep,
            open: None,
        }
    }

    /// The same log, not opened yet.
    pub(super) fn reopened(&self) -> Self {
        Self::new(self.path.clone(), self.rotate, self.keep)
    }

    /// Appends whole lines, or none of them.
    ///
    /// # Errors
    /// What the file system says; what was written of them is taken back, so that the file
    /// never holds half a line in its middle.
    pub(super) fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        if self
            .open
            .as_ref()
            .is_some_and(|(_, size)| *size > 0 && size + lines.len() as u64 > self.rotate)
        {
            self.open = None;
            put_aside(&self.path, self.keep)?;
        }
        let (file, size) = match &mut self.open {
            Some(open) => open,
            None => self.open.insert(open(&self.path)?),
        };
        match file.write_all(lines) {
            Ok(()) => {
                *size += lines.len() as u64;
                Ok(())
            }
            Err(error) => {
                let taken_back = file.set_len(*size);
                self.open = None;
                taken_back.and(Err(error))
            }
        }
    }
}

/// Opens for appending; half a line that a crash left is ended first.
fn open(path: &Path) -> io::Result<(File, u64)> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    let mut file = OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)?;
    let mut size = file.metadata()?.len();
    if size > 0 {
        let mut last = [0];
        file.seek(SeekFrom::End(-1))?;
        file.read_exact(&mut last)?;
        if last != *b"\n" {
            file.write_all(b"\n")?;
            size += 1;
        }
    }
    Ok((file, size))
}

/// `log.2` becomes `log.3`, `log.1` becomes `log.2`, `log` becomes `log.1`; the last is lost.
fn put_aside(path: &Path, keep: u32) -> io::Result<()> {
    let numbered = |n: u32| {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{n}"));
        PathBuf::from(name)
    };
    if keep == 0 {
        return found(std::fs::remove_file(path));
    }
    for n in (1..keep).rev() {
        found(std::fs::rename(numbered(n), numbered(n + 1)))?;
    }
    found(std::fs::rename(path, numbered(1)))
}

fn found(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(path: &Path) -> String {
        std::fs::read_to_string(path).unwrap_or_else(|error| format!("{error}"))
    }

    #[test]
    fn files_are_put_aside_and_the_oldest_is_lost() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("sub/audit.jsonl");
        let mut file = RotatingFile::new(path.clone(), 10, 2);
        for line in ["one....\n", "two....\n", "three..\n", "four...\n"] {
            file.append(line.as_bytes()).expect("a write");
        }
        assert_eq!(read(&path), "four...\n");
        assert_eq!(read(&dir.path().join("sub/audit.jsonl.1")), "three..\n");
        assert_eq!(read(&dir.path().join("sub/audit.jsonl.2")), "two....\n");
        assert!(!dir.path().join("sub/audit.jsonl.3").exists());
    }

    #[test]
    fn half_a_line_of_a_crash_is_ended() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("audit.jsonl");
        std::fs::write(&path, "{\"half").expect("a write");
        RotatingFile::new(path.clone(), 1000, 2)
            .append(b"{}\n")
            .expect("a write");
        assert_eq!(read(&path), "{\"half\n{}\n");
    }

    #[test]
    fn only_the_owner_can_read() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("audit.jsonl");
        RotatingFile::new(path.clone(), 1000, 2)
            .append(b"{}\n")
            .expect("a write");
        let mode = std::fs::metadata(&path)
            .expect("metadata")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
