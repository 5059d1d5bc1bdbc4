//! When a path is given up, and what takes over: decided here at once, told to Python afterwards.
//!
//! INVARIANT: shares move away from a path only to one that was proven, or from a dead one to a circuit
//! that both ends hold; if there is none they stay: a bad path is better than no path.

use crate::core::Core;
use crate::events::{Event, Events};
use crate::path::{BROWNED_NS, Cause, Path, State};
use crate::session::{Session, chance};

/// A standby that was not heard for so long is no longer warm.
const WARM_NS: u64 = 5_000_000_000;
/// After a brownout moved a share none moves another for the first of these, more or less; the pause
/// doubles, up to the second, unless nothing was amiss for as long as the last: where everything is
/// full, running around makes it worse, and running together does.
const CALM_NS: (u64, u64) = (5_000_000_000, 60_000_000_000);
/// A browned path is alive again when its last second lost less than this part.
const MENDED: f64 = 0.05;

impl Core {
    /// A report or an answer came over a path: it is alive, unless the report says how badly.
    pub(crate) fn judged(&mut self, sid: u32, place: usize, verdict: Option<Cause>, now_ns: u64) {
        let Some(session) = self.sessions.get_mut(&sid) else {
            return;
        };
        let Some(path) = session.paths.get_mut(place) else {
            return;
        };
        match (path.state, verdict) {
            (State::Probing | State::Dead, _) => {
                // What fell silent under its load answers again, and may not bear that load yet.
                path.state = if std::mem::take(&mut path.dropped) {
                    path.browned_ns = now_ns;
                    State::Browned
                } else {
                    State::Alive
                };
                path.meter.write_off();
                tell(&self.events, session, place, Cause::Heard, None);
            }
            // Again and again: what could not take over before may by now.
            (State::Alive | State::Browned, Some(cause)) => {
                path.browned_ns = now_ns;
                give_up(&self.events, session, place, State::Browned, cause, now_ns);
            }
            (State::Browned, None)
                if now_ns >= path.browned_ns + BROWNED_NS && path.meter.loss(now_ns) < MENDED =>
            {
                path.state = State::Alive;
                tell(&self.events, session, place, Cause::Heard, None);
            }
            _ => {}
        }
        if verdict.is_some() {
            session.calm.amiss_ns = now_ns;
        }
    }

    /// The peer sends on another path than we do: if ours is silent meanwhile, the peer knows why.
    #[inline]
    pub(crate) fn peer_uses(&mut self, sid: u32, place: usize, now_ns: u64) {
        let Some(session) = self.sessions.get_mut(&sid) else {
            return;
        };
        let ours = session.main();
        if session.paths.get(ours).is_some_and(|p| p.suspect(now_ns)) && revive(session, place) {
            give_up(
                &self.events,
                session,
                ours,
                State::Dead,
                Cause::Silent,
                now_ns,
            );
        }
    }

    /// The peer says that it left path `left`, over one that it sends on now.
    pub(crate) fn peer_left(&mut self, sid: u32, place: usize, left: u8, now_ns: u64) {
        let Some(session) = self.sessions.get_mut(&sid) else {
            return;
        };
        if !session.paths.get(place).is_some_and(Path::is_proven) {
            return;
        }
        let ours = session.place(left).filter(|at| *at != place);
        let Some(path) = ours.and_then(|at| session.paths.get_mut(at)) else {
            return;
        };
        if path.share <= 0.0 {
            return;
        }
        path.left_ns = now_ns;
        let due_ns = path.leave_ns().unwrap_or(u64::MAX);
        if due_ns <= now_ns {
            revive(session, place);
        }
        session.timer_ns = session.timer_ns.min(due_ns.max(now_ns));
        self.next_ns = self.next_ns.min(session.timer_ns);
        // Before the packets behind it are answered.
        look(&self.events, session, now_ns);
    }

    /// A link or a circuit is gone: the paths over it are dead now, not after a silence.
    pub(crate) fn close_paths(&mut self, gone: impl Fn(&Path) -> bool, now_ns: u64) {
        for session in self.sessions.values_mut() {
            for place in 0..session.paths.len() {
                if session
                    .paths
                    .get(place)
                    .is_some_and(|p| gone(p) && p.state != State::Dead)
                {
                    give_up(
                        &self.events,
                        session,
                        place,
                        State::Dead,
                        Cause::Closed,
                        now_ns,
                    );
                }
            }
        }
    }
}

/// Take note that a path carries the peer's packets: nothing is more alive. False if nobody knows
/// whose address that is.
fn revive(session: &mut Session, place: usize) -> bool {
    let Some(path) = session.paths.get_mut(place).filter(|p| p.is_proven()) else {
        return false;
    };
    path.state = State::Alive;
    path.dropped = false;
    true
}

