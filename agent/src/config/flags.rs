//! What flags and environment say; they add to the file.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::ConfigError;
use super::service::{ServiceDef, ServiceKind, from_command, from_flag};

/// The values of flags and `CULVERT_*` variables, as far as they are configuration.
#[derive(Clone, Debug, Default)]
pub struct Flags {
    /// `--config`.
    pub config: Option<PathBuf>,
    /// The text of the token that `--join` gives.
    pub join: Option<crate::Secret>,
    /// `--state-dir`.
    pub state_dir: Option<PathBuf>,
    /// `--health-listen`.
    pub health_listen: Option<SocketAddr>,
    /// `--log`.
    pub log: Option<String>,
    /// `--save`: a file that is not there will be.
    pub save: bool,
    /// `--model`, `--mcp`, `--http`, `--mcp-stdio`.
    pub added: FlagServices,
}

/// Services given as `NAME=URL`, or `NAME=command args`.
#[derive(Clone, Debug, Default)]
pub struct FlagServices {
    /// `--model`.
    pub model: Vec<String>,
    /// `--mcp`.
    pub mcp: Vec<String>,
    /// `--http`.
    pub http: Vec<String>,
    /// `--mcp-stdio`.
    pub mcp_stdio: Vec<String>,
}

impl Flags {
    /// The file to read: the one that is named, else the first default that exists.
    ///
    /// # Errors
    /// A named file that does not exist.
    pub fn file(&self) -> Result<Option<PathBuf>, ConfigError> {
        if let Some(path) = &self.config {
            return if path.exists() {
                Ok(Some(path.clone()))
            } else if self.save {
                Ok(None)
            } else {
                Err(ConfigError::plain(format!(
                    "{}: there is no such file",
                    path.display()
                )))
            };
        }
        Ok(default_files().into_iter().find(|path| path.exists()))
    }

    /// Where `--save` writes.
    pub fn save_path(&self) -> PathBuf {
        match &self.config {
            Some(path) => path.clone(),
            None => default_files()
                .into_iter()
                .next()
                .unwrap_or_else(|| PathBuf::from("agent.yaml")),
        }
    }

    /// The services of the flags.
    pub(super) fn services(&self) -> Result<Vec<ServiceDef>, ConfigError> {
        let wrong = |flag: &str, text: &str, message: String| {
            // The url may hold a secret.
            let name = text.split_once('=').map_or("", |(name, _)| name);
            ConfigError::plain(format!("--{flag} {name}: {message}"))
        };
        let urls = self.added.entries().map(|(kind, text)| {
            from_flag(kind, text).map_err(|message| wrong(kind.as_str(), text, message))
        });
        let commands =
            self.added.mcp_stdio.iter().map(|text| {
                from_command(text).map_err(|message| wrong("mcp-stdio", text, message))
            });
        urls.chain(commands).collect()
    }
}

impl FlagServices {
    /// Each url with its kind.
    pub fn entries(&self) -> impl Iterator<Item = (ServiceKind, &str)> {
        self.model
            .iter()
            .map(|text| (ServiceKind::Model, text.as_str()))
            .chain(
                self.mcp
                    .iter()
                    .map(|text| (ServiceKind::Mcp, text.as_str())),
            )
            .chain(
                self.http
                    .iter()
                    .map(|text| (ServiceKind::Http, text.as_str())),
            )
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.entries().next().is_none() && self.mcp_stdio.is_empty()
    }
}

fn default_files() -> Vec<PathBuf> {
    let xdg = directory("XDG_CONFIG_HOME", ".config");
    xdg.into_iter()
        .map(|dir| dir.join("culvert/agent.yaml"))
        .chain([PathBuf::from("/etc/culvert/agent.yaml")])
        .collect()
}

pub(super) fn default_state_dir() -> PathBuf {
    match directory("XDG_STATE_HOME", ".local/state") {
        Some(dir) => dir.join("culvert/agent"),
        None => PathBuf::from("/var/lib/culvert/agent"),
    }
}

/// A directory of the XDG specification: an absolute path in the variable, else below home.
fn directory(variable: &str, below_home: &str) -> Option<PathBuf> {
    let absolute = |path: PathBuf| path.is_absolute().then_some(path);
    std::env::var_os(variable)
        .map(PathBuf::from)
        .and_then(absolute)
        .or_else(|| {
            std::env::var_os("HOME")
                .map(PathBuf::from)
                .and_then(absolute)
                .map(|home| home.join(below_home))
        })
}
