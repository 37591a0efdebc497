//! The server that all sessions and all requests of the stateless protocol share.

#![expect(
    deprecated,
    reason = "sessions up to 2025-11-25 subscribe and set log levels"
)]

use rmcp::handler::server::prompt::PromptContext;
use rmcp::handler::server::router::prompt::PromptRouter;
use rmcp::handler::server::router::tool::ToolRouter;
use rmcp::handler::server::tool::ToolCallContext;
use rmcp::model::{
    CallToolRequestParams, CallToolResponse, CancelTaskParams, CompleteRequestParams,
    CompleteResult, CompletionInfo, GetPromptRequestParams, GetPromptResponse, GetTaskParams,
    GetTaskResult, ListPromptsResult, ListResourceTemplatesResult, ListResourcesResult,
    PaginatedRequestParams, ReadResourceRequestParams, ReadResourceResponse, ServerCapabilities,
    ServerConfig, SetLevelRequestParams, SubscribeRequestParams, SubscriptionFilter,
    UnsubscribeRequestParams, UpdateTaskParams,
};
use rmcp::service::{RequestContext, SubscriptionContext};
use rmcp::task_manager::TaskManager;
use rmcp::{ErrorData, RoleServer, ServerHandler, tool_handler};

use super::subscriptions::{Listeners, Watched};
use super::{prompts, resources};
use crate::backend::stats::Stats;

/// One session, or one request of the stateless protocol.
#[derive(Clone)]
pub(super) struct Fixture {
    tools: ToolRouter<Self>,
    prompts: PromptRouter<Self>,
    pub(super) stats: Stats,
    pub(super) tasks: TaskManager,
    pub(super) listeners: Listeners,
    pub(super) watched: Watched,
}

impl Fixture {
    pub(super) fn new(stats: Stats) -> Self {
        Self {
            tools: Self::own_tools()
                + Self::content_tools()
                + Self::notice_tools()
                + Self::asking_tools()
                + Self::input_tools()
                + Self::state_tools()
                + Self::task_tools(),
            prompts: Self::prompt_router(),
            stats,
            tasks: TaskManager::new(),
            listeners: Listeners::default(),
            watched: Watched::default(),
        }
    }

    /// The same server for another session: only what a session subscribed to is its own.
    pub(super) fn for_session(&self) -> Self {
        Self {
            watched: Watched::default(),
            ..self.clone()
        }
    }
}

#[tool_handler(router = self.tools)]
impl ServerHandler for Fixture {
    fn get_info(&self) -> ServerConfig {
        let capabilities = ServerCapabilities::builder()
            .enable_completions()
            .enable_logging()
            .enable_prompts()
            .enable_prompts_list_changed()
            .enable_resources()
            .enable_resources_list_changed()
            .enable_resources_subscribe()
            .enable_tools()
            .enable_tool_list_changed()
            .enable_tasks()
            .build();
        ServerConfig::new(capabilities).with_instructions(
            "A fixture: echo, add, headers, slow, and what a test suite asks for.",
        )
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let mut active = self.stats.begin(&format!("tool {}", request.name));
        let cancelled = context.ct.clone();
        let answer = self
            .tools
            .call(ToolCallContext::new(self, request, context))
            .await;
        if !cancelled.is_cancelled() {
            active.complete();
        }
        answer
    }

    async fn list_prompts(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListPromptsResult, ErrorData> {
        Ok(ListPromptsResult::with_all_items(self.prompts.list_all()))
    }

    async fn get_prompt(
        &self,
        request: GetPromptRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<GetPromptResponse, ErrorData> {
        if request.name == prompts::ASKING
            && let Some(prompt) = prompts::answered(request.input_responses.as_ref())
        {
            return Ok(prompt.into());
        }
        let context = PromptContext::new(self, request.name, request.arguments, context);
        self.prompts.get_prompt(context).await
    }

    async fn complete(
        &self,
        request: CompleteRequestParams,
        _: RequestContext<RoleServer>,
    ) -> Result<CompleteResult, ErrorData> {
        let begun = request.argument.value;
        let values = ["culvert", "current", "canal"]
            .into_iter()
            .filter(|word| word.starts_with(&begun))
            .map(str::to_owned)
            .collect();
        let values = CompletionInfo::with_all_values(values);
        Ok(CompleteResult::new(
            values.map_err(|why| ErrorData::internal_error(why, None))?,
        ))
    }

    async fn set_level(
        &self,
        _: SetLevelRequestParams,
        _: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        // Every tool logs at one level, and says so: nothing is ever held back.
        Ok(())
    }

    async fn list_resources(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListResourcesResult, ErrorData> {
        Ok(ListResourcesResult::with_all_items(resources::list()))
    }

    async fn list_resource_templates(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListResourceTemplatesResult, ErrorData> {
        let templates = resources::templates();
        Ok(ListResourceTemplatesResult::with_all_items(templates))
    }

    async fn read_resource(
        &self,
        request: ReadResourceRequestParams,
        _: RequestContext<RoleServer>,
    ) -> Result<ReadResourceResponse, ErrorData> {
        resources::read(&request.uri).map(Into::into)
    }

    async fn subscribe(
        &self,
        request: SubscribeRequestParams,
        _: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        self.watched.add(request.uri);
        Ok(())
    }

    async fn unsubscribe(
        &self,
        request: UnsubscribeRequestParams,
        _: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        self.watched.remove(&request.uri);
        Ok(())
    }

    fn accepted_subscription_filter(
        &self,
        requested: &SubscriptionFilter,
    ) -> Option<SubscriptionFilter> {
        Some(requested.clone())
    }

    async fn listen(&self, context: SubscriptionContext) -> Result<(), ErrorData> {
        let _listening = self.listeners.add(context.sink().clone());
        context.cancelled().await;
        Ok(())
    }

    async fn get_task(
        &self,
        request: GetTaskParams,
        _: RequestContext<RoleServer>,
    ) -> Result<GetTaskResult, ErrorData> {
        self.tasks
            .get_task(&request.task_id)
            .map(GetTaskResult::new)
    }

    async fn update_task(
        &self,
        request: UpdateTaskParams,
        _: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        self.tasks
            .update_task(&request.task_id, request.input_responses)
    }

    async fn cancel_task(
        &self,
        request: CancelTaskParams,
        _: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        self.tasks.cancel_task(&request.task_id)
    }
}
