//! Against small gateways on addresses of loopback; UPnP has its own in tests/netns.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::num::NonZeroU16;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use veilnet_portmap::{Error, Mapping, Protocol, Wish};

const WAN: [u8; 4] = [203, 0, 113, 7];
const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

fn wish(timeout_ms: u64) -> Wish {
    Wish {
        client: CLIENT,
        port: NonZeroU16::new(41_000).unwrap(),
        life_s: 7_200,
        timeout: Duration::from_millis(timeout_ms),
    }
}

/// Serve port 5351 of `address`, and report the lifetime of every mapping that is asked for.
fn serve(address: Ipv4Addr, answer: fn(&[u8]) -> Option<Vec<u8>>) -> Receiver<u32> {
    let socket = UdpSocket::bind((address, 5351)).unwrap();
    let (asked, lives) = channel();
    thread::spawn(move || {
        let mut buffer = [0; 1100];
        while let Ok((length, source)) = socket.recv_from(&mut buffer) {
            let request = &buffer[..length];
            match length {
                60 => drop(asked.send(word(request, 4))),
                12 => drop(asked.send(word(request, 8))),
                _ => {}
            }
            if let Some(reply) = answer(request) {
                socket.send_to(&reply, source).unwrap();
            }
        }
    });
    lives
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap())
}

/// RFC 6887 section 11.3: the mapping as asked for, for half an hour at most.
fn pcp(request: &[u8]) -> Option<Vec<u8>> {
    let mut reply = request.to_vec();
    reply[1] |= 0x80;
    reply[4..8].copy_from_slice(&word(request, 4).min(1_800).to_be_bytes());
    reply[8..24].fill(0);
    reply[44..60].copy_from_slice(&Ipv4Addr::from(WAN).to_ipv6_mapped().octets());
    Some(reply)
}

/// RFC 6886 sections 3.2, 3.3 and 3.5.
fn natpmp(request: &[u8]) -> Option<Vec<u8>> {
    match (request[0], request[1]) {
        (0, 0) => Some([&[0, 128, 0, 0, 0, 0, 0, 9][..], &WAN].concat()),
        (0, 1) => {
            let life = word(request, 8).min(1_800).to_be_bytes();
            Some([&[0, 129, 0, 0, 0, 0, 0, 9][..], &request[4..8], &life].concat())
        }
        (_, opcode) => Some(vec![0, 128 | opcode, 0, 1, 0, 0, 0, 9]),
    }
}

/// Like `natpmp`, but silent to what it does not know.
fn deaf_natpmp(request: &[u8]) -> Option<Vec<u8>> {
    (request[0] == 0).then(|| natpmp(request)).flatten()
}

/// RFC 6887 section 7.4: NOT_AUTHORIZED.
fn refusing(request: &[u8]) -> Option<Vec<u8>> {
    let mut reply = pcp(request)?;
    reply[3] = 2;
    Some(reply)
}

fn lives_and_goes(address: Ipv4Addr, answer: fn(&[u8]) -> Option<Vec<u8>>, protocol: Protocol) {
    let lives = serve(address, answer);
    let mut mapping = Mapping::by_pcp(address.into(), wish(5_000)).unwrap();
    assert_eq!(mapping.protocol(), protocol);
    assert_eq!(mapping.external(), SocketAddr::from((WAN, 41_000)));
    assert_eq!(mapping.life_s(), 1_800);
    mapping.renew().unwrap();
    assert_eq!(mapping.external(), SocketAddr::from((WAN, 41_000)));
    mapping.remove().unwrap();
    assert_eq!(lives.try_iter().last(), Some(0));
}

/// Opened, renewed, and given back with a lifetime of 0.
#[test]
fn pcp_is_spoken() {
    lives_and_goes(Ipv4Addr::new(127, 53, 51, 1), pcp, Protocol::Pcp);
}

/// A gateway that answers PCP with its own version is asked in NAT-PMP.
#[test]
fn natpmp_is_spoken() {
    lives_and_goes(Ipv4Addr::new(127, 53, 51, 2), natpmp, Protocol::NatPmp);
}

/// So is one that is silent to PCP.
#[test]
fn natpmp_is_spoken_to_the_deaf() {
    lives_and_goes(Ipv4Addr::new(127, 53, 51, 3), deaf_natpmp, Protocol::NatPmp);
}

/// A refusal is no silence.
#[test]
fn a_refusal_is_told() {
    let address = Ipv4Addr::new(127, 53, 51, 4);
    let _lives = serve(address, refusing);
    let said = Mapping::by_pcp(address.into(), wish(5_000));
    assert!(matches!(said, Err(Error::Refused(_))));
}

/// Neither a closed port, a mute gateway nor an empty link takes longer than it may.
#[test]
fn silence_ends_in_time() {
    let mute = Ipv4Addr::new(127, 53, 51, 5);
    let _lives = serve(mute, |_| None);
    let began = Instant::now();
    for said in [
        Mapping::by_pcp(Ipv4Addr::new(127, 53, 51, 6).into(), wish(300)),
        Mapping::by_pcp(mute.into(), wish(300)),
        Mapping::by_upnp(wish(300), Some(SocketAddr::from((mute, 5351)))),
    ] {
        assert!(matches!(said, Err(Error::Silent(_))), "{said:?}");
    }
    assert!(began.elapsed() < Duration::from_secs(2));
}
