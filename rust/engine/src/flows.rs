//! Which path each flow of a session takes.
//!
//! A flow stays on its path, so that nothing is reordered. It moves at once when the path dies, or
//! browns out and loses its share; where the path carries clearly more than its share, at a gap longer
//! than what the new path is faster by, or once that was so for half a second: a flow that never pauses
//! would stay for good, and being reordered once costs it less than what made the path lose its share.
//! It moves only if both paths are clearly nearer to their shares then: what the policy moves in part
//! must not move whole, and who is alone goes with the largest share.
//! The table is bounded: sets of four, the oldest of a set goes.

use crate::path::{Path, State};

const SETS: usize = 256;
const WAYS: usize = 4;
/// So long a busy flow stays where more is carried than the share says.
const PATIENCE_NS: u64 = 500_000_000;
/// Less than this part of all is none of a flow's business.
const SLACK: f32 = 0.2;
/// A flow that rested for so long starts anew.
const FORGET_NS: u64 = 10_000_000_000;
/// What was given is forgotten within about this: shares are of what is sent now.
const GIVEN_NS: f32 = 1e9;

#[derive(Clone, Copy, Default)]
struct Flow {
    tag: u32,
    path: u8,
    /// Zero is an empty place.
    last_ns: u64,
    /// Bytes given to it, decaying as those of a path do.
    given: f32,
}

struct Table {
    sets: [[Flow; WAYS]; SETS],
    last_ns: u64,
}

/// Flows of one session; takes no memory until there is more than one path.
#[derive(Default)]
pub struct Flows(Option<Box<Table>>);

impl Flows {
    /// The place in `paths` where a packet of `bytes` of the flow `hash` goes.
    #[inline]
    pub fn place(&mut self, hash: u64, bytes: usize, paths: &mut [Path], now_ns: u64) -> usize {
        if paths.len() < 2 {
            return 0;
        }
        let table = self.0.get_or_insert_with(|| {
            Box::new(Table {
                sets: [[Flow::default(); WAYS]; SETS],
                last_ns: now_ns,
            })
        });
        if now_ns > table.last_ns {
            let kept = keep(table.last_ns, now_ns);
            table.last_ns = now_ns;
            for path in paths.iter_mut() {
                path.given *= kept;
            }
        }
        let tag = (hash >> 32) as u32;
        let Some(set) = table.sets.get_mut(hash as usize % SETS) else {
            return 0;
        };
        let at = set.iter().position(|f| f.tag == tag && f.last_ns != 0);
        let mut flow = at
            .and_then(|at| set.get(at).copied())
            .filter(|f| now_ns < f.last_ns + FORGET_NS)
            .unwrap_or(Flow {
                tag,
                ..Flow::default()
            });
        flow.given *= keep(flow.last_ns, now_ns);
        let old = paths
            .iter()
            .position(|p| flow.last_ns != 0 && p.id == flow.path);
        let chosen = match old {
            Some(old) => stay_or_move(paths, old, &flow, now_ns),
            None => emptiest(paths),
        };
        if old != Some(chosen) {
            // It takes along what it sends: others see that there is less too much.
            if let Some(path) = paths.get_mut(chosen) {
                path.given += flow.given;
            }
            if let Some(left) = old.and_then(|old| paths.get_mut(old)) {
                left.given = (left.given - flow.given).max(0.0);
                left.meter
                    .sends_less(f64::from(flow.given / GIVEN_NS * 1e9));
            }
        }
        let at = at.unwrap_or_else(|| {
            let oldest = set.iter().enumerate().min_by_key(|(_, f)| f.last_ns);
            oldest.map_or(0, |(at, _)| at)
        });
        if let (Some(place), Some(path)) = (set.get_mut(at), paths.get_mut(chosen)) {
            path.given += bytes as f32;
            flow.given += bytes as f32;
            flow.last_ns = now_ns.max(1);
            flow.path = path.id;
            *place = flow;
        }
        chosen
    }
}

/// The part of what was given by `then` that still counts.
fn keep(then_ns: u64, now_ns: u64) -> f32 {
    let passed = now_ns.saturating_sub(then_ns) as f32 / GIVEN_NS;
    if passed < 0.01 {
        1.0 - passed
    } else {
        (-passed).exp()
    }
}

