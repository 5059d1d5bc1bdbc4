//! What happens because time passed: reports, silence, keepalive, path MTU, retirement of keys.

use crate::core::Core;
use crate::error::{Error, Result};
use crate::events::{Event, Events};
use crate::keys::StepLimits;
use crate::probe::{PROBE, Probe, Report};
use crate::session::{Pending, REPORT_NS, SILENT_NS, Session, TELL_AGAIN_NS};
use crate::underlay::Underlay;
use veilnet_handshake::{OsRng, Rng as _};
use veilnet_wire::{Kind, OVERHEAD};

/// Keepalives come log-uniformly between these, with random sizes: no clock to recognise.
const KEEPALIVE_NS: (f64, f64) = (8e9, 28e9);
const KEEPALIVE_PAD: usize = 400;
const PROBES: usize = 8;
const PROBE_LIFE_NS: u64 = 5_000_000_000;
/// Without traffic for so long a path is not searched or confirmed.
const QUIET_NS: u64 = 30_000_000_000;
/// So long a session may wait for its ACK; then nobody waits for it any more.
const UNCONFIRMED_NS: u64 = 30_000_000_000;
const FAR_NS: u64 = 3_600_000_000_000;

impl Core {
    /// Do what is due and find out when to come back.
    pub(crate) fn tick(&mut self, now_ns: u64) {
        self.gate.expire(now_ns);
        for destination in self.waiting.expired(now_ns) {
            self.refuse(destination);
        }
        let mut next = now_ns + FAR_NS;
        let (mut decided, mut unborn) = (Vec::new(), Vec::new());
        for session in self.sessions.values_mut() {
            if session.timer_ns <= now_ns {
                run(
                    &mut self.underlay,
                    &self.events,
                    session,
                    self.options.steps,
                    now_ns,
                );
                if session.challenge.is_some_and(|c| now_ns >= c.decide_ns) {
                    decided.push(session.sid);
                }
                if !session.confirmed && now_ns >= session.created_ns + UNCONFIRMED_NS {
                    unborn.push(session.sid);
                }
            }
            next = next.min(session.timer_ns);
        }
        self.next_ns = next.min(self.waiting.next_ns().unwrap_or(u64::MAX)).min(
            self.gate
                .next_expiry()
                .unwrap_or(u64::MAX)
                .max(now_ns + 1_000_000),
        );
        for sid in decided {
            self.decide(sid, now_ns);
        }
        for sid in unborn {
            self.close_session(sid);
        }
        self.underlay.flush();
        self.note_refused(now_ns);
    }

    /// Send a probe because Python asked.
    pub fn probe_now(&mut self, sid: u32, now_ns: u64) -> Result<()> {
        let session = self.sessions.get_mut(&sid).ok_or(Error::NoSession(sid))?;
        send_probe(&mut self.underlay, session, None, true, now_ns)?;
        self.next_ns = self.next_ns.min(session.timer_ns);
        self.underlay.flush();
        Ok(())
    }
}

/// One session's due timers.
fn run(
    underlay: &mut Underlay,
    events: &Events,
    session: &mut Session,
    steps: StepLimits,
    now_ns: u64,
) {
    session.rx.retire(now_ns);
    session
        .probes
        .retain(|p| now_ns < p.sent_ns + PROBE_LIFE_NS);
    if session.report_due && now_ns >= session.reported_ns + REPORT_NS {
        send_report(underlay, session, now_ns);
    }
    if session.tx.step_due(steps, now_ns) {
        // A failure keeps the old step, which is safe until the hard stop.
        let _ = session.tx.step(now_ns);
    }
    let busy = session.data_ns.is_some_and(|t| now_ns < t + QUIET_NS);
    if session.confirmed && (busy || session.mtu.size() == crate::mtu::BASE) {
        let timeout_ns = (3 * session.srtt_ns.unwrap_or(0)).clamp(200_000_000, 2_000_000_000);
        if let Some(size) = session.mtu.poll(now_ns, timeout_ns) {
            // A send that fails is a probe that gets no answer.
            let _ = send_probe(underlay, session, Some(size), false, now_ns);
        }
    }
    if session.confirmed && now_ns >= session.keepalive_ns {
        let quiet = session.data_ns.is_none_or(|t| now_ns > t + 1_000_000_000);
        if session.keepalive_ns != 0 && quiet {
            let _ = send_probe(underlay, session, None, false, now_ns);
        }
        session.keepalive_ns = now_ns + keepalive_gap();
    }
    if let Some(since) = session.waiting_ns
        && now_ns >= since + SILENT_NS
        && session
            .silent_told_ns
            .is_none_or(|t| now_ns >= t + TELL_AGAIN_NS)
    {
        session.silent_told_ns = Some(now_ns);
        session.mtu.suspect(now_ns);
        events.push(Event::Silent {
            sid: session.sid,
            silent_ns: now_ns - since,
        });
    }
    session.timer_ns = deadline(session, now_ns);
}

