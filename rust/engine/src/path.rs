//! One way of a session: straight to an endpoint, or over a circuit of a relay.
//!
//! ```text
//! Probing --probe answered--> Alive --lossy, slow--> Browned --reports good for 1 s--> Alive
//!    any  --silent, or its link closed--> Dead --probe answered--> Alive, or Browned if its share left
//! ```

use crate::circuit::Circuit;
use crate::meter::{Brownout, Meter};
use crate::mtu::Search;
use crate::sys::udp::{Local, RawAddr};
use std::collections::VecDeque;
use std::net::SocketAddr;

/// Paths open at once in a session.
pub const OPEN_PATHS: usize = 8;
/// Paths that share what is sent.
pub const SHARED: usize = 3;
/// A receiver reports so often while much flows, so that a report weighs less than a hundredth of it,
pub const REPORT_NS: u64 = 100_000_000;
const MUCH_BYTES: u64 = 25_000;
/// so often while enough flows for its silence to be one,
const SLOW_REPORT_NS: u64 = 300_000_000;
/// and so often while anything does.
const RARE_REPORT_NS: u64 = 1_000_000_000;
/// A path whose report is overdue for SRTT + 4 RTTVAR is asked by a probe, so that a lost tail
/// condemns nobody; after this more it is silent.
const SILENCE_NS: u64 = 150_000_000;
/// A doubted path that answers no probe for SRTT + 4 RTTVAR + this is given up for a warm standby:
/// in time for a TCP inside, whose first timeout comes after 200 ms and the next after 600 ms.
const UNANSWERED_NS: u64 = 50_000_000;
/// Or for SRTT + this, when the peer meanwhile sends on another path.
const HINT_NS: u64 = 20_000_000;
/// While a path still hears the peer, only so many silences condemn what it sends, each of SRTT +
/// 4 RTTVAR + this.
const ONE_WAY: u64 = 3;
const ONE_WAY_NS: u64 = 250_000_000;
/// Datagrams that must be unacknowledged before silence means anything.
const OWED: u64 = 3;
/// A path that was browned out stays so for at least this.
pub const BROWNED_NS: u64 = 3_000_000_000;
const FIRST_RTT_NS: u64 = 100_000_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Nothing came back yet.
    Probing,
    Alive,
    Browned,
    Dead,
}

impl State {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            State::Probing => "probing",
            State::Alive => "alive",
            State::Browned => "browned",
            State::Dead => "dead",
        }
    }
}

/// Why a path's state changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    Silent,
    Lossy,
    Slow,
    Heard,
    /// Its link or circuit ended.
    Closed,
}

impl Cause {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Cause::Silent => "silent",
            Cause::Lossy => "lossy",
            Cause::Slow => "slow",
            Cause::Heard => "heard",
            Cause::Closed => "closed",
        }
    }
}

impl From<Brownout> for Cause {
    fn from(why: Brownout) -> Cause {
        match why {
            Brownout::Lossy => Cause::Lossy,
            Brownout::Slow => Cause::Slow,
        }
    }
}

/// A new source that claims to be the peer, until it or the old one answers a probe.
#[derive(Clone, Copy, Debug)]
pub struct Challenge {
    pub to: SocketAddr,
    /// Which of our sockets it called.
    pub port: u16,
    pub new_id: u64,
    pub old_id: u64,
    pub new_answered: bool,
    pub decide_ns: u64,
}

/// A probe under way.
#[derive(Clone, Copy, Debug)]
pub struct Pending {
    pub id: u64,
    pub sent_ns: u64,
    /// Python asked for it and is told of the answer.
    pub asked: bool,
    /// The size under test, for path MTU discovery.
    pub size: Option<usize>,
}

/// Inner packets that came since the last report.
#[derive(Clone, Copy, Debug, Default)]
pub struct Untold {
    datagrams: u64,
    bytes: u64,
}

impl Untold {
    /// How long after the last report the next is due.
    fn wait_ns(self) -> u64 {
        if self.bytes >= MUCH_BYTES {
            REPORT_NS
        } else if self.datagrams >= OWED {
            SLOW_REPORT_NS
        } else {
            RARE_REPORT_NS
        }
    }
}

