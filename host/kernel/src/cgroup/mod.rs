//! Control groups, versions 1 and 2.
//!
//! The crate `cgroups-rs` was looked at and left: it builds every path from strings, has no device program for v2,
//! gives up at the first EBUSY of a removal, and brings a D-Bus client along. What is needed is a few writes beneath a
//! directory descriptor.

mod devices;
mod files;
mod oom;
mod stats;
mod v1;
mod v2;

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use wharf_plan::run::Resources;

use crate::error::{Error, Result};
use crate::mount::{Flags, Prepared, unescaped};
use crate::sys::file::cstring;
use crate::sys::process as sys;
use files::Dir;

pub use oom::OomWatch;
pub use stats::{BlkioEntry, BlkioStats, Counters, CpuStats, MemoryStats, Stats};

/// Which of the two interfaces the host has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// One hierarchy per controller.
    V1,
    /// One for all.
    V2,
}

/// The controllers that are used, of those that the host has.
const CONTROLLERS: [&str; 9] =
    ["memory", "pids", "cpu", "cpuacct", "devices", "freezer", "blkio", "cpuset", "hugetlb"];

/// One mounted cgroup file system.
#[derive(Debug)]
pub struct Hierarchy {
    name: String,
    controllers: Vec<String>,
    path: CString,
    directory: CString,
    links: Vec<CString>,
    options: Vec<String>,
    root: OwnedFd,
}

impl Hierarchy {
    /// Its controllers, for messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its top directory.
    pub fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// Where it is mounted.
    pub fn path(&self) -> &CStr {
        &self.path
    }

    /// Last part of that path: its name below `/sys/fs/cgroup`.
    pub fn directory(&self) -> &CStr {
        &self.directory
    }

    /// Further names for it, where one hierarchy has several controllers.
    pub fn links(&self) -> &[CString] {
        &self.links
    }

    /// Whether every container has a cgroup in it. `cpuset` and `hugetlb` are used only when a limit asks for them.
    pub fn required(&self) -> bool {
        self.controllers.iter().any(|c| c != "cpuset" && c != "hugetlb")
    }

    /// Whether it has this controller.
    pub fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|c| c == controller)
    }

    /// A further mount of it, seen from the caller's cgroup namespace.
    pub(crate) fn mount_again(&self, flags: Flags) -> Result<OwnedFd> {
        Prepared::new("cgroup", &self.options, flags)?.make()
    }

    fn dir(&self) -> Dir<'_> {
        Dir::new(self.root.as_fd())
    }
}

#[derive(Debug)]
struct Inner {
    version: Version,
    hierarchies: Vec<Hierarchy>,
}

/// The host's cgroup file systems. Paths given to its methods start below each hierarchy's root (`/wharf/<id>`).
#[derive(Debug, Clone)]
pub struct Cgroups(Arc<Inner>);

impl Cgroups {
    /// Finds what is mounted. A hybrid host, with v1 controllers and an empty v2 hierarchy, counts as v1.
    pub fn detect() -> Result<Self> {
        let text = std::fs::read_to_string("/proc/self/mountinfo")?;
        let mounts = parse_mountinfo(&text);
        let v1: Vec<_> =
            mounts.iter().filter(|m| m.fstype == "cgroup" && !m.controllers.is_empty()).collect();
        let (version, chosen) = if v1.is_empty() {
            (Version::V2, mounts.iter().filter(|m| m.fstype == "cgroup2").take(1).collect())
        } else {
            (Version::V1, v1)
        };
        let mut hierarchies: Vec<Hierarchy> = Vec::new();
        for mount in chosen {
            // The same hierarchy may be mounted twice; the first one serves.
            if !hierarchies.iter().any(|h| h.controllers == mount.controllers) {
                hierarchies.push(hierarchy(mount)?);
            }
        }
        if hierarchies.is_empty() {
            return Err(Error::refused(
                "/proc/self/mountinfo",
                libc::ENOENT,
                "no cgroup file system is mounted",
            ));
        }
        Ok(Self(Arc::new(Inner { version, hierarchies })))
    }

    /// A v2 hierarchy at a given place, whatever else is mounted.
    pub fn v2_at(path: &Path) -> Result<Self> {
        let mount =
            MountLine { fstype: "cgroup2".into(), path: path.display().to_string(), controllers: Vec::new() };
        Ok(Self(Arc::new(Inner { version: Version::V2, hierarchies: vec![hierarchy(&mount)?] })))
    }

    /// Which interface.
    pub fn version(&self) -> Version {
        self.0.version
    }

    /// The mounted file systems in use; one for v2.
    pub fn hierarchies(&self) -> &[Hierarchy] {
        &self.0.hierarchies
    }

