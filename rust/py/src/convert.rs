//! Addresses, keys and times on their way between Python and Rust.

use crate::errors;
use pyo3::prelude::*;
use std::net::{IpAddr, SocketAddr};

/// `(host, port)`, the host a literal address.
pub type Endpoint = (String, u16);

pub fn endpoint(address: SocketAddr) -> Endpoint {
    (address.ip().to_string(), address.port())
}

pub fn address((host, port): &Endpoint) -> PyResult<SocketAddr> {
    let ip: IpAddr = host.parse().map_err(|_| {
        let text = format!("{host:?} is not an IP address");
        errors::raise("LocalProtocolError", &text, "")
    })?;
    Ok(SocketAddr::new(ip, *port))
}

pub fn key(bytes: &[u8], what: &str) -> PyResult<[u8; 32]> {
    bytes.try_into().map_err(|_| {
        let text = format!("{what} has {} bytes, not 32", bytes.len());
        errors::raise("LocalProtocolError", &text, "")
    })
}

pub fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}
