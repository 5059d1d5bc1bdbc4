//! A peer that seems to have moved: both endpoints are asked, and the old one stays if it answers.
//!
//! Otherwise whoever forwards a datagram faster than the peer's own path could steal the session.
//! While the question is open the session is known at both endpoints, or the peer's answer, masked
//! for this session, would be a stranger's. Source: docs/protocol.md; RFC 9000 section 9.3.

use crate::core::Core;
use crate::events::Event;
use crate::probe::{PROBE, Probe};
use crate::session::Challenge;
use crate::sys;
use std::net::SocketAddr;
use veilnet_handshake::{OsRng, Rng as _};
use veilnet_wire::{Kind, OVERHEAD};

const PAUSE_NS: u64 = 1_000_000_000;

impl Core {
    /// An authentic datagram, the newest so far, came from another endpoint than the session's.
    pub(crate) fn challenge(&mut self, sid: u32, to: SocketAddr, received: usize, now_ns: u64) {
        let Some(session) = self.sessions.get_mut(&sid) else {
            return;
        };
        // Never more bytes towards an unproven address than came from it, nor than all may have.
        let bytes = PROBE + OVERHEAD;
        let early = session.challenged_ns != 0 && now_ns < session.challenged_ns + PAUSE_NS;
        if received < bytes
            || session.challenge.is_some()
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
        let wait_ns = (2 * session.srtt_ns.unwrap_or(0)).clamp(250_000_000, 2_000_000_000);
        session.challenged_ns = now_ns;
        session.challenge = Some(Challenge {
            to,
            new_id,
            old_id,
            new_answered: false,
            decide_ns: now_ns + wait_ns,
        });
        session.timer_ns = session.timer_ns.min(now_ns + wait_ns);
        self.next_ns = self.next_ns.min(session.timer_ns);
        let (old_to, old_raw) = (session.endpoint, session.raw);
        let new_raw = self.underlay.udp.raw(to).leaving(old_raw.local);
        for (id, to, raw) in [(new_id, to, &new_raw), (old_id, old_to, &old_raw)] {
            let body = Probe::Request(id).emit();
            self.underlay
                .seal_to(session, (to, raw), Kind::Probe, (0, 0), &body, now_ns);
        }
        self.by_source.entry(to).or_default().push(sid);
    }

    pub(crate) fn probe_answered(&mut self, sid: u32, id: u64, source: SocketAddr, now_ns: u64) {
        let Some(session) = self.sessions.get_mut(&sid) else {
            return;
        };
        if let Some(challenge) = &mut session.challenge {
            if id == challenge.old_id {
                // The old endpoint still answers: whoever sent from the new one is a racer.
                let to = challenge.to;
                session.challenge = None;
                self.forget_source(to, sid);
                return;
            }
            if id == challenge.new_id && source == challenge.to {
                challenge.new_answered = true;
                return;
            }
        }
        let Some(at) = session.probes.iter().position(|p| p.id == id) else {
            return;
        };
        let probe = session.probes.swap_remove(at);
        // Not the loop's time: request and answer may fall into one turn of it.
        let rtt_ns = sys::now_ns().saturating_sub(probe.sent_ns);
        session.sample_rtt(rtt_ns);
        if let Some(size) = probe.size {
            session.mtu.answered(size, now_ns);
            session.timer_ns = session.timer_ns.min(session.mtu.next_ns().max(now_ns));
            self.next_ns = self.next_ns.min(session.timer_ns);
        }
        if probe.asked {
            self.events.push(Event::ProbeAnswered { sid, rtt_ns });
        }
    }

    /// The time to answer is over: move if the new endpoint alone answered.
    pub(crate) fn decide(&mut self, sid: u32, now_ns: u64) {
        let Some(session) = self.sessions.get_mut(&sid) else {
            return;
        };
        let Some(challenge) = session.challenge.take() else {
            return;
        };
        self.forget_source(challenge.to, sid);
        if challenge.new_answered && self.set_endpoint(sid, challenge.to, now_ns).is_ok() {
            let endpoint = challenge.to;
            self.events.push(Event::Moved { sid, endpoint });
        }
    }
}
