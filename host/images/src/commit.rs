//! What a container changed in its file system, and images made of that.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{FileType, OFlags, Stat};
use rustix::io::Errno;
use serde_json::{Value, json};
use wharf_kernel::files::tree::{self, Tree, split};
use wharf_plan::types::IdMap;

use crate::Images;
use crate::archive::pack::Packer;
use crate::changes::apply_changes;
use crate::error::{Error, Result};
use crate::inner::{Inner, blocking};
use crate::model::{Image, ImageConfig, ImportOptions};

/// What became of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It is another.
    Modified,
    /// It is new.
    Added,
    /// It is gone.
    Deleted,
}

/// Paths without a leading slash, and what became of them.
pub type Changes = BTreeMap<Vec<u8>, Change>;

/// How a container becomes an image.
#[derive(Debug, Clone, Default)]
pub struct CommitOptions {
    /// Repository, empty for an image without a name.
    pub repository: String,
    /// Tag, or empty for `latest`.
    pub tag: String,
    /// Who.
    pub author: String,
    /// Why.
    pub comment: String,
    /// The container's command, for the history.
    pub created_by: String,
    /// What containers of the image start with, before `changes`.
    pub config: ImageConfig,
    /// Dockerfile instructions to apply to it.
    pub changes: Vec<String>,
    /// Id of the image that the container was made of.
    pub parent: String,
    /// The container, for those who ask what an image was made of.
    pub container: String,
    /// Its configuration, for the same.
    pub container_config: Value,
}

/// Files and directories that a container's start makes as mount points; while empty they are nobody's change.
const MOUNT_POINTS: [&[u8]; 11] = [
    b"dev",
    b"dev/console",
    b"dev/mqueue",
    b"dev/pts",
    b"dev/shm",
    b"etc",
    b"etc/hostname",
    b"etc/hosts",
    b"etc/resolv.conf",
    b"proc",
    b"sys",
];

/// Moved directories are told in a way that only overlay itself understands; the trees are compared then.
struct Redirected;

fn absent(e: Errno) -> bool {
    matches!(e, Errno::NOENT | Errno::NOTDIR)
}

fn kind(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

/// The same owner, permissions and device numbers.
fn same_looks(a: &Stat, b: &Stat) -> bool {
    (a.st_mode, a.st_uid, a.st_gid, a.st_rdev) == (b.st_mode, b.st_uid, b.st_gid, b.st_rdev)
}

fn same_time(a: &Stat, b: &Stat) -> bool {
    (a.st_mtime, a.st_mtime_nsec) == (b.st_mtime, b.st_mtime_nsec)
}

fn join(dir: &[u8], name: &[u8]) -> Vec<u8> {
    if dir.is_empty() { name.to_vec() } else { [dir, b"/", name].concat() }
}

fn names(dir: &OwnedFd) -> std::result::Result<Vec<Vec<u8>>, Errno> {
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(dir)? {
        let name = entry?.file_name().to_bytes().to_vec();
        if name != b"." && name != b".." {
            names.push(name);
        }
    }
    Ok(names)
}

fn list(tree: &Tree, path: &[u8]) -> std::result::Result<Vec<Vec<u8>>, Errno> {
    names(&tree.open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW)?)
}

/// Reads overlay's upper directory.
fn upper_changes(upper: &OwnedFd, below: &mut Tree) -> io::Result<std::result::Result<Changes, Redirected>> {
    let mut found = Changes::new();
    let mut redirected = false;
    tree::walk::<io::Error>(upper.as_fd(), &mut |entry| {
        let stat = &entry.stat;
        let old = match below.stat(entry.path) {
            Ok(old) => Some(old),
            Err(e) if absent(e) => None,
            Err(e) => return Err(e.into()),
        };
        if kind(stat) == FileType::CharacterDevice && stat.st_rdev == 0 {
            if old.is_some() {
                found.insert(entry.path.to_vec(), Change::Deleted);
            }
            return Ok(());
        }
        let Some(old) = old else {
            found.insert(entry.path.to_vec(), Change::Added);
            return Ok(());
        };
        if !kind(stat).is_dir() {
            found.insert(entry.path.to_vec(), Change::Modified);
            return Ok(());
        }
        let dir = tree::open_child(entry.dir, entry.name, OFlags::RDONLY | OFlags::DIRECTORY)?;
        let at = tree::by_fd(&dir);
        if tree::get_xattr(&at, b"trusted.overlay.redirect")?.is_some() {
            redirected = true;
        }
        if !same_looks(stat, &old) || !same_time(stat, &old) {
            found.insert(entry.path.to_vec(), Change::Modified);
        }
        // It was removed and made anew: nothing of the old one shows.
        if kind(&old).is_dir() && tree::get_xattr(&at, b"trusted.overlay.opaque")?.as_deref() == Some(b"y") {
            let own = names(&dir)?;
            for name in list(below, entry.path)? {
                if !own.contains(&name) {
                    found.insert(join(entry.path, &name), Change::Deleted);
                }
            }
        }
        Ok(())
    })?;
    Ok(if redirected { Err(Redirected) } else { Ok(found) })
}

