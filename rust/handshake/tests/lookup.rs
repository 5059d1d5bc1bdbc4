//! The lookup handshake: four messages, no identities, a public door.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use crate::world::{Datagram, End, ID_R, K_NET, MS, NET, World, fake_kem, random};
use veilnet_handshake::{
    Action, Error, Event, Gate, Init, KeySchedule, Limits, Mode, Rate, SeededRng, Suite, Tried,
    door_key,
};

fn lookup(suite: Suite, seed: u64) -> World {
    World::lookup(suite, seed, Limits::default())
}

/// Six datagrams of about 2.9 KB in all make a session whose ends agree, in both suites.
#[test]
fn completes() {
    for (suite, least, most) in [(Suite::S1, 2900, 3300), (Suite::S2, 3700, 4100)] {
        let mut world = lookup(suite, 1);
        world.complete();
        assert_eq!(world.log.len(), 6);
        let bytes: usize = world.log.iter().map(|d| d.bytes.len()).sum();
        assert!((least..=most).contains(&bytes), "{bytes} bytes");
        assert!(world.log[1].bytes.len() <= world.log[0].bytes.len());
        let session = world.i.established.as_ref().unwrap();
        assert_eq!(session.mode, Mode::Lookup);
        assert_eq!(session.source, world.r.address);
        let schedule = world.i.schedule.as_ref().unwrap().lock().unwrap();
        assert_eq!(schedule.th4().unwrap(), schedule.th2().unwrap());
    }
}

/// A flipped bit anywhere in any message meets silence, moves nothing, and stops nothing.
#[test]
fn flips() {
    let mut world = lookup(Suite::S1, 2);
    world.start();
    let mut flipped = 0;
    while let Some(datagram) = world.wire.pop_front() {
        let waiting = world.wire.len();
        for at in 0..8 * datagram.bytes.len() {
            let mut bytes = datagram.bytes.clone();
            bytes[at / 8] ^= 1 << (at % 8);
            let before = (world.i.established.is_some(), world.r.established.is_some());
            world.deliver(&Datagram {
                bytes,
                ..datagram.clone()
            });
            assert_eq!(world.wire.len(), waiting, "an answer to a flip at {at}");
            let after = (world.i.established.is_some(), world.r.established.is_some());
            assert_eq!(before, after);
            flipped += 1;
        }
        world.deliver(&datagram);
    }
    assert!(flipped > 23_000, "{flipped}");
    assert_eq!((world.i.candidates, world.r.inits.len()), (1, 1));
    world.assert_agreed();
}

/// Each lost datagram is repaired by saying HELLO or INIT again.
#[test]
fn each_loss_is_repaired() {
    for lost in 0..6 {
        let mut world = lookup(Suite::S1, 3);
        world.start();
        let mut seen = 0;
        while let Some(datagram) = world.wire.pop_front() {
            if seen != lost {
                world.deliver(&datagram);
            }
            seen += 1;
        }
        for _ in 0..4 {
            world.wait(500);
            world.settle();
        }
        world.assert_agreed();
        assert_eq!(world.r.inits.len(), 1);
    }
}

/// Everything that was ever said, said again, makes no second session.
#[test]
fn replays() {
    let mut world = lookup(Suite::S1, 4);
    world.complete();
    let log = world.log.clone();
    for step in 0..3 {
        world.now += [0, 5_000, 60_000][step] * MS;
        for datagram in &log {
            world.deliver(datagram);
        }
        world.settle();
    }
    assert_eq!((world.i.candidates, world.r.inits.len()), (1, 1));
}

