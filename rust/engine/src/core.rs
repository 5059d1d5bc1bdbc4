//! Everything that the data thread owns. Split by motion: `send`, `receive`, `timers`; this file
//! holds the tables and what Python changes in them.

use crate::batch::Batch;
use crate::called::Called;
use crate::circuit::Circuit;
use crate::early::Early;
use crate::error::{Error, Result};
use crate::events::{Event, Events};
use crate::failover::Calm;
use crate::flows::Flows;
use crate::forwarding::{ByCircuit, CircuitStats, Forwarding};
use crate::keys::{Epoch, FIRST_PATH, PathIds, RxKeys, StepLimits, TxKeys};
use crate::lookups::LOOKUP_ONLY;
use crate::path::{Path, State};
use crate::ports::Ports;
use crate::prefix::Prefix;
use crate::receive::Hop;
use crate::routes::Routes;
use crate::session::{Counters, Session};
use crate::stats::{EngineStats, SessionStats};
use crate::sys::crypto::Mask;
use crate::sys::tun::Tun;
use crate::sys::udp::{Local, Udp};
use crate::underlay::{Staged, Underlay};
use crate::waiting::Waiting;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use veilnet_handshake::Event as Contact;
use veilnet_handshake::{
    Action, COOKIE, Established, Gate, Init, KeySchedule, Mode, OsRng, Rng as _, SessionKeys,
    Ticket, Tried,
};
use veilnet_wire::{Halves, Kind, OVERHEAD, Run, VNET, glue};

/// Return keys kept: two for each network that a node may be in.
const RETURN_KEYS: usize = 32;
/// A control datagram's plaintext.
pub const CONTROL_BYTES: usize = 1100;
/// A peer's inner MTU may be larger than ours; halves of its packets fit all the same.
const PEER_MTU: usize = 1500;
/// A super-packet, its virtio header and slack.
pub(crate) const SLOT: usize = (64 << 10) + 1024;
/// Receive calls whose frames are forwarded together.
const SLOTS: usize = 8;

/// How to run an engine.
#[derive(Clone, Debug)]
pub struct Options {
    /// UDP port, 0 for a random free one in 10000-60000.
    pub port: u16,
    /// TUN device to create, or none at all.
    pub tun: Option<String>,
    pub mtu_bytes: usize,
    pub vnet_hdr: bool,
    pub udp_gso: bool,
    pub udp_gro: bool,
    pub steps: StepLimits,
}

/// Session ids are random and our own, so they are their own hash.
#[derive(Default)]
pub struct SidHasher(u64);

impl Hasher for SidHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for b in bytes {
            self.0 = self.0 << 8 | u64::from(*b);
        }
    }
    fn write_u32(&mut self, sid: u32) {
        // The table takes its index from the low and its tag from the high bits.
        self.0 = u64::from(sid) << 32 | u64::from(sid);
    }
}

pub(crate) type Sessions = HashMap<u32, Box<Session>, BuildHasherDefault<SidHasher>>;

pub struct Core {
    pub(crate) options: Options,
    pub(crate) underlay: Underlay,
    pub(crate) tun: Option<Tun>,
    pub(crate) gate: Gate,
    pub(crate) events: Arc<Events>,
    pub(crate) called: Called,
    pub(crate) sessions: Sessions,
    pub(crate) by_source: HashMap<SocketAddr, Vec<u32>>,
    /// Whose datagram came last: mostly the next one's too.
    pub(crate) last_sid: u32,
    pub(crate) last_relayed_sid: u32,
    /// What goes through this node for others.
    pub(crate) forwarding: Forwarding,
    /// Circuits that end here.
    pub(crate) joined: ByCircuit<()>,
    /// Frames of the receive buffer that go on.
    pub(crate) hops: Vec<Hop>,
    pub(crate) routes: Routes,
    pub(crate) waiting: Waiting,
    pub(crate) return_masks: Vec<Mask>,
    /// TUN reads, with the virtio header in front.
    pub(crate) tun_buf: Box<[u8]>,
    /// UDP reads: GRO batches.
    pub(crate) slot: Box<[u8]>,
    /// Opened datagrams on their way into the TUN device.
    pub(crate) out: Box<[u8]>,
    /// Opened datagrams that are not inner packets, and halves.
    pub(crate) scratch: Box<[u8]>,
    pub(crate) halves: Halves,
    pub(crate) run: Run,
    pub(crate) run_sid: u32,
    pub(crate) stats: EngineStats,
    pub(crate) actions: Vec<Action>,
    /// When `tick` has something to do.
    pub(crate) next_ns: u64,
}

