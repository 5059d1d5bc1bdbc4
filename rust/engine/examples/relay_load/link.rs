//! One link of the load generator: a real session with the relay, and the keys to use it at speed.
//!
//! ```text
//! frame   | idx | counter | meta kind 6 | sealed(label u32 | inner datagram) | tag |     class relay, path 0
//! ```
//! The engine under test answers the handshake; this end derives the same keys and seals by itself,
//! since no engine would let a program send frames for circuits that it made up.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use veilnet_engine::sys::crypto::{Aead, Mask};
use veilnet_engine::sys::now_ns;
use veilnet_engine::sys::udp::{RawAddr, Udp};
use veilnet_engine::sys::wake::wait_readable;
use veilnet_handshake::{
    Action, Class, DirectionKey, Established, Event, Gate, KeySchedule, Mode, OsRng, Suite,
};
use veilnet_wire::{HEADER, Header, Kind, OVERHEAD, TAG};

/// What both ends of every link here take for granted; `bench/relay_node.py` has the same.
pub const DOOR: [u8; 32] = [7; 32];
const NETWORK: [u8; 32] = [1; 32];
const K_NET: [u8; 32] = [2; 32];
const RESPONDER: [u8; 32] = [3; 32];
/// The KEM's secret: neither engine nor gate know what a KEM is.
const SS: [u8; 32] = [4; 32];
const EK: usize = 1184;

pub const LABEL: usize = 4;
/// What a frame adds to the inner datagram.
pub const FRAME: usize = OVERHEAD + LABEL;

const ASK_AGAIN_NS: u64 = 300_000_000;
const GIVE_UP_NS: u64 = 15_000_000_000;
const PATH: u8 = 0;

/// What one received datagram was.
pub enum Got {
    /// A relay frame that was not opened.
    Frame,
    /// A relay frame, opened into the buffer that was given.
    Opened(usize),
    /// A probe, a report, control: the link's own business.
    Other,
}

struct Sealer {
    key: Aead,
    next: u64,
}

pub struct Link {
    raw: RawAddr,
    sid: u32,
    remote_sid: u32,
    mask_tx: Mask,
    mask_rx: Mask,
    relay_tx: Sealer,
    relay_rx: Aead,
    data_tx: Sealer,
    data_rx: Aead,
}

fn bad(what: &str) -> io::Error {
    io::Error::other(what.to_owned())
}

impl Link {
    /// Shake hands with the relay at `to` and wait for its ACK.
    pub fn open(udp: &Udp, to: SocketAddr) -> io::Result<Link> {
        let mut gate = Gate::new(&mut OsRng).map_err(io::Error::other)?;
        let schedule = KeySchedule::initiate(
            Suite::S1,
            Mode::Full,
            &NETWORK,
            &K_NET,
            &RESPONDER,
            &[9; EK],
            &mut OsRng,
        )
        .map_err(io::Error::other)?;
        let schedule = Arc::new(Mutex::new(schedule));
        let raw = udp.raw(to);
        let (begun, mut asked) = (now_ns(), 0);
        let mut session: Option<(Established, Aead)> = None;
        let mut out = Vec::new();
        let mut buf = vec![0; 1 << 16];
        while now_ns() < begun + GIVE_UP_NS {
            let now = now_ns();
            if now >= asked + ASK_AGAIN_NS {
                asked = now;
                match &session {
                    None => {
                        gate.hello(&schedule, &DOOR, to, false, now, &mut OsRng, &mut out)
                            .map_err(io::Error::other)?;
                    }
                    Some((e, _)) => gate
                        .resend(e.local_sid, now, &mut out)
                        .map_err(io::Error::other)?,
                }
            }
            session = perform(udp, &mut gate, &mut out, session)?;
            let Ok(received) = udp.receive(&mut buf) else {
                wait_readable(&[udp.fd()], 20_000_000);
                continue;
            };
            for datagram in buf
                .get_mut(..received.len)
                .unwrap_or_default()
                .chunks_mut(received.segment)
            {
                if let Some((e, control)) = &session
                    && is_ack(e, control, datagram)
                {
                    return Link::new(session.take().ok_or_else(|| bad("session"))?.0, raw);
                }
                gate.receive(datagram, received.source, now_ns(), &mut OsRng, &mut out);
            }
            session = perform(udp, &mut gate, &mut out, session)?;
        }
        Err(bad("the relay did not answer the handshake in time"))
    }

    fn new(e: Established, raw: RawAddr) -> io::Result<Link> {
        let sealer = |class| {
            Ok::<_, io::Error>(Sealer {
                key: aead(&e.keys.tx.key(class, PATH))?,
                next: 0,
            })
        };
        Ok(Link {
            raw,
            sid: e.local_sid,
            remote_sid: e.remote_sid,
            mask_tx: Mask::new(&e.mask_tx),
            mask_rx: Mask::new(&e.mask_rx),
            relay_tx: sealer(Class::Relay)?,
            relay_rx: aead(&e.keys.rx.key(Class::Relay, PATH))?,
            data_tx: sealer(Class::Data)?,
            data_rx: aead(&e.keys.rx.key(Class::Data, PATH))?,
        })
    }

