//! Loading all plugins, and exchanging one while others work.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::task::JoinSet;
use wasmtime::AsContextMut;
use wasmtime::component::{ComponentType, Lift};
use wharf_plan::types;
use wharf_store::Transaction;

use crate::cache::Cache;
use crate::invoke::{Host, Slot, TypeProbe};
use crate::limits::Limits;
use crate::meter::Meter;
use crate::plugin::{self, Failed, Plugin};
use crate::sandbox::Sandbox;
use crate::{Call, ErrorKind, Inner, PluginError, Plugins, Registry, Settings};

/// Table of the versions that last ran, by plugin name.
const VERSIONS: &str = "plugin-version";

/// Bounds of what happens while a plugin is loaded.
const LOADING: Limits = Limits {
    memory: 16 << 20,
    cpu: Duration::from_millis(200),
    wall: Duration::from_secs(4),
    answer: 1 << 20,
    resident: false,
};

#[derive(Debug, ComponentType, Lift)]
#[component(record)]
struct Issue {
    pointer: String,
    message: String,
}

fn host_error(text: impl Into<String>) -> PluginError {
    PluginError::new("host", ErrorKind::Host(text.into()))
}

impl Plugins {
    /// Loads every component of the settings' directories. One that cannot be used is listed as failed and named in
    /// errors; the others work. Fails only if plugins cannot be run at all, as when the cache is not private.
    pub async fn load(settings: Settings) -> Result<Self, PluginError> {
        let blocking = settings.clone();
        let (sandbox, cache) = tokio::task::spawn_blocking(move || {
            let sandbox = Sandbox::new().map_err(|e| host_error(format!("the wasm engine: {e:#}")))?;
            let cache = Cache::open(&blocking.cache, blocking.compiler).map_err(host_error)?;
            Ok((sandbox, cache))
        })
        .await
        .map_err(|e| host_error(e.to_string()))??;
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let host = Host { sandbox, entries: settings.store.clone(), cores };
        let inner = Inner {
            host: Arc::new(host),
            cache: Arc::new(cache),
            settings,
            registry: ArcSwap::default(),
            loading: tokio::sync::Mutex::default(),
        };
        let plugins = Self { inner: Arc::new(inner) };
        plugins.rescan().await;
        let cache = plugins.inner.cache.clone();
        // Failing to tidy up is no reason not to start.
        let _ = tokio::task::spawn_blocking(move || cache.sweep()).await;
        Ok(plugins)
    }

    /// Looks at the directories again: what is new is added, what is gone is dropped, what has changed is exchanged.
    /// Calls in flight end on what they began with.
    pub async fn rescan(&self) {
        let _one = self.inner.loading.lock().await;
        let inner = &self.inner;
        let mut work = JoinSet::new();
        let files = files(&inner.settings.dirs);
        for (order, path) in files.iter().enumerate() {
            let (host, cache, settings) = (inner.host.clone(), inner.cache.clone(), inner.settings.clone());
            let path = path.clone();
            work.spawn(async move { (order, load_one(&path, &host, &cache, &settings).await) });
        }
        let mut loaded: Vec<_> = work.join_all().await;
        loaded.sort_by_key(|(order, _)| *order);
        self.install(loaded.into_iter().map(|(_, result)| result));
    }

    /// Loads one plugin's file anew and lets new calls go there. If it cannot be used, the old one stays.
    pub async fn reload(&self, name: &str) -> Result<(), PluginError> {
        let _one = self.inner.loading.lock().await;
        let inner = &self.inner;
        let registry = inner.registry.load_full();
        let failed =
            || registry.failed.iter().find(|failed| failed.name() == name).map(|failed| failed.path.clone());
        let loaded = registry.slots.get(name).map(|slot| slot.current.load().path.clone());
        let Some(path) = loaded.or_else(failed) else {
            let known = registry.slots.keys().map(|name| name.as_ref().to_owned()).collect();
            return Err(PluginError::new(name, ErrorKind::Unknown(known)));
        };
        let plugin = load_one(&path, &inner.host, &inner.cache, &inner.settings)
            .await
            .map_err(|failed| PluginError::new(name, ErrorKind::Damaged(failed.reason)))?;
        if *plugin.identity.name != *name {
            let text = format!("its file now holds {}", plugin.identity.name);
            return Err(PluginError::new(name, ErrorKind::Damaged(text)));
        }
        let mut all: Vec<Result<Arc<Plugin>, Box<Failed>>> = vec![Ok(Arc::new(plugin))];
        let others = registry.slots.values().filter(|slot| *slot.name != *name);
        all.extend(others.map(|slot| Ok(slot.current.load_full())));
        let failed = registry.failed.iter().filter(|failed| failed.path != path);
        all.extend(failed.map(|failed| Err(Box::new(failed.clone()))));
        self.install_shared(all);
        Ok(())
    }

