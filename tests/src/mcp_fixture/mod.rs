//! An MCP server on `rmcp`: both eras on `/mcp`, and on standard streams. It has tools of its own for tests of the tunnel, and all that the
//! official conformance suite asks a server for (`test_…` and what `tools/` names).

mod prompts;
mod resources;
mod server;
mod subscriptions;
mod tools;

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp::transport::streamable_http_server::{StreamableHttpServerConfig, StreamableHttpService};

use crate::backend::stats::{Seen, Stats};
use crate::fault_io::FaultSwitch;
use crate::serve::{Body, Handler};
use server::Fixture;

pub use resources::NOTES_URI;

/// When a client whose stream was cut is told to come back: soon, for a finished call is forgotten.
const COME_BACK_AFTER: Duration = Duration::from_millis(200);

/// The MCP server as a program: `/mcp`, and `/__stats` and `/__requests` as the model backend has them.
pub struct McpFixture {
    service: StreamableHttpService<Fixture, LocalSessionManager>,
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
        let config = StreamableHttpServerConfig::default().with_sse_retry(Some(COME_BACK_AFTER));
        let config = if any_host {
            config.disable_allowed_hosts()
        } else {
            config
        };
        let fixture = Fixture::new(stats.clone());
        let service = StreamableHttpService::new(
            move || Ok(fixture.for_session()),
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
    let running = rmcp::serve_server(Fixture::new(Stats::default()), streams).await;
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
