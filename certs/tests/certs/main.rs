//! The crate from outside: certificates really made, handshakes really done, files really written.

#![expect(
    clippy::unwrap_used,
    clippy::unwrap_in_result,
    reason = "a test that cannot set its scene has failed"
)]

mod forge;
mod handshake;
mod identity;
mod issuing;
mod joining;
mod storing;
mod world;
