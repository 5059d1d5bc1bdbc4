//! Connections that carry datagrams for us, as the engine sees them: sockets of whole messages.
//!
//! ```text
//! 0100:0001 : remote prefix 32 bits : 0000:0000 : number 32 bits      port 1
//! message    = record * (see `records`)
//! ```
//! A carrier is named by an address, as a circuit is, so that gate, sessions and paths know it as
//! they know any endpoint. The upper half is one and the same for all connections of a remote /24
//! or /64, so that budgets by prefix count what comes over them together; nobody outside can choose
//! it. INVARIANT: what really comes from that block is dropped unread, and nothing goes there but
//! over a carrier that is attached.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

const BLOCK: u128 = 0x0100_0001 << 96;
const PORT: u16 = 1;

/// The number of the carrier that `address` stands for.
#[inline]
#[must_use]
pub fn number(address: SocketAddr) -> Option<u32> {
    let IpAddr::V6(ip) = address.ip() else {
        return None;
    };
    let bits = ip.to_bits();
    (bits >> 96 == BLOCK >> 96).then_some(bits as u32)
}

/// The address that stands for carrier `number` of `remote`.
#[must_use]
pub fn stand_in(number: u32, remote: Option<IpAddr>, key: &RandomState) -> SocketAddr {
    let prefix = remote.map_or(0, |ip| key.hash_one(prefix(ip)) as u32);
    let bits = BLOCK | u128::from(prefix) << 64 | u128::from(number);
    SocketAddr::new(Ipv6Addr::from_bits(bits).into(), PORT)
}

/// What shares a budget: a /24 of IPv4, a /64 of IPv6.
fn prefix(ip: IpAddr) -> u64 {
    match ip.to_canonical() {
        IpAddr::V4(ip) => u64::from(ip.to_bits() >> 8),
        IpAddr::V6(ip) => (ip.to_bits() >> 64) as u64 | 1 << 63,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::circuit::{Circuit, is_stand_in};
    use proptest::prelude::*;

    proptest! {
        /// A carrier's address is no circuit's, no circuit's is a carrier's, and both are known as such.
        #[test]
        fn no_address_is_two_things(n: u32, link: u32, label: u32, ip: [u8; 4]) {
            let key = RandomState::new();
            let carrier = stand_in(n, Some(ip.into()), &key);
            let circuit = Circuit { link, label }.address();
            prop_assert_eq!(number(carrier), Some(n));
            prop_assert_eq!(number(circuit), None);
            prop_assert_eq!(Circuit::of(carrier), None);
            prop_assert!(is_stand_in(carrier) && is_stand_in(circuit));
            prop_assert!(!is_stand_in(SocketAddr::new(ip.into(), 1)));
        }
    }

    /// One host's connections share an upper half, which another run of the program chooses anew.
    #[test]
    fn a_prefix_shares_its_budget() {
        let key = RandomState::new();
        let half = |n: u32, ip: [u8; 4]| match stand_in(n, Some(ip.into()), &key).ip() {
            IpAddr::V6(ip) => ip.to_bits() >> 64,
            IpAddr::V4(_) => 0,
        };
        assert_eq!(half(1, [192, 0, 2, 1]), half(2, [192, 0, 2, 200]));
        assert_ne!(half(1, [192, 0, 2, 1]), half(2, [192, 0, 3, 1]));
    }
}
