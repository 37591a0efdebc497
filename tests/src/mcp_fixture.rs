//! An MCP server on `rmcp`: both eras on `/mcp`, tools with and without progress, a resource, a prompt.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use rmcp::handler::server::router::prompt::PromptRouter;
use rmcp::handler::server::router::tool::ToolRouter;
use rmcp::handler::server::tool::Extension;
use rmcp::handler::server::wrapper::Parameters;
use rmcp::model::{
    ListResourcesResult, PaginatedRequestParams, ProgressNotificationParam, PromptMessage,
    ReadResourceRequestParams, ReadResourceResponse, ReadResourceResult, RequestMetaObject,
    Resource, ResourceContents, Role, ServerCapabilities, ServerConfig,
};
use rmcp::service::RequestContext;
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp::transport::streamable_http_server::{StreamableHttpServerConfig, StreamableHttpService};
use rmcp::{
    ErrorData, Peer, RoleServer, ServerHandler, prompt, prompt_handler, prompt_router, tool,
    tool_handler, tool_router,
};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::backend::stats::{Active, Seen, Stats};
use crate::fault_io::FaultSwitch;
use crate::serve::{Body, Handler};

/// The one resource of the fixture.
pub const RESOURCE_URI: &str = "fixture://notes/culvert";

/// The MCP server as a program: `/mcp`, and `/__stats` and `/__requests` as the model backend has them.
pub struct McpFixture {
    service: StreamableHttpService<Tools, LocalSessionManager>,
    stats: Stats,
}

impl std::fmt::Debug for McpFixture {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("McpFixture")
            .field("stats", &self.stats)
            .finish_non_exhaustive()
    }
}

impl McpFixture {
    /// A server that accepts loopback hosts only, or `any_host` where it is dialled by a private name.
    pub fn new(any_host: bool) -> Self {
        let stats = Stats::default();
        let config = StreamableHttpServerConfig::default();
        let config = if any_host {
            config.disable_allowed_hosts()
        } else {
            config
        };
        let counted = stats.clone();
        let service = StreamableHttpService::new(
            move || Ok(Tools::new(counted.clone())),
            Arc::new(LocalSessionManager::default()),
            config,
        );
        Self { service, stats }
    }
}

/// Serves one client on standard input and output, until it closes its end.
///
/// # Errors
/// Standard streams that cannot be used, a client that begins with something else than a request, or a lost task.
pub async fn serve_stdio() -> io::Result<()> {
    // Files read and write on tokio's blocking threads, as its own standard streams would.
    let input = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    let output = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    let streams = (
        tokio::fs::File::from_std(input),
        tokio::fs::File::from_std(output),
    );
    let running = rmcp::serve_server(Tools::new(Stats::default()), streams).await;
    let end = running.map_err(io::Error::other)?.waiting().await;
    end.map(|_| ()).map_err(io::Error::other)
}

impl Handler for McpFixture {
    async fn handle(&self, request: Request<Incoming>, _: FaultSwitch) -> Response<Body> {
        match request.uri().path() {
            "/__stats" => json(&self.stats.to_json()),
            "/__requests" => json(&self.stats.seen_json()),
            "/mcp" => {
                let (parts, body) = request.into_parts();
                self.stats.remember(Seen::new(&parts, &[]));
                let answer = self.service.handle(Request::from_parts(parts, body)).await;
                answer.map(|body| body.map_err(|never| match never {}).boxed_unsync())
            }
            _ => {
                let mut answer = json(&serde_json::json!({"detail": "Not Found"}));
                *answer.status_mut() = StatusCode::NOT_FOUND;
                answer
            }
        }
    }
}

fn json(value: &serde_json::Value) -> Response<Body> {
    let body = Full::new(value.to_string().into())
        .map_err(|never| match never {})
        .boxed_unsync();
    let mut response = Response::new(body);
    response.headers_mut().insert(
        http::header::CONTENT_TYPE,
        http::HeaderValue::from_static("application/json"),
    );
    response
}

