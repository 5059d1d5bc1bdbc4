//! What this node forwards for others: label in, label out, within quotas.
//!
//! INVARIANT: a frame is forwarded only between two links that Python joined in a circuit, and never
//! beyond the circuit's limit, its rate or the node's.

use crate::circuit::Circuit;
use crate::error::{Error, Result};
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// Circuits that an engine forwards at most; Python's own caps are lower.
const CAPACITY: usize = 16_384;
const BUSY_NS: u64 = 1_000_000_000;

/// Sids are random and labels chosen by this side, so mixing them is enough.
#[derive(Default)]
pub struct CircuitHasher(u64);

impl Hasher for CircuitHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for b in bytes {
            self.write_u32(u32::from(*b));
        }
    }
    fn write_u32(&mut self, word: u32) {
        self.0 = (self.0.rotate_left(29) ^ u64::from(word)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

pub type ByCircuit<V> = HashMap<Circuit, V, BuildHasherDefault<CircuitHasher>>;

/// A token bucket in bytes. Source: RFC 2697, one colour.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    bytes_per_ns: f64,
    burst: f64,
    tokens: f64,
    at_ns: u64,
}

impl Bucket {
    fn new(rate_bps: u64, burst_bytes: u64, now_ns: u64) -> Bucket {
        Bucket {
            bytes_per_ns: rate_bps as f64 / 8e9,
            burst: burst_bytes as f64,
            tokens: burst_bytes as f64,
            at_ns: now_ns,
        }
    }

    #[inline]
    fn take(&mut self, bytes: usize, now_ns: u64) -> bool {
        let passed_ns = now_ns.saturating_sub(self.at_ns);
        if passed_ns > 0 {
            self.tokens = (self.tokens + passed_ns as f64 * self.bytes_per_ns).min(self.burst);
            self.at_ns = now_ns;
        }
        let enough = self.tokens >= bytes as f64;
        if enough {
            self.tokens -= bytes as f64;
        }
        enough
    }
}

#[derive(Debug)]
struct Entry {
    a: Circuit,
    b: Circuit,
    bucket: Bucket,
    limit_bytes: u64,
    datagrams: u64,
    bytes: u64,
    dropped: u64,
    busy_ns: Option<u64>,
    spent_told: bool,
}

/// What becomes of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// No circuit of that label: perhaps our own.
    Unknown,
    Forward(Circuit),
    Drop,
    /// Dropped, and for the first time because the limit is used up.
    Spent,
}

/// Figures of one circuit.
#[derive(Clone, Copy, Debug)]
pub struct CircuitStats {
    pub a: Circuit,
    pub b: Circuit,
    pub datagrams: u64,
    pub bytes: u64,
    pub dropped: u64,
    pub busy: bool,
}

#[derive(Default)]
pub struct Forwarding {
    legs: ByCircuit<(Circuit, usize)>,
    entries: Vec<Option<Entry>>,
    free: Vec<usize>,
    all: Option<Bucket>,
    pub datagrams: u64,
    pub bytes: u64,
    pub dropped: u64,
}

impl Forwarding {
    /// Join two ends. The links are the caller's to check.
    pub fn add(
        &mut self,
        a: Circuit,
        b: Circuit,
        (rate_bps, burst_bytes, limit_bytes): (u64, u64, u64),
        now_ns: u64,
    ) -> Result<()> {
        if a.link == b.link {
            return Err(Error::Invalid("a circuit joins two different links"));
        }
        if self.legs.contains_key(&a) || self.legs.contains_key(&b) {
            return Err(Error::Invalid("the label is in use on that link"));
        }
        if self.legs.len() >= 2 * CAPACITY {
            return Err(Error::Invalid("too many circuits"));
        }
        let entry = Some(Entry {
            a,
            b,
            bucket: Bucket::new(rate_bps, burst_bytes, now_ns),
            limit_bytes,
            datagrams: 0,
            bytes: 0,
            dropped: 0,
            busy_ns: None,
            spent_told: false,
        });
        let at = match self.free.pop() {
            Some(at) => at,
            None => {
                self.entries.push(None);
                self.entries.len() - 1
            }
        };
        if let Some(place) = self.entries.get_mut(at) {
            *place = entry;
        }
        self.legs.insert(a, (b, at));
        self.legs.insert(b, (a, at));
        Ok(())
    }

