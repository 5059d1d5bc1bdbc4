//! The engine's errors: each says whose fault it was.

use std::io;

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused: no CAP_NET_ADMIN or no /dev/net/tun.
    #[error("the TUN device cannot be created: {0}")]
    Tun(#[source] io::Error),
    #[error("UDP port {port} cannot be bound: {source}")]
    Bind { port: u16, source: io::Error },
    #[error("{what}: {source}")]
    Os {
        what: &'static str,
        source: io::Error,
    },
    /// The caller's fault.
    #[error("{0}")]
    Invalid(&'static str),
    /// A session id that the engine does not hold (closed meanwhile, or never was).
    #[error("no session {0:#010x}")]
    NoSession(u32),
    #[error("handshake: {0}")]
    Handshake(#[from] veilnet_handshake::Error),
    #[error("the engine is closed")]
    Closed,
    /// The data thread died; the text is its panic message.
    #[error("the data thread has died: {0}")]
    Broken(String),
}

pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub(crate) fn os(what: &'static str) -> impl FnOnce(io::Error) -> Error {
        move |source| Error::Os { what, source }
    }
}