/// Condemn what has been silent for too long. Called when the session's timer is due.
///
/// Returns the ids of the paths that were left, each with the place of the one that has its share now.
pub(crate) fn look(events: &Events, session: &mut Session, now_ns: u64) -> Vec<(u8, usize)> {
    let mut moved = Vec::new();
    for place in 0..session.paths.len() {
        let Some(path) = session.paths.get(place) else {
            continue;
        };
        let dead = path.death_ns().is_some_and(|at| now_ns >= at);
        let left = || {
            path.share > 0.0
                && path.leave_ns().is_some_and(|at| now_ns >= at)
                && heir(&session.paths, place, now_ns, false)
                    .and_then(|at| session.paths.get(at))
                    .is_some_and(|heir| is_warm(heir, now_ns))
        };
        if path.usable() && (dead || left()) {
            let id = path.id;
            let heir = give_up(events, session, place, State::Dead, Cause::Silent, now_ns);
            moved.extend(heir.map(|heir| (id, heir)));
        }
    }
    moved
}

/// Change a path's state and move its share to the best of the others, whose place is returned.
fn give_up(
    events: &Events,
    session: &mut Session,
    place: usize,
    state: State,
    cause: Cause,
    now_ns: u64,
) -> Option<usize> {
    let (carries, again) = session
        .paths
        .get(place)
        .map_or((false, false), |p| (p.share > 0.0, p.state == state));
    let heir = if state == State::Dead {
        heir(&session.paths, place, now_ns, false).or_else(|| untried(session, place))
    } else {
        // Another way over the same relay, or to the same address, is no better.
        heir(&session.paths, place, now_ns, true)
            .filter(|_| carries && session.calm.may_run(now_ns, chance()))
    };
    if state == State::Dead && heir.is_none() {
        // Everything is silent: that is no fault of what fell silent first.
        for path in &mut session.paths {
            path.dropped = false;
        }
    }
    let path = session.paths.get_mut(place)?;
    path.state = state;
    path.over_ns = None;
    if state == State::Dead {
        path.meter.write_off();
    }
    let heir = heir.filter(|_| carries);
    let mut moved_to = None;
    if let Some(heir) = heir {
        let share = std::mem::replace(&mut path.share, 0.0);
        path.dropped = cause == Cause::Silent;
        if let Some(heir) = session.paths.get_mut(heir) {
            heir.share += share;
            heir.standby = false;
            moved_to = Some(heir.id);
        }
    }
    if moved_to.is_some() || !again {
        tell(events, session, place, cause, moved_to);
    }
    heir
}

/// How often brownouts may move shares of one session.
#[derive(Clone, Copy, Debug, Default)]
pub struct Calm {
    /// Until when none does, and for how long the last one made it so.
    until_ns: u64,
    for_ns: u64,
    /// When a path was last judged bad.
    amiss_ns: u64,
}

impl Calm {
    /// Whether a brownout may move a share now; if so it uses up the right for a while.
    ///
    /// Others who share a relay see it browned out in the same moment: they part by *chance*.
    fn may_run(&mut self, now_ns: u64, chance: f64) -> bool {
        if now_ns < self.until_ns {
            return false;
        }
        let (first, longest) = CALM_NS;
        self.for_ns = if now_ns > self.amiss_ns + self.for_ns {
            first
        } else {
            (2 * self.for_ns).clamp(first, longest)
        };
        self.until_ns = now_ns + (self.for_ns as f64 * (0.75 + chance / 2.0)) as u64;
        true
    }
}

/// The place of the path that takes over: the warm standby, else the quickest that is alive, one that
/// shares its fate after these, or never if it has to be *apart*; then one that was bad a while ago.
fn heir(paths: &[Path], from: usize, now_ns: u64, apart: bool) -> Option<usize> {
    let left = paths.get(from)?;
    paths
        .iter()
        .enumerate()
        .filter(|(at, p)| *at != from && is_well(p, now_ns) && !(apart && alike(p, left)))
        .min_by_key(|(_, p)| {
            let rtt_ns = p.meter.srtt_ns.unwrap_or(u64::MAX);
            (
                p.state != State::Alive,
                p.meter.loss(now_ns) >= MENDED,
                alike(p, left),
                !is_warm(p, now_ns),
                p.share <= 0.0 && !p.standby,
                !p.standby,
                rtt_ns,
            )
        })
        .map(|(at, _)| at)
}