/// Whether an entry of a tree is as in the tree that it was made of.
fn same(entry: &tree::Entry<'_>, before: &Stat, old: &Tree) -> io::Result<bool> {
    let now = &entry.stat;
    // A snapshot of the file system itself keeps numbers and times: it is the very same file, or has been touched.
    if now.st_ino == before.st_ino {
        let touched = (now.st_ctime, now.st_ctime_nsec) != (before.st_ctime, before.st_ctime_nsec);
        if !touched || !kind(now).is_dir() {
            return Ok(!touched);
        }
    }
    let alike = same_looks(now, before)
        && (kind(now).is_dir() || (same_time(now, before) && now.st_size == before.st_size));
    if !alike {
        return Ok(false);
    }
    let flags = OFlags::PATH;
    let now = tree::open_child(entry.dir, entry.name, flags)?;
    let before = old.open(entry.path, flags | OFlags::NOFOLLOW)?;
    let sorted = |file: &OwnedFd| -> io::Result<tree::Xattrs> {
        let mut found = tree::xattrs(&tree::by_fd(file))?;
        found.sort();
        Ok(found)
    };
    Ok(sorted(&now)? == sorted(&before)?)
}

/// Compares two trees.
fn tree_changes(now: &OwnedFd, below: OwnedFd) -> io::Result<Changes> {
    let mut found = Changes::new();
    let mut new = Tree::new(tree::open_child(now.as_fd(), b".", OFlags::PATH | OFlags::DIRECTORY)?);
    let mut old = Tree::new(below);
    tree::walk::<io::Error>(now.as_fd(), &mut |entry| {
        let change = match old.stat(entry.path) {
            Err(e) if absent(e) => Some(Change::Added),
            Err(e) => return Err(e.into()),
            Ok(before) => (!same(&entry, &before, &old)?).then_some(Change::Modified),
        };
        found.extend(change.map(|change| (entry.path.to_vec(), change)));
        Ok(())
    })?;
    let root = tree::open_child(old.root(), b".", OFlags::RDONLY | OFlags::DIRECTORY)?;
    let mut gone: Vec<Vec<u8>> = Vec::new();
    tree::walk::<io::Error>(root.as_fd(), &mut |entry| {
        match new.stat(entry.path) {
            Err(e) if absent(e) => gone.push(entry.path.to_vec()),
            Err(e) => return Err(e.into()),
            Ok(_) => {}
        }
        Ok(())
    })?;
    for path in gone {
        // With a directory goes everything in it, and what became a file has no entries: the top one says it all.
        let (dir, _) = split(&path);
        let replaced = found.get(dir).is_some_and(|_| !new.stat(dir).is_ok_and(|s| kind(&s).is_dir()));
        if !replaced && found.get(dir) != Some(&Change::Deleted) && (dir.is_empty() || new.stat(dir).is_ok())
        {
            found.insert(path, Change::Deleted);
        }
    }
    Ok(found)
}