    /// The directory of a cgroup that holds its processes still. None where this host has no freezer.
    pub fn freezer_dir(&self, path: &str) -> Result<Option<std::path::PathBuf>> {
        let path = relative(path)?;
        let hierarchy = match self.0.version {
            Version::V1 => self.0.hierarchies.iter().find(|h| h.has("freezer")),
            Version::V2 => self.0.hierarchies.first(),
        };
        let top = |hierarchy: &Hierarchy| {
            std::path::PathBuf::from(std::ffi::OsStr::from_bytes(hierarchy.path().to_bytes()))
        };
        Ok(hierarchy.map(|hierarchy| top(hierarchy).join(path)))
    }

    /// Controllers that can limit something here.
    pub fn controllers(&self) -> Vec<String> {
        match self.0.version {
            Version::V1 => self.0.hierarchies.iter().flat_map(|h| h.controllers.clone()).collect(),
            Version::V2 => self
                .top()
                .and_then(|h| h.dir().read("cgroup.controllers"))
                .map(|text| text.split_whitespace().map(str::to_owned).collect())
                .unwrap_or_default(),
        }
    }

    fn top(&self) -> Result<&Hierarchy> {
        self.0.hierarchies.first().ok_or_else(|| Error::new("cgroup", libc::ENOENT))
    }

    /// The directory of a v2 cgroup, for `clone3`.
    pub fn open(&self, path: &str) -> Result<OwnedFd> {
        self.top()?.dir().open(&relative(path)?)
    }

    /// The directory of the v2 cgroup that a process is in, which must be `below` or beneath it.
    pub fn open_of(&self, pid: i32, below: &str) -> Result<OwnedFd> {
        let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
        let path = text.lines().find_map(|l| l.strip_prefix("0::")).unwrap_or_default();
        let (path, below) = (relative(path)?, relative(below)?);
        if path == below || path.strip_prefix(&below).is_some_and(|rest| rest.starts_with('/')) {
            self.top()?.dir().open(&path)
        } else {
            Err(Error::refused(
                format!("/proc/{pid}/cgroup"),
                libc::EXDEV,
                "the process left its container's cgroup",
            ))
        }
    }

    /// Makes the cgroup with its limits; on failure nothing is left. EEXIST where it is there already.
    pub fn create(&self, path: &str, resources: &Resources) -> Result<()> {
        let path = relative(path)?;
        let made = match self.0.version {
            Version::V1 => v1::create(&self.0.hierarchies, &path, resources),
            Version::V2 => v2::create(self.top()?.dir(), &path, resources),
        };
        if let Err(error) = &made
            && !error.is_exists()
        {
            // The first error is the one to report.
            let _ = self.remove(&path, Duration::ZERO);
        }
        made
    }

    /// Gives every cgroup above this one a real-time budget (microseconds of each period, and the period; None leaves the kernel's),
    /// without which those below get none. Nothing on version 2, which has no such budgets.
    pub fn realtime_above(&self, path: &str, period: Option<i64>, runtime: Option<i64>) -> Result<()> {
        let path = relative(path)?;
        match self.0.version {
            Version::V1 => v1::realtime_above(&self.0.hierarchies, &path, period, runtime),
            Version::V2 => Ok(()),
        }
    }

    /// Changes what is Some in `resources`; device rules are left alone when the list is empty.
    pub fn update(&self, path: &str, resources: &Resources) -> Result<()> {
        let path = relative(path)?;
        match self.0.version {
            Version::V1 => v1::apply(&self.0.hierarchies, &path, resources),
            Version::V2 => v2::apply(self.top()?.dir(), &path, resources),
        }
    }

    /// Removes it and those below. Waits up to `patience` for processes that are ending; nothing there is success.
    pub fn remove(&self, path: &str, patience: Duration) -> Result<()> {
        let path = relative(path)?;
        let until = Instant::now() + patience;
        for hierarchy in &self.0.hierarchies {
            loop {
                match hierarchy.dir().remove_tree(&path) {
                    Err(e) if e.is(libc::EBUSY) => {
                        let left = until.saturating_duration_since(Instant::now());
                        if left.is_zero() {
                            return Err(e.note("processes are still in the cgroup"));
                        }
                        wait_for_one(&hierarchy.dir().pids(&path).unwrap_or_default(), left);
                    }
                    result => break result?,
                }
            }
        }
        Ok(())
    }

    /// Removes it with all that runs in it: what an ended container left behind where its processes had no namespace of
    /// their own, which would have taken them along. Waits up to `patience` for their ends; nothing there is success.
    pub fn clear(&self, path: &str, patience: Duration) -> Result<()> {
        match self.remove(path, Duration::ZERO) {
            Err(e) if e.is(libc::EBUSY) => {
                self.kill(path)?;
                self.remove(path, patience)
            }
            result => result,
        }
    }

