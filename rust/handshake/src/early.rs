//! What an initiator sent right behind its AUTH, kept as it came until that is verified.
//!
//! Its masks fit, nothing else is known of it: it is opened by the session's keys, or never.

use crate::limits::{ASSEMBLY_NS, Limits};
use std::net::SocketAddr;
use veilnet_wire::Kind;

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

    /// Keep a datagram of *kind* if there is room: *others* bytes are held for other handshakes.
    /// Who came through a *public* door has nothing to say but control.
    pub(crate) fn push(
        &mut self,
        datagram: &[u8],
        (source, kind): (SocketAddr, Kind),
        (public, others): (bool, usize),
        now_ns: u64,
        limits: &Limits,
    ) {
        let all = limits.early_bytes_in_all;
        let all = if public { all / 4 } else { all };
        let bytes = self.bytes + datagram.len();
        let wanted = !public || kind == Kind::Control;
        let room = bytes <= limits.early_bytes && others + bytes <= all;
        if wanted && room && self.datagrams.len() < limits.early {
            if self.datagrams.is_empty() {
                self.since_ns = now_ns;
            }
            self.bytes = bytes;
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
