//! AES-256-GCM out of place and the header mask, straight from AWS-LC.
//!
//! `aws-lc-rs` seals in place only; sealing from the TUN buffer into the send slab saves a copy.

use aws_lc_sys as lc;
use std::ptr::NonNull;
use veilnet_handshake::DirectionKey;

pub const TAG: usize = 16;

/// One AES-256-GCM key with its IV; the nonce is the IV xor a 64-bit counter.
pub struct Aead {
    ctx: NonNull<lc::EVP_AEAD_CTX>,
    iv: [u8; 12],
}

// SAFETY: an EVP_AEAD_CTX is immutable after creation and has no thread affinity.
unsafe impl Send for Aead {}

impl Aead {
    #[must_use]
    pub fn new(key: &DirectionKey) -> Option<Aead> {
        // SAFETY: key and length are those of AES-256; the context is checked for null.
        let ctx = unsafe {
            lc::EVP_AEAD_CTX_new(
                lc::EVP_aead_aes_256_gcm(),
                key.key.as_ptr(),
                key.key.len(),
                TAG,
            )
        };
        Some(Aead {
            ctx: NonNull::new(ctx)?,
            iv: key.iv,
        })
    }

    #[inline]
    fn nonce(&self, counter: u64) -> [u8; 12] {
        let mut nonce = self.iv;
        for (n, c) in nonce[4..].iter_mut().zip(counter.to_be_bytes()) {
            *n ^= c;
        }
        nonce
    }

    /// Seal `plain` into `out` (exactly `plain.len() + TAG` bytes).
    #[inline]
    #[must_use]
    pub fn seal(&self, counter: u64, aad: &[u8; 16], plain: &[u8], out: &mut [u8]) -> bool {
        if out.len() != plain.len() + TAG {
            return false;
        }
        #[cfg(feature = "cleartext")]
        {
            out[..plain.len()].copy_from_slice(plain);
            out[plain.len()..].fill(0);
            return true;
        }
        #[cfg(not(feature = "cleartext"))]
        {
            let nonce = self.nonce(counter);
            let mut written = 0;
            // SAFETY: all pointers come from live slices, with their lengths; `out` and `plain`
            // cannot overlap (one is borrowed mutably).
            let ok = unsafe {
                lc::EVP_AEAD_CTX_seal(
                    self.ctx.as_ptr(),
                    out.as_mut_ptr(),
                    &mut written,
                    out.len(),
                    nonce.as_ptr(),
                    nonce.len(),
                    plain.as_ptr(),
                    plain.len(),
                    aad.as_ptr(),
                    aad.len(),
                )
            };
            ok == 1 && written == out.len()
        }
    }

    /// Open `sealed` (ciphertext and tag) into `out` (exactly `sealed.len() - TAG` bytes).
    /// On failure `out` is wiped.
    #[inline]
    #[must_use]
    pub fn open(&self, counter: u64, aad: &[u8; 16], sealed: &[u8], out: &mut [u8]) -> bool {
        if sealed.len() < TAG || out.len() != sealed.len() - TAG {
            return false;
        }
        #[cfg(feature = "cleartext")]
        {
            out.copy_from_slice(&sealed[..sealed.len() - TAG]);
            return true;
        }
        #[cfg(not(feature = "cleartext"))]
        {
            let nonce = self.nonce(counter);
            let mut written = 0;
            // SAFETY: as in `seal`.
            let ok = unsafe {
                lc::EVP_AEAD_CTX_open(
                    self.ctx.as_ptr(),
                    out.as_mut_ptr(),
                    &mut written,
                    out.len(),
                    nonce.as_ptr(),
                    nonce.len(),
                    sealed.as_ptr(),
                    sealed.len(),
                    aad.as_ptr(),
                    aad.len(),
                )
            };
            ok == 1 && written == out.len()
        }
    }

    /// Open `sealed` (ciphertext and tag) where it stands: the plaintext is all but its last `TAG`
    /// bytes. On failure it is wiped.
    #[inline]
    #[must_use]
    pub fn open_in_place(&self, counter: u64, aad: &[u8; 16], sealed: &mut [u8]) -> bool {
        let Some(len) = sealed.len().checked_sub(TAG) else {
            return false;
        };
        #[cfg(feature = "cleartext")]
        {
            let _ = (counter, aad, len);
            true
        }
        #[cfg(not(feature = "cleartext"))]
        {
            let nonce = self.nonce(counter);
            let mut written = 0;
            let at = sealed.as_mut_ptr();
            // SAFETY: one live slice; AWS-LC allows the output to be exactly the input.
            let ok = unsafe {
                lc::EVP_AEAD_CTX_open(
                    self.ctx.as_ptr(),
                    at,
                    &mut written,
                    len,
                    nonce.as_ptr(),
                    nonce.len(),
                    at,
                    sealed.len(),
                    aad.as_ptr(),
                    aad.len(),
                )
            };
            ok == 1 && written == len
        }
    }
}

impl Drop for Aead {
    fn drop(&mut self) {
        // SAFETY: the pointer came from EVP_AEAD_CTX_new and is freed once; AWS-LC wipes it.
        unsafe { lc::EVP_AEAD_CTX_free(self.ctx.as_ptr()) };
    }
}

/// The mist header mask: one AES-256 block over a ciphertext sample.
pub struct Mask(Box<lc::AES_KEY>);

// SAFETY: an AES_KEY is plain data.
unsafe impl Send for Mask {}

impl Mask {
    #[must_use]
    pub fn new(key: &[u8; 32]) -> Mask {
        // SAFETY: AES_KEY is plain data and is fully set by the call; 256 bits is a valid size.
        let mut schedule: Box<lc::AES_KEY> = Box::new(unsafe { std::mem::zeroed() });
        unsafe { lc::AES_set_encrypt_key(key.as_ptr(), 256, &mut *schedule) };
        Mask(schedule)
    }

    /// The datagram's first 16 bytes with the mask taken off (or put on), the sample being its
    /// last 16. None if it is too short to be one of ours.
    #[inline]
    #[must_use]
    pub fn header(&self, datagram: &[u8]) -> Option<[u8; 16]> {
        if datagram.len() < 32 {
            return None;
        }
        let mut header: [u8; 16] = *datagram.first_chunk()?;
        let sample: &[u8; 16] = datagram.last_chunk()?;
        let mut pad = [0u8; 16];
        // SAFETY: both are 16-byte blocks and the schedule was set in `new`.
        unsafe { lc::AES_encrypt(sample.as_ptr(), pad.as_mut_ptr(), &*self.0) };
        for (h, p) in header.iter_mut().zip(pad) {
            *h ^= p;
        }
        Some(header)
    }

    /// Mask the header of a sealed datagram in place.
    #[inline]
    pub fn apply(&self, datagram: &mut [u8]) {
        if let Some(masked) = self.header(datagram)
            && let Some(header) = datagram.first_chunk_mut()
        {
            *header = masked;
        }
    }
}

impl Drop for Mask {
    fn drop(&mut self) {
        let size = std::mem::size_of::<lc::AES_KEY>();
        // SAFETY: wiping plain data that this value owns.
        unsafe { lc::OPENSSL_cleanse((&raw mut *self.0).cast(), size) };
    }
}
