//! The sockets of the underlay: the main one, more of them while a NAT is tried, and carriers.
//!
//! Port 0 is the main socket. The others stand behind one descriptor (`Set`), so that they cost
//! nothing while there are none. A path knows its port; what the kernel is given knows it too.

use crate::carrier;
use crate::circuit::is_stand_in;
use crate::error::{Error, Result};
use crate::records::{self, LONGEST};
use crate::sys::poll::{READY, Set};
use crate::sys::seq::Seq;
use crate::sys::udp::{Local, RawAddr, Received, Udp};
use std::collections::BTreeMap;
use std::collections::hash_map::{HashMap, RandomState};
use std::io;
use std::net::{IpAddr, SocketAddr};

pub const MAIN: u16 = 0;
/// Sockets of attempts that run, and those of paths that came of one.
pub const SPREAD: usize = 256;
pub const KEPT: usize = 8;
/// Carriers at once.
pub const CARRIERS: usize = 256;
/// A socket that no path settled on is closed after this.
pub const SPREAD_NS: u64 = 12_000_000_000;
/// How a carrier is told from a port in the set of descriptors.
const CARRIER: u64 = 1 << 32;

struct Extra {
    udp: Udp,
    until_ns: u64,
}

struct Carrier {
    seq: Seq,
    address: SocketAddr,
}

/// What a message or datagram came in by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Port(u16),
    Carrier(u32),
}

pub struct Ports {
    pub main: Udp,
    others: Option<Box<Others>>,
    key: RandomState,
    last_carrier: u32,
    last_port: u16,
    /// Datagrams that a carrier did not take: it was behind.
    pub dropped: u64,
}

struct Others {
    set: Set,
    extras: BTreeMap<u16, Extra>,
    carriers: HashMap<u32, Carrier>,
    /// Carriers whose other end has gone.
    gone: Vec<u32>,
    message: Vec<u8>,
}

impl Ports {
    #[must_use]
    pub fn new(main: Udp) -> Ports {
        Ports {
            main,
            others: None,
            key: RandomState::new(),
            last_carrier: 0,
            last_port: MAIN,
            dropped: 0,
        }
    }

    /// The kernel's form of `to`, from the main socket.
    #[inline]
    #[must_use]
    pub fn raw(&self, to: SocketAddr) -> RawAddr {
        self.main.raw(to)
    }

    /// The address of this host that the kernel leaves from towards `to`, if that is a place and leads there.
    #[must_use]
    pub fn source(&self, to: SocketAddr) -> Option<Local> {
        (!is_stand_in(to))
            .then(|| self.main.source(&self.raw(to)))
            .flatten()
    }

    /// The socket of a port, or the main one if it was closed.
    #[inline]
    #[must_use]
    pub fn udp(&self, port: u16) -> &Udp {
        if port == MAIN {
            return &self.main;
        }
        let extra = self.others.as_ref().and_then(|o| o.extras.get(&port));
        extra.map_or(&self.main, |e| &e.udp)
    }

    /// The descriptor that is readable when a socket beside the main one is; -1 if there is none.
    #[must_use]
    pub fn others_fd(&self) -> i32 {
        self.others.as_ref().map_or(-1, |o| o.set.fd())
    }

    /// Those beside the main one that have something to read.
    pub fn ready(&self, names: &mut [u64; READY]) -> usize {
        self.others.as_ref().map_or(0, |o| o.set.ready(names))
    }

    #[must_use]
    pub fn way(name: u64) -> Way {
        if name & CARRIER == 0 {
            Way::Port(name as u16)
        } else {
            Way::Carrier(name as u32)
        }
    }

    fn others(&mut self) -> Result<&mut Others> {
        if self.others.is_none() {
            self.others = Some(Box::new(Others {
                set: Set::new().map_err(Error::os("epoll"))?,
                extras: BTreeMap::new(),
                carriers: HashMap::new(),
                gone: Vec::new(),
                message: Vec::new(),
            }));
        }
        self.others
            .as_deref_mut()
            .ok_or(Error::Invalid("no sockets beside the main one"))
    }