    pub fn limit(
        &mut self,
        a: Circuit,
        rate_bps: Option<u64>,
        limit_bytes: Option<u64>,
    ) -> Result<()> {
        let entry = self
            .legs
            .get(&a)
            .and_then(|(_, at)| self.entries.get_mut(*at)?.as_mut())
            .ok_or(Error::Invalid("no such circuit"))?;
        if let Some(rate) = rate_bps {
            entry.bucket.bytes_per_ns = rate as f64 / 8e9;
        }
        if let Some(limit) = limit_bytes {
            entry.limit_bytes = limit;
            entry.spent_told = false;
        }
        Ok(())
    }

    /// Part a circuit, named by either end; nothing if there is none.
    pub fn remove(&mut self, end: Circuit) {
        if let Some((other, at)) = self.legs.remove(&end) {
            self.legs.remove(&other);
            if let Some(place) = self.entries.get_mut(at) {
                *place = None;
            }
            self.free.push(at);
        }
    }

    /// Part every circuit of a link that is gone.
    pub fn forget_link(&mut self, link: u32) {
        let gone: Vec<Circuit> = self
            .legs
            .keys()
            .filter(|c| c.link == link)
            .copied()
            .collect();
        for end in gone {
            self.remove(end);
        }
    }

    /// Let the circuits of the link `old` go over `new`.
    pub fn rebind(&mut self, old: u32, new: u32) {
        let moved = |c: Circuit| {
            let link = if c.link == old { new } else { c.link };
            Circuit { link, ..c }
        };
        let legs = std::mem::take(&mut self.legs);
        self.legs = legs
            .into_iter()
            .map(|(from, (to, at))| (moved(from), (moved(to), at)))
            .collect();
        for entry in self.entries.iter_mut().flatten() {
            (entry.a, entry.b) = (moved(entry.a), moved(entry.b));
        }
    }

    pub fn set_rate(&mut self, rate_bps: Option<u64>, now_ns: u64) {
        // A tenth of a second of burst: senders send super-packets.
        self.all = rate_bps.map(|rate| Bucket::new(rate, (rate / 80).max(256 << 10), now_ns));
    }

    /// Decide on a frame that came from `from` and carries `bytes`.
    #[inline]
    pub fn pass(&mut self, from: Circuit, bytes: usize, now_ns: u64) -> Verdict {
        let Some((to, at)) = self.legs.get(&from) else {
            return Verdict::Unknown;
        };
        let Some(Some(entry)) = self.entries.get_mut(*at) else {
            return Verdict::Unknown;
        };
        if entry.bytes + bytes as u64 > entry.limit_bytes {
            entry.dropped += 1;
            self.dropped += 1;
            let first = !std::mem::replace(&mut entry.spent_told, true);
            return if first { Verdict::Spent } else { Verdict::Drop };
        }
        // Its own rate first: what that drops costs the others nothing.
        let own = entry.bucket.take(bytes, now_ns);
        let all = own && self.all.as_mut().is_none_or(|b| b.take(bytes, now_ns));
        if !all {
            if own {
                entry.bucket.tokens += bytes as f64;
                entry.busy_ns = Some(now_ns);
            }
            entry.dropped += 1;
            self.dropped += 1;
            return Verdict::Drop;
        }
        entry.datagrams += 1;
        entry.bytes += bytes as u64;
        self.datagrams += 1;
        self.bytes += bytes as u64;
        Verdict::Forward(*to)
    }

    #[must_use]
    pub fn has(&self, end: Circuit) -> bool {
        self.legs.contains_key(&end)
    }

