//! Builds what the launcher carries for guests of gVisor: compat/lib.rs as a shared library.
use std::env;
use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=compat/lib.rs");
    let of = |name: &str| env::var(name).unwrap_or_else(|_| panic!("{name} is not set"));
    let out = Path::new(&of("OUT_DIR")).join("compat.so");
    let mut rustc = Command::new(of("RUSTC"));
    rustc.args([
        "--edition=2024",
        "--crate-name=ambit_compat",
        "--crate-type=cdylib",
        "--target",
        &of("TARGET"),
    ]);
    // Every program of a guest loads it. Without relro all that is written lies in one page, and a page that is written
    // first costs more there than anything else; it guards nothing, which is the agent's own process.
    rustc.args(["-Copt-level=2", "-Cpanic=abort", "-Cstrip=symbols", "-Crelro-level=off"]);
    rustc.args(["compat/lib.rs", "-o"]).arg(&out);
    if let Ok(linker) = env::var("RUSTC_LINKER") {
        rustc.arg(format!("-Clinker={linker}"));
    }
    let status = rustc.status().expect("rustc does not start");
    assert!(status.success(), "compat/lib.rs does not build");
}
