//! The keys of one session: which epoch seals, which epochs open, and when they move.
//!
//! The wire epoch is (generation mod 4, step mod 4); derivation takes the full numbers.
//! A sender steps its own direction alone, once the step in use was acknowledged; a generation
//! comes from Python. The receiver holds the current epoch, the next step and, once agreed, the
//! next generation. INVARIANT: a slot moves forward only after an AEAD success under it, and what
//! lies behind the current one is wiped `RETIRE_NS` later.

use crate::error::{Error, Result};
use crate::replay::Window;
use crate::sys::crypto::Aead;
use veilnet_handshake::{Chains, Class};

/// The path of the handshake, open from the start.
pub const FIRST_PATH: u8 = 0;
/// No key seals more than this (AES-GCM's bound is far above; a hard stop all the same).
pub const HARD_STOP: u64 = 1 << 28;
const RETIRE_NS: u64 = 10_000_000_000;
/// Current, next step, next generation, and two not yet retired.
const SLOTS: usize = 6;

/// When a direction steps by itself.
#[derive(Clone, Copy, Debug)]
pub struct StepLimits {
    pub datagrams: u64,
    pub age_ns: u64,
}

impl Default for StepLimits {
    fn default() -> Self {
        StepLimits {
            datagrams: 1 << 26,
            age_ns: 240_000_000_000,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Epoch {
    pub generation: u64,
    pub step: u64,
}

impl Epoch {
    #[must_use]
    pub fn nibble(self) -> u8 {
        ((self.generation & 3) << 2 | (self.step & 3)) as u8
    }
}

/// A key with the counter that it alone uses.
pub struct Sealer {
    pub aead: Aead,
    pub next: u64,
}

/// A key with the replay window that it alone uses.
pub struct Opener {
    pub aead: Aead,
    pub window: Window,
}

/// Path ids, a bit each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PathIds([u64; 4]);

impl PathIds {
    pub fn insert(&mut self, id: u8) {
        if let Some(word) = self.0.get_mut(usize::from(id / 64)) {
            *word |= 1 << (id % 64);
        }
    }

    #[inline]
    #[must_use]
    pub fn contains(&self, id: u8) -> bool {
        self.0
            .get(usize::from(id / 64))
            .is_some_and(|word| word >> (id % 64) & 1 == 1)
    }
}

/// Which key of an epoch: one per class and path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Name {
    class: Class,
    path: u8,
}

fn aead(chains: &Chains, name: Name) -> Result<Aead> {
    Aead::new(&chains.key(name.class, name.path)).ok_or(Error::Invalid("out of memory for a key"))
}

pub struct TxKeys {
    pub epoch: Epoch,
    chains: Chains,
    /// Made on first use: most paths carry one class only.
    sealers: Vec<(Name, Sealer)>,
    /// Paths closed under this epoch: their keys are gone, and no new one may begin at zero.
    closed: PathIds,
    /// The most that a key of a closed path was used.
    closed_used: u64,
    since_ns: u64,
    /// The peer reported this epoch: it has moved, so another step may follow.
    pub acknowledged: bool,
}

impl TxKeys {
    pub fn new(epoch: Epoch, chains: Chains, now_ns: u64) -> Result<TxKeys> {
        let mut keys = TxKeys {
            epoch,
            chains,
            sealers: Vec::with_capacity(2),
            closed: PathIds::default(),
            closed_used: 0,
            since_ns: now_ns,
            acknowledged: false,
        };
        keys.sealer(Class::Data, FIRST_PATH)?;
        Ok(keys)
    }

    /// The key of a class on a path, and the counter that it alone uses.
    #[inline]
    pub fn sealer(&mut self, class: Class, path: u8) -> Result<&mut Sealer> {
        let name = Name { class, path };
        let at = match self.sealers.iter().position(|(n, _)| *n == name) {
            Some(at) => at,
            None if self.closed.contains(path) => return Err(Error::Invalid("no such path")),
            None => {
                let aead = aead(&self.chains, name)?;
                self.sealers.push((name, Sealer { aead, next: 0 }));
                self.sealers.len() - 1
            }
        };
        self.sealers
            .get_mut(at)
            .map(|(_, sealer)| sealer)
            .ok_or(Error::Invalid("no such key"))
    }

    /// Forget the keys of a path that was closed.
    pub fn forget_path(&mut self, path: u8) {
        self.closed.insert(path);
        self.closed_used = self.used();
        self.sealers.retain(|(n, _)| n.path != path);
    }

    /// True when a step is due and allowed.
    #[must_use]
    pub fn step_due(&self, limits: StepLimits, now_ns: u64) -> bool {
        self.acknowledged
            && (self.used() >= limits.datagrams
                || (self.used() > 0 && now_ns.saturating_sub(self.since_ns) >= limits.age_ns))
    }

    pub fn step(&mut self, now_ns: u64) -> Result<()> {
        let epoch = Epoch {
            step: self.epoch.step + 1,
            ..self.epoch
        };
        *self = TxKeys::new(epoch, self.chains.step(), now_ns)?;
        Ok(())
    }

    #[must_use]
    pub fn used(&self) -> u64 {
        let open = self.sealers.iter().map(|(_, s)| s.next).max();
        open.unwrap_or(0).max(self.closed_used)
    }

    /// Room for `count` more datagrams under each key?
    #[inline]
    #[must_use]
    pub fn has_room(&self, count: u64) -> bool {
        self.used() + count < HARD_STOP
    }
}

pub struct RxSlot {
    pub epoch: Epoch,
    chains: Chains,
    openers: Vec<(Name, Opener)>,
    /// Paths closed under this epoch: their windows are gone, so their keys open nothing more.
    closed: PathIds,
    used: bool,
    retire_ns: Option<u64>,
}

impl RxSlot {
    fn new(epoch: Epoch, chains: Chains) -> RxSlot {
        RxSlot {
            epoch,
            chains,
            openers: Vec::new(),
            closed: PathIds::default(),
            used: false,
            retire_ns: None,
        }
    }

    /// The key of a class on a path, with its window. The caller has checked that the path is open,
    /// so at most `OPEN_PATHS` times three are ever made.
    #[inline]
    pub fn opener(&mut self, class: Class, path: u8) -> Option<&mut Opener> {
        let name = Name { class, path };
        let at = match self.openers.iter().position(|(n, _)| *n == name) {
            Some(at) => at,
            None if self.closed.contains(path) => return None,
            None => {
                let aead = aead(&self.chains, name).ok()?;
                let window = Window::default();
                self.openers.push((name, Opener { aead, window }));
                self.openers.len() - 1
            }
        };
        self.openers.get_mut(at).map(|(_, opener)| opener)
    }
}

pub struct RxKeys {
    slots: Vec<RxSlot>,
    current: Epoch,
}

impl RxKeys {
    #[must_use]
    pub fn new(generation: u64, chains: Chains) -> RxKeys {
        let current = Epoch {
            generation,
            step: 0,
        };
        let mut keys = RxKeys {
            slots: Vec::with_capacity(3),
            current,
        };
        keys.slots.push(RxSlot::new(current, chains));
        keys.hold_next_step(0);
        keys
    }

    /// The slot that a datagram's epoch nibble names, newest first.
    #[inline]
    #[must_use]
    pub fn find(&self, nibble: u8) -> Option<usize> {
        let hit = |s: &RxSlot| s.epoch.nibble() == nibble;
        self.slots.iter().rposition(hit)
    }

    #[inline]
    pub fn slot(&mut self, at: usize) -> Option<&mut RxSlot> {
        self.slots.get_mut(at)
    }

    #[must_use]
    pub fn current(&self) -> Epoch {
        self.current
    }

    /// The highest data counter seen on a path under the current epoch.
    #[must_use]
    pub fn highest(&self, path: u8) -> Option<u64> {
        let name = Name {
            class: Class::Data,
            path,
        };
        let slot = self.slots.iter().find(|s| s.epoch == self.current)?;
        let (_, opener) = slot.openers.iter().find(|(n, _)| *n == name)?;
        opener.window.highest()
    }

    /// Forget the keys of a path that was closed; its id does not come back in this generation.
    pub fn forget_path(&mut self, path: u8) {
        for slot in &mut self.slots {
            slot.closed.insert(path);
            slot.openers.retain(|(n, _)| n.path != path);
        }
    }

    /// Called after an AEAD success under slot `at`; true if the current epoch moved.
    #[inline]
    pub fn succeeded(&mut self, at: usize, now_ns: u64) -> bool {
        let Some(slot) = self.slots.get_mut(at) else {
            return false;
        };
        if slot.used {
            return false;
        }
        let epoch = slot.epoch;
        if epoch <= self.current {
            slot.used = true;
            return false;
        }
        self.hold_next_step(at);
        self.current = epoch;
        for old in self.slots.iter_mut().filter(|s| s.epoch < epoch) {
            old.retire_ns.get_or_insert(now_ns + RETIRE_NS);
        }
        if let Some(slot) = self.slots.iter_mut().find(|s| s.epoch == epoch) {
            slot.used = true;
        }
        true
    }

    /// Hold another generation's first epoch, until the peer uses it.
    pub fn install(&mut self, generation: u64, chains: Chains) -> Result<()> {
        if generation <= self.current.generation {
            return Err(Error::Invalid("a generation never goes back"));
        }
        self.slots
            .retain(|s| s.epoch.generation <= self.current.generation);
        self.make_room();
        let epoch = Epoch {
            generation,
            step: 0,
        };
        self.slots.push(RxSlot::new(epoch, chains));
        Ok(())
    }

    pub fn retire(&mut self, now_ns: u64) {
        self.slots
            .retain(|s| s.retire_ns.is_none_or(|t| now_ns < t));
    }

    #[must_use]
    pub fn next_retire_ns(&self) -> Option<u64> {
        self.slots.iter().filter_map(|s| s.retire_ns).min()
    }

    fn hold_next_step(&mut self, at: usize) {
        let Some(slot) = self.slots.get(at) else {
            return;
        };
        let epoch = Epoch {
            step: slot.epoch.step + 1,
            ..slot.epoch
        };
        let next = RxSlot::new(epoch, slot.chains.step());
        self.make_room();
        self.slots.push(next);
        // Newest last, so that `find` meets a new generation before an old one of equal nibble.
        self.slots.sort_by_key(|s| s.epoch);
    }

    /// Drop the oldest slot when the table is full: it is one that is retiring.
    fn make_room(&mut self) {
        if self.slots.len() >= SLOTS {
            self.slots.remove(0);
        }
    }
}
