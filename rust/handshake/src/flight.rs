//! Sealed identity messages: RESP's second part under k_hr, AUTH under k_hi, and the ACK.
//!
//! ```text
//!  header 16 (masked) | AES-256-GCM( fragment count u8 | chunk ) | tag 16
//!  header: kind control, epoch 0, path 255, segment = fragment, counter = attempt * 16 + fragment
//! ```
//! The chunks of a message are equal in every attempt, the counter is not: a retransmission is
//! sealed anew, no nonce is used twice, and fragments of different attempts complete each other.
//! The cuts are drawn at random once per message, so that no size names the protocol.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::constant_time;
use std::net::SocketAddr;
use veilnet_wire::{HEADER, Header, Kind, TAG};

use crate::chains::{Class, DirectionKey, SessionKeys};
use crate::door;
use crate::error::{Error, Result};
use crate::event::Action;
use crate::mask::Mask;
use crate::rng::{self, Rng};

/// The path id reserved for the handshake.
pub const HANDSHAKE_PATH: u8 = 255;
const FRAGMENTS: usize = 16;
const ATTEMPTS: u32 = 1 << 20;
const CHUNK: usize = door::MAX - HEADER - TAG - 1;
/// The longest identity message.
pub const MAX_MESSAGE: usize = FRAGMENTS * CHUNK;
/// How long an unfinished message waits for its next fragment.
const PATIENCE_NS: u64 = 3_000_000_000;

/// One direction's AEAD with the header mask in front of it.
pub(crate) struct Seal {
    aead: LessSafeKey,
    iv: [u8; 12],
    mask: Mask,
}

impl Seal {
    pub(crate) fn new(key: &DirectionKey, mask: &[u8; 32]) -> Result<Seal> {
        let unbound = UnboundKey::new(&AES_256_GCM, &key.key);
        let unbound = unbound.map_err(|_| Error::Crypto("AES-256-GCM key"))?;
        Ok(Seal {
            aead: LessSafeKey::new(unbound),
            iv: key.iv,
            mask: Mask::new(mask)?,
        })
    }

    fn nonce(&self, counter: u64) -> Nonce {
        let mut nonce = self.iv;
        for (byte, part) in nonce.iter_mut().skip(4).zip(counter.to_be_bytes()) {
            *byte ^= part;
        }
        Nonce::assume_unique_for_key(nonce)
    }

    fn seal(&self, header: Header, plain: &[&[u8]]) -> Result<Vec<u8>> {
        let clear = header.emit();
        let mut sealed = plain.concat();
        let nonce = self.nonce(header.counter);
        self.aead
            .seal_in_place_append_tag(nonce, Aad::from(clear), &mut sealed)
            .map_err(|_| Error::Crypto("AES-256-GCM seal"))?;
        let mut datagram = [clear.as_slice(), &sealed].concat();
        self.mask.apply(&mut datagram)?;
        Ok(datagram)
    }

    /// Open *datagram* if its header, once unmasked, is one that *wanted* accepts.
    fn open(
        &self,
        datagram: &[u8],
        wanted: impl FnOnce(&Header) -> bool,
    ) -> Option<(Header, Vec<u8>)> {
        let clear = self.mask.header(datagram).ok()?;
        let header = Header::parse(&clear)?;
        if !wanted(&header) {
            return None;
        }
        let (sealed, tag) = datagram.get(HEADER..)?.split_last_chunk::<TAG>()?;
        let mut plain = vec![0; sealed.len()];
        let nonce = self.nonce(header.counter);
        self.aead
            .open_separate_gather(nonce, Aad::from(clear), sealed, tag, &mut plain)
            .ok()?;
        Some((header, plain))
    }

    /// What *datagram* is if it is of the session *sid* itself: nothing of it is verified yet.
    pub(crate) fn may_follow(&self, sid: u32, datagram: &[u8]) -> Option<Kind> {
        let header = Header::parse(&self.mask.header(datagram).ok()?)?;
        let fits = header.idx == sid && header.epoch == 0 && header.path != HANDSHAKE_PATH;
        fits.then_some(header.kind)
    }

    /// Open a fragment of a handshake message sent to session id *sid*.
    pub(crate) fn open_fragment(&self, sid: u32, datagram: &[u8]) -> Option<Fragment> {
        if datagram.len() > door::MAX {
            return None;
        }
        let (header, plain) = self.open(datagram, |header| {
            header.idx == sid
                && header.kind == Kind::Control
                && header.epoch == 0
                && header.path == HANDSHAKE_PATH
                && header.flags == 0
                && header.counter < u64::from(ATTEMPTS) * FRAGMENTS as u64
                && u64::from(header.segment) == header.counter % FRAGMENTS as u64
        })?;
        let (count, chunk) = plain.split_first()?;
        let (count, index) = (usize::from(*count), usize::from(header.segment));
        let attempt = (header.counter / FRAGMENTS as u64) as u32;
        (count <= FRAGMENTS && index < count && !chunk.is_empty()).then(|| Fragment {
            attempt,
            index,
            count,
            chunk: chunk.to_vec(),
        })
    }
}

/// An opened fragment.
pub(crate) struct Fragment {
    pub(crate) attempt: u32,
    index: usize,
    count: usize,
    chunk: Vec<u8>,
}

/// A message on its way out: cut once, sealed anew at every attempt.
pub(crate) struct Outgoing {
    seal: Seal,
    idx: u32,
    chunks: Vec<Vec<u8>>,
    attempt: u32,
}

