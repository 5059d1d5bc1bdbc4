//! Every test of the crate's surface, in one program: each program is linked with everything anew.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod early;
mod gate;
mod handshake;
mod lookup;
mod ticket;
mod world;
