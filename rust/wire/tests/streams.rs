//! Split, lose, reorder, glue: the reader at the far end sees what a per-packet path would have
//! shown it.

use crate::reference::*;
use proptest::prelude::*;
use veilnet_wire::split::{self, Super};
use veilnet_wire::vnet::NEEDS_CSUM;
use veilnet_wire::{Error, Kind, LAST, Outcome, Vnet, glue};

fn config() -> ProptestConfig {
    ProptestConfig {
        cases: 192,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config())]

    /// The datagrams of a packet are the line's packets without checksums, the model kernel agrees
    /// with the model line, and the length sums are right.
    #[test]
    fn split_is_segmentation(sample in sample()) {
        let (vnet, buf) = sample.read();
        let packet = Super::parse(&vnet, &buf).unwrap();
        let datagrams = sample.datagrams(1 << 40);
        let line = sample.line();
        prop_assert_eq!(packet.segments(), line.len());
        prop_assert_eq!(packet.kind(), Kind::Data);
        prop_assert_eq!(packet.header_len(), sample.flow.header());
        let mut sum = 0;
        for (k, ((header, bytes), whole)) in datagrams.iter().zip(&line).enumerate() {
            prop_assert_eq!(header.flags == LAST, k + 1 == line.len());
            prop_assert_eq!(packet.datagram_len(k), bytes.len() + 32);
            sum += bytes.len() + 32;
            let mut bare = whole.clone();
            let field = sample.flow.l4() + if sample.flow.tcp { 16 } else { 6 };
            bare[field..field + 2].fill(0);
            if !sample.flow.v6 {
                bare[10..12].fill(0);
            }
            prop_assert_eq!(bytes, &bare);
            let alone = per_packet(Kind::Data, bytes);
            prop_assert_eq!(alone.as_ref(), Some(whole));
        }
        prop_assert_eq!(packet.datagrams_len(), sum);
        prop_assert_eq!(packet.largest() + 32, datagrams.iter().map(|(_, b)| b.len() + 32).max().unwrap());
    }

    /// Without loss a stream of packets arrives exactly, and what can be glued is: a TCP
    /// super-packet of up to 63 segments is one write.
    #[test]
    fn whole_stream(samples in prop::collection::vec(sample(), 1..4)) {
        let mut counter = 5;
        let mut expected = Vec::new();
        for sample in &samples {
            let datagrams = sample.datagrams(counter);
            counter += datagrams.len() as u64;
            let delivered = deliver(&datagrams, |_| false);
            let line = sample.line();
            let flags = sample.flow.flags & (1 << 1 | 1 << 2 | ACK | 1 << 5);
            let gluable = sample.gso >= glue::SMALLEST && (!sample.flow.tcp || flags == ACK);
            let cut = if sample.flow.tcp { glue::SEGMENTS } else { glue::DATAGRAMS };
            let writes = if gluable { line.len().div_ceil(cut) } else { line.len() };
            prop_assert_eq!(delivered.writes.len(), writes);
            prop_assert_eq!(delivered.expanded(), line.clone());
            prop_assert_eq!(&delivered.packets, &line);
            expected.extend(line);
        }
        // The same datagrams in one loop, with forged ones between them.
        let mut all = Vec::new();
        for sample in &samples {
            all.extend(sample.datagrams(5 + all.len() as u64));
        }
        let delivered = deliver(&all, |n| n % 3 == 0);
        prop_assert_eq!(delivered.expanded(), expected);
    }

    /// With loss, duplication and reordering the reader gets the packets that came, in the order
    /// they came.
    #[test]
    fn lossy_stream(
        samples in prop::collection::vec(sample(), 1..4),
        fate in prop::collection::vec((0u8..20, any::<prop::sample::Index>()), 1..64),
    ) {
        let mut sent = Vec::new();
        let mut line = Vec::new();
        for sample in &samples {
            sent.extend(sample.datagrams(5 + sent.len() as u64));
            line.extend(sample.line());
        }
        let mut order: Vec<usize> = (0..sent.len()).collect();
        for (n, (what, index)) in fate.iter().enumerate() {
            if order.is_empty() {
                break;
            }
            let at = index.index(order.len());
            match what {
                0..=11 => { order.remove(at); }
                12..=15 => { order.insert(at, order[(at + n) % order.len()]); }
                _ => { let next = (at + 1) % order.len(); order.swap(at, next); }
            }
        }
        let came: Vec<_> = order.iter().map(|n| sent[*n].clone()).collect();
        let expected: Vec<_> = order.iter().map(|n| line[*n].clone()).collect();
        let delivered = deliver(&came, |n| n % 5 == 0);
        prop_assert_eq!(delivered.expanded(), expected.clone());
        prop_assert_eq!(delivered.packets, expected);
    }

    /// Super-packets with IPv4 options or IPv6 extension headers travel as verbatim packets with
    /// right checksums.
    #[test]
    fn extensions_are_completed_by_the_sender(mut sample in sample()) {
        sample.flow.extension = true;
        sample.payload.truncate(40_000);
        prop_assume!(sample.payload.len() > sample.gso);
        let datagrams = sample.datagrams(0);
        prop_assert!(datagrams.iter().all(|(header, _)| header.kind == Kind::Verbatim));
        let bytes: Vec<_> = datagrams.iter().map(|(_, bytes)| bytes.clone()).collect();
        prop_assert_eq!(&bytes, &sample.line());
        let delivered = deliver(&datagrams, |_| false);
        prop_assert_eq!(delivered.expanded(), bytes);
        prop_assert!(delivered.outcomes.iter().all(|o| *o == Outcome::Complete));
    }

    /// A partial checksum that the peer could not rebuild is completed here, and travels verbatim.
    #[test]
    fn odd_partials_are_completed(mut sample in sample()) {
        sample.flow.extension = true;
        sample.payload.truncate(sample.gso.min(1000));
        let (mut vnet, mut buf) = sample.read();
        prop_assert_eq!(Super::parse(&vnet, &buf).err(), Some(Error::ChecksumFirst));
        split::complete(&mut vnet, &mut buf).unwrap();
        prop_assert_eq!(vnet, Vnet::default());
        let mut line = sample.line().remove(0);
        let field = sample.flow.l4() + if sample.flow.tcp { 16 } else { 6 };
        if word(&line, field) == 0 {
            line[field..field + 2].fill(0xFF);
        }
        prop_assert_eq!(&buf, &line);
        let packet = Super::parse(&vnet, &buf).unwrap();
        prop_assert_eq!((packet.kind(), packet.segments()), (Kind::Verbatim, 1));
        prop_assert_eq!(packet.prepare(&mut buf, 0), 0..line.len());
        prop_assert_eq!(&buf, &line);
    }

    /// A packet without NEEDS_CSUM is not touched, wrong checksum or not.
    #[test]
    fn verbatim_is_verbatim(mut sample in sample(), noise in any::<u16>()) {
        sample.payload.truncate(sample.gso);
        let mut packet = sample.line().remove(0);
        let field = sample.flow.l4() + if sample.flow.tcp { 16 } else { 6 };
        packet[field..field + 2].copy_from_slice(&noise.to_be_bytes());
        let sent = datagrams(&Vnet::default(), &mut packet.clone(), 9);
        prop_assert_eq!(sent[0].0.kind, Kind::Verbatim);
        let delivered = deliver(&sent, |_| true);
        prop_assert_eq!(delivered.writes, vec![(Vnet::default(), packet.clone())]);
        prop_assert_eq!(delivered.packets, vec![packet]);
    }

    /// Single UDP datagrams that the sender numbers as one batch are glued to USO.
    #[test]
    fn batches_of_single_datagrams(flow in flow(), count in 1usize..40, size in 256usize..1400) {
        let flow = Flow { tcp: false, flags: 0, options: vec![], ..flow };
        let mut sent = Vec::new();
        let mut line = Vec::new();
        for k in 0..count {
            let flow = Flow { id: flow.id.wrapping_add(k as u16), ..flow.clone() };
            let sample = Sample { flow, payload: vec![k as u8; size], gso: size };
            line.extend(sample.line());
            let (mut header, bytes) = sample.datagrams(100 + k as u64).remove(0);
            header.segment = k as u8;
            header.flags = if k + 1 == count { LAST } else { 0 };
            sent.push((header, bytes));
        }
        let delivered = deliver(&sent, |_| false);
        prop_assert_eq!(delivered.writes.len(), count.div_ceil(glue::DATAGRAMS));
        prop_assert_eq!(delivered.expanded(), line);
    }
}

