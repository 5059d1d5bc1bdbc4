//! Sealing towards the underlay: one way out for every datagram of a session.

use crate::batch::Batch;
use crate::session::Session;
use crate::sys::udp::{Local, RawAddr, Udp};
use std::net::SocketAddr;
use veilnet_wire::{HEADER, Header, Kind, OVERHEAD};

pub struct Underlay {
    pub udp: Udp,
    pub batch: Batch,
}

impl Underlay {
    /// Seal `plain` and hold it for the next flush; false if the keys are used up.
    #[inline]
    pub fn seal(
        &mut self,
        session: &mut Session,
        kind: Kind,
        segment: u8,
        flags: u8,
        plain: &[u8],
        now_ns: u64,
    ) -> bool {
        let (to, raw) = (session.endpoint, session.raw);
        self.seal_to(session, (to, &raw), kind, (segment, flags), plain, now_ns)
    }

    /// The same to another address than the session's (path challenges).
    #[inline]
    pub fn seal_to(
        &mut self,
        session: &mut Session,
        (to, raw): (SocketAddr, &RawAddr),
        kind: Kind,
        (segment, flags): (u8, u8),
        plain: &[u8],
        now_ns: u64,
    ) -> bool {
        if !session.tx.has_room(1) {
            return false;
        }
        let epoch = session.tx.epoch.nibble();
        let idx = session.remote_sid;
        let key = match kind {
            Kind::Control => &mut session.tx.control,
            _ => &mut session.tx.data,
        };
        let counter = key.next;
        key.next += 1;
        let header = Header {
            idx,
            counter,
            kind,
            epoch,
            path: crate::keys::DIRECT,
            segment,
            flags,
        }
        .emit();
        let out = self.batch.room(&self.udp, to, raw, plain.len() + OVERHEAD);
        let Some((head, body)) = out.split_at_mut_checked(HEADER) else {
            return false;
        };
        if !key.aead.seal(counter, &header, plain, body) {
            return false;
        }
        head.copy_from_slice(&header);
        session.mask(now_ns).apply(out);
        session.counters.tx_bytes += (plain.len() + OVERHEAD) as u64;
        true
    }

    pub fn flush(&mut self) {
        self.batch.flush(&self.udp);
    }

    /// Send one ready datagram at once.
    pub fn send(&mut self, to: SocketAddr, local: Option<Local>, datagram: &[u8]) {
        let raw = self.udp.raw(to).leaving(local);
        self.batch
            .room(&self.udp, to, &raw, datagram.len())
            .copy_from_slice(datagram);
        self.flush();
    }
}
