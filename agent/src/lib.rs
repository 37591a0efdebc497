//! The agent: serves private models and MCP servers through links that it dials out.
//!
//! ```text
//!  link     one address, dialled for ever        dial > register > serve > drain   (session)
//!   |
//!  serve    the streams of one connection
//!   |
//!  call     one call, in phases                  admit > queue > judge > connect > send > pass
//!   |            |         |       |         |               |
//!   |         policy    queue   policy    backend         headers
//!   |                                       |
//!  record   one audit line each           reach: where a connection may go
//! ```
//!
//! What is decided is decided by pure functions: [`policy`] (what can be called), [`reach`]
//! (where connections go), [`headers`] (which pass), [`queue`] (how many at once), [`config`]
//! (what the file says). The tasks around them move bytes and time.
//!
//! [`supervisor`] starts everything and ends it in order; whatever runs is owned by it, by a
//! link or by a service. Configuration is replaced whole: [`service::Services`] changes what
//! differs and leaves links, calls and unchanged services alone.
//!
//! Nothing that a plane says about an identity is believed: its own comes from its certificate,
//! and a revocation counts only with the signature of control.

pub mod announced;
pub mod audit;
pub mod backend;
pub mod call;
pub mod caller;
pub mod cli;
pub mod clock;
pub mod config;
pub mod error;
mod gateway;
pub mod headers;
pub mod identity;
pub mod join;
mod judge;
pub mod link;
pub mod links;
pub mod listen;
pub mod logs;
pub mod metrics;
pub mod out;
mod passing;
pub mod pause;
pub mod policy;
mod present;
pub mod queue;
pub mod rate;
pub mod reach;
mod record;
pub mod renewal;
pub mod reply;
mod secret;
mod serve;
pub mod service;
mod session;
mod signals;
pub mod status;
pub mod stdio;
pub mod supervisor;
pub mod verbs;
pub mod watch;

pub use secret::Secret;
