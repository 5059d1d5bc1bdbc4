//! Sender side: one packet or super-packet of the TUN device becomes datagrams, without a copy.
//!
//! ```text
//! buf      | header | payload 0 | payload 1 | payload 2 |
//! k = 0    [header 0| payload 0 ]
//! k = 1             |...[header 1| payload 1 ]              over payload 0, sealed already
//! k = 2                         |...[header 2| payload 2 ]
//! ```
//! Use:
//! ```text
//! let packet = Super::parse(&vnet, &buf)?;      // ChecksumFirst: complete(), parse again
//! for k in 0..packet.segments() {
//!     let inner = packet.prepare(&mut buf, k);  // in order, each k once
//!     seal(header with packet.kind(), packet.index(k), packet.flags(k); &buf[inner]);
//! }
//! ```
//! What the headers of a segment hold is what Linux `tcp_gso_segment`, `__udp_gso_segment` and
//! `inet_gso_segment` would write, but for the checksums: those are zero in [`Kind::Data`], the
//! receiver computes them once per run. `hdr_len` of the kernel is never used.

use std::ops::Range;

use crate::bytes::{get8, get16, get32, put8, put16, put32};
use crate::header::{Kind, LAST, OVERHEAD};
use crate::ip::{self, TCP, UDP, fold, ipv4_checksum, sum};
use crate::plain::{Plain, flag};
use crate::vnet::{GSO_ECN, GSO_NONE, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, Vnet};
use crate::{Error, Packet};

/// The longest headers of a super-packet.
pub const TEMPLATE: usize = 128;

/// What `prepare` does about checksums.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fill {
    /// The packet is not touched at all.
    Untouched,
    /// Zero them, the receiver rebuilds them.
    Zero,
    /// Complete them; the value is the pseudo header sum without the length.
    Complete(u32),
}

/// A packet of the TUN device, ready to be cut into datagrams.
#[derive(Debug, Clone)]
pub struct Super {
    /// The header of a middle segment: checksums zero, FIN, PSH and CWR clear.
    template: [u8; TEMPLATE],
    header: usize,
    l4: usize,
    v6: bool,
    tcp: bool,
    /// TCP flags of the super-packet.
    flags: u8,
    id: u16,
    sequence: u32,
    gso: usize,
    total: usize,
    segments: usize,
    fill: Fill,
}

impl Super {
    /// Understand the packet that stands at the front of `packet`.
    ///
    /// A packet without segmentation is one segment: [`Kind::Data`] if its checksum is partial and
    /// the receiver can rebuild it, else [`Kind::Verbatim`]. Super-packets are [`Kind::Data`];
    /// those with IPv4 options or IPv6 extension headers are cut into [`Kind::Verbatim`] packets
    /// with complete checksums.
    #[inline]
    pub fn parse(vnet: &Vnet, packet: &[u8]) -> Result<Super, Error> {
        let ip = ip::parse(packet).ok_or(Error::NotIp)?;
        match vnet.gso_type & !GSO_ECN {
            GSO_NONE => Super::single(vnet, packet, &ip),
            GSO_TCPV4 if ip.version == 4 && ip.proto == TCP => Super::many(vnet, packet, &ip),
            GSO_TCPV6 if ip.version == 6 && ip.proto == TCP => Super::many(vnet, packet, &ip),
            GSO_UDP_L4 if ip.proto == UDP => Super::many(vnet, packet, &ip),
            _ => Err(Error::Offload),
        }
    }

    #[inline]
    fn single(vnet: &Vnet, packet: &[u8], ip: &Packet) -> Result<Super, Error> {
        if !vnet.needs_csum() {
            return Ok(Super {
                template: [0; TEMPLATE],
                header: 0,
                l4: 0,
                v6: ip.version == 6,
                tcp: false,
                flags: 0,
                id: 0,
                sequence: 0,
                gso: ip.total_len,
                total: ip.total_len,
                segments: 1,
                fill: Fill::Untouched,
            });
        }
        let plain = Plain::parse(packet).ok_or(Error::ChecksumFirst)?;
        if !plain.udp_length_agrees(packet)
            || usize::from(vnet.csum_start) != plain.l4
            || usize::from(vnet.csum_offset) != plain.csum_offset()
        {
            return Err(Error::ChecksumFirst);
        }
        Super::new(packet, plain, plain.total - plain.header, Fill::Zero)
            .ok_or(Error::HeaderTooLong)
    }