    fn install(&self, loaded: impl Iterator<Item = Result<Plugin, Box<Failed>>>) {
        let old = self.inner.registry.load_full();
        let shared = loaded.map(|result| {
            result.map(|plugin| {
                // The same component keeps its instances, counters and strikes.
                match old.slots.get(&plugin.identity.name).map(|slot| slot.current.load_full()) {
                    Some(same) if same.digest == plugin.digest && same.path == plugin.path => same,
                    _ => Arc::new(plugin),
                }
            })
        });
        self.install_shared(shared.collect());
    }

    fn install_shared(&self, loaded: Vec<Result<Arc<Plugin>, Box<Failed>>>) {
        let old = self.inner.registry.load_full();
        let mut registry = Registry::default();
        for result in loaded {
            match result {
                Ok(plugin) => add(&mut registry, &old, &plugin),
                Err(failed) => {
                    tracing::error!(file = %failed.path.display(), reason = failed.reason, "plugin cannot be used");
                    registry.failed.push(*failed);
                }
            }
        }
        self.inner.registry.store(Arc::new(registry));
    }
}

fn add(registry: &mut Registry, old: &Registry, plugin: &Arc<Plugin>) {
    let name = plugin.identity.name.clone();
    if let Some(first) = registry.slots.get(&name) {
        let reason = format!("its name {name} is taken by {}", first.current.load().path.display());
        registry.failed.push(Failed {
            path: plugin.path.clone(),
            manifest: Some(plugin.identity.manifest.clone()),
            digest: plugin.digest.clone(),
            reason,
        });
        return;
    }
    let slot = match old.slots.get(&name) {
        // Handles that callers hold go on to the new one.
        Some(slot) => {
            slot.current.store(plugin.clone());
            slot.clone()
        }
        None => Arc::new(Slot { name: name.clone(), current: ArcSwap::new(plugin.clone()) }),
    };
    for kind in plugin.kinds() {
        for driver in plugin.identity.manifest.drivers(kind) {
            // The first to claim a name has it; the full name always works.
            registry.drivers.entry((kind, driver)).or_insert_with(|| slot.clone());
        }
    }
    registry.slots.insert(name, slot);
}

/// Components in the directories, in their order and by name within each.
fn files(dirs: &[PathBuf]) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for dir in dirs {
        match std::fs::read_dir(dir) {
            Ok(entries) => {
                let mut here: Vec<PathBuf> = entries
                    .flatten()
                    .map(|entry| entry.path())
                    .filter(|path| path.extension().is_some_and(|extension| extension == "wasm"))
                    .collect();
                here.sort();
                files.extend(here);
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => tracing::error!(dir = %dir.display(), %error, "plugin directory cannot be read"),
        }
    }
    files
}

