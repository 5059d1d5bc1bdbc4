//! What a probe and a report say. Both ride in the data class and look like data on the wire.
//!
//! ```text
//! probe    0 request, 1 answer u8 | id u64 | padding
//! report   generation u64 | step u64 | highest data counter u64      of what the sender received
//! ```

use crate::keys::Epoch;

/// A probe without padding.
pub const PROBE: usize = 9;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    Request(u64),
    Answer(u64),
}

impl Probe {
    #[must_use]
    pub fn emit(self) -> [u8; PROBE] {
        let (kind, id) = match self {
            Probe::Request(id) => (0, id),
            Probe::Answer(id) => (1, id),
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
            _ => None,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    pub epoch: Epoch,
    pub highest: u64,
}

impl Report {
    #[must_use]
    pub fn emit(self) -> [u8; 24] {
        let mut body = [0; 24];
        let words = [self.epoch.generation, self.epoch.step, self.highest];
        for (room, word) in body.chunks_exact_mut(8).zip(words) {
            room.copy_from_slice(&word.to_be_bytes());
        }
        body
    }

    #[must_use]
    pub fn parse(body: &[u8]) -> Option<Report> {
        let word = |at: usize| {
            body.get(at..)?
                .first_chunk()
                .map(|b| u64::from_be_bytes(*b))
        };
        let epoch = Epoch {
            generation: word(0)?,
            step: word(8)?,
        };
        Some(Report {
            epoch,
            highest: word(16)?,
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
        fn round_trip(id: u64, generation: u64, step: u64, highest: u64, junk: Vec<u8>) {
            for probe in [Probe::Request(id), Probe::Answer(id)] {
                prop_assert_eq!(Probe::parse(&probe.emit()), Some(probe));
            }
            let report = Report { epoch: Epoch { generation, step }, highest };
            prop_assert_eq!(Report::parse(&report.emit()), Some(report));
            let (_, _) = (Probe::parse(&junk), Report::parse(&junk));
        }
    }
}
