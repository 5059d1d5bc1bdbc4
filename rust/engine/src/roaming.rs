//! An end that moves: the peer, as it seems, or this host.
//!
//! Of a peer that seems to have moved on a direct path both endpoints are asked, and the old one stays if it answers.
//! Otherwise whoever forwards a datagram faster than the peer's own path could steal the session.
//! While the question is open the session is known at both endpoints, or the peer's answer, masked
//! for this session, would be a stranger's.
//!
//! This host has moved where the kernel leaves from another of its addresses than before. The peer does not know that
//! one: probes masked with its return key make it ask back. What it asks at the former address is not answered for a
//! moment, where that is still there, or it would take us for somebody who races. Source: docs/protocol.md; RFC 9000 section 9.3.

use crate::circuit::{Circuit, is_stand_in};
use crate::core::Core;
use crate::events::Event;
use crate::mtu::Search;
use crate::path::{Challenge, Path};
use crate::probe::{PROBE, Probe};
use crate::sys;
use crate::sys::udp::Local;
use crate::timers::send_probe;
use crate::underlay::Target;
use std::collections::HashMap;
use std::net::SocketAddr;
use veilnet_handshake::{OsRng, Rng as _};
use veilnet_wire::{Kind, OVERHEAD};

const PAUSE_NS: u64 = 1_000_000_000;
/// After a move no question at the former address is answered for this, or four round trips.
const FORMER_NS: u64 = 1_000_000_000;
/// The peer is shown again where we are after this, then twice and four times this: each after the
/// pause in which it takes no other address.
const SHOW_NS: u64 = 1_100_000_000;
const SHOWN_LAST_NS: u64 = 4 * SHOW_NS;

impl Path {
    /// Take note of *source*, which the kernel leaves from now; whether the path goes on from elsewhere.
    fn leaves(&mut self, source: Local, keep: &[Local], now_ns: u64) -> bool {
        let before = self.source.replace(source);
        let cut = std::mem::take(&mut self.cut);
        let stays = match self.raw.local {
            // The peer called it: it stays while it leads there.
            Some(local) => local == source || keep.contains(&local),
            None => before == Some(source),
        };
        if stays && !cut {
            return false;
        }
        // After a gap the same address may be another's: behind a new translator, say.
        let until_ns = now_ns + FORMER_NS.max(4 * self.meter.srtt_ns.unwrap_or(0));
        let used = self.raw.local.or(before).filter(|_| !stays);
        self.former = used.map(|local| (local, until_ns));
        self.raw.local = self.raw.local.filter(|_| stays);
        self.known = false;
        self.show = Some((now_ns + SHOW_NS, SHOW_NS));
        true
    }

    /// Whether what came, and was no probe, says that the peer has us where we are.
    ///
    /// What it sent before it knew may have waited on the way for seconds.
    #[inline]
    pub fn is_known_by(&self, former: bool) -> bool {
        !former && self.show.is_none()
    }

    /// Whether the peer is to be shown where we are now; when again, if so.
    pub fn shows(&mut self, now_ns: u64) -> bool {
        let due = self.show.filter(|(at, _)| now_ns >= *at);
        if let Some((_, gap)) = due {
            self.show = (gap < SHOWN_LAST_NS).then_some((now_ns + 2 * gap, 2 * gap));
        }
        due.is_some()
    }

    /// Whether *local* is where the path left from until just now.
    #[inline]
    pub fn is_former(&self, local: Option<Local>, now_ns: u64) -> bool {
        self.former
            .is_some_and(|(former, until)| Some(former) == local && now_ns < until)
    }
}

impl Core {
    /// The addresses of this host that peers called, and that their paths leave from.
    #[must_use]
    pub fn sources(&self) -> Vec<Local> {
        let paths = self.sessions.values().flat_map(|s| s.paths.iter());
        let direct = paths.filter(|p| p.circuit.is_none());
        let mut found: Vec<Local> = direct.filter_map(|p| p.raw.local).collect();
        found.sort_unstable();
        found.dedup();
        found
    }

    /// Addresses or routes of this host changed; its usual ways out did if it calls from *elsewhere* now.
    /// Paths that leave from another address are shown to their peers; those of `sources` that still
    /// lead where they did are in *keep*.
    ///
    /// Returns the sessions that have such paths, each with whether its peer can know us there.
    pub fn underlay_changed(
        &mut self,
        elsewhere: bool,
        keep: &[Local],
        now_ns: u64,
    ) -> Vec<(u32, bool)> {
        let wanted = self.options.mtu_bytes + OVERHEAD;
        let mut sources = HashMap::new();
        let mut moved = Vec::new();
        for session in self.sessions.values_mut().filter(|s| !s.lookup) {
            let mut moves = false;
            for at in 0..session.paths.len() {
                let Some(path) = session.paths.get_mut(at) else {
                    continue;
                };
                let ports = &self.underlay.ports;
                if is_stand_in(path.endpoint) {
                    continue;
                }
                let source = *sources
                    .entry(path.endpoint.ip())
                    .or_insert_with(|| ports.source(path.endpoint));
                let Some(source) = source else {
                    // Where it left from is remembered for when a way leads there again.
                    path.cut = true;
                    continue;
                };
                if !path.leaves(source, keep, now_ns) {
                    continue;
                }
                moves = true;
                path.mtu = Search::new(wanted, now_ns);
                // What was lost on the old way is no fault of the new one, and no silence there.
                path.meter.write_off();
                let proven = path.is_proven();
                (session.waiting_ns, session.silent_told_ns) = (None, None);
                if session.confirmed && proven {
                    // Twice, as any datagram may be lost; one that cannot leave is lost as well.
                    for _ in 0..2 {
                        let _ = send_probe(&mut self.underlay, session, at, None, false, now_ns);
                    }
                }
            }
            if moves {
                session.timer_ns = now_ns;
                let knows = session.confirmed && session.return_mask.is_some();
                moved.push((session.sid, knows));
            }
        }
        if elsewhere || !moved.is_empty() {
            self.called.clear();
        }
        self.next_ns = self.next_ns.min(now_ns);
        self.flush(now_ns);
        moved
    }

