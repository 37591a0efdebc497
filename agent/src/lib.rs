//! The agent: serves private models and MCP servers through links that it dials out.

pub mod headers;
pub mod policy;
pub mod reach;
mod secret;

pub use secret::Secret;
