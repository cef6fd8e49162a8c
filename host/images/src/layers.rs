//! Layers: unpacking them into snapshots, committing them, removing those that nothing needs.

use std::collections::HashSet;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;
use wharf_erofs::Writer;
use wharf_kernel::files::tree::{self, Meta, Tree, split};
use wharf_kernel::files::{self, Roots};
use wharf_plan::files::{Mount, MountAttributes, OptionValue, Place, Root as PlaceRoot, Source};
use wharf_plan::storage::{Kind, PrepareRequest, Purpose, Snapshot, Stack};
use wharf_plan::types::IdMap;
use wharf_store::Transaction;

use crate::archive::decompress::decompress_ahead;
use crate::archive::image;
use crate::archive::recipe::{Recipe, Replay};
use crate::archive::tar::Reader;
use crate::archive::unpack::{Budget, Outcome, Whiteouts, unpack};
use crate::content::Ingest;
use crate::digest::{self, HashReader};
use crate::error::{Error, Result};
use crate::inner::{Inner, Pin, blocking, operation};
use crate::model::Deleted;
use crate::record::{Index, LAYERS, LayerRecord, SNAPSHOTS, SnapshotRecord, encode};

/// Bytes allowed after the end marker of a layer's tar.
const AFTER_END: u64 = 1 << 20;

/// A snapshot ready to be unpacked into.
pub(crate) struct Target {
    record: SnapshotRecord,
    kv: Transaction,
    stack: Stack,
    ingest: (Ingest, std::fs::File),
}

/// What unpacking made; not yet a layer.
pub(crate) struct Unpacked {
    record: SnapshotRecord,
    kv: Transaction,
    stack: Stack,
    recipe: Ingest,
    outcome: Outcome,
    /// The layer as an image, but for its directories, where the driver wants one.
    image: Option<Writer>,
    pub diff_id: String,
    /// Bytes of the uncompressed stream.
    tar_size: u64,
    /// Layer that it was unpacked on; None with a driver that decides at commit.
    on: Option<String>,
}

impl Inner {
    /// A snapshot for a new layer, on top of `parent` if the driver wants to know it now.
    pub(crate) async fn layer_target(&self, parent: Option<&str>) -> Result<Target> {
        let operation = operation();
        let lineage = Self::lineage(&self.index.load(), parent)?;
        let request = PrepareRequest {
            id: format!("layer-{:032x}", rand::random::<u128>()),
            kind: Kind::Active,
            lineage: lineage.clone(),
            labels: Vec::new(),
            options: self.settings.options.clone(),
            size_limit: None,
            id_maps: Vec::new(),
            mount_label: None,
        };
        let (record, kv, _) = self.prepare(&operation, request, parent.map(str::to_owned)).await?;
        let ready = async {
            let stack = self.stack(&operation, &record.snapshot, &lineage, Purpose::UnpackLayer).await?;
            Ok((stack, self.content.ingest()?))
        };
        match ready.await {
            Ok((stack, ingest)) => Ok(Target { record, kv, stack, ingest }),
            Err(error) => {
                self.discard(&record, Transaction::new()).await?;
                Err(error)
            }
        }
    }

    /// Unpacks a layer's stream, compressed or not. Blocks. On error nothing is left of it.
    pub(crate) fn unpack(
        &self,
        runtime: &tokio::runtime::Handle,
        target: Target,
        input: impl Read + Send + 'static,
        budget: &Budget,
    ) -> Result<Unpacked> {
        let Target { record, kv, stack, ingest: (recipe, file) } = target;
        match self.unpack_into(&stack, file, input, budget) {
            Ok((outcome, image, (diff_id, tar_size))) => {
                let on = record.chain.clone();
                Ok(Unpacked { record, kv, stack, recipe, outcome, image, diff_id, tar_size, on })
            }
            Err(error) => {
                if let Err(error) = runtime.block_on(self.discard(&record, Transaction::new())) {
                    tracing::error!(%error, "could not remove a layer that failed to unpack");
                }
                Err(error)
            }
        }
    }

