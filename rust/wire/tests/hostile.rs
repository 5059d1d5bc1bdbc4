//! What a relay or a peer may try against the receive side, and what arbitrary bytes do to every
//! parser.

use std::net::IpAddr;

use crate::reference::*;
use proptest::prelude::*;
use veilnet_wire::icmp::{self, Reason};
use veilnet_wire::{
    Halves, Header, Kind, LAST, Outcome, PARTIAL, Run, SECOND_HALF, Super, Vnet, glue, ip, part,
    split,
};

/// Generation and step.
const EPOCH: (u64, u64) = (3, 1);

fn plain_flow(v6: bool, tcp: bool) -> Flow {
    Flow {
        v6,
        tcp,
        extension: false,
        tos: 0,
        ttl: 64,
        df: false,
        id: 77,
        src: 1,
        ports: (1000, 2000),
        seq: 0xFFFF_FE00,
        ack: 5,
        flags: if tcp { ACK } else { 0 },
        window: 500,
        options: if tcp {
            vec![1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2]
        } else {
            vec![]
        },
    }
}

fn stream(v6: bool, tcp: bool, segments: usize, gso: usize) -> Vec<(Header, Vec<u8>)> {
    let payload = vec![0x5A; segments * gso];
    Sample {
        flow: plain_flow(v6, tcp),
        payload,
        gso,
    }
    .datagrams(1000)
}

/// The outcome of the second of three datagrams after `change`.
fn second(v6: bool, tcp: bool, change: impl Fn(&mut Header, &mut Vec<u8>)) -> Outcome {
    let mut three = stream(v6, tcp, 3, 512);
    let (header, bytes) = &mut three[1];
    change(header, bytes);
    deliver(&three[..2], |_| false).outcomes[1]
}

const SHAPES: [(bool, bool); 4] = [(false, true), (true, true), (false, false), (true, false)];

/// The unchanged second datagram joins: without this the tests below would prove nothing.
#[test]
fn control() {
    for (v6, tcp) in SHAPES {
        assert_eq!(
            second(v6, tcp, |_, _| {}),
            Outcome::Joined,
            "v6 {v6} tcp {tcp}"
        );
    }
}

