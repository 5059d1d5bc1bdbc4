//! Coming back with a ticket: one round trip, one use, one address.

use std::net::SocketAddr;

use crate::world::{Datagram, HOLDER, MS, World};
use veilnet_handshake::{Error, Limits, Rate, Suite, TICKET, Ticket};

const HOUR: u64 = 3_600_000;

fn returning(suite: Suite, seed: u64) -> (World, Ticket) {
    let mut world = World::returning(suite, seed, Limits::default());
    let ticket = world.ticket(HOUR);
    (world, ticket)
}

/// The datagrams that the responder has sent so far.
fn answers(world: &World) -> usize {
    let from = world.r.address;
    world.log.iter().filter(|d| d.from == from).count()
}

/// INIT is the first thing said and RESP the first thing heard; every datagram fits, in both suites.
#[test]
fn one_round_trip() {
    for suite in [Suite::S1, Suite::S2] {
        let (mut world, ticket) = returning(suite, 1);
        world.present(&ticket);
        let said = world.wire.len();
        let copies = if suite == Suite::S1 { 2 } else { 3 };
        assert_eq!(said, 2 * copies, "INIT, and no HELLO");
        world.settle();
        world.assert_agreed();
        assert!(world.log.iter().all(|d| d.bytes.len() <= 1100));
        assert_eq!(world.r.inits[0].holder, Some(HOLDER));
        assert_eq!(world.log[said].from, world.r.address);
        assert!(world.log[said].bytes.len() > 300, "no RETRY");
    }
}

/// A flipped bit anywhere meets silence, moves nothing and stops nothing; so for the ticket's bits.
#[test]
fn flips() {
    let (mut world, ticket) = returning(Suite::S1, 2);
    world.present(&ticket);
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
            assert!(!world.i.acked);
            flipped += 1;
        }
        world.deliver(&datagram);
    }
    assert!(flipped > 100_000, "{flipped}");
    world.assert_agreed();
}

/// Whatever is changed inside the seal, by somebody with the door key: a RETRY, and no session from it.
#[test]
fn a_changed_ticket_is_none() {
    for bit in (0..8 * TICKET).step_by(7) {
        let (mut world, mut ticket) = returning(Suite::S1, 3);
        ticket.bytes[bit / 8] ^= 1 << (bit % 8);
        falls_back(&mut world, &ticket);
    }
    let (mut world, mut ticket) = returning(Suite::S1, 3);
    ticket.key[0] ^= 1;
    falls_back(&mut world, &ticket);
}

/// Each INIT by ticket brings one RETRY, no larger than its half, and the cookie a session in its
/// second trip.
fn falls_back(world: &mut World, ticket: &Ticket) {
    world.present(ticket);
    let inits: Vec<Datagram> = world.wire.drain(..).collect();
    for pair in inits.chunks(2) {
        let before = world.wire.len();
        world.deliver(&pair[0]);
        world.deliver(&pair[1]);
        assert_eq!(world.wire.len(), before + 1, "one RETRY");
        assert!(world.wire[before].bytes.len() <= pair[0].bytes.len());
    }
    assert!(world.r.inits.is_empty());
    world.settle();
    world.assert_agreed();
    assert_eq!(world.r.inits[0].holder, None, "by its cookie");
}

/// A ticket that has run out, of another address or of another run of the responder is a RETRY.
#[test]
fn a_ticket_of_another_time_place_or_run() {
    let (mut world, ticket) = returning(Suite::S1, 4);
    world.now += HOUR * MS;
    falls_back(&mut world, &ticket);
    let (mut world, ticket) = returning(Suite::S1, 5);
    world.i.address = "192.0.2.2:4000".parse().unwrap();
    falls_back(&mut world, &ticket);
    let (mut world, _) = returning(Suite::S1, 6);
    let (_, ticket) = returning(Suite::S1, 7);
    falls_back(&mut world, &ticket);
}

/// The port may change, as a NAT's mapping does.
#[test]
fn another_port_is_the_same_place() {
    let (mut world, ticket) = returning(Suite::S1, 8);
    world.i.address = "192.0.2.1:4999".parse().unwrap();
    world.present(&ticket);
    world.settle();
    world.assert_agreed();
    assert_eq!(world.r.inits[0].holder, Some(HOLDER));
}

/// A ticket opens one handshake: shown again with another INIT it is a RETRY.
#[test]
fn a_ticket_is_spent() {
    let (mut world, ticket) = returning(Suite::S1, 9);
    world.present(&ticket);
    world.settle();
    world.assert_agreed();
    falls_back(&mut next(world, 10), &ticket);
}

/// The same responder and another handshake.
fn next(world: World, seed: u64) -> World {
    let mut second = World::returning(Suite::S1, seed, Limits::default());
    second.now = world.now;
    second.r = world.r;
    second.r.inits.clear();
    second.r.established = None;
    second
}