    fn unpack_into(
        &self,
        stack: &Stack,
        recipe: std::fs::File,
        input: impl Read + Send + 'static,
        budget: &Budget,
    ) -> Result<(Outcome, Option<Writer>, (String, u64))> {
        if self.makes_images() {
            let place = stack
                .upper
                .as_ref()
                .ok_or_else(|| Error::internal("the driver has no place for an image"))?;
            let image = files::create_image(&self.roots, place)?;
            let mut hashed = HashReader::new(decompress_ahead(input)?);
            let mut recipe = Recipe::new(recipe)?;
            let (image, outcome) = {
                let mut reader = Reader::with_recipe(&mut hashed, Some(&mut recipe));
                let made = image::convert(&mut reader, image, budget)?;
                reader.drain(AFTER_END)?;
                made
            };
            recipe.finish()?;
            return Ok((outcome, Some(image), hashed.finish()));
        }
        let (root, whiteouts) = match &stack.upper {
            Some(upper) if self.has_uppers() => (self.roots.open_dir(upper)?, Whiteouts::Overlay),
            _ => {
                let mounted = files::mount(&self.roots, &stack.mounts)?;
                let root = tree::open_child(mounted.as_fd(), b".", OFlags::RDONLY | OFlags::DIRECTORY)
                    .map_err(io::Error::from)?;
                (root, Whiteouts::Delete)
            }
        };
        let mut hashed = HashReader::new(decompress_ahead(input)?);
        let mut recipe = Recipe::new(recipe)?;
        let outcome = {
            let mut reader = Reader::with_recipe(&mut hashed, Some(&mut recipe));
            let outcome = unpack(&mut reader, root, whiteouts, budget)?;
            reader.drain(AFTER_END)?;
            outcome
        };
        recipe.finish()?;
        Ok((outcome, None, hashed.finish()))
    }

    /// Throws an unpacked layer away.
    pub(crate) async fn discard_unpacked(&self, unpacked: Unpacked) -> Result<()> {
        self.discard(&unpacked.record, Transaction::new()).await
    }

    /// Makes an unpacked snapshot the layer on top of `parent`. If that layer exists already, the copy goes. The
    /// caller holds `changing`.
    pub(crate) async fn commit_layer(
        &self,
        index: &mut Index,
        parent: Option<&str>,
        unpacked: Unpacked,
    ) -> Result<String> {
        let chain_id = digest::chain(parent, &unpacked.diff_id);
        if index.layers.contains_key(&chain_id) {
            self.discard_unpacked(unpacked).await?;
            return Ok(chain_id);
        }
        let mut record = unpacked.record.clone();
        let committed = self.commit_new(index, parent, unpacked, &mut record, chain_id).await;
        if committed.is_err() {
            self.take_back(&record).await?;
        }
        committed
    }

