//! Addresses, keys and times on their way between Python and Rust.

use crate::errors;
use pyo3::prelude::*;
use std::net::{IpAddr, SocketAddr};
use veilnet_handshake::{COOKIE, TICKET, Ticket};

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

/// A ticket and its key, as Python keeps them.
pub fn ticket((bytes, k_res): &(Vec<u8>, Vec<u8>)) -> PyResult<Ticket> {
    let Ok(bytes) = <[u8; TICKET]>::try_from(bytes.as_slice()) else {
        let text = format!("a ticket is {TICKET} bytes, not {}", bytes.len());
        return Err(errors::raise("LocalProtocolError", &text, ""));
    };
    let key = key(k_res, "a ticket's key")?.into();
    Ok(Ticket { bytes, key })
}

/// A cookie that came by another way than RETRY.
pub fn cookie(bytes: &[u8]) -> PyResult<[u8; COOKIE]> {
    bytes.try_into().map_err(|_| {
        let text = format!("a cookie is {COOKIE} bytes, not {}", bytes.len());
        errors::raise("LocalProtocolError", &text, "")
    })
}
