//! Nothing at run time: the product of this crate is the file its build script makes.
//!
//! ```text
//! oqs-sys (vendored)   liboqs.a          --+
//!                                          |-- cc -shared -->  OUT_DIR/liboqs.so
//! build.rs             src/shim.c        --+                        |
//! maturin              include from out-dir      veilnet/_native/lib/liboqs.so  (in the wheel)
//! ```
//!
//! `veilnet.crypto.liboqs` points `liboqs-python` at that file.  The binding crate depends on this
//! one only so that Cargo builds it in the same run.