/// The earliest thing that this session waits for.
fn deadline(session: &Session, now_ns: u64) -> u64 {
    let mut next = now_ns + FAR_NS;
    if session.confirmed {
        next = next.min(session.keepalive_ns);
        if session.data_ns.is_some_and(|t| now_ns < t + QUIET_NS)
            || session.mtu.size() == crate::mtu::BASE
        {
            next = next.min(session.mtu.next_ns());
        }
    }
    if session.report_due {
        next = next.min(session.reported_ns + REPORT_NS);
    }
    if let Some(since) = session.waiting_ns {
        let again = session.silent_told_ns.map(|t| t + TELL_AGAIN_NS);
        next = next.min(again.unwrap_or(since + SILENT_NS));
    }
    if !session.confirmed {
        next = next.min(session.created_ns + UNCONFIRMED_NS);
    }
    if let Some(challenge) = session.challenge {
        next = next.min(challenge.decide_ns);
    }
    if let Some(at) = session.rx.next_retire_ns() {
        next = next.min(at);
    }
    next.max(now_ns + 1_000_000)
}

fn send_report(underlay: &mut Underlay, session: &mut Session, now_ns: u64) {
    let highest = session.rx.highest().unwrap_or(0);
    let body = Report {
        epoch: session.epoch_rx(),
        highest,
    }
    .emit();
    underlay.seal(session, Kind::Report, 0, 0, &body, now_ns);
    session.sent(now_ns, false);
    session.reported_ns = now_ns;
    session.report_due = false;
}

fn send_probe(
    underlay: &mut Underlay,
    session: &mut Session,
    size: Option<usize>,
    asked: bool,
    now_ns: u64,
) -> Result<()> {
    let (mut id, mut pad) = ([0u8; 8], [0u8; 2]);
    OsRng.fill(&mut id)?;
    OsRng.fill(&mut pad)?;
    let id = u64::from_be_bytes(id);
    let pad = usize::from(u16::from_be_bytes(pad)) % KEEPALIVE_PAD;
    let mut body = Probe::Request(id).emit().to_vec();
    body.resize(
        size.map_or(PROBE + pad, |s| s.saturating_sub(OVERHEAD))
            .max(PROBE),
        0,
    );
    if session.probes.len() >= PROBES {
        session.probes.remove(0);
    }
    session.probes.push(Pending {
        id,
        sent_ns: crate::sys::now_ns(),
        asked,
        size,
    });
    underlay.seal(session, Kind::Probe, 0, 0, &body, now_ns);
    // A probe of a size under test may be lost for its size: it says nothing about the peer.
    session.sent(now_ns, size.is_none());
    Ok(())
}

fn keepalive_gap() -> u64 {
    let mut random = [0u8; 4];
    let _ = OsRng.fill(&mut random);
    let part = f64::from(u32::from_be_bytes(random)) / f64::from(u32::MAX);
    let (low, high) = KEEPALIVE_NS;
    (low * (high / low).powf(part)) as u64
}
