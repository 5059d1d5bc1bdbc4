//! Finding the peer of a path that nobody answered on yet.
//!
//! ```text
//! punch      a probe to each address where the peer may be; on its way out it opens our own NAT
//! approached the peer was heard from another address than expected: a probe goes back there
//! settle     the first authentic answer makes its source the path's endpoint
//! ```
//! A probe to where nobody knows our address is masked with the peer's return key. INVARIANT: an
//! address gets no more than the byte budget of unproven ones, and for what came from it no more
//! than came; only the answer to a probe of ours makes it the endpoint. A path that was proven is
//! not moved here: see `roaming`.

use crate::circuit::is_stand_in;
use crate::core::Core;
use crate::error::{Error, Result};
use crate::path::Pending;
use crate::probe::{PROBE, Probe};
use crate::sys;
use crate::underlay::Target;
use std::net::{IpAddr, SocketAddr};
use veilnet_handshake::{OsRng, Rng as _};
use veilnet_wire::{Kind, OVERHEAD};

/// Addresses of one call.
pub const TARGETS: usize = 1024;
/// A call to no more than these pads its probes, so that whoever is reached may ask back at once.
const FEW: usize = 16;
/// Answer and question together.
const ECHO: usize = 2 * (PROBE + OVERHEAD);
const PAD: usize = 64;
/// Calls remembered, and for how long.
const REMEMBERED: usize = 64;
const LIFE_NS: u64 = 15_000_000_000;
/// A path asks back where it is approached from at most this often.
const PAUSE_NS: u64 = 20_000_000;

impl Core {
    /// Send a probe of path `id` to each of `endpoints`, at most `hops` routers far.
    ///
    /// Returns how many left: none on a path that carries already, and none to an address whose
    /// budget is used up.
    pub fn punch(
        &mut self,
        sid: u32,
        id: u8,
        endpoints: &[SocketAddr],
        hops: Option<u8>,
        now_ns: u64,
    ) -> Result<usize> {
        if endpoints.len() > TARGETS || hops == Some(0) {
            return Err(Error::Invalid(
                "a punch goes to at most 1,024 addresses, and at least one hop far",
            ));
        }
        let Some(place) = self.punchable(sid, id)? else {
            return Ok(0);
        };
        let (mut name, mut pad) = ([0u8; 8], [0u8; 1]);
        OsRng.fill(&mut name)?;
        OsRng.fill(&mut pad)?;
        let question = u64::from_be_bytes(name);
        let session = self.sessions.get_mut(&sid).ok_or(Error::NoSession(sid))?;
        if let Some(path) = session.paths.get_mut(place) {
            path.punched(question, now_ns);
        }
        let mut body = Probe::Request(question).emit().to_vec();
        let [pad] = pad.map(|p| usize::from(p) % PAD);
        if endpoints.len() <= FEW {
            body.resize(ECHO - OVERHEAD + pad, 0);
        }
        let bytes = body.len() + OVERHEAD;
        let mut sent = 0;
        for to in endpoints.iter().copied().filter(|to| may_be_peer(*to)) {
            if !self.gate.may_send_unproven(to, bytes, now_ns) {
                continue;
            }
            let target = Target {
                to,
                raw: self.underlay.ports.raw(to).within(hops),
                stranger: true,
            };
            let kind = (Kind::Probe, 0, 0);
            sent += usize::from(
                self.underlay
                    .seal_to(session, place, &target, kind, &body, now_ns),
            );
        }
        self.flush(now_ns);
        Ok(sent)
    }

    /// The place of a path that may be punched; None if it carries and need not be.
    pub(crate) fn punchable(&self, sid: u32, id: u8) -> Result<Option<usize>> {
        let session = self.sessions.get(&sid).ok_or(Error::NoSession(sid))?;
        let place = session.place(id).ok_or(Error::Invalid("no such path"))?;
        let path = session.paths.get(place);
        let path = path.ok_or(Error::Invalid("no such path"))?;
        if path.circuit.is_some() || !session.confirmed || session.lookup {
            return Err(Error::Invalid(
                "only a direct path of a confirmed session can be punched",
            ));
        }
        Ok((!path.usable()).then_some(place))
    }

    /// The peer of an unproven path was heard from another address: ask there, for what came.
    pub(crate) fn approached(
        &mut self,
        sid: u32,
        place: usize,
        (to, port): (SocketAddr, u16),
        received: usize,
        now_ns: u64,
    ) {
        let Some(session) = self.sessions.get_mut(&sid) else {
            return;
        };
        let Some(path) = session.paths.get_mut(place) else {
            return;
        };
        let early = path.challenged_ns != 0 && now_ns < path.challenged_ns + PAUSE_NS;
        let bytes = PROBE + OVERHEAD;
        // The answer that came just now may have settled it.
        if path.is_proven()
            || path.endpoint == to
            || received < bytes
            || early
            || !self.gate.may_send_unproven(to, bytes, now_ns)
        {
            return;
        }
        let mut name = [0u8; 8];
        if OsRng.fill(&mut name).is_err() {
            return;
        }
        let question = u64::from_be_bytes(name);
        path.challenged_ns = now_ns;
        path.punched(question, now_ns);
        // What it sends before it knows that we are found is masked for this session at its source.
        let before = path.caller.replace(to);
        let target = Target {
            to,
            raw: self.underlay.ports.raw(to).through(port),
            stranger: true,
        };
        let (body, kind) = (Probe::Request(question).emit(), (Kind::Probe, 0, 0));
        self.underlay
            .seal_to(session, place, &target, kind, &body, now_ns);
        if let Some(before) = before {
            self.forget_source(before, sid);
        }
        self.by_source.entry(to).or_default().push(sid);
    }

    /// An answer came from `to`: the path of which nothing was known goes there, by the socket that
    /// it came to; false if it cannot have that one.
    pub(crate) fn settle(
        &mut self,
        sid: u32,
        place: usize,
        (to, port): (SocketAddr, u16),
        now_ns: u64,
    ) -> bool {
        let may_keep = self.may_keep(port);
        let Some(path) = self
            .sessions
            .get_mut(&sid)
            .and_then(|s| s.paths.get_mut(place))
            .filter(|_| may_keep)
        else {
            return false;
        };
        path.raw.port = port;
        let (id, caller) = (path.id, path.caller.take());
        // The session exists and has that path: nothing can fail.
        let _ = self.move_path(sid, id, to, now_ns);
        if let Some(caller) = caller {
            self.forget_source(caller, sid);
        }
        true
    }
}

impl crate::path::Path {
    /// Remember a probe that went to many, oldest out.
    pub(crate) fn punched(&mut self, id: u64, now_ns: u64) {
        self.punches.retain(|p| now_ns < p.sent_ns + LIFE_NS);
        if self.punches.len() >= REMEMBERED {
            self.punches.pop_front();
        }
        self.punches.push_back(Pending {
            id,
            sent_ns: sys::now_ns(),
            asked: false,
            size: None,
        });
    }
}

/// Whether one peer can be at an address that somebody told.
pub(crate) fn may_be_peer(to: SocketAddr) -> bool {
    let broadcast = matches!(to.ip(), IpAddr::V4(ip) if ip.is_broadcast());
    let nowhere = to.ip().is_unspecified() || to.ip().is_multicast() || broadcast;
    to.port() != 0 && !nowhere && !is_stand_in(to)
}
