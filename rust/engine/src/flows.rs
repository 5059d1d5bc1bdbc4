//! Which path each flow of a session takes.
//!
//! A flow stays on its path, so that nothing is reordered. It moves at once when the path dies or
//! browns out; when only the shares changed, at a gap longer than what the new path is faster by, or
//! once its path has had no share for a second: a flow that never pauses would stay for good, and
//! being reordered once costs it less than what made the path lose its share.
//! The table is bounded: sets of four, the oldest of a set goes.

use crate::path::{Path, State};

const SETS: usize = 256;
const WAYS: usize = 4;
/// So long a busy flow stays where there is no share.
const PATIENCE_NS: u64 = 1_000_000_000;
/// A flow that rested for so long starts anew.
const FORGET_NS: u64 = 10_000_000_000;
/// What was given weighs half after so many bytes more.
const GIVEN_BYTES: f32 = 4_000_000.0;

#[derive(Clone, Copy, Default)]
struct Flow {
    tag: u32,
    /// Zero is an empty place.
    last_ns: u64,
    path: u8,
}

/// Flows of one session; takes no memory until there is more than one path.
#[derive(Default)]
pub struct Flows(Option<Box<[[Flow; WAYS]; SETS]>>);

impl Flows {
    /// The place in `paths` where a packet of `bytes` of the flow `hash` goes.
    #[inline]
    pub fn place(&mut self, hash: u64, bytes: usize, paths: &mut [Path], now_ns: u64) -> usize {
        if paths.len() < 2 {
            return 0;
        }
        let sets = self
            .0
            .get_or_insert_with(|| Box::new([[Flow::default(); WAYS]; SETS]));
        let tag = (hash >> 32) as u32;
        let Some(set) = sets.get_mut(hash as usize % SETS) else {
            return 0;
        };
        let at = set.iter().position(|f| f.tag == tag && f.last_ns != 0);
        let known = at
            .and_then(|at| set.get(at))
            .filter(|f| now_ns < f.last_ns + FORGET_NS)
            .and_then(|f| Some((paths.iter().position(|p| p.id == f.path)?, f.last_ns)));
        let chosen = match known {
            Some((old, last_ns)) => stay_or_move(paths, old, last_ns, now_ns),
            None => emptiest(paths),
        };
        let at = at.unwrap_or_else(|| {
            let oldest = set.iter().enumerate().min_by_key(|(_, f)| f.last_ns);
            oldest.map_or(0, |(at, _)| at)
        });
        if let (Some(flow), Some(path)) = (set.get_mut(at), paths.get(chosen)) {
            *flow = Flow {
                tag,
                last_ns: now_ns.max(1),
                path: path.id,
            };
        }
        give(paths, chosen, bytes);
        chosen
    }
}

fn stay_or_move(paths: &[Path], old: usize, last_ns: u64, now_ns: u64) -> usize {
    let Some(path) = paths.get(old) else {
        return emptiest(paths);
    };
    if path.usable() && path.share > 0.0 && !overfull(paths, old) {
        return old;
    }
    let new = emptiest(paths);
    // A browned path that kept its share keeps its flows: there is nowhere better to go.
    let waited =
        now_ns >= path.left_ns + PATIENCE_NS && paths.get(new).is_some_and(|p| p.share > 0.0);
    let left = path.share <= 0.0 && (path.state == State::Browned || waited);
    let lost = !path.usable() || left;
    let rtt = |at: usize| paths.get(at).and_then(|p| p.meter.srtt_ns).unwrap_or(0);
    // What still travels on the old path must arrive first, its jitter included.
    let ahead_ns = (rtt(old) + path.meter.rttvar_ns).saturating_sub(rtt(new));
    if new == old || lost || now_ns > last_ns + ahead_ns {
        new
    } else {
        old
    }
}

/// Whether a path carries clearly more than its share while flows could go elsewhere.
fn overfull(paths: &[Path], at: usize) -> bool {
    let total: f32 = paths.iter().map(|p| p.given).sum();
    paths.get(at).is_some_and(|p| {
        p.share < 0.99 && p.given > (p.share + 0.2) * total && total > GIVEN_BYTES / 2.0
    })
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

fn give(paths: &mut [Path], chosen: usize, bytes: usize) {
    let keep = 1.0 - (bytes as f32 / GIVEN_BYTES).min(0.5);
    for (at, path) in paths.iter_mut().enumerate() {
        path.given *= keep;
        if at == chosen {
            path.given += bytes as f32;
        }
    }
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

    /// A busy flow changes its path at a gap, or after a second, while both paths are well.
    #[test]
    fn a_busy_flow_stays() {
        let (mut flows, mut paths) = (Flows::default(), paths(&[(1.0, 40), (0.0, 10)]));
        assert_eq!(flows.place(hash(1), 1500, &mut paths, MS), 0);
        paths[0].share = 0.0;
        paths[0].left_ns = MS;
        paths[1].share = 1.0;
        for k in 2..500 {
            assert_eq!(flows.place(hash(1), 1500, &mut paths, k * MS), 0, "{k}");
        }
        // A gap of more than the 30 ms by which the new path is quicker, and the 20 ms of jitter, lets it go.
        assert_eq!(flows.place(hash(1), 1500, &mut paths, 560 * MS), 1);
        // To a slower path it may go at once.
        paths[0].share = 1.0;
        paths[1].share = 0.0;
        paths[1].left_ns = 560 * MS;
        assert_eq!(flows.place(hash(1), 1500, &mut paths, 561 * MS), 0);
        // Where it never pauses it leaves after a second.
        (paths[0].share, paths[0].left_ns, paths[1].share) = (0.0, 561 * MS, 1.0);
        for k in 562..1561 {
            assert_eq!(flows.place(hash(1), 1500, &mut paths, k * MS), 0, "{k}");
        }
        assert_eq!(flows.place(hash(1), 1500, &mut paths, 1561 * MS), 1);
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
        let held = flows.0.unwrap();
        assert!(held.iter().flatten().all(|f| f.last_ns > 0));
        assert_eq!(held.len() * held[0].len(), SETS * WAYS);
    }
}