    async fn commit_new(
        &self,
        index: &mut Index,
        parent: Option<&str>,
        unpacked: Unpacked,
        record: &mut SnapshotRecord,
        chain_id: String,
    ) -> Result<String> {
        let driver = &self.settings.storage;
        let operation = operation();
        let lineage = Self::lineage(index, parent)?;
        let Unpacked { record: _, kv, stack, recipe, outcome, image, diff_id, tar_size, on } = unpacked;
        let size = outcome.size;
        let loose = !outcome.implied.is_empty() || !outcome.dangling.is_empty();
        let view = match lineage.split_first() {
            Some((below, rest)) if loose && self.has_uppers() => {
                Some(self.stack(&operation, below, rest, Purpose::ReadOnlyInspect).await?)
            }
            _ => None,
        };
        if let (None, Some((name, target))) = (&view, outcome.dangling.first()) {
            return Err(Error::invalid(format!(
                "{}: hard link to {}, which does not exist",
                crate::archive::unpack::show(name),
                crate::archive::unpack::show(target)
            )));
        }
        let roots = Arc::clone(&self.roots);
        if let Some(mut image) = image {
            blocking(move || {
                if let Some(view) = view {
                    image::fill_in(&mut image, files::mount(&roots, &view.mounts)?, &outcome)?;
                }
                Ok(files::seal_image(&image.finish(0)?.file)?)
            })
            .await?;
        } else if let (Some(view), Some(upper)) = (view, stack.upper.clone()) {
            blocking(move || {
                let lower = files::mount(&roots, &view.mounts)?;
                fill_in(&roots, lower, roots.open_dir(&upper)?, &outcome.implied, &outcome.dangling)
            })
            .await?;
        }
        debug_assert!(on.is_none() || on.as_deref() == parent);
        let name = digest::hex(&chain_id).to_owned();
        let answer = driver.commit(&operation, &record.snapshot, &name, &lineage).await?;
        driver.check(&answer.value.ops, &[])?;
        // From here the files may be under the old name or the new one; the journal must find them under either.
        let mut undo = wharf_plan::files::undo(&answer.value.ops, |place| files::exists(&self.roots, place));
        undo.extend(record.undo.iter().cloned());
        record.undo.clone_from(&undo);
        let mut journal = Transaction::new();
        journal.put(SNAPSHOTS, &self.key(&record.snapshot.id), encode(record)?);
        self.settings.store.commit(journal).await?;
        self.apply(answer.value.ops).await?;
        self.content.keep_recipe(recipe, &chain_id)?;
        let layer = LayerRecord {
            chain_id: chain_id.clone(),
            diff_id,
            parent: parent.map(str::to_owned),
            size,
            tar_size,
            snapshot: Snapshot {
                id: name,
                kind: Kind::Committed,
                labels: record.snapshot.labels.clone(),
                cookie: answer.value.cookie,
            },
            undo,
        };
        let mut transaction = kv;
        transaction
            .merge(answer.kv)
            .put(LAYERS, &self.key(&chain_id), encode(&layer)?)
            .delete(SNAPSHOTS, &self.key(&record.snapshot.id));
        self.settings.store.commit(transaction).await?;
        index.layers.insert(chain_id.clone(), Arc::new(layer));
        Ok(chain_id)
    }

    /// Layers that an image, a container or an operation under way needs.
    pub(crate) fn needed(&self, index: &Index) -> HashSet<String> {
        let mut tops: Vec<String> =
            index.images.values().filter_map(|image| image.chain_id().map(str::to_owned)).collect();
        let containers = self.containers.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        tops.extend(containers.values().filter_map(|record| record.chain.clone()));
        drop(containers);
        tops.extend(self.pins.lock().unwrap_or_else(std::sync::PoisonError::into_inner).keys().cloned());
        let mut needed = HashSet::new();
        for top in tops {
            let mut at = Some(top);
            while let Some(id) = at {
                at = index.layers.get(&id).and_then(|layer| layer.parent.clone());
                if !needed.insert(id) {
                    break;
                }
            }
        }
        needed
    }

    /// Removes layers that nothing needs, upper ones first. The caller holds `changing`.
    pub(crate) async fn collect_layers(&self, index: &mut Index) -> Result<Vec<Deleted>> {
        let needed = self.needed(index);
        let mut doomed: Vec<Arc<LayerRecord>> =
            index.layers.values().filter(|layer| !needed.contains(&layer.chain_id)).cloned().collect();
        if doomed.is_empty() {
            return Ok(Vec::new());
        }
        // Whoever builds on a layer pins it and then looks for it. So they go out of sight first, and then it is asked
        // again: either he no longer finds it, or his pin is seen here.
        let mut shown = self.index.load().as_ref().clone();
        shown.layers.retain(|id, _| needed.contains(id) || !index.layers.contains_key(id));
        self.index.store(Arc::new(shown));
        let needed = self.needed(index);
        doomed.retain(|layer| !needed.contains(&layer.chain_id));
        let depth = |layer: &LayerRecord| {
            let mut depth = 0;
            let mut at = layer.parent.as_ref();
            while let Some(parent) = at.and_then(|id| index.layers.get(id)) {
                depth += 1;
                at = parent.parent.as_ref();
            }
            depth
        };
        doomed.sort_by_key(|layer| std::cmp::Reverse((depth(layer), layer.chain_id.clone())));
        let mut deleted = Vec::new();
        for layer in doomed {
            self.remove_layer(&layer).await?;
            index.layers.remove(&layer.chain_id);
            deleted.push(Deleted::Layer(layer.chain_id.clone()));
        }
        Ok(deleted)
    }