impl Core {
    pub fn open(options: Options, events: Arc<Events>) -> Result<Core> {
        let udp = bind(options.port, options.udp_gro)?;
        let tun = match &options.tun {
            Some(name) => Some(Tun::create(name, options.vnet_hdr)?),
            None => None,
        };
        let stats = EngineStats {
            vnet_hdr: tun.as_ref().is_some_and(|t| t.offload.vnet_hdr),
            udp_gro: udp.gro,
            ..EngineStats::default()
        };
        let buffer = |bytes: usize| vec![0u8; bytes].into_boxed_slice();
        Ok(Core {
            underlay: Underlay {
                ports: Ports::new(udp),
                batch: Batch::new(options.udp_gso),
                staged: Staged::default(),
            },
            tun,
            gate: Gate::new(&mut OsRng)?,
            events,
            called: Called::default(),
            sessions: Sessions::default(),
            by_source: HashMap::new(),
            last_sid: 0,
            last_relayed_sid: 0,
            forwarding: Forwarding::default(),
            joined: ByCircuit::default(),
            hops: Vec::new(),
            routes: Routes::default(),
            waiting: Waiting::default(),
            return_masks: Vec::new(),
            tun_buf: buffer(SLOT + VNET),
            slot: buffer(SLOTS * SLOT),
            out: buffer(glue::BUFFER),
            scratch: buffer(SLOT),
            halves: Halves::new(options.mtu_bytes.max(PEER_MTU).div_ceil(2)),
            run: Run::new(),
            run_sid: 0,
            stats,
            actions: Vec::new(),
            next_ns: 0,
            options,
        })
    }

    pub fn port(&self) -> Result<u16> {
        self.underlay
            .ports
            .main
            .port()
            .map_err(Error::os("UDP port"))
    }

    #[must_use]
    pub fn tun_name(&self) -> Option<String> {
        self.tun.as_ref().map(|t| t.name().to_owned())
    }

    /// A session that may have data, paths and new keys: a lookup's may not.
    pub(crate) fn session_mut(&mut self, sid: u32) -> Result<&mut Session> {
        let session = self.sessions.get_mut(&sid).ok_or(Error::NoSession(sid))?;
        if session.lookup {
            return Err(LOOKUP_ONLY);
        }
        Ok(session)
    }

    // --- first contact ---------------------------------------------------------------------

    pub fn add_door(&mut self, key: &[u8; 32], replay_set: bool) -> Result<u32> {
        Ok(self.gate.add_door(key, replay_set)?)
    }

    pub fn remove_door(&mut self, door: u32) -> Result<()> {
        Ok(self.gate.remove_door(door)?)
    }

    pub fn seen_inits(&self) -> Vec<[u8; 32]> {
        self.gate.seen_coms()
    }

    pub fn load_seen_inits(&mut self, coms: &[[u8; 32]]) {
        self.gate.load_coms(coms);
    }

    pub fn hello(
        &mut self,
        schedule: &Arc<Mutex<KeySchedule>>,
        door_key: &[u8; 32],
        to: SocketAddr,
        bare_hint: bool,
        now_ns: u64,
    ) -> Result<bool> {
        self.ask_gate(now_ns, |gate, out| {
            gate.hello(schedule, door_key, to, bare_hint, now_ns, &mut OsRng, out)
        })
    }

