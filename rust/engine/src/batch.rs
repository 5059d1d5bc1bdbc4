//! The send slab: datagrams of one size to one endpoint leave in one system call.

use crate::ports::Ports;
use crate::sys::udp::{RawAddr, Udp};
use crate::sys::wake::wait_writable;
use std::io;
use std::net::SocketAddr;

/// UDP_SEGMENT takes 64 before Linux 6.9.
pub const MAX_SEGMENTS: usize = 63;
const MAX_BYTES: usize = 65_000;
/// How long a full socket buffer may hold the data thread before a batch is dropped.
const BLOCKED_MS: i32 = 10;

pub struct Batch {
    buf: Box<[u8]>,
    len: usize,
    segment: usize,
    count: usize,
    /// The last datagram was shorter: nothing may follow it.
    closed: bool,
    to: Option<(SocketAddr, RawAddr)>,
    pub gso: bool,
    pub calls: u64,
    pub datagrams: u64,
    /// Sizes that the host refused (EMSGSIZE), for path MTU discovery.
    pub refused: Option<(SocketAddr, usize)>,
}

impl Batch {
    #[must_use]
    pub fn new(gso: bool) -> Batch {
        Batch {
            buf: vec![0; MAX_BYTES + 2048].into_boxed_slice(),
            len: 0,
            segment: 0,
            count: 0,
            closed: false,
            to: None,
            gso,
            calls: 0,
            datagrams: 0,
            refused: None,
        }
    }

    /// Room for one datagram of `size` bytes; sends what does not go with it first.
    #[inline]
    pub fn room(
        &mut self,
        ports: &mut Ports,
        to: SocketAddr,
        raw: &RawAddr,
        size: usize,
    ) -> &mut [u8] {
        let fits = self.count > 0
            && !self.closed
            && size <= self.segment
            && self.count < MAX_SEGMENTS
            && self.len + size <= MAX_BYTES
            && self
                .to
                .as_ref()
                .is_some_and(|(a, r)| *a == to && r.is_way_of(raw));
        if !fits {
            self.flush(ports);
            self.to = Some((to, *raw));
            self.segment = size;
        }
        self.closed = size < self.segment;
        self.count += 1;
        let start = self.len;
        self.len += size;
        self.buf.get_mut(start..start + size).unwrap_or_default()
    }

    /// What is held for the next flush.
    #[must_use]
    pub fn held(&self) -> &[u8] {
        self.buf.get(..self.len).unwrap_or_default()
    }

    /// Send what is held.
    pub fn flush(&mut self, ports: &mut Ports) {
        let Some((to, raw)) = self.to.take() else {
            return;
        };
        let held = self.buf.get(..self.len).unwrap_or_default();
        self.datagrams += self.count as u64;
        if let Some(carrier) = raw.carrier {
            self.calls += 1;
            if ports.carry(carrier, held, self.segment).is_err() {
                self.refused = Some((to, self.segment));
            }
            self.reset();
            return;
        }
        let udp = ports.udp(raw.port);
        if self.gso || self.count == 1 {
            match send(udp, &raw, held, self.segment, &mut self.calls) {
                // No checksum offload on this route: never again in batches.
                Err(e) if self.count > 1 && e.raw_os_error() == Some(libc::EIO) => {
                    self.gso = false;
                }
                // Before Linux 6.14 a batch whose datagrams are too large is refused by EINVAL.
                Err(e)
                    if e.raw_os_error() == Some(libc::EMSGSIZE)
                        || self.count > 1 && e.raw_os_error() == Some(libc::EINVAL) =>
                {
                    self.refused = Some((to, self.segment));
                    self.reset();
                    return;
                }
                _ => {
                    self.reset();
                    return;
                }
            }
        }
        for datagram in held.chunks(self.segment.max(1)) {
            let sent = send(udp, &raw, datagram, self.segment, &mut self.calls);
            if sent.is_err_and(|e| e.raw_os_error() == Some(libc::EMSGSIZE)) {
                self.refused = Some((to, datagram.len()));
            }
        }
        self.reset();
    }

    fn reset(&mut self) {
        self.len = 0;
        self.count = 0;
        self.closed = false;
    }
}

/// Send; a full socket buffer is waited for, briefly.
fn send(udp: &Udp, raw: &RawAddr, buf: &[u8], segment: usize, calls: &mut u64) -> io::Result<()> {
    let mut to = *raw;
    for _ in 0..3 {
        *calls += 1;
        match udp.send(&to, buf, segment) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                if !wait_writable(udp.fd(), BLOCKED_MS) {
                    return Err(e);
                }
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            // The address that the peer called may have left this host: let the kernel choose.
            Err(e) if to.local.is_some() && is_no_source(&e) => to.local = None,
            other => return other,
        }
    }
    Err(io::ErrorKind::WouldBlock.into())
}

fn is_no_source(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EINVAL | libc::EADDRNOTAVAIL | libc::ENETUNREACH | libc::EHOSTUNREACH)
    )
}
