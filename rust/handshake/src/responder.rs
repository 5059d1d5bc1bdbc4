//! The responder: stateless until a cookie comes back, then bounded in every respect.
//!
//! ```text
//!  HELLO -> RETRY (nothing stored)
//!  INIT k=0,1 -> cookie -> com -> assembly (per source and sid, 3 s) -> Event::Init
//!  respond() -> RESP, cached by com -> AUTH opens whole -> Event::Message(e3) -> accept()
//!  in a lookup: respond() -> RESP, cached for a while, and the session
//! ```
//! A public door (the commons) has its own rates and at most half of the places: strangers there
//! never take a member's.
//!
//! Invariant: before a valid cookie or ticket only the ring of nonces moves; each com is processed once.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use crate::answer::{Answer, Place, note};
use crate::body::{Hello, InitPart, Proof, Retry};
use crate::budget::{Admission, prefix};
use crate::cookie::{COOKIE, CookieJar};
use crate::door::{Body, DoorKey};
use crate::early::Early;
use crate::error::{Error, Result};
use crate::event::{Action, Established, Event, Init};
use crate::flight::{Incoming, Outgoing, Seal};
use crate::gate::{Door, locked};
use crate::labels;
use crate::limits::{ASSEMBLY_NS, Limits, RESEND_GAP_NS, WAITING_NS};
use crate::replay::Seen;
use crate::rng::Rng;
use crate::schedule::{KeySchedule, commitment, half_hash, halves};
use crate::sources::Sources;
use crate::suite::Mode;
use crate::ticket::Tickets;
use crate::transcript::hash_cut;
use veilnet_wire::Kind;

struct Assembly {
    com: [u8; 32],
    halves: [Option<Vec<u8>>; 2],
    /// Bytes of the datagrams, in all.
    came: usize,
    born_ns: u64,
}

impl Assembly {
    fn bytes(&self) -> usize {
        self.halves.iter().flatten().map(Vec::len).sum()
    }
}

/// A whole INIT that Python has not answered.
struct Waiting {
    places: Vec<Place>,
    born_ns: u64,
    public: bool,
}

/// Whether one more INIT through *door* may wait for Python.
fn waits(waiting: &BTreeMap<[u8; 32], Waiting>, door: &Door, limits: &Limits) -> bool {
    let strangers = || waiting.values().filter(|other| other.public).count();
    waiting.len() < limits.waiting && (door.replay_set || strangers() < limits.waiting / 2)
}

/// Everything the responder knows.
pub(crate) struct Responder {
    cookies: CookieJar,
    pub(crate) tickets: Tickets,
    admission: Admission,
    admission_public: Admission,
    /// Commitments whose INIT showed a valid cookie: their HELLOs meet silence. Persisted.
    pub(crate) coms: Seen<[u8; 32]>,
    processed: Seen<[u8; 32]>,
    assemblies: BTreeMap<(SocketAddr, u32), Assembly>,
    waiting: BTreeMap<[u8; 32], Waiting>,
    answers: BTreeMap<u32, Answer>,
    by_com: BTreeMap<[u8; 32], u32>,
    sources: Sources,
}

impl Responder {
    pub(crate) fn new(limits: &Limits, rng: &mut dyn Rng) -> Result<Responder> {
        Ok(Responder {
            cookies: CookieJar::new(rng)?,
            tickets: Tickets::new(limits.spent, rng)?,
            admission: Admission::new(limits.per_prefix, limits.global, limits.buckets),
            admission_public: Admission::new(limits.per_prefix, limits.global, limits.buckets),
            coms: Seen::new(limits.coms),
            processed: Seen::new(limits.processed),
            assemblies: BTreeMap::new(),
            waiting: BTreeMap::new(),
            answers: BTreeMap::new(),
            by_com: BTreeMap::new(),
            sources: Sources::default(),
        })
    }

    pub(crate) fn contains(&self, sid: u32) -> bool {
        self.answers.contains_key(&sid)
    }

