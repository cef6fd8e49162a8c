//! Opening the engine and ending it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use wharf_kernel::cgroup::{Cgroups, Version};
use wharf_kernel::net;
use wharf_store::{Store, Transaction};

use crate::drivers::{CodecSeam, StorageSeam};
use crate::error::{Context, Error, Result};
use crate::filesystem::Dirs;
use crate::host::Host;
use crate::planner::names;
use crate::pool::{Batch, Pool};
use crate::record::ENGINE;
use crate::settings::Settings;
use crate::{Engine, Inner, Live, io};

/// Network namespaces kept ready.
const READY_NAMESPACES: usize = 16;
/// Threads for kernel work at most; they are started as needed.
const KERNEL_THREADS: usize = 32;

/// How long the orderly end waits for what is being taken down.
const TIDYING: Duration = Duration::from_secs(10);

/// This engine's own id, made once.
async fn engine_id(store: &Store) -> Result<String> {
    if let Some(entry) = store.get(ENGINE, "id")? {
        return Ok(String::from_utf8_lossy(&entry.value).into_owned());
    }
    let hex = names::id();
    let part = |from: usize, to: usize| hex.get(from..to).unwrap_or_default();
    let id = format!("{}-{}-{}-{}-{}", part(0, 8), part(8, 12), part(12, 16), part(16, 20), part(20, 32));
    let mut tx = Transaction::new();
    tx.put(ENGINE, "id", id.as_bytes());
    store.commit(tx).await?;
    Ok(id)
}

impl Engine {
    /// Opens the state, repairs what an earlier daemon left half done, adopts running containers.
    pub async fn open(settings: Settings) -> Result<Self> {
        let dirs = Dirs::make(&settings)?;
        let store = Store::open(&dirs.data.join("metadata.db"))?;
        let id = engine_id(&store).await?;
        let host = Host::detect();
        // Those that need nothing of each other begin together.
        let keeper = wharf_keeper::connect(&settings.exec_root, &settings.program);
        let plugins = async {
            let cache = settings.plugin_cache.clone().unwrap_or_else(|| dirs.data.join("compiled"));
            let mut given = wharf_plugins::Settings::new(store.clone(), cache);
            given.dirs.clone_from(&settings.plugin_dirs);
            given.compiler.clone_from(&settings.compiler);
            given.node.clone_from(&host.name);
            given.engine_version = crate::VERSION.into();
            given.config.clone_from(&settings.plugin_config);
            wharf_plugins::Plugins::load(given).await
        };
        let (keeper, plugins) = tokio::join!(keeper, plugins);
        let (keeper, plugins) = (keeper?, plugins?);
        let cgroups = Cgroups::detect().doing("cannot use cgroups")?;
        let cgroup_version = if cgroups.version() == Version::V2 { 2 } else { 1 };
        let facts = host.facts(&settings, cgroup_version);
        if (settings.cpu_rt_period, settings.cpu_rt_runtime) != (0, 0) && !facts.cpu_realtime {
            return Err(Error::invalid(
                "daemon-scoped cpu-rt-period and cpu-rt-runtime are not supported by the kernel",
            ));
        }
        let images = wharf_images::Images::open(wharf_images::Settings {
            store: store.clone(),
            storage: Arc::new(StorageSeam(plugins.storage(&settings.storage_driver)?)),
            driver: settings.storage_driver.clone(),
            options: settings.storage_options.clone(),
            data_root: settings.data_root.clone(),
            exec_root: settings.exec_root.clone(),
            granted: std::collections::BTreeMap::new(),
            limits: wharf_images::Limits::default(),
            durable: true,
        })
        .await?;
        let registries = crate::remote::client(&settings.registry);
        let streams = io::Streams::open(Arc::new(CodecSeam(plugins.clone())))?;
        let pool = Pool::new(KERNEL_THREADS);
        let instance = settings.data_root.to_string_lossy().into_owned();
        let net = pool.run(move || net::Net::open(&instance)).await?.doing("cannot use the network")?;
        net.set_carry(settings.userland_proxy);
        let listening = net.clone();
        let listen =
            move |forward: &wharf_plan::net::Forward| listening.listen(forward).map_err(|e| e.to_string());
        let forwarder =
            wharf_forward::Forwarder::new(&settings.exec_root, &settings.program, Box::new(listen));
        let namespaces = crate::userns::Source::new(READY_NAMESPACES, &settings.remap)?;
        let resolver = crate::resolution::HostFile::open();
        let names = wharf_dns::Names::new(resolver.servers());
        let experimental = AtomicBool::new(settings.experimental);
        let engine = Self {
            inner: Arc::new(Inner {
                live: ArcSwap::from_pointee(Live { settings: Arc::new(settings), facts: Arc::new(facts) }),
                host,
                id,
                store,
                plugins,
                images,
                keeper,
                streams,
                events: io::events::Bus::new(),
                cgroups,
                net,
                forwarder,
                net_watch: std::sync::OnceLock::new(),
                namespaces,
                ranges: crate::userns::Ranges::default(),
                looks: Batch::new(pool.clone()),
                pool,
                foreign: crate::foreign::Foreign::default(),
                registry: crate::registry::Registry::default(),
                registries: ArcSwap::from_pointee(registries),
                networks: crate::networks::Networks::default(),
                volumes: crate::volumes::Volumes::default(),
                execs: crate::exec::Execs::default(),
                dirs,
                profiles: crate::apparmor::Profiles::default(),
                seccomp: std::sync::Mutex::default(),
                closing: AtomicBool::new(false),
                recovered: tokio::sync::watch::Sender::new(false),
                tidying: tokio_util::task::TaskTracker::new(),
                decisions: crate::auth::Decisions::default(),
                experimental,
                cache: std::sync::OnceLock::new(),
                runtime_features: ArcSwap::default(),
                resolver,
                names,
            }),
        };
        engine.load_profile();
        engine.watch_names();
        engine.recover().await?;
        engine.watch_images();
        engine.ask_runtimes();
        let net = engine.inner.net.clone();
        match engine.inner.pool.run(move || net.watch()).await? {
            Ok(watch) => drop(engine.inner.net_watch.set(watch)),
            Err(error) => tracing::warn!(%error, "flushed packet filters are not put right by themselves"),
        }
        Ok(engine)
    }

