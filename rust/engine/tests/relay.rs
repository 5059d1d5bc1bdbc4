//! Three engines: two that only talk over the third.

use crate::world::{Met, at, expect, meet, open, say, stats, until};
use std::net::SocketAddr;
use veilnet_engine::{Cause, Circuit, Engine, Event, State, StepLimits};

const QUOTA: (u64, u64, u64) = (u64::MAX, 1 << 20, u64::MAX);

struct Three {
    a: Engine,
    b: Engine,
    relay: Engine,
    /// a's and b's links to the relay, the relay being the one that was called.
    link_a: Met,
    link_b: Met,
    /// The circuit's ends at the relay and at the two.
    at_relay: (Circuit, Circuit),
    end_a: SocketAddr,
    end_b: SocketAddr,
}

fn three(quota: (u64, u64, u64)) -> Three {
    let [a, b, relay] = [(); 3].map(|()| open(StepLimits::default()));
    let link_a = meet(&a, &relay, at(&relay));
    let link_b = meet(&b, &relay, at(&relay));
    let label = |link, label| Circuit { link, label };
    let at_relay = (label(link_a.sid_b, 7), label(link_b.sid_b, 9));
    relay
        .call(move |c, now| c.add_circuit(at_relay.0, at_relay.1, quota, now))
        .unwrap()
        .unwrap();
    let (own_a, own_b) = (label(link_a.sid_a, 7), label(link_b.sid_a, 9));
    let end_a = a.call(move |c, _| c.join_circuit(own_a)).unwrap().unwrap();
    let end_b = b.call(move |c, _| c.join_circuit(own_b)).unwrap().unwrap();
    Three {
        a,
        b,
        relay,
        link_a,
        link_b,
        at_relay,
        end_a,
        end_b,
    }
}

fn relayed(t: &Three) -> u64 {
    t.relay.call(|c, _| c.stats()).unwrap().relayed_datagrams
}

/// The handshake, control and probes cross a relay, which opens nothing of them.
#[test]
fn a_session_over_a_relay() {
    let t = three(QUOTA);
    let met = meet(&t.a, &t.b, t.end_a);
    say(&t.a, met.sid_a, &t.b, b"over the relay");
    say(&t.b, met.sid_b, &t.a, b"and back");
    assert_eq!(stats(&t.a, met.sid_a).endpoint, t.end_a);
    assert_eq!(stats(&t.b, met.sid_b).endpoint, t.end_b);
    assert!(relayed(&t) > 20, "two handshake flights and more");
    let known = t.relay.call(|c, now| c.session_stats(now)).unwrap();
    assert_eq!(known.len(), 2, "the relay has its links and nothing else");
    until("the full path MTU over the relay", || {
        stats(&t.a, met.sid_a).mtu_bytes == 1412
    });
}

/// Without a circuit, or after it was taken away, nothing goes through.
#[test]
fn no_circuit_no_frame() {
    let t = three(QUOTA);
    let met = meet(&t.a, &t.b, t.end_a);
    // Nothing may still be on its way, or it would count as heard.
    until("quiet", || {
        stats(&t.a, met.sid_a).mtu_bytes == 1412 && stats(&t.b, met.sid_b).mtu_bytes == 1412
    });
    let end = t.at_relay.1;
    t.relay.call(move |c, _| c.remove_circuit(end)).unwrap();
    let before = relayed(&t);
    let sid = met.sid_a;
    t.a.call(move |c, now| c.probe_now(sid, None, now))
        .unwrap()
        .unwrap();
    expect(&t.a, "silence", |e| {
        matches!(e, Event::Silent { sid: s, .. } if s == sid).then_some(())
    });
    assert_eq!(relayed(&t), before);
}

/// The byte limit stops a circuit, tells once, and goes on when it is raised.
#[test]
fn the_limit_is_told() {
    let t = three(QUOTA);
    let met = meet(&t.a, &t.b, t.end_a);
    let (end, sid) = (t.at_relay.0, met.sid_a);
    let limit = |bytes: u64| {
        t.relay
            .call(move |c, _| c.limit_circuit(end, None, Some(bytes)))
            .unwrap()
            .unwrap();
    };
    limit(0);
    for _ in 0..3 {
        t.a.call(move |c, now| c.probe_now(sid, None, now))
            .unwrap()
            .unwrap();
    }
    let mut told = 0;
    expect(&t.relay, "a spent circuit", |e| match e {
        Event::CircuitSpent { link, label } => {
            told += 1;
            [t.at_relay.0, t.at_relay.1]
                .contains(&Circuit { link, label })
                .then_some(())
        }
        _ => None,
    });
    until("three dropped frames", || {
        t.relay.call(|c, _| c.stats()).unwrap().relay_dropped >= 3
    });
    let more = t.relay.drain(64);
    assert!(!more.iter().any(|e| matches!(e, Event::CircuitSpent { .. })));
    assert_eq!(told, 1);
    limit(1 << 20);
    say(&t.a, sid, &t.b, b"on it goes");
}

