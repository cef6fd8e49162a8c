//! The state behind [`Images`](crate::Images), and how plans of the storage driver are carried out.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use arc_swap::ArcSwap;
use rustix::fs::{Mode, OFlags};
use wharf_kernel::files::{self, Roots};
use wharf_plan::files::{Mount, Op};
use wharf_plan::storage::{
    ApplyMode, Capabilities, DiffMode, Features, HostFacts, Kind, PrepareRequest, Purpose, Snapshot, Stack,
};
use wharf_store::Transaction;

use crate::Settings;
use crate::content::{Content, private_dir};
use crate::driver::{Answer, Operation};
use crate::error::{Error, Result};
use crate::record::{self, Index, LayerRecord, SNAPSHOTS, SnapshotRecord, State, encode};

/// A mounted root file system, behind a lock so that one container's is not mounted twice at once.
pub(crate) type Held = Arc<tokio::sync::Mutex<Option<OwnedFd>>>;

pub(crate) struct Inner {
    pub settings: Settings,
    /// Name of the plugin: records and directories go by it.
    pub plugin: String,
    pub roots: Arc<Roots>,
    pub capabilities: Capabilities,
    pub content: Content,
    pub index: ArcSwap<Index>,
    /// Held while the index changes.
    pub changing: tokio::sync::Mutex<()>,
    /// Container file systems by container id.
    pub containers: RwLock<HashMap<String, Arc<SnapshotRecord>>>,
    /// A descriptor of each container's mounted root file system.
    pub held: Mutex<HashMap<String, Held>>,
    /// Layers that an operation under way builds on, with the number of such operations.
    pub pins: Mutex<HashMap<String, usize>>,
    /// Layers that are being made.
    pub underway: crate::pull::Underway,
    /// Operations on threads that outlive the request that asked for them.
    pub working: tokio_util::task::TaskTracker,
    /// This boot.
    pub boot: String,
}

/// Runs blocking work on a thread for it.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(e) => Err(Error::internal(format!("a worker ended: {e}"))),
    }
}

impl From<files::Error> for Error {
    fn from(e: files::Error) -> Self {
        match &e {
            files::Error::Unsupported(..) => Self::unsupported(e.to_string()),
            _ => Self::internal(e.to_string()),
        }
    }
}

impl From<io::Error> for Error {
    fn from(e: io::Error) -> Self {
        let text = e.to_string();
        match e.kind() {
            io::ErrorKind::InvalidData
            | io::ErrorKind::UnexpectedEof
            | io::ErrorKind::InvalidInput
            | io::ErrorKind::AlreadyExists => Self::invalid(text),
            io::ErrorKind::FileTooLarge => Self::too_large(text),
            _ => Self::internal(text),
        }
    }
}

/// An operation of its own, for the driver.
pub(crate) fn operation() -> Operation {
    Operation { id: format!("{:032x}", rand::random::<u128>()), dry_run: false }
}

