//! `--save`: the services of the flags, written to the file.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::service::{FLAG_METHODS, FLAG_PATHS, ServiceKind};
use super::{ConfigError, Flags, stdio};

/// Writes the file with the flags' services added and gives its path back. A file that was
/// there is kept beside it as `.bak`, as its comments do not survive.
///
/// # Errors
/// [`ConfigError`] where the old file cannot be read or the new one not be written.
pub fn save(flags: &Flags) -> Result<PathBuf, ConfigError> {
    let path = flags.save_path();
    let fail = |message: String| ConfigError::plain(format!("{}: {message}", path.display()));
    let old = match std::fs::read_to_string(&path) {
        Ok(text) => Some(text),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => return Err(fail(error.to_string())),
    };
    let document = with_services(old.as_deref().unwrap_or_default(), flags).map_err(fail)?;
    let text = serde_saphyr::to_string(&document).map_err(|error| fail(error.to_string()))?;
    if let Some(old) = old {
        write(&path.with_extension("yaml.bak"), &old).map_err(fail)?;
    }
    write(&path, &text).map_err(fail)?;
    Ok(path)
}

fn with_services(old: &str, flags: &Flags) -> Result<Value, String> {
    let document: Option<Map<String, Value>> =
        serde_saphyr::from_str(old).map_err(|error| error.to_string())?;
    let mut document = document.unwrap_or_default();
    if let Some(state_dir) = &flags.state_dir {
        // The working directory of a later start is chance.
        let state_dir = std::path::absolute(state_dir).map_err(|error| error.to_string())?;
        document.insert(
            "state_dir".to_owned(),
            json!(state_dir.display().to_string()),
        );
    }
    if let Some(health_listen) = &flags.health_listen {
        document.insert("health_listen".to_owned(), json!(health_listen.to_string()));
    }
    let services = document
        .entry("services")
        .or_insert_with(|| Value::Array(Vec::new()));
    let Value::Array(services) = services else {
        return Err("`services` is not a list".to_owned());
    };
    for (kind, text) in flags.added.entries() {
        if let Some((name, url)) = text.split_once('=') {
            let mut service = json!({"name": name, "kind": kind.as_str(), "url": url});
            if kind == ServiceKind::Http {
                let methods = FLAG_METHODS.map(|method| method.to_string());
                service["allow"] = json!([{"methods": methods, "paths": [FLAG_PATHS]}]);
            }
            services.push(service);
        }
    }
    for text in &flags.added.mcp_stdio {
        let (name, words) = stdio::from_flag(text)?;
        services.push(json!({"name": name, "kind": "mcp", "command": stdio::in_file(&words)}));
    }
    Ok(Value::Object(document))
}

/// Whole or not at all, readable by its owner only: values may be secrets.
fn write(path: &Path, text: &str) -> Result<(), String> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let describe = |error: std::io::Error| error.to_string();
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(describe)?;
    }
    let fresh = path.with_extension("yaml.new");
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&fresh)
        .map_err(describe)?;
    file.write_all(text.as_bytes()).map_err(describe)?;
    file.sync_all().map_err(describe)?;
    std::fs::rename(&fresh, path).map_err(describe)
}