    /// A HELLO: bake a cookie, store nothing, answer with no more bytes than came.
    pub(crate) fn on_hello(
        &mut self,
        body: &[u8],
        received: usize,
        door: &Door,
        source: SocketAddr,
        now_ns: u64,
        rng: &mut dyn Rng,
    ) -> Option<Action> {
        let hello = Hello::parse(body)?;
        let (sid_i, n_i) = (hello.sid_i, hello.n_i);
        self.retry((sid_i, n_i, hello.com), received, door, source, now_ns, rng)
    }

    /// A cookie for who sends that commitment from *source*.
    pub(crate) fn cookie(
        &mut self,
        source: SocketAddr,
        com: &[u8; 32],
        now_ns: u64,
        rng: &mut dyn Rng,
    ) -> Result<[u8; COOKIE]> {
        self.cookies.rotate(now_ns, rng)?;
        Ok(self.cookies.bake(source, com))
    }

    /// A cookie for who names that commitment, unless it showed one already.
    #[allow(clippy::too_many_arguments)]
    fn retry(
        &mut self,
        (sid_i, n_i, com): (u32, [u8; 16], [u8; 32]),
        received: usize,
        door: &Door,
        source: SocketAddr,
        now_ns: u64,
        rng: &mut dyn Rng,
    ) -> Option<Action> {
        if door.replay_set && self.coms.contains(&com) {
            return None;
        }
        let cookie = self.cookie(source, &com, now_ns, rng).ok()?;
        let retry = Retry { sid_i, n_i, cookie };
        let bytes = door
            .key
            .seal(Body::Retry, &retry.emit(), 0, received, rng)
            .ok()?;
        (bytes.len() <= received).then_some(Action::Send { to: source, bytes })
    }

    /// A fragment of INIT; *received* bytes came from *source*.
    #[allow(clippy::too_many_arguments)] // clock, random source and outbox are arguments
    pub(crate) fn on_init(
        &mut self,
        part: InitPart,
        door: &Door,
        (source, received): (SocketAddr, usize),
        now_ns: u64,
        limits: &Limits,
        memory: &mut usize,
        rng: &mut dyn Rng,
        out: &mut Vec<Action>,
    ) -> Option<()> {
        let own = half_hash(
            part.suite, part.mode, part.sid_i, &part.n_i, part.k, &part.half,
        );
        let own = own.ok()?;
        let hashes = if part.k == 0 {
            [own, part.sibling]
        } else {
            [part.sibling, own]
        };
        let com = commitment(part.suite, &hashes).ok()?;
        self.cookies.rotate(now_ns, rng).ok()?;
        let known = self.by_com.contains_key(&com)
            || self.waiting.contains_key(&com)
            || self.processed.contains(&com);
        let ticket = match &part.proof {
            Proof::Cookie(cookie) if self.cookies.verify(cookie, source, &com) => None,
            Proof::Cookie(_) => return None,
            Proof::Ticket(shown) => {
                let valid = self.tickets.open(shown, source, &com, now_ns);
                // Of our own making but spent, or of another run or for another address: let the
                // address be proven now. One RETRY for both fragments.
                let Some(valid) =
                    valid.filter(|ticket| known || self.tickets.is_fresh(ticket, now_ns))
                else {
                    let name = (part.sid_i, part.n_i, com);
                    let again = part.k == 0;
                    out.extend(
                        again.then(|| self.retry(name, received, door, source, now_ns, rng))?,
                    );
                    return None;
                };
                Some(valid)
            }
        };
        // From here on the source is proven, by a ticket its IP address only.
        let came = ticket.as_ref().map(|_| received);
        if door.replay_set {
            self.coms.insert(com);
        }
        if let Some(sid) = self.by_com.get(&com).copied() {
            return self.again(sid, (source, came), now_ns, limits, rng, out);
        }
        if let Some(waiting) = self.waiting.get_mut(&com) {
            note(&mut waiting.places, source, came);
            return None;
        }
        if self.processed.contains(&com) {
            return None;
        }
        let (mut init, whole) =
            self.assemble(part, com, door, (source, received), now_ns, limits, memory)?;
        if let Some(ticket) = ticket {
            self.tickets.spend(&ticket);
            init.holder = Some(ticket.holder);
        }
        self.processed.insert(com);
        let mut places = Vec::new();
        note(&mut places, source, came.map(|_| whole));
        self.waiting.insert(
            com,
            Waiting {
                places,
                born_ns: now_ns,
                public: !door.replay_set,
            },
        );
        out.push(Action::Event(Event::Init(init)));
        Some(())
    }

