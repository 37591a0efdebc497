//! The gateway of Culvert: an HTTP edge for callers, in front of the relay that holds the agents' links.
//!
//! A request passes through five phases, listed in one file: authenticate, limit, route, dispatch, record.

pub mod answer;
pub mod auth;
pub mod blame;
pub mod dialect;
pub mod error;
pub mod handler;
pub mod hygiene;
pub mod intake;
pub mod limit;
pub mod mcp;
pub mod metadata;
pub mod metrics;
pub mod model;
pub mod names;
pub mod record;
pub mod respond;
pub mod route;
pub mod server;
pub mod sse;
pub mod upstream;
