//! What is sent where: the ends' sockets and the circuits between them, read from a plan.
//!
//! ```text
//! veil 10.91.1.1:4000 10.91.2.1:4000        links with the relay at these (for in and out ends); or
//! plain                                     datagrams as they are, a fixed prefix before each
//! in PORT | out PORT                        one end each, numbered as they come
//! circuit IN OUT LABEL_IN LABEL_OUT                          (veil)
//! circuit IN OUT TO PREFIX_HEX BACK BACK_PREFIX_HEX          (plain; "-" for no prefix, no way back)
//! ```

use crate::link::{FRAME, LABEL, Link};
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use veilnet_engine::sys::udp::{RawAddr, Udp};

/// One socket at an end, and its session where the ends are links.
pub struct End {
    pub udp: Udp,
    pub link: Option<Link>,
}

/// How one direction of a circuit is written on the wire.
pub enum Leg {
    Label(u32),
    Prefix(Option<RawAddr>, Vec<u8>),
}

pub struct Circuit {
    pub input: usize,
    pub output: usize,
    /// As the in end writes it, and as the out end does.
    pub legs: [Leg; 2],
}

pub struct Plan {
    /// In ends, out ends.
    pub ends: [Vec<End>; 2],
    pub circuits: Vec<Circuit>,
    pub veil: bool,
    /// What goes before the body: a label, or the longest prefix of the way there and back.
    pub before: [usize; 2],
}

impl Plan {
    /// The body's size in datagrams of `size` bytes, sent by side `from`.
    pub fn body(&self, size: usize, from: usize) -> usize {
        if self.veil {
            size.saturating_sub(FRAME)
        } else {
            size.saturating_sub(self.before.get(from).copied().unwrap_or(0))
        }
    }
}

fn bad(line: &str) -> io::Error {
    io::Error::other(format!("cannot read this line of the plan: {line}"))
}

/// Run `act` in the network namespace that `path` names, then come back.
fn in_namespace<R>(path: &str, act: impl FnOnce() -> io::Result<R>) -> io::Result<R> {
    let (here, there) = (
        std::fs::File::open("/proc/thread-self/ns/net")?,
        std::fs::File::open(path)?,
    );
    enter(&there)?;
    let done = act();
    enter(&here)?;
    done
}

fn enter(namespace: &std::fs::File) -> io::Result<()> {
    // SAFETY: a live descriptor; only this thread moves.
    match unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

impl Plan {
    /// Read a plan, open its sockets (the out ends' in the namespace `there`) and its links.
    pub fn open(text: &str, there: &str) -> io::Result<Plan> {
        let mut relays: Option<[SocketAddr; 2]> = None;
        let mut ports: [Vec<u16>; 2] = [Vec::new(), Vec::new()];
        let mut lines = Vec::new();
        for line in text.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            match *words.as_slice() {
                ["veil", a, b] => {
                    relays = Some([a.parse(), b.parse()].map(|r| r.ok()).into_pair(line)?);
                }
                ["in", port] => ports[0].push(port.parse().map_err(|_| bad(line))?),
                ["out", port] => ports[1].push(port.parse().map_err(|_| bad(line))?),
                ["circuit", ..] => lines.push(words),
                [] | ["plain"] => {}
                _ => return Err(bad(line)),
            }
        }
        let open = |ports: &[u16], relay: Option<SocketAddr>| {
            ports
                .iter()
                .map(|port| {
                    let udp = Udp::bind(*port, true)?;
                    let link = relay.map(|to| Link::open(&udp, to)).transpose()?;
                    Ok(End { udp, link })
                })
                .collect::<io::Result<Vec<End>>>()
        };
        let ends = [
            open(&ports[0], relays.map(|r| r[0]))?,
            in_namespace(there, || open(&ports[1], relays.map(|r| r[1])))?,
        ];
        let circuits = lines
            .iter()
            .map(|words| circuit(words, &ends).ok_or_else(|| bad(&words.join(" "))))
            .collect::<io::Result<Vec<_>>>()?;
        let longest = |from: usize| {
            let lengths = circuits.iter().map(|c| match c.legs.get(from) {
                Some(Leg::Prefix(_, prefix)) => prefix.len(),
                _ => LABEL,
            });
            lengths.max().unwrap_or(0)
        };
        let before = [longest(0), longest(1)];
        Ok(Plan {
            ends,
            circuits,
            veil: relays.is_some(),
            before,
        })
    }
}

trait IntoPair {
    fn into_pair(self, line: &str) -> io::Result<[SocketAddr; 2]>;
}

impl IntoPair for [Option<SocketAddr>; 2] {
    fn into_pair(self, line: &str) -> io::Result<[SocketAddr; 2]> {
        match self {
            [Some(a), Some(b)] => Ok([a, b]),
            _ => Err(bad(line)),
        }
    }
}

fn circuit(words: &[&str], ends: &[Vec<End>; 2]) -> Option<Circuit> {
    let (input, output): (usize, usize) =
        (words.get(1)?.parse().ok()?, words.get(2)?.parse().ok()?);
    let (from, to) = (ends[0].get(input)?, ends[1].get(output)?);
    let legs = match words.get(3..)? {
        [a, b] => [Leg::Label(a.parse().ok()?), Leg::Label(b.parse().ok()?)],
        [there, first, back, second] => {
            [leg(&from.udp, there, first)?, leg(&to.udp, back, second)?]
        }
        _ => return None,
    };
    Some(Circuit {
        input,
        output,
        legs,
    })
}

fn leg(udp: &Udp, to: &str, prefix: &str) -> Option<Leg> {
    let raw = match to {
        "-" => None,
        to => Some(udp.raw(to.parse().ok()?)),
    };
    let digits = prefix.trim_start_matches('-').as_bytes();
    let bytes = digits.chunks(2).map(|pair| {
        let text = std::str::from_utf8(pair).ok()?;
        u8::from_str_radix(text, 16).ok()
    });
    Some(Leg::Prefix(raw, bytes.collect::<Option<Vec<u8>>>()?))
}
