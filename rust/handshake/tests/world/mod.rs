//! Two nodes in virtual time with a stand-in for the KEM and the signatures.
//!
//! The stand-in KEM: secret = SHA-256(ek || ct), so a changed ct or ek gives another secret, as
//! the real one does. The stand-in signature is the transcript itself: it verifies exactly when
//! both ends saw the same messages, which is what SIGMA asks of the real one.
#![allow(dead_code)]

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use aws_lc_rs::digest;
use veilnet_handshake::{
    Action, COOKIE, Established, Event, Gate, Init, KeySchedule, Limits, Mode, Rng, SeededRng,
    Suite, Ticket, Tried, door_key, open_ack, seal_ack,
};

pub const MS: u64 = 1_000_000;
pub const NET: &[u8] = b"a network id of 32 bytes........";
pub const K_NET: &[u8] = b"the secret of the network.......";
pub const ID_R: [u8; 32] = [7; 32];
pub const HOLDER: [u8; 32] = [8; 32];

pub type Shared = Arc<Mutex<KeySchedule>>;

pub fn fake_kem(ek: &[u8], ct: &[u8]) -> Vec<u8> {
    digest::digest(&digest::SHA256, &[ek, ct].concat())
        .as_ref()
        .to_vec()
}

pub fn random(rng: &mut SeededRng, length: usize) -> Vec<u8> {
    let mut out = vec![0; length];
    rng.fill(&mut out).unwrap();
    out
}

/// A "signature" of *length* bytes over a transcript.
fn sign(transcript: &[u8], length: usize) -> Vec<u8> {
    transcript.iter().copied().cycle().take(length).collect()
}

#[derive(Clone, Debug)]
pub struct Datagram {
    pub from: SocketAddr,
    pub to: SocketAddr,
    pub bytes: Vec<u8>,
}

pub struct End {
    pub address: SocketAddr,
    pub gate: Gate,
    pub rng: SeededRng,
    pub schedule: Option<Shared>,
    pub ek: Vec<u8>,
    pub established: Option<Established>,
    pub acked: bool,
    pub inits: Vec<Init>,
    pub candidates: usize,
    pub rejected: usize,
    /// Length of this end's identity message.
    pub identity: usize,
    pub mode: Mode,
    /// When set, events wait here until `release`: the verification threads are busy.
    pub hold: Option<Vec<Event>>,
    pub out: Vec<Action>,
}

impl End {
    pub fn new(address: &str, seed: &[u8], limits: Limits) -> End {
        let mut rng = SeededRng::new(seed);
        let gate = Gate::with_limits(limits, &mut rng).unwrap();
        End {
            address: address.parse().unwrap(),
            gate,
            rng,
            schedule: None,
            ek: Vec::new(),
            established: None,
            acked: false,
            inits: Vec::new(),
            candidates: 0,
            rejected: 0,
            identity: 9000,
            mode: Mode::Full,
            hold: None,
            out: Vec::new(),
        }
    }

    /// Begin a handshake towards the responder.
    pub fn offer(&mut self, suite: Suite) -> Shared {
        self.ek = random(&mut self.rng, suite.ek_len());
        let schedule =
            KeySchedule::initiate(suite, self.mode, NET, K_NET, &ID_R, &self.ek, &mut self.rng)
                .unwrap();
        let schedule = Arc::new(Mutex::new(schedule));
        self.schedule = Some(schedule.clone());
        schedule
    }

    pub fn hello(&mut self, to: SocketAddr, now: u64) -> bool {
        let schedule = self.schedule.clone().unwrap();
        let door = door_key(K_NET, &ID_R);
        self.gate
            .hello(
                &schedule,
                &door,
                to,
                false,
                now,
                &mut self.rng,
                &mut self.out,
            )
            .unwrap()
    }

    /// Begin with a ticket.
    pub fn present(&mut self, to: SocketAddr, ticket: &Ticket, now: u64) -> bool {
        let schedule = self.schedule.clone().unwrap();
        let door = door_key(K_NET, &ID_R);
        self.gate
            .present(
                &schedule,
                &door,
                to,
                ticket,
                now,
                &mut self.rng,
                &mut self.out,
            )
            .unwrap()
    }

    /// Begin with a cookie that came by another way.
    pub fn enter(&mut self, to: SocketAddr, cookie: [u8; COOKIE], now: u64) -> bool {
        let schedule = self.schedule.clone().unwrap();
        let door = door_key(K_NET, &ID_R);
        let (rng, out) = (&mut self.rng, &mut self.out);
        self.gate
            .enter(&schedule, &door, to, cookie, now, rng, out)
            .unwrap()
    }

    /// What the retransmission timer does.
    pub fn retransmit(&mut self, to: SocketAddr, now: u64) {
        match &self.established {
            None if self.schedule.is_some() => {
                let _ = self.hello(to, now);
            }
            Some(session) if session.initiator && !self.acked => {
                let sid = session.local_sid;
                self.gate.resend(sid, now, &mut self.out).unwrap();
            }
            _ => {}
        }
    }

