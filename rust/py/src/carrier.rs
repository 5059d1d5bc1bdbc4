//! The handle `Carriers`: connections over TLS for hosts whose UDP leads nowhere.

use crate::convert::{Endpoint, address, endpoint};
use crate::errors;
use pyo3::prelude::*;
use std::os::fd::IntoRawFd as _;
use std::time::Duration;

#[pyclass(frozen, module = "veilnet._engine")]
pub struct Carriers(veilnet_carrier::Carriers);

#[pymethods]
impl Carriers {
    #[staticmethod]
    fn open(py: Python<'_>) -> PyResult<Carriers> {
        py.detach(veilnet_carrier::Carriers::open)
            .map(Carriers)
            .map_err(|e| errors::carrier(&e))
    }

    fn listen(&self, port: u16) -> PyResult<u16> {
        self.0.listen(port).map_err(|e| errors::carrier(&e))
    }

    /// Blocks: call it in a worker thread.
    fn connect(&self, py: Python<'_>, host: String, port: u16, timeout_s: f64) -> PyResult<i32> {
        let to = address(&(host, port))?;
        let timeout = Duration::from_secs_f64(timeout_s.clamp(0.001, 600.0));
        py.detach(|| self.0.connect(to, timeout))
            .map(|fd| fd.into_raw_fd())
            .map_err(|e| errors::carrier(&e))
    }

    fn fileno(&self) -> i32 {
        self.0.event_fd()
    }

    fn drain(&self) -> Vec<(i32, Endpoint)> {
        self.0
            .drain()
            .into_iter()
            .map(|a| (a.fd.into_raw_fd(), endpoint(a.remote)))
            .collect()
    }

    fn count(&self) -> usize {
        self.0.count()
    }

    fn close(&self, py: Python<'_>) {
        py.detach(|| self.0.close());
    }

    fn __repr__(&self) -> String {
        format!("<Carriers connections={}>", self.0.count())
    }
}

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<Carriers>()
}
