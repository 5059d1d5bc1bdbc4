//! The key schedule of one handshake, and the root of the session that grows from it.
//!
//! ```text
//!  H0  = Hash(VNH1, network id, suite, mode)
//!  th2 = Hash(H0, secret, idR, com, X, ek, Y, ct, sidR)      secret = K_net, or K_join of an invite
//!  ck  = Extract(th2, ss_mlkem || ss_x25519) --+-- k_hr, k_hi, mask_i, mask_r
//!                                              +-- "derived" -> salt of ms_0
//!  th3 = Hash(th2, e2)      th4 = Hash(th3, e3)              e2, e3: plaintexts of RESP and AUTH
//!  ms_0 = Extract(derived, th4 || psk)          psk: 32 bytes, zero if none
//! ```
//! A lookup has neither e2 nor e3: th4 = th2, and RESP's key part ends with Expand(ck, "lookup"),
//! which tells the initiator that the responder holds ck.
//!
//! What grows from ms_g is in `generation`. Every function here is pure but for the stage, which
//! only moves forward (an initiator may adopt another candidate until it has authenticated).

use aws_lc_rs::agreement::{self, PrivateKey, UnparsedPublicKey};
use zeroize::Zeroizing;

use crate::chains::{DirectionKey, SessionKeys};
use crate::error::{Error, Result};
use crate::event::Init;
use crate::generation::Root;
use crate::labels;
use crate::rng::{self, Rng};
use crate::suite::{Mode, Suite, kind_byte};
use crate::transcript::{Secret, expand, expand_secret, extract, hash, hash_cut};

/// Bytes that confirm the key part of a lookup's RESP.
pub(crate) const LOOKUP_TAG: usize = 32;

/// An X25519 private key, wiped on drop.
pub(crate) type Private = Zeroizing<[u8; 32]>;

/// A fresh X25519 pair from *rng*.
pub(crate) fn x25519_pair(rng: &mut dyn Rng) -> Result<(Private, [u8; 32])> {
    let private = Zeroizing::new(rng::array::<32>(rng)?);
    let key = PrivateKey::from_private_key(&agreement::X25519, private.as_slice())
        .map_err(|_| Error::Crypto("X25519 key"))?;
    let public = key
        .compute_public_key()
        .map_err(|_| Error::Crypto("X25519 key"))?;
    let public = public.as_ref().first_chunk::<32>().copied();
    Ok((private, public.ok_or(Error::Crypto("X25519 key"))?))
}

/// X25519; an all-zero result is refused.
pub(crate) fn x25519(private: &Private, peer: &[u8; 32]) -> Result<Private> {
    let key = PrivateKey::from_private_key(&agreement::X25519, private.as_slice())
        .map_err(|_| Error::Crypto("X25519 key"))?;
    let peer = UnparsedPublicKey::new(&agreement::X25519, peer.as_slice());
    agreement::agree(&key, peer, Error::WeakShare, |secret| {
        let secret = Zeroizing::new(*secret.first_chunk::<32>().ok_or(Error::Crypto("X25519"))?);
        // AWS-LC refuses an all-zero result already; the protocol does not lean on that.
        if secret.iter().fold(0, |all, byte| all | byte) == 0 {
            return Err(Error::WeakShare);
        }
        Ok(secret)
    })
}

fn check(what: &'static str, bytes: &[u8], expected: usize) -> Result<()> {
    if bytes.len() == expected {
        return Ok(());
    }
    Err(Error::Length {
        what,
        expected,
        got: bytes.len(),
    })
}

/// What both sides know once the KEM is done.
#[derive(Clone)]
pub(crate) struct Keyed {
    suite: Suite,
    th2: Vec<u8>,
    ck: Secret,
    pub(crate) sid_r: u32,
}

impl Keyed {
    /// Key of RESP's sealed part.
    pub(crate) fn k_hr(&self) -> DirectionKey {
        DirectionKey::expand(self.suite, &self.ck, labels::K_HR, &self.th2)
    }
    /// Key of AUTH.
    pub(crate) fn k_hi(&self) -> DirectionKey {
        DirectionKey::expand(self.suite, &self.ck, labels::K_HI, &self.th2)
    }
    /// What stands behind the key part of a lookup's RESP.
    pub(crate) fn lookup_tag(&self) -> [u8; LOOKUP_TAG] {
        self.mask(labels::LOOKUP)
    }
    fn mask(&self, label: labels::Label) -> [u8; 32] {
        let mut key = [0; 32];
        expand(
            self.suite.hmac(),
            self.ck.as_slice(),
            label,
            &[&self.th2],
            &mut key,
        );
        key
    }
    /// Header mask of what the initiator sends.
    pub(crate) fn mask_i(&self) -> [u8; 32] {
        self.mask(labels::MASK_I)
    }
    /// Header mask of what the responder sends.
    pub(crate) fn mask_r(&self) -> [u8; 32] {
        self.mask(labels::MASK_R)
    }
}

