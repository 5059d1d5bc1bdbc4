//! Path MTU discovery by sealed probes, per path, without trusting ICMP.
//!
//! Sizes are UDP payloads. The search starts at a size that every path carries, tries the size
//! that a full inner packet needs first (it mostly fits), then halves the rest. A size in use is
//! confirmed again now and then; three lost confirmations are a black hole: back to the base.
//! Source: RFC 8899 (DPLPMTUD), sections 5.1-5.3.

/// Carried by every path: IPv6's minimum MTU less IPv6 and UDP headers.
pub const BASE: usize = 1232;
const TRIES: u8 = 3;
const GRAIN: usize = 16;
/// A whole search fits into so many unanswered probes; after them waits double, up to 2^BACKOFF.
const PATIENT: u32 = 32;
const BACKOFF: u32 = 7;
/// While data flows, though reports tell that it arrives.
const CONFIRM_NS: u64 = 60_000_000_000;
/// After a loss, no oftener than this. A path that narrows may still carry the peer's small packets: a
/// bulk flow stands still until confirmations are lost.
const AGAIN_NS: u64 = 5_000_000_000;
/// A path that failed a larger size is searched again after this (it may have changed).
const RAISE_NS: u64 = 600_000_000_000;

#[derive(Debug)]
pub struct Search {
    /// The largest size known to pass.
    current: usize,
    /// One past the largest size that may pass.
    ceiling: usize,
    /// A full inner packet with overhead: no larger size is of use.
    wanted: usize,
    /// Under test, and how often it was sent.
    testing: Option<(usize, u8)>,
    next_ns: u64,
    raise_ns: u64,
    /// When the size in use was confirmed last.
    confirmed_ns: u64,
    /// Probes since the last answer: a path that answers none is asked less and less.
    unanswered: u32,
}

impl Search {
    #[must_use]
    pub fn new(wanted: usize, now_ns: u64) -> Search {
        let wanted = wanted.max(BASE);
        Search {
            current: BASE,
            ceiling: wanted + 1,
            wanted,
            testing: None,
            next_ns: now_ns,
            raise_ns: now_ns + RAISE_NS,
            confirmed_ns: 0,
            unanswered: 0,
        }
    }

    /// The largest UDP payload to send.
    #[inline]
    #[must_use]
    pub fn size(&self) -> usize {
        self.current
    }

    /// The size to probe now, if one is due.
    pub fn poll(&mut self, now_ns: u64, timeout_ns: u64) -> Option<usize> {
        if now_ns < self.next_ns {
            return None;
        }
        let (size, tries) = match self.testing {
            Some((size, tries)) if tries < TRIES => (size, tries),
            Some((size, _)) => {
                self.lost(size);
                (self.candidate(now_ns), 0)
            }
            None => (self.candidate(now_ns), 0),
        };
        let patience_ns = timeout_ns << (self.unanswered / PATIENT).min(BACKOFF);
        self.unanswered += 1;
        self.testing = Some((size, tries + 1));
        self.next_ns = now_ns + patience_ns;
        Some(size)
    }

    /// What to try next; a finished search confirms the size in use.
    fn candidate(&mut self, now_ns: u64) -> usize {
        if self.ceiling.saturating_sub(self.current) <= GRAIN {
            if self.current >= self.wanted || now_ns < self.raise_ns {
                return self.current;
            }
            self.ceiling = self.wanted + 1;
            self.raise_ns = now_ns + RAISE_NS;
        }
        if self.ceiling == self.wanted + 1 {
            self.wanted
        } else {
            self.current + (self.ceiling - self.current) / 2
        }
    }

    /// `size` did not pass, for sure (three probes lost, or the host refused it).
    fn lost(&mut self, size: usize) {
        self.testing = None;
        if size <= self.current {
            // A black hole, or a short outage: leave the size, and try it again first.
            self.ceiling = self.wanted + 1;
            self.current = BASE;
        } else {
            self.ceiling = self.ceiling.min(size);
        }
    }

    /// The host itself refused to send `size` (EMSGSIZE).
    pub fn refused(&mut self, size: usize, now_ns: u64) {
        if size > BASE {
            self.lost(size);
            self.next_ns = now_ns;
        }
    }