/// A key part of one that does not hold the same secret is refused, and the next may still be true.
#[test]
fn another_secret_is_refused() {
    let mut world = lookup(Suite::S1, 5);
    world.start();
    for _ in 0..4 {
        let datagram = world.wire.pop_front().unwrap();
        world.deliver(&datagram);
    }
    let honest: Vec<Datagram> = world.wire.drain(..).collect();
    let init = world.r.inits[0].clone();
    let mut rng = SeededRng::new(b"another secret");
    let mut gate = Gate::new(&mut rng).unwrap();
    let door = gate.add_door(&door_key(K_NET, &ID_R), false).unwrap();
    let init = Init { door, ..init };
    let ct = random(&mut rng, Suite::S1.ct_len());
    let ss = fake_kem(&init.ek, &ct);
    let other = KeySchedule::respond(&init, NET, b"other", &ID_R, &ct, &ss, &mut rng).unwrap();
    let other = Arc::new(Mutex::new(other));
    let mut out = Vec::new();
    gate.respond(&other, &init, Vec::new(), 0, &mut rng, &mut out)
        .unwrap();
    for action in out {
        let Action::Send { to, bytes } = action else {
            panic!("only sends")
        };
        let from = world.r.address;
        world.wire.push_back(Datagram { from, to, bytes });
    }
    world.settle();
    assert_eq!(world.i.candidates, 1);
    assert!(world.i.established.is_none());
    world.wire.extend(honest);
    world.settle();
    world.assert_agreed();
}

/// A lookup never becomes more: no identities go in, neither way.
#[test]
fn it_stays_a_lookup() {
    let mut world = lookup(Suite::S1, 6);
    world.complete();
    let sid = world.i.established.as_ref().unwrap().local_sid;
    let sid_r = world.r.established.as_ref().unwrap().local_sid;
    let mut out = Vec::new();
    let now = world.now;
    let unknown = world
        .i
        .gate
        .authenticate(sid, vec![1; 9], None, now, &mut out);
    assert!(matches!(unknown.map(|_| ()), Err(Error::UnknownSession(_))));
    let accepted = world.r.gate.accept(sid_r, None, now);
    assert!(matches!(accepted.map(|_| ()), Err(Error::State(_))));
    for end in [&world.i, &world.r] {
        let mut schedule = end.schedule.as_ref().unwrap().lock().unwrap();
        assert!(schedule.absorb_resp(b"e2").is_err());
        assert!(schedule.finish(b"e3", None).is_err());
    }
    let mut rng = SeededRng::new(b"e2");
    let init = world.r.inits[0].clone();
    let mut gate = Gate::new(&mut rng).unwrap();
    let door = gate.add_door(&[1; 32], false).unwrap();
    let init = Init { door, ..init };
    let ct = random(&mut rng, Suite::S1.ct_len());
    let schedule = KeySchedule::respond(&init, NET, K_NET, &ID_R, &ct, &[1; 32], &mut rng);
    let schedule = Arc::new(Mutex::new(schedule.unwrap()));
    let refused = gate.respond(&schedule, &init, vec![1], now, &mut rng, &mut out);
    assert!(matches!(refused.map(|_| ()), Err(Error::State(_))));
    assert!(out.is_empty());
}

/// A full handshake's answer is no lookup's and the other way round: the mode is in the transcript.
#[test]
fn modes_do_not_mix() {
    let mut rng = SeededRng::new(b"modes");
    let ek = vec![5; Suite::S1.ek_len()];
    let mut all = Vec::new();
    for mode in [Mode::Full, Mode::Join, Mode::Lookup, Mode::Ticket] {
        let init = Init {
            door: 1,
            source: "192.0.2.1:1".parse().unwrap(),
            mode,
            suite: Suite::S1,
            sid_i: 1,
            n_i: [1; 16],
            com: [2; 32],
            x: [9; 32],
            ek: ek.clone(),
            holder: None,
        };
        let mut fixed = SeededRng::new(b"the same Y");
        let schedule =
            KeySchedule::respond(&init, NET, K_NET, &ID_R, &[3; 1088], &[4; 32], &mut fixed);
        all.push(schedule.unwrap().th2().unwrap().to_vec());
        let other =
            KeySchedule::initiate(Suite::S1, mode, NET, K_NET, &ID_R, &ek, &mut rng).unwrap();
        assert_eq!(other.mode(), mode);
    }
    all.sort();
    all.dedup();
    assert_eq!(all.len(), 4);
}

