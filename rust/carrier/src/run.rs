//! The thread that moves everything: listeners, lines, and what the handle hands over.

use crate::handle::{Accepted, Shared};
use crate::line::{Line, MESSAGE, QUEUE};
use rustls::{Connection, ServerConfig, ServerConnection};
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use veilnet_engine::sys::poll::{self, Wanted};
use veilnet_engine::sys::seq::Seq;

/// Connections in all, and of those that called us at most so many from one /24 or /64.
pub const LINES: usize = 256;
pub const PER_PREFIX: usize = 32;
/// TLS must be agreed on within this.
const AGREE: Duration = Duration::from_secs(5);
/// Accepted in one turn.
const ACCEPTS: usize = 16;
/// After an accept failed for want of something, nothing is accepted for so long.
const PAUSE: Duration = Duration::from_millis(500);

pub fn run(shared: &Shared, server: &Arc<ServerConfig>) {
    let mut listeners: Vec<TcpListener> = Vec::new();
    let mut lines: Vec<Line> = Vec::new();
    let (mut wanted, mut set) = (Vec::new(), Vec::new());
    let mut buf = vec![0u8; MESSAGE];
    let mut paused: Option<Instant> = None;
    loop {
        {
            let mut inbox = shared.inbox();
            if inbox.closing {
                return;
            }
            listeners.append(&mut inbox.listeners);
            lines.append(&mut inbox.lines);
        }
        shared.lines.store(lines.len(), Ordering::Release);
        let now = Instant::now();
        paused.take_if(|until| now >= *until);
        let reading = |fd| Wanted {
            fd,
            read: true,
            write: false,
        };
        wanted.clear();
        wanted.push(reading(shared.wake.fd()));
        for listener in &listeners {
            wanted.push(Wanted {
                read: paused.is_none(),
                ..reading(listener.as_raw_fd())
            });
        }
        wanted.extend(lines.iter().flat_map(Line::wanted));
        let due = lines.iter().filter_map(|l| l.deadline).chain(paused).min();
        let timeout = due.map(|at| at.saturating_duration_since(now));
        poll::wait(&mut wanted, &mut set, timeout);
        let mut came = wanted.iter().copied();
        if came.next().is_some_and(|w| w.read) {
            shared.wake.clear();
        }
        let callers: Vec<bool> = came
            .by_ref()
            .take(listeners.len())
            .map(|w| w.read)
            .collect();
        lines.retain_mut(|line| {
            let (Some(tcp), Some(engine)) = (came.next(), came.next()) else {
                return true;
            };
            match line.turn([tcp, engine], &mut buf) {
                Ok(true) => introduce(shared, line),
                Ok(false) => line.deadline.is_none_or(|at| Instant::now() < at),
                Err(_) => false,
            }
        });
        for (listener, called) in listeners.iter().zip(callers) {
            if called && accept(listener, server, &mut lines).is_err() {
                paused = Some(Instant::now() + PAUSE);
            }
        }
    }
}

/// Tell of a connection that speaks TLS; false if nobody listens.
fn introduce(shared: &Shared, line: &mut Line) -> bool {
    let Ok((ours, engines)) = Seq::pair(QUEUE) else {
        return false;
    };
    line.join(ours).is_ok()
        && shared.tell(Accepted {
            fd: engines.into_fd(),
            remote: line.remote,
        })
}

fn accept(
    listener: &TcpListener,
    server: &Arc<ServerConfig>,
    lines: &mut Vec<Line>,
) -> io::Result<()> {
    for _ in 0..ACCEPTS {
        let (tcp, remote) = match listener.accept() {
            Ok(accepted) => accepted,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            // The caller hung up before we answered: the next one may not have.
            Err(e) if e.kind() == io::ErrorKind::ConnectionAborted => continue,
            Err(e) => return Err(e),
        };
        let remote = SocketAddr::new(remote.ip().to_canonical(), remote.port());
        if let Some(line) = greet(tcp, remote, server, lines) {
            lines.push(line);
        }
    }
    Ok(())
}

/// Begin TLS with a caller, if there is room for it.
fn greet(
    tcp: TcpStream,
    remote: SocketAddr,
    server: &Arc<ServerConfig>,
    lines: &mut Vec<Line>,
) -> Option<Line> {
    let near = lines.iter().filter(|l| prefix(l.remote) == prefix(remote));
    if near.count() >= PER_PREFIX {
        return None;
    }
    if lines.len() >= LINES {
        // Whoever has not even said what it wants makes room.
        let oldest = lines
            .iter()
            .enumerate()
            .filter_map(|(at, l)| Some((l.deadline?, at)))
            .min();
        lines.swap_remove(oldest?.1);
    }
    let tls = ServerConnection::new(Arc::clone(server)).ok()?;
    let deadline = Some(Instant::now() + AGREE);
    Line::new(tcp, Connection::Server(tls), remote, None, deadline).ok()
}

fn prefix(remote: SocketAddr) -> (bool, u64) {
    match remote.ip() {
        IpAddr::V4(ip) => (false, u64::from(ip.to_bits() >> 8)),
        IpAddr::V6(ip) => (true, (ip.to_bits() >> 64) as u64),
    }
}
