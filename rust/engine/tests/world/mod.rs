//! Engines on the loopback address, and the handshake between two of them.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "each test file uses a part of it"
)]

use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use veilnet_engine::{Engine, Event, Options, SessionStats, StepLimits};
use veilnet_handshake::{Event as Contact, KeySchedule, Mode, OsRng, Suite};

pub const DOOR: [u8; 32] = [7; 32];
pub const NETWORK: &[u8] = &[1; 32];
pub const K_NET: &[u8] = &[2; 32];
pub const RESPONDER: [u8; 32] = [3; 32];
/// Both ends take this for the KEM's secret: the engine does not know what a KEM is.
pub const SS: [u8; 32] = [4; 32];

pub fn open(steps: StepLimits) -> Engine {
    Engine::open(Options {
        port: 0,
        tun: None,
        mtu_bytes: 1380,
        vnet_hdr: true,
        udp_gso: true,
        udp_gro: true,
        steps,
    })
    .unwrap()
}

pub fn at(engine: &Engine) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], engine.port()))
}

/// Wait for an event that `pick` likes; fail loudly after five seconds.
pub fn expect<T>(engine: &Engine, what: &str, mut pick: impl FnMut(Event) -> Option<T>) -> T {
    let end = Instant::now() + Duration::from_secs(5);
    while Instant::now() < end {
        for event in engine.drain(64) {
            if let Some(found) = pick(event) {
                return found;
            }
        }
        veilnet_engine::sys::wake::wait_readable(&[engine.event_fd()], 50_000_000);
    }
    panic!("no {what} within 5 s");
}

pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(5);
    while !holds() {
        assert!(Instant::now() < end, "{what} did not happen within 5 s");
        std::thread::yield_now();
    }
}

pub struct Pair {
    pub a: Engine,
    pub b: Engine,
    pub sid_a: u32,
    pub sid_b: u32,
    pub schedule_a: Arc<Mutex<KeySchedule>>,
    pub schedule_b: Arc<Mutex<KeySchedule>>,
}

pub fn pair(steps: StepLimits) -> Pair {
    let (a, b) = (open(steps), open(steps));
    let to = at(&b);
    join(a, b, to)
}

/// Run the handshake of `a` with `b`, which `a` calls at `to`.
pub fn join(a: Engine, b: Engine, to: SocketAddr) -> Pair {
    let met = meet(&a, &b, to);
    Pair {
        a,
        b,
        sid_a: met.sid_a,
        sid_b: met.sid_b,
        schedule_a: met.schedule_a,
        schedule_b: met.schedule_b,
    }
}

/// What two engines share after a handshake.
pub struct Met {
    pub sid_a: u32,
    pub sid_b: u32,
    pub schedule_a: Arc<Mutex<KeySchedule>>,
    pub schedule_b: Arc<Mutex<KeySchedule>>,
}

