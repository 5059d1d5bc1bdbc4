//! How much one connection carries: messages of 46 datagrams of 1,412 bytes for three seconds.
//!
//!     cargo run --release -p veilnet-carrier --example throughput
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::os::fd::IntoRawFd as _;
use std::time::{Duration, Instant};
use veilnet_carrier::Carriers;
use veilnet_engine::records;
use veilnet_engine::sys::seq::Seq;
use veilnet_engine::sys::wake::{wait_readable, wait_writable};

fn main() {
    let (near, far) = (Carriers::open().unwrap(), Carriers::open().unwrap());
    let port = far.listen(0).unwrap();
    let to = ([127, 0, 0, 1], port).into();
    let one = near.connect(to, Duration::from_secs(5)).unwrap();
    wait_readable(&[far.event_fd()], 5_000_000_000);
    let other = far.drain().pop().expect("a caller").fd;
    let [a, b] = [one, other].map(|fd| Seq::adopt(fd.into_raw_fd()).unwrap());
    let mut message = Vec::new();
    for _ in 0..46 {
        assert!(records::put(&mut message, &[0x5a; 1412]));
    }
    let span = Duration::from_secs(3);
    let end = Instant::now() + span;
    let sender = std::thread::spawn(move || {
        let mut sent = 0u64;
        while Instant::now() < end {
            match a.send(&message) {
                Ok(()) => sent += 46,
                Err(_) => {
                    wait_writable(a.fd(), 10);
                }
            }
        }
        sent
    });
    let (mut bytes, mut datagrams, mut buf) = (0u64, 0u64, vec![0; 70_000]);
    while Instant::now() < end {
        let Ok(len) = b.receive(&mut buf) else {
            wait_readable(&[b.fd()], 10_000_000);
            continue;
        };
        let mut at = 0;
        while let Some(range) = records::record(buf.get(..len).unwrap_or_default(), at) {
            at = range.end;
            bytes += range.len() as u64;
            datagrams += 1;
        }
    }
    let sent = sender.join().unwrap();
    let gbps = bytes as f64 * 8.0 / span.as_secs_f64() / 1e9;
    println!("{gbps:.2} Gb/s, {datagrams} of {sent} datagrams");
}
