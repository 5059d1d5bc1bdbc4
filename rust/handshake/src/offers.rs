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

use aws_lc_rs::constant_time;

use crate::body::{Hello, InitPart, Proof, RespPart, Retry};
use crate::budget::Unproven;
use crate::cookie::COOKIE;
use crate::door::{self, Body, DoorKey};
use crate::error::{Error, Fault, Result};
use crate::event::{Action, Established, Event, Tried};
use crate::flight::{Incoming, Outgoing, Seal};
use crate::gate::locked;
use crate::labels;
use crate::limits::{ASSEMBLY_NS, IDLE_NS, Limits};
use crate::rng::{self, Rng, SeededRng};
use crate::schedule::{self, KeySchedule, Keyed, LOOKUP_TAG};
use crate::sources::Sources;
use crate::suite::{Mode, Suite};
use crate::ticket::Ticket;
use crate::transcript::hash_cut;

/// Sizes of a HELLO: towards an endpoint, towards a bare hint.
const HELLO_SIZES: (usize, usize) = (160, door::MAX);
const HINT_SIZES: (usize, usize) = (160, 300);
const LOOKUP_SIZES: (usize, usize) = (160, 192);
/// Door datagrams that one offer accepts in all.
const DOOR_DATAGRAMS: usize = 64;
/// After so many INITs under one cookie the responder has perhaps restarted: say HELLO again too.
const INITS_PER_COOKIE: u32 = 2;
/// INITs sent on the strength of a ticket, before HELLO is said in turn with it.
const INITS_PER_TICKET: u32 = 2;
/// The least size of an INIT with a ticket.
const TICKET_SIZE: usize = 980;

/// How often the first INIT with a ticket is said at once. Before AUTH the responder answers with no
/// more than three times what came: so a RESP of 11.7 KB (S2: 18 KB) is whole in the first trip.
fn copies(suite: Suite) -> usize {
    match suite {
        Suite::S1 => 2,
        Suite::S2 => 3,
    }
}

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

struct Endpoint {
    to: SocketAddr,
    bare_hint: bool,
    hellos: u32,
    inits: u32,
    cookie: Option<[u8; COOKIE]>,
    ticket: Option<Ticket>,
    /// INITs sent with the ticket.
    shown: u32,
}

impl Endpoint {
    /// Whether an answer to an INIT may come from there.
    fn may_answer(&self) -> bool {
        self.cookie.is_some() || self.shown > 0
    }
}

struct Key {
    keyed: Keyed,
    seal: Seal,
    incoming: Incoming,
}

/// A key part: sidR || Y || ct, in two halves.
struct Candidate {
    id: u32,
    digest: [u8; 16],
    halves: [Option<Vec<u8>>; 2],
    /// Where the half that made it whole came from.
    source: Option<SocketAddr>,
    born_ns: u64,
    key: Option<Box<Key>>,
}

impl Candidate {
    fn bytes(&self) -> usize {
        let halves: usize = self.halves.iter().flatten().map(Vec::len).sum();
        halves + self.key.as_ref().map_or(0, |key| key.incoming.bytes())
    }
    fn whole(&self) -> Option<Vec<u8>> {
        let [Some(first), Some(second)] = &self.halves else {
            return None;
        };
        Some([first.as_slice(), second].concat())
    }
}

struct Offer {
    schedule: Arc<Mutex<KeySchedule>>,
    door: DoorKey,
    offer: schedule::Offer,
    endpoints: Vec<Endpoint>,
    nonces: Vec<[u8; door::NONCE]>,
    candidates: Vec<Candidate>,
    next_candidate: u32,
    stash: VecDeque<(SocketAddr, Vec<u8>)>,
    /// The candidate whose RESP opened, and where it came from.
    chosen: Option<(u32, SocketAddr)>,
    auth: Option<Outgoing>,
    touched_ns: u64,
    /// Draws the sizes of AUTH's fragments.
    sizes: SeededRng,
}

/// All handshakes that this node began.
#[derive(Default)]
pub(crate) struct Offers {
    table: BTreeMap<u32, Offer>,
    sources: Sources,
}

