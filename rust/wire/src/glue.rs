//! Receiver side: opened datagrams become runs, each one plain write to the TUN device.
//!
//! Datagrams are opened straight to where they belong. One caller-owned buffer of [`BUFFER`] bytes:
//!
//! ```text
//! 0        START-10  START                                   end-header   end
//! |          | vnet  | header | payload 0 | payload 1 | .......[ saved   ]|
//! |                                                             ^ place(): opened here next
//! |                                                             [ header' | payload' ...... ]
//! ```
//! Use, per datagram of kind data or verbatim:
//! ```text
//! run.save(buf);                                    // copies `header` bytes out, at most 100
//! let at = run.place();
//! open(datagram -> &mut buf[at..])  failed          => run.restore(buf)
//! policy refuses &buf[at..at + len]                 => run.restore(buf)
//! match run.offer(buf, len, &header) {
//!     Joined    => {}                         // more may follow; finish at the drain's end
//!     Complete  => write(&buf[run.finish(buf).range])
//!     Malformed => {}                         // dropped, the run is as it was
//!     Flush     => {                          // does not join: the run is whole again
//!         write(&buf[run.finish(buf).range]);
//!         run.advance(buf)                    // it opens a run of its own: Joined or Complete
//!     }
//! }
//! ```
//! At most the header's bytes are copied per datagram; a packet that did not join is moved once,
//! which after a super-packet with its last segment never happens. A part is opened elsewhere,
//! joined by [`crate::Halves`] into `buf[place()..]` and offered with the header of either half.
//!
//! Which datagrams join is the glue rule, `rule.rs`. Everything in the result, the vnet
//! header included, is computed from our own parse.

use std::ops::Range;

use crate::bytes::{put, put8};
use crate::header::Header;
use crate::plain::{Plain, flag};
use crate::rule::{Checked, LONGEST, Mask, Open, WINDOW, check, mask};
pub use crate::rule::{DATAGRAMS, SEGMENTS, SMALLEST};
use crate::split::{Super, TEMPLATE};
use crate::vnet::{self, VNET, Vnet};

/// Where a run's packet begins in the buffer; its vnet header stands before it.
pub const START: usize = 64;
/// Size of the buffer a run needs: the longest run and, over its tail, the longest datagram.
pub const BUFFER: usize = START + LONGEST + 65_536;

/// What became of an offered packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Outcome {
    /// It is in the run, and more may follow.
    Joined,
    /// It is in the run, and nothing can follow: finish and write now.
    Complete,
    /// It does not join. The run is as it was: finish and write it, then [`Run::advance`].
    Flush,
    /// It is no packet of its kind, and is gone. The run is as it was.
    Malformed,
}

/// A run ready to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finished {
    /// The vnet header and the packet: one write.
    pub range: Range<usize>,
    /// The vnet header, as written at the front of the range.
    pub vnet: Vnet,
    /// How many datagrams are in it.
    pub segments: usize,
}

impl Finished {
    /// The packet without its vnet header.
    pub fn packet(&self) -> Range<usize> {
        self.range.start + VNET..self.range.end
    }
}

/// A packet that did not join: its head is in `saved`, its body beyond the run's end.
#[derive(Debug, Clone, Copy)]
struct Pending {
    at: usize,
    header: usize,
    checked: Checked,
    meta: Header,
}

/// Theory of operation: see the top of the file.
#[derive(Debug, Clone)]
pub struct Run {
    open: Option<Open>,
    pending: Option<Pending>,
    saved: [u8; TEMPLATE],
    /// Of the open run, if it is not closed.
    mask: Mask,
}

impl Default for Run {
    fn default() -> Run {
        Run::new()
    }
}

impl Run {
    /// No run is open.
    pub const fn new() -> Run {
        Run {
            open: None,
            pending: None,
            saved: [0; TEMPLATE],
            mask: [0; WINDOW],
        }
    }

    /// Whether there is something to finish.
    #[inline]
    pub fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// Where in the buffer the next datagram is to be opened.
    #[inline]
    pub fn place(&self) -> usize {
        self.open
            .as_ref()
            .map_or(START, |open| open.end - open.header())
    }

    /// Put away the bytes that the next datagram will overwrite.
    #[inline]
    pub fn save(&mut self, buf: &[u8]) {
        let tail = self.tail();
        let length = tail.len();
        if let (Some(from), Some(to)) = (buf.get(tail), self.saved.get_mut(..length)) {
            to.copy_from_slice(from);
        }
    }

    /// Undo `save`: the datagram that was opened at `place` is of no use.
    #[inline]
    pub fn restore(&mut self, buf: &mut [u8]) {
        let tail = self.tail();
        let length = tail.len();
        if let (Some(to), Some(from)) = (buf.get_mut(tail), self.saved.get(..length)) {
            to.copy_from_slice(from);
        }
    }

    #[inline]
    fn tail(&self) -> Range<usize> {
        self.open
            .as_ref()
            .map_or(START..START, |open| open.end - open.header()..open.end)
    }

