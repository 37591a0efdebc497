//! An MCP server on streamable HTTP; `ANY_HOST=1` lets it be dialled by another name than loopback.

use std::io;

use culvert_tests::mcp_fixture::McpFixture;
use culvert_tests::serve;

#[tokio::main]
async fn main() -> io::Result<()> {
    let any_host = std::env::var("ANY_HOST").is_ok_and(|value| value == "1");
    serve::run(McpFixture::new(any_host)).await
}
