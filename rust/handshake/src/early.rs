//! What an initiator sent right behind its AUTH, kept as it came until that is verified.
//!
//! Its masks fit, nothing else is known of it: it is opened by the session's keys, or never.

use crate::limits::ASSEMBLY_NS;
use std::net::SocketAddr;

/// The datagrams of one handshake.
#[derive(Default)]
pub(crate) struct Early {
    datagrams: Vec<(SocketAddr, Vec<u8>)>,
    bytes: usize,
    since_ns: u64,
}

impl Early {
    /// Bytes held.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Keep a datagram if there is *room* for its bytes, and for one of *count* datagrams.
    pub(crate) fn push(
        &mut self,
        datagram: &[u8],
        source: SocketAddr,
        (count, room): (usize, usize),
        now_ns: u64,
    ) {
        if datagram.len() <= room && self.datagrams.len() < count {
            if self.datagrams.is_empty() {
                self.since_ns = now_ns;
            }
            self.bytes += datagram.len();
            self.datagrams.push((source, datagram.to_vec()));
        }
    }

    /// When it is thrown away.
    pub(crate) fn ends_ns(&self) -> Option<u64> {
        (!self.datagrams.is_empty()).then_some(self.since_ns + ASSEMBLY_NS)
    }

    /// Throw away what has waited for too long.
    pub(crate) fn expire(&mut self, now_ns: u64) {
        if self.ends_ns().is_some_and(|at| at <= now_ns) {
            *self = Early::default();
        }
    }

    /// Give up what there is.
    pub(crate) fn take(&mut self) -> Vec<(SocketAddr, Vec<u8>)> {
        std::mem::take(self).datagrams
    }
}