/// Another session, path, epoch or kind, a counter or index gap: never joined.
#[test]
fn splices_by_header() {
    type Change = (&'static str, fn(&mut Header));
    let changes: [Change; 9] = [
        ("session", |h| h.idx += 1),
        ("path", |h| h.path += 1),
        ("epoch", |h| h.epoch ^= 1),
        ("counter ahead", |h| h.counter += 1),
        ("counter behind", |h| h.counter -= 1),
        ("index gap", |h| h.segment += 1),
        ("segment lost", |h| {
            (h.segment, h.counter) = (h.segment + 1, h.counter + 1)
        }),
        ("replayed index", |h| {
            (h.segment, h.counter) = (h.segment - 1, h.counter - 1)
        }),
        ("verbatim", |h| h.kind = Kind::Verbatim),
    ];
    for (v6, tcp) in SHAPES {
        for (name, change) in changes {
            let outcome = second(v6, tcp, |header, _| change(header));
            assert_eq!(outcome, Outcome::Flush, "{name}, v6 {v6} tcp {tcp}");
        }
    }
}

/// Any bit changed in the inner headers keeps a datagram out, but for the fields that we overwrite.
#[test]
fn splices_by_inner_header() {
    for (v6, tcp) in SHAPES {
        let l4 = if v6 { 40 } else { 20 };
        let header = plain_flow(v6, tcp).header();
        for bit in 0..header * 8 {
            let (at, mask) = (bit / 8, 0x80 >> (bit % 8));
            let ignored = (!v6 && (10..12).contains(&at))
                || (tcp && (l4 + 16..l4 + 18).contains(&at))
                || (!tcp && (l4 + 6..l4 + 8).contains(&at))
                || (tcp && at == l4 + 13 && mask & i32::from(PSH | FIN) != 0);
            let outcome = second(v6, tcp, |_, bytes| bytes[at] ^= mask as u8);
            let joined = matches!(outcome, Outcome::Joined | Outcome::Complete);
            let length = if v6 {
                (4..6).contains(&at)
            } else {
                (2..4).contains(&at)
            };
            if length && tcp && joined {
                // A shorter packet with padding behind it: it joins as the short last one it says
                // it is.
                assert_eq!(outcome, Outcome::Complete);
                continue;
            }
            assert_eq!(
                joined, ignored,
                "byte {at} mask {mask:#x}, v6 {v6} tcp {tcp}: {outcome:?}"
            );
        }
    }
}

/// The IPv4 id of an atomic datagram means nothing (RFC 6864) and does not keep it out.
#[test]
fn atomic_id() {
    let mut three = stream(false, true, 3, 512);
    for (_, bytes) in &mut three {
        bytes[6] = 0x40;
        bytes[4..6].fill(0);
    }
    assert_eq!(deliver(&three, |_| false).writes.len(), 1);
}

/// A payload longer than the run's, an empty one, and a header that claims more than came: not
/// joined.
#[test]
fn sizes() {
    for (v6, tcp) in SHAPES {
        for size in [0usize, 513, 40_000] {
            let outcome = second(v6, tcp, |_, bytes| {
                let header = plain_flow(v6, tcp).header();
                bytes.resize(header + size, 0);
                let l4_len = (bytes.len() - if v6 { 40 } else { 20 }) as u16;
                let total = bytes.len() as u16;
                match v6 {
                    true => bytes[4..6].copy_from_slice(&l4_len.to_be_bytes()),
                    false => bytes[2..4].copy_from_slice(&total.to_be_bytes()),
                }
                if !tcp {
                    let at = if v6 { 44 } else { 24 };
                    bytes[at..at + 2].copy_from_slice(&l4_len.to_be_bytes());
                }
            });
            assert_eq!(outcome, Outcome::Flush, "{size} B, v6 {v6} tcp {tcp}");
        }
        for keep in 0..60 {
            let outcome = second(v6, tcp, |_, bytes| bytes.truncate(keep));
            assert_eq!(outcome, Outcome::Malformed, "{keep} B, v6 {v6} tcp {tcp}");
        }
    }
}

/// Of the kinds without a packet of their own none is delivered.
#[test]
fn other_kinds() {
    for kind in [Kind::Control, Kind::Probe, Kind::Report, Kind::Relay] {
        assert_eq!(
            second(false, true, |header, _| header.kind = kind),
            Outcome::Malformed
        );
    }
}

/// SYN, RST, URG and a missing ACK are delivered one by one, whatever else matches.
#[test]
fn flags_outside_a_stream() {
    for flags in [0u8, 2, 4, 0x20 | ACK, 2 | ACK, 4 | ACK, PSH] {
        let mut three = stream(false, true, 3, 512);
        for (_, bytes) in &mut three {
            bytes[33] = flags;
        }
        let delivered = deliver(&three, |_| false);
        assert_eq!(delivered.writes.len(), 3, "flags {flags:#x}");
        assert_eq!(delivered.outcomes[0], Outcome::Complete);
    }
}

/// A run is cut at 63 segments, at 16 for UDP, at 65,535 bytes, and below 256 bytes nothing is
/// glued.
#[test]
fn cuts() {
    let sizes = |tcp, segments, gso| -> Vec<usize> {
        let mut all = stream(false, tcp, segments, gso);
        for (_, bytes) in &mut all {
            bytes[6] = 0x40;
        }
        deliver(&all, |_| false)
            .writes
            .iter()
            .map(|(_, p)| p.len().div_ceil(gso) - 1)
            .collect()
    };
    assert_eq!(sizes(true, 80, 600), [63, 17]);
    assert_eq!(sizes(false, 40, 600), [16, 16, 8]);
    assert_eq!(sizes(true, 3, 256), [3]);
    assert_eq!(sizes(true, 3, 255), [1, 1, 1]);

    // Two super-packets that a peer numbers as one: 12 segments of 8000 make 96 kB.
    let flow = plain_flow(false, true);
    let mut all = Vec::new();
    for k in 0..12u8 {
        let flow = Flow {
            seq: u32::from(k) * 8000,
            id: u16::from(k),
            ..flow.clone()
        };
        let sample = Sample {
            flow,
            payload: vec![k; 8000],
            gso: 8000,
        };
        let (mut header, bytes) = sample.datagrams(u64::from(k)).remove(0);
        (header.segment, header.flags) = (k, 0);
        all.push((header, bytes));
    }
    let lengths: Vec<_> = deliver(&all, |_| false)
        .writes
        .iter()
        .map(|(_, p)| p.len())
        .collect();
    assert_eq!(lengths, [64_052, 32_052]);
}

/// LAST ends a run even if the next datagram would fit.
#[test]
fn last_ends_a_run() {
    let mut four = stream(true, true, 4, 512);
    four[1].0.flags = LAST;
    let delivered = deliver(&four[..3], |_| false);
    assert_eq!(
        delivered.outcomes,
        [Outcome::Joined, Outcome::Complete, Outcome::Joined]
    );
    assert_eq!(delivered.writes.len(), 2);
}

/// A packet whose Flush was not followed up is lost, but never corrupts what comes after.
#[test]
fn forgotten_flush() {
    let mut buf = vec![0; glue::BUFFER];
    let mut run = Run::new();
    let stream = stream(false, true, 4, 512);
    for n in [0usize, 1, 3, 2] {
        run.save(&buf);
        let at = run.place();
        buf[at..at + stream[n].1.len()].copy_from_slice(&stream[n].1);
        let outcome = run.offer(&mut buf, stream[n].1.len(), &stream[n].0);
        assert_eq!(
            outcome,
            if n == 3 {
                Outcome::Flush
            } else {
                Outcome::Joined
            }
        );
    }
    assert_eq!(run.advance(&mut buf), Outcome::Malformed);
    let finished = run.finish(&mut buf).unwrap();
    assert_eq!(finished.segments, 3);
    let line: Vec<_> = stream[..3]
        .iter()
        .filter_map(|(h, bytes)| per_packet(h.kind, bytes))
        .collect();
    assert_eq!(kernel(&finished.vnet, &buf[finished.packet()]), line);
    assert_eq!(run.advance(&mut buf), Outcome::Malformed);
    assert!(run.finish(&mut buf).is_none() && run.finish_segments(&mut buf).is_none());
}

/// The id of an atomic datagram means nothing, so it is no difference.
fn without_atomic_id(mut packets: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    for packet in &mut packets {
        if packet.len() >= 20 && packet[0] >> 4 == 4 && packet[6] & 0x40 != 0 {
            packet[4..6].fill(0);
            packet[10..12].fill(0);
        }
    }
    packets
}

fn kind() -> impl Strategy<Value = Kind> {
    prop_oneof![8 => Just(Kind::Data), 1 => Just(Kind::Verbatim), 1 => Just(Kind::Part)]
}

fn header() -> impl Strategy<Value = Header> {
    (0u32..2, 0u64..8, kind(), 0u8..2, 0u8..2, 0u8..8, 0u8..8).prop_map(
        |(idx, counter, kind, epoch, path, segment, flags)| Header {
            idx,
            counter,
            kind,
            epoch,
            path,
            segment,
            flags,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 512, failure_persistence: None, ..ProptestConfig::default()
    })]

    /// Whatever a peer changes in its headers, what is written is what each datagram alone would
    /// have given.
    #[test]
    fn corrupted_streams(
        samples in prop::collection::vec(sample(), 1..4),
        changes in prop::collection::vec((any::<prop::sample::Index>(), 0usize..100, 0u8..8, 0u8..6), 0..12),
    ) {
        let mut sent = Vec::new();
        for sample in &samples {
            sent.extend(sample.datagrams(5 + sent.len() as u64));
        }
        for (which, at, bit, meta) in changes {
            let n = which.index(sent.len());
            let (header, bytes) = &mut sent[n];
            match meta {
                0 => header.segment ^= 1 << bit,
                1 => header.flags ^= LAST,
                2 => { bytes.truncate(at); }
                _ => if let Some(byte) = bytes.get_mut(at) { *byte ^= 1 << bit },
            }
        }
        let expected: Vec<_> = sent.iter().filter_map(|(h, bytes)| per_packet(h.kind, bytes)).collect();
        let delivered = deliver(&sent, |n| n % 4 == 0);
        let expected = without_atomic_id(expected);
        prop_assert_eq!(without_atomic_id(delivered.expanded()), expected.clone());
        prop_assert_eq!(without_atomic_id(delivered.packets), expected);
    }

    /// Arbitrary bytes as datagrams: no panic, no unsound write.
    #[test]
    fn arbitrary_datagrams(
        all in prop::collection::vec(
            (header(), prop::collection::vec(any::<u8>(), 0..200), any::<Option<(bool, bool)>>()), 0..8,
        ),
    ) {
        let sent: Vec<_> = all.into_iter().map(|(mut header, mut bytes, like)| {
            if let (Some((v6, tcp)), true) = (like, !bytes.is_empty()) {
                // Something that parses a little further.
                let good = plain_flow(v6, tcp).build(&[1; 300], false);
                let keep = usize::from(bytes[0]) % good.len();
                bytes.splice(..keep.min(bytes.len()), good[..keep].iter().copied());
            }
            if header.kind == Kind::Part {
                header.flags &= !PARTIAL;
            }
            (header, bytes)
        }).collect();
        let delivered = deliver(&sent, |n| n % 2 == 0);
        prop_assert_eq!(delivered.expanded().len(), delivered.packets.len());
    }

    /// Arbitrary bytes as a TUN read: no panic, and the segments lie inside the buffer.
    #[test]
    fn arbitrary_reads(
        vnet in any::<[u8; 10]>(),
        known in any::<bool>(),
        noise in prop::collection::vec(any::<u8>(), 0..300),
        like in any::<Option<(bool, bool)>>(),
    ) {
        let mut vnet = Vnet::parse(&vnet).unwrap();
        let mut buf = noise;
        if let (Some((v6, tcp)), true) = (like, !buf.is_empty()) {
            let good = plain_flow(v6, tcp).build(&[1; 300], false);
            let keep = usize::from(buf[0]) % good.len();
            buf.splice(..keep.min(buf.len()), good[..keep].iter().copied());
            if known {
                vnet.gso_type = if tcp { if v6 { 4 } else { 1 } } else { 5 };
            }
        }
        let _ = split::complete(&mut vnet.clone(), &mut buf.clone());
        if let Ok(packet) = Super::parse(&vnet, &buf) {
            let mut sum = 0;
            for k in 0..packet.segments() {
                let range = packet.prepare(&mut buf, k);
                prop_assert!(range.end <= buf.len() && !range.is_empty());
                sum += range.len() + 32;
            }
            prop_assert_eq!(sum, packet.datagrams_len());
            prop_assert_eq!(packet.prepare(&mut buf, packet.segments()), 0..0);
            prop_assert_eq!(packet.prepare(&mut [], 0), 0..0);
        }
    }

    /// Arbitrary bytes as packets to answer or to read: no panic, and what is read lies inside.
    #[test]
    fn arbitrary_packets(bytes in prop::collection::vec(any::<u8>(), 0..120), first in any::<bool>(), room in 0usize..1400) {
        let mut bytes = bytes;
        if let (Some(byte), true) = (bytes.first_mut(), first) {
            *byte = if *byte & 1 == 0 { 0x45 } else { 0x60 };
        }
        if let Some(packet) = ip::parse(&bytes) {
            prop_assert!(packet.header_len <= packet.total_len && packet.total_len <= bytes.len());
            prop_assert_eq!(ip::src(&bytes), Some(packet.src));
            prop_assert_eq!(ip::dst(&bytes), Some(packet.dst));
        }
        let mut out = vec![0; room];
        for from in [IpAddr::from([10, 0, 0, 1]), IpAddr::from([0xFD; 16])] {
            let sizes = [
                icmp::unreachable(&bytes, Reason::Host, from, &mut out),
                icmp::too_big(&bytes, 1280, from, &mut out),
            ];
            prop_assert!(sizes.iter().flatten().all(|size| *size <= room));
        }
    }

    /// Arbitrary halves never panic, and never make more than was put in.
    #[test]
    fn arbitrary_halves(all in prop::collection::vec((header(), 0usize..40), 0..200), room in 0usize..60) {
        let mut table = Halves::new(32);
        let mut out = vec![0; room];
        for (header, size) in all {
            let length = table.offer(&header, EPOCH, &vec![1; size], &mut out);
            prop_assert!(length.is_none_or(|length| length <= room && length >= size));
            prop_assert!(table.len() <= part::SLOTS);
        }
    }
}

