//! `wharf keeper`, which the daemon starts by itself.

use std::ffi::OsString;
use std::process::ExitCode;

/// Runs it; the arguments begin with the program's name.
pub(crate) fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let fails = |code: u8, text: String| {
        eprintln!("wharf keeper: {text}");
        ExitCode::from(code)
    };
    match wharf_keeper::Settings::parse(arguments) {
        Err(text) => fails(125, text),
        Ok(settings) => match wharf_keeper::serve(settings) {
            Ok(()) => ExitCode::SUCCESS,
            Err(text) => fails(1, text),
        },
    }
}