/// A path over a circuit is proven by a probe, carries when told, and dies with its link at once.
#[test]
fn a_second_path_takes_over() {
    let t = three(QUOTA);
    let met = meet(&t.a, &t.b, at(&t.b));
    let (sid_a, sid_b, end_a, end_b) = (met.sid_a, met.sid_b, t.end_a, t.end_b);
    t.b.call(move |c, now| c.open_path(sid_b, 2, end_b, now))
        .unwrap()
        .unwrap();
    t.a.call(move |c, now| c.open_path(sid_a, 2, end_a, now))
        .unwrap()
        .unwrap();
    let again = t.a.call(move |c, now| c.open_path(sid_a, 2, end_a, now));
    assert!(again.unwrap().is_err(), "an id is given out once");
    let answered = |engine: &Engine, sid| {
        engine
            .call(move |c, now| c.probe_now(sid, Some(2), now))
            .unwrap()
            .unwrap();
        expect(engine, "the path alive", |e| match e {
            Event::PathChanged {
                path: 2,
                state: State::Alive,
                cause,
                ..
            } => Some(cause),
            _ => None,
        })
    };
    assert_eq!(answered(&t.a, sid_a), Cause::Heard);
    t.a.call(move |c, now| c.set_shares(sid_a, &[(2, 1.0)], Some(0), now))
        .unwrap()
        .unwrap();
    let before = relayed(&t);
    say(&t.a, sid_a, &t.b, b"the other way");
    assert!(relayed(&t) > before);
    let link = t.link_a.sid_a;
    t.a.call(move |c, now| c.close_session(link, now)).unwrap();
    let moved = expect(&t.a, "the end of the path", |e| match e {
        Event::PathChanged {
            path: 2,
            state: State::Dead,
            cause: Cause::Closed,
            moved_to,
            ..
        } => Some(moved_to),
        _ => None,
    });
    assert_eq!(moved, Some(0));
    say(&t.a, sid_a, &t.b, b"direct again");
}

