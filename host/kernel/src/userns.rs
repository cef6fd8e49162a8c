//! User namespaces, held by descriptor: for containers, and as the translation of idmapped mounts.

use std::collections::HashMap;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use wharf_plan::idmap;
use wharf_plan::run::Ids;
use wharf_plan::types::{IdKind, IdMap};

use crate::error::{Error, Result};
use crate::sys::mount::{self, MountAttr, attr};
use crate::sys::process::{self, CLONE_NEWNET, CLONE_NEWUSER, Side};
use crate::sys::{file, net_device};

/// Mappings kept for idmapped mounts; containers of one daemon use the same few.
const KEPT: usize = 64;

/// A user namespace and a network namespace that belongs to it, its loopback up.
#[derive(Debug)]
pub struct Pair {
    /// The user namespace.
    pub user: OwnedFd,
    /// The network namespace.
    pub net: OwnedFd,
}

/// A user namespace with these ranges. The caller may have any number of threads.
pub fn create(ids: &Ids) -> Result<OwnedFd> {
    held(CLONE_NEWUSER, None, |pid| {
        write_maps(pid, ids)?;
        namespace(pid, "user")
    })
}

/// Both at once, so that the user namespace's root rules the network namespace.
pub fn create_pair(ids: &Ids) -> Result<Pair> {
    let pair = held(CLONE_NEWUSER | CLONE_NEWNET, None, |pid| {
        write_maps(pid, ids)?;
        Ok(Pair { user: namespace(pid, "user")?, net: namespace(pid, "net")? })
    })?;
    bring_up(&pair.net)?;
    Ok(pair)
}

/// A network namespace that belongs to a user namespace (or to that of the process behind a pidfd).
pub fn network_of(user: BorrowedFd<'_>) -> Result<OwnedFd> {
    let net = held(0, Some(user), |pid| namespace(pid, "net"))?;
    bring_up(&net)?;
    Ok(net)
}

/// The ranges of a user namespace that is there.
pub fn ids_of(user: BorrowedFd<'_>) -> Result<Ids> {
    held(0, Some(user), |pid| {
        let read = |name: &str| read_map(Path::new(&format!("/proc/{pid}/{name}")));
        Ok(Ids { uids: read("uid_map")?, gids: read("gid_map")? })
    })
}

/// Reads a `uid_map` or `gid_map`.
pub fn read_map(path: &Path) -> Result<Vec<IdMap>> {
    let text = std::fs::read_to_string(path)?;
    text.lines()
        .map(|line| {
            let mut numbers = line.split_whitespace().map(str::parse);
            match (numbers.next(), numbers.next(), numbers.next()) {
                (Some(Ok(inside)), Some(Ok(outside)), Some(Ok(size))) => {
                    Ok(IdMap { inside, outside, size, kind: IdKind::Both })
                }
                _ => Err(Error::refused(path.display().to_string(), libc::EINVAL, "not a map of ids")),
            }
        })
        .collect()
}

fn bring_up(net: &OwnedFd) -> Result<()> {
    crate::netns::within(|| {
        process::setns(net.as_fd(), CLONE_NEWNET)?;
        net_device::loopback_up()
    })
}

fn namespace(pid: i32, kind: &str) -> Result<OwnedFd> {
    file::openat(None, &file::cstring(format!("/proc/{pid}/ns/{kind}"))?, libc::O_RDONLY, 0)
}

fn write_maps(pid: i32, ids: &Ids) -> Result<()> {
    for (kind, maps) in [("uid_map", &ids.uids), ("gid_map", &ids.gids)] {
        let path = file::cstring(format!("/proc/{pid}/{kind}"))?;
        let lines = idmap::lines(maps);
        file::openat(None, &path, libc::O_WRONLY, 0)
            .and_then(|f| file::write_once(f.as_fd(), lines.as_bytes()))
            .map_err(|e| {
                e.note(format!("the {kind} of a user namespace: {}", lines.trim_end().replace('\n', ", ")))
            })?;
    }
    Ok(())
}

