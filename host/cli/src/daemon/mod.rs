//! `wharf daemon`, also under the name `dockerd`.

mod config;
mod options;
mod pidfile;

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use nix::fcntl::{Flock, FlockArg};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, reload};
use wharf_api::{Listen, ListenOptions, Server};
use wharf_engine::{Engine, Settings};

use config::{Config, Given, Stop};
use pidfile::PidFile;

/// Status of a wrong command line.
const USAGE: u8 = 125;
/// Signals to end after which the daemon ends at once.
const IMPATIENT: u32 = 3;

type Level = reload::Handle<EnvFilter, Registry>;

/// Runs the daemon; `name` is how it was called.
pub(crate) fn main(name: &'static str, arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let prepared = config::parse(name, arguments).and_then(|given| {
        let config = load(name, &given)?;
        Ok((given, config))
    });
    let (given, config) = match prepared {
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
        eprintln!("configuration OK");
        return ExitCode::SUCCESS;
    }
    match start(name, &given, &config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(text) => {
            eprintln!("{name}: {text}");
            ExitCode::FAILURE
        }
    }
}

fn load(name: &str, given: &Given) -> Result<Config, Stop> {
    let usual = if name == "dockerd" { "/etc/docker/daemon.json" } else { "/etc/wharf/daemon.json" };
    let path = given.config_file.clone().unwrap_or_else(|| usual.into());
    let file = config::read_file(&path, given.config_file.is_some())?;
    let mut config = config::merge(given, &path, file)?;
    if config.hosts.is_empty() {
        let socket = if name == "dockerd" { "/var/run/docker.sock" } else { "/run/wharf/wharf.sock" };
        config.hosts.push(format!("unix://{socket}"));
    }
    Ok(config)
}

fn start(name: &'static str, given: &Given, config: &Config) -> Result<(), String> {
    if !nix::unistd::geteuid().is_root() {
        return Err("the daemon needs to be started with root privileges".into());
    }
    let addresses = config
        .hosts
        .iter()
        .map(|host| Listen::parse(host))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| e.to_string())?;
    let options = listen_options(config);
    addresses.iter().try_for_each(|address| options.allows(address)).map_err(|e| e.to_string())?;
    let level = log(config);
    for (option, why) in &config.without_effect {
        tracing::warn!("{option} was given and has no effect: {why}");
    }
    for dir in [&config.data_root, &config.exec_root] {
        make_dir(dir)?;
    }
    let _lock = lock(&config.data_root)?;
    let pidfile = config.pidfile.clone().unwrap_or_else(|| config.exec_root.join("wharf.pid"));
    let _pidfile = PidFile::create(&pidfile)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|e| format!("cannot start the runtime: {e}"))?;
    runtime.block_on(run(name, given, config, &addresses, &level))
}

fn listen_options(config: &Config) -> ListenOptions {
    ListenOptions { group: config.group.clone(), allow_insecure_tcp: config.allow_insecure_tcp }
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
            "info,wharf={level},wharf_api={level},wharf_engine={level},wharf_images={level},wharf_io={level},\
             wharf_keeper={level},wharf_kernel={level},wharf_plugins={level},wharf_store={level}"
        )),
        level => EnvFilter::new(level),
    }
}

fn log(config: &Config) -> Level {
    let (filter, level) = reload::Layer::new(filter(config));
    let lines = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(io::stderr);
    tracing_subscriber::registry().with(filter).with(lines).init();
    level
}

fn settings(config: &Config) -> Settings {
    let mut settings = Settings::new(&config.data_root, &config.exec_root);
    let pair = |text: &String| match text.split_once('=') {
        Some((key, value)) => (key.to_owned(), value.to_owned()),
        None => (text.clone(), String::new()),
    };
    settings.storage_driver.clone_from(&config.storage_driver);
    settings.storage_options = config.storage_opts.iter().map(pair).collect();
    settings.log_driver.clone_from(&config.log_driver);
    settings.log_options.clone_from(&config.log_opts);
    settings.labels.clone_from(&config.labels);
    settings.plugin_dirs = plugin_dirs(config);
    settings.plugin_config = config.plugins.iter().map(|(name, v)| (name.clone(), v.to_string())).collect();
    if let Ok(program) = std::env::current_exe() {
        settings.compiler = program.with_file_name("wharf-compile");
        settings.program = program;
    }
    settings.debug = config.debug;
    settings.cgroup_parent.clone_from(&config.cgroup_parent);
    settings.live_restore = config.live_restore;
    settings.dns.clone_from(&config.dns);
    settings.dns_search.clone_from(&config.dns_search);
    settings.dns_options.clone_from(&config.dns_opts);
    settings.bridge_address.clone_from(&config.bip);
    settings.bridge_name.clone_from(&config.bridge);
    settings.shutdown_timeout = config.shutdown_timeout;
    settings.init = config.init;
    settings.no_new_privileges = config.no_new_privileges;
    settings.mtu = config.mtu;
    settings
}

