//! What only the inside can see: known answers of the primitives' use, and hostile bodies behind
//! a valid seal.

use std::net::SocketAddr;

use aws_lc_rs::hkdf;
use proptest::prelude::*;

use crate::body::{Hello, InitPart, Proof};
use crate::budget::{Admission, Rate};
use crate::cookie::CookieJar;
use crate::door::{self, Body, DoorKey};
use crate::labels;
use crate::mask::Mask;
use crate::replay::Seen;
use crate::rng::{self, SeededRng};
use crate::suite::{Mode, Suite, kind_byte, parse_kind};
use crate::transcript::{expand, extract, hash};
use crate::{Action, Gate, Rng};

fn source() -> SocketAddr {
    "192.0.2.1:4000".parse().unwrap()
}

/// Extract and Expand are HKDF: AWS-LC's own agrees, over one block and over several.
#[test]
fn hkdf_agrees() {
    struct Length(usize);
    impl hkdf::KeyType for Length {
        fn len(&self) -> usize {
            self.0
        }
    }
    let suites = [
        (Suite::S1, hkdf::HKDF_SHA384),
        (Suite::S2, hkdf::HKDF_SHA512),
    ];
    for (suite, algorithm) in suites {
        let prk = extract(suite, b"salt", &[b"input ", b"keying material"]);
        let theirs = hkdf::Salt::new(algorithm, b"salt").extract(b"input keying material");
        let label = labels::KEY.text.as_bytes();
        let info = [
            &[0, 0, 0, label.len() as u8][..],
            label,
            &[0, 0, 0, 2],
            b"ab",
        ];
        for length in [1, 44, 48, 64, 200] {
            let mut ours = vec![0; length];
            expand(
                suite.hmac(),
                prk.as_slice(),
                labels::KEY,
                &[b"ab"],
                &mut ours,
            );
            let mut expected = vec![0; length];
            theirs
                .expand(&info, Length(length))
                .unwrap()
                .fill(&mut expected)
                .unwrap();
            assert_eq!(ours, expected);
        }
    }
}

/// K_door is what `veilnet.networks.keys.door_key` derives (cryptography's HKDFExpand).
#[test]
fn door_key_known_answer() {
    let expected = hkdf::Prk::new_less_safe(hkdf::HKDF_SHA384, &[b'k'; 32]);
    let info: [&[u8]; 2] = [b"veilnet/door", &[b'r'; 32]];
    let mut key = [0; 32];
    expected
        .expand(&info, hkdf::HKDF_SHA256)
        .unwrap()
        .fill(&mut key)
        .unwrap();
    assert_eq!(crate::door_key(&[b'k'; 32], &[b'r'; 32]), key);
}

/// Inputs are length-prefixed: moving a byte from one to the next changes the hash.
#[test]
fn inputs_are_separated() {
    let one = hash(Suite::S1, labels::TH3, &[b"ab", b"c"]);
    assert_ne!(one, hash(Suite::S1, labels::TH3, &[b"a", b"bc"]));
    assert_ne!(one, hash(Suite::S1, labels::TH3, &[b"abc"]));
    assert_ne!(one, hash(Suite::S1, labels::TH4, &[b"ab", b"c"]));
}

/// No label is used twice, none is a name of another's table.
#[test]
fn labels_are_distinct() {
    for (at, label) in labels::ALL.iter().enumerate() {
        for other in labels::ALL.iter().skip(at + 1) {
            assert!(
                label.text != other.text && label.name != other.name,
                "{}",
                label.text
            );
        }
    }
}

/// docs/protocol.md shows the table as it is.
#[test]
fn labels_are_documented() {
    let page = include_str!("../../../docs/protocol.md");
    for label in labels::ALL {
        let row = format!("| `{}` | `{}` | {} |", label.name, label.text, label.about);
        assert!(page.contains(&row), "docs/protocol.md lacks the row\n{row}");
    }
}

