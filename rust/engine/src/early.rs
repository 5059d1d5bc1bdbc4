//! Data that came behind an AUTH, before its sender had addresses here.
//!
//! An initiator may send at once: it has verified its peer. Its peer has yet to verify it, off the
//! event loop, and then to say which inner addresses are its own. Until both are done its data
//! waits, sealed, in a bounded place; the gate holds it before `accept`, the session after it.
//! Control waits for the former alone.

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
#[derive(Default)]
pub struct Early {
    datagrams: Vec<(SocketAddr, Vec<u8>)>,
    bytes: usize,
}

impl Early {
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
        self.take_early(early.map(|e| e.datagrams).unwrap_or_default(), now_ns);
    }

    /// Take *datagrams* as if they came now; of data a new session keeps what it cannot route yet.
    pub(crate) fn take_early(&mut self, datagrams: Vec<(SocketAddr, Vec<u8>)>, now_ns: u64) {
        for (source, mut datagram) in datagrams {
            // A frame for somebody else would have come over a link that was there before.
            let _ = self.datagram(&mut datagram, (source, None, MAIN), now_ns);
        }
        self.write_run();
    }
}
