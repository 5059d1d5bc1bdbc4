//! Answers to packets that cannot travel: destination unreachable and packet too big.
//!
//! Never about ICMP errors, about later fragments, or to or about multicast, broadcast, loopback or
//! unspecified addresses. Source: RFC 792, RFC 1122 section 3.2.2, RFC 1812 section 4.3.2, RFC
//! 4443.

use std::net::IpAddr;

use crate::bytes::{get8, put, put8, put16, put32};
use crate::ip::{self, ICMP, ICMPV6, fold, ipv4_checksum, pseudo_sum, sum};

/// The longest answer over IPv4: RFC 1812 section 4.3.2.3.
const LONGEST_V4: usize = 576;
/// The longest answer over IPv6: the minimum MTU, RFC 4443 section 2.4.
const LONGEST_V6: usize = 1280;

/// A buffer of this size takes any answer.
pub const LONGEST: usize = LONGEST_V6;

/// Why a packet cannot be delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// No node serves this address.
    NoRoute,
    /// The node is known but cannot be reached.
    Host,
    /// Policy forbids it.
    Prohibited,
}

/// Write to `out` an answer from `from` that tells the sender of `packet` why it was not delivered.
///
/// Returns the answer's length; `None` if none may be sent, `from` is of the other family, or `out`
/// is too short.
pub fn unreachable(packet: &[u8], reason: Reason, from: IpAddr, out: &mut [u8]) -> Option<usize> {
    let (v4, v6) = match reason {
        Reason::NoRoute => (0, 0),
        Reason::Host => (1, 3),
        Reason::Prohibited => (13, 1),
    };
    answer(packet, from, [(3, v4), (1, v6)], 0, out)
}

/// Write to `out` an answer that tells the sender of `packet` the largest packet that can pass.
///
/// Units: `mtu` bytes of inner packet. Returns as [`unreachable()`] does.
pub fn too_big(packet: &[u8], mtu: u16, from: IpAddr, out: &mut [u8]) -> Option<usize> {
    answer(packet, from, [(3, 4), (2, 0)], u32::from(mtu), out)
}

/// `kinds` are type and code for IPv4 and IPv6.
fn answer(
    packet: &[u8],
    from: IpAddr,
    kinds: [(u8, u8); 2],
    word: u32,
    out: &mut [u8],
) -> Option<usize> {
    let ip = ip::parse(packet)?;
    if ip.later_fragment || is_error(packet, &ip) || !is_host(ip.src) || !is_host(ip.dst) {
        return None;
    }
    let whole = packet.get(..ip.total_len)?;
    let [v4, v6] = kinds;
    match (from, ip.src) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let total = (28 + whole.len()).min(LONGEST_V4);
            let out = out.get_mut(..total)?;
            out.fill(0);
            put16(out, 0, 0x4500);
            put16(out, 2, total as u16);
            put16(out, 6, 0x4000);
            put8(out, 8, 64);
            put8(out, 9, ICMP);
            put(out, 12, &from.octets());
            put(out, 16, &to.octets());
            let checksum = out.get(..20).map_or(0, ipv4_checksum);
            put16(out, 10, checksum);
            body(out, 20, v4, word, whole, 0);
            Some(total)
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let total = (48 + whole.len()).min(LONGEST_V6);
            let out = out.get_mut(..total)?;
            out.fill(0);
            put8(out, 0, 0x60);
            put16(out, 4, (total - 40) as u16);
            put8(out, 6, ICMPV6);
            put8(out, 7, 64);
            put(out, 8, &from.octets());
            put(out, 24, &to.octets());
            let pseudo = out
                .get(8..40)
                .map_or(0, |pair| pseudo_sum(pair, ICMPV6, total - 40));
            body(out, 40, v6, word, whole, pseudo);
            Some(total)
        }
        _ => None,
    }
}

fn body(out: &mut [u8], at: usize, kind: (u8, u8), word: u32, quoted: &[u8], pseudo: u32) {
    put8(out, at, kind.0);
    put8(out, at + 1, kind.1);
    // The next-hop MTU of IPv4 (16 bits, RFC 1191) and the MTU of IPv6 end at the same byte.
    put32(out, at + 4, word);
    let room = out.len() - at - 8;
    put(out, at + 8, quoted.get(..room).unwrap_or(quoted));
    let checksum = !fold(pseudo + out.get(at..).map_or(0, sum));
    put16(out, at + 2, checksum);
}

/// An ICMP message that is not known to be harmless to answer.
fn is_error(packet: &[u8], ip: &ip::Packet) -> bool {
    let kind = get8(packet, ip.header_len);
    match ip.proto {
        // Echo and its reply, timestamp and its reply.
        ICMP => ip.header_len >= ip.total_len || !matches!(kind, 0 | 8 | 13 | 14),
        ICMPV6 => ip.header_len >= ip.total_len || kind < 128,
        _ => false,
    }
}

/// An address that can be one host's.
fn is_host(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let first = v4.octets()[0];
            first != 0 && first != 127 && first < 224
        }
        IpAddr::V6(v6) => !v6.is_multicast() && !v6.is_unspecified() && !v6.is_loopback(),
    }
}