impl Offer {
    fn bytes(&self) -> usize {
        let stash: usize = self.stash.iter().map(|(_, datagram)| datagram.len()).sum();
        stash + self.candidates.iter().map(Candidate::bytes).sum::<usize>()
    }

    fn send_hello(
        &mut self,
        at: usize,
        proven: bool,
        now_ns: u64,
        budget: &mut Unproven,
        rng: &mut dyn Rng,
        out: &mut Vec<Action>,
    ) -> Result<bool> {
        let Some(endpoint) = self.endpoints.get_mut(at) else {
            return Ok(false);
        };
        if endpoint.bare_hint && endpoint.hellos > 0 {
            return Ok(false);
        }
        let (low, high) = if self.offer.mode == Mode::Lookup {
            LOOKUP_SIZES
        } else if endpoint.bare_hint {
            HINT_SIZES
        } else {
            HELLO_SIZES
        };
        let size = rng::between(rng, low, high)?;
        if !proven && !budget.take(endpoint.to, size, now_ns) {
            return Ok(false);
        }
        let body = Hello {
            suite: self.offer.suite,
            mode: self.offer.mode,
            sid_i: self.offer.sid_i,
            n_i: self.offer.n_i,
            com: self.offer.com,
        };
        let bytes = self.door.seal(Body::Hello, &body.emit(), size, size, rng)?;
        endpoint.hellos += 1;
        out.push(Action::Send {
            to: endpoint.to,
            bytes,
        });
        Ok(true)
    }

    fn send_init(&mut self, at: usize, rng: &mut dyn Rng, out: &mut Vec<Action>) -> Result<()> {
        let Some(endpoint) = self.endpoints.get_mut(at) else {
            return Ok(());
        };
        let (proof, times, low) = match (endpoint.cookie, &endpoint.ticket) {
            (Some(cookie), _) => {
                endpoint.inits += 1;
                (Proof::Cookie(cookie), 1, 0)
            }
            (None, Some(ticket)) => {
                let first = endpoint.shown == 0;
                let times = if first { copies(self.offer.suite) } else { 1 };
                endpoint.shown += 1;
                let shown = ticket.shown(&self.offer.com);
                (Proof::Ticket(Box::new(shown)), times, TICKET_SIZE)
            }
            (None, None) => return Ok(()),
        };
        let siblings = self.offer.hashes.iter().rev();
        let parts = self.offer.halves.iter().zip(siblings).enumerate();
        for (k, (half, sibling)) in std::iter::repeat_n(parts, times).flatten() {
            let body = InitPart {
                proof: proof.clone(),
                suite: self.offer.suite,
                mode: self.offer.mode,
                k,
                sid_i: self.offer.sid_i,
                n_i: self.offer.n_i,
                sibling: *sibling,
                half: half.clone(),
            };
            let (kind, body) = (body.door_kind(), body.emit());
            let high = door::ceiling(self.offer.mode, body.len());
            let bytes = self.door.seal(kind, &body, low, high, rng)?;
            out.push(Action::Send {
                to: endpoint.to,
                bytes,
            });
        }
        Ok(())
    }

    /// A door datagram from one of our endpoints: RETRY or a key part.
    #[allow(clippy::too_many_arguments)]
    fn on_door(
        &mut self,
        opened: door::Opened,
        source: SocketAddr,
        now_ns: u64,
        limits: &Limits,
        room: usize,
        rng: &mut dyn Rng,
        out: &mut Vec<Action>,
    ) -> Option<()> {
        let at = self
            .endpoints
            .iter()
            .position(|endpoint| endpoint.to == source)?;
        let (kind, body) = opened.content?;
        match kind {
            Body::Retry => {
                let retry = Retry::parse(&body)?;
                if retry.sid_i != self.offer.sid_i || retry.n_i != self.offer.n_i {
                    return None;
                }
                self.fresh(opened.nonce)?;
                let endpoint = self.endpoints.get_mut(at)?;
                if self.chosen.is_some() || endpoint.cookie == Some(retry.cookie) {
                    return None;
                }
                endpoint.cookie = Some(retry.cookie);
                endpoint.inits = 0;
                self.touched_ns = now_ns;
                self.send_init(at, rng, out).ok()
            }
            Body::Resp => {
                let part = RespPart::parse(&body)?;
                let ours = part.sid_i == self.offer.sid_i
                    && part.suite == self.offer.suite
                    && part.mode == self.offer.mode
                    && self.endpoints.get(at)?.may_answer();
                if !ours {
                    return None;
                }
                self.fresh(opened.nonce)?;
                self.on_part(part, source, now_ns, limits, room, out)
            }
            Body::Hello | Body::Init | Body::TicketInit => None,
        }
    }

