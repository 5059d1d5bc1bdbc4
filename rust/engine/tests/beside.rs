//! Sockets beside the main one: carriers, and the many of a birthday attempt.

use crate::world::{at, expect, meet, open, pair, say, settle, stats, until};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::IntoRawFd as _;
use veilnet_engine::sys::seq::Seq;
use veilnet_engine::{Circuit, Engine, Event, State, StepLimits, carrier_number};

const QUEUE: usize = 256 << 10;

fn attach(engine: &Engine, end: Seq, remote: Option<IpAddr>) -> SocketAddr {
    engine
        .call(move |c, _| c.attach(end, remote))
        .unwrap()
        .unwrap()
}

/// A carrier between two engines: its stand-ins on either side.
fn carrier(a: &Engine, b: &Engine) -> (SocketAddr, SocketAddr) {
    let (one, other) = Seq::pair(QUEUE).unwrap();
    let near = attach(a, one, Some([192, 0, 2, 1].into()));
    (near, attach(b, other, Some([192, 0, 2, 2].into())))
}

/// A session begins, carries and measures over a carrier as over UDP.
#[test]
fn a_session_over_a_carrier() {
    let [a, b] = [(); 2].map(|()| open(StepLimits::default()));
    let (near, far) = carrier(&a, &b);
    assert!(carrier_number(near).is_some());
    let met = meet(&a, &b, near);
    say(&a, met.sid_a, &b, b"over the carrier");
    say(&b, met.sid_b, &a, b"and back");
    assert_eq!(stats(&a, met.sid_a).endpoint, near);
    assert_eq!(stats(&b, met.sid_b).endpoint, far);
    until("the full path MTU", || {
        stats(&a, met.sid_a).mtu_bytes == 1412 && stats(&b, met.sid_b).mtu_bytes == 1412
    });
}

/// A link over a carrier takes circuits: the host without UDP is reached by all the others.
#[test]
fn a_circuit_over_a_carrier() {
    let [a, b, relay] = [(); 3].map(|()| open(StepLimits::default()));
    let (near, _) = carrier(&a, &relay);
    let link_a = meet(&a, &relay, near);
    let link_b = meet(&b, &relay, at(&relay));
    let label = |link, label| Circuit { link, label };
    let (x, y) = (label(link_a.sid_b, 7), label(link_b.sid_b, 9));
    let quota = (u64::MAX, 1 << 20, u64::MAX);
    relay
        .call(move |c, now| c.add_circuit(x, y, quota, now))
        .unwrap()
        .unwrap();
    let (own_a, own_b) = (label(link_a.sid_a, 7), label(link_b.sid_a, 9));
    let end = a.call(move |c, _| c.join_circuit(own_a)).unwrap().unwrap();
    b.call(move |c, _| c.join_circuit(own_b)).unwrap().unwrap();
    let met = meet(&a, &b, end);
    say(&a, met.sid_a, &b, b"through TCP and a relay");
    say(&b, met.sid_b, &a, b"and back");
}

/// When its other end goes, the engine says so, and what went over it is dead at once.
#[test]
fn the_end_of_a_carrier_is_told() {
    let [a, b] = [(); 2].map(|()| open(StepLimits::default()));
    let (near, far) = carrier(&a, &b);
    let met = meet(&a, &b, near);
    b.call(move |c, now| c.detach(far, now)).unwrap();
    let (mut closed, mut dead) = (false, false);
    expect(&a, "the end", |e| {
        match e {
            Event::CarrierClosed { endpoint } => closed |= endpoint == near,
            Event::PathChanged { state, .. } => dead |= state == State::Dead,
            _ => {}
        }
        (closed && dead).then_some(())
    });
    let sid = met.sid_a;
    let again = a
        .call(move |c, now| c.open_path(sid, 2, near, now))
        .unwrap();
    assert!(again.is_err(), "a carrier that is gone takes no path");
}

