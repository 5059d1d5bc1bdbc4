//! Which address of this host a stranger called, until its session knows: the answer leaves from it.

use crate::sys::udp::Local;
use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;

const CAPACITY: usize = 1024;

/// Sources whose address is proven, oldest out.
#[derive(Default)]
pub struct Called {
    locals: HashMap<SocketAddr, Local>,
    order: VecDeque<SocketAddr>,
}

impl Called {
    pub fn note(&mut self, source: SocketAddr, local: Local) {
        if self.locals.insert(source, local).is_none() {
            self.order.push_back(source);
        }
        if self.order.len() > CAPACITY
            && let Some(oldest) = self.order.pop_front()
        {
            self.locals.remove(&oldest);
        }
    }

    /// Forget all: this host has other ways out.
    pub fn clear(&mut self) {
        self.locals.clear();
        self.order.clear();
    }

    #[must_use]
    pub fn get(&self, source: SocketAddr) -> Option<Local> {
        self.locals.get(&source).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table is bounded, and forgets the oldest.
    #[test]
    fn the_oldest_goes() {
        let mut called = Called::default();
        let at = |n: u16| SocketAddr::from(([192, 0, 2, 1], n));
        for n in 0..=CAPACITY as u16 {
            called.note(at(n), Local::LOCALHOST);
            called.note(at(n), Local::LOCALHOST);
        }
        assert_eq!(called.get(at(0)), None);
        assert_eq!(called.get(at(1)), Some(Local::LOCALHOST));
        assert_eq!(called.locals.len(), CAPACITY);
    }
}
