//! The gate against strangers: silence, no amplification, bounds.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use crate::world::{Datagram, End, ID_R, K_NET, MS, NET, World, random};
use proptest::prelude::*;
use veilnet_handshake::{
    Action, Error, Event, Gate, Init, KeySchedule, Limits, Mode, Rate, SeededRng, Suite, door_key,
};

/// A flipped bit anywhere in any message meets silence, moves nothing, and stops nothing.
#[test]
fn flips() {
    let mut world = World::new(Suite::S1, 1);
    world.start();
    let mut flipped = 0;
    while let Some(datagram) = world.wire.pop_front() {
        let waiting = world.wire.len();
        for at in 0..datagram.bytes.len() {
            let mut bytes = datagram.bytes.clone();
            bytes[at] ^= 1 << (at % 8);
            let bad = Datagram {
                bytes,
                ..datagram.clone()
            };
            let before = (world.i.established.is_some(), world.r.established.is_some());
            world.deliver(&bad);
            assert_eq!(world.wire.len(), waiting, "an answer to a flip at {at}");
            assert_eq!(
                before,
                (world.i.established.is_some(), world.r.established.is_some())
            );
            assert!(!world.i.acked);
            flipped += 1;
        }
        world.deliver(&datagram);
    }
    assert!(flipped > 15_000);
    assert_eq!(
        (world.i.candidates, world.i.rejected, world.r.inits.len()),
        (1, 0, 1)
    );
    world.assert_agreed();
}

/// A truncated or lengthened message meets silence too.
#[test]
fn truncations() {
    let mut world = World::new(Suite::S1, 2);
    world.start();
    while let Some(datagram) = world.wire.pop_front() {
        let waiting = world.wire.len();
        for length in 0..datagram.bytes.len() {
            let bytes = datagram.bytes[..length].to_vec();
            world.deliver(&Datagram {
                bytes,
                ..datagram.clone()
            });
        }
        for extra in [1, 16, 400] {
            let mut bytes = datagram.bytes.clone();
            bytes.resize(bytes.len() + extra, 0);
            world.deliver(&Datagram {
                bytes,
                ..datagram.clone()
            });
        }
        assert_eq!(world.wire.len(), waiting);
        world.deliver(&datagram);
    }
    world.assert_agreed();
}

/// Whatever was said once and is said again meets silence, at both ends.
#[test]
fn replays() {
    let mut world = World::new(Suite::S1, 3);
    world.start();
    let mut past: Vec<Datagram> = Vec::new();
    while let Some(datagram) = world.wire.pop_front() {
        world.deliver(&datagram);
        past.push(datagram);
        let waiting = world.wire.len();
        for old in past.clone() {
            world.now += MS;
            world.deliver(&old);
            assert_eq!(world.wire.len(), waiting);
        }
    }
    world.assert_agreed();
    assert_eq!(world.r.inits.len(), 1);
}

/// After a restart a recorded HELLO or INIT meets silence, given the persisted commitments.
#[test]
fn replay_after_restart() {
    let mut world = World::new(Suite::S1, 4);
    world.complete();
    let coms = world.r.gate.seen_coms();
    assert_eq!(coms, [world.r.inits[0].com]);
    let mut reborn = End::new("198.51.100.9:5000", b"reborn", Limits::default());
    reborn.gate.add_door(&door_key(K_NET, &ID_R), true).unwrap();
    reborn.gate.load_coms(&coms);
    for datagram in world.log.iter().filter(|d| d.to == world.r.address) {
        reborn.receive(datagram.from, &datagram.bytes, world.now);
    }
    assert!(reborn.sends().is_empty() && reborn.inits.is_empty());

    // Without the set only the HELLO is answered, as the threat model says; its INIT is not.
    let mut forgetful = End::new("198.51.100.9:5000", b"forgetful", Limits::default());
    forgetful
        .gate
        .add_door(&door_key(K_NET, &ID_R), true)
        .unwrap();
    for datagram in world.log.iter().filter(|d| d.to == world.r.address) {
        forgetful.receive(datagram.from, &datagram.bytes, world.now);
    }
    assert_eq!(forgetful.sends().len(), 1);
    assert!(forgetful.inits.is_empty());
}