/// A peer without UDP any more goes on over a carrier: its session moves there like to any address.
#[test]
fn a_session_moves_to_a_carrier() {
    let p = pair(StepLimits::default());
    settle(&p);
    let (near, far) = carrier(&p.a, &p.b);
    let (sid_a, sid_b, key) = (p.sid_a, p.sid_b, [0x42; 32]);
    p.b.call(move |c, _| c.set_return_keys(&[key]))
        .unwrap()
        .unwrap();
    p.a.call(move |c, _| c.set_peer_return_key(sid_a, &key))
        .unwrap()
        .unwrap();
    // As if UDP were dead from here on: nobody answers at the old address.
    let hole = UdpSocket::bind("127.0.0.1:0").unwrap();
    let nowhere = hole.local_addr().unwrap();
    p.b.call(move |c, now| c.set_endpoint(sid_b, nowhere, now))
        .unwrap()
        .unwrap();
    p.a.call(move |c, now| c.set_endpoint(sid_a, near, now))
        .unwrap()
        .unwrap();
    until("the move", || {
        p.a.call(move |c, now| c.probe_now(sid_a, None, now))
            .unwrap()
            .unwrap();
        std::thread::park_timeout(std::time::Duration::from_millis(50));
        stats(&p.b, sid_b).endpoint == far
    });
    say(&p.b, sid_b, &p.a, b"found you");
    say(&p.a, sid_a, &p.b, b"and I you");
}

/// Carriers are bounded, what is none is refused, and a name without one leads nowhere.
#[test]
fn carriers_are_bounded() {
    let a = open(StepLimits::default());
    let held: Vec<Seq> = (0..256)
        .map(|_| {
            let (one, other) = Seq::pair(QUEUE).unwrap();
            attach(&a, one, None);
            other
        })
        .collect();
    let (one, _other) = Seq::pair(QUEUE).unwrap();
    assert!(a.call(move |c, _| c.attach(one, None)).unwrap().is_err());
    drop(held);
    let mut told = 0;
    expect(&a, "256 ends", |e| {
        told += u32::from(matches!(e, Event::CarrierClosed { .. }));
        (told == 256).then_some(())
    });
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap().into_raw_fd();
    assert!(Seq::adopt(socket).is_err() && Seq::adopt(-1).is_err());
}

/// An engine is never held up by a carrier that takes nothing, nor by junk that one brings.
#[test]
fn a_stuck_carrier_holds_nobody_up() {
    let p = pair(StepLimits::default());
    settle(&p);
    let (one, other) = Seq::pair(QUEUE).unwrap();
    let stuck = attach(&p.a, one, None);
    let sid = p.sid_a;
    p.a.call(move |c, now| c.open_path(sid, 2, stuck, now))
        .unwrap()
        .unwrap();
    for _ in 0..2_000 {
        p.a.call(move |c, now| c.probe_now(sid, Some(2), now))
            .unwrap()
            .unwrap();
    }
    for junk in [&[0xff; 4000][..], &[0, 0], &[0, 1, 7, 0, 9, 1], &[5]] {
        other.send(junk).unwrap();
    }
    say(&p.a, p.sid_a, &p.b, b"nothing is the matter");
}

/// Many sockets of the one side and one punch of the other find each other; the path keeps its socket.
#[test]
fn a_spread_is_found() {
    let p = pair(StepLimits::default());
    settle(&p);
    let hole = UdpSocket::bind("127.0.0.1:0").unwrap();
    let nowhere = hole.local_addr().unwrap();
    let (key_a, key_b) = ([0xa; 32], [0xb; 32]);
    for (engine, sid, own, its) in [(&p.a, p.sid_a, key_a, key_b), (&p.b, p.sid_b, key_b, key_a)] {
        engine
            .call(move |c, now| {
                c.set_return_keys(&[own])?;
                c.set_peer_return_key(sid, &its)?;
                c.open_path(sid, 2, nowhere, now)
            })
            .unwrap()
            .unwrap();
    }
    let (sid_a, to) = (p.sid_a, at(&p.b));
    let spread = |count: usize| {
        p.a.call(move |c, now| c.spread(sid_a, 2, to, count, now))
            .unwrap()
    };
    assert!(spread(0).is_err() && spread(257).is_err());
    spread(64).unwrap();
    for engine in [&p.a, &p.b] {
        expect(engine, "path 2 alive", |e| {
            matches!(
                e,
                Event::PathChanged {
                    path: 2,
                    state: State::Alive,
                    ..
                }
            )
            .then_some(())
        });
    }
    let found = |engine: &Engine| {
        let all = engine.call(|c, now| c.path_stats(now)).unwrap();
        all.into_iter().find(|s| s.path == 2).unwrap().endpoint
    };
    assert_eq!(found(&p.a), to);
    let its = found(&p.b);
    assert_ne!(its.port(), p.a.port(), "one of the many");
    p.a.call(move |c, now| c.set_shares(sid_a, &[(2, 1.0)], None, now))
        .unwrap()
        .unwrap();
    say(&p.a, sid_a, &p.b, b"from the socket that was found");
    assert_eq!(found(&p.b), its);
    assert_eq!(spread(256).ok(), Some(()), "alive: nothing is opened");
}
