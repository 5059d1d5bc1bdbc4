//! The handle `Engine`: frozen, closable, every call released from the GIL.

use crate::convert::{self, Endpoint, address, endpoint, key, seconds};
use crate::errors;
use crate::events;
use crate::gate::InitReceived;
use crate::keys::KeySchedule;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use std::net::{IpAddr, Ipv6Addr};
use veilnet_engine::sys::seq::Seq;
use veilnet_engine::{self as engine, Circuit, Core, Options, Prefix, StepLimits};

/// One end of a circuit: link and label.
type End = (u32, u32);

fn circuit((link, label): End) -> Circuit {
    Circuit { link, label }
}

/// Events per `drain`, so that one call never holds the event loop for long.
const DRAIN: usize = 256;

#[pyclass(frozen, module = "veilnet._engine")]
pub struct Engine(engine::Engine);

fn prefixes(texts: &[String]) -> PyResult<Vec<Prefix>> {
    texts
        .iter()
        .map(|t| Prefix::parse(t).map_err(errors::engine))
        .collect()
}

impl Engine {
    /// Run a closure on the data thread, with the GIL released.
    fn call<R, F>(&self, py: Python<'_>, f: F) -> PyResult<R>
    where
        R: Send + 'static,
        F: FnOnce(&mut Core, u64) -> R + Send + 'static,
    {
        py.detach(|| self.0.call(f)).map_err(errors::engine)
    }

    /// The same for closures that can fail themselves.
    fn attempt<R, F>(&self, py: Python<'_>, f: F) -> PyResult<R>
    where
        R: Send + 'static,
        F: FnOnce(&mut Core, u64) -> engine::Result<R> + Send + 'static,
    {
        self.call(py, f)?.map_err(errors::engine)
    }
}

#[pymethods]
impl Engine {
    #[staticmethod]
    #[pyo3(signature = (*, listen_port=0, tun_name=None, mtu_bytes=1380, vnet_hdr=true,
        udp_gso=true, udp_gro=true, step_datagrams=1 << 26, step_age_s=240.0))]
    #[allow(clippy::too_many_arguments)]
    fn open(
        py: Python<'_>,
        listen_port: u16,
        tun_name: Option<String>,
        mtu_bytes: usize,
        vnet_hdr: bool,
        udp_gso: bool,
        udp_gro: bool,
        step_datagrams: u64,
        step_age_s: f64,
    ) -> PyResult<Engine> {
        if !(1280..=16_000).contains(&mtu_bytes) {
            let text = format!("an inner MTU of {mtu_bytes} bytes: it must be 1280 to 16000");
            return Err(errors::raise("ConfigError", &text, ""));
        }
        let options = Options {
            port: listen_port,
            tun: tun_name,
            mtu_bytes,
            vnet_hdr,
            udp_gso,
            udp_gro,
            steps: StepLimits {
                datagrams: step_datagrams,
                age_ns: (step_age_s * 1e9) as u64,
            },
        };
        py.detach(|| engine::Engine::open(options))
            .map(Engine)
            .map_err(errors::engine)
    }

    #[getter]
    fn port(&self) -> u16 {
        self.0.port()
    }

    #[getter]
    fn tun_name(&self) -> Option<&str> {
        self.0.tun_name()
    }

    fn fileno(&self) -> i32 {
        self.0.event_fd()
    }

    fn drain(&self, py: Python<'_>) -> PyResult<Vec<Py<PyAny>>> {
        self.0
            .drain(DRAIN)
            .into_iter()
            .map(|e| events::to_python(py, e))
            .collect()
    }

    fn close(&self, py: Python<'_>) {
        py.detach(|| self.0.close());
    }

    fn __repr__(&self) -> String {
        let state = if self.0.is_running() {
            "running"
        } else {
            "ended"
        };
        let tun = self.0.tun_name().unwrap_or("none");
        format!("<Engine port={} tun={tun} {state}>", self.0.port())
    }

    fn stats(&self, py: Python<'_>) -> PyResult<EngineStats> {
        self.call(py, |core, _| core.stats()).map(EngineStats::from)
    }

    fn sessions(&self, py: Python<'_>) -> PyResult<Vec<SessionStats>> {
        let all = self.call(py, |core, now| core.session_stats(now))?;
        Ok(all.into_iter().map(SessionStats::from).collect())
    }

    // --- first contact ---------------------------------------------------------------------

    #[pyo3(signature = (key, *, replay_set=true))]
    fn add_door(&self, py: Python<'_>, key: &[u8], replay_set: bool) -> PyResult<u32> {
        let key = convert::key(key, "a door key")?;
        self.attempt(py, move |core, _| core.add_door(&key, replay_set))
    }

    fn remove_door(&self, py: Python<'_>, door: u32) -> PyResult<()> {
        self.attempt(py, move |core, _| core.remove_door(door))
    }

    fn seen_inits(&self, py: Python<'_>) -> PyResult<Vec<u8>> {
        Ok(self.call(py, |core, _| core.seen_inits())?.concat())
    }

    fn load_seen_inits(&self, py: Python<'_>, data: &[u8]) -> PyResult<()> {
        let coms: Vec<[u8; 32]> = data
            .chunks_exact(32)
            .filter_map(|c| c.try_into().ok())
            .collect();
        self.call(py, move |core, _| core.load_seen_inits(&coms))
    }

    /// Whether something left: false when a byte budget towards the endpoint forbade it.
    #[pyo3(signature = (schedule, *, door_key, endpoint, bare_hint=false, ticket=None, cookie=None))]
    #[allow(clippy::too_many_arguments)] // keywords in Python
    fn hello(
        &self,
        py: Python<'_>,
        schedule: &KeySchedule,
        door_key: &[u8],
        endpoint: Endpoint,
        bare_hint: bool,
        ticket: Option<(Vec<u8>, Vec<u8>)>,
        cookie: Option<&[u8]>,
    ) -> PyResult<bool> {
        let (door, to) = (key(door_key, "a door key")?, address(&endpoint)?);
        let schedule = schedule.shared();
        if let Some(ticket) = ticket {
            let ticket = convert::ticket(&ticket)?;
            return self.attempt(py, move |core, now| {
                core.present(&schedule, &door, to, &ticket, now)
            });
        }
        if let Some(cookie) = cookie {
            let cookie = convert::cookie(cookie)?;
            return self.attempt(py, move |core, now| {
                core.enter(&schedule, &door, to, cookie, now)
            });
        }
        self.attempt(py, move |core, now| {
            core.hello(&schedule, &door, to, bare_hint, now)
        })
    }

    /// What RETRY would bring over a circuit to who sends the INIT of commitment *com*.
    fn cookie<'py>(
        &self,
        py: Python<'py>,
        endpoint: Endpoint,
        com: &[u8],
    ) -> PyResult<Bound<'py, PyBytes>> {
        let (from, com) = (address(&endpoint)?, key(com, "a commitment")?);
        let cookie = self.attempt(py, move |core, now| core.cookie(from, &com, now))?;
        Ok(PyBytes::new(py, &cookie))
    }

    /// `(ticket, key)` for the peer of a session, to be given to it over control.
    #[pyo3(signature = (sid, *, holder, life_s))]
    fn issue_ticket<'py>(
        &self,
        py: Python<'py>,
        sid: u32,
        holder: &[u8],
        life_s: f64,
    ) -> PyResult<(Bound<'py, PyBytes>, Bound<'py, PyBytes>)> {
        let holder = key(holder, "a ticket's holder")?;
        let life_ns = (life_s.max(0.0) * 1e9) as u64;
        let ticket = self.attempt(py, move |core, now| {
            core.issue_ticket(sid, &holder, life_ns, now)
        })?;
        Ok((
            PyBytes::new(py, &ticket.bytes),
            PyBytes::new(py, ticket.key.as_slice()),
        ))
    }

    fn candidate(&self, py: Python<'_>, sid: u32, candidate: u32, ss: Vec<u8>) -> PyResult<()> {
        self.attempt(py, move |core, now| {
            core.candidate(sid, candidate, &ss, now)
        })
    }

    #[pyo3(signature = (sid, message, *, psk=None))]
    fn authenticate(
        &self,
        py: Python<'_>,
        sid: u32,
        message: Vec<u8>,
        psk: Option<&[u8]>,
    ) -> PyResult<()> {
        let psk = psk.map(|p| key(p, "a psk")).transpose()?;
        self.attempt(py, move |core, now| {
            core.authenticate(sid, message, psk.as_ref(), now)
        })
    }

    fn respond(
        &self,
        py: Python<'_>,
        schedule: &KeySchedule,
        init: &InitReceived,
        message: Vec<u8>,
    ) -> PyResult<()> {
        let (schedule, init) = (schedule.shared(), init.inner().clone());
        self.attempt(py, move |core, now| {
            core.respond(&schedule, &init, message, now)
        })
    }

    /// Forget an INIT that will not be answered, which frees its place.
    fn dismiss(&self, py: Python<'_>, init: &InitReceived) -> PyResult<()> {
        let com = init.inner().com;
        self.call(py, move |core, _| core.dismiss(&com))
    }

    /// The RESP that opened does not verify: go on with the other key parts, if any.
    fn reject(&self, py: Python<'_>, sid: u32) -> PyResult<()> {
        self.attempt(py, move |core, now| core.reject(sid, now))
    }

    fn resend(&self, py: Python<'_>, sid: u32) -> PyResult<()> {
        self.attempt(py, move |core, now| core.resend(sid, now))
    }

    #[pyo3(signature = (sid, *, psk=None))]
    fn accept(&self, py: Python<'_>, sid: u32, psk: Option<&[u8]>) -> PyResult<()> {
        let psk = psk.map(|p| key(p, "a psk")).transpose()?;
        self.attempt(py, move |core, now| core.accept(sid, psk.as_ref(), now))
    }

    fn abandon(&self, py: Python<'_>, sid: u32) -> PyResult<()> {
        self.call(py, move |core, now| core.abandon(sid, now))
    }

    // --- sessions --------------------------------------------------------------------------

    fn send_control(&self, py: Python<'_>, sid: u32, data: Vec<u8>) -> PyResult<()> {
        self.attempt(py, move |core, now| core.send_control(sid, &data, now))
    }

    fn close_session(&self, py: Python<'_>, sid: u32) -> PyResult<()> {
        self.call(py, move |core, now| core.close_session(sid, now))
    }

    #[pyo3(signature = (sid, path=None))]
    fn probe(&self, py: Python<'_>, sid: u32, path: Option<u8>) -> PyResult<()> {
        self.attempt(py, move |core, now| core.probe_now(sid, path, now))
    }

    fn sources(&self, py: Python<'_>) -> PyResult<Vec<String>> {
        let found = self.call(py, |core, _| core.sources())?;
        Ok(found
            .iter()
            .map(|local| IpAddr::V6(*local).to_canonical().to_string())
            .collect())
    }

    #[pyo3(signature = (*, elsewhere, keep))]
    fn underlay_changed(
        &self,
        py: Python<'_>,
        elsewhere: bool,
        keep: Vec<IpAddr>,
    ) -> PyResult<Vec<(u32, bool)>> {
        let keep: Vec<Ipv6Addr> = keep
            .into_iter()
            .map(|ip| match ip {
                IpAddr::V4(ip) => ip.to_ipv6_mapped(),
                IpAddr::V6(ip) => ip,
            })
            .collect();
        self.call(py, move |core, now| {
            core.underlay_changed(elsewhere, &keep, now)
        })
    }

    fn set_endpoint(&self, py: Python<'_>, sid: u32, endpoint: Endpoint) -> PyResult<()> {
        let to = address(&endpoint)?;
        self.attempt(py, move |core, now| core.set_endpoint(sid, to, now))
    }

    #[pyo3(signature = (sid, schedule, *, send))]
    fn install_generation(
        &self,
        py: Python<'_>,
        sid: u32,
        schedule: &KeySchedule,
        send: bool,
    ) -> PyResult<()> {
        let keys = schedule.take_generation()?;
        self.attempt(py, move |core, now| {
            core.install_generation(sid, keys, send, now)
        })
    }

    // --- paths -----------------------------------------------------------------------------

    fn paths(&self, py: Python<'_>) -> PyResult<Vec<PathStats>> {
        let all = self.call(py, |core, now| core.path_stats(now))?;
        Ok(all.into_iter().map(PathStats::from).collect())
    }

    fn open_path(&self, py: Python<'_>, sid: u32, path: u8, endpoint: Endpoint) -> PyResult<()> {
        let to = address(&endpoint)?;
        self.attempt(py, move |core, now| core.open_path(sid, path, to, now))
    }

    fn close_path(&self, py: Python<'_>, sid: u32, path: u8) -> PyResult<()> {
        self.attempt(py, move |core, _| core.close_path(sid, path))
    }

    /// How many probes left: fewer than endpoints when byte budgets towards some are used up.
    #[pyo3(signature = (sid, path, endpoints, *, ttl=None))]
    #[allow(clippy::needless_pass_by_value)]
    fn punch(
        &self,
        py: Python<'_>,
        sid: u32,
        path: u8,
        endpoints: Vec<Endpoint>,
        ttl: Option<u8>,
    ) -> PyResult<usize> {
        let to = endpoints
            .iter()
            .map(address)
            .collect::<PyResult<Vec<_>>>()?;
        self.attempt(py, move |core, now| core.punch(sid, path, &to, ttl, now))
    }

    #[pyo3(signature = (sid, path, endpoint, *, sockets))]
    fn spread(
        &self,
        py: Python<'_>,
        sid: u32,
        path: u8,
        endpoint: Endpoint,
        sockets: usize,
    ) -> PyResult<()> {
        let to = address(&endpoint)?;
        self.attempt(py, move |core, now| {
            core.spread(sid, path, to, sockets, now)
        })
    }

    #[pyo3(signature = (sid, shares, *, standby=None))]
    fn set_shares(
        &self,
        py: Python<'_>,
        sid: u32,
        shares: Vec<(u8, f32)>,
        standby: Option<u8>,
    ) -> PyResult<()> {
        self.attempt(py, move |core, now| {
            core.set_shares(sid, &shares, standby, now)
        })
    }

    // --- carriers --------------------------------------------------------------------------

    /// The descriptor is the engine's from here on, whatever the answer is.
    #[pyo3(signature = (fd, *, remote=None))]
    fn attach(&self, py: Python<'_>, fd: i32, remote: Option<String>) -> PyResult<Endpoint> {
        let none = |_| engine::Error::Invalid("that is no socket of a carrier");
        let taken = Seq::adopt(fd).map_err(none).map_err(errors::engine)?;
        let remote = remote
            .map(|host| address(&(host, 0)).map(|a| a.ip()))
            .transpose()?;
        self.attempt(py, move |core, _| core.attach(taken, remote))
            .map(endpoint)
    }

    fn detach(&self, py: Python<'_>, endpoint: Endpoint) -> PyResult<()> {
        let at = address(&endpoint)?;
        self.call(py, move |core, now| core.detach(at, now))
    }

    // --- circuits --------------------------------------------------------------------------

    fn join_circuit(&self, py: Python<'_>, link: u32, label: u32) -> PyResult<Endpoint> {
        let circuit = Circuit { link, label };
        self.attempt(py, move |core, _| core.join_circuit(circuit))
            .map(endpoint)
    }

    fn leave_circuit(&self, py: Python<'_>, endpoint: Endpoint) -> PyResult<()> {
        let end = address(&endpoint)?;
        self.call(py, move |core, now| core.leave_circuit(end, now))
    }

    fn rebind_link(&self, py: Python<'_>, old: u32, new: u32) -> PyResult<()> {
        self.attempt(py, move |core, now| core.rebind_link(old, new, now))
    }

    #[pyo3(signature = (a, b, *, rate_bps, burst_bytes, limit_bytes))]
    fn add_circuit(
        &self,
        py: Python<'_>,
        a: End,
        b: End,
        rate_bps: u64,
        burst_bytes: u64,
        limit_bytes: u64,
    ) -> PyResult<()> {
        let quota = (rate_bps, burst_bytes, limit_bytes);
        self.attempt(py, move |core, now| {
            core.add_circuit(circuit(a), circuit(b), quota, now)
        })
    }

    #[pyo3(signature = (a, *, rate_bps=None, limit_bytes=None))]
    fn limit_circuit(
        &self,
        py: Python<'_>,
        a: End,
        rate_bps: Option<u64>,
        limit_bytes: Option<u64>,
    ) -> PyResult<()> {
        self.attempt(py, move |core, _| {
            core.limit_circuit(circuit(a), rate_bps, limit_bytes)
        })
    }

    fn remove_circuit(&self, py: Python<'_>, a: End) -> PyResult<()> {
        self.call(py, move |core, _| core.remove_circuit(circuit(a)))
    }

    fn circuits(&self, py: Python<'_>) -> PyResult<Vec<CircuitStats>> {
        let all = self.call(py, |core, now| core.circuit_stats(now))?;
        Ok(all.into_iter().map(CircuitStats::from).collect())
    }

    fn set_relay_rate(&self, py: Python<'_>, rate_bps: Option<u64>) -> PyResult<()> {
        self.call(py, move |core, now| core.set_relay_rate(rate_bps, now))
    }

    // --- inner addresses -------------------------------------------------------------------

    #[allow(clippy::needless_pass_by_value)]
    fn set_local(&self, py: Python<'_>, prefixes: Vec<String>) -> PyResult<()> {
        let list = self::prefixes(&prefixes)?;
        self.call(py, move |core, _| core.set_local(list))
    }

    #[allow(clippy::needless_pass_by_value)]
    fn set_wanted(&self, py: Python<'_>, prefixes: Vec<String>) -> PyResult<()> {
        let list = self::prefixes(&prefixes)?;
        self.call(py, move |core, _| core.set_wanted(list))
    }

    #[allow(clippy::needless_pass_by_value)]
    fn assign(&self, py: Python<'_>, sid: u32, prefixes: Vec<String>) -> PyResult<()> {
        let list = self::prefixes(&prefixes)?;
        self.attempt(py, move |core, now| core.assign(sid, list, now))
    }

    fn refuse(&self, py: Python<'_>, destination: &str) -> PyResult<()> {
        let ip = address(&(destination.to_owned(), 0))?.ip();
        self.call(py, move |core, _| core.refuse(ip))
    }

    // --- mist ------------------------------------------------------------------------------

    fn set_return_keys(&self, py: Python<'_>, keys: Vec<Vec<u8>>) -> PyResult<()> {
        let keys = keys
            .iter()
            .map(|k| key(k, "a return key"))
            .collect::<PyResult<Vec<_>>>()?;
        self.attempt(py, move |core, _| core.set_return_keys(&keys))
    }

    fn set_peer_return_key(&self, py: Python<'_>, sid: u32, key: &[u8]) -> PyResult<()> {
        let key = convert::key(key, "a return key")?;
        self.attempt(py, move |core, _| core.set_peer_return_key(sid, &key))
    }
}

