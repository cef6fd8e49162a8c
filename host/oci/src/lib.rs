//! `wharf oci`: containers from OCI bundles, with runc's command line, by the same kernel code that the daemon's keeper uses.
//!
//! `create` leaves a container's first process waiting at its gate; `start` opens it. Nothing of Wharf stays behind: the
//! process belongs to whoever called, and what is known about it is in a directory of its own (`--root`).
#![forbid(unsafe_code)]

mod args;
mod attributes;
mod checkpoint;
mod convert;
mod create;
pub mod document;
mod events;
mod exec;
mod handover;
mod home;
mod hooks;
mod log;
mod manage;
mod notify;
mod restore;
mod signals;
mod spec;
mod state;
mod subcgroup;
mod terminal;
mod tuning;
mod user;

use std::ffi::OsString;

use clap::Parser;

use args::{Cli, Command};

/// What went wrong, as a text for the user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Error(pub(crate) String);

pub(crate) type Result<T> = std::result::Result<T, Error>;

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

macro_rules! from {
    ($($kind:ty),*) => {
        $(impl From<$kind> for Error {
            fn from(e: $kind) -> Self {
                Self(e.to_string())
            }
        })*
    };
}
from!(std::io::Error, wharf_kernel::Error, serde_json::Error, nix::Error);

impl From<&str> for Error {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl From<String> for Error {
    fn from(text: String) -> Self {
        Self(text)
    }
}

/// Says what was being done.
pub(crate) trait Doing<T> {
    fn doing(self, what: impl std::fmt::Display) -> Result<T>;
}

impl<T, E: std::fmt::Display> Doing<T> for std::result::Result<T, E> {
    fn doing(self, what: impl std::fmt::Display) -> Result<T> {
        self.map_err(|e| Error(format!("{what}: {e}")))
    }
}

/// Runs one command line (without the program's name) and gives the exit code.
///
/// To be called while the process has one thread: it forks children that go on without exec.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> u8 {
    let program = std::iter::once(OsString::from("wharf oci"));
    let cli = match Cli::try_parse_from(program.chain(arguments)) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version go to standard output.
            let _ = error.print();
            return u8::from(error.use_stderr());
        }
    };
    log::begin(&cli);
    match perform(&cli) {
        Ok(code) => code,
        Err(error) => {
            log::error(&error.0);
            // So that it is not taken for the code of the process that was to be executed.
            if matches!(cli.command, Command::Exec(_)) { 255 } else { 1 }
        }
    }
}

fn perform(cli: &Cli) -> Result<u8> {
    let root = cli.root.clone().unwrap_or_else(|| "/run/wharf/oci".into());
    let store = state::Store::new(root);
    let systemd = cli.systemd_cgroup;
    match &cli.command {
        Command::Create(a) => create::create(&store, a, systemd).map(|()| 0),
        Command::Start(a) => create::start(&store, &a.id).map(|()| 0),
        Command::Run(a) => create::run(&store, a, systemd),
        Command::State(a) => manage::state(&store, &a.id),
        Command::Kill(a) => manage::kill(&store, a),
        Command::Delete(a) => manage::delete(&store, a),
        Command::Ps(a) => manage::ps(&store, a),
        Command::Pause(a) => manage::freeze(&store, &a.id, true),
        Command::Resume(a) => manage::freeze(&store, &a.id, false),
        Command::Update(a) => manage::update(&store, a),
        Command::List(a) => manage::list(&store, a),
        Command::Events(a) => events::events(&store, a),
        Command::Exec(a) => exec::exec(&store, a),
        Command::Checkpoint(a) => checkpoint::checkpoint(&store, a, &cli.criu),
        Command::Restore(a) => restore::restore(&store, a, systemd, &cli.criu),
        Command::Spec(a) => spec::spec(a),
        Command::Features => spec::features(),
    }
}
