//! Configuration: the file, read strictly, and the flags that add to it.
//!
//! What comes out is whole and checked; nothing inside the agent looks at raw text again.

mod caller;
mod expand;
mod fields;
mod flags;
mod raw;
mod restrictions;
mod save;
mod service;
mod stdio;
mod tls;
mod units;
mod url;

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use culvert_certs::tls::PostQuantum;
use serde_saphyr::{Location, Spanned};

pub use expand::Sources;
pub use flags::{FlagServices, Flags};
pub use save::save;
pub use service::{HealthSpec, LimitSpec, ServiceDef, ServiceKind};
pub(crate) use service::{MAX_MODEL_NAME_BYTES, MAX_MODELS};
pub use tls::TlsSpec;
pub use url::{Scheme, ServiceUrl};

use raw::{RawAudit, RawFile, Text};

/// How long a drain waits for calls that have begun, unless the file says otherwise.
pub const DEFAULT_DRAIN_TIMEOUT: Duration = Duration::from_secs(300);
/// Where health, metrics and status are served, unless configured.
pub const DEFAULT_HEALTH_LISTEN: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 9091);
/// Services of one agent: the wire's limit of an offer.
pub const MAX_SERVICES: usize = 256;
/// Longest agent file, in bytes.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// Everything that the agent was told, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The join token, where the file or a flag gives one.
    pub join: Option<crate::Secret>,
    /// Where identity and audit log are kept.
    pub state_dir: PathBuf,
    /// What is served.
    pub services: Vec<ServiceDef>,
    /// The local audit log.
    pub audit: AuditSpec,
    /// Where health, metrics and status are served.
    pub health_listen: SocketAddr,
    /// Zones of the planes that may be served; all where none is named.
    pub planes: Option<Vec<String>>,
    /// Whether a link without the post-quantum group is one.
    pub post_quantum: PostQuantum,
    /// Longest drain.
    pub drain_timeout: Duration,
    /// The filter of the log (`info`, `culvert_agent=debug`).
    pub log: Option<String>,
}

/// `audit: { path, rotate, keep, when_full }`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditSpec {
    /// The file that is written to.
    pub path: PathBuf,
    /// Size in bytes at which the file is put aside.
    pub rotate: u64,
    /// How many files put aside are kept.
    pub keep: u32,
    /// What happens to calls whose line cannot be written.
    pub when_full: WhenFull,
}

/// What happens when the audit log cannot be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenFull {
    /// The line is lost, and counted.
    Drop,
    /// Calls are refused until lines can be written again.
    Refuse,
}

/// A mistake in the configuration, with its place where it stands in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The file.
    pub file: Option<PathBuf>,
    /// Line and column, from 1.
    pub place: Option<(u64, u64)>,
    /// What is wrong.
    pub message: String,
}

impl ConfigError {
    pub(crate) fn plain(message: impl Into<String>) -> Self {
        Self {
            file: None,
            place: None,
            message: message.into(),
        }
    }

    pub(crate) fn at<T>(place: &Spanned<T>, message: impl Into<String>) -> Self {
        Self {
            file: None,
            place: position(place.referenced),
            message: message.into(),
        }
    }

    fn in_file(mut self, file: &Path) -> Self {
        self.file = Some(file.to_owned());
        self
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(file) = &self.file {
            write!(f, "{}:", file.display())?;
        }
        if let Some((line, column)) = self.place {
            write!(f, "{line}:{column}:")?;
        }
        if self.file.is_some() || self.place.is_some() {
            f.write_str(" ")?;
        }
        f.write_str(&self.message)
    }
}

impl std::error::Error for ConfigError {}

fn position(location: Location) -> Option<(u64, u64)> {
    (location.line() > 0).then(|| (location.line(), location.column()))
}