    /// Kills every process in it and below; returns when the kernel has been told, not when they are gone.
    pub fn kill(&self, path: &str) -> Result<()> {
        let relative = relative(path)?;
        if self.0.version == Version::V2 {
            match self.top()?.dir().write(&format!("{relative}/cgroup.kill"), "1") {
                Ok(()) => return Ok(()),
                // A cgroup that is gone has nothing to kill; before Linux 5.14 there is no such file.
                Err(e) if !e.is_not_found() => return Err(e),
                Err(_) => {}
            }
        }
        // Standing still they cannot fork away between the reading and the killing.
        let frozen = self.freeze(path).is_ok();
        let mut result = Ok(());
        for pid in self.pids(path)? {
            match sys::pidfd_open(pid).and_then(|p| sys::pidfd_send_signal(p.as_fd(), libc::SIGKILL)) {
                Err(e) if !e.is(libc::ESRCH) => result = Err(e),
                _ => {}
            }
        }
        if frozen {
            match self.thaw(path) {
                Err(e) if !e.is_not_found() => return Err(e),
                _ => {}
            }
        }
        result
    }

    /// Stops every process; returns when they stand still, or ETIMEDOUT.
    pub fn freeze(&self, path: &str) -> Result<()> {
        let path = relative(path)?;
        match self.0.version {
            Version::V1 => v1::freeze(&self.0.hierarchies, &path),
            Version::V2 => v2::freeze(self.top()?.dir(), &path),
        }
    }

