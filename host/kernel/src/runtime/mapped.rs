//! Containers of other runtimes in a user namespace: the way to the bundle, the owner of streams, and the proof that the
//! namespace is the one that was planned.

use std::fs::DirBuilder;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use wharf_plan::idmap;
use wharf_plan::run::{Ids, Process, RunPlan, Runtime, namespace_place};
use wharf_plan::types::IdKind;

use super::about;
use super::bundle::{attach_to, descriptor, directory};
use crate::mount::{self, Flags};

/// Everybody may pass, nobody may list.
const PASSAGE: u32 = 0o711;

/// The outermost directory above `path` that strangers may not pass.
fn closed_above(path: &Path) -> Option<PathBuf> {
    let mut above: Vec<&Path> = path.ancestors().skip(1).collect();
    above.reverse();
    let closed = |dir: &&Path| std::fs::metadata(dir).is_ok_and(|meta| meta.mode() & 0o001 == 0);
    above.into_iter().find(closed).map(Path::to_path_buf)
}

/// Makes the way to the bundle passable for the root of a user namespace, which is a stranger on the host. To be called in a
/// mount namespace of one's own: in that one alone a closed directory is replaced by an empty one, which has nothing but the
/// bundle and what the runtime needs of its own.
pub(super) fn open_way(runtime: &Runtime) -> Result<(), String> {
    let bundle = Path::new(&runtime.bundle);
    for name in ["", "trees", "namespaces"] {
        let dir = bundle.join(name);
        std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(PASSAGE))
            .map_err(|e| format!("opening {}: {e}", dir.display()))?;
    }
    let Some(closed) = closed_above(bundle) else { return Ok(()) };
    let mut kept = vec![bundle];
    if !runtime.root.is_empty() {
        directory(Path::new(&runtime.root))?;
        kept.push(Path::new(&runtime.root));
    }
    kept.extend(Path::new(&runtime.program).parent());
    let mut trees = Vec::new();
    for path in kept.into_iter().filter(|path| path.starts_with(&closed)) {
        trees.push((path, mount::bind_path(path, true).map_err(about(path.display()))?));
    }
    let empty =
        mount::tmpfs(&["mode=711", "size=64k"], Flags { no_suid: true, no_dev: true, ..Flags::default() })
            .map_err(about("an empty directory"))?;
    attach_to(empty.as_fd(), &closed)?;
    for (path, tree) in trees {
        DirBuilder::new()
            .recursive(true)
            .mode(PASSAGE)
            .create(path)
            .map_err(|e| format!("cannot make {}: {e}", path.display()))?;
        attach_to(tree.as_fd(), path)?;
    }
    Ok(())
}

/// Makes the standard streams the process's own, so that it can open them again by their names.
pub(super) fn own_streams(planned: &Process, ids: &Ids, fds: &[OwnedFd]) -> Result<(), String> {
    let uid = idmap::outside(&ids.uids, IdKind::Users, planned.user.uid).unwrap_or(idmap::NOBODY);
    for number in planned.stdio.iter().flatten() {
        crate::container::own(descriptor(fds, *number)?, uid)
            .map_err(about("owning the standard streams"))?;
    }
    Ok(())
}

/// Whether the process that a runtime made is in the user namespace of the plan, by its mount in the bundle. It is asked before
/// the program runs: a runtime that does not know user namespaces, or leaves them to a machine of its own, would have made it
/// the host's root. To be called in the mount namespace of [`open_bundle`](super::open_bundle).
pub fn check_user(plan: &RunPlan, runtime: &Runtime, pid: i32) -> Result<(), String> {
    if plan.user.is_none() {
        return Ok(());
    }
    let identity = |path: &Path| std::fs::metadata(path).map(|meta| (meta.dev(), meta.ino()));
    let planned = Path::new(&runtime.bundle).join(namespace_place("user"));
    let planned = identity(&planned).map_err(|e| format!("the user namespace of the bundle: {e}"))?;
    let found = identity(Path::new(&format!("/proc/{pid}/ns/user")));
    if found.is_ok_and(|found| found == planned) {
        return Ok(());
    }
    Err(format!(
        "runtime {} made the container without the user namespace that it is to have, so it was not started; runc 1.1 and \
         crun 1.8 or newer make it, or run the container with --userns=host",
        runtime.name
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use wharf_plan::run::UserNamespace;

    #[test]
    fn the_outermost_closed_directory() {
        let top = tempfile::tempdir().unwrap();
        let mode = |path: &Path, mode| {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        mode(top.path(), 0o711);
        let (a, b) = (top.path().join("a"), top.path().join("a/b"));
        std::fs::create_dir_all(b.join("c")).unwrap();
        mode(&b, 0o700);
        assert_eq!(closed_above(&b.join("c")), Some(b.clone()));
        // The last one itself is not above itself.
        assert_eq!(closed_above(&b), None);
        mode(&a, 0o750);
        assert_eq!(closed_above(&b.join("c")), Some(a));
    }

    #[test]
    fn a_process_elsewhere_is_found_out() {
        let bundle = tempfile::tempdir().unwrap();
        let runtime = Runtime {
            name: "lazy".into(),
            bundle: bundle.path().display().to_string(),
            ..Runtime::default()
        };
        let plan =
            RunPlan { user: Some(UserNamespace { namespace: 0, ids: Ids::default() }), ..RunPlan::default() };
        let own = crate::sys::process::own_pid();
        // Nothing to compare with is no reason to go on.
        assert!(check_user(&plan, &runtime, own).unwrap_err().contains("the user namespace of the bundle"));
        std::fs::create_dir(bundle.path().join("namespaces")).unwrap();
        let place = bundle.path().join(namespace_place("user"));
        std::os::unix::fs::symlink("/proc/self/ns/user", &place).unwrap();
        assert_eq!(check_user(&plan, &runtime, own), Ok(()));
        std::fs::remove_file(&place).unwrap();
        std::os::unix::fs::symlink("/proc/self/ns/mnt", &place).unwrap();
        let error = check_user(&plan, &runtime, own).unwrap_err();
        assert!(error.contains("runtime lazy made the container without the user namespace"), "{error}");
        assert!(check_user(&plan, &runtime, -1).is_err());
        assert_eq!(check_user(&RunPlan::default(), &runtime, own), Ok(()));
    }
}
