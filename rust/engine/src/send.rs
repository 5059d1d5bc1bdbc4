//! From the TUN device to the underlay.
//!
//! One read brings one super-packet. Its segments are sealed one by one, each useful on its own,
//! straight from the read buffer into the send slab; one system call sends them all.

use crate::core::Core;
use crate::events::Event;
use crate::session::{SILENT_NS, Session, TELL_AGAIN_NS};
use crate::underlay::Underlay;
use std::io;
use std::net::IpAddr;
use veilnet_handshake::Class;
use veilnet_wire::icmp::{self, Reason};
use veilnet_wire::{Error as WireError, Kind, OVERHEAD, PARTIAL, SECOND_HALF, Super, VNET, Vnet};
use veilnet_wire::{ip, part, split};

/// Reads between two looks at the other side.
const READS: usize = 64;

impl Core {
    /// Read and send what the TUN device holds; true if there was something.
    pub(crate) fn drain_tun(&mut self, now_ns: u64) -> bool {
        let mut worked = false;
        for _ in 0..READS {
            let Some(tun) = &self.tun else { break };
            let len = match tun.read(&mut self.tun_buf) {
                Ok(len) => len,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => {
                    // Polling a removed device would return at once, for ever.
                    self.tun = None;
                    let reason = format!("the TUN device is gone: {e}");
                    self.events.push(Event::Failed { reason });
                    break;
                }
            };
            worked = true;
            self.stats.tun_reads += 1;
            self.outgoing(len, now_ns);
            self.ship(now_ns);
        }
        self.flush(now_ns);
        worked
    }

    /// Send the packet of `len` bytes in the read buffer, or let it wait for a channel.
    #[inline]
    fn outgoing(&mut self, len: usize, now_ns: u64) {
        let Some(read) = self.tun_buf.get_mut(..len) else {
            return;
        };
        let front = if self.stats.vnet_hdr { VNET } else { 0 };
        let Some(destination) = read.get(front..).and_then(ip::dst) else {
            return;
        };
        let Some(sid) = self.routes.session(destination) else {
            if self.routes.is_wanted(destination) {
                if self.waiting.push(destination, read, now_ns) {
                    self.events.push(Event::Wanted { destination });
                }
                self.next_ns = self.next_ns.min(now_ns + SILENT_NS);
            }
            return;
        };
        let Some(session) = self.sessions.get_mut(&sid) else {
            return;
        };
        if send_packet(&mut self.underlay, session, read, front, now_ns).is_none()
            && !session.tx.has_room(1)
            && session
                .stale_told_ns
                .is_none_or(|t| now_ns >= t + TELL_AGAIN_NS)
        {
            session.stale_told_ns = Some(now_ns);
            self.events.push(Event::Stale { sid });
        }
        if session.tx.step_due(self.options.steps, now_ns) {
            // A failure keeps the old step, which is safe until the hard stop.
            let _ = session.tx.step(now_ns);
        }
        self.next_ns = self.next_ns.min(session.timer_ns);
    }

    /// Send a packet that waited for its channel.
    pub(crate) fn send_waiting(&mut self, packet: &[u8], now_ns: u64) {
        if let Some(slot) = self.tun_buf.get_mut(..packet.len()) {
            slot.copy_from_slice(packet);
            self.outgoing(packet.len(), now_ns);
            self.ship(now_ns);
        }
    }

    /// Answer every packet that waits for `destination` with ICMP unreachable.
    pub fn refuse(&mut self, destination: IpAddr) {
        let front = if self.stats.vnet_hdr { VNET } else { 0 };
        for packet in self.waiting.take(destination) {
            let inner = packet.get(front..).unwrap_or_default();
            let mut answer = [0u8; VNET + icmp::LONGEST];
            // An all-zero virtio header: no offload, checksum complete.
            let Some(room) = answer.get_mut(front..) else {
                continue;
            };
            if let Some(len) = icmp::unreachable(inner, Reason::Host, destination, room)
                && let (Some(tun), Some(whole)) = (&self.tun, answer.get(..front + len))
            {
                let _: io::Result<usize> = tun.write(whole);
            }
        }
    }

    /// Tell path MTU discovery of sizes that the host itself would not send.
    pub(crate) fn note_refused(&mut self, now_ns: u64) {
        if let Some((to, size)) = self.underlay.batch.refused.take() {
            for sid in self.by_source.get(&to).into_iter().flatten() {
                if let Some(session) = self.sessions.get_mut(sid) {
                    for path in session.paths.iter_mut().filter(|p| p.endpoint == to) {
                        path.mtu.refused(size, now_ns);
                    }
                    session.timer_ns = now_ns;
                    self.next_ns = now_ns;
                }
            }
        }
    }
}

/// Cut, seal and hold one packet as it was read; None if it is not one that can be sent.
#[inline]
fn send_packet(
    underlay: &mut Underlay,
    session: &mut Session,
    read: &mut [u8],
    front: usize,
    now_ns: u64,
) -> Option<()> {
    let (head, packet) = read.split_at_mut_checked(front)?;
    let mut vnet = if front == 0 {
        Vnet::default()
    } else {
        Vnet::parse(head)?
    };
    let cut = match Super::parse(&vnet, packet) {
        Err(WireError::ChecksumFirst) => {
            split::complete(&mut vnet, packet).ok()?;
            Super::parse(&vnet, packet).ok()?
        }
        other => other.ok()?,
    };
    if !session.tx.has_room(2 * cut.segments() as u64 + 1) {
        return None;
    }
    let kind = cut.kind();
    let at = if session.paths.len() < 2 {
        0
    } else {
        let hash = ip::parse(packet).map_or(0, |p| p.flow());
        let bytes = packet.len();
        session.flows.place(hash, bytes, &mut session.paths, now_ns)
    };
    let room = session.paths.get(at)?.mtu.size().saturating_sub(OVERHEAD);
    for k in 0..cut.segments() {
        let range = cut.prepare(packet, k);
        let inner = packet.get(range)?;
        if inner.len() <= room {
            let meta = (cut.index(k), cut.flags(k));
            underlay.seal(session, at, kind, meta, inner, now_ns);
        } else {
            send_parts(underlay, session, at, kind, inner, now_ns);
        }
    }
    session.counters.tx_packets += cut.segments() as u64;
    session.data_ns = Some(now_ns);
    session.sent(now_ns, true);
    watch(session, at, now_ns);
    Some(())
}

/// See to it that this sending is acknowledged on its path.
fn watch(session: &mut Session, at: usize, now_ns: u64) {
    if let Some(path) = session.paths.get(at)
        && path.usable()
        && session.confirmed
        && let Some(doubt_ns) = path.doubt_ns()
    {
        session.timer_ns = session.timer_ns.min(doubt_ns.max(now_ns));
    }
}

/// Send a packet that the path cannot take as two halves, with counters 2n and 2n + 1.
fn send_parts(
    underlay: &mut Underlay,
    session: &mut Session,
    at: usize,
    kind: Kind,
    inner: &[u8],
    now_ns: u64,
) {
    let partial = if kind == Kind::Data { PARTIAL } else { 0 };
    let Some(path) = session.paths.get(at).map(|p| p.id) else {
        return;
    };
    let Ok(key) = session.tx.sealer(Class::Data, path) else {
        return;
    };
    key.next += key.next & 1;
    let (first, second) = part::halves(inner);
    let second_half = partial | SECOND_HALF;
    underlay.seal(session, at, Kind::Part, (0, partial), first, now_ns);
    underlay.seal(session, at, Kind::Part, (0, second_half), second, now_ns);
}
