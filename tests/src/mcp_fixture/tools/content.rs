//! The suite's tools that answer at once: each kind of content, an error, schemas with all that they may hold.

use std::sync::Arc;

use rmcp::handler::server::wrapper::Parameters;
use rmcp::model::{CallToolResult, ContentBlock, JsonObject, ResourceContents};
use rmcp::{tool, tool_router};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};

use super::super::server::Fixture;

/// An image of one pixel, in base64.
pub(in crate::mcp_fixture) const PNG: &str =
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNoAAAAggCBd81ytgAAAABJRU5ErkJggg==";
/// A millisecond of silence, in base64.
const WAV: &str = "UklGRiwAAABXQVZFZm10IBAAAAABAAEAQB8AAEAfAAABAAgAZGF0YQgAAACAgICAgICAgA==";

#[derive(Debug, Deserialize, JsonSchema)]
struct HeaderArguments {
    #[schemars(extend("x-mcp-header" = "Value"))]
    value: String,
}

#[tool_router(router = content_tools, vis = "pub(in crate::mcp_fixture)")]
impl Fixture {
    #[tool(description = "A line of text")]
    fn test_simple_text(&self) -> String {
        "A line of text.".to_owned()
    }

    #[tool(description = "An image")]
    fn test_image_content(&self) -> CallToolResult {
        CallToolResult::success(vec![ContentBlock::image(PNG, "image/png")])
    }

    #[tool(description = "A sound")]
    fn test_audio_content(&self) -> CallToolResult {
        CallToolResult::success(vec![ContentBlock::audio(WAV, "audio/wav")])
    }

    #[tool(description = "A resource in the answer")]
    fn test_embedded_resource(&self) -> CallToolResult {
        CallToolResult::success(vec![embedded("test://embedded-resource", "text/plain")])
    }

    #[tool(description = "Text, an image and a resource in one answer")]
    fn test_multiple_content_types(&self) -> CallToolResult {
        CallToolResult::success(vec![
            ContentBlock::text("Three kinds of content:"),
            ContentBlock::image(PNG, "image/png"),
            embedded("test://mixed-content-resource", "application/json"),
        ])
    }

    #[tool(description = "Fails, as a tool does")]
    fn test_error_handling(&self) -> CallToolResult {
        CallToolResult::error(vec![ContentBlock::text("This tool fails on purpose.")])
    }

    #[tool(description = "Gives back an argument that a header repeats")]
    fn test_custom_header(
        &self,
        Parameters(HeaderArguments { value }): Parameters<HeaderArguments>,
    ) -> String {
        value
    }

    #[tool(
        description = "A schema that uses what JSON Schema 2020-12 has",
        input_schema = rich_schema()
    )]
    fn json_schema_2020_12_tool(&self, arguments: JsonObject) -> String {
        Value::Object(arguments).to_string()
    }
}

fn embedded(uri: &str, kind: &str) -> ContentBlock {
    let text = json!({"kind": "embedded"}).to_string();
    ContentBlock::resource(ResourceContents::text(text, uri).with_mime_type(kind))
}

/// References, an anchor, composition and conditions: all must arrive in a list of tools as they are here.
fn rich_schema() -> Arc<JsonObject> {
    let schema = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "$defs": {"address": {"$anchor": "addressDef", "type": "object", "properties": {"street": {"type": "string"}, "city": {"type": "string"}}}},
        "properties": {
            "name": {"type": "string"},
            "address": {"$ref": "#/$defs/address"},
            "contactMethod": {"type": "string", "enum": ["phone", "email"]},
            "phone": {"type": "string"},
            "email": {"type": "string"},
        },
        "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
        "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
        "then": {"required": ["phone"]},
        "else": {"required": ["email"]},
        "additionalProperties": false,
    });
    Arc::new(schema.as_object().cloned().unwrap_or_default())
}