/// What the server offers; one per session, or per request of the stateless protocol.
#[derive(Clone)]
struct Tools {
    tool_router: ToolRouter<Self>,
    prompt_router: PromptRouter<Self>,
    stats: Stats,
}

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

#[derive(Debug, Deserialize, JsonSchema)]
struct GreetArguments {
    name: String,
}

#[tool_router]
impl Tools {
    fn new(stats: Stats) -> Self {
        Self {
            tool_router: Self::tool_router(),
            prompt_router: Self::prompt_router(),
            stats,
        }
    }

    #[tool(description = "Gives the text back")]
    fn echo(&self, Parameters(EchoArguments { text }): Parameters<EchoArguments>) -> String {
        self.counted("echo").complete();
        text
    }

    #[tool(description = "Adds two numbers")]
    fn add(&self, Parameters(AddArguments { a, b }): Parameters<AddArguments>) -> String {
        self.counted("add").complete();
        (a + b).to_string()
    }

    #[tool(description = "Gives the headers that reached the server, as JSON")]
    fn headers(&self, Extension(parts): Extension<http::request::Parts>) -> String {
        self.counted("headers").complete();
        serde_json::to_string(&Seen::new(&parts, &[])).unwrap_or_default()
    }

    #[tool(description = "Takes its time, and says how far it is")]
    async fn slow(
        &self,
        Parameters(SlowArguments { steps, step_ms }): Parameters<SlowArguments>,
        meta: RequestMetaObject,
        client: Peer<RoleServer>,
        context: RequestContext<RoleServer>,
    ) -> Result<String, ErrorData> {
        let mut active = self.counted("slow");
        for step in 1..=steps {
            tokio::select! {
                () = context.ct.cancelled() => return Err(ErrorData::internal_error("cancelled", None)),
                () = tokio::time::sleep(Duration::from_millis(step_ms)) => {}
            }
            if let Some(token) = meta.get_progress_token() {
                let progress = ProgressNotificationParam::new(token, f64::from(step))
                    .with_total(f64::from(steps));
                let told = client
                    .notify_progress(progress.with_message(format!("step {step}")))
                    .await;
                told.map_err(|error| ErrorData::internal_error(error.to_string(), None))?;
            }
        }
        active.complete();
        Ok(format!("done after {steps} steps"))
    }

    fn counted(&self, tool: &str) -> Active {
        self.stats.begin(&format!("tool {tool}"))
    }
}

#[prompt_router]
impl Tools {
    #[prompt(name = "greet", description = "A greeting for a name")]
    async fn greet(
        &self,
        Parameters(GreetArguments { name }): Parameters<GreetArguments>,
    ) -> Vec<PromptMessage> {
        vec![PromptMessage::new_text(
            Role::User,
            format!("Say hello to {name}."),
        )]
    }
}

#[tool_handler(router = self.tool_router)]
#[prompt_handler(router = self.prompt_router)]
impl ServerHandler for Tools {
    fn get_info(&self) -> ServerConfig {
        let capabilities = ServerCapabilities::builder()
            .enable_tools()
            .enable_prompts()
            .enable_resources()
            .build();
        ServerConfig::new(capabilities).with_instructions("A fixture: echo, add, headers, slow.")
    }

    async fn list_resources(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListResourcesResult, ErrorData> {
        Ok(ListResourcesResult::with_all_items(vec![
            Resource::new(RESOURCE_URI, "culvert").with_mime_type("text/plain"),
        ]))
    }

    async fn read_resource(
        &self,
        request: ReadResourceRequestParams,
        _: RequestContext<RoleServer>,
    ) -> Result<ReadResourceResponse, ErrorData> {
        if request.uri != RESOURCE_URI {
            return Err(ErrorData::invalid_params(
                format!("no resource {}", request.uri),
                None,
            ));
        }
        let contents =
            ResourceContents::text("A culvert carries a stream under a road.", request.uri);
        Ok(ReadResourceResult::new(vec![contents]).into())
    }
}
