//! The Python face of the engine: the only crate that names PyO3. Typed in `_engine.pyi`.

mod convert;
mod engine;
mod errors;
mod events;
mod gate;
mod keys;

use pyo3::prelude::*;

#[pymodule]
fn _engine(m: &Bound<'_, PyModule>) -> PyResult<()> {
    engine::register(m)?;
    events::register(m)?;
    keys::register(m)?;
    gate::register(m)?;
    m.add("CLEARTEXT", cfg!(feature = "cleartext"))
}
