//! Links oqs-sys' static liboqs and our shim into one shared library in `OUT_DIR`.

use std::path::PathBuf;
use std::process::Command;
use std::{env, error::Error};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=src/shim.c");
    println!("cargo::rerun-if-env-changed=DEP_OQS_ROOT");

    // Set by the `cmake` crate inside oqs-sys, for crates that depend on `links = "oqs"`.
    let root = PathBuf::from(env::var("DEP_OQS_ROOT")?);
    let archive = ["lib", "lib64"]
        .iter()
        .map(|dir| root.join(dir).join("liboqs.a"))
        .find(|path| path.exists())
        .ok_or_else(|| format!("oqs-sys left no liboqs.a under {}", root.display()))?;
    let library = PathBuf::from(env::var("OUT_DIR")?).join("liboqs.so");

    let compiler = cc::Build::new().opt_level(2).try_get_compiler()?;
    let status = Command::new(compiler.path())
        .args([
            "-O2",
            "-fPIC",
            "-shared",
            "-fvisibility=hidden",
            "-Wall",
            "-Wextra",
            "-Werror",
        ])
        .arg("-I")
        .arg(root.join("include"))
        .arg("src/shim.c")
        .arg("-Wl,--wrap=OQS_randombytes")
        .arg("-Wl,--whole-archive")
        .arg(&archive)
        .arg("-Wl,--no-whole-archive")
        // Refuse a library that could not be loaded, and keep its tables read-only once it is.
        .args([
            "-Wl,-z,defs",
            "-Wl,-z,relro,-z,now",
            "-Wl,-z,noexecstack",
            "-s",
        ])
        .arg("-o")
        .arg(&library)
        .status()?;
    if !status.success() {
        return Err(format!("linking {} failed: {status}", library.display()).into());
    }
    Ok(())
}
