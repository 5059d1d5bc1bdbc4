//! `KeySchedule` for Python: messages and KEM secrets in, transcripts and bytes to send out.
//!
//! Nothing secret leaves it: session keys go to the engine through `install_generation`.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::convert::key;
use crate::errors;
use crate::gate::InitReceived;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};
use veilnet_handshake::{self as hs, Mode, OsRng, Rng, SeededRng, SessionKeys, Suite, labels};

/// Lock, also after a panic elsewhere.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Raise what the handshake crate refused.
pub fn checked<T>(result: hs::Result<T>) -> PyResult<T> {
    result.map_err(|error| errors::handshake(&error))
}

/// The system's randomness, or a seeded one that several schedules share.
#[derive(Clone)]
enum Source {
    System,
    Seeded(Arc<Mutex<SeededRng>>),
}

impl Rng for Source {
    fn fill(&mut self, out: &mut [u8]) -> hs::Result<()> {
        match self {
            Source::System => OsRng.fill(out),
            Source::Seeded(rng) => lock(rng).fill(out),
        }
    }
}

/// Keys and transcript of one session; opaque.
#[pyclass(frozen, module = "veilnet._engine")]
pub struct KeySchedule {
    inner: Arc<Mutex<hs::KeySchedule>>,
    rng: Source,
    /// Keys of the newest generation until the engine takes them.
    fresh: Mutex<Option<SessionKeys>>,
}

/// The arguments that both ends give.
struct Terms<'a> {
    network_id: &'a [u8],
    secret: &'a [u8],
    responder_id: &'a [u8],
}

impl KeySchedule {
    fn new(inner: hs::KeySchedule, rng: Source) -> KeySchedule {
        KeySchedule {
            inner: Arc::new(Mutex::new(inner)),
            rng,
            fresh: Mutex::new(None),
        }
    }

    fn begin(suite: u8, mode: u8, terms: &Terms<'_>, ek: &[u8], rng: Source) -> PyResult<Self> {
        let (suite, mode) = (
            checked(Suite::from_number(suite))?,
            checked(Mode::from_number(mode))?,
        );
        let id = key(terms.responder_id, "a peer id")?;
        let mut source = rng.clone();
        let inner = hs::KeySchedule::initiate(
            suite,
            mode,
            terms.network_id,
            terms.secret,
            &id,
            ek,
            &mut source,
        );
        Ok(KeySchedule::new(checked(inner)?, rng))
    }

    fn answer(
        init: &InitReceived,
        terms: &Terms<'_>,
        ct: &[u8],
        ss: &[u8],
        rng: Source,
    ) -> PyResult<Self> {
        let id = key(terms.responder_id, "a peer id")?;
        let mut source = rng.clone();
        let inner = hs::KeySchedule::respond(
            init.inner(),
            terms.network_id,
            terms.secret,
            &id,
            ct,
            ss,
            &mut source,
        );
        Ok(KeySchedule::new(checked(inner)?, rng))
    }

    /// The schedule itself, for the engine and the gate.
    pub fn shared(&self) -> Arc<Mutex<hs::KeySchedule>> {
        self.inner.clone()
    }

    /// The newest generation's keys, once.
    pub fn take_generation(&self) -> PyResult<SessionKeys> {
        lock(&self.fresh).take().ok_or_else(|| {
            let text = "no new generation of keys awaits the engine";
            errors::raise("LocalProtocolError", text, "")
        })
    }

    fn keep(&self, next: hs::NextGeneration) -> Vec<u8> {
        *lock(&self.fresh) = Some(next.keys);
        next.message
    }
}

fn bytes<'py>(py: Python<'py>, value: hs::Result<&[u8]>) -> PyResult<Bound<'py, PyBytes>> {
    Ok(PyBytes::new(py, checked(value)?))
}

#[pymethods]
impl KeySchedule {
    #[staticmethod]
    #[pyo3(signature = (*, suite, mode, network_id, secret, responder_id, ek))]
    fn initiate(
        suite: u8,
        mode: u8,
        network_id: &[u8],
        secret: &[u8],
        responder_id: &[u8],
        ek: &[u8],
    ) -> PyResult<KeySchedule> {
        let terms = Terms {
            network_id,
            secret,
            responder_id,
        };
        KeySchedule::begin(suite, mode, &terms, ek, Source::System)
    }

    #[staticmethod]
    #[pyo3(signature = (init, *, network_id, secret, responder_id, ct, ss))]
    fn respond(
        init: &InitReceived,
        network_id: &[u8],
        secret: &[u8],
        responder_id: &[u8],
        ct: &[u8],
        ss: &[u8],
    ) -> PyResult<KeySchedule> {
        let terms = Terms {
            network_id,
            secret,
            responder_id,
        };
        KeySchedule::answer(init, &terms, ct, ss, Source::System)
    }

    #[getter]
    fn sid(&self) -> u32 {
        lock(&self.inner).local_sid()
    }

