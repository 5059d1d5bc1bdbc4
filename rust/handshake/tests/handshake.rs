//! The handshake between two honest ends, with everything a network does to it.

use std::sync::{Arc, Mutex};

use crate::world::{Datagram, ID_R, K_NET, MS, NET, World, fake_kem, random, same_keys};
use proptest::prelude::*;
use veilnet_handshake::{
    Action, Class, Error, Gate, Init, KeySchedule, Mode, SeededRng, Suite, door_key,
};

/// Six messages make a session in both suites, and every size is inside the bounds.
#[test]
fn completes() {
    for suite in [Suite::S1, Suite::S2] {
        let mut world = World::new(suite, 1);
        world.complete();
        let sizes: Vec<usize> = world.log.iter().map(|d| d.bytes.len()).collect();
        assert!(sizes.iter().all(|size| *size <= 1100), "{sizes:?}");
        assert!((160..=1100).contains(&sizes[0]));
        assert!(
            (79..=sizes[0]).contains(&sizes[1]),
            "RETRY is not larger than HELLO"
        );
        let least = 16 + 53 + 43 + (32 + suite.ek_len()) / 2;
        assert!(sizes[2] >= least && sizes[3] >= least);
        assert_eq!(least, if suite == Suite::S1 { 720 } else { 912 });
        assert_eq!(world.r.inits.len(), 1);
    }
}

/// An identity message of every length from one byte to the limit arrives; a longer one is refused.
#[test]
fn identity_lengths() {
    for identity in [
        1, 2, 15, 950, 951, 1067, 1068, 4000, 15_200, 15_201, 17_071, 17_072,
    ] {
        let mut world = World::new(Suite::S1, identity as u64);
        world.i.identity = identity;
        world.r.identity = identity;
        world.complete();
    }
    assert_eq!(veilnet_handshake::MAX_MESSAGE, 17_072);
    let mut world = World::new(Suite::S1, 1);
    world.start();
    world.settle();
    let init = world.r.inits[0].clone();
    let mut rng = SeededRng::new(b"too long");
    let mut gate = Gate::new(&mut rng).unwrap();
    let door = gate.add_door(&[1; 32], true).unwrap();
    let init = Init { door, ..init };
    let ct = random(&mut rng, Suite::S1.ct_len());
    let ss = fake_kem(&init.ek, &ct);
    let schedule = KeySchedule::respond(&init, NET, K_NET, &ID_R, &ct, &ss, &mut rng).unwrap();
    let schedule = Arc::new(Mutex::new(schedule));
    for (length, refused) in [(0, true), (17_073, true), (17_072, false)] {
        let e2 = vec![0; length];
        let result = gate.respond(&schedule, &init, e2, 0, &mut rng, &mut Vec::new());
        let expected = Err(Error::TooLong {
            limit: 17_072,
            got: length,
        });
        let result = result.map(|session| assert!(session.is_none()));
        assert_eq!(result, if refused { expected } else { Ok(()) });
    }
}

/// The sealed part of RESP may overtake its key part.
#[test]
fn sealed_part_first() {
    let mut world = World::new(Suite::S1, 3);
    world.start();
    for _ in 0..4 {
        let datagram = world.wire.pop_front().unwrap();
        world.deliver(&datagram);
    }
    assert!(world.wire.len() > 8, "RESP is on the wire");
    world.wire.make_contiguous().reverse();
    world.settle();
    world.assert_agreed();
}

/// Two RESPs of other key parts (an insider's) do not keep the honest one out.
#[test]
fn false_key_parts() {
    false_key_parts_with(false);
    false_key_parts_with(true);
}