    /// Join the halves; with them, the bytes that came. Each was checked alone against h_k and com, so equal com means equal rest.
    #[allow(clippy::too_many_arguments)]
    fn assemble(
        &mut self,
        part: InitPart,
        com: [u8; 32],
        door: &Door,
        (source, received): (SocketAddr, usize),
        now_ns: u64,
        limits: &Limits,
        memory: &mut usize,
    ) -> Option<(Init, usize)> {
        let key = (source, part.sid_i);
        self.drop_stale(&key, now_ns, memory);
        if *memory + part.half.len() > limits.assembly_bytes {
            return None;
        }
        if !self.assemblies.contains_key(&key) {
            let admission = if door.replay_set {
                &mut self.admission
            } else {
                &mut self.admission_public
            };
            if !waits(&self.waiting, door, limits) || !admission.admit(source, now_ns) {
                return None;
            }
            let assembly = Assembly {
                com,
                halves: [None, None],
                came: 0,
                born_ns: now_ns,
            };
            self.assemblies.insert(key, assembly);
        }
        let assembly = self.assemblies.get_mut(&key)?;
        let slot = assembly.halves.get_mut(part.k)?;
        if assembly.com != com {
            return None;
        }
        assembly.came += received;
        if slot.is_some() {
            return None;
        }
        *memory += part.half.len();
        *slot = Some(part.half);
        let [Some(first), Some(second)] = &assembly.halves else {
            return None;
        };
        let bytes = [first.as_slice(), second].concat();
        let came = assembly.came;
        *memory = memory.saturating_sub(assembly.bytes());
        self.assemblies.remove(&key);
        if !waits(&self.waiting, door, limits) {
            return None;
        }
        let (x, ek) = bytes.split_first_chunk::<32>()?;
        let init = Init {
            door: door.id,
            source,
            mode: part.mode,
            suite: part.suite,
            sid_i: part.sid_i,
            n_i: part.n_i,
            com,
            x: *x,
            ek: ek.to_vec(),
            holder: None,
        };
        Some((init, came))
    }

    fn drop_stale(&mut self, key: &(SocketAddr, u32), now_ns: u64, memory: &mut usize) {
        let stale = self
            .assemblies
            .get(key)
            .is_some_and(|other| now_ns.saturating_sub(other.born_ns) >= ASSEMBLY_NS);
        if stale && let Some(assembly) = self.assemblies.remove(key) {
            *memory = memory.saturating_sub(assembly.bytes());
        }
    }

    /// The same com with a valid cookie or ticket: the cached RESP again, sealed anew.
    fn again(
        &mut self,
        sid: u32,
        (source, came): (SocketAddr, Option<usize>),
        now_ns: u64,
        limits: &Limits,
        rng: &mut dyn Rng,
        out: &mut Vec<Action>,
    ) -> Option<()> {
        let answer = self.answers.get_mut(&sid)?;
        if answer.message.is_some() {
            return None;
        }
        let known = answer.places.iter().any(|place| place.at == source);
        if !note(&mut answer.places, source, came) {
            return None;
        }
        if !known && !self.sources.insert(source, sid, limits.per_source) {
            answer.places.retain(|place| place.at != source);
            return None;
        }
        let at = answer.places.iter().position(|place| place.at == source)?;
        let mut place = answer.places.swap_remove(at);
        let owed = place.allowance.is_some_and(|allowance| allowance.owed > 0);
        let due = !known || owed || now_ns.saturating_sub(place.sent_ns) >= RESEND_GAP_NS;
        let sent = if due {
            place.sent_ns = now_ns;
            answer.touched_ns = now_ns;
            answer.send_to(&mut place, rng, out)
        } else {
            Ok(())
        };
        answer.places.push(place);
        sent.ok()
    }