    #[must_use]
    pub fn stats(&self, now_ns: u64) -> Vec<CircuitStats> {
        self.entries
            .iter()
            .flatten()
            .map(|e| CircuitStats {
                a: e.a,
                b: e.b,
                datagrams: e.datagrams,
                bytes: e.bytes,
                dropped: e.dropped,
                busy: e.busy_ns.is_some_and(|t| now_ns < t + BUSY_NS),
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn end(link: u32, label: u32) -> Circuit {
        Circuit { link, label }
    }

    fn one(rate_bps: u64, limit: u64) -> Forwarding {
        let mut f = Forwarding::default();
        f.add(end(1, 10), end(2, 20), (rate_bps, 10_000, limit), 0)
            .unwrap();
        f
    }

    /// Frames go both ways, and nowhere without a circuit.
    #[test]
    fn both_ways_and_nowhere_else() {
        let mut f = one(1_000_000, u64::MAX);
        assert_eq!(f.pass(end(1, 10), 100, 0), Verdict::Forward(end(2, 20)));
        assert_eq!(f.pass(end(2, 20), 100, 0), Verdict::Forward(end(1, 10)));
        assert_eq!(f.pass(end(1, 20), 100, 0), Verdict::Unknown);
        f.remove(end(2, 20));
        assert_eq!(f.pass(end(1, 10), 100, 0), Verdict::Unknown);
        assert!(f.legs.is_empty() && f.stats(0).is_empty());
    }

    /// No second is longer than its rate, and the burst comes once.
    #[test]
    fn the_rate_holds() {
        let mut f = one(8_000_000, u64::MAX);
        let mut passed = 0u64;
        for ms in 0..1_000 {
            for _ in 0..5 {
                if f.pass(end(1, 10), 1_000, ms * 1_000_000) != Verdict::Drop {
                    passed += 1_000;
                }
            }
        }
        assert!((1_000_000..=1_010_000).contains(&passed), "{passed}");
        let stats = f.stats(999_000_000);
        let first = stats.first().unwrap();
        assert!(!first.busy && first.dropped == 5_000 - passed / 1_000);
    }

    /// A circuit above its own rate takes nothing from the node's, which alone makes it busy.
    #[test]
    fn a_greedy_circuit_starves_nobody() {
        let mut f = one(8_000, u64::MAX);
        f.add(end(3, 1), end(4, 1), (8_000_000_000, 1 << 20, u64::MAX), 0)
            .unwrap();
        f.set_rate(Some(80_000_000), 0);
        let mut passed = 0;
        for ms in 1..=1_000 {
            for _ in 0..200 {
                f.pass(end(1, 10), 1_000, ms * 1_000_000);
            }
            if f.pass(end(3, 1), 9_000, ms * 1_000_000) != Verdict::Drop {
                passed += 1;
            }
        }
        assert!(passed > 990, "{passed}");
        for _ in 0..200 {
            f.pass(end(3, 1), 9_000, 1_000_000_000);
        }
        let busy: Vec<bool> = f.stats(1_000_000_000).iter().map(|c| c.busy).collect();
        assert_eq!(busy, [false, true]);
    }

    /// The limit over a circuit's life holds to the byte, is told once, and can be raised.
    #[test]
    fn the_limit_holds() {
        let mut f = one(u64::MAX, 2_500);
        let verdicts = [1, 2, 3, 4].map(|_| f.pass(end(1, 10), 1_000, 0));
        let forward = Verdict::Forward(end(2, 20));
        assert_eq!(verdicts, [forward, forward, Verdict::Spent, Verdict::Drop]);
        f.limit(end(2, 20), None, Some(10_000)).unwrap();
        assert_eq!(f.pass(end(1, 10), 1_000, 0), forward);
    }

    /// A label is used once per link, no circuit goes back where it came from, and the table is bounded.
    #[test]
    fn labels_are_unique_and_the_table_is_bounded() {
        let mut f = one(1, 1);
        let quota = (1, 1, 1);
        assert!(f.add(end(1, 10), end(3, 1), quota, 0).is_err());
        assert!(f.add(end(3, 1), end(2, 20), quota, 0).is_err());
        assert!(f.add(end(3, 1), end(3, 2), quota, 0).is_err());
        for label in 0..CAPACITY as u32 - 1 {
            f.add(end(5, label), end(6, label), quota, 0).unwrap();
        }
        assert!(f.add(end(7, 0), end(8, 0), quota, 0).is_err());
        f.forget_link(5);
        assert_eq!(f.stats(0).len(), 1);
        f.add(end(7, 0), end(8, 0), quota, 0).unwrap();
    }

    /// A replaced link keeps its circuits.
    #[test]
    fn a_link_is_rebound() {
        let mut f = one(u64::MAX, u64::MAX);
        f.rebind(1, 9);
        assert_eq!(f.pass(end(1, 10), 1, 0), Verdict::Unknown);
        assert_eq!(f.pass(end(9, 10), 1, 0), Verdict::Forward(end(2, 20)));
        assert_eq!(f.pass(end(2, 20), 1, 0), Verdict::Forward(end(9, 10)));
    }
}
