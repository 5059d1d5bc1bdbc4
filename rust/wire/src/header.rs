//! The 16 clear bytes in front of every datagram (masked on the wire, the AAD of its seal).
//!
//! ```text
//! 0        4            12           16
//! | idx u32 | counter u64 | meta u32  | ciphertext ... | tag 16 |      big endian
//! meta: kind 4 bits | epoch 4 | path 8 | segment 8 | flags 8
//! ```

/// Length of the header.
pub const HEADER: usize = 16;
/// Length of the AEAD tag.
pub const TAG: usize = 16;
/// What a datagram adds to an inner packet.
pub const OVERHEAD: usize = HEADER + TAG;

/// Flag: the last segment of its super-packet, the receiver need not wait for more.
pub const LAST: u8 = 1;
/// Flag: the second half of a part.
pub const SECOND_HALF: u8 = 2;
/// Flag: the packet of which this is a part has a partial checksum.
pub const PARTIAL: u8 = 4;

/// What a datagram carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// An inner packet without checksums: plain TCP or UDP, the receiver rebuilds them.
    Data = 0,
    /// An inner packet as it is, its checksums complete.
    Verbatim = 1,
    /// Half of an inner packet that the path MTU cannot take.
    Part = 2,
    /// A fragment of a control message or of the handshake.
    Control = 3,
    /// A path probe.
    Probe = 4,
    /// A receiver report.
    Report = 5,
    /// A relay frame.
    Relay = 6,
}

impl Kind {
    /// The kind with this number, if there is one.
    #[inline]
    pub const fn from_number(number: u8) -> Option<Kind> {
        Some(match number {
            0 => Kind::Data,
            1 => Kind::Verbatim,
            2 => Kind::Part,
            3 => Kind::Control,
            4 => Kind::Probe,
            5 => Kind::Report,
            6 => Kind::Relay,
            _ => return None,
        })
    }
}

/// A datagram's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Header {
    /// The receiver's own session id.
    pub idx: u32,
    /// Nonce counter of the key (session, direction, epoch, class, path).
    pub counter: u64,
    /// What the datagram carries.
    pub kind: Kind,
    /// Four bits, `(generation & 3) << 2 | (step & 3)`.
    pub epoch: u8,
    /// Path id inside the generation; 255 is the handshake's.
    pub path: u8,
    /// Index of the segment in its super-packet, modulo 256.
    pub segment: u8,
    /// [`LAST`], [`SECOND_HALF`], [`PARTIAL`].
    pub flags: u8,
}

impl Header {
    /// The 16 bytes of this header. Of `epoch` only the low four bits are sent.
    #[inline]
    pub fn emit(&self) -> [u8; HEADER] {
        let word = u128::from(self.idx) << 96
            | u128::from(self.counter) << 32
            | u128::from(self.kind as u8) << 28
            | u128::from(self.epoch & 15) << 24
            | u128::from(self.path) << 16
            | u128::from(self.segment) << 8
            | u128::from(self.flags);
        word.to_be_bytes()
    }

    /// Read a header; `None` for a kind that this version does not know.
    #[inline]
    pub fn parse(bytes: &[u8; HEADER]) -> Option<Header> {
        let word = u128::from_be_bytes(*bytes);
        Some(Header {
            idx: (word >> 96) as u32,
            counter: (word >> 32) as u64,
            kind: Kind::from_number((word >> 28) as u8 & 15)?,
            epoch: (word >> 24) as u8 & 15,
            path: (word >> 16) as u8,
            segment: (word >> 8) as u8,
            flags: word as u8,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every field stands where the layout drawing says.
    #[test]
    fn layout() {
        let header = Header {
            idx: 0x0102_0304,
            counter: 0x1112_1314_1516_1718,
            kind: Kind::Relay,
            epoch: 9,
            path: 0xAB,
            segment: 62,
            flags: LAST | PARTIAL,
        };
        let bytes = header.emit();
        assert_eq!(
            bytes,
            [
                1, 2, 3, 4, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18, 0x69, 0xAB, 62, 5
            ]
        );
        assert_eq!(Header::parse(&bytes), Some(header));
    }

    /// Kinds 7 to 15 do not exist yet and are refused.
    #[test]
    fn unknown_kind() {
        for number in 0..16u8 {
            let mut bytes = [0; HEADER];
            bytes[12] = number << 4;
            assert_eq!(
                Header::parse(&bytes).is_some(),
                number <= 6,
                "kind {number}"
            );
        }
    }

    /// An epoch above 15 never spills into the kind.
    #[test]
    fn epoch_is_four_bits() {
        let header = Header {
            idx: 0,
            counter: 0,
            kind: Kind::Data,
            epoch: 0xFF,
            path: 0,
            segment: 0,
            flags: 0,
        };
        assert_eq!(
            Header::parse(&header.emit()).map(|h| (h.kind, h.epoch)),
            Some((Kind::Data, 15))
        );
    }
}