    /// Remember a nonce; None for a replay, and for everything once the offer has seen too much.
    fn fresh(&mut self, nonce: [u8; door::NONCE]) -> Option<()> {
        if self.nonces.len() >= DOOR_DATAGRAMS || self.nonces.contains(&nonce) {
            return None;
        }
        self.nonces.push(nonce);
        Some(())
    }

    fn on_part(
        &mut self,
        part: RespPart,
        source: SocketAddr,
        now_ns: u64,
        limits: &Limits,
        room: usize,
        out: &mut Vec<Action>,
    ) -> Option<()> {
        if part.half.len() > room || self.auth.is_some() {
            return None;
        }
        let at = match self
            .candidates
            .iter()
            .position(|other| other.digest == part.digest)
        {
            Some(at) => at,
            None => self.place_for(part.digest, now_ns, limits)?,
        };
        let candidate = self.candidates.get_mut(at)?;
        let slot = candidate.halves.get_mut(part.k)?;
        if slot.is_some() {
            return None;
        }
        *slot = Some(part.half);
        let bytes = candidate.whole()?;
        candidate.source = Some(source);
        let id = candidate.id;
        self.touched_ns = now_ns;
        let parsed = parse_key_part(self.offer.suite, &bytes, &part.digest);
        let Some((sid_r, y, ct, _)) = parsed.filter(|_| id < limits.candidates_total) else {
            self.candidates.remove(at);
            return None;
        };
        out.push(Action::Event(Event::Candidate {
            sid: self.offer.sid_i,
            candidate: id,
            sid_r,
            y,
            ct,
            source,
        }));
        Some(())
    }

    /// A place for a new key part: at most four, the oldest stale one goes.
    fn place_for(&mut self, digest: [u8; 16], now_ns: u64, limits: &Limits) -> Option<usize> {
        if self.candidates.len() >= limits.candidates {
            let stale = self
                .candidates
                .iter()
                .position(|other| now_ns.saturating_sub(other.born_ns) >= ASSEMBLY_NS)?;
            self.candidates.remove(stale);
        }
        let id = self.next_candidate;
        self.next_candidate = id.saturating_add(1);
        self.candidates.push(Candidate {
            id,
            digest,
            halves: [None, None],
            source: None,
            born_ns: now_ns,
            key: None,
        });
        Some(self.candidates.len() - 1)
    }

    /// Key the candidate at *at* with the secret that its ciphertext held.
    fn key(&mut self, at: usize, ss: &[u8]) -> Result<()> {
        let gone = Error::State("this key part is gone");
        let candidate = self.candidates.get_mut(at).ok_or(gone.clone())?;
        if candidate.key.is_some() {
            return Err(Error::State("this key part is keyed already"));
        }
        let bytes = candidate.whole().ok_or(gone.clone())?;
        let (sid_r, y, ct, _) =
            parse_key_part(self.offer.suite, &bytes, &candidate.digest).ok_or(gone)?;
        let keyed = locked(&self.schedule).key_candidate(sid_r, &y, &ct, ss)?;
        let seal = Seal::new(&keyed.k_hr(), &keyed.mask_r())?;
        candidate.key = Some(Box::new(Key {
            keyed,
            seal,
            incoming: Incoming::default(),
        }));
        Ok(())
    }

