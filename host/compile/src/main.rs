//! Turns a WebAssembly component (standard input) into the compiled form that the daemon loads (standard output).
//!
//! A compiler is the largest piece of code that looks at a plugin's bytes, so it runs alone: as nobody, without files,
//! network or new processes, with bounded memory and time. What it can do to the rest of the machine is write to its
//! standard output; what it writes there is trusted code, which is why nothing but the daemon's own copy of this program
//! may fill the daemon's cache.
#![forbid(unsafe_code)]

mod confine;

use std::io::{self, Read, Write};
use std::process::ExitCode;

use wasmtime::Engine;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            // Nobody may be listening any more.
            let _ = writeln!(io::stderr(), "wharf-compile: {message}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), String> {
    match std::env::args().nth(1).as_deref() {
        None => compile(false),
        Some("--portable") => compile(true),
        Some("--fingerprint") => {
            writeln!(io::stdout(), "{}", wharf_wasm::FINGERPRINT).map_err(|e| e.to_string())
        }
        Some(_) => {
            Err("usage: wharf-compile [--portable] < component.wasm > component.cwasm (or --fingerprint)"
                .into())
        }
    }
}

/// For this machine's processor, or for every one of its kind.
fn compile(portable: bool) -> Result<(), String> {
    let mut config = wharf_wasm::config();
    if portable {
        let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
        config.target(&target).map_err(|e| format!("{target}: {e:#}"))?;
    }
    // wasmtime's `parallel-compilation` is off: no right to make threads is needed.
    let engine = Engine::new(&config).map_err(|e| format!("engine: {e:#}"))?;
    confine::confine()?;

    let limit = wharf_wasm::MAX_COMPONENT;
    let mut component = Vec::new();
    io::stdin().take(limit + 1).read_to_end(&mut component).map_err(|e| e.to_string())?;
    if component.len() as u64 > limit {
        return Err(format!("larger than {} MiB", limit >> 20));
    }
    let compiled = engine.precompile_component(&component).map_err(|e| format!("{e:#}"))?;
    let mut out = io::stdout();
    out.write_all(&compiled).and_then(|()| out.flush()).map_err(|e| e.to_string())
}
