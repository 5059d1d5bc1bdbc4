//! The handle `Engine`: frozen, closable, every call released from the GIL.

use crate::convert::{self, Endpoint, address, endpoint, key, seconds};
use crate::errors;
use crate::events;
use crate::gate::InitReceived;
use crate::keys::KeySchedule;
use pyo3::prelude::*;
use veilnet_engine::{self as engine, Core, Options, Prefix, StepLimits};

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

    /// Whether a HELLO left: false when a byte budget towards the endpoint forbade it.
    #[pyo3(signature = (schedule, *, door_key, endpoint, bare_hint=false))]
    fn hello(
        &self,
        py: Python<'_>,
        schedule: &KeySchedule,
        door_key: &[u8],
        endpoint: Endpoint,
        bare_hint: bool,
    ) -> PyResult<bool> {
        let (door, to) = (key(door_key, "a door key")?, address(&endpoint)?);
        let schedule = schedule.shared();
        self.attempt(py, move |core, now| {
            core.hello(&schedule, &door, to, bare_hint, now)
        })
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
        self.call(py, move |core, _| core.abandon(sid))
    }

    // --- sessions --------------------------------------------------------------------------

    fn send_control(&self, py: Python<'_>, sid: u32, data: Vec<u8>) -> PyResult<()> {
        self.attempt(py, move |core, now| core.send_control(sid, &data, now))
    }

    fn close_session(&self, py: Python<'_>, sid: u32) -> PyResult<()> {
        self.call(py, move |core, _| core.close_session(sid))
    }

    fn probe(&self, py: Python<'_>, sid: u32) -> PyResult<()> {
        self.attempt(py, move |core, now| core.probe_now(sid, now))
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

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<Engine>()?;
    m.add_class::<EngineStats>()?;
    m.add_class::<SessionStats>()
}