#[pyclass(frozen, get_all, module = "veilnet._engine")]
pub struct EngineStats {
    rx_datagrams: u64,
    tx_datagrams: u64,
    rx_unknown: u64,
    tun_reads: u64,
    tun_writes: u64,
    rx_calls: u64,
    tx_calls: u64,
    vnet_hdr: bool,
    udp_gso: bool,
    udp_gro: bool,
    wakeups: u64,
    relayed_datagrams: u64,
    relayed_bytes: u64,
    relay_dropped: u64,
}

impl From<engine::EngineStats> for EngineStats {
    fn from(s: engine::EngineStats) -> EngineStats {
        EngineStats {
            rx_datagrams: s.rx_datagrams,
            tx_datagrams: s.tx_datagrams,
            rx_unknown: s.rx_unknown,
            tun_reads: s.tun_reads,
            tun_writes: s.tun_writes,
            rx_calls: s.rx_calls,
            tx_calls: s.tx_calls,
            vnet_hdr: s.vnet_hdr,
            udp_gso: s.udp_gso,
            udp_gro: s.udp_gro,
            wakeups: s.wakeups,
            relayed_datagrams: s.relayed_datagrams,
            relayed_bytes: s.relayed_bytes,
            relay_dropped: s.relay_dropped,
        }
    }
}

