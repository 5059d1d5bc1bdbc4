//! Generations: a fresh KEM inside a running session, confirmed in both directions.
//!
//! ```text
//!  begin   g+1 u64 | X 32 | ek                     side A -> side B, over the control channel
//!  reply   g+1 u64 | Y 32 | ct | MAC_reply 32      B -> A
//!  confirm MAC_begin 32                            A -> B
//!
//!  T        = Hash(th4, g+1, begin, reply without MAC)
//!  ms_{g+1} = Extract(rk_g, ss_mlkem || ss_x25519 || T)
//!  ms_g    -> data, control, relay chain per direction | rk_g | exporter      (siblings)
//!  MAC_x    = HMAC(Expand(ms_{g+1}, confirm/x), T), cut to 32
//! ```
//! Invariant: rk_g is replaced, and so wiped, exactly when the peer's MAC over T has verified.
//! At most one begin and one reply are pending. When both sides begin, the session's initiator
//! wins: the other aborts its own and replies; the policy is the caller's, the order is enforced.

use aws_lc_rs::{constant_time, hmac};

use crate::chains::{Chains, SessionKeys};
use crate::error::{Error, Result};
use crate::labels::{self, Label};
use crate::rng::Rng;
use crate::schedule::{KeySchedule, Private, x25519, x25519_pair};
use crate::suite::Suite;
use crate::transcript::{Secret, expand, expand_secret, extract, hash};

const HEAD: usize = 8 + 32;
const MAC: usize = 32;

/// A new generation, as the side that has just computed it sees it.
pub struct NextGeneration {
    /// What to send to the peer: a reply, or a confirm.
    pub message: Vec<u8>,
    /// Keys of the new generation. After a reply, open with them but do not seal before
    /// `next_confirm` has succeeded.
    pub keys: SessionKeys,
}

struct Begun {
    private: Private,
    message: Vec<u8>,
}

struct Replied {
    root: Root,
    confirm: Vec<u8>,
}

/// The root of a session at one generation.
pub(crate) struct Root {
    suite: Suite,
    initiator: bool,
    generation: u64,
    th4: Vec<u8>,
    rk: Secret,
    exporter: Secret,
    begun: Option<Begun>,
    replied: Option<Box<Replied>>,
}

impl Root {
    /// Everything that follows from ms_g; the caller drops ms_g, which wipes it.
    pub(crate) fn new(
        suite: Suite,
        initiator: bool,
        generation: u64,
        th4: Vec<u8>,
        ms: &Secret,
    ) -> (Root, SessionKeys) {
        let leaf = |label: Label| expand_secret(suite, ms, label, &[]);
        let i = Chains::new(
            suite,
            leaf(labels::I_DATA),
            leaf(labels::I_CONTROL),
            leaf(labels::I_RELAY),
        );
        let r = Chains::new(
            suite,
            leaf(labels::R_DATA),
            leaf(labels::R_CONTROL),
            leaf(labels::R_RELAY),
        );
        let (tx, rx) = if initiator { (i, r) } else { (r, i) };
        let root = Root {
            suite,
            initiator,
            generation,
            th4,
            rk: leaf(labels::RK),
            exporter: leaf(labels::EXPORTER),
            begun: None,
            replied: None,
        };
        (root, SessionKeys { generation, tx, rx })
    }

    fn begin(&mut self, ek: &[u8], rng: &mut dyn Rng) -> Result<Vec<u8>> {
        length("the encapsulation key", ek, self.suite.ek_len())?;
        if self.begun.is_some() {
            return Err(Error::State(
                "a generation has begun already: abort it first",
            ));
        }
        if self.replied.is_some() {
            return Err(Error::State("the peer's generation awaits its confirm"));
        }
        let (private, x) = x25519_pair(rng)?;
        let number = self.generation + 1;
        let message = [number.to_be_bytes().as_slice(), &x, ek].concat();
        self.begun = Some(Begun {
            private,
            message: message.clone(),
        });
        Ok(message)
    }

