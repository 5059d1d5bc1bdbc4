//! Parts: two halves make the packet again, bounded and fair.

use crate::reference::*;
use proptest::prelude::*;
use veilnet_wire::part::{Halves, SESSION_SLOTS, SLOTS, halves};
use veilnet_wire::{Header, Kind, Outcome, PARTIAL, Run, SECOND_HALF, Vnet, glue};

/// Generation and step.
const EPOCH: (u64, u64) = (3, 1);

fn meta(idx: u32, counter: u64, flags: u8) -> Header {
    let second = if counter & 1 == 1 { SECOND_HALF } else { 0 };
    Header {
        idx,
        counter,
        kind: Kind::Part,
        epoch: 0,
        path: 0,
        segment: 0,
        flags: flags | second,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// A packet that travels in two parts is delivered as if it had come whole, in either order,
    /// between the datagrams of a run that stays whole.
    #[test]
    fn a_packet_in_parts(mut sample in sample(), partial in any::<bool>(), swap in any::<bool>()) {
        sample.payload.truncate(sample.gso.min(1300));
        let line = sample.line().remove(0);
        let inner = if partial { sample.datagrams(0).remove(0).1 } else { line.clone() };
        let (first, second) = halves(&inner);
        prop_assert!(first.len() - second.len() <= 1);
        let flags = if partial { PARTIAL } else { 0 };
        let mut both = [(meta(7, 10, flags), first.to_vec()), (meta(7, 11, flags), second.to_vec())];
        if swap {
            both.reverse();
        }

        let mut buf = vec![0; glue::BUFFER];
        let mut run = Run::new();
        let mut table = Halves::new(1500);
        let around = Sample {
            flow: Flow { tcp: true, flags: ACK, options: vec![], ..sample.flow.clone() },
            payload: vec![9; 1200],
            gso: 600,
        };
        let (head, bytes) = around.datagrams(0).remove(0);
        let at = run.place();
        buf[at..at + bytes.len()].copy_from_slice(&bytes);
        prop_assert_eq!(run.offer(&mut buf, bytes.len(), &head), Outcome::Joined);

        run.save(&buf);
        let at = run.place();
        prop_assert_eq!(table.offer(&both[0].0, EPOCH, &both[0].1, &mut buf[at..]), None);
        let length = table.offer(&both[1].0, EPOCH, &both[1].1, &mut buf[at..]).unwrap();
        prop_assert_eq!(run.offer(&mut buf, length, &both[1].0), Outcome::Flush);
        let finished = run.finish(&mut buf).unwrap();
        prop_assert_eq!(kernel(&finished.vnet, &buf[finished.packet()]), around.line()[..1].to_vec());
        prop_assert_eq!(run.advance(&mut buf), Outcome::Complete);
        let mut copy = buf.clone();
        let mut single = run.clone().finish_segments(&mut copy).unwrap();
        let range = single.next(&mut copy).unwrap();
        prop_assert_eq!(&copy[range], &line[..]);
        prop_assert_eq!(single.next(&mut copy), None);
        let finished = run.finish(&mut buf).unwrap();
        prop_assert_eq!(finished.vnet == Vnet::default(), !partial);
        prop_assert_eq!(kernel(&finished.vnet, &buf[finished.packet()]), vec![line]);
    }
}

/// Halves of other sessions, paths, epochs or pairs, or two firsts, do not join.
#[test]
fn only_a_pair_joins() {
    let first = meta(1, 20, 0);
    let strangers = [
        Header {
            idx: 2,
            ..meta(1, 21, 0)
        },
        Header {
            path: 1,
            ..meta(1, 21, 0)
        },
        meta(1, 23, 0),
        meta(1, 19, 0),
        meta(1, 20, 0),
    ];
    for stranger in strangers {
        let mut table = Halves::new(16);
        let mut out = [0; 32];
        assert_eq!(table.offer(&first, EPOCH, b"first", &mut out), None);
        assert_eq!(
            table.offer(&stranger, EPOCH, b"other", &mut out),
            None,
            "{stranger:?}"
        );
        assert_eq!(
            table.offer(&meta(1, 21, 0), EPOCH, b" half", &mut out),
            Some(10)
        );
        assert_eq!(&out[..10], b"first half");
    }
}

/// A first half at an odd counter, a second at an even one, and one too long are not kept.
#[test]
fn what_is_no_half() {
    let mut table = Halves::new(4);
    let mut out = [0; 32];
    let odd = Header {
        flags: 0,
        ..meta(1, 21, 0)
    };
    let even = Header {
        flags: SECOND_HALF,
        ..meta(1, 20, 0)
    };
    for (header, bytes) in [(odd, &b"x"[..]), (even, b"x"), (meta(1, 20, 0), b"12345")] {
        assert_eq!(table.offer(&header, EPOCH, bytes, &mut out), None);
        assert!(table.is_empty());
    }
}

/// Two halves that disagree about the checksum are both dropped.
#[test]
fn disagreement() {
    let mut table = Halves::new(4);
    let mut out = [0; 32];
    assert_eq!(
        table.offer(&meta(1, 20, PARTIAL), EPOCH, b"a", &mut out),
        None
    );
    assert_eq!(table.offer(&meta(1, 21, 0), EPOCH, b"b", &mut out), None);
    assert!(table.is_empty());
}

/// A full table gives up its oldest half, and a session with a quarter of it gives up its own
/// oldest.
#[test]
fn bounded_and_fair() {
    let mut table = Halves::new(4);
    let mut out = [0; 32];
    table.offer(&meta(1000, 2, 0), EPOCH, b"a", &mut out);
    for n in 0..200 {
        table.offer(&meta(7, n * 2, 0), EPOCH, b"b", &mut out);
    }
    assert_eq!(table.len(), SESSION_SLOTS + 1);
    assert_eq!(
        table.offer(&meta(7, 199 * 2 + 1, 0), EPOCH, b"B", &mut out),
        Some(2)
    );
    assert_eq!(
        table.offer(&meta(7, 1, 0), EPOCH, b"B", &mut out),
        None,
        "the oldest of session 7 is gone"
    );
    assert_eq!(
        table.offer(&meta(1000, 3, 0), EPOCH, b"A", &mut out),
        Some(2)
    );

    let mut table = Halves::new(4);
    for n in 0..SLOTS as u32 + 1 {
        table.offer(&meta(n, 2, 0), EPOCH, b"c", &mut out);
    }
    assert_eq!(table.len(), SLOTS);
    assert_eq!(
        table.offer(&meta(0, 3, 0), EPOCH, b"C", &mut out),
        None,
        "the oldest of all is gone"
    );
    assert_eq!(table.offer(&meta(2, 3, 0), EPOCH, b"C", &mut out), Some(2));
    table.forget(SLOTS as u32);
    assert_eq!(
        table.offer(&meta(SLOTS as u32, 3, 0), EPOCH, b"C", &mut out),
        None
    );
}

/// Counters begin anew with each epoch and the wire's epoch nibble comes round again: a half whose
/// partner was lost never joins the half of another generation or step.
#[test]
fn a_forgotten_half_meets_no_stranger() {
    let mut table = Halves::new(64);
    let mut out = [0; 128];
    assert_eq!(
        table.offer(&meta(1, 101, SECOND_HALF), (1, 0), b"old", &mut out),
        None
    );
    for epoch in [(5, 0), (1, 4)] {
        assert_eq!(table.offer(&meta(1, 100, 0), epoch, b"new", &mut out), None);
    }
    assert_eq!(
        table.offer(&meta(1, 100, 0), (1, 0), b"its", &mut out),
        Some(6)
    );
}