pub struct Path {
    pub id: u8,
    pub endpoint: SocketAddr,
    /// Set when the endpoint is a circuit's.
    pub circuit: Option<Circuit>,
    pub raw: RawAddr,
    /// The address of this host that the kernel would leave from, when it was asked last.
    pub source: Option<Local>,
    /// No way led to the endpoint when the kernel was asked last.
    pub cut: bool,
    /// Where it left from before this host moved, and until when no question that comes there is answered.
    pub former: Option<(Local, u64)>,
    /// When to show the peer again where we are, and how long after that once more.
    pub show: Option<(u64, u64)>,
    /// The peer showed that it knows the address we have there: what it sends goes to it.
    pub known: bool,
    pub state: State,
    pub share: f32,
    /// Since when it carries clearly more than its share, as a flow on it saw last.
    pub over_ns: Option<u64>,
    pub standby: bool,
    pub meter: Meter,
    pub mtu: Search,
    pub probes: Vec<Pending>,
    /// Probes to where else the peer may be, while nobody answered (`punch`).
    pub punches: VecDeque<Pending>,
    /// The last other address that the peer was heard from, while nobody answered.
    pub caller: Option<SocketAddr>,
    pub challenge: Option<Challenge>,
    pub challenged_ns: u64,
    pub heard_ns: Option<u64>,
    /// When the highest data counter came: what a report was held for is counted from here.
    pub highest_ns: u64,
    pub reported_ns: u64,
    /// When the peer last asked.
    pub requested_ns: u64,
    pub untold: Untold,
    /// When an inner packet of the peer came last, or a relay frame.
    pub carried_ns: u64,
    /// When the next report is due.
    pub report_ns: Option<u64>,
    /// When it was last asked so that it stays warm, and because it was doubted.
    pub asked_ns: u64,
    pub doubted_ns: u64,
    /// When the peer told that it had left it as silent.
    pub left_ns: u64,
    pub browned_ns: u64,
    /// It lost its share by falling silent, and was not heard since.
    pub dropped: bool,
    /// Bytes given to flows, decaying: what the shares are held against.
    pub given: f32,
}

impl Path {
    #[must_use]
    pub fn new(id: u8, endpoint: SocketAddr, raw: RawAddr, wanted: usize, now_ns: u64) -> Path {
        Path {
            id,
            endpoint,
            circuit: Circuit::of(endpoint),
            raw,
            source: None,
            cut: false,
            former: None,
            show: None,
            known: Circuit::of(endpoint).is_some(),
            state: State::Probing,
            share: 0.0,
            over_ns: None,
            standby: false,
            meter: Meter::default(),
            mtu: Search::new(wanted, now_ns),
            probes: Vec::new(),
            punches: VecDeque::new(),
            caller: None,
            challenge: None,
            challenged_ns: 0,
            heard_ns: None,
            highest_ns: 0,
            reported_ns: 0,
            requested_ns: 0,
            untold: Untold::default(),
            carried_ns: 0,
            report_ns: None,
            asked_ns: 0,
            doubted_ns: 0,
            left_ns: 0,
            browned_ns: 0,
            dropped: false,
            given: 0.0,
        }
    }

    /// Take the probe that an answer belongs to.
    pub fn answered(&mut self, id: u64) -> Option<Pending> {
        match self.probes.iter().position(|p| p.id == id) {
            Some(at) => Some(self.probes.swap_remove(at)),
            // It stays: whoever else was asked with it may answer too, and be heard.
            None => self.punches.iter().find(|p| p.id == id).copied(),
        }
    }

    /// Whether packets may be given to it.
    #[inline]
    #[must_use]
    pub fn usable(&self) -> bool {
        matches!(self.state, State::Alive | State::Browned)
    }

    /// Whether nobody can be harmed by what is sent: somebody answered there, or it is a circuit,
    /// whose far end was asked.
    #[must_use]
    pub fn is_proven(&self) -> bool {
        self.state != State::Probing || self.circuit.is_some()
    }

    /// Whether it has a part in what is sent, or will take it over.
    #[must_use]
    pub fn on_duty(&self) -> bool {
        self.share > 0.0 || self.standby
    }

    /// Take note of an inner packet that came; when its report is due.
    #[inline]
    pub fn came(&mut self, bytes: usize, now_ns: u64) -> u64 {
        self.carried_ns = now_ns;
        self.untold.datagrams += 1;
        self.untold.bytes += bytes as u64;
        self.report_by(self.reported_ns + self.untold.wait_ns(), now_ns)
    }

    /// Report at `due_ns`, or when it is due anyway; when that is.
    #[inline]
    pub fn report_by(&mut self, due_ns: u64, now_ns: u64) -> u64 {
        let due_ns = due_ns.max(now_ns).min(self.report_ns.unwrap_or(u64::MAX));
        self.report_ns = Some(due_ns);
        due_ns
    }

    fn patience_ns(&self) -> u64 {
        self.meter
            .srtt_ns
            .map_or(FIRST_RTT_NS, |srtt| srtt + 4 * self.meter.rttvar_ns)
    }

    /// Since when the peer owes a sign of this path's life, if it does: by what it may hold a report
    /// before the last of the datagrams that make one due left, but not before the first did.
    fn owed_since_ns(&self) -> Option<u64> {
        let (oldest_ns, due_ns) = self.meter.owed(OWED)?;
        Some(oldest_ns.max(due_ns.saturating_sub(self.held_ns())))
    }

    /// How long the peer may hold the report that it owes: as quick as it was, though what waits for a
    /// report that does not come may send no more.
    fn held_ns(&self) -> u64 {
        self.meter.cadence_ns().clamp(REPORT_NS, SLOW_REPORT_NS)
    }

    /// When to doubt the path, if nothing comes until then.
    #[must_use]
    pub fn doubt_ns(&self) -> Option<u64> {
        let since_ns = self.owed_since_ns()?.max(self.doubted_ns);
        Some(since_ns + self.held_ns() + self.patience_ns())
    }