/// A cookie proves one source address, one com, and for two minutes at most.
#[test]
fn cookies() {
    // (source of INIT, minutes of waiting, whether it is accepted)
    let cases: [(&str, u64, bool); 5] = [
        ("192.0.2.1:4000", 0, true),
        ("192.0.2.1:4001", 0, false),
        ("192.0.2.2:4000", 0, false),
        ("192.0.2.1:4000", 1, true),
        ("192.0.2.1:4000", 2, false),
    ];
    for (source, minutes, accepted) in cases {
        let mut world = World::new(Suite::S1, 5);
        world.start();
        let hello = world.wire.pop_front().unwrap();
        world.deliver(&hello);
        let retry = world.wire.pop_front().unwrap();
        world.deliver(&retry);
        world.now += minutes * 60_000 * MS;
        for init in std::mem::take(&mut world.wire) {
            world
                .r
                .receive(source.parse().unwrap(), &init.bytes, world.now);
        }
        assert_eq!(
            world.r.inits.len(),
            usize::from(accepted),
            "{source} {minutes}"
        );
        assert_eq!(!world.r.sends().is_empty(), accepted);
    }
}

/// A node without the door, or with another, says nothing to anybody.
#[test]
fn wrong_door() {
    for door in [None, Some([9; 32])] {
        let mut world = World::new(Suite::S1, 6);
        let mut other = End::new("198.51.100.9:5000", b"other", Limits::default());
        if let Some(key) = door {
            other.gate.add_door(&key, true).unwrap();
        }
        world.start();
        let hello = world.wire.pop_front().unwrap();
        assert!(!other.receive(hello.from, &hello.bytes, world.now));
        assert!(other.sends().is_empty());
    }
}

/// Sixteen doors, each of which works; a closed one is silent again.
#[test]
fn doors() {
    let mut rng = SeededRng::new(b"doors");
    let mut gate = Gate::new(&mut rng).unwrap();
    let ids: Vec<u32> = (0..16u8)
        .map(|k| gate.add_door(&[k; 32], true).unwrap())
        .collect();
    assert_eq!(
        gate.add_door(&[16; 32], true),
        Err(Error::Full("the list of doors"))
    );
    gate.remove_door(ids[5]).unwrap();
    assert_eq!(gate.remove_door(ids[5]), Err(Error::UnknownDoor(ids[5])));
    for key in 0..16u8 {
        let mut i = End::new("192.0.2.1:4000", &[key], Limits::default());
        let schedule = i.offer(Suite::S1);
        let mut out = Vec::new();
        let to = "198.51.100.9:5000".parse().unwrap();
        i.gate
            .hello(&schedule, &[key; 32], to, false, 0, &mut i.rng, &mut out)
            .unwrap();
        let Some(Action::Send { bytes, .. }) = out.pop() else {
            panic!("no HELLO")
        };
        let consumed = gate.receive(&bytes, i.address, 0, &mut rng, &mut out);
        assert_eq!(
            (consumed, out.len()),
            if key == 5 { (false, 0) } else { (true, 1) }
        );
    }
}

/// A bare hint gets one HELLO of 160 to 300 bytes, and its RETRY is no larger.
#[test]
fn bare_hints() {
    let mut sizes = std::collections::HashSet::new();
    for seed in 0..200 {
        let mut world = World::new(Suite::S1, seed);
        let schedule = world.i.schedule.clone().unwrap();
        let (to, now) = (world.r.address, world.now);
        let door = door_key(K_NET, &ID_R);
        for again in 0..3 {
            let i = &mut world.i;
            let sent = i
                .gate
                .hello(&schedule, &door, to, true, now, &mut i.rng, &mut i.out);
            assert_eq!(sent, Ok(again == 0));
        }
        world.collect();
        assert_eq!(world.wire.len(), 1);
        let hello = world.wire.pop_front().unwrap();
        assert!((160..=300).contains(&hello.bytes.len()));
        sizes.insert(hello.bytes.len());
        world.deliver(&hello);
        assert!(world.wire[0].bytes.len() <= hello.bytes.len());
        world.settle();
        world.assert_agreed();
    }
    assert!(
        sizes.len() > 60,
        "sizes are drawn, not fixed: {}",
        sizes.len()
    );
}