pub(crate) fn guard<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Inner {
    pub(crate) async fn open(settings: Settings) -> Result<Self> {
        let plugin = settings.storage.name();
        let data = settings.data_root.join("storage").join(&plugin);
        let run = settings.exec_root.join("storage").join(&plugin);
        let at = |path: &Path, e: io::Error| Error::internal(format!("{}: {e}", path.display()));
        for dir in [&data, &run] {
            private_dir(dir).map_err(|e| at(dir, e))?;
        }
        let open = |path: &Path| files::tree::open_host_dir(path).map_err(|e| at(path, e.into()));
        let mut granted = BTreeMap::new();
        for (name, path) in &settings.granted {
            granted.insert(name.clone(), open(path)?);
        }
        let roots =
            Arc::new(Roots { data: open(&data)?, run: open(&run)?, granted, objects: BTreeMap::new() });
        let content = Content::open(&settings.data_root).map_err(|e| at(&settings.data_root, e))?;
        let facts = facts(&roots.data);
        let answer = settings.storage.probe(&operation(), &facts, &settings.options).await?;
        settings.store.commit(answer.kv).await?;
        let capabilities = answer.value;
        if capabilities.apply == ApplyMode::KeepBlob {
            return Err(Error::unsupported(format!(
                "storage driver {} wants layers in a form that this host cannot make yet",
                settings.driver
            )));
        }
        let working = tokio_util::task::TaskTracker::new();
        working.close();
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        Ok(Self {
            plugin,
            roots,
            capabilities,
            content,
            index: ArcSwap::default(),
            changing: tokio::sync::Mutex::new(()),
            containers: RwLock::default(),
            held: Mutex::default(),
            pins: Mutex::default(),
            underway: crate::pull::Underway::default(),
            working,
            boot: boot.trim().to_owned(),
            settings,
        })
    }

    /// Key of a record: records of several drivers share the tables.
    pub(crate) fn key(&self, id: &str) -> String {
        format!("{}/{id}", self.plugin)
    }

    pub(crate) fn can_rebase(&self) -> bool {
        self.capabilities.features.has(Features::REBASE_ON_COMMIT)
    }

    /// A layer's files can be written straight into its own directory.
    pub(crate) fn has_uppers(&self) -> bool {
        self.capabilities.diff == DiffMode::OverlayUpper
    }

    /// A layer becomes an image instead of files.
    pub(crate) fn makes_images(&self) -> bool {
        self.capabilities.apply == ApplyMode::ErofsImage
    }

    /// Snapshots from a layer down to the lowest.
    pub(crate) fn lineage(index: &Index, chain: Option<&str>) -> Result<Vec<Snapshot>> {
        let mut lineage = Vec::new();
        let mut at = chain.map(str::to_owned);
        while let Some(id) = &at {
            let layer = Self::layer(index, id)?;
            lineage.push(layer.snapshot.clone());
            at.clone_from(&layer.parent);
        }
        Ok(lineage)
    }

    pub(crate) fn layer<'a>(index: &'a Index, chain: &str) -> Result<&'a Arc<LayerRecord>> {
        index.layers.get(chain).ok_or_else(|| Error::internal(format!("layer {chain} is missing")))
    }

    /// Applies operations on a thread for it.
    pub(crate) async fn apply(&self, ops: Vec<Op>) -> Result<()> {
        if ops.is_empty() {
            return Ok(());
        }
        let roots = Arc::clone(&self.roots);
        blocking(move || Ok(files::apply(&roots, &ops)?)).await
    }

    /// Takes back what was journaled for a snapshot, and then the journal entry.
    pub(crate) async fn take_back(&self, record: &SnapshotRecord) -> Result<()> {
        let (roots, undo) = (Arc::clone(&self.roots), record.undo.clone());
        blocking(move || Ok(files::take_back(&roots, &undo)?)).await?;
        self.forget(&record.snapshot.id).await;
        Ok(())
    }

    /// What would undo these operations if they were applied now.
    fn undo(&self, ops: &[Op]) -> Vec<Op> {
        wharf_plan::files::undo(ops, |place| files::exists(&self.roots, place))
    }

    /// Makes a snapshot: the driver's plan is checked, journaled and applied. The record stays `unfinished` until the
    /// caller says what it is for.
    pub(crate) async fn prepare(
        &self,
        operation: &Operation,
        request: PrepareRequest,
        chain: Option<String>,
    ) -> Result<(SnapshotRecord, Transaction, Vec<Op>)> {
        let driver = &self.settings.storage;
        let Answer { value: prepared, kv } = driver.prepare(operation, &request).await?;
        driver.check(&prepared.ops, &[])?;
        let record = SnapshotRecord {
            state: State::Unfinished,
            chain,
            snapshot: Snapshot {
                id: request.id.clone(),
                kind: Kind::Active,
                labels: request.labels,
                cookie: prepared.cookie,
            },
            undo: self.undo(&prepared.ops),
            stack: None,
            boot: self.boot.clone(),
        };
        let mut journal = Transaction::new();
        journal.put(SNAPSHOTS, &self.key(&request.id), encode(&record)?);
        // Never over a snapshot that exists: its files would become the new one's.
        journal.expect(SNAPSHOTS, &self.key(&request.id), 0);
        match self.settings.store.commit(journal).await {
            Err(wharf_store::Error::Conflict { .. }) => {
                return Err(Error::conflict(format!("snapshot {} exists already", request.id)));
            }
            other => other?,
        }
        if let Err(error) = self.apply(prepared.ops.clone()).await {
            self.forget(&request.id).await;
            return Err(error.at(format!("storage driver {}", self.settings.driver)));
        }
        Ok((record, kv, prepared.ops))
    }

    /// Asks the driver how to mount a snapshot.
    pub(crate) async fn stack(
        &self,
        operation: &Operation,
        snapshot: &Snapshot,
        lineage: &[Snapshot],
        purpose: Purpose,
    ) -> Result<Stack> {
        let driver = &self.settings.storage;
        let answer = driver.mounts(operation, snapshot, lineage, purpose).await?;
        driver.check(&[], &answer.value.mounts)?;
        Ok(answer.value)
    }

    /// Builds mounts on a thread for it.
    pub(crate) async fn mount(&self, mounts: Vec<Mount>) -> Result<OwnedFd> {
        let roots = Arc::clone(&self.roots);
        blocking(move || Ok(files::mount(&roots, &mounts)?)).await
    }

    /// Commits what a user is told that it is done, or what files go after: a power cut does not undo it.
    pub(crate) async fn commit_lasting(&self, transaction: Transaction) -> Result<()> {
        let store = &self.settings.store;
        if self.settings.durable {
            Ok(store.commit_lasting(transaction).await?)
        } else {
            Ok(store.commit(transaction).await?)
        }
    }

    /// Drops a journal entry whose files are gone.
    async fn forget(&self, id: &str) {
        let mut transaction = Transaction::new();
        transaction.delete(SNAPSHOTS, &self.key(id));
        if let Err(error) = self.settings.store.commit(transaction).await {
            tracing::warn!(%error, id, "could not forget a snapshot; the next start will");
        }
    }

    /// Removes a snapshot that is not a layer (any more). `also` is committed together with the decision.
    pub(crate) async fn discard(&self, record: &SnapshotRecord, also: Transaction) -> Result<()> {
        match self.decide_removal(record, also.clone()).await {
            Ok((ops, done)) => {
                let roots = Arc::clone(&self.roots);
                blocking(move || Ok(files::take_back(&roots, &ops)?)).await?;
                self.settings.store.commit(done).await?;
                Ok(())
            }
            // It is recorded as unfinished already, with what undoes it. Without this a disk filled by what is to go
            // would have no room for the decision that it goes.
            Err(error) if record.state == State::Unfinished && also.is_empty() => {
                tracing::warn!(%error, id = record.snapshot.id, "removed as it was recorded when it was made");
                self.take_back(record).await
            }
            Err(error) => Err(error),
        }
    }

    /// The same for a container that goes: returns when it is decided, with what is left to do. Once decided there is no
    /// way back, so nothing after it is an error: the next start finishes what is left.
    pub(crate) async fn remove_for_good(
        self: &Arc<Self>,
        record: &SnapshotRecord,
        also: Transaction,
    ) -> Result<impl Future<Output = ()> + Send + 'static> {
        let (ops, done) = self.decide_removal(record, also).await?;
        let id = record.snapshot.id.clone();
        let (roots, store) = (Arc::clone(&self.roots), self.settings.store.clone());
        Ok(async move {
            if let Err(error) = blocking(move || Ok(files::take_back(&roots, &ops)?)).await {
                tracing::error!(%error, id, "files of a removed container are left; the next start removes them");
                return;
            }
            if let Err(error) = store.commit(done).await {
                tracing::warn!(%error, id, "a finished removal is not recorded; the next start will");
            }
        })
    }

    /// Records that a snapshot goes. Answers what to undo and what to commit when that is done.
    async fn decide_removal(
        &self,
        record: &SnapshotRecord,
        also: Transaction,
    ) -> Result<(Vec<Op>, Transaction)> {
        let driver = &self.settings.storage;
        let id = &record.snapshot.id;
        let mut kv = Transaction::new();
        // Removal must not depend on the driver: what was journaled when the snapshot was made does as well.
        let ops = match driver.remove(&operation(), &record.snapshot).await {
            Ok(answer) if driver.check(&answer.value, &[]).is_ok() => {
                kv = answer.kv;
                answer.value
            }
            Ok(_) => record.undo.clone(),
            Err(error) => {
                tracing::warn!(%error, id, "storage driver could not plan a removal");
                record.undo.clone()
            }
        };
        let journaled = SnapshotRecord { state: State::Unfinished, undo: ops.clone(), ..record.clone() };
        let mut decision = Transaction::new();
        decision.put(SNAPSHOTS, &self.key(id), encode(&journaled)?).merge(also);
        self.settings.store.commit(decision).await?;
        let mut done = Transaction::new();
        done.delete(SNAPSHOTS, &self.key(id)).merge(kv);
        Ok((ops, done))
    }

    /// Removes what an earlier process began and did not finish. One thing that cannot be removed does not keep the
    /// rest, nor the daemon from starting.
    pub(crate) async fn sweep(&self) -> Result<()> {
        for (id, record) in record::load::<SnapshotRecord>(&self.settings.store, SNAPSHOTS, &self.plugin)? {
            if record.state == State::Ready {
                let mut containers = self.containers.write().unwrap_or_else(PoisonError::into_inner);
                containers.insert(id, Arc::new(record));
                continue;
            }
            if let Err(error) = self.take_back(&record).await {
                tracing::error!(%error, id, "could not remove an unfinished snapshot");
            }
        }
        let roots = Arc::clone(&self.roots);
        let found = blocking(move || {
            files::empty_trash(&roots)?;
            Ok(files::entries(&roots)?)
        })
        .await?;
        if let Err(error) = self.collect_strays(found).await {
            tracing::error!(%error, "could not remove files that no snapshot owns");
        }
        Ok(())
    }

    /// Asks the driver about files that may belong to nothing.
    async fn collect_strays(&self, found: Vec<String>) -> Result<()> {
        if found.is_empty() {
            return Ok(());
        }
        let driver = &self.settings.storage;
        let mut live: Vec<String> =
            self.index.load().layers.values().map(|l| l.snapshot.id.clone()).collect();
        // Every record, also one whose removal has just failed: its own journal entry is responsible for it.
        let records = record::load::<SnapshotRecord>(&self.settings.store, SNAPSHOTS, &self.plugin)?;
        live.extend(records.into_iter().map(|(id, _)| id));
        let answer = driver.collect(&operation(), &live, &found).await?;
        driver.check(&answer.value, &[])?;
        if !answer.value.is_empty() {
            tracing::warn!(files = answer.value.len(), "removing files that no snapshot owns");
        }
        self.apply(answer.value).await?;
        Ok(self.settings.store.commit(answer.kv).await?)
    }

    /// Keeps layers from being removed while someone builds on them.
    pub(crate) fn pin(self: &Arc<Self>, chain: &str) -> Pin {
        *guard(&self.pins).entry(chain.to_owned()).or_default() += 1;
        Pin { inner: Arc::clone(self), chain: chain.to_owned() }
    }
}

