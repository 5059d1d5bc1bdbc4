//! The glue rule. A datagram joins if all of this holds, anything less would let a relay or a peer
//! splice streams:
//! * same session, path and epoch; same counter minus index; the next index;
//! * a plain packet (`plain.rs`) of the same flow, headers equal but for length, id, checksums,
//!   sequence, PSH, FIN and CWR; the IPv4 id counts on unless DF makes it meaningless (RFC 6864);
//! * TCP: ACK, and none of SYN, RST, URG; CWR only on the first, FIN and PSH end the run; sequence
//!   = previous sequence + its length;
//! * the payload is not empty and equals the run's, or is shorter and ends the run;
//! * the run is not cut: [`SEGMENTS`] segments ([`DATAGRAMS`] for UDP), 65,535 bytes, a payload of
//!   at least [`SMALLEST`] bytes so that one datagram cannot become a thousand packets, [`LAST`].

use crate::bytes::{get16, get32, put8, put16, put32};
use crate::glue::START;
use crate::header::{Header, Kind, LAST, PARTIAL};
use crate::ip;
use crate::plain::{Plain, flag};

/// Most segments of a TCP run.
pub const SEGMENTS: usize = 63;
/// Most datagrams of a UDP run: 64 overflow the reader's socket buffer.
pub const DATAGRAMS: usize = 16;
/// The smallest payload that is glued.
pub const SMALLEST: usize = 256;

/// The longest packet that is written.
pub(crate) const LONGEST: usize = 65_535;

/// A packet, checked for its kind.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Checked {
    pub total: usize,
    /// Its headers, if its checksums are to be rebuilt.
    pub plain: Option<Plain>,
}

/// The run that is open.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Open {
    pub first: Checked,
    /// Payload of every segment but the last.
    pub gso: usize,
    pub end: usize,
    pub count: usize,
    pub closed: bool,
    /// TCP flags of the latest packet.
    pub flags: u8,
    /// Sequence number that would continue the run.
    sequence: u32,
    idx: u32,
    path: u8,
    epoch: u8,
    /// Counter minus index.
    base: u64,
    /// The index that would continue the run; 256 is never reached by a u8.
    next: u16,
}

/// The TCP flags that decide whether a packet may be in a run: of these exactly ACK.
const STREAM: u8 = flag::ACK | flag::SYN | flag::RST | flag::URG;
/// The TCP flags that may differ inside a run.
const VARIABLE: u8 = flag::PSH | flag::FIN | flag::CWR;

/// Accept a packet for what its datagram's header says it is.
#[inline]
pub(crate) fn check(packet: &[u8], meta: &Header) -> Option<Checked> {
    let partial = match meta.kind {
        Kind::Data => true,
        Kind::Part => meta.flags & PARTIAL != 0,
        Kind::Verbatim => false,
        Kind::Control | Kind::Probe | Kind::Report | Kind::Relay => return None,
    };
    if partial {
        let plain = Plain::parse(packet)?;
        let checked = Checked {
            total: plain.total,
            plain: Some(plain),
        };
        return plain.udp_length_agrees(packet).then_some(checked);
    }
    Some(Checked {
        total: ip::parse(packet)?.total_len,
        plain: None,
    })
}

/// The bits of a header in which the packets of a run must be equal.
pub(crate) type Mask = [u8; WINDOW];

/// Room for the longest plain header, in whole vector registers.
pub(crate) const WINDOW: usize = 112;

/// The mask of a run that begins with this packet.
#[inline]
pub(crate) fn mask(plain: &Plain) -> Mask {
    let mut mask = [0; WINDOW];
    if let Some(header) = mask.get_mut(..plain.header) {
        header.fill(0xFF);
    }
    if plain.v6 {
        put16(&mut mask, 4, 0);
    } else {
        put16(&mut mask, 2, 0);
        put16(&mut mask, 4, 0);
        put16(&mut mask, 10, 0);
    }
    if plain.tcp {
        put32(&mut mask, plain.l4 + 4, 0);
        put8(&mut mask, plain.l4 + 13, !VARIABLE);
    } else {
        put16(&mut mask, plain.l4 + 4, 0);
    }
    put16(&mut mask, plain.l4 + plain.csum_offset(), 0);
    mask
}

