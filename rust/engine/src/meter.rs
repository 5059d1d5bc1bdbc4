//! What one path does, by the peer's authenticated reports: round trip, loss, delivery.
//!
//! The sender remembers when it sent which counter; a report names the highest counter that came,
//! how long it was held and how much came in all. INVARIANT: figures come from authenticated
//! reports and probe answers alone, and no report makes them less than what was sent.

use crate::keys::Epoch;
use crate::probe::Report;
use std::collections::VecDeque;

/// Sendings remembered; what a report covers beyond them gives no round trip.
const SENT: usize = 256;
/// Sendings closer together than this part of the round trip are remembered as one.
const GRAIN: u64 = 16;
const GRAIN_NS: (u64, u64) = (20_000, 4_000_000);
const SPANS: usize = 16;
/// Loss and delivery are told over this.
const WINDOW_NS: u64 = 1_000_000_000;
/// A brownout is judged over this, and by at least so many datagrams.
const JUDGE_NS: u64 = 300_000_000;
const JUDGE_DATAGRAMS: u64 = 20;
/// More lost than the first part is a brownout, soon if it is much.
///
/// What a full queue drops is how TCP finds its rate, and shows to all who share it: if they all
/// left they would meet at the next.  That is one only beyond the second part; for less the policy
/// moves a part.
const LOSSY: [(u64, u64, f64, f64); 2] = [
    (JUDGE_NS, JUDGE_DATAGRAMS, 0.25, 0.67),
    (WINDOW_NS, 3 * JUDGE_DATAGRAMS, 0.10, 0.5),
];
/// A queue that drops for so long is a failure: nobody has done anything about it.
const CROWDED_NS: u64 = 10_000_000_000;
/// A queue below this is no sign of anything.
const QUEUE_NS: u64 = 50_000_000;
/// The minimum round trip is forgotten so slowly that a route change shows within minutes.
const MIN_LIFE_NS: u64 = 60_000_000_000;

#[derive(Clone, Copy, Debug)]
struct Sent {
    epoch: Epoch,
    /// The highest counter of one sending; all datagrams, and those with inner packets, up to it.
    counter: u64,
    total: u64,
    inner: u64,
    at_ns: u64,
}

/// What one report said beyond the one before it.
#[derive(Clone, Copy, Debug, Default)]
struct Span {
    at_ns: u64,
    for_ns: u64,
    judged: u64,
    lost: u64,
    /// Of these, what no full queue dropped, or one that drops for long.
    failed: u64,
    bytes: u64,
}

/// Why a path is browned out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Brownout {
    Lossy,
    Slow,
}

#[derive(Debug)]
pub struct Meter {
    sent: VecDeque<Sent>,
    spans: VecDeque<Span>,
    /// Datagrams of the data class, and their bytes on this path's wire.
    pub tx_datagrams: u64,
    pub tx_bytes: u64,
    pub rx_datagrams: u64,
    pub rx_bytes: u64,
    /// Datagrams with inner packets: those that the peer owes a report for.
    tx_inner: u64,
    /// Sent up to the newest report's highest counter: all, and those with inner packets.
    covered: u64,
    covered_inner: u64,
    /// Received and bytes as the newest report told them (32 bits on the wire); None after an
    /// outage, of which nothing is known.
    told: Option<(u32, u32)>,
    pub judged: u64,
    pub lost: u64,
    pub delivered_bytes: u64,
    pub probes_sent: u64,
    pub probes_answered: u64,
    pub srtt_ns: Option<u64>,
    /// By the newest report: an answered probe is small, and may overtake a queue.
    last_rtt_ns: u64,
    pub rttvar_ns: u64,
    /// How much one round trip differs from the one before it.
    neighbours_ns: u64,
    /// The newest round trip, and when it was told.
    newest_ns: Option<(u64, u64)>,
    min_ns: Option<(u64, u64)>,
    /// The least that an answered probe took: no report makes a path shorter than this.
    probed_min_ns: Option<u64>,
    /// Since when a full queue drops.
    crowded_ns: Option<u64>,
    pub reported_ns: Option<u64>,
    /// When the newest report came, and how long after each other the last ones did.
    told_ns: u64,
    gaps_ns: [u64; 2],
    /// Bytes per second delivered before the newest 300 ms, smoothed: what a slow path is slower than.
    usual: f64,
}

