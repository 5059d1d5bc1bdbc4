//! Every test of the crate's surface, in one program: each program is linked with everything anew.

mod beside;
mod lookup;
mod pair;
mod punch;
mod relay;
mod world;
