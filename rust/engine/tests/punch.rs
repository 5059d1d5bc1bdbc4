//! Two engines find each other on a path that leads nowhere yet, through NATs and without.

use crate::world::{Nat, Pair, at, expect, pair, say, settle, until};
use std::net::{SocketAddr, UdpSocket};
use veilnet_engine::{Cause, Engine, Event, PathStats, State, StepLimits};

/// An address where nobody answers, for as long as the socket lives.
fn nowhere() -> (UdpSocket, SocketAddr) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let at = socket.local_addr().unwrap();
    (socket, at)
}

/// A pair that has each other's return keys, and path 2 open at both ends towards nowhere.
fn apart(hole: SocketAddr) -> Pair {
    let p = pair(StepLimits::default());
    settle(&p);
    let (key_a, key_b) = ([0xa; 32], [0xb; 32]);
    for (engine, sid, own, its) in [(&p.a, p.sid_a, key_a, key_b), (&p.b, p.sid_b, key_b, key_a)] {
        engine
            .call(move |c, now| {
                c.set_return_keys(&[own])?;
                c.set_peer_return_key(sid, &its)?;
                c.open_path(sid, 2, hole, now)
            })
            .unwrap()
            .unwrap();
    }
    p
}

fn punch(engine: &Engine, sid: u32, to: &[SocketAddr]) -> usize {
    let to = to.to_vec();
    engine
        .call(move |c, now| c.punch(sid, 2, &to, None, now))
        .unwrap()
        .unwrap()
}

fn path(engine: &Engine, id: u8) -> PathStats {
    let all = engine.call(|c, now| c.path_stats(now)).unwrap();
    all.into_iter().find(|p| p.path == id).expect("the path")
}

fn alive(engine: &Engine) {
    let cause = expect(engine, "path 2 alive", |e| match e {
        Event::PathChanged {
            path: 2,
            state: State::Alive,
            cause,
            ..
        } => Some(cause),
        _ => None,
    });
    assert_eq!(cause, Cause::Heard);
}

/// One side's punch proves the path at both ends, wherever they thought that the other was.
#[test]
fn one_punch_proves_both_ends() {
    let (_a, hole) = nowhere();
    let (_b, other) = nowhere();
    let p = apart(hole);
    let to = at(&p.b);
    assert_eq!(punch(&p.a, p.sid_a, &[other, to]), 2);
    alive(&p.a);
    alive(&p.b);
    assert_eq!(path(&p.a, 2).endpoint, to);
    assert_eq!(path(&p.b, 2).endpoint, at(&p.a));
    assert_eq!(punch(&p.a, p.sid_a, &[other]), 0, "it is alive already");
    let sid = p.sid_a;
    p.a.call(move |c, now| c.set_shares(sid, &[(2, 1.0)], None, now))
        .unwrap()
        .unwrap();
    say(&p.a, p.sid_a, &p.b, b"on the path that was found");
    until("the full path MTU", || path(&p.a, 2).mtu_bytes == 1412);
}

/// A peer whose NAT gives it an address that nobody foresaw is found all the same: return keys.
#[test]
fn a_nat_that_nobody_foresaw() {
    let (_a, hole) = nowhere();
    let p = apart(hole);
    let nat = Nat::before(at(&p.b));
    punch(&p.a, p.sid_a, &[nat.inner]);
    alive(&p.a);
    alive(&p.b);
    assert_eq!(path(&p.a, 2).endpoint, nat.inner);
    assert_eq!(path(&p.b, 2).endpoint, nat.outside());
}

/// Sprayed probes are bare, so whoever is reached asks back only when it has got enough for it.
#[test]
fn a_spray_finds_the_peer_too() {
    let (_a, hole) = nowhere();
    let p = apart(hole);
    let to = at(&p.b);
    // Of the loopback network, so that each has a byte budget of its own.
    let near = |k: u8| SocketAddr::from(([127, 0, 9, k], hole.port()));
    let mut many: Vec<SocketAddr> = (1..=40).map(near).collect();
    many.push(to);
    assert_eq!(punch(&p.a, p.sid_a, &many), many.len());
    alive(&p.a);
    alive(&p.b);
    assert_eq!(path(&p.b, 2).endpoint, at(&p.a));
}

/// No address gets more than its byte budget, however many ports of it are named or calls made.
#[test]
fn an_address_gets_no_more_than_its_budget() {
    let (_a, hole) = nowhere();
    let p = apart(hole);
    let ports: Vec<SocketAddr> = (0..1000u16)
        .map(|k| SocketAddr::from(([127, 0, 0, 77], 20_000 + k)))
        .collect();
    let sent: usize = (0..5).map(|_| punch(&p.a, p.sid_a, &ports)).sum();
    // 16 KiB at once and 2 KiB a second, of 41 bytes each.
    assert!((390..480).contains(&sent), "{sent}");
}

/// What cannot be punched is refused: no such path, a circuit's, too many, a TTL of nothing.
#[test]
fn bad_punches_are_refused() {
    let (_a, hole) = nowhere();
    let p = apart(hole);
    let sid = p.sid_a;
    let refused = |id: u8, to: Vec<SocketAddr>, hops: Option<u8>| {
        p.a.call(move |c, now| c.punch(sid, id, &to, hops, now))
            .unwrap()
            .is_err()
    };
    assert!(refused(4, vec![hole], None));
    assert!(refused(2, vec![hole; 1025], None));
    assert!(refused(2, vec![hole], Some(0)));
    let unfit = ["0.0.0.0:9", "255.255.255.255:9", "[ff02::1]:9", "1.2.3.4:0"];
    let circuit = veilnet_engine::Circuit { link: 1, label: 1 }.address();
    let unfit: Vec<SocketAddr> = unfit.iter().map(|t| t.parse().unwrap()).collect();
    assert_eq!(punch(&p.a, sid, &unfit), 0);
    assert_eq!(punch(&p.a, sid, &[circuit]), 0);
}
