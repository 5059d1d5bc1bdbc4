//! Reading inner IPv4 and IPv6 packets, and the Internet checksum.
//!
//! [`parse`] is total: whatever it accepts has all its headers inside the slice.
//! Source: RFC 791, RFC 8200 section 4, RFC 1071.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::bytes::{get8, get16, put16};

/// Protocol number of ICMP.
pub const ICMP: u8 = 1;
/// Protocol number of TCP.
pub const TCP: u8 = 6;
/// Protocol number of UDP.
pub const UDP: u8 = 17;
/// Protocol number of ICMPv6.
pub const ICMPV6: u8 = 58;

const SCTP: u8 = 132;
const UDP_LITE: u8 = 136;
const DCCP: u8 = 33;

/// More extension headers than this are not walked: no honest packet has them.
const MAX_EXTENSIONS: usize = 8;

/// What the network header of a packet says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Packet {
    /// 4 or 6.
    pub version: u8,
    /// Length of the IPv4 header with options, or of the IPv6 header with its extension headers.
    pub header_len: usize,
    /// The transport protocol (after the extension headers).
    pub proto: u8,
    /// Source address.
    pub src: IpAddr,
    /// Destination address.
    pub dst: IpAddr,
    /// Length of the whole packet as its header says; never more than the slice had.
    pub total_len: usize,
    /// A fragment, the first included.
    pub fragment: bool,
    /// A fragment other than the first: there is no transport header.
    pub later_fragment: bool,
    /// IPv4 options or IPv6 extension headers are present.
    pub options: bool,
    /// Source and destination port, where the protocol has them and they are in this packet.
    pub ports: Option<(u16, u16)>,
}

impl Packet {
    /// A number that is equal for the packets of one flow (5-tuple) and, mostly, for no others.
    #[inline]
    #[must_use]
    pub fn flow(&self) -> u64 {
        let fold = |ip: IpAddr| match ip {
            IpAddr::V4(ip) => u64::from(ip.to_bits()),
            IpAddr::V6(ip) => (ip.to_bits() >> 64) as u64 ^ ip.to_bits() as u64,
        };
        let (from, to) = self.ports.unwrap_or_default();
        let rest = u64::from(self.proto) << 32 | u64::from(from) << 16 | u64::from(to);
        let mixed = [fold(self.src), fold(self.dst), rest]
            .iter()
            .fold(0, |h: u64, word| {
                (h.rotate_left(23) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15)
            });
        mixed ^ mixed >> 32
    }
}

/// Read the network header of the packet at the front of `bytes`.
///
/// `None` for what is not one whole IP packet: another version, a header or a total length that
/// exceeds the slice, a chain of extension headers that cannot be walked.
#[inline]
pub fn parse(bytes: &[u8]) -> Option<Packet> {
    match bytes.first()? >> 4 {
        4 => parse_v4(bytes),
        6 => parse_v6(bytes),
        _ => None,
    }
}

#[inline]
fn parse_v4(bytes: &[u8]) -> Option<Packet> {
    let fixed: &[u8; 20] = bytes.first_chunk()?;
    let header_len = usize::from(fixed[0] & 15) * 4;
    let total_len = usize::from(u16::from_be_bytes([fixed[2], fixed[3]]));
    if header_len < 20 || header_len > total_len || total_len > bytes.len() {
        return None;
    }
    let fragment = u16::from_be_bytes([fixed[6], fixed[7]]);
    let later_fragment = fragment & 0x1FFF != 0;
    let proto = fixed[9];
    let packet = bytes.get(..total_len)?;
    Some(Packet {
        version: 4,
        header_len,
        proto,
        src: IpAddr::V4(Ipv4Addr::new(fixed[12], fixed[13], fixed[14], fixed[15])),
        dst: IpAddr::V4(Ipv4Addr::new(fixed[16], fixed[17], fixed[18], fixed[19])),
        total_len,
        fragment: fragment & 0x3FFF != 0,
        later_fragment,
        options: header_len > 20,
        ports: if later_fragment {
            None
        } else {
            ports(packet, header_len, proto)
        },
    })
}

#[inline]
fn parse_v6(bytes: &[u8]) -> Option<Packet> {
    let fixed: &[u8; 40] = bytes.first_chunk()?;
    let total_len = 40 + usize::from(u16::from_be_bytes([fixed[4], fixed[5]]));
    let packet = bytes.get(..total_len)?;
    let walk = walk_extensions(packet, fixed[6])?;
    Some(Packet {
        version: 6,
        header_len: walk.header_len,
        proto: walk.proto,
        src: IpAddr::V6(v6_at(fixed, 8)?),
        dst: IpAddr::V6(v6_at(fixed, 24)?),
        total_len,
        fragment: walk.fragment,
        later_fragment: walk.later_fragment,
        options: walk.header_len > 40,
        ports: if walk.later_fragment {
            None
        } else {
            ports(packet, walk.header_len, walk.proto)
        },
    })
}

struct Walk {
    header_len: usize,
    proto: u8,
    fragment: bool,
    later_fragment: bool,
}