impl Default for Meter {
    fn default() -> Meter {
        Meter {
            sent: VecDeque::new(),
            spans: VecDeque::new(),
            tx_datagrams: 0,
            tx_bytes: 0,
            rx_datagrams: 0,
            rx_bytes: 0,
            tx_inner: 0,
            covered: 0,
            covered_inner: 0,
            told: Some((0, 0)),
            judged: 0,
            lost: 0,
            delivered_bytes: 0,
            probes_sent: 0,
            probes_answered: 0,
            srtt_ns: None,
            last_rtt_ns: 0,
            rttvar_ns: 0,
            neighbours_ns: 0,
            newest_ns: None,
            min_ns: None,
            probed_min_ns: None,
            crowded_ns: None,
            reported_ns: None,
            told_ns: 0,
            gaps_ns: [u64::MAX; 2],
            usual: 0.0,
        }
    }
}

impl Meter {
    /// Note a datagram of the data class that leaves; *inner* if it carries an inner packet.
    #[inline]
    pub fn sent(&mut self, epoch: Epoch, counter: u64, bytes: usize, inner: bool, now_ns: u64) {
        self.tx_datagrams += 1;
        self.tx_bytes += bytes as u64;
        self.tx_inner += u64::from(inner);
        let (low, high) = GRAIN_NS;
        let grain_ns = (self.srtt_ns.unwrap_or(0) / GRAIN).clamp(low, high);
        if let Some(last) = self.sent.back_mut()
            && last.epoch == epoch
            && now_ns < last.at_ns + grain_ns
        {
            last.counter = counter;
            last.total = self.tx_datagrams;
            last.inner = self.tx_inner;
            return;
        }
        if self.sent.len() >= SENT {
            self.sent.pop_front();
        }
        self.sent.push_back(Sent {
            epoch,
            counter,
            total: self.tx_datagrams,
            inner: self.tx_inner,
            at_ns: now_ns,
        });
    }

    /// Take in what the peer received; true if it covers more than reports before it.
    pub fn report(&mut self, report: &Report, now_ns: u64) -> bool {
        self.reported_ns = Some(now_ns);
        self.gaps_ns = [now_ns.saturating_sub(self.told_ns), self.gaps_ns[0]];
        self.told_ns = now_ns;
        let name = (report.epoch, report.highest);
        let Some(at) = self.sent.iter().position(|s| (s.epoch, s.counter) >= name) else {
            return false;
        };
        let Some(hit) = self.sent.get(at).copied() else {
            return false;
        };
        if hit.epoch != report.epoch {
            return false;
        }
        let later = hit.counter - report.highest;
        let total = hit.total.saturating_sub(later);
        if total <= self.covered {
            return false;
        }
        let judged = total - self.covered;
        let elapsed_ns = now_ns.saturating_sub(hit.at_ns);
        let held_ns = u64::from(report.held_us) * 1000;
        let rtt_ns = (held_ns < elapsed_ns)
            .then(|| (elapsed_ns - held_ns).max(self.probed_min_ns.unwrap_or(0)));
        if let Some((received, bytes)) = self.told {
            let came = u64::from(report.received.wrapping_sub(received));
            let came_bytes = u64::from(report.bytes.wrapping_sub(bytes));
            // Nobody receives more than was sent: a report that says so is old, or a lie.
            if came > self.tx_datagrams.saturating_sub(self.covered) + SENT as u64
                || came_bytes > self.tx_bytes
            {
                return false;
            }
            let lost = judged.saturating_sub(came);
            self.judged += judged;
            self.lost += lost;
            self.delivered_bytes += came_bytes;
            let crowded = self.is_crowded(rtt_ns.unwrap_or(self.last_rtt_ns), lost, now_ns);
            self.span(Span {
                at_ns: now_ns,
                judged,
                lost,
                failed: if crowded { 0 } else { lost },
                bytes: came_bytes,
                ..Span::default()
            });
        }
        if let Some(rtt_ns) = rtt_ns {
            self.last_rtt_ns = rtt_ns;
            self.sample(rtt_ns, now_ns);
        }
        self.told = Some((report.received, report.bytes));
        self.covered = total;
        self.covered_inner = hit.inner.saturating_sub(later).max(self.covered_inner);
        // What is covered needs no more waiting for.
        self.sent.drain(..at);
        if later == 0 {
            self.covered_inner = hit.inner;
            self.sent.pop_front();
        }
        true
    }

