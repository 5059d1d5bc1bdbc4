//! Every test of the crate's surface, in one program: each program is linked with everything anew.

mod hostile;
mod packets;
mod parts;
mod reference;
mod streams;
