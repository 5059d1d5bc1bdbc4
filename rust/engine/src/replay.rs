//! The replay window: which of the last 8192 counters of one key were seen.
//!
//! One window belongs to one key and lives as long as it. It is asked after the AEAD: an
//! unauthenticated counter never moves it. Source: RFC 6479 (blocks instead of shifting).

const BITS: u64 = 8192;
/// One block more than the window, so that the newest block can be cleared ahead.
const BLOCKS: usize = (BITS / 64) as usize + 1;

/// Grows with use: a key that carried nothing yet costs no bitmap.
#[derive(Default)]
pub struct Window {
    /// One past the highest counter seen; 0 when nothing was.
    next: u64,
    blocks: Option<Box<[u64; BLOCKS]>>,
}

impl Window {
    /// Record `counter`: true the first time it is seen, false for a replay or one too old.
    #[inline]
    pub fn accept(&mut self, counter: u64) -> bool {
        if counter == u64::MAX || counter + BITS < self.next {
            return false;
        }
        let blocks = self.blocks.get_or_insert_with(|| Box::new([0; BLOCKS]));
        let block = counter / 64;
        if counter >= self.next {
            // Blocks between the old and the new head hold counters of a window ago.
            let head = if self.next == 0 {
                0
            } else {
                (self.next - 1) / 64
            };
            for stale in (head + 1..=block).take(BLOCKS) {
                if let Some(block) = blocks.get_mut((stale % BLOCKS as u64) as usize) {
                    *block = 0;
                }
            }
            if block - head >= BLOCKS as u64 {
                **blocks = [0; BLOCKS];
            }
            self.next = counter + 1;
        }
        let Some(word) = blocks.get_mut((block % BLOCKS as u64) as usize) else {
            return false;
        };
        let bit = 1u64 << (counter % 64);
        let fresh = *word & bit == 0;
        *word |= bit;
        fresh
    }

    /// The highest counter seen.
    #[must_use]
    pub fn highest(&self) -> Option<u64> {
        self.next.checked_sub(1)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    /// The naive form: a set of everything seen, and the rule about age.
    #[derive(Default)]
    struct Naive {
        seen: HashSet<u64>,
        next: u64,
    }

    impl Naive {
        fn accept(&mut self, counter: u64) -> bool {
            if counter == u64::MAX || counter + BITS < self.next {
                return false;
            }
            self.next = self.next.max(counter + 1);
            self.seen.insert(counter)
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]
        /// The window answers like a set that forgets what is older than 8192.
        #[test]
        fn equals_the_naive_set(
            start in 0u64..100_000,
            steps in prop::collection::vec((-9000i64..9000, 1usize..40), 1..200),
        ) {
            let (mut window, mut naive) = (Window::default(), Naive::default());
            let mut at = start;
            for (jump, run) in steps {
                at = at.saturating_add_signed(jump);
                for k in 0..run as u64 {
                    prop_assert_eq!(window.accept(at + k), naive.accept(at + k));
                }
            }
            prop_assert_eq!(window.highest(), naive.next.checked_sub(1));
        }

        /// Leaps of any size keep the answer right.
        #[test]
        fn equals_the_naive_set_over_leaps(counters in prop::collection::vec(any::<u64>(), 1..60)) {
            let (mut window, mut naive) = (Window::default(), Naive::default());
            for c in counters {
                let c = c >> 1;
                for near in [c, c.saturating_sub(1), c.saturating_sub(8191), c.saturating_sub(8192), c] {
                    prop_assert_eq!(window.accept(near), naive.accept(near));
                }
            }
        }
    }

    /// The last counter value of all is never accepted: it could not be followed.
    #[test]
    fn the_last_counter_is_refused() {
        assert!(!Window::default().accept(u64::MAX));
    }
}
