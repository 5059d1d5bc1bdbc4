//! From the underlay to the TUN device.
//!
//! INVARIANT: nothing changes state before the tag was verified under a key of the session, and no
//! inner packet is delivered before replay, inner source and inner destination were checked.

use crate::core::Core;
use crate::events::Event;
use crate::keys::Epoch;
use crate::probe::{Probe, Report};
use crate::session::REPORT_NS;
use crate::sys::crypto::Mask;
use crate::sys::tun::Tun;
use crate::sys::udp::{Local, Received};
use std::net::SocketAddr;
use veilnet_handshake::{Action, OsRng};
use veilnet_wire::{HEADER, Header, Kind, Outcome, PARTIAL, TAG, ip};

/// Receive calls between two looks at the other side.
const RECEIVES: usize = 64;
/// The path id of handshake messages, which are the gate's.
const HANDSHAKE_PATH: u8 = 255;

/// The peer's endpoint and the address of ours that it called.
type From = (SocketAddr, Option<Local>);

impl Core {
    /// Receive and deliver what the socket holds; true if there was something.
    pub(crate) fn drain_udp(&mut self, now_ns: u64) -> bool {
        let mut worked = false;
        let mut slot = std::mem::take(&mut self.slot);
        for _ in 0..RECEIVES {
            // Errors other than "empty" are ICMP echoes of what was sent: the next call goes on.
            let Ok(Received {
                len,
                segment,
                source,
                local,
            }) = self.underlay.udp.receive(&mut slot)
            else {
                break;
            };
            worked = true;
            self.stats.rx_calls += 1;
            for datagram in slot.get_mut(..len).unwrap_or_default().chunks_mut(segment) {
                self.stats.rx_datagrams += 1;
                self.datagram(datagram, (source, local), now_ns);
            }
        }
        self.slot = slot;
        self.write_run();
        self.underlay.flush();
        worked
    }

    #[inline]
    fn datagram(&mut self, datagram: &mut [u8], from: From, now_ns: u64) {
        match self.identify(datagram, from.0) {
            Some((sid, bytes, header)) if header.path != HANDSHAKE_PATH => {
                self.authentic(sid, &bytes, header, datagram, from, now_ns);
            }
            _ => self.first_contact(datagram, from, now_ns),
        }
    }

    /// Whose datagram it claims to be: the sessions at its source first, then the return keys.
    #[inline]
    fn identify(&self, datagram: &[u8], source: SocketAddr) -> Option<(u32, [u8; HEADER], Header)> {
        let claim = |mask: &Mask| {
            let bytes = mask.header(datagram)?;
            Some((bytes, Header::parse(&bytes)?))
        };
        if let Some(session) = self.sessions.get(&self.last_sid)
            && session.endpoint == source
            && let Some((bytes, header)) = claim(&session.mask_rx)
            && header.idx == session.sid
        {
            return Some((session.sid, bytes, header));
        }
        for sid in self.by_source.get(&source).into_iter().flatten() {
            if let Some(session) = self.sessions.get(sid)
                && let Some((bytes, header)) = claim(&session.mask_rx)
                && header.idx == *sid
            {
                return Some((*sid, bytes, header));
            }
        }
        self.return_masks.iter().find_map(|mask| {
            let (bytes, header) = claim(mask)?;
            self.sessions
                .contains_key(&header.idx)
                .then_some((header.idx, bytes, header))
        })
    }

    fn first_contact(&mut self, datagram: &mut [u8], (source, local): From, now_ns: u64) {
        let mut out = std::mem::take(&mut self.actions);
        if !self
            .gate
            .receive(datagram, source, now_ns, &mut OsRng, &mut out)
        {
            self.stats.rx_unknown += 1;
        }
        // An event means a cookie was shown or a question of ours answered: worth remembering.
        if let Some(local) = local
            && out.iter().any(|a| matches!(a, Action::Event(_)))
        {
            self.called.note(source, local);
        }
        self.perform(out, local, now_ns);
    }