    /// Parse `number | share | rest` of the coming generation.
    fn parse<'a>(&self, message: &'a [u8], tail: usize) -> Result<([u8; 32], &'a [u8])> {
        let wrong = Error::Malformed("generation message");
        if message.len() != HEAD + tail {
            return Err(wrong);
        }
        let (number, rest) = message.split_first_chunk::<8>().ok_or(wrong.clone())?;
        let (share, rest) = rest.split_first_chunk::<32>().ok_or(wrong)?;
        if u64::from_be_bytes(*number) != self.generation + 1 {
            return Err(Error::Malformed("generation number"));
        }
        Ok((*share, rest))
    }

    /// ms_{g+1} and what follows; also both MACs (reply, begin).
    fn derive(
        &self,
        ss: &[u8],
        shared: &Private,
        begin: &[u8],
        reply: &[u8],
    ) -> Result<(Root, SessionKeys, [Vec<u8>; 2])> {
        length("the KEM secret", ss, 32)?;
        let number = self.generation + 1;
        let transcript = hash(
            self.suite,
            labels::NEXT,
            &[&self.th4, &number.to_be_bytes(), begin, reply],
        );
        let ms = extract(
            self.suite,
            self.rk.as_slice(),
            &[ss, shared.as_slice(), &transcript],
        );
        let mac = |label| {
            let key = expand_secret(self.suite, &ms, label, &[]);
            let key = hmac::Key::new(self.suite.hmac(), key.as_slice());
            let tag = hmac::sign(&key, &transcript);
            tag.as_ref().get(..MAC).unwrap_or_default().to_vec()
        };
        let macs = [mac(labels::CONFIRM_REPLY), mac(labels::CONFIRM_BEGIN)];
        let (root, keys) = Root::new(self.suite, self.initiator, number, self.th4.clone(), &ms);
        Ok((root, keys, macs))
    }

    fn respond(
        &mut self,
        message: &[u8],
        ct: &[u8],
        ss: &[u8],
        rng: &mut dyn Rng,
    ) -> Result<NextGeneration> {
        length("the ciphertext", ct, self.suite.ct_len())?;
        if self.begun.is_some() {
            return Err(Error::State(
                "both sides began: abort the own one, or ignore the peer's",
            ));
        }
        let (x, _) = self.parse(message, self.suite.ek_len())?;
        let (private, y) = x25519_pair(rng)?;
        let shared = x25519(&private, &x)?;
        let number = self.generation + 1;
        let mut reply = [number.to_be_bytes().as_slice(), &y, ct].concat();
        let (root, keys, [mac, confirm]) = self.derive(ss, &shared, message, &reply)?;
        reply.extend_from_slice(&mac);
        self.replied = Some(Box::new(Replied { root, confirm }));
        Ok(NextGeneration {
            message: reply,
            keys,
        })
    }

    fn finish(&mut self, message: &[u8], ss: &[u8]) -> Result<NextGeneration> {
        let begun = self
            .begun
            .as_ref()
            .ok_or(Error::State("no generation has begun here"))?;
        let (y, _) = self.parse(message, self.suite.ct_len() + MAC)?;
        let (reply, mac) = message
            .split_at_checked(message.len() - MAC)
            .ok_or(Error::Malformed("generation message"))?;
        let shared = x25519(&begun.private, &y)?;
        let (root, keys, [expected, confirm]) = self.derive(ss, &shared, &begun.message, reply)?;
        constant_time::verify_slices_are_equal(&expected, mac).map_err(|_| Error::Confirmation)?;
        *self = root;
        Ok(NextGeneration {
            message: confirm,
            keys,
        })
    }

    fn confirm(&mut self, message: &[u8]) -> Result<()> {
        let replied = self
            .replied
            .as_ref()
            .ok_or(Error::State("no reply awaits a confirm here"))?;
        constant_time::verify_slices_are_equal(&replied.confirm, message)
            .map_err(|_| Error::Confirmation)?;
        if let Some(replied) = self.replied.take() {
            *self = replied.root;
        }
        Ok(())
    }

    fn leaf<const N: usize>(&self, from: &Secret, label: Label) -> [u8; N] {
        let mut out = [0; N];
        expand(self.suite.hmac(), from.as_slice(), label, &[], &mut out);
        out
    }
}

