//! A slow and plain model of what the kernel does with packets, independent of the crate's own
//! code.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use proptest::prelude::*;
use veilnet_wire::vnet::{GSO_ECN, GSO_NONE, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, NEEDS_CSUM};
use veilnet_wire::{Header, Kind, Outcome, Run, Super, VNET, Vnet, glue};

pub const FIN: u8 = 1;
pub const PSH: u8 = 8;
pub const ACK: u8 = 16;
pub const CWR: u8 = 128;

/// One flow's headers.
#[derive(Debug, Clone)]
pub struct Flow {
    pub v6: bool,
    pub tcp: bool,
    /// Four bytes of IPv4 options, or eight of IPv6 destination options.
    pub extension: bool,
    pub tos: u8,
    pub ttl: u8,
    pub df: bool,
    pub id: u16,
    pub src: u8,
    pub ports: (u16, u16),
    pub seq: u32,
    pub ack: u32,
    pub flags: u8,
    pub window: u16,
    /// TCP options, a multiple of four.
    pub options: Vec<u8>,
}

/// A packet or super-packet of a flow.
#[derive(Debug, Clone)]
pub struct Sample {
    pub flow: Flow,
    pub payload: Vec<u8>,
    pub gso: usize,
}

fn be(value: u16) -> [u8; 2] {
    value.to_be_bytes()
}

