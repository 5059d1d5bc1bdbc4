//! From the underlay to the TUN device.
//!
//! INVARIANT: nothing changes state before the tag was verified under a key of the session, and no
//! inner packet is delivered before replay, inner source and inner destination were checked.
//!
//! A relay frame is opened in place. Its label says what becomes of it: forwarded to another link
//! (`forward`), or its datagram taken as if it had come from the circuit's own address. Frames
//! inside frames are not taken: a link is always direct.

use crate::circuit::{Circuit, is_stand_in};
use crate::core::{Core, SLOT};
use crate::events::{Event, Events};
use crate::forwarding::Verdict;
use crate::keys::Epoch;
use crate::path::{Cause, REPORT_NS};
use crate::ports::MAIN;
use crate::probe::{PROBE, Probe, Report};
use crate::sys::crypto::Mask;
use crate::sys::tun::Tun;
use crate::sys::udp::{Local, Received};
use crate::underlay::{LABEL, Target, class};
use std::net::SocketAddr;
use veilnet_handshake::{Action, Class, Gate, OsRng};
use veilnet_wire::{HEADER, Header, Kind, OVERHEAD, Outcome, PARTIAL, TAG, ip};

/// Receive calls between two looks at the other side; more while frames go on to other links, so
/// that each next hop gets fewer and longer sends.
const RECEIVES: usize = 64;
const FORWARD_RECEIVES: usize = 256;
/// The path id of handshake messages, which are the gate's.
const HANDSHAKE_PATH: u8 = 255;
/// Two questions so close to each other are a doubt; who keeps a path warm asks more seldom.
const DOUBT_NS: u64 = 500_000_000;

/// The peer's endpoint, and the address and socket (`Ports`) of ours that it called.
pub(crate) type From = (SocketAddr, Option<Local>, u16);

/// A frame that goes on: over which link, and where in the receive buffer its label and datagram are.
pub(crate) struct Hop {
    pub(crate) link: u32,
    pub(crate) start: usize,
    pub(crate) len: usize,
}

impl Core {
    /// Receive and deliver what the socket holds; true if there was something.
    pub(crate) fn drain_udp(&mut self, now_ns: u64) -> bool {
        let mut worked = false;
        let mut slot = std::mem::take(&mut self.slot);
        // Frames that go on stay in the buffer until it is full, so that each next hop gets one send.
        let mut used = 0;
        for turn in 0..FORWARD_RECEIVES {
            if self.hops.is_empty() {
                if turn >= RECEIVES {
                    break;
                }
                used = 0;
            } else if used + SLOT > slot.len() {
                self.forward(&slot, now_ns);
                used = 0;
            }
            let Some(room) = slot.get_mut(used..used + SLOT) else {
                break;
            };
            // Errors other than "empty" are ICMP echoes of what was sent: the next call goes on.
            let Ok(Received {
                len,
                segment,
                source,
                local,
            }) = self.underlay.ports.main.receive(room)
            else {
                break;
            };
            worked = true;
            self.stats.rx_calls += 1;
            if is_stand_in(source) {
                // Nobody really has such an address.
                continue;
            }
            let mut start = used;
            for datagram in room.get_mut(..len).unwrap_or_default().chunks_mut(segment) {
                self.stats.rx_datagrams += 1;
                if let Some((link, len)) = self.datagram(datagram, (source, local, MAIN), now_ns) {
                    let start = start + HEADER;
                    self.hops.push(Hop { link, start, len });
                }
                start += segment;
            }
            used += len.next_multiple_of(64);
        }
        self.forward(&slot, now_ns);
        if self.underlay.ports.others_fd() >= 0 {
            worked |= self.drain_others(&mut slot, now_ns);
        }
        self.slot = slot;
        self.write_run();
        self.flush(now_ns);
        worked
    }