/// Namespaces are made by a process in them, which lives until `take` has what it wants. The child calls nothing but the
/// kernel, so that it may be forked from a process with threads.
fn held<T>(flags: u64, join: Option<BorrowedFd<'_>>, take: impl FnOnce(i32) -> Result<T>) -> Result<T> {
    let pipe =
        || nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).map_err(|e| Error::new("pipe2()", e as i32));
    let ((hold, release), (told, tell)) = (pipe()?, pipe()?);
    match process::clone_process(flags, None)? {
        Side::Child => {
            drop(release);
            drop(told);
            // Above all the pipes of a child that another thread makes just now: two that hold each other's never end.
            let mut keep = [
                hold.as_raw_fd(),
                tell.as_raw_fd(),
                join.map_or_else(|| hold.as_raw_fd(), |user| user.as_raw_fd()),
            ];
            keep.sort_unstable();
            let _ = process::close_all_but(&keep);
            let ready = match join {
                Some(user) => process::setns(user, CLONE_NEWUSER)
                    .and_then(|()| process::unshare(CLONE_NEWNET))
                    .map_or_else(|e| u8::try_from(e.errno()).unwrap_or(u8::MAX), |()| 0),
                None => 0,
            };
            let mut byte = [ready];
            // Whoever waits for it sees the end of the pipe where this fails.
            let _ = nix::unistd::write(&tell, &byte);
            // Ends when the parent lets go, also by dying.
            let _ = nix::unistd::read(&hold, &mut byte);
            process::exit(0);
        }
        Side::Parent(pid, pidfd) => {
            drop(tell);
            let mut byte = [u8::MAX];
            let result = match nix::unistd::read(&told, &mut byte) {
                Ok(1) if byte == [0] => take(pid),
                Ok(1) => Err(Error::refused("setns, unshare", byte[0].into(), "entering a user namespace")),
                _ => {
                    Err(Error::refused("clone3", libc::ECHILD, "the process of a user namespace ended early"))
                }
            };
            drop(release);
            // The child ends at once; its status must be taken or it stays as a zombie.
            while let Ok(None) = process::wait_child(pidfd.as_fd()) {
                let mut polls = [nix::poll::PollFd::new(pidfd.as_fd(), nix::poll::PollFlags::POLLIN)];
                let _ = nix::poll::poll(&mut polls, nix::poll::PollTimeout::NONE);
            }
            result
        }
    }
}

/// A user namespace to map mounts by; the same one for the same ranges.
fn for_mounts(ids: &Ids) -> Result<Arc<OwnedFd>> {
    static CACHE: OnceLock<Mutex<HashMap<String, Arc<OwnedFd>>>> = OnceLock::new();
    let key = format!("{}/{}", idmap::lines(&ids.uids), idmap::lines(&ids.gids));
    let cache = CACHE.get_or_init(Mutex::default);
    let lock = || cache.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = lock().get(&key) {
        return Ok(Arc::clone(known));
    }
    let made = Arc::new(create(ids)?);
    let mut cache = lock();
    if cache.len() >= KEPT {
        cache.clear();
    }
    cache.insert(key, Arc::clone(&made));
    Ok(made)
}

/// Translates the ids of a detached tree: what is `inside` on disk is `outside` for who looks through it. An empty map does
/// nothing. `recursive` does it to the mounts below as well, all or none.
pub fn map_mount(tree: BorrowedFd<'_>, maps: &[IdMap], recursive: bool) -> Result<()> {
    if maps.is_empty() { Ok(()) } else { map_mount_by(tree, &Ids::of(maps), recursive) }
}

/// As [`map_mount`], with ranges of users and groups that may differ.
pub fn map_mount_by(tree: BorrowedFd<'_>, ids: &Ids, recursive: bool) -> Result<()> {
    let user = for_mounts(ids)?;
    #[allow(clippy::cast_sign_loss, reason = "descriptors are not negative")]
    let userns_fd = user.as_raw_fd() as u64;
    let change = MountAttr { set: attr::IDMAP, userns_fd, ..MountAttr::default() };
    mount::mount_setattr(tree, recursive, &change).map_err(|e| {
        if e.is(libc::EINVAL) || e.is(libc::EPERM) {
            #[allow(clippy::unnecessary_cast, reason = "the field's type differs between architectures")]
            let magic = file::fstatfs(tree).map(|s| s.f_type as libc::c_long);
            let kind = magic.map(filesystem_name).unwrap_or_default();
            e.note(format!(
                "its file system{kind} has no idmapped mounts on this kernel, which a container in a user namespace \
                 needs; put it on ext4, xfs, btrfs or tmpfs, or run the container with --userns host"
            ))
        } else {
            e
        }
    })
}

/// The common ones that cannot be mapped, by name.
fn filesystem_name(magic: libc::c_long) -> String {
    let name = match magic {
        0x794c_7630 => "overlay",
        0x6969 => "nfs",
        0xff53_4d42 => "cifs",
        0x6573_5546 => "fuse",
        0x0102_1997 => "9p",
        0x9fa0 => "proc",
        0x6265_6572 => "sysfs",
        0x0027_e0eb => "cgroup",
        0x6367_7270 => "cgroup2",
        other => return format!(" (type {other:#x})"),
    };
    format!(" ({name})")
}

