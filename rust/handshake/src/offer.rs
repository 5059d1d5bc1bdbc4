//! One handshake of the initiator: the endpoints it races, the key parts that came back, its AUTH.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use aws_lc_rs::constant_time;

use crate::body::{Hello, InitPart, Proof, RespPart, Retry};
use crate::budget::Unproven;
use crate::cookie::COOKIE;
use crate::door::{self, Body, DoorKey};
use crate::error::{Error, Result};
use crate::event::{Action, Established, Event};
use crate::flight::{Incoming, Outgoing, Seal};
use crate::gate::locked;
use crate::labels;
use crate::limits::{ASSEMBLY_NS, Limits};
use crate::rng::{self, Rng, SeededRng};
use crate::schedule::{self, KeySchedule, Keyed, LOOKUP_TAG};
use crate::suite::{Mode, Suite};
use crate::ticket::Ticket;
use crate::transcript::hash_cut;

/// Sizes of a HELLO: towards an endpoint, towards a bare hint.
const HELLO_SIZES: (usize, usize) = (160, door::MAX);
const HINT_SIZES: (usize, usize) = (160, 300);
const LOOKUP_SIZES: (usize, usize) = (160, 192);
/// Door datagrams that one offer accepts in all.
const DOOR_DATAGRAMS: usize = 64;
/// The least size of an INIT with a ticket.
const TICKET_SIZE: usize = 980;

/// How often the first INIT with a ticket is said at once. Before AUTH the responder answers with no
/// more than three times what came: so a RESP of 11.7 KB (S2: 18 KB) is whole in the first trip.
pub(crate) fn copies(suite: Suite) -> usize {
    match suite {
        Suite::S1 => 2,
        Suite::S2 => 3,
    }
}

pub(crate) struct Endpoint {
    pub(crate) to: SocketAddr,
    pub(crate) bare_hint: bool,
    pub(crate) hellos: u32,
    pub(crate) inits: u32,
    pub(crate) cookie: Option<[u8; COOKIE]>,
    pub(crate) ticket: Option<Ticket>,
    /// INITs sent with the ticket.
    pub(crate) shown: u32,
}

impl Endpoint {
    /// Whether an answer to an INIT may come from there.
    fn may_answer(&self) -> bool {
        self.cookie.is_some() || self.shown > 0
    }
}

pub(crate) struct Key {
    pub(crate) keyed: Keyed,
    pub(crate) seal: Seal,
    pub(crate) incoming: Incoming,
}

/// A key part: sidR || Y || ct, in two halves.
pub(crate) struct Candidate {
    pub(crate) id: u32,
    digest: [u8; 16],
    pub(crate) halves: [Option<Vec<u8>>; 2],
    /// Where the half that made it whole came from.
    pub(crate) source: Option<SocketAddr>,
    pub(crate) born_ns: u64,
    pub(crate) key: Option<Box<Key>>,
}

impl Candidate {
    pub(crate) fn bytes(&self) -> usize {
        let halves: usize = self.halves.iter().flatten().map(Vec::len).sum();
        halves + self.key.as_ref().map_or(0, |key| key.incoming.bytes())
    }
    pub(crate) fn whole(&self) -> Option<Vec<u8>> {
        let [Some(first), Some(second)] = &self.halves else {
            return None;
        };
        Some([first.as_slice(), second].concat())
    }
}

pub(crate) struct Offer {
    pub(crate) schedule: Arc<Mutex<KeySchedule>>,
    pub(crate) door: DoorKey,
    pub(crate) offer: schedule::Offer,
    pub(crate) endpoints: Vec<Endpoint>,
    pub(crate) nonces: Vec<[u8; door::NONCE]>,
    pub(crate) candidates: Vec<Candidate>,
    pub(crate) next_candidate: u32,
    pub(crate) stash: VecDeque<(SocketAddr, Vec<u8>)>,
    /// The candidate whose RESP opened, and where it came from.
    pub(crate) chosen: Option<(u32, SocketAddr)>,
    pub(crate) auth: Option<Outgoing>,
    pub(crate) touched_ns: u64,
    /// Draws the sizes of AUTH's fragments.
    pub(crate) sizes: SeededRng,
}

impl Offer {
    pub(crate) fn bytes(&self) -> usize {
        let stash: usize = self.stash.iter().map(|(_, datagram)| datagram.len()).sum();
        stash + self.candidates.iter().map(Candidate::bytes).sum::<usize>()
    }

    pub(crate) fn send_hello(
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

    pub(crate) fn send_init(
        &mut self,
        at: usize,
        rng: &mut dyn Rng,
        out: &mut Vec<Action>,
    ) -> Result<()> {
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
    pub(crate) fn on_door(
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
    pub(crate) fn key(&mut self, at: usize, ss: &[u8]) -> Result<()> {
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
    pub(crate) fn establish(&mut self, at: usize, ss: &[u8]) -> Result<Box<Established>> {
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
    pub(crate) fn open(
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
    pub(crate) fn keep(
        &mut self,
        datagram: &[u8],
        source: SocketAddr,
        limits: &Limits,
        room: usize,
    ) -> bool {
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
    pub(crate) fn drain_stash(&mut self, now_ns: u64, out: &mut Vec<Action>) {
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
