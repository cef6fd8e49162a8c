//! `restore`.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use nix::libc;
use oci_spec::runtime::Spec;
use serde::de::DeserializeOwned;
use wharf_kernel::container::{Host, Report};
use wharf_kernel::criu;
use wharf_kernel::sys::process as sys;
use wharf_plan::run::{Namespace, Restore, RunPlan};

use crate::args::RestoreArgs;
use crate::checkpoint::{self, DESCRIPTORS, OUTSIDE, Outside};
use crate::convert::{self, Converted};
use crate::create::{configuration, failure, follow, make_cgroup, open_all, pid_file, rootfs_of, streams};
use crate::hooks::{self, When};
use crate::state::{self, Entry, Status, Store};
use crate::{Doing, Error, Result, signals};

/// A file of a checkpoint that is larger than this is none of ours.
const LARGEST: u64 = 1 << 20;

/// A small file of a checkpoint.
fn read<T: DeserializeOwned>(images: &Path, name: &str) -> Result<T> {
    use std::io::Read;
    use std::os::unix::fs::OpenOptionsExt;
    let path = images.join(name);
    // Not to wait for whoever writes into a pipe.
    let open = std::fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(&path);
    let file = open
        .map_err(|e| Error(format!("{}: {e}: it is no checkpoint that this runtime made", path.display())))?;
    if !file.metadata()?.is_file() {
        return Err(Error(format!("{} is no file", path.display())));
    }
    let mut text = String::new();
    file.take(LARGEST).read_to_string(&mut text).doing(path.display())?;
    serde_json::from_str(&text).doing(path.display())
}

/// What a stream was, where this process's own can take its place.
fn replaced(word: &str) -> Option<String> {
    ["pipe:[", "socket:[", "file["].iter().any(|kind| word.starts_with(kind)).then(|| word.to_owned())
}

/// `restore`.
pub(crate) fn restore(store: &Store, args: &RestoreArgs, systemd: bool, name: &str) -> Result<u8> {
    let mut options = checkpoint::options(&args.criu)?;
    if args.lsm_mount_context.is_some() {
        return Err("--lsm-mount-context needs SELinux, which is not supported".into());
    }
    if args.console_socket.is_some() {
        return Err(
            "cannot use console socket: there are no checkpoints of containers with a terminal".into()
        );
    }
    if let Some(profile) = &args.lsm_profile {
        options.extend(["--lsm-profile".to_owned(), profile.clone()]);
    }
    let (bundle, text) = configuration(args.bundle.as_deref())?;
    let (spec, value) = state::parse(&text)?;
    let converted = convert::convert(&spec, &args.id, &bundle, systemd)?;
    checkpoint::check(&converted)?;
    hooks::check(&spec)?;
    let making = [When::Prestart, When::CreateRuntime, When::CreateContainer, When::StartContainer];
    if hooks::any(&spec, &making) {
        return Err(
            "hooks of the making of a container (prestart, create…, startContainer) are not run by a restore"
                .into(),
        );
    }
    let images = checkpoint::images(&args.criu)?;
    let outside: Outside = read(&images, OUTSIDE)?;
    let descriptors: Vec<String> = read(&images, DESCRIPTORS)?;
    let mut words = descriptors.iter().map(|word| replaced(word));
    let given = Restore {
        program: checkpoint::find(name)?.display().to_string(),
        images: images.display().to_string(),
        work: String::new(),
        external: outside.mounts,
        links: outside.links,
        places: outside.places,
        streams: std::array::from_fn(|_| words.next().flatten()),
        net: outside.net,
        options,
    };
    // From here on signals are for the container.
    let signals = if args.detach { None } else { Some(signals::Signals::block()?) };
    if signals.is_some() {
        // Else the container becomes the child of whoever called, or of the init of the machine.
        nix::sys::prctl::set_child_subreaper(true)?;
    }
    let dir = store.reserve(&args.id, &value.to_string())?;
    let made = build(store, args, &spec, converted, &bundle, &dir, given);
    let (entry, pidfd) = made.inspect_err(|_| store.discard(&args.id))?;
    if let Err(error) = hooks::run(&spec, When::Poststart, &entry.json(Status::Running)) {
        crate::manage::destroy(entry, true)?;
        return Err(error);
    }
    let Some(signals) = signals else { return Ok(0) };
    // Others may look at it and stop it meanwhile.
    drop(entry);
    let code = signals.wait(&pidfd, None)?;
    if let Ok(entry) = store.open(&args.id) {
        crate::manage::destroy(entry, true)?;
    }
    Ok(code)
}

