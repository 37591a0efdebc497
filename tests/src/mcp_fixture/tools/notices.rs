//! Tools that send notifications besides their answer: logs, progress, changes.

#![expect(
    deprecated,
    reason = "sessions up to 2025-11-25 log through the protocol"
)]

use std::time::Duration;

use rmcp::handler::server::wrapper::Parameters;
use rmcp::model::{
    LoggingLevel, LoggingMessageNotificationParam, ProgressNotificationParam, ProtocolVersion,
    RequestMetaObject, ResourceUpdatedNotificationParam,
};
use rmcp::service::{RequestContext, ServiceError, SubscriptionSendError};
use rmcp::{ErrorData, Peer, RoleServer, tool, tool_router};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

use super::super::server::Fixture;

/// Between two notifications: long enough that a client sees them come one by one.
const PAUSE: Duration = Duration::from_millis(50);

#[derive(Debug, Deserialize, JsonSchema)]
struct TouchArguments {
    /// The resource that is said to have changed.
    uri: String,
}

#[tool_router(router = notice_tools, vis = "pub(in crate::mcp_fixture)")]
impl Fixture {
    #[tool(description = "Logs three lines while it works")]
    async fn test_tool_with_logging(&self, client: Peer<RoleServer>) -> Result<String, ErrorData> {
        for line in ["begun", "at work", "finished"] {
            log(&client, LoggingLevel::Info, line).await?;
            tokio::time::sleep(PAUSE).await;
        }
        Ok("Three lines were logged.".to_owned())
    }

    #[tool(description = "Logs a line where the request asks for logs")]
    async fn test_logging_tool(
        &self,
        meta: RequestMetaObject,
        client: Peer<RoleServer>,
    ) -> Result<String, ErrorData> {
        if let Some(level) = meta.log_level() {
            log(&client, level, "asked for").await?;
        }
        Ok("Done.".to_owned())
    }

    #[tool(description = "Tells its progress at 0, 50 and 100")]
    async fn test_tool_with_progress(
        &self,
        meta: RequestMetaObject,
        client: Peer<RoleServer>,
    ) -> Result<String, ErrorData> {
        for done in [0.0, 50.0, 100.0] {
            if let Some(token) = meta.get_progress_token() {
                let progress = ProgressNotificationParam::new(token, done).with_total(100.0);
                sent(client.notify_progress(progress).await)?;
            }
            tokio::time::sleep(PAUSE).await;
        }
        Ok("All of it.".to_owned())
    }

    #[tool(description = "Takes long enough that a client may come back for the answer")]
    async fn test_reconnection(&self) -> String {
        tokio::time::sleep(2 * PAUSE).await;
        "Here it is.".to_owned()
    }

    #[tool(description = "Says that the list of tools changed")]
    async fn test_trigger_tool_change(
        &self,
        context: RequestContext<RoleServer>,
    ) -> Result<String, ErrorData> {
        for listener in self.listeners.all() {
            heard(listener.notify_tool_list_changed().await)?;
        }
        if in_session(&context) {
            sent(context.peer.notify_tool_list_changed().await)?;
        }
        Ok("Told.".to_owned())
    }

    #[tool(description = "Says that the list of prompts changed")]
    async fn test_trigger_prompt_change(
        &self,
        context: RequestContext<RoleServer>,
    ) -> Result<String, ErrorData> {
        for listener in self.listeners.all() {
            heard(listener.notify_prompt_list_changed().await)?;
        }
        if in_session(&context) {
            sent(context.peer.notify_prompt_list_changed().await)?;
        }
        Ok("Told.".to_owned())
    }

    #[tool(description = "Says that a resource changed, to whoever subscribed to it")]
    async fn touch(
        &self,
        Parameters(TouchArguments { uri }): Parameters<TouchArguments>,
        context: RequestContext<RoleServer>,
    ) -> Result<String, ErrorData> {
        let update = ResourceUpdatedNotificationParam::new(uri.clone());
        for listener in self.listeners.all() {
            heard(listener.notify_resource_updated(uri.clone()).await)?;
        }
        if in_session(&context) && self.watched.has(&uri) {
            sent(context.peer.notify_resource_updated(update).await)?;
        }
        Ok("Told.".to_owned())
    }
}

async fn log(client: &Peer<RoleServer>, level: LoggingLevel, line: &str) -> Result<(), ErrorData> {
    let message = LoggingMessageNotificationParam::new(level, json!(line)).with_logger("fixture");
    sent(client.notify_logging_message(message).await)
}

/// Whether the request belongs to a session, whose own stream carries what is not about a request.
fn in_session(context: &RequestContext<RoleServer>) -> bool {
    let version = context.protocol_version();
    version.is_some_and(|version| version.as_str() < ProtocolVersion::V_2026_07_28.as_str())
}

fn sent(outcome: Result<(), ServiceError>) -> Result<(), ErrorData> {
    outcome.map_err(|error| ErrorData::internal_error(error.to_string(), None))
}

/// A listener that does not want this kind, or that has just left, is no error of the tool.
fn heard(outcome: Result<(), SubscriptionSendError>) -> Result<(), ErrorData> {
    match outcome {
        Err(SubscriptionSendError::Service(error)) => sent(Err(error)),
        Ok(()) | Err(_) => Ok(()),
    }
}