/// Unsolicited HELLOs stop at the byte budget of the address, and come back with time.
#[test]
fn unproven_budget() {
    let limits = Limits {
        unproven_address: Rate {
            per_s: 1000,
            burst: 4000,
        },
        unproven_prefix: Rate {
            per_s: 1000,
            burst: 6000,
        },
        offers: 10_000,
        per_source: 10_000,
        ..Limits::default()
    };
    let mut i = End::new("192.0.2.1:4000", b"budget", limits);
    let mut send = |to: &str, now: u64| {
        i.offer(Suite::S1);
        i.hello(to.parse().unwrap(), now);
        i.sends().iter().map(|d| d.bytes.len()).sum::<usize>()
    };
    let first: usize = (0..100)
        .map(|k| send(&format!("203.0.113.1:{}", 1000 + k), 0))
        .sum();
    assert!(
        (2900..=4000).contains(&first),
        "{first} bytes to one address"
    );
    let second: usize = (0..100).map(|_| send("203.0.113.2:1000", 0)).sum();
    assert!(
        (900..=6000 - first).contains(&second),
        "{second} more to its prefix"
    );
    let elsewhere: usize = (0..100).map(|_| send("203.0.114.2:1000", 0)).sum();
    assert!(elsewhere > 2900);
    let later: usize = (0..100).map(|_| send("203.0.113.1:1000", 3_000 * MS)).sum();
    assert!((1900..=3000 + 1100).contains(&later));
}

/// Send whole INITs of *count* strangers to one responder whose Python never answers.
fn crowd(
    gate: &mut Gate,
    rng: &mut SeededRng,
    source_of: impl Fn(usize) -> SocketAddr,
    count: usize,
    now: u64,
    fragments: usize,
) -> Vec<(Init, Vec<Vec<u8>>)> {
    let to: SocketAddr = "198.51.100.9:5000".parse().unwrap();
    let mut whole = Vec::new();
    for number in 0..count {
        let source = source_of(number);
        let mut i = End::new("192.0.2.1:1", &number.to_be_bytes(), Limits::default());
        i.offer(Suite::S1);
        assert!(i.hello(to, now));
        let hello = i.sends().remove(0);
        let mut out = Vec::new();
        gate.receive(&hello.bytes, source, now, rng, &mut out);
        let Some(Action::Send { bytes, .. }) = out.pop() else {
            panic!("no RETRY")
        };
        i.receive(to, &bytes, now);
        let inits: Vec<Vec<u8>> = i.sends().into_iter().map(|d| d.bytes).collect();
        for init in inits.iter().take(fragments) {
            gate.receive(init, source, now, rng, &mut out);
        }
        for action in out {
            let Action::Event(Event::Init(init)) = action else {
                panic!("{action:?}")
            };
            whole.push((init, inits.clone()));
        }
    }
    whole
}

fn open_gate(limits: Limits) -> (Gate, SeededRng) {
    let mut rng = SeededRng::new(b"crowd");
    let mut gate = Gate::with_limits(limits, &mut rng).unwrap();
    gate.add_door(&door_key(K_NET, &ID_R), true).unwrap();
    (gate, rng)
}

fn spread(number: usize) -> SocketAddr {
    let number = number as u32;
    SocketAddr::new(
        std::net::Ipv4Addr::from(0x0a00_0001 + (number << 8)).into(),
        4000,
    )
}

