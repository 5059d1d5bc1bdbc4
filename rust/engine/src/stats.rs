//! Figures for Python: plain copies, taken between two batches.

use crate::session::Session;
use std::net::SocketAddr;

#[derive(Clone, Debug, Default)]
pub struct EngineStats {
    pub rx_datagrams: u64,
    pub tx_datagrams: u64,
    pub rx_unknown: u64,
    pub tun_reads: u64,
    pub tun_writes: u64,
    pub rx_calls: u64,
    pub tx_calls: u64,
    pub vnet_hdr: bool,
    pub udp_gso: bool,
    pub udp_gro: bool,
    pub wakeups: u64,
}

/// Durations are nanoseconds, `*_ago` counted from now.
#[derive(Clone, Debug)]
pub struct SessionStats {
    pub sid: u32,
    pub remote_sid: u32,
    pub endpoint: SocketAddr,
    pub generation: u64,
    pub step_tx: u64,
    pub step_rx: u64,
    pub confirmed: bool,
    pub tx_packets: u64,
    pub rx_packets: u64,
    pub tx_bytes: u64,
    pub rx_bytes: u64,
    pub rejected: u64,
    pub rtt_ns: Option<u64>,
    pub heard_ago: Option<u64>,
    pub sent_ago: Option<u64>,
    pub data_ago: Option<u64>,
    pub age_ns: u64,
    pub rekeyed_ago: u64,
    pub mtu_bytes: usize,
}

impl SessionStats {
    #[must_use]
    pub(crate) fn of(s: &Session, now_ns: u64) -> SessionStats {
        let ago = |at: u64| now_ns.saturating_sub(at);
        SessionStats {
            sid: s.sid,
            remote_sid: s.remote_sid,
            endpoint: s.endpoint,
            generation: s.tx.epoch.generation,
            step_tx: s.tx.epoch.step,
            step_rx: s.epoch_rx().step,
            confirmed: s.confirmed,
            tx_packets: s.counters.tx_packets,
            rx_packets: s.counters.rx_packets,
            tx_bytes: s.counters.tx_bytes,
            rx_bytes: s.counters.rx_bytes,
            rejected: s.counters.rejected,
            rtt_ns: s.srtt_ns,
            heard_ago: s.heard_ns.map(ago),
            sent_ago: s.sent_ns.map(ago),
            data_ago: s.data_ns.map(ago),
            age_ns: ago(s.created_ns),
            rekeyed_ago: ago(s.rekeyed_ns),
            mtu_bytes: s.mtu.size(),
        }
    }
}
