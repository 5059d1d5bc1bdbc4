//! The bodies of door-sealed datagrams: parsed whole, or not at all.
//!
//! ```text
//!  1 HELLO  kind 1 | sidI 4 | nI 16 | com 32                                     53
//!  2 RETRY  sidI 4 | nI 16 | cookie 16                                           36
//!  3 INIT   cookie 16 | kind 1 | sidI 4 | nI 16 | h_{1-k} 32 | half k of (X || ek)
//!  5 INIT   ticket 96 | mac 16 | kind 1 and so on, as 3
//!  4 RESP   kind 1 | sidI 4 | digest 16 | half k of (sidR || Y || ct), in a lookup || tag 32
//!  kind = suite 4 bits | mode 3 bits | k 1 bit
//! ```

use crate::cookie::COOKIE;
use crate::door::Body;
use crate::schedule::LOOKUP_TAG;
use crate::suite::{Mode, Suite, kind_byte, parse_kind};
use crate::ticket::{MAC, Shown, TICKET};

/// HELLO: the initiator's intent.
pub(crate) struct Hello {
    pub(crate) suite: Suite,
    pub(crate) mode: Mode,
    pub(crate) sid_i: u32,
    pub(crate) n_i: [u8; 16],
    pub(crate) com: [u8; 32],
}

/// RETRY: a cookie.
pub(crate) struct Retry {
    pub(crate) sid_i: u32,
    pub(crate) n_i: [u8; 16],
    pub(crate) cookie: [u8; COOKIE],
}

/// What an INIT shows for its source address.
#[derive(Clone)]
pub(crate) enum Proof {
    Cookie([u8; COOKIE]),
    Ticket(Box<Shown>),
}

/// One of the two fragments of INIT.
pub(crate) struct InitPart {
    pub(crate) proof: Proof,
    pub(crate) suite: Suite,
    pub(crate) mode: Mode,
    pub(crate) k: usize,
    pub(crate) sid_i: u32,
    pub(crate) n_i: [u8; 16],
    pub(crate) sibling: [u8; 32],
    pub(crate) half: Vec<u8>,
}

/// One of the two fragments of RESP's key part.
pub(crate) struct RespPart {
    pub(crate) suite: Suite,
    pub(crate) mode: Mode,
    pub(crate) k: usize,
    pub(crate) sid_i: u32,
    pub(crate) digest: [u8; 16],
    pub(crate) half: Vec<u8>,
}

/// Bytes of X || ek, and of sidR || Y || ct (with a lookup's tag).
pub(crate) fn offer_len(suite: Suite) -> usize {
    32 + suite.ek_len()
}
pub(crate) fn key_part_len(suite: Suite, mode: Mode) -> usize {
    let tag = if mode == Mode::Lookup { LOOKUP_TAG } else { 0 };
    4 + 32 + suite.ct_len() + tag
}

fn take<'a, const N: usize>(bytes: &mut &'a [u8]) -> Option<&'a [u8; N]> {
    let (head, rest) = bytes.split_first_chunk::<N>()?;
    *bytes = rest;
    Some(head)
}

fn kind(bytes: &mut &[u8]) -> Option<(Suite, Mode, usize)> {
    let [kind] = take::<1>(bytes)?;
    parse_kind(*kind)
}

impl Hello {
    pub(crate) fn parse(mut bytes: &[u8]) -> Option<Hello> {
        let (suite, mode, k) = kind(&mut bytes)?;
        let hello = Hello {
            suite,
            mode,
            sid_i: u32::from_be_bytes(*take(&mut bytes)?),
            n_i: *take(&mut bytes)?,
            com: *take(&mut bytes)?,
        };
        (k == 0 && hello.sid_i != 0 && bytes.is_empty()).then_some(hello)
    }
    pub(crate) fn emit(&self) -> Vec<u8> {
        let kind = [kind_byte(self.suite, self.mode, 0)];
        let sid = self.sid_i.to_be_bytes();
        [kind.as_slice(), &sid, &self.n_i, &self.com].concat()
    }
}

impl Retry {
    pub(crate) fn parse(mut bytes: &[u8]) -> Option<Retry> {
        let retry = Retry {
            sid_i: u32::from_be_bytes(*take(&mut bytes)?),
            n_i: *take(&mut bytes)?,
            cookie: *take(&mut bytes)?,
        };
        bytes.is_empty().then_some(retry)
    }
    pub(crate) fn emit(&self) -> Vec<u8> {
        [self.sid_i.to_be_bytes().as_slice(), &self.n_i, &self.cookie].concat()
    }
}

impl InitPart {
    pub(crate) fn parse(mut bytes: &[u8]) -> Option<InitPart> {
        let proof = Proof::Cookie(*take(&mut bytes)?);
        InitPart::parse_behind(proof, bytes)
    }
    /// The same with a ticket.
    pub(crate) fn parse_ticket(mut bytes: &[u8]) -> Option<InitPart> {
        let shown = Shown {
            bytes: *take::<TICKET>(&mut bytes)?,
            mac: *take::<MAC>(&mut bytes)?,
        };
        let part = InitPart::parse_behind(Proof::Ticket(Box::new(shown)), bytes)?;
        (part.mode == Mode::Ticket).then_some(part)
    }
    fn parse_behind(proof: Proof, mut bytes: &[u8]) -> Option<InitPart> {
        let (suite, mode, k) = kind(&mut bytes)?;
        let sid_i = u32::from_be_bytes(*take(&mut bytes)?);
        let n_i = *take(&mut bytes)?;
        let sibling = *take(&mut bytes)?;
        (sid_i != 0 && bytes.len() == offer_len(suite) / 2).then(|| InitPart {
            proof,
            suite,
            mode,
            k,
            sid_i,
            n_i,
            sibling,
            half: bytes.to_vec(),
        })
    }
    /// How the door-sealed datagram says what it holds.
    pub(crate) fn door_kind(&self) -> Body {
        match self.proof {
            Proof::Cookie(_) => Body::Init,
            Proof::Ticket(_) => Body::TicketInit,
        }
    }
    pub(crate) fn emit(&self) -> Vec<u8> {
        let kind = [kind_byte(self.suite, self.mode, self.k as u8)];
        let sid = self.sid_i.to_be_bytes();
        let (proof, mac): (&[u8], &[u8]) = match &self.proof {
            Proof::Cookie(cookie) => (cookie, &[]),
            Proof::Ticket(shown) => (&shown.bytes, &shown.mac),
        };
        [
            proof,
            mac,
            &kind,
            &sid,
            &self.n_i,
            &self.sibling,
            &self.half,
        ]
        .concat()
    }
}

impl RespPart {
    pub(crate) fn parse(mut bytes: &[u8]) -> Option<RespPart> {
        let (suite, mode, k) = kind(&mut bytes)?;
        let sid_i = u32::from_be_bytes(*take(&mut bytes)?);
        let digest = *take(&mut bytes)?;
        (bytes.len() == key_part_len(suite, mode) / 2).then(|| RespPart {
            suite,
            mode,
            k,
            sid_i,
            digest,
            half: bytes.to_vec(),
        })
    }
    pub(crate) fn emit(&self) -> Vec<u8> {
        let kind = [kind_byte(self.suite, self.mode, self.k as u8)];
        [
            kind.as_slice(),
            &self.sid_i.to_be_bytes(),
            &self.digest,
            &self.half,
        ]
        .concat()
    }
}