    /// A lookup: the session, if the key part at *at* ends with the tag of its own key.
    fn establish(&mut self, at: usize, ss: &[u8]) -> Result<Box<Established>> {
        let gone = Error::State("this key part is gone");
        let candidate = self.candidates.get(at).ok_or(gone.clone())?;
        let bytes = candidate.whole().ok_or(gone.clone())?;
        let source = candidate.source.ok_or(gone.clone())?;
        let (sid_r, y, ct, tag) =
            parse_key_part(self.offer.suite, &bytes, &candidate.digest).ok_or(gone)?;
        let mut schedule = locked(&self.schedule);
        let keyed = schedule.key_candidate(sid_r, &y, &ct, ss)?;
        constant_time::verify_slices_are_equal(&keyed.lookup_tag(), &tag)
            .map_err(|_| Error::Confirmation)?;
        let (mask_tx, mask_rx) = (keyed.mask_i(), keyed.mask_r());
        schedule.adopt(keyed)?;
        let keys = schedule.finish_lookup()?;
        Ok(Box::new(Established {
            keys,
            mask_tx,
            mask_rx,
            local_sid: self.offer.sid_i,
            remote_sid: sid_r,
            source,
            th4: schedule.th4()?.to_vec(),
            initiator: true,
            mode: Mode::Lookup,
            early: Vec::new(),
            public: false,
        }))
    }

    /// Try a masked datagram against every keyed candidate. Some(()) if one opened it.
    fn open(
        &mut self,
        datagram: &[u8],
        source: SocketAddr,
        now_ns: u64,
        out: &mut Vec<Action>,
    ) -> Option<()> {
        let sid = self.offer.sid_i;
        let chosen = self.chosen;
        for candidate in &mut self.candidates {
            let Some(key) = &mut candidate.key else {
                continue;
            };
            if let Some((id, _)) = chosen {
                // Repeats of the chosen RESP end here; what belongs to another key part is kept
                // raw, in case the chosen one is rejected.
                if candidate.id == id && key.seal.open_fragment(sid, datagram).is_some() {
                    return Some(());
                }
                continue;
            }
            let Some(fragment) = key.seal.open_fragment(sid, datagram) else {
                continue;
            };
            self.touched_ns = now_ns;
            if let Some(e2) = key.incoming.insert(fragment, now_ns) {
                let mut schedule = locked(&self.schedule);
                let moved = schedule
                    .adopt(key.keyed.clone())
                    .and_then(|()| schedule.absorb_resp(&e2));
                if moved.is_ok() {
                    self.chosen = Some((candidate.id, source));
                    out.push(Action::Event(Event::Message {
                        sid,
                        bytes: e2,
                        source,
                    }));
                }
            }
            return Some(());
        }
        None
    }

    /// Keep a masked datagram until a key part that opens it is keyed.
    fn keep(&mut self, datagram: &[u8], source: SocketAddr, limits: &Limits, room: usize) -> bool {
        let expects = self.auth.is_none()
            && self.offer.mode != Mode::Lookup
            && self
                .endpoints
                .iter()
                .any(|end| end.to == source && end.may_answer());
        if !expects || datagram.len() > room || limits.stash == 0 {
            return false;
        }
        if self.stash.len() >= limits.stash {
            self.stash.pop_front();
        }
        self.stash.push_back((source, datagram.to_vec()));
        true
    }

    /// Open what was kept, once a key has come.
    fn drain_stash(&mut self, now_ns: u64, out: &mut Vec<Action>) {
        // Once one has opened whole, the rest stays kept: `open` leaves it alone.
        for (source, datagram) in std::mem::take(&mut self.stash) {
            if self.open(&datagram, source, now_ns, out).is_none() {
                self.stash.push_back((source, datagram));
            }
        }
    }
}

/// sidR, Y, ct, and the tag of a lookup (else nothing).
type KeyPart = (u32, [u8; 32], Vec<u8>, Vec<u8>);

fn parse_key_part(suite: Suite, bytes: &[u8], digest: &[u8; 16]) -> Option<KeyPart> {
    let (sid_r, rest) = bytes.split_first_chunk::<4>()?;
    let (y, rest) = rest.split_first_chunk::<32>()?;
    let (ct, tag) = rest.split_at_checked(suite.ct_len())?;
    let expected = hash_cut::<16>(suite, labels::DIGEST, &[sid_r, y, ct]).ok()?;
    let sid_r = u32::from_be_bytes(*sid_r);
    let sound = expected == *digest && sid_r != 0 && (tag.is_empty() || tag.len() == LOOKUP_TAG);
    sound.then(|| (sid_r, *y, ct.to_vec(), tag.to_vec()))
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