    #[getter]
    fn com<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, lock(&self.inner).com())
    }

    #[getter]
    fn th2<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        bytes(py, lock(&self.inner).th2())
    }

    #[getter]
    fn generation(&self) -> PyResult<u64> {
        checked(lock(&self.inner).generation())
    }

    #[getter]
    fn fingerprint<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        Ok(PyBytes::new(py, &checked(lock(&self.inner).fingerprint())?))
    }

    fn absorb_response<'py>(
        &self,
        py: Python<'py>,
        message: &[u8],
    ) -> PyResult<Bound<'py, PyBytes>> {
        let mut inner = lock(&self.inner);
        checked(inner.absorb_resp(message))?;
        bytes(py, inner.th3())
    }

    /// An exported secret of the session, bound to *label* and *context*: at most 1,024 bytes.
    #[pyo3(signature = (label, *, context=b"".as_slice(), length=32))]
    fn export<'py>(
        &self,
        py: Python<'py>,
        label: &[u8],
        context: &[u8],
        length: usize,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let mut out = vec![0; length.min(2048)];
        checked(lock(&self.inner).export(label, context, &mut out))?;
        Ok(PyBytes::new(py, &out))
    }

    /// `(name, psk)` for the next full handshake with this peer; the name is public.
    fn next_psk<'py>(
        &self,
        py: Python<'py>,
    ) -> PyResult<(Bound<'py, PyBytes>, Bound<'py, PyBytes>)> {
        let (name, psk) = checked(lock(&self.inner).psk())?;
        Ok((PyBytes::new(py, &name), PyBytes::new(py, &psk)))
    }

    fn generation_offer<'py>(&self, py: Python<'py>, ek: &[u8]) -> PyResult<Bound<'py, PyBytes>> {
        let offer = lock(&self.inner).next_begin(ek, &mut self.rng.clone());
        Ok(PyBytes::new(py, &checked(offer)?))
    }

    fn generation_answer<'py>(
        &self,
        py: Python<'py>,
        offer: &[u8],
        ct: &[u8],
        ss: &[u8],
    ) -> PyResult<Bound<'py, PyBytes>> {
        let next = lock(&self.inner).next_respond(offer, ct, ss, &mut self.rng.clone());
        Ok(PyBytes::new(py, &self.keep(checked(next)?)))
    }

    fn generation_confirm<'py>(
        &self,
        py: Python<'py>,
        answer: &[u8],
        ss: &[u8],
    ) -> PyResult<Bound<'py, PyBytes>> {
        let next = lock(&self.inner).next_finish(answer, ss);
        Ok(PyBytes::new(py, &self.keep(checked(next)?)))
    }

    fn generation_finish(&self, confirm: &[u8]) -> PyResult<()> {
        checked(lock(&self.inner).next_confirm(confirm))
    }

    fn generation_abort(&self) {
        lock(&self.inner).next_abort();
    }

    fn __repr__(&self) -> String {
        let inner = lock(&self.inner);
        let role = if inner.is_initiator() {
            "initiator"
        } else {
            "responder"
        };
        match inner.generation() {
            Ok(generation) => {
                format!(
                    "<KeySchedule {role} sid={} generation={generation}>",
                    inner.local_sid()
                )
            }
            Err(_) => format!("<KeySchedule {role} sid={} handshake>", inner.local_sid()),
        }
    }
}

/// Makes schedules from one seed: for simulations that must run twice alike.
///
/// Stands where the machines of `veilnet.protocol` take the class `KeySchedule`.
#[pyclass(frozen, module = "veilnet._engine")]
pub struct SeededSchedules(Source);

#[pymethods]
impl SeededSchedules {
    #[new]
    fn new(seed: u64) -> SeededSchedules {
        let rng = SeededRng::new(&seed.to_be_bytes());
        SeededSchedules(Source::Seeded(Arc::new(Mutex::new(rng))))
    }

    #[pyo3(signature = (*, suite, mode, network_id, secret, responder_id, ek))]
    fn initiate(
        &self,
        suite: u8,
        mode: u8,
        network_id: &[u8],
        secret: &[u8],
        responder_id: &[u8],
        ek: &[u8],
    ) -> PyResult<KeySchedule> {
        let terms = Terms {
            network_id,
            secret,
            responder_id,
        };
        KeySchedule::begin(suite, mode, &terms, ek, self.0.clone())
    }

    #[pyo3(signature = (init, *, network_id, secret, responder_id, ct, ss))]
    fn respond(
        &self,
        init: &InitReceived,
        network_id: &[u8],
        secret: &[u8],
        responder_id: &[u8],
        ct: &[u8],
        ss: &[u8],
    ) -> PyResult<KeySchedule> {
        let terms = Terms {
            network_id,
            secret,
            responder_id,
        };
        KeySchedule::answer(init, &terms, ct, ss, self.0.clone())
    }
}

/// K_door of a member: what an initiator must hold to get any reply from *responder_id*.
#[pyfunction]
fn door_key<'py>(
    py: Python<'py>,
    network_secret: &[u8],
    responder_id: &[u8],
) -> PyResult<Bound<'py, PyBytes>> {
    let id = key(responder_id, "a peer id")?;
    Ok(PyBytes::new(py, &hs::door_key(network_secret, &id)))
}

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    let table = PyDict::new(m.py());
    for label in labels::ALL {
        table.set_item(label.name, PyBytes::new(m.py(), label.text.as_bytes()))?;
    }
    m.add("LABELS", table)?;
    m.add_function(wrap_pyfunction!(door_key, m)?)?;
    m.add_class::<KeySchedule>()?;
    m.add_class::<SeededSchedules>()
}