fn stay_or_move(paths: &mut [Path], old: usize, flow: &Flow, now_ns: u64) -> usize {
    let total = paths.iter().map(|p| p.given).sum();
    let over = too_much(paths, old, total);
    let Some(path) = paths.get_mut(old) else {
        return emptiest(paths);
    };
    if !path.usable() {
        return emptiest(paths);
    }
    if over <= 0.0 {
        path.over_ns = None;
        return old;
    }
    let since_ns = *path.over_ns.get_or_insert(now_ns);
    let (share, state) = (path.share, path.state);
    let rttvar_ns = path.meter.rttvar_ns;
    let browned = share <= 0.0 && state == State::Browned;
    if now_ns <= flow.last_ns && now_ns < since_ns + PATIENCE_NS && !browned {
        return old; // in the middle of a burst
    }
    let new = emptiest(paths);
    if new == old {
        return old;
    }
    let rtt = |at: usize| paths.get(at).and_then(|p| p.meter.srtt_ns).unwrap_or(0);
    // What still travels on the old path must arrive first, its jitter included.
    let ahead_ns = (rtt(old) + rttvar_ns).saturating_sub(rtt(new));
    let gap = now_ns > flow.last_ns + ahead_ns;
    let shared = paths.get(new).is_some_and(|p| p.share > 0.0);
    let waited = now_ns >= since_ns + PATIENCE_NS && shared;
    // A browned path that kept its share keeps its flows: nothing better, or no leave to go there.
    let better = share <= 0.0 || flow.given + SLACK * total < over - too_much(paths, new, total);
    if browned || (gap || waited) && better {
        new
    } else {
        old
    }
}

/// By how many bytes of *total* a path carries clearly more than its share; what has none carries too much.
fn too_much(paths: &[Path], at: usize, total: f32) -> f32 {
    let Some(path) = paths.get(at) else {
        return 0.0;
    };
    let over = path.given - path.share * total;
    if path.share <= 0.0 {
        over.max(1.0)
    } else if path.share < 0.99 && over > SLACK * total {
        over
    } else {
        over.min(0.0)
    }
}

/// The usable path that is furthest below its share; without shares the quickest usable one.
fn emptiest(paths: &[Path]) -> usize {
    let total: f32 = paths.iter().map(|p| p.given).sum::<f32>().max(1.0);
    let want = |p: &Path| p.share - p.given / total;
    let shared = paths
        .iter()
        .enumerate()
        .filter(|(_, p)| p.share > 0.0 && p.usable())
        .max_by(|(_, a), (_, b)| want(a).total_cmp(&want(b)));
    shared.map_or_else(|| fallback(paths), |(at, _)| at)
}

