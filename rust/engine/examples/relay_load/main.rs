//! Load for `bench/relay.py`: offers one pattern to whatever relays, and judges what comes out.
//!
//!     relay_load PLAN OUT_NAMESPACE          then commands on standard input, one answer line each:
//!
//!     check EACH SIZE                        every circuit, both ways, everything opened
//!     run SECONDS SIZE LEAST MOST WINDOW     bursts of LEAST..MOST datagrams per circuit, in turn
//!     ping COUNT SIZE                        round trips on the first circuit
//!     seal SIZE                              what this generator's own sealing takes
//!
//! Generator and sink are one thread, so that they share a core without wake-ups between them.
#![allow(clippy::indexing_slicing)] // a generator that breaks ends the bench, not a packet path

mod flow;
mod link;
mod plan;

use flow::{Flow, Offer};
use std::io::{self, BufRead, Write};
use std::sync::mpsc;
use std::time::Duration;

fn main() -> io::Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, plan, there] = arguments.as_slice() else {
        return Err(io::Error::other("usage: relay_load PLAN OUT_NAMESPACE"));
    };
    let plan = plan::Plan::open(&std::fs::read_to_string(plan)?, there)?;
    let mut flow = Flow::new(plan);
    say(&format!("{{\"ready\": {}}}", flow.plan.circuits.len()))?;
    let (send, commands) = mpsc::channel();
    std::thread::spawn(move || {
        for line in io::stdin().lock().lines() {
            let Ok(line) = line else { break };
            if send.send(line).is_err() {
                break;
            }
        }
    });
    loop {
        match commands.recv_timeout(Duration::from_millis(50)) {
            Ok(line) => {
                let answer = match command(&mut flow, &line) {
                    Ok(answer) => answer,
                    Err(error) => {
                        format!("{{\"error\": \"{}\"}}", error.to_string().replace('"', "'"))
                    }
                };
                say(&answer)?;
            }
            Err(mpsc::RecvTimeoutError::Timeout) => {
                // The relay's probes; what is wrong with a datagram is told by the next command.
                let _ = flow.idle();
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => return Ok(()),
        }
    }
}

fn say(line: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}

fn command(flow: &mut Flow, line: &str) -> io::Result<String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let number = |at: usize| -> io::Result<usize> {
        let word = words.get(at).and_then(|w| w.parse().ok());
        word.ok_or_else(|| io::Error::other(format!("not a command: {line}")))
    };
    match words.first() {
        Some(&"check") => {
            let arrived = flow.check(number(1)?, number(2)?)?;
            Ok(format!("{{\"arrived\": {arrived}}}"))
        }
        Some(&"run") => {
            let seconds = words.get(1).and_then(|w| w.parse().ok());
            let offer = Offer {
                seconds: seconds.ok_or_else(|| io::Error::other("seconds"))?,
                size: number(2)?,
                burst: (number(3)?, number(4)?),
                window: number(5)?,
            };
            let o = flow.run(offer)?;
            Ok(format!(
                "{{\"sent\": {}, \"arrived\": {}, \"bytes\": {}, \"opened\": {}, \"sends\": {}, \
                 \"receives\": {}, \"stalls\": {}, \"window\": {}, \"seconds\": {:.6}}}",
                o.sent,
                o.arrived,
                o.bytes,
                o.opened,
                o.sends,
                o.receives,
                o.stalls,
                o.window,
                o.took_ns as f64 / 1e9
            ))
        }
        Some(&"ping") => {
            let times = flow.ping(number(1)?, number(2)?)?;
            let lost = number(1)? - times.len();
            Ok(format!("{{\"rtt_ns\": {times:?}, \"lost\": {lost}}}"))
        }
        Some(&"seal") => Ok(format!("{{\"ns\": {:.1}}}", flow.seal_ns(number(1)?)?)),
        _ => Err(io::Error::other(format!("not a command: {line}"))),
    }
}
