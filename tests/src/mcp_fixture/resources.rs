//! What can be read: a note of ours, and the suite's text, image and template.

use rmcp::ErrorData;
use rmcp::model::{ReadResourceResult, Resource, ResourceContents, ResourceTemplate};
use serde_json::json;

use super::tools::content::PNG;

/// The resource that tests of the tunnel read.
pub const NOTES_URI: &str = "fixture://notes/culvert";
const TEXT_URI: &str = "test://static-text";
const BINARY_URI: &str = "test://static-binary";
const TEMPLATE: &str = "test://template/{id}/data";

/// Everything that has a fixed URI.
pub(super) fn list() -> Vec<Resource> {
    vec![
        Resource::new(NOTES_URI, "culvert").with_mime_type("text/plain"),
        Resource::new(TEXT_URI, "text").with_mime_type("text/plain"),
        Resource::new(BINARY_URI, "image").with_mime_type("image/png"),
    ]
}

/// The one template.
pub(super) fn templates() -> Vec<ResourceTemplate> {
    vec![ResourceTemplate::new(TEMPLATE, "numbered").with_mime_type("application/json")]
}

/// The contents behind `uri`.
pub(super) fn read(uri: &str) -> Result<ReadResourceResult, ErrorData> {
    let contents = match uri {
        NOTES_URI => ResourceContents::text("A culvert carries a stream under a road.", uri),
        TEXT_URI => ResourceContents::text("A resource of plain text.", uri),
        BINARY_URI => ResourceContents::blob(PNG, uri),
        _ => {
            let id = template_id(uri).ok_or_else(|| {
                ErrorData::resource_not_found(
                    format!("no resource {uri}"),
                    Some(json!({"uri": uri})),
                )
            })?;
            let text = json!({"id": id, "note": format!("made for {id}")});
            ResourceContents::text(text.to_string(), uri).with_mime_type("application/json")
        }
    };
    let contents = match uri {
        NOTES_URI | TEXT_URI => contents.with_mime_type("text/plain"),
        BINARY_URI => contents.with_mime_type("image/png"),
        _ => contents,
    };
    Ok(ReadResourceResult::new(vec![contents]))
}

fn template_id(uri: &str) -> Option<&str> {
    let (before, after) = TEMPLATE.split_once("{id}")?;
    uri.strip_prefix(before)?.strip_suffix(after)
}
