//! Tools that become tasks: the answer is a handle, the client asks how far it is and answers what the task needs.

use std::time::Duration;

use rmcp::handler::server::tool::InputResponses as Given;
use rmcp::handler::server::wrapper::Parameters;
use rmcp::model::{
    CallToolResponse, CallToolResult, ClientCapabilities, ContentBlock, CreateTaskResult,
};
use rmcp::service::RequestContext;
use rmcp::task_manager::{TaskContext, TaskExit, TaskOptions};
use rmcp::{ErrorData, RoleServer, tool, tool_router};
use schemars::JsonSchema;
use serde::Deserialize;

use super::super::server::Fixture;
use super::input::{asks, form, says, text_of};

/// How long a job takes that has nothing to do: clients see it working before it ends.
const JOB: Duration = Duration::from_millis(500);
/// Above this a duration is the client's mistake.
const MAX_SECONDS: f64 = 3_600.0;

#[derive(Debug, Deserialize, JsonSchema)]
struct GreetArguments {
    name: String,
}

#[derive(Debug, Deserialize, JsonSchema)]
struct ComputeArguments {
    /// How long it takes.
    #[serde(default)]
    seconds: f64,
    /// What the answer names.
    #[serde(default)]
    label: String,
}

#[derive(Debug, Deserialize, JsonSchema)]
struct DeleteArguments {
    /// What is not really deleted.
    filename: String,
}

#[tool_router(router = task_tools, vis = "pub(in crate::mcp_fixture)")]
impl Fixture {
    #[tool(name = "greet", description = "Greets at once, never as a task")]
    fn greet_now(&self, Parameters(GreetArguments { name }): Parameters<GreetArguments>) -> String {
        format!("Hello, {name}!")
    }

    #[tool(description = "Takes as long as it is told, as a task where the client knows tasks")]
    async fn slow_compute(
        &self,
        Parameters(ComputeArguments { seconds, label }): Parameters<ComputeArguments>,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        if !(0.0..=MAX_SECONDS).contains(&seconds) {
            return Err(ErrorData::invalid_params("seconds: 0 to 3600", None));
        }
        let time = Duration::from_secs_f64(seconds);
        let text = format!("{label} took {seconds} s");
        if !knows_tasks(&context) {
            tokio::time::sleep(time).await;
            return Ok(says(text));
        }
        Ok(self.task(move |task| async move {
            tokio::select! {
                () = task.cancelled() => Err(TaskExit::Cancelled),
                () = tokio::time::sleep(time) => Ok(success(text)),
            }
        }))
    }

    #[tool(description = "A task that ends with an error of the tool")]
    async fn failing_job(
        &self,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        require_tasks(&context)?;
        Ok(self.task(|_| async {
            tokio::time::sleep(JOB).await;
            let text = ContentBlock::text("This job fails on purpose.");
            Ok(CallToolResult::error(vec![text]))
        }))
    }

    #[tool(description = "A task that ends with an error of the protocol")]
    async fn protocol_error_job(
        &self,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let failure = || ErrorData::internal_error("this job breaks on purpose", None);
        if !knows_tasks(&context) {
            return Err(failure());
        }
        Ok(self.task(move |_| async move {
            tokio::time::sleep(JOB).await;
            Err(TaskExit::Error(failure()))
        }))
    }

    #[tool(description = "A task that needs one answer")]
    async fn confirm_delete(
        &self,
        Parameters(DeleteArguments { filename }): Parameters<DeleteArguments>,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        require_tasks(&context)?;
        let question = form(&format!("Delete {filename}?"), "confirm", "boolean")?;
        Ok(self.task(|task| async move {
            let answer = task.request_input("confirm", question).await?;
            let yes = answer
                .pointer("/content/confirm")
                .and_then(serde_json::Value::as_bool);
            let outcome = if yes == Some(true) { "deleted" } else { "kept" };
            Ok(success(format!("{filename}: {outcome}")))
        }))
    }

    #[tool(description = "A task that needs two answers at once")]
    async fn multi_input(
        &self,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        require_tasks(&context)?;
        let (first, second) = (
            form("A?", "value", "string")?,
            form("B?", "value", "string")?,
        );
        Ok(self.task(|task| async move {
            let both = (
                task.request_input("a", first),
                task.request_input("b", second),
            );
            let (a, b) = tokio::try_join!(both.0, both.1)?;
            Ok(success(format!("{a} and {b}")))
        }))
    }

    #[tool(description = "Needs a name first, and then becomes a task")]
    async fn test_tool_with_task(
        &self,
        Given(given): Given,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        require_tasks(&context)?;
        let Some(name) = text_of(given.as_ref(), "user_name", "/content/name") else {
            return Ok(asks([("user_name", form("Your name?", "name", "string")?)]));
        };
        Ok(self.task(move |_| async move {
            tokio::time::sleep(JOB).await;
            Ok(success(format!("Hello, {name}, from a task.")))
        }))
    }
}

impl Fixture {
    fn task<F>(&self, work: impl FnOnce(TaskContext) -> F + Send + 'static) -> CallToolResponse
    where
        F: Future<Output = Result<CallToolResult, TaskExit>> + Send + 'static,
    {
        let task = self
            .tasks
            .spawn(TaskOptions::default(), |context| Box::pin(work(context)));
        CreateTaskResult::new(task).into()
    }
}

fn success(text: String) -> CallToolResult {
    CallToolResult::success(vec![ContentBlock::text(text)])
}

fn knows_tasks(context: &RequestContext<RoleServer>) -> bool {
    let declared = context.client_capabilities();
    declared.is_some_and(|declared| declared.supports_tasks())
}

/// A tool that has no other way to answer is refused to a client that knows no tasks.
fn require_tasks(context: &RequestContext<RoleServer>) -> Result<(), ErrorData> {
    if knows_tasks(context) {
        return Ok(());
    }
    let wanted = ClientCapabilities::builder().enable_tasks().build();
    Err(ErrorData::missing_required_client_capability(wanted))
}
