//! One loaded component.

use std::collections::{BTreeMap, HashMap};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Semaphore;
use wasmtime::Store;
use wasmtime::component::types::ComponentItem;
use wasmtime::component::{Component, ComponentExportIndex, Instance, InstancePre};
use wharf_wasm::MAX_COMPONENT;

use crate::breaker::Breaker;
use crate::cache::{self, Cache};
use crate::counters::Sums;
use crate::imports::is_offered;
use crate::limits::{MAX_CALLS_PER_PLUGIN, MAX_MEMORY};
use crate::sandbox::Sandbox;
use crate::state::{HostState, Identity, Limiter};
use crate::{Kind, Manifest, Settings};

/// A component that takes calls.
pub(crate) struct Plugin {
    pub identity: Arc<Identity>,
    pub digest: String,
    pub path: PathBuf,
    pub pre: InstancePre<HostState>,
    pub exports: BTreeMap<Kind, HashMap<&'static str, ComponentExportIndex>>,
    pub lifecycle: Option<ComponentExportIndex>,
    pub calls: Semaphore,
    pub breaker: Breaker,
    pub sums: Sums,
    /// Instances that wait for the next call of a resident kind.
    pub idle: Mutex<Vec<Resident>>,
}

/// An instance between two calls.
pub(crate) struct Resident {
    pub store: Store<HostState>,
    pub instance: Instance,
    pub calls: u32,
}

/// A component that cannot be used.
#[derive(Debug, Clone)]
pub(crate) struct Failed {
    pub path: PathBuf,
    /// As far as it could be read.
    pub manifest: Option<Manifest>,
    pub digest: String,
    pub reason: String,
}

impl Failed {
    /// Its name, or the file's if it has none.
    pub(crate) fn name(&self) -> String {
        match &self.manifest {
            Some(manifest) => manifest.name.clone(),
            None => self.path.file_stem().unwrap_or_default().to_string_lossy().into_owned(),
        }
    }
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    let file = std::fs::OpenOptions::new()
        .read(true)
        // A pipe in the directory must not hold up the start.
        .custom_flags(nix::fcntl::OFlag::O_NONBLOCK.bits())
        .open(path)
        .map_err(|e| e.to_string())?;
    if !file.metadata().map_err(|e| e.to_string())?.is_file() {
        return Err("it is not a file".into());
    }
    let mut bytes = Vec::new();
    file.take(MAX_COMPONENT + 1).read_to_end(&mut bytes).map_err(|e| e.to_string())?;
    if bytes.len() as u64 > MAX_COMPONENT {
        return Err(format!("it is larger than {} MiB", MAX_COMPONENT >> 20));
    }
    Ok(bytes)
}

/// Everything that blocks: reads, compiles if need be, and links the component of a file.
pub(crate) fn load(
    path: &Path,
    sandbox: &Sandbox,
    cache: &Cache,
    settings: &Settings,
) -> Result<Plugin, Box<Failed>> {
    let mut failed =
        Failed { path: path.to_owned(), manifest: None, digest: String::new(), reason: String::new() };
    let result = read(path).and_then(|bytes| {
        failed.digest = cache::digest(&bytes);
        let manifest = Manifest::of(&bytes)?;
        failed.manifest = Some(manifest.clone());
        link(&bytes, &failed.digest, path, manifest, sandbox, cache, settings)
    });
    result.map_err(|reason| {
        failed.reason = reason;
        Box::new(failed)
    })
}

fn link(
    bytes: &[u8],
    digest: &str,
    path: &Path,
    manifest: Manifest,
    sandbox: &Sandbox,
    cache: &Cache,
    settings: &Settings,
) -> Result<Plugin, String> {
    let compiled = cache.compiled(bytes, digest)?;
    let component = crate::trusted::load(&sandbox.engine, &compiled).or_else(|error| {
        // Made for another processor, say.
        tracing::info!(%error, file = %path.display(), "compiled plugin does not load; compiling it again");
        let compiled = cache.compile_anew(bytes, digest)?;
        crate::trusted::load(&sandbox.engine, &compiled).map_err(|e| format!("{e:#}"))
    })?;
    check_imports(&component, sandbox)?;
    let pre = sandbox.linker.instantiate_pre(&component).map_err(|e| format!("its imports: {e:#}"))?;
    let (exports, lifecycle) = exports(&component, sandbox)?;
    let identity = Identity {
        name: manifest.name.as_str().into(),
        grant: settings.grants.get(&manifest.name).cloned().unwrap_or_default(),
        config: configured(settings, &manifest.name),
        node: settings.node.clone(),
        engine_version: settings.engine_version.clone(),
        log: Mutex::default(),
        metrics: manifest.metrics.iter().map(|_| AtomicU64::new(0)).collect(),
        kv_usage: AtomicUsize::new(0),
        kv_writes: AtomicUsize::new(0),
        manifest,
    };
    Ok(Plugin {
        identity: Arc::new(identity),
        digest: digest.to_owned(),
        path: path.to_owned(),
        pre,
        exports,
        lifecycle,
        calls: Semaphore::new(MAX_CALLS_PER_PLUGIN),
        breaker: Breaker::default(),
        sums: Sums::default(),
        idle: Mutex::default(),
    })
}

