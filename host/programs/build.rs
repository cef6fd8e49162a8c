//! Compiles the programs of `inside/` as static executables without any library.

use std::path::PathBuf;
use std::process::{Command, ExitCode};

fn main() -> ExitCode {
    match build() {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            println!("cargo::error={reason}");
            ExitCode::FAILURE
        }
    }
}

fn build() -> Result<(), String> {
    let variable = |name: &str| std::env::var_os(name).ok_or_else(|| format!("cargo did not set {name}"));
    let out = PathBuf::from(variable("OUT_DIR")?);
    println!("cargo::rerun-if-changed=inside");
    for name in ["init", "hello"] {
        let mut rustc = Command::new(variable("RUSTC")?);
        rustc.arg(format!("inside/{name}.rs")).arg("--target").arg(variable("TARGET")?);
        rustc.args(["--edition", "2024", "--crate-type", "bin", "--crate-name", name]);
        for option in [
            "opt-level=s",
            "panic=abort",
            "strip=symbols",
            "relocation-model=static",
            "target-feature=+crt-static",
            "link-arg=-nostartfiles",
            "link-arg=-nostdlib",
            "link-arg=-static",
            "link-arg=-no-pie",
            "link-arg=-Wl,--build-id=none,-z,noexecstack,-z,norelro",
        ] {
            rustc.arg("-C").arg(option);
        }
        if let Some(linker) = std::env::var_os("RUSTC_LINKER") {
            let mut option = std::ffi::OsString::from("linker=");
            option.push(linker);
            rustc.arg("-C").arg(option);
        }
        rustc.arg("-o").arg(out.join(name));
        // Flags meant for the workspace (coverage, sanitizers) make no sense without a library.
        rustc.env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS");
        let output = rustc.output().map_err(|e| format!("cannot run rustc: {e}"))?;
        if !output.status.success() {
            return Err(format!("{name}: {}", String::from_utf8_lossy(&output.stderr)));
        }
    }
    Ok(())
}
