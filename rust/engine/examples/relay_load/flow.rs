//! The closed loop: bursts go out while the window is open, what arrives is judged and opens it.
//!
//! ```text
//! body    circuit u32 | sequence u64 | filler, the same in every body
//! ```
//! A real sender's window follows what arrives, so nothing here floods: a relay that is slower is
//! sent less, and none is measured in a state of collapse. INVARIANT: outstanding = sent - arrived
//! - written off; it is written off when nothing arrived for `STALL_NS`.

use crate::link::Got;
use crate::plan::{Circuit, Leg, Plan};
use std::io;
use veilnet_engine::sys::now_ns;

pub const BODY: usize = 12;
const STALL_NS: u64 = 20_000_000;
const GROW_NS: u64 = 100_000_000;
const SMALLEST_WINDOW: usize = 64;
/// Every datagram is recognised and counted; one in so many is opened and compared in a load run.
const SAMPLE: u64 = 32;
const SLAB: usize = 1 << 16;
/// Looks at the ends without a find before the core is offered to others.
const SPINS: u32 = 64;

/// A pseudo-random sequence, the same in every run.
pub struct Dice(pub u64);

impl Dice {
    pub fn roll(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 33) as usize % below.max(1)
    }
}

/// What is offered.
#[derive(Clone, Copy)]
pub struct Offer {
    pub seconds: f64,
    /// Of a whole UDP payload.
    pub size: usize,
    pub burst: (usize, usize),
    pub window: usize,
}

#[derive(Default)]
pub struct Outcome {
    pub sent: u64,
    pub arrived: u64,
    pub bytes: u64,
    pub opened: u64,
    pub sends: u64,
    pub receives: u64,
    pub stalls: u64,
    pub window: usize,
    pub took_ns: u64,
}

pub struct Flow {
    pub plan: Plan,
    slab: Box<[u8]>,
    slot: Box<[u8]>,
    plain: Box<[u8]>,
    opened: Box<[u8]>,
    filler: Box<[u8]>,
    sequence: u64,
    judged: u64,
}

fn bad(what: impl Into<String>) -> io::Error {
    io::Error::other(what.into())
}

impl Flow {
    pub fn new(plan: Plan) -> Flow {
        let zeros = || vec![0; SLAB].into_boxed_slice();
        let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
        let filler = (0..2048).map(|_| dice.roll(256) as u8).collect();
        Flow {
            plan,
            slab: zeros(),
            slot: zeros(),
            plain: zeros(),
            opened: zeros(),
            filler,
            sequence: 0,
            judged: 0,
        }
    }