#[pyclass(frozen, get_all, module = "veilnet._engine")]
pub struct SessionStats {
    sid: u32,
    remote_sid: u32,
    endpoint: Endpoint,
    generation: u64,
    step_tx: u64,
    step_rx: u64,
    lookup: bool,
    confirmed: bool,
    tx_packets: u64,
    rx_packets: u64,
    tx_bytes: u64,
    rx_bytes: u64,
    rejected: u64,
    rtt_s: Option<f64>,
    heard_s: Option<f64>,
    sent_s: Option<f64>,
    data_s: Option<f64>,
    age_s: f64,
    rekeyed_s: f64,
    mtu_bytes: usize,
}

impl From<engine::SessionStats> for SessionStats {
    fn from(s: engine::SessionStats) -> SessionStats {
        SessionStats {
            sid: s.sid,
            remote_sid: s.remote_sid,
            endpoint: endpoint(s.endpoint),
            generation: s.generation,
            step_tx: s.step_tx,
            step_rx: s.step_rx,
            lookup: s.lookup,
            confirmed: s.confirmed,
            tx_packets: s.tx_packets,
            rx_packets: s.rx_packets,
            tx_bytes: s.tx_bytes,
            rx_bytes: s.rx_bytes,
            rejected: s.rejected,
            rtt_s: s.rtt_ns.map(seconds),
            heard_s: s.heard_ago.map(seconds),
            sent_s: s.sent_ago.map(seconds),
            data_s: s.data_ago.map(seconds),
            age_s: seconds(s.age_ns),
            rekeyed_s: seconds(s.rekeyed_ago),
            mtu_bytes: s.mtu_bytes,
        }
    }
}

