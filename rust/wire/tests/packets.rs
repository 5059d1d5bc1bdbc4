//! Reading packets, checksums, and the ICMP answers.

use std::net::IpAddr;

use crate::reference::*;
use proptest::prelude::*;
use veilnet_wire::icmp::{self, Reason};
use veilnet_wire::ip;

fn udp(v6: bool, extension: bool, size: usize) -> Vec<u8> {
    let flow = Flow {
        v6,
        tcp: false,
        extension,
        tos: 0,
        ttl: 64,
        df: true,
        id: 1,
        src: 1,
        ports: (1000, 2000),
        seq: 0,
        ack: 0,
        flags: 0,
        window: 0,
        options: vec![],
    };
    flow.build(&vec![7; size], true)
}

fn here(v6: bool) -> IpAddr {
    if v6 {
        IpAddr::from([0xFD; 16])
    } else {
        IpAddr::from([10, 9, 9, 9])
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// The fast sum is the sum of RFC 1071 for every length and alignment (0 and 0xFFFF are one
    /// number).
    #[test]
    fn sums(bytes in prop::collection::vec(any::<u8>(), 0..2000), skip in 0usize..8) {
        let bytes = bytes.get(skip..).unwrap_or(&[]);
        prop_assert_eq!(ip::sum(bytes) % 0xFFFF, u32::from(ones_sum(bytes)) % 0xFFFF);
    }
}

/// The largest sum there can be does not overflow.
#[test]
fn largest_sum() {
    assert_eq!(ip::sum(&vec![0xFF; 1 << 20]), 0xFFFF);
    assert_eq!(ip::fold(u32::MAX), 0xFFFF);
}

/// The IPv4 header checksum example of RFC 1071's readers: known answer b861.
/// Source: Wikipedia, "Internet checksum", example.
#[test]
fn known_ipv4_checksum() {
    let header = [
        0x45, 0, 0, 0x73, 0, 0, 0x40, 0, 0x40, 0x11, 0xb8, 0x61, 0xc0, 0xa8, 0, 1, 0xc0, 0xa8, 0,
        0xc7,
    ];
    assert_eq!(ip::ipv4_checksum(&header), 0xb861);
}

/// Ports, protocol and lengths are read behind IPv4 options and IPv6 extension headers.
#[test]
fn reads_behind_extensions() {
    for (v6, extension, header_len) in [
        (false, false, 20),
        (false, true, 24),
        (true, false, 40),
        (true, true, 48),
    ] {
        let bytes = udp(v6, extension, 10);
        let packet = ip::parse(&bytes).unwrap();
        assert_eq!(packet.header_len, header_len);
        assert_eq!((packet.proto, packet.ports), (17, Some((1000, 2000))));
        assert_eq!((packet.options, packet.fragment), (extension, false));
        assert_eq!(packet.total_len, bytes.len());
        // Padding is tolerated, a missing byte is not.
        let padded = [&bytes[..], &[0; 9]].concat();
        assert_eq!(ip::parse(&padded), Some(packet));
        assert_eq!(ip::parse(&bytes[..bytes.len() - 1]), None);
    }
}

/// A later fragment has no ports, the first has.
#[test]
fn fragments() {
    let mut bytes = udp(false, false, 10);
    bytes[6] = 0x20;
    let first = ip::parse(&bytes).unwrap();
    assert_eq!(
        (first.fragment, first.later_fragment, first.ports),
        (true, false, Some((1000, 2000)))
    );
    bytes[7] = 1;
    let later = ip::parse(&bytes).unwrap();
    assert_eq!(
        (later.fragment, later.later_fragment, later.ports),
        (true, true, None)
    );

    let mut bytes = udp(true, true, 10);
    (bytes[6], bytes[41]) = (44, 0);
    bytes[42..44].copy_from_slice(&[0, 1]);
    let first = ip::parse(&bytes).unwrap();
    assert_eq!(
        (first.fragment, first.later_fragment, first.ports),
        (true, false, Some((1000, 2000)))
    );
    bytes[43] = 8;
    let later = ip::parse(&bytes).unwrap();
    assert_eq!(
        (later.fragment, later.later_fragment, later.ports),
        (true, true, None)
    );
}

/// A chain of extension headers without end, or beyond the packet, is no packet.
#[test]
fn endless_extensions() {
    let mut bytes = vec![0; 40 + 8 * 20];
    bytes[0] = 0x60;
    bytes[4..6].copy_from_slice(&160u16.to_be_bytes());
    assert_eq!(ip::parse(&bytes), None);
    let mut bytes = udp(true, true, 10);
    bytes[41] = 200;
    assert_eq!(ip::parse(&bytes), None);
}

/// Type, code, quotation and checksums of an answer are right, and go back to the sender.
#[test]
fn answers() {
    for v6 in [false, true] {
        let l4 = if v6 { 40 } else { 20 };
        for (reason, codes) in [
            (Reason::NoRoute, (0, 0)),
            (Reason::Host, (1, 3)),
            (Reason::Prohibited, (13, 1)),
        ] {
            let packet = udp(v6, false, 100);
            let mut out = [0xAA; icmp::LONGEST];
            let length = icmp::unreachable(&packet, reason, here(v6), &mut out).unwrap();
            check(&out[..length], &packet, v6);
            let expected = if v6 { (1, codes.1) } else { (3, codes.0) };
            assert_eq!((out[l4], out[l4 + 1]), expected);
        }
        let packet = udp(v6, false, 3000);
        let mut out = [0xAA; icmp::LONGEST];
        let length = icmp::too_big(&packet, 1380, here(v6), &mut out).unwrap();
        assert_eq!(length, if v6 { 1280 } else { 576 });
        check(&out[..length], &packet, v6);
        assert_eq!((out[l4], out[l4 + 1]), if v6 { (2, 0) } else { (3, 4) });
        assert_eq!(
            u32::from_be_bytes(out[l4 + 4..l4 + 8].try_into().unwrap()),
            1380
        );
        assert_eq!(
            icmp::too_big(&packet, 1380, here(v6), &mut out[..length - 1]),
            None
        );
        assert_eq!(icmp::too_big(&packet, 1380, here(!v6), &mut out), None);
    }
}

fn check(answer: &[u8], packet: &[u8], v6: bool) {
    let l4 = if v6 { 40 } else { 20 };
    let read = ip::parse(answer).unwrap();
    assert_eq!(read.total_len, answer.len());
    assert_eq!((read.src, Some(read.dst)), (here(v6), ip::src(packet)));
    assert_eq!(read.proto, if v6 { 58 } else { 1 });
    let mut covered = Vec::new();
    if v6 {
        covered.extend(&answer[8..40]);
        covered.extend(((answer.len() - 40) as u32).to_be_bytes());
        covered.extend([0, 0, 0, 58]);
    } else {
        assert_eq!(ones_sum(&answer[..20]), 0xFFFF);
    }
    covered.extend(&answer[l4..]);
    assert_eq!(ones_sum(&covered), 0xFFFF);
    let quoted = &answer[l4 + 8..];
    assert_eq!(quoted, &packet[..quoted.len()]);
    assert!(quoted.len() == packet.len() || answer.len() == if v6 { 1280 } else { 576 });
}

/// No answer to ICMP errors, later fragments, multicast, broadcast, loopback or unspecified
/// addresses; an echo request is answered.
#[test]
fn silence() {
    let answered = |bytes: &[u8], v6: bool| {
        let mut out = [0; icmp::LONGEST];
        icmp::unreachable(bytes, Reason::Host, here(v6), &mut out).is_some()
    };
    let with = |v6: bool, changes: &[(usize, u8)]| {
        let mut bytes = udp(v6, false, 30);
        for (at, value) in changes {
            bytes[*at] = *value;
        }
        answered(&bytes, v6)
    };
    assert!(with(false, &[]) && with(true, &[]));
    assert!(with(false, &[(9, 1), (20, 8)]), "echo request");
    assert!(with(true, &[(6, 58), (40, 128)]), "echo request");
    for kind in [3, 4, 5, 11, 12] {
        assert!(!with(false, &[(9, 1), (20, kind)]), "ICMP error {kind}");
    }
    for kind in [1, 2, 3, 4, 127] {
        assert!(!with(true, &[(6, 58), (40, kind)]), "ICMPv6 error {kind}");
    }
    assert!(with(false, &[(6, 0x20)]), "first fragment");
    assert!(!with(false, &[(7, 1)]), "later fragment");
    for first in [0, 127, 224, 239, 255] {
        assert!(!with(false, &[(16, first)]), "to {first}.x");
        assert!(!with(false, &[(12, first)]), "from {first}.x");
    }
    assert!(
        !with(true, &[(24, 0xFF)]) && !with(true, &[(8, 0xFF)]),
        "multicast"
    );
    assert!(!with(true, &[(8, 0), (23, 0)]), "from ::");
    assert!(!with(true, &[(8, 0), (23, 1)]), "from ::1");
}
