//! Prompts: a greeting of ours, and the suite's.

use rmcp::handler::server::wrapper::Parameters;
use rmcp::model::{
    ContentBlock, GetPromptResult, InputRequiredResult, InputResponses, PromptMessage,
    ResourceContents, Role,
};
use rmcp::{ErrorData, prompt, prompt_router};
use schemars::JsonSchema;
use serde::Deserialize;

use super::server::Fixture;
use super::tools::content::PNG;
use super::tools::input;

/// The prompt that asks its reader something first.
pub(super) const ASKING: &str = "test_input_required_result_prompt";
const CONTEXT: &str = "user_context";

#[derive(Debug, Deserialize, JsonSchema)]
struct GreetArguments {
    name: String,
}

#[derive(Debug, Deserialize, JsonSchema)]
struct TwoArguments {
    /// The first of two.
    arg1: String,
    /// The second of two.
    arg2: String,
}

#[derive(Debug, Deserialize, JsonSchema)]
struct ResourceArguments {
    /// What to embed.
    #[serde(rename = "resourceUri")]
    resource_uri: String,
}

#[prompt_router(vis = "pub(super)")]
impl Fixture {
    #[prompt(name = "greet", description = "A greeting for a name")]
    async fn greet(
        &self,
        Parameters(GreetArguments { name }): Parameters<GreetArguments>,
    ) -> Vec<PromptMessage> {
        vec![says(format!("Say hello to {name}."))]
    }

    #[prompt(name = "test_simple_prompt", description = "Nothing to fill in")]
    async fn simple_prompt(&self) -> Vec<PromptMessage> {
        vec![says("A prompt without arguments.")]
    }

    #[prompt(
        name = "test_prompt_with_arguments",
        description = "Two places to fill in"
    )]
    async fn prompt_with_arguments(
        &self,
        Parameters(TwoArguments { arg1, arg2 }): Parameters<TwoArguments>,
    ) -> Vec<PromptMessage> {
        vec![says(format!("First {arg1}, second {arg2}."))]
    }

    #[prompt(
        name = "test_prompt_with_embedded_resource",
        description = "Embeds a resource"
    )]
    async fn prompt_with_resource(
        &self,
        Parameters(ResourceArguments { resource_uri }): Parameters<ResourceArguments>,
    ) -> Vec<PromptMessage> {
        let contents = ResourceContents::text("What the prompt embeds.", resource_uri)
            .with_mime_type("text/plain");
        vec![
            PromptMessage::new(Role::User, ContentBlock::resource(contents)),
            says("Look at the resource above."),
        ]
    }

    #[prompt(name = "test_prompt_with_image", description = "Shows an image")]
    async fn prompt_with_image(&self) -> Vec<PromptMessage> {
        vec![
            PromptMessage::new(Role::User, ContentBlock::image(PNG, "image/png")),
            says("Look at the image above."),
        ]
    }

    #[prompt(
        name = "test_input_required_result_prompt",
        description = "Asks for a context first"
    )]
    async fn asking_prompt(&self) -> Result<InputRequiredResult, ErrorData> {
        let question = input::form("What is this about?", "context", "string")?;
        let asked = [(CONTEXT.to_owned(), question)];
        Ok(InputRequiredResult::from_input_requests(asked.into()))
    }
}

/// The asking prompt with the reader's answer, where there is a usable one.
pub(super) fn answered(responses: Option<&InputResponses>) -> Option<GetPromptResult> {
    let context = input::text_of(responses, CONTEXT, "/content/context")?;
    Some(GetPromptResult::new(vec![says(format!(
        "About {context}."
    ))]))
}

fn says(text: impl Into<String>) -> PromptMessage {
    PromptMessage::new_text(Role::User, text)
}