fn length(what: &'static str, bytes: &[u8], expected: usize) -> Result<()> {
    if bytes.len() == expected {
        return Ok(());
    }
    Err(Error::Length {
        what,
        expected,
        got: bytes.len(),
    })
}

/// Generations, once the handshake is over.
impl KeySchedule {
    /// The current generation: 0 after the handshake.
    pub fn generation(&self) -> Result<u64> {
        Ok(self.root()?.generation)
    }
    /// Begin generation g+1 with a fresh encapsulation key; returns the begin message.
    pub fn next_begin(&mut self, ek: &[u8], rng: &mut dyn Rng) -> Result<Vec<u8>> {
        self.root_mut()?.begin(ek, rng)
    }
    /// The encapsulation key in the peer's begin message.
    pub fn next_ek(&self, message: &[u8]) -> Result<Vec<u8>> {
        Ok(self
            .root()?
            .parse(message, self.suite().ek_len())?
            .1
            .to_vec())
    }
    /// Answer the peer's begin message with the ciphertext and secret made for its key.
    pub fn next_respond(
        &mut self,
        message: &[u8],
        ct: &[u8],
        ss: &[u8],
        rng: &mut dyn Rng,
    ) -> Result<NextGeneration> {
        self.root_mut()?.respond(message, ct, ss, rng)
    }
    /// The ciphertext in the peer's reply.
    pub fn next_ct(&self, message: &[u8]) -> Result<Vec<u8>> {
        let ct = self.suite().ct_len();
        let (_, rest) = self.root()?.parse(message, ct + MAC)?;
        Ok(rest.get(..ct).unwrap_or_default().to_vec())
    }
    /// The side that began: verify the reply and move to g+1; returns the confirm message.
    pub fn next_finish(&mut self, message: &[u8], ss: &[u8]) -> Result<NextGeneration> {
        self.root_mut()?.finish(message, ss)
    }
    /// The side that replied: verify the confirm and move to g+1.
    pub fn next_confirm(&mut self, message: &[u8]) -> Result<()> {
        self.root_mut()?.confirm(message)
    }
    /// Forget an own begin that is still pending. True if there was one.
    pub fn next_abort(&mut self) -> bool {
        self.root_mut()
            .is_ok_and(|root| root.begun.take().is_some())
    }
    /// Whether (an own begin, a reply to the peer's) is pending.
    pub fn next_pending(&self) -> (bool, bool) {
        self.root().map_or((false, false), |root| {
            (root.begun.is_some(), root.replied.is_some())
        })
    }
    /// 32 public bytes that are equal on both sides exactly when generation and keys are.
    pub fn fingerprint(&self) -> Result<[u8; 32]> {
        let root = self.root()?;
        Ok(root.leaf(&root.exporter, labels::FINGERPRINT))
    }
    /// An exported key of the current generation, bound to *label* and *context*.
    pub fn export(&self, label: &[u8], context: &[u8], out: &mut [u8]) -> Result<()> {
        let root = self.root()?;
        if out.len() > 1024 {
            return Err(Error::TooLong {
                limit: 1024,
                got: out.len(),
            });
        }
        let inputs = [label, context];
        expand(
            self.suite().hmac(),
            root.exporter.as_slice(),
            labels::EXPORT,
            &inputs,
            out,
        );
        Ok(())
    }
    /// (public name, psk) for the next full handshake with this peer, from rk of this generation.
    pub fn psk(&self) -> Result<([u8; 16], [u8; 32])> {
        let root = self.root()?;
        Ok((
            root.leaf(&root.rk, labels::PSK_NAME),
            root.leaf(&root.rk, labels::PSK),
        ))
    }
}
