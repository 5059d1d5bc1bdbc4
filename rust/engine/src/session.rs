//! One session as the data thread sees it: keys, where the peer is, and its clocks.

use crate::early::Early;
use crate::failover::Calm;
use crate::flows::{self, Flows};
use crate::keys::{Epoch, PathIds, RxKeys, TxKeys};
use crate::path::Path;
use crate::prefix::Prefix;
use crate::sys::crypto::Mask;
use std::net::SocketAddr;
use veilnet_handshake::{OsRng, Rng as _};

/// After so much silence a datagram is masked with the peer's return key (its NAT may have moved).
pub const MASK_SILENCE_NS: u64 = 1_000_000_000;
/// After so much unanswered sending Python is told.
pub const SILENT_NS: u64 = 1_500_000_000;
/// What must not go unheard (silence, keys at their limit) is told again after this.
pub const TELL_AGAIN_NS: u64 = 5_000_000_000;
/// Keepalives come log-uniformly between these: no clock to recognise.
pub const KEEPALIVE_NS: (f64, f64) = (8e9, 28e9);
/// The other end takes over within so long, if the one that sends them does not.
const STAND_IN_NS: f64 = 2e9;

#[derive(Clone, Copy, Debug, Default)]
pub struct Counters {
    pub tx_packets: u64,
    pub rx_packets: u64,
    pub tx_bytes: u64,
    pub rx_bytes: u64,
    pub rejected: u64,
}

pub struct Session {
    pub sid: u32,
    pub remote_sid: u32,
    pub initiator: bool,
    /// Anonymous, for control alone: no data, no further paths, no circuits, no new keys.
    pub lookup: bool,
    pub confirmed: bool,
    /// th4, until the ACK that carries it came.
    pub th4: Vec<u8>,
    /// Initiator: whatever is authentic confirms, not the ACK alone.
    pub confirmed_by_any: bool,
    /// Responder, until the peer has its addresses: data that waits.
    pub early: Option<Early>,
    /// The sealed ACK, for a peer that lost it.
    pub ack: Option<Vec<u8>>,
    /// At least one. The first is the handshake's, unless it was closed.
    pub paths: Vec<Path>,
    pub flows: Flows,
    pub calm: Calm,
    /// Path ids given out in this generation.
    pub path_ids: PathIds,
    pub mask_tx: Mask,
    pub mask_rx: Mask,
    pub return_mask: Option<Mask>,
    pub tx: TxKeys,
    /// Agreed, but sending moves to it with the peer's first datagram under it.
    pub tx_next: Option<TxKeys>,
    pub rx: RxKeys,
    pub sources: Vec<Prefix>,
    pub counters: Counters,
    pub created_ns: u64,
    pub rekeyed_ns: u64,
    pub heard_ns: Option<u64>,
    pub sent_ns: Option<u64>,
    pub data_ns: Option<u64>,
    /// Since when something that must be answered is unanswered.
    pub waiting_ns: Option<u64>,
    pub silent_told_ns: Option<u64>,
    pub stale_told_ns: Option<u64>,
    pub keepalive_ns: u64,
    /// The earliest of this session's deadlines.
    pub timer_ns: u64,
}

impl Session {
    /// Note that something authentic came.
    #[inline]
    pub fn heard(&mut self, now_ns: u64) {
        self.heard_ns = Some(now_ns);
        self.waiting_ns = None;
        self.silent_told_ns = None;
    }

    /// Note that a probe goes one way and its answer the other: the next is due later, and is the
    /// business of who sent this one (*ours*) unless that end is gone.
    pub fn kept_alive(&mut self, ours: bool, now_ns: u64) {
        self.keepalive_ns = now_ns + keepalive_gap(ours);
    }

    /// Note that something was sent, and whether the peer must answer it.
    #[inline]
    pub fn sent(&mut self, now_ns: u64, answer_owed: bool) {
        self.sent_ns = Some(now_ns);
        if answer_owed && self.waiting_ns.is_none() {
            self.waiting_ns = Some(now_ns);
            self.timer_ns = self.timer_ns.min(now_ns + SILENT_NS);
        }
    }

    /// The mask for what is sent now.
    #[inline]
    #[must_use]
    pub fn mask(&self, now_ns: u64) -> &Mask {
        match (&self.return_mask, self.waiting_ns) {
            (Some(mask), Some(since)) if now_ns.saturating_sub(since) > MASK_SILENCE_NS => mask,
            _ => &self.mask_tx,
        }
    }

    /// The place of the path that carries most: control messages take it too.
    #[inline]
    #[must_use]
    pub fn main(&self) -> usize {
        if self.paths.len() < 2 {
            return 0;
        }
        let carrying = self
            .paths
            .iter()
            .enumerate()
            .filter(|(_, p)| p.share > 0.0 && p.usable())
            .max_by(|(_, a), (_, b)| a.share.total_cmp(&b.share));
        carrying.map_or_else(|| flows::fallback(&self.paths), |(at, _)| at)
    }

    /// The place of the direct path that carries relay frames: a link never takes a detour.
    #[inline]
    #[must_use]
    pub fn link(&self) -> Option<usize> {
        self.paths
            .iter()
            .enumerate()
            .filter(|(_, p)| p.circuit.is_none())
            .min_by_key(|(_, p)| (!p.usable(), p.meter.srtt_ns.unwrap_or(u64::MAX)))
            .map(|(at, _)| at)
    }

    /// The place of the path with this id.
    #[inline]
    #[must_use]
    pub fn place(&self, id: u8) -> Option<usize> {
        self.paths.iter().position(|p| p.id == id)
    }

    #[must_use]
    pub fn main_path(&self) -> Option<&Path> {
        self.paths.get(self.main())
    }

    /// Whether one of its paths goes there.
    #[must_use]
    pub fn is_at(&self, source: SocketAddr) -> bool {
        self.paths.iter().any(|p| p.endpoint == source)
    }

    #[must_use]
    pub fn epoch_rx(&self) -> Epoch {
        self.rx.current()
    }

    #[inline]
    #[must_use]
    pub fn owns(&self, source: std::net::IpAddr) -> bool {
        self.sources.iter().any(|p| p.contains(source))
    }
}

fn keepalive_gap(ours: bool) -> u64 {
    let (low, high) = KEEPALIVE_NS;
    if ours {
        (low * (high / low).powf(chance())) as u64
    } else {
        (high + STAND_IN_NS * chance()) as u64
    }
}

/// A number from 0 to 1 that nobody can foretell.
pub fn chance() -> f64 {
    let mut random = [0u8; 4];
    let _ = OsRng.fill(&mut random);
    f64::from(u32::from_be_bytes(random)) / f64::from(u32::MAX)
}