/// The initiator's offer as the gate sends it.
#[derive(Clone)]
pub(crate) struct Offer {
    pub(crate) suite: Suite,
    pub(crate) mode: Mode,
    pub(crate) sid_i: u32,
    pub(crate) n_i: [u8; 16],
    pub(crate) com: [u8; 32],
    pub(crate) hashes: [[u8; 32]; 2],
    pub(crate) halves: [Vec<u8>; 2],
}

/// h_k of one half: checked alone at the responder.
pub(crate) fn half_hash(
    suite: Suite,
    mode: Mode,
    sid_i: u32,
    n_i: &[u8; 16],
    k: usize,
    half: &[u8],
) -> Result<[u8; 32]> {
    let kind = [kind_byte(suite, mode, k as u8)];
    hash_cut(
        suite,
        labels::HALF,
        &[&kind, &sid_i.to_be_bytes(), n_i, half],
    )
}

/// The commitment over both halves.
pub(crate) fn commitment(suite: Suite, hashes: &[[u8; 32]; 2]) -> Result<[u8; 32]> {
    let [first, second] = hashes;
    hash_cut(suite, labels::COM, &[first, second])
}

/// Cut *bytes* in the middle.
pub(crate) fn halves(bytes: &[u8]) -> [Vec<u8>; 2] {
    let (first, second) = bytes.split_at(bytes.len() / 2);
    [first.to_vec(), second.to_vec()]
}

enum Stage {
    /// Initiator before any RESP opened.
    Offered,
    /// The KEM is done: th2 is known.
    Keyed(Keyed),
    /// e2 is known: th3 too.
    Answered(Keyed),
    /// e3 is known: a session.
    Established(Box<Root>),
}

/// The secrets of one handshake and of the session that grows from it.
///
/// Python feeds it messages and KEM secrets and gets the bytes to sign; the keys never leave Rust.
pub struct KeySchedule {
    suite: Suite,
    mode: Mode,
    initiator: bool,
    h0: Vec<u8>,
    secret: Zeroizing<Vec<u8>>,
    responder_id: [u8; 32],
    com: [u8; 32],
    sid_i: u32,
    n_i: [u8; 16],
    x: [u8; 32],
    ek: Vec<u8>,
    sid_r: u32,
    /// Initiator: X25519 private key until it has authenticated.
    x_private: Option<Private>,
    /// Responder: sidR || Y || ct (and a lookup's tag) until the gate has taken it.
    key_part: Vec<u8>,
    stage: Stage,
    th2: Vec<u8>,
    th3: Vec<u8>,
    th4: Vec<u8>,
}

impl KeySchedule {
    /// Initiator: draw X, sidI and nI, and commit to them and to *ek*.
    ///
    /// *secret* is K_net (full) or K_join (join), *ek* a fresh ML-KEM encapsulation key.
    pub fn initiate(
        suite: Suite,
        mode: Mode,
        network_id: &[u8],
        secret: &[u8],
        responder_id: &[u8; 32],
        ek: &[u8],
        rng: &mut dyn Rng,
    ) -> Result<KeySchedule> {
        check("the encapsulation key", ek, suite.ek_len())?;
        let (x_private, x) = x25519_pair(rng)?;
        let mut schedule = KeySchedule {
            suite,
            mode,
            initiator: true,
            h0: h0(suite, mode, network_id),
            secret: Zeroizing::new(secret.to_vec()),
            responder_id: *responder_id,
            com: [0; 32],
            sid_i: rng::session_id(rng)?,
            n_i: rng::array(rng)?,
            x,
            ek: ek.to_vec(),
            sid_r: 0,
            x_private: Some(x_private),
            key_part: Vec::new(),
            stage: Stage::Offered,
            th2: Vec::new(),
            th3: Vec::new(),
            th4: Vec::new(),
        };
        schedule.com = schedule.offer()?.com;
        Ok(schedule)
    }