fn false_key_parts_with(held: bool) {
    let mut world = World::new(Suite::S1, 4);
    world.start();
    let hello = world.wire.pop_front().unwrap();
    world.deliver(&hello);
    let retry = world.wire.pop_front().unwrap();
    world.deliver(&retry);
    let inits: Vec<Datagram> = world.wire.drain(..).collect();
    for datagram in &inits {
        world.deliver(datagram);
    }
    let honest: Vec<Datagram> = world.wire.drain(..).collect();
    // A liar with the door key saw the same INIT: it knows X and ek, but cannot sign.
    let init = world.r.inits[0].clone();
    for seed in 0..2u8 {
        let mut rng = SeededRng::new(&[seed]);
        let ct = random(&mut rng, Suite::S1.ct_len());
        let ss = fake_kem(&init.ek, &ct);
        let schedule = KeySchedule::respond(&init, NET, K_NET, &ID_R, &ct, &ss, &mut rng).unwrap();
        let schedule = Arc::new(Mutex::new(schedule));
        let mut gate = Gate::new(&mut rng).unwrap();
        let door = gate.add_door(&door_key(K_NET, &ID_R), true).unwrap();
        let init = Init {
            door,
            ..init.clone()
        };
        let mut out = Vec::new();
        gate.respond(
            &schedule,
            &init,
            b"no signature".to_vec(),
            0,
            &mut rng,
            &mut out,
        )
        .unwrap();
        for action in out {
            let Action::Send { to, bytes } = action else {
                panic!("only sends")
            };
            world.wire.push_back(Datagram {
                from: world.r.address,
                to,
                bytes,
            });
        }
    }
    world.wire.extend(honest);
    if held {
        // Verification takes its time: everything arrives before the first verdict.
        world.i.hold = Some(Vec::new());
        world.settle();
        world.i.release(world.now);
        world.collect();
    }
    world.settle();
    for _ in 0..4 {
        world.wait(500);
        world.settle();
    }
    assert_eq!(
        world.i.rejected, 2,
        "both false RESPs opened and were rejected"
    );
    world.assert_agreed();
}

/// Lost messages of every kind are repaired by the timers, with the RESP's cache and new attempts.
#[test]
fn each_loss_is_repaired() {
    let count = {
        let mut world = World::new(Suite::S1, 5);
        world.complete();
        world.log.len()
    };
    for lost in 0..count {
        let mut world = World::new(Suite::S1, 5);
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
    }
}

/// A race over two endpoints of one node makes one session.
#[test]
fn race() {
    let mut world = World::new(Suite::S1, 6);
    let second = "203.0.113.5:5000".parse().unwrap();
    world.start();
    assert!(world.i.hello(second, world.now));
    world.collect();
    while let Some(datagram) = world.wire.pop_front() {
        // The second address reaches the same responder; it answers from there.
        let via_second = datagram.to == second;
        if datagram.to == world.i.address {
            world.deliver(&datagram);
        } else {
            let from = datagram.from;
            world.r.receive(from, &datagram.bytes, world.now);
            let address = world.r.address;
            for mut reply in world.r.sends() {
                reply.from = if via_second { second } else { address };
                world.wire.push_back(reply);
            }
        }
    }
    world.assert_agreed();
    assert_eq!(world.r.inits.len(), 1);
}

/// The roaming initiator: its INITs come from two sources, the RESP goes to both, one session.
#[test]
fn two_proven_sources() {
    let mut world = World::new(Suite::S1, 7);
    let moved = "192.0.2.77:4001".parse().unwrap();
    world.start();
    let hello = world.wire.pop_front().unwrap();
    world.r.receive(moved, &hello.bytes, world.now);
    let retry = world.r.sends().remove(0);
    assert_eq!(retry.to, moved);
    // The cookie for the moved address proves only that address.
    world.i.receive(world.r.address, &retry.bytes, world.now);
    let inits = world.i.sends();
    for init in &inits {
        world.r.receive(world.i.address, &init.bytes, world.now);
    }
    assert!(world.r.inits.is_empty());
    assert!(world.r.sends().is_empty());
}

/// A psk on one side only, or two different ones, gives no common session.
#[test]
fn psk_enters_the_keys() {
    let session = |psk_i: Option<[u8; 32]>, psk_r: Option<[u8; 32]>| {
        let (mut i, mut r) = keyed_pair(8);
        for end in [&mut i, &mut r] {
            end.absorb_resp(b"e2").unwrap();
        }
        i.finish(b"e3", psk_i.as_ref()).unwrap();
        r.finish(b"e3", psk_r.as_ref()).unwrap();
        i.fingerprint().unwrap() == r.fingerprint().unwrap()
    };
    assert!(session(None, None));
    assert!(session(Some([1; 32]), Some([1; 32])));
    assert!(!session(Some([1; 32]), None));
    assert!(!session(Some([1; 32]), Some([2; 32])));
    assert!(session(Some([0; 32]), None), "no psk is the all-zero psk");
}