/// Python's backlog is bounded, frees itself by `dismiss` and after 30 s.
#[test]
fn waiting_is_bounded() {
    let (mut gate, mut rng) = open_gate(Limits {
        waiting: 4,
        ..Limits::default()
    });
    let whole = crowd(&mut gate, &mut rng, spread, 20, 0, 2);
    assert_eq!(
        (
            whole.len(),
            gate.occupancy().waiting,
            gate.occupancy().assemblies
        ),
        (4, 4, 0)
    );
    assert!(gate.dismiss(&whole[0].0.com));
    assert!(!gate.dismiss(&whole[0].0.com));
    gate.expire(29_999 * MS);
    assert_eq!(gate.occupancy().waiting, 3);
    gate.expire(30_001 * MS);
    assert_eq!(gate.occupancy().waiting, 0);
}

/// Who was refused for want of room gets in by repeating its INIT, once there is room.
#[test]
fn refused_for_now() {
    let mut world = World::with_limits(
        Suite::S1,
        21,
        Limits {
            waiting: 1,
            ..Limits::default()
        },
    );
    let End { gate, rng, .. } = &mut world.r;
    let whole = crowd(gate, rng, spread, 1, world.now, 2);
    world.start();
    world.settle();
    assert!(world.r.inits.is_empty() && world.i.established.is_none());
    assert!(world.r.gate.dismiss(&whole[0].0.com));
    world.wait(500);
    world.settle();
    world.assert_agreed();
}

/// Half INITs take bounded memory and go after 3 s.
#[test]
fn assemblies_are_bounded() {
    let limits = Limits {
        assembly_bytes: 5 * 608,
        ..Limits::default()
    };
    let (mut gate, mut rng) = open_gate(limits);
    assert!(crowd(&mut gate, &mut rng, spread, 20, 0, 1).is_empty());
    assert_eq!(
        (gate.occupancy().assemblies, gate.occupancy().bytes),
        (5, 5 * 608)
    );
    assert_eq!(gate.next_expiry(), Some(3_000 * MS));
    gate.expire(2_999 * MS);
    assert_eq!(gate.occupancy().assemblies, 5);
    gate.expire(3_000 * MS);
    assert_eq!(
        (gate.occupancy().assemblies, gate.occupancy().bytes),
        (0, 0)
    );
}

/// New handshakes are limited per prefix and in all, after the cookie; RETRYs are not.
#[test]
fn admission() {
    let limits = Limits {
        per_prefix: Rate { per_s: 1, burst: 3 },
        global: Rate {
            per_s: 1,
            burst: 10,
        },
        ..Limits::default()
    };
    let (mut gate, mut rng) = open_gate(limits);
    let same = |n: usize| SocketAddr::new([192, 0, 2, n as u8].into(), 4000);
    assert_eq!(
        crowd(&mut gate, &mut rng, same, 20, 0, 2).len(),
        3,
        "one /24"
    );
    let (mut gate, mut rng) = open_gate(limits);
    let same = |n: usize| SocketAddr::new([0x2001, 0xdb8, 0, 1, 0, 0, 0, n as u16].into(), 4000);
    assert_eq!(
        crowd(&mut gate, &mut rng, same, 20, 0, 2).len(),
        3,
        "one /64"
    );
    let (mut gate, mut rng) = open_gate(limits);
    assert_eq!(
        crowd(&mut gate, &mut rng, spread, 30, 0, 2).len(),
        10,
        "in all"
    );
}

/// The cache of answers evicts the oldest, and an evicted INIT is not processed again.
#[test]
fn answers_are_bounded() {
    let (mut gate, mut rng) = open_gate(Limits {
        answers: 4,
        ..Limits::default()
    });
    let whole = crowd(&mut gate, &mut rng, spread, 10, 0, 2);
    assert_eq!(whole.len(), 10);
    let mut out = Vec::new();
    for (at, (init, _)) in whole.iter().enumerate() {
        let ct = random(&mut rng, Suite::S1.ct_len());
        let schedule =
            KeySchedule::respond(init, NET, K_NET, &ID_R, &ct, &[1; 32], &mut rng).unwrap();
        let schedule = Arc::new(Mutex::new(schedule));
        let now = at as u64 * MS;
        gate.respond(&schedule, init, vec![0; 5000], now, &mut rng, &mut out)
            .unwrap();
        assert!(
            gate.respond(&schedule, init, vec![0; 50], now, &mut rng, &mut out)
                .is_err(),
            "one answer per INIT"
        );
    }
    assert_eq!((gate.occupancy().answers, gate.occupancy().waiting), (4, 0));
    gate.expire(119_000 * MS);
    assert_eq!(gate.occupancy().answers, 4);
    gate.expire(121_000 * MS);
    assert_eq!(gate.occupancy().answers, 0);
}