    async fn remove_layer(&self, layer: &LayerRecord) -> Result<()> {
        self.content.remove_recipe(&layer.chain_id)?;
        let record = SnapshotRecord {
            state: crate::record::State::Unfinished,
            chain: layer.parent.clone(),
            snapshot: layer.snapshot.clone(),
            undo: layer.undo.clone(),
            stack: None,
            boot: self.boot.clone(),
        };
        let mut also = Transaction::new();
        also.delete(LAYERS, &self.key(&layer.chain_id));
        self.discard(&record, also).await
    }

    /// Removes recipes whose layer does not exist.
    pub(crate) async fn sweep_recipes(&self) -> Result<()> {
        let index = self.index.load_full();
        let content = self.content.clone();
        blocking(move || {
            for chain in content.recipes()? {
                if !index.layers.contains_key(&chain) {
                    content.remove_recipe(&chain)?;
                }
            }
            Ok(())
        })
        .await
    }

    /// Flushes layers and recipes before an image that needs them is recorded.
    pub(crate) async fn make_durable(&self) -> Result<()> {
        if !self.settings.durable {
            return Ok(());
        }
        let roots = Arc::clone(&self.roots);
        blocking(move || Ok(tree::sync_filesystem(&roots.data).map_err(io::Error::from)?)).await
    }

    /// A committed layer's view, for reading.
    pub(crate) async fn view(self: &Arc<Self>, chain: &str) -> Result<(OwnedFd, Pin)> {
        self.view_mapped(chain, &[]).await
    }

    /// As [`view`](Self::view), with the ids that a user namespace has for them.
    pub(crate) async fn view_mapped(self: &Arc<Self>, chain: &str, maps: &[IdMap]) -> Result<(OwnedFd, Pin)> {
        let pin = self.pin(chain);
        let index = self.index.load_full();
        let lineage = Self::lineage(&index, Some(chain))?;
        let Some((top, below)) = lineage.split_first() else {
            return Err(Error::internal("a layer without a snapshot"));
        };
        let mut stack = self.stack(&operation(), top, below, Purpose::ReadOnlyInspect).await?;
        map_layers(&mut stack.mounts, maps);
        Ok((self.mount(stack.mounts).await?, pin))
    }
}

