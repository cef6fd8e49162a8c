//! Root file systems of containers.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::sync::{Arc, PoisonError};

use serde::Serialize;
use wharf_kernel::files;
use wharf_plan::files::{Mount, Op, Place};
use wharf_plan::storage::{Features, Kind, PrepareRequest, Purpose};
use wharf_plan::types::IdMap;
use wharf_store::Transaction;

use crate::Images;
use crate::driver::Answer;
use crate::error::{Error, Result};
use crate::inner::{Inner, blocking, guard, operation};
use crate::model::Image;
use crate::record::{SNAPSHOTS, SnapshotRecord, State, encode};

/// The service that keeps them; made by [`Images::snapshots`]. Clones share everything.
#[derive(Clone)]
pub struct Snapshots {
    pub(crate) images: Images,
}

/// What a container's root file system is made of, for display (`--plan`) and for `inspect`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SnapshotPlan {
    /// The plugin that said so.
    pub plugin: String,
    /// File operations that prepare it.
    pub ops: Vec<Op>,
    /// Mounts that show it, the last being the root.
    pub mounts: Vec<Mount>,
}

/// What is left to do of a removal that is decided.
pub type Tidying = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Options of a new root file system.
#[derive(Debug, Clone, Default)]
pub struct SnapshotOptions {
    /// Bytes it may grow to (`--storage-opt size=`).
    pub size_limit: Option<u64>,
    /// Label of the mount under `SELinux`.
    pub mount_label: Option<String>,
    /// How its ids show for the host; what is on disk is the same for every container.
    pub id_maps: Vec<IdMap>,
}

impl Snapshots {
    fn inner(&self) -> &Arc<Inner> {
        &self.images.inner
    }

    fn record(&self, container: &str) -> Option<Arc<SnapshotRecord>> {
        let containers = self.inner().containers.read().unwrap_or_else(PoisonError::into_inner);
        containers.get(container).cloned()
    }

    fn known(&self, container: &str) -> Result<Arc<SnapshotRecord>> {
        self.record(container)
            .ok_or_else(|| Error::not_found(format!("container {container} has no root file system")))
    }

    fn insert(&self, container: &str, record: SnapshotRecord) {
        let mut containers = self.inner().containers.write().unwrap_or_else(PoisonError::into_inner);
        containers.insert(container.to_owned(), Arc::new(record));
    }

    /// What [`make`](Self::make) would do; nothing is changed.
    pub async fn plan(
        &self,
        container: &str,
        image: &Image,
        options: SnapshotOptions,
    ) -> Result<SnapshotPlan> {
        let inner = self.inner();
        let mut operation = operation();
        operation.dry_run = true;
        let request = self.request(container, image, options)?;
        let driver = &inner.settings.storage;
        let Answer { value: prepared, .. } = driver.prepare(&operation, &request).await?;
        let snapshot = wharf_plan::storage::Snapshot {
            id: request.id,
            kind: Kind::Active,
            labels: request.labels,
            cookie: prepared.cookie,
        };
        let stack = inner.stack(&operation, &snapshot, &request.lineage, Purpose::RunContainer).await?;
        driver.check(&prepared.ops, &stack.mounts)?;
        Ok(SnapshotPlan { plugin: inner.plugin.clone(), ops: prepared.ops, mounts: stack.mounts })
    }

    fn request(&self, container: &str, image: &Image, options: SnapshotOptions) -> Result<PrepareRequest> {
        let inner = self.inner();
        if options.size_limit.is_some() && !inner.capabilities.features.has(Features::SIZE_LIMIT) {
            // As Docker's drivers of these two kinds say it.
            return Err(Error::unsupported(if inner.has_uppers() {
                format!(
                    "--storage-opt is supported only for {} over xfs with 'pquota' mount option",
                    inner.settings.driver.trim_end_matches('2')
                )
            } else {
                "Filesystem does not support, or has not enabled quotas".to_owned()
            }));
        }
        let lineage = Inner::lineage(&inner.index.load(), image.chain_id())
            .map_err(|_| Error::not_found(format!("No such image: {}", image.id)))?;
        Ok(PrepareRequest {
            id: container.to_owned(),
            kind: Kind::Active,
            lineage,
            labels: Vec::new(),
            options: inner.settings.options.clone(),
            size_limit: options.size_limit,
            id_maps: options.id_maps,
            mount_label: options.mount_label,
        })
    }

