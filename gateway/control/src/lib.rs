//! The control plane of Culvert: it keeps configuration and the authority, and is not in the path
//! of a call.
//!
//! - [`store`] is where everything is kept: versioned, watched, one file or (later) a cluster.
//! - [`resource`] are the documents that people write.
//! - [`Control`] does what needs the authority: it signs every record that goes into the store,
//!   mints join tokens, lets machines join and renew, revokes, and makes keys.
//! - [`snapshot`] is the configuration as planes see it, published whole on a watch.
//!
//! Two rules run through all of it. Nothing read from the store is believed without control's
//! signature over it, in that very place. And whoever is refused learns that, and nothing more:
//! reasons are for the audit log.

pub mod admin;
pub mod api;
pub mod at_rest;
pub mod audit;
pub mod bootstrap;
mod clock;
mod control;
pub mod documents;
mod error;
pub mod join;
pub mod keys;
mod lineage;
pub mod planes;
mod records;
pub mod renew;
pub mod resource;
mod retire;
pub mod revoke;
pub mod session_keys;
pub mod snapshot;
pub mod store;
mod sweep;
pub mod tokens;

pub use at_rest::{AuthorityKey, PlaneKey};
pub use audit::Actor;
pub use bootstrap::DevFile;
pub use clock::Clock;
pub use control::{Control, ControlConfig, OpenError, Places};
pub use error::ControlError;
pub use join::JoinRefusal;
pub use planes::LocalPlane;
pub use renew::RenewRefusal;
pub use retire::NAME_REUSE;
pub use snapshot::ConfigSnapshot;
