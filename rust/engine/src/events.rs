//! What the data thread tells Python: one bounded queue behind an eventfd.

use crate::path::{Cause, State};
use crate::sys::wake::Wake;
use std::collections::VecDeque;
use std::collections::hash_map::{Entry, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Mutex;

/// Events kept; what comes on top is dropped and counted.
const CAPACITY: usize = 4096;
/// Control datagrams kept of one session, so that no peer fills the queue for all. The rest is lost
/// as on the wire: the control stream sends again.
const SESSION_CONTROL: u32 = 256;
/// Of one lookup session, and of all of them: anybody may open those.
const LOOKUP_CONTROL: u32 = 64;
const LOOKUPS_CONTROL: u32 = CAPACITY as u32 / 4;

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
        /// Whether it came over a lookup session.
        lookup: bool,
    },
    Wanted {
        destination: IpAddr,
    },
    ProbeAnswered {
        sid: u32,
        path: u8,
        rtt_ns: u64,
    },
    PathChanged {
        sid: u32,
        path: u8,
        state: State,
        cause: Cause,
        moved_to: Option<u8>,
    },
    CircuitSpent {
        link: u32,
        label: u32,
    },
    /// A carrier's other end has gone.
    CarrierClosed {
        endpoint: SocketAddr,
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
    /// The data thread died, or its TUN device is gone.
    Failed {
        reason: String,
    },
}

#[derive(Default)]
struct Queue {
    events: VecDeque<Event>,
    /// Control datagrams of each session in `events`.
    control: HashMap<u32, u32>,
    /// Those of lookup sessions together.
    lookups: u32,
    lost: u64,
}

pub struct Events {
    queue: Mutex<Queue>,
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
        let mut queue = self.queue.lock().unwrap_or_else(|e| e.into_inner());
        if queue.events.len() >= CAPACITY {
            queue.lost += 1;
            return;
        }
        if let Event::Control { sid, lookup, .. } = event {
            let all = queue.lookups;
            let held = queue.control.entry(sid).or_default();
            let most = if lookup {
                LOOKUP_CONTROL
            } else {
                SESSION_CONTROL
            };
            if *held >= most {
                return;
            }
            if lookup && all >= LOOKUPS_CONTROL {
                if *held == 0 {
                    queue.control.remove(&sid);
                }
                return;
            }
            *held += 1;
            queue.lookups += u32::from(lookup);
        }
        queue.events.push_back(event);
        if queue.events.len() == 1 {
            self.wake.raise();
        }
    }

    /// Take up to `limit` events; the descriptor stays readable while more wait.
    pub fn drain(&self, limit: usize) -> Vec<Event> {
        let mut queue = self.queue.lock().unwrap_or_else(|e| e.into_inner());
        let count = limit.min(queue.events.len());
        let mut taken: Vec<Event> = queue.events.drain(..count).collect();
        for event in &taken {
            if let Event::Control { lookup: true, .. } = event {
                queue.lookups -= 1;
            }
            if let Event::Control { sid, .. } = event
                && let Entry::Occupied(mut held) = queue.control.entry(*sid)
            {
                *held.get_mut() -= 1;
                if *held.get() == 0 {
                    held.remove();
                }
            }
        }
        if queue.lost > 0 {
            taken.push(Event::Lost {
                count: std::mem::take(&mut queue.lost),
            });
        }
        if queue.events.is_empty() {
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

    fn control(sid: u32, lookup: bool) -> Event {
        let data = Vec::new();
        Event::Control { sid, data, lookup }
    }

    /// However many strangers ask, three quarters of the queue are left to others.
    #[test]
    fn lookups_have_a_part_of_the_queue() {
        let events = Events::new().unwrap();
        for _ in 0..2 {
            for n in 0..CAPACITY as u32 * 2 {
                events.push(control(1 + n % 500, true));
            }
            for _ in 0..SESSION_CONTROL {
                events.push(control(7777, false));
            }
            let taken = events.drain(usize::MAX);
            assert_eq!(taken.len() as u32, LOOKUPS_CONTROL + SESSION_CONTROL);
            let queue = events.queue.lock().unwrap();
            assert!(queue.control.is_empty() && queue.lookups == 0);
        }
        for _ in 0..CAPACITY {
            events.push(control(1, true));
        }
        assert_eq!(events.drain(usize::MAX).len() as u32, LOOKUP_CONTROL);
    }

    /// A session that says too much loses its own words, not those of others.
    #[test]
    fn no_session_fills_the_queue() {
        let events = Events::new().unwrap();
        for _ in 0..CAPACITY * 2 {
            events.push(control(1, false));
        }
        events.push(control(2, false));
        events.push(Event::Confirmed { sid: 3 });
        let taken = events.drain(usize::MAX);
        assert_eq!(taken.len(), SESSION_CONTROL as usize + 2);
        assert!(matches!(taken.last(), Some(Event::Confirmed { sid: 3 })));
        assert!(events.queue.lock().unwrap().control.is_empty());
    }
}