/// A circuit that was opened and never heard: better than what is dead.
fn untried(session: &Session, from: usize) -> Option<usize> {
    session
        .paths
        .iter()
        .enumerate()
        .position(|(at, p)| at != from && p.state == State::Probing && p.circuit.is_some())
}

/// Over the same relay, or straight to the same address: what ails one ails the other.
fn alike(a: &Path, b: &Path) -> bool {
    match (a.circuit, b.circuit) {
        (Some(a), Some(b)) => a.link == b.link,
        (None, None) => a.endpoint.ip() == b.endpoint.ip(),
        _ => false,
    }
}

/// Alive, or browned out so long ago that somebody might have found it mended, had anybody asked.
fn is_well(path: &Path, now_ns: u64) -> bool {
    path.state == State::Alive
        || (path.state == State::Browned && now_ns >= path.browned_ns + BROWNED_NS)
}

fn is_warm(path: &Path, now_ns: u64) -> bool {
    path.heard_ns.is_some_and(|t| now_ns < t + WARM_NS)
}

fn tell(events: &Events, session: &Session, place: usize, cause: Cause, moved_to: Option<u8>) {
    if let Some(path) = session.paths.get(place) {
        events.push(Event::PathChanged {
            sid: session.sid,
            path: path.id,
            state: path.state,
            cause,
            moved_to,
        });
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;
    use crate::circuit::Circuit;
    use crate::sys::udp::Udp;

    const S: u64 = 1_000_000_000;

    /// Alive paths over these relays; 0: direct.
    fn over(links: &[u32]) -> Vec<Path> {
        let udp = Udp::bind(0, false).unwrap();
        let direct = ([127, 0, 0, 1], 9).into();
        let one = |(at, link): (usize, &u32)| {
            let label = at as u32;
            let circuit = Circuit { link: *link, label };
            let to = if *link == 0 {
                direct
            } else {
                circuit.address()
            };
            let mut path = Path::new(at as u8, to, udp.raw(direct), 1412, 0);
            path.state = State::Alive;
            path.heard_ns = Some(0);
            path.meter.sample(10 * (at as u64 + 1) * 1_000_000, 0);
            path
        };
        links.iter().enumerate().map(one).collect()
    }

    /// The warm standby, the quickest; last another circuit of the relay that failed.
    #[test]
    fn another_relay_takes_over() {
        let mut paths = over(&[1, 1, 2, 3]);
        assert_eq!(heir(&paths, 0, S, false), Some(2));
        paths[3].standby = true;
        assert_eq!(heir(&paths, 0, S, false), Some(3));
        paths[3].heard_ns = None;
        assert_eq!(heir(&paths, 0, S, false), Some(2));
        paths[2].state = State::Dead;
        paths[3].state = State::Dead;
        assert_eq!(heir(&paths, 0, S, false), Some(1));
        assert_eq!(heir(&paths, 0, S, true), None);
    }

    /// Two direct ways to one address fail together; a relay is another way.
    #[test]
    fn a_direct_way_is_no_way_out_of_another() {
        let paths = over(&[0, 0, 1]);
        assert_eq!(heir(&paths, 0, S, false), Some(2));
        assert_eq!(heir(&paths, 2, S, true), Some(0));
        assert_eq!(heir(&paths[..2], 0, S, false), Some(1));
        assert_eq!(heir(&paths[..2], 0, S, true), None);
    }

    /// What was bad takes over after three seconds, before nobody does and after whoever is alive.
    #[test]
    fn what_was_bad_may_have_mended() {
        let mut paths = over(&[1, 2, 3]);
        paths[1].state = State::Browned;
        paths[1].browned_ns = S;
        assert_eq!(heir(&paths, 0, 5 * S, false), Some(2));
        paths[2].state = State::Dead;
        assert_eq!(heir(&paths, 0, 3 * S, false), None);
        assert_eq!(heir(&paths, 0, 4 * S, false), Some(1));
    }

    /// Where something is amiss all the while the pause doubles; after a quiet one it is the first.
    #[test]
    fn brownouts_that_follow_each_other_move_ever_more_seldom() {
        let (mut calm, mut moved) = (Calm::default(), Vec::new());
        for second in 10..400 {
            if calm.may_run(second * S, 0.5) {
                moved.push(second);
            }
            calm.amiss_ns = second * S;
        }
        assert_eq!(moved, [10, 15, 25, 45, 85, 145, 205, 265, 325, 385]);
        assert!(!calm.may_run(444 * S, 0.5));
        assert!(calm.may_run(460 * S, 0.0));
        // Chance spreads the pause by half of it.
        assert_eq!(calm.until_ns, 460 * S + CALM_NS.0 * 3 / 4);
    }
}
