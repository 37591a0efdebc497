//! MCP: a single server's path is a byte proxy. Here is what the gateway looks at aside.

pub mod era;
pub mod origin;
pub mod peek;
pub mod session;
