//! Tools for tests of the tunnel: an echo, a sum, what arrived, and one that takes its time.

use std::time::Duration;

use rmcp::handler::server::wrapper::Parameters;
use rmcp::model::{ProgressNotificationParam, RequestMetaObject};
use rmcp::service::RequestContext;
use rmcp::{ErrorData, RoleServer, tool, tool_router};
use schemars::JsonSchema;
use serde::Deserialize;

use super::super::server::Fixture;
use crate::backend::stats::Seen;

#[derive(Debug, Deserialize, JsonSchema)]
struct EchoArguments {
    text: String,
}

#[derive(Debug, Deserialize, JsonSchema)]
struct AddArguments {
    a: i64,
    b: i64,
}

#[derive(Debug, Deserialize, JsonSchema)]
struct SlowArguments {
    /// Progress notifications before the answer.
    steps: u32,
    /// Milliseconds between two of them.
    step_ms: u64,
}

#[tool_router(router = own_tools, vis = "pub(in crate::mcp_fixture)")]
impl Fixture {
    #[tool(description = "Gives the text back")]
    fn echo(&self, Parameters(EchoArguments { text }): Parameters<EchoArguments>) -> String {
        text
    }

    #[tool(description = "Adds two numbers")]
    fn add(&self, Parameters(AddArguments { a, b }): Parameters<AddArguments>) -> String {
        (a + b).to_string()
    }

    #[tool(
        description = "Gives the headers that reached the server, as JSON; none on standard streams"
    )]
    fn headers(&self, context: RequestContext<RoleServer>) -> String {
        match context.extensions.get::<http::request::Parts>() {
            Some(parts) => serde_json::to_string(&Seen::new(parts, &[])).unwrap_or_default(),
            None => serde_json::json!({"headers": []}).to_string(),
        }
    }

    #[tool(description = "Takes its time, and says how far it is")]
    async fn slow(
        &self,
        Parameters(SlowArguments { steps, step_ms }): Parameters<SlowArguments>,
        meta: RequestMetaObject,
        context: RequestContext<RoleServer>,
    ) -> Result<String, ErrorData> {
        for step in 1..=steps {
            tokio::select! {
                () = context.ct.cancelled() => return Err(ErrorData::internal_error("cancelled", None)),
                () = tokio::time::sleep(Duration::from_millis(step_ms)) => {}
            }
            if let Some(token) = meta.get_progress_token() {
                let progress = ProgressNotificationParam::new(token, f64::from(step))
                    .with_total(f64::from(steps))
                    .with_message(format!("step {step}"));
                let told = context.peer.notify_progress(progress).await;
                told.map_err(|error| ErrorData::internal_error(error.to_string(), None))?;
            }
        }
        Ok(format!("done after {steps} steps"))
    }
}
