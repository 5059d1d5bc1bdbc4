//! `PortMapping` for Python: a UDP port of the gateway that leads here.

use std::net::IpAddr;
use std::num::NonZeroU16;
use std::sync::Mutex;

use crate::beacon::seconds;
use crate::convert::{self, Endpoint};
use crate::errors;
use crate::keys::lock;
use pyo3::prelude::*;
use veilnet_portmap::{Error, Mapping, Wish};

/// A mapping that a gateway gave; it stays there until it is removed or expires.
#[pyclass(frozen, module = "veilnet._engine")]
pub struct PortMapping {
    inner: Mutex<Mapping>,
}

#[pymethods]
impl PortMapping {
    #[staticmethod]
    #[pyo3(signature = (gateway, *, client, port, life_s, timeout_s))]
    fn by_pcp(
        py: Python<'_>,
        gateway: &str,
        client: &str,
        port: u16,
        life_s: u32,
        timeout_s: f64,
    ) -> PyResult<Self> {
        let gateway = parsed(gateway)?;
        let wish = wish(client, port, life_s, timeout_s)?;
        PortMapping::held(py.detach(|| Mapping::by_pcp(gateway, wish)))
    }

    #[staticmethod]
    #[pyo3(signature = (*, client, port, life_s, timeout_s, search=None))]
    fn by_upnp(
        py: Python<'_>,
        client: &str,
        port: u16,
        life_s: u32,
        timeout_s: f64,
        search: Option<Endpoint>,
    ) -> PyResult<Self> {
        let search = search.as_ref().map(convert::address).transpose()?;
        let wish = wish(client, port, life_s, timeout_s)?;
        PortMapping::held(py.detach(|| Mapping::by_upnp(wish, search)))
    }

    #[getter]
    fn external(&self, py: Python<'_>) -> Endpoint {
        py.detach(|| convert::endpoint(lock(&self.inner).external()))
    }

    #[getter]
    fn life_s(&self, py: Python<'_>) -> u32 {
        py.detach(|| lock(&self.inner).life_s())
    }

    #[getter]
    fn protocol(&self, py: Python<'_>) -> &'static str {
        py.detach(|| lock(&self.inner).protocol().name())
    }

    fn renew(&self, py: Python<'_>) -> PyResult<()> {
        py.detach(|| lock(&self.inner).renew()).map_err(failure)
    }

    fn remove(&self, py: Python<'_>) -> PyResult<()> {
        py.detach(|| lock(&self.inner).remove()).map_err(failure)
    }
}

impl PortMapping {
    fn held(made: veilnet_portmap::Result<Mapping>) -> PyResult<Self> {
        made.map_err(failure).map(|mapping| PortMapping {
            inner: Mutex::new(mapping),
        })
    }
}

fn parsed(text: &str) -> PyResult<IpAddr> {
    text.parse().map_err(|_| {
        let text = format!("{text:?} is not an IP address");
        errors::raise("LocalProtocolError", &text, "")
    })
}

fn wish(client: &str, port: u16, life_s: u32, timeout_s: f64) -> PyResult<Wish> {
    let port = NonZeroU16::new(port)
        .ok_or_else(|| errors::raise("LocalProtocolError", "port 0 cannot be mapped", ""))?;
    Ok(Wish {
        client: parsed(client)?,
        port,
        life_s,
        timeout: seconds(timeout_s)?,
    })
}

fn failure(error: Error) -> PyErr {
    let text = error.to_string();
    match error {
        Error::Silent(_) => errors::raise(
            "TimedOut",
            &text,
            "Switch UPnP, NAT-PMP or PCP on in the gateway; without it holes are punched.",
        ),
        Error::Refused(_) => errors::raise(
            "PeerRefused",
            &text,
            "Allow this host to map ports in the gateway's settings.",
        ),
        Error::Io(_) => errors::raise("ConfigError", &text, "Check this host's network."),
        _ => errors::raise("InternalError", &text, ""),
    }
}

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<PortMapping>()
}
