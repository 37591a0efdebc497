//! The gateway of Culvert: an HTTP edge for callers, in front of the relay that holds the agents' links.
//!
//! A request passes through five phases, listed in one file: authenticate, limit, route, dispatch, record.

pub mod answer;
pub mod auth;
pub mod blame;
pub mod dialect;
pub mod error;
pub mod hygiene;
pub mod limit;
pub mod mcp;
pub mod metadata;
pub mod metrics;
pub mod model;
pub mod record;
pub mod route;
pub mod sse;