/// A stranger's whole INIT through the door with *key*, and the gate's event if it made one.
fn knock(
    gate: &mut Gate,
    rng: &mut SeededRng,
    number: u32,
    door: &[u8; 32],
    now: u64,
) -> Option<Init> {
    let to: SocketAddr = "198.51.100.9:5000".parse().unwrap();
    let address = std::net::Ipv4Addr::from(0x0a00_0001 + (number << 8));
    let source = SocketAddr::new(address.into(), 4000);
    let mut i = End::new("192.0.2.1:1", &number.to_be_bytes(), Limits::default());
    i.mode = Mode::Lookup;
    let schedule = i.offer(Suite::S1);
    i.gate
        .hello(&schedule, door, to, false, now, &mut i.rng, &mut i.out)
        .unwrap();
    let mut out = Vec::new();
    gate.receive(&i.sends().remove(0).bytes, source, now, rng, &mut out);
    let Some(Action::Send { bytes, .. }) = out.pop() else {
        panic!("no RETRY")
    };
    i.receive(to, &bytes, now);
    for init in i.sends() {
        gate.receive(&init.bytes, source, now, rng, &mut out);
    }
    match out.pop() {
        Some(Action::Event(Event::Init(init))) => Some(init),
        _ => None,
    }
}

fn answer(gate: &mut Gate, init: &Init, rng: &mut SeededRng, now: u64) {
    let ct = random(rng, Suite::S1.ct_len());
    let schedule = KeySchedule::respond(init, NET, K_NET, &ID_R, &ct, &[1; 32], rng).unwrap();
    let schedule = Arc::new(Mutex::new(schedule));
    let session = gate.respond(&schedule, init, Vec::new(), now, rng, &mut Vec::new());
    assert!(session.unwrap().is_some());
}

/// However many strangers come to the public door, members find rates and places left at theirs.
#[test]
fn strangers_take_no_members_place() {
    let mut rng = SeededRng::new(b"places");
    let limits = Limits {
        waiting: 8,
        answers: 8,
        global: Rate {
            per_s: 1,
            burst: 12,
        },
        ..Limits::default()
    };
    let mut gate = Gate::with_limits(limits, &mut rng).unwrap();
    let (public, members) = ([1; 32], [2; 32]);
    gate.add_door(&public, false).unwrap();
    gate.add_door(&members, true).unwrap();
    let mut strangers: Vec<Init> = (0..20)
        .filter_map(|n| knock(&mut gate, &mut rng, n, &public, 0))
        .collect();
    assert_eq!(strangers.len(), 4, "half of the waiting places");
    let mut known: Vec<Init> = (20..40)
        .filter_map(|n| knock(&mut gate, &mut rng, n, &members, 0))
        .collect();
    assert_eq!(known.len(), 4, "the rest");
    for init in strangers.iter().chain(&known) {
        answer(&mut gate, init, &mut rng, 0);
    }
    assert_eq!(gate.occupancy().answers, 8);
    // Both have spent a part of their rates; the strangers spend all of theirs.
    for n in 40..80 {
        strangers.extend(knock(&mut gate, &mut rng, n, &public, 0));
        let Some(last) = strangers.last() else { break };
        let _ = gate.dismiss(&last.com);
    }
    assert_eq!(strangers.len(), 12);
    known.extend((80..84).filter_map(|n| knock(&mut gate, &mut rng, n, &members, 0)));
    assert_eq!(known.len(), 8);
    // And more answers of strangers put out strangers', never a member's.
    for n in 100..110 {
        let now = u64::from(n) * 10_000 * MS;
        if let Some(init) = knock(&mut gate, &mut rng, n, &public, now) {
            answer(&mut gate, &init, &mut rng, now);
        }
        assert!(gate.occupancy().answers <= 8);
    }
}

/// The answer to a lookup is kept for ten seconds, for a peer that lost it, and then forgotten.
#[test]
fn answers_are_kept_briefly() {
    let mut world = lookup(Suite::S1, 7);
    world.complete();
    assert_eq!(world.r.gate.occupancy().answers, 1);
    world.r.gate.expire(world.now + 9_999 * MS);
    assert_eq!(world.r.gate.occupancy().answers, 1);
    world.r.gate.expire(world.now + 10_000 * MS);
    assert_eq!(world.r.gate.occupancy().answers, 0);
    let sid = world.i.established.as_ref().unwrap().local_sid;
    let tried = world
        .i
        .gate
        .candidate(sid, 0, &[0; 32], world.now, &mut Vec::new());
    assert!(!matches!(tried, Ok(Tried::Established(_))));
}
