//! Packets that wait for a channel: at most 32 or 64 KB per destination, for 5 s.

use std::collections::HashMap;
use std::net::IpAddr;

const PACKETS: usize = 32;
const BYTES: usize = 64 << 10;
const DESTINATIONS: usize = 64;
const LIFE_NS: u64 = 5_000_000_000;
const ASK_AGAIN_NS: u64 = 1_000_000_000;

struct Queue {
    packets: Vec<Vec<u8>>,
    bytes: usize,
    since_ns: u64,
    asked_ns: u64,
}

#[derive(Default)]
pub struct Waiting(HashMap<IpAddr, Queue>);

impl Waiting {
    /// Keep a packet as it was read (virtio header included); true if Python is to be asked.
    pub fn push(&mut self, destination: IpAddr, packet: &[u8], now_ns: u64) -> bool {
        if !self.0.contains_key(&destination) && self.0.len() >= DESTINATIONS {
            return false;
        }
        let fresh = || Queue {
            packets: Vec::new(),
            bytes: 0,
            since_ns: now_ns,
            asked_ns: 0,
        };
        let queue = self.0.entry(destination).or_insert_with(fresh);
        // The first packet is kept whatever its size: one super-packet may fill the quota.
        if queue.packets.is_empty()
            || (queue.packets.len() < PACKETS && queue.bytes + packet.len() <= BYTES)
        {
            queue.bytes += packet.len();
            queue.packets.push(packet.to_vec());
        }
        let ask = queue.asked_ns == 0 || now_ns - queue.asked_ns >= ASK_AGAIN_NS;
        if ask {
            queue.asked_ns = now_ns;
        }
        ask
    }

    pub fn take(&mut self, destination: IpAddr) -> Vec<Vec<u8>> {
        self.0
            .remove(&destination)
            .map(|q| q.packets)
            .unwrap_or_default()
    }

    /// Destinations for which `here` holds.
    pub fn destinations(&self, here: impl Fn(IpAddr) -> bool) -> Vec<IpAddr> {
        self.0.keys().copied().filter(|d| here(*d)).collect()
    }

    /// Destinations that waited too long.
    pub fn expired(&self, now_ns: u64) -> Vec<IpAddr> {
        let old = |q: &Queue| now_ns.saturating_sub(q.since_ns) >= LIFE_NS;
        self.0
            .iter()
            .filter(|(_, q)| old(q))
            .map(|(d, _)| *d)
            .collect()
    }

    #[must_use]
    pub fn next_ns(&self) -> Option<u64> {
        self.0.values().map(|q| q.since_ns + LIFE_NS).min()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Packets, bytes, destinations and time are all bounded.
    #[test]
    fn every_bound_holds() {
        let mut waiting = Waiting::default();
        let a: IpAddr = "fd00::1".parse().unwrap();
        assert!(waiting.push(a, &[0; 100], 1));
        assert!(!waiting.push(a, &[0; 100], 2));
        let again = 2 + ASK_AGAIN_NS;
        assert!(waiting.push(a, &[0; 100], again));
        for _ in 0..100 {
            waiting.push(a, &[0; 100], again);
        }
        assert!(waiting.expired(LIFE_NS).is_empty());
        assert_eq!(waiting.expired(LIFE_NS + 1), vec![a]);
        assert_eq!(waiting.take(a).len(), PACKETS);
        waiting.push(a, &[0; 60_000], again);
        waiting.push(a, &[0; 60_000], again);
        assert_eq!(waiting.take(a).len(), 1);
        for n in 0..200u32 {
            waiting.push(IpAddr::V4(n.into()), &[0; 10], again);
        }
        assert_eq!(waiting.0.len(), DESTINATIONS);
    }
}
