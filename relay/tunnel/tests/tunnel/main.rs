//! Two ends of real links over loopback sockets.

mod calls;
mod control;
mod ends;
mod links;
mod load;
mod raw;
mod world;
