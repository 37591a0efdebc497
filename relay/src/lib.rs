//! The relay, embeddable in any gateway.
