//! `wharf daemon`, also under the name `dockerd`.

mod check;
mod config;
mod image_gc;
mod metrics;
mod notify;
mod options;
mod pidfile;
mod registry;
mod reload;
mod settings;
mod subids;
mod tls;
pub(crate) mod values;

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer as _, Registry};
use wharf_api::{Listen, ListenOptions, Server};
use wharf_engine::{Engine, Settings};
use wharf_kernel::sys::heap;

use config::{Config, Given, Stop};
use pidfile::PidFile;

/// Status of a wrong command line.
const USAGE: u8 = 125;
/// Signals to end after which the daemon ends at once.
const IMPATIENT: u32 = 3;

type Level = tracing_subscriber::reload::Handle<EnvFilter, Registry>;

/// Runs the daemon; `name` is how it was called.
pub(crate) fn main(name: &'static str, arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let prepared = config::parse(name, arguments).and_then(|given| {
        let (config, engine) = load(name, &given)?;
        Ok((given, config, engine))
    });
    let (given, config, engine) = match prepared {
        Ok(prepared) => prepared,
        Err(Stop::Help(text)) => {
            print!("{text}");
            return ExitCode::SUCCESS;
        }
        Err(Stop::Usage(text)) => {
            eprintln!("{name}: {text}");
            return ExitCode::from(USAGE);
        }
    };
    if given.validate {
        if let Err(text) = registry::options(&config) {
            eprintln!("{name}: {text}");
            return ExitCode::FAILURE;
        }
        eprintln!("configuration OK");
        return ExitCode::SUCCESS;
    }
    match start(Loaded { name, given, config, engine }) {
        Ok(()) => ExitCode::SUCCESS,
        Err(text) => {
            eprintln!("{name}: {text}");
            ExitCode::FAILURE
        }
    }
}

/// All that was asked for, read and checked.
struct Loaded {
    name: &'static str,
    given: Given,
    config: Config,
    engine: Settings,
}

/// Reads the configuration file and works out the engine's settings.
fn load(name: &str, given: &Given) -> Result<(Config, Settings), Stop> {
    let usual = if name == "dockerd" { "/etc/docker/daemon.json" } else { "/etc/wharf/daemon.json" };
    let path = given.config_file.clone().unwrap_or_else(|| usual.into());
    let file = config::read_file(&path, given.config_file.is_some())?;
    let mut config = config::merge(given, &path, file)?;
    if config.hosts.is_empty() {
        let socket = if name == "dockerd" { "/var/run/docker.sock" } else { "/run/wharf/wharf.sock" };
        config.hosts.push(format!("unix://{socket}"));
    }
    let engine = settings::settings(&config).map_err(Stop::Usage)?;
    Ok((config, engine))
}

fn start(loaded: Loaded) -> Result<(), String> {
    let config = &loaded.config;
    if !nix::unistd::geteuid().is_root() {
        return Err("the daemon needs to be started with root privileges".into());
    }
    // Before anything else could get one of their numbers.
    let inherited = notify::sockets().map_err(|e| format!("cannot take over sockets: {e}"))?;
    let tls = tls::tls(config)?;
    let addresses = config
        .hosts
        .iter()
        .map(|host| Listen::parse(host, tls.is_some()))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| e.to_string())?;
    let options =
        ListenOptions { group: config.group.clone(), allow_insecure_tcp: config.allow_insecure_tcp, tls };
    addresses.iter().try_for_each(|address| options.allows(address)).map_err(|e| e.to_string())?;
    let level = log(config);
    for (option, why) in &config.without_effect {
        tracing::warn!("{option} was given and has no effect: {why}");
    }
    if config.selinux_enabled {
        if Path::new("/sys/fs/selinux/enforce").exists() {
            return Err("--selinux-enabled is not supported: containers are not labelled yet".into());
        }
        tracing::warn!("Docker could not enable SELinux on the host system");
    }
    if config.oom_score_adjust != 0 {
        fs::write("/proc/self/oom_score_adj", config.oom_score_adjust.to_string())
            .map_err(|e| format!("cannot set the OOM score to {}: {e}", config.oom_score_adjust))?;
    }
    for dir in [&config.data_root, &config.exec_root] {
        make_dir(dir)?;
    }
    let _lock = lock(&config.data_root)?;
    let pidfile = config.pidfile.clone().unwrap_or_else(|| config.exec_root.join("wharf.pid"));
    let _pidfile = PidFile::create(&pidfile)?;
    heap::limit_arenas(std::thread::available_parallelism().map_or(2, |n| n.get().max(2)));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|e| format!("cannot start the runtime: {e}"))?;
    runtime.block_on(run(loaded, &addresses, options, inherited, level))
}

fn make_dir(dir: &Path) -> Result<(), String> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o710)
        .create(dir)
        .map_err(|e| format!("cannot make the directory {}: {e}", dir.display()))
}

