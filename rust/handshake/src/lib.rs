//! VNH1: everything before a session exists, and the key schedule of the session that follows.
//!
//! No socket, no clock, no unsafe: the time (nanoseconds, monotonic) and the random source are
//! arguments. [`Gate`] turns datagrams into [`Action`]s, [`KeySchedule`] holds the secrets.
#![forbid(unsafe_code)]
#![warn(missing_docs)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod chains;
mod error;
mod event;
mod gate;
pub mod labels;
mod mask;
pub mod rng;
mod schedule;
mod suite;
mod transcript;

pub use chains::{Chains, Class, DirectionKey, SessionKeys};
pub use error::{Error, Fault, Result};
pub use event::{Action, Established, Event, Init};
pub use gate::Gate;
pub use mask::Mask;
pub use rng::{OsRng, Rng, SeededRng};
pub use schedule::{KeySchedule, NextGeneration};
pub use suite::{Mode, Suite};