/// Every input of th2 matters: network, secret, responder, mode.
#[test]
fn every_input_of_the_transcript_matters() {
    let th2 = |network: &[u8], secret: &[u8], id: &[u8; 32], mode: Mode| {
        let mut rng = SeededRng::new(b"same");
        let ek = random(&mut rng, Suite::S1.ek_len());
        let init = init_of(Suite::S1, mode, &ek);
        let ct = vec![3; Suite::S1.ct_len()];
        let mut rng = SeededRng::new(b"same again");
        let schedule =
            KeySchedule::respond(&init, network, secret, id, &ct, &[9; 32], &mut rng).unwrap();
        schedule.th2().unwrap().to_vec()
    };
    let base = th2(b"n", b"s", &[1; 32], Mode::Full);
    assert_eq!(base, th2(b"n", b"s", &[1; 32], Mode::Full));
    assert_ne!(base, th2(b"m", b"s", &[1; 32], Mode::Full));
    assert_ne!(base, th2(b"n", b"t", &[1; 32], Mode::Full));
    assert_ne!(base, th2(b"n", b"s", &[2; 32], Mode::Full));
    assert_ne!(base, th2(b"n", b"s", &[1; 32], Mode::Join));
    assert_ne!(
        th2(b"ns", b"", &[1; 32], Mode::Full),
        th2(b"n", b"s", &[1; 32], Mode::Full)
    );
}

/// The all-zero X25519 share, and the other small-order points, are refused.
#[test]
fn weak_shares() {
    let mut one = [0; 32];
    one[0] = 1;
    let mut rng = SeededRng::new(b"weak");
    for share in [[0; 32], one] {
        let mut init = init_of(Suite::S1, Mode::Full, &vec![1; Suite::S1.ek_len()]);
        init.x = share;
        let ct = vec![3; Suite::S1.ct_len()];
        let result = KeySchedule::respond(&init, NET, K_NET, &ID_R, &ct, &[9; 32], &mut rng);
        assert_eq!(result.err(), Some(Error::WeakShare));
    }
}

/// Keys, ciphertexts and secrets of a wrong length are refused by name.
#[test]
fn wrong_lengths() {
    let mut rng = SeededRng::new(b"lengths");
    let short = KeySchedule::initiate(Suite::S1, Mode::Full, NET, K_NET, &ID_R, &[0; 5], &mut rng);
    assert!(matches!(
        short.err(),
        Some(Error::Length {
            expected: 1184,
            got: 5,
            ..
        })
    ));
    let init = init_of(Suite::S1, Mode::Full, &vec![1; Suite::S1.ek_len()]);
    let ct = vec![3; Suite::S1.ct_len()];
    for (ct, ss) in [(&ct[1..], &[0; 32][..]), (&ct[..], &[0; 31][..])] {
        let result = KeySchedule::respond(&init, NET, K_NET, &ID_R, ct, ss, &mut rng);
        assert!(matches!(result.err(), Some(Error::Length { .. })));
    }
}

fn init_of(suite: Suite, mode: Mode, ek: &[u8]) -> Init {
    Init {
        door: 1,
        source: "192.0.2.1:1".parse().unwrap(),
        mode,
        suite,
        sid_i: 5,
        n_i: [6; 16],
        com: [7; 32],
        x: [9; 32],
        ek: ek.to_vec(),
        holder: None,
    }
}

/// Two schedules of one handshake, keyed, by way of the gate.
fn keyed_pair(seed: u64) -> (KeySchedule, KeySchedule) {
    let mut world = World::new(Suite::S1, seed);
    world.complete();
    let init = world.r.inits[0].clone();
    // A responder's schedule twice from the same randomness is the cheapest equal pair.
    let make = || {
        let mut rng = SeededRng::new(&seed.to_be_bytes());
        let ct = random(&mut rng, Suite::S1.ct_len());
        let ss = fake_kem(&init.ek, &ct);
        KeySchedule::respond(&init, NET, K_NET, &ID_R, &ct, &ss, &mut rng).unwrap()
    };
    (make(), make())
}

