//! Tools that ask the client back within a session: sampling and forms. Up to 2025-11-25; later eras answer `input_required` instead.

#![expect(deprecated, reason = "sessions up to 2025-11-25 sample")]

use rmcp::handler::server::wrapper::Parameters;
use rmcp::model::{
    CallToolResult, ClientCapabilities, ContentBlock, CreateMessageRequestParams,
    ElicitRequestParams, SamplingMessage,
};
use rmcp::service::{RequestContext, ServiceError};
use rmcp::{ErrorData, Peer, RoleServer, tool, tool_router};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::super::server::Fixture;

/// Tokens that a sampled answer may have.
const SAMPLE_TOKENS: u32 = 64;

#[derive(Debug, Deserialize, JsonSchema)]
struct SamplingArguments {
    /// What the client's model is asked.
    prompt: String,
}

#[derive(Debug, Deserialize, JsonSchema)]
struct ElicitationArguments {
    /// What the client's user is asked.
    message: String,
}

#[tool_router(router = asking_tools, vis = "pub(in crate::mcp_fixture)")]
impl Fixture {
    #[tool(description = "Has the client's model answer a prompt")]
    async fn test_sampling(
        &self,
        Parameters(SamplingArguments { prompt }): Parameters<SamplingArguments>,
        client: Peer<RoleServer>,
    ) -> CallToolResult {
        let ask = CreateMessageRequestParams::new(
            vec![SamplingMessage::user_text(prompt)],
            SAMPLE_TOKENS,
        );
        told("The model said", client.create_message(ask).await)
    }

    #[tool(description = "Asks the client's user for a name and an address")]
    async fn test_elicitation(
        &self,
        Parameters(ElicitationArguments { message }): Parameters<ElicitationArguments>,
        client: Peer<RoleServer>,
    ) -> Result<CallToolResult, ErrorData> {
        let fields = json!({
            "username": {"type": "string", "description": "A name"},
            "email": {"type": "string", "description": "An address"},
        });
        ask_user(&client, &message, fields, &["username", "email"]).await
    }

    #[tool(description = "Asks the client's user with a default for each kind of field")]
    async fn test_elicitation_sep1034_defaults(
        &self,
        client: Peer<RoleServer>,
    ) -> Result<CallToolResult, ErrorData> {
        let fields = json!({
            "name": {"type": "string", "default": "John Doe"},
            "age": {"type": "integer", "default": 30},
            "score": {"type": "number", "default": 95.5},
            "status": {"type": "string", "enum": ["active", "inactive", "pending"], "default": "active"},
            "verified": {"type": "boolean", "default": true},
        });
        ask_user(&client, "Change what is wrong.", fields, &[]).await
    }

    #[tool(description = "Asks the client's user to choose, in each way that a schema can say it")]
    async fn test_elicitation_sep1330_enums(
        &self,
        client: Peer<RoleServer>,
    ) -> Result<CallToolResult, ErrorData> {
        let titled = |titles: [&str; 3]| -> Vec<Value> {
            let values = ["value1", "value2", "value3"].into_iter().zip(titles);
            values
                .map(|(value, title)| json!({"const": value, "title": title}))
                .collect()
        };
        let plain = ["option1", "option2", "option3"];
        let fields = json!({
            "untitledSingle": {"type": "string", "enum": plain},
            "titledSingle": {"type": "string", "oneOf": titled(["First Option", "Second Option", "Third Option"])},
            "legacyEnum": {"type": "string", "enum": ["opt1", "opt2", "opt3"], "enumNames": ["Option One", "Option Two", "Option Three"]},
            "untitledMulti": {"type": "array", "items": {"type": "string", "enum": plain}},
            "titledMulti": {"type": "array", "items": {"anyOf": titled(["First Choice", "Second Choice", "Third Choice"])}},
        });
        ask_user(&client, "Choose.", fields, &[]).await
    }

    #[tool(description = "Answers only a client that can sample")]
    fn test_missing_capability(
        &self,
        context: RequestContext<RoleServer>,
    ) -> Result<String, ErrorData> {
        let declared = context.client_capabilities();
        if declared.is_some_and(|declared| declared.sampling.is_some()) {
            return Ok("The client can sample.".to_owned());
        }
        let wanted = ClientCapabilities::builder().enable_sampling().build();
        Err(ErrorData::missing_required_client_capability(wanted))
    }
}

/// What a form asks for, as the protocol has it.
pub(super) fn form_of(
    message: &str,
    fields: Value,
    required: &[&str],
) -> Result<ElicitRequestParams, ErrorData> {
    let schema = json!({"type": "object", "properties": fields, "required": required});
    let requested_schema = serde_json::from_value(schema)
        .map_err(|error| ErrorData::internal_error(error.to_string(), None))?;
    Ok(ElicitRequestParams::FormElicitationParams {
        meta: None,
        message: message.to_owned(),
        requested_schema,
    })
}

async fn ask_user(
    client: &Peer<RoleServer>,
    message: &str,
    fields: Value,
    required: &[&str],
) -> Result<CallToolResult, ErrorData> {
    let form = form_of(message, fields, required)?;
    Ok(told("The user said", client.create_elicitation(form).await))
}

/// The client's answer as text, or an error of the tool with the reason.
fn told(what: &str, answer: Result<impl Serialize, ServiceError>) -> CallToolResult {
    match answer {
        Ok(answer) => CallToolResult::success(vec![ContentBlock::text(format!(
            "{what}: {}",
            json!(answer)
        ))]),
        Err(error) => CallToolResult::error(vec![ContentBlock::text(error.to_string())]),
    }
}