    /// Whether what is put into it stands still. One that does not exist is none such.
    pub fn frozen(&self, path: &str) -> Result<bool> {
        let path = relative(path)?;
        let read = match self.0.version {
            Version::V1 => v1::freezer_state(&self.0.hierarchies, &path),
            Version::V2 => self.top()?.dir().read(&format!("{path}/cgroup.freeze")),
        };
        match read {
            Ok(state) => Ok(!matches!(state.trim(), "THAWED" | "0")),
            Err(e) if e.is_not_found() || e.is_unsupported() => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Lets them go on.
    pub fn thaw(&self, path: &str) -> Result<()> {
        let path = relative(path)?;
        match self.0.version {
            Version::V1 => v1::thaw(&self.0.hierarchies, &path),
            Version::V2 => self.top()?.dir().write(&format!("{path}/cgroup.freeze"), "0"),
        }
    }

    /// The processes in it and below, as seen from here.
    pub fn pids(&self, path: &str) -> Result<Vec<i32>> {
        let path = relative(path)?;
        let mut all = Vec::new();
        for hierarchy in &self.0.hierarchies {
            match hierarchy.dir().pids(&path) {
                Ok(pids) => all.extend(pids),
                Err(e) if e.is_not_found() => {}
                Err(e) => return Err(e),
            }
        }
        all.sort_unstable();
        all.dedup();
        Ok(all)
    }

    /// Reads the counters.
    pub fn stats(&self, path: &str) -> Result<Stats> {
        self.counters(path)?.read()
    }

    /// The counters, to be read again and again. ENOENT where there is no such cgroup.
    pub fn counters(&self, path: &str) -> Result<Counters> {
        let path = relative(path)?;
        match self.0.version {
            Version::V1 => Counters::v1(&self.0.hierarchies, &path),
            Version::V2 => Counters::v2(self.top()?.dir(), &path),
        }
    }

    /// For an update that is the first to ask for processors or memory nodes: with v1, makes the cgroup in that hierarchy, which
    /// no container has otherwise, and moves the processes of the others into it.
    pub fn with_cpuset(&self, path: &str, resources: &Resources) -> Result<()> {
        if self.0.version == Version::V2 || !v1::wants_cpuset(resources) {
            return Ok(());
        }
        v1::with_cpuset(&self.0.hierarchies, &relative(path)?, &self.pids(path)?)
    }

    /// Limits for a cgroup that somebody else made, in some hierarchies or all; it is made in those where it is missing.
    pub fn complete(&self, path: &str, resources: &Resources) -> Result<()> {
        let path = relative(path)?;
        match self.0.version {
            Version::V1 => v1::complete(&self.0.hierarchies, &path, resources),
            Version::V2 => self.update(&path, resources),
        }
    }

    /// Whether there is a cgroup of this path in a hierarchy.
    pub fn has(&self, hierarchy: &Hierarchy, path: &str) -> Result<bool> {
        match hierarchy.dir().open(&relative(path)?) {
            Ok(_) => Ok(true),
            Err(e) if e.is_not_found() => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// The number in a control file, by its name (`memory.swap.current`); None where there is no such file or no number in it.
    pub fn figure(&self, path: &str, name: &str) -> Option<u64> {
        let path = relative(path).ok()?;
        let (controller, _) = name.split_once('.')?;
        let hierarchy = match self.0.version {
            Version::V1 => self.0.hierarchies.iter().find(|h| h.has(controller))?,
            Version::V2 => self.0.hierarchies.first()?,
        };
        files::limit(&hierarchy.dir().read(&format!("{path}/{name}")).ok()?)
    }

    /// How often the kernel killed for lack of memory.
    pub fn oom_kills(&self, path: &str) -> Result<u64> {
        let path = relative(path)?;
        let text = match self.0.version {
            Version::V1 => match self.0.hierarchies.iter().find(|h| h.has("memory")) {
                Some(memory) => memory.dir().read(&format!("{path}/memory.oom_control"))?,
                None => return Ok(0),
            },
            Version::V2 => match self.top()?.dir().read(&format!("{path}/memory.events")) {
                // Without the memory controller nobody is killed by it.
                Err(e) if e.is_not_found() => return Ok(0),
                result => result?,
            },
        };
        Ok(files::value_of(&text, "oom_kill").unwrap_or(0))
    }

    /// Names of the cgroups directly below `path`, of all hierarchies.
    pub fn list(&self, path: &str) -> Result<Vec<String>> {
        let path = relative(path)?;
        let mut names = Vec::new();
        for hierarchy in &self.0.hierarchies {
            match hierarchy.dir().children(&path) {
                Ok(found) => names.extend(found),
                Err(e) if e.is_not_found() => {}
                Err(e) => return Err(e),
            }
        }
        names.sort_unstable();
        names.dedup();
        Ok(names)
    }
}

/// Waits until one of the processes has ended; a short while where there is none to wait for.
fn wait_for_one(pids: &[i32], longest: Duration) {
    let processes: Vec<OwnedFd> = pids.iter().take(64).filter_map(|pid| sys::pidfd_open(*pid).ok()).collect();
    let mut polls: Vec<_> =
        processes.iter().map(|p| nix::poll::PollFd::new(p.as_fd(), nix::poll::PollFlags::POLLIN)).collect();
    // An empty cgroup that is still busy is being let go by the kernel, which tells nobody.
    let longest = if polls.is_empty() { longest.min(Duration::from_millis(1)) } else { longest };
    let millis = u16::try_from(longest.as_millis()).unwrap_or(u16::MAX);
    // Whatever it says, the caller looks again.
    let _ = nix::poll::poll(&mut polls, millis.max(1));
}

/// A cgroup path without its leading slash. It comes from users (`--cgroup-parent`), so it must name something below
/// the root and must not climb.
pub(crate) fn relative(path: &str) -> Result<String> {
    let parts: Vec<&str> = path.split('/').filter(|p| !p.is_empty()).collect();
    if parts.is_empty() || parts.iter().any(|p| matches!(*p, "." | "..")) || path.contains('\n') {
        return Err(Error::refused(format!("cgroup {path:?}"), libc::EINVAL, "not a path of a cgroup"));
    }
    Ok(parts.join("/"))
}

struct MountLine {
    fstype: String,
    path: String,
    controllers: Vec<String>,
}

fn parse_mountinfo(text: &str) -> Vec<MountLine> {
    let mut found = Vec::new();
    for line in text.lines() {
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let Some(path) = left.split(' ').nth(4) else { continue };
        let mut right = right.split(' ');
        let (Some(fstype), _, Some(options)) = (right.next(), right.next(), right.next()) else { continue };
        if fstype == "cgroup" || fstype == "cgroup2" {
            let controllers =
                options.split(',').filter(|o| CONTROLLERS.contains(o)).map(str::to_owned).collect();
            found.push(MountLine {
                fstype: fstype.into(),
                path: unescaped(path).to_string_lossy().into_owned(),
                controllers,
            });
        }
    }
    found
}

fn hierarchy(mount: &MountLine) -> Result<Hierarchy> {
    let directory = mount.path.rsplit('/').next().unwrap_or("cgroup");
    let path = cstring(mount.path.as_str())?;
    let root = crate::sys::file::openat(None, &path, libc::O_PATH | libc::O_DIRECTORY, 0)?;
    Ok(Hierarchy {
        name: if mount.controllers.is_empty() { "v2".into() } else { mount.controllers.join(",") },
        links: mount
            .controllers
            .iter()
            .filter(|c| c.as_str() != directory)
            .map(|c| cstring(c.as_str()))
            .collect::<Result<_>>()?,
        options: mount.controllers.clone(),
        controllers: mount.controllers.clone(),
        directory: cstring(directory)?,
        path,
        root,
    })
}

#[cfg(test)]
mod tests;