async fn load_one(
    path: &Path,
    host: &Arc<Host>,
    cache: &Arc<Cache>,
    settings: &Settings,
) -> Result<Plugin, Box<Failed>> {
    let (theirs, cache, settings, file) = (host.clone(), cache.clone(), settings.clone(), path.to_owned());
    let loaded =
        tokio::task::spawn_blocking(move || plugin::load(&file, &theirs.sandbox, &cache, &settings)).await;
    let plugin = match loaded {
        Ok(loaded) => loaded?,
        Err(error) => {
            let reason = format!("loading it failed: {error}");
            return Err(Box::new(Failed {
                path: path.to_owned(),
                manifest: None,
                digest: String::new(),
                reason,
            }));
        }
    };
    let plugin = Arc::new(plugin);
    let tried = first_contact(&plugin, host).await;
    // Nobody else has seen it yet.
    let failed = |plugin: &Plugin, reason| {
        let manifest = Some(plugin.identity.manifest.clone());
        Box::new(Failed { path: plugin.path.clone(), manifest, digest: plugin.digest.clone(), reason })
    };
    match tried {
        Ok(()) => Arc::try_unwrap(plugin).map_err(|plugin| failed(&plugin, "it is still busy".into())),
        Err(reason) => Err(failed(&plugin, reason)),
    }
}

/// Starts it once: its functions have the contract's types, its configuration pleases it, its entries are of its version.
async fn first_contact(plugin: &Arc<Plugin>, host: &Host) -> Result<(), String> {
    {
        let mut store = plugin.store(&host.sandbox, &host.entries, LOADING.memory);
        let _clock = host.sandbox.ticker.enter();
        let meter = Arc::new(Meter::new(LOADING.cpu, LOADING.wall));
        store.data_mut().call = Some(host.running(plugin, LOADING, &Call::new("load"), None, meter));
        store.set_epoch_deadline(2);
        let instance = plugin
            .pre
            .instantiate_async(store.as_context_mut())
            .await
            .map_err(|e| format!("it does not start: {}", e.root_cause()))?;
        for (kind, functions) in &plugin.exports {
            let mut probe = TypeProbe { store: &mut store, instance, functions };
            kind.check(&mut probe).map_err(|e| format!("{}: {e:#}", kind.interface()))?;
        }
    }
    check_config(plugin, host).await?;
    migrate(plugin, host).await
}

async fn check_config(plugin: &Arc<Plugin>, host: &Host) -> Result<(), String> {
    let config = &plugin.identity.config;
    serde_json::from_str::<serde_json::Value>(config)
        .map_err(|e| format!("its configuration is not JSON: {e}"))?;
    let Some(index) = plugin.lifecycle_function("check-config") else { return Ok(()) };
    let call = Call::new("check-config");
    let ran =
        host.run::<_, Result<(), Vec<Issue>>>(plugin, LOADING, &index, &call, (config.as_str(),), None).await;
    match ran.result {
        Ok(Ok(())) => Ok(()),
        Ok(Err(issues)) => {
            let texts: Vec<String> =
                issues.iter().take(20).map(|issue| format!("{} {}", issue.pointer, issue.message)).collect();
            Err(format!("its configuration: {}", texts.join("; ")))
        }
        Err(kind) => Err(fault(plugin, "check-config", kind)),
    }
}

/// Lets a newer release rewrite what an older one kept, in one transaction.
async fn migrate(plugin: &Arc<Plugin>, host: &Host) -> Result<(), String> {
    let name = &plugin.identity.name;
    let version = &plugin.identity.manifest.version;
    let before = host.entries.get(VERSIONS, name).map_err(|e| e.to_string())?;
    let before = before.map(|entry| String::from_utf8_lossy(&entry.value).into_owned());
    if before.as_ref() == Some(version) {
        return Ok(());
    }
    let mut transaction = Transaction::new();
    if let (Some(before), Some(index)) = (before, plugin.lifecycle_function("migrate")) {
        let call = Call::new("migrate");
        let ran = host
            .run::<_, Result<(), types::Error>>(plugin, LOADING, &index, &call, (before.as_str(),), None)
            .await;
        match ran.result {
            Ok(Ok(())) => transaction.merge(ran.kv),
            Ok(Err(error)) => {
                return Err(format!("it cannot take over from version {before}: {}", error.message));
            }
            Err(kind) => return Err(fault(plugin, "migrate", kind)),
        };
    }
    transaction.put(VERSIONS, name, version.as_bytes());
    host.entries.commit(transaction).await.map_err(|e| e.to_string())
}

fn fault(plugin: &Plugin, function: &'static str, kind: ErrorKind) -> String {
    PluginError { plugin: plugin.identity.name.clone(), function, kind }.to_string()
}
