//! One process of a server: started in a group, an environment and a directory of its own, and
//! ended with everything that it has started.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{
    Pid, Resource, Rlimit, Signal, WaitOptions, getuid, kill_process_group, prlimit, waitpgid,
};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};

use super::spec::{Pace, StdioSpec};

/// Where programs are looked for, if the agent itself was not told.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// How long what was killed may take to be gone: the kernel's work, not the process's.
const KILL_GRACE: Duration = Duration::from_secs(5);

/// A process that runs. Dropped, it is killed with its group.
#[derive(Debug)]
pub(super) struct Process {
    child: Child,
    group: Pid,
    ended: bool,
    _directory: Option<Directory>,
}

/// Its standard streams.
#[derive(Debug)]
pub(super) struct Pipes {
    pub(super) stdin: ChildStdin,
    pub(super) stdout: ChildStdout,
    pub(super) stderr: ChildStderr,
}

/// Why a process could not be started.
#[derive(Debug, thiserror::Error)]
pub(super) enum SpawnError {
    /// The program cannot be run.
    #[error("`{0}` cannot be started")]
    Program(String, #[source] io::Error),
    /// No directory for it.
    #[error("no directory for it")]
    Directory(#[source] io::Error),
    /// Its memory cannot be limited.
    #[error("its memory cannot be limited")]
    Limit(#[source] io::Error),
}

impl Process {
    /// Starts one.
    ///
    /// # Errors
    /// [`SpawnError`]: nothing runs.
    pub(super) fn spawn(spec: &StdioSpec) -> Result<(Self, Pipes), SpawnError> {
        let directory = match &spec.cwd {
            Some(_) => None,
            None => Some(Directory::new(spec).map_err(SpawnError::Directory)?),
        };
        let within = match (&spec.cwd, &directory) {
            (Some(cwd), _) => cwd.as_path(),
            (None, Some(own)) => &own.0,
            (None, None) => Path::new("/"),
        };
        let failed =
            |error| SpawnError::Program(spec.shown.first().cloned().unwrap_or_default(), error);
        let mut child = command(spec, within).spawn().map_err(failed)?;
        let pid = child.id().and_then(|pid| i32::try_from(pid).ok());
        let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (Some(group), (Some(stdin), Some(stdout), Some(stderr))) =
            (pid.and_then(Pid::from_raw), pipes)
        else {
            // It has ended before it could be looked at.
            return Err(failed(io::ErrorKind::BrokenPipe.into()));
        };
        let process = Self {
            child,
            group,
            ended: false,
            _directory: directory,
        };
        if let Some(bytes) = spec.limits.memory {
            limit_memory(group, bytes).map_err(SpawnError::Limit)?;
        }
        let pipes = Pipes {
            stdin,
            stdout,
            stderr,
        };
        Ok((process, pipes))
    }

    /// Its number.
    pub(super) fn id(&self) -> i32 {
        self.group.as_raw_nonzero().get()
    }

    /// Until it has ended by itself; what it has started and left behind ends with it.
    pub(super) async fn exited(&mut self) -> io::Result<ExitStatus> {
        let status = self.child.wait().await?;
        self.clear();
        Ok(status)
    }

    /// Ends it: its input has been closed, which is the sign to leave; SIGTERM and SIGKILL
    /// follow. Whatever is left of its group is killed.
    pub(super) async fn end(mut self, pace: &Pace) {
        if self.ended {
            return;
        }
        for (grace, signal) in [(pace.close, Signal::TERM), (pace.term, Signal::KILL)] {
            if tokio::time::timeout(grace, self.child.wait()).await.is_ok() {
                break;
            }
            self.signal(signal);
        }
        let gone = tokio::time::timeout(KILL_GRACE, self.child.wait()).await;
        if gone.is_err() {
            tracing::error!(pid = self.id(), "a killed process is not gone");
        }
        self.clear();
    }

    fn signal(&self, signal: Signal) {
        if let Err(error) = kill_process_group(self.group, signal) {
            tracing::debug!(%error, pid = self.id(), "a process group cannot be signalled");
        }
    }

    /// The process itself is gone. The number of its group is not given away while one of the
    /// group is left, and hardly in the moment after.
    fn clear(&mut self) {
        self.ended = true;
        if kill_process_group(self.group, Signal::KILL).is_ok() {
            // Where nobody else takes orphans in (the first process of a container), they are
            // ours to bury.
            while let Ok(Some(_)) = waitpgid(self.group, WaitOptions::NOHANG) {}
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.ended {
            self.signal(Signal::KILL);
        }
    }
}

fn command(spec: &StdioSpec, within: &Path) -> Command {
    let mut words = spec.command.iter().map(crate::Secret::expose);
    let mut command = std::process::Command::new(words.next().unwrap_or_default());
    command
        .args(words)
        .current_dir(within)
        .env_clear()
        .envs(surroundings(spec))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0);
    if let Some(account) = &spec.account {
        // Other groups of the agent are given up with its number.
        command.uid(account.uid).gid(account.gid);
    }
    let mut command = Command::from(command);
    command.kill_on_drop(true);
    command
}

/// An environment with what finds programs and their caches, and what the file names.
fn surroundings(spec: &StdioSpec) -> impl Iterator<Item = (String, OsString)> {
    let path = std::env::var_os("PATH").unwrap_or_else(|| DEFAULT_PATH.into());
    let home = match &spec.account {
        Some(account) => account.home.clone().map(PathBuf::into_os_string),
        None => std::env::var_os("HOME"),
    };
    let given = [("PATH", Some(path)), ("HOME", home)];
    let given = given
        .into_iter()
        .filter_map(|(name, value)| value.map(|value| (name.to_owned(), value)));
    let named = spec
        .env
        .iter()
        .map(|(name, value)| (name.clone(), OsString::from(value.expose())));
    given.chain(named.collect::<Vec<_>>())
}

/// Private writable memory of the process, and of each that it starts from now on. What it
/// only reserves, as the engines of JavaScript do by the terabyte, does not count.
fn limit_memory(process: Pid, bytes: u64) -> io::Result<()> {
    let limit = Rlimit {
        current: Some(bytes),
        maximum: Some(bytes),
    };
    match prlimit(Some(process), Resource::Data, limit) {
        Ok(_) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Whether a server could do what the agent can: read its key, signal it.
pub(super) fn shares_account(spec: &StdioSpec) -> bool {
    let own = getuid().as_raw();
    spec.account
        .as_ref()
        .is_none_or(|account| account.uid == own)
}

/// An empty directory that goes with its process.
#[derive(Debug)]
struct Directory(PathBuf);

impl Directory {
    fn new(spec: &StdioSpec) -> io::Result<Self> {
        use std::os::unix::fs::DirBuilderExt as _;
        let name = format!("culvert-mcp-{:032x}", rand::random::<u128>());
        let path = std::env::temp_dir().join(name);
        std::fs::DirBuilder::new().mode(0o700).create(&path)?;
        let made = Self(path);
        if let Some(account) = &spec.account {
            std::os::unix::fs::chown(&made.0, Some(account.uid), Some(account.gid))?;
        }
        Ok(made)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!(%error, directory = %self.0.display(), "a directory is left behind");
        }
    }
}

#[cfg(test)]
mod tests;
