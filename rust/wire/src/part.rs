//! A packet that the path MTU cannot take travels as two halves, both needed.
//!
//! ```text
//! first half    counter c      flags -            | bytes 0 .. ceil(n / 2)
//! second half   counter c + 1  flags SECOND_HALF  | the rest
//! ```
//! c is even, so that the pair of any half is known from the half alone. PARTIAL on both says that
//! the packet's checksum is partial. A half waits in a table of [`SLOTS`]; the oldest gives way,
//! and a session that holds a quarter of the table gives way to itself, so that one peer cannot
//! push out all others.
//!
//! Counters begin anew with every epoch, and the header's epoch nibble comes round again: halves are
//! told apart by the full numbers, so that a forgotten half never meets a stranger.

use crate::header::{Header, PARTIAL, SECOND_HALF};

/// Halves that can wait at once.
pub const SLOTS: usize = 64;

/// Halves of one session that can wait before its own oldest gives way.
pub const SESSION_SLOTS: usize = SLOTS / 4;

/// The two halves of a packet, the first never shorter than the second.
#[inline]
pub fn halves(packet: &[u8]) -> (&[u8], &[u8]) {
    packet.split_at(packet.len().div_ceil(2))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Key {
    idx: u32,
    path: u8,
    epoch: (u64, u64),
    /// Counter of the first half.
    pair: u64,
}

#[derive(Debug, Clone, Copy)]
struct Waiting {
    key: Key,
    second: bool,
    partial: bool,
    length: usize,
    /// When it came, in halves.
    age: u64,
}

/// The halves whose other half has not come.
#[derive(Debug)]
pub struct Halves {
    waiting: [Option<Waiting>; SLOTS],
    /// SLOTS times `longest` bytes.
    bytes: Box<[u8]>,
    longest: usize,
    arrivals: u64,
}

impl Halves {
    /// A table for halves of at most `longest` bytes; this is the only allocation.
    pub fn new(longest: usize) -> Halves {
        Halves {
            waiting: [None; SLOTS],
            bytes: vec![0; SLOTS * longest].into_boxed_slice(),
            longest,
            arrivals: 0,
        }
    }

    /// Take a half that was sealed in *epoch* (generation, step); if its other half is here, write the packet to `out` and return its length.
    ///
    /// `None` also for a half that cannot be one: too long, an odd counter on a first half, a pair
    /// that disagrees about the checksum (both are dropped), or a packet too long for `out`.
    #[inline]
    pub fn offer(
        &mut self,
        meta: &Header,
        epoch: (u64, u64),
        half: &[u8],
        out: &mut [u8],
    ) -> Option<usize> {
        let second = meta.flags & SECOND_HALF != 0;
        let partial = meta.flags & PARTIAL != 0;
        if half.len() > self.longest || (meta.counter & 1 == 1) != second {
            return None;
        }
        let key = Key {
            idx: meta.idx,
            path: meta.path,
            epoch,
            pair: meta.counter & !1,
        };
        let found = self
            .waiting
            .iter()
            .position(|slot| slot.is_some_and(|w| w.key == key && w.second != second));
        let Some(slot) = found else {
            self.keep(key, second, partial, half);
            return None;
        };
        let other = self.waiting.get_mut(slot)?.take()?;
        if other.partial != partial {
            return None;
        }
        let from = slot * self.longest;
        let other = self.bytes.get(from..from + other.length)?;
        let (first, second) = if second { (other, half) } else { (half, other) };
        let total = first.len() + second.len();
        let (front, back) = out.get_mut(..total)?.split_at_mut(first.len());
        front.copy_from_slice(first);
        back.copy_from_slice(second);
        Some(total)
    }

    /// Drop what waits for a session that is gone.
    pub fn forget(&mut self, idx: u32) {
        for slot in &mut self.waiting {
            if slot.is_some_and(|waiting| waiting.key.idx == idx) {
                *slot = None;
            }
        }
    }

    /// How many halves wait.
    pub fn len(&self) -> usize {
        self.waiting.iter().flatten().count()
    }

    /// Whether no half waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn keep(&mut self, key: Key, second: bool, partial: bool, half: &[u8]) {
        let own = self
            .waiting
            .iter()
            .flatten()
            .filter(|w| w.key.idx == key.idx)
            .count();
        let victim = |own_only: bool| {
            let candidates = self.waiting.iter().enumerate();
            candidates
                .filter(|(_, slot)| !own_only || slot.is_some_and(|w| w.key.idx == key.idx))
                .min_by_key(|(_, slot)| slot.map_or(0, |w| w.age))
                .map(|(place, _)| place)
        };
        let Some(place) = victim(own >= SESSION_SLOTS) else {
            return;
        };
        self.arrivals += 1;
        let from = place * self.longest;
        let (Some(slot), Some(room)) = (
            self.waiting.get_mut(place),
            self.bytes.get_mut(from..from + half.len()),
        ) else {
            return;
        };
        room.copy_from_slice(half);
        *slot = Some(Waiting {
            key,
            second,
            partial,
            length: half.len(),
            age: self.arrivals,
        });
    }
}
