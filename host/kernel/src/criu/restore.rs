//! Going on from a checkpoint: the keeper's child puts the plan's mounts where CRIU finds them, joins the cgroup and
//! calls CRIU; what CRIU makes becomes the keeper's child.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use wharf_plan::run::{Namespace, ROOTFS_PLACE, Restore, RunPlan, Stage, StartError, tree_place};

use super::mounts::{Stand, below, stand};
use super::{NET, command, finish};
use crate::container::{Host, Spawned, conduct, join_cgroup};
use crate::runtime::bundle::{attach, descriptor, directory, trees};
use crate::runtime::conduct::{failed, prepare};
use crate::sys::file::{self, RESOLVE_BENEATH, RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS};
use crate::sys::{mount, process as sys};

/// Reading the memory of a large container takes its time.
const PATIENCE: std::time::Duration = std::time::Duration::from_mins(10);
const LOG: &str = "restore.log";
const PID: &str = "pid";
/// Descriptors that CRIU inherits have numbers from here on, where none of its own are.
const FIRST: i32 = 100;

/// Starts a container by its plan from a checkpoint. The process that comes back is the one that calls CRIU; the
/// container's own follows as [`Report::Adopt`](crate::container::Report::Adopt).
///
/// The caller must be single-threaded, and a subreaper, or it will not become the container's parent.
pub fn restore(host: &Host, plan: &RunPlan, fds: &[OwnedFd]) -> Result<Spawned, StartError> {
    let given = usable(plan)?;
    conduct(host, fds, |conductor| {
        prepare(host)?;
        let work = Path::new(&given.work);
        for name in ["", "trees"] {
            directory(&work.join(name)).map_err(failed)?;
        }
        let root = work.join(ROOTFS_PLACE);
        attach(descriptor(fds, plan.rootfs).map_err(failed)?, &root).map_err(failed)?;
        trees(plan, fds, work).map_err(failed)?;
        if let Namespace::Join(number) = plan.namespaces.ipc {
            join_ipc(descriptor(fds, number).map_err(failed)?).map_err(failed)?;
        }
        let program = Path::new(&given.program);
        let mut command = command(program, "restore", Path::new(&given.images), work, LOG, &given.options);
        command.arg("--root").arg(&root).args(["--restore-detached", "--pidfile"]).arg(work.join(PID));
        check_places(&root, plan, given, work).map_err(failed)?;
        for (number, path) in given.external.iter().enumerate() {
            let place = place(host, plan, given, work, path, number).map_err(failed)?;
            command.arg("--external").arg(format!("mnt[{path}]:{}", place.display()));
        }
        if let Some(profile) = &plan.process.apparmor {
            check_profile(profile)?;
            command.args(["--lsm-profile", &format!("apparmor:{profile}")]);
        }
        let inherited = inherit(&mut command, plan, given, fds).map_err(failed)?;
        // From here on what CRIU needs counts as the container's, as with other runtimes.
        join_cgroup(host, plan)?;
        let done = finish(command, PATIENCE, &work.join(LOG));
        drop(inherited);
        done.map_err(|why| failed(format!("criu failed: {}", why.text())))?;
        let pid = std::fs::read_to_string(work.join(PID)).ok().and_then(|text| text.trim().parse().ok());
        let pid: i32 = pid.filter(|pid| *pid > 0).ok_or_else(|| failed("criu told no process id"))?;
        conductor.adopt(pid).map_err(|e| failed(e.to_string()))
    })
}

/// What a checkpoint can be restored into.
fn usable(plan: &RunPlan) -> Result<&Restore, StartError> {
    let refuse = |what: &str| StartError { stage: Stage::Request, errno: libc::EINVAL, what: what.into() };
    let given = plan.restore.as_deref().ok_or_else(|| refuse("the plan names no checkpoint"))?;
    if [&given.program, &given.images, &given.work].iter().any(|path| !path.starts_with('/')) {
        return Err(refuse("CRIU and the directories of a checkpoint are named by absolute paths"));
    }
    if plan.user.is_some() || matches!(plan.namespaces.pid, Namespace::Join(_)) {
        return Err(refuse(
            "a container goes on in the host's user namespace, and in the host's pid namespace or one of its own",
        ));
    }
    if given.net != matches!(plan.namespaces.net, Namespace::Join(_)) {
        return Err(refuse("the checkpoint is one of a container with another kind of network"));
    }
    Ok(given)
}

/// CRIU that is told of a profile which nobody has loaded never comes back.
fn check_profile(profile: &str) -> Result<(), StartError> {
    match crate::apparmor::is_loaded(profile) {
        Ok(false) => Err(StartError {
            stage: Stage::Security,
            errno: libc::ENOENT,
            what: format!("the AppArmor profile {profile:?}"),
        }),
        // What cannot be asked will be told by CRIU.
        Ok(true) | Err(_) => Ok(()),
    }
}

