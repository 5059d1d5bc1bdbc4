//! What Python asks of paths and circuits.

use crate::circuit::{Circuit, is_stand_in};
use crate::core::Core;
use crate::error::{Error, Result};
use crate::flows::Flows;
use crate::lookups::LOOKUP_ONLY;
use crate::mtu::Search;
use crate::path::{OPEN_PATHS, Path, SHARED};
use crate::stats::PathStats;
use std::net::SocketAddr;
use veilnet_wire::OVERHEAD;

/// Circuits that end here, at most.
const JOINED: usize = 4096;
/// A share that changes by less leaves a path's usual delivery what it was.
const NEWS: f32 = 0.05;
/// The handshake's path id.
const RESERVED: u8 = 255;

impl Core {
    pub fn open_path(&mut self, sid: u32, id: u8, to: SocketAddr, now_ns: u64) -> Result<()> {
        self.check_endpoint(to)?;
        let raw = self.underlay.ports.raw(to);
        let source = self.underlay.ports.source(to);
        let wanted = self.options.mtu_bytes + OVERHEAD;
        let session = self.session_mut(sid)?;
        if id == RESERVED || session.path_ids.contains(id) {
            return Err(Error::Invalid(
                "a path id is not given out twice in a generation",
            ));
        }
        if session.paths.len() >= OPEN_PATHS {
            return Err(Error::Invalid("a session has at most eight paths open"));
        }
        session.path_ids.insert(id);
        let path = Path::new(id, to, raw, wanted, now_ns);
        session.paths.push(Path { source, ..path });
        session.timer_ns = now_ns;
        self.next_ns = 0;
        self.by_source.entry(to).or_default().push(sid);
        Ok(())
    }

    pub fn close_path(&mut self, sid: u32, id: u8) -> Result<()> {
        let session = self.session_mut(sid)?;
        if session.paths.len() < 2 {
            return Err(Error::Invalid("the last path closes with its session"));
        }
        let Some(place) = session.place(id) else {
            return Ok(());
        };
        let path = session.paths.remove(place);
        session.rx.forget_path(id);
        session.tx.forget_path(id);
        if let Some(next) = &mut session.tx_next {
            next.forget_path(id);
        }
        if session.paths.len() < 2 {
            session.flows = Flows::default();
            for path in &mut session.paths {
                (path.given, path.over_ns) = (0.0, None);
            }
        }
        // Somebody has to carry on; Python says later who best does.
        if path.share > 0.0 {
            let heir = session.main();
            if let Some(heir) = session.paths.get_mut(heir) {
                heir.share += path.share;
            }
        }
        self.forget_path_sources(sid, &path);
        Ok(())
    }

    /// Change where a direct path goes; what was learnt about the old way is forgotten.
    pub(crate) fn move_path(
        &mut self,
        sid: u32,
        id: u8,
        to: SocketAddr,
        now_ns: u64,
    ) -> Result<()> {
        let raw = self.underlay.ports.raw(to);
        let source = self.underlay.ports.source(to);
        let wanted = self.options.mtu_bytes + OVERHEAD;
        let session = self.session_mut(sid)?;
        let path = session
            .paths
            .iter_mut()
            .find(|p| p.id == id)
            .ok_or(Error::Invalid("no such path"))?;
        let old = std::mem::replace(&mut path.endpoint, to);
        path.circuit = Circuit::of(to);
        path.raw = raw.leaving(path.raw.local).through(path.raw.port);
        path.source = source;
        (path.cut, path.former, path.show) = (false, None, None);
        path.mtu = Search::new(wanted, now_ns);
        session.timer_ns = now_ns;
        self.next_ns = 0;
        self.forget_source(old, sid);
        self.by_source.entry(to).or_default().push(sid);
        Ok(())
    }

    /// The peer's address, for the first direct path.
    pub fn set_endpoint(&mut self, sid: u32, to: SocketAddr, now_ns: u64) -> Result<()> {
        let direct = self
            .session_mut(sid)?
            .paths
            .iter()
            .find(|p| p.circuit.is_none())
            .map(|p| p.id);
        self.check_endpoint(to)?;
        let id = direct.ok_or(Error::Invalid("the session has no direct path"))?;
        self.move_path(sid, id, to, now_ns)
    }

