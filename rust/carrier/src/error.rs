//! Why a carrier could not be had.

use std::io;
use std::net::SocketAddr;

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error("TCP port {port} cannot be bound: {source}")]
    Bind { port: u16, source: io::Error },
    /// Nobody there, or it does not let us in.
    #[error("{to} takes no carrier: {source}")]
    Connect { to: SocketAddr, source: io::Error },
    /// What answers does not speak TLS 1.3 as we do.
    #[error("{to} is no carrier: {source}")]
    NoCarrier {
        to: SocketAddr,
        source: rustls::Error,
    },
    #[error("at most {0} carriers at once")]
    Full(usize),
    #[error("{what}: {source}")]
    Os {
        what: &'static str,
        source: io::Error,
    },
    #[error("TLS cannot be set up: {0}")]
    Tls(String),
    #[error("the carriers are closed")]
    Closed,
}

pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub(crate) fn os(what: &'static str) -> impl FnOnce(io::Error) -> Error {
        move |source| Error::Os { what, source }
    }
}
