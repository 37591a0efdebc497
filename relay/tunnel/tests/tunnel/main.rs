//! Two ends of real links over loopback sockets.

mod calls;
mod world;