/// Reads the file (where there is one) and adds the flags.
///
/// # Errors
/// [`ConfigError`]: the first mistake found.
pub fn load(flags: &Flags, sources: &Sources) -> Result<Config, ConfigError> {
    let file = flags.file()?;
    let config = match &file {
        None => parse(RawFile::default(), flags, sources),
        Some(path) => read(path)
            .and_then(|text| parse_text(&text, flags, sources))
            .map_err(|error| error.in_file(path)),
    }?;
    Ok(config)
}

fn read(path: &Path) -> Result<String, ConfigError> {
    let fail = |error: std::io::Error| ConfigError::plain(error.to_string());
    let size = std::fs::metadata(path).map_err(fail)?.len();
    if size > MAX_FILE_BYTES {
        return Err(ConfigError::plain(format!(
            "larger than {MAX_FILE_BYTES} bytes"
        )));
    }
    std::fs::read_to_string(path).map_err(fail)
}

/// As [`load`], from the text of a file.
///
/// # Errors
/// [`ConfigError`].
pub fn parse_text(text: &str, flags: &Flags, sources: &Sources) -> Result<Config, ConfigError> {
    let raw: Option<RawFile> = serde_saphyr::from_str(text).map_err(|error| ConfigError {
        file: None,
        place: error.location().and_then(position),
        message: plain_message(&error),
    })?;
    parse(raw.unwrap_or_default(), flags, sources)
}

/// The message of the parser without its own position and snippet.
fn plain_message(error: &serde_saphyr::Error) -> String {
    let text = error.without_snippet().to_string();
    let first = text.lines().next().unwrap_or_default();
    match first.rfind(" at line ") {
        Some(at) => first[..at].to_owned(),
        None => first.to_owned(),
    }
}

fn parse(raw: RawFile, flags: &Flags, sources: &Sources) -> Result<Config, ConfigError> {
    later("nearest", raw.nearest.as_ref())?;
    later("proxy", raw.proxy.as_ref())?;
    let state_dir = match (&flags.state_dir, &raw.state_dir) {
        (Some(flag), _) => flag.clone(),
        (None, Some(text)) => PathBuf::from(value(text, sources)?),
        (None, None) => flags::default_state_dir(),
    };
    let join = match (&flags.join, &raw.join) {
        (Some(flag), _) => Some(flag.clone()),
        (None, Some(text)) => Some(crate::Secret::new(value(text, sources)?)),
        (None, None) => None,
    };
    let health_listen = match (flags.health_listen, &raw.health_listen) {
        (Some(flag), _) => flag,
        (None, Some(text)) => parsed(text, sources, |t| {
            t.parse()
                .map_err(|_| format!("`{t}` is not an address; write for example 127.0.0.1:9091"))
        })?,
        (None, None) => DEFAULT_HEALTH_LISTEN,
    };
    Ok(Config {
        join,
        services: services(&raw, flags, sources)?,
        audit: audit(raw.audit.as_ref(), &state_dir, sources)?,
        state_dir,
        health_listen,
        post_quantum: optional(raw.post_quantum.as_ref(), sources, |text| match text {
            "prefer" => Ok(PostQuantum::Prefer),
            "require" => Ok(PostQuantum::Require),
            _ => Err(format!("`{text}` is neither `prefer` nor `require`")),
        })?
        .unwrap_or_default(),
        planes: raw
            .planes
            .map(|zones| values(&zones, sources))
            .transpose()?,
        drain_timeout: optional(raw.drain_timeout.as_ref(), sources, units::duration)?
            .unwrap_or(DEFAULT_DRAIN_TIMEOUT),
        log: match &flags.log {
            Some(log) => Some(log.clone()),
            None => optional(raw.log.as_ref(), sources, |t| Ok(t.to_owned()))?,
        },
    })
}

