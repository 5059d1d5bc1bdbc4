//! Where errors cross from Rust to Python: the one place.

use pyo3::prelude::*;
use pyo3::types::PyDict;
use veilnet_engine::Error as EngineError;
use veilnet_handshake::{Error as HandshakeError, Fault};

/// An instance of `veilnet.errors.CLASS`, ready to be raised.
pub fn raise(class: &str, message: &str, hint: &str) -> PyErr {
    Python::attach(|py| {
        let built = py
            .import("veilnet.errors")
            .and_then(|m| m.getattr(class))
            .and_then(|class| {
                let kwargs = PyDict::new(py);
                kwargs.set_item("hint", hint)?;
                class.call((message,), Some(&kwargs))
            });
        match built {
            Ok(error) => PyErr::from_value(error),
            Err(error) => error,
        }
    })
}

pub fn handshake(error: &HandshakeError) -> PyErr {
    let (class, hint) = match error.fault() {
        Fault::Local => ("LocalProtocolError", "This is a bug of ours: report it."),
        Fault::Remote => ("RemoteProtocolError", ""),
        Fault::Internal => ("InternalError", ""),
    };
    raise(class, &error.to_string(), hint)
}

pub fn carrier(error: &veilnet_carrier::Error) -> PyErr {
    use veilnet_carrier::Error as CarrierError;
    let (class, hint) = match error {
        CarrierError::Bind { source, .. }
            if source.kind() == std::io::ErrorKind::PermissionDenied =>
        {
            (
                "PrivilegeError",
                "Choose a port above 1023, or run it with sudo.",
            )
        }
        CarrierError::Bind { .. } => (
            "ConfigError",
            "Stop the program that uses the port, or choose another with --listen-port.",
        ),
        CarrierError::Connect { .. } | CarrierError::NoCarrier { .. } | CarrierError::Full(_) => {
            ("PeerUnreachable", "")
        }
        CarrierError::Closed => ("ClosedError", ""),
        _ => ("InternalError", ""),
    };
    raise(class, &error.to_string(), hint)
}

pub fn engine(error: EngineError) -> PyErr {
    let text = error.to_string();
    match error {
        EngineError::Handshake(inner) => handshake(&inner),
        EngineError::Tun(source) if source.raw_os_error() == Some(16) => raise(
            "ConfigError",
            &text,
            "Another node holds a TUN device of that name: set tun_name in config.toml.",
        ),
        EngineError::Tun(_) => raise(
            "PrivilegeError",
            &text,
            "Run it with sudo, or without a device: veilnet up --no-tun",
        ),
        EngineError::Bind { ref source, .. } => match source.kind() {
            std::io::ErrorKind::PermissionDenied => raise(
                "PrivilegeError",
                &text,
                "Choose a port above 1023, or run it with sudo.",
            ),
            _ => raise(
                "ConfigError",
                &text,
                "Stop the program that uses the port, or choose another with --listen-port.",
            ),
        },
        EngineError::Invalid(_) => raise("LocalProtocolError", &text, ""),
        EngineError::NoSession(_) => raise("ClosedError", &text, ""),
        EngineError::Closed => raise("ClosedError", &text, ""),
        EngineError::Broken(_) => raise("BrokenEngineError", &text, ""),
        _ => raise("InternalError", &text, ""),
    }
}
