//! Tools of the stateless era that need input first: they answer `input_required`, and the client calls again with what it got.

#![expect(
    deprecated,
    reason = "the suite asks for sampling and roots in this era too"
)]

use rmcp::handler::server::tool::InputResponses as Given;
use rmcp::model::{
    CallToolResponse, CallToolResult, ContentBlock, CreateMessageRequest,
    CreateMessageRequestParams, ElicitRequest, InputRequest, InputRequests, InputRequiredResult,
    InputResponses, ListRootsRequest, RequestMetaObject, SamplingMessage,
};
use rmcp::{ErrorData, tool, tool_router};
use serde_json::{Value, json};

use super::super::server::Fixture;
use super::asking::form_of;

/// Tokens that a sampled answer may have.
const SAMPLE_TOKENS: u32 = 64;

#[tool_router(router = input_tools, vis = "pub(in crate::mcp_fixture)")]
impl Fixture {
    #[tool(description = "Needs a name")]
    async fn test_input_required_result_elicitation(
        &self,
        Given(given): Given,
    ) -> Result<CallToolResponse, ErrorData> {
        match text_of(given.as_ref(), "user_name", "/content/name") {
            Some(name) => Ok(says(format!("Hello, {name}."))),
            None => Ok(asks([("user_name", form("Your name?", "name", "string")?)])),
        }
    }

    #[tool(description = "Needs an answer of the client's model")]
    async fn test_input_required_result_sampling(&self, Given(given): Given) -> CallToolResponse {
        match text_of(given.as_ref(), "capital_question", "/content/text") {
            Some(text) => says(format!("The model said: {text}")),
            None => asks([("capital_question", sample("What is the capital of France?"))]),
        }
    }

    #[tool(description = "Needs the client's roots")]
    async fn test_input_required_result_list_roots(&self, Given(given): Given) -> CallToolResponse {
        match usable(given.as_ref(), "client_roots").and_then(|roots| roots.get("roots")) {
            Some(roots) => says(format!("Roots: {roots}")),
            None => asks([("client_roots", roots())]),
        }
    }

    #[tool(description = "Asks only for what the client says it can do")]
    async fn test_input_required_result_capabilities(
        &self,
        Given(given): Given,
        meta: RequestMetaObject,
    ) -> Result<CallToolResponse, ErrorData> {
        let can = meta.client_capabilities().unwrap_or_default();
        let mut wanted = InputRequests::new();
        if can.elicitation.is_some() {
            wanted.insert("user_name".into(), form("Your name?", "name", "string")?);
        }
        if can.sampling.is_some() {
            wanted.insert("greeting".into(), sample("Greet somebody."));
        }
        if can.roots.is_some() {
            wanted.insert("client_roots".into(), roots());
        }
        if given.is_some() || wanted.is_empty() {
            return Ok(says("Nothing more to ask."));
        }
        Ok(InputRequiredResult::from_input_requests(wanted).into())
    }

    #[tool(description = "Needs a value, and says so in its stream")]
    async fn test_streaming_elicitation(
        &self,
        Given(given): Given,
    ) -> Result<CallToolResponse, ErrorData> {
        match text_of(given.as_ref(), "streaming_elicitation", "/content/value") {
            Some(value) => Ok(says(value)),
            None => {
                let question = form("A value?", "value", "string")?;
                Ok(asks([("streaming_elicitation", question)]))
            }
        }
    }
}

/// A form of one field.
pub(in crate::mcp_fixture) fn form(
    message: &str,
    field: &str,
    kind: &str,
) -> Result<InputRequest, ErrorData> {
    let form = form_of(message, json!({field: {"type": kind}}), &[field])?;
    Ok(InputRequest::Elicitation(ElicitRequest::new(form)))
}

pub(super) fn sample(prompt: &str) -> InputRequest {
    let messages = vec![SamplingMessage::user_text(prompt)];
    let params = CreateMessageRequestParams::new(messages, SAMPLE_TOKENS);
    InputRequest::CreateMessage(CreateMessageRequest::new(params))
}

pub(super) fn roots() -> InputRequest {
    InputRequest::ListRoots(ListRootsRequest::default())
}

pub(super) fn says(text: impl Into<String>) -> CallToolResponse {
    CallToolResult::success(vec![ContentBlock::text(text)]).into()
}

pub(super) fn asks<const N: usize>(wanted: [(&str, InputRequest); N]) -> CallToolResponse {
    InputRequiredResult::from_input_requests(named(wanted)).into()
}

pub(super) fn named<const N: usize>(wanted: [(&str, InputRequest); N]) -> InputRequests {
    wanted
        .into_iter()
        .map(|(name, request)| (name.to_owned(), request))
        .collect()
}

/// The response to `name`, where it is an object as every one must be; anything else is asked for again.
pub(super) fn usable<'a>(responses: Option<&'a InputResponses>, name: &str) -> Option<&'a Value> {
    responses?.get(name).filter(|response| response.is_object())
}

/// A text within the response to `name`.
pub(in crate::mcp_fixture) fn text_of(
    responses: Option<&InputResponses>,
    name: &str,
    pointer: &str,
) -> Option<String> {
    let text = usable(responses, name)?.pointer(pointer)?.as_str()?;
    Some(text.to_owned())
}