    /// Send `count` datagrams of `size` bytes on circuit `number` from side `from`, as one send.
    /// False when the socket is full.
    fn send(&mut self, number: usize, from: usize, count: usize, size: usize) -> io::Result<bool> {
        let body = self.plan.body(size, from);
        let circuit = self
            .plan
            .circuits
            .get(number)
            .ok_or_else(|| bad("circuit"))?;
        let at = if from == 0 {
            circuit.input
        } else {
            circuit.output
        };
        let end = self.plan.ends.get_mut(from).and_then(|e| e.get_mut(at));
        let end = end.ok_or_else(|| bad("end"))?;
        let leg = circuit.legs.get(from).ok_or_else(|| bad("leg"))?;
        let filler = self
            .filler
            .get(..body.saturating_sub(BODY))
            .ok_or_else(|| bad("size"))?;
        let mut len = 0;
        for _ in 0..count {
            self.sequence += 1;
            let place = match leg {
                Leg::Label(label) => {
                    let plain = self.plain.get_mut(..body + 4).ok_or_else(|| bad("size"))?;
                    plain[..4].copy_from_slice(&label.to_be_bytes());
                    write(&mut plain[4..], number, self.sequence, filler);
                    let out = self
                        .slab
                        .get_mut(len..len + size)
                        .ok_or_else(|| bad("size"))?;
                    let link = end.link.as_mut().ok_or_else(|| bad("link"))?;
                    if !link.seal(plain, out) {
                        return Err(bad("a frame could not be sealed"));
                    }
                    size
                }
                Leg::Prefix(_, prefix) => {
                    let whole = prefix.len() + body;
                    let out = self
                        .slab
                        .get_mut(len..len + whole)
                        .ok_or_else(|| bad("size"))?;
                    out[..prefix.len()].copy_from_slice(prefix);
                    write(&mut out[prefix.len()..], number, self.sequence, filler);
                    whole
                }
            };
            len += place;
        }
        let raw = match (leg, &end.link) {
            (Leg::Label(_), Some(link)) => *link.raw(),
            (Leg::Prefix(Some(raw), _), _) => *raw,
            _ => return Err(bad("a circuit without a way back")),
        };
        let held = self.slab.get(..len).unwrap_or_default();
        match end.udp.send(&raw, held, len / count.max(1)) {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(false),
            // What an earlier datagram met (nobody listened yet) is told with a later one.
            Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Take what one socket of side `side` holds; returns (datagrams, bytes, opened).
    fn receive(
        &mut self,
        side: usize,
        at: usize,
        every: u64,
    ) -> io::Result<Option<(u64, u64, u64)>> {
        let Plan {
            ends,
            circuits,
            before,
            ..
        } = &mut self.plan;
        let end = ends.get_mut(side).and_then(|e| e.get_mut(at));
        let end = end.ok_or_else(|| bad("end"))?;
        let received = match end.udp.receive(&mut self.slot) {
            Ok(received) => received,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => return Ok(None),
            Err(e) => return Err(e),
        };
        let (mut count, mut bytes, mut opened) = (0, 0, 0);
        let run = self.slot.get(..received.len).unwrap_or_default();
        for datagram in run.chunks(received.segment) {
            self.judged += 1;
            let look = self.judged.is_multiple_of(every);
            let body = match &mut end.link {
                None => datagram,
                Some(link) => {
                    let into = look.then_some(&mut *self.opened);
                    match link.receive(&end.udp, datagram, into)? {
                        Got::Other => continue,
                        Got::Frame => &[],
                        Got::Opened(len) => self.opened.get(..len).unwrap_or_default(),
                    }
                }
            };
            if look {
                judge(circuits, *before, &self.filler, (side, at), body)?;
                opened += 1;
            }
            count += 1;
            bytes += datagram.len() as u64;
        }
        Ok(Some((count, bytes, opened)))
    }

    /// Serve the links' probes, and let go of what came late.
    pub fn idle(&mut self) -> io::Result<()> {
        for side in 0..2 {
            for at in 0..self.plan.ends.get(side).map_or(0, Vec::len) {
                while self.receive(side, at, u64::MAX)?.is_some() {}
            }
        }
        Ok(())
    }

    /// Send `each` datagrams on every circuit, both ways where there is a way back; every one must
    /// arrive, open, carry its circuit's label and be unharmed.
    pub fn check(&mut self, each: usize, size: usize) -> io::Result<u64> {
        let mut arrived = 0;
        for from in 0..2 {
            for number in 0..self.plan.circuits.len() {
                let circuit = self
                    .plan
                    .circuits
                    .get(number)
                    .ok_or_else(|| bad("circuit"))?;
                if matches!(circuit.legs.get(from), Some(Leg::Prefix(None, _))) {
                    continue;
                }
                let (side, at) = if from == 0 {
                    (1, circuit.output)
                } else {
                    (0, circuit.input)
                };
                let (mut got, mut tries) = (0, 0);
                while got < each as u64 {
                    if tries == 3 {
                        let way = ["there", "back"][from];
                        return Err(bad(format!("{got} of {each} on circuit {number} {way}")));
                    }
                    tries += 1;
                    got = 0;
                    self.send(number, from, each, size)?;
                    let end = now_ns() + 300_000_000;
                    while got < each as u64 && now_ns() < end {
                        match self.receive(side, at, 1)? {
                            Some((count, ..)) => got += count,
                            None => std::thread::yield_now(),
                        }
                    }
                }
                arrived += got;
            }
        }
        Ok(arrived)
    }

    /// Offer load for a while, from the in ends to the out ends.
    pub fn run(&mut self, offer: Offer) -> io::Result<Outcome> {
        self.idle()?;
        let mut out = Outcome {
            window: offer.window,
            ..Outcome::default()
        };
        let circuits = self.plan.circuits.len();
        let outs = self.plan.ends.get(1).map_or(0, Vec::len);
        let mut owed = vec![0u64; outs];
        let mut dice = Dice(0x2545_f491_4f6c_dd1d);
        let (mut outstanding, mut number, mut empty) = (0usize, 0usize, 0u32);
        let begun = now_ns();
        let until = begun + (offer.seconds * 1e9) as u64;
        let (mut heard, mut grown, mut last) = (begun, begun, begun);
        let mut wanted = dice.roll(offer.burst.1 - offer.burst.0 + 1) + offer.burst.0;
        loop {
            let now = now_ns();
            let sending = now < until;
            let mut worked = false;
            while sending && outstanding + wanted <= out.window {
                let Some(output) = self.plan.circuits.get(number).map(|c| c.output) else {
                    break;
                };
                if !self.send(number, 0, wanted, offer.size)? {
                    break;
                }
                if outstanding == 0 {
                    heard = now_ns();
                }
                worked = true;
                outstanding += wanted;
                owed[output] += wanted as u64;
                out.sent += wanted as u64;
                out.sends += 1;
                number = (number + 1) % circuits;
                wanted = dice.roll(offer.burst.1 - offer.burst.0 + 1) + offer.burst.0;
            }
            for (at, owed) in owed.iter_mut().enumerate() {
                if *owed == 0 {
                    continue;
                }
                while let Some((count, bytes, opened)) = self.receive(1, at, SAMPLE)? {
                    out.receives += 1;
                    out.arrived += count;
                    out.bytes += bytes;
                    out.opened += opened;
                    *owed = owed.saturating_sub(count);
                    outstanding = outstanding.saturating_sub(count as usize);
                    worked = true;
                    if *owed == 0 {
                        break;
                    }
                }
            }
            if worked {
                (heard, empty) = (now_ns(), 0);
                if outstanding < out.window {
                    last = heard;
                }
                if heard > grown + GROW_NS {
                    grown = heard;
                    out.window = (out.window + out.window / 2).min(offer.window);
                }
                continue;
            }
            if !sending && outstanding == 0 {
                break;
            }
            if now_ns() > heard + STALL_NS {
                if !sending {
                    break;
                }
                // What did not come by now is lost; a sender would halve its window too.
                out.stalls += 1;
                out.window = (out.window / 2).max(SMALLEST_WINDOW.min(offer.window));
                outstanding = 0;
                owed.fill(0);
                (heard, grown) = (now_ns(), now_ns());
            }
            empty += 1;
            if empty > SPINS {
                std::thread::yield_now();
            } else {
                std::hint::spin_loop();
            }
        }
        out.took_ns = last.saturating_sub(begun);
        if out.arrived == 0 {
            return Err(bad("nothing arrived"));
        }
        if out.opened == 0 {
            return Err(bad("nothing was opened and compared"));
        }
        Ok(out)
    }

    /// One datagram there and back at a time, at random distances.  Units: nanoseconds.
    pub fn ping(&mut self, count: usize, size: usize) -> io::Result<Vec<u64>> {
        self.idle()?;
        let mut dice = Dice(0x1234_5678_9abc_def1);
        let (input, output) = self
            .plan
            .circuits
            .first()
            .map(|c| (c.input, c.output))
            .ok_or_else(|| bad("circuit"))?;
        let mut times = Vec::new();
        for _ in 0..count {
            std::thread::sleep(std::time::Duration::from_micros(
                5_000 + dice.roll(10_000) as u64,
            ));
            self.idle()?;
            let begun = now_ns();
            let mut whole = self.send(0, 0, 1, size)? && self.wait(1, output)?;
            whole = whole && self.send(0, 1, 1, size)? && self.wait(0, input)?;
            if whole {
                times.push(now_ns() - begun);
            }
        }
        Ok(times)
    }

    /// Wait for one datagram at an end; false if none came within a second.
    fn wait(&mut self, side: usize, at: usize) -> io::Result<bool> {
        let end = now_ns() + 1_000_000_000;
        while now_ns() < end {
            match self.receive(side, at, 1)? {
                Some((count, ..)) if count > 0 => return Ok(true),
                Some(_) => {}
                None => {
                    let fd = self
                        .plan
                        .ends
                        .get(side)
                        .and_then(|e| e.get(at))
                        .map(|e| e.udp.fd());
                    veilnet_engine::sys::wake::wait_readable(&[fd.unwrap_or(-1)], 1_000_000_000);
                }
            }
        }
        Ok(false)
    }

    /// How long it takes to write (and seal) one datagram, without sending it.  Units: nanoseconds.
    pub fn seal_ns(&mut self, size: usize) -> io::Result<f64> {
        const ROUNDS: usize = 20_000;
        let body = self.plan.body(size, 0);
        let begun = now_ns();
        for _ in 0..ROUNDS {
            let plain = self.plain.get(..body + 4).ok_or_else(|| bad("size"))?;
            let out = self.slab.get_mut(..size).ok_or_else(|| bad("size"))?;
            let end = self.plan.ends.get_mut(0).and_then(|e| e.first_mut());
            if let Some(link) = end.and_then(|e| e.link.as_mut())
                && !link.seal(plain, out)
            {
                return Err(bad("a frame could not be sealed"));
            }
        }
        Ok((now_ns() - begun) as f64 / ROUNDS as f64)
    }
}

fn write(body: &mut [u8], circuit: usize, sequence: u64, filler: &[u8]) {
    body[..4].copy_from_slice(&(circuit as u32).to_be_bytes());
    body[4..BODY].copy_from_slice(&sequence.to_be_bytes());
    body[BODY..].copy_from_slice(filler);
}

/// Is `whole` (of a link: label and inner datagram) what some circuit's end `at` must see here?
fn judge(
    circuits: &[Circuit],
    before: [usize; 2],
    filler: &[u8],
    (side, at): (usize, usize),
    whole: &[u8],
) -> io::Result<()> {
    let here = |c: &Circuit| (if side == 1 { c.output } else { c.input }) == at;
    // A relay may pass a prefix on, put one of its own there, or none: the filler finds the body.
    for skip in [before[1 - side], before[side], 0] {
        let Some(body) = whole.get(skip..) else {
            continue;
        };
        let (Some(number), Some(rest)) = (body.first_chunk::<4>(), body.get(BODY..)) else {
            continue;
        };
        let Some(circuit) = circuits.get(u32::from_be_bytes(*number) as usize) else {
            continue;
        };
        if !here(circuit) || filler.get(..rest.len()) != Some(rest) {
            continue;
        }
        return match circuit.legs.get(side) {
            Some(Leg::Label(label)) if whole.get(..4) != Some(&label.to_be_bytes()) => {
                Err(bad("a frame of one circuit came under another one's label"))
            }
            _ => Ok(()),
        };
    }
    Err(bad(format!(
        "a datagram of {} bytes arrived harmed, or at the wrong end",
        whole.len()
    )))
}
