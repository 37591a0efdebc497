//! What the file says about a server on stdio, and the bounds that it keeps to.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::account::Account;
use crate::Secret;

/// Processes of one service at once, unless configured.
pub const DEFAULT_INSTANCES: u32 = 32;
/// After this long without a call a process ends, unless configured.
pub const DEFAULT_IDLE: Duration = Duration::from_secs(30 * 60);
/// Longest line that a process may write, in bytes: one message.
pub(crate) const MAX_LINE_BYTES: usize = 4 << 20;
/// How long a process may take until it answers for the first time: `npx` may fetch the server.
const START_TIMEOUT: Duration = Duration::from_secs(120);
/// How long a server may be silent to `server/discover` before it is asked in the older way too.
const DISCOVER_PATIENCE: Duration = Duration::from_secs(3);
/// How long the first message of an answer is waited for before the answer begins as a stream of
/// events: until then it may still be a plain one, with a status that says more.
const HEAD_WAIT: Duration = Duration::from_secs(3);
/// How long one line may wait for the process to read it.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a process may take to end by itself once its input is closed.
const CLOSE_GRACE: Duration = Duration::from_millis(1_000);
/// How long it may take after SIGTERM; SIGKILL follows. Together with the one above it fits into
/// what an agent that leaves waits for.
const TERM_GRACE: Duration = Duration::from_millis(1_500);
/// How long callers who wait for answers hold up the end of a service that was replaced.
const REPLACED_GRACE: Duration = Duration::from_secs(10);
/// How long a place is waited for that was just given up: a process has to end first.
const PLACE_WAIT: Duration = Duration::from_secs(5);
/// A session that nobody has used for this long makes room for a new one.
const MAKES_ROOM_AFTER: Duration = Duration::from_secs(60);
/// First and longest wait before a process that could not start is started again.
const RESTART: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

/// A server that the agent runs itself, and talks to over its standard streams.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StdioSpec {
    /// The program, and its arguments.
    pub command: Vec<Secret>,
    /// The same as the file has it: without what `${…}` brings in.
    pub shown: Vec<String>,
    /// Its environment, besides `PATH` and `HOME`.
    pub env: BTreeMap<String, Secret>,
    /// Where it runs; in an empty directory of its own, where none is named.
    pub cwd: Option<PathBuf>,
    /// As whom; as the agent, where none is named.
    pub account: Option<Account>,
    /// Whether sessions share a process.
    pub instances: Sharing,
    /// The bounds that the file can change.
    pub limits: StdioLimits,
}

/// Whether sessions share a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sharing {
    /// Each has its own.
    #[default]
    PerSession,
    /// One for all.
    Shared,
}

/// `limits: { instances, idle, memory }`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StdioLimits {
    /// Processes at once.
    pub instances: u32,
    /// A process ends after this long without a call.
    pub idle: Duration,
    /// Private memory of each process that it consists of, in bytes; no limit where there is none.
    pub memory: Option<u64>,
}

impl Default for StdioLimits {
    fn default() -> Self {
        Self {
            instances: DEFAULT_INSTANCES,
            idle: DEFAULT_IDLE,
            memory: None,
        }
    }
}

impl StdioSpec {
    /// A command as flags give it: nothing else is named.
    pub fn new(command: Vec<String>) -> Self {
        Self {
            shown: command.clone(),
            command: command.into_iter().map(Secret::new).collect(),
            env: BTreeMap::new(),
            cwd: None,
            account: None,
            instances: Sharing::default(),
            limits: StdioLimits::default(),
        }
    }

    /// For people: the command as the file has it.
    pub fn label(&self) -> String {
        self.shown.join(" ")
    }
}

impl Sharing {
    /// The word of the file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::PerSession => "per_session",
            Self::Shared => "shared",
        }
    }
}

/// The times that processes are held to. Tests have shorter ones.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    pub(super) start: Duration,
    pub(super) discover: Duration,
    pub(super) head: Duration,
    pub(super) write: Duration,
    pub(super) close: Duration,
    pub(super) term: Duration,
    pub(super) replaced: Duration,
    pub(super) place: Duration,
    pub(super) makes_room: Duration,
    pub(super) restart: (Duration, Duration),
    /// Longest line, in bytes.
    pub(super) line: usize,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            start: START_TIMEOUT,
            discover: DISCOVER_PATIENCE,
            head: HEAD_WAIT,
            write: WRITE_TIMEOUT,
            close: CLOSE_GRACE,
            term: TERM_GRACE,
            replaced: REPLACED_GRACE,
            place: PLACE_WAIT,
            makes_room: MAKES_ROOM_AFTER,
            restart: RESTART,
            line: MAX_LINE_BYTES,
        }
    }
}