/// Takes out what only the start of the container did, and adds the directories on the way to changes.
fn tidy(mut changes: Changes, now: &mut Tree, below: &mut Tree) -> Changes {
    for path in MOUNT_POINTS.iter().rev() {
        let inside = |path: &[u8]| join(path, b"");
        let empty = |tree: &mut Tree| {
            tree.stat(path).is_ok_and(|stat| match kind(&stat) {
                FileType::RegularFile => stat.st_size == 0,
                FileType::Directory => true,
                _ => false,
            })
        };
        let beneath = inside(path);
        let has_more =
            changes.range(beneath.clone()..).next().is_some_and(|(next, _)| next.starts_with(&beneath));
        if has_more {
            continue;
        }
        let by_start = match changes.get(*path) {
            Some(Change::Added) => empty(now),
            // Only its time: something was made in it that is not told of.
            Some(Change::Modified) => match (now.stat(path), below.stat(path)) {
                (Ok(new), Ok(old)) => kind(&new).is_dir() && same_looks(&new, &old),
                _ => false,
            },
            _ => false,
        };
        if by_start {
            changes.remove(*path);
        }
    }
    let mut above: Vec<Vec<u8>> = Vec::new();
    for path in changes.keys() {
        let mut dir = split(path).0;
        while !dir.is_empty() && !changes.contains_key(dir) {
            above.push(dir.to_vec());
            dir = split(dir).0;
        }
    }
    changes.extend(above.into_iter().map(|dir| (dir, Change::Modified)));
    changes
}

impl Images {
    /// The container's files, and what of them is not as in its image.
    async fn compared(&self, container: &str) -> Result<(OwnedFd, Changes)> {
        let inner = &self.inner;
        let snapshots = self.snapshots();
        let now = snapshots.mount(container).await?;
        let (chain, upper) = snapshots.place(container).await?;
        // Against the files as they are on disk, and against the mounted ones with the owners that those show.
        let maps = snapshots.id_maps(container).await?;
        let below = match &chain {
            Some(chain) => Some((inner.view(chain).await?, inner.view_mapped(chain, &maps).await?)),
            None => None,
        };
        let upper = upper.filter(|_| inner.has_uppers());
        let roots = Arc::clone(&inner.roots);
        blocking(move || {
            let Some(((below, _pin), (shown, _pin_too))) = below else {
                return Err(Error::internal("a container without layers"));
            };
            let dir = |fd: &OwnedFd| {
                tree::open_child(fd.as_fd(), b".", OFlags::RDONLY | OFlags::DIRECTORY)
                    .map_err(io::Error::from)
            };
            let by_upper = match &upper {
                Some(upper) => upper_changes(&roots.open_dir(upper)?, &mut Tree::new(dir(&below)?))?.ok(),
                None => None,
            };
            let changes = match by_upper {
                Some(changes) => changes,
                None => tree_changes(&dir(&now)?, dir(&shown)?)?,
            };
            let changes = tidy(changes, &mut Tree::new(dir(&now)?), &mut Tree::new(dir(&shown)?));
            Ok((now, changes))
        })
        .await
    }

    /// What a container changed in its image's files.
    pub async fn changes(&self, container: &str) -> Result<Changes> {
        Ok(self.compared(container).await?.1)
    }

    /// Makes an image of a container's files as they are now.
    pub async fn commit(&self, container: &str, options: CommitOptions) -> Result<Arc<Image>> {
        let inner = &self.inner;
        // What is wrong with the request is said before anything is done.
        let name = crate::import::name(&ImportOptions {
            repository: options.repository.clone(),
            tag: options.tag.clone(),
            ..ImportOptions::default()
        })?;
        let mut config = options.config.clone();
        apply_changes(&mut config, &options.changes)?;
        let (chain, _) = self.snapshots().place(container).await?;
        let _pin = chain.as_deref().map(|chain| inner.pin(chain));
        let (now, changes) = self.compared(container).await?;
        let maps = self.snapshots().id_maps(container).await?;
        let unpacked = if changes.is_empty() {
            None
        } else {
            let target = inner.layer_target(if inner.can_rebase() { None } else { chain.as_deref() }).await?;
            let runtime = tokio::runtime::Handle::current();
            let (worker, budget) = (Arc::clone(inner), inner.budget());
            Some(
                blocking(move || worker.pack_and_unpack(&runtime, target, (now, maps), changes, &budget))
                    .await?,
            )
        };
        let _changing = inner.changing.lock().await;
        let mut index = inner.index.load().as_ref().clone();
        let diff_id = unpacked.as_ref().map(|u| u.diff_id.clone());
        if let Some(unpacked) = unpacked {
            inner.commit_layer(&mut index, chain.as_deref(), unpacked).await?;
        }
        let text = Inner::committed_config(&index, chain.as_deref(), &options, &config, diff_id);
        let made = match text {
            Ok(text) => {
                let parent = index.images.contains_key(&options.parent).then(|| options.parent.clone());
                inner.record_image(&mut index, name, text, parent).await
            }
            Err(e) => Err(e),
        };
        if made.is_err() {
            index.images.clone_from(&inner.index.load().images);
            index.forget_names(&inner.index.load());
            inner.collect_layers(&mut index).await?;
        }
        inner.index.store(Arc::new(index));
        made
    }
}