    /// Makes the writable file system of a container on top of an image.
    ///
    /// It lasts once the transaction is committed, together with the container's record; until then
    /// [`give_up`](Self::give_up) takes it away again, and so does the next start of a daemon that died between.
    pub async fn make(
        &self,
        container: &str,
        image: &Image,
        options: SnapshotOptions,
    ) -> Result<(SnapshotPlan, Transaction)> {
        let inner = self.inner();
        // The image may go while this runs; its layers may not.
        let _pin = image.chain_id().map(|chain| inner.pin(chain));
        let operation = operation();
        let request = self.request(container, image, options)?;
        let lineage = request.lineage.clone();
        let (mut record, mut transaction, ops) =
            inner.prepare(&operation, request, image.chain_id().map(str::to_owned)).await?;
        let ready = async {
            let stack = inner.stack(&operation, &record.snapshot, &lineage, Purpose::RunContainer).await?;
            let mounts = stack.mounts.clone();
            record.stack = Some(stack);
            record.state = State::Ready;
            transaction.put(SNAPSHOTS, &inner.key(container), encode(&record)?);
            Ok(mounts)
        };
        match ready.await {
            Ok(mounts) => {
                self.insert(container, record);
                Ok((SnapshotPlan { plugin: inner.plugin.clone(), ops, mounts }, transaction))
            }
            Err(error) => {
                inner.discard(&record, Transaction::new()).await?;
                Err(error)
            }
        }
    }

    /// [`make`](Self::make), where there is nothing to record beside it.
    pub async fn prepare(
        &self,
        container: &str,
        image: &Image,
        options: SnapshotOptions,
    ) -> Result<SnapshotPlan> {
        let (plan, transaction) = self.make(container, image, options).await?;
        if let Err(error) = self.inner().settings.store.commit(transaction).await {
            self.give_up(container).await?;
            return Err(error.into());
        }
        Ok(plan)
    }

    /// What was made is not wanted after all. One that does not exist is no error.
    pub async fn give_up(&self, container: &str) -> Result<()> {
        let Some(record) = self.record(container) else { return Ok(()) };
        self.release(container);
        self.inner().discard(&record, Transaction::new()).await?;
        let mut containers = self.inner().containers.write().unwrap_or_else(PoisonError::into_inner);
        containers.remove(container);
        Ok(())
    }

    /// How to mount it: as planned when it was made; after a reboot the driver is asked again.
    async fn stack(&self, container: &str) -> Result<Arc<SnapshotRecord>> {
        let record = self.known(container)?;
        let inner = self.inner();
        if record.stack.is_some() && record.boot == inner.boot {
            return Ok(record);
        }
        let lineage = Inner::lineage(&inner.index.load(), record.chain.as_deref())?;
        let stack = inner.stack(&operation(), &record.snapshot, &lineage, Purpose::RunContainer).await?;
        let fresh =
            SnapshotRecord { stack: Some(stack), boot: inner.boot.clone(), ..record.as_ref().clone() };
        let mut transaction = Transaction::new();
        transaction.put(SNAPSHOTS, &inner.key(container), encode(&fresh)?);
        inner.settings.store.commit(transaction).await?;
        self.insert(container, fresh.clone());
        Ok(Arc::new(fresh))
    }

    /// The root file system as a detached mount; it vanishes with the descriptor unless moved into a namespace.
    ///
    /// One more descriptor of it is kept until [`release`](Self::release) or [`remove`](Self::remove), for two reasons:
    /// a second mount of the same files would be a second overlay over one upper directory, which overlay does not
    /// define; and the flush that ends an overlay does not happen in the container's last process then.
    pub async fn mount(&self, container: &str) -> Result<OwnedFd> {
        let record = self.stack(container).await?;
        let inner = self.inner();
        let slot = Arc::clone(guard(&inner.held).entry(container.to_owned()).or_default());
        let mut slot = slot.lock().await;
        let held = slot.take();
        let roots = Arc::clone(&inner.roots);
        let (root, held) = blocking(move || {
            if let Some(held) = held {
                if let Ok(root) = files::detached(held.as_fd()) {
                    return Ok((root, held));
                }
                // Kernels before 6.15 copy no mount that is out of every namespace; make it anew, the old one first gone.
                drop(held);
            }
            let mounts = record.stack.as_ref().map(|s| s.mounts.as_slice()).unwrap_or_default();
            let root = files::mount(&roots, mounts)?;
            let held = match files::detached(root.as_fd()) {
                Ok(copy) => copy,
                Err(_) => root.try_clone()?,
            };
            Ok((root, held))
        })
        .await?;
        *slot = Some(held);
        Ok(root)
    }

    /// Lets the mounted root file system go once nothing else uses it: for containers that have ended. Does not block.
    pub fn release(&self, container: &str) {
        let slot = guard(&self.inner().held).remove(container);
        // One that is being mounted at this moment goes with its lock.
        if let Some(held) = slot.and_then(|slot| slot.try_lock().ok().and_then(|mut held| held.take())) {
            files::close_later(held);
        }
    }

