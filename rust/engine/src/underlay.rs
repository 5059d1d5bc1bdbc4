//! Sealing towards the underlay: one way out for every datagram of a session.
//!
//! What goes over a circuit is staged first, with its label in front: the link that carries it is
//! another session, which seals it once more when the staged frames are shipped.

use crate::batch::Batch;
use crate::circuit::Circuit;
use crate::ports::Ports;
use crate::session::Session;
use crate::sys::udp::{Local, RawAddr};
use std::net::SocketAddr;
use veilnet_handshake::Class;
use veilnet_wire::{HEADER, Header, Kind, OVERHEAD};

/// A label in front of what a frame carries.
pub const LABEL: usize = 4;
/// More than a super-packet makes; what does not fit is lost, as on a full queue.
const STAGED: usize = 256 << 10;

pub struct Underlay {
    pub ports: Ports,
    pub batch: Batch,
    pub staged: Staged,
}

/// Where a datagram goes.
pub struct Target {
    pub to: SocketAddr,
    pub raw: RawAddr,
    /// The peer may not know the address that we have there: only its return key tells it who it is.
    pub stranger: bool,
}

/// Frames that wait for their link to seal them.
#[derive(Default)]
pub struct Staged {
    buf: Vec<u8>,
    /// Links and ends of the frames, in order.
    frames: Vec<(u32, usize)>,
}

impl Staged {
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Room for one datagram of `size` bytes behind the circuit's label.
    #[inline]
    fn room(&mut self, circuit: Circuit, size: usize) -> Option<&mut [u8]> {
        let start = self.buf.len();
        let end = start + LABEL + size;
        if end > STAGED {
            return None;
        }
        self.buf.resize(end, 0);
        self.frames.push((circuit.link, end));
        let (label, room) = self.buf.get_mut(start..)?.split_at_mut_checked(LABEL)?;
        label.copy_from_slice(&circuit.label.to_be_bytes());
        Some(room)
    }

    /// Each frame with its link, in order.
    pub fn frames(&self) -> impl Iterator<Item = (u32, &[u8])> {
        let mut start = 0;
        self.frames.iter().map(move |(link, end)| {
            let frame = self.buf.get(start..*end).unwrap_or_default();
            start = *end;
            (*link, frame)
        })
    }

    /// What was staged last, without its label.
    fn newest(&self) -> &[u8] {
        let before = self.frames.iter().rev().nth(1).map_or(0, |(_, end)| *end);
        self.buf.get(before + LABEL..).unwrap_or_default()
    }

    pub fn clear(&mut self) {
        self.buf.clear();
        self.frames.clear();
    }
}

impl Underlay {
    /// Seal `plain` on the session's path at `at` and hold it; false if that cannot be.
    #[inline]
    pub fn seal(
        &mut self,
        session: &mut Session,
        at: usize,
        kind: Kind,
        (segment, flags): (u8, u8),
        plain: &[u8],
        now_ns: u64,
    ) -> bool {
        let Some(path) = session.paths.get(at) else {
            return false;
        };
        let target = Target {
            to: path.endpoint,
            raw: path.raw,
            // Our own address may be another one on a way that the peer did not use yet.
            stranger: !path.known,
        };
        self.seal_to(session, at, &target, (kind, segment, flags), plain, now_ns)
    }

    /// The same to another address than the path's (path challenges, punches).
    #[inline]
    pub fn seal_to(
        &mut self,
        session: &mut Session,
        at: usize,
        target: &Target,
        (kind, segment, flags): (Kind, u8, u8),
        plain: &[u8],
        now_ns: u64,
    ) -> bool {
        let (to, raw) = (target.to, &target.raw);
        let epoch = session.tx.epoch;
        let Some(path) = session.paths.get_mut(at) else {
            return false;
        };
        let class = class(kind);
        let Ok(key) = session.tx.sealer(class, path.id) else {
            return false;
        };
        if key.next >= crate::keys::HARD_STOP {
            return false;
        }
        let size = plain.len() + OVERHEAD;
        let out = match Circuit::of(to) {
            None => self.batch.room(&mut self.ports, to, raw, size),
            Some(circuit) => match self.staged.room(circuit, size) {
                Some(out) => out,
                None => return false,
            },
        };
        let counter = key.next;
        key.next += 1;
        let header = Header {
            idx: session.remote_sid,
            counter,
            kind,
            epoch: epoch.nibble(),
            path: path.id,
            segment,
            flags,
        }
        .emit();
        let Some((head, body)) = out.split_at_mut_checked(HEADER) else {
            return false;
        };
        if !key.aead.seal(counter, &header, plain, body) {
            return false;
        }
        head.copy_from_slice(&header);
        if class == Class::Data {
            let inner = matches!(kind, Kind::Data | Kind::Verbatim | Kind::Part);
            path.meter.sent(epoch, counter, size, inner, now_ns);
        }
        match &session.return_mask {
            Some(mask) if target.stranger => mask,
            _ => session.mask(now_ns),
        }
        .apply(out);
        session.counters.tx_bytes += size as u64;
        true
    }

    /// The datagram that was sealed last, if nothing else is held.
    #[must_use]
    pub fn newest(&self) -> &[u8] {
        if self.staged.is_empty() {
            self.batch.held()
        } else {
            self.staged.newest()
        }
    }

    /// Send what is held. What is staged needs the sessions: see `Core::flush`.
    pub fn flush(&mut self) {
        self.batch.flush(&mut self.ports);
    }

    /// Send one ready datagram at once, or stage it if `to` is a circuit's.
    pub fn send(&mut self, to: SocketAddr, local: Option<Local>, datagram: &[u8]) {
        if let Some(circuit) = Circuit::of(to) {
            if let Some(room) = self.staged.room(circuit, datagram.len()) {
                room.copy_from_slice(datagram);
            }
            return;
        }
        let raw = self.ports.raw(to).leaving(local);
        self.batch
            .room(&mut self.ports, to, &raw, datagram.len())
            .copy_from_slice(datagram);
        self.flush();
    }
}

/// Which key seals a kind. Probes and reports must look like data.
#[inline]
#[must_use]
pub fn class(kind: Kind) -> Class {
    match kind {
        Kind::Control => Class::Control,
        Kind::Relay => Class::Relay,
        Kind::Data | Kind::Verbatim | Kind::Part | Kind::Probe | Kind::Report => Class::Data,
    }
}
