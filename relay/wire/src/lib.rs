//! The protocol: frames, codes, limits and control machines.