/// A spent ticket is remembered until it expires; without room for another, tickets are refused.
#[test]
fn spent_tickets_make_room_by_expiry() {
    let limits = Limits {
        spent: 2,
        ..Limits::default()
    };
    let mut world = World::returning(Suite::S1, 20, limits);
    let tickets: Vec<Ticket> = [HOUR, HOUR / 2, 2 * HOUR, 2 * HOUR]
        .map(|life| world.ticket(life))
        .into();
    for (ticket, seed) in tickets[..2].iter().zip(21..) {
        world.present(ticket);
        world.settle();
        world.assert_agreed();
        assert_eq!(world.r.inits[0].holder, Some(HOLDER));
        world = next(world, seed);
    }
    falls_back(&mut world, &tickets[2]);
    world = next(world, 23);
    falls_back(&mut world, &tickets[0]);
    world = next(world, 24);
    world.now += HOUR / 2 * MS;
    world.present(&tickets[2]);
    world.settle();
    world.assert_agreed();
    assert_eq!(world.r.inits[0].holder, Some(HOLDER), "room by expiry");
    world = next(world, 25);
    falls_back(&mut world, &tickets[0]);
    world = next(world, 26);
    falls_back(&mut world, &tickets[3]);
}

/// Before AUTH no more than three times what came goes out, and only to where the INIT came from,
/// however often and from wherever it is said; AUTH ends that.
#[test]
fn a_ticket_reflects_little() {
    let plenty = Rate {
        per_s: 1 << 20,
        burst: 1 << 20,
    };
    let limits = Limits {
        unproven_address: plenty,
        unproven_prefix: plenty,
        ..Limits::default()
    };
    let mut world = World::returning(Suite::S1, 27, limits);
    let ticket = world.ticket(HOUR);
    world.r.identity = 16_000;
    world.present(&ticket);
    let home = world.i.address;
    let mut elsewhere = home;
    let (mut came, mut went, mut silent) = (0, 0, 0);
    let mut answers = Vec::new();
    for round in 0..6 {
        let mut inits: Vec<Datagram> = world.wire.drain(..).collect();
        if round == 3 {
            // Sealed anew, so no replay: but shown from another port, as a spoofer would.
            elsewhere.set_port(9);
            for init in inits.drain(..) {
                world.r.receive(elsewhere, &init.bytes, world.now);
                silent += 1;
                assert!(world.r.sends().is_empty());
            }
        }
        for init in inits {
            world.r.receive(home, &init.bytes, world.now);
            came += init.bytes.len();
            for answer in world.r.sends() {
                assert_eq!(answer.to, home);
                went += answer.bytes.len();
                answers.push(answer);
            }
            assert!(went <= 3 * came, "{went} bytes for {came}");
        }
        world.now += 300 * MS;
        let to = world.r.address;
        assert!(world.i.hello(to, world.now));
        let mut said = world.i.sends();
        if said.len() == 1 {
            // In turn it is HELLO, which the door meets with silence now.
            world.deliver(&said[0]);
            assert!(world.wire.is_empty());
            assert!(world.i.hello(to, world.now));
            said = world.i.sends();
        }
        world.wire.extend(said);
    }
    assert!(
        went > 16_000 && silent == 2,
        "{went} bytes, {silent} silent"
    );
    world.wire = answers.into();
    world.settle();
    world.assert_agreed();
}

/// What was recorded of it, sent again, gets nothing: not even a RETRY.
#[test]
fn replays() {
    let (mut world, ticket) = returning(Suite::S1, 11);
    world.present(&ticket);
    world.settle();
    world.assert_agreed();
    let log = world.log.clone();
    let before = answers(&world);
    for again in [0, 60_000] {
        world.now += again * MS;
        for datagram in &log {
            world.deliver(datagram);
            let elsewhere = "203.0.113.9:9".parse::<SocketAddr>().unwrap();
            world.r.receive(elsewhere, &datagram.bytes, world.now);
            world.collect();
        }
    }
    assert_eq!(answers(&world), before);
    assert_eq!(world.r.inits.len(), 1);
}

/// Each lost datagram is repaired.
#[test]
fn each_loss_is_repaired() {
    let (mut world, ticket) = returning(Suite::S1, 12);
    world.present(&ticket);
    world.settle();
    let count = world.log.len();
    for lost in 0..count {
        let (mut world, ticket) = returning(Suite::S1, 12);
        world.present(&ticket);
        let mut seen = 0;
        while let Some(datagram) = world.wire.pop_front() {
            if seen != lost {
                world.deliver(&datagram);
            }
            seen += 1;
        }
        for _ in 0..5 {
            world.wait(500);
            world.settle();
        }
        world.assert_agreed();
    }
}

/// A peer that knows nothing of tickets hears HELLO in the third attempt.
#[test]
fn a_silent_peer_hears_hello() {
    let (mut world, ticket) = returning(Suite::S1, 13);
    world.present(&ticket);
    world.wire.clear();
    world.wait(500);
    assert_eq!(world.wire.len(), 2, "INIT again");
    world.wire.clear();
    world.wait(1000);
    assert_eq!(world.wire.len(), 1, "HELLO");
    world.settle();
    world.assert_agreed();
}

/// A ticket belongs to its own mode.
#[test]
fn a_ticket_has_its_mode() {
    let mut world = World::new(Suite::S1, 14);
    let ticket = world.ticket(HOUR);
    let schedule = world.i.schedule.clone().unwrap();
    let (to, now) = (world.r.address, world.now);
    let i = &mut world.i;
    let refused = i.gate.present(
        &schedule, &[1; 32], to, &ticket, now, &mut i.rng, &mut i.out,
    );
    assert!(matches!(refused, Err(Error::State(_))));
}