    pub fn receive(&mut self, source: SocketAddr, bytes: &[u8], now: u64) -> bool {
        if let Some(session) = &self.established
            && session.initiator
            && open_ack(
                &session.keys,
                &session.mask_rx,
                session.local_sid,
                &session.th4,
                bytes,
            )
            .unwrap()
        {
            self.acked = true;
            return true;
        }
        let consumed = self
            .gate
            .receive(bytes, source, now, &mut self.rng, &mut self.out);
        self.act(now);
        consumed
    }

    /// Play Python: answer every event.
    pub fn act(&mut self, now: u64) {
        let actions = std::mem::take(&mut self.out);
        for action in actions {
            match action {
                Action::Send { .. } => self.out.push(action),
                Action::ResendAck { .. } => self.send_ack(),
                Action::Event(event) => self.on_event(event, now),
            }
        }
    }

    fn send_ack(&mut self) {
        let session = self.established.as_ref().unwrap();
        let bytes = seal_ack(
            &session.keys,
            &session.mask_tx,
            session.remote_sid,
            &session.th4,
        )
        .unwrap();
        self.out.push(Action::Send {
            to: session.source,
            bytes,
        });
    }

    /// Answer the messages that were held.
    pub fn release(&mut self, now: u64) {
        for event in self.hold.take().unwrap_or_default() {
            self.on_event(event, now);
        }
    }

    fn on_event(&mut self, event: Event, now: u64) {
        if let (Some(held), Event::Message { .. }) = (&mut self.hold, &event) {
            held.push(event);
            return;
        }
        let mut out = Vec::new();
        match event {
            Event::Init(init) => {
                self.inits.push(init.clone());
                let ct = random(&mut self.rng, init.suite.ct_len());
                let ss = fake_kem(&init.ek, &ct);
                let Ok(schedule) =
                    KeySchedule::respond(&init, NET, K_NET, &ID_R, &ct, &ss, &mut self.rng)
                else {
                    return;
                };
                let e2 = match init.mode {
                    Mode::Lookup => Vec::new(),
                    _ => sign(schedule.th2().unwrap(), self.identity),
                };
                let schedule = Arc::new(Mutex::new(schedule));
                let session = self
                    .gate
                    .respond(&schedule, &init, e2, now, &mut self.rng, &mut out)
                    .unwrap();
                if let Some(session) = session {
                    self.established = Some(*session);
                }
                self.schedule = Some(schedule);
            }
            Event::Candidate {
                sid, candidate, ct, ..
            } => {
                self.candidates += 1;
                let ss = fake_kem(&self.ek, &ct);
                let tried = self.gate.candidate(sid, candidate, &ss, now, &mut out);
                if let Ok(Tried::Established(session)) = tried {
                    self.established = Some(*session);
                    self.acked = true;
                }
            }
            Event::Message { sid, bytes, .. } => {
                let schedule = self.schedule.clone().unwrap();
                let schedule = schedule.lock().unwrap();
                if schedule.is_initiator() {
                    let valid = bytes == sign(schedule.th2().unwrap(), bytes.len());
                    let th3 = schedule.th3().unwrap().to_vec();
                    drop(schedule);
                    if valid {
                        let e3 = sign(&th3, self.identity);
                        let session = self.gate.authenticate(sid, e3, None, now, &mut out);
                        self.established = Some(session.unwrap());
                    } else {
                        self.rejected += 1;
                        self.gate.reject(sid, now, &mut out).unwrap();
                    }
                } else {
                    let valid = bytes == sign(schedule.th3().unwrap(), bytes.len());
                    drop(schedule);
                    if valid {
                        self.established = Some(self.gate.accept(sid, None, now).unwrap());
                        self.send_ack();
                    }
                }
            }
        }
        self.out.append(&mut out);
        if self
            .out
            .iter()
            .any(|action| !matches!(action, Action::Send { .. }))
        {
            self.act(now);
        }
    }

    pub fn sends(&mut self) -> Vec<Datagram> {
        let from = self.address;
        std::mem::take(&mut self.out)
            .into_iter()
            .map(|action| match action {
                Action::Send { to, bytes } => Datagram { from, to, bytes },
                other => panic!("unanswered {other:?}"),
            })
            .collect()
    }

    pub fn fingerprint(&self) -> Option<[u8; 32]> {
        self.established.as_ref()?;
        Some(
            self.schedule
                .as_ref()?
                .lock()
                .unwrap()
                .fingerprint()
                .unwrap(),
        )
    }
}

/// An initiator, a responder, and what is on the wire between them.
pub struct World {
    pub i: End,
    pub r: End,
    pub now: u64,
    pub wire: VecDeque<Datagram>,
    /// Everything that was ever sent.
    pub log: Vec<Datagram>,
}

impl World {
    pub fn new(suite: Suite, seed: u64) -> World {
        World::with_limits(suite, seed, Limits::default())
    }

    pub fn with_limits(suite: Suite, seed: u64, limits: Limits) -> World {
        World::build(suite, Mode::Full, seed, limits)
    }

    /// Two ends of the commons: a public door, and nobody says who it is.
    pub fn lookup(suite: Suite, seed: u64, limits: Limits) -> World {
        World::build(suite, Mode::Lookup, seed, limits)
    }

