//! The keeper as a program of its own: what `wharf keeper` is, in a few hundred kilobytes. Tests and benchmarks use it.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    let served = wharf_keeper::Settings::parse(std::env::args_os()).and_then(wharf_keeper::serve);
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("wharf-keeper: {reason}");
            ExitCode::FAILURE
        }
    }
}
