//! Files in and out of containers: `GET`, `HEAD` and `PUT /containers/{id}/archive`, `export`, `changes`.
//!
//! All of it happens in a view of its own: the container's root file system with its volumes and binds as one detached
//! mount tree, the same whether it runs or not, beneath which the kernel resolves every path. What a process of the
//! container mounts, or makes of its own `/proc`, is not in it.

use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::{Semaphore, mpsc};
use wharf_images::Change;
use wharf_images::archive::decompress::decompress;
use wharf_images::archive::pack::{Packer, readable};
use wharf_images::archive::tar::Reader;
use wharf_images::archive::unpack::{Budget, Rules, Whiteouts, unpack_at};
use wharf_kernel::files::tree::Tree;
use wharf_kernel::fs::Root;
use wharf_kernel::{mount, userns};

use crate::Engine;
use crate::error::{Error, Result};
use crate::images::Body;
use crate::planner::mounts::{Kind as MountKind, clean};
use crate::planner::paths::{Asked, file_mode};
use crate::record::Status;
use crate::registry::Now;
use crate::start;

/// Archives at work at once; each has a thread for as long as its client takes.
const AT_ONCE: usize = 64;
static COPIES: Semaphore = Semaphore::const_new(AT_ONCE);

/// Bytes of one piece of an archive on its way to the client, and how many pieces may wait for it.
const PIECE: usize = 128 << 10;
const WAITING: usize = 4;
/// Links that one path may lead through.
const LINKS: u32 = 255;
/// Bytes that one upload may unpack to; the disk is the limit before.
const UNPACKED: u64 = 1 << 50;
const ENTRIES: u64 = 10_000_000;

/// A tar stream on its way to a client; an error ends it before its end marker.
pub type ArchiveStream = mpsc::Receiver<io::Result<Bytes>>;

/// What the header `X-Docker-Container-Path-Stat` has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PathStat {
    /// Last name of the path.
    pub name: String,
    /// Bytes.
    pub size: i64,
    /// Go's `FileMode`.
    pub mode: u32,
    /// RFC 3339.
    pub mtime: String,
    /// Where a link leads in the end.
    #[serde(rename = "linkTarget")]
    pub link_target: String,
}

/// Of `PUT /containers/{id}/archive`.
#[derive(Debug, Clone, Default)]
pub struct ExtractOptions {
    /// Directory to unpack into.
    pub path: String,
    /// A directory never takes the place of something else, nor something else that of a directory.
    pub keep_kinds: bool,
    /// Everything belongs to the container's user.
    pub own: bool,
}

fn missing(path: &str, container: &str) -> Error {
    Error::not_found(format!("Could not find the file {path} in container {container}"))
}

/// The failure of a look at a path that a client gave.
fn path_error(path: &str, container: &str, e: &wharf_kernel::Error) -> Error {
    match e.errno() {
        libc::ENOENT | libc::ENOTDIR => missing(path, container),
        _ => Error::internal(format!("{path} in container {container}: {e}")),
    }
}

/// Where a path leads in the end, or as far as that can be followed.
fn follow(root: &Root, path: &str) -> Result<String> {
    let mut todo: Vec<String> = path.split('/').rev().map(str::to_owned).collect();
    let mut done: Vec<String> = Vec::new();
    let mut links = 0;
    while let Some(name) = todo.pop() {
        match name.as_str() {
            "" | "." => continue,
            ".." => {
                done.pop();
                continue;
            }
            _ => done.push(name),
        }
        let Ok(target) = root.read_link(format!("/{}", done.join("/"))) else { continue };
        links += 1;
        if links > LINKS {
            return Err(Error::internal(format!("{path}: too many levels of symbolic links")));
        }
        let target = target.to_string_lossy().into_owned();
        done.pop();
        if target.starts_with('/') {
            done.clear();
        }
        todo.extend(target.split('/').rev().map(str::to_owned));
    }
    Ok(format!("/{}", done.join("/")))
}

fn stat(root: &Root, asked: &Asked, container: &str) -> Result<(PathStat, OwnedFd)> {
    let reference = root.resolve_link(&asked.path).map_err(|e| path_error(&asked.given, container, &e))?;
    let stat = wharf_kernel::fs::stat_of(reference.as_fd())?;
    let link = stat.st_mode & libc::S_IFMT == libc::S_IFLNK;
    let nanoseconds = i32::try_from(stat.st_mtime_nsec).unwrap_or(0);
    let found = PathStat {
        name: asked.base.clone(),
        size: stat.st_size,
        mode: file_mode(stat.st_mode),
        mtime: jiff::Timestamp::new(stat.st_mtime, nanoseconds)
            .map_or_else(|_| String::new(), |t| t.to_string()),
        link_target: if link { follow(root, &asked.path)? } else { String::new() },
    };
    Ok((found, reference))
}

/// Collects what is written into pieces for a client.
struct Sink {
    pieces: mpsc::Sender<io::Result<Bytes>>,
    buffer: BytesMut,
}

