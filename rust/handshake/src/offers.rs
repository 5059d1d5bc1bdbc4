//! The initiator: HELLO to one endpoint or more, INIT to whoever answered, then the key parts
//! that come back, until one of them opens.
//!
//! ```text
//!  hello() --HELLO--> RETRY --INIT x2--> RESP key part(s) -> Event::Candidate
//!  candidate(ss) -> sealed part opens -> Event::Message(e2) -> authenticate(e3) --AUTH-->
//!                                             \-> reject(): back to the other key parts
//!  in a lookup: candidate(ss) -> the key part's tag fits -> the session
//! ```
//! Invariant: the schedule moves only when a RESP has opened whole under a candidate's key (in a
//! lookup: when its tag is what that key gives).

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use crate::budget::Unproven;
use crate::cookie::COOKIE;
use crate::door::{self, DoorKey};
use crate::error::{Error, Fault, Result};
use crate::event::{Action, Established, Tried};
use crate::flight::{Outgoing, Seal};
use crate::gate::locked;
use crate::limits::{ASSEMBLY_NS, IDLE_NS, Limits};
use crate::offer::{Endpoint, Offer, copies};
use crate::rng::{self, Rng, SeededRng};
use crate::schedule::KeySchedule;
use crate::sources::Sources;
use crate::suite::Mode;
use crate::ticket::Ticket;

/// After so many INITs under one cookie the responder has perhaps restarted: say HELLO again too.
const INITS_PER_COOKIE: u32 = 2;
/// INITs sent on the strength of a ticket, before HELLO is said in turn with it.
const INITS_PER_TICKET: u32 = 2;

/// What a call of an endpoint begins with.
#[derive(Clone, Copy)]
pub(crate) enum Begin<'a> {
    /// HELLO; one small one and no more to a bare hint.
    Hello { bare_hint: bool },
    /// INIT, with a ticket of an earlier session.
    Ticket(&'a Ticket),
    /// INIT, with a cookie that came by another way.
    Cookie([u8; COOKIE]),
}

/// All handshakes that this node began.
#[derive(Default)]
pub(crate) struct Offers {
    table: BTreeMap<u32, Offer>,
    sources: Sources,
}

impl Offers {
    pub(crate) fn contains(&self, sid: u32) -> bool {
        self.table.contains_key(&sid)
    }

    fn get(&mut self, sid: u32) -> Result<&mut Offer> {
        self.table.get_mut(&sid).ok_or(Error::UnknownSession(sid))
    }

    #[allow(clippy::too_many_arguments)] // clock, random source and outbox are arguments
    pub(crate) fn hello(
        &mut self,
        schedule: &Arc<Mutex<KeySchedule>>,
        door_key: &[u8; 32],
        to: SocketAddr,
        begin: Begin<'_>,
        now_ns: u64,
        limits: &Limits,
        budget: &mut Unproven,
        rng: &mut dyn Rng,
        out: &mut Vec<Action>,
    ) -> Result<bool> {
        let sid = locked(schedule).local_sid();
        let (bare_hint, ticket, given) = match begin {
            Begin::Hello { bare_hint } => (bare_hint, None, None),
            Begin::Ticket(ticket) => (false, Some(ticket), None),
            Begin::Cookie(cookie) => (false, None, Some(cookie)),
        };
        if ticket.is_some() && locked(schedule).mode() != Mode::Ticket {
            return Err(Error::State("a ticket belongs to mode ticket"));
        }
        if !self.table.contains_key(&sid) {
            if self.table.len() >= limits.offers {
                return Err(Error::Full("the table of handshakes"));
            }
            let offer = Offer {
                schedule: schedule.clone(),
                door: DoorKey::new(door_key),
                offer: locked(schedule).offer()?,
                endpoints: Vec::new(),
                nonces: Vec::new(),
                candidates: Vec::new(),
                next_candidate: 0,
                stash: VecDeque::new(),
                chosen: None,
                auth: None,
                touched_ns: now_ns,
                sizes: SeededRng::new(&rng::array::<32>(rng)?),
            };
            self.table.insert(sid, offer);
        }
        let offer = self.table.get_mut(&sid).ok_or(Error::UnknownSession(sid))?;
        if !Arc::ptr_eq(&offer.schedule, schedule) {
            return Err(Error::SessionExists(sid));
        }
        offer.touched_ns = now_ns;
        if offer.chosen.is_some() {
            return Ok(false);
        }
        let at = match offer
            .endpoints
            .iter()
            .position(|endpoint| endpoint.to == to)
        {
            Some(at) => at,
            None => {
                if offer.endpoints.len() >= limits.endpoints {
                    return Err(Error::Full("the list of endpoints in this race"));
                }
                if !self.sources.insert(to, sid, limits.per_source) {
                    return Err(Error::Full("the list of handshakes at this endpoint"));
                }
                let endpoint = Endpoint {
                    to,
                    bare_hint,
                    hellos: 0,
                    // Who passed the cookie on may have changed it: HELLO is said the sooner.
                    inits: u32::from(given.is_some()),
                    cookie: given,
                    ticket: ticket.cloned(),
                    shown: 0,
                };
                offer.endpoints.push(endpoint);
                offer.endpoints.len() - 1
            }
        };
        let inits = match offer.endpoints.get(at) {
            Some(Endpoint {
                cookie: Some(_),
                inits,
                ..
            }) => *inits,
            Some(Endpoint {
                ticket: Some(_),
                shown,
                hellos,
                ..
            }) if *shown < INITS_PER_TICKET + *hellos => {
                let first = *shown == 0;
                let times = if first { copies(offer.offer.suite) } else { 1 };
                if !budget.take(to, times * 2 * door::MAX, now_ns) {
                    return Ok(false);
                }
                offer.send_init(at, rng, out)?;
                return Ok(true);
            }
            _ => return offer.send_hello(at, false, now_ns, budget, rng, out),
        };
        offer.send_init(at, rng, out)?;
        if inits >= INITS_PER_COOKIE {
            offer.send_hello(at, true, now_ns, budget, rng, out)?;
        }
        Ok(true)
    }