    /// Decides that it goes, together with what `also` removes: either both are decided or none. One that does not exist
    /// is no error. The answer is what is left to do; should nobody do it, the next start will. The disk space is freed
    /// in the background.
    pub async fn remove(&self, container: &str, also: Transaction) -> Result<Tidying> {
        let inner = self.inner();
        let Some(record) = self.record(container) else {
            inner.settings.store.commit(also).await?;
            return Ok(Box::pin(std::future::ready(())));
        };
        self.release(container);
        let rest = inner.remove_for_good(&record, also).await?;
        let mut containers = inner.containers.write().unwrap_or_else(PoisonError::into_inner);
        containers.remove(container);
        Ok(Box::pin(rest))
    }

    /// Whether the container has one.
    pub fn exists(&self, container: &str) -> bool {
        self.record(container).is_some()
    }

    /// Bytes that the container wrote (`SizeRw`).
    pub async fn size(&self, container: &str) -> Result<u64> {
        let record = self.stack(container).await?;
        let inner = self.inner();
        let Some(upper) = record.stack.as_ref().and_then(|s| s.upper.clone()) else { return Ok(0) };
        // Where the writable directory holds a copy of everything, what is as in the image does not count.
        let below = match &record.chain {
            Some(chain) if !inner.has_uppers() => Some(inner.view(chain).await?),
            _ => None,
        };
        let roots = Arc::clone(&inner.roots);
        blocking(move || {
            let root = roots.open_dir(&upper)?;
            let used = match &below {
                None => files::tree::usage(root.as_fd()),
                Some((below, _pin)) => files::tree::usage_beyond(root.as_fd(), below.as_fd()),
            };
            Ok(used.map_err(std::io::Error::from)?)
        })
        .await
    }

    /// The layer that it lies on, and the directory with what the container wrote, if there is one of its own.
    pub(crate) async fn place(&self, container: &str) -> Result<(Option<String>, Option<Place>)> {
        let record = self.stack(container).await?;
        Ok((record.chain.clone(), record.stack.as_ref().and_then(|s| s.upper.clone())))
    }

    /// How the ids of its mounted root file system are mapped.
    pub(crate) async fn id_maps(&self, container: &str) -> Result<Vec<IdMap>> {
        let record = self.stack(container).await?;
        let mounts = record.stack.as_ref().map(|s| s.mounts.as_slice()).unwrap_or_default();
        Ok(mounts.iter().map(|m| &m.id_maps).find(|maps| !maps.is_empty()).cloned().unwrap_or_default())
    }

    /// The driver's facts for `GraphDriver.Data` of `inspect`.
    pub async fn describe(&self, container: &str) -> Result<Vec<(String, String)>> {
        let record = self.known(container)?;
        let driver = &self.inner().settings.storage;
        let text = driver.describe(&operation(), &record.snapshot).await?.value;
        let facts: std::collections::BTreeMap<String, serde_json::Value> =
            serde_json::from_str(&text).map_err(|e| Error::internal(format!("{}: {e}", driver.name())))?;
        let plain = |value: serde_json::Value| match value {
            serde_json::Value::String(text) => text,
            other => other.to_string(),
        };
        Ok(facts.into_iter().map(|(key, value)| (key, plain(value))).collect())
    }

    /// An image's files, read-only, as a detached mount: for reading `/etc/passwd` before there is a container.
    pub async fn view(&self, image: &Image) -> Result<OwnedFd> {
        self.view_mapped(image, &[]).await
    }

    /// As [`view`](Self::view), with the ids that a user namespace has for them: for image mounts.
    pub async fn view_mapped(&self, image: &Image, maps: &[IdMap]) -> Result<OwnedFd> {
        let Some(chain) = image.chain_id() else {
            return Err(Error::not_found(format!("image {} has no files", image.short_id())));
        };
        // The mount itself holds the files from here on.
        match self.inner().view_mapped(chain, maps).await {
            Ok((root, _pin)) => Ok(root),
            // Removed since it was found.
            Err(_) if !self.inner().index.load().images.contains_key(&image.id) => {
                Err(Error::not_found(format!("No such image: {}", image.id)))
            }
            Err(error) => Err(error),
        }
    }

    /// Removes every container file system whose container is not in `live`. Answers their container ids.
    pub async fn sweep(&self, live: &BTreeSet<String>) -> Result<Vec<String>> {
        let known: Vec<String> = {
            let containers = self.inner().containers.read().unwrap_or_else(PoisonError::into_inner);
            containers.keys().filter(|id| !live.contains(*id)).cloned().collect()
        };
        for container in &known {
            self.remove(container, Transaction::new()).await?.await;
        }
        Ok(known)
    }
}
