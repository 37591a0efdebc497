//! The crate from outside: certificates really made, handshakes really done, files really written.

mod forge;
mod handshake;
mod identity;
mod joining;
mod storing;
mod world;
