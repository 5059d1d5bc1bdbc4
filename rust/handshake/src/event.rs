//! What the gate says to the outside: datagrams to send, and facts for Python.

use std::net::SocketAddr;

use crate::chains::SessionKeys;
use crate::suite::{Mode, Suite};

/// A whole INIT whose cookie proved its source. Cookie-proven, not authenticated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Init {
    /// The door it came through.
    pub door: u32,
    /// The proven source.
    pub source: SocketAddr,
    /// What the initiator wants.
    pub mode: Mode,
    /// The suite it uses; Python compares it with the network's.
    pub suite: Suite,
    /// The initiator's session id.
    pub sid_i: u32,
    /// The initiator's nonce.
    pub n_i: [u8; 16],
    /// The initiator's commitment.
    pub com: [u8; 32],
    /// The initiator's X25519 share.
    pub x: [u8; 32],
    /// The initiator's ML-KEM encapsulation key.
    pub ek: Vec<u8>,
    /// Whom the ticket was given to that it showed; None: a cookie.
    pub holder: Option<[u8; 32]>,
}

/// What the caller must do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Send *bytes* to *to*.
    Send {
        /// Underlay address.
        to: SocketAddr,
        /// One datagram.
        bytes: Vec<u8>,
    },
    /// Tell Python.
    Event(Event),
    /// A retransmitted AUTH of an established session arrived: send its ACK again.
    ResendAck {
        /// Local session id.
        sid: u32,
    },
}

/// A fact for Python.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Responder: a whole INIT. Answer with `respond`, or `dismiss` it.
    Init(Init),
    /// Initiator: a whole key part. Decapsulate *ct* and call `candidate`.
    Candidate {
        /// Local session id (sidI).
        sid: u32,
        /// Number of this key part.
        candidate: u32,
        /// The session id the responder chose.
        sid_r: u32,
        /// The responder's X25519 share.
        y: [u8; 32],
        /// ML-KEM ciphertext.
        ct: Vec<u8>,
        /// Where it came from.
        source: SocketAddr,
    },
    /// A sealed identity message, opened whole: e2 at the initiator, e3 at the responder.
    Message {
        /// Local session id.
        sid: u32,
        /// Plaintext.
        bytes: Vec<u8>,
        /// Where its last fragment came from.
        source: SocketAddr,
    },
}

/// A session as it leaves the handshake.
pub struct Established {
    /// Keys of generation 0.
    pub keys: SessionKeys,
    /// Header mask of what this side sends.
    pub mask_tx: [u8; 32],
    /// Header mask of what this side receives.
    pub mask_rx: [u8; 32],
    /// `idx` of what this side receives.
    pub local_sid: u32,
    /// `idx` of what this side sends.
    pub remote_sid: u32,
    /// The peer's address.
    pub source: SocketAddr,
    /// Transcript hash; the ACK's plaintext.
    pub th4: Vec<u8>,
    /// Whether this side began.
    pub initiator: bool,
    /// What the session is for.
    pub mode: Mode,
    /// Responder: what the initiator sent behind its AUTH, as it came.
    pub early: Vec<(SocketAddr, Vec<u8>)>,
    /// Responder: whether it came through a door that anybody may open.
    pub public: bool,
}

/// What the KEM secret of a key part led to.
pub enum Tried {
    /// Nothing has opened yet; the sealed part may still be on its way.
    Closed,
    /// RESP has opened: `Event::Message` is there.
    Opened,
    /// A lookup's session: there is nothing more to come.
    Established(Box<Established>),
}