/// The mask is AES-256 of the last 16 bytes (FIPS 197, appendix C.3), and its own inverse.
#[test]
fn mask_known_answer() {
    let mut key = [0; 32];
    for (at, byte) in key.iter_mut().enumerate() {
        *byte = at as u8;
    }
    let sample = 0x0011_2233_4455_6677_8899_aabb_ccdd_eeff_u128.to_be_bytes();
    let block = 0x8ea2_b7ca_5167_45bf_eafc_4990_4b49_6089_u128.to_be_bytes();
    let mask = Mask::new(&key).unwrap();
    let mut datagram = [[0; 16], sample].concat();
    mask.apply(&mut datagram).unwrap();
    assert_eq!(datagram, [block, sample].concat());
    assert_eq!(mask.header(&datagram).unwrap(), [0; 16]);
    mask.apply(&mut datagram).unwrap();
    assert_eq!(datagram, [[0; 16], sample].concat());
    assert!(mask.apply(&mut [0; 31]).is_err());
}

/// The smallest HELLO is 96 bytes, and its RETRY never larger than it.
#[test]
fn amplification() {
    let mut rng = SeededRng::new(b"amplification");
    let mut gate = Gate::new(&mut rng).unwrap();
    gate.add_door(&[1; 32], true).unwrap();
    let door = DoorKey::new(&[1; 32]);
    let mut sizes = std::collections::BTreeSet::new();
    for size in (96..=1100).chain([96; 200]) {
        let hello = Hello {
            suite: Suite::S1,
            mode: Mode::Full,
            sid_i: rng::session_id(&mut rng).unwrap(),
            n_i: [1; 16],
            com: rng::array(&mut rng).unwrap(),
        };
        let bytes = door
            .seal(Body::Hello, &hello.emit(), size, size, &mut rng)
            .unwrap();
        assert_eq!(bytes.len(), size);
        let mut out = Vec::new();
        assert!(gate.receive(&bytes, source(), 0, &mut rng, &mut out));
        let [Action::Send { to, bytes: retry }] = out.as_slice() else {
            panic!("one RETRY")
        };
        assert_eq!(*to, source());
        assert!((79..=size).contains(&retry.len()));
        sizes.insert(retry.len());
    }
    assert!(sizes.len() > 300, "RETRY's sizes are drawn");
}

/// A kind byte is read back as written; what this release does not know is None.
#[test]
fn kinds() {
    let mut known = 0;
    for byte in 0..=255u8 {
        if let Some((suite, mode, k)) = parse_kind(byte) {
            assert_eq!(kind_byte(suite, mode, k as u8), byte);
            known += 1;
        }
    }
    assert_eq!(known, 2 * 4 * 2, "two suites, four modes, two fragments");
}

/// Two cookie secrets are kept; a gap in time forgets both.
#[test]
fn cookie_rotation() {
    let minute = 60_000_000_000;
    let mut rng = SeededRng::new(b"cookies");
    let mut jar = CookieJar::new(&mut rng).unwrap();
    let cookie = jar.bake(source(), &[1; 32]);
    assert!(jar.verify(&cookie, source(), &[1; 32]));
    assert!(!jar.verify(&cookie, source(), &[2; 32]));
    assert!(!jar.verify(&cookie, "192.0.2.1:4001".parse().unwrap(), &[1; 32]));
    let mapped = "[::ffff:192.0.2.1]:4000".parse().unwrap();
    assert!(
        jar.verify(&cookie, mapped, &[1; 32]),
        "one address, two spellings"
    );
    jar.rotate(minute, &mut rng).unwrap();
    assert!(jar.verify(&cookie, source(), &[1; 32]));
    assert_ne!(jar.bake(source(), &[1; 32]), cookie);
    jar.rotate(2 * minute, &mut rng).unwrap();
    assert!(!jar.verify(&cookie, source(), &[1; 32]));
    let cookie = jar.bake(source(), &[1; 32]);
    jar.rotate(9 * minute, &mut rng).unwrap();
    assert!(!jar.verify(&cookie, source(), &[1; 32]));
}

