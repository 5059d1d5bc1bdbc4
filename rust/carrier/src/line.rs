//! One connection: records between TLS and the engine's socket of messages.
//!
//! Outwards: a message is read from the engine only when the one before it has gone into TLS, and
//! TLS holds at most `PENDING`; the rest waits in the socket pair until that is full, and then the
//! engine drops. Inwards: whole records go on at once, or are lost when the engine is behind.

use rustls::Connection;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd as _;
use std::time::Instant;
use veilnet_engine::sys::poll::Wanted;
use veilnet_engine::sys::seq::Seq;
use veilnet_engine::{records, sys};

/// What the socket pair holds each way, and what waits inside TLS.
pub const QUEUE: usize = 256 << 10;
const PENDING: usize = 64 << 10;
/// One read of TCP, so that its records fit one message.
pub const READ: usize = 48 << 10;
/// The longest message of an engine.
pub const MESSAGE: usize = 68 << 10;
/// Reads between two looks at the other lines.
const READS: usize = 8;

/// A line ended: there is nothing to be done about it.
#[derive(Debug)]
pub struct Ended;

impl<E: std::error::Error> From<E> for Ended {
    fn from(_: E) -> Ended {
        Ended
    }
}

type Turn<T> = std::result::Result<T, Ended>;

pub struct Line {
    pub remote: SocketAddr,
    /// Until when TLS must be agreed on; None once it is.
    pub deadline: Option<Instant>,
    tcp: TcpStream,
    tls: Connection,
    /// Our end of the pair; the engine has the other.
    seq: Option<Seq>,
    /// A message of the engine's that TLS has not taken whole.
    out: Vec<u8>,
    taken: usize,
    /// What TLS brought and is not a whole record yet.
    rest: Vec<u8>,
}

impl Line {
    /// `deadline` None: TLS is agreed on, and `seq` is there.
    pub fn new(
        tcp: TcpStream,
        mut tls: Connection,
        remote: SocketAddr,
        seq: Option<Seq>,
        deadline: Option<Instant>,
    ) -> io::Result<Line> {
        tcp.set_nonblocking(true)?;
        sys::tcp::tune(tcp.as_raw_fd())?;
        tls.set_buffer_limit(Some(PENDING));
        Ok(Line {
            remote,
            deadline,
            tcp,
            tls,
            seq,
            out: Vec::new(),
            taken: 0,
            rest: Vec::new(),
        })
    }

    /// What to wait for: the connection, and the engine's socket.
    pub fn wanted(&self) -> [Wanted; 2] {
        let room = self.taken == self.out.len() && !self.tls.wants_write();
        [
            Wanted {
                fd: self.tcp.as_raw_fd(),
                read: true,
                write: self.tls.wants_write(),
            },
            Wanted {
                fd: self.seq.as_ref().map_or(-1, Seq::fd),
                read: room && self.seq.is_some(),
                write: false,
            },
        ]
    }

    /// Move what can be moved; true when TLS was agreed on just now.
    pub fn turn(&mut self, [tcp, engine]: [Wanted; 2], buf: &mut [u8]) -> Turn<bool> {
        if tcp.read {
            self.inwards(buf)?;
        }
        if engine.read || tcp.write || self.tls.wants_write() {
            self.outwards(buf)?;
        }
        let agreed = self.deadline.is_some() && !self.tls.is_handshaking();
        if agreed {
            self.deadline = None;
        }
        Ok(agreed)
    }

    /// From here on there is an engine to talk to.
    pub fn join(&mut self, seq: Seq) -> Turn<()> {
        self.seq = Some(seq);
        self.deliver()
    }

    fn inwards(&mut self, buf: &mut [u8]) -> Turn<()> {
        for _ in 0..READS {
            let room = buf.get_mut(..READ).ok_or(Ended)?;
            let len = match self.tcp.read(room) {
                Ok(0) => return Err(Ended),
                Ok(len) => len,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => return Err(Ended),
            };
            let mut came = room.get(..len).unwrap_or_default();
            while !came.is_empty() {
                self.tls.read_tls(&mut came)?;
                let state = match self.tls.process_new_packets() {
                    Ok(state) => state,
                    Err(_) => {
                        // The alert that says what was wrong, if it still goes out.
                        let _ = self.tls.write_tls(&mut self.tcp);
                        return Err(Ended);
                    }
                };
                let bytes = state.plaintext_bytes_to_read();
                let at = self.rest.len();
                self.rest.resize(at + bytes, 0);
                let room = self.rest.get_mut(at..).unwrap_or_default();
                self.tls.reader().read_exact(room)?;
                if state.peer_has_closed() {
                    return Err(Ended);
                }
            }
            self.deliver()?;
            if len < READ {
                break;
            }
        }
        Ok(())
    }

    /// Give the engine what whole records there are, in messages that it can take.
    fn deliver(&mut self) -> Turn<()> {
        let Some(seq) = &self.seq else {
            // They wait for `join`, which comes with the end of this turn.
            return Ok(());
        };
        let mut done = 0;
        loop {
            let left = self.rest.get(done..).unwrap_or_default();
            let some = left.get(..left.len().min(READ)).unwrap_or_default();
            let whole = records::whole(some).ok_or(Ended)?;
            if whole == 0 {
                break;
            }
            match seq.send(some.get(..whole).unwrap_or_default()) {
                Ok(()) => {}
                // The engine is behind: lost, as on a full queue.
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return Err(Ended),
            }
            done += whole;
        }
        self.rest.drain(..done);
        Ok(())
    }

    fn outwards(&mut self, buf: &mut [u8]) -> Turn<()> {
        for _ in 0..READS {
            if self.taken == self.out.len() && !self.tls.wants_write() && !self.next(buf)? {
                break;
            }
            if self.taken < self.out.len() {
                let left = self.out.get(self.taken..).unwrap_or_default();
                self.taken += self.tls.writer().write(left)?;
            }
            while self.tls.wants_write() {
                match self.tls.write_tls(&mut self.tcp) {
                    Ok(_) => {}
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                    Err(_) => return Err(Ended),
                }
            }
        }
        Ok(())
    }

    /// Take the engine's next message; false when it has none.
    fn next(&mut self, buf: &mut [u8]) -> Turn<bool> {
        let Some(seq) = &self.seq else {
            return Ok(false);
        };
        if self.tls.is_handshaking() {
            return Ok(false);
        }
        match seq.receive(buf) {
            Ok(0) => {
                // The engine let go of it.
                self.tls.send_close_notify();
                let _ = self.tls.write_tls(&mut self.tcp);
                Err(Ended)
            }
            Ok(len) => {
                self.out.clear();
                self.out.extend_from_slice(buf.get(..len).ok_or(Ended)?);
                self.taken = 0;
                Ok(true)
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => Ok(false),
            Err(_) => Err(Ended),
        }
    }
}