/// Class, path, direction and step all give different keys.
#[test]
fn keys_are_distinct() {
    let mut world = World::new(Suite::S1, 9);
    world.complete();
    let keys = &world.i.established.as_ref().unwrap().keys;
    let mut seen = std::collections::HashSet::new();
    for chains in [
        &keys.tx,
        &keys.rx,
        &keys.tx.step(),
        &keys.rx.step(),
        &keys.tx.step().step(),
    ] {
        for class in [Class::Data, Class::Control, Class::Relay] {
            for path in 0..=255 {
                let key = chains.key(class, path);
                assert!(seen.insert(key.key) && key.key != [0; 32]);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever the network drops, doubles and reorders: never a session unless both agree, and
    /// once it delivers again the timers finish the handshake.
    #[test]
    fn drop_duplicate_reorder(
        seed in any::<u64>(),
        fates in proptest::collection::vec((0u8..10, any::<prop::sample::Index>()), 0..200),
    ) {
        let mut world = World::new(Suite::S1, seed);
        world.start();
        for (fate, index) in fates {
            if world.wire.is_empty() {
                world.wait(500);
                if world.wire.is_empty() {
                    break;
                }
            }
            let at = index.index(world.wire.len());
            match fate {
                0..=2 => {
                    world.wire.remove(at);
                }
                3..=4 => {
                    let copy = world.wire[at].clone();
                    world.deliver(&copy);
                }
                _ => {
                    let datagram = world.wire.remove(at).unwrap();
                    world.deliver(&datagram);
                }
            }
            world.assert_never_split();
        }
        for _ in 0..12 {
            world.settle();
            if world.i.acked {
                break;
            }
            world.wait(600);
        }
        world.assert_agreed();
        prop_assert_eq!(world.r.inits.len(), 1);
    }

    /// Rekeying from both sides, any number of times: keys agree, a late or repeated message is
    /// refused, and rk moves only with the peer's confirmation.
    #[test]
    fn generations(seed in any::<u64>(), starters in proptest::collection::vec(0u8..3, 1..6)) {
        let mut world = World::new(Suite::S1, seed);
        world.complete();
        let (i, r) = (world.i.schedule.clone().unwrap(), world.r.schedule.clone().unwrap());
        let (mut i, mut r) = (i.lock().unwrap(), r.lock().unwrap());
        let mut rng = SeededRng::new(&seed.to_be_bytes());
        for (round, starter) in starters.into_iter().enumerate() {
            let ek = random(&mut rng, Suite::S1.ek_len());
            if starter == 2 {
                // Both start: the session's initiator wins, the responder aborts its own.
                r.next_begin(&random(&mut rng, Suite::S1.ek_len()), &mut rng).unwrap();
            }
            let (a, b) = if starter == 1 { (&mut r, &mut i) } else { (&mut i, &mut r) };
            let begin = a.next_begin(&ek, &mut rng).unwrap();
            prop_assert!(a.next_begin(&ek, &mut rng).is_err(), "one pending begin");
            let ct = random(&mut rng, Suite::S1.ct_len());
            prop_assert_eq!(b.next_ek(&begin).unwrap(), ek.clone());
            let ss = fake_kem(&ek, &ct);
            if starter == 2 {
                prop_assert!(b.next_respond(&begin, &ct, &ss, &mut rng).is_err());
                prop_assert!(b.next_abort());
            }
            let reply = b.next_respond(&begin, &ct, &ss, &mut rng).unwrap();
            prop_assert_eq!(b.generation().unwrap(), round as u64, "not before the confirm");
            prop_assert_eq!(a.next_ct(&reply.message).unwrap(), ct.clone());
            let mut forged = reply.message.clone();
            let at = seed as usize % forged.len();
            forged[at] ^= 1;
            let forged_ct = a.next_ct(&forged).unwrap_or_default();
            prop_assert!(a.next_finish(&forged, &fake_kem(&ek, &forged_ct)).is_err());
            let done = a.next_finish(&reply.message, &ss).unwrap();
            same_keys(&done.keys, &reply.keys);
            let mut forged = done.message.clone();
            let at = seed as usize % forged.len();
            forged[at] ^= 1;
            prop_assert!(b.next_confirm(&forged).is_err());
            b.next_confirm(&done.message).unwrap();
            prop_assert!(b.next_confirm(&done.message).is_err());
            prop_assert!(b.next_ek(&begin).is_err(), "a late begin has an old number");
            prop_assert_eq!(i.generation().unwrap(), round as u64 + 1);
            prop_assert_eq!(i.fingerprint().unwrap(), r.fingerprint().unwrap());
            prop_assert_eq!(i.psk().unwrap(), r.psk().unwrap());
        }
    }
}

/// A retransmitted AUTH brings the ACK again for 10 s, one per attempt, and nothing later.
#[test]
fn ack_again() {
    let mut world = World::new(Suite::S1, 10);
    world.complete();
    world.i.acked = false;
    world.wait(500);
    let auth: Vec<Datagram> = world.wire.iter().cloned().collect();
    world.settle();
    assert!(world.i.acked);
    for datagram in &auth {
        world.r.receive(datagram.from, &datagram.bytes, world.now);
        assert!(world.r.sends().is_empty(), "a replayed AUTH meets silence");
    }
    world.i.acked = false;
    world.now += 10_000 * MS;
    world.wait(0);
    world.settle();
    assert!(!world.i.acked);
}