    pub fn answered(&mut self, size: usize, now_ns: u64) {
        if size < self.current || size > self.wanted {
            return;
        }
        self.current = size;
        self.confirmed_ns = now_ns;
        self.unanswered = 0;
        if self.testing.is_some_and(|(s, _)| s == size) {
            self.testing = None;
        }
        let done = self.ceiling.saturating_sub(self.current) <= GRAIN;
        self.next_ns = if done { now_ns + CONFIRM_NS } else { now_ns };
    }

    /// Traffic may not be getting through for its size: confirm it, unless that was done just now.
    pub fn suspect(&mut self, now_ns: u64) {
        if self.current > BASE && self.testing.is_none() {
            let again_ns = (self.confirmed_ns + AGAIN_NS).max(now_ns);
            self.next_ns = self.next_ns.min(again_ns);
        }
    }

    #[must_use]
    pub fn next_ns(&self) -> u64 {
        self.next_ns
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    const MS: u64 = 1_000_000;

    /// Run the search over a path that carries `path` bytes; return the size found and the probes.
    fn run(search: &mut Search, path: usize, mut now: u64, rounds: usize) -> (usize, usize) {
        let mut probes = 0;
        for _ in 0..rounds {
            if let Some(size) = search.poll(now, 100 * MS) {
                probes += 1;
                if size <= path {
                    search.answered(size, now + MS);
                }
            }
            now += 100 * MS;
        }
        (search.size(), probes)
    }

    /// On an ordinary path the first probe settles it.
    #[test]
    fn a_full_packet_passes_at_once() {
        let mut search = Search::new(1412, 0);
        assert_eq!(run(&mut search, 1472, 0, 3), (1412, 1));
    }

    /// A narrow path is found within the grain, and never overestimated.
    #[test]
    fn a_narrow_path_is_found() {
        for path in [1232, 1252, 1300, 1372, 1411] {
            let mut search = Search::new(1412, 0);
            let (size, _) = run(&mut search, path, 0, 60);
            assert!(size <= path && path - size <= GRAIN, "{path}: {size}");
        }
    }

    /// A path that narrows is noticed by confirmation and left for the base, then searched again.
    #[test]
    fn a_black_hole_is_left() {
        let mut search = Search::new(1412, 0);
        run(&mut search, 1500, 0, 3);
        search.suspect(1_000 * MS);
        let (size, _) = run(&mut search, 1300, 1_000 * MS, 60);
        assert!((BASE..=1300).contains(&size), "{size}");
    }

    /// A path that narrows is left in the end though nobody loses anything that tells.
    #[test]
    fn a_black_hole_is_noticed_without_suspicion() {
        let mut search = Search::new(1412, 0);
        run(&mut search, 1500, 0, 3);
        assert_eq!(search.size(), 1412);
        let (size, _) = run(&mut search, 1300, 300 * MS, 700);
        assert!((BASE..=1300).contains(&size), "{size}");
    }

    /// What the host refuses is not tried again.
    #[test]
    fn a_refusal_needs_no_timeout() {
        let mut search = Search::new(1412, 0);
        assert_eq!(search.poll(0, 100 * MS), Some(1412));
        search.refused(1412, 0);
        assert_eq!(search.poll(0, 100 * MS), Some(BASE + (1412 - BASE) / 2));
    }

    /// After an outage that hit the confirmations the full size is back at once.
    #[test]
    fn an_outage_costs_no_size() {
        let mut search = Search::new(1412, 0);
        run(&mut search, 1500, 0, 3);
        search.suspect(1_000 * MS);
        run(&mut search, 0, 1_000 * MS, 4);
        assert_eq!(run(&mut search, 1500, 1_400 * MS, 8).0, 1412);
    }

    /// A path that answers nothing is asked ever more rarely.
    #[test]
    fn a_dead_path_is_asked_rarely() {
        let mut search = Search::new(1412, 0);
        let (_, probes) = run(&mut search, 0, 0, 3_000);
        assert!(probes < 250, "{probes} probes in 300 s");
    }
}
