//! What a probe and a report say. Both ride in the data class and look like data on the wire.
//!
//! ```text
//! probe    0 request, 1 answer, 2 left u8 | id u64 | padding
//! report   generation u32 | step u32 | highest data counter u64 | received u32 | bytes u32 | held us u32
//! ```

use crate::keys::Epoch;

/// A probe without padding.
pub const PROBE: usize = 9;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    Request(u64),
    Answer(u64),
    /// The sender gave up the path of this id, because it was silent, and sends on this one.
    Left(u8),
}

impl Probe {
    #[must_use]
    pub fn emit(self) -> [u8; PROBE] {
        let (kind, id) = match self {
            Probe::Request(id) => (0, id),
            Probe::Answer(id) => (1, id),
            Probe::Left(path) => (2, path.into()),
        };
        let [a, b, c, d, e, f, g, h] = id.to_be_bytes();
        [kind, a, b, c, d, e, f, g, h]
    }

    #[must_use]
    pub fn parse(body: &[u8]) -> Option<Probe> {
        let (kind, rest) = body.split_first()?;
        let id = u64::from_be_bytes(*rest.first_chunk()?);
        match kind {
            0 => Some(Probe::Request(id)),
            1 => Some(Probe::Answer(id)),
            2 => u8::try_from(id).ok().map(Probe::Left),
            _ => None,
        }
    }
}

/// Bytes of a report.
pub const REPORT: usize = 28;

/// What came over one path, told over the same path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    pub epoch: Epoch,
    /// The highest data counter under that epoch's key of this path.
    pub highest: u64,
    /// Datagrams of the data class since the path was opened, modulo 2^32.
    pub received: u32,
    /// Their bytes, modulo 2^32.
    pub bytes: u32,
    /// How long ago the highest came.
    pub held_us: u32,
}

impl Report {
    #[must_use]
    pub fn emit(self) -> [u8; REPORT] {
        let mut body = [0; REPORT];
        let words = [
            self.epoch.generation as u32,
            self.epoch.step as u32,
            (self.highest >> 32) as u32,
            self.highest as u32,
            self.received,
            self.bytes,
            self.held_us,
        ];
        for (room, word) in body.chunks_exact_mut(4).zip(words) {
            room.copy_from_slice(&word.to_be_bytes());
        }
        body
    }

    #[must_use]
    pub fn parse(body: &[u8]) -> Option<Report> {
        let body: &[u8; REPORT] = body.first_chunk()?;
        let mut words = body
            .chunks_exact(4)
            .filter_map(|w| w.try_into().ok().map(u32::from_be_bytes));
        let mut next = || words.next();
        Some(Report {
            epoch: Epoch {
                generation: next()?.into(),
                step: next()?.into(),
            },
            highest: u64::from(next()?) << 32 | u64::from(next()?),
            received: next()?,
            bytes: next()?,
            held_us: next()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// What is emitted is what is parsed, and no bytes do harm.
        #[test]
        fn round_trip(id: u64, path: u8, words: [u32; 5], highest: u64, junk: Vec<u8>) {
            for probe in [Probe::Request(id), Probe::Answer(id), Probe::Left(path)] {
                prop_assert_eq!(Probe::parse(&probe.emit()), Some(probe));
            }
            let [generation, step, received, bytes, held_us] = words;
            let epoch = Epoch { generation: generation.into(), step: step.into() };
            let report = Report { epoch, highest, received, bytes, held_us };
            prop_assert_eq!(Report::parse(&report.emit()), Some(report));
            let (_, _) = (Probe::parse(&junk), Report::parse(&junk));
        }
    }
}
