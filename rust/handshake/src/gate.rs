//! The first contact gate: everything before a session exists, both roles.
//!
//! ```text
//!  datagram -> masked for a handshake at this source? (one AES block each, then one AEAD)
//!           -> sealed for the door of an offer to this source?
//!           -> sealed for one of our doors?  nonce ring -> HELLO: cookie | INIT: cookie, com, assembly
//!           -> may belong to an offer that waits for its key? kept (16)
//!           -> not ours: silence
//! ```
//! Invariant: nothing but the ring of nonces changes before a valid cookie, and no reply to an
//! unproven address is larger than its request. Whatever is wrong meets silence.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::body::InitPart;
use crate::budget::Unproven;
use crate::cookie::COOKIE;
use crate::door::{self, Body, DoorKey};
use crate::error::{Error, Result};
use crate::event::{Action, Established, Init, Tried};
use crate::limits::Limits;
use crate::offers::{Begin, Offers};
use crate::replay::Seen;
use crate::responder::Responder;
use crate::rng::Rng;
use crate::schedule::KeySchedule;
use crate::ticket::Ticket;

/// Lock a schedule; a panic elsewhere must not stop the data thread.
pub(crate) fn locked(schedule: &Mutex<KeySchedule>) -> MutexGuard<'_, KeySchedule> {
    schedule.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One of our doors.
pub(crate) struct Door {
    pub(crate) id: u32,
    pub(crate) key: DoorKey,
    /// False for the commons: its key is public, so a set could be flushed by anybody.
    pub(crate) replay_set: bool,
}

/// How full the gate's tables are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Occupancy {
    /// Bytes of assemblies and stashes.
    pub bytes: usize,
    /// Unfinished INITs.
    pub assemblies: usize,
    /// Whole INITs that were not answered.
    pub waiting: usize,
    /// Cached answers.
    pub answers: usize,
    /// Nonces in the ring.
    pub nonces: usize,
    /// Commitments in the persisted set.
    pub coms: usize,
}

/// Everything before a session exists, both roles. Sans-I/O.
pub struct Gate {
    limits: Limits,
    doors: Vec<Door>,
    next_door: u32,
    nonces: Seen<[u8; door::NONCE]>,
    responder: Responder,
    offers: Offers,
    unproven: Unproven,
    memory: usize,
}

impl Gate {
    /// A gate without doors; *rng* draws the first cookie secret.
    pub fn new(rng: &mut dyn Rng) -> Result<Gate> {
        Gate::with_limits(Limits::default(), rng)
    }

    /// A gate with other bounds than the design's.
    pub fn with_limits(limits: Limits, rng: &mut dyn Rng) -> Result<Gate> {
        Ok(Gate {
            doors: Vec::new(),
            next_door: 1,
            nonces: Seen::new(limits.nonces),
            responder: Responder::new(&limits, rng)?,
            offers: Offers::default(),
            unproven: Unproven::new(
                limits.unproven_address,
                limits.unproven_prefix,
                limits.buckets,
            ),
            memory: 0,
            limits,
        })
    }

    /// Open a door; *replay_set* is false for the commons only. Returns the door's id.
    pub fn add_door(&mut self, key: &[u8; 32], replay_set: bool) -> Result<u32> {
        if self.doors.len() >= self.limits.doors {
            return Err(Error::Full("the list of doors"));
        }
        let id = self.next_door;
        self.next_door = id.wrapping_add(1);
        self.doors.push(Door {
            id,
            key: DoorKey::new(key),
            replay_set,
        });
        Ok(id)
    }

    /// Close a door. Answers already sent through it stay in the cache.
    pub fn remove_door(&mut self, id: u32) -> Result<()> {
        let before = self.doors.len();
        self.doors.retain(|door| door.id != id);
        if self.doors.len() == before {
            Err(Error::UnknownDoor(id))
        } else {
            Ok(())
        }
    }

    /// Initiator: the first call, every retransmission, and each further endpoint of a race.
    ///
    /// Sends HELLO, or INIT once the endpoint has given a cookie; a RETRY makes the gate send
    /// INIT by itself. False when nothing may be sent: the byte budget towards this unproven
    /// address is used up, a bare hint had its one HELLO, or a RESP has opened.
    #[allow(clippy::too_many_arguments)] // clock, random source and outbox are arguments
    pub fn hello(
        &mut self,
        schedule: &Arc<Mutex<KeySchedule>>,
        door_key: &[u8; 32],
        to: SocketAddr,
        bare_hint: bool,
        now_ns: u64,
        rng: &mut dyn Rng,
        out: &mut Vec<Action>,
    ) -> Result<bool> {
        let begin = Begin::Hello { bare_hint };
        self.begin(schedule, door_key, to, begin, now_ns, rng, out)
    }

