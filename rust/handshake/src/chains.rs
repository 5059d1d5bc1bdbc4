//! Session keys: three chains per direction, stepped forward, never back.
//!
//! `key || iv = Expand(chain, class || path)`; a step replaces all three chains of a direction
//! by Expand(chain, "step"). The root rk is not here: a step never touches it.

use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::labels;
use crate::suite::Suite;
use crate::transcript::{Secret, expand, expand_secret};

/// AES-256-GCM key and iv of one (direction, class, path); wiped on drop, never printed.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct DirectionKey {
    /// AES-256 key.
    pub key: [u8; 32],
    /// Nonce = iv XOR counter.
    pub iv: [u8; 12],
}

impl DirectionKey {
    pub(crate) fn expand(
        suite: Suite,
        secret: &Secret,
        label: labels::Label,
        input: &[u8],
    ) -> Self {
        let mut bytes = [0u8; 44];
        expand(suite.hmac(), secret.as_slice(), label, &[input], &mut bytes);
        let mut out = DirectionKey {
            key: [0; 32],
            iv: [0; 12],
        };
        for (to, from) in out.key.iter_mut().chain(out.iv.iter_mut()).zip(&bytes) {
            *to = *from;
        }
        bytes.zeroize();
        out
    }
}

/// What a key protects. Probes and reports ride in the data class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Class {
    /// Packets of the overlay, probes, reports.
    Data = 0,
    /// Control messages.
    Control = 1,
    /// Frames that a neighbour forwards.
    Relay = 2,
}

/// The chains of one direction at one step.
#[derive(Clone)]
pub struct Chains {
    suite: Suite,
    data: Secret,
    control: Secret,
    relay: Secret,
}

impl Chains {
    pub(crate) fn new(suite: Suite, data: Secret, control: Secret, relay: Secret) -> Chains {
        Chains {
            suite,
            data,
            control,
            relay,
        }
    }

    /// Key and iv of *class* on *path* at this step.
    pub fn key(&self, class: Class, path: u8) -> DirectionKey {
        let chain = match class {
            Class::Data => &self.data,
            Class::Control => &self.control,
            Class::Relay => &self.relay,
        };
        DirectionKey::expand(self.suite, chain, labels::KEY, &[class as u8, path])
    }

    /// The chains one step later. Drop the old ones once nothing sealed with them is awaited.
    pub fn step(&self) -> Chains {
        let next = |chain: &Secret| expand_secret(self.suite, chain, labels::STEP, &[]);
        Chains {
            suite: self.suite,
            data: next(&self.data),
            control: next(&self.control),
            relay: next(&self.relay),
        }
    }
}

/// The keys of one generation, seen from one side.
#[derive(Clone)]
pub struct SessionKeys {
    /// 0 after the handshake, one more with each new KEM.
    pub generation: u64,
    /// What this side seals with.
    pub tx: Chains,
    /// What this side opens with.
    pub rx: Chains,
}
