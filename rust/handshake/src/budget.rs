//! Rates: token buckets per prefix and in all, and the byte budget towards unproven addresses.
//!
//! A bucket is one number (the generic cell rate algorithm): the time at which it is full again.
//! An entry whose time has passed says nothing, so a full table is pruned without loss.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, SocketAddr};

/// Rate and burst of a bucket.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    /// Tokens that come back per second (at least 1).
    pub per_s: u64,
    /// Tokens of a full bucket.
    pub burst: u64,
}

impl Rate {
    /// The bucket's new time after taking *cost*, or None if it does not hold as much.
    fn take(&self, full_at: u64, cost: u64, now_ns: u64) -> Option<u64> {
        let period = 1_000_000_000 / self.per_s.max(1);
        let next = full_at
            .max(now_ns)
            .saturating_add(cost.saturating_mul(period));
        (next - now_ns <= self.burst.saturating_mul(period)).then_some(next)
    }
}

/// A network prefix: /24 of IPv4, /64 of IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Prefix {
    V4([u8; 3]),
    V6([u8; 8]),
}

pub(crate) fn prefix(source: SocketAddr) -> Prefix {
    match source.ip().to_canonical() {
        IpAddr::V4(address) => {
            let [a, b, c, _] = address.octets();
            Prefix::V4([a, b, c])
        }
        IpAddr::V6(address) => {
            let [a, b, c, d, e, f, g, h, ..] = address.octets();
            Prefix::V6([a, b, c, d, e, f, g, h])
        }
    }
}

/// Buckets by key; bounded.
struct Buckets<K> {
    rate: Rate,
    limit: usize,
    full_at: HashMap<K, u64>,
}

impl<K: Hash + Eq + Copy> Buckets<K> {
    fn new(rate: Rate, limit: usize) -> Buckets<K> {
        Buckets {
            rate,
            limit,
            full_at: HashMap::new(),
        }
    }

    /// The bucket's next time if it holds *cost*; nothing is taken yet.
    fn look(&mut self, key: K, cost: u64, now_ns: u64) -> Option<u64> {
        if self.full_at.len() >= self.limit && !self.full_at.contains_key(&key) {
            self.full_at.retain(|_, full_at| *full_at > now_ns);
            if self.full_at.len() >= self.limit {
                return None;
            }
        }
        self.rate
            .take(self.full_at.get(&key).copied().unwrap_or(0), cost, now_ns)
    }
}

/// New handshakes per prefix and in all: asked only after a valid cookie, since before it a
/// spoofer could starve a whole prefix.
pub(crate) struct Admission {
    prefixes: Buckets<Prefix>,
    global: Rate,
    global_full_at: u64,
}

impl Admission {
    pub(crate) fn new(per_prefix: Rate, global: Rate, limit: usize) -> Admission {
        Admission {
            prefixes: Buckets::new(per_prefix, limit),
            global,
            global_full_at: 0,
        }
    }

    /// Whether one more handshake from *source* may begin.
    pub(crate) fn admit(&mut self, source: SocketAddr, now_ns: u64) -> bool {
        let key = prefix(source);
        let Some(full_at) = self.prefixes.look(key, 1, now_ns) else {
            return false;
        };
        let Some(global) = self.global.take(self.global_full_at, 1, now_ns) else {
            return false;
        };
        self.prefixes.full_at.insert(key, full_at);
        self.global_full_at = global;
        true
    }
}

/// Bytes that may go unsolicited to addresses that have not proven themselves: HELLOs on a hint,
/// punches, path challenges share it.
pub struct Unproven {
    addresses: Buckets<IpAddr>,
    prefixes: Buckets<Prefix>,
}

impl Unproven {
    pub(crate) fn new(per_address: Rate, per_prefix: Rate, limit: usize) -> Unproven {
        Unproven {
            addresses: Buckets::new(per_address, limit),
            prefixes: Buckets::new(per_prefix, limit),
        }
    }

    /// Take *bytes* for a datagram to *to*; false means that it must not be sent.
    pub fn take(&mut self, to: SocketAddr, bytes: usize, now_ns: u64) -> bool {
        let address = to.ip().to_canonical();
        let cost = bytes as u64;
        let Some(first) = self.addresses.look(address, cost, now_ns) else {
            return false;
        };
        let Some(second) = self.prefixes.look(prefix(to), cost, now_ns) else {
            return false;
        };
        self.addresses.full_at.insert(address, first);
        self.prefixes.full_at.insert(prefix(to), second);
        true
    }
}