    /// Responder: draw Y and sidR, and key the handshake with the ML-KEM ciphertext and secret
    /// that were made for *init*'s encapsulation key.
    pub fn respond(
        init: &Init,
        network_id: &[u8],
        secret: &[u8],
        responder_id: &[u8; 32],
        ct: &[u8],
        ss: &[u8],
        rng: &mut dyn Rng,
    ) -> Result<KeySchedule> {
        let suite = init.suite;
        check("the encapsulation key", &init.ek, suite.ek_len())?;
        check("the ciphertext", ct, suite.ct_len())?;
        let (y_private, y) = x25519_pair(rng)?;
        let sid_r = rng::session_id(rng)?;
        let mut schedule = KeySchedule {
            suite,
            mode: init.mode,
            initiator: false,
            h0: h0(suite, init.mode, network_id),
            secret: Zeroizing::new(secret.to_vec()),
            responder_id: *responder_id,
            com: init.com,
            sid_i: init.sid_i,
            n_i: init.n_i,
            x: init.x,
            ek: init.ek.clone(),
            sid_r,
            x_private: None,
            key_part: [sid_r.to_be_bytes().as_slice(), &y, ct].concat(),
            stage: Stage::Offered,
            th2: Vec::new(),
            th3: Vec::new(),
            th4: Vec::new(),
        };
        let shared = x25519(&y_private, &init.x)?;
        let keyed = schedule.key(sid_r, &y, ct, ss, &shared)?;
        if init.mode == Mode::Lookup {
            schedule.key_part.extend_from_slice(&keyed.lookup_tag());
        }
        schedule.th2 = keyed.th2.clone();
        schedule.stage = Stage::Keyed(keyed);
        Ok(schedule)
    }

    /// Initiator: the keys that would follow if this key part is the responder's. Changes nothing.
    pub(crate) fn key_candidate(
        &self,
        sid_r: u32,
        y: &[u8; 32],
        ct: &[u8],
        ss: &[u8],
    ) -> Result<Keyed> {
        let private = self
            .x_private
            .as_ref()
            .ok_or(Error::State("the offer is answered"))?;
        let shared = x25519(private, y)?;
        self.key(sid_r, y, ct, ss, &shared)
    }

    fn key(
        &self,
        sid_r: u32,
        y: &[u8; 32],
        ct: &[u8],
        ss: &[u8],
        shared: &Private,
    ) -> Result<Keyed> {
        check("the ciphertext", ct, self.suite.ct_len())?;
        check("the KEM secret", ss, 32)?;
        let th2 = hash(
            self.suite,
            labels::TH2,
            &[
                &self.h0,
                &self.secret,
                &self.responder_id,
                &self.com,
                &self.x,
                &self.ek,
                y,
                ct,
                &sid_r.to_be_bytes(),
            ],
        );
        let ck = extract(self.suite, &th2, &[ss, shared.as_slice()]);
        Ok(Keyed {
            suite: self.suite,
            th2,
            ck,
            sid_r,
        })
    }

    /// Initiator: take the candidate whose RESP opened. Allowed again until `finish`.
    pub(crate) fn adopt(&mut self, keyed: Keyed) -> Result<()> {
        if !self.initiator || matches!(self.stage, Stage::Established(_)) {
            return Err(Error::State(
                "only an unfinished initiator adopts a key part",
            ));
        }
        self.sid_r = keyed.sid_r;
        self.th2 = keyed.th2.clone();
        self.th3.clear();
        self.stage = Stage::Keyed(keyed);
        Ok(())
    }

    /// Take e2, the plaintext of RESP's sealed part, into the transcript: th3.
    ///
    /// Both the gate and Python may say it; the second time it must be the same e2.
    pub fn absorb_resp(&mut self, e2: &[u8]) -> Result<()> {
        if self.mode == Mode::Lookup {
            return Err(Error::State("a lookup has no identities"));
        }
        let th3 = hash(self.suite, labels::TH3, &[&self.th2, e2]);
        match std::mem::replace(&mut self.stage, Stage::Offered) {
            Stage::Keyed(keyed) => {
                self.th3 = th3;
                self.stage = Stage::Answered(keyed);
                Ok(())
            }
            other => {
                let again = matches!(other, Stage::Answered(_)) && th3 == self.th3;
                self.stage = other;
                if again {
                    Ok(())
                } else {
                    Err(Error::State("e2 follows the key part, once"))
                }
            }
        }
    }

    /// Take e3, the plaintext of AUTH, and the psk: th4 and the keys of generation 0.
    pub fn finish(&mut self, e3: &[u8], psk: Option<&[u8; 32]>) -> Result<SessionKeys> {
        let Stage::Answered(keyed) = &self.stage else {
            return Err(Error::State("e3 follows e2, once"));
        };
        let th4 = hash(self.suite, labels::TH4, &[&self.th3, e3]);
        let psk = psk.copied().map(Zeroizing::new).unwrap_or_default();
        let ck = keyed.ck.clone();
        Ok(self.establish(&ck, th4, &psk))
    }

