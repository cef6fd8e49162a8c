//! Taking in an image whose layers come one by one from elsewhere.
//!
//! Layers are unpacked while they arrive, several at once; they are committed from the lowest up, each as soon as all
//! below it are. Two pulls that need the same layer fetch it once. Whoever stops waiting stops the work, and what was
//! not finished goes.

use std::collections::HashMap;
use std::io::{self, Read, Seek};
use std::sync::{Arc, Weak};

use bytes::Bytes;
use tokio::sync::{Mutex, OwnedMutexGuard, Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use wharf_store::Transaction;

use crate::archive::unpack::Budget;
use crate::content::Ingest;
use crate::digest;
use crate::distribution::{self, Blob, Manifest};
use crate::error::{Error, Result};
use crate::image_index::{Document, IncomingIndex, Target};
use crate::inner::{Inner, Pin, blocking, guard};
use crate::layers::Unpacked;
use crate::model::Image;
use crate::record::{ConfigFile, IMAGES, ImageRecord, Index, encode};
use crate::reference::Reference;
use crate::{Cancel, Images};

/// Layers of one image that are fetched at a time, whatever is asked for.
const MOST_AT_A_TIME: usize = 64;

/// Bytes of a layer, in order; an empty piece is its end. A channel that closes without one broke off.
pub type Incoming = mpsc::Receiver<io::Result<Bytes>>;

/// Begins to fetch the layer of this number.
pub type Fetch = Arc<dyn Fn(usize) -> Incoming + Send + Sync>;

/// What happens to a layer here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// It is there already.
    Exists,
    /// It waits for its turn.
    Waiting,
    /// All of it has arrived and is being put into its place.
    Extracting,
    /// It is done.
    Complete,
}

/// Told of every layer's stages.
pub type OnStage = Arc<dyn Fn(usize, Stage) + Send + Sync>;

/// An image to be taken in.
#[derive(Debug, Clone)]
pub struct Pull {
    /// Its configuration, as it was hashed.
    pub config: String,
    /// Blobs of its layers, lowest first.
    pub layers: Vec<Blob>,
    /// Names it shall have.
    pub names: Vec<Reference>,
    /// Where it came from.
    pub manifest: Option<Manifest>,
    /// The index that the names lead to, if it is one.
    pub index: Option<IncomingIndex>,
    /// Layers at a time.
    pub parallel: usize,
    /// Cancelled when nobody needs the layers' bytes any more; who fetches them has to look at it.
    pub stop: CancellationToken,
}

/// What came of it.
#[derive(Debug, Clone)]
pub struct Pulled {
    /// The image.
    pub image: Arc<Image>,
    /// All names had been its own before.
    pub up_to_date: bool,
}

/// One lock per layer under way.
#[derive(Default)]
pub(crate) struct Underway {
    locks: std::sync::Mutex<HashMap<String, Weak<Mutex<()>>>>,
}

impl Underway {
    async fn lock(&self, chain: &str) -> OwnedMutexGuard<()> {
        let lock = {
            let mut locks = guard(&self.locks);
            locks.retain(|_, lock| lock.strong_count() > 0);
            match locks.get(chain).and_then(Weak::upgrade) {
                Some(lock) => lock,
                None => {
                    let lock = Arc::new(Mutex::new(()));
                    locks.insert(chain.to_owned(), Arc::downgrade(&lock));
                    lock
                }
            }
        };
        lock.lock_owned().await
    }
}

/// The pieces as a reader for a thread.
struct Pieces {
    from: Incoming,
    piece: Bytes,
    ended: bool,
}

impl Pieces {
    fn new(from: Incoming) -> Self {
        Self { from, piece: Bytes::new(), ended: false }
    }
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() && !self.ended {
            match self.from.blocking_recv() {
                Some(Ok(piece)) if piece.is_empty() => self.ended = true,
                Some(Ok(piece)) => self.piece = piece,
                Some(Err(e)) => return Err(e),
                None => return Err(io::Error::other("the transfer was given up")),
            }
        }
        let n = self.piece.len().min(buffer.len());
        let part = self.piece.split_to(n);
        if let Some(to) = buffer.get_mut(..n) {
            to.copy_from_slice(&part);
        }
        Ok(n)
    }
}

