//! `wharf keeper`, which the daemon starts by itself.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Arg, ArgAction, Command, value_parser};

fn command() -> Command {
    Command::new("wharf keeper")
        .about("The parent of all containers' processes; the daemon starts it by itself")
        .arg(
            Arg::new("exec-root")
                .long("exec-root")
                .required(true)
                .value_parser(value_parser!(PathBuf))
                .help("Directory of its socket and state"),
        )
        .arg(
            Arg::new("background")
                .long("background")
                .action(ArgAction::SetTrue)
                .help("Go into the background once the socket is there"),
        )
        .arg(
            Arg::new("resume")
                .long("resume")
                .value_parser(value_parser!(i32))
                .help("Descriptor with the state of the instance that this one replaces"),
        )
}

pub(crate) fn main(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let program = std::iter::once(OsString::from("wharf keeper"));
    let matches = match command().try_get_matches_from(program.chain(arguments)) {
        Ok(matches) => matches,
        Err(e) => {
            let _ = e.print();
            return if e.use_stderr() { ExitCode::from(125) } else { ExitCode::SUCCESS };
        }
    };
    let Some(exec_root) = matches.get_one::<PathBuf>("exec-root").cloned() else {
        return ExitCode::from(125);
    };
    let program = match std::env::current_exe() {
        Ok(program) => program,
        Err(e) => {
            eprintln!("wharf keeper: cannot find this program: {e}");
            return ExitCode::FAILURE;
        }
    };
    let settings = wharf_keeper::Settings {
        exec_root,
        program,
        arguments: vec!["keeper".into()],
        background: matches.get_flag("background"),
        resume: matches.get_one::<i32>("resume").copied(),
    };
    match wharf_keeper::serve(settings) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("wharf keeper: {e}");
            ExitCode::FAILURE
        }
    }
}
