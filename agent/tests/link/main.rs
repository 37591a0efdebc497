//! The agent's links and calls, against a relay that the test holds in its hands and real
//! backends on loopback.

mod backend;
mod calls;
mod links;
mod tools;
mod world;