/// A full rate table prunes what has recovered, and refuses rather than grows.
#[test]
fn rate_table_is_bounded() {
    let rate = Rate { per_s: 1, burst: 1 };
    let mut admission = Admission::new(
        rate,
        Rate {
            per_s: 1000,
            burst: 1000,
        },
        3,
    );
    let at = |n: u8| SocketAddr::new([10, 0, n, 1].into(), 1);
    assert!((0..3).all(|n| admission.admit(at(n), 0)));
    assert!(!admission.admit(at(3), 0));
    assert!(admission.admit(at(3), 1_000_000_000));
}

/// `Seen` is a set of the newest: against a naive list, under any sequence.
#[test]
fn seen_is_bounded() {
    let mut seen = Seen::new(3);
    assert!([1, 2, 3].into_iter().all(|value| seen.insert(value)));
    assert!(!seen.insert(1));
    assert!(seen.insert(4));
    assert!(!seen.contains(&1) && seen.contains(&2));
    assert_eq!(seen.values().collect::<Vec<_>>(), [2, 3, 4]);
    assert_eq!(seen.len(), 3);
}

/// A door's datagram opens under its key only; a repeated n meets silence, except at the commons.
#[test]
fn door_seal() {
    let mut rng = SeededRng::new(b"door");
    let door = DoorKey::new(&[1; 32]);
    let bytes = door.seal(Body::Retry, b"body", 0, 0, &mut rng).unwrap();
    assert_eq!(bytes.len(), door::OVERHEAD + 4);
    assert!(DoorKey::new(&[2; 32]).open(&bytes).is_none());
    let opened = door.open(&bytes).unwrap();
    assert_eq!(opened.content, Some((Body::Retry, b"body".to_vec())));
    let hello = Hello {
        suite: Suite::S2,
        mode: Mode::Join,
        sid_i: 7,
        n_i: [1; 16],
        com: [2; 32],
    };
    for (replay_set, answers) in [(true, 1), (false, 2)] {
        let mut gate = Gate::new(&mut rng).unwrap();
        gate.add_door(&[1; 32], replay_set).unwrap();
        let bytes = door
            .seal(Body::Hello, &hello.emit(), 200, 200, &mut rng)
            .unwrap();
        let mut out = Vec::new();
        for _ in 0..2 {
            assert!(gate.receive(&bytes, source(), 0, &mut rng, &mut out));
        }
        assert_eq!(out.len(), answers);
        assert_eq!(gate.occupancy().nonces, usize::from(replay_set));
    }
}