fn build(
    store: &Store,
    args: &RestoreArgs,
    spec: &Spec,
    converted: Converted,
    bundle: &Path,
    dir: &Path,
    given: Restore,
) -> Result<(Entry, OwnedFd)> {
    let Converted { mut plan, open, own_pids, user } = converted;
    let mut fds = open_all(&mut plan, &open, &user)?;
    streams(&mut plan.process, &mut fds, 0)?;
    let work = dir.join("restore");
    let log = checkpoint::work(&args.criu, dir)?.join("restore.log");
    plan.restore = Some(Box::new(Restore { work: absolute(&work)?, ..given }));
    let host = Host::new(wharf_programs::INIT)?;
    make_cgroup(&host, &plan)?;
    let made = run(&host, &plan, &fds);
    drop(fds);
    // Kept where the caller looks for it; what was mounted only the child has seen.
    let _ = std::fs::copy(work.join("restore.log"), &log);
    let _ = std::fs::remove_dir_all(&work);
    let enter = |(pid, pidfd): (i32, OwnedFd)| -> Result<(Entry, OwnedFd)> {
        let entered = || -> Result<Entry> {
            let rootfs = rootfs_of(&open, bundle);
            let mut record = state::record(&args.id, pid, bundle.to_owned(), rootfs, spec);
            record.cgroup = plan.cgroup.as_ref().map(|cgroup| cgroup.path.clone());
            record.own_pids = own_pids;
            // It has no gate to wait at.
            std::fs::remove_file(dir.join(state::GATE))?;
            let entry = store.put(record)?;
            if let Some(path) = &args.pid_file {
                pid_file(path, pid)?;
            }
            Ok(entry)
        };
        match entered() {
            Ok(entry) => Ok((entry, pidfd)),
            Err(error) => {
                // It may have ended by itself.
                let _ = sys::pidfd_send_signal(pidfd.as_fd(), libc::SIGKILL);
                Err(error)
            }
        }
    };
    made.and_then(enter).inspect_err(|_| {
        if let (Some(cgroup), Some(cgroups)) = (&plan.cgroup, host.cgroups()) {
            // The first error is the one to report.
            let _ = cgroups.kill(&cgroup.path);
            let _ = cgroups.remove(&cgroup.path, Duration::from_secs(5));
        }
    })
}

fn absolute(path: &Path) -> Result<String> {
    Ok(std::path::absolute(path)?.display().to_string())
}

/// Has CRIU make the processes; the first of them, and a descriptor of it.
fn run(host: &Host, plan: &RunPlan, fds: &[OwnedFd]) -> Result<(i32, OwnedFd)> {
    if plan.namespaces.net == Namespace::New && plan.restore.as_ref().is_some_and(|restore| restore.net) {
        return Err("the checkpoint is one of a container whose network namespace has a path".into());
    }
    let spawned = criu::restore(host, plan, fds).map_err(|e| failure(&e))?;
    let mut pid = None;
    follow(&spawned, |report| {
        if let Report::Adopt(number) = report {
            pid = Some(*number);
        }
        Ok(())
    })?;
    let pid = pid.ok_or("criu told no process id")?;
    Ok((pid, sys::pidfd_open(pid).doing("the restored process")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_that_can_be_replaced() {
        for word in ["pipe:[7]", "socket:[8]", "file[1a:2b]"] {
            assert_eq!(replaced(word).as_deref(), Some(word));
        }
        for word in ["", "/dev/null", "/dev/pts/0", "anon_inode:[eventfd]"] {
            assert_eq!(replaced(word), None, "{word}");
        }
    }

    #[test]
    fn files_of_checkpoints_are_small_files() {
        let dir = tempfile::tempdir().unwrap();
        let said = |e: Error| e.0;
        let error = read::<Outside>(dir.path(), OUTSIDE).map_err(said).unwrap_err();
        assert!(error.contains("no checkpoint that this runtime made"), "{error}");
        nix::unistd::mkfifo(&dir.path().join(OUTSIDE), nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(read::<Outside>(dir.path(), OUTSIDE).map_err(said).unwrap_err().ends_with("is no file"));
        std::fs::write(dir.path().join(DESCRIPTORS), "[\"pipe:[1]\"").unwrap();
        assert!(read::<Vec<String>>(dir.path(), DESCRIPTORS).is_err());
        std::fs::File::create(dir.path().join(DESCRIPTORS)).unwrap().set_len(1 << 40).unwrap();
        assert!(read::<Vec<String>>(dir.path(), DESCRIPTORS).is_err());
    }
}
