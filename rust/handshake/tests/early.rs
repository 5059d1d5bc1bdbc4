//! What an initiator sends sooner than it had to: data behind AUTH, INIT without HELLO.

use std::net::SocketAddr;

use crate::world::{End, MS, World};
use veilnet_handshake::{Limits, Mask, Mode, Suite};
use veilnet_wire::{Header, Kind};

/// Few and small, so that tests reach them.
fn small() -> Limits {
    Limits {
        early: 8,
        early_bytes: 6000,
        early_bytes_in_all: 8000,
        ..Limits::default()
    }
}

/// A datagram of *kind* in the session that the initiator has just made; nobody here opens it.
fn datagram(world: &World, kind: Kind, size: usize) -> Vec<u8> {
    let session = world.i.established.as_ref().unwrap();
    let header = Header {
        idx: session.remote_sid,
        counter: 1,
        kind,
        epoch: 0,
        path: 0,
        segment: 0,
        flags: 0,
    };
    let clear = header.emit();
    let mut bytes = vec![7; size];
    bytes[..clear.len()].copy_from_slice(&clear);
    Mask::new(&session.mask_tx)
        .unwrap()
        .apply(&mut bytes)
        .unwrap();
    bytes
}

/// Both ends up to AUTH, which the responder still verifies.
fn verifying(mut world: World) -> World {
    world.r.hold = Some(Vec::new());
    world.start();
    world.settle();
    assert!(world.i.established.is_some() && world.r.established.is_none());
    world
}

/// Another initiator in the place of the first, whose AUTH stays unverified; it comes as far.
fn another(world: &mut World, address: &str, limits: Limits) {
    let unverified = world.r.hold.replace(Vec::new());
    assert_eq!(unverified.map(|events| events.len()), Some(1));
    world.i = End::new(address, address.as_bytes(), limits);
    world.i.offer(Suite::S1);
    world.start();
    world.settle();
}

/// How many of *count* datagrams are held.
fn held(world: &mut World, datagram: &[u8], count: usize) -> usize {
    let before = world.r.gate.occupancy().bytes;
    let (from, now) = (world.i.address, world.now);
    for _ in 0..count {
        assert!(world.r.receive(from, datagram, now));
    }
    (world.r.gate.occupancy().bytes - before) / datagram.len()
}

/// What follows AUTH while it is verified is kept, within bounds, and comes out with the session.
#[test]
fn it_is_kept_while_auth_is_verified() {
    for mode in [Mode::Full, Mode::Ticket] {
        let mut world = verifying(World::between(Suite::S1, mode, 15, small(), false));
        let data = datagram(&world, Kind::Data, 1400);
        let before = world.r.gate.occupancy().bytes;
        assert_eq!(held(&mut world, &data, 20), 4);
        let (from, now) = (world.i.address, world.now);
        let stranger: SocketAddr = "203.0.113.9:9".parse().unwrap();
        assert!(!world.r.receive(stranger, &data, now), "only from the peer");
        world.r.release(now);
        world.collect();
        world.settle();
        world.assert_agreed();
        let early = &world.r.established.as_ref().unwrap().early;
        assert_eq!(early.len(), 4);
        assert!(
            early
                .iter()
                .all(|(at, bytes)| *at == from && *bytes == data)
        );
        assert!(world.r.gate.occupancy().bytes <= before);
        assert!(
            !world.r.receive(from, &data, now),
            "now it is the session's"
        );
    }
}

/// Before anything of AUTH is there, and in modes that have nothing to send, nothing is kept.
#[test]
fn other_times_and_modes_keep_nothing() {
    let mut world = verifying(World::between(Suite::S1, Mode::Join, 16, small(), false));
    let data = datagram(&world, Kind::Data, 500);
    let (from, now) = (world.i.address, world.now);
    assert!(!world.r.receive(from, &data, now));

    let mut world = World::new(Suite::S1, 17);
    world.start();
    while world.i.established.is_none() {
        let next = world.wire.pop_front().unwrap();
        world.deliver(&next);
    }
    let data = datagram(&world, Kind::Data, 500);
    assert!(!world.r.receive(world.i.address, &data, world.now));
    // One fragment of AUTH, and it is.
    let auth = world.wire.pop_front().unwrap();
    world.deliver(&auth);
    assert!(world.r.established.is_none());
    assert!(world.r.receive(world.i.address, &data, world.now));
}

