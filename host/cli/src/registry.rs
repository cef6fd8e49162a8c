//! `wharf registry serve`: a registry of one's own.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Arg, ArgAction, Command, value_parser};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde_json::Value;
use wharf_api::{Tls, TlsFiles};
use wharf_distribution::{AccessOptions, Limits, Options, Server};

use crate::daemon::values;

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
                .help("Listen where others can reach it without a password: everybody may read and write"),
        )
        .args(["tls-cert", "tls-key", "htpasswd"].map(|name| {
            Arg::new(name).long(name).value_parser(value_parser!(PathBuf)).help(match name {
                "tls-cert" => "Certificate to speak TLS with",
                "tls-key" => "Its key",
                _ => "Ask for a password: file of users with bcrypt hashes, as `htpasswd -B` writes it",
            })
        }))
        .arg(
            Arg::new("anonymous-read")
                .long("anonymous-read")
                .action(ArgAction::SetTrue)
                .requires("htpasswd")
                .help("Reading needs no password"),
        )
        .args([
            size("max-upload", "Bytes of one blob at most: 10g"),
            time(
                "upload-idle-timeout",
                "How long an upload may stand still before it is given up (1h if not said)",
            ),
            size(
                "cache-size",
                "Bytes of what was fetched from the upstream at most: what was not asked for longest goes",
            )
            .requires("upstream"),
            time(
                "cache-keep",
                "How long that stays after it was last asked for: 168h (for good if not said)",
            )
            .requires("upstream"),
        ]);
    Command::new("wharf registry")
        .about("A registry of one's own")
        .subcommand_required(true)
        .subcommand(serve)
}

fn size(name: &'static str, help: &'static str) -> Arg {
    let parse = |text: &str| {
        let bytes = values::size(&Value::String(text.to_owned()))?;
        u64::try_from(bytes).ok().filter(|n| *n > 0).ok_or_else(|| format!("invalid size: '{text}'"))
    };
    Arg::new(name).long(name).value_name("BYTES").value_parser(parse).help(help)
}

fn time(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).value_name("DURATION").value_parser(duration).help(help)
}

/// A time as Go writes it, and not none.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    wharf_engine::image_gc::duration(text)
        .filter(|time| !time.is_zero())
        .ok_or_else(|| format!("invalid time {text:?}: a time such as 72h is needed"))
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
    let htpasswd = path("htpasswd");
    if let Some(why) = too_open(address, htpasswd.is_some(), matches.get_flag("allow-insecure")) {
        eprintln!("wharf registry: {why}: say --htpasswd FILE, or --allow-insecure");
        return ExitCode::from(USAGE);
    }
    let tls = match tls(path("tls-cert").as_ref(), path("tls-key").as_ref()) {
        Ok(tls) => tls,
        Err(e) => {
            eprintln!("wharf registry: {e}");
            return ExitCode::from(USAGE);
        }
    };
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
        tls,
        access: htpasswd
            .map(|htpasswd| AccessOptions { htpasswd, anonymous_read: matches.get_flag("anonymous-read") }),
        limits: limits(matches),
    };
    // Each upload and each client needs one, and what a shell gives is few.
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
    {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
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

fn limits(matches: &clap::ArgMatches) -> Limits {
    let usual = Limits::default();
    let time = |name: &str| matches.get_one::<Duration>(name).copied();
    Limits {
        max_upload: matches.get_one::<u64>("max-upload").copied(),
        upload_idle: time("upload-idle-timeout").unwrap_or(usual.upload_idle),
        cache_keep: time("cache-keep").unwrap_or(usual.cache_keep),
        cache_size: matches.get_one::<u64>("cache-size").copied(),
    }
}

/// Why others could do too much with a registry at this address.
pub(crate) fn too_open(address: SocketAddr, password: bool, allowed: bool) -> Option<String> {
    let open = !address.ip().is_loopback() && !password && !allowed;
    open.then(|| format!("{address} can be reached by others, and there is no password"))
}

/// TLS with these files; both or none.
pub(crate) fn tls(certificate: Option<&PathBuf>, key: Option<&PathBuf>) -> Result<Option<Tls>, String> {
    match (certificate, key) {
        (None, None) => Ok(None),
        (Some(certificate), Some(key)) => {
            let files = TlsFiles { certificate: certificate.clone(), key: key.clone(), clients: None };
            Tls::load(files).map(Some)
        }
        _ => Err("TLS needs a certificate and a key: tls-cert and tls-key go together".into()),
    }
}

async fn serve(options: Options) -> std::io::Result<()> {
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    let server = Server::bind(options, None).await?;
    tracing::info!(address = %server.address()?, "serving");
    tokio::select! {
        result = server.run() => result,
        _ = terminate.recv() => Ok(()),
        _ = tokio::signal::ctrl_c() => Ok(()),
    }
}