    /// Open, check, and act on a datagram of session `sid`.
    #[inline]
    fn authentic(
        &mut self,
        sid: u32,
        aad: &[u8; HEADER],
        header: Header,
        datagram: &[u8],
        (source, local): From,
        now_ns: u64,
    ) {
        self.last_sid = sid;
        let Some(session) = self.sessions.get_mut(&sid) else {
            return;
        };
        let Some(at) = session.rx.find(header.epoch) else {
            return;
        };
        let Some(slot) = session.rx.slot(at) else {
            return;
        };
        if header.path != crate::keys::DIRECT {
            return;
        }
        let Some(sealed) = datagram.get(HEADER..) else {
            return;
        };
        let len = sealed.len().saturating_sub(TAG);
        let inner = matches!(header.kind, Kind::Data | Kind::Verbatim);
        if inner && self.run_sid != sid {
            write_run(
                &mut self.run,
                &mut self.out,
                &self.tun,
                &mut self.stats.tun_writes,
            );
            self.run_sid = sid;
        }
        let place = if inner { self.run.place() } else { 0 };
        let target = if inner {
            self.run.save(&self.out);
            self.out.get_mut(place..place + len)
        } else {
            self.scratch.get_mut(..len)
        };
        let Some(target) = target else { return };
        let epoch = slot.epoch;
        let key = if header.kind == Kind::Control {
            &mut slot.control
        } else {
            &mut slot.data
        };
        if !key.aead.open(header.counter, aad, sealed, target) {
            if inner {
                self.run.restore(&mut self.out);
            }
            return;
        }
        let newest = key.window.highest().is_none_or(|h| header.counter > h);
        if !key.window.accept(header.counter) {
            session.counters.rejected += 1;
            if inner {
                self.run.restore(&mut self.out);
            }
            return;
        }
        // A failure to hold the next step is met again with the next datagram.
        if session.rx.succeeded(at, now_ns).unwrap_or(false) {
            follow(session, now_ns);
            self.next_ns = now_ns;
        }
        session.heard(now_ns);
        if newest && session.endpoint == source && local.is_some() {
            session.raw.local = local;
        }
        session.counters.rx_bytes += datagram.len() as u64;
        match header.kind {
            Kind::Data | Kind::Verbatim => self.inner_packet(sid, place, len, &header, now_ns),
            Kind::Part => self.half(sid, len, &header, epoch, now_ns),
            Kind::Control => self.control(sid, len, &header),
            Kind::Probe => self.probe(sid, len, source, now_ns),
            Kind::Report => self.report(sid, len),
            Kind::Relay => {}
        }
        if newest
            && self
                .sessions
                .get(&sid)
                .is_some_and(|s| s.endpoint != source)
        {
            self.challenge(sid, source, datagram.len(), now_ns);
        }
    }

    /// An opened packet of `len` bytes at `place` in the run's buffer.
    #[inline]
    fn inner_packet(&mut self, sid: u32, place: usize, len: usize, meta: &Header, now_ns: u64) {
        let Some(session) = self.sessions.get_mut(&sid) else {
            return;
        };
        let packet = self.out.get(place..place + len).unwrap_or_default();
        let allowed = match (ip::src(packet), ip::dst(packet)) {
            (Some(from), Some(to)) => session.owns(from) && self.routes.is_local(to),
            _ => false,
        };
        if !allowed || !session.confirmed {
            session.counters.rejected += 1;
            self.run.restore(&mut self.out);
            return;
        }
        session.counters.rx_packets += 1;
        session.data_ns = Some(now_ns);
        session.report_due = true;
        let due = session.reported_ns + REPORT_NS;
        session.timer_ns = session.timer_ns.min(due.max(now_ns));
        self.next_ns = self.next_ns.min(session.timer_ns);
        match self.run.offer(&mut self.out, len, meta) {
            Outcome::Joined => {}
            Outcome::Complete => self.write_run(),
            Outcome::Malformed => session.counters.rejected += 1,
            Outcome::Flush => {
                self.write_run();
                if self.run.advance(&mut self.out) == Outcome::Complete {
                    self.write_run();
                }
            }
        }
    }