/// INIT's fragment with a wrong sibling hash, nonce, half or k is another com: its cookie fails.
#[test]
fn fragments_are_checked_alone() {
    let mut rng = SeededRng::new(b"fragments");
    let mut gate = Gate::new(&mut rng).unwrap();
    gate.add_door(&[1; 32], true).unwrap();
    let door = DoorKey::new(&[1; 32]);
    let ek = vec![5; Suite::S1.ek_len()];
    let schedule =
        crate::KeySchedule::initiate(Suite::S1, Mode::Full, b"n", b"s", &[0; 32], &ek, &mut rng);
    let offer = schedule.unwrap().offer().unwrap();
    let hello = Hello {
        suite: offer.suite,
        mode: offer.mode,
        sid_i: offer.sid_i,
        n_i: offer.n_i,
        com: offer.com,
    };
    let mut out = Vec::new();
    let bytes = door
        .seal(Body::Hello, &hello.emit(), 200, 200, &mut rng)
        .unwrap();
    gate.receive(&bytes, source(), 0, &mut rng, &mut out);
    let Some(Action::Send { bytes, .. }) = out.pop() else {
        panic!("no RETRY")
    };
    let (_, body) = door.open(&bytes).unwrap().content.unwrap();
    let cookie = crate::body::Retry::parse(&body).unwrap().cookie;
    let good = |k: usize| InitPart {
        proof: Proof::Cookie(cookie),
        suite: offer.suite,
        mode: offer.mode,
        k,
        sid_i: offer.sid_i,
        n_i: offer.n_i,
        sibling: offer.hashes[1 - k],
        half: offer.halves[k].clone(),
    };
    let mut send = |part: InitPart| {
        let bytes = door
            .seal(Body::Init, &part.emit(), 0, 1100, &mut rng)
            .unwrap();
        gate.receive(&bytes, source(), 0, &mut rng, &mut out);
        (gate.occupancy().assemblies, out.len())
    };
    assert_eq!(send(InitPart { k: 1, ..good(0) }), (0, 0));
    assert_eq!(
        send(InitPart {
            sid_i: offer.sid_i ^ 1,
            ..good(0)
        }),
        (0, 0)
    );
    assert_eq!(
        send(InitPart {
            n_i: [9; 16],
            ..good(0)
        }),
        (0, 0)
    );
    assert_eq!(
        send(InitPart {
            mode: Mode::Join,
            ..good(0)
        }),
        (0, 0)
    );
    assert_eq!(
        send(InitPart {
            sibling: [0; 32],
            ..good(0)
        }),
        (0, 0)
    );
    assert_eq!(
        send(InitPart {
            half: offer.halves[1].clone(),
            ..good(0)
        }),
        (0, 0)
    );
    assert_eq!(
        send(InitPart {
            proof: Proof::Cookie([0; 16]),
            ..good(0)
        }),
        (0, 0)
    );
    assert_eq!(send(good(0)), (1, 0));
    assert_eq!(send(good(0)), (1, 0), "no overlap");
    assert_eq!(send(good(1)), (0, 1), "whole");
}

proptest! {
    /// Whatever stands behind a valid seal never panics, is never answered with more than came,
    /// and stores nothing.
    #[test]
    fn hostile_bodies(
        kind in 0u8..8,
        body in proptest::collection::vec(any::<u8>(), 0..1000),
        seed in any::<u64>(),
    ) {
        let mut rng = SeededRng::new(&seed.to_be_bytes());
        let mut gate = Gate::new(&mut rng).unwrap();
        gate.add_door(&[1; 32], true).unwrap();
        let door = DoorKey::new(&[1; 32]);
        let kind = match kind {
            1 => Body::Hello,
            2 => Body::Retry,
            3 => Body::Init,
            4 => Body::TicketInit,
            _ => Body::Resp,
        };
        let bytes = door.seal(kind, &body, 0, 1100, &mut rng).unwrap();
        let mut out = Vec::new();
        gate.receive(&bytes, source(), 0, &mut rng, &mut out);
        for action in &out {
            let Action::Send { bytes: reply, .. } = action else { panic!("no event") };
            prop_assert!(reply.len() <= bytes.len());
        }
        prop_assert_eq!((gate.occupancy().bytes, gate.occupancy().assemblies), (0, 0));
    }

    /// A sealed content whose type or length is hostile is authentic, and empty.
    #[test]
    fn hostile_content(plain in proptest::collection::vec(any::<u8>(), 0..60)) {
        if let Some((_, body)) = crate::door::content(&plain) {
            prop_assert!(body.len() + 3 <= plain.len());
        }
    }

    /// HMAC in counter mode: the seeded generator repeats itself exactly, however it is asked.
    #[test]
    fn seeded(first in 0usize..100, second in 0usize..100) {
        let mut whole = vec![0; first + second];
        SeededRng::new(b"x").fill(&mut whole).unwrap();
        let (mut a, mut b) = (vec![0; first], vec![0; second]);
        let mut rng = SeededRng::new(b"x");
        rng.fill(&mut a).unwrap();
        rng.fill(&mut b).unwrap();
        prop_assert_eq!([a, b].concat(), whole);
    }
}
