//! The key schedule (skeleton).
use crate::{Init, Mode, Result, Rng, Suite, error::Error};
/// The secrets of one handshake and of the session that grows from it.
pub struct KeySchedule {}
/// One new generation.
pub struct NextGeneration {
    /// What to send to the peer.
    pub message: Vec<u8>,
    /// Keys of the new generation.
    pub keys: crate::SessionKeys,
}
#[allow(missing_docs, clippy::too_many_arguments)]
impl KeySchedule {
    pub fn initiate(
        _suite: Suite,
        _mode: Mode,
        _network_id: &[u8],
        _secret: &[u8],
        _responder_id: &[u8; 32],
        _ek: &[u8],
        _rng: &mut dyn Rng,
    ) -> Result<KeySchedule> {
        Err(Error::State("not built"))
    }
    pub fn respond(
        _init: &Init,
        _network_id: &[u8],
        _secret: &[u8],
        _responder_id: &[u8; 32],
        _ct: &[u8],
        _ss: &[u8],
        _rng: &mut dyn Rng,
    ) -> Result<KeySchedule> {
        Err(Error::State("not built"))
    }
    pub fn local_sid(&self) -> u32 {
        0
    }
    pub fn next_begin(&mut self, _ek: &[u8], _rng: &mut dyn Rng) -> Result<Vec<u8>> {
        Err(Error::State("not built"))
    }
    pub fn next_ek(&self, _message: &[u8]) -> Result<Vec<u8>> {
        Err(Error::State("not built"))
    }
    pub fn next_respond(
        &mut self,
        _message: &[u8],
        _ct: &[u8],
        _ss: &[u8],
        _rng: &mut dyn Rng,
    ) -> Result<NextGeneration> {
        Err(Error::State("not built"))
    }
    pub fn next_ct(&self, _message: &[u8]) -> Result<Vec<u8>> {
        Err(Error::State("not built"))
    }
    pub fn next_finish(&mut self, _message: &[u8], _ss: &[u8]) -> Result<NextGeneration> {
        Err(Error::State("not built"))
    }
    pub fn next_confirm(&mut self, _message: &[u8]) -> Result<()> {
        Err(Error::State("not built"))
    }
    pub fn next_abort(&mut self) {}
    pub fn generation(&self) -> Option<u64> {
        None
    }
    pub fn fingerprint(&self) -> Result<[u8; 32]> {
        Err(Error::State("not built"))
    }
}