/// A cached RESP goes out again for a repeated INIT, sealed anew, at most four times a second.
#[test]
fn cached_response() {
    let mut world = World::new(Suite::S1, 8);
    world.start();
    for _ in 0..4 {
        let datagram = world.wire.pop_front().unwrap();
        world.deliver(&datagram);
    }
    let first: Vec<Vec<u8>> = world.wire.drain(..).map(|d| d.bytes).collect();
    let mut repeats = 0;
    for _ in 0..10 {
        world.now += 100 * MS;
        let to = world.r.address;
        world.i.hello(to, world.now);
        world.collect();
        let inits: Vec<Datagram> = world.wire.drain(..).collect();
        for datagram in inits {
            world.deliver(&datagram);
        }
        let resp: Vec<Vec<u8>> = world.wire.drain(..).map(|d| d.bytes).collect();
        // Beside the RESP, a HELLO under a spent cookie may be repeated: it meets silence.
        assert!(
            resp.is_empty() || resp.len() == first.len(),
            "{}",
            resp.len()
        );
        repeats += usize::from(!resp.is_empty());
        for bytes in &resp {
            assert!(!first.contains(bytes), "sealed anew");
        }
    }
    assert_eq!((repeats, world.r.inits.len()), (3, 1));
}

/// Junk and other people's datagrams leave nothing behind.
#[test]
fn junk_leaves_nothing() {
    let (mut gate, mut rng) = open_gate(Limits::default());
    let before = gate.occupancy();
    let mut out = Vec::new();
    for number in 0..20_000usize {
        let junk = random(&mut rng, number % 1200);
        assert!(!gate.receive(&junk, spread(number), 0, &mut rng, &mut out));
    }
    assert!(out.is_empty());
    assert_eq!(gate.occupancy(), before);
    assert_eq!(gate.next_expiry(), None);
}

/// An initiator's stash and candidates are bounded while an insider floods it.
#[test]
fn stash_is_bounded() {
    let mut world = World::new(Suite::S1, 9);
    world.start();
    for _ in 0..2 {
        let datagram = world.wire.pop_front().unwrap();
        world.deliver(&datagram);
    }
    let inits: Vec<Datagram> = world.wire.drain(..).collect();
    for number in 0..500 {
        let bytes = random(&mut world.r.rng, 900 + number % 100);
        assert!(world.i.receive(world.r.address, &bytes, world.now), "kept");
        assert!(
            !world
                .i
                .receive("9.9.9.9:9".parse().unwrap(), &bytes, world.now)
        );
    }
    assert!(world.i.gate.occupancy().bytes <= 16 * 1100);
    for init in &inits {
        world.deliver(init);
    }
    world.settle();
    for _ in 0..3 {
        world.wait(500);
        world.settle();
    }
    world.assert_agreed();
    assert_eq!(world.i.gate.occupancy().bytes, 0);
}

