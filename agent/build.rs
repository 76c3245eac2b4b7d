//! Embeds the eBPF objects which `cargo xtask ebpf` builds. Without them everything still compiles, checks and unit-tests;
//! such an agent refuses to start and says which command is missing. Notes which compiler it is built with.

use std::{env, error::Error, fs, path::PathBuf, process::Command};

fn main() -> Result<(), Box<dyn Error>> {
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let objects = match env::var_os("ISTHMUS_EBPF_DIR") {
        Some(directory) => PathBuf::from(directory),
        None => PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join("../target/ebpf"),
    };
    println!("cargo::rerun-if-env-changed=ISTHMUS_EBPF_DIR");
    for name in ["node", "pod"] {
        let object = objects.join(name);
        println!("cargo::rerun-if-changed={}", object.display());
        let bytes = fs::read(&object).unwrap_or_default();
        fs::write(out.join(format!("{name}.bpf")), bytes)?;
    }
    println!("cargo::rustc-env=ISTHMUS_RUSTC_VERSION={}", compiler()?);
    Ok(())
}

/// Such as `1.95.0`.
fn compiler() -> Result<String, Box<dyn Error>> {
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let said = String::from_utf8(Command::new(rustc).arg("--version").output()?.stdout)?;
    Ok(said.split(' ').nth(1).unwrap_or("unknown").to_owned())
}