    #[allow(clippy::too_many_arguments)]
    pub(crate) fn respond(
        &mut self,
        schedule: &Arc<Mutex<KeySchedule>>,
        init: &Init,
        (door, public): (DoorKey, bool),
        e2: &[u8],
        now_ns: u64,
        limits: &Limits,
        memory: &mut usize,
        rng: &mut dyn Rng,
        out: &mut Vec<Action>,
    ) -> Result<Option<Box<Established>>> {
        if self.by_com.contains_key(&init.com) {
            return Err(Error::State("this INIT was answered already"));
        }
        let mut inner = locked(schedule);
        if inner.is_initiator() || *inner.com() != init.com {
            return Err(Error::State("the schedule was not made for this INIT"));
        }
        let sid = inner.local_sid();
        if self.answers.contains_key(&sid) {
            return Err(Error::SessionExists(sid));
        }
        let keyed = inner.keyed()?;
        let (mask_tx, mask_rx) = (keyed.mask_r(), keyed.mask_i());
        let lookup = init.mode == Mode::Lookup;
        let sealed = if lookup {
            None
        } else {
            let seal = Seal::new(&keyed.k_hr(), &mask_tx)?;
            let resp = Outgoing::new(seal, init.sid_i, e2, rng)?;
            Some((resp, Seal::new(&keyed.k_hi(), &mask_rx)?))
        };
        if lookup && !e2.is_empty() {
            return Err(Error::State("a lookup has no identities"));
        }
        let key_part = inner.take_key_part()?;
        let (sid_bytes, rest) = key_part.split_at_checked(4).unwrap_or_default();
        let (y, rest) = rest.split_at_checked(32).unwrap_or_default();
        let (ct, _) = rest
            .split_at_checked(init.suite.ct_len())
            .unwrap_or_default();
        let digest = hash_cut(init.suite, labels::DIGEST, &[sid_bytes, y, ct])?;
        let mut session = None;
        if lookup {
            session = Some((inner.finish_lookup()?, inner.th4()?.to_vec()));
        } else {
            inner.absorb_resp(e2)?;
        }
        drop(inner);

        let waiting = self.waiting.remove(&init.com);
        let places = waiting.map_or_else(
            || {
                let mut places = Vec::new();
                // Nobody knows any more what came: nothing goes out on a ticket's strength.
                note(&mut places, init.source, init.holder.map(|_| 0));
                places
            },
            |waiting| waiting.places,
        );
        self.make_room(public, limits, memory);
        let mut answer = Answer {
            schedule: schedule.clone(),
            com: init.com,
            door,
            public,
            suite: init.suite,
            mode: init.mode,
            sid_i: init.sid_i,
            digest,
            halves: halves(&key_part),
            sealed,
            mask_tx,
            mask_rx,
            places: Vec::new(),
            incoming: Incoming::default(),
            early: Early::default(),
            message: None,
            attempt: 0,
            established_ns: lookup.then_some(now_ns),
            touched_ns: now_ns,
        };
        for mut place in places {
            if self.sources.insert(place.at, sid, limits.per_source) {
                answer.send_to(&mut place, rng, out)?;
                place.sent_ns = now_ns;
                answer.places.push(place);
            }
        }
        self.by_com.insert(init.com, sid);
        self.answers.insert(sid, answer);
        Ok(session.map(|(keys, th4)| {
            Box::new(Established {
                keys,
                mask_tx,
                mask_rx,
                local_sid: sid,
                remote_sid: init.sid_i,
                source: init.source,
                th4,
                initiator: false,
                mode: Mode::Lookup,
                early: Vec::new(),
                public,
            })
        }))
    }

