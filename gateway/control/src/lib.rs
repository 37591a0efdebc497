//! The control plane.

pub mod resource;
pub mod store;
