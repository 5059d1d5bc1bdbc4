//! Hash, Extract and Expand with length-prefixed inputs.
//!
//! Every use is `label, input, input ...`; each of them, the label too, is preceded by its
//! length as 4 bytes big endian, so that no two lists of inputs give the same bytes.
//! Extract and Expand are HKDF (RFC 5869) over AWS-LC's HMAC.

use aws_lc_rs::{digest, hmac};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::error::{Error, Result};
use crate::labels::Label;
use crate::suite::Suite;

/// A secret as long as the suite's hash (or 32 bytes for SHA-256); wiped on drop, never printed.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub(crate) struct Secret {
    bytes: [u8; 64],
    len: usize,
}

impl Secret {
    fn from_tag(tag: &hmac::Tag) -> Secret {
        let mut bytes = [0; 64];
        let mut len = 0;
        for (to, from) in bytes.iter_mut().zip(tag.as_ref()) {
            *to = *from;
            len += 1;
        }
        Secret { bytes, len }
    }
    pub(crate) fn as_slice(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

fn prefix(input: &[u8]) -> [u8; 4] {
    // Inputs are bounded far below 2^32 by the formats; a longer one would only shorten its prefix.
    (input.len() as u32).to_be_bytes()
}

/// Hash(label, inputs) under the suite's hash.
pub(crate) fn hash(suite: Suite, label: Label, inputs: &[&[u8]]) -> Vec<u8> {
    let mut context = digest::Context::new(suite.digest());
    context.update(&prefix(label.text.as_bytes()));
    context.update(label.text.as_bytes());
    for input in inputs {
        context.update(&prefix(input));
        context.update(input);
    }
    context.finish().as_ref().to_vec()
}

/// The first N bytes of Hash(label, inputs).
pub(crate) fn hash_cut<const N: usize>(
    suite: Suite,
    label: Label,
    inputs: &[&[u8]],
) -> Result<[u8; N]> {
    hash(suite, label, inputs)
        .first_chunk::<N>()
        .copied()
        .ok_or(Error::Crypto("hash"))
}

/// HKDF-Extract.
pub(crate) fn extract(suite: Suite, salt: &[u8], inputs: &[&[u8]]) -> Secret {
    let mut context = hmac::Context::with_key(&hmac::Key::new(suite.hmac(), salt));
    for input in inputs {
        context.update(input);
    }
    Secret::from_tag(&context.sign())
}

/// HKDF-Expand with the label and inputs as info.
pub(crate) fn expand(
    algorithm: hmac::Algorithm,
    secret: &[u8],
    label: Label,
    inputs: &[&[u8]],
    out: &mut [u8],
) {
    let key = hmac::Key::new(algorithm, secret);
    let mut previous = Zeroizing::new(Vec::new());
    for (index, chunk) in out.chunks_mut(algorithm.tag_len()).enumerate() {
        let mut context = hmac::Context::with_key(&key);
        context.update(&previous);
        context.update(&prefix(label.text.as_bytes()));
        context.update(label.text.as_bytes());
        for input in inputs {
            context.update(&prefix(input));
            context.update(input);
        }
        context.update(&[index as u8 + 1]);
        let tag = context.sign();
        for (to, from) in chunk.iter_mut().zip(tag.as_ref()) {
            *to = *from;
        }
        *previous = tag.as_ref().to_vec();
    }
}

/// HKDF-Expand to one secret of the hash's length.
pub(crate) fn expand_secret(
    suite: Suite,
    secret: &Secret,
    label: Label,
    inputs: &[&[u8]],
) -> Secret {
    let mut out = Secret {
        bytes: [0; 64],
        len: suite.hash_len(),
    };
    if let Some(target) = out.bytes.get_mut(..suite.hash_len()) {
        expand(suite.hmac(), secret.as_slice(), label, inputs, target);
    }
    out
}