    /// Evict the answer that nothing happened to for longest, those of public doors first.
    fn make_room(&mut self, public: bool, limits: &Limits, memory: &mut usize) {
        loop {
            let strangers = self.answers.values().filter(|other| other.public).count();
            let crowded = public && strangers >= (limits.answers / 2).max(1);
            if !crowded && self.answers.len() < limits.answers.max(1) {
                return;
            }
            let oldest = self
                .answers
                .iter()
                .min_by_key(|(_, answer)| (!answer.public, answer.touched_ns));
            let Some(sid) = oldest.map(|(sid, _)| *sid) else {
                return;
            };
            self.abandon(sid, memory);
        }
    }

    /// A masked datagram that may be AUTH.
    pub(crate) fn receive(
        &mut self,
        datagram: &[u8],
        source: SocketAddr,
        now_ns: u64,
        limits: &Limits,
        memory: &mut usize,
        out: &mut Vec<Action>,
    ) -> bool {
        if self.sources.is_empty() {
            return false;
        }
        for sid in self.sources.at(source) {
            let Some(answer) = self.answers.get_mut(&sid) else {
                continue;
            };
            let Some((_, auth)) = &answer.sealed else {
                continue;
            };
            let Some(fragment) = auth.open_fragment(sid, datagram) else {
                continue;
            };
            // Whoever sealed it has read a RESP there.
            if let Some(place) = answer.places.iter_mut().find(|place| place.at == source) {
                place.allowance = None;
            }
            let attempt = fragment.attempt;
            if answer.established_ns.is_some() {
                // One ACK per attempt: a replayed fragment meets silence.
                if attempt > answer.attempt {
                    answer.attempt = attempt;
                    out.push(Action::ResendAck { sid });
                }
                return true;
            }
            answer.attempt = answer.attempt.max(attempt);
            answer.touched_ns = now_ns;
            let before = answer.incoming.bytes();
            if answer.message.is_none() && *memory + datagram.len() <= limits.assembly_bytes {
                if let Some(e3) = answer.incoming.insert(fragment, now_ns) {
                    answer.message = Some((e3.clone(), source));
                    out.push(Action::Event(Event::Message {
                        sid,
                        bytes: e3,
                        source,
                    }));
                }
                *memory = (*memory + answer.incoming.bytes()).saturating_sub(before);
            }
            return true;
        }
        false
    }

    /// Keep what seems to follow an AUTH, until that is verified.
    pub(crate) fn keep_early(
        &mut self,
        datagram: &[u8],
        source: SocketAddr,
        now_ns: u64,
        limits: &Limits,
    ) -> bool {
        if self.sources.is_empty() {
            return false;
        }
        for sid in self.sources.at(source) {
            let Some(kind) = self.follows(sid, datagram) else {
                continue;
            };
            let room = self.early_room(sid, kind, source, limits);
            if let Some(answer) = self.answers.get_mut(&sid) {
                let room = (limits.early, room);
                answer.early.push(datagram, source, room, now_ns);
            }
            return true;
        }
        false
    }

    /// How many bytes more may be kept behind the AUTH of *sid*. Who came through a public door has
    /// nothing to say but control: an eighth as much, a quarter of all room, and of that one prefix a
    /// quarter.
    fn early_room(&self, sid: u32, kind: Kind, source: SocketAddr, limits: &Limits) -> usize {
        let Some(answer) = self.answers.get(&sid) else {
            return 0;
        };
        let held = |counts: &dyn Fn(&Answer) -> bool| -> usize {
            let those = self.answers.values().filter(|other| counts(other));
            those.map(|other| other.early.bytes()).sum()
        };
        let (each, all) = (limits.early_bytes, limits.early_bytes_in_all);
        let own = answer.early.bytes();
        if !answer.public {
            return (each.saturating_sub(own)).min(all.saturating_sub(held(&|_| true)));
        }
        if kind != Kind::Control {
            return 0;
        }
        let near = |other: &Answer| {
            let mut places = other.places.iter();
            other.public && places.any(|place| prefix(place.at) == prefix(source))
        };
        (each / 8)
            .saturating_sub(own)
            .min((all / 4).saturating_sub(held(&|other| other.public)))
            .min((all / 16).saturating_sub(held(&near)))
    }

