//! Checkpoints of containers that this engine itself runs, made and restored by CRIU; what is left to it is said in
//! `wharf_kernel::criu`.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use wharf_kernel::criu::After;
use wharf_kernel::sys::process;
use wharf_kernel::{criu, program};
use wharf_plan::net::Cidr;
use wharf_plan::run::{INIT_PLACE, Restore};

use crate::Engine;
use crate::checkpoint::{self, PATIENCE};
use crate::error::{Error, Result};
use crate::planner::modes::{Ipc, Mode, NetworkMode};
use crate::planner::mounts;
use crate::planner::run::Blueprint;
use crate::record::{Definition, State};
use crate::registry::Now;
use crate::start::OWN_FILES;

/// What a checkpoint has not itself, but finds in the container that is restored.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Outside {
    /// Paths inside where mounts from outside were.
    mounts: Vec<String>,
    /// Where mounts really were whose paths lead through links, and their paths.
    links: Vec<(String, String)>,
    /// Paths inside of all mounts.
    places: Vec<String>,
    /// Addresses that its connections had.
    addresses: Vec<Cidr>,
    /// Inodes of the pipes that the standard streams were.
    pipes: [Option<u64>; 3],
    /// A network namespace, other than the host's.
    net: bool,
}

fn not_possible(why: &str) -> Error {
    Error::internal(format!("checkpoints of such a container are not possible: {why}"))
}

/// Refuses containers with a user namespace, whatever their runtime.
pub(crate) fn check_user(def: &Definition) -> Result<()> {
    if def.id_maps.is_empty() {
        return Ok(());
    }
    Err(not_possible(
        "it has a user namespace (--userns), and CRIU makes another one, to which its network would not belong",
    ))
}

/// Refuses containers of which CRIU could not make what they are. The status is that of dockerd, whose runtime fails.
fn check_whole(def: &Definition, b: &Blueprint) -> Result<()> {
    check_user(def)?;
    match b.pid {
        Mode::Container(_) => Err(not_possible(
            "it is in another container's pid namespace (--pid container), and CRIU makes processes in its own or a new one only",
        )),
        Mode::Private | Mode::Host => Ok(()),
    }
}

/// The paths at which trees from outside are mounted.
fn given<'a>(def: &'a Definition, b: &Blueprint) -> Vec<&'a str> {
    let trees = def.mounts.iter().filter(|spec| spec.kind != mounts::Kind::Tmpfs);
    let mut given: Vec<&str> = trees.map(|spec| spec.destination.as_str()).collect();
    given.extend(OWN_FILES.map(|(target, _)| target));
    if let Ipc::Host | Ipc::Container(_) = b.ipc {
        given.push("/dev/shm");
    }
    if b.init {
        given.push(INIT_PLACE.1);
    }
    given
}

/// A container as it is while it is saved.
struct Running {
    now: Now,
    /// What the keeper holds of it.
    held: Vec<(String, OwnedFd)>,
    addresses: Vec<Cidr>,
}

/// Looks at the process, and has its state written. Blocks.
fn dump(
    program: &Path,
    image: &Path,
    running: Running,
    leave_running: bool,
) -> std::result::Result<Outside, String> {
    let Running { now, held, addresses } = running;
    let pid = now.state.pid;
    let find = |name: &str| held.iter().find(|(held, _)| held == name).map(|(_, fd)| fd);
    let criu::Found { mounts, links, places } = criu::look(pid, &given(&now.def, &now.blueprint))?;
    let namespace = |kind: &str| {
        let file = std::fs::File::open(format!("/proc/{pid}/ns/{kind}"));
        file.map_err(|e| format!("its {kind} namespace: {e}"))
    };
    let net = match now.blueprint.network {
        NetworkMode::Host => None,
        _ => Some(namespace("net")?.metadata().map_err(|e| e.to_string())?.ino()),
    };
    let ipc = match now.blueprint.ipc {
        Ipc::Container(_) => Some(OwnedFd::from(namespace("ipc")?)),
        _ => None,
    };
    let inode =
        |name: &str| find(name).and_then(|fd| std::fs::File::from(fd.try_clone().ok()?).metadata().ok());
    let pipes = ["stdin", "stdout", "stderr"].map(|name| inode(name).map(|meta| meta.ino()));
    let work = image.join("criu.work");
    std::fs::create_dir(&work).map_err(|e| format!("{}: {e}", work.display()))?;
    if find("pidfd").and_then(|pidfd| process::pid_of(pidfd.as_fd())) != Some(pid) {
        return Err("its first process has ended".into());
    }
    // In the host's own network namespace CRIU would filter the host's packets meanwhile.
    let options = options(net.map(|_| criu::TCP_ESTABLISHED));
    let asked = criu::Dump {
        program,
        images: image,
        work: &work,
        pid,
        external: &mounts,
        net,
        ipc: ipc.as_ref(),
        after: if leave_running { After::Run } else { After::End },
        options: &options,
    };
    criu::dump(&asked, PATIENCE).map_err(|why| match criu::check(program) {
        Ok(()) => format!("criu failed: {why}"),
        Err(check) => format!("criu does not work on this machine (criu check: {check}): {why}"),
    })?;
    Ok(Outside { mounts, links, places, addresses, pipes, net: net.is_some() })
}