#[pyclass(frozen, get_all, module = "veilnet._engine")]
pub struct PathStats {
    sid: u32,
    path: u8,
    endpoint: Endpoint,
    state: &'static str,
    share: f32,
    standby: bool,
    rtt_s: Option<f64>,
    rtt_min_s: Option<f64>,
    jitter_s: f64,
    loss: f64,
    queue_s: f64,
    tx_datagrams: u64,
    tx_bytes: u64,
    rx_datagrams: u64,
    rx_bytes: u64,
    judged_datagrams: u64,
    lost_datagrams: u64,
    delivered_bytes: u64,
    owed_datagrams: u64,
    probes_sent: u64,
    probes_answered: u64,
    heard_s: Option<f64>,
    carried_s: Option<f64>,
    leaves: (Option<String>, u16),
    mtu_bytes: usize,
}

impl From<engine::PathStats> for PathStats {
    fn from(p: engine::PathStats) -> PathStats {
        PathStats {
            sid: p.sid,
            path: p.path,
            endpoint: endpoint(p.endpoint),
            state: p.state.name(),
            share: p.share,
            standby: p.standby,
            rtt_s: p.rtt_ns.map(seconds),
            rtt_min_s: p.rtt_min_ns.map(seconds),
            jitter_s: seconds(p.jitter_ns),
            loss: p.loss,
            queue_s: seconds(p.queue_ns),
            tx_datagrams: p.tx_datagrams,
            tx_bytes: p.tx_bytes,
            rx_datagrams: p.rx_datagrams,
            rx_bytes: p.rx_bytes,
            judged_datagrams: p.judged_datagrams,
            lost_datagrams: p.lost_datagrams,
            delivered_bytes: p.delivered_bytes,
            owed_datagrams: p.owed_datagrams,
            probes_sent: p.probes_sent,
            probes_answered: p.probes_answered,
            heard_s: p.heard_ago.map(seconds),
            carried_s: p.carried_ago.map(seconds),
            leaves: (
                p.leaves.0.map(|at| at.to_canonical().to_string()),
                p.leaves.1,
            ),
            mtu_bytes: p.mtu_bytes,
        }
    }
}