    /// A datagram that may be ours. True if it was (or is kept because it may be).
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn receive(
        &mut self,
        datagram: &[u8],
        source: SocketAddr,
        now_ns: u64,
        limits: &Limits,
        memory: &mut usize,
        rng: &mut dyn Rng,
        out: &mut Vec<Action>,
    ) -> bool {
        if self.sources.is_empty() {
            return false;
        }
        for sid in self.sources.at(source) {
            let Some(offer) = self.table.get_mut(&sid) else {
                continue;
            };
            let before = offer.bytes();
            let room = limits.assembly_bytes.saturating_sub(*memory);
            let mut ours = offer.open(datagram, source, now_ns, out).is_some();
            if !ours && let Some(opened) = offer.door.open(datagram) {
                // Two offers to one peer share its door: the session id in the body decides.
                ours = offer
                    .on_door(opened, source, now_ns, limits, room, rng, out)
                    .is_some();
            }
            *memory = (*memory + offer.bytes()).saturating_sub(before);
            if ours {
                return true;
            }
        }
        false
    }

    /// Keep what nobody could open for the offers at *source* that wait for their key.
    pub(crate) fn keep(
        &mut self,
        datagram: &[u8],
        source: SocketAddr,
        limits: &Limits,
        memory: &mut usize,
    ) -> bool {
        let mut kept = false;
        for sid in self.sources.at(source) {
            let Some(offer) = self.table.get_mut(&sid) else {
                continue;
            };
            let before = offer.bytes();
            let room = limits.assembly_bytes.saturating_sub(*memory);
            kept |= offer.keep(datagram, source, limits, room);
            *memory = (*memory + offer.bytes()).saturating_sub(before);
        }
        kept
    }

    pub(crate) fn candidate(
        &mut self,
        sid: u32,
        id: u32,
        ss: &[u8],
        now_ns: u64,
        memory: &mut usize,
        out: &mut Vec<Action>,
    ) -> Result<Tried> {
        let offer = self.get(sid)?;
        offer.touched_ns = now_ns;
        let before = offer.bytes();
        let at = offer
            .candidates
            .iter()
            .position(|candidate| candidate.id == id)
            .ok_or(Error::State("this key part is gone"))?;
        let result = if offer.offer.mode == Mode::Lookup {
            offer.establish(at, ss).map(Some)
        } else {
            offer.key(at, ss).map(|()| None)
        };
        match &result {
            Ok(_) => offer.drain_stash(now_ns, out),
            Err(error) if error.fault() == Fault::Remote => {
                offer.candidates.remove(at);
            }
            Err(_) => {}
        }
        *memory = (*memory + offer.bytes()).saturating_sub(before);
        if let Some(established) = result? {
            // Nothing is left to say: the peer repeats RESP only when INIT comes again.
            self.abandon(sid, memory);
            return Ok(Tried::Established(established));
        }
        let opened = offer.chosen.is_some_and(|(chosen, _)| chosen == id);
        Ok(if opened { Tried::Opened } else { Tried::Closed })
    }