/// What CRIU is told at both ends.
fn options(tcp: Option<&str>) -> Vec<String> {
    [criu::FILE_LOCKS, criu::LINK_REMAP].into_iter().chain(tcp).map(str::to_owned).collect()
}

/// Connections go on if they lead to where they did; else programs find them closed, as after a pulled cable.
fn connections(outside: &Outside, addresses: &[Cidr]) -> Option<&'static str> {
    let same = outside.addresses == addresses;
    outside.net.then_some(if same { criu::TCP_ESTABLISHED } else { criu::TCP_CLOSE })
}

impl Engine {
    /// CRIU, or Docker's text of a program that is not there.
    fn criu_program(&self) -> Result<PathBuf> {
        let name = self.inner.settings().criu.clone();
        program::find(&name).ok_or_else(|| {
            Error::internal(format!(
                "exec: {name:?}: executable file not found in $PATH: checkpoints need CRIU (Debian package criu, or --criu with \
                 its path)"
            ))
        })
    }

    /// Whether a container of this engine can have checkpoints here.
    pub(crate) fn check_criu(&self, now: &Now) -> Result<()> {
        check_whole(&now.def, &now.blueprint)?;
        self.criu_program().map(drop)
    }

    /// Writes the state of a running container's processes into the directory, which is empty. The error is a text.
    pub(crate) async fn criu_dump(
        &self,
        now: &Now,
        image: PathBuf,
        leave_running: bool,
    ) -> Result<std::result::Result<Outside, String>> {
        let program = self.criu_program()?;
        let held = self.inner.keeper.fetch(&now.def.id).await?;
        let addresses = self.addresses(&now.blueprint, &now.state);
        let running = Running { now: now.clone(), held, addresses };
        self.inner.pool.run(move || dump(&program, &image, running, leave_running)).await
    }

    /// Addresses in a container's network namespace, which may be another's.
    fn addresses(&self, b: &Blueprint, state: &State) -> Vec<Cidr> {
        let of = |state: &State| state.endpoints.values().flat_map(|e| e.addresses.iter().cloned()).collect();
        match &b.network {
            NetworkMode::Container(other) => {
                self.inner.registry.find(other).map(|other| of(&other.now().state)).unwrap_or_default()
            }
            NetworkMode::None | NetworkMode::Host | NetworkMode::Network(_) => of(state),
        }
    }

    /// Directory for what a restore mounts.
    fn restores(&self) -> PathBuf {
        self.inner.settings().exec_root.join("restore")
    }

    /// What the keeper is told of the checkpoint in `image`.
    pub(crate) async fn restore_plan(&self, now: &Now, state: &State, image: &Path) -> Result<Restore> {
        let program = self.criu_program()?;
        let (dir, work) = (image.to_owned(), self.restores().join(&now.def.id));
        let old = work.clone();
        let outside = self.inner.pool.run(move || {
            // Of a restore during which the daemon died: CRIU writes to no file that is there.
            let _ = std::fs::remove_dir_all(old);
            checkpoint::outside(&dir)
        });
        let outside = outside.await??;
        let tcp = connections(&outside, &self.addresses(&now.blueprint, state));
        Ok(Restore {
            program: program.display().to_string(),
            images: image.display().to_string(),
            work: work.display().to_string(),
            external: outside.mounts,
            links: outside.links,
            places: outside.places,
            streams: outside.pipes.map(|inode| Some(format!("pipe:[{}]", inode?))),
            net: outside.net,
            options: options(tcp),
        })
    }

    /// Removes what is left of restores and of checkpoints that were not made to their end.
    pub(crate) fn sweep_checkpoints(&self, busy: &BTreeSet<String>) {
        let entries = |dir: &Path| std::fs::read_dir(dir).into_iter().flatten().flatten();
        for entry in entries(&self.restores()) {
            if !entry.file_name().to_str().is_some_and(|id| busy.contains(id)) {
                // Mounts were only ever seen by who made them.
                let _ = std::fs::remove_dir_all(entry.path());
            }
        }
        for container in self.inner.registry.all() {
            checkpoint::sweep(&self.inner.dirs.container(&container.id));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptions_without_what_is_outside_are_others() {
        let outside: Outside =
            serde_json::from_str(r#"{"mounts": ["/data"], "pipes": [null, 7, 8]}"#).unwrap();
        assert_eq!(outside.pipes, [None, Some(7), Some(8)]);
        assert!(!outside.net && outside.links.is_empty());
        assert_eq!(connections(&outside, &[]), None);
    }

    #[test]
    fn connections_go_on_where_they_lead_to_the_same() {
        let (one, other) = ("172.17.0.2/16".to_owned(), "172.17.0.3/16".to_owned());
        let outside = Outside { net: true, addresses: vec![one.clone()], ..Outside::default() };
        assert_eq!(connections(&outside, &[one]), Some("--tcp-established"));
        assert_eq!(connections(&outside, &[other]), Some("--tcp-close"));
        assert_eq!(connections(&outside, &[]), Some("--tcp-close"));
    }
}