    #[inline]
    fn many(vnet: &Vnet, packet: &[u8], ip: &Packet) -> Result<Super, Error> {
        let gso = usize::from(vnet.gso_size);
        let tcp = ip.proto == TCP;
        let l4 = ip.header_len;
        let header = match tcp {
            true => l4 + usize::from(get8(packet, l4 + 12) >> 4) * 4,
            false => l4 + 8,
        };
        let shape = Plain {
            v6: ip.version == 6,
            tcp,
            l4,
            header,
            total: ip.total_len,
        };
        let csum_fits = usize::from(vnet.csum_start) == l4
            && usize::from(vnet.csum_offset) == shape.csum_offset();
        if gso == 0
            || ip.fragment
            || header > ip.total_len
            || (tcp && header < l4 + 20)
            || (vnet.needs_csum() && !csum_fits)
        {
            return Err(Error::Offload);
        }
        let fill = match ip.options {
            false => Fill::Zero,
            true if !vnet.needs_csum() => return Err(Error::Offload),
            // The kernel left the pseudo header sum of the whole; take the length out again.
            true => {
                let field = get16(packet, l4 + shape.csum_offset());
                Fill::Complete(u32::from(field) + u32::from(!((ip.total_len - l4) as u16)))
            }
        };
        Super::new(packet, shape, gso, fill).ok_or(Error::HeaderTooLong)
    }

    /// A run that our own receive side has glued, to be cut again with complete checksums.
    ///
    /// `packet` has its final lengths, `gso` is the payload of all segments but the last.
    #[inline]
    pub(crate) fn completing(packet: &[u8], plain: Plain, gso: usize) -> Option<Super> {
        let base = plain.pseudo_sum(packet, 0);
        Super::new(packet, plain, gso, Fill::Complete(base))
    }

    /// A packet that is delivered as it is.
    #[inline]
    pub(crate) fn untouched(total: usize) -> Super {
        Super {
            template: [0; TEMPLATE],
            header: 0,
            l4: 0,
            v6: false,
            tcp: false,
            flags: 0,
            id: 0,
            sequence: 0,
            gso: total,
            total,
            segments: 1,
            fill: Fill::Untouched,
        }
    }

    /// Cut at `gso` bytes of payload; `None` if the header does not fit the template.
    #[inline]
    fn new(packet: &[u8], shape: Plain, gso: usize, fill: Fill) -> Option<Super> {
        let Plain {
            v6,
            tcp,
            l4,
            header,
            total,
        } = shape;
        let mut template = [0; TEMPLATE];
        template
            .get_mut(..header)?
            .copy_from_slice(packet.get(..header)?);
        let flags = if tcp { get8(&template, l4 + 13) } else { 0 };
        let sequence = if tcp { get32(&template, l4 + 4) } else { 0 };
        let id = if v6 { 0 } else { get16(&template, 4) };
        if !v6 {
            put16(&mut template, 10, 0);
        }
        if tcp {
            put8(
                &mut template,
                l4 + 13,
                flags & !(flag::FIN | flag::PSH | flag::CWR),
            );
        }
        put16(&mut template, l4 + shape.csum_offset(), 0);
        let payload = total - header;
        let segments = payload.div_ceil(gso.max(1)).max(1);
        Some(Super {
            template,
            header,
            l4,
            v6,
            tcp,
            flags,
            id,
            sequence,
            gso,
            total,
            segments,
            fill,
        })
    }

    /// How many datagrams this packet makes: at least one.
    #[inline]
    pub fn segments(&self) -> usize {
        self.segments
    }

    /// Length of the headers that every segment repeats; 0 for a packet that is sent as it is.
    #[inline]
    pub fn header_len(&self) -> usize {
        self.header
    }

    /// Payload bytes of every segment but the last, which may be shorter.
    #[inline]
    pub fn gso_size(&self) -> usize {
        self.gso
    }

    /// Length of the packet as it was read.
    #[inline]
    pub fn total_len(&self) -> usize {
        self.total
    }

    /// What the datagrams are to be called.
    #[inline]
    pub fn kind(&self) -> Kind {
        match self.fill {
            Fill::Zero => Kind::Data,
            Fill::Untouched | Fill::Complete(_) => Kind::Verbatim,
        }
    }

    /// The segment index of the wire: `k` modulo 256.
    #[inline]
    pub fn index(&self, k: usize) -> u8 {
        k as u8
    }

