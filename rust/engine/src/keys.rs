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

/// The only path so far: the direct one.
pub const DIRECT: u8 = 0;
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

fn aead(chains: &Chains, class: Class) -> Result<Aead> {
    Aead::new(&chains.key(class, DIRECT)).ok_or(Error::Invalid("out of memory for a key"))
}

pub struct TxKeys {
    pub epoch: Epoch,
    chains: Chains,
    pub data: Sealer,
    pub control: Sealer,
    since_ns: u64,
    /// The peer reported this epoch: it has moved, so another step may follow.
    pub acknowledged: bool,
}

impl TxKeys {
    pub fn new(epoch: Epoch, chains: Chains, now_ns: u64) -> Result<TxKeys> {
        let data = Sealer {
            aead: aead(&chains, Class::Data)?,
            next: 0,
        };
        let control = Sealer {
            aead: aead(&chains, Class::Control)?,
            next: 0,
        };
        Ok(TxKeys {
            epoch,
            chains,
            data,
            control,
            since_ns: now_ns,
            acknowledged: false,
        })
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
        self.data.next.max(self.control.next)
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
    pub data: Opener,
    pub control: Opener,
    used: bool,
    retire_ns: Option<u64>,
}

impl RxSlot {
    fn new(epoch: Epoch, chains: Chains) -> Result<RxSlot> {
        let data = Opener {
            aead: aead(&chains, Class::Data)?,
            window: Window::default(),
        };
        let control = Opener {
            aead: aead(&chains, Class::Control)?,
            window: Window::default(),
        };
        Ok(RxSlot {
            epoch,
            chains,
            data,
            control,
            used: false,
            retire_ns: None,
        })
    }
}

pub struct RxKeys {
    slots: Vec<RxSlot>,
    current: Epoch,
}

impl RxKeys {
    pub fn new(generation: u64, chains: Chains) -> Result<RxKeys> {
        let current = Epoch {
            generation,
            step: 0,
        };
        let mut keys = RxKeys {
            slots: Vec::with_capacity(3),
            current,
        };
        keys.slots.push(RxSlot::new(current, chains)?);
        keys.hold_next_step(0)?;
        Ok(keys)
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

    /// The highest data counter seen under the current epoch.
    #[must_use]
    pub fn highest(&self) -> Option<u64> {
        self.slots
            .iter()
            .find(|s| s.epoch == self.current)?
            .data
            .window
            .highest()
    }

    /// Called after an AEAD success under slot `at`; true if the current epoch moved.
    #[inline]
    pub fn succeeded(&mut self, at: usize, now_ns: u64) -> Result<bool> {
        let Some(slot) = self.slots.get_mut(at) else {
            return Ok(false);
        };
        if slot.used {
            return Ok(false);
        }
        let epoch = slot.epoch;
        if epoch <= self.current {
            slot.used = true;
            return Ok(false);
        }
        self.hold_next_step(at)?;
        self.current = epoch;
        for old in self.slots.iter_mut().filter(|s| s.epoch < epoch) {
            old.retire_ns.get_or_insert(now_ns + RETIRE_NS);
        }
        if let Some(slot) = self.slots.iter_mut().find(|s| s.epoch == epoch) {
            slot.used = true;
        }
        Ok(true)
    }

    /// Hold another generation's first epoch, until the peer uses it.
    pub fn install(&mut self, generation: u64, chains: Chains) -> Result<()> {
        if generation <= self.current.generation {
            return Err(Error::Invalid("a generation never goes back"));
        }
        self.slots
            .retain(|s| s.epoch.generation <= self.current.generation);
        self.make_room();
        self.slots.push(RxSlot::new(
            Epoch {
                generation,
                step: 0,
            },
            chains,
        )?);
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

    fn hold_next_step(&mut self, at: usize) -> Result<()> {
        let Some(slot) = self.slots.get(at) else {
            return Ok(());
        };
        let epoch = Epoch {
            step: slot.epoch.step + 1,
            ..slot.epoch
        };
        let next = RxSlot::new(epoch, slot.chains.step())?;
        self.make_room();
        self.slots.push(next);
        // Newest last, so that `find` meets a new generation before an old one of equal nibble.
        self.slots.sort_by_key(|s| s.epoch);
        Ok(())
    }

    /// Drop the oldest slot when the table is full: it is one that is retiring.
    fn make_room(&mut self) {
        if self.slots.len() >= SLOTS {
            self.slots.remove(0);
        }
    }
}