    pub(crate) fn reject(
        &mut self,
        sid: u32,
        now_ns: u64,
        memory: &mut usize,
        out: &mut Vec<Action>,
    ) -> Result<()> {
        let offer = self.get(sid)?;
        if offer.auth.is_some() {
            return Err(Error::State(
                "this side has authenticated: abandon the session",
            ));
        }
        let (id, _) = offer
            .chosen
            .take()
            .ok_or(Error::State("no RESP has opened"))?;
        let before = offer.bytes();
        offer.touched_ns = now_ns;
        offer.candidates.retain(|candidate| candidate.id != id);
        offer.drain_stash(now_ns, out);
        *memory = (*memory + offer.bytes()).saturating_sub(before);
        Ok(())
    }

    pub(crate) fn authenticate(
        &mut self,
        sid: u32,
        e3: &[u8],
        psk: Option<&[u8; 32]>,
        now_ns: u64,
        memory: &mut usize,
        out: &mut Vec<Action>,
    ) -> Result<Established> {
        let offer = self.get(sid)?;
        if offer.auth.is_some() {
            return Err(Error::State(
                "this side has authenticated already: call resend",
            ));
        }
        let (_, peer) = offer.chosen.ok_or(Error::State("no RESP has opened"))?;
        let mut schedule = locked(&offer.schedule);
        let keyed = schedule.keyed()?;
        let (mask_tx, mask_rx) = (keyed.mask_i(), keyed.mask_r());
        let seal = Seal::new(&keyed.k_hi(), &mask_tx)?;
        let remote_sid = keyed.sid_r;
        let mut auth = Outgoing::new(seal, remote_sid, e3, &mut offer.sizes)?;
        let keys = schedule.finish(e3, psk)?;
        let th4 = schedule.th4()?.to_vec();
        let mode = schedule.mode();
        drop(schedule);
        auth.send(peer, out)?;
        let before = offer.bytes();
        offer.auth = Some(auth);
        offer.stash.clear();
        // Of the key parts only the chosen one's seal is needed, to recognise repeats of RESP.
        let chosen = offer.chosen.map(|(id, _)| id);
        offer
            .candidates
            .retain(|candidate| chosen == Some(candidate.id));
        for candidate in &mut offer.candidates {
            candidate.halves = [None, None];
        }
        offer.touched_ns = now_ns;
        *memory = (*memory + offer.bytes()).saturating_sub(before);
        Ok(Established {
            keys,
            mask_tx,
            mask_rx,
            local_sid: sid,
            remote_sid,
            source: peer,
            th4,
            initiator: true,
            mode,
            early: Vec::new(),
            public: false,
        })
    }

    pub(crate) fn resend(&mut self, sid: u32, now_ns: u64, out: &mut Vec<Action>) -> Result<()> {
        let offer = self.get(sid)?;
        let (_, peer) = offer.chosen.ok_or(Error::State("no RESP has opened"))?;
        offer.touched_ns = now_ns;
        let auth = offer
            .auth
            .as_mut()
            .ok_or(Error::State("AUTH was not sent yet"))?;
        auth.send(peer, out)
    }

    pub(crate) fn abandon(&mut self, sid: u32, memory: &mut usize) -> bool {
        let Some(offer) = self.table.remove(&sid) else {
            return false;
        };
        for endpoint in &offer.endpoints {
            self.sources.remove(endpoint.to, sid);
        }
        *memory = memory.saturating_sub(offer.bytes());
        true
    }

    pub(crate) fn expire(&mut self, now_ns: u64, memory: &mut usize) {
        let idle: Vec<u32> = self
            .table
            .iter()
            .filter(|(_, offer)| now_ns.saturating_sub(offer.touched_ns) >= IDLE_NS)
            .map(|(sid, _)| *sid)
            .collect();
        for sid in idle {
            self.abandon(sid, memory);
        }
        for offer in self.table.values_mut() {
            let before = offer.bytes();
            offer.candidates.retain(|candidate| {
                candidate.key.is_some()
                    || candidate.whole().is_some()
                    || now_ns.saturating_sub(candidate.born_ns) < ASSEMBLY_NS
            });
            for key in offer
                .candidates
                .iter_mut()
                .filter_map(|other| other.key.as_mut())
            {
                key.incoming.expire(now_ns);
            }
            *memory = (*memory + offer.bytes()).saturating_sub(before);
        }
    }

    /// When something here runs out, at the earliest.
    pub(crate) fn next_expiry(&self) -> Option<u64> {
        let offers = self.table.values().map(|offer| offer.touched_ns + IDLE_NS);
        let parts = self.table.values().flat_map(|offer| &offer.candidates);
        let parts = parts.filter(|part| part.key.is_none() && part.whole().is_none());
        offers
            .chain(parts.map(|part| part.born_ns + ASSEMBLY_NS))
            .min()
    }
}