    /// Begin with a ticket of the peer's: INIT goes at once.
    pub fn present(
        &mut self,
        schedule: &Arc<Mutex<KeySchedule>>,
        door_key: &[u8; 32],
        to: SocketAddr,
        ticket: &Ticket,
        now_ns: u64,
    ) -> Result<bool> {
        self.ask_gate(now_ns, |gate, out| {
            gate.present(schedule, door_key, to, ticket, now_ns, &mut OsRng, out)
        })
    }

    /// Begin at a circuit with the cookie that came when it opened: INIT goes at once.
    pub fn enter(
        &mut self,
        schedule: &Arc<Mutex<KeySchedule>>,
        door_key: &[u8; 32],
        to: SocketAddr,
        cookie: [u8; COOKIE],
        now_ns: u64,
    ) -> Result<bool> {
        if Circuit::of(to).is_none() {
            return Err(Error::Invalid("cookies come over circuits"));
        }
        self.ask_gate(now_ns, |gate, out| {
            gate.enter(schedule, door_key, to, cookie, now_ns, &mut OsRng, out)
        })
    }

    /// The cookie for who sends that commitment over a circuit.
    pub fn cookie(
        &mut self,
        from: SocketAddr,
        com: &[u8; 32],
        now_ns: u64,
    ) -> Result<[u8; COOKIE]> {
        if Circuit::of(from).is_none() {
            return Err(Error::Invalid("cookies are given over circuits"));
        }
        Ok(self.gate.cookie(from, com, now_ns, &mut OsRng)?)
    }

    /// A ticket for the peer of a session, good from where its direct path comes from now.
    pub fn issue_ticket(
        &mut self,
        sid: u32,
        holder: &[u8; 32],
        life_ns: u64,
        now_ns: u64,
    ) -> Result<Ticket> {
        let session = self.session_mut(sid)?;
        let path = session.link().and_then(|at| session.paths.get(at));
        let path = path.filter(|p| p.is_proven());
        let Some(ip) = path.map(|p| p.endpoint.ip()) else {
            return Err(Error::Invalid("a ticket is for a peer with a direct path"));
        };
        Ok(self
            .gate
            .issue_ticket(ip, holder, life_ns, now_ns, &mut OsRng)?)
    }

    pub fn candidate(&mut self, sid: u32, candidate: u32, ss: &[u8], now_ns: u64) -> Result<()> {
        let tried = self.ask_gate(now_ns, |gate, out| {
            gate.candidate(sid, candidate, ss, now_ns, out)
        })?;
        if let Tried::Established(established) = tried {
            let source = established.source;
            self.establish(*established, now_ns)?;
            let bytes = Vec::new();
            self.events
                .push(Event::Handshake(Contact::Message { sid, bytes, source }));
        }
        Ok(())
    }

    pub fn respond(
        &mut self,
        schedule: &Arc<Mutex<KeySchedule>>,
        init: &Init,
        message: Vec<u8>,
        now_ns: u64,
    ) -> Result<()> {
        let lookup = self.ask_gate(now_ns, |gate, out| {
            gate.respond(schedule, init, message, now_ns, &mut OsRng, out)
        })?;
        match lookup {
            Some(established) => self.establish(*established, now_ns),
            None => Ok(()),
        }
    }

    pub fn authenticate(
        &mut self,
        sid: u32,
        message: Vec<u8>,
        psk: Option<&[u8; 32]>,
        now_ns: u64,
    ) -> Result<()> {
        let established = self.ask_gate(now_ns, |gate, out| {
            gate.authenticate(sid, message, psk, now_ns, out)
        })?;
        self.establish(established, now_ns)
    }

    /// Initiator: the RESP that opened does not verify; go on with the other key parts.
    pub fn reject(&mut self, sid: u32, now_ns: u64) -> Result<()> {
        self.ask_gate(now_ns, |gate, out| gate.reject(sid, now_ns, out))
    }

    /// Initiator: the next attempt of AUTH; none where the ACK has come.
    pub fn resend(&mut self, sid: u32, now_ns: u64) -> Result<()> {
        // Whoever asks for it has yet to hear so.
        if self.sessions.get(&sid).is_some_and(|s| s.confirmed) {
            return Ok(());
        }
        self.ask_gate(now_ns, |gate, out| gate.resend(sid, now_ns, out))
    }