/// A layer that has arrived.
enum Arrived {
    /// Somebody had it; it stays as long as this.
    Known(Pin),
    Unpacked(Box<Unpacked>),
    /// Waits in a file for the layer below.
    Spooled(Ingest, std::fs::File),
}

/// A layer on its way, with the right to be the one who makes it.
type Task = JoinHandle<Result<(Arrived, OwnedMutexGuard<()>)>>;

/// What an image's configuration says of its layers: chain id and diff id, lowest first.
pub(crate) fn chain_of(config: &str, layers: usize, most: usize) -> Result<Vec<(String, String)>> {
    let file = ConfigFile::parse(config)?;
    if !file.os.is_empty() && file.os != "linux" {
        return Err(Error::invalid(format!(
            "image operating system {:?} cannot be used on this platform: operating system is not supported",
            file.os
        )));
    }
    let diff_ids = file.rootfs.diff_ids.as_deref().unwrap_or_default();
    diff_ids.iter().try_for_each(|d| crate::reference::check_digest(d))?;
    if diff_ids.len() != layers {
        return Err(mismatch());
    }
    if layers > most {
        return Err(Error::invalid("max depth exceeded"));
    }
    Ok(file.chain())
}

fn mismatch() -> Error {
    Error::invalid("layers from manifest don't match image configuration")
}

impl Images {
    /// Whether each layer of an image with this configuration is here already.
    pub fn have_layers(&self, config: &str, layers: usize) -> Result<Vec<bool>> {
        let index = self.inner.index.load();
        let chain = chain_of(config, layers, self.inner.settings.limits.layers)?;
        Ok(chain.iter().map(|(id, _)| index.layers.contains_key(id)).collect())
    }

    /// Takes an image in. Everything is undone if this fails or nobody waits for it any more.
    pub async fn pull(&self, pull: Pull, fetch: Fetch, on_stage: OnStage) -> Result<Pulled> {
        let inner = Arc::clone(&self.inner);
        let budget = inner.budget();
        let cancel = Cancel(Arc::clone(&budget));
        let stop = pull.stop.clone().drop_guard();
        let working = inner.working.token();
        // A task of its own, as it must clean up also when nobody waits.
        let task = tokio::spawn(async move {
            let _working = working;
            Pulling { inner, budget, pull, fetch, on_stage }.run().await
        });
        let result = task.await.map_err(|e| Error::internal(format!("a pull ended: {e}")));
        drop((cancel, stop));
        result?
    }
}

struct Pulling {
    inner: Arc<Inner>,
    budget: Arc<Budget>,
    pull: Pull,
    fetch: Fetch,
    on_stage: OnStage,
}

impl Pulling {
    async fn run(self) -> Result<Pulled> {
        let limits = &self.inner.settings.limits;
        let chain = chain_of(&self.pull.config, self.pull.layers.len(), limits.layers)?;
        let permits = Arc::new(Semaphore::new(self.pull.parallel.clamp(1, MOST_AT_A_TIME)));
        let mut tasks: Vec<Task> = Vec::new();
        for (number, (chain_id, _)) in chain.iter().enumerate() {
            tasks.push(self.begin(number, chain_id.clone(), Arc::clone(&permits)));
        }
        let mut pins: Vec<Pin> = Vec::new();
        let mut failed = None;
        let mut below: Option<&str> = None;
        for (number, (task, (chain_id, diff_id))) in tasks.into_iter().zip(&chain).enumerate() {
            let arrived = match task.await {
                Ok(arrived) => arrived,
                Err(e) => Err(Error::internal(format!("a layer's task ended: {e}"))),
            };
            let placed = match (arrived, &failed) {
                (Ok((arrived, _making)), None) => {
                    let placed = self.place(number, arrived, below, chain_id, diff_id).await;
                    placed.map(|pin| pins.push(pin))
                }
                (Ok((arrived, _making)), Some(_)) => self.discard(arrived).await,
                (Err(error), _) => Err(error),
            };
            if let Err(error) = placed {
                // The first failure is the reason; what follows is only its consequence.
                self.budget.cancel();
                self.pull.stop.cancel();
                failed.get_or_insert(error);
            }
            below = Some(chain_id);
        }
        let result = match failed {
            None => self.record().await,
            Some(error) => Err(error),
        };
        drop(pins);
        if result.is_err() {
            self.inner.collect_unneeded().await;
        }
        result
    }

