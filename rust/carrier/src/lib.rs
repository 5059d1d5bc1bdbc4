//! Datagrams over TLS 1.3 over TCP, for hosts whose UDP leads nowhere.
//!
//! ```text
//! engine <-- messages of records --> Line <-- records over TLS 1.3 over TCP --> Line <--> engine
//! record = length u16 | datagram (1 to 1,500 bytes)
//! ```
//! One thread moves everything. TLS makes the stream look like what it is; it proves nothing: the
//! certificates are made up, and whoever is at the other end is told by VNH1 inside. INVARIANT: each
//! connection has bounded queues, and what does not fit is lost as on any link; nothing that one
//! connection does or fails to do keeps another from moving.

#![deny(clippy::indexing_slicing)]

mod error;
mod handle;
mod line;
mod run;
mod tls;

pub use error::{Error, Result};
pub use handle::{Accepted, Carriers};
pub use run::{LINES, PER_PREFIX};