    /// A lookup: the key part is all there is, th4 = th2. Keys of generation 0.
    pub(crate) fn finish_lookup(&mut self) -> Result<SessionKeys> {
        let Stage::Keyed(keyed) = &self.stage else {
            return Err(Error::State("a lookup ends with its key part, once"));
        };
        if self.mode != Mode::Lookup {
            return Err(Error::State("only a lookup ends without identities"));
        }
        let (ck, th4) = (keyed.ck.clone(), keyed.th2.clone());
        Ok(self.establish(&ck, th4, &Zeroizing::default()))
    }

    fn establish(&mut self, ck: &Secret, th4: Vec<u8>, psk: &Zeroizing<[u8; 32]>) -> SessionKeys {
        let derived = expand_secret(self.suite, ck, labels::DERIVED, &[]);
        let ms = extract(self.suite, derived.as_slice(), &[&th4, psk.as_slice()]);
        let (root, keys) = Root::new(self.suite, self.initiator, 0, th4.clone(), &ms);
        self.th4 = th4;
        self.x_private = None;
        self.stage = Stage::Established(Box::new(root));
        keys
    }

    pub(crate) fn keyed(&self) -> Result<&Keyed> {
        match &self.stage {
            Stage::Keyed(keyed) | Stage::Answered(keyed) => Ok(keyed),
            _ => Err(Error::State("the handshake is not keyed, or over")),
        }
    }

    pub(crate) fn root(&self) -> Result<&Root> {
        match &self.stage {
            Stage::Established(root) => Ok(root),
            _ => Err(Error::State("no session yet")),
        }
    }

    pub(crate) fn root_mut(&mut self) -> Result<&mut Root> {
        match &mut self.stage {
            Stage::Established(root) => Ok(root),
            _ => Err(Error::State("no session yet")),
        }
    }

    pub(crate) fn offer(&self) -> Result<Offer> {
        if self.x_private.is_none() {
            return Err(Error::State("only an unfinished initiator says HELLO"));
        }
        let halves = halves(&[self.x.as_slice(), &self.ek].concat());
        let [first, second] = &halves;
        let hash =
            |k, half: &[u8]| half_hash(self.suite, self.mode, self.sid_i, &self.n_i, k, half);
        let hashes = [hash(0, first)?, hash(1, second)?];
        Ok(Offer {
            suite: self.suite,
            mode: self.mode,
            sid_i: self.sid_i,
            n_i: self.n_i,
            com: commitment(self.suite, &hashes)?,
            hashes,
            halves,
        })
    }

    /// Responder: sidR || Y || ct, in a lookup with its tag behind it; given out once.
    pub(crate) fn take_key_part(&mut self) -> Result<Vec<u8>> {
        if self.key_part.is_empty() {
            return Err(Error::State("this schedule has answered already"));
        }
        Ok(std::mem::take(&mut self.key_part))
    }

    /// Transcript after the key part: what the responder signs is th2 || idR.
    pub fn th2(&self) -> Result<&[u8]> {
        known(&self.th2, "th2 is known once the RESP opened")
    }
    /// Transcript after e2: what the initiator signs is th3 || idI || idR.
    pub fn th3(&self) -> Result<&[u8]> {
        known(&self.th3, "th3 is known after e2")
    }
    /// Transcript after e3: the plaintext of ACK.
    pub fn th4(&self) -> Result<&[u8]> {
        known(&self.th4, "th4 is known after e3")
    }
    /// The suite.
    pub fn suite(&self) -> Suite {
        self.suite
    }
    /// The mode.
    pub fn mode(&self) -> Mode {
        self.mode
    }
    /// Whether this side began the handshake.
    pub fn is_initiator(&self) -> bool {
        self.initiator
    }
    /// The commitment.
    pub fn com(&self) -> &[u8; 32] {
        &self.com
    }
    /// The session id that this side chose: `idx` of what it receives.
    pub fn local_sid(&self) -> u32 {
        if self.initiator {
            self.sid_i
        } else {
            self.sid_r
        }
    }
    /// The session id that the peer chose: `idx` of what this side sends; 0 while unknown.
    pub fn remote_sid(&self) -> u32 {
        if self.initiator {
            self.sid_r
        } else {
            self.sid_i
        }
    }
}

fn h0(suite: Suite, mode: Mode, network_id: &[u8]) -> Vec<u8> {
    let proto = labels::PROTO.text.as_bytes();
    hash(
        suite,
        labels::H0,
        &[proto, network_id, &[suite.number()], &[mode.number()]],
    )
}

fn known<'a>(bytes: &'a [u8], hint: &'static str) -> Result<&'a [u8]> {
    if bytes.is_empty() {
        Err(Error::State(hint))
    } else {
        Ok(bytes)
    }
}