pub fn word(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

/// RFC 1071, word by word.
pub fn ones_sum(bytes: &[u8]) -> u16 {
    let mut total = 0u32;
    for pair in bytes.chunks(2) {
        total += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
        total = (total & 0xFFFF) + (total >> 16);
    }
    total as u16
}

impl Flow {
    pub fn l4(&self) -> usize {
        match (self.v6, self.extension) {
            (false, ext) => 20 + if ext { 4 } else { 0 },
            (true, ext) => 40 + if ext { 8 } else { 0 },
        }
    }

    pub fn header(&self) -> usize {
        self.l4() + if self.tcp { 20 + self.options.len() } else { 8 }
    }

    fn proto(&self) -> u8 {
        if self.tcp { 6 } else { 17 }
    }

    /// The pseudo header of `l4_len` bytes.
    fn pseudo(&self, packet: &[u8], l4_len: usize) -> Vec<u8> {
        let mut out = if self.v6 {
            packet[8..40].to_vec()
        } else {
            packet[12..20].to_vec()
        };
        out.extend((l4_len as u32).to_be_bytes());
        out.extend([0, 0, 0, self.proto()]);
        out
    }

    /// The packet; its transport checksum complete, or the folded pseudo header sum.
    pub fn build(&self, payload: &[u8], complete: bool) -> Vec<u8> {
        let mut out = Vec::new();
        let total = self.header() + payload.len();
        if self.v6 {
            out.extend([0x60 | self.tos >> 4, self.tos << 4, 0x12, 0x34]);
            out.extend(be((total - 40) as u16));
            out.extend([if self.extension { 60 } else { self.proto() }, self.ttl]);
            out.extend([0xFD, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, self.src]);
            out.extend([0xFD, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 200]);
            if self.extension {
                out.extend([self.proto(), 0, 1, 4, 0, 0, 0, 0]);
            }
        } else {
            out.extend([0x40 | (self.l4() / 4) as u8, self.tos]);
            out.extend(be(total as u16));
            out.extend(be(self.id));
            out.extend([
                if self.df { 0x40 } else { 0 },
                0,
                self.ttl,
                self.proto(),
                0,
                0,
            ]);
            out.extend([10, 0, 0, self.src, 10, 0, 0, 200]);
            if self.extension {
                out.extend([1, 1, 1, 0]);
            }
            let sum = !ones_sum(&out);
            out[10..12].copy_from_slice(&be(sum));
        }
        let l4 = out.len();
        out.extend(be(self.ports.0));
        out.extend(be(self.ports.1));
        if self.tcp {
            out.extend(self.seq.to_be_bytes());
            out.extend(self.ack.to_be_bytes());
            out.extend([((20 + self.options.len()) / 4) as u8 * 16, self.flags]);
            out.extend(be(self.window));
            out.extend([0, 0, 0, 0]);
            out.extend(&self.options);
        } else {
            out.extend(be((8 + payload.len()) as u16));
            out.extend([0, 0]);
        }
        out.extend(payload);
        let field = l4 + if self.tcp { 16 } else { 6 };
        let mut covered = self.pseudo(&out, total - l4);
        let checksum = if complete {
            covered.extend(&out[l4..]);
            match !ones_sum(&covered) {
                0 if !self.tcp => 0xFFFF,
                sum => sum,
            }
        } else {
            ones_sum(&covered)
        };
        out[field..field + 2].copy_from_slice(&be(checksum));
        out
    }
}

impl Sample {
    /// What the kernel hands to a reader of the TUN device.
    pub fn read(&self) -> (Vnet, Vec<u8>) {
        let flow = &self.flow;
        let many = self.payload.len() > self.gso;
        let ecn = if flow.tcp && flow.flags & CWR != 0 {
            GSO_ECN
        } else {
            0
        };
        let gso_type = match (many, flow.tcp, flow.v6) {
            (false, ..) => GSO_NONE,
            (_, false, _) => GSO_UDP_L4,
            (_, true, false) => GSO_TCPV4 | ecn,
            (_, true, true) => GSO_TCPV6 | ecn,
        };
        let vnet = Vnet {
            flags: NEEDS_CSUM,
            gso_type,
            // Nonsense on purpose: it is not to be trusted.
            hdr_len: 0xFFFF,
            gso_size: if many { self.gso as u16 } else { 0 },
            csum_start: flow.l4() as u16,
            csum_offset: if flow.tcp { 16 } else { 6 },
        };
        (vnet, flow.build(&self.payload, false))
    }

    /// The packets that an observer of the line would see.
    pub fn line(&self) -> Vec<Vec<u8>> {
        let chunks: Vec<&[u8]> = if self.payload.is_empty() {
            vec![&[]]
        } else {
            self.payload.chunks(self.gso).collect()
        };
        let last = chunks.len() - 1;
        let mut out = Vec::new();
        for (k, chunk) in chunks.iter().enumerate() {
            let mut flow = self.flow.clone();
            flow.id = flow.id.wrapping_add(k as u16);
            flow.seq = flow.seq.wrapping_add((k * self.gso) as u32);
            if k > 0 {
                flow.flags &= !CWR;
            }
            if k < last {
                flow.flags &= !(PSH | FIN);
            }
            out.push(flow.build(chunk, true));
        }
        out
    }

    /// Datagrams as the engine would seal them, the first with `counter`.
    pub fn datagrams(&self, counter: u64) -> Vec<(Header, Vec<u8>)> {
        let (vnet, mut buf) = self.read();
        datagrams(&vnet, &mut buf, counter)
    }
}

pub fn datagrams(vnet: &Vnet, buf: &mut [u8], counter: u64) -> Vec<(Header, Vec<u8>)> {
    let packet = Super::parse(vnet, buf).unwrap();
    (0..packet.segments())
        .map(|k| {
            let range = packet.prepare(buf, k);
            assert_eq!(range.len(), packet.segment_len(k));
            let header = Header {
                idx: 7,
                counter: counter + k as u64,
                kind: packet.kind(),
                epoch: 3,
                path: 2,
                segment: packet.index(k),
                flags: packet.flags(k),
            };
            (header, buf[range].to_vec())
        })
        .collect()
}

/// Read a packet without extensions back into a flow and its payload; `None` if it is not such a
/// packet.
pub fn dissect(packet: &[u8]) -> Option<(Flow, Vec<u8>)> {
    let v6 = *packet.first()? >> 4 == 6;
    let l4 = if v6 { 40 } else { 20 };
    if packet.len() < l4 || (!v6 && packet[0] != 0x45) {
        return None;
    }
    let (total, proto) = match v6 {
        true => (40 + usize::from(word(packet, 4)), packet[6]),
        false => (usize::from(word(packet, 2)), packet[9]),
    };
    if total > packet.len() || total < l4 || (!v6 && word(packet, 6) & 0x3FFF != 0) {
        return None;
    }
    let packet = &packet[..total];
    let l4_header = match proto {
        6 if total >= l4 + 20 => usize::from(packet[l4 + 12] >> 4) * 4,
        17 if total >= l4 + 8 && usize::from(word(packet, l4 + 4)) == total - l4 => 8,
        _ => return None,
    };
    let tcp = proto == 6;
    if (tcp && l4_header < 20) || l4 + l4_header > total {
        return None;
    }
    let flow = Flow {
        v6,
        tcp,
        extension: false,
        tos: if v6 {
            packet[0] << 4 | packet[1] >> 4
        } else {
            packet[1]
        },
        ttl: packet[if v6 { 7 } else { 8 }],
        df: !v6 && packet[6] & 0x40 != 0,
        id: if v6 { 0 } else { word(packet, 4) },
        src: packet[if v6 { 23 } else { 15 }],
        ports: (word(packet, l4), word(packet, l4 + 2)),
        seq: if tcp {
            u32::from_be_bytes(packet[l4 + 4..l4 + 8].try_into().unwrap())
        } else {
            0
        },
        ack: if tcp {
            u32::from_be_bytes(packet[l4 + 8..l4 + 12].try_into().unwrap())
        } else {
            0
        },
        flags: if tcp { packet[l4 + 13] } else { 0 },
        window: if tcp { word(packet, l4 + 14) } else { 0 },
        options: if tcp {
            packet[l4 + 20..l4 + l4_header].to_vec()
        } else {
            Vec::new()
        },
    };
    Some((flow, packet[l4 + l4_header..].to_vec()))
}

/// Complete the checksums of one datagram, byte by byte in place: the path that knows no gluing.
pub fn per_packet(kind: Kind, bytes: &[u8]) -> Option<Vec<u8>> {
    match kind {
        Kind::Data => {
            let (flow, payload) = dissect(bytes)?;
            let mut out = bytes[..flow.header() + payload.len()].to_vec();
            complete(&mut out, &flow);
            Some(out)
        }
        Kind::Verbatim => {
            let packet = veilnet_wire::ip::parse(bytes)?;
            Some(bytes[..packet.total_len].to_vec())
        }
        _ => None,
    }
}

fn complete(packet: &mut [u8], flow: &Flow) {
    let l4 = flow.l4();
    if !flow.v6 {
        packet[10..12].fill(0);
        let sum = !ones_sum(&packet[..20]);
        packet[10..12].copy_from_slice(&be(sum));
    }
    let field = l4 + if flow.tcp { 16 } else { 6 };
    packet[field..field + 2].fill(0);
    let mut covered = flow.pseudo(packet, packet.len() - l4);
    covered.extend(&packet[l4..]);
    let sum = match !ones_sum(&covered) {
        0 if !flow.tcp => 0xFFFF,
        sum => sum,
    };
    packet[field..field + 2].copy_from_slice(&be(sum));
}

/// What the kernel makes of a write: segments with complete checksums. Panics if the write is not
/// sound.
pub fn kernel(vnet: &Vnet, packet: &[u8]) -> Vec<Vec<u8>> {
    if *vnet == Vnet::default() {
        return vec![packet.to_vec()];
    }
    assert_eq!(vnet.flags, NEEDS_CSUM);
    assert!(packet.len() <= 65_535, "longer than a TUN write may be");
    let (flow, payload) = dissect(packet).expect("a partial packet is a plain one");
    assert_eq!(
        flow.header() + payload.len(),
        packet.len(),
        "the length field is the write's"
    );
    assert_eq!(usize::from(vnet.csum_start), flow.l4());
    assert_eq!(usize::from(vnet.csum_offset), if flow.tcp { 16 } else { 6 });
    assert_eq!(usize::from(vnet.hdr_len), flow.header());
    let field = flow.l4() + if flow.tcp { 16 } else { 6 };
    let pseudo = ones_sum(&flow.pseudo(packet, packet.len() - flow.l4()));
    assert_eq!(
        word(packet, field),
        pseudo,
        "the field holds the folded pseudo header sum"
    );
    if !flow.v6 {
        assert_eq!(
            ones_sum(&packet[..20]),
            0xFFFF,
            "the IPv4 checksum is right"
        );
    }
    let ecn = if flow.tcp && flow.flags & CWR != 0 {
        GSO_ECN
    } else {
        0
    };
    let gso = usize::from(vnet.gso_size);
    if vnet.gso_type == GSO_NONE {
        assert_eq!(gso, 0);
        let mut out = packet.to_vec();
        complete(&mut out, &flow);
        return vec![out];
    }
    let expected = match (flow.tcp, flow.v6) {
        (false, _) => GSO_UDP_L4,
        (true, false) => GSO_TCPV4 | ecn,
        (true, true) => GSO_TCPV6 | ecn,
    };
    assert_eq!(vnet.gso_type, expected);
    assert!(gso >= glue::SMALLEST && payload.len() > gso);
    let count = payload.len().div_ceil(gso);
    assert!(
        count
            <= if flow.tcp {
                glue::SEGMENTS
            } else {
                glue::DATAGRAMS
            }
    );
    let mut out = Vec::new();
    for (k, chunk) in payload.chunks(gso).enumerate() {
        // From the header's bytes, so that bits which Flow does not know survive.
        let mut one = packet[..flow.header()].to_vec();
        one.extend(chunk);
        let (l4, total) = (flow.l4(), flow.header() + chunk.len());
        if flow.v6 {
            one[4..6].copy_from_slice(&be((total - 40) as u16));
        } else {
            one[2..4].copy_from_slice(&be(total as u16));
            one[4..6].copy_from_slice(&be(flow.id.wrapping_add(k as u16)));
        }
        if flow.tcp {
            let seq = flow.seq.wrapping_add((k * gso) as u32);
            one[l4 + 4..l4 + 8].copy_from_slice(&seq.to_be_bytes());
            if k > 0 {
                one[l4 + 13] &= !CWR;
            }
            if k + 1 < count {
                one[l4 + 13] &= !(PSH | FIN);
            }
        } else {
            one[l4 + 4..l4 + 6].copy_from_slice(&be((8 + chunk.len()) as u16));
        }
        complete(&mut one, &flow);
        out.push(one);
    }
    out
}

/// What one delivery of the receive side wrote.
#[derive(Debug, Default)]
pub struct Delivered {
    /// Whole writes: vnet header and packet.
    pub writes: Vec<(Vnet, Vec<u8>)>,
    /// The same as single packets, from `finish_segments`.
    pub packets: Vec<Vec<u8>>,
    pub outcomes: Vec<Outcome>,
}

/// The engine's receive loop with a cipher that only copies. Every datagram is followed by a forged
/// one that fails to open if `forge` says so.
pub fn deliver(datagrams: &[(Header, Vec<u8>)], forge: impl Fn(usize) -> bool) -> Delivered {
    let mut out = Delivered::default();
    let mut buf = vec![0xA5; glue::BUFFER];
    let mut run = Run::new();
    for (n, (header, bytes)) in datagrams.iter().enumerate() {
        if forge(n) {
            run.save(&buf);
            let at = run.place();
            buf[at..at + 1400].fill(0xEE);
            run.restore(&mut buf);
        }
        run.save(&buf);
        let at = run.place();
        buf[at..at + bytes.len()].copy_from_slice(bytes);
        let mut outcome = run.offer(&mut buf, bytes.len(), header);
        out.outcomes.push(outcome);
        if outcome == Outcome::Flush {
            out.write(&mut run, &mut buf);
            outcome = run.advance(&mut buf);
            assert!(matches!(outcome, Outcome::Joined | Outcome::Complete));
        }
        if outcome == Outcome::Complete {
            out.write(&mut run, &mut buf);
        }
    }
    out.write(&mut run, &mut buf);
    out
}

impl Delivered {
    fn write(&mut self, run: &mut Run, buf: &mut [u8]) {
        let mut other = run.clone();
        let mut copy = buf.to_vec();
        let Some(finished) = run.finish(buf) else {
            return;
        };
        let bytes = &buf[finished.range.clone()];
        assert_eq!(Vnet::parse(bytes), Some(finished.vnet));
        self.writes.push((finished.vnet, bytes[VNET..].to_vec()));
        let mut segments = other.finish_segments(&mut copy).unwrap();
        let before = self.packets.len();
        while let Some(range) = segments.next(&mut copy) {
            self.packets.push(copy[range].to_vec());
        }
        assert_eq!(self.packets.len() - before, finished.segments);
    }

    /// Everything the kernel would make of the writes.
    pub fn expanded(&self) -> Vec<Vec<u8>> {
        self.writes
            .iter()
            .flat_map(|(vnet, packet)| kernel(vnet, packet))
            .collect()
    }
}

pub fn flow() -> impl Strategy<Value = Flow> {
    let network = (
        any::<bool>(),
        any::<bool>(),
        any::<u8>(),
        any::<u8>(),
        any::<bool>(),
        any::<u16>(),
    );
    let transport = (
        any::<(u16, u16)>(),
        any::<u32>(),
        any::<u32>(),
        any::<u16>(),
        prop_oneof![
            4 => Just(ACK),
            4 => Just(ACK | PSH),
            1 => Just(ACK | PSH | FIN),
            1 => Just(ACK | CWR),
            1 => Just(ACK | CWR | PSH),
            1 => any::<u8>(),
        ],
        prop_oneof![Just(0usize), Just(12), Just(40)],
    );
    (network, transport).prop_map(
        |((v6, tcp, tos, ttl, df, id), (ports, seq, ack, window, flags, options))| Flow {
            v6,
            tcp,
            extension: false,
            tos,
            ttl,
            df,
            id,
            src: 9,
            ports,
            seq,
            ack,
            flags: if tcp { flags } else { 0 },
            window,
            options: if tcp {
                (0..options as u8).collect()
            } else {
                Vec::new()
            },
        },
    )
}

pub fn sample() -> impl Strategy<Value = Sample> {
    let gso = prop_oneof![6 => 256usize..1500, 1 => 1usize..256, 1 => 1500usize..9000];
    (
        flow(),
        gso,
        0usize..70,
        any::<prop::sample::Index>(),
        any::<u8>(),
    )
        .prop_map(|(flow, gso, full, odd, seed)| {
            let room = 65_535 - 40 - flow.header();
            let length = (full * gso + odd.index(gso + 1)).min(room);
            let payload = (0..length)
                .map(|n| (n * 7 + n / 251) as u8 ^ seed)
                .collect();
            Sample { flow, payload, gso }
        })
}
