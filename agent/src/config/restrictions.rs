//! The keys with which a service is made less than it could be: `tools`, `read_only`.

use http::Method;
use serde_saphyr::Spanned;

use super::raw::{RawAllow, RawService, RawTools, Text};
use super::service::ServiceKind;
use super::{ConfigError, Sources, parsed};
use crate::policy::{Allow, NamePattern, ToolRules};

/// Patterns of one list of tools.
const MAX_PATTERNS: usize = 1_000;
/// Methods that change nothing (RFC 9110, 9.2.1), of those that are carried.
const READING: [Method; 3] = [Method::GET, Method::HEAD, Method::OPTIONS];

/// `tools` and, for MCP servers, `read_only`.
pub(super) fn tools(
    raw: &RawService,
    kind: ServiceKind,
    sources: &Sources,
) -> Result<Option<ToolRules>, ConfigError> {
    if let (Some(key), ServiceKind::Model) = (&raw.read_only, kind) {
        return Err(ConfigError::at(
            key,
            "`read_only` is for mcp and http services: a model has nothing that is changed",
        ));
    }
    let read_only = is_read_only(raw) && kind == ServiceKind::Mcp;
    match &raw.tools {
        Some(tools) if kind != ServiceKind::Mcp => {
            Err(ConfigError::at(tools, "`tools` is for mcp services only"))
        }
        Some(tools) => named(&tools.value, sources, read_only).map(Some),
        None if read_only => Ok(Some(ToolRules {
            allow: vec![NamePattern::any()],
            deny: Vec::new(),
            read_only,
        })),
        None => Ok(None),
    }
}

fn named(raw: &RawTools, sources: &Sources, read_only: bool) -> Result<ToolRules, ConfigError> {
    Ok(ToolRules {
        allow: patterns(&raw.allow, sources)?,
        deny: match &raw.deny {
            Some(deny) => patterns(deny, sources)?,
            None => Vec::new(),
        },
        read_only,
    })
}

fn patterns(list: &Spanned<Vec<Text>>, sources: &Sources) -> Result<Vec<NamePattern>, ConfigError> {
    if list.value.len() > MAX_PATTERNS {
        return Err(ConfigError::at(
            list,
            format!("at most {MAX_PATTERNS} patterns"),
        ));
    }
    let texts = list.value.iter();
    texts
        .map(|text| parsed(text, sources, NamePattern::parse))
        .collect()
}

pub(super) fn is_read_only(raw: &RawService) -> bool {
    raw.read_only.as_ref().is_some_and(|key| key.value)
}

/// Leaves of `allow` what changes nothing.
pub(super) fn reading_only(
    allowed: &mut Vec<Allow>,
    place: &Spanned<Vec<RawAllow>>,
) -> Result<(), ConfigError> {
    for entry in allowed.iter_mut() {
        entry.methods.retain(|method| READING.contains(method));
        // What goes over a connection that has changed its protocol need not be reading.
        entry.upgrade.clear();
    }
    allowed.retain(|entry| !entry.methods.is_empty());
    if allowed.is_empty() {
        return Err(ConfigError::at(
            place,
            "`read_only` leaves GET, HEAD and OPTIONS, and `allow` lists none of them",
        ));
    }
    Ok(())
}
