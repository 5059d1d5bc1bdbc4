//! The virtio_net_hdr that stands before every packet of a TUN device opened with `IFF_VNET_HDR`.
//!
//! ```text
//! 0       1          2             4              6                8              10
//! | flags | gso_type | hdr_len u16 | gso_size u16 | csum_start u16 | csum_offset u16 |   native endian
//! ```
//! Source: virtio 1.2 section 5.1.6, Linux `include/uapi/linux/virtio_net.h`.

/// Length of the header.
pub const VNET: usize = 10;

/// Flag: the checksum is partial, `csum_start` and `csum_offset` say where to complete it.
pub const NEEDS_CSUM: u8 = 1;
/// Flag: the checksum was verified.
pub const DATA_VALID: u8 = 2;

/// One packet, no segmentation.
pub const GSO_NONE: u8 = 0;
/// TCP over IPv4 super-packet.
pub const GSO_TCPV4: u8 = 1;
/// UDP fragmentation offload (obsolete, never asked for).
pub const GSO_UDP: u8 = 3;
/// TCP over IPv6 super-packet.
pub const GSO_TCPV6: u8 = 4;
/// UDP segmentation offload (USO).
pub const GSO_UDP_L4: u8 = 5;
/// Bit of `gso_type`: the first TCP segment carries CWR.
pub const GSO_ECN: u8 = 0x80;

/// A virtio_net_hdr.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Vnet {
    /// [`NEEDS_CSUM`], [`DATA_VALID`].
    pub flags: u8,
    /// One of the `GSO_` types, with or without [`GSO_ECN`].
    pub gso_type: u8,
    /// Length of all headers; what the kernel says here is not to be trusted.
    pub hdr_len: u16,
    /// Payload bytes per segment.
    pub gso_size: u16,
    /// Where the checksummed bytes begin.
    pub csum_start: u16,
    /// Where the checksum stands, from `csum_start`.
    pub csum_offset: u16,
}

impl Vnet {
    /// Read the header at the front of `bytes`; `None` if they are too few.
    #[inline]
    pub fn parse(bytes: &[u8]) -> Option<Vnet> {
        let bytes: &[u8; VNET] = bytes.first_chunk()?;
        let [flags, gso_type, a, b, c, d, e, f, g, h] = *bytes;
        Some(Vnet {
            flags,
            gso_type,
            hdr_len: u16::from_ne_bytes([a, b]),
            gso_size: u16::from_ne_bytes([c, d]),
            csum_start: u16::from_ne_bytes([e, f]),
            csum_offset: u16::from_ne_bytes([g, h]),
        })
    }

    /// The bytes of this header.
    #[inline]
    pub fn emit(&self) -> [u8; VNET] {
        let [a, b] = self.hdr_len.to_ne_bytes();
        let [c, d] = self.gso_size.to_ne_bytes();
        let [e, f] = self.csum_start.to_ne_bytes();
        let [g, h] = self.csum_offset.to_ne_bytes();
        [self.flags, self.gso_type, a, b, c, d, e, f, g, h]
    }

    /// Whether the checksum is partial.
    #[inline]
    pub fn needs_csum(&self) -> bool {
        self.flags & NEEDS_CSUM != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The header survives a round trip and stands in native byte order.
    #[test]
    fn round_trip() {
        let vnet = Vnet {
            flags: NEEDS_CSUM,
            gso_type: GSO_TCPV6 | GSO_ECN,
            hdr_len: 72,
            gso_size: 1328,
            csum_start: 40,
            csum_offset: 16,
        };
        let bytes = vnet.emit();
        assert_eq!(bytes[4..6], 1328u16.to_ne_bytes());
        assert_eq!(Vnet::parse(&bytes), Some(vnet));
        assert_eq!(Vnet::parse(&bytes[..9]), None);
    }
}