    fn span(&mut self, mut span: Span) {
        let last_ns = self.spans.back().map_or(0, |s| s.at_ns);
        if self.spans.len() >= SPANS {
            self.spans.pop_front();
        }
        span.for_ns = span.at_ns.saturating_sub(last_ns).min(WINDOW_NS);
        self.spans.push_back(span);
    }

    /// Whether what was lost now is the doing of a queue, and that is young.
    fn is_crowded(&mut self, rtt_ns: u64, lost: u64, now_ns: u64) -> bool {
        if !self.is_queue(rtt_ns) {
            self.crowded_ns = None;
            return false;
        }
        lost > 0 && now_ns < *self.crowded_ns.get_or_insert(now_ns) + CROWDED_NS
    }

    /// Whether a round trip of so long waited in a queue.
    fn is_queue(&self, rtt_ns: u64) -> bool {
        let least_ns = self.rtt_min_ns().unwrap_or(rtt_ns);
        rtt_ns > least_ns + QUEUE_NS.max(least_ns)
    }

    /// Take in the answer to a probe of ours, which nobody can give before it is asked.
    pub fn probed(&mut self, rtt_ns: u64, now_ns: u64) {
        self.probes_answered += 1;
        self.reported_ns = Some(now_ns);
        self.probed_min_ns = Some(self.probed_min_ns.map_or(rtt_ns, |min| min.min(rtt_ns)));
        self.sample(rtt_ns, now_ns);
    }

    /// Fold a round trip in. Source: RFC 6298 section 2, and for the jitter RFC 3550 section 6.4.1.
    pub fn sample(&mut self, rtt_ns: u64, now_ns: u64) {
        match self.srtt_ns {
            None => {
                self.srtt_ns = Some(rtt_ns);
                self.rttvar_ns = rtt_ns / 2;
            }
            Some(srtt) => {
                self.rttvar_ns = self.rttvar_ns - self.rttvar_ns / 4 + srtt.abs_diff(rtt_ns) / 4;
                self.srtt_ns = Some(srtt - srtt / 8 + rtt_ns / 8);
            }
        }
        // Between two that are far apart the path itself may have changed.
        if let Some((before_ns, at_ns)) = self.newest_ns
            && now_ns < at_ns + WINDOW_NS
        {
            self.neighbours_ns =
                self.neighbours_ns - self.neighbours_ns / 16 + before_ns.abs_diff(rtt_ns) / 16;
        }
        self.newest_ns = Some((rtt_ns, now_ns));
        match self.min_ns {
            Some((min, at)) if rtt_ns > min && now_ns < at + MIN_LIFE_NS => {}
            _ => self.min_ns = Some((rtt_ns, now_ns)),
        }
    }

    /// Noise: what neighbouring round trips differ by. A queue that comes and goes is in `rttvar_ns`
    /// alone; and that forgets, by seldom probes too, the noise of a time when data was sent.
    #[must_use]
    pub fn jitter_ns(&self) -> u64 {
        self.neighbours_ns.min(self.rttvar_ns)
    }

    #[must_use]
    pub fn rtt_min_ns(&self) -> Option<u64> {
        self.min_ns.map(|(min, _)| min)
    }

    #[must_use]
    pub fn queue_ns(&self) -> u64 {
        match (self.srtt_ns, self.min_ns) {
            (Some(srtt), Some((min, _))) => srtt.saturating_sub(min),
            _ => 0,
        }
    }

    /// How long after each other reports come: one that is late for once changes nothing.
    #[must_use]
    pub fn cadence_ns(&self) -> u64 {
        let [last, before] = self.gaps_ns;
        last.min(before)
    }

    /// When the oldest inner packet left that no report covers, and how many none covers.
    #[must_use]
    pub fn unacknowledged(&self) -> Option<(u64, u64)> {
        let oldest = self.sent.iter().find(|s| s.inner > self.covered_inner)?;
        Some((oldest.at_ns, self.tx_inner - self.covered_inner))
    }

    /// When the oldest inner packet left that no report covers, and when the *n*-th such did.
    #[must_use]
    pub fn owed(&self, n: u64) -> Option<(u64, u64)> {
        let (oldest_ns, _) = self.unacknowledged()?;
        let nth = self
            .sent
            .iter()
            .find(|s| s.inner >= self.covered_inner + n)?;
        Some((oldest_ns, nth.at_ns))
    }