    pub fn accept(&mut self, sid: u32, psk: Option<&[u8; 32]>, now_ns: u64) -> Result<()> {
        let established = self.gate.accept(sid, psk, now_ns)?;
        self.establish(established, now_ns)
    }

    /// Give up a handshake, and the session if it came that far.
    pub fn abandon(&mut self, sid: u32, now_ns: u64) {
        self.close_session(sid, now_ns);
    }

    pub fn dismiss(&mut self, com: &[u8; 32]) {
        self.gate.dismiss(com);
    }

    /// Call the gate and carry out what it asked for, whether or not the call succeeded.
    fn ask_gate<R>(
        &mut self,
        now_ns: u64,
        call: impl FnOnce(&mut Gate, &mut Vec<Action>) -> veilnet_handshake::Result<R>,
    ) -> Result<R> {
        let mut out = std::mem::take(&mut self.actions);
        let answer = call(&mut self.gate, &mut out);
        self.perform(out, None, now_ns);
        Ok(answer?)
    }

    /// Carry out what the gate asked for; what answers *from* leaves from where that called.
    pub(crate) fn perform(
        &mut self,
        mut actions: Vec<Action>,
        from: Option<(SocketAddr, Local)>,
        now_ns: u64,
    ) {
        for action in actions.drain(..) {
            match action {
                Action::Send { to, bytes } => {
                    let (caller, local) = from.unzip();
                    let noted = self.called.get(to).filter(|_| caller != Some(to));
                    let local = noted.or(local);
                    self.underlay.send(to, local, &bytes);
                }
                Action::Event(event) => self.events.push(Event::Handshake(event)),
                Action::ResendAck { sid } => {
                    if let Some(session) = self.sessions.get(&sid)
                        && let Some(ack) = &session.ack
                        && let Some(path) = session.paths.first()
                    {
                        self.underlay.send(path.endpoint, path.raw.local, ack);
                    }
                }
            }
        }
        self.actions = actions;
        self.ship(now_ns);
        if let Some(at) = self.gate.next_expiry() {
            self.next_ns = self.next_ns.min(at.max(now_ns));
        }
    }

    pub(crate) fn establish(&mut self, e: Established, now_ns: u64) -> Result<()> {
        let SessionKeys { generation, tx, rx } = e.keys;
        let lookup = e.mode == Mode::Lookup;
        let early = e.mode.sends_early();
        if lookup {
            self.make_room_for_lookup(now_ns);
        }
        let raw = self
            .underlay
            .ports
            .raw(e.source)
            .leaving(self.called.get(e.source));
        let wanted = self.options.mtu_bytes + OVERHEAD;
        let mut path = Path::new(FIRST_PATH, e.source, raw, wanted, now_ns);
        // The handshake went both ways over it.
        path.state = State::Alive;
        path.share = 1.0;
        path.known = true;
        if !lookup {
            path.source = self.underlay.ports.source(e.source);
        }
        path.heard_ns = Some(now_ns);
        let mut session = Box::new(Session {
            sid: e.local_sid,
            remote_sid: e.remote_sid,
            initiator: e.initiator,
            lookup,
            // The initiator of a lookup has seen that its peer holds the keys; of any other session
            // the responder has.
            confirmed: e.initiator == lookup,
            th4: if lookup { Vec::new() } else { e.th4 },
            confirmed_by_any: early && e.initiator,
            // Who came through a public door never has addresses.
            early: (early && !e.initiator && !e.public).then(Early::default),
            ack: None,
            paths: vec![path],
            flows: Flows::default(),
            calm: Calm::default(),
            path_ids: PathIds::default(),
            mask_tx: Mask::new(&e.mask_tx),
            mask_rx: Mask::new(&e.mask_rx),
            return_mask: None,
            tx: TxKeys::new(
                Epoch {
                    generation,
                    step: 0,
                },
                tx,
                now_ns,
            )?,
            tx_next: None,
            rx: RxKeys::new(generation, rx),
            sources: Vec::new(),
            counters: Counters::default(),
            created_ns: now_ns,
            rekeyed_ns: now_ns,
            heard_ns: Some(now_ns),
            sent_ns: None,
            data_ns: None,
            waiting_ns: None,
            silent_told_ns: None,
            stale_told_ns: None,
            keepalive_ns: 0,
            timer_ns: now_ns,
        });
        session.path_ids.insert(FIRST_PATH);
        if !session.initiator && !lookup {
            self.acknowledge(&mut session, now_ns);
        }
        self.by_source
            .entry(e.source)
            .or_default()
            .push(session.sid);
        self.sessions.insert(session.sid, session);
        self.next_ns = 0;
        self.take_early(e.early, now_ns);
        self.flush(now_ns);
        Ok(())
    }