/// The checksum place that the kernel names must be the one we would find, else we complete it
/// first.
#[test]
fn csum_place_is_checked() {
    let flow = Flow {
        v6: false,
        tcp: false,
        extension: false,
        tos: 0,
        ttl: 64,
        df: true,
        id: 1,
        src: 1,
        ports: (1, 2),
        seq: 0,
        ack: 0,
        flags: 0,
        window: 0,
        options: vec![],
    };
    let sample = Sample {
        flow,
        payload: vec![1; 100],
        gso: 100,
    };
    let (vnet, buf) = sample.read();
    assert_eq!(Super::parse(&vnet, &buf).map(|p| p.kind()), Ok(Kind::Data));
    for wrong in [
        Vnet {
            csum_start: 24,
            ..vnet
        },
        Vnet {
            csum_offset: 16,
            ..vnet
        },
        Vnet {
            csum_start: 0xFFFF,
            ..vnet
        },
    ] {
        assert_eq!(
            Super::parse(&wrong, &buf).err(),
            Some(Error::ChecksumFirst),
            "{wrong:?}"
        );
    }
    for (at, bit) in [(6, 0x20u8), (7, 1), (25, 1)] {
        // More fragments, a fragment offset, a UDP length that lies: the peer would refuse it.
        let mut odd = buf.clone();
        odd[at] ^= bit;
        assert_eq!(
            Super::parse(&vnet, &odd).err(),
            Some(Error::ChecksumFirst),
            "byte {at}"
        );
        let many = Vnet {
            gso_type: 5,
            gso_size: 50,
            ..vnet
        };
        let expected = if at == 25 { None } else { Some(Error::Offload) };
        assert_eq!(Super::parse(&many, &odd).err(), expected, "byte {at}");
    }
    let mut outside = Vnet {
        csum_start: 0xFFFF,
        ..vnet
    };
    assert_eq!(
        split::complete(&mut outside, &mut buf.clone()),
        Err(Error::Offload)
    );
}