    /// A member that comes back with a ticket.
    pub fn returning(suite: Suite, seed: u64, limits: Limits) -> World {
        World::build(suite, Mode::Ticket, seed, limits)
    }

    /// A ticket of the responder's for where the initiator is.
    pub fn ticket(&mut self, life_ms: u64) -> Ticket {
        let ip = self.i.address.ip();
        let r = &mut self.r;
        r.gate
            .issue_ticket(ip, &HOLDER, life_ms * MS, self.now, &mut r.rng)
            .unwrap()
    }

    /// Begin with a ticket.
    pub fn present(&mut self, ticket: &Ticket) {
        let to = self.r.address;
        assert!(self.i.present(to, ticket, self.now));
        self.collect();
    }

    /// Two ends of the commons that say who they are: a public door.
    pub fn strangers(suite: Suite, seed: u64, limits: Limits) -> World {
        World::between(suite, Mode::Full, seed, limits, true)
    }

    fn build(suite: Suite, mode: Mode, seed: u64, limits: Limits) -> World {
        World::between(suite, mode, seed, limits, mode == Mode::Lookup)
    }

    pub fn between(suite: Suite, mode: Mode, seed: u64, limits: Limits, public: bool) -> World {
        let mut i = End::new(
            "192.0.2.1:4000",
            &[b"i", &seed.to_be_bytes()[..]].concat(),
            limits,
        );
        let mut r = End::new(
            "198.51.100.9:5000",
            &[b"r", &seed.to_be_bytes()[..]].concat(),
            limits,
        );
        r.gate.add_door(&door_key(K_NET, &ID_R), !public).unwrap();
        i.mode = mode;
        i.offer(suite);
        World {
            i,
            r,
            now: 1_000 * MS,
            wire: VecDeque::new(),
            log: Vec::new(),
        }
    }

    pub fn collect(&mut self) {
        for datagram in self.i.sends().into_iter().chain(self.r.sends()) {
            self.log.push(datagram.clone());
            self.wire.push_back(datagram);
        }
    }

    pub fn start(&mut self) {
        let to = self.r.address;
        assert!(self.i.hello(to, self.now));
        self.collect();
    }

    /// Deliver one datagram as it is.
    pub fn deliver(&mut self, datagram: &Datagram) {
        if datagram.to == self.i.address {
            self.i.receive(datagram.from, &datagram.bytes, self.now);
        } else {
            self.r.receive(datagram.from, &datagram.bytes, self.now);
        }
        self.collect();
    }

    /// Deliver in order until nothing is on the wire.
    pub fn settle(&mut self) {
        while let Some(datagram) = self.wire.pop_front() {
            self.deliver(&datagram);
        }
    }

    /// Let the retransmission timers fire after *ms*.
    pub fn wait(&mut self, ms: u64) {
        self.now += ms * MS;
        self.i.gate.expire(self.now);
        self.r.gate.expire(self.now);
        let to = self.r.address;
        self.i.retransmit(to, self.now);
        self.collect();
    }

    pub fn complete(&mut self) {
        self.start();
        self.settle();
        self.assert_agreed();
    }

    /// Both ends have the same session, seen from opposite sides.
    pub fn assert_agreed(&self) {
        let (i, r) = (
            self.i.established.as_ref().unwrap(),
            self.r.established.as_ref().unwrap(),
        );
        assert!(self.i.acked);
        assert_eq!(self.i.fingerprint(), self.r.fingerprint());
        assert_eq!(i.th4, r.th4);
        assert_eq!((i.local_sid, i.remote_sid), (r.remote_sid, r.local_sid));
        assert_eq!((i.mask_tx, i.mask_rx), (r.mask_rx, r.mask_tx));
        assert_ne!(i.mask_tx, i.mask_rx);
        same_keys(&i.keys, &r.keys);
    }

    /// The safety property: an end that has a session has the same one as the other end.
    pub fn assert_never_split(&self) {
        // The initiator establishes first and waits for the ACK; only an acknowledged session counts.
        if self.i.acked || self.r.established.is_some() {
            assert_eq!(self.i.fingerprint(), self.r.fingerprint());
        }
    }
}

pub fn same_keys(a: &veilnet_handshake::SessionKeys, b: &veilnet_handshake::SessionKeys) {
    use veilnet_handshake::Class;
    assert_eq!(a.generation, b.generation);
    let (mut a, mut b) = (a.clone(), b.clone());
    for _step in 0..3 {
        for class in [Class::Data, Class::Control, Class::Relay] {
            for path in [0, 1, 254] {
                let (tx, rx) = (a.tx.key(class, path), b.rx.key(class, path));
                assert!(tx.key == rx.key && tx.iv == rx.iv);
                let (tx, rx) = (b.tx.key(class, path), a.rx.key(class, path));
                assert!(tx.key == rx.key && tx.iv == rx.iv);
                assert!(a.tx.key(class, path).key != a.rx.key(class, path).key);
            }
        }
        a.tx = a.tx.step();
        a.rx = a.rx.step();
        b.tx = b.tx.step();
        b.rx = b.rx.step();
    }
}