/// Those that were named, the administrator's, and those that came with this program.
fn plugin_dirs(config: &Config) -> Vec<PathBuf> {
    let mut dirs = config.plugin_dirs.clone();
    dirs.push("/etc/wharf/plugins".into());
    if let Ok(program) = std::env::current_exe()
        && let Some(dir) = program.parent()
    {
        dirs.push(dir.join("plugins"));
        dirs.push(dir.join("../lib/wharf/plugins"));
    }
    dirs.retain(|dir| dir.is_dir());
    dirs
}

async fn run(
    name: &'static str,
    given: &Given,
    config: &Config,
    addresses: &[Listen],
    level: &Level,
) -> Result<(), String> {
    let handler = |kind| signal(kind).map_err(|e| format!("cannot handle signals: {e}"));
    let mut terminate = handler(SignalKind::terminate())?;
    let mut interrupt = handler(SignalKind::interrupt())?;
    let hangup = handler(SignalKind::hangup())?;
    // Clients that come while the engine opens wait for it, rather than finding nobody.
    let server = Server::bind(addresses, &listen_options(config)).map_err(|e| e.to_string())?;
    let engine = Engine::open(settings(config)).await.map_err(|e| e.to_string())?;
    let shutdown = CancellationToken::new();
    let mut serving = tokio::spawn(server.run(Arc::new(engine.clone()), shutdown.clone()));
    for address in addresses {
        tracing::info!("API listen on {address}");
    }
    tell("READY=1");
    let reloading =
        tokio::spawn(reload(name, given.clone(), config.clone(), level.clone(), engine.clone(), hangup));
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        _ = &mut serving => {}
    }
    tracing::info!("ending");
    tell("STOPPING=1");
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

/// Reads the configuration file again at each SIGHUP; says what has to wait for the next start.
async fn reload(
    name: &'static str,
    given: Given,
    mut config: Config,
    level: Level,
    engine: Engine,
    mut hangup: Signal,
) {
    while hangup.recv().await.is_some() {
        let (again, given) = (name, given.clone());
        let loaded = tokio::task::spawn_blocking(move || load(again, &given)).await;
        let new = match loaded {
            Ok(Ok(new)) => new,
            Ok(Err(Stop::Usage(text) | Stop::Help(text))) => {
                tracing::error!("the configuration was not reloaded: {text}");
                continue;
            }
            Err(e) => {
                tracing::error!("the configuration was not reloaded: {e}");
                continue;
            }
        };
        if let Err(e) = level.reload(filter(&new)) {
            tracing::error!("the log level stays: {e}");
        }
        let same_but_level =
            Config { debug: config.debug, log_level: config.log_level.clone(), ..new.clone() } == config;
        if !same_but_level {
            tracing::warn!("reloaded debug and log-level; other changes of the configuration need a restart");
        }
        let attributes = [("name", name.to_owned()), ("debug", new.debug.to_string())];
        engine.events().publish(
            "daemon",
            "reload",
            name,
            attributes.into_iter().map(|(key, value)| (key.to_owned(), value)),
        );
        tracing::info!(debug = new.debug, level = %new.log_level, "configuration reloaded");
        config.debug = new.debug;
        config.log_level = new.log_level;
    }
}

/// Tells the service manager, if there is one that wants to know.
fn tell(state: &str) {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let sent = (|| {
        let socket = UnixDatagram::unbound()?;
        let address = match path.as_encoded_bytes() {
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
            _ => SocketAddr::from_pathname(&path)?,
        };
        socket.send_to_addr(state.as_bytes(), &address)
    })();
    if let Err(e) = sent {
        tracing::warn!("the service manager cannot be told {state:?}: {e}");
    }
}
