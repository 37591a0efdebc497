//! An MCP server on streamable HTTP, or with `--stdio` on its standard streams;
//! `ANY_HOST=1` lets it be dialled by another name than loopback.

use std::io;

use clap::Parser;
use culvert_tests::mcp_fixture::{self, McpFixture};
use culvert_tests::serve;

/// An MCP server for tests: `PORT` (0 for any) says where it listens.
#[derive(Parser)]
struct Arguments {
    /// Serve one client on standard input and output instead of HTTP.
    #[arg(long)]
    stdio: bool,
}

#[tokio::main]
async fn main() -> io::Result<()> {
    if Arguments::parse().stdio {
        return mcp_fixture::serve_stdio().await;
    }
    let any_host = std::env::var("ANY_HOST").is_ok_and(|value| value == "1");
    serve::run(McpFixture::new(any_host)).await
}