impl Sink {
    fn send(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let piece = self.buffer.split().freeze();
        self.pieces.blocking_send(Ok(piece)).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

impl Write for Sink {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(data);
        if self.buffer.len() >= PIECE {
            self.send()?;
        }
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.send()
    }
}

/// Writes an archive on a thread of its own for as long as somebody takes it.
async fn stream(
    pack: impl FnOnce(&mut Packer<Sink>) -> io::Result<()> + Send + 'static,
) -> Result<ArchiveStream> {
    let permit = COPIES.acquire().await.map_err(|_| Error::unavailable("the daemon is shutting down"))?;
    let (pieces, stream) = mpsc::channel(WAITING);
    tokio::task::spawn_blocking(move || {
        let _permit = permit;
        let mut packer =
            Packer::new(Sink { pieces: pieces.clone(), buffer: BytesMut::with_capacity(2 * PIECE) });
        match pack(&mut packer).and_then(|()| packer.finish()) {
            Ok(_) => {}
            // The client went away.
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => {}
            Err(error) => {
                tracing::warn!(%error, "an archive could not be written to its end");
                let _ = pieces.blocking_send(Err(error));
            }
        }
    });
    Ok(stream)
}

/// A place in a container, as `Foreign` knows it.
fn inside(now: &Now, path: &str) -> String {
    format!("{path} in container {}", now.def.id)
}

/// Runs something short that waits for files.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|e| Error::internal(format!("a worker ended: {e}")))?
}

impl Engine {
    /// A container whose files may be asked for.
    fn with_files(&self, reference: &str) -> Result<Arc<Now>> {
        let now = self.inner.registry.find(reference)?.now();
        match now.state.status {
            Status::Removing | Status::Dead => Err(Error::conflict(format!(
                "container {} is marked for removal and its files are not there any more",
                now.def.id
            ))),
            _ => Ok(now),
        }
    }

    /// A container's files as its processes see them at a start: root file system, volumes, binds, its own three files.
    async fn whole_tree(&self, now: &Now) -> Result<OwnedFd> {
        let root = self.inner.images.snapshots().mount(&now.def.id).await?;
        let mut volumes = Vec::with_capacity(now.def.mounts.len());
        for spec in &now.def.mounts {
            volumes.push(match spec.kind {
                MountKind::Volume => {
                    Some(self.volume_tree(now, spec, spec.read_only, &now.def.id_maps).await?)
                }
                MountKind::Image => Some(self.image_tree(spec, &now.def.id_maps).await?),
                MountKind::Bind | MountKind::Tmpfs => None,
            });
        }
        let def = Arc::clone(&now.def);
        let dir = self.inner.dirs.container(&def.id);
        let places: Vec<&str> =
            now.def.mounts.iter().filter(|m| m.kind == MountKind::Bind).map(|m| m.source.as_str()).collect();
        let work = move |at: &crate::foreign::At| {
            let mut parts = Vec::new();
            for (place, name) in start::OWN_FILES {
                if def.mounts.iter().any(|m| m.destination == place) {
                    continue;
                }
                // Absent ones are made by the next start.
                if let Ok(tree) = start::own_file(&dir.join(name), &def.id_maps) {
                    parts.push(mount::Part { place: PathBuf::from(place), tree, file: true });
                }
            }
            for (spec, volume) in def.mounts.iter().zip(volumes) {
                let (tree, file) = match (spec.kind, volume) {
                    (MountKind::Tmpfs, _) => continue,
                    (_, Some(tree)) => (tree, false),
                    (_, None) => {
                        at.place(&spec.source);
                        start::bind_tree(spec, &def.id_maps)?
                    }
                };
                parts.push(mount::Part { place: PathBuf::from(&spec.destination), tree, file });
            }
            Ok(userns::as_root(&def.id_maps, || mount::assemble(root, &parts))??)
        };
        self.inner.foreign.run(&places, work).await?
    }

    /// `HEAD /containers/{id}/archive`.
    pub async fn archive_stat(&self, reference: &str, path: &str) -> Result<PathStat> {
        let now = self.with_files(reference)?;
        let asked = Asked::new(path)?;
        let tree = self.whole_tree(&now).await?;
        let container = reference.to_owned();
        let place = inside(&now, path);
        self.inner.foreign.run(&[&place], move |_| Ok(stat(&Root::new(tree), &asked, &container)?.0)).await?
    }

    /// `GET /containers/{id}/archive`.
    pub async fn archive_get(&self, reference: &str, path: &str) -> Result<(PathStat, ArchiveStream)> {
        let now = self.with_files(reference)?;
        let asked = Asked::new(path)?;
        let tree = self.whole_tree(&now).await?;
        let container = reference.to_owned();
        let place = inside(&now, path);
        let look = move |_: &crate::foreign::At| -> Result<_> {
            let root = Root::new(tree);
            let (found, reference) = stat(&root, &asked, &container)?;
            Ok((found, root, reference, asked.base.into_bytes()))
        };
        let (found, root, reference, name) = self.inner.foreign.run(&[&place], look).await??;
        let ids = now.def.id_maps.clone();
        let directory = found.mode & file_mode(libc::S_IFDIR) != 0;
        let stream = stream(move |packer| {
            // Keeps the whole tree together while a part of it is read.
            let _root = root;
            packer.seen_from_inside(ids);
            packer.add(&name, &reference)?;
            if directory {
                packer.add_beneath(&name, readable(&reference)?.as_fd(), true)?;
            }
            Ok(())
        })
        .await?;
        self.container_event(&now, "archive-path", &[]);
        Ok((found, stream))
    }

