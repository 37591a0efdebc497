//! The relay, embeddable in any gateway.

mod budget;
mod directory;
mod limits;
mod link;
mod meter;
mod metrics;
mod rate;
mod replay;
mod retry;
mod select;
mod view;