/// A layer that stays while this exists.
pub(crate) struct Pin {
    inner: Arc<Inner>,
    chain: String,
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut pins = guard(&self.inner.pins);
        if let Some(count) = pins.get_mut(&self.chain) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                pins.remove(&self.chain);
            }
        }
    }
}

/// What the driver may want to know of this host.
fn facts(data: &OwnedFd) -> HostFacts {
    // A file system in a module is not listed until somebody asks for it.
    for name in ["overlay", "erofs"] {
        let _ = rustix::mount::fsopen(name, rustix::mount::FsOpenFlags::FSOPEN_CLOEXEC);
    }
    let mut filesystems: Vec<String> = std::fs::read_to_string("/proc/filesystems")
        .unwrap_or_default()
        .lines()
        .filter_map(|line| line.split_whitespace().last().map(str::to_owned))
        .collect();
    // Of a module that is not loaded yet nothing is listed.
    for (name, c_name) in [("overlay", c"overlay"), ("erofs", c"erofs")] {
        if !filesystems.iter().any(|known| known == name) && files::has_filesystem(c_name) {
            filesystems.push(name.to_owned());
        }
    }
    #[allow(clippy::cast_sign_loss, reason = "a magic number")]
    let backing = rustix::fs::fstatfs(data)
        .map(|fs| files::tree::filesystem_name(fs.f_type as u64))
        .unwrap_or_default();
    let mut features = Vec::new();
    if files::has_projects(data) {
        features.push("project-quota".to_owned());
    }
    if filesystems.iter().any(|name| name == "erofs") {
        match images_work(data) {
            Ok(()) => features.push("erofs-images".to_owned()),
            Err(error) => tracing::debug!(%error, "images of EROFS cannot be mounted here"),
        }
    }
    HostFacts {
        kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
        backing_filesystem: backing,
        filesystems,
        user_namespace: false,
        features,
    }
}

/// Whether images in this directory can be mounted and stacked: tried with two that are empty and have no name.
fn images_work(data: &OwnedFd) -> Result<()> {
    let empty = || -> io::Result<std::fs::File> {
        let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
        let file = rustix::fs::openat(data, ".", flags, Mode::RUSR | Mode::WUSR)?;
        Ok(wharf_erofs::Writer::new(file.into())?.finish(0)?.file)
    };
    Ok(files::images_work(data, &empty()?, &empty()?)?)
}
