//! The relay over real loopback sockets, with agents made of the tunnel's own parts.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod admission;
mod agent;
mod calls;
mod doors;
mod drain;
mod ends;
mod join;
mod observe;
mod renewals;
mod retries;
mod sessions;
mod world;
