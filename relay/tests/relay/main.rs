//! The relay over real loopback sockets, with agents made of the tunnel's own parts.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod agent;
mod calls;
mod drain;
mod join;
mod observe;
mod sessions;
mod world;