    /// Let the set go when nothing is left in it.
    fn tidy(&mut self) {
        self.others
            .take_if(|o| o.extras.is_empty() && o.carriers.is_empty() && o.gone.is_empty());
    }

    // --- further UDP sockets ---------------------------------------------------------------

    /// Open up to `count` sockets on random ports; fewer when the host has no more.
    pub fn open(&mut self, count: usize, now_ns: u64) -> Result<Vec<u16>> {
        let held = self.extra_count();
        if count > SPREAD.min((SPREAD + KEPT).saturating_sub(held)) {
            return Err(Error::Invalid("at most 256 further sockets at once"));
        }
        let mut opened = Vec::with_capacity(count);
        for _ in 0..count {
            match self.open_one(now_ns) {
                Ok(port) => opened.push(port),
                Err(error) if opened.is_empty() => {
                    self.tidy();
                    return Err(error);
                }
                Err(_) => break,
            }
        }
        Ok(opened)
    }

    fn open_one(&mut self, now_ns: u64) -> Result<u16> {
        let failed = "a further UDP socket";
        let udp = self.main.further().map_err(Error::os(failed))?;
        let mut port = self.last_port;
        let others = self.others()?;
        // There are far more numbers than sockets.
        loop {
            port = port.wrapping_add(1);
            if port != MAIN && !others.extras.contains_key(&port) {
                break;
            }
        }
        others
            .set
            .add(udp.fd(), u64::from(port))
            .map_err(Error::os(failed))?;
        let until_ns = now_ns + SPREAD_NS;
        others.extras.insert(port, Extra { udp, until_ns });
        self.last_port = port;
        Ok(port)
    }

    /// When the next socket may be closed.
    #[must_use]
    pub fn next_ns(&self) -> Option<u64> {
        let others = self.others.as_ref()?;
        others.extras.values().map(|e| e.until_ns).min()
    }

    /// Close the sockets whose time is over, but for those that `used` names.
    pub fn close_spread(&mut self, used: &[u16], now_ns: u64) {
        if let Some(others) = self.others.as_deref_mut() {
            others.extras.retain(|port, extra| {
                let stays = used.contains(port);
                if stays && extra.until_ns <= now_ns {
                    extra.until_ns = now_ns + SPREAD_NS;
                }
                stays || now_ns < extra.until_ns
            });
        }
        self.tidy();
    }

    pub fn receive(&self, port: u16, buf: &mut [u8]) -> io::Result<Received> {
        self.udp(port).receive(buf)
    }

    #[must_use]
    pub fn extra_count(&self) -> usize {
        self.others.as_ref().map_or(0, |o| o.extras.len())
    }

    // --- carriers --------------------------------------------------------------------------

    /// Take over the socket of a carrier, of a connection with `remote`.
    pub fn attach(&mut self, seq: Seq, remote: Option<IpAddr>) -> Result<SocketAddr> {
        let number = self.last_carrier.wrapping_add(1).max(1);
        let address = carrier::stand_in(number, remote, &self.key);
        let others = self.others()?;
        if others.carriers.len() >= CARRIERS || others.carriers.contains_key(&number) {
            return Err(Error::Invalid("at most 256 carriers at once"));
        }
        others
            .set
            .add(seq.fd(), CARRIER | u64::from(number))
            .map_err(Error::os("a carrier"))?;
        others.carriers.insert(number, Carrier { seq, address });
        self.last_carrier = number;
        Ok(address)
    }

    pub fn detach(&mut self, number: u32) -> Option<SocketAddr> {
        let gone = self.others.as_deref_mut()?.carriers.remove(&number)?;
        self.tidy();
        Some(gone.address)
    }

    #[must_use]
    pub fn is_attached(&self, address: SocketAddr) -> bool {
        let number = carrier::number(address);
        let others = self.others.as_ref();
        others
            .zip(number)
            .and_then(|(o, n)| o.carriers.get(&n))
            .is_some_and(|c| c.address == address)
    }

