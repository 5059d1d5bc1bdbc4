//! Events of first contact, and `Gate`: the code that the engine runs, without its sockets.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use crate::convert::{Endpoint, address, endpoint, key};
use crate::events;
use crate::keys::{KeySchedule, checked, lock};
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use veilnet_handshake::{self as hs, Action, Init, SeededRng, Tried};

/// A whole, cookie-proven INIT.
#[pyclass(frozen, module = "veilnet._engine")]
pub struct InitReceived(Init);

impl InitReceived {
    /// What it wraps.
    pub fn inner(&self) -> &Init {
        &self.0
    }
}

#[pymethods]
impl InitReceived {
    #[getter]
    fn door(&self) -> u32 {
        self.0.door
    }
    #[getter]
    fn source(&self) -> Endpoint {
        endpoint(self.0.source)
    }
    #[getter]
    fn mode(&self) -> u8 {
        self.0.mode.number()
    }
    #[getter]
    fn suite(&self) -> u8 {
        self.0.suite.number()
    }
    #[getter]
    fn sid(&self) -> u32 {
        self.0.sid_i
    }
    #[getter]
    fn com<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.0.com)
    }
    /// Whom the ticket was given to that it showed.
    #[getter]
    fn holder<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyBytes>> {
        self.0.holder.map(|holder| PyBytes::new(py, &holder))
    }
    #[getter]
    fn ek<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.0.ek)
    }
    fn __repr__(&self) -> String {
        format!(
            "InitReceived(door={}, source={:?}, mode={}, suite={}, sid={})",
            self.0.door,
            endpoint(self.0.source),
            self.0.mode.number(),
            self.0.suite.number(),
            self.0.sid_i
        )
    }
}

/// A RESP key part.
#[pyclass(frozen, module = "veilnet._engine")]
pub struct CandidateReceived {
    #[pyo3(get)]
    sid: u32,
    #[pyo3(get)]
    candidate: u32,
    ct: Vec<u8>,
    #[pyo3(get)]
    source: Endpoint,
}

#[pymethods]
impl CandidateReceived {
    #[getter]
    fn ct<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.ct)
    }
    fn __repr__(&self) -> String {
        format!(
            "CandidateReceived(sid={}, candidate={})",
            self.sid, self.candidate
        )
    }
}

/// e2 or e3: opened, not yet verified.
#[pyclass(frozen, module = "veilnet._engine")]
pub struct HandshakeReceived {
    #[pyo3(get)]
    sid: u32,
    message: Vec<u8>,
    #[pyo3(get)]
    source: Endpoint,
}

#[pymethods]
impl HandshakeReceived {
    #[getter]
    fn message<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.message)
    }
    fn __repr__(&self) -> String {
        format!(
            "HandshakeReceived(sid={}, {} bytes)",
            self.sid,
            self.message.len()
        )
    }
}

pub fn event_to_python(py: Python<'_>, event: hs::Event) -> PyResult<Py<PyAny>> {
    Ok(match event {
        hs::Event::Init(init) => Py::new(py, InitReceived(init))?.into_any(),
        hs::Event::Candidate {
            sid,
            candidate,
            ct,
            source,
            ..
        } => {
            let source = endpoint(source);
            Py::new(
                py,
                CandidateReceived {
                    sid,
                    candidate,
                    ct,
                    source,
                },
            )?
            .into_any()
        }
        hs::Event::Message { sid, bytes, source } => {
            let source = endpoint(source);
            Py::new(
                py,
                HandshakeReceived {
                    sid,
                    message: bytes,
                    source,
                },
            )?
            .into_any()
        }
    })
}

/// What tests compare: public facts of a session.
#[pyclass(frozen, get_all, module = "veilnet._engine")]
pub struct Established {
    local_sid: u32,
    remote_sid: u32,
    endpoint: Endpoint,
    initiator: bool,
    fingerprint: Py<PyBytes>,
}

#[pymethods]
impl Established {
    fn __repr__(&self) -> String {
        format!(
            "Established(local_sid={}, remote_sid={})",
            self.local_sid, self.remote_sid
        )
    }
}

/// What `poll` hands out.
enum Item {
    Send(SocketAddr, Vec<u8>),
    Handshake(hs::Event),
    Confirmed(u32),
}