    pub fn raw(&self) -> &RawAddr {
        &self.raw
    }

    /// Seal `plain` (label and inner datagram) as the next frame into `out`.
    #[inline]
    pub fn seal(&mut self, plain: &[u8], out: &mut [u8]) -> bool {
        seal(
            (self.remote_sid, Kind::Relay),
            &mut self.relay_tx,
            &self.mask_tx,
            plain,
            out,
        )
    }

    /// Take a datagram of this link; with `into` a frame is opened there, else only recognised.
    #[inline]
    pub fn receive(
        &mut self,
        udp: &Udp,
        datagram: &[u8],
        into: Option<&mut [u8]>,
    ) -> io::Result<Got> {
        let bytes = self.mask_rx.header(datagram).ok_or_else(|| bad("a runt"))?;
        let header = Header::parse(&bytes)
            .filter(|h| h.idx == self.sid)
            .ok_or_else(|| bad("a datagram that is not of this link"))?;
        match (header.kind, into) {
            (Kind::Relay, None) => Ok(Got::Frame),
            (Kind::Relay, Some(into)) => {
                let sealed = datagram.get(HEADER..).unwrap_or_default();
                let len = sealed.len().saturating_sub(TAG);
                let place = into.get_mut(..len).ok_or_else(|| bad("a giant frame"))?;
                if !self.relay_rx.open(header.counter, &bytes, sealed, place) {
                    return Err(bad("a frame whose seal does not open"));
                }
                Ok(Got::Opened(len))
            }
            (Kind::Probe, _) => {
                self.answer(udp, &header, &bytes, datagram);
                Ok(Got::Other)
            }
            _ => Ok(Got::Other),
        }
    }

    /// Answer a probe, so that the relay finds the path's MTU and takes the link for alive.
    fn answer(&mut self, udp: &Udp, header: &Header, aad: &[u8; HEADER], datagram: &[u8]) {
        let sealed = datagram.get(HEADER..).unwrap_or_default();
        let mut body = vec![0; sealed.len().saturating_sub(TAG)];
        if !self.data_rx.open(header.counter, aad, sealed, &mut body) || body.first() != Some(&0) {
            return;
        }
        body.truncate(9);
        if let Some(kind) = body.first_mut() {
            *kind = 1;
        }
        let mut out = vec![0; body.len() + OVERHEAD];
        let name = (self.remote_sid, Kind::Probe);
        if seal(name, &mut self.data_tx, &self.mask_tx, &body, &mut out) {
            // A lost answer is asked for again.
            let _ = udp.send(&self.raw, &out, out.len());
        }
    }
}

fn aead(key: &DirectionKey) -> io::Result<Aead> {
    Aead::new(key).ok_or_else(|| bad("out of memory for a key"))
}

#[inline]
fn seal(
    (idx, kind): (u32, Kind),
    key: &mut Sealer,
    mask: &Mask,
    plain: &[u8],
    out: &mut [u8],
) -> bool {
    let header = Header {
        idx,
        counter: key.next,
        kind,
        epoch: 0,
        path: PATH,
        segment: 0,
        flags: 0,
    }
    .emit();
    let Some((head, body)) = out.split_at_mut_checked(HEADER) else {
        return false;
    };
    if !key.key.seal(key.next, &header, plain, body) {
        return false;
    }
    key.next += 1;
    head.copy_from_slice(&header);
    mask.apply(out);
    true
}

fn is_ack(e: &Established, control: &Aead, datagram: &[u8]) -> bool {
    let Some(bytes) = Mask::new(&e.mask_rx).header(datagram) else {
        return false;
    };
    let Some(header) = Header::parse(&bytes) else {
        return false;
    };
    let sealed = datagram.get(HEADER..).unwrap_or_default();
    let mut plain = vec![0; sealed.len().saturating_sub(TAG)];
    header.idx == e.local_sid
        && header.kind == Kind::Control
        && control.open(header.counter, &bytes, sealed, &mut plain)
        && plain == e.th4
}

/// Do what the gate asked for.
fn perform(
    udp: &Udp,
    gate: &mut Gate,
    out: &mut Vec<Action>,
    mut session: Option<(Established, Aead)>,
) -> io::Result<Option<(Established, Aead)>> {
    while !out.is_empty() {
        for action in std::mem::take(out) {
            let now = now_ns();
            match action {
                Action::Send { to, bytes } => udp.send(&udp.raw(to), &bytes, bytes.len())?,
                Action::Event(Event::Candidate { sid, candidate, .. }) => {
                    gate.candidate(sid, candidate, &SS, now, out)
                        .map_err(io::Error::other)?;
                }
                Action::Event(Event::Message { sid, .. }) if session.is_none() => {
                    let e = gate
                        .authenticate(sid, vec![0xe3; 64], None, now, out)
                        .map_err(io::Error::other)?;
                    let control = aead(&e.keys.rx.key(Class::Control, PATH))?;
                    session = Some((e, control));
                }
                Action::Event(_) | Action::ResendAck { .. } => {}
            }
        }
    }
    Ok(session)
}