    /// Initiator: begin at *to* with a ticket of the peer's: INIT goes at once.
    ///
    /// `hello` repeats it, and says HELLO when the ticket brings nothing. A peer that does not know
    /// the ticket any more answers with RETRY.
    #[allow(clippy::too_many_arguments)]
    pub fn present(
        &mut self,
        schedule: &Arc<Mutex<KeySchedule>>,
        door_key: &[u8; 32],
        to: SocketAddr,
        ticket: &Ticket,
        now_ns: u64,
        rng: &mut dyn Rng,
        out: &mut Vec<Action>,
    ) -> Result<bool> {
        let begin = Begin::Ticket(ticket);
        self.begin(schedule, door_key, to, begin, now_ns, rng, out)
    }

    /// Initiator: begin at *to* with a cookie that the peer gave by another way (`cookie`): INIT goes
    /// at once. `hello` repeats it, and says HELLO beside it.
    #[allow(clippy::too_many_arguments)]
    pub fn enter(
        &mut self,
        schedule: &Arc<Mutex<KeySchedule>>,
        door_key: &[u8; 32],
        to: SocketAddr,
        cookie: [u8; COOKIE],
        now_ns: u64,
        rng: &mut dyn Rng,
        out: &mut Vec<Action>,
    ) -> Result<bool> {
        let begin = Begin::Cookie(cookie);
        self.begin(schedule, door_key, to, begin, now_ns, rng, out)
    }

    #[allow(clippy::too_many_arguments)]
    fn begin(
        &mut self,
        schedule: &Arc<Mutex<KeySchedule>>,
        door_key: &[u8; 32],
        to: SocketAddr,
        begin: Begin<'_>,
        now_ns: u64,
        rng: &mut dyn Rng,
        out: &mut Vec<Action>,
    ) -> Result<bool> {
        let sid = locked(schedule).local_sid();
        if self.responder.contains(sid) {
            return Err(Error::SessionExists(sid));
        }
        let (limits, budget) = (&self.limits, &mut self.unproven);
        self.offers.hello(
            schedule, door_key, to, begin, now_ns, limits, budget, rng, out,
        )
    }

    /// Responder: the cookie that RETRY would bring to *source* for the commitment *com*.
    pub fn cookie(
        &mut self,
        source: SocketAddr,
        com: &[u8; 32],
        now_ns: u64,
        rng: &mut dyn Rng,
    ) -> Result<[u8; COOKIE]> {
        self.responder.cookie(source, com, now_ns, rng)
    }

    /// A ticket for the peer at *ip*, known to Python as *holder*, good for *life_ns*.
    pub fn issue_ticket(
        &self,
        ip: IpAddr,
        holder: &[u8; 32],
        life_ns: u64,
        now_ns: u64,
        rng: &mut dyn Rng,
    ) -> Result<Ticket> {
        self.responder
            .tickets
            .issue(ip, holder, now_ns.saturating_add(life_ns), rng)
    }

    /// Initiator: the KEM secret of a key part, and what came of it.
    pub fn candidate(
        &mut self,
        sid: u32,
        candidate: u32,
        ss: &[u8],
        now_ns: u64,
        out: &mut Vec<Action>,
    ) -> Result<Tried> {
        self.offers
            .candidate(sid, candidate, ss, now_ns, &mut self.memory, out)
    }

    /// Initiator: the opened RESP does not verify. Forget that key part, go on with the others.
    pub fn reject(&mut self, sid: u32, now_ns: u64, out: &mut Vec<Action>) -> Result<()> {
        self.offers.reject(sid, now_ns, &mut self.memory, out)
    }

    /// Initiator: send AUTH with plaintext *e3*; `resend` repeats it until the ACK came.
    pub fn authenticate(
        &mut self,
        sid: u32,
        e3: Vec<u8>,
        psk: Option<&[u8; 32]>,
        now_ns: u64,
        out: &mut Vec<Action>,
    ) -> Result<Established> {
        self.offers
            .authenticate(sid, &e3, psk, now_ns, &mut self.memory, out)
    }

    /// Initiator: the next attempt of AUTH.
    pub fn resend(&mut self, sid: u32, now_ns: u64, out: &mut Vec<Action>) -> Result<()> {
        self.offers.resend(sid, now_ns, out)
    }