/// A session as the twin keeps it: enough to send and to recognise the ACK.
struct Session {
    keys: hs::Established,
    acknowledged: bool,
}

struct Twin {
    gate: hs::Gate,
    rng: SeededRng,
    now_ns: u64,
    schedules: BTreeMap<u32, Arc<Mutex<hs::KeySchedule>>>,
    sessions: BTreeMap<u32, Session>,
    out: Vec<Item>,
}

impl Twin {
    /// Run one call of the gate and take in what it wants done.
    fn run<R>(
        &mut self,
        call: impl FnOnce(&mut hs::Gate, u64, &mut SeededRng, &mut Vec<Action>) -> R,
    ) -> PyResult<R> {
        let mut actions = Vec::new();
        let result = call(&mut self.gate, self.now_ns, &mut self.rng, &mut actions);
        for action in actions {
            match action {
                Action::Send { to, bytes } => self.out.push(Item::Send(to, bytes)),
                Action::Event(event) => self.out.push(Item::Handshake(event)),
                Action::ResendAck { sid } => self.send_ack(sid)?,
            }
        }
        Ok(result)
    }

    fn send_ack(&mut self, sid: u32) -> PyResult<()> {
        let Some(Session { keys: session, .. }) = self.sessions.get(&sid) else {
            return Ok(());
        };
        let ack = hs::seal_ack(
            &session.keys,
            &session.mask_tx,
            session.remote_sid,
            &session.th4,
        );
        self.out.push(Item::Send(session.source, checked(ack)?));
        Ok(())
    }

    /// The sid of the initiator's session that *datagram* acknowledges.
    fn acknowledged(&mut self, datagram: &[u8]) -> PyResult<Option<u32>> {
        for (sid, session) in &mut self.sessions {
            let keys = &session.keys;
            if keys.initiator
                && checked(hs::open_ack(
                    &keys.keys,
                    &keys.mask_rx,
                    *sid,
                    &keys.th4,
                    datagram,
                ))?
            {
                session.acknowledged = true;
                return Ok(Some(*sid));
            }
        }
        Ok(None)
    }

    fn facts(&self, py: Python<'_>, session: &hs::Established) -> PyResult<Established> {
        let sid = session.local_sid;
        let schedule = self.schedules.get(&sid);
        let fingerprint = schedule.map_or_else(
            || Err(hs::Error::UnknownSession(sid)),
            |schedule| lock(schedule).fingerprint(),
        );
        Ok(Established {
            local_sid: sid,
            remote_sid: session.remote_sid,
            endpoint: endpoint(session.source),
            initiator: session.initiator,
            fingerprint: PyBytes::new(py, &checked(fingerprint)?).unbind(),
        })
    }

    fn establish(&mut self, py: Python<'_>, session: hs::Established) -> PyResult<Established> {
        let sid = session.local_sid;
        let facts = self.facts(py, &session)?;
        self.sessions.insert(
            sid,
            Session {
                keys: session,
                acknowledged: false,
            },
        );
        Ok(facts)
    }
}

/// First contact without sockets. Time is what `receive` and `expire` were told last.
#[pyclass(frozen, module = "veilnet._engine")]
pub struct Gate(Mutex<Twin>);

#[pymethods]
#[allow(clippy::needless_pass_by_value)] // PyO3 hands endpoints over by value
impl Gate {
    #[new]
    fn new(seed: u64) -> PyResult<Gate> {
        let mut rng = SeededRng::new(&seed.to_be_bytes());
        let gate = checked(hs::Gate::new(&mut rng))?;
        Ok(Gate(Mutex::new(Twin {
            gate,
            rng,
            now_ns: 0,
            schedules: BTreeMap::new(),
            sessions: BTreeMap::new(),
            out: Vec::new(),
        })))
    }

    /// Take a datagram. True if it belonged to the handshake.
    fn receive(&self, datagram: &[u8], source: Endpoint, now_ns: u64) -> PyResult<bool> {
        let source = address(&source)?;
        let mut twin = lock(&self.0);
        twin.now_ns = now_ns;
        if let Some(sid) = twin.acknowledged(datagram)? {
            if twin.gate.abandon(sid) {
                twin.out.push(Item::Confirmed(sid));
            }
            return Ok(true);
        }
        twin.run(|gate, now, rng, out| gate.receive(datagram, source, now, rng, out))
    }