    /// The header flags of segment `k`.
    #[inline]
    pub fn flags(&self, k: usize) -> u8 {
        if k + 1 >= self.segments { LAST } else { 0 }
    }

    /// Length of the inner packet that segment `k` is.
    #[inline]
    pub fn segment_len(&self, k: usize) -> usize {
        let rest = (self.total - self.header).saturating_sub(k.saturating_mul(self.gso));
        self.header + rest.min(self.gso)
    }

    /// Length of the longest segment.
    #[inline]
    pub fn largest(&self) -> usize {
        self.segment_len(0)
    }

    /// Length of the datagram of segment `k`, header and tag included (no UDP, no IP).
    #[inline]
    pub fn datagram_len(&self, k: usize) -> usize {
        self.segment_len(k) + OVERHEAD
    }

    /// Length of all datagrams together.
    #[inline]
    pub fn datagrams_len(&self) -> usize {
        self.total - self.header + self.segments * (self.header + OVERHEAD)
    }

    /// Write the header of segment `k` before its payload and say where the segment stands.
    ///
    /// `buf` is the buffer whose front was parsed. Each `k` once, in order: segment `k` overwrites
    /// the tail of segment `k - 1`. The range is empty if `k` or `buf` is out of bounds.
    #[inline]
    pub fn prepare(&self, buf: &mut [u8], k: usize) -> Range<usize> {
        if k >= self.segments || buf.len() < self.total {
            return 0..0;
        }
        if self.fill == Fill::Untouched {
            return 0..self.total;
        }
        let start = k * self.gso;
        let range = start..start + self.segment_len(k);
        let Some(segment) = buf.get_mut(range.clone()) else {
            return 0..0;
        };
        let (Some(header), Some(template)) = (
            segment.get_mut(..self.header),
            self.template.get(..self.header),
        ) else {
            return 0..0;
        };
        header.copy_from_slice(template);
        let l4_len = range.len() - self.l4;
        if self.v6 {
            put16(header, 4, (range.len() - 40) as u16);
        } else {
            put16(header, 2, range.len() as u16);
            put16(header, 4, self.id.wrapping_add(k as u16));
        }
        if self.tcp {
            put32(
                header,
                self.l4 + 4,
                self.sequence.wrapping_add(start as u32),
            );
            let keep = match (k == 0, k + 1 == self.segments) {
                (true, true) => self.flags,
                (true, false) => self.flags & !(flag::FIN | flag::PSH),
                (false, true) => self.flags & !flag::CWR,
                (false, false) => self.flags & !(flag::FIN | flag::PSH | flag::CWR),
            };
            put8(header, self.l4 + 13, keep);
        } else {
            put16(header, self.l4 + 4, l4_len as u16);
        }
        if let Fill::Complete(base) = self.fill {
            self.fill_checksums(segment, base, l4_len);
        }
        range
    }

    #[inline]
    fn fill_checksums(&self, segment: &mut [u8], base: u32, l4_len: usize) {
        if !self.v6 {
            let checksum = segment.get(..self.l4).map_or(0, ipv4_checksum);
            put16(segment, 10, checksum);
        }
        let body = segment.get(self.l4..).map_or(0, sum);
        let checksum = match !fold(u32::from(fold(base)) + l4_len as u32 + body) {
            // In UDP zero means none.
            0 if !self.tcp => 0xFFFF,
            checksum => checksum,
        };
        put16(segment, self.l4 + if self.tcp { 16 } else { 6 }, checksum);
    }
}

/// Complete a checksum that the peer could not, and clear the request for it from `vnet`.
///
/// `Offload` if the place the kernel named is not inside the packet. Only for packets without
/// segmentation; afterwards [`Super::parse`] makes the packet [`Kind::Verbatim`].
pub fn complete(vnet: &mut Vnet, packet: &mut [u8]) -> Result<(), Error> {
    let total = ip::parse(packet).ok_or(Error::NotIp)?.total_len;
    let whole = packet.get_mut(..total).ok_or(Error::NotIp)?;
    let (start, offset) = (usize::from(vnet.csum_start), usize::from(vnet.csum_offset));
    if vnet.gso_type & !GSO_ECN != GSO_NONE || !ip::checksum_complete(whole, start, offset) {
        return Err(Error::Offload);
    }
    *vnet = Vnet::default();
    Ok(())
}