    /// Ask no more about what was sent so far: the path died, or comes back.
    pub fn write_off(&mut self) {
        self.sent.clear();
        self.spans.clear();
        self.covered = self.tx_datagrams;
        self.covered_inner = self.tx_inner;
        self.told = None;
    }

    /// Another amount is sent from now on: what was usual says nothing any more.
    pub fn forget_usual(&mut self) {
        self.usual = 0.0;
    }

    /// So much goes another way from now on: nobody misses it here.
    pub fn sends_less(&mut self, bytes_per_s: f64) {
        self.usual = (self.usual - bytes_per_s).max(0.0);
    }

    /// Give memory back while nothing is sent.
    pub fn rest(&mut self) {
        if self.sent.is_empty() && self.sent.capacity() > 0 {
            self.sent.shrink_to_fit();
        }
    }

    /// The part lost in the last second.
    #[must_use]
    pub fn loss(&self, now_ns: u64) -> f64 {
        let Span { judged, lost, .. } = self.over(WINDOW_NS, now_ns);
        if judged == 0 {
            0.0
        } else {
            lost as f64 / judged as f64
        }
    }

    /// All spans that ended in the last `window_ns`, as one.
    fn over(&self, window_ns: u64, now_ns: u64) -> Span {
        self.spans
            .iter()
            .filter(|s| now_ns < s.at_ns + window_ns)
            .fold(Span::default(), |all, s| Span {
                at_ns: now_ns,
                for_ns: all.for_ns + s.for_ns,
                judged: all.judged + s.judged,
                lost: all.lost + s.lost,
                failed: all.failed + s.failed,
                bytes: all.bytes + s.bytes,
            })
    }