    /// The orderly end: stops containers unless `live_restore`, ends the keeper, writes what is pending.
    pub async fn shutdown(&self) {
        self.inner.closing.store(true, Ordering::Release);
        if self.inner.settings().live_restore {
            self.finish_tidying().await;
            return;
        }
        let limit = i64::try_from(self.inner.settings().shutdown_timeout).unwrap_or(15);
        let mut stopping = tokio::task::JoinSet::new();
        for container in self.inner.registry.all() {
            // One that is being started has the lock, and will be alive; no other start begins any more.
            if !container.now().state.status.is_alive() && container.lock.try_lock().is_ok() {
                continue;
            }
            let engine = self.clone();
            stopping.spawn(async move {
                let wanted = container.now().def.config.stop_timeout.unwrap_or(10).clamp(0, limit);
                let started = Duration::from_secs(u64::try_from(wanted).unwrap_or(0));
                drop(engine.lock_to_end(&container, started).await);
                if container.now().state.status.is_alive() {
                    engine.stop_for_shutdown(&container, wanted).await;
                }
            });
        }
        let patience = Duration::from_secs(self.inner.settings().shutdown_timeout.saturating_add(15));
        let all = async { while stopping.join_next().await.is_some() {} };
        let ended = tokio::time::timeout(patience, all).await;
        self.finish_tidying().await;
        if ended.is_err() {
            tracing::warn!("some containers did not end in time; the next daemon takes them over");
            return;
        }
        if let Err(error) = self.inner.keeper.shutdown().await {
            tracing::warn!(%error, "the keeper did not end");
        }
    }

    /// Waits until what ended or was removed is taken down.
    async fn finish_tidying(&self) {
        self.inner.tidying.close();
        if tokio::time::timeout(TIDYING, self.inner.tidying.wait()).await.is_err() {
            tracing::warn!("not everything that ended was taken down in time; the next start does it");
        }
    }
}