/// A virtio header that contradicts its packet is refused.
#[test]
fn contradictions_are_refused() {
    let flow = Flow {
        v6: true,
        tcp: true,
        extension: false,
        tos: 0,
        ttl: 64,
        df: false,
        id: 0,
        src: 1,
        ports: (1, 2),
        seq: 0,
        ack: 0,
        flags: ACK,
        window: 0,
        options: vec![],
    };
    let sample = Sample {
        flow,
        payload: vec![1; 3000],
        gso: 1000,
    };
    let (vnet, buf) = sample.read();
    assert_eq!(Super::parse(&vnet, &buf).map(|p| p.segments()), Ok(3));
    for gso_type in [1, 2, 3, 5, 6, 0x7F] {
        let wrong = Vnet { gso_type, ..vnet };
        assert_eq!(
            Super::parse(&wrong, &buf).err(),
            Some(Error::Offload),
            "type {gso_type}"
        );
    }
    for wrong in [
        Vnet {
            gso_size: 0,
            ..vnet
        },
        Vnet {
            csum_start: 20,
            ..vnet
        },
    ] {
        assert_eq!(
            Super::parse(&wrong, &buf).err(),
            Some(Error::Offload),
            "{wrong:?}"
        );
    }
    assert_eq!(
        Super::parse(&vnet, &buf[..buf.len() - 1]).err(),
        Some(Error::NotIp)
    );
    assert_eq!(
        Super::parse(&Vnet { flags: 0, ..vnet }, &buf).map(|p| p.kind()),
        Ok(Kind::Data)
    );
    assert_eq!(NEEDS_CSUM, 1);
}
