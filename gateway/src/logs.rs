//! Logs: for people on a terminal, JSON elsewhere; always on standard error.

use std::io::{self, IsTerminal};

use serde::Deserialize;
use tracing_subscriber::{
    EnvFilter, Registry, fmt, layer::SubscriberExt, reload, util::SubscriberInitExt,
};

/// How logs are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// The `log` section of the gateway file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogFile {
    /// By default `text` on a terminal, `json` elsewhere.
    pub format: Option<Format>,
    /// A level for our own events, or a filter such as `culvert_relay=debug,info`; `CULVERT_LOG`
    /// overrides it.
    pub level: Option<String>,
}

/// What is logged; it may change while we run.
#[derive(Clone, Debug)]
pub struct Level(reload::Handle<EnvFilter, Registry>);

impl Level {
    /// Logs what the file says from now on. Its format is for the next start.
    ///
    /// # Errors
    /// The filter is malformed; nothing has changed then.
    pub fn set(&self, file: &LogFile) -> Result<(), String> {
        let filter = filter(file)?;
        self.0.reload(filter).map_err(|error| error.to_string())
    }
}

/// Starts logging.
///
/// # Errors
/// The filter is malformed, or logging has been started before.
pub fn start(file: &LogFile) -> Result<Level, String> {
    let (filter, level) = reload::Layer::new(filter(file)?);
    let terminal = io::stderr().is_terminal();
    let format = file
        .format
        .unwrap_or(if terminal { Format::Text } else { Format::Json });
    let lines = fmt::layer().with_writer(io::stderr).with_ansi(terminal);
    let registry = tracing_subscriber::registry().with(filter);
    let started = match format {
        Format::Text => registry.with(lines).try_init(),
        Format::Json => registry.with(lines.json().flatten_event(true)).try_init(),
    };
    started.map_err(|error| error.to_string())?;
    Ok(Level(level))
}

fn filter(file: &LogFile) -> Result<EnvFilter, String> {
    let level = std::env::var("CULVERT_LOG")
        .ok()
        .or_else(|| file.level.clone());
    let filter = expand(level.as_deref().unwrap_or("info"));
    EnvFilter::try_new(&filter).map_err(|error| format!("log.level `{filter}`: {error}"))
}

/// One word sets the level of our own events only: what libraries say below a warning may hold heads.
fn expand(level: &str) -> String {
    const OURS: [&str; 6] = [
        "culvert_gateway",
        "culvert_control",
        "culvert_relay",
        "culvert_tunnel",
        "culvert_wire",
        "culvert_certs",
    ];
    if !matches!(level, "error" | "warn" | "info" | "debug" | "trace" | "off") {
        return level.to_owned();
    }
    let ours = OURS.map(|name| format!("{name}={level}"));
    format!("warn,{}", ours.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_word_is_our_own_level() {
        assert!(expand("debug").starts_with("warn,culvert_gateway=debug,"));
        assert_eq!(expand("hyper=trace"), "hyper=trace");
    }
}
