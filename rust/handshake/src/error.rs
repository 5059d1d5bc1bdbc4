//! One error type for the crate: it says whose fault it was, and what to do next.

/// Who caused an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The caller on this side used the crate wrongly.
    Local,
    /// The peer (or somebody on the way) sent what an honest peer never sends.
    Remote,
    /// A primitive failed: a bug or a broken machine.
    Internal,
}

/// Everything this crate refuses aloud. What strangers send is refused in silence instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)] // the message of each variant is its documentation
pub enum Error {
    #[error(
        "{what} must be {expected} bytes, not {got}: check the key or ciphertext before calling"
    )]
    Length {
        what: &'static str,
        expected: usize,
        got: usize,
    },
    #[error("{0}: call the steps of the handshake in order")]
    State(&'static str),
    #[error("no handshake has session id {0}: it was abandoned, has expired or never began")]
    UnknownSession(u32),
    #[error("session id {0} is already in use: make a new KeySchedule")]
    SessionExists(u32),
    #[error("suite {0} is not known to this release")]
    Suite(u8),
    #[error("handshake mode {0} is not built in this release")]
    Mode(u8),
    #[error("{0} is full: remove something first")]
    Full(&'static str),
    #[error("no door has id {0}")]
    UnknownDoor(u32),
    #[error("the message is {got} bytes, more than the {limit} a handshake message can carry")]
    TooLong { limit: usize, got: usize },
    #[error("all {0} attempts are used up: begin a new handshake")]
    Attempts(u32),
    #[error("the peer's {0} is malformed: drop the session")]
    Malformed(&'static str),
    #[error("the peer's X25519 share gives an all-zero secret: drop the session")]
    WeakShare,
    #[error("the peer's confirmation does not verify: drop the session")]
    Confirmation,
    #[error("{0} failed inside the cryptographic library: this is a bug, report it")]
    Crypto(&'static str),
}

impl Error {
    /// Whose fault it was.
    pub fn fault(&self) -> Fault {
        match self {
            Error::Malformed(_) | Error::WeakShare | Error::Confirmation => Fault::Remote,
            Error::Crypto(_) => Fault::Internal,
            _ => Fault::Local,
        }
    }
}

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;