/// Two daemons on the same data would destroy it.
fn lock(data_root: &Path) -> Result<Flock<fs::File>, String> {
    let path = data_root.join("daemon.lock");
    let file = fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&path)
        .map_err(|e| format!("cannot open {}: {e}", path.display()))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, e)| match e {
        nix::Error::EWOULDBLOCK => format!("another daemon uses {}", data_root.display()),
        e => format!("cannot lock {}: {e}", path.display()),
    })
}

fn filter(config: &Config) -> EnvFilter {
    let level = match config.log_level.as_str() {
        _ if config.debug => "debug",
        "fatal" | "panic" => "error",
        other => other,
    };
    // Libraries say too much below info.
    match level {
        "debug" | "trace" => EnvFilter::new(format!(
            "info,wharf={level},wharf_api={level},wharf_distribution={level},wharf_engine={level},wharf_images={level},wharf_io={level},\
             wharf_keeper={level},wharf_kernel={level},wharf_plugins={level},wharf_registry={level},\
             wharf_store={level}"
        )),
        level => EnvFilter::new(level),
    }
}

fn log(config: &Config) -> Level {
    let (filter, level) = tracing_subscriber::reload::Layer::new(filter(config));
    let lines = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(io::stderr);
    let lines = if config.log_format == "json" { lines.json().boxed() } else { lines.boxed() };
    tracing_subscriber::registry().with(filter).with(lines).init();
    level
}

/// Memory that a crowd of clients needed goes back to the system within a minute.
async fn give_back() {
    let mut minutes = tokio::time::interval(Duration::from_mins(1));
    minutes.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        minutes.tick().await;
        if tokio::task::spawn_blocking(heap::trim).await.is_err() {
            return;
        }
    }
}

async fn run(
    loaded: Loaded,
    addresses: &[Listen],
    options: ListenOptions,
    inherited: Vec<(String, OwnedFd)>,
    level: Level,
) -> Result<(), String> {
    let handler = |kind| signal(kind).map_err(|e| format!("cannot handle signals: {e}"));
    let mut terminate = handler(SignalKind::terminate())?;
    let mut interrupt = handler(SignalKind::interrupt())?;
    let hangup = handler(SignalKind::hangup())?;
    tokio::spawn(give_back());
    // Clients that come while the engine opens wait for it, rather than finding nobody.
    let server = Server::bind_with(addresses, &options, inherited).map_err(|e| e.to_string())?;
    let metrics = match loaded.config.metrics_addr.as_deref().filter(|a| !a.is_empty()) {
        Some(address) => Some(metrics::bind(address).await?),
        None => None,
    };
    let registry = registry::options(&loaded.config)?;
    let engine = Engine::open(loaded.engine.clone()).await.map_err(|e| e.to_string())?;
    let registry = match registry {
        None => None,
        Some(registry) => match registry::bind(registry, &engine).await {
            Ok(server) => Some(server),
            Err(text) => {
                engine.shutdown().await;
                return Err(text);
            }
        },
    };
    reload::check_authorizers(&engine, &loaded.config)?;
    let shutdown = CancellationToken::new();
    let bound = server.addresses();
    let mut serving = tokio::spawn(server.run(Arc::new(engine.clone()), shutdown.clone()));
    for address in bound {
        tracing::info!("API listen on {address}");
    }
    let kept = registry.as_ref().map(wharf_distribution::Server::handle);
    if let Some(kept) = &kept {
        engine.set_cache(Arc::new(registry::Kept(kept.clone())));
    }
    if let Some(registry) = registry {
        let shutdown = shutdown.clone();
        tokio::spawn(async move {
            tokio::select! {
                _ = registry.run() => {}
                () = shutdown.cancelled() => {}
            }
        });
    }
    if let Some(listener) = metrics {
        tokio::spawn(metrics::serve(listener, engine.clone(), shutdown.clone()));
    }
    notify::tell("READY=1");
    if let Some(interval) = notify::watchdog() {
        tokio::spawn(async move {
            let mut ticks = tokio::time::interval(interval);
            loop {
                ticks.tick().await;
                notify::tell("WATCHDOG=1");
            }
        });
    }
    let reloading = tokio::spawn(reload::run(loaded, level, engine.clone(), options.tls, kept, hangup));
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        _ = &mut serving => {}
    }
    tracing::info!("ending");
    notify::tell("STOPPING=1");
    reloading.abort();
    shutdown.cancel();
    let ending = async {
        engine.shutdown().await;
        if !serving.is_finished() {
            let _ = serving.await;
        }
    };
    tokio::select! {
        () = ending => {}
        () = impatience(&mut terminate, &mut interrupt) => tracing::warn!("ended at once, as was asked for repeatedly"),
    }
    Ok(())
}

/// Resolves when the daemon was told to end so often that it should not care for order any more.
async fn impatience(terminate: &mut Signal, interrupt: &mut Signal) {
    for _ in 1..IMPATIENT {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    }
}
