//! The stateless cookie: MAC(K_ck[epoch], source || com || bucket), cut to 16 bytes.
//!
//! K_ck is random, one per 60 s, two are kept: a cookie lives between one and two minutes, and
//! never across a restart.

use std::net::{IpAddr, SocketAddr};

use aws_lc_rs::{constant_time, hmac};

use crate::error::Result;
use crate::labels;
use crate::rng::{self, Rng};

/// Bytes of a cookie.
pub const COOKIE: usize = 16;
const PERIOD_NS: u64 = 60_000_000_000;

/// The two newest cookie secrets.
pub(crate) struct CookieJar {
    current: (u64, hmac::Key),
    previous: Option<(u64, hmac::Key)>,
}

fn fresh(rng: &mut dyn Rng) -> Result<hmac::Key> {
    Ok(hmac::Key::new(hmac::HMAC_SHA256, &rng::array::<32>(rng)?))
}

impl CookieJar {
    pub(crate) fn new(rng: &mut dyn Rng) -> Result<CookieJar> {
        Ok(CookieJar {
            current: (0, fresh(rng)?),
            previous: None,
        })
    }

    /// Replace the secret when its minute is over.
    pub(crate) fn rotate(&mut self, now_ns: u64, rng: &mut dyn Rng) -> Result<()> {
        let bucket = now_ns / PERIOD_NS;
        if bucket > self.current.0 {
            let old = std::mem::replace(&mut self.current, (bucket, fresh(rng)?));
            self.previous = (old.0 + 1 == bucket).then_some(old);
        }
        Ok(())
    }

    /// The cookie for *source* and *com* now. Call `rotate` first.
    pub(crate) fn bake(&self, source: SocketAddr, com: &[u8; 32]) -> [u8; COOKIE] {
        mac(&self.current, source, com)
    }

    /// Whether *cookie* is one of ours for *source* and *com*. Call `rotate` first.
    pub(crate) fn verify(&self, cookie: &[u8; COOKIE], source: SocketAddr, com: &[u8; 32]) -> bool {
        [Some(&self.current), self.previous.as_ref()]
            .into_iter()
            .flatten()
            .any(|secret| {
                let expected = mac(secret, source, com);
                constant_time::verify_slices_are_equal(&expected, cookie).is_ok()
            })
    }
}

fn mac((bucket, key): &(u64, hmac::Key), source: SocketAddr, com: &[u8; 32]) -> [u8; COOKIE] {
    let mut context = hmac::Context::with_key(key);
    let mut put = |input: &[u8]| {
        context.update(&(input.len() as u32).to_be_bytes());
        context.update(input);
    };
    put(labels::COOKIE.text.as_bytes());
    match source.ip().to_canonical() {
        IpAddr::V4(address) => put(&address.octets()),
        IpAddr::V6(address) => put(&address.octets()),
    }
    put(&source.port().to_be_bytes());
    put(com);
    put(&bucket.to_be_bytes());
    context
        .sign()
        .as_ref()
        .first_chunk::<COOKIE>()
        .copied()
        .unwrap_or_default()
}
