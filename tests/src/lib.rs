//! The system under test: fixtures, the harness that starts the real programs, and what measures them.
//!
//! - [`backend`] is a model server that fails as told; [`mcp_fixture`] is an MCP server; both are programs as well.

pub mod backend;
pub mod fault_io;
pub mod mcp_fixture;
pub mod out;
pub mod serve;