    /// Seal each frame for its next link, all of one link together, and send.
    pub(crate) fn forward(&mut self, slot: &[u8], now_ns: u64) {
        if self.hops.is_empty() {
            return;
        }
        let mut hops = std::mem::take(&mut self.hops);
        hops.sort_unstable_by_key(|h| (h.link, h.start));
        for hop in &hops {
            if let (Some(link), Some(frame)) = (
                self.sessions.get_mut(&hop.link),
                slot.get(hop.start..hop.start + hop.len),
            ) && let Some(at) = link.link()
            {
                self.underlay
                    .seal(link, at, Kind::Relay, (0, 0), frame, now_ns);
            }
        }
        hops.clear();
        self.hops = hops;
    }

    /// Act on one datagram; a relay frame that goes on is returned as its link and length.
    #[inline]
    pub(crate) fn datagram(
        &mut self,
        datagram: &mut [u8],
        from: From,
        now_ns: u64,
    ) -> Option<(u32, usize)> {
        match self.identify(datagram, from.0) {
            Some((sid, bytes, header)) if header.path != HANDSHAKE_PATH => {
                if header.kind == Kind::Relay {
                    return self.relayed(sid, &bytes, header, datagram, from, now_ns);
                }
                self.authentic(sid, &bytes, header, datagram, from, now_ns);
            }
            _ => self.first_contact(datagram, from, now_ns),
        }
        None
    }

    /// Open a relay frame in place and see where it goes.
    #[inline]
    fn relayed(
        &mut self,
        sid: u32,
        aad: &[u8; HEADER],
        header: Header,
        datagram: &mut [u8],
        from: From,
        now_ns: u64,
    ) -> Option<(u32, usize)> {
        if Circuit::of(from.0).is_some() {
            return None;
        }
        let session = self.sessions.get_mut(&sid)?;
        if session.lookup {
            return None;
        }
        let place = session.place(header.path)?;
        let at = session.rx.find(header.epoch)?;
        let key = session.rx.slot(at)?.opener(Class::Relay, header.path)?;
        let sealed = datagram.get_mut(HEADER..)?;
        if !key.aead.open_in_place(header.counter, aad, sealed) {
            return None;
        }
        if !key.window.accept(header.counter) {
            session.counters.rejected += 1;
            return None;
        }
        if session.rx.succeeded(at, now_ns) {
            follow(session, now_ns);
            self.next_ns = now_ns;
        }
        session.heard(now_ns);
        session.counters.rx_bytes += datagram.len() as u64;
        if let Some(path) = session.paths.get_mut(place) {
            path.carried_ns = now_ns;
            path.known = path.known || path.is_known_by(path.is_former(from.1, now_ns));
        }
        self.last_sid = sid;
        let len = datagram.len().checked_sub(HEADER + TAG)?;
        let inner = len.checked_sub(LABEL)?;
        let frame = datagram.get_mut(HEADER..HEADER + len)?;
        let (label, inside) = frame.split_first_chunk_mut::<LABEL>()?;
        let came = Circuit {
            link: sid,
            label: u32::from_be_bytes(*label),
        };
        match self.forwarding.pass(came, inner, now_ns) {
            Verdict::Forward(to) => {
                *label = to.label.to_be_bytes();
                return Some((to.link, len));
            }
            Verdict::Spent => self.events.push(Event::CircuitSpent {
                link: came.link,
                label: came.label,
            }),
            Verdict::Drop => {}
            Verdict::Unknown if self.joined.contains_key(&came) => {
                self.datagram(inside, (came.address(), None, MAIN), now_ns);
            }
            Verdict::Unknown => {}
        }
        None
    }

