//! Sockets beside the main one: carriers, and the many of a birthday attempt.
//!
//! The hard side of an attempt opens up to 256 sockets, so that a NAT that gives each of them another
//! port gives the peer as many to guess one of. The socket on which something authentic comes becomes
//! the path's; the others are closed after 12 s.

use crate::carrier;
use crate::core::{Core, SLOT};
use crate::error::{Error, Result};
use crate::events::Event;
use crate::ports::{KEPT, MAIN, Ports, SPREAD, Way};
use crate::probe::{PROBE, Probe};
use crate::punch::may_be_peer;
use crate::receive::Hop;
use crate::records;
use crate::sys::poll::READY;
use crate::sys::seq::Seq;
use crate::sys::udp::Received;
use crate::underlay::Target;
use std::net::{IpAddr, SocketAddr};
use veilnet_handshake::{OsRng, Rng as _};
use veilnet_wire::{HEADER, Kind, OVERHEAD};

/// Receive calls of one socket between two looks at the others.
const RECEIVES: usize = 16;

impl Core {
    /// Take over the socket of a carrier; the answer stands for it as an endpoint.
    pub fn attach(&mut self, seq: Seq, remote: Option<IpAddr>) -> Result<SocketAddr> {
        self.underlay.ports.attach(seq, remote)
    }

    /// Let a carrier go; nothing if there is none.
    pub fn detach(&mut self, endpoint: SocketAddr, now_ns: u64) {
        self.flush(now_ns);
        if self.underlay.ports.is_attached(endpoint)
            && let Some(number) = carrier::number(endpoint)
            && self.underlay.ports.detach(number).is_some()
        {
            self.close_paths(|p| p.endpoint == endpoint, now_ns);
        }
    }

    /// Open `sockets` further sockets and send a probe of path `id` to `to` from each.
    pub fn spread(
        &mut self,
        sid: u32,
        id: u8,
        to: SocketAddr,
        sockets: usize,
        now_ns: u64,
    ) -> Result<()> {
        if !(1..=SPREAD).contains(&sockets) || !may_be_peer(to) {
            return Err(Error::Invalid(
                "an attempt has 1 to 256 sockets and one peer's address",
            ));
        }
        let Some(place) = self.punchable(sid, id)? else {
            return Ok(());
        };
        let mut name = [0u8; 8];
        OsRng.fill(&mut name)?;
        let question = u64::from_be_bytes(name);
        let ports = self.underlay.ports.open(sockets, now_ns)?;
        let session = self.sessions.get_mut(&sid).ok_or(Error::NoSession(sid))?;
        if let Some(path) = session.paths.get_mut(place) {
            path.punched(question, now_ns);
        }
        let (body, kind) = (Probe::Request(question).emit(), (Kind::Probe, 0, 0));
        for port in ports {
            if !self.gate.may_send_unproven(to, PROBE + OVERHEAD, now_ns) {
                break;
            }
            let target = Target {
                to,
                raw: self.underlay.ports.raw(to).through(port),
                stranger: true,
            };
            self.underlay
                .seal_to(session, place, &target, kind, &body, now_ns);
        }
        self.next_ns = self
            .next_ns
            .min(self.underlay.ports.next_ns().unwrap_or(u64::MAX));
        self.flush(now_ns);
        Ok(())
    }

    /// Whether a path that nobody settled yet may take a socket beside the main one for its own.
    pub(crate) fn may_keep(&self, port: u16) -> bool {
        port == MAIN || self.ports_in_use().iter().filter(|p| **p != port).count() < KEPT
    }

    fn ports_in_use(&self) -> Vec<u16> {
        let paths = self.sessions.values().flat_map(|s| s.paths.iter());
        let mut used: Vec<u16> = paths.map(|p| p.raw.port).filter(|p| *p != MAIN).collect();
        used.sort_unstable();
        used.dedup();
        used
    }

    /// Close sockets whose attempt is over; when to come back.
    pub(crate) fn close_spread(&mut self, now_ns: u64) -> Option<u64> {
        if self.underlay.ports.next_ns()? <= now_ns {
            let used = self.ports_in_use();
            self.underlay.ports.close_spread(&used, now_ns);
        }
        self.underlay.ports.next_ns()
    }

    /// Take what came in beside the main socket; true if there was something.
    pub(crate) fn drain_others(&mut self, slot: &mut [u8], now_ns: u64) -> bool {
        let mut names = [0; READY];
        let count = self.underlay.ports.ready(&mut names);
        for name in names.iter().take(count) {
            let way = Ports::way(*name);
            for _ in 0..RECEIVES {
                let more = match way {
                    Way::Port(port) => self.drain_port(port, slot, now_ns),
                    Way::Carrier(number) => self.drain_carrier(number, slot, now_ns),
                };
                self.forward(slot, now_ns);
                if !more {
                    break;
                }
            }
        }
        for endpoint in self.underlay.ports.take_gone() {
            self.close_paths(|p| p.endpoint == endpoint, now_ns);
            self.events.push(Event::CarrierClosed { endpoint });
        }
        count > 0
    }

    fn drain_port(&mut self, port: u16, slot: &mut [u8], now_ns: u64) -> bool {
        let Some(room) = slot.get_mut(..SLOT) else {
            return false;
        };
        let Ok(Received {
            len,
            segment,
            source,
            local,
        }) = self.underlay.ports.receive(port, room)
        else {
            return false;
        };
        self.stats.rx_calls += 1;
        if crate::circuit::is_stand_in(source) {
            return true;
        }
        let mut start = 0;
        for datagram in room.get_mut(..len).unwrap_or_default().chunks_mut(segment) {
            self.stats.rx_datagrams += 1;
            if let Some((link, len)) = self.datagram(datagram, (source, local, port), now_ns) {
                let start = start + HEADER;
                self.hops.push(Hop { link, start, len });
            }
            start += segment;
        }
        true
    }

    fn drain_carrier(&mut self, number: u32, slot: &mut [u8], now_ns: u64) -> bool {
        let Some(room) = slot.get_mut(..SLOT) else {
            return false;
        };
        let Some((source, len)) = self.underlay.ports.message(number, room) else {
            return false;
        };
        self.stats.rx_calls += 1;
        let message = room.get_mut(..len).unwrap_or_default();
        let mut at = 0;
        while let Some(range) = records::record(message, at) {
            at = range.end;
            let start = range.start + HEADER;
            self.stats.rx_datagrams += 1;
            let datagram = message.get_mut(range).unwrap_or_default();
            if let Some((link, len)) = self.datagram(datagram, (source, None, MAIN), now_ns) {
                self.hops.push(Hop { link, start, len });
            }
        }
        true
    }
}