    /// Datagrams to send, as `("send", endpoint, bytes)`, and events, in order.
    fn poll(&self, py: Python<'_>) -> PyResult<Vec<Py<PyAny>>> {
        let items = std::mem::take(&mut lock(&self.0).out);
        items
            .into_iter()
            .map(|item| match item {
                Item::Send(to, bytes) => {
                    let tuple = ("send", endpoint(to), PyBytes::new(py, &bytes));
                    Ok(tuple.into_pyobject(py)?.into_any().unbind())
                }
                Item::Handshake(event) => event_to_python(py, event),
                Item::Confirmed(sid) => {
                    events::to_python(py, veilnet_engine::Event::Confirmed { sid })
                }
            })
            .collect()
    }

    fn expire(&self, now_ns: u64) {
        let mut twin = lock(&self.0);
        twin.now_ns = now_ns;
        twin.gate.expire(now_ns);
    }

    #[pyo3(signature = (key, *, replay_set=true))]
    fn add_door(&self, key: &[u8], replay_set: bool) -> PyResult<u32> {
        let key = crate::convert::key(key, "a door key")?;
        checked(lock(&self.0).gate.add_door(&key, replay_set))
    }

    fn remove_door(&self, door: u32) -> PyResult<()> {
        checked(lock(&self.0).gate.remove_door(door))
    }

    fn seen_inits(&self) -> Vec<u8> {
        lock(&self.0).gate.seen_coms().concat()
    }

    fn load_seen_inits(&self, data: &[u8]) {
        let coms: Vec<[u8; 32]> = data
            .chunks_exact(32)
            .filter_map(|c| c.try_into().ok())
            .collect();
        lock(&self.0).gate.load_coms(&coms);
    }

    #[pyo3(signature = (schedule, *, door_key, endpoint, bare_hint=false, ticket=None, cookie=None))]
    fn hello(
        &self,
        schedule: &KeySchedule,
        door_key: &[u8],
        endpoint: Endpoint,
        bare_hint: bool,
        ticket: Option<(Vec<u8>, Vec<u8>)>,
        cookie: Option<&[u8]>,
    ) -> PyResult<bool> {
        let (door, to) = (key(door_key, "a door key")?, address(&endpoint)?);
        let (shared, mut twin) = (schedule.shared(), lock(&self.0));
        let sid = lock(&shared).local_sid();
        let ticket = ticket.as_ref().map(crate::convert::ticket).transpose()?;
        let cookie = cookie.map(crate::convert::cookie).transpose()?;
        let sent = twin.run(|gate, now, rng, out| match (&ticket, cookie) {
            (Some(ticket), _) => gate.present(&shared, &door, to, ticket, now, rng, out),
            (None, Some(cookie)) => gate.enter(&shared, &door, to, cookie, now, rng, out),
            (None, None) => gate.hello(&shared, &door, to, bare_hint, now, rng, out),
        })?;
        twin.schedules.insert(sid, shared);
        checked(sent)
    }

