//! The handle: what others may ask of the thread.

use crate::error::{Error, Result};
use crate::line::{Line, QUEUE};
use crate::run::{self, LINES};
use crate::tls;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, Connection};
use std::collections::VecDeque;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use veilnet_engine::sys::seq::Seq;
use veilnet_engine::sys::wake::Wake;

/// Connections of strangers that nobody took note of yet.
const ACCEPTED: usize = 64;

/// Somebody called, and TLS was agreed on.
#[derive(Debug)]
pub struct Accepted {
    /// For `Engine.attach`: a socket of messages of records.
    pub fd: OwnedFd,
    pub remote: SocketAddr,
}

#[derive(Default)]
pub struct Inbox {
    pub listeners: Vec<TcpListener>,
    pub lines: Vec<Line>,
    pub closing: bool,
}

pub struct Shared {
    inbox: Mutex<Inbox>,
    accepted: Mutex<VecDeque<Accepted>>,
    /// Wakes the thread.
    pub wake: Wake,
    /// Readable while `accepted` holds something.
    told: Wake,
    /// Connections that the thread has.
    pub lines: AtomicUsize,
}

impl Shared {
    pub fn inbox(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn accepted(&self) -> MutexGuard<'_, VecDeque<Accepted>> {
        self.accepted.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// False when nobody drains.
    pub fn tell(&self, accepted: Accepted) -> bool {
        let mut queue = self.accepted();
        if queue.len() >= ACCEPTED {
            return false;
        }
        queue.push_back(accepted);
        self.told.raise();
        true
    }
}

/// All carriers of a node, and the thread that moves them.
pub struct Carriers {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
    client: Arc<ClientConfig>,
}

impl Carriers {
    pub fn open() -> Result<Carriers> {
        let shared = Arc::new(Shared {
            inbox: Mutex::default(),
            accepted: Mutex::default(),
            wake: Wake::new().map_err(Error::os("eventfd"))?,
            told: Wake::new().map_err(Error::os("eventfd"))?,
            lines: AtomicUsize::new(0),
        });
        let (server, client) = (tls::server()?, tls::client()?);
        let own = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("veilnet-carrier".into())
            .spawn(move || run::run(&own, &server))
            .map_err(Error::os("carrier thread"))?;
        Ok(Carriers {
            shared,
            thread: Mutex::new(Some(thread)),
            client,
        })
    }

    /// Take connections on TCP `port` of every address; 0 is a free one. Returns the port.
    pub fn listen(&self, port: u16) -> Result<u16> {
        let bind = || match TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)) {
            // No IPv6 on this host.
            Err(e) if e.kind() != io::ErrorKind::AddrInUse => {
                TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))
            }
            other => other,
        };
        let listener = bind().map_err(|source| Error::Bind { port, source })?;
        let at = listener.local_addr().map_err(Error::os("TCP port"))?;
        listener
            .set_nonblocking(true)
            .map_err(Error::os("TCP listener"))?;
        self.hand_over(|inbox| inbox.listeners.push(listener))?;
        Ok(at.port())
    }

    /// Connect to another node's carrier port. Blocks; the answer is for `Engine.attach`.
    pub fn connect(&self, to: SocketAddr, timeout: Duration) -> Result<OwnedFd> {
        if self.shared.lines.load(Ordering::Acquire) >= LINES {
            return Err(Error::Full(LINES));
        }
        let end = Instant::now() + timeout;
        let refused = |source| Error::Connect { to, source };
        let mut tcp = TcpStream::connect_timeout(&to, timeout).map_err(refused)?;
        let name = ServerName::IpAddress(to.ip().into());
        let mut tls = ClientConnection::new(Arc::clone(&self.client), name)
            .map_err(|source| Error::NoCarrier { to, source })?;
        while tls.is_handshaking() {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(refused(io::ErrorKind::TimedOut.into()));
            }
            tcp.set_read_timeout(Some(left)).map_err(refused)?;
            tcp.set_write_timeout(Some(left)).map_err(refused)?;
            step(&mut tls, &mut tcp, to)?;
        }
        let (ours, engines) = Seq::pair(QUEUE).map_err(Error::os("socket pair"))?;
        let line = Line::new(tcp, Connection::Client(tls), to, Some(ours), None)
            .map_err(Error::os("TCP connection"))?;
        self.hand_over(|inbox| inbox.lines.push(line))?;
        Ok(engines.into_fd())
    }

    fn hand_over(&self, put: impl FnOnce(&mut Inbox)) -> Result<()> {
        let mut inbox = self.shared.inbox();
        if inbox.closing {
            return Err(Error::Closed);
        }
        put(&mut inbox);
        drop(inbox);
        self.shared.wake.raise();
        Ok(())
    }

    /// Readable while `drain` has something.
    #[must_use]
    pub fn event_fd(&self) -> i32 {
        self.shared.told.fd()
    }

    /// Who called since the last time.
    pub fn drain(&self) -> Vec<Accepted> {
        let mut queue = self.shared.accepted();
        self.shared.told.clear();
        queue.drain(..).collect()
    }

    /// Connections of either kind.
    #[must_use]
    pub fn count(&self) -> usize {
        self.shared.lines.load(Ordering::Acquire)
    }

    /// End every connection and the thread; again is harmless.
    pub fn close(&self) {
        self.shared.inbox().closing = true;
        self.shared.wake.raise();
        let thread = self.thread.lock().unwrap_or_else(|e| e.into_inner()).take();
        if let Some(thread) = thread {
            // What was in it is lost with it in any case.
            let _ = thread.join();
        }
    }
}

impl Drop for Carriers {
    fn drop(&mut self) {
        self.close();
    }
}

/// One exchange of TLS's handshake, blocking.
fn step(tls: &mut ClientConnection, tcp: &mut TcpStream, to: SocketAddr) -> Result<()> {
    let refused = |source| Error::Connect { to, source };
    while tls.wants_write() {
        tls.write_tls(tcp).map_err(refused)?;
    }
    if tls.is_handshaking() {
        if tls.read_tls(tcp).map_err(refused)? == 0 {
            return Err(refused(io::ErrorKind::UnexpectedEof.into()));
        }
        tls.process_new_packets()
            .map_err(|source| Error::NoCarrier { to, source })?;
    }
    // The client's last flight.
    while tls.wants_write() {
        tls.write_tls(tcp).map_err(refused)?;
    }
    Ok(())
}
