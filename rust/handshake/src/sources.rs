//! Which handshakes may own a masked datagram from an address. Bounded per address.

use std::collections::HashMap;
use std::net::SocketAddr;

/// Local session ids by source address.
#[derive(Default)]
pub(crate) struct Sources(HashMap<SocketAddr, Vec<u32>>);

impl Sources {
    /// The handshakes at *source*, in the order they came.
    pub(crate) fn at(&self, source: SocketAddr) -> Vec<u32> {
        self.0.get(&source).cloned().unwrap_or_default()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Note that *sid* expects datagrams from *source*; false if too many do already.
    pub(crate) fn insert(&mut self, source: SocketAddr, sid: u32, limit: usize) -> bool {
        let sids = self.0.entry(source).or_default();
        if sids.contains(&sid) {
            return true;
        }
        if sids.len() >= limit {
            return false;
        }
        sids.push(sid);
        true
    }

    pub(crate) fn remove(&mut self, source: SocketAddr, sid: u32) {
        if let Some(sids) = self.0.get_mut(&source) {
            sids.retain(|other| *other != sid);
            if sids.is_empty() {
                self.0.remove(&source);
            }
        }
    }
}
