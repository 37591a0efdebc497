//! The gateway of Culvert: an HTTP edge for callers, in front of the relay that holds the agents' links.
//!
//! A request passes through five phases, listed in one file: authenticate, limit, route, dispatch, record.

pub mod activity;
pub mod admission;
pub mod answer;
pub mod auth;
pub mod blame;
pub mod cli;
pub mod config;
pub mod cors;
pub mod courier;
pub mod dev;
pub mod dialect;
pub mod error;
pub mod exchange;
pub mod exit;
pub mod handler;
pub mod held;
pub mod hygiene;
pub mod intake;
pub mod journal;
pub mod late;
pub mod limit;
pub mod logs;
pub mod mcp;
pub mod metadata;
pub mod metrics;
pub mod model;
pub mod names;
pub mod node;
pub mod ops;
pub mod out;
pub mod places;
pub mod plane;
pub mod record;
pub mod renewal;
pub mod respond;
pub mod route;
pub mod serve;
pub mod server;
pub mod signals;
pub mod sources;
pub mod sse;
pub mod stall;
pub mod upstream;
pub mod verbs;
