//! Identities, authority, join tokens, trust bundle and verifiers.
