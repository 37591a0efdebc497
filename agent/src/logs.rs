//! Logs go to standard error: for people on a terminal, JSON otherwise.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

/// What is logged unless configured: our own events, and nothing of the libraries below
/// warnings, whose debug output may hold heads.
const DEFAULT_FILTER: &str = "warn,culvert_agent=info,culvert_tunnel=info,culvert_wire=info";

/// Sets logs up once; a filter that cannot be read is an error of configuration.
///
/// # Errors
/// What is wrong with the filter.
pub fn init(filter: Option<&str>) -> Result<(), String> {
    let filter = EnvFilter::try_new(expand(filter))
        .map_err(|error| format!("the log filter is not valid: {error}"))?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    let done = if std::io::stderr().is_terminal() {
        builder.with_target(false).try_init()
    } else {
        builder.json().flatten_event(true).try_init()
    };
    // Set up before: by a test, or by an embedder who has his own.
    done.or(Ok(()))
}

/// One word sets the level of our own events only.
fn expand(filter: Option<&str>) -> String {
    match filter {
        None => DEFAULT_FILTER.to_owned(),
        Some(level @ ("error" | "warn" | "info" | "debug" | "trace")) => {
            format!("warn,culvert_agent={level},culvert_tunnel={level},culvert_wire={level}")
        }
        Some(other) => other.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_word_is_our_own_level() {
        assert!(expand(Some("debug")).starts_with("warn,culvert_agent=debug"));
        assert_eq!(expand(Some("hyper=trace")), "hyper=trace");
    }
}