    pub fn set_shares(
        &mut self,
        sid: u32,
        shares: &[(u8, f32)],
        standby: Option<u8>,
        now_ns: u64,
    ) -> Result<()> {
        let session = self.session_mut(sid)?;
        let sum: f32 = shares.iter().map(|(_, share)| share).sum();
        let sane = |share: f32| share.is_finite() && (0.0..=1.0).contains(&share);
        if shares.len() > SHARED
            || !shares.iter().all(|(_, share)| sane(*share))
            || (sum - 1.0).abs() > 0.01
        {
            return Err(Error::Invalid(
                "shares of at most three paths, which sum to 1",
            ));
        }
        let known = |id: u8| session.place(id).is_some();
        if !shares.iter().all(|(id, _)| known(*id)) || !standby.is_none_or(known) {
            return Err(Error::Invalid("no such path"));
        }
        for path in &mut session.paths {
            let share: f32 = shares
                .iter()
                .filter(|(id, _)| *id == path.id)
                .map(|(_, share)| share)
                .sum();
            if (share - path.share).abs() > NEWS {
                path.meter.forget_usual();
            }
            if (share > 0.0) != (path.share > 0.0) {
                path.over_ns = None;
            }
            path.share = share;
            path.standby = standby == Some(path.id);
        }
        session.timer_ns = now_ns;
        self.next_ns = self.next_ns.min(now_ns);
        Ok(())
    }

    #[must_use]
    pub fn path_stats(&self, now_ns: u64) -> Vec<PathStats> {
        self.sessions
            .values()
            .flat_map(|s| s.paths.iter().map(|p| PathStats::of(s.sid, p, now_ns)))
            .collect()
    }

    // --- circuits at their ends ------------------------------------------------------------

    pub fn join_circuit(&mut self, circuit: Circuit) -> Result<SocketAddr> {
        self.check_link(circuit.link)?;
        if self.forwarding.has(circuit) {
            return Err(Error::Invalid("the label is in use on that link"));
        }
        if self.joined.len() >= JOINED && !self.joined.contains_key(&circuit) {
            return Err(Error::Invalid("too many circuits"));
        }
        self.joined.insert(circuit, ());
        Ok(circuit.address())
    }

    pub fn leave_circuit(&mut self, end: SocketAddr, now_ns: u64) {
        if let Some(circuit) = Circuit::of(end)
            && self.joined.remove(&circuit).is_some()
        {
            self.close_paths(|p| p.circuit == Some(circuit), now_ns);
        }
    }

    /// The session `old` is replaced by `new`: what goes over it as a link goes on over `new`.
    pub fn rebind_link(&mut self, old: u32, new: u32, now_ns: u64) -> Result<()> {
        self.check_link(new)?;
        self.forwarding.rebind(old, new);
        let ends: Vec<Circuit> = self
            .joined
            .keys()
            .filter(|c| c.link == old)
            .copied()
            .collect();
        for end in ends {
            self.joined.remove(&end);
            self.joined.insert(Circuit { link: new, ..end }, ());
        }
        let mut moves = Vec::new();
        for session in self.sessions.values() {
            for path in &session.paths {
                // A path whose circuit was left stays dead, and where it is.
                if let Some(circuit) = path.circuit
                    && circuit.link == old
                    && self.joined.contains_key(&Circuit {
                        link: new,
                        ..circuit
                    })
                {
                    let to = Circuit {
                        link: new,
                        ..circuit
                    }
                    .address();
                    moves.push((session.sid, path.id, to));
                }
            }
        }
        for (sid, id, to) in moves {
            self.move_path(sid, id, to, now_ns)?;
        }
        Ok(())
    }

    // --- circuits at a relay ---------------------------------------------------------------

    /// `quota`: bits per second, burst in bytes, bytes in all.
    pub fn add_circuit(
        &mut self,
        a: Circuit,
        b: Circuit,
        quota: (u64, u64, u64),
        now_ns: u64,
    ) -> Result<()> {
        self.check_link(a.link)?;
        self.check_link(b.link)?;
        if self.joined.contains_key(&a) || self.joined.contains_key(&b) {
            return Err(Error::Invalid("the label is in use on that link"));
        }
        self.forwarding.add(a, b, quota, now_ns)
    }

    fn check_link(&self, sid: u32) -> Result<()> {
        let session = self.sessions.get(&sid).ok_or(Error::NoSession(sid))?;
        if session.lookup {
            return Err(LOOKUP_ONLY);
        }
        if session.paths.iter().all(|p| p.circuit.is_some()) {
            return Err(Error::Invalid("a link has to be direct"));
        }
        Ok(())
    }

    fn check_endpoint(&self, to: SocketAddr) -> Result<()> {
        match Circuit::of(to) {
            Some(circuit) if !self.joined.contains_key(&circuit) => {
                Err(Error::Invalid("no such circuit"))
            }
            None if is_stand_in(to) && !self.underlay.ports.is_attached(to) => {
                Err(Error::Invalid("no such carrier"))
            }
            _ => Ok(()),
        }
    }

    /// A path's addresses lead no longer to its session.
    pub(crate) fn forget_path_sources(&mut self, sid: u32, path: &Path) {
        self.forget_source(path.endpoint, sid);
        if let Some(challenge) = path.challenge {
            self.forget_source(challenge.to, sid);
        }
        if let Some(caller) = path.caller {
            self.forget_source(caller, sid);
        }
    }
}
