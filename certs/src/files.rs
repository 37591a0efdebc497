//! Files that hold secrets: private modes, whole or not at all.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use data_encoding::HEXLOWER;
use zeroize::Zeroizing;

use crate::random;

/// Largest file that is read here, in bytes: the largest of ours, a bundle, is far smaller.
const MAX_FILE: u64 = 1024 * 1024;

/// Makes a directory, and those above it, that only the owner can enter.
pub(crate) fn create_private_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Writes a new file that only the owner can read, and waits until it is on disk.
pub(crate) fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Replaces a file by another: a reader, or a crash, finds the old one or the new one.
pub(crate) fn replace_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = temporary_beside(path)?;
    write_private(&temporary, bytes)
        .and_then(|()| fs::rename(&temporary, path))
        .and_then(|()| sync_parent(path))
        .inspect_err(|_| discard_file(&temporary))
}

/// Creates a file with its content, unless there is one: then that one stays.
pub(crate) fn create_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = temporary_beside(path)?;
    let linked = write_private(&temporary, bytes)
        .and_then(|()| fs::hard_link(&temporary, path))
        .and_then(|()| sync_parent(path));
    discard_file(&temporary);
    linked
}

/// Reads a file of at most [`MAX_FILE`] bytes; what was read is wiped when dropped.
pub(crate) fn read_bounded(path: &Path) -> io::Result<Zeroizing<Vec<u8>>> {
    let file = File::open(path)?;
    // Reserved at once, so that a secret is not left behind in a buffer that was outgrown.
    let size = usize::try_from(file.metadata()?.len().min(MAX_FILE)).unwrap_or_default();
    let mut bytes = Zeroizing::new(Vec::with_capacity(size + 1));
    file.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(io::Error::other("the file is larger than expected"));
    }
    Ok(bytes)
}

/// Waits until a directory's entries are on disk.
pub(crate) fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// A hidden name that nobody else uses.
pub(crate) fn temporary_name() -> String {
    format!(".{}.tmp", HEXLOWER.encode(&random::bytes::<8>()))
}

fn temporary_beside(path: &Path) -> io::Result<std::path::PathBuf> {
    let parent = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    Ok(parent.join(temporary_name()))
}

fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => sync_dir(parent),
        _ => sync_dir(Path::new(".")),
    }
}

/// Removes a temporary file; one that stays is hidden and never read.
fn discard_file(path: &Path) {
    drop(fs::remove_file(path));
}
