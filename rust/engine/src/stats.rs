//! Figures for Python: plain copies, taken between two batches.

use crate::path::{Path, State};
use crate::session::Session;
use std::net::{Ipv6Addr, SocketAddr};

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
    pub relayed_datagrams: u64,
    pub relayed_bytes: u64,
    pub relay_dropped: u64,
}

/// One path; `heard_ago` is counted from now.
#[derive(Clone, Debug)]
pub struct PathStats {
    pub sid: u32,
    pub path: u8,
    pub endpoint: SocketAddr,
    pub state: State,
    pub share: f32,
    pub standby: bool,
    pub rtt_ns: Option<u64>,
    pub rtt_min_ns: Option<u64>,
    pub jitter_ns: u64,
    pub loss: f64,
    pub queue_ns: u64,
    pub tx_datagrams: u64,
    pub tx_bytes: u64,
    pub rx_datagrams: u64,
    pub rx_bytes: u64,
    pub judged_datagrams: u64,
    pub lost_datagrams: u64,
    pub delivered_bytes: u64,
    /// With inner packets, covered by no report yet.
    pub owed_datagrams: u64,
    pub probes_sent: u64,
    pub probes_answered: u64,
    pub heard_ago: Option<u64>,
    /// Since an inner packet of the peer came, or a relay frame.
    pub carried_ago: Option<u64>,
    /// The address of this host that it leaves from, None: the kernel's choice; and by which of our ports.
    pub leaves: (Option<Ipv6Addr>, u16),
    pub mtu_bytes: usize,
}

impl PathStats {
    #[must_use]
    pub(crate) fn of(sid: u32, p: &Path, now_ns: u64) -> PathStats {
        let m = &p.meter;
        PathStats {
            sid,
            path: p.id,
            endpoint: p.endpoint,
            state: p.state,
            share: p.share,
            standby: p.standby,
            rtt_ns: m.srtt_ns,
            rtt_min_ns: m.rtt_min_ns(),
            jitter_ns: m.jitter_ns(),
            loss: m.loss(now_ns),
            queue_ns: m.queue_ns(),
            tx_datagrams: m.tx_datagrams,
            tx_bytes: m.tx_bytes,
            rx_datagrams: m.rx_datagrams,
            rx_bytes: m.rx_bytes,
            judged_datagrams: m.judged,
            lost_datagrams: m.lost,
            delivered_bytes: m.delivered_bytes,
            owed_datagrams: m.unacknowledged().map_or(0, |(_, owed)| owed),
            probes_sent: m.probes_sent,
            probes_answered: m.probes_answered,
            heard_ago: p.heard_ns.map(|t| now_ns.saturating_sub(t)),
            leaves: (p.raw.local, p.raw.port),
            carried_ago: (p.carried_ns > 0).then(|| now_ns.saturating_sub(p.carried_ns)),
            mtu_bytes: p.mtu.size(),
        }
    }
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
    pub lookup: bool,
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
    pub(crate) fn of(s: &Session, now_ns: u64) -> Option<SessionStats> {
        let ago = |at: u64| now_ns.saturating_sub(at);
        let path = s.main_path()?;
        Some(SessionStats {
            sid: s.sid,
            remote_sid: s.remote_sid,
            endpoint: path.endpoint,
            generation: s.tx.epoch.generation,
            step_tx: s.tx.epoch.step,
            step_rx: s.epoch_rx().step,
            lookup: s.lookup,
            confirmed: s.confirmed,
            tx_packets: s.counters.tx_packets,
            rx_packets: s.counters.rx_packets,
            tx_bytes: s.counters.tx_bytes,
            rx_bytes: s.counters.rx_bytes,
            rejected: s.counters.rejected,
            rtt_ns: path.meter.srtt_ns,
            heard_ago: s.heard_ns.map(ago),
            sent_ago: s.sent_ns.map(ago),
            data_ago: s.data_ns.map(ago),
            age_ns: ago(s.created_ns),
            rekeyed_ago: ago(s.rekeyed_ns),
            mtu_bytes: path.mtu.size(),
        })
    }
}
