//! VNH1: everything before a session exists, and the key schedule of the session that follows.
//!
//! No socket, no clock, no unsafe: the time (nanoseconds, monotonic) and the random source are
//! arguments. [`Gate`] turns datagrams into [`Action`]s, [`KeySchedule`] holds the secrets.
#![forbid(unsafe_code)]
#![warn(missing_docs)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod answer;
mod body;
mod budget;
mod chains;
mod cookie;
mod door;
mod early;
mod error;
mod event;
mod flight;
mod gate;
mod generation;
pub mod labels;
mod limits;
mod mask;
mod offer;
mod offers;
mod replay;
mod responder;
pub mod rng;
mod schedule;
mod sources;
mod suite;
#[cfg(test)]
mod tests;
mod ticket;
mod transcript;

pub use budget::Rate;
pub use chains::{Chains, Class, DirectionKey, SessionKeys};
pub use cookie::COOKIE;
pub use door::door_key;
pub use error::{Error, Fault, Result};
pub use event::{Action, Established, Event, Init, Tried};
pub use flight::{HANDSHAKE_PATH, MAX_MESSAGE, open_ack, seal_ack};
pub use gate::{Gate, Occupancy};
pub use generation::NextGeneration;
pub use limits::Limits;
pub use mask::Mask;
pub use rng::{OsRng, Rng, SeededRng};
pub use schedule::KeySchedule;
pub use suite::{Mode, Suite};
pub use ticket::{TICKET, Ticket};
