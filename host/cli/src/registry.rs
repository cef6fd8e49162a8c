//! `wharf registry serve`: a registry of one's own.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Arg, ArgAction, Command, value_parser};
use wharf_distribution::{Options, Server};

/// Status of a wrong command line.
const USAGE: u8 = 125;

fn command() -> Command {
    let serve = Command::new("serve")
        .about("Serve the OCI distribution API from a directory")
        .arg(
            Arg::new("root")
                .long("root")
                .value_parser(value_parser!(PathBuf))
                .default_value("/var/lib/wharf/registry")
                .help("Directory of all content"),
        )
        .arg(
            Arg::new("address")
                .long("address")
                .value_parser(value_parser!(SocketAddr))
                .default_value("127.0.0.1:5000")
                .help("Address to listen on"),
        )
        .arg(Arg::new("upstream").long("upstream").help("Registry to fetch from, and keep, what is not here"))
        .arg(
            Arg::new("registry-config-dir")
                .long("registry-config-dir")
                .value_parser(value_parser!(PathBuf))
                .action(ArgAction::Append)
                .help("Directory with hosts.toml and certificates of the upstream"),
        )
        .arg(
            Arg::new("read-only")
                .long("read-only")
                .action(ArgAction::SetTrue)
                .help("Refuse whatever changes something"),
        )
        .arg(
            Arg::new("allow-insecure")
                .long("allow-insecure")
                .action(ArgAction::SetTrue)
                .help("Listen where others can reach it: everybody may read and write"),
        );
    Command::new("wharf registry")
        .about("A registry of one's own")
        .subcommand_required(true)
        .subcommand(serve)
}

/// Runs it until a signal ends it.
pub(crate) fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let program = std::iter::once(OsString::from("wharf registry"));
    let matches = match command().try_get_matches_from(program.chain(arguments)) {
        Ok(matches) => matches,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(USAGE) } else { ExitCode::SUCCESS };
        }
    };
    let Some(("serve", matches)) = matches.subcommand() else { return ExitCode::from(USAGE) };
    let path = |name: &str| matches.get_one::<PathBuf>(name).cloned();
    let (Some(root), Some(address)) = (path("root"), matches.get_one::<SocketAddr>("address").copied())
    else {
        return ExitCode::from(USAGE);
    };
    if !address.ip().is_loopback() && !matches.get_flag("allow-insecure") {
        eprintln!(
            "wharf registry: {address} can be reached by others, and there is no password: say --allow-insecure, or put a \
             proxy that asks for one in front of 127.0.0.1"
        );
        return ExitCode::from(USAGE);
    }
    let options = Options {
        root,
        address,
        upstream: matches.get_one::<String>("upstream").cloned(),
        config_dirs: matches
            .get_many::<PathBuf>("registry-config-dir")
            .into_iter()
            .flatten()
            .cloned()
            .chain(["/etc/wharf/certs.d", "/etc/docker/certs.d"].map(PathBuf::from))
            .collect(),
        read_only: matches.get_flag("read-only"),
    };
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).init();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => {
            eprintln!("wharf registry: cannot start: {e}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(serve(options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("wharf registry: {e}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(options: Options) -> std::io::Result<()> {
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    let server = Server::bind(options).await?;
    tracing::info!(address = %server.address()?, "serving");
    tokio::select! {
        result = server.run() => result,
        _ = terminate.recv() => Ok(()),
        _ = tokio::signal::ctrl_c() => Ok(()),
    }
}
