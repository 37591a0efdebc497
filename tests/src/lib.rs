//! The system under test: fixtures, the harness that starts the real programs, and what measures them.
//!
//! - [`backend`] is a model server that fails as told; [`mcp_fixture`] is an MCP server; both are programs as well.
//! - [`world`] builds and starts the real gateway and agent as separate processes around them; [`sdk`] brings the official clients.

pub mod attacker;
pub mod backend;
pub mod bench;
pub mod client;
pub mod demo;
pub mod differential;
pub mod effort;
pub mod error;
pub mod false_gateway;
pub mod fault_io;
pub mod insider;
pub mod key_proxy;
pub mod listeners;
pub mod mcp_fixture;
pub mod out;
pub mod process;
pub mod programs;
pub mod sdk;
pub mod serve;
pub mod stranger;
pub mod table;
pub mod timing;
pub mod wait;
pub mod world;
