//! The agent: serves private models and MCP servers through links that it dials out.

pub mod audit;
pub mod backend;
pub mod config;
pub mod error;
pub mod headers;
pub mod policy;
pub mod queue;
pub mod reach;
mod secret;
pub mod service;

pub use secret::Secret;
