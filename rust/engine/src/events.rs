//! What the data thread tells Python: one bounded queue behind an eventfd.

use crate::sys::wake::Wake;
use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::Mutex;

/// Events kept before the oldest news is dropped and counted.
const CAPACITY: usize = 4096;

#[derive(Debug)]
#[non_exhaustive]
pub enum Event {
    /// First contact, as the gate saw it.
    Handshake(veilnet_handshake::Event),
    Confirmed {
        sid: u32,
    },
    Control {
        sid: u32,
        data: Vec<u8>,
    },
    Wanted {
        destination: IpAddr,
    },
    ProbeAnswered {
        sid: u32,
        rtt_ns: u64,
    },
    Silent {
        sid: u32,
        silent_ns: u64,
    },
    Moved {
        sid: u32,
        endpoint: SocketAddr,
    },
    Stale {
        sid: u32,
    },
    Lost {
        count: u64,
    },
    Failed {
        reason: String,
    },
}

pub struct Events {
    queue: Mutex<(VecDeque<Event>, u64)>,
    wake: Wake,
}

impl Events {
    pub fn new() -> std::io::Result<Events> {
        Ok(Events {
            queue: Mutex::default(),
            wake: Wake::new()?,
        })
    }

    #[must_use]
    pub fn fd(&self) -> i32 {
        self.wake.fd()
    }

    /// Append; a full queue loses the newcomer and says so at the next drain.
    pub fn push(&self, event: Event) {
        let mut guard = self.queue.lock().unwrap_or_else(|e| e.into_inner());
        let (queue, lost) = &mut *guard;
        if queue.len() >= CAPACITY {
            *lost += 1;
            return;
        }
        queue.push_back(event);
        if queue.len() == 1 {
            self.wake.raise();
        }
    }

    /// Take up to `limit` events; the descriptor stays readable while more wait.
    pub fn drain(&self, limit: usize) -> Vec<Event> {
        let mut guard = self.queue.lock().unwrap_or_else(|e| e.into_inner());
        let (queue, lost) = &mut *guard;
        let count = limit.min(queue.len());
        let mut taken: Vec<Event> = queue.drain(..count).collect();
        if *lost > 0 {
            taken.push(Event::Lost {
                count: std::mem::take(lost),
            });
        }
        if queue.is_empty() {
            self.wake.clear();
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// The queue is bounded, and what it loses is counted.
    #[test]
    fn overflow_is_counted() {
        let events = Events::new().unwrap();
        for sid in 0..CAPACITY as u32 + 7 {
            events.push(Event::Confirmed { sid });
        }
        let taken = events.drain(usize::MAX);
        assert_eq!(taken.len(), CAPACITY + 1);
        assert!(matches!(taken.last(), Some(Event::Lost { count: 7 })));
        assert!(events.drain(8).is_empty());
    }
}