    /// An authentic datagram, the newest so far, came from another endpoint than the session's.
    pub(crate) fn challenge(
        &mut self,
        sid: u32,
        place: usize,
        (to, port): (SocketAddr, u16),
        received: usize,
        now_ns: u64,
    ) {
        let Some(session) = self.sessions.get_mut(&sid) else {
            return;
        };
        let Some(path) = session.paths.get_mut(place) else {
            return;
        };
        // Never more bytes towards an unproven address than came from it, nor than all may have.
        let bytes = PROBE + OVERHEAD;
        let early = path.challenged_ns != 0 && now_ns < path.challenged_ns + PAUSE_NS;
        if received < bytes
            || path.challenge.is_some()
            || early
            || !self.gate.may_send_unproven(to, bytes, now_ns)
        {
            return;
        }
        let mut ids = [[0u8; 8]; 2];
        for id in &mut ids {
            if OsRng.fill(id).is_err() {
                return;
            }
        }
        let [new_id, old_id] = ids.map(u64::from_be_bytes);
        let wait_ns = (2 * path.meter.srtt_ns.unwrap_or(0)).clamp(250_000_000, 2_000_000_000);
        path.challenged_ns = now_ns;
        path.challenge = Some(Challenge {
            to,
            port,
            new_id,
            old_id,
            new_answered: false,
            decide_ns: now_ns + wait_ns,
        });
        let (old_to, old_raw, known) = (path.endpoint, path.raw, path.known);
        session.timer_ns = session.timer_ns.min(now_ns + wait_ns);
        self.next_ns = self.next_ns.min(session.timer_ns);
        let new_raw = self
            .underlay
            .ports
            .raw(to)
            .leaving(old_raw.local)
            .through(port);
        for (id, to, raw) in [(new_id, to, new_raw), (old_id, old_to, old_raw)] {
            let target = Target {
                to,
                raw,
                // We may have moved ourselves.
                stranger: !known,
            };
            let body = Probe::Request(id).emit();
            let kind = (Kind::Probe, 0, 0);
            self.underlay
                .seal_to(session, place, &target, kind, &body, now_ns);
        }
        self.by_source.entry(to).or_default().push(sid);
    }

    pub(crate) fn probe_answered(
        &mut self,
        sid: u32,
        place: usize,
        id: u64,
        (source, port): (SocketAddr, u16),
        now_ns: u64,
    ) {
        let Some(session) = self.sessions.get_mut(&sid) else {
            return;
        };
        let Some(path) = session.paths.get_mut(place) else {
            return;
        };
        if let Some(challenge) = &mut path.challenge {
            if id == challenge.old_id {
                // The old endpoint still answers: whoever sent from the new one is a racer.
                let to = challenge.to;
                path.challenge = None;
                self.forget_source(to, sid);
                return;
            }
            if id == challenge.new_id && source == challenge.to {
                challenge.new_answered = true;
                return;
            }
        }
        let Some(probe) = path.answered(id) else {
            return;
        };
        let elsewhere = path.endpoint != source && path.circuit.is_none();
        let found = elsewhere && !path.is_proven() && Circuit::of(source).is_none();
        // Where a dead path goes now is for the challenge to say.
        let alive = found || !elsewhere || path.usable();
        // Not the loop's time: request and answer may fall into one turn of it.
        let told_ns = sys::now_ns();
        let rtt_ns = told_ns.saturating_sub(probe.sent_ns);
        path.meter.probed(rtt_ns, now_ns);
        if let Some(size) = probe.size {
            path.mtu.answered(size, now_ns);
            session.timer_ns = session.timer_ns.min(path.mtu.next_ns().max(now_ns));
            self.next_ns = self.next_ns.min(session.timer_ns);
        }
        if probe.asked {
            let path = path.id;
            self.events.push(Event::ProbeAnswered { sid, path, rtt_ns });
        }
        if alive && (!found || self.settle(sid, place, (source, port), now_ns)) {
            self.judged(sid, place, None, now_ns);
        }
    }

    /// The time to answer is over: move if the new endpoint alone answered.
    pub(crate) fn decide(&mut self, sid: u32, now_ns: u64) {
        let Some(session) = self.sessions.get_mut(&sid) else {
            return;
        };
        let due = |c: &mut Challenge| now_ns >= c.decide_ns;
        let over: Vec<(u8, Challenge)> = session
            .paths
            .iter_mut()
            .filter_map(|p| Some((p.id, p.challenge.take_if(due)?)))
            .collect();
        for (path, challenge) in over {
            self.forget_source(challenge.to, sid);
            if challenge.new_answered
                && let Some(path) = self
                    .sessions
                    .get_mut(&sid)
                    .and_then(|s| s.paths.iter_mut().find(|p| p.id == path))
            {
                path.raw.port = challenge.port;
            }
            if challenge.new_answered && self.move_path(sid, path, challenge.to, now_ns).is_ok() {
                let endpoint = challenge.to;
                self.events.push(Event::Moved { sid, endpoint });
                let place = self.sessions.get(&sid).and_then(|s| s.place(path));
                if let Some(place) = place {
                    self.judged(sid, place, None, now_ns);
                }
            }
        }
    }
}
