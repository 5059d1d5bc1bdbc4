//! Against a network of Mainline nodes on loopback; nothing leaves this host.

#![allow(clippy::unwrap_used)]

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use veilnet_beacon::{Beacon, Error, Testnet, testnet};

const TIMEOUT: Duration = Duration::from_secs(10);
const SECRET: [u8; 20] = [7; 20];

fn beacon(testnet: &Testnet) -> Beacon {
    Beacon::open(&testnet.bootstrap, Some(Ipv4Addr::LOCALHOST)).unwrap()
}

/// Two who share an infohash find each other; one with another infohash finds neither.
#[test]
fn who_announced_is_found() {
    let testnet = testnet(8).unwrap();
    let (alice, bob) = (beacon(&testnet), beacon(&testnet));
    alice.announce(SECRET, 41_000, TIMEOUT).unwrap();
    bob.announce(SECRET, 42_000, TIMEOUT).unwrap();
    let mut found = bob.peers(SECRET, 64, TIMEOUT).unwrap();
    found.sort();
    assert_eq!(
        found,
        [41_000, 42_000].map(|port| SocketAddrV4::new(Ipv4Addr::LOCALHOST, port))
    );
    assert_eq!(bob.peers(SECRET, 1, TIMEOUT).unwrap().len(), 1);
    assert!(bob.peers([8; 20], 64, TIMEOUT).unwrap().is_empty());
}

/// What one client learned is enough for the next: the first nodes may all be gone.
#[test]
fn nodes_of_one_session_start_the_next() {
    let mut testnet = testnet(8).unwrap();
    let first = Beacon::open(&testnet.bootstrap[..1], Some(Ipv4Addr::LOCALHOST)).unwrap();
    first.announce(SECRET, 41_000, TIMEOUT).unwrap();
    let known = first.nodes(TIMEOUT).unwrap();
    assert!(known.len() > 1);
    testnet.nodes.remove(0);
    let second = Beacon::open(&known, Some(Ipv4Addr::LOCALHOST)).unwrap();
    assert_eq!(second.peers(SECRET, 64, TIMEOUT).unwrap().len(), 1);
}

/// Where nobody answers, an announcement fails before its deadline and says so.
#[test]
fn silence_is_an_error() {
    let nobody = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = nobody.local_addr().unwrap().to_string();
    let beacon = Beacon::open(&[address], Some(Ipv4Addr::LOCALHOST)).unwrap();
    let said = beacon.announce(SECRET, 41_000, Duration::from_millis(200));
    assert!(matches!(said, Err(Error::Silent(_) | Error::Refused(_))));
    let found = beacon.peers(SECRET, 8, Duration::from_millis(200)).unwrap();
    assert!(found.is_empty());
}

/// Names that mean nothing are told at once.
#[test]
fn no_first_node_is_an_error() {
    let said = Beacon::open(&["[::1]:1".into()], None);
    assert!(matches!(said, Err(Error::NoBootstrap(_))));
}
