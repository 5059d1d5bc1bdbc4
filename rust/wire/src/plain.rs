//! The only packets that travel without checksums: TCP or UDP right behind an IPv4 header without
//! options or an IPv6 header without extension headers, not a fragment.
//!
//! Everything that a receiver rebuilds (lengths, checksums) it can rebuild from these headers
//! alone. With a source route or a routing header the pseudo header names another destination than
//! the packet does, hence the restriction.

use crate::bytes::{get8, get16, put16};
use crate::ip::{TCP, UDP, fold, ipv4_checksum, pseudo_sum};

/// The shape of such a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Plain {
    pub v6: bool,
    pub tcp: bool,
    /// Length of the IP header: 20 or 40.
    pub l4: usize,
    /// Length of all headers: at most 100.
    pub header: usize,
    /// Length of the packet, as its IP header says.
    pub total: usize,
}

impl Plain {
    /// Recognise a plain packet at the front of `bytes`. The length field of UDP is not looked at.
    #[inline]
    pub fn parse(bytes: &[u8]) -> Option<Plain> {
        let first = *bytes.first()?;
        let (v6, l4, total, proto) = if first == 0x45 {
            let fixed: &[u8; 20] = bytes.first_chunk()?;
            // More fragments, or an offset. DF and the reserved bit may stand.
            if u16::from_be_bytes([fixed[6], fixed[7]]) & 0x3FFF != 0 {
                return None;
            }
            (
                false,
                20,
                usize::from(u16::from_be_bytes([fixed[2], fixed[3]])),
                fixed[9],
            )
        } else if first >> 4 == 6 {
            let fixed: &[u8; 40] = bytes.first_chunk()?;
            (
                true,
                40,
                40 + usize::from(u16::from_be_bytes([fixed[4], fixed[5]])),
                fixed[6],
            )
        } else {
            return None;
        };
        let (tcp, header) = match proto {
            TCP => {
                let length = usize::from(bytes.get(l4 + 12)? >> 4) * 4;
                if length < 20 {
                    return None;
                }
                (true, l4 + length)
            }
            UDP => (false, l4 + 8),
            _ => return None,
        };
        (header <= total && total <= bytes.len()).then_some(Plain {
            v6,
            tcp,
            l4,
            header,
            total,
        })
    }

    /// Whether UDP's own length says what IP says (TCP has none).
    #[inline]
    pub fn udp_length_agrees(&self, packet: &[u8]) -> bool {
        self.tcp || usize::from(get16(packet, self.l4 + 4)) == self.total - self.l4
    }

    /// Where the transport checksum stands, from the transport header.
    #[inline]
    pub fn csum_offset(&self) -> usize {
        if self.tcp { 16 } else { 6 }
    }

    /// The unfolded pseudo header sum for `l4_len` bytes of transport header and payload.
    #[inline]
    pub fn pseudo_sum(&self, packet: &[u8], l4_len: usize) -> u32 {
        let addresses = if self.v6 {
            packet.get(8..40)
        } else {
            packet.get(12..20)
        };
        let proto = if self.tcp { TCP } else { UDP };
        pseudo_sum(addresses.unwrap_or(&[]), proto, l4_len)
    }

    /// Write the lengths, the IPv4 checksum and the folded pseudo header sum of a packet of `total`
    /// bytes.
    #[inline]
    pub fn seal_partial(&self, packet: &mut [u8], total: usize) {
        let l4_len = total - self.l4;
        if self.v6 {
            put16(packet, 4, l4_len as u16);
        } else {
            put16(packet, 2, total as u16);
            let checksum = packet.get(..20).map_or(0, ipv4_checksum);
            put16(packet, 10, checksum);
        }
        if !self.tcp {
            put16(packet, self.l4 + 4, l4_len as u16);
        }
        let pseudo = fold(self.pseudo_sum(packet, l4_len));
        put16(packet, self.l4 + self.csum_offset(), pseudo);
    }

    /// The TCP flags byte.
    #[inline]
    pub fn flags(&self, packet: &[u8]) -> u8 {
        get8(packet, self.l4 + 13)
    }
}

/// Bits of the TCP flags byte.
pub(crate) mod flag {
    pub const FIN: u8 = 0x01;
    pub const SYN: u8 = 0x02;
    pub const RST: u8 = 0x04;
    pub const PSH: u8 = 0x08;
    pub const ACK: u8 = 0x10;
    pub const URG: u8 = 0x20;
    pub const CWR: u8 = 0x80;
}