impl Outgoing {
    /// *message* for the peer's session id *idx*.
    pub(crate) fn new(seal: Seal, idx: u32, message: &[u8], rng: &mut dyn Rng) -> Result<Outgoing> {
        Ok(Outgoing {
            seal,
            idx,
            chunks: cut(message, rng)?,
            attempt: 0,
        })
    }

    /// Send every fragment to *to*, under an attempt number never used before.
    pub(crate) fn send(&mut self, to: SocketAddr, out: &mut Vec<Action>) -> Result<()> {
        if self.attempt >= ATTEMPTS {
            return Err(Error::Attempts(ATTEMPTS));
        }
        let first = u64::from(self.attempt) * FRAGMENTS as u64;
        self.attempt += 1;
        let count = [self.chunks.len() as u8];
        for (index, chunk) in self.chunks.iter().enumerate() {
            let header = Header {
                idx: self.idx,
                counter: first + index as u64,
                kind: Kind::Control,
                epoch: 0,
                path: HANDSHAKE_PATH,
                segment: index as u8,
                flags: 0,
            };
            out.push(Action::Send {
                to,
                bytes: self.seal.seal(header, &[&count, chunk])?,
            });
        }
        Ok(())
    }
}

/// Cut a message into at most 16 chunks of nearly equal, random length.
fn cut(message: &[u8], rng: &mut dyn Rng) -> Result<Vec<Vec<u8>>> {
    const TYPICAL: usize = 950;
    const SPREAD: usize = 110;
    if message.is_empty() || message.len() > MAX_MESSAGE {
        return Err(Error::TooLong {
            limit: MAX_MESSAGE,
            got: message.len(),
        });
    }
    let count = message.len().div_ceil(TYPICAL).min(FRAGMENTS);
    let mut chunks = Vec::with_capacity(count);
    let mut rest = message;
    for after in (0..count).rev() {
        // What is left after this chunk must fit in *after* chunks, each of at least one byte.
        let low = rest.len().saturating_sub(after * CHUNK).max(1);
        let high = (rest.len() - after).min(CHUNK);
        let mean = rest.len() / (after + 1);
        let length = if after == 0 {
            rest.len()
        } else {
            let low = low.max(mean.saturating_sub(SPREAD)).min(high);
            rng::between(rng, low, high.min(mean + SPREAD).max(low))?
        };
        let (chunk, tail) = rest
            .split_at_checked(length)
            .ok_or(Error::Crypto("fragmentation"))?;
        chunks.push(chunk.to_vec());
        rest = tail;
    }
    Ok(chunks)
}

/// A message on its way in. Only authenticated fragments reach it.
#[derive(Default)]
pub(crate) struct Incoming {
    chunks: Vec<Option<Vec<u8>>>,
    touched_ns: u64,
    bytes: usize,
}

impl Incoming {
    /// Bytes held.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Take a fragment; the message, once it is whole.
    pub(crate) fn insert(&mut self, fragment: Fragment, now_ns: u64) -> Option<Vec<u8>> {
        self.expire(now_ns);
        if self.chunks.is_empty() {
            self.chunks.resize(fragment.count, None);
        }
        if self.chunks.len() != fragment.count {
            return None;
        }
        let slot = self.chunks.get_mut(fragment.index)?;
        if slot.is_none() {
            self.touched_ns = now_ns;
            self.bytes += fragment.chunk.len();
            *slot = Some(fragment.chunk);
        }
        if self.chunks.iter().any(Option::is_none) {
            return None;
        }
        let message = self.chunks.iter().flatten().flatten().copied().collect();
        self.clear();
        Some(message)
    }

    /// Drop an unfinished message that nothing was added to for 3 s.
    pub(crate) fn expire(&mut self, now_ns: u64) {
        if !self.chunks.is_empty() && now_ns.saturating_sub(self.touched_ns) >= PATIENCE_NS {
            self.clear();
        }
    }

    fn clear(&mut self) {
        self.chunks.clear();
        self.bytes = 0;
    }
}

const ACK: Header = Header {
    idx: 0,
    counter: 0,
    kind: Kind::Control,
    epoch: 0,
    path: 0,
    segment: 0,
    flags: 0,
};

/// Seal the ACK: counter 0 of control path 0, plaintext th4. Counter 0 is used up by it.
pub fn seal_ack(
    keys: &SessionKeys,
    mask_tx: &[u8; 32],
    remote_sid: u32,
    th4: &[u8],
) -> Result<Vec<u8>> {
    let seal = Seal::new(&keys.tx.key(Class::Control, 0), mask_tx)?;
    seal.seal(
        Header {
            idx: remote_sid,
            ..ACK
        },
        &[th4],
    )
}

/// Whether *datagram* is the peer's ACK over the same th4.
pub fn open_ack(
    keys: &SessionKeys,
    mask_rx: &[u8; 32],
    local_sid: u32,
    th4: &[u8],
    datagram: &[u8],
) -> Result<bool> {
    let seal = Seal::new(&keys.rx.key(Class::Control, 0), mask_rx)?;
    let wanted = Header {
        idx: local_sid,
        ..ACK
    };
    Ok(seal
        .open(datagram, |header| *header == wanted)
        .is_some_and(|(_, plain)| constant_time::verify_slices_are_equal(&plain, th4).is_ok()))
}
