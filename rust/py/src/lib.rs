//! The Python face of the engine: the only crate that names PyO3. Typed in `_engine.pyi`.

mod beacon;
mod carrier;
mod convert;
mod engine;
mod errors;
mod events;
mod gate;
mod keys;
mod portmap;

use pyo3::prelude::*;

#[pymodule]
fn _engine(m: &Bound<'_, PyModule>) -> PyResult<()> {
    beacon::register(m)?;
    carrier::register(m)?;
    engine::register(m)?;
    events::register(m)?;
    keys::register(m)?;
    portmap::register(m)?;
    gate::register(m)?;
    m.add("CLEARTEXT", cfg!(feature = "cleartext"))
}