/// A link that is a channel too may take a detour with its packets, and never with its frames.
#[test]
fn frames_never_take_a_detour() {
    let t = three(QUOTA);
    // b relays between a and the relay: a detour for a's own link.
    let near = meet(&t.a, &t.b, at(&t.b));
    let (link, far) = (t.link_a.sid_a, t.link_a.sid_b);
    let (x, y) = (
        Circuit {
            link: near.sid_b,
            label: 70,
        },
        Circuit {
            link: t.link_b.sid_a,
            label: 71,
        },
    );
    t.b.call(move |c, now| c.add_circuit(x, y, QUOTA, now))
        .unwrap()
        .unwrap();
    let (own, its) = (
        Circuit {
            link: near.sid_a,
            label: 70,
        },
        Circuit {
            link: t.link_b.sid_b,
            label: 71,
        },
    );
    let end = t.a.call(move |c, _| c.join_circuit(own)).unwrap().unwrap();
    let there = t
        .relay
        .call(move |c, _| c.join_circuit(its))
        .unwrap()
        .unwrap();
    t.relay
        .call(move |c, now| c.open_path(far, 2, there, now))
        .unwrap()
        .unwrap();
    t.a.call(move |c, now| c.open_path(link, 2, end, now))
        .unwrap()
        .unwrap();
    t.a.call(move |c, now| c.probe_now(link, Some(2), now))
        .unwrap()
        .unwrap();
    expect(&t.a, "the detour alive", |e| {
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
    t.a.call(move |c, now| c.set_shares(link, &[(2, 1.0)], None, now))
        .unwrap()
        .unwrap();
    say(&t.a, link, &t.relay, b"round by b");
    let met = meet(&t.a, &t.b, t.end_a);
    say(&t.a, met.sid_a, &t.b, b"over the relay all the same");
}

/// A circuit that was left does not hinder its link from being replaced.
#[test]
fn a_stale_path_stops_no_rebinding() {
    let t = three(QUOTA);
    let met = meet(&t.a, &t.b, t.end_a);
    let end = t.end_a;
    t.a.call(move |c, now| c.leave_circuit(end, now)).unwrap();
    let new = meet(&t.a, &t.relay, at(&t.relay));
    let (old, sid) = (t.link_a.sid_a, new.sid_a);
    t.a.call(move |c, now| c.rebind_link(old, sid, now))
        .unwrap()
        .unwrap();
    assert_eq!(stats(&t.a, met.sid_a).endpoint, t.end_a);
    say(&t.a, sid, &t.relay, b"the link is well");
}

/// An idle pair is quiet: what was sent is covered, and nobody asks again and again.
#[test]
fn an_idle_pair_is_quiet() {
    let t = three(QUOTA);
    let met = meet(&t.a, &t.b, t.end_a);
    let sid = met.sid_a;
    for _ in 0..5 {
        t.a.call(move |c, now| c.probe_now(sid, None, now))
            .unwrap()
            .unwrap();
    }
    until("the full path MTU", || {
        stats(&t.a, sid).mtu_bytes == 1412 && stats(&t.b, met.sid_b).mtu_bytes == 1412
    });
    let sent = || t.a.call(|c, _| c.stats()).unwrap().tx_datagrams;
    let before = sent();
    std::thread::park_timeout(std::time::Duration::from_secs(3));
    assert!(sent() < before + 12, "{} in 3 s", sent() - before);
}

/// Impossible paths are refused, each for its reason.
#[test]
fn bad_paths_are_refused() {
    let t = three(QUOTA);
    let met = meet(&t.a, &t.b, at(&t.b));
    let sid = met.sid_a;
    let nowhere = Circuit { link: 1, label: 1 }.address();
    let try_open = |id: u8, to: SocketAddr| {
        t.a.call(move |c, now| c.open_path(sid, id, to, now))
            .unwrap()
            .is_err()
    };
    assert!(try_open(2, nowhere), "a circuit that was not joined");
    assert!(try_open(0, at(&t.b)), "the handshake's id");
    assert!(try_open(255, at(&t.b)), "the reserved id");
    for id in 1..8 {
        assert!(!try_open(id, at(&t.b)));
    }
    assert!(try_open(8, at(&t.b)), "a ninth path");
    let shares = |list: Vec<(u8, f32)>| {
        t.a.call(move |c, now| c.set_shares(sid, &list, None, now))
            .unwrap()
            .is_err()
    };
    assert!(shares(vec![(0, 0.5)]), "a sum below one");
    assert!(shares(vec![(0, f32::NAN), (1, 1.0)]), "no number");
    assert!(shares(vec![(0, 1.0), (99, 0.0)]), "no such path");
    assert!(shares((0..4).map(|id| (id, 0.25)).collect()), "four paths");
    assert!(!shares(vec![(0, 0.6), (1, 0.3), (2, 0.1)]));
    t.a.call(move |c, _| c.close_path(sid, 3)).unwrap().unwrap();
    assert!(try_open(3, at(&t.b)), "an id does not come back");
}

/// A replaced link keeps its circuits, at the ends and at the relay.
#[test]
fn a_rebound_link_keeps_its_circuits() {
    let t = three(QUOTA);
    let met = meet(&t.a, &t.b, t.end_a);
    let new = meet(&t.a, &t.relay, at(&t.relay));
    let (old_a, new_a) = (t.link_a.sid_a, new.sid_a);
    let (old_r, new_r) = (t.link_a.sid_b, new.sid_b);
    t.a.call(move |c, now| c.rebind_link(old_a, new_a, now))
        .unwrap()
        .unwrap();
    t.relay
        .call(move |c, now| c.rebind_link(old_r, new_r, now))
        .unwrap()
        .unwrap();
    t.a.call(move |c, now| c.close_session(old_a, now)).unwrap();
    t.relay
        .call(move |c, now| c.close_session(old_r, now))
        .unwrap();
    say(&t.a, met.sid_a, &t.b, b"over the new link");
    say(&t.b, met.sid_b, &t.a, b"and back");
}

/// Labels that are in use, links that are none and circuits over circuits are refused.
#[test]
fn bad_circuits_are_refused() {
    let t = three(QUOTA);
    let met = meet(&t.a, &t.b, t.end_a);
    let (a, b) = t.at_relay;
    let refused = |a: Circuit, b: Circuit| {
        t.relay
            .call(move |c, now| c.add_circuit(a, b, QUOTA, now))
            .unwrap()
            .is_err()
    };
    let other = |c: Circuit| Circuit { label: 77, ..c };
    assert!(refused(a, other(b)) && refused(other(a), b));
    assert!(refused(other(a), other(a)));
    assert!(refused(other(a), Circuit { link: 1, label: 1 }));
    assert!(!refused(other(a), other(b)));
    let inside = Circuit {
        link: met.sid_a,
        label: 5,
    };
    let joined = t.a.call(move |c, _| c.join_circuit(inside)).unwrap();
    assert!(joined.is_err(), "a link is direct");
}
