//! Lookup sessions: anonymous on both sides, for control alone, short-lived and bounded.
//!
//! Anybody who knows the name of the commons may open one, so nothing of it may grow: it has one
//! path and never another, no data, no circuits, no new keys, no probes and no keepalive.

use crate::core::Core;
use crate::error::Error;
use crate::session::Session;

/// Ours and strangers' together: beyond them the one that was heard least lately goes.
pub const LOOKUPS: usize = 1024;
/// So long the responder waits for a first question.
const UNHEARD_NS: u64 = 10_000_000_000;
/// Python closes a lookup session after a minute; whatever it does, none lives longer than this.
const LIFE_NS: u64 = 120_000_000_000;

pub(crate) const LOOKUP_ONLY: Error = Error::Invalid("a lookup session carries control alone");

/// When a lookup session is over.
pub(crate) fn end_ns(session: &Session) -> u64 {
    let life_ns = if session.confirmed {
        LIFE_NS
    } else {
        UNHEARD_NS
    };
    session.created_ns + life_ns
}

impl Core {
    /// Strangers' lookups make room before ours, those that never asked anything before others.
    pub(crate) fn make_room_for_lookup(&mut self, now_ns: u64) {
        while self.sessions.values().filter(|s| s.lookup).count() >= LOOKUPS {
            let lookups = self.sessions.values().filter(|s| s.lookup);
            let last = lookups.min_by_key(|s| (s.initiator, s.confirmed, s.heard_ns));
            let Some(sid) = last.map(|s| s.sid) else {
                return;
            };
            self.close_session(sid, now_ns);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;
    use crate::core::Options;
    use crate::events::Events;
    use crate::keys::StepLimits;
    use crate::sys::wake::wait_readable;
    use std::net::SocketAddr;
    use std::sync::{Arc, Mutex};
    use veilnet_handshake::{
        Action, Established, Event, Gate, KeySchedule, Limits, Mode, OsRng, Rate, Suite, Tried,
    };
    use veilnet_wire::Kind;

    const DOOR: [u8; 32] = [7; 32];
    const PLENTY: Rate = Rate {
        per_s: 1 << 30,
        burst: 1 << 30,
    };

    fn core() -> Core {
        let options = Options {
            port: 0,
            tun: None,
            mtu_bytes: 1380,
            vnet_hdr: false,
            udp_gso: false,
            udp_gro: false,
            steps: StepLimits::default(),
        };
        Core::open(options, Arc::new(Events::new().unwrap())).unwrap()
    }

    fn gate() -> Gate {
        let limits = Limits {
            unproven_address: PLENTY,
            unproven_prefix: PLENTY,
            per_prefix: PLENTY,
            global: PLENTY,
            per_source: 1 << 20,
            answers: 1 << 20,
            ..Limits::default()
        };
        let mut gate = Gate::with_limits(limits, &mut OsRng).unwrap();
        gate.add_door(&DOOR, false).unwrap();
        gate
    }

    /// Both ends of a lookup session, as the gates hand them out.
    fn lookup(i: &mut Gate, r: &mut Gate) -> [Established; 2] {
        let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let schedule = KeySchedule::initiate(
            Suite::S1,
            Mode::Lookup,
            &[1; 32],
            &[2; 32],
            &[0; 32],
            &[9; 1184],
            &mut OsRng,
        );
        let schedule = Arc::new(Mutex::new(schedule.unwrap()));
        let mut wire = Vec::new();
        i.hello(&schedule, &DOOR, at(2), false, 0, &mut OsRng, &mut wire)
            .unwrap();
        let mut answered = None;
        for _ in 0..8 {
            for action in std::mem::take(&mut wire) {
                match action {
                    Action::Send { to, bytes } if to == at(2) => {
                        r.receive(&bytes, at(1), 0, &mut OsRng, &mut wire);
                    }
                    Action::Send { bytes, .. } => {
                        i.receive(&bytes, at(2), 0, &mut OsRng, &mut wire);
                    }
                    Action::Event(Event::Init(init)) => {
                        let schedule = KeySchedule::respond(
                            &init, &[1; 32], &[2; 32], &[0; 32], &[5; 1088], &[4; 32], &mut OsRng,
                        );
                        let schedule = Arc::new(Mutex::new(schedule.unwrap()));
                        answered = r
                            .respond(&schedule, &init, Vec::new(), 0, &mut OsRng, &mut wire)
                            .unwrap();
                    }
                    Action::Event(Event::Candidate { sid, candidate, .. }) => {
                        let tried = i.candidate(sid, candidate, &[4; 32], 0, &mut wire);
                        let Ok(Tried::Established(session)) = tried else {
                            panic!("no session")
                        };
                        return [*session, *answered.unwrap()];
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
        panic!("no session")
    }

    /// A thousand and twenty-four; strangers' go before ours, the unheard before the heard.
    #[test]
    fn lookups_are_bounded() {
        let (mut core, mut i, mut r) = (core(), gate(), gate());
        let mut ours = Vec::new();
        let mut theirs = Vec::new();
        for n in 0..LOOKUPS as u64 {
            let [a, b] = lookup(&mut i, &mut r);
            let session = if n < 8 { a } else { b };
            let (sid, initiator) = (session.local_sid, session.initiator);
            core.establish(session, n).unwrap();
            if initiator { &mut ours } else { &mut theirs }.push(sid);
        }
        assert_eq!(core.sessions.len(), LOOKUPS);
        // The first stranger has asked something meanwhile.
        core.sessions.get_mut(&theirs[0]).unwrap().confirmed = true;
        for n in 0..16 {
            let [_, b] = lookup(&mut i, &mut r);
            core.establish(b, 5000 + n).unwrap();
            assert_eq!(core.sessions.len(), LOOKUPS);
        }
        assert!(ours.iter().all(|sid| core.sessions.contains_key(sid)));
        assert!(core.sessions.contains_key(&theirs[0]));
        assert!(
            theirs[1..17]
                .iter()
                .all(|sid| !core.sessions.contains_key(sid))
        );
        assert!(core.sessions.contains_key(&theirs[17]));
        assert!(core.by_source.values().map(Vec::len).sum::<usize>() == LOOKUPS);
    }

    /// Whatever a peer seals besides control meets silence, and confirms nothing.
    #[test]
    fn nothing_but_control_is_received() {
        let (mut a, mut b, mut i, mut r) = (core(), core(), gate(), gate());
        let [mut ours, mut theirs] = lookup(&mut i, &mut r);
        let at = |core: &Core| SocketAddr::from(([127, 0, 0, 1], core.port().unwrap()));
        ours.source = at(&b);
        theirs.source = at(&a);
        let (ours_sid, sid) = (ours.local_sid, theirs.local_sid);
        a.establish(ours, 1).unwrap();
        b.establish(theirs, 1).unwrap();
        let bad = [
            Kind::Data,
            Kind::Verbatim,
            Kind::Part,
            Kind::Probe,
            Kind::Report,
            Kind::Relay,
        ];
        let body = [0; 60];
        for kind in bad.into_iter().chain([Kind::Control]) {
            let session = a.sessions.get_mut(&ours_sid).unwrap();
            assert!(a.underlay.seal(session, 0, kind, (0, 0), &body, 2));
            a.flush(2);
            wait_readable(&[b.underlay.ports.main.fd()], 2_000_000_000);
            assert!(b.drain_udp(3), "it came");
            let session = b.sessions.get(&sid).unwrap();
            assert_eq!(session.confirmed, kind == Kind::Control, "{kind:?}");
            let heard_ns = if kind == Kind::Control { 3 } else { 1 };
            assert_eq!(session.heard_ns, Some(heard_ns));
            b.tick(4);
            assert!(!a.drain_udp(5), "an answer to {kind:?}");
        }
        assert_eq!(b.events.drain(usize::MAX).len(), 1);
    }

    /// Who never asks is forgotten after ten seconds, and nobody stays for longer than two minutes.
    #[test]
    fn lookups_end() {
        let (mut core, mut i, mut r) = (core(), gate(), gate());
        let [a, b] = lookup(&mut i, &mut r);
        let (ours, theirs) = (a.local_sid, b.local_sid);
        core.establish(a, 0).unwrap();
        core.establish(b, 0).unwrap();
        core.tick(UNHEARD_NS - 1);
        assert_eq!(core.sessions.len(), 2);
        assert_eq!(core.next_ns, UNHEARD_NS);
        core.tick(UNHEARD_NS);
        assert!(core.sessions.contains_key(&ours) && !core.sessions.contains_key(&theirs));
        core.tick(UNHEARD_NS + 1);
        assert_eq!(core.next_ns, LIFE_NS);
        core.tick(LIFE_NS);
        assert!(core.sessions.is_empty());
    }
}