impl Open {
    /// The run that `packet`, standing at START, begins.
    #[inline]
    pub fn begin(checked: Checked, packet: &[u8], meta: &Header) -> Open {
        let (mut gso, mut flags, mut sequence, mut closed) = (0, 0, 0, true);
        if let Some(plain) = checked.plain {
            gso = plain.total - plain.header;
            // Parts are never glued.
            closed = meta.kind != Kind::Data || gso < SMALLEST || meta.flags & LAST != 0;
            if plain.tcp {
                flags = plain.flags(packet);
                sequence = get32(packet, plain.l4 + 4).wrapping_add(gso as u32);
                closed |= flags & STREAM != flag::ACK || flags & (flag::FIN | flag::PSH) != 0;
            }
        }
        Open {
            first: checked,
            gso,
            end: START + checked.total,
            count: 1,
            closed,
            flags,
            sequence,
            idx: meta.idx,
            path: meta.path,
            epoch: meta.epoch,
            base: meta.counter.wrapping_sub(u64::from(meta.segment)),
            next: u16::from(meta.segment) + 1,
        }
    }

    /// Length of the headers that every packet of the run repeats.
    #[inline]
    pub fn header(&self) -> usize {
        self.first.plain.map_or(0, |plain| plain.header)
    }

    /// The glue rule: take the packet at `at` into the run, or leave everything as it is.
    #[inline]
    pub fn join(&mut self, mask: &Mask, buf: &[u8], at: usize, len: usize, meta: &Header) -> bool {
        if self.closed
            || meta.kind != Kind::Data
            || meta.idx != self.idx
            || meta.path != self.path
            || meta.epoch != self.epoch
            || u16::from(meta.segment) != self.next
            || meta.counter.wrapping_sub(u64::from(meta.segment)) != self.base
        {
            return false;
        }
        let (Some(plain), Some(first), Some(next)) = (
            self.first.plain,
            buf.get(START..)
                .and_then(|bytes| bytes.first_chunk::<WINDOW>()),
            buf.get(at..)
                .and_then(|bytes| bytes.first_chunk::<WINDOW>()),
        ) else {
            return false;
        };
        // With the masked bits equal, version, lengths of the headers, protocol and fragment bits
        // are the first packet's: what is left to check of the shape is the total length.
        let mut differ = 0;
        for ((a, b), bits) in first.iter().zip(next).zip(mask) {
            differ |= (a ^ b) & bits;
        }
        let total = match plain.v6 {
            true => 40 + usize::from(get16(next, 4)),
            false => usize::from(get16(next, 2)),
        };
        let payload = total.wrapping_sub(plain.header);
        if differ != 0
            || total <= plain.header
            || total > len
            || at.saturating_add(len) > buf.len()
            || payload > self.gso
            || self.end + payload > START + LONGEST
            || !(plain.v6 || self.id_counts_on(first, next))
        {
            return false;
        }
        let mut closed = payload < self.gso || meta.flags & LAST != 0;
        if plain.tcp {
            let flags = plain.flags(next);
            if flags & flag::CWR != 0 || get32(next, plain.l4 + 4) != self.sequence {
                return false;
            }
            closed |= flags & (flag::PSH | flag::FIN) != 0 || self.count + 1 >= SEGMENTS;
            self.flags = flags;
            self.sequence = self.sequence.wrapping_add(payload as u32);
        } else {
            if usize::from(get16(next, plain.l4 + 4)) != total - plain.l4 {
                return false;
            }
            closed |= self.count + 1 >= DATAGRAMS;
        }
        self.end += payload;
        self.count += 1;
        self.next += 1;
        self.closed = closed;
        true
    }

    /// The id of an atomic datagram means nothing (RFC 6864), any other must count on.
    #[inline]
    fn id_counts_on(&self, first: &[u8], next: &[u8]) -> bool {
        let atomic = get16(first, 6) & 0x4000 != 0;
        atomic || get16(next, 4) == get16(first, 4).wrapping_add(self.count as u16)
    }
}