/// Run the handshake of `a` with `b`, which `a` calls at `to`.
pub fn meet(a: &Engine, b: &Engine, to: SocketAddr) -> Met {
    b.call(|core, _| core.add_door(&DOOR, true))
        .unwrap()
        .unwrap();
    let ek = vec![9; 1184];
    let schedule_a = KeySchedule::initiate(
        Suite::S1,
        Mode::Full,
        NETWORK,
        K_NET,
        &RESPONDER,
        &ek,
        &mut OsRng,
    )
    .unwrap();
    let schedule_a = Arc::new(Mutex::new(schedule_a));
    let sid_a = schedule_a.lock().unwrap().local_sid();
    let own = Arc::clone(&schedule_a);
    assert!(
        a.call(move |c, now| c.hello(&own, &DOOR, to, false, now))
            .unwrap()
            .unwrap()
    );
    let init = expect(b, "INIT", |e| match e {
        Event::Handshake(Contact::Init(init)) => Some(init),
        _ => None,
    });
    let ct = vec![5; 1088];
    let schedule_b =
        KeySchedule::respond(&init, NETWORK, K_NET, &RESPONDER, &ct, &SS, &mut OsRng).unwrap();
    let schedule_b = Arc::new(Mutex::new(schedule_b));
    let sid_b = schedule_b.lock().unwrap().local_sid();
    let own = Arc::clone(&schedule_b);
    b.call(move |c, now| c.respond(&own, &init, vec![0xe2; 9000], now))
        .unwrap()
        .unwrap();
    let candidate = expect(a, "key part", |e| match e {
        Event::Handshake(Contact::Candidate { candidate, .. }) => Some(candidate),
        _ => None,
    });
    a.call(move |c, now| c.candidate(sid_a, candidate, &SS, now))
        .unwrap()
        .unwrap();
    let e2 = expect(a, "RESP", |e| match e {
        Event::Handshake(Contact::Message { bytes, .. }) => Some(bytes),
        _ => None,
    });
    assert_eq!(e2, vec![0xe2; 9000]);
    a.call(move |c, now| c.authenticate(sid_a, vec![0xe3; 9000], None, now))
        .unwrap()
        .unwrap();
    let e3 = expect(b, "AUTH", |e| match e {
        Event::Handshake(Contact::Message { bytes, .. }) => Some(bytes),
        _ => None,
    });
    assert_eq!(e3, vec![0xe3; 9000]);
    b.call(move |c, now| c.accept(sid_b, None, now))
        .unwrap()
        .unwrap();
    expect(a, "ACK", |e| {
        matches!(e, Event::Confirmed { sid } if sid == sid_a).then_some(())
    });
    Met {
        sid_a,
        sid_b,
        schedule_a,
        schedule_b,
    }
}

/// Wait until path MTU discovery has found the full size both ways and is quiet.
pub fn settle(p: &Pair) {
    until("the full path MTU", || {
        stats(&p.a, p.sid_a).mtu_bytes == 1412 && stats(&p.b, p.sid_b).mtu_bytes == 1412
    });
}

pub fn stats(engine: &Engine, sid: u32) -> SessionStats {
    let all = engine.call(|c, now| c.session_stats(now)).unwrap();
    all.into_iter().find(|s| s.sid == sid).expect("the session")
}

pub fn say(from: &Engine, sid: u32, to: &Engine, text: &[u8]) {
    let data = text.to_vec();
    from.call(move |c, now| c.send_control(sid, &data, now))
        .unwrap()
        .unwrap();
    let heard = expect(to, "control", |e| match e {
        Event::Control { data, .. } => Some(data),
        _ => None,
    });
    assert_eq!(heard, text);
}

/// A NAT between a peer and the engine: its outer port can be changed.
pub struct Nat {
    pub inner: SocketAddr,
    outer: Arc<Mutex<UdpSocket>>,
    stop: Arc<AtomicBool>,
}

impl Nat {
    pub fn before(server: SocketAddr) -> Nat {
        let socket = || {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            socket.set_nonblocking(true).unwrap();
            socket
        };
        let inside = socket();
        let nat = Nat {
            inner: inside.local_addr().unwrap(),
            outer: Arc::new(Mutex::new(socket())),
            stop: Arc::default(),
        };
        let (outer, stop) = (Arc::clone(&nat.outer), Arc::clone(&nat.stop));
        std::thread::spawn(move || {
            let mut client = None;
            let mut buf = [0; 2048];
            while !stop.load(Ordering::Relaxed) {
                if let Ok((len, from)) = inside.recv_from(&mut buf) {
                    client = Some(from);
                    let _ = outer.lock().unwrap().send_to(&buf[..len], server);
                }
                let received = outer.lock().unwrap().recv_from(&mut buf);
                if let (Ok((len, _)), Some(client)) = (received, client) {
                    let _ = inside.send_to(&buf[..len], client);
                }
                std::thread::yield_now();
            }
        });
        nat
    }

    /// What the server sees.
    pub fn outside(&self) -> SocketAddr {
        self.outer.lock().unwrap().local_addr().unwrap()
    }

    /// Forget the mapping: what comes next leaves from another port, and the old one is dead.
    pub fn rebind(&self) -> SocketAddr {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_nonblocking(true).unwrap();
        let at = socket.local_addr().unwrap();
        *self.outer.lock().unwrap() = socket;
        at
    }
}

impl Drop for Nat {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}