    /// Whose datagram it claims to be: the sessions at its source first, then the return keys.
    #[inline]
    fn identify(&self, datagram: &[u8], source: SocketAddr) -> Option<(u32, [u8; HEADER], Header)> {
        let claim = |mask: &Mask| {
            let bytes = mask.header(datagram)?;
            Some((bytes, Header::parse(&bytes)?))
        };
        let last = if Circuit::of(source).is_some() {
            self.last_relayed_sid
        } else {
            self.last_sid
        };
        if let Some(session) = self.sessions.get(&last)
            && session.is_at(source)
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

    fn first_contact(&mut self, datagram: &mut [u8], (source, local, port): From, now_ns: u64) {
        if port != MAIN {
            // Whoever is a stranger knows one port of ours.
            self.stats.rx_unknown += 1;
            return;
        }
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
        self.perform(out, local.map(|local| (source, local)), now_ns);
    }

    /// Open, check, and act on a datagram of session `sid`.
    #[inline]
    fn authentic(
        &mut self,
        sid: u32,
        aad: &[u8; HEADER],
        header: Header,
        datagram: &[u8],
        (source, local, port): From,
        now_ns: u64,
    ) {
        let relayed = Circuit::of(source).is_some();
        if relayed {
            self.last_relayed_sid = sid;
        } else {
            self.last_sid = sid;
        }
        let Some(session) = self.sessions.get_mut(&sid) else {
            return;
        };
        if session.lookup && header.kind != Kind::Control {
            return;
        }
        if session.early.is_some() && session.keep_early(header.kind, source, datagram) {
            return;
        }
        let Some(place) = session.place(header.path) else {
            return;
        };
        let Some(at) = session.rx.find(header.epoch) else {
            return;
        };
        let Some(slot) = session.rx.slot(at) else {
            return;
        };
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
        let room = if inner { self.run.place() } else { 0 };
        let target = if inner {
            self.run.save(&self.out);
            self.out.get_mut(room..room + len)
        } else {
            self.scratch.get_mut(..len)
        };
        let Some(target) = target else { return };
        let epoch = slot.epoch;
        let class = class(header.kind);
        let Some(key) = slot.opener(class, header.path) else {
            if inner {
                self.run.restore(&mut self.out);
            }
            return;
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
        if session.rx.succeeded(at, now_ns) {
            follow(session, now_ns);
            self.next_ns = now_ns;
        }
        session.heard(now_ns);
        session.counters.rx_bytes += datagram.len() as u64;
        if session.confirmed_by_any && !session.confirmed {
            confirm(session, &mut self.gate, &self.events);
            self.next_ns = 0;
        }
        let (mut elsewhere, mut unproven, mut former) = (false, false, false);
        if let Some(path) = session.paths.get_mut(place) {
            path.heard_ns = Some(now_ns);
            former = path.is_former(local, now_ns);
            // A probe may go anywhere; all else goes to where the peer has us.
            path.known |= header.kind != Kind::Probe && path.is_known_by(former);
            if class == Class::Data {
                path.meter.rx_datagrams += 1;
                path.meter.rx_bytes += datagram.len() as u64;
                if newest {
                    path.highest_ns = now_ns;
                }
            }
            if newest && path.endpoint == source && local.is_some() && !former {
                path.raw.local = local;
                path.raw.port = port;
            }
            // A circuit's peer does not move, and no peer moves into a circuit.
            elsewhere = path.endpoint != source && path.circuit.is_none() && !relayed;
            elsewhere &= !session.lookup;
            unproven = !path.is_proven();
        }
        match header.kind {
            Kind::Data | Kind::Verbatim => {
                self.inner_packet(sid, place, room, len, &header, now_ns);
            }
            Kind::Part => self.half(sid, place, len, &header, epoch, now_ns),
            Kind::Control => self.control(sid, len, &header),
            Kind::Probe => self.probe(sid, place, len, (source, port), former, now_ns),
            Kind::Report => self.report(sid, place, len, now_ns),
            Kind::Relay => {}
        }
        if elsewhere && unproven {
            let answered = if header.kind == Kind::Probe {
                PROBE + OVERHEAD
            } else {
                0
            };
            let received = datagram.len().saturating_sub(answered);
            self.approached(sid, place, (source, port), received, now_ns);
        } else if newest && elsewhere {
            self.challenge(sid, place, (source, port), datagram.len(), now_ns);
        }
    }

    /// An opened packet of `len` bytes at `room` in the run's buffer, that came over path `place`.
    #[inline]
    fn inner_packet(
        &mut self,
        sid: u32,
        place: usize,
        room: usize,
        len: usize,
        meta: &Header,
        now_ns: u64,
    ) {
        let Some(session) = self.sessions.get_mut(&sid) else {
            return;
        };
        let packet = self.out.get(room..room + len).unwrap_or_default();
        let allowed = match (ip::src(packet), ip::dst(packet)) {
            (Some(from), Some(to)) => session.owns(from) && self.routes.is_local(to),
            _ => false,
        };
        if !allowed || !session.confirmed {
            session.counters.rejected += 1;
            self.run.restore(&mut self.out);
            // It came, whatever it is worth: that its path lost it would be false.
            self.owes_report(sid, place, Some(len), now_ns);
            return;
        }
        session.counters.rx_packets += 1;
        session.data_ns = Some(now_ns);
        if session.paths.len() > 1 && session.main() != place {
            self.peer_uses(sid, place, now_ns);
        }
        self.owes_report(sid, place, Some(len), now_ns);
        match self.run.offer(&mut self.out, len, meta) {
            Outcome::Joined => {}
            Outcome::Complete => self.write_run(),
            Outcome::Malformed => {
                if let Some(session) = self.sessions.get_mut(&sid) {
                    session.counters.rejected += 1;
                }
            }
            Outcome::Flush => {
                self.write_run();
                if self.run.advance(&mut self.out) == Outcome::Complete {
                    self.write_run();
                }
            }
        }
    }

    /// One half of a packet that the path MTU could not take.
    fn half(
        &mut self,
        sid: u32,
        place: usize,
        len: usize,
        header: &Header,
        epoch: Epoch,
        now_ns: u64,
    ) {
        self.write_run();
        self.run_sid = sid;
        let half = self.scratch.get(..len).unwrap_or_default();
        let at = self.run.place();
        self.run.save(&self.out);
        let Some(room) = self.out.get_mut(at..) else {
            return;
        };
        let Some(whole) = self
            .halves
            .offer(header, (epoch.generation, epoch.step), half, room)
        else {
            // The sender counts two; the other is counted with the packet.
            self.owes_report(sid, place, Some(len), now_ns);
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
        self.inner_packet(sid, place, at, whole, &meta, now_ns);
    }

    fn control(&mut self, sid: u32, len: usize, header: &Header) {
        let Some(session) = self.sessions.get_mut(&sid) else {
            return;
        };
        let data = self.scratch.get(..len).unwrap_or_default();
        if session.lookup && !session.confirmed {
            session.confirmed = true;
            session.timer_ns = 0;
            self.next_ns = 0;
            // The peer has the keys: RESP need not be kept for it.
            self.gate.abandon(sid);
        }
        let is_ack = header.counter == 0 && header.path == 0 && data == session.th4;
        if is_ack && !session.th4.is_empty() {
            session.th4 = Vec::new();
            if !session.confirmed {
                confirm(session, &mut self.gate, &self.events);
                self.next_ns = 0;
            }
        } else if session.confirmed {
            self.events.push(Event::Control {
                sid,
                data: data.to_vec(),
                lookup: session.lookup,
            });
        }
    }

    fn probe(
        &mut self,
        sid: u32,
        place: usize,
        len: usize,
        (source, port): (SocketAddr, u16),
        former: bool,
        now_ns: u64,
    ) {
        let body = self.scratch.get(..len).unwrap_or_default();
        match Probe::parse(body) {
            Some(Probe::Request(_)) if former => {}
            Some(Probe::Request(id)) => {
                let Some(session) = self.sessions.get_mut(&sid) else {
                    return;
                };
                let Some(path) = session.paths.get(place) else {
                    return;
                };
                // Over a circuit the answer goes back where the path goes; else to who asked.
                let to = if Circuit::of(source).is_some() || path.circuit.is_some() {
                    path.endpoint
                } else {
                    source
                };
                let target = Target {
                    to,
                    raw: self
                        .underlay
                        .ports
                        .raw(to)
                        .leaving(path.raw.local)
                        .through(port),
                    stranger: !path.known,
                };
                let answer = Probe::Answer(id).emit();
                let kind = (Kind::Probe, 0, 0);
                self.underlay
                    .seal_to(session, place, &target, kind, &answer, now_ns);
                session.sent(now_ns, false);
                if place == session.main() {
                    session.kept_alive(false, now_ns);
                }
                let Some(path) = session.paths.get_mut(place) else {
                    return;
                };
                // Who asks twice doubts what became of its data.
                let doubts = now_ns < path.requested_ns + DOUBT_NS;
                path.requested_ns = now_ns;
                if doubts {
                    self.owes_report(sid, place, None, now_ns);
                }
            }
            Some(Probe::Answer(id)) => self.probe_answered(sid, place, id, (source, port), now_ns),
            Some(Probe::Left(left)) => self.peer_left(sid, place, left, now_ns),
            None => {}
        }
    }

    /// Report on a path when it is due for an inner packet of `bytes`, or else as soon as may be.
    #[inline]
    fn owes_report(&mut self, sid: u32, place: usize, bytes: Option<usize>, now_ns: u64) {
        if let Some(session) = self.sessions.get_mut(&sid)
            && let Some(path) = session.paths.get_mut(place)
        {
            let due_ns = match bytes {
                Some(bytes) => path.came(bytes, now_ns),
                None => path.report_by(path.reported_ns + REPORT_NS, now_ns),
            };
            session.timer_ns = session.timer_ns.min(due_ns);
            self.next_ns = self.next_ns.min(due_ns);
        }
    }

    /// The peer tells what it received on a path; a step that it follows may be followed by another.
    fn report(&mut self, sid: u32, place: usize, len: usize, now_ns: u64) {
        let body = self.scratch.get(..len).unwrap_or_default();
        let (Some(session), Some(report)) = (self.sessions.get_mut(&sid), Report::parse(body))
        else {
            return;
        };
        if report.epoch == session.tx.epoch {
            session.tx.acknowledged = true;
        }
        let Some(path) = session.paths.get_mut(place) else {
            return;
        };
        let lost = path.meter.lost;
        if !path.meter.report(&report, now_ns) {
            return;
        }
        if path.meter.lost > lost {
            // Perhaps for their size.
            path.mtu.suspect(now_ns);
            session.timer_ns = session.timer_ns.min(path.mtu.next_ns().max(now_ns));
            self.next_ns = self.next_ns.min(session.timer_ns);
        }
        let verdict = path.meter.judge(now_ns).map(Cause::from);
        self.judged(sid, place, verdict, now_ns);
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

/// The peer holds the keys: the gate need not keep AUTH for retransmission.
fn confirm(session: &mut crate::session::Session, gate: &mut Gate, events: &Events) {
    session.confirmed = true;
    session.timer_ns = 0;
    for path in &mut session.paths {
        // It may have come before the peer had verified us: what was lost there is no fault of the path.
        path.meter.write_off();
    }
    gate.abandon(session.sid);
    events.push(Event::Confirmed { sid: session.sid });
}

/// The peer moved to a new epoch: a generation that both hold carries our sending along.
fn follow(session: &mut crate::session::Session, now_ns: u64) {
    let moved = session.rx.current().generation;
    if let Some(next) = session.tx_next.take_if(|n| n.epoch.generation == moved) {
        session.tx = next;
        session.stale_told_ns = None;
        session.rekeyed_ns = now_ns;
    }
    let at = session.main();
    if let Some(path) = session.paths.get_mut(at) {
        path.report_by(now_ns, now_ns);
    }
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
