//! Events of a running engine, as Python sees them. Those of first contact are in `gate.rs`.

use crate::convert::{Endpoint, endpoint, seconds};
use pyo3::prelude::*;
use veilnet_engine::Event;

macro_rules! event {
    ($name:ident { $($field:ident : $type:ty),* }) => {
        #[pyclass(frozen, get_all, module = "veilnet._engine")]
        pub struct $name { $($field: $type),* }

        #[pymethods]
        impl $name {
            fn __repr__(&self) -> String {
                let mut text = String::from(stringify!($name));
                text.push('(');
                $( text.push_str(&format!("{}={:?}, ", stringify!($field), self.$field)); )*
                text.truncate(text.trim_end_matches(", ").len());
                text.push(')');
                text
            }
        }
    };
}

event!(SessionConfirmed { sid: u32 });
event!(PacketWanted {
    destination: String
});
event!(ProbeAnswered {
    sid: u32,
    path: u8,
    rtt_s: f64
});
event!(PathChanged {
    sid: u32,
    path: u8,
    state: &'static str,
    cause: &'static str,
    moved_to: Option<u8>
});
event!(CircuitSpent {
    link: u32,
    label: u32
});
event!(CarrierClosed { endpoint: Endpoint });
event!(PeerSilent {
    sid: u32,
    silent_s: f64
});
event!(SourceMoved {
    sid: u32,
    endpoint: Endpoint
});
event!(KeysStale { sid: u32 });
event!(EventsLost { count: u64 });
event!(EngineFailed { reason: String });

/// Its bytes are the peers' business: the repr tells their number only.
#[pyclass(frozen, module = "veilnet._engine")]
pub struct ControlReceived {
    #[pyo3(get)]
    sid: u32,
    data: Vec<u8>,
}

#[pymethods]
impl ControlReceived {
    #[getter]
    fn data(&self) -> &[u8] {
        &self.data
    }

    fn __repr__(&self) -> String {
        format!(
            "ControlReceived(sid={}, {} bytes)",
            self.sid,
            self.data.len()
        )
    }
}

pub fn to_python(py: Python<'_>, event: Event) -> PyResult<Py<PyAny>> {
    Ok(match event {
        Event::Handshake(event) => return crate::gate::event_to_python(py, event),
        Event::Confirmed { sid } => Py::new(py, SessionConfirmed { sid })?.into_any(),
        Event::Control { sid, data, .. } => Py::new(py, ControlReceived { sid, data })?.into_any(),
        Event::Wanted { destination } => Py::new(
            py,
            PacketWanted {
                destination: destination.to_string(),
            },
        )?
        .into_any(),
        Event::PathChanged {
            sid,
            path,
            state,
            cause,
            moved_to,
        } => Py::new(
            py,
            PathChanged {
                sid,
                path,
                state: state.name(),
                cause: cause.name(),
                moved_to,
            },
        )?
        .into_any(),
        Event::CircuitSpent { link, label } => {
            Py::new(py, CircuitSpent { link, label })?.into_any()
        }
        Event::ProbeAnswered { sid, path, rtt_ns } => Py::new(
            py,
            ProbeAnswered {
                sid,
                path,
                rtt_s: seconds(rtt_ns),
            },
        )?
        .into_any(),
        Event::CarrierClosed { endpoint: at } => Py::new(
            py,
            CarrierClosed {
                endpoint: endpoint(at),
            },
        )?
        .into_any(),
        Event::Silent { sid, silent_ns } => Py::new(
            py,
            PeerSilent {
                sid,
                silent_s: seconds(silent_ns),
            },
        )?
        .into_any(),
        Event::Moved { sid, endpoint: to } => Py::new(
            py,
            SourceMoved {
                sid,
                endpoint: endpoint(to),
            },
        )?
        .into_any(),
        Event::Stale { sid } => Py::new(py, KeysStale { sid })?.into_any(),
        Event::Lost { count } => Py::new(py, EventsLost { count })?.into_any(),
        Event::Failed { reason } => Py::new(py, EngineFailed { reason })?.into_any(),
        other => {
            let text = format!("an event that the binding does not know: {other:?}");
            return Err(crate::errors::raise("InternalError", &text, ""));
        }
    })
}

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<SessionConfirmed>()?;
    m.add_class::<ControlReceived>()?;
    m.add_class::<PacketWanted>()?;
    m.add_class::<ProbeAnswered>()?;
    m.add_class::<PathChanged>()?;
    m.add_class::<CircuitSpent>()?;
    m.add_class::<CarrierClosed>()?;
    m.add_class::<PeerSilent>()?;
    m.add_class::<SourceMoved>()?;
    m.add_class::<KeysStale>()?;
    m.add_class::<EventsLost>()?;
    m.add_class::<EngineFailed>()
}