fn check_imports(component: &Component, sandbox: &Sandbox) -> Result<(), String> {
    let ty = component.component_type();
    for (name, _) in ty.imports(&sandbox.engine) {
        if is_offered(name) {
            continue;
        }
        let hint = if name.starts_with("wasi:") {
            "plugins have no WASI: build for wasm32-unknown-unknown, or with the standard library stubbed"
        } else if name.starts_with("wharf:") {
            "it was built for another version of this engine"
        } else {
            "plugins may import what wit/ describes and nothing else"
        };
        return Err(format!("it imports {name:?}, which this engine does not offer ({hint})"));
    }
    Ok(())
}

type Exports = BTreeMap<Kind, HashMap<&'static str, ComponentExportIndex>>;

fn exports(
    component: &Component,
    sandbox: &Sandbox,
) -> Result<(Exports, Option<ComponentExportIndex>), String> {
    let mut exports = BTreeMap::new();
    for kind in Kind::ALL {
        let Some(interface) = component.get_export_index(None, kind.interface()) else { continue };
        let mut functions = HashMap::new();
        for function in kind.functions() {
            let Some(index) = component.get_export_index(Some(&interface), *function) else {
                return Err(format!("its {} lacks the function {function}", kind.interface()));
            };
            functions.insert(*function, index);
        }
        exports.insert(*kind, functions);
    }
    if exports.is_empty() {
        let ty = component.component_type();
        let offered: Vec<String> = ty
            .exports(&sandbox.engine)
            .filter(|(_, item)| matches!(item.ty, ComponentItem::ComponentInstance(_)))
            .map(|(name, _)| name.to_owned())
            .collect();
        return Err(format!(
            "it exports no kind of plugin that this engine knows (it has: {})",
            offered.join(", ")
        ));
    }
    let lifecycle = component.get_export_index(None, "wharf:plugin/lifecycle@0.1.0");
    Ok((exports, lifecycle))
}

impl Plugin {
    /// A store with this plugin's bounds, ready for an instance.
    pub(crate) fn store(
        &self,
        sandbox: &Sandbox,
        entries: &wharf_store::Store,
        memory: usize,
    ) -> Store<HostState> {
        let state = HostState {
            identity: self.identity.clone(),
            store: entries.clone(),
            limiter: Limiter { limit: memory.min(MAX_MEMORY), used: 0, exceeded: false },
            call: None,
        };
        let mut store = Store::new(&sandbox.engine, state);
        store.limiter(|state| &mut state.limiter);
        store.epoch_deadline_callback(|mut cx| {
            let fine = match &cx.data_mut().call {
                Some(running) => running.meter.may_continue(),
                None => false,
            };
            if !fine {
                return Ok(wasmtime::UpdateDeadline::Interrupt);
            }
            // Others on this thread get their turn.
            Ok(wasmtime::UpdateDeadline::YieldCustom(1, Box::pin(tokio::task::yield_now())))
        });
        store.set_max_component_handles(1_000);
        store
    }

    /// A function of the optional lifecycle export.
    pub(crate) fn lifecycle_function(&self, name: &str) -> Option<ComponentExportIndex> {
        self.pre.component().get_export_index(Some(self.lifecycle.as_ref()?), name)
    }

    pub(crate) fn take_idle(&self) -> Option<Resident> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    pub(crate) fn put_idle(&self, resident: Resident, most: usize) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < most {
            idle.push(resident);
        }
    }

    pub(crate) fn kinds(&self) -> Vec<Kind> {
        self.exports.keys().copied().collect()
    }
}

/// What the administrator wrote for a plugin: under its whole name, or under the part behind the publisher.
fn configured(settings: &Settings, name: &str) -> String {
    let short = name.rsplit('/').next().unwrap_or(name);
    settings.config.get(name).or_else(|| settings.config.get(short)).cloned().unwrap_or_else(|| "{}".into())
}
