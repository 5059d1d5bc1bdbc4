//! Suites and modes: one row per suite; nothing is negotiated.

use aws_lc_rs::{digest, hmac};

use crate::error::{Error, Result};

/// A cipher suite, pinned by a network's genesis.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Suite {
    /// X25519 + ML-KEM-768 + ML-DSA-65 + SHA-384 + AES-256-GCM.
    S1 = 1,
    /// X25519 + ML-KEM-1024 + ML-DSA-87 + SHA-512 + AES-256-GCM.
    S2 = 2,
}

impl Suite {
    /// The suite with this number.
    pub fn from_number(number: u8) -> Result<Suite> {
        match number {
            1 => Ok(Suite::S1),
            2 => Ok(Suite::S2),
            other => Err(Error::Suite(other)),
        }
    }
    /// Its number on the wire.
    pub fn number(self) -> u8 {
        self as u8
    }
    /// Bytes of an ML-KEM encapsulation key.
    pub fn ek_len(self) -> usize {
        match self {
            Suite::S1 => 1184,
            Suite::S2 => 1568,
        }
    }
    /// Bytes of an ML-KEM ciphertext.
    pub fn ct_len(self) -> usize {
        match self {
            Suite::S1 => 1088,
            Suite::S2 => 1568,
        }
    }
    /// Bytes of a hash, a chain or a transcript.
    pub fn hash_len(self) -> usize {
        match self {
            Suite::S1 => 48,
            Suite::S2 => 64,
        }
    }
    pub(crate) fn digest(self) -> &'static digest::Algorithm {
        match self {
            Suite::S1 => &digest::SHA384,
            Suite::S2 => &digest::SHA512,
        }
    }
    pub(crate) fn hmac(self) -> hmac::Algorithm {
        match self {
            Suite::S1 => hmac::HMAC_SHA384,
            Suite::S2 => hmac::HMAC_SHA512,
        }
    }
}

/// What a handshake is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Mode {
    /// Both sides hold the network's secret and a credential.
    Full = 0,
    /// The initiator holds an invite's secret and asks for a credential.
    Join = 1,
    /// Neither side says who it is: messages 1 to 4, and a session for control only.
    Lookup = 2,
    /// As full, but a ticket of an earlier session may stand in the cookie's place.
    Ticket = 3,
}

impl Mode {
    /// The mode with this number.
    pub fn from_number(number: u8) -> Result<Mode> {
        match number {
            0 => Ok(Mode::Full),
            1 => Ok(Mode::Join),
            2 => Ok(Mode::Lookup),
            3 => Ok(Mode::Ticket),
            other => Err(Error::Mode(other)),
        }
    }
    /// Its number on the wire.
    pub fn number(self) -> u8 {
        self as u8
    }
    /// Whether the initiator may send right behind its AUTH, before the responder has verified it.
    #[must_use]
    pub fn sends_early(self) -> bool {
        matches!(self, Mode::Full | Mode::Ticket)
    }
}

/// The `kind` byte: suite (4 bits) | mode (3 bits) | fragment (1 bit).
pub(crate) fn kind_byte(suite: Suite, mode: Mode, k: u8) -> u8 {
    suite.number() << 4 | mode.number() << 1 | (k & 1)
}

/// The parts of a `kind` byte, or None for what this release does not know.
pub(crate) fn parse_kind(kind: u8) -> Option<(Suite, Mode, usize)> {
    let suite = Suite::from_number(kind >> 4).ok()?;
    let mode = Mode::from_number((kind >> 1) & 7).ok()?;
    Some((suite, mode, usize::from(kind & 1)))
}