#[inline]
fn walk_extensions(packet: &[u8], first: u8) -> Option<Walk> {
    let mut walk = Walk {
        header_len: 40,
        proto: first,
        fragment: false,
        later_fragment: false,
    };
    // Invariant: header_len <= packet.len(), so everything walked over lies inside the packet.
    for _ in 0..=MAX_EXTENSIONS {
        let at = walk.header_len;
        let length = match walk.proto {
            // Hop-by-hop, routing, destination options, mobility, HIP, shim6.
            0 | 43 | 60 | 135 | 139 | 140 => (usize::from(*packet.get(at + 1)?) + 1) * 8,
            // Fragment.
            44 => 8,
            // Authentication header.
            51 => (usize::from(*packet.get(at + 1)?) + 2) * 4,
            _ => return Some(walk),
        };
        let header = packet.get(at..at + length)?;
        if walk.proto == 44 {
            walk.fragment = true;
            walk.later_fragment = get16(header, 2) & 0xFFF8 != 0;
        }
        walk.proto = get8(header, 0);
        walk.header_len = at + length;
        if walk.later_fragment {
            return Some(walk);
        }
    }
    None
}

#[inline]
fn ports(packet: &[u8], at: usize, proto: u8) -> Option<(u16, u16)> {
    match (proto, packet.get(at..at + 4)?) {
        (TCP | UDP | SCTP | UDP_LITE | DCCP, &[a, b, c, d]) => {
            Some((u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])))
        }
        _ => None,
    }
}

#[inline]
fn v6_at(bytes: &[u8], at: usize) -> Option<Ipv6Addr> {
    let octets: [u8; 16] = *bytes.get(at..)?.first_chunk()?;
    Some(Ipv6Addr::from(octets))
}

#[inline]
fn v4_at(bytes: &[u8], at: usize) -> Option<Ipv4Addr> {
    let octets: [u8; 4] = *bytes.get(at..)?.first_chunk()?;
    Some(Ipv4Addr::from(octets))
}

/// The source address of a packet, without the checks of [`parse`].
#[inline]
pub fn src(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.first()? >> 4 {
        4 => v4_at(bytes, 12).map(IpAddr::V4),
        6 => v6_at(bytes, 8).map(IpAddr::V6),
        _ => None,
    }
}

/// The destination address of a packet, without the checks of [`parse`].
#[inline]
pub fn dst(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.first()? >> 4 {
        4 => v4_at(bytes, 16).map(IpAddr::V4),
        6 => v6_at(bytes, 24).map(IpAddr::V6),
        _ => None,
    }
}

/// The one's complement sum of `bytes` as 16-bit big-endian words, folded to 16 bits.
#[inline]
pub fn sum(bytes: &[u8]) -> u32 {
    // The sum does not care about byte order (RFC 1071 section 2B): add native words, swap once.
    let (words, rest) = bytes.as_chunks::<4>();
    let mut total: u64 = words
        .iter()
        .map(|word| u64::from(u32::from_ne_bytes(*word)))
        .sum();
    let mut tail = [0u8; 4];
    for (slot, byte) in tail.iter_mut().zip(rest) {
        *slot = *byte;
    }
    total += u64::from(u32::from_ne_bytes(tail));
    total = (total & 0xFFFF_FFFF) + (total >> 32);
    total = (total & 0xFFFF_FFFF) + (total >> 32);
    u32::from(u16::from_be(fold(total as u32)))
}

/// Fold a sum of 16-bit words to 16 bits with end-around carry.
#[inline]
pub const fn fold(sum: u32) -> u16 {
    let once = (sum & 0xFFFF) + (sum >> 16);
    ((once & 0xFFFF) + (once >> 16)) as u16
}

/// The checksum of an IPv4 header whose own checksum field counts as zero.
///
/// Shape: `header` is exactly the header, options included.
#[inline]
pub fn ipv4_checksum(header: &[u8]) -> u16 {
    let field = u32::from(get16(header, 10));
    // Subtracting in one's complement is adding the complement.
    !fold(sum(header) + (!field & 0xFFFF))
}

/// The unfolded sum of the pseudo header.
///
/// Shape: `addresses` are source and destination as they stand in the packet, 8 or 32 bytes.
#[inline]
pub fn pseudo_sum(addresses: &[u8], proto: u8, l4_len: usize) -> u32 {
    sum(addresses) + u32::from(proto) + (l4_len as u32 & 0xFFFF) + (l4_len as u32 >> 16)
}

/// Complete a partial checksum: the field at `csum_start + csum_offset` holds the folded pseudo
/// header sum, and becomes the checksum of everything from `csum_start` on.
///
/// False, and nothing written, if the field is not inside `packet`. A checksum of zero is written
/// as 0xFFFF, its equal, because in UDP zero means none.
#[inline]
pub fn checksum_complete(packet: &mut [u8], csum_start: usize, csum_offset: usize) -> bool {
    let field = csum_start.saturating_add(csum_offset);
    if packet.get(field..field.saturating_add(2)).is_none() {
        return false;
    }
    let checksum = match !fold(packet.get(csum_start..).map_or(0, sum)) {
        0 => 0xFFFF,
        other => other,
    };
    put16(packet, field, checksum);
    true
}
