//! The agent: serves private models and MCP servers through links that it dials out.

pub mod audit;
pub mod backend;
pub mod call;
pub mod cli;
pub mod clock;
pub mod config;
pub mod error;
mod gateway;
pub mod headers;
pub mod identity;
pub mod join;
pub mod link;
pub mod links;
pub mod listen;
pub mod logs;
pub mod metrics;
pub mod out;
pub mod policy;
mod present;
pub mod queue;
pub mod reach;
mod record;
mod secret;
mod serve;
pub mod service;
mod session;
pub mod status;
pub mod supervisor;
pub mod verbs;
pub mod watch;

pub use secret::Secret;
