//! Two ends of real links over loopback sockets.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "anything else fails the test"
)]

mod calls;
mod control;
mod ends;
mod links;
mod load;
mod raw;
mod switching;
mod world;
