//! VeilNet's wire formats: what a datagram and an inner packet look like, and nothing else.
//!
//! No clock, no socket, no key, no `unsafe`, and no allocation in anything called per packet.
//!
//! ```text
//!  TUN read                                                   TUN write
//!     |  vnet | super-packet                                     ^  vnet | super-packet
//!     v                                                          |
//!  split::Super --prepare(k)--> header || payload k           glue::Run <--offer-- opened datagram
//!     |                              | seal                      ^                     |
//!     |                              v                           |                     v
//!     +---- part::halves ----> header::Header | ciphertext | tag +---- part::Halves ---+
//! ```
//!
//! `ip` reads inner packets and computes checksums, `icmp` answers those that cannot travel.

#![forbid(unsafe_code)]

mod bytes;
pub mod glue;
pub mod header;
pub mod icmp;
pub mod ip;
pub mod part;
mod plain;
mod rule;
pub mod split;
pub mod vnet;

pub use glue::{Finished, Outcome, Run, Segments};
pub use header::{HEADER, Header, Kind, LAST, OVERHEAD, PARTIAL, SECOND_HALF, TAG};
pub use ip::Packet;
pub use part::Halves;
pub use split::Super;
pub use vnet::{VNET, Vnet};

/// Why a packet read from the TUN device cannot be sent as it is.
///
/// All of these speak about the local kernel or the local caller; a malformed packet of a peer is
/// [`Outcome::Malformed`] and is dropped without a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The bytes are not one whole IPv4 or IPv6 packet: drop them.
    #[error("not a whole IP packet: drop it")]
    NotIp,
    /// The checksum is partial in a way that the peer cannot rebuild: call [`split::complete`],
    /// then parse again.
    #[error("the checksum must be completed first: call split::complete and parse again")]
    ChecksumFirst,
    /// The virtio header contradicts the packet, or names an offload that was never asked for: drop
    /// it.
    #[error("the virtio header does not fit the packet: drop it")]
    Offload,
    /// The headers of a super-packet are longer than [`split::TEMPLATE`]: drop it.
    #[error("the headers of a super-packet exceed 128 bytes: drop it")]
    HeaderTooLong,
}
