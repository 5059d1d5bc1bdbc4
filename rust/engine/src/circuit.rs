//! How a circuit's end is written as an address, so that every table and check that knows a source
//! knows circuits too.
//!
//! ```text
//! 0100:0000 : link sid 32 bits : 0000:0000 : label 32 bits      port 1
//! ```
//! The block 0100::/32 is reserved and routed nowhere (RFC 6666 takes a part of it for discard);
//! what really comes from it is dropped before anything looks at it.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

const BLOCK: u128 = 0x0100_0000 << 96;
const PORT: u16 = 1;

/// One end of a circuit: a label on a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Circuit {
    /// The sid of the session that is the link.
    pub link: u32,
    pub label: u32,
}

impl Circuit {
    /// The address that stands for it.
    #[must_use]
    pub fn address(self) -> SocketAddr {
        let bits = BLOCK | u128::from(self.link) << 64 | u128::from(self.label);
        SocketAddr::new(Ipv6Addr::from_bits(bits).into(), PORT)
    }

    /// The circuit that `address` stands for.
    #[inline]
    #[must_use]
    pub fn of(address: SocketAddr) -> Option<Circuit> {
        let IpAddr::V6(ip) = address.ip() else {
            return None;
        };
        let bits = ip.to_bits();
        in_block(bits).then_some(Circuit {
            link: (bits >> 64) as u32,
            label: bits as u32,
        })
    }
}

/// Whether an address stands for a circuit or a carrier: nothing on the underlay has it.
#[inline]
#[must_use]
pub fn is_stand_in(address: SocketAddr) -> bool {
    // 0100:0000::/32 and 0100:0001::/32.
    matches!(address.ip(), IpAddr::V6(ip) if ip.to_bits() >> 97 == BLOCK >> 97)
}

#[inline]
fn in_block(bits: u128) -> bool {
    bits >> 96 == BLOCK >> 96
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Every circuit has an address of its own, and no other address is taken for one.
        #[test]
        fn round_trip(link: u32, label: u32, other: u128) {
            let circuit = Circuit { link, label };
            prop_assert_eq!(Circuit::of(circuit.address()), Some(circuit));
            let other = SocketAddr::new(Ipv6Addr::from_bits(other).into(), 1);
            prop_assert_eq!(Circuit::of(other).is_some(), other.ip().to_string().starts_with("100:0:"));
            prop_assert_eq!(Circuit::of(([1, 0, 0, 0], 1).into()), None);
        }
    }
}