    /// Send th4 as counter 0 of control path 0, and keep it for a peer that loses it.
    fn acknowledge(&mut self, session: &mut Session, now_ns: u64) {
        let th4 = std::mem::take(&mut session.th4);
        self.flush(now_ns);
        if self
            .underlay
            .seal(session, 0, Kind::Control, (0, 0), &th4, now_ns)
        {
            session.ack = Some(self.underlay.newest().to_vec());
        }
    }

    // --- the way out -----------------------------------------------------------------------

    /// Send everything that is held.
    pub(crate) fn flush(&mut self, now_ns: u64) {
        self.ship(now_ns);
        self.underlay.flush();
        self.note_refused(now_ns);
    }

    /// Let the links seal the frames that are staged for them.
    #[inline]
    pub(crate) fn ship(&mut self, now_ns: u64) {
        if self.underlay.staged.is_empty() {
            return;
        }
        let mut staged = std::mem::take(&mut self.underlay.staged);
        for (link, frame) in staged.frames() {
            if let Some(link) = self.sessions.get_mut(&link)
                && let Some(at) = link.link()
            {
                self.underlay
                    .seal(link, at, Kind::Relay, (0, 0), frame, now_ns);
            }
        }
        staged.clear();
        self.underlay.staged = staged;
    }

    // --- sessions --------------------------------------------------------------------------

    pub fn send_control(&mut self, sid: u32, data: &[u8], now_ns: u64) -> Result<()> {
        if data.len() > CONTROL_BYTES {
            return Err(Error::Invalid(
                "a control datagram carries at most 1,100 bytes",
            ));
        }
        let session = self.sessions.get_mut(&sid).ok_or(Error::NoSession(sid))?;
        let at = session.main();
        self.underlay
            .seal(session, at, Kind::Control, (0, 0), data, now_ns);
        session.sent(now_ns, false);
        self.flush(now_ns);
        Ok(())
    }

    pub fn close_session(&mut self, sid: u32, now_ns: u64) {
        self.gate.abandon(sid);
        if let Some(session) = self.sessions.remove(&sid) {
            for path in &session.paths {
                self.forget_path_sources(sid, path);
            }
        }
        self.routes.forget(sid);
        self.halves.forget(sid);
        self.forwarding.forget_link(sid);
        self.joined.retain(|c, ()| c.link != sid);
        self.close_paths(|p| p.circuit.is_some_and(|c| c.link == sid), now_ns);
    }

    /// The address leads no longer to the session, unless a path of it still goes there.
    pub(crate) fn forget_source(&mut self, endpoint: SocketAddr, sid: u32) {
        if let Some(sids) = self.by_source.get_mut(&endpoint) {
            let one = sids.iter().position(|s| *s == sid);
            if let Some(one) = one {
                sids.swap_remove(one);
            }
            if sids.is_empty() {
                self.by_source.remove(&endpoint);
            }
        }
    }

    pub fn install_generation(
        &mut self,
        sid: u32,
        keys: SessionKeys,
        send: bool,
        now_ns: u64,
    ) -> Result<()> {
        let session = self.session_mut(sid)?;
        let SessionKeys { generation, tx, rx } = keys;
        session.rx.install(generation, rx)?;
        // Ids of paths that are closed may be given out again.
        session.path_ids = PathIds::default();
        for path in &session.paths {
            session.path_ids.insert(path.id);
        }
        let next = TxKeys::new(
            Epoch {
                generation,
                step: 0,
            },
            tx,
            now_ns,
        )?;
        if send {
            session.tx = next;
            session.tx_next = None;
            session.stale_told_ns = None;
        } else {
            session.tx_next = Some(next);
        }
        session.rekeyed_ns = now_ns;
        Ok(())
    }

