//! End-to-end tests: the real programs as separate processes, official clients, and what must never happen.
//!
//! Tests share the built programs and the environment of the SDKs, nothing else; the test runner bounds how many run at once.
#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on fails with what it saw"
)]

mod cancel;
mod certificates;
mod cli;
mod clients;
mod conformance;
mod differential;
mod drain;
mod forms;
mod headers;
mod http_services;
mod identity;
mod join;
mod keep_alive;
mod kill;
mod mcp;
mod mcp_legacy;
mod mcp_sessions;
mod observe;
mod openai;
mod policy;
mod rebinding;
mod stdio;
mod tenants;
mod tidy;
mod tools;
mod upgrades;
mod usage;
