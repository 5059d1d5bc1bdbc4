//! The ticket: an address proof made in advance, inside a session, for one later handshake.
//!
//! ```text
//!  ticket = n 24 | AES-256-GCM( Expand(K_tk; TICKET_SEAL, n), iv 0, expiry u64 | address 16 | holder 32 ) | tag 16
//!  k_res  = Expand(K_tk; TICKET_KEY, n)             given to the holder with the ticket
//!  INIT   shows the ticket and MAC(k_res; com)[:16] where the cookie would stand
//! ```
//! It replaces the cookie and nothing else. K_tk is random and never leaves this struct, so no
//! ticket outlives the process; expiry is on its clock. A ticket opens one handshake: whose INIT
//! was whole under it spends it. A spent ticket is remembered until it expires, so no flood makes
//! one fresh again; while there is no room for another, tickets open nothing.

use std::collections::{BTreeSet, HashSet};
use std::net::{IpAddr, SocketAddr};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::{constant_time, hmac};
use zeroize::Zeroizing;

use crate::error::{Error, Result};
use crate::labels::{self, Label};
use crate::rng::{self, Rng};
use crate::transcript::expand;

const NONCE: usize = 24;
const PLAIN: usize = 8 + 16 + 32;
const TAG: usize = 16;
/// Bytes of a ticket.
pub const TICKET: usize = NONCE + PLAIN + TAG;
/// Bytes of the MAC that its holder shows with it.
pub(crate) const MAC: usize = 16;

/// What its holder keeps: the ticket and k_res.
#[derive(Clone)]
pub struct Ticket {
    /// As the issuer gave it.
    pub bytes: [u8; TICKET],
    /// The key that proves whose it is.
    pub key: Zeroizing<[u8; 32]>,
}

impl Ticket {
    /// What is shown in an INIT of that commitment.
    pub(crate) fn shown(&self, com: &[u8; 32]) -> Shown {
        Shown {
            bytes: self.bytes,
            mac: mac(&self.key, com),
        }
    }
}

/// A ticket in an INIT.
#[derive(Clone)]
pub(crate) struct Shown {
    pub(crate) bytes: [u8; TICKET],
    pub(crate) mac: [u8; MAC],
}

/// A ticket that is ours, in time, and shown from the address that it is for.
pub(crate) struct Valid {
    nonce: [u8; NONCE],
    expiry_ns: u64,
    /// Whom the issuer's Python gave it to.
    pub(crate) holder: [u8; 32],
}

fn mac(key: &[u8; 32], com: &[u8; 32]) -> [u8; MAC] {
    let mut out = [0; MAC];
    expand(hmac::HMAC_SHA256, key, labels::TICKET_MAC, &[com], &mut out);
    out
}

/// A port may change with a NAT's mapping; the address may not.
fn address(ip: IpAddr) -> [u8; 16] {
    match ip.to_canonical() {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

/// The issuer's side.
pub(crate) struct Tickets {
    key: Zeroizing<[u8; 32]>,
    limit: usize,
    spent: HashSet<[u8; NONCE]>,
    /// The same, by expiry.
    ends: BTreeSet<(u64, [u8; NONCE])>,
}

impl Tickets {
    pub(crate) fn new(limit: usize, rng: &mut dyn Rng) -> Result<Tickets> {
        Ok(Tickets {
            key: Zeroizing::new(rng::array(rng)?),
            limit,
            spent: HashSet::new(),
            ends: BTreeSet::new(),
        })
    }

    fn derive(&self, label: Label, nonce: &[u8; NONCE]) -> Zeroizing<[u8; 32]> {
        let mut key = Zeroizing::new([0; 32]);
        expand(
            hmac::HMAC_SHA256,
            self.key.as_slice(),
            label,
            &[nonce],
            &mut *key,
        );
        key
    }

    fn seal(&self, nonce: &[u8; NONCE]) -> Result<LessSafeKey> {
        let key = self.derive(labels::TICKET_SEAL, nonce);
        let unbound = UnboundKey::new(&AES_256_GCM, key.as_slice());
        Ok(LessSafeKey::new(
            unbound.map_err(|_| Error::Crypto("AES-256-GCM key"))?,
        ))
    }

    /// A ticket for *holder*, good from the address *ip* until *expiry_ns*.
    pub(crate) fn issue(
        &self,
        ip: IpAddr,
        holder: &[u8; 32],
        expiry_ns: u64,
        rng: &mut dyn Rng,
    ) -> Result<Ticket> {
        let nonce = rng::array::<NONCE>(rng)?;
        let mut sealed = [
            expiry_ns.to_be_bytes().as_slice(),
            &address(ip),
            holder.as_slice(),
        ]
        .concat();
        self.seal(&nonce)?
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key([0; 12]),
                Aad::empty(),
                &mut sealed,
            )
            .map_err(|_| Error::Crypto("AES-256-GCM seal"))?;
        let bytes = [nonce.as_slice(), &sealed].concat();
        Ok(Ticket {
            bytes: bytes
                .try_into()
                .map_err(|_| Error::Crypto("the ticket's length"))?,
            key: self.derive(labels::TICKET_KEY, &nonce),
        })
    }

    /// Open a ticket that *source* shows in an INIT of *com*. Changes nothing.
    pub(crate) fn open(
        &self,
        shown: &Shown,
        source: SocketAddr,
        com: &[u8; 32],
        now_ns: u64,
    ) -> Option<Valid> {
        let (nonce, sealed) = shown.bytes.split_first_chunk::<NONCE>()?;
        let (sealed, tag) = sealed.split_last_chunk::<TAG>()?;
        let mut plain = [0u8; PLAIN];
        self.seal(nonce)
            .ok()?
            .open_separate_gather(
                Nonce::assume_unique_for_key([0; 12]),
                Aad::empty(),
                sealed,
                tag,
                &mut plain,
            )
            .ok()?;
        let (expiry, rest) = plain.split_first_chunk::<8>()?;
        let (from, holder) = rest.split_first_chunk::<16>()?;
        let key = self.derive(labels::TICKET_KEY, nonce);
        let fits = constant_time::verify_slices_are_equal(&mac(&key, com), &shown.mac).is_ok();
        let expiry_ns = u64::from_be_bytes(*expiry);
        let good = fits && now_ns < expiry_ns && *from == address(source.ip());
        good.then_some(Valid {
            nonce: *nonce,
            expiry_ns,
            holder: holder.first_chunk::<32>().copied()?,
        })
    }

    /// Whether it may open a handshake: it has not yet, and there is room to remember that it did.
    pub(crate) fn is_fresh(&mut self, valid: &Valid, now_ns: u64) -> bool {
        while let Some((end_ns, nonce)) = self.ends.first().copied()
            && end_ns <= now_ns
        {
            self.ends.pop_first();
            self.spent.remove(&nonce);
        }
        self.spent.len() < self.limit && !self.spent.contains(&valid.nonce)
    }

    /// It has opened a handshake. Only after `is_fresh`.
    pub(crate) fn spend(&mut self, valid: &Valid) {
        if self.spent.insert(valid.nonce) {
            self.ends.insert((valid.expiry_ns, valid.nonce));
        }
    }
}