    fn begin(&self, number: usize, chain_id: String, permits: Arc<Semaphore>) -> Task {
        let (inner, budget) = (Arc::clone(&self.inner), Arc::clone(&self.budget));
        let (fetch, on_stage) = (Arc::clone(&self.fetch), Arc::clone(&self.on_stage));
        tokio::spawn(async move {
            let known = |inner: &Inner| inner.index.load().layers.contains_key(&chain_id);
            let making = inner.underway.lock(&chain_id).await;
            // Before looking, so that it cannot go between the two, nor until the layers above it have arrived.
            let pin = inner.pin(&chain_id);
            if known(&inner) {
                on_stage(number, Stage::Exists);
                return Ok((Arrived::Known(pin), making));
            }
            drop(pin);
            if permits.available_permits() == 0 {
                on_stage(number, Stage::Waiting);
            }
            let permit = permits.acquire_owned().await.map_err(|e| Error::internal(e.to_string()))?;
            budget.check()?;
            let target = if inner.can_rebase() { Some(inner.layer_target(None).await?) } else { None };
            let mut pieces = Pieces::new(fetch(number));
            let runtime = tokio::runtime::Handle::current();
            let arrived = blocking(move || {
                let _permit = permit;
                let Some(target) = target else {
                    return spool(&inner, &budget, &mut pieces);
                };
                let unpacked = inner.unpack(&runtime, target, pieces, &budget)?;
                Ok(Arrived::Unpacked(Box::new(unpacked)))
            })
            .await?;
            Ok((arrived, making))
        })
    }

    async fn discard(&self, arrived: Arrived) -> Result<()> {
        match arrived {
            Arrived::Unpacked(unpacked) => self.inner.discard_unpacked(*unpacked).await,
            Arrived::Known(_) | Arrived::Spooled(..) => Ok(()),
        }
    }

    /// Makes what has arrived the layer on top of `below`.
    async fn place(
        &self,
        number: usize,
        arrived: Arrived,
        below: Option<&str>,
        chain_id: &str,
        diff_id: &str,
    ) -> Result<Pin> {
        let inner = &self.inner;
        // Before looking, so that it cannot go between the two.
        let pin = inner.pin(chain_id);
        let unpacked = match arrived {
            Arrived::Known(_pin) => {
                let _changing = inner.changing.lock().await;
                return if inner.index.load().layers.contains_key(chain_id) {
                    Ok(pin)
                } else {
                    Err(Error::internal("a layer was removed while it was needed; pull again"))
                };
            }
            Arrived::Unpacked(unpacked) => *unpacked,
            Arrived::Spooled(_ingest, mut file) => {
                file.rewind()?;
                let target = inner.layer_target(below).await?;
                let (worker, budget) = (Arc::clone(inner), Arc::clone(&self.budget));
                let runtime = tokio::runtime::Handle::current();
                blocking(move || worker.unpack(&runtime, target, file, &budget)).await?
            }
        };
        if unpacked.diff_id != diff_id {
            inner.discard_unpacked(unpacked).await?;
            return Err(mismatch());
        }
        (self.on_stage)(number, Stage::Extracting);
        let _changing = inner.changing.lock().await;
        let mut index = inner.index.load().as_ref().clone();
        inner.commit_layer(&mut index, below, unpacked).await?;
        inner.index.store(Arc::new(index));
        (self.on_stage)(number, Stage::Complete);
        Ok(pin)
    }