    /// Judge the last 300 ms, and the last second for loss, after a report.
    pub fn judge(&mut self, now_ns: u64) -> Option<Brownout> {
        for (window_ns, least, part, crowded) in LOSSY {
            let seen = self.over(window_ns, now_ns);
            let (judged, lost) = (seen.judged as f64, seen.lost as f64);
            if seen.judged >= least
                && (seen.failed as f64 > part * judged || lost > crowded * judged)
            {
                return Some(Brownout::Lossy);
            }
        }
        let Span {
            judged,
            lost,
            bytes,
            for_ns,
            ..
        } = self.over(JUDGE_NS, now_ns);
        if for_ns < JUDGE_NS * 2 / 3 || judged < JUDGE_DATAGRAMS {
            return None;
        }
        let rate = bytes as f64 * 1e9 / for_ns as f64;
        // The newest too: the smoothed one may remember a queue that is gone.
        let queue = self
            .srtt_ns
            .is_some_and(|srtt| self.is_queue(srtt.min(self.last_rtt_ns)));
        // Less is only bad with a sign that more was wanted: an application may simply rest.
        let wanted = queue || lost * 50 > judged;
        if wanted && rate < self.usual / 2.0 {
            return Some(Brownout::Slow);
        }
        self.usual += (rate - self.usual) / 16.0;
        None
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    const MS: u64 = 1_000_000;

    fn epoch() -> Epoch {
        Epoch {
            generation: 0,
            step: 0,
        }
    }

    /// Send `count` datagrams of 1000 bytes as one sending at `now`.
    fn send(meter: &mut Meter, next: &mut u64, count: u64, now: u64) {
        for _ in 0..count {
            meter.sent(epoch(), *next, 1000, true, now);
            *next += 1;
        }
    }

    fn told(highest: u64, received: u64, held_us: u32) -> Report {
        Report {
            epoch: epoch(),
            highest,
            received: received as u32,
            bytes: (received * 1000) as u32,
            held_us,
        }
    }

    /// Round trip, loss and delivery come out as they were put in.
    #[test]
    fn figures_come_out() {
        let (mut m, mut next) = (Meter::default(), 0);
        let (mut received, mut now) = (0, 0);
        for round in 0..10 {
            send(&mut m, &mut next, 100, now);
            // One in twenty is lost, never the last.
            received += 95;
            assert!(
                m.report(&told(next - 1, received, 2_000), now + 12 * MS),
                "{round}"
            );
            now += 100 * MS;
        }
        assert_eq!(m.srtt_ns, Some(10 * MS));
        assert_eq!((m.judged, m.lost, m.delivered_bytes), (1000, 50, 950_000));
        assert!((m.loss(now) - 0.05).abs() < 0.001);
        assert_eq!(m.unacknowledged(), None);
        assert_eq!(m.judge(now - 90 * MS), None);
    }

    /// A queue that grows and shrinks is no jitter; round trips that differ are, if they are close.
    #[test]
    fn jitter_is_what_neighbours_differ_by() {
        let after = |every: u64, rtt: fn(u64) -> u64| {
            let mut m = Meter::default();
            for k in 0..200 {
                m.sample(rtt(k) * MS, k * every * MS);
            }
            (m.jitter_ns() / MS, m.rttvar_ns / MS)
        };
        // 20 to 420 ms and back, over and over, 10 ms a step.
        let (jitter, rttvar) = after(100, |k| 20 + 10 * (k % 80).min(80 - k % 80));
        assert!(
            (9..=10).contains(&jitter) && rttvar > 40,
            "{jitter} {rttvar}"
        );
        let (jitter, _) = after(100, |k| 50 + 20 * (k % 2));
        assert!((9..=10).contains(&jitter), "{jitter}");
        // Probes, once in two seconds: nobody knows.
        assert_eq!(after(2_000, |k| 50 + 20 * (k % 2)).0, 0);
    }

    /// A path that was noisy is not so for ever: calm probes are believed.
    #[test]
    fn jitter_is_forgotten_while_a_path_is_only_probed() {
        let mut m = Meter::default();
        for k in 0..300 {
            m.sample((50 + 200 * (k % 2)) * MS, k * 100 * MS);
        }
        assert!(m.jitter_ns() > 50 * MS);
        for k in 0..60 {
            m.sample(50 * MS, (40 + 2 * k) * 1_000 * MS);
        }
        assert!(m.jitter_ns() < MS, "{}", m.jitter_ns());
    }

    /// What was sent since the report stays unacknowledged, from its own time on.
    #[test]
    fn waiting_starts_with_the_oldest_uncovered_sending() {
        let (mut m, mut next) = (Meter::default(), 0);
        send(&mut m, &mut next, 5, 10 * MS);
        send(&mut m, &mut next, 5, 20 * MS);
        send(&mut m, &mut next, 5, 30 * MS);
        assert!(m.report(&told(6, 7, 0), 40 * MS));
        assert_eq!(m.unacknowledged(), Some((20 * MS, 8)));
        assert_eq!(m.lost, 0);
    }

    /// A replayed, an old or an impossible report changes nothing.
    #[test]
    fn lies_about_more_than_was_sent_are_ignored() {
        let (mut m, mut next) = (Meter::default(), 0);
        send(&mut m, &mut next, 50, 0);
        assert!(!m.report(&told(49, 5_000, 0), MS));
        assert!(!m.report(&told(50, 50, 0), MS));
        assert!(m.report(&told(49, 50, 0), MS));
        assert!(!m.report(&told(49, 50, 0), 2 * MS));
        assert!(!m.report(&told(20, 21, 0), 2 * MS));
        assert_eq!((m.judged, m.lost, m.delivered_bytes), (50, 0, 50_000));
    }

    /// A report may name a probe or a report of ours; what is owed are inner packets alone.
    #[test]
    fn housekeeping_is_covered_and_not_owed() {
        let (mut m, mut next) = (Meter::default(), 0);
        send(&mut m, &mut next, 5, 0);
        m.sent(epoch(), 5, 60, false, 10 * MS);
        assert_eq!(m.unacknowledged(), Some((0, 5)));
        // The inner packets were lost, the probe behind them came.
        assert!(m.report(&told(5, 1, 0), 20 * MS));
        assert_eq!((m.judged, m.lost), (6, 5));
        m.sent(epoch(), 6, 60, false, 30 * MS);
        assert_eq!(m.unacknowledged(), None);
    }

    /// What an outage swallowed is no loss of the path that comes back.
    #[test]
    fn an_outage_is_written_off() {
        let (mut m, mut next) = (Meter::default(), 0);
        send(&mut m, &mut next, 100, 0);
        assert!(m.report(&told(99, 100, 0), 10 * MS));
        send(&mut m, &mut next, 300, 20 * MS);
        m.write_off();
        assert_eq!(m.unacknowledged(), None);
        send(&mut m, &mut next, 100, 900 * MS);
        // 40 of the 300 had come all the same.
        assert!(m.report(&told(next - 1, 240, 0), 910 * MS));
        assert_eq!((m.lost, m.judge(910 * MS)), (0, None));
        send(&mut m, &mut next, 100, 1_000 * MS);
        assert!(m.report(&told(next - 1, 330, 0), 1_010 * MS));
        assert_eq!(m.lost, 10);
    }

    /// Whoever claims to have held a report for long makes no path short.
    #[test]
    fn a_report_flatters_nobody() {
        let (mut m, mut next) = (Meter::default(), 0);
        m.probed(30 * MS, 0);
        for k in 0..50 {
            send(&mut m, &mut next, 1, k * 100 * MS);
            m.report(
                &told(next - 1, next, [29_900, 500_000][k as usize % 2]),
                (k * 100 + 30) * MS,
            );
        }
        assert_eq!(m.srtt_ns, Some(30 * MS));
    }

    /// A quarter lost within 300 ms is a brownout, or a tenth within a second; one burst is none, and
    /// what a full queue drops only if it is half of all for a second, or lasts.
    #[test]
    fn a_lossy_path_is_told() {
        // Of 20 datagrams each 100 ms so many come, behind such a queue, from the second second on.
        for (came, queue_ms, lossy_after) in [
            (2, 0, Some(1)),
            (14, 0, Some(3)),
            (17, 0, Some(7)),
            (19, 0, None),
            (14, 80, Some(103)),
            (19, 80, None),
            (8, 80, Some(9)),
            (2, 80, Some(3)),
        ] {
            let (mut m, mut next, mut received) = (Meter::default(), 0, 0);
            let mut seen = None;
            for k in 0..150 {
                let (came, queue_ms) = if k < 10 { (20, 0) } else { (came, queue_ms) };
                send(&mut m, &mut next, 20, k * 100 * MS);
                received += came;
                let now = (k * 100 + 5 + queue_ms) * MS;
                m.report(&told(next - 1, received, 0), now);
                if m.judge(now) == Some(Brownout::Lossy) {
                    seen = seen.or(Some(k - 9));
                }
            }
            assert_eq!(seen, lossy_after, "{came} of 20, {queue_ms} ms");
        }
    }

    /// How a path is judged that had 2 MB a second for 5 s, then a tenth of it at a longer round
    /// trip; so many bytes a second went another way by then.
    fn slowed(queue_ms: u64, left: f64) -> Option<Brownout> {
        let (mut m, mut next, mut received) = (Meter::default(), 0, 0);
        let mut seen = None;
        for k in 0..80u64 {
            let (count, rtt) = if k < 50 { (200, 5) } else { (20, 5 + queue_ms) };
            if k == 50 {
                m.sends_less(left);
            }
            send(&mut m, &mut next, count, k * 100 * MS);
            received += count;
            m.report(&told(next - 1, received, 0), (k * 100 + rtt) * MS);
            seen = seen.or(m.judge((k * 100 + rtt) * MS));
        }
        seen
    }

    /// A path that delivers less than half of the usual while its queue grows is slow.
    #[test]
    fn a_slow_path_is_told_only_with_a_queue() {
        assert_eq!(slowed(0, 0.0), None);
        assert_eq!(slowed(200, 0.0), Some(Brownout::Slow));
    }

    /// A path that most of its flows have left because of a queue is not slow for that.
    #[test]
    fn a_path_that_is_given_less_is_not_slow() {
        assert!(slowed(200, 0.0).is_some());
        assert!(slowed(200, 1_800_000.0).is_none());
    }

    /// What begins slowly after an episode is not slow: the smoothed round trip remembers a queue.
    #[test]
    fn a_queue_that_is_gone_makes_no_path_slow() {
        let (mut m, mut next, mut received) = (Meter::default(), 0, 0);
        let mut now = 0;
        for k in 0..57u64 {
            // Much at 5 ms, then a little behind a queue, then a little without one.
            let (count, rtt) = match k {
                0..50 => (200, 5),
                50..53 => (1, 300),
                _ => (60, 5),
            };
            send(&mut m, &mut next, count, now);
            received += count;
            now += rtt * MS;
            m.report(&told(next - 1, received, 0), now);
            if k >= 53 {
                assert!(m.queue_ns() > QUEUE_NS);
                assert_eq!(m.judge(now), None, "{k}");
            } else {
                m.judge(now);
            }
            now += (100 - rtt.min(99)) * MS;
        }
    }
}
