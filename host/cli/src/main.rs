//! `wharf`: daemon, keeper and command line in one program.
#![forbid(unsafe_code)]

mod daemon;
mod keeper;
mod registry;

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os();
    let name = arguments.next().unwrap_or_default();
    let rest: Vec<OsString> = arguments.collect();
    // As the name of an OCI runtime, for those who can be told a path but no arguments.
    if Path::new(&name).file_name().is_some_and(|n| n == "wharf-oci") {
        return ExitCode::from(wharf_oci::main(rest));
    }
    // Whatever starts a dockerd can start this.
    if Path::new(&name).file_name().is_some_and(|n| n == "dockerd") {
        return daemon::main("dockerd", rest);
    }
    match rest.first().and_then(|word| word.to_str()) {
        Some("daemon") => daemon::main("wharf daemon", rest.into_iter().skip(1)),
        // The keeper forks: no runtime and no thread may exist before it.
        Some("keeper") => keeper::main(std::iter::once(name).chain(rest)),
        // Nor before the forwarder, which gives up its rights.
        Some("forward") => forward(rest.into_iter().skip(1)),
        // So do these.
        Some("oci") => ExitCode::from(wharf_oci::main(rest.into_iter().skip(1))),
        Some("registry") => registry::main(rest.into_iter().skip(1)),
        _ => client(rest),
    }
}

fn forward(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let served =
        wharf_forward::Settings::parse(arguments).and_then(|settings| wharf_forward::serve(&settings));
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(text) => {
            eprintln!("wharf forward: {text}");
            ExitCode::FAILURE
        }
    }
}

fn client(arguments: Vec<OsString>) -> ExitCode {
    match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => ExitCode::from(runtime.block_on(wharf_client::main(arguments))),
        Err(e) => {
            eprintln!("wharf: cannot start: {e}");
            ExitCode::FAILURE
        }
    }
}