/// Gives directories that a layer only implied the looks they have in the layers below, and brings up files that the
/// layer only links to.
fn fill_in(
    _roots: &Roots,
    lower: OwnedFd,
    upper: OwnedFd,
    implied: &[Vec<u8>],
    dangling: &[(Vec<u8>, Vec<u8>)],
) -> Result<()> {
    let lower = Tree::new(lower);
    let mut upper = Tree::new(upper);
    let named = |path: &[u8], e: Errno| {
        let e = io::Error::from(e);
        let kind = crate::archive::unpack::blame(&e);
        Error::from(io::Error::new(kind, format!("{}: {e}", crate::archive::unpack::show(path))))
    };
    for (name, target) in dangling {
        let copy = || -> std::result::Result<(), Errno> {
            let found = lower.open(target, OFlags::PATH | OFlags::NOFOLLOW)?;
            let stat = rustix::fs::fstat(&found)?;
            let (dir, leaf) = split(name);
            let dir = upper.dir(dir)?;
            let meta = Meta { xattrs: tree::xattrs(&tree::by_fd(&found))?, ..Meta::of_stat(&stat) };
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::RegularFile => {
                    let mut from =
                        std::fs::File::from(lower.open(target, OFlags::RDONLY | OFlags::NOFOLLOW)?);
                    let mut to = tree::create_file(dir.as_fd(), leaf)?;
                    io::copy(&mut from, &mut to)
                        .map_err(|e| e.raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error))?;
                    meta.set_open(&to)
                }
                FileType::Symlink => {
                    let (from, from_leaf) = split(target);
                    let from = lower.open(from, OFlags::PATH | OFlags::DIRECTORY)?;
                    tree::symlink(&tree::read_link(from.as_fd(), from_leaf)?, dir.as_fd(), leaf)?;
                    meta.set_at(dir.as_fd(), leaf)
                }
                _ => Err(Errno::PERM),
            }
        };
        let mut copy = copy;
        copy().map_err(|e| named(name, e))?;
    }
    // Deeper ones first: filling a directory changes its time.
    for path in implied.iter().rev() {
        let Ok(below) = lower.open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW) else {
            continue;
        };
        let meta = Meta::of(&below).map_err(|e| named(path, e))?;
        let own = upper.open(path, OFlags::RDONLY | OFlags::DIRECTORY).map_err(|e| named(path, e))?;
        meta.set_open(&own).map_err(|e| named(path, e))?;
    }
    Ok(())
}

/// A layer's tar stream put together again, with the mount that it is read from and the promise that the layer stays.
pub(crate) struct Exported {
    stream: Box<dyn Read + Send>,
    _pin: Pin,
}

impl Read for Exported {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.read(buffer)
    }
}

impl Inner {
    /// The layer's tar stream, byte for byte as it came.
    pub(crate) async fn export_layer(self: &Arc<Self>, chain: &str) -> Result<Exported> {
        let (root, pin) = self.view(chain).await?;
        let recipe = self.content.open_recipe(chain)?;
        let tree = Tree::new(root);
        let inner = Arc::clone(self);
        let stream = blocking(move || {
            let scratch = move || {
                // Nameless from the start: the name goes with the guard.
                let (guard, file) = inner.content.ingest()?;
                drop(guard);
                Ok(file)
            };
            let replay = Replay::new(recipe, scratch, move |path: &[u8]| {
                Ok(std::fs::File::from(tree.open(path, OFlags::RDONLY | OFlags::NOFOLLOW)?))
            })?;
            Ok(Box::new(replay) as Box<dyn Read + Send>)
        })
        .await?;
        Ok(Exported { stream, _pin: pin })
    }

    /// Makes a layer of the same content as an existing one on top of another parent.
    pub(crate) async fn copy_layer(
        self: &Arc<Self>,
        index: &mut Index,
        runtime: &tokio::runtime::Handle,
        parent: Option<&str>,
        diff_id: &str,
        budget: &Arc<Budget>,
    ) -> Result<String> {
        let Some(source) = index.layers.values().find(|l| l.diff_id == diff_id).map(|l| l.chain_id.clone())
        else {
            return Err(Error::internal(format!("layer {diff_id} is gone")));
        };
        // Both ends are looked up in the index that everyone sees.
        self.publish_layers(index);
        let stream = self.export_layer(&source).await?;
        let target = self.layer_target(if self.can_rebase() { None } else { parent }).await?;
        let (worker, runtime, budget) = (Arc::clone(self), runtime.clone(), Arc::clone(budget));
        let unpacked = blocking(move || worker.unpack(&runtime, target, stream, &budget)).await?;
        if unpacked.diff_id != diff_id {
            self.discard_unpacked(unpacked).await?;
            return Err(Error::internal(format!("the files of layer {diff_id} have changed")));
        }
        self.commit_layer(index, parent, unpacked).await
    }

