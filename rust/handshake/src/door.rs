//! The door: the seal of every datagram before session keys exist.
//!
//! ```text
//!  n 24 | AES-256-GCM(Expand(K_door, seal, n), iv 0, type u8 | length u16 | body | padding) | tag 16
//! ```
//! A fresh key per n makes the fixed iv safe. The whole datagram is authenticated and uniform.
//! The padding is inside the seal and ignored; the size of the datagram is drawn at random.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::hmac;
use zeroize::Zeroizing;

use crate::error::{Error, Result};
use crate::labels;
use crate::rng::{self, Rng};
use crate::suite::Mode;
use crate::transcript::expand;

/// Bytes of n.
pub(crate) const NONCE: usize = 24;
const TAG: usize = 16;
/// What the seal adds to a body.
pub(crate) const OVERHEAD: usize = NONCE + 3 + TAG;
/// No datagram of the handshake is longer.
pub(crate) const MAX: usize = 1100;
/// What is at most added to a datagram of a lookup. Who knows the commons' name can open its
/// datagrams anyway: padding would hide nothing, and lookups are many.
const LOOKUP_PAD: usize = 32;

/// The largest size of a datagram with *body* bytes.
pub(crate) fn ceiling(mode: Mode, body: usize) -> usize {
    match mode {
        Mode::Lookup => OVERHEAD + body + LOOKUP_PAD,
        _ => MAX,
    }
}

/// The body kinds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Body {
    Hello = 1,
    Retry = 2,
    Init = 3,
    Resp = 4,
    /// INIT with a ticket instead of the cookie.
    TicketInit = 5,
}

impl Body {
    fn from_number(number: u8) -> Option<Body> {
        match number {
            1 => Some(Body::Hello),
            2 => Some(Body::Retry),
            3 => Some(Body::Init),
            4 => Some(Body::Resp),
            5 => Some(Body::TicketInit),
            _ => None,
        }
    }
}

/// A datagram that opened.
pub(crate) struct Opened {
    pub(crate) nonce: [u8; NONCE],
    /// None: an unknown type or a length that does not fit. Authentic, and ignored.
    pub(crate) content: Option<(Body, Vec<u8>)>,
}

/// K_door; wiped on drop.
#[derive(Clone)]
pub(crate) struct DoorKey(Zeroizing<[u8; 32]>);

/// K_door of a member: HKDF-Expand with SHA-384 whatever the suite, which nobody knows yet.
///
/// The product derives it in Python (`veilnet.networks.keys`); this is the same, for tests and tools.
pub fn door_key(k_net: &[u8], responder_id: &[u8; 32]) -> [u8; 32] {
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA384, k_net));
    context.update(labels::DOOR.text.as_bytes());
    context.update(responder_id);
    context.update(&[1]);
    context
        .sign()
        .as_ref()
        .first_chunk::<32>()
        .copied()
        .unwrap_or_default()
}

impl DoorKey {
    pub(crate) fn new(key: &[u8; 32]) -> DoorKey {
        DoorKey(Zeroizing::new(*key))
    }

    fn datagram_key(&self, nonce: &[u8; NONCE]) -> Result<LessSafeKey> {
        let mut key = Zeroizing::new([0u8; 32]);
        expand(
            hmac::HMAC_SHA256,
            self.0.as_slice(),
            labels::DOOR_SEAL,
            &[nonce],
            &mut *key,
        );
        let unbound = UnboundKey::new(&AES_256_GCM, key.as_slice());
        Ok(LessSafeKey::new(
            unbound.map_err(|_| Error::Crypto("AES-256-GCM key"))?,
        ))
    }

    /// Seal *body* into a datagram of a random size in *low..=high*, never smaller than it needs.
    pub(crate) fn seal(
        &self,
        kind: Body,
        body: &[u8],
        low: usize,
        high: usize,
        rng: &mut dyn Rng,
    ) -> Result<Vec<u8>> {
        let least = OVERHEAD + body.len();
        let size = rng::between(rng, low.max(least), high.max(least))?;
        let nonce = rng::array::<NONCE>(rng)?;
        let mut plain = Vec::with_capacity(size);
        plain.push(kind as u8);
        plain.extend_from_slice(&(body.len() as u16).to_be_bytes());
        plain.extend_from_slice(body);
        plain.resize(size - NONCE - TAG, 0);
        self.datagram_key(&nonce)?
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key([0; 12]),
                Aad::empty(),
                &mut plain,
            )
            .map_err(|_| Error::Crypto("AES-256-GCM seal"))?;
        Ok([nonce.as_slice(), &plain].concat())
    }

    /// Open *datagram*, or None if it was not sealed for this door.
    pub(crate) fn open(&self, datagram: &[u8]) -> Option<Opened> {
        if datagram.len() < OVERHEAD || datagram.len() > MAX {
            return None;
        }
        let (nonce, sealed) = datagram.split_first_chunk::<NONCE>()?;
        let (sealed, tag) = sealed.split_last_chunk::<TAG>()?;
        let mut scratch = [0u8; MAX];
        let plain = scratch.get_mut(..sealed.len())?;
        let iv = Nonce::assume_unique_for_key([0; 12]);
        self.datagram_key(nonce)
            .ok()?
            .open_separate_gather(iv, Aad::empty(), sealed, tag, plain)
            .ok()?;
        Some(Opened {
            nonce: *nonce,
            content: content(plain),
        })
    }
}

pub(crate) fn content(plain: &[u8]) -> Option<(Body, Vec<u8>)> {
    let (&[kind, high, low], rest) = plain.split_first_chunk::<3>()?;
    let body = rest.get(..usize::from(u16::from_be_bytes([high, low])))?;
    Some((Body::from_number(kind)?, body.to_vec()))
}
