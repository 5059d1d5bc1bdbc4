//! Data that came behind an AUTH with a ticket, before its sender had addresses here.
//!
//! The initiator of such a handshake sends at once: it has verified its peer. Its peer has yet to
//! verify it, off the event loop, and then to say which inner addresses are its own. Until both are
//! done its data waits, sealed, in a bounded place; the gate holds it before `accept`, the session
//! after it.

use crate::core::Core;
use crate::ports::MAIN;
use crate::session::Session;
use std::net::SocketAddr;
use veilnet_wire::Kind;

const DATAGRAMS: usize = 128;
const BYTES: usize = 128 << 10;
/// Without addresses for so long there will be none.
pub(crate) const PATIENCE_NS: u64 = 1_000_000_000;

/// What waits in a session.
pub struct Early {
    datagrams: Vec<(SocketAddr, Vec<u8>)>,
    bytes: usize,
}

impl Early {
    /// Begin with what the gate kept.
    #[must_use]
    pub fn new(kept: Vec<(SocketAddr, Vec<u8>)>) -> Early {
        let mut early = Early {
            datagrams: Vec::new(),
            bytes: 0,
        };
        for (source, datagram) in kept {
            early.push(source, &datagram);
        }
        early
    }

    fn push(&mut self, source: SocketAddr, datagram: &[u8]) {
        if self.datagrams.len() < DATAGRAMS && self.bytes + datagram.len() <= BYTES {
            self.bytes += datagram.len();
            self.datagrams.push((source, datagram.to_vec()));
        }
    }
}

impl Session {
    /// Keep a datagram of data; false if there is nothing to wait for any more.
    #[inline]
    pub fn keep_early(&mut self, kind: Kind, source: SocketAddr, datagram: &[u8]) -> bool {
        let Some(early) = &mut self.early else {
            return false;
        };
        let data = matches!(kind, Kind::Data | Kind::Verbatim | Kind::Part);
        if data {
            early.push(source, datagram);
        }
        data
    }
}

impl Core {
    /// Take what waited as if it came now.
    pub(crate) fn release_early(&mut self, sid: u32, now_ns: u64) {
        let early = self.sessions.get_mut(&sid).and_then(|s| s.early.take());
        for (source, mut datagram) in early.map(|e| e.datagrams).unwrap_or_default() {
            // A frame for somebody else would have come over a link that was there before.
            let _ = self.datagram(&mut datagram, (source, None, MAIN), now_ns);
        }
        self.write_run();
    }
}
