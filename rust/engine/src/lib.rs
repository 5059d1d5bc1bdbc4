//! The data plane: TUN device, UDP socket, session keys, one run-to-completion data thread.
//!
//! ```text
//!  TUN read -> routes -> split -> seal -> mask -> one UDP_SEGMENT send       send.rs
//!  UDP_GRO receive -> unmask -> open -> replay, source -> glue -> TUN write  receive.rs
//!          |             \-> gate (first contact, crate veilnet-handshake)
//!          \-> open a relay frame -> label, quota -> seal -> next link           forwarding.rs
//! ```
//! Python reaches it through [`Engine`]: calls go in as closures, facts come out as [`Event`]s.

#![deny(clippy::indexing_slicing)]

mod batch;
mod beside;
mod called;
mod carrier;
mod circuit;
mod core;
mod early;
mod error;
mod events;
mod failover;
mod flows;
mod forwarding;
mod handle;
mod keys;
mod lookups;
mod meter;
mod mtu;
mod path;
mod paths;
mod ports;
mod prefix;
mod probe;
mod punch;
mod receive;
pub mod records;
mod replay;
mod roaming;
mod routes;
mod send;
mod session;
mod stats;
pub mod sys;
mod timers;
mod underlay;
mod waiting;

pub use crate::core::{CONTROL_BYTES, Core, Options};
pub use carrier::number as carrier_number;
pub use circuit::Circuit;
pub use error::{Error, Result};
pub use events::Event;
pub use forwarding::CircuitStats;
pub use handle::Engine;
pub use keys::StepLimits;
pub use path::{Cause, State};
pub use prefix::Prefix;
pub use stats::{EngineStats, PathStats, SessionStats};
