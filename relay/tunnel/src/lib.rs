//! Links over QUIC: dial, accept, streams, drain.