    /// Give a carrier `held`, cut into datagrams of `segment` bytes, as one message.
    ///
    /// Errors: EMSGSIZE for datagrams that no record takes. What a carrier does not take is lost.
    pub fn carry(&mut self, number: u32, held: &[u8], segment: usize) -> io::Result<()> {
        if segment > LONGEST {
            return Err(io::Error::from_raw_os_error(libc::EMSGSIZE));
        }
        let Some(others) = self.others.as_deref_mut() else {
            return Ok(());
        };
        let Some(carrier) = others.carriers.get(&number) else {
            return Ok(());
        };
        others.message.clear();
        for datagram in held.chunks(segment.max(1)) {
            let _fits = records::put(&mut others.message, datagram);
        }
        match carrier.seq.send(&others.message) {
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => others.gone.push(number),
            Err(_) => self.dropped += held.len().div_ceil(segment.max(1)) as u64,
            Ok(()) => {}
        }
        Ok(())
    }

    /// Receive one message of a carrier: its address and length, None when there is none.
    pub fn message(&mut self, number: u32, buf: &mut [u8]) -> Option<(SocketAddr, usize)> {
        let others = self.others.as_deref_mut()?;
        let carrier = others.carriers.get(&number)?;
        match carrier.seq.receive(buf) {
            Ok(0) => {}
            Ok(len) => return Some((carrier.address, len)),
            Err(e)
                if matches!(
                    e.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                ) =>
            {
                return None;
            }
            Err(_) => {}
        }
        others.gone.push(number);
        None
    }

    /// The carriers whose other end has gone since the last call.
    pub fn take_gone(&mut self) -> Vec<SocketAddr> {
        let Some(others) = self.others.as_deref_mut() else {
            return Vec::new();
        };
        let numbers = std::mem::take(&mut others.gone);
        numbers.into_iter().filter_map(|n| self.detach(n)).collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn ports() -> Ports {
        Ports::new(Udp::bind(0, false).unwrap())
    }

    /// Sockets are bounded, go when their time is over, and stay while a path uses them.
    #[test]
    fn an_attempt_ends() {
        let mut p = ports();
        assert_eq!((p.others_fd(), p.next_ns()), (-1, None));
        let opened = p.open(16, 0).unwrap();
        assert_eq!(opened.len(), 16);
        let used = opened.first().copied().unwrap();
        assert_ne!(p.udp(used).port().unwrap(), p.main.port().unwrap());
        p.close_spread(&[used], SPREAD_NS - 1);
        assert!(p.extra_count() > 1);
        p.close_spread(&[used], SPREAD_NS);
        assert_eq!((p.extra_count(), p.next_ns()), (1, Some(2 * SPREAD_NS)));
        p.close_spread(&[], 2 * SPREAD_NS);
        assert_eq!((p.extra_count(), p.others_fd()), (0, -1));
        assert_eq!(p.udp(used).port().unwrap(), p.main.port().unwrap());
    }

    /// No more than 256 are tried at once, beside the eight that paths may keep.
    #[test]
    fn sockets_are_bounded() {
        let mut p = ports();
        assert!(p.open(SPREAD + 1, 0).is_err());
        p.open(SPREAD, 0).unwrap();
        assert!(p.open(KEPT + 1, 0).is_err());
        assert_eq!(p.open(KEPT, 0).unwrap().len(), KEPT);
        assert!(p.open(1, 0).is_err());
    }

    /// A batch goes to a carrier as one message; what no record takes is refused as by the host.
    #[test]
    fn a_batch_is_one_message() {
        let mut p = ports();
        let (one, other) = Seq::pair(1 << 18).unwrap();
        let at = p.attach(one, None).unwrap();
        let number = carrier::number(at).unwrap();
        p.carry(number, &[7; 2500], 1000).unwrap();
        let mut buf = [0; 4000];
        let len = other.receive(&mut buf).unwrap();
        let (mut sizes, mut next) = (Vec::new(), 0);
        while let Some(range) = records::record(buf.get(..len).unwrap(), next) {
            next = range.end;
            sizes.push(range.len());
        }
        assert_eq!((sizes, next), (vec![1000, 1000, 500], len));
        let refused = p.carry(number, &[7; 1501], 1501).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EMSGSIZE));
        drop(other);
        p.carry(number, &[7; 10], 10).unwrap();
        assert_eq!(p.take_gone(), [at]);
        assert!(!p.is_attached(at) && p.others_fd() == -1);
    }
}