/// Goes where the container's IPC namespace is another's: CRIU leaves its processes in its own.
fn join_ipc(namespace: BorrowedFd<'_>) -> Result<(), String> {
    sys::setns(namespace, sys::CLONE_NEWIPC).map_err(|e| format!("joining the IPC namespace: {e}"))
}

/// CRIU mounts by path, outside of the container's root: a link that somebody put there since would lead it to the host.
fn check_places(root: &Path, plan: &RunPlan, given: &Restore, work: &Path) -> Result<(), String> {
    let all: Vec<&str> = given.external.iter().chain(&given.places).map(String::as_str).collect();
    for path in &all {
        let checked = match below(&all, path) {
            None => no_links(root, path),
            Some((outer, rest)) => match stand(plan, &given.links, outer) {
                Ok(Stand::Tree(tree, inside)) => {
                    no_links(&work.join(tree_place(tree)), &format!("{inside}/{rest}"))
                }
                // A file system that CRIU makes, and what is in it.
                _ => Ok(()),
            },
        };
        checked.map_err(|e| format!("the place for a mount at {path}: {e}"))?;
    }
    Ok(())
}

fn no_links(root: &Path, path: &str) -> Result<(), String> {
    match beneath(&open_dir(root)?, path.trim_start_matches('/')) {
        // Made by CRIU.
        Err(e) if e.is_not_found() || e.is(libc::ENOTDIR) => Ok(()),
        Err(e) => Err(e.to_string()),
        Ok(_) => Ok(()),
    }
}

fn open_dir(path: &Path) -> Result<OwnedFd, String> {
    use std::os::unix::ffi::OsStrExt;
    file::cstring(path.as_os_str().as_bytes())
        .and_then(|name| file::openat(None, &name, libc::O_PATH, 0))
        .map_err(|e| format!("{}: {e}", path.display()))
}

fn beneath(root: &OwnedFd, path: &str) -> crate::Result<OwnedFd> {
    let resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS;
    file::openat2(root.as_fd(), &file::cstring(path)?, libc::O_PATH, 0, resolve)
}

/// Where CRIU finds what stands for a mount; `number` is the mount's own.
fn place(
    host: &Host,
    plan: &RunPlan,
    given: &Restore,
    work: &Path,
    path: &str,
    number: usize,
) -> Result<PathBuf, String> {
    match stand(plan, &given.links, path)? {
        Stand::Tree(tree, rest) if rest.is_empty() => Ok(work.join(tree_place(tree))),
        Stand::Tree(tree, rest) => {
            let copy = beneath(&open_dir(&work.join(tree_place(tree)))?, &rest)
                .and_then(|place| mount::open_tree(Some(place.as_fd()), c"", mount::OPEN_TREE_CLONE))
                .map_err(|e| format!("the mount at {path}: {e}"))?;
            let place = work.join("trees").join(format!("below-{number}"));
            attach(copy.as_fd(), &place)?;
            Ok(place)
        }
        Stand::Null => Ok("/dev/null".into()),
        Stand::Cgroup(name) => {
            use std::os::unix::ffi::OsStrExt;
            let hierarchies = host.cgroups().map_or(&[][..], |cgroups| cgroups.hierarchies());
            let found = hierarchies.iter().find(|h| h.directory().to_bytes() == name.as_bytes());
            let found = found.ok_or_else(|| format!("this machine has no {name} cgroups any more"))?;
            let top = Path::new(std::ffi::OsStr::from_bytes(found.path().to_bytes()));
            let own = plan.cgroup.as_ref().map_or("", |cgroup| cgroup.path.trim_start_matches('/'));
            let own = top.join(own);
            // A hierarchy in which the container has no cgroup of its own is shown as a whole, as it is at other starts.
            Ok(if own.is_dir() { own } else { top.to_owned() })
        }
    }
}

/// Copies of the descriptors that CRIU shall have, and their meaning on its command line.
fn inherit(
    command: &mut std::process::Command,
    plan: &RunPlan,
    given: &Restore,
    fds: &[OwnedFd],
) -> Result<Vec<OwnedFd>, String> {
    let mut copies = Vec::new();
    let mut hand = |number: u32, name: &str| -> Result<(), String> {
        let copy = sys::dup_above(descriptor(fds, number)?, FIRST).map_err(|e| e.to_string())?;
        sys::set_cloexec(copy.as_fd(), false).map_err(|e| e.to_string())?;
        command.arg("--inherit-fd").arg(format!("fd[{}]:{name}", copy.as_raw_fd()));
        copies.push(copy);
        Ok(())
    };
    for (was, stream) in given.streams.iter().zip(plan.process.stdio) {
        if let (Some(was), Some(number)) = (was, stream) {
            hand(number, was)?;
        }
    }
    if let Namespace::Join(number) = plan.namespaces.net {
        hand(number, NET)?;
    }
    Ok(copies)
}