    /// Responder: send RESP with plaintext *e2* to every proven source of *init*, and cache it.
    ///
    /// A lookup has no e2, and its session is there at once.
    #[allow(clippy::too_many_arguments)]
    pub fn respond(
        &mut self,
        schedule: &Arc<Mutex<KeySchedule>>,
        init: &Init,
        e2: Vec<u8>,
        now_ns: u64,
        rng: &mut dyn Rng,
        out: &mut Vec<Action>,
    ) -> Result<Option<Box<Established>>> {
        let door = self.doors.iter().find(|door| door.id == init.door);
        let door = door.ok_or(Error::UnknownDoor(init.door))?;
        let (door, public) = (door.key.clone(), !door.replay_set);
        let sid = locked(schedule).local_sid();
        if self.offers.contains(sid) {
            return Err(Error::SessionExists(sid));
        }
        self.responder.respond(
            schedule,
            init,
            (door, public),
            &e2,
            now_ns,
            &self.limits,
            &mut self.memory,
            rng,
            out,
        )
    }

    /// Responder: AUTH has been verified. The caller sends the ACK.
    pub fn accept(&mut self, sid: u32, psk: Option<&[u8; 32]>, now_ns: u64) -> Result<Established> {
        self.responder.accept(sid, psk, now_ns)
    }

    /// Forget a handshake of either role; also the way to say that the ACK came.
    pub fn abandon(&mut self, sid: u32) -> bool {
        self.offers.abandon(sid, &mut self.memory) || self.responder.abandon(sid, &mut self.memory)
    }

    /// Responder: this INIT will not be answered. Frees its place, and stays silent.
    pub fn dismiss(&mut self, com: &[u8; 32]) -> bool {
        self.responder.dismiss(com)
    }

    /// Take a datagram. True if it belonged to the handshake (and is consumed).
    pub fn receive(
        &mut self,
        datagram: &[u8],
        source: SocketAddr,
        now_ns: u64,
        rng: &mut dyn Rng,
        out: &mut Vec<Action>,
    ) -> bool {
        let (limits, memory) = (&self.limits, &mut self.memory);
        if datagram.len() > door::MAX {
            return self.responder.keep_early(datagram, source, now_ns, limits);
        }
        if self
            .responder
            .receive(datagram, source, now_ns, limits, memory, out)
            || self
                .offers
                .receive(datagram, source, now_ns, limits, memory, rng, out)
        {
            return true;
        }
        if self.responder.keep_early(datagram, source, now_ns, limits) {
            return true;
        }
        for door in &self.doors {
            let Some(opened) = door.key.open(datagram) else {
                continue;
            };
            // Order: seal, nonce set, only then work.
            if door.replay_set && !self.nonces.insert(opened.nonce) {
                return true;
            }
            match opened.content {
                Some((Body::Hello, body)) => out.extend(self.responder.on_hello(
                    &body,
                    datagram.len(),
                    door,
                    source,
                    now_ns,
                    rng,
                )),
                Some((kind @ (Body::Init | Body::TicketInit), body)) => {
                    let part = if kind == Body::Init {
                        InitPart::parse(&body)
                    } else {
                        InitPart::parse_ticket(&body)
                    };
                    let came = (source, datagram.len());
                    if let Some(part) = part {
                        self.responder
                            .on_init(part, door, came, now_ns, limits, memory, rng, out);
                    }
                }
                _ => {}
            }
            return true;
        }
        self.offers.keep(datagram, source, limits, memory)
    }

    /// Take *bytes* from the budget towards an unproven address (punches, path challenges).
    pub fn may_send_unproven(&mut self, to: SocketAddr, bytes: usize, now_ns: u64) -> bool {
        self.unproven.take(to, bytes, now_ns)
    }

    /// Drop what has run out.
    pub fn expire(&mut self, now_ns: u64) {
        self.offers.expire(now_ns, &mut self.memory);
        self.responder.expire(now_ns, &mut self.memory);
    }

    /// When `expire` has something to do, at the earliest.
    pub fn next_expiry(&self) -> Option<u64> {
        [self.offers.next_expiry(), self.responder.next_expiry()]
            .into_iter()
            .flatten()
            .min()
    }

    /// The commitments to persist, oldest first.
    pub fn seen_coms(&self) -> Vec<[u8; 32]> {
        self.responder.coms.values().collect()
    }

    /// Take back what an earlier run persisted. Call before the first datagram.
    pub fn load_coms(&mut self, coms: &[[u8; 32]]) {
        for com in coms {
            self.responder.coms.insert(*com);
        }
    }

    /// How full the tables are.
    pub fn occupancy(&self) -> Occupancy {
        let (assemblies, waiting, answers) = self.responder.sizes();
        Occupancy {
            bytes: self.memory + self.responder.early_bytes(),
            assemblies,
            waiting,
            answers,
            nonces: self.nonces.len(),
            coms: self.responder.coms.len(),
        }
    }
}