    /// All layers are there: the image and its names.
    async fn record(&self) -> Result<Pulled> {
        self.budget.check()?;
        let inner = &self.inner;
        let id = digest::of(self.pull.config.as_bytes());
        // Before anything is locked: a disk may take its time. The layers are pinned, so those of an image that is known
        // now are on the disk and stay, even if it goes meanwhile.
        if !inner.index.load().images.contains_key(&id) {
            inner.make_durable().await?;
        }
        let _changing = inner.changing.lock().await;
        let mut index = inner.index.load().as_ref().clone();
        let known = index.images.contains_key(&id);
        let before = index.names.clone();
        let had = |index: &Index| {
            let indexes = index.images.get(&id).map(|image| image.indexes.clone());
            indexes.unwrap_or_default()
        };
        let indexes = had(&index);
        let mut transaction = Transaction::new();
        self.name(&mut index, &mut transaction, &id)?;
        if let Some(manifest) = &self.pull.manifest {
            distribution::remember(inner, &mut transaction, &id, std::slice::from_ref(manifest))?;
        }
        let same = |name: &Reference| before.get(&name.full()) == index.names.get(&name.full());
        let up_to_date = known && had(&index) == indexes && self.pull.names.iter().all(same);
        let diff_ids: Vec<String> = index
            .images
            .get(&id)
            .map(|image| image.layers.iter().map(|l| l.diff_id.clone()).collect())
            .unwrap_or_default();
        for (blob, diff_id) in self.pull.layers.iter().zip(&diff_ids) {
            distribution::remember_blob(inner, &mut transaction, diff_id, blob)?;
        }
        if up_to_date {
            inner.settings.store.commit(transaction).await?;
        } else {
            inner.commit_lasting(transaction).await?;
        }
        let image = index.images.get(&id).cloned().ok_or_else(|| Error::internal("a lost image"))?;
        inner.sweep_blobs(&index);
        inner.index.store(Arc::new(index));
        Ok(Pulled { image, up_to_date })
    }

    fn name(&self, index: &mut Index, transaction: &mut Transaction, id: &str) -> Result<()> {
        let inner = &self.inner;
        let now = i64::try_from(jiff::Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX);
        let parent = index.images.get(id).and_then(|image| image.parent.clone());
        let record = ImageRecord { config: self.pull.config.clone(), parent, last_tag_time: now };
        transaction.put(IMAGES, &inner.key(id), encode(&record)?);
        index.insert(id, &record)?;
        let manifest = self
            .pull
            .manifest
            .as_ref()
            .map(|m| Document { media_type: m.media_type.clone(), content: m.content.clone() });
        if let Some(manifest) = &manifest {
            index.arrived(inner, transaction, id, manifest)?;
        }
        let target = match self.pull.index.clone() {
            Some(incoming) => {
                let images: Vec<_> = manifest.into_iter().map(|m| (id.to_owned(), m)).collect();
                let digest = index.take_index(inner, transaction, incoming, &images)?;
                index.indexes.get(&digest).map(|x| Target::index(x))
            }
            None => None,
        };
        let target = target.unwrap_or_else(|| Target::image(id));
        for name in &self.pull.names {
            index.point(inner, transaction, name, &target)?;
        }
        index.rename(id);
        Ok(())
    }
}

/// Keeps a layer's bytes until the layer below is there.
fn spool(inner: &Inner, budget: &Budget, pieces: &mut Pieces) -> Result<Arrived> {
    let (ingest, mut file) = inner.content.ingest()?;
    let mut buffer = vec![0u8; 256 << 10];
    loop {
        let n = pieces.read(&mut buffer)?;
        if n == 0 {
            return Ok(Arrived::Spooled(ingest, file));
        }
        budget.spend(n as u64)?;
        io::Write::write_all(&mut file, buffer.get(..n).unwrap_or_default())?;
    }
}

impl Inner {
    /// Removes layers that were made for an image that did not come to be.
    async fn collect_unneeded(&self) {
        let _changing = self.changing.lock().await;
        let mut index = self.index.load().as_ref().clone();
        if let Err(error) = self.collect_layers(&mut index).await {
            tracing::error!(%error, "could not remove the layers of an image that was not made");
        }
        self.sweep_blobs(&index);
        self.index.store(Arc::new(index));
    }
}