#[pyclass(frozen, get_all, module = "veilnet._engine")]
pub struct CircuitStats {
    a: End,
    b: End,
    datagrams: u64,
    bytes: u64,
    dropped: u64,
    busy: bool,
}

impl From<engine::CircuitStats> for CircuitStats {
    fn from(c: engine::CircuitStats) -> CircuitStats {
        CircuitStats {
            a: (c.a.link, c.a.label),
            b: (c.b.link, c.b.label),
            datagrams: c.datagrams,
            bytes: c.bytes,
            dropped: c.dropped,
            busy: c.busy,
        }
    }
}

/// The endpoint that stands for the circuit with that label on that link.
#[pyfunction]
fn circuit_endpoint(link: u32, label: u32) -> Endpoint {
    endpoint(Circuit { link, label }.address())
}

/// `(link, label)` if the endpoint stands for a circuit.
#[pyfunction]
#[allow(clippy::needless_pass_by_value)]
fn circuit_of(endpoint: Endpoint) -> PyResult<Option<End>> {
    let circuit = Circuit::of(address(&endpoint)?);
    Ok(circuit.map(|c| (c.link, c.label)))
}

/// Whether the endpoint stands for a carrier.
#[pyfunction]
#[allow(clippy::needless_pass_by_value)]
fn is_carrier(endpoint: Endpoint) -> PyResult<bool> {
    Ok(engine::carrier_number(address(&endpoint)?).is_some())
}

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<Engine>()?;
    m.add_class::<EngineStats>()?;
    m.add_class::<SessionStats>()?;
    m.add_class::<PathStats>()?;
    m.add_class::<CircuitStats>()?;
    m.add_function(wrap_pyfunction!(circuit_endpoint, m)?)?;
    m.add_function(wrap_pyfunction!(is_carrier, m)?)?;
    m.add_function(wrap_pyfunction!(circuit_of, m)?)
}
