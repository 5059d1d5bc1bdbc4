//! The header mask of mist: what makes the 16 header bytes look like the ciphertext behind them.

use aws_lc_rs::cipher::{AES_256, EncryptingKey, UnboundCipherKey};

use crate::error::{Error, Result};

/// Bytes of a datagram header, and of a tag.
const BLOCK: usize = 16;

/// One direction's header mask: XOR with AES-256(key, last 16 bytes of the datagram).
pub struct Mask(EncryptingKey);

impl Mask {
    /// A mask under *key*.
    pub fn new(key: &[u8; 32]) -> Result<Mask> {
        let unbound =
            UnboundCipherKey::new(&AES_256, key).map_err(|_| Error::Crypto("AES-256 key"))?;
        EncryptingKey::ecb(unbound)
            .map(Mask)
            .map_err(|_| Error::Crypto("AES-256 key"))
    }

    /// Mask or unmask *datagram* in place; it must hold a header and a tag (32 bytes).
    pub fn apply(&self, datagram: &mut [u8]) -> Result<()> {
        let length = datagram.len();
        let pad = self.pad(datagram)?;
        let header = datagram.first_chunk_mut::<BLOCK>().ok_or(Error::Length {
            what: "datagram",
            expected: 2 * BLOCK,
            got: length,
        })?;
        xor(header, &pad);
        Ok(())
    }

    /// The unmasked header of *datagram*, which stays as it is.
    pub fn header(&self, datagram: &[u8]) -> Result<[u8; BLOCK]> {
        let pad = self.pad(datagram)?;
        let mut header = datagram.first_chunk::<BLOCK>().copied().unwrap_or_default();
        xor(&mut header, &pad);
        Ok(header)
    }

    fn pad(&self, datagram: &[u8]) -> Result<[u8; BLOCK]> {
        let short = Error::Length {
            what: "datagram",
            expected: 2 * BLOCK,
            got: datagram.len(),
        };
        if datagram.len() < 2 * BLOCK {
            return Err(short);
        }
        let mut block = *datagram.last_chunk::<BLOCK>().ok_or(short)?;
        self.0
            .encrypt(&mut block)
            .map_err(|_| Error::Crypto("AES-256 block"))?;
        Ok(block)
    }
}

fn xor(header: &mut [u8; BLOCK], pad: &[u8; BLOCK]) {
    for (byte, pad) in header.iter_mut().zip(pad) {
        *byte ^= pad;
    }
}