    /// One half of a packet that the path MTU could not take.
    fn half(&mut self, sid: u32, len: usize, header: &Header, epoch: Epoch, now_ns: u64) {
        self.write_run();
        self.run_sid = sid;
        let half = self.scratch.get(..len).unwrap_or_default();
        let place = self.run.place();
        self.run.save(&self.out);
        let Some(room) = self.out.get_mut(place..) else {
            return;
        };
        let Some(whole) = self
            .halves
            .offer(header, (epoch.generation, epoch.step), half, room)
        else {
            return;
        };
        let kind = if header.flags & PARTIAL != 0 {
            Kind::Data
        } else {
            Kind::Verbatim
        };
        let meta = Header {
            kind,
            segment: 0,
            flags: veilnet_wire::LAST,
            ..*header
        };
        self.inner_packet(sid, place, whole, &meta, now_ns);
    }

    fn control(&mut self, sid: u32, len: usize, header: &Header) {
        let Some(session) = self.sessions.get_mut(&sid) else {
            return;
        };
        let data = self.scratch.get(..len).unwrap_or_default();
        if session.confirmed {
            self.events.push(Event::Control {
                sid,
                data: data.to_vec(),
            });
        } else if header.counter == 0 && data == session.th4 {
            session.confirmed = true;
            session.th4 = Vec::new();
            session.timer_ns = 0;
            self.next_ns = 0;
            // The handshake is over: the gate need not keep AUTH for retransmission.
            self.gate.abandon(sid);
            self.events.push(Event::Confirmed { sid });
        }
    }

    fn probe(&mut self, sid: u32, len: usize, source: SocketAddr, now_ns: u64) {
        let body = self.scratch.get(..len).unwrap_or_default();
        match Probe::parse(body) {
            Some(Probe::Request(id)) => {
                let Some(session) = self.sessions.get_mut(&sid) else {
                    return;
                };
                let raw = self.underlay.udp.raw(source).leaving(session.raw.local);
                let answer = Probe::Answer(id).emit();
                let to = (source, &raw);
                self.underlay
                    .seal_to(session, to, Kind::Probe, (0, 0), &answer, now_ns);
                session.sent(now_ns, false);
            }
            Some(Probe::Answer(id)) => self.probe_answered(sid, id, source, now_ns),
            None => {}
        }
    }

    /// The peer tells what it received: a step that it follows may be followed by another.
    fn report(&mut self, sid: u32, len: usize) {
        let body = self.scratch.get(..len).unwrap_or_default();
        if let Some(session) = self.sessions.get_mut(&sid)
            && Report::parse(body).is_some_and(|r| r.epoch == session.tx.epoch)
        {
            session.tx.acknowledged = true;
        }
    }

    /// Write the open run into the TUN device.
    #[inline]
    pub(crate) fn write_run(&mut self) {
        write_run(
            &mut self.run,
            &mut self.out,
            &self.tun,
            &mut self.stats.tun_writes,
        );
    }
}

/// The peer moved to a new epoch: a generation that both hold carries our sending along.
fn follow(session: &mut crate::session::Session, now_ns: u64) {
    let moved = session.rx.current().generation;
    if let Some(next) = session.tx_next.take_if(|n| n.epoch.generation == moved) {
        session.tx = next;
        session.stale_told_ns = None;
        session.rekeyed_ns = now_ns;
    }
    session.report_due = true;
    session.reported_ns = 0;
    session.timer_ns = now_ns;
}

#[inline]
fn write_run(run: &mut veilnet_wire::Run, out: &mut [u8], tun: &Option<Tun>, writes: &mut u64) {
    let Some(tun) = tun else {
        // No device: the packets end here.
        let _ = run.finish(out);
        return;
    };
    // A write that fails (device down, queue full) is a lost packet, as on any link.
    if tun.offload.vnet_hdr {
        if let Some(finished) = run.finish(out)
            && let Some(whole) = out.get(finished.range)
        {
            let _ = tun.write(whole);
            *writes += 1;
        }
    } else if let Some(mut segments) = run.finish_segments(out) {
        while let Some(range) = segments.next(out) {
            let _ = tun.write(out.get(range).unwrap_or_default());
            *writes += 1;
        }
    }
}