/// Strangers have control to send and no packets, less of it, and of one prefix they share a part.
#[test]
fn of_strangers_only_control_is_kept() {
    let limits = Limits {
        early_bytes: 8 * 2000,
        early_bytes_in_all: 16 * 3000,
        ..Limits::default()
    };
    let mut world = verifying(World::strangers(Suite::S1, 18, limits));
    let data = datagram(&world, Kind::Data, 500);
    assert_eq!(held(&mut world, &data, 9), 0);
    let control = datagram(&world, Kind::Control, 500);
    assert_eq!(held(&mut world, &control, 9), 2000 / 500);
    for (from, kept) in [("192.0.2.77:4000", 2), ("203.0.113.1:4000", 4)] {
        another(&mut world, from, limits);
        let control = datagram(&world, Kind::Control, 500);
        assert_eq!(held(&mut world, &control, 9), kept);
    }
    world.r.release(world.now);
    let session = world.r.established.as_ref().unwrap();
    assert!(session.public);
    assert_eq!(session.early.len(), 4);
}

/// All handshakes together hold no more than the room for all.
#[test]
fn two_share_the_room() {
    let limits = Limits {
        early_bytes_in_all: 7000,
        ..small()
    };
    let mut world = verifying(World::with_limits(Suite::S1, 19, limits));
    let first = datagram(&world, Kind::Data, 1000);
    assert_eq!(held(&mut world, &first, 9), 6);
    another(&mut world, "192.0.2.1:4001", limits);
    let second = datagram(&world, Kind::Data, 1000);
    assert_eq!(held(&mut world, &second, 9), 1);
}

/// A verification that takes for ever does not hold what came for ever.
#[test]
fn it_is_thrown_away_after_a_while() {
    let mut world = verifying(World::with_limits(Suite::S1, 20, small()));
    let before = world.r.gate.occupancy().bytes;
    let data = datagram(&world, Kind::Data, 1000);
    assert_eq!(held(&mut world, &data, 3), 3);
    let due = world.r.gate.next_expiry().unwrap();
    assert_eq!(due, world.now + 3_000 * MS);
    world.r.gate.expire(due - 1);
    assert_eq!(world.r.gate.occupancy().bytes - before, 3000);
    world.r.gate.expire(due);
    assert!(world.r.gate.occupancy().bytes <= before);
}

/// A cookie that came by another way stands for HELLO and RETRY.
#[test]
fn a_cookie_that_is_given_saves_a_round_trip() {
    for suite in [Suite::S1, Suite::S2] {
        let mut world = World::new(suite, 21);
        let com = *world.i.schedule.as_ref().unwrap().lock().unwrap().com();
        let (from, to, now) = (world.i.address, world.r.address, world.now);
        let r = &mut world.r;
        let cookie = r.gate.cookie(from, &com, now, &mut r.rng).unwrap();
        assert!(world.i.enter(to, cookie, now));
        world.collect();
        assert_eq!(world.wire.len(), 2, "INIT, and no HELLO");
        world.settle();
        world.assert_agreed();
        assert!(world.log[2].bytes.len() > 300, "no RETRY");
    }
}

/// It is good for one place and one commitment; HELLO is said beside INIT when nothing comes.
#[test]
fn a_cookie_that_was_changed_costs_one_timeout() {
    let mut world = World::new(Suite::S1, 22);
    let com = *world.i.schedule.as_ref().unwrap().lock().unwrap().com();
    let (elsewhere, to, now) = (
        "192.0.2.1:4002".parse().unwrap(),
        world.r.address,
        world.now,
    );
    let r = &mut world.r;
    let cookie = r.gate.cookie(elsewhere, &com, now, &mut r.rng).unwrap();
    world.i.enter(to, cookie, now);
    world.collect();
    world.settle();
    assert!(world.r.inits.is_empty() && world.log.len() == 2);
    world.wait(500);
    world.settle();
    world.assert_agreed();
}