    /// Since when a doubt is unanswered.
    fn unanswered_ns(&self) -> Option<u64> {
        let told_ns = self.meter.reported_ns.max(self.heard_ns).unwrap_or(0);
        (self.doubted_ns > self.owed_since_ns()?.max(told_ns)).then_some(self.doubted_ns)
    }

    /// When traffic of the peer on another path is a hint that this one is silent.
    fn hint_ns(&self, since_ns: u64) -> u64 {
        since_ns + self.meter.srtt_ns.unwrap_or(FIRST_RTT_NS) + HINT_NS
    }

    /// When to leave the path for a warm standby, if no doubt is answered until then, or if the peer
    /// left it and nothing is heard until then: who only answers never sends enough to doubt.
    #[must_use]
    pub fn leave_ns(&self) -> Option<u64> {
        let alone = self
            .unanswered_ns()
            .map(|t| t + self.patience_ns() + UNANSWERED_NS);
        let heard_ns = self.heard_ns.unwrap_or(0);
        let told = (self.left_ns > heard_ns).then(|| self.hint_ns(heard_ns));
        alone.into_iter().chain(told).min()
    }

    /// When the path is dead, if nothing comes until then.
    #[must_use]
    pub fn death_ns(&self) -> Option<u64> {
        let wait_ns = self.held_ns() + self.patience_ns() + SILENCE_NS;
        let since_ns = self.owed_since_ns()?;
        // A report or an answer says that what we send arrives; anything else only that we hear.
        let told_ns = self.meter.reported_ns.unwrap_or(0);
        let mut at = since_ns.max(told_ns) + wait_ns;
        if let Some(heard) = self.heard_ns.filter(|t| *t > since_ns) {
            let one_way_ns = (ONE_WAY - 1) * (self.patience_ns() + ONE_WAY_NS);
            at = at.max((heard + wait_ns).min(since_ns + wait_ns + one_way_ns));
        }
        // Not before the doubt could be answered: of a few datagrams far apart the peer told nothing yet.
        if self.doubted_ns > since_ns {
            at = at.max(self.doubted_ns + self.patience_ns() + UNANSWERED_NS);
        }
        Some(at)
    }

    /// Whether a doubt is unanswered for so long that traffic of the peer on another path is a hint.
    #[must_use]
    pub fn suspect(&self, now_ns: u64) -> bool {
        self.unanswered_ns()
            .is_some_and(|t| now_ns > self.hint_ns(t))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::Epoch;
    use crate::sys::udp::Udp;

    const S: u64 = 1_000_000_000;
    const MS: u64 = 1_000_000;

    fn path() -> Path {
        let udp = Udp::bind(0, false).expect("a port");
        let to = ([127, 0, 0, 1], 9).into();
        let mut path = Path::new(0, to, udp.raw(to), 1412, 0);
        path.state = State::Alive;
        path.meter.sample(10 * MS, 0);
        path
    }

    /// The less there is to tell of the later, and what was due is never put off.
    #[test]
    fn a_report_waits_by_what_came() {
        let mut path = path();
        path.reported_ns = 10 * S;
        assert_eq!(path.came(100, 10 * S), 10 * S + RARE_REPORT_NS);
        assert_eq!(path.came(100, 10 * S), 10 * S + RARE_REPORT_NS);
        assert_eq!(path.came(100, 10 * S), 10 * S + SLOW_REPORT_NS);
        assert_eq!(path.came(25_000, 10 * S), 10 * S + REPORT_NS);
        path.untold = Untold::default();
        assert_eq!(path.came(100, 10 * S), 10 * S + REPORT_NS);
        path.report_ns = None;
        // Nothing came for long: the first is told of at once.
        assert_eq!(path.came(100, 20 * S), 20 * S);
    }

    /// Of datagrams far apart the third makes a report due: before it can be here nothing is doubted.
    #[test]
    fn a_slow_stream_is_not_doubted_before_its_report_is_due() {
        let mut path = path();
        let epoch = Epoch {
            generation: 0,
            step: 0,
        };
        for at in 0..3 {
            path.meter.sent(epoch, at, 1000, true, S + at * 400 * MS);
            let due = (at == 2).then_some(S + 800 * MS + path.patience_ns());
            assert_eq!(path.doubt_ns(), due);
        }
        path.meter.sent(epoch, 3, 1000, true, S + 1_200 * MS);
        assert_eq!(path.doubt_ns(), Some(S + 800 * MS + path.patience_ns()));
        path.doubted_ns = S + 850 * MS;
        assert!(path.death_ns() > path.leave_ns());
    }

    /// What the peer left as silent is left when it was not heard, and stays where it is heard.
    #[test]
    fn who_heard_nothing_leaves_too() {
        let mut path = path();
        path.heard_ns = Some(S);
        assert_eq!(path.leave_ns(), None);
        path.left_ns = 2 * S;
        assert_eq!(path.leave_ns(), Some(S + 10 * MS + HINT_NS));
        path.heard_ns = Some(2 * S);
        assert_eq!(path.leave_ns(), None);
    }
}