    pub fn assign(&mut self, sid: u32, prefixes: Vec<Prefix>, now_ns: u64) -> Result<()> {
        let session = self.session_mut(sid)?;
        session.sources.clone_from(&prefixes);
        self.routes.assign(sid, &prefixes);
        self.release_early(sid, now_ns);
        let routed = |d| prefixes.iter().any(|p| p.contains(d));
        for destination in self.waiting.destinations(routed) {
            for packet in self.waiting.take(destination) {
                self.send_waiting(&packet, now_ns);
            }
        }
        self.flush(now_ns);
        Ok(())
    }

    pub fn set_local(&mut self, prefixes: Vec<Prefix>) {
        self.routes.set_local(prefixes);
    }

    pub fn set_wanted(&mut self, prefixes: Vec<Prefix>) {
        self.routes.set_wanted(prefixes);
    }

    pub fn set_return_keys(&mut self, keys: &[[u8; 32]]) -> Result<()> {
        if keys.len() > RETURN_KEYS {
            return Err(Error::Invalid(
                "too many return keys: two per network, 16 networks",
            ));
        }
        self.return_masks = keys.iter().map(Mask::new).collect();
        Ok(())
    }

    pub fn set_peer_return_key(&mut self, sid: u32, key: &[u8; 32]) -> Result<()> {
        self.session_mut(sid)?.return_mask = Some(Mask::new(key));
        Ok(())
    }

    // --- figures ---------------------------------------------------------------------------

    #[must_use]
    pub fn stats(&self) -> EngineStats {
        EngineStats {
            udp_gso: self.underlay.batch.gso,
            tx_calls: self.underlay.batch.calls,
            tx_datagrams: self.underlay.batch.datagrams,
            relayed_datagrams: self.forwarding.datagrams,
            relayed_bytes: self.forwarding.bytes,
            relay_dropped: self.forwarding.dropped,
            ..self.stats.clone()
        }
    }

    #[must_use]
    pub fn circuit_stats(&self, now_ns: u64) -> Vec<CircuitStats> {
        self.forwarding.stats(now_ns)
    }

    pub fn limit_circuit(
        &mut self,
        end: Circuit,
        rate_bps: Option<u64>,
        limit_bytes: Option<u64>,
    ) -> Result<()> {
        self.forwarding.limit(end, rate_bps, limit_bytes)
    }

    pub fn remove_circuit(&mut self, end: Circuit) {
        self.forwarding.remove(end);
    }

    pub fn set_relay_rate(&mut self, rate_bps: Option<u64>, now_ns: u64) {
        self.forwarding.set_rate(rate_bps, now_ns);
    }

    #[must_use]
    pub fn session_stats(&self, now_ns: u64) -> Vec<SessionStats> {
        self.sessions
            .values()
            .filter_map(|s| SessionStats::of(s, now_ns))
            .collect()
    }
}

/// Bind `port`, or a random free one. Never a port that names another VPN to a classifier.
fn bind(port: u16, gro: bool) -> Result<Udp> {
    if port != 0 {
        return Udp::bind(port, gro).map_err(|source| Error::Bind { port, source });
    }
    let mut last = None;
    for _ in 0..64 {
        let mut random = [0u8; 2];
        OsRng.fill(&mut random)?;
        let port = 10_000 + u16::from_be_bytes(random) % 50_001;
        if matches!(port, 51_820 | 41_641) {
            continue;
        }
        match Udp::bind(port, gro) {
            Ok(udp) => return Ok(udp),
            Err(source) => last = Some(Error::Bind { port, source }),
        }
    }
    Err(last.unwrap_or(Error::Invalid("no free UDP port")))
}
