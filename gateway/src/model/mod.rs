//! The model APIs: what is read of a body, and what is counted of an answer.

pub mod ask_usage;
pub mod body;
pub mod form;
pub mod list;
pub mod stored;
pub mod usage;
