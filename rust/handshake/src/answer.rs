//! One answer of the responder: what RESP was, to where it may go, and what came back.
//!
//! A ticket proves an IP address of some time ago: before a fragment of AUTH opens, the RESP goes to
//! the one place that the INIT came from, and at most three times the bytes that came from there.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use crate::body::RespPart;
use crate::door::{self, Body, DoorKey};
use crate::early::Early;
use crate::error::Result;
use crate::event::Action;
use crate::flight::{Incoming, Outgoing, Seal};
use crate::limits::{IDLE_NS, LINGER_NS};
use crate::rng::Rng;
use crate::schedule::KeySchedule;
use crate::suite::{Mode, Suite};

/// Sources that one handshake may use.
const SOURCES: usize = 8;

/// Sent before AUTH for each byte that came, on the strength of a ticket alone.
const PER_BYTE: usize = 3;

/// What may still go to a place that only a ticket speaks for.
#[derive(Clone, Copy, Default)]
pub(crate) struct Allowance {
    pub(crate) came: usize,
    went: usize,
    /// Datagrams of the RESP that the last sending left out.
    pub(crate) owed: usize,
}

impl Allowance {
    /// Take *bytes* if that much may go.
    fn take(&mut self, bytes: usize) -> bool {
        let fits = self.went + bytes <= PER_BYTE * self.came;
        if fits {
            self.went += bytes;
        }
        fits
    }
}

/// Where a handshake's INIT came from.
pub(crate) struct Place {
    pub(crate) at: SocketAddr,
    /// When a RESP last went there.
    pub(crate) sent_ns: u64,
    /// None once a cookie or AUTH proved it.
    pub(crate) allowance: Option<Allowance>,
}

pub(crate) struct Answer {
    pub(crate) schedule: Arc<Mutex<KeySchedule>>,
    pub(crate) com: [u8; 32],
    pub(crate) door: DoorKey,
    pub(crate) public: bool,
    pub(crate) suite: Suite,
    pub(crate) mode: Mode,
    pub(crate) sid_i: u32,
    pub(crate) digest: [u8; 16],
    pub(crate) halves: [Vec<u8>; 2],
    /// The sealed part of RESP, and the key of AUTH: a lookup has neither.
    pub(crate) sealed: Option<(Outgoing, Seal)>,
    pub(crate) mask_tx: [u8; 32],
    pub(crate) mask_rx: [u8; 32],
    pub(crate) places: Vec<Place>,
    pub(crate) incoming: Incoming,
    pub(crate) early: Early,
    /// AUTH, once it opened whole, and where its last fragment came from.
    pub(crate) message: Option<(Vec<u8>, SocketAddr)>,
    /// Highest attempt of AUTH that was acted upon.
    pub(crate) attempt: u32,
    pub(crate) established_ns: Option<u64>,
    pub(crate) touched_ns: u64,
}

impl Answer {
    /// The whole RESP to *to*, sealed anew.
    fn send(&mut self, to: SocketAddr, rng: &mut dyn Rng, out: &mut Vec<Action>) -> Result<()> {
        for (k, half) in self.halves.iter().enumerate() {
            let body = RespPart {
                suite: self.suite,
                mode: self.mode,
                k,
                sid_i: self.sid_i,
                digest: self.digest,
                half: half.clone(),
            };
            let body = body.emit();
            let high = door::ceiling(self.mode, body.len());
            let bytes = self.door.seal(Body::Resp, &body, 0, high, rng)?;
            out.push(Action::Send { to, bytes });
        }
        match &mut self.sealed {
            Some((resp, _)) => resp.send(to, out),
            None => Ok(()),
        }
    }

    /// The RESP to *place*: as much of it as may go there. What was left out goes first next time.
    pub(crate) fn send_to(
        &mut self,
        place: &mut Place,
        rng: &mut dyn Rng,
        out: &mut Vec<Action>,
    ) -> Result<()> {
        let first = out.len();
        self.send(place.at, rng, out)?;
        let Some(allowance) = &mut place.allowance else {
            return Ok(());
        };
        let mut datagrams = out.split_off(first);
        let count = datagrams.len();
        let owed = if allowance.owed == 0 {
            count
        } else {
            allowance.owed.min(count)
        };
        let mut left = owed;
        for action in datagrams.drain(count - owed..) {
            let bytes = match &action {
                Action::Send { bytes, .. } => bytes.len(),
                _ => 0,
            };
            if !allowance.take(bytes) {
                break;
            }
            out.push(action);
            left -= 1;
        }
        allowance.owed = left;
        Ok(())
    }

    /// Whether something of its AUTH is here, and its peer not let in yet.
    pub(crate) fn is_authenticating(&self) -> bool {
        let began = self.message.is_some() || self.incoming.bytes() > 0;
        began && self.established_ns.is_none()
    }

    pub(crate) fn ends_ns(&self) -> u64 {
        match self.established_ns {
            Some(at) => at + LINGER_NS,
            None => self.touched_ns + IDLE_NS,
        }
    }
}

/// An INIT came from *source*, *came* bytes if only a ticket speaks for it. False if the RESP must
/// not go there: a ticket is good for one place, and a handshake for eight.
pub(crate) fn note(places: &mut Vec<Place>, source: SocketAddr, came: Option<usize>) -> bool {
    if let Some(place) = places.iter_mut().find(|place| place.at == source) {
        match (&mut place.allowance, came) {
            (Some(allowance), Some(came)) => allowance.came += came,
            (allowance, None) => *allowance = None,
            (None, Some(_)) => {}
        }
        return true;
    }
    let room = if came.is_some() { 1 } else { SOURCES };
    if places.len() >= room {
        return false;
    }
    places.push(Place {
        at: source,
        sent_ns: 0,
        allowance: came.map(|came| Allowance {
            came,
            ..Allowance::default()
        }),
    });
    true
}
