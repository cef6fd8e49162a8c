//! The forwarder by itself, for tests and measurements; `wharf forward` is the same.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    // After the word `forward`.
    let arguments = std::env::args_os().skip(2);
    let served =
        wharf_forward::Settings::parse(arguments).and_then(|settings| wharf_forward::serve(&settings));
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(text) => {
            eprintln!("wharf-forward: {text}");
            ExitCode::FAILURE
        }
    }
}
