//! Every test of the crate's surface, in one program: each program is linked with everything anew.

mod gate;
mod handshake;
mod lookup;
mod ticket;
mod world;
