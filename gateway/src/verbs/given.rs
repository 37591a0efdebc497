//! What operators give: kinds, files, and what a key may do.

use std::{
    io::{self, Read},
    path::Path,
};

use culvert_control::resource::{MAX_FILE, ResourceKind};
use serde_json::{Map, Value};

use crate::exit::Failure;

/// The `spec` of a key.
pub(super) fn key_spec(
    allow: Vec<String>,
    all: bool,
    expires: Option<String>,
    description: Option<String>,
) -> Map<String, Value> {
    let mut spec = Map::new();
    if all {
        spec.insert("all".into(), true.into());
    } else {
        spec.insert("allow".into(), allow.into());
    }
    for (name, text) in [("expires", expires), ("description", description)] {
        if let Some(text) = text {
            spec.insert(name.into(), text.into());
        }
    }
    spec
}

/// The kind that a word means.
pub(super) fn kind_of(word: &str) -> Result<ResourceKind, Failure> {
    ResourceKind::from_word(word).ok_or_else(|| {
        let kinds: Vec<_> = ResourceKind::ALL.iter().map(|kind| kind.plural()).collect();
        Failure::Usage(format!(
            "`{word}` is no kind; there are {}",
            kinds.join(", ")
        ))
    })
}

/// A file, or standard input.
pub(super) fn read(file: &Path) -> Result<String, Failure> {
    let failed = |error: io::Error| Failure::Usage(format!("{}: {error}", file.display()));
    let mut text = String::new();
    let limit = MAX_FILE as u64 + 1;
    if file == Path::new("-") {
        io::stdin()
            .lock()
            .take(limit)
            .read_to_string(&mut text)
            .map_err(failed)?;
    } else {
        let opened = std::fs::File::open(file).map_err(failed)?;
        opened
            .take(limit)
            .read_to_string(&mut text)
            .map_err(failed)?;
    }
    Ok(text)
}
