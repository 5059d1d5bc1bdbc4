//! How several datagrams make one message or one stream: each with its length in front.
//!
//! ```text
//! record = length u16 | datagram of 1 to 1,500 bytes
//! ```

use std::ops::Range;

/// A datagram of a record.
pub const LONGEST: usize = 1500;
const LENGTH: usize = 2;

/// Append `datagram` as a record; false if it is too long for one.
#[must_use]
pub fn put(message: &mut Vec<u8>, datagram: &[u8]) -> bool {
    if datagram.is_empty() || datagram.len() > LONGEST {
        return false;
    }
    message.extend_from_slice(&(datagram.len() as u16).to_be_bytes());
    message.extend_from_slice(datagram);
    true
}

/// Where in `bytes` the datagram of the record at `at` lies; None if no whole record is left.
#[must_use]
pub fn record(bytes: &[u8], at: usize) -> Option<Range<usize>> {
    let len = usize::from(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?));
    let start = at + LENGTH;
    (bytes.len() >= start + len).then_some(start..start + len)
}

/// How many bytes of `stream` are whole records; None if it breaks the format.
#[must_use]
pub fn whole(stream: &[u8]) -> Option<usize> {
    let mut at = 0;
    while let Some(length) = stream.get(at..).and_then(<[u8]>::first_chunk::<LENGTH>) {
        let len = usize::from(u16::from_be_bytes(*length));
        if len == 0 || len > LONGEST {
            return None;
        }
        if at + LENGTH + len > stream.len() {
            break;
        }
        at += LENGTH + len;
    }
    Some(at)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Records come out as they went in, however the stream is cut; no bytes do harm.
        #[test]
        fn records_come_out(
            datagrams in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..300), 1..20),
            cut: prop::sample::Index,
            junk: Vec<u8>,
        ) {
            let mut stream = Vec::new();
            for each in &datagrams {
                prop_assert!(put(&mut stream, each));
            }
            let cut = cut.index(stream.len() + 1);
            let done = whole(&stream[..cut]).unwrap();
            let (mut at, mut got) = (0, Vec::new());
            while let Some(range) = record(&stream[..done], at) {
                at = range.end;
                got.push(stream[range].to_vec());
            }
            prop_assert_eq!(at, done);
            prop_assert_eq!(&got[..], &datagrams[..got.len()]);
            prop_assert_eq!(done == stream.len(), got.len() == datagrams.len());
            let (_, _) = (whole(&junk), record(&junk, 0));
        }
    }

    /// Too long and empty datagrams make no record, and a stream that has one is refused.
    #[test]
    fn bounds_hold() {
        let mut message = Vec::new();
        assert!(!put(&mut message, &[]) && !put(&mut message, &[0; LONGEST + 1]));
        assert!(message.is_empty() && put(&mut message, &[7; LONGEST]));
        assert_eq!(whole(&message), Some(LONGEST + 2));
        assert_eq!(whole(&[0, 0, 1]), None);
        assert_eq!(whole(&[0xff, 0xff, 1]), None);
    }
}