    /// What *datagram* seems to be of the session that the AUTH of *sid* is about to make.
    fn follows(&self, sid: u32, datagram: &[u8]) -> Option<Kind> {
        let answer = self.answers.get(&sid)?;
        let (_, auth) = answer.sealed.as_ref()?;
        if !answer.mode.sends_early() || !answer.is_authenticating() {
            return None;
        }
        auth.may_follow(sid, datagram)
    }

    pub(crate) fn accept(
        &mut self,
        sid: u32,
        psk: Option<&[u8; 32]>,
        now_ns: u64,
    ) -> Result<Established> {
        let answer = self
            .answers
            .get_mut(&sid)
            .ok_or(Error::UnknownSession(sid))?;
        if answer.established_ns.is_some() {
            return Err(Error::State("this AUTH was accepted already"));
        }
        let (e3, source) = answer
            .message
            .as_ref()
            .ok_or(Error::State("AUTH has not opened yet"))?;
        let source = *source;
        let mut schedule = locked(&answer.schedule);
        let keys = schedule.finish(e3, psk)?;
        let established = Established {
            keys,
            mask_tx: answer.mask_tx,
            mask_rx: answer.mask_rx,
            local_sid: sid,
            remote_sid: answer.sid_i,
            source,
            th4: schedule.th4()?.to_vec(),
            initiator: false,
            mode: answer.mode,
            early: answer.early.take(),
            public: answer.public,
        };
        drop(schedule);
        answer.established_ns = Some(now_ns);
        answer.touched_ns = now_ns;
        Ok(established)
    }

    pub(crate) fn dismiss(&mut self, com: &[u8; 32]) -> bool {
        self.waiting.remove(com).is_some()
    }

    pub(crate) fn abandon(&mut self, sid: u32, memory: &mut usize) -> bool {
        let Some(answer) = self.answers.remove(&sid) else {
            return false;
        };
        self.by_com.remove(&answer.com);
        for place in &answer.places {
            self.sources.remove(place.at, sid);
        }
        *memory = memory.saturating_sub(answer.incoming.bytes());
        true
    }

    pub(crate) fn expire(&mut self, now_ns: u64, memory: &mut usize) {
        self.assemblies.retain(|_, assembly| {
            let keep = now_ns.saturating_sub(assembly.born_ns) < ASSEMBLY_NS;
            if !keep {
                *memory = memory.saturating_sub(assembly.bytes());
            }
            keep
        });
        self.waiting
            .retain(|_, other| now_ns.saturating_sub(other.born_ns) < WAITING_NS);
        let over: Vec<u32> = self
            .answers
            .iter()
            .filter(|(_, answer)| answer.ends_ns() <= now_ns)
            .map(|(sid, _)| *sid)
            .collect();
        for sid in over {
            self.abandon(sid, memory);
        }
        for answer in self.answers.values_mut() {
            let before = answer.incoming.bytes();
            answer.incoming.expire(now_ns);
            answer.early.expire(now_ns);
            *memory = (*memory + answer.incoming.bytes()).saturating_sub(before);
        }
    }

    /// When something here runs out, at the earliest.
    pub(crate) fn next_expiry(&self) -> Option<u64> {
        let assemblies = self
            .assemblies
            .values()
            .map(|other| other.born_ns + ASSEMBLY_NS);
        let waiting = self
            .waiting
            .values()
            .map(|other| other.born_ns + WAITING_NS);
        let answers = self.answers.values().map(Answer::ends_ns);
        let early = self.answers.values().filter_map(|a| a.early.ends_ns());
        assemblies.chain(waiting).chain(answers).chain(early).min()
    }

    /// Bytes that were kept behind AUTHs.
    pub(crate) fn early_bytes(&self) -> usize {
        self.answers.values().map(|a| a.early.bytes()).sum()
    }

    pub(crate) fn sizes(&self) -> (usize, usize, usize) {
        (
            self.assemblies.len(),
            self.waiting.len(),
            self.answers.len(),
        )
    }
}
