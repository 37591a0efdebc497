//! The customer's switch: which services are paused, in a file of the state directory that the
//! verbs write and a running agent follows, so that who may write there holds the switch, and a
//! restart changes nothing.

use std::collections::BTreeSet;
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, chown};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::watch::FileWatch;

/// The file's name.
const FILE: &str = "paused.json";
/// Its directory of its own: a watch of the state directory would hear every line of the audit log.
const DIRECTORY: &str = "switch";
/// Longest file that is read, in bytes: far more than the names of all services.
const MAX_BYTES: u64 = 1 << 20;

/// What is paused.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Paused {
    /// Everything, whatever is named.
    all: bool,
    services: BTreeSet<String>,
}

impl Paused {
    /// Where it stands.
    pub fn path(state_dir: &Path) -> PathBuf {
        state_dir.join(DIRECTORY).join(FILE)
    }

    /// Hears when the file changes.
    pub fn watch(state_dir: &Path) -> FileWatch {
        if let Err(error) = directory(state_dir) {
            tracing::warn!(%error, "pause and resume take effect at the next start");
        }
        FileWatch::new(&Self::path(state_dir))
    }

    /// As the file says; nothing where there is none. One that cannot be read pauses everything:
    /// a switch of which nobody knows how it stands is off.
    pub fn read(state_dir: &Path) -> Self {
        let path = Self::path(state_dir);
        match read(&path) {
            Ok(paused) => paused,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Self::default(),
            Err(error) => {
                tracing::error!(path = %path.display(), %error, "everything is paused: the file that says what is cannot be read");
                Self {
                    all: true,
                    services: BTreeSet::new(),
                }
            }
        }
    }

    /// Replaces the file, whole.
    ///
    /// # Errors
    /// What the system says.
    pub fn write(&self, state_dir: &Path) -> io::Result<()> {
        let directory = directory(state_dir)?;
        let fresh = directory.join(format!("{FILE}.{}", std::process::id()));
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&fresh)?;
        let text = serde_json::to_string(self).map_err(io::Error::other)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        // Whoever turns the switch, the agent reads it.
        let owner = std::fs::metadata(state_dir)?;
        for path in [&fresh, &directory] {
            let own = std::fs::metadata(path)?;
            if (own.uid(), own.gid()) != (owner.uid(), owner.gid()) {
                chown(path, Some(owner.uid()), Some(owner.gid()))?;
            }
        }
        std::fs::rename(&fresh, Self::path(state_dir))
    }

    /// Whether a service takes no calls.
    pub fn holds(&self, service: &str) -> bool {
        self.all || self.services.contains(service)
    }

    /// Pauses one service, or all, those of later files included.
    pub fn pause(&mut self, service: Option<&str>) {
        match service {
            Some(name) => {
                self.services.insert(name.to_owned());
            }
            None => self.all = true,
        }
    }

    /// Resumes one service, or all. Where everything was paused, what is left paused are the
    /// others of `known`.
    pub fn resume<'k>(&mut self, service: Option<&str>, known: impl Iterator<Item = &'k str>) {
        let Some(name) = service else {
            *self = Self::default();
            return;
        };
        if std::mem::take(&mut self.all) {
            self.services.extend(known.map(str::to_owned));
        }
        self.services.remove(name);
    }
}

fn directory(state_dir: &Path) -> io::Result<PathBuf> {
    let directory = state_dir.join(DIRECTORY);
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&directory)?;
    Ok(directory)
}

fn read(path: &Path) -> io::Result<Paused> {
    if std::fs::metadata(path)?.len() > MAX_BYTES {
        return Err(io::Error::other(format!("larger than {MAX_BYTES} bytes")));
    }
    serde_json::from_slice(&std::fs::read(path)?).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_or_all_are_paused_and_resumed() {
        let known = || ["a", "b", "c"].into_iter();
        let holds = |paused: &Paused| {
            known()
                .filter(|name| paused.holds(name))
                .collect::<String>()
        };
        let mut paused = Paused::default();
        paused.pause(Some("a"));
        assert_eq!(holds(&paused), "a");
        paused.pause(None);
        assert!(paused.holds("one of a later file"));
        paused.resume(Some("b"), known());
        assert_eq!(holds(&paused), "ac");
        paused.resume(Some("a"), known());
        assert_eq!(holds(&paused), "c");
        paused.resume(None, known());
        assert_eq!(paused, Paused::default());
    }

    #[test]
    fn the_switch_stays_as_it_is_and_off_where_nobody_knows() {
        let dir = tempfile::tempdir().expect("a directory");
        let state = dir.path().join("state");
        assert_eq!(
            Paused::read(&state),
            Paused::default(),
            "nothing was paused"
        );
        let mut paused = Paused::default();
        paused.pause(Some("a"));
        paused.write(&state).expect("written");
        assert_eq!(Paused::read(&state), paused);
        let entries = std::fs::read_dir(state.join(DIRECTORY))
            .expect("a directory")
            .count();
        assert_eq!(entries, 1, "nothing else is left");
        std::fs::write(Paused::path(&state), "{\"all\": fal").expect("written");
        assert!(Paused::read(&state).holds("a") && Paused::read(&state).holds("b"));
    }
}
