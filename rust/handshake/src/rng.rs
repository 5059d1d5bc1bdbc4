//! Randomness is an argument: the system's for the product, a seeded one for tests and simulations.

use aws_lc_rs::hmac;

use crate::error::{Error, Result};

/// A source of random bytes.
pub trait Rng {
    /// Fill *out* with random bytes, or fail and leave nothing usable.
    fn fill(&mut self, out: &mut [u8]) -> Result<()>;
}

/// A fresh random array.
pub fn array<const N: usize>(rng: &mut dyn Rng) -> Result<[u8; N]> {
    let mut out = [0u8; N];
    rng.fill(&mut out)?;
    Ok(out)
}

/// A random integer in *low..=high* (the bias of the 64-bit reduction is below 2^-40 here).
pub fn between(rng: &mut dyn Rng, low: usize, high: usize) -> Result<usize> {
    if high <= low {
        return Ok(low);
    }
    let span = (high - low) as u64 + 1;
    let drawn = u64::from_be_bytes(array(rng)?) % span;
    Ok(low + drawn as usize)
}

/// A non-zero random session id.
pub fn session_id(rng: &mut dyn Rng) -> Result<u32> {
    loop {
        let id = u32::from_be_bytes(array(rng)?);
        if id != 0 {
            return Ok(id);
        }
    }
}

/// The operating system's generator, through AWS-LC.
#[derive(Clone, Copy, Debug, Default)]
pub struct OsRng;

impl Rng for OsRng {
    fn fill(&mut self, out: &mut [u8]) -> Result<()> {
        aws_lc_rs::rand::fill(out).map_err(|_| Error::Crypto("random generator"))
    }
}

/// A deterministic generator (HMAC-SHA-256 in counter mode): for tests and simulations only,
/// and for choosing sizes, which are visible anyway.
pub struct SeededRng {
    key: hmac::Key,
    block: [u8; 32],
    used: usize,
    counter: u64,
}

impl SeededRng {
    /// A generator whose every byte follows from *seed*.
    pub fn new(seed: &[u8]) -> Self {
        SeededRng {
            key: hmac::Key::new(hmac::HMAC_SHA256, seed),
            block: [0; 32],
            used: 32,
            counter: 0,
        }
    }
}

impl Rng for SeededRng {
    fn fill(&mut self, out: &mut [u8]) -> Result<()> {
        for byte in out.iter_mut() {
            if self.used == self.block.len() {
                let tag = hmac::sign(&self.key, &self.counter.to_be_bytes());
                for (to, from) in self.block.iter_mut().zip(tag.as_ref()) {
                    *to = *from;
                }
                self.counter += 1;
                self.used = 0;
            }
            *byte = self.block.get(self.used).copied().unwrap_or_default();
            self.used += 1;
        }
        Ok(())
    }
}