/// The second half's flag has no meaning outside parts: data with it set is plain data.
#[test]
fn stray_flags() {
    assert_eq!(
        second(false, true, |h, _| h.flags |= SECOND_HALF | PARTIAL),
        Outcome::Joined
    );
}

/// A closed run takes nothing, even if its Complete was not followed up at once.
#[test]
fn a_closed_run_stays_closed() {
    let mut buf = vec![0; glue::BUFFER];
    let mut run = Run::new();
    let mut four = stream(false, true, 4, 512);
    four[1].0.flags = LAST;
    let expected = [Outcome::Joined, Outcome::Complete, Outcome::Flush];
    for ((header, bytes), expected) in four.iter().zip(expected) {
        run.save(&buf);
        let at = run.place();
        buf[at..at + bytes.len()].copy_from_slice(bytes);
        assert_eq!(run.offer(&mut buf, bytes.len(), header), expected);
    }
    assert_eq!(
        run.finish(&mut buf).map(|finished| finished.segments),
        Some(2)
    );
    assert_eq!(run.advance(&mut buf), Outcome::Joined);
    let finished = run.finish(&mut buf).unwrap();
    assert_eq!(
        kernel(&finished.vnet, &buf[finished.packet()]),
        [per_packet(Kind::Data, &four[2].1).unwrap()]
    );
}

