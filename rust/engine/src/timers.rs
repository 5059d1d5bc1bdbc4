//! What happens because time passed: reports, silence, keepalive, path MTU, retirement of keys.

use crate::core::Core;
use crate::early;
use crate::error::{Error, Result};
use crate::events::{Event, Events};
use crate::failover;
use crate::keys::StepLimits;
use crate::lookups;
use crate::lookups::LOOKUP_ONLY;
use crate::path::{Path, Pending, State, Untold};
use crate::probe::{PROBE, Probe, Report};
use crate::session::{SILENT_NS, Session, TELL_AGAIN_NS};
use crate::underlay::Underlay;
use veilnet_handshake::{OsRng, Rng as _};
use veilnet_wire::{Kind, OVERHEAD};

/// Keepalives have random sizes: beside packets there is nothing to hide.
const KEEPALIVE_PAD: usize = 64;
const PROBES: usize = 8;
const PROBE_LIFE_NS: u64 = 5_000_000_000;
/// Without traffic for so long a path is not searched or confirmed.
const QUIET_NS: u64 = 30_000_000_000;
/// While a session carries data, the paths on duty are asked this often unless reports tell.
const WARM_NS: u64 = 2_500_000_000;
/// So much later where the peer's packets arrive meanwhile.
const CARRIES_NS: u64 = 4_000_000_000;
/// The end that was asked last waits so much longer.
const LATE_NS: u64 = 500_000_000;
/// A path that died is asked this often while data flows: Python may be away when it is needed.
const REVIVE_NS: u64 = 2_000_000_000;
/// A session that carried data within this time is one.
const BUSY_NS: u64 = 3_000_000_000;
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
        let (mut decided, mut unborn, mut waited) = (Vec::new(), Vec::new(), Vec::new());
        for session in self.sessions.values_mut() {
            if session.lookup {
                // Nothing is measured, kept alive or told of: it only ends.
                session.timer_ns = lookups::end_ns(session);
                if session.timer_ns <= now_ns {
                    unborn.push(session.sid);
                }
            } else if session.timer_ns <= now_ns {
                run(
                    &mut self.underlay,
                    &self.events,
                    session,
                    self.options.steps,
                    now_ns,
                );
                if session
                    .paths
                    .iter()
                    .any(|p| p.challenge.is_some_and(|c| now_ns >= c.decide_ns))
                {
                    decided.push(session.sid);
                }
                if session.early.is_some() && now_ns >= session.created_ns + early::PATIENCE_NS {
                    waited.push(session.sid);
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
        if let Some(at) = self.close_spread(now_ns) {
            self.next_ns = self.next_ns.min(at);
        }
        for sid in waited {
            self.release_early(sid, now_ns);
        }
        for sid in decided {
            self.decide(sid, now_ns);
        }
        for sid in unborn {
            self.close_session(sid, now_ns);
        }
        self.flush(now_ns);
    }

    /// Send a probe because Python asked, over the path that carries most if none is named.
    pub fn probe_now(&mut self, sid: u32, path: Option<u8>, now_ns: u64) -> Result<()> {
        let session = self.sessions.get_mut(&sid).ok_or(Error::NoSession(sid))?;
        if session.lookup {
            return Err(LOOKUP_ONLY);
        }
        let at = match path {
            None => session.main(),
            Some(id) => session.place(id).ok_or(Error::Invalid("no such path"))?,
        };
        if let Some(path) = session.paths.get(at)
            && !path.is_proven()
            && !self
                .gate
                .may_send_unproven(path.endpoint, PROBE + KEEPALIVE_PAD + OVERHEAD, now_ns)
        {
            return Ok(());
        }
        send_probe(&mut self.underlay, session, at, None, true, now_ns)?;
        self.next_ns = self.next_ns.min(session.timer_ns);
        self.flush(now_ns);
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
    if session.tx.step_due(steps, now_ns) {
        // A failure keeps the old step, which is safe until the hard stop.
        let _ = session.tx.step(now_ns);
    }
    for at in 0..session.paths.len() {
        run_path(underlay, session, at, now_ns);
    }
    // Until it is confirmed nobody owes anything: what was sent may wait there to be verified.
    let moved = if session.confirmed {
        failover::look(events, session, now_ns)
    } else {
        Vec::new()
    };
    // Over the last heir: one before it may have been left meanwhile.
    if let Some(&(_, heir)) = moved.last() {
        for (left, _) in &moved {
            // Ahead of the packets that move, so that what answers them does not go where they do not;
            // twice, as any datagram may be lost.
            let body = Probe::Left(*left).emit();
            for _ in 0..2 {
                underlay.seal(session, heir, Kind::Probe, (0, 0), &body, now_ns);
            }
        }
        session.sent(now_ns, false);
    }
    if session.confirmed && now_ns >= session.keepalive_ns {
        // Relay frames keep a link alive as packets do a channel.
        let quiet = [session.data_ns, session.heard_ns]
            .into_iter()
            .flatten()
            .all(|t| now_ns > t + 1_000_000_000);
        if session.keepalive_ns != 0 && quiet {
            let at = session.main();
            let _ = send_probe(underlay, session, at, None, false, now_ns);
        }
        session.kept_alive(true, now_ns);
    }
    if let Some(since) = session.waiting_ns
        && session.confirmed
        && now_ns >= since + SILENT_NS
        && session
            .silent_told_ns
            .is_none_or(|t| now_ns >= t + TELL_AGAIN_NS)
    {
        session.silent_told_ns = Some(now_ns);
        for path in &mut session.paths {
            path.mtu.suspect(now_ns);
        }
        events.push(Event::Silent {
            sid: session.sid,
            silent_ns: now_ns - since,
        });
    }
    session.timer_ns = deadline(session, now_ns);
}

/// One path's due timers.
fn run_path(underlay: &mut Underlay, session: &mut Session, at: usize, now_ns: u64) {
    let Some(path) = session.paths.get_mut(at) else {
        return;
    };
    path.probes.retain(|p| now_ns < p.sent_ns + PROBE_LIFE_NS);
    // What a report says may be owed to a claim: none goes to an address that never answered.
    path.report_ns = path.report_ns.filter(|_| path.is_proven());
    if path.report_ns.is_some_and(|t| now_ns >= t) {
        send_report(underlay, session, at, now_ns);
    }
    if !session.confirmed {
        return;
    }
    let Some(path) = session.paths.get_mut(at) else {
        return;
    };
    if session.data_ns.is_none_or(|t| now_ns > t + QUIET_NS) {
        // What is sent from now on is judged by itself, not with the silence before it.
        path.meter.write_off();
        path.meter.rest();
    }
    if is_searched(path, session.data_ns, now_ns) {
        let timeout_ns = (3 * path.meter.srtt_ns.unwrap_or(0)).clamp(200_000_000, 2_000_000_000);
        if let Some(size) = path.mtu.poll(now_ns, timeout_ns) {
            // A send that fails is a probe that gets no answer.
            let _ = send_probe(underlay, session, at, Some(size), false, now_ns);
        }
    }
    let busy = session.data_ns.is_some_and(|t| now_ns < t + BUSY_NS);
    let alone = session.paths.len() < 2;
    let Some(path) = session.paths.get_mut(at) else {
        return;
    };
    let shows = path.shows(now_ns) && path.is_proven();
    let doubted = path.usable() && path.doubt_ns().is_some_and(|t| now_ns >= t);
    let cool = busy && !alone && warm_ns(path).is_some_and(|t| now_ns >= t);
    if cool {
        path.asked_ns = now_ns;
    }
    if doubted {
        path.doubted_ns = now_ns;
    }
    // Two where an answer decides: a single one may be lost like any datagram.
    for _ in 0..usize::from(cool) + usize::from(shows) + 2 * usize::from(doubted) {
        let _ = send_probe(underlay, session, at, None, false, now_ns);
    }
}

/// When a path is to be asked, so that it is known to be alive when it is needed.
fn warm_ns(path: &Path) -> Option<u64> {
    if path.state == State::Dead {
        return Some(path.asked_ns + REVIVE_NS);
    }
    let mut told_ns = path.meter.reported_ns.unwrap_or(0).max(path.asked_ns);
    // What carries the peer's packets is alive; how far it is, is asked all the same.
    told_ns = told_ns.max(path.carried_ns.min(path.asked_ns + CARRIES_NS));
    // One end that asks is enough: the other hears it, and asks if the next question is late.
    if path.requested_ns > path.asked_ns {
        told_ns = told_ns.max(path.requested_ns + LATE_NS);
    }
    // A circuit that nobody tried yet may be needed before Python comes to it.
    let untried = path.state == State::Probing && path.circuit.is_some();
    (untried || path.on_duty() && path.is_proven()).then_some(told_ns + WARM_NS)
}

/// Whether a path's MTU is worth asking for now.
fn is_searched(path: &Path, data_ns: Option<u64>, now_ns: u64) -> bool {
    let busy = data_ns.is_some_and(|t| now_ns < t + QUIET_NS);
    path.usable() && (busy && path.on_duty() || path.mtu.size() == crate::mtu::BASE)
}

/// The earliest thing that this session waits for.
fn deadline(session: &Session, now_ns: u64) -> u64 {
    let mut next = now_ns + FAR_NS;
    let busy = session.data_ns.is_some_and(|t| now_ns < t + BUSY_NS);
    for path in &session.paths {
        if session.confirmed && is_searched(path, session.data_ns, now_ns) {
            next = next.min(path.mtu.next_ns());
        }
        if session.confirmed && busy && session.paths.len() > 1 {
            next = next.min(warm_ns(path).unwrap_or(u64::MAX));
        }
        next = next.min(path.report_ns.unwrap_or(u64::MAX));
        if session.confirmed {
            next = next.min(path.show.map_or(u64::MAX, |(at, _)| at));
        }
        if path.usable() && session.confirmed {
            next = next.min(path.doubt_ns().unwrap_or(u64::MAX));
            next = next.min(path.death_ns().unwrap_or(u64::MAX));
            next = next.min(path.leave_ns().filter(|t| *t > now_ns).unwrap_or(u64::MAX));
        }
        if let Some(challenge) = path.challenge {
            next = next.min(challenge.decide_ns);
        }
    }
    if session.confirmed {
        next = next.min(session.keepalive_ns);
    }
    if let Some(since) = session.waiting_ns.filter(|_| session.confirmed) {
        let again = session.silent_told_ns.map(|t| t + TELL_AGAIN_NS);
        next = next.min(again.unwrap_or(since + SILENT_NS));
    }
    if !session.confirmed {
        next = next.min(session.created_ns + UNCONFIRMED_NS);
    }
    if session.early.is_some() {
        next = next.min(session.created_ns + early::PATIENCE_NS);
    }
    if let Some(at) = session.rx.next_retire_ns() {
        next = next.min(at);
    }
    next.max(now_ns + 1_000_000)
}

fn send_report(underlay: &mut Underlay, session: &mut Session, at: usize, now_ns: u64) {
    let epoch = session.epoch_rx();
    let Some(path) = session.paths.get_mut(at) else {
        return;
    };
    path.reported_ns = now_ns;
    path.report_ns = None;
    path.untold = Untold::default();
    let held_ns = now_ns.saturating_sub(path.highest_ns);
    let body = Report {
        epoch,
        highest: session.rx.highest(path.id).unwrap_or(0),
        received: path.meter.rx_datagrams as u32,
        bytes: path.meter.rx_bytes as u32,
        held_us: u32::try_from(held_ns / 1000).unwrap_or(u32::MAX),
    }
    .emit();
    underlay.seal(session, at, Kind::Report, (0, 0), &body, now_ns);
    session.sent(now_ns, false);
}

pub(crate) fn send_probe(
    underlay: &mut Underlay,
    session: &mut Session,
    at: usize,
    size: Option<usize>,
    asked: bool,
    now_ns: u64,
) -> Result<()> {
    let (mut id, mut pad) = ([0u8; 8], [0u8; 2]);
    OsRng.fill(&mut id)?;
    OsRng.fill(&mut pad)?;
    let id = u64::from_be_bytes(id);
    let busy = session.data_ns.is_some_and(|t| now_ns < t + BUSY_NS);
    let most = if busy { 1 } else { KEEPALIVE_PAD };
    let pad = usize::from(u16::from_be_bytes(pad)) % most;
    let mut body = Probe::Request(id).emit().to_vec();
    body.resize(
        size.map_or(PROBE + pad, |s| s.saturating_sub(OVERHEAD))
            .max(PROBE),
        0,
    );
    let Some(path) = session.paths.get_mut(at) else {
        return Ok(());
    };
    path.meter.probes_sent += 1;
    if path.probes.len() >= PROBES {
        path.probes.remove(0);
    }
    path.probes.push(Pending {
        id,
        sent_ns: crate::sys::now_ns(),
        asked,
        size,
    });
    underlay.seal(session, at, Kind::Probe, (0, 0), &body, now_ns);
    // A probe of a size under test may be lost for its size, one on a path that is only tried for the
    // path: neither says anything about the peer.
    let tells = size.is_none() && at == session.main();
    session.sent(now_ns, tells);
    Ok(())
}
