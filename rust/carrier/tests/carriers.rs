//! Carriers over the loopback address: what goes in at one end comes out at the other.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::IntoRawFd as _;
use std::time::{Duration, Instant};
use veilnet_carrier::{Accepted, Carriers, Error, PER_PREFIX};
use veilnet_engine::records;
use veilnet_engine::sys::seq::Seq;
use veilnet_engine::sys::wake::wait_readable;

const PATIENCE: Duration = Duration::from_secs(5);

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

fn called(carriers: &Carriers) -> Accepted {
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        if let Some(one) = carriers.drain().pop() {
            return one;
        }
        wait_readable(&[carriers.event_fd()], 50_000_000);
    }
    panic!("nobody called");
}

fn seq(fd: std::os::fd::OwnedFd) -> Seq {
    Seq::adopt(fd.into_raw_fd()).unwrap()
}

/// Both ends of a new connection.
fn connected(near: &Carriers, far: &Carriers, port: u16) -> (Seq, Seq) {
    let one = near.connect(loopback(port), PATIENCE).unwrap();
    let other = called(far);
    assert_eq!(other.remote.ip(), loopback(0).ip());
    (seq(one), seq(other.fd))
}

fn message(datagrams: &[Vec<u8>]) -> Vec<u8> {
    let mut message = Vec::new();
    for each in datagrams {
        assert!(records::put(&mut message, each));
    }
    message
}

/// The next `count` datagrams, whatever messages they come in.
fn take(seq: &Seq, count: usize) -> Vec<Vec<u8>> {
    let (mut got, mut buf) = (Vec::new(), vec![0; 70_000]);
    let end = Instant::now() + PATIENCE;
    while got.len() < count {
        assert!(Instant::now() < end, "{} of {count} came", got.len());
        let Ok(len) = seq.receive(&mut buf) else {
            wait_readable(&[seq.fd()], 50_000_000);
            continue;
        };
        assert!(len > 0, "the other end has gone");
        let mut at = 0;
        while let Some(range) = records::record(&buf[..len], at) {
            at = range.end;
            got.push(buf[range].to_vec());
        }
        assert_eq!(at, len, "whole records only");
    }
    got
}

/// Datagrams of every size cross both ways, in order.
#[test]
fn datagrams_cross() {
    let (near, far) = (Carriers::open().unwrap(), Carriers::open().unwrap());
    let port = far.listen(0).unwrap();
    let (a, b) = connected(&near, &far, port);
    for (from, to) in [(&a, &b), (&b, &a)] {
        let sizes = [1usize, 2, 100, 1412, 1499, 1500];
        let datagrams: Vec<Vec<u8>> = sizes.iter().map(|n| vec![*n as u8; *n]).collect();
        from.send(&message(&datagrams)).unwrap();
        assert_eq!(take(to, datagrams.len()), datagrams);
        let full: Vec<Vec<u8>> = (0..44).map(|k| vec![k as u8; 1448]).collect();
        for _ in 0..20 {
            from.send(&message(&full)).unwrap();
            assert_eq!(take(to, full.len()), full);
        }
    }
    assert_eq!((near.count(), far.count()), (1, 1));
}

fn gone(seq: &Seq) -> bool {
    let (end, mut buf) = (Instant::now() + PATIENCE, [0; 9]);
    while Instant::now() < end {
        match seq.receive(&mut buf) {
            Ok(0) => return true,
            Err(e) if e.kind() != std::io::ErrorKind::WouldBlock => return true,
            _ => wait_readable(&[seq.fd()], 50_000_000),
        }
    }
    false
}

/// When one end lets go, the other is told; when all is closed, nobody is left waiting.
#[test]
fn the_end_is_told() {
    let (near, far) = (Carriers::open().unwrap(), Carriers::open().unwrap());
    let port = far.listen(0).unwrap();
    let (a, b) = connected(&near, &far, port);
    drop(a);
    assert!(gone(&b));
    let (a, b) = connected(&near, &far, port);
    far.close();
    far.close();
    assert!(gone(&a) && gone(&b));
    assert!(matches!(far.listen(0), Err(Error::Closed)));
    let refused = near.connect(loopback(port), PATIENCE);
    assert!(matches!(refused, Err(Error::Connect { .. })));
}

/// A connection that nobody reads loses what does not fit, and keeps no other from moving.
#[test]
fn a_stuck_connection_holds_nobody_up() {
    let (near, far) = (Carriers::open().unwrap(), Carriers::open().unwrap());
    let port = far.listen(0).unwrap();
    let (a, _unread) = connected(&near, &far, port);
    let full = message(&(0..40).map(|_| vec![9; 1500]).collect::<Vec<_>>());
    let (mut sent, mut lost) = (0, 0);
    while sent + lost < 400 {
        // What the far engine does not take is lost there; what this end cannot take, here.
        match a.send(&full) {
            Ok(()) => sent += 1,
            Err(_) => lost += 1,
        }
    }
    let (c, d) = connected(&near, &far, port);
    let hello = vec![b"it goes on".to_vec()];
    c.send(&message(&hello)).unwrap();
    assert_eq!(take(&d, 1), hello);
}

/// A stranger that speaks no TLS is hung up on, and is nobody's carrier.
#[test]
fn junk_is_hung_up_on() {
    let far = Carriers::open().unwrap();
    let port = far.listen(0).unwrap();
    let mut stranger = TcpStream::connect(loopback(port)).unwrap();
    stranger.set_read_timeout(Some(PATIENCE)).unwrap();
    stranger.write_all(&[b'G'; 600]).unwrap();
    let mut said = Vec::new();
    let _ = stranger.read_to_end(&mut said);
    assert!(said.len() < 100, "an alert at most");
    assert!(far.drain().is_empty());
}

/// A record that none is ends its connection.
#[test]
fn a_broken_record_ends_it() {
    let (near, far) = (Carriers::open().unwrap(), Carriers::open().unwrap());
    let port = far.listen(0).unwrap();
    let (a, b) = connected(&near, &far, port);
    a.send(&[0xff, 0xff, 1, 2, 3]).unwrap();
    assert!(gone(&b) && gone(&a));
}

/// One place has no more than its part of the connections; the next one is refused there.
#[test]
fn a_prefix_has_its_part() {
    let (near, far) = (Carriers::open().unwrap(), Carriers::open().unwrap());
    let port = far.listen(0).unwrap();
    let held: Vec<(Seq, Seq)> = (0..PER_PREFIX)
        .map(|_| connected(&near, &far, port))
        .collect();
    assert!(near.connect(loopback(port), PATIENCE).is_err());
    drop(held);
}

/// What answers but is no carrier is told from nobody there.
#[test]
fn no_carrier_is_told() {
    let near = Carriers::open().unwrap();
    let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let at = server.local_addr().unwrap();
    let answer = std::thread::spawn(move || {
        let (mut peer, _) = server.accept().unwrap();
        let _ = peer.read(&mut [0; 2000]);
        let _ = peer.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
    });
    let error = near.connect(at, PATIENCE).unwrap_err();
    assert!(matches!(error, Error::NoCarrier { .. }), "{error}");
    answer.join().unwrap();
}