/// PSH and FIN end a run without LAST too, at the first packet and later: they are where they were.
#[test]
fn push_and_fin_end_a_run() {
    for flag in [PSH, FIN, PSH | FIN] {
        for at in 0..3 {
            let mut four = stream(false, true, 4, 512);
            four[at].1[33] |= flag;
            let delivered = deliver(&four, |_| false);
            assert_eq!(delivered.outcomes[at], Outcome::Complete);
            let line: Vec<_> = four
                .iter()
                .filter_map(|(h, bytes)| per_packet(h.kind, bytes))
                .collect();
            assert_eq!(delivered.expanded(), line);
        }
    }
}

/// Fragments, options and a lying UDP length are no data: they are dropped, as the first packet
/// too.
#[test]
fn data_is_plain() {
    let first = |change: fn(&mut Vec<u8>)| {
        let (header, mut bytes) = stream(false, false, 1, 512).remove(0);
        change(&mut bytes);
        deliver(&[(header, bytes)], |_| false).outcomes[0]
    };
    assert_eq!(first(|_| {}), Outcome::Complete);
    assert_eq!(
        first(|bytes| bytes[6] |= 0x20),
        Outcome::Malformed,
        "more fragments"
    );
    assert_eq!(
        first(|bytes| bytes[7] |= 1),
        Outcome::Malformed,
        "fragment offset"
    );
    assert_eq!(
        first(|bytes| bytes[0] = 0x46),
        Outcome::Malformed,
        "options"
    );
    assert_eq!(
        first(|bytes| bytes[25] ^= 1),
        Outcome::Malformed,
        "UDP length"
    );
    assert_eq!(first(|bytes| bytes[9] = 1), Outcome::Malformed, "ICMP");
}
