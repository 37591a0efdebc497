//! Where a request goes: what the path asks for, which names exist, what the key may call.

pub mod catalog;
pub mod endpoint;
pub mod realtime;
pub mod resolve;