impl Inner {
    /// Writes the changes as a layer's stream on one thread and takes it apart on another.
    fn pack_and_unpack(
        &self,
        runtime: &tokio::runtime::Handle,
        target: crate::layers::Target,
        (now, maps): (OwnedFd, Vec<IdMap>),
        changes: Changes,
        budget: &crate::archive::unpack::Budget,
    ) -> Result<crate::layers::Unpacked> {
        let (input, output) = io::pipe()?;
        let packer = std::thread::Builder::new().name("commit".into()).spawn(move || {
            let mut packer = Packer::new(io::BufWriter::with_capacity(256 << 10, output));
            packer.seen_from_inside(maps);
            let mut tree = Tree::new(now);
            for (path, change) in &changes {
                if *change == Change::Deleted {
                    packer.whiteout(path, 0)?;
                    continue;
                }
                let (dir, name) = split(path);
                match tree.dir(dir) {
                    Ok(dir) => packer.add_child(path, dir.as_fd(), name)?,
                    // Gone meanwhile: the container was not paused.
                    Err(e) if absent(e) => {}
                    Err(e) => return Err(e.into()),
                }
            }
            packer.finish().map(drop)
        })?;
        let unpacked = self.unpack(runtime, target, input, budget);
        let packed: io::Result<()> =
            packer.join().unwrap_or_else(|_| Err(io::Error::other("the thread that reads the files ended")));
        match (unpacked, packed) {
            (Ok(unpacked), Ok(())) => Ok(unpacked),
            (Ok(unpacked), Err(e)) => {
                runtime.block_on(self.discard_unpacked(unpacked))?;
                Err(e.into())
            }
            // A packer whose reader went away fails for that reason alone.
            (Err(_), Err(e)) if e.kind() != io::ErrorKind::BrokenPipe => Err(e.into()),
            (Err(e), _) => Err(e),
        }
    }

    /// The new image's configuration: the old one's, one layer and one line of history longer.
    fn committed_config(
        index: &crate::record::Index,
        chain: Option<&str>,
        options: &CommitOptions,
        config: &ImageConfig,
        diff_id: Option<String>,
    ) -> Result<String> {
        let parent = index.images.get(&options.parent);
        let mut file: Value = match parent {
            Some(image) => {
                serde_json::from_str(&image.raw_config).map_err(|e| Error::internal(e.to_string()))?
            }
            None => json!({"architecture": crate::host_architecture(), "os": "linux"}),
        };
        let created = jiff::Timestamp::now().to_string();
        let mut diff_ids = Vec::new();
        let mut at = chain.map(str::to_owned);
        while let Some(id) = &at {
            let layer = Self::layer(index, id)?;
            diff_ids.push(layer.diff_id.clone());
            at.clone_from(&layer.parent);
        }
        diff_ids.reverse();
        let empty = diff_id.is_none();
        diff_ids.extend(diff_id);
        let Some(map) = file.as_object_mut() else {
            return Err(Error::internal("an image's configuration is no object"));
        };
        let mut line = json!({"created": created, "created_by": options.created_by});
        if let Some(line) = line.as_object_mut() {
            for (key, text) in [("author", &options.author), ("comment", &options.comment)] {
                map.remove(key);
                if !text.is_empty() {
                    map.insert(key.to_owned(), json!(text));
                    line.insert(key.to_owned(), json!(text));
                }
            }
            if empty {
                line.insert("empty_layer".into(), json!(true));
            }
        }
        for key in ["id", "parent"] {
            map.remove(key);
        }
        map.insert("container_config".into(), options.container_config.clone());
        map.insert("container".into(), json!(options.container));
        let mut history = map.get("history").and_then(Value::as_array).cloned().unwrap_or_default();
        history.push(line);
        map.insert("history".into(), json!(history));
        map.insert("created".into(), json!(created));
        map.insert(
            "config".into(),
            serde_json::to_value(config).map_err(|e| Error::internal(e.to_string()))?,
        );
        map.insert("rootfs".into(), json!({"type": "layers", "diff_ids": diff_ids}));
        serde_json::to_string(&file).map_err(|e| Error::internal(e.to_string()))
    }
}