fn services(
    raw: &RawFile,
    flags: &Flags,
    sources: &Sources,
) -> Result<Vec<ServiceDef>, ConfigError> {
    let mut services: Vec<ServiceDef> = Vec::new();
    for raw in &raw.services {
        let def = service::parse(raw, sources)?;
        if services.iter().any(|other| other.name == def.name) {
            return Err(ConfigError::at(
                &raw.name,
                format!("the service `{}` is there twice", def.name),
            ));
        }
        services.push(def);
    }
    for def in flags.services()? {
        if services.iter().any(|other| other.name == def.name) {
            return Err(ConfigError::plain(format!(
                "the service `{}` is there twice: flags add to the file, they do not replace",
                def.name
            )));
        }
        services.push(def);
    }
    if services.len() > MAX_SERVICES {
        return Err(ConfigError::plain(format!(
            "{} services; an agent serves at most {MAX_SERVICES}",
            services.len()
        )));
    }
    Ok(services)
}

/// Size of an audit file before it is put aside.
const DEFAULT_ROTATE_BYTES: u64 = 64 << 20;
/// The smallest size that still holds some lines.
const MIN_ROTATE_BYTES: u64 = 64 << 10;
/// Audit files put aside that are kept.
const DEFAULT_KEEP: u32 = 8;
/// Most of them: a rotation renames each.
const MAX_KEEP: u32 = 1_000;

fn audit(
    raw: Option<&RawAudit>,
    state_dir: &Path,
    sources: &Sources,
) -> Result<AuditSpec, ConfigError> {
    let default = RawAudit::default();
    let raw = raw.unwrap_or(&default);
    let path = optional(raw.path.as_ref(), sources, |t| Ok(t.to_owned()))?;
    let rotate = optional(raw.rotate.as_ref(), sources, |text| {
        let size = units::size(text)?;
        if size < MIN_ROTATE_BYTES {
            return Err(format!("`{text}` is less than {MIN_ROTATE_BYTES} bytes"));
        }
        Ok(size)
    })?;
    let keep = match &raw.keep {
        Some(keep) if keep.value > MAX_KEEP => {
            return Err(ConfigError::at(keep, format!("at most {MAX_KEEP}")));
        }
        Some(keep) => keep.value,
        None => DEFAULT_KEEP,
    };
    let when_full = optional(raw.when_full.as_ref(), sources, |text| match text {
        "drop" => Ok(WhenFull::Drop),
        "refuse" => Ok(WhenFull::Refuse),
        _ => Err(format!("`{text}` is neither `drop` nor `refuse`")),
    })?;
    Ok(AuditSpec {
        // Relative to the state directory: the working directory of a service is chance.
        path: state_dir.join(path.as_deref().unwrap_or("audit.jsonl")),
        rotate: rotate.unwrap_or(DEFAULT_ROTATE_BYTES),
        keep,
        when_full: when_full.unwrap_or(WhenFull::Drop),
    })
}

/// Refuses a key that this build cannot enforce.
fn later<T>(key: &str, found: Option<&Spanned<T>>) -> Result<(), ConfigError> {
    match found {
        None => Ok(()),
        Some(place) => Err(ConfigError::at(
            place,
            format!("`{key}` cannot be enforced by this build: it comes with a later release"),
        )),
    }
}

fn value(text: &Text, sources: &Sources) -> Result<String, ConfigError> {
    expand::expand(&text.value, sources).map_err(|message| ConfigError::at(text, message))
}

fn values(texts: &[Text], sources: &Sources) -> Result<Vec<String>, ConfigError> {
    texts.iter().map(|text| value(text, sources)).collect()
}

/// The expanded text, parsed; an error names the place.
fn parsed<T>(
    text: &Text,
    sources: &Sources,
    parse: impl FnOnce(&str) -> Result<T, String>,
) -> Result<T, ConfigError> {
    parse(&value(text, sources)?).map_err(|message| ConfigError::at(text, message))
}

fn optional<T>(
    text: Option<&Text>,
    sources: &Sources,
    parse: impl FnOnce(&str) -> Result<T, String>,
) -> Result<Option<T>, ConfigError> {
    text.map(|text| parsed(text, sources, parse)).transpose()
}

#[cfg(test)]
mod tests;