    /// What RETRY would bring to *endpoint* for the commitment *com*.
    fn cookie<'py>(
        &self,
        py: Python<'py>,
        endpoint: Endpoint,
        com: &[u8],
    ) -> PyResult<Bound<'py, PyBytes>> {
        let (from, com) = (address(&endpoint)?, key(com, "a commitment")?);
        let twin = &mut *lock(&self.0);
        let (gate, rng) = (&mut twin.gate, &mut twin.rng);
        let cookie = checked(gate.cookie(from, &com, twin.now_ns, rng))?;
        Ok(PyBytes::new(py, &cookie))
    }

    /// `(ticket, key)` for *holder*, good from that host.
    #[pyo3(signature = (host, *, holder, life_s))]
    fn issue_ticket<'py>(
        &self,
        py: Python<'py>,
        host: String,
        holder: &[u8],
        life_s: f64,
    ) -> PyResult<(Bound<'py, PyBytes>, Bound<'py, PyBytes>)> {
        let holder = key(holder, "a ticket's holder")?;
        let ip = address(&(host, 0))?.ip();
        let life_ns = (life_s * 1e9) as u64;
        let twin = &mut *lock(&self.0);
        let (gate, rng) = (&twin.gate, &mut twin.rng);
        let ticket = checked(gate.issue_ticket(ip, &holder, life_ns, twin.now_ns, rng))?;
        Ok((
            PyBytes::new(py, &ticket.bytes),
            PyBytes::new(py, ticket.key.as_slice()),
        ))
    }

    /// True if the RESP has opened with it; of a lookup, if the session is there.
    fn candidate(&self, py: Python<'_>, sid: u32, candidate: u32, ss: &[u8]) -> PyResult<bool> {
        let mut twin = lock(&self.0);
        let tried = twin.run(|gate, now, _, out| gate.candidate(sid, candidate, ss, now, out))?;
        match checked(tried)? {
            Tried::Closed => Ok(false),
            Tried::Opened => Ok(true),
            Tried::Established(session) => {
                let source = session.source;
                twin.establish(py, *session)?;
                let bytes = Vec::new();
                let event = hs::Event::Message { sid, bytes, source };
                twin.out.push(Item::Handshake(event));
                Ok(true)
            }
        }
    }

    fn reject(&self, sid: u32) -> PyResult<()> {
        checked(lock(&self.0).run(|gate, now, _, out| gate.reject(sid, now, out))?)
    }

    #[pyo3(signature = (sid, message, *, psk=None))]
    fn authenticate(
        &self,
        py: Python<'_>,
        sid: u32,
        message: Vec<u8>,
        psk: Option<&[u8]>,
    ) -> PyResult<Established> {
        let psk = psk.map(|psk| key(psk, "a psk")).transpose()?;
        let mut twin = lock(&self.0);
        let session =
            twin.run(|gate, now, _, out| gate.authenticate(sid, message, psk.as_ref(), now, out))?;
        twin.establish(py, checked(session)?)
    }

    /// The facts of a lookup's session, which is there at once; else None until `accept`.
    fn respond(
        &self,
        py: Python<'_>,
        schedule: &KeySchedule,
        init: &InitReceived,
        message: Vec<u8>,
    ) -> PyResult<Option<Established>> {
        let (shared, mut twin) = (schedule.shared(), lock(&self.0));
        let sid = lock(&shared).local_sid();
        let done = twin.run(|gate, now, rng, out| {
            gate.respond(&shared, init.inner(), message, now, rng, out)
        })?;
        let session = checked(done)?;
        twin.schedules.insert(sid, shared);
        session.map(|s| twin.establish(py, *s)).transpose()
    }

    /// The facts of the session of that id, if there is one.
    fn established(&self, py: Python<'_>, sid: u32) -> PyResult<Option<Established>> {
        let twin = lock(&self.0);
        let session = twin.sessions.get(&sid);
        session.map(|s| twin.facts(py, &s.keys)).transpose()
    }

    fn dismiss(&self, init: &InitReceived) {
        lock(&self.0).gate.dismiss(&init.inner().com);
    }

    fn resend(&self, sid: u32) -> PyResult<()> {
        checked(lock(&self.0).run(|gate, now, _, out| gate.resend(sid, now, out))?)
    }

    /// The session exists; its ACK is sent.
    #[pyo3(signature = (sid, *, psk=None))]
    fn accept(&self, py: Python<'_>, sid: u32, psk: Option<&[u8]>) -> PyResult<Established> {
        let psk = psk.map(|psk| key(psk, "a psk")).transpose()?;
        let mut twin = lock(&self.0);
        let session = twin.run(|gate, now, _, _| gate.accept(sid, psk.as_ref(), now))?;
        let facts = twin.establish(py, checked(session)?)?;
        twin.send_ack(sid)?;
        Ok(facts)
    }

    fn abandon(&self, sid: u32) {
        let mut twin = lock(&self.0);
        twin.gate.abandon(sid);
        twin.schedules.remove(&sid);
        twin.sessions.remove(&sid);
    }

    fn __repr__(&self) -> String {
        let twin = lock(&self.0);
        format!(
            "<Gate {:?} sessions={}>",
            twin.gate.occupancy(),
            twin.sessions.len()
        )
    }
}

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<InitReceived>()?;
    m.add_class::<CandidateReceived>()?;
    m.add_class::<HandshakeReceived>()?;
    m.add_class::<Established>()?;
    m.add_class::<Gate>()
}