/// Runs `work` on a fresh thread whose files are those of a user namespace's root, with all of this process's capabilities:
/// what it makes through mapped mounts belongs to that root, and nothing is closed to it. An empty map runs it right here.
pub fn as_root<T: Send>(maps: &[IdMap], work: impl FnOnce() -> T + Send) -> Result<T> {
    if maps.is_empty() {
        return Ok(work());
    }
    let root = |kind| idmap::outside(maps, kind, 0);
    let Some((uid, gid)) = root(IdKind::Users).zip(root(IdKind::Groups)) else {
        return Err(Error::refused("setfsuid", libc::EINVAL, "the map has no place for id 0"));
    };
    std::thread::scope(|scope| {
        let run = move || {
            process::keep_capabilities_of_files()?;
            process::set_file_ids(uid, gid)?;
            Ok(work())
        };
        let thread = std::thread::Builder::new()
            .name("mapped".into())
            .spawn_scoped(scope, run)
            .map_err(Error::from)?;
        thread.join().map_err(|_| Error::refused("thread", libc::EIO, "the thread panicked"))?
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    fn maps() -> Vec<IdMap> {
        vec![
            IdMap { inside: 0, outside: 300_000, size: 1000, kind: IdKind::Both },
            IdMap { inside: 1000, outside: 400_000, size: 10, kind: IdKind::Both },
        ]
    }

    /// Each child ends when its pipe is closed, of which the children of other threads must have no copy.
    #[test]
    fn many_at_once_do_not_hold_each_other() {
        let makers: Vec<_> = (0..8)
            .map(|_| std::thread::spawn(|| (0..20).all(|_| create_pair(&Ids::of(&maps())).is_ok())))
            .collect();
        assert!(makers.into_iter().all(|maker| maker.join().unwrap()));
    }

    #[test]
    fn a_network_belongs_to_its_user_namespace() {
        let pair = create_pair(&Ids::of(&maps())).unwrap();
        let more = network_of(pair.user.as_fd()).unwrap();
        // NS_GET_USERNS of the network namespace is the user namespace.
        for net in [&pair.net, &more] {
            let owner = process::owner_of(net.as_fd()).unwrap();
            let ino = |fd: &OwnedFd| file::fstatat(fd.as_fd(), c"").unwrap().st_ino;
            assert_eq!(ino(&owner), ino(&pair.user));
        }
        assert_eq!(ids_of(pair.user.as_fd()).unwrap(), Ids::of(&maps()));
        let up = crate::netns::within(|| {
            process::setns(more.as_fd(), CLONE_NEWNET)?;
            let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
            Ok(std::net::TcpStream::connect(listener.local_addr()?).is_ok())
        });
        assert!(up.unwrap());
    }

    #[test]
    fn maps_that_the_kernel_refuses_are_named() {
        let twice =
            [(0, 5), (1, 9)].map(|(inside, outside)| IdMap { inside, outside, size: 2, kind: IdKind::Both });
        let error = create(&Ids::of(&twice)).unwrap_err();
        assert!(error.to_string().contains("0 5 2, 1 9 2"), "{error}");
    }

    #[test]
    fn a_thread_makes_files_as_the_mapped_root_and_only_that_thread() {
        let dir = tempfile::tempdir().unwrap();
        let theirs = dir.path().join("theirs");
        std::fs::create_dir(&theirs).unwrap();
        std::os::unix::fs::chown(&theirs, Some(7), Some(7)).unwrap();
        std::fs::set_permissions(&theirs, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
        as_root(&maps(), || {
            std::fs::write(theirs.join("f"), "x").unwrap();
            std::os::unix::fs::chown(theirs.join("f"), None, Some(400_001)).unwrap();
        })
        .unwrap();
        let made = std::fs::metadata(theirs.join("f")).unwrap();
        assert_eq!((made.uid(), made.gid()), (300_000, 400_001));
        std::fs::write(dir.path().join("own"), "x").unwrap();
        assert_eq!(std::fs::metadata(dir.path().join("own")).unwrap().uid(), 0);
    }

    #[test]
    fn what_cannot_be_mapped_says_so() {
        let tree = crate::mount::filesystem("proc", &[], crate::mount::Flags::default()).unwrap();
        let error = map_mount(tree.as_fd(), &maps(), false).unwrap_err().to_string();
        assert!(
            error.contains("(proc) has no idmapped mounts") && error.contains("--userns host"),
            "{error}"
        );
    }
}