    /// Lets others see layers that were made just now.
    pub(crate) fn publish_layers(&self, index: &Index) {
        self.index
            .store(Arc::new(Index { layers: index.layers.clone(), ..self.index.load().as_ref().clone() }));
    }
}

/// Translates the ids of a plan that was made without: a mount alone, or an overlay's layers, which an overlay cannot do
/// for itself.
fn map_layers(mounts: &mut Vec<Mount>, maps: &[IdMap]) {
    if maps.is_empty() {
        return;
    }
    let mut all: Vec<Mount> = Vec::with_capacity(mounts.len());
    // Where each mount of the plan is in the new one.
    let mut moved: Vec<u32> = Vec::with_capacity(mounts.len());
    let number = |list: &Vec<Mount>| u32::try_from(list.len()).unwrap_or(u32::MAX);
    for mut mount in std::mem::take(mounts) {
        let follow = |place: &mut Place| {
            if let PlaceRoot::Mount(n) = &mut place.root
                && let Some(new) = usize::try_from(*n).ok().and_then(|n| moved.get(n))
            {
                *n = *new;
            }
        };
        if let Source::Place(place) = &mut mount.source {
            follow(place);
        }
        for (_, value) in &mut mount.options {
            let places: &mut [Place] = match value {
                OptionValue::Place(place) => std::slice::from_mut(place),
                OptionValue::Places(list) => list,
                _ => continue,
            };
            for place in places {
                follow(place);
                // A layer that is a directory becomes a mapped mount of it; a mount of the plan is mapped already.
                if mount.fstype == "overlay" && !matches!(place.root, PlaceRoot::Mount(_)) {
                    all.push(Mount {
                        fstype: "bind".into(),
                        source: Source::Place(place.clone()),
                        options: Vec::new(),
                        attributes: MountAttributes::empty(),
                        id_maps: maps.to_vec(),
                    });
                    let layer = PlaceRoot::Mount(number(&all) - 1);
                    *place = Place { root: layer, path: String::new() };
                }
            }
        }
        if mount.fstype != "overlay" && mount.id_maps.is_empty() {
            mount.id_maps = maps.to_vec();
        }
        all.push(mount);
        moved.push(number(&all) - 1);
    }
    *mounts = all;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_of_a_plan_are_mapped_one_by_one() {
        let dir = |path: &str| Place { root: PlaceRoot::Data, path: path.into() };
        let nth = |n: u32| Place { root: PlaceRoot::Mount(n), path: String::new() };
        let mount = |fstype: &str, source, options| Mount {
            fstype: fstype.into(),
            source,
            options,
            attributes: MountAttributes::empty(),
            id_maps: Vec::new(),
        };
        let lower = |places| vec![("lowerdir+".to_owned(), OptionValue::Places(places))];
        let mut plan = vec![
            mount("overlay", Source::None, lower(vec![dir("c"), dir("d")])),
            mount("overlay", Source::None, lower(vec![dir("a"), nth(0)])),
        ];
        let maps = [IdMap { inside: 0, outside: 9, size: 5, kind: wharf_plan::types::IdKind::Both }];
        map_layers(&mut plan, &maps);
        let shape: Vec<_> = plan.iter().map(|m| (m.fstype.as_str(), m.id_maps.len())).collect();
        assert_eq!(shape, [("bind", 1), ("bind", 1), ("overlay", 0), ("bind", 1), ("overlay", 0)]);
        assert_eq!(plan[2].options, lower(vec![nth(0), nth(1)]));
        assert_eq!(plan[4].options, lower(vec![nth(3), nth(2)]));
        let mut single = vec![mount("bind", Source::Place(dir("a")), Vec::new())];
        map_layers(&mut single, &maps);
        assert_eq!((single.len(), &single[0].id_maps[..]), (1, &maps[..]));
    }
}