    /// Whether a path may be written to at all, told in words before anything is done.
    fn check_writable(now: &Now, path: &str) -> Result<()> {
        let inside = |dir: &str| path == dir || path.strip_prefix(dir).is_some_and(|r| r.starts_with('/'));
        let mount = now.def.mounts.iter().rfind(|m| m.kind != MountKind::Tmpfs && inside(&m.destination));
        match mount {
            Some(mount) if mount.read_only => Err(Error::forbidden("mounted volume is marked read-only")),
            None if now.def.host.readonly_rootfs == Some(true) => {
                Err(Error::forbidden("container rootfs is marked read-only"))
            }
            _ => Ok(()),
        }
    }

    /// `PUT /containers/{id}/archive`.
    pub async fn archive_put(&self, reference: &str, options: ExtractOptions, body: Body) -> Result<()> {
        let now = self.with_files(reference)?;
        let asked = Asked::new(&options.path)?;
        let tree = self.whole_tree(&now).await?;
        let permit = COPIES.acquire().await.map_err(|_| Error::unavailable("the daemon is shutting down"))?;
        let (view, container) = (Arc::clone(&now), reference.to_owned());
        let input = tokio_util::io::SyncIoBridge::new(body);
        blocking(move || {
            let _permit = permit;
            let root = Root::new(tree);
            let place = clean(&asked.path);
            let stat = root.stat(&place).map_err(|e| path_error(&asked.given, &container, &e))?;
            if stat.st_mode & libc::S_IFMT != libc::S_IFDIR {
                return Err(Error::invalid("extraction point is not a directory"));
            }
            Self::check_writable(&view, &follow(&root, &place)?)?;
            let user = view.def.config.user.as_deref().unwrap_or("");
            let owner = if options.own && !user.is_empty() {
                let account = start::account(&root, user, &view.def.host)?;
                Some((account.user.uid, account.user.gid))
            } else {
                None
            };
            let rules = Rules {
                whiteouts: Whiteouts::Plain,
                owner,
                ids: &view.def.id_maps,
                keep_kinds: options.keep_kinds,
                root_meta: false,
            };
            let at = place.trim_start_matches('/').as_bytes();
            let tree = Tree::across(root.into_fd());
            // The body is read through this runtime, also on a thread of its own.
            let runtime = tokio::runtime::Handle::current();
            // Whoever makes a file in a user namespace must have a place there.
            userns::as_root(&view.def.id_maps, move || -> Result<()> {
                let _inside = runtime.enter();
                let mut reader = Reader::with_open_end(decompress(input).map_err(|e| extract_error(&e))?);
                unpack_at(&mut reader, tree, at, rules, &Budget::new(UNPACKED, ENTRIES))
                    .map_err(|e| extract_error(&e))?;
                // What follows the archive is of no interest, but the client wants it taken.
                let _ = reader.drain(1 << 20);
                Ok(())
            })?
        })
        .await?;
        self.container_event(&now, "extract-to-dir", &[]);
        Ok(())
    }

    /// `GET /containers/{id}/export`: the root file system alone.
    pub async fn container_export(&self, reference: &str) -> Result<ArchiveStream> {
        let now = self.with_files(reference)?;
        let root = self.inner.images.snapshots().mount(&now.def.id).await?;
        let ids = now.def.id_maps.clone();
        let stream = stream(move |packer| {
            packer.seen_from_inside(ids);
            packer.add_beneath(b"", readable(&root)?.as_fd(), false)
        })
        .await?;
        self.container_event(&now, "export", &[]);
        Ok(stream)
    }

    /// `GET /containers/{id}/changes`.
    pub async fn container_changes(&self, reference: &str) -> Result<Value> {
        let now = self.with_files(reference)?;
        let changes = self.inner.images.changes(&now.def.id).await?;
        let list = changes.iter().map(|(path, change)| {
            let kind = match change {
                Change::Modified => 0,
                Change::Added => 1,
                Change::Deleted => 2,
            };
            json!({"Path": format!("/{}", String::from_utf8_lossy(path)), "Kind": kind})
        });
        Ok(Value::Array(list.collect()))
    }
}

/// The failure of an upload: the archive's fault or this host's.
fn extract_error(e: &io::Error) -> Error {
    match e.kind() {
        io::ErrorKind::InvalidData
        | io::ErrorKind::InvalidInput
        | io::ErrorKind::UnexpectedEof
        | io::ErrorKind::FileTooLarge
        | io::ErrorKind::AlreadyExists => Error::invalid(e.to_string()),
        io::ErrorKind::ReadOnlyFilesystem => Error::forbidden(e.to_string()),
        _ => Error::internal(e.to_string()),
    }
}