/// Where to send when no path with a share is usable.
#[must_use]
pub fn fallback(paths: &[Path]) -> usize {
    let usable = paths
        .iter()
        .enumerate()
        .filter(|(_, p)| p.usable())
        .min_by_key(|(_, p)| (!p.standby, p.meter.srtt_ns.unwrap_or(u64::MAX)));
    let shared = || paths.iter().position(|p| p.share > 0.0);
    usable.map(|(at, _)| at).or_else(shared).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;
    use crate::sys::udp::Udp;
    const MS: u64 = 1_000_000;

    fn paths(shares: &[(f32, u64)]) -> Vec<Path> {
        let udp = Udp::bind(0, false).unwrap();
        let to = ([127, 0, 0, 1], 9).into();
        let one = |(id, (share, rtt_ms)): (usize, &(f32, u64))| {
            let mut path = Path::new(id as u8, to, udp.raw(to), 1412, 0);
            path.state = State::Alive;
            path.share = *share;
            path.meter.sample(rtt_ms * MS, 0);
            path
        };
        shares.iter().enumerate().map(one).collect()
    }

    fn hash(n: u64) -> u64 {
        n.wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }

    /// A busy flow changes its path at a gap, or after half a second, while both paths are well.
    #[test]
    fn a_busy_flow_stays() {
        let (mut flows, mut paths) = (Flows::default(), paths(&[(1.0, 40), (0.0, 10)]));
        assert_eq!(flows.place(hash(1), 1500, &mut paths, MS), 0);
        (paths[0].share, paths[1].share) = (0.0, 1.0);
        for k in 2..400 {
            assert_eq!(flows.place(hash(1), 1500, &mut paths, k * MS), 0, "{k}");
        }
        // A gap of more than the 30 ms by which the new path is quicker, and the 20 ms of jitter, lets it go.
        assert_eq!(flows.place(hash(1), 1500, &mut paths, 460 * MS), 1);
        // To a slower path it may go at once.
        (paths[0].share, paths[1].share) = (1.0, 0.0);
        assert_eq!(flows.place(hash(1), 1500, &mut paths, 461 * MS), 0);
        assert_eq!(flows.place(hash(1), 1500, &mut paths, 462 * MS), 0);
        // Where it never pauses it leaves after half a second.
        (paths[0].share, paths[1].share) = (0.0, 1.0);
        for k in 463..963 {
            assert_eq!(flows.place(hash(1), 1500, &mut paths, k * MS), 0, "{k}");
        }
        assert_eq!(flows.place(hash(1), 1500, &mut paths, 963 * MS), 1);
    }

    /// Of flows that never pause, as many leave as there are too many: what moves in part moves in part.
    #[test]
    fn busy_flows_follow_the_shares_one_by_one() {
        // Both paths are equally quick but for the jitter, so that no gap lets anybody go.
        let (mut flows, mut paths) = (Flows::default(), paths(&[(1.0, 10), (0.0, 10)]));
        let mut now = 0;
        let mut run = |paths: &mut [Path], seconds: u64, count: u64| {
            let mut on_first = Vec::new();
            for _ in 0..seconds * 1000 {
                now += MS;
                on_first = (0..count)
                    .filter(|n| flows.place(hash(*n), 300, paths, now) == 0)
                    .collect();
            }
            on_first
        };
        assert_eq!(run(&mut paths, 1, 4).len(), 4);
        for (share, stay) in [(0.9, 4), (0.6, 3), (0.45, 2), (0.6, 2), (0.2, 1), (0.0, 0)] {
            (paths[0].share, paths[1].share) = (share, 1.0 - share);
            assert_eq!(run(&mut paths, 2, 4).len(), stay, "{share}");
        }
    }

    /// Who is alone goes with the largest share, and does not follow each of its swings.
    #[test]
    fn a_flow_alone_does_not_swing() {
        let (mut flows, mut paths) = (Flows::default(), paths(&[(0.6, 10), (0.4, 10)]));
        let (mut now, mut last, mut moves) = (0, 0, 0);
        for (first, moved) in [
            (0.6, 0),
            (0.45, 0),
            (0.55, 0),
            (0.42, 0),
            (0.35, 1),
            (0.58, 1),
            (0.65, 2),
        ] {
            (paths[0].share, paths[1].share) = (first, 1.0 - first);
            for _ in 0..2000 {
                now += MS;
                let place = flows.place(hash(1), 1500, &mut paths, now);
                moves += usize::from(place != last);
                last = place;
            }
            assert_eq!(moves, moved, "{first}");
        }
    }

    /// A flow leaves a dead and a browned path with its next packet.
    #[test]
    fn a_flow_leaves_a_dead_path_at_once() {
        for state in [State::Dead, State::Browned] {
            let (mut flows, mut paths) = (Flows::default(), paths(&[(1.0, 10), (0.0, 90)]));
            flows.place(hash(7), 1500, &mut paths, MS);
            paths[0].state = state;
            paths[0].share = 0.0;
            paths[1].share = 1.0;
            assert_eq!(flows.place(hash(7), 1500, &mut paths, 2 * MS), 1);
        }
    }

    /// Many flows spread as the shares say.
    #[test]
    fn flows_spread_by_share() {
        let (mut flows, mut paths) = (Flows::default(), paths(&[(0.6, 10), (0.3, 10), (0.1, 10)]));
        let mut bytes = [0u64; 3];
        for k in 0..20_000u64 {
            bytes[flows.place(hash(k % 200), 1500, &mut paths, (k + 1) * MS)] += 1500;
        }
        let total: u64 = bytes.iter().sum();
        for (got, share) in bytes.iter().zip([0.6, 0.3, 0.1]) {
            let part = *got as f64 / total as f64;
            assert!((part - share).abs() < 0.08, "{bytes:?}");
        }
    }

    /// A hundred thousand flows take no more memory than a thousand.
    #[test]
    fn the_table_is_bounded() {
        let (mut flows, mut paths) = (Flows::default(), paths(&[(0.5, 10), (0.5, 10)]));
        for k in 0..100_000 {
            flows.place(hash(k), 100, &mut paths, k + 1);
        }
        let held = flows.0.unwrap().sets;
        assert!(held.iter().flatten().all(|f| f.last_ns > 0));
        assert_eq!(held.len() * held[0].len(), SETS * WAYS);
    }
}