    /// Take the packet of `len` bytes that was opened at `place`, after `save`.
    ///
    /// `meta` is its datagram's header, authenticated. Bytes beyond the packet's own total length
    /// are padding and are dropped.
    #[inline]
    pub fn offer(&mut self, buf: &mut [u8], len: usize, meta: &Header) -> Outcome {
        self.pending = None;
        let at = self.place();
        if let Some(open) = &mut self.open
            && open.join(&self.mask, buf, at, len, meta)
        {
            let closed = open.closed;
            let head = at..at + open.header();
            if let (Some(to), Some(from)) =
                (buf.get_mut(head.clone()), self.saved.get(..head.len()))
            {
                to.copy_from_slice(from);
            }
            return if closed {
                Outcome::Complete
            } else {
                Outcome::Joined
            };
        }
        let packet = buf.get(at..at.saturating_add(len)).unwrap_or(&[]);
        let Some(checked) = check(packet, meta) else {
            self.restore(buf);
            return Outcome::Malformed;
        };
        if self.open.is_none() {
            return self.begin(buf, checked, meta);
        }
        let tail = self.tail();
        let header = tail.len();
        if let (Some(run), Some(saved)) = (buf.get_mut(tail), self.saved.get_mut(..header)) {
            run.swap_with_slice(saved);
        }
        self.pending = Some(Pending {
            at,
            header,
            checked,
            meta: *meta,
        });
        Outcome::Flush
    }

    /// After `Flush` and `finish`: the packet that did not join opens a run of its own.
    ///
    /// `Malformed` if there is no such packet, or the run before it was not finished.
    #[inline]
    pub fn advance(&mut self, buf: &mut [u8]) -> Outcome {
        let (Some(pending), None) = (self.pending.take(), self.open) else {
            return Outcome::Malformed;
        };
        let Pending {
            at,
            header,
            checked,
            meta,
        } = pending;
        let end = at + checked.total;
        let body = (at + header).min(end)..end;
        let to = START + (end - at) - body.len();
        if buf.len() < end || buf.len() < to + body.len() {
            return Outcome::Malformed;
        }
        buf.copy_within(body, to);
        if let Some(head) = self.saved.get(..to - START) {
            put(buf, START, head);
        }
        self.begin(buf, checked, &meta)
    }

    /// The packet at START is the first of a run.
    #[inline]
    fn begin(&mut self, buf: &[u8], checked: Checked, meta: &Header) -> Outcome {
        let open = Open::begin(checked, buf.get(START..).unwrap_or(&[]), meta);
        if let (Some(plain), false) = (checked.plain, open.closed) {
            self.mask = mask(&plain);
        }
        self.open = Some(open);
        if open.closed {
            Outcome::Complete
        } else {
            Outcome::Joined
        }
    }

    /// Close the run and write its lengths, its IPv4 checksum, its pseudo header sum and its vnet
    /// header.
    ///
    /// `None` if no run is open.
    #[inline]
    pub fn finish(&mut self, buf: &mut [u8]) -> Option<Finished> {
        let open = self.open.take()?;
        let range = START - VNET..open.end;
        let packet = buf.get_mut(START..open.end)?;
        let vnet = match open.first.plain {
            None => Vnet::default(),
            Some(plain) => {
                let first = settle(&open, &plain, packet);
                let gso_type = match (open.count, plain.tcp, plain.v6) {
                    (1, ..) => vnet::GSO_NONE,
                    (_, false, _) => vnet::GSO_UDP_L4,
                    (_, true, false) => vnet::GSO_TCPV4 | first,
                    (_, true, true) => vnet::GSO_TCPV6 | first,
                };
                Vnet {
                    flags: vnet::NEEDS_CSUM,
                    gso_type,
                    hdr_len: plain.header as u16,
                    gso_size: if open.count == 1 { 0 } else { open.gso as u16 },
                    csum_start: plain.l4 as u16,
                    csum_offset: plain.csum_offset() as u16,
                }
            }
        };
        put(buf, range.start, &vnet.emit());
        Some(Finished {
            range,
            vnet,
            segments: open.count,
        })
    }

    /// Close the run for a device without vnet headers: packet after packet with complete
    /// checksums.
    ///
    /// `None` if no run is open.
    #[inline]
    pub fn finish_segments(&mut self, buf: &mut [u8]) -> Option<Segments> {
        let open = self.open.take()?;
        let packet = buf.get_mut(START..open.end)?;
        let whole = match open.first.plain {
            None => Super::untouched(open.first.total),
            Some(plain) => {
                let _ = settle(&open, &plain, packet);
                let plain = Plain {
                    total: packet.len(),
                    ..plain
                };
                Super::completing(packet, plain, open.gso)?
            }
        };
        Some(Segments { whole, next: 0 })
    }
}

/// The packets of a run, each written over the tail of the one before.
#[derive(Debug, Clone)]
pub struct Segments {
    whole: Super,
    next: usize,
}

impl Segments {
    /// Make the next packet in `buf`, the buffer of the run, and say where it stands.
    ///
    /// The packet before it must have been written out: its tail is overwritten.
    #[inline]
    pub fn next(&mut self, buf: &mut [u8]) -> Option<Range<usize>> {
        if self.next >= self.whole.segments() {
            return None;
        }
        let inner = self.whole.prepare(buf.get_mut(START..)?, self.next);
        self.next += 1;
        Some(START + inner.start..START + inner.end)
    }
}

/// Give the run's header the flags, lengths and partial checksums of the whole; returns the GSO_ECN
/// bit.
#[inline]
fn settle(open: &Open, plain: &Plain, packet: &mut [u8]) -> u8 {
    let mut ecn = 0;
    if plain.tcp && open.count > 1 {
        let flags = plain.flags(packet);
        if flags & flag::CWR != 0 {
            ecn = vnet::GSO_ECN;
        }
        put8(
            packet,
            plain.l4 + 13,
            flags | open.flags & (flag::FIN | flag::PSH),
        );
    }
    let total = packet.len();
    plain.seal_partial(packet, total);
    ecn
}
