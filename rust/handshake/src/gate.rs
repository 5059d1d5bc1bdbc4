//! The first contact gate (skeleton).
use crate::{Action, Established, Init, KeySchedule, Result, Rng, error::Error};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
/// Everything before a session exists, both roles.
pub struct Gate {}
#[allow(missing_docs, clippy::too_many_arguments)]
impl Gate {
    pub fn new(_rng: &mut dyn Rng) -> Result<Gate> {
        Ok(Gate {})
    }
    pub fn add_door(&mut self, _key: &[u8; 32], _replay_set: bool) -> Result<u32> {
        Err(Error::State("not built"))
    }
    pub fn remove_door(&mut self, _id: u32) -> Result<()> {
        Err(Error::State("not built"))
    }
    /// True when something was sent; false when a budget (or the one-HELLO rule of a bare hint) forbade it.
    pub fn hello(
        &mut self,
        _schedule: &Arc<Mutex<KeySchedule>>,
        _door_key: &[u8; 32],
        _to: SocketAddr,
        _bare_hint: bool,
        _now_ns: u64,
        _rng: &mut dyn Rng,
        _out: &mut Vec<Action>,
    ) -> Result<bool> {
        Err(Error::State("not built"))
    }
    pub fn candidate(
        &mut self,
        _sid: u32,
        _candidate: u32,
        _ss: &[u8],
        _now_ns: u64,
        _out: &mut Vec<Action>,
    ) -> Result<bool> {
        Err(Error::State("not built"))
    }
    /// Initiator: the opened RESP does not verify; forget that candidate and go on with the others.
    pub fn reject(&mut self, _sid: u32, _now_ns: u64, _out: &mut Vec<Action>) -> Result<()> {
        Err(Error::State("not built"))
    }
    pub fn authenticate(
        &mut self,
        _sid: u32,
        _e3: Vec<u8>,
        _psk: Option<&[u8; 32]>,
        _now_ns: u64,
        _out: &mut Vec<Action>,
    ) -> Result<Established> {
        Err(Error::State("not built"))
    }
    pub fn resend(&mut self, _sid: u32, _now_ns: u64, _out: &mut Vec<Action>) -> Result<()> {
        Err(Error::State("not built"))
    }
    pub fn respond(
        &mut self,
        _schedule: &Arc<Mutex<KeySchedule>>,
        _init: &Init,
        _e2: Vec<u8>,
        _now_ns: u64,
        _rng: &mut dyn Rng,
        _out: &mut Vec<Action>,
    ) -> Result<()> {
        Err(Error::State("not built"))
    }
    pub fn accept(
        &mut self,
        _sid: u32,
        _psk: Option<&[u8; 32]>,
        _now_ns: u64,
        _out: &mut Vec<Action>,
    ) -> Result<Established> {
        Err(Error::State("not built"))
    }
    pub fn abandon(&mut self, _sid: u32) {}
    /// Responder: Python will not answer this Init; frees its place.
    pub fn dismiss(&mut self, _com: &[u8; 32]) {}
    pub fn receive(
        &mut self,
        _datagram: &mut [u8],
        _source: SocketAddr,
        _now_ns: u64,
        _rng: &mut dyn Rng,
        _out: &mut Vec<Action>,
    ) -> bool {
        false
    }
    pub fn expire(&mut self, _now_ns: u64) {}
    /// When `expire` has something to do next, if ever.
    pub fn next_expiry(&self) -> Option<u64> {
        None
    }
    pub fn seen_coms(&self) -> Vec<[u8; 32]> {
        Vec::new()
    }
    pub fn load_coms(&mut self, _coms: &[[u8; 32]]) {}
}
