//! `Beacon` for Python: announcements on the Mainline DHT.

use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::convert::Endpoint;
use crate::errors;
use crate::keys::lock;
use pyo3::prelude::*;
use veilnet_beacon as vb;

/// A client of the Mainline DHT until it is closed.
#[pyclass(frozen, module = "veilnet._engine")]
pub struct Beacon {
    inner: Mutex<Option<Arc<vb::Beacon>>>,
}

impl Beacon {
    fn open_one(&self) -> PyResult<Arc<vb::Beacon>> {
        lock(&self.inner)
            .clone()
            .ok_or_else(|| errors::raise("ClosedError", "the beacon is closed", ""))
    }
}

#[pymethods]
impl Beacon {
    #[staticmethod]
    #[pyo3(signature = (*, bootstrap, bind=None))]
    fn open(py: Python<'_>, bootstrap: Vec<String>, bind: Option<&str>) -> PyResult<Self> {
        let bind: Option<Ipv4Addr> = match bind.map(str::parse).transpose() {
            Ok(bind) => bind,
            Err(_) => return Err(errors::raise("LocalProtocolError", "no IPv4 address", "")),
        };
        let opened = py
            .detach(|| vb::Beacon::open(&bootstrap, bind))
            .map_err(failure)?;
        Ok(Beacon {
            inner: Mutex::new(Some(Arc::new(opened))),
        })
    }

    #[pyo3(signature = (infohash, *, most, timeout_s))]
    fn peers(
        &self,
        py: Python<'_>,
        infohash: &[u8],
        most: usize,
        timeout_s: f64,
    ) -> PyResult<Vec<Endpoint>> {
        let (beacon, infohash, timeout) =
            (self.open_one()?, checked(infohash)?, seconds(timeout_s)?);
        let found = py
            .detach(|| beacon.peers(infohash, most, timeout))
            .map_err(failure)?;
        Ok(found
            .into_iter()
            .map(|peer| (peer.ip().to_string(), peer.port()))
            .collect())
    }

    #[pyo3(signature = (infohash, *, port, timeout_s))]
    fn announce(&self, py: Python<'_>, infohash: &[u8], port: u16, timeout_s: f64) -> PyResult<()> {
        let (beacon, infohash, timeout) =
            (self.open_one()?, checked(infohash)?, seconds(timeout_s)?);
        py.detach(|| beacon.announce(infohash, port, timeout))
            .map_err(failure)
    }

    #[pyo3(signature = (*, timeout_s))]
    fn nodes(&self, py: Python<'_>, timeout_s: f64) -> PyResult<Vec<String>> {
        let (beacon, timeout) = (self.open_one()?, seconds(timeout_s)?);
        py.detach(|| beacon.nodes(timeout)).map_err(failure)
    }

    fn close(&self) {
        // Its thread ends when the last call that still uses it has.
        drop(lock(&self.inner).take());
    }

    fn __repr__(&self) -> &'static str {
        if lock(&self.inner).is_some() {
            "<Beacon>"
        } else {
            "<Beacon closed>"
        }
    }
}

/// A small Mainline DHT on loopback, for tests; gone with the object.
#[pyclass(frozen, module = "veilnet._engine")]
pub struct BeaconTestnet {
    inner: Mutex<Option<vb::Testnet>>,
    bootstrap: Vec<String>,
}

#[pymethods]
impl BeaconTestnet {
    #[new]
    fn new(py: Python<'_>, count: usize) -> PyResult<Self> {
        let made = py.detach(|| vb::testnet(count)).map_err(failure)?;
        Ok(BeaconTestnet {
            bootstrap: made.bootstrap.clone(),
            inner: Mutex::new(Some(made)),
        })
    }

    #[getter]
    fn bootstrap(&self) -> Vec<String> {
        self.bootstrap.clone()
    }

    fn close(&self) {
        drop(lock(&self.inner).take());
    }
}

fn checked(infohash: &[u8]) -> PyResult<[u8; vb::INFOHASH_BYTES]> {
    infohash.try_into().map_err(|_| {
        let text = format!("an infohash has {} bytes, not 20", infohash.len());
        errors::raise("LocalProtocolError", &text, "")
    })
}

pub fn seconds(value: f64) -> PyResult<Duration> {
    Duration::try_from_secs_f64(value)
        .map_err(|error| errors::raise("LocalProtocolError", &format!("{value} s: {error}"), ""))
}

fn failure(error: vb::Error) -> PyErr {
    let text = error.to_string();
    match error {
        vb::Error::Socket(_) => raise_config(&text, "Check this host's network."),
        vb::Error::NoBootstrap(_) => raise_config(
            &text,
            "Check this host's DNS, or name nodes with beacon_bootstrap in config.toml.",
        ),
        vb::Error::Silent(_) | vb::Error::Refused(_) => errors::raise(
            "TimedOut",
            &text,
            "Is UDP to the Internet open here? It is tried again by itself.",
        ),
        _ => errors::raise("InternalError", &text, ""),
    }
}

fn raise_config(text: &str, hint: &str) -> PyErr {
    errors::raise("ConfigError", text, hint)
}

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<Beacon>()?;
    m.add_class::<BeaconTestnet>()
}