/// What was not asked for in order is refused by name, and changes nothing.
#[test]
fn misuse() {
    let mut world = World::new(Suite::S1, 10);
    let (now, mut out) = (world.now, Vec::new());
    let gate = &mut world.i.gate;
    assert_eq!(
        gate.candidate(5, 0, &[0; 32], now, &mut out).map(|_| ()),
        Err(Error::UnknownSession(5))
    );
    assert_eq!(gate.resend(5, now, &mut out), Err(Error::UnknownSession(5)));
    assert_eq!(
        gate.accept(5, None, now).err(),
        Some(Error::UnknownSession(5))
    );
    assert!(!gate.abandon(5));
    world.start();
    let sid = world
        .i
        .schedule
        .as_ref()
        .unwrap()
        .lock()
        .unwrap()
        .local_sid();
    let gate = &mut world.i.gate;
    assert!(matches!(
        gate.candidate(sid, 0, &[0; 32], now, &mut out).map(|_| ()),
        Err(Error::State(_))
    ));
    assert!(
        gate.authenticate(sid, vec![1], None, now, &mut out)
            .is_err()
    );
    assert!(gate.reject(sid, now, &mut out).is_err());
    assert!(out.is_empty());
    world.settle();
    world.assert_agreed();
    let gate = &mut world.i.gate;
    assert!(
        gate.authenticate(sid, vec![1], None, now, &mut out)
            .is_err()
    );
    assert!(gate.reject(sid, now, &mut out).is_err());
    let sid_r = world.r.established.as_ref().unwrap().local_sid;
    assert!(world.r.gate.accept(sid_r, None, now).is_err());
    assert!(world.i.gate.abandon(sid));
    assert!(world.i.gate.resend(sid, now, &mut out).is_err());
}

/// The race of one offer has at most eight endpoints, a source at most sixteen offers.
#[test]
fn races_are_bounded() {
    let mut i = End::new("192.0.2.1:4000", b"race", Limits::default());
    let schedule = i.offer(Suite::S1);
    let door = door_key(K_NET, &ID_R);
    for number in 0..9usize {
        let sent = i.gate.hello(
            &schedule,
            &door,
            spread(number),
            false,
            0,
            &mut i.rng,
            &mut i.out,
        );
        assert_eq!(sent.is_ok(), number < 8);
    }
    for number in 0..16 {
        let ek = random(&mut i.rng, Suite::S1.ek_len());
        let other =
            KeySchedule::initiate(Suite::S1, Mode::Full, NET, K_NET, &ID_R, &ek, &mut i.rng);
        let other = Arc::new(Mutex::new(other.unwrap()));
        let sent = i
            .gate
            .hello(&other, &door, spread(0), true, 0, &mut i.rng, &mut i.out);
        assert_eq!(sent.is_ok(), number < 15, "the first offer is there too");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Arbitrary bytes from anywhere at any moment never panic and never make an answer.
    #[test]
    fn arbitrary_bytes(
        stop in 0usize..30,
        junk in proptest::collection::vec(
            (proptest::collection::vec(any::<u8>(), 0..1300), any::<bool>()), 1..40
        ),
    ) {
        let mut world = World::new(Suite::S1, 11);
        world.start();
        for _ in 0..stop {
            if let Some(datagram) = world.wire.pop_front() {
                world.deliver(&datagram);
            }
        }
        let waiting = world.wire.len();
        for (bytes, to_i) in junk {
            let (from, to) = if to_i {
                (world.r.address, world.i.address)
            } else {
                (world.i.address, world.r.address)
            };
            world.deliver(&Datagram { from, to, bytes });
            prop_assert_eq!(world.wire.len(), waiting);
        }
    }

    /// One datagram of the handshake is flipped in transit and never repeated: no session, unless
    /// the loss itself was repaired.
    #[test]
    fn one_flip_without_retransmission(seed in any::<u64>(), which in 0usize..24, at in any::<prop::sample::Index>(), bit in 0u8..8) {
        let mut world = World::new(Suite::S1, seed);
        world.start();
        let mut number = 0;
        let mut hit = false;
        while let Some(mut datagram) = world.wire.pop_front() {
            if number == which {
                let at = at.index(datagram.bytes.len());
                datagram.bytes[at] ^= 1 << bit;
                hit = true;
            }
            number += 1;
            world.deliver(&datagram);
        }
        prop_assert!(hit);
        prop_assert!(!world.i.acked);
        prop_assert!(world.r.established.is_none() || which == number - 1, "only ACK comes later");
    }
}
