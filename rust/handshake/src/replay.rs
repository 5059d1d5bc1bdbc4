//! Bounded memories of what has been seen: door nonces, and the commitments of INITs.

use std::collections::{HashSet, VecDeque};
use std::hash::Hash;

/// The newest *limit* distinct values; the oldest goes out.
pub(crate) struct Seen<T> {
    limit: usize,
    order: VecDeque<T>,
    set: HashSet<T>,
}

impl<T: Hash + Eq + Copy> Seen<T> {
    pub(crate) fn new(limit: usize) -> Seen<T> {
        Seen {
            limit,
            order: VecDeque::new(),
            set: HashSet::new(),
        }
    }

    /// Remember *value*; false if it was remembered already.
    pub(crate) fn insert(&mut self, value: T) -> bool {
        if !self.set.insert(value) {
            return false;
        }
        if self.order.len() >= self.limit
            && let Some(oldest) = self.order.pop_front()
        {
            self.set.remove(&oldest);
        }
        self.order.push_back(value);
        true
    }

    pub(crate) fn contains(&self, value: &T) -> bool {
        self.set.contains(value)
    }

    /// Oldest first.
    pub(crate) fn values(&self) -> impl Iterator<Item = T> + '_ {
        self.order.iter().copied()
    }

    pub(crate) fn len(&self) -> usize {
        self.order.len()
    }
}
