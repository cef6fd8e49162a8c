//! What is known about containers: one directory each, with a small file, a copy of the configuration, and the gate.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::PathBuf;

use nix::fcntl::{Flock, FlockArg};
use oci_spec::runtime::Spec;
use serde::{Deserialize, Serialize};
use wharf_kernel::sys::process as sys;

use crate::{Doing, Error, Result};

/// The pipe that a container's first process waits at, by the name that runc's has.
pub(crate) const GATE: &str = "exec.fifo";

/// A configuration that is larger than this is none.
pub(crate) const LARGEST: u64 = 16 << 20;

/// The small file.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Record {
    pub(crate) oci_version: String,
    pub(crate) id: String,
    pub(crate) pid: i32,
    /// Clock ticks from boot to the process's start: numbers of processes are used again.
    pub(crate) pid_start: u64,
    pub(crate) boot: String,
    pub(crate) bundle: PathBuf,
    pub(crate) rootfs: PathBuf,
    pub(crate) created: String,
    pub(crate) cgroup: Option<String>,
    pub(crate) paused: bool,
    /// The processes die with the first one.
    pub(crate) own_pids: bool,
    pub(crate) annotations: std::collections::BTreeMap<String, String>,
    /// What the standard streams were when it began, in CRIU's words.
    #[serde(default)]
    pub(crate) descriptors: Vec<String>,
}

/// What `state` and `list` print of a container.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Shown<'a> {
    oci_version: &'a str,
    id: &'a str,
    pub(crate) pid: i32,
    pub(crate) status: &'static str,
    bundle: &'a std::path::Path,
    rootfs: &'a std::path::Path,
    created: &'a str,
    annotations: &'a std::collections::BTreeMap<String, String>,
    owner: &'static str,
}

impl Record {
    /// In runc's order of fields.
    pub(crate) fn shown(&self, status: Status, owner: &'static str) -> Shown<'_> {
        Shown {
            oci_version: &self.oci_version,
            id: &self.id,
            pid: if status == Status::Stopped { 0 } else { self.pid },
            status: status.word(),
            bundle: &self.bundle,
            rootfs: &self.rootfs,
            created: &self.created,
            annotations: &self.annotations,
            owner,
        }
    }
}

/// Where a container is in its life, in the specification's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    Created,
    Running,
    Paused,
    Stopped,
}

impl Status {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        }
    }
}

/// All containers of one root directory.
#[derive(Debug)]
pub(crate) struct Store {
    root: PathBuf,
}

/// One of them, which nobody else changes while this lives.
#[derive(Debug)]
pub(crate) struct Entry {
    dir: PathBuf,
    pub(crate) record: Record,
    _lock: Flock<File>,
}

fn boot() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

/// When a process was started.
pub(crate) fn start_time(pid: i32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command's name may contain spaces and brackets; fields are counted from the last one.
    let mut fields = text.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    if matches!(state, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// Ids name directories.
fn check_id(id: &str) -> Result<()> {
    let good = |b: u8| b.is_ascii_alphanumeric() || b"_+-.".contains(&b);
    if id.is_empty() || id.len() > 1024 || matches!(id, "." | "..") || !id.bytes().all(good) {
        return Err(Error(format!("invalid container ID format: {id:?}")));
    }
    Ok(())
}

impl Store {
    pub(crate) fn new(root: PathBuf) -> Self {
        Self { root }
    }

    fn dir(&self, id: &str) -> Result<PathBuf> {
        check_id(id)?;
        Ok(self.root.join(id))
    }

    /// Makes the directory of a new container, with its gate and a copy of its configuration.
    pub(crate) fn reserve(&self, id: &str, config: &str) -> Result<PathBuf> {
        let dir = self.dir(id)?;
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o711)
            .create(&self.root)
            .doing(format_args!("making {}", self.root.display()))?;
        match std::fs::DirBuilder::new().mode(0o700).create(&dir) {
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
                return Err("container with given ID already exists".into());
            }
            result => result.doing(format_args!("making {}", dir.display()))?,
        }
        let fill = || -> Result<()> {
            nix::unistd::mkfifo(&dir.join(GATE), nix::sys::stat::Mode::from_bits_truncate(0o600))?;
            let mut file = std::fs::OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(dir.join("config.json"))?;
            Ok(file.write_all(config.as_bytes())?)
        };
        fill().inspect_err(|_| self.discard(id))?;
        Ok(dir)
    }

    /// Takes away what `reserve` made.
    pub(crate) fn discard(&self, id: &str) {
        if let Ok(dir) = self.dir(id) {
            // The first error is the one to report.
            let _ = std::fs::remove_dir_all(dir);
        }
    }

    /// Opens a container for this process alone.
    pub(crate) fn open(&self, id: &str) -> Result<Entry> {
        let dir = self.dir(id)?;
        let missing = || Error(format!("container {id:?} does not exist"));
        let file = File::open(dir.join("config.json")).map_err(|_| missing())?;
        let lock = Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, e)| Error::from(e))?;
        let text = std::fs::read_to_string(dir.join("state.json")).map_err(|_| missing())?;
        let record = serde_json::from_str(&text).doing(format_args!("state of {id}"))?;
        Ok(Entry { dir, record, _lock: lock })
    }

    /// Writes the first record of a container.
    pub(crate) fn put(&self, record: Record) -> Result<Entry> {
        let dir = self.dir(&record.id)?;
        let file = File::open(dir.join("config.json"))?;
        let lock = Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, e)| Error::from(e))?;
        let entry = Entry { dir, record, _lock: lock };
        entry.save()?;
        Ok(entry)
    }

    /// The records of all containers that can be read.
    pub(crate) fn all(&self) -> Vec<(Record, Status)> {
        let mut found: Vec<(Record, Status)> = std::fs::read_dir(&self.root)
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| {
                let dir = entry.path();
                let text = std::fs::read_to_string(dir.join("state.json")).ok()?;
                let record: Record = serde_json::from_str(&text).ok()?;
                let waiting = dir.join(GATE).exists();
                let status = status(&record, waiting);
                Some((record, status))
            })
            .collect();
        found.sort_by(|a, b| a.0.id.cmp(&b.0.id));
        found
    }
}

fn status(record: &Record, waiting: bool) -> Status {
    if record.boot != boot() || start_time(record.pid) != Some(record.pid_start) {
        Status::Stopped
    } else if waiting {
        Status::Created
    } else if record.paused {
        Status::Paused
    } else {
        Status::Running
    }
}

impl Entry {
    pub(crate) fn gate(&self) -> PathBuf {
        self.dir.join(GATE)
    }

    pub(crate) fn status(&self) -> Status {
        status(&self.record, self.gate().exists())
    }

    /// A descriptor of the first process; None if it has ended.
    pub(crate) fn process(&self) -> Option<OwnedFd> {
        let pidfd = sys::pidfd_open(self.record.pid).ok()?;
        // First the descriptor, then the comparison: from then on the number cannot be another's.
        (self.status() != Status::Stopped).then_some(pidfd)
    }

    pub(crate) fn save(&self) -> Result<()> {
        let new = self.dir.join("state.json.new");
        let mut file =
            std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(serde_json::to_string(&self.record)?.as_bytes())?;
        Ok(std::fs::rename(new, self.dir.join("state.json"))?)
    }

    /// The configuration as it was when the container was created.
    pub(crate) fn spec(&self) -> Result<(Spec, serde_json::Value)> {
        parse(&std::fs::read_to_string(self.dir.join("config.json"))?)
    }

    pub(crate) fn remove(self) -> Result<()> {
        Ok(std::fs::remove_dir_all(&self.dir)?)
    }

    /// The state as the specification has it.
    pub(crate) fn json(&self, status: Status) -> serde_json::Value {
        serde_json::json!(self.record.shown(status, ""))
    }

    /// The same as `state` prints it, in runc's order.
    pub(crate) fn shown(&self) -> Shown<'_> {
        self.record.shown(self.status(), "")
    }

    /// Where what only this container has is kept.
    pub(crate) fn dir(&self) -> &std::path::Path {
        &self.dir
    }

    /// Sends a signal to the first process.
    pub(crate) fn signal(&self, signal: i32) -> Result<()> {
        let process = self.process().ok_or("container not running")?;
        match sys::pidfd_send_signal(process.as_fd(), signal) {
            Err(e) if e.errno() == nix::errno::Errno::ESRCH as i32 => Err("container not running".into()),
            result => Ok(result?),
        }
    }
}

/// Reads a configuration, as types and as it is.
pub(crate) fn parse(text: &str) -> Result<(Spec, serde_json::Value)> {
    let mut value: serde_json::Value = serde_json::from_str(text).doing("config.json")?;
    if let Some(process) = value.get_mut("process") {
        known_capabilities(process);
    }
    // What is read by other means is not in the way of the types.
    let rest = value.get("process").and_then(crate::tuning::without).map(|process| {
        let mut rest = value.clone();
        if let Some(all) = rest.as_object_mut() {
            all.insert("process".to_owned(), process);
        }
        rest
    });
    let spec = Spec::deserialize(rest.as_ref().unwrap_or(&value)).doing("config.json")?;
    Ok((spec, value))
}

/// Takes capabilities that nobody knows out of the sets of a process, with a warning: a configuration may be newer than this
/// program.
pub(crate) fn known_capabilities(process: &mut serde_json::Value) {
    let sets = process.get_mut("capabilities").and_then(serde_json::Value::as_object_mut);
    let mut unknown = std::collections::BTreeSet::new();
    for names in sets.into_iter().flat_map(serde_json::Map::values_mut).filter_map(|v| v.as_array_mut()) {
        names.retain(|name| {
            let known = name.as_str().is_none_or(|name| crate::convert::capability(name) != 0);
            if !known {
                unknown.insert(name.to_string());
            }
            known
        });
    }
    if !unknown.is_empty() {
        let unknown: Vec<String> = unknown.into_iter().collect();
        crate::log::warn(format!("ignoring unknown or unavailable capabilities: [{}]", unknown.join(" ")));
    }
}

/// A record for a process that was just made.
pub(crate) fn record(id: &str, pid: i32, bundle: PathBuf, rootfs: PathBuf, spec: &Spec) -> Record {
    Record {
        oci_version: spec.version().clone(),
        id: id.to_owned(),
        pid,
        pid_start: start_time(pid).unwrap_or(0),
        boot: boot(),
        bundle,
        rootfs,
        created: jiff::Timestamp::now().to_string(),
        cgroup: None,
        paused: false,
        own_pids: true,
        annotations: spec.annotations().clone().unwrap_or_default().into_iter().collect(),
        descriptors: crate::checkpoint::descriptors(pid),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_names_of_directories() {
        for good in ["a", "a.b_c-d+1"] {
            check_id(good).unwrap();
        }
        for bad in ["", ".", "..", "a/b", "a b", "ä", &"x".repeat(1025)] {
            assert!(check_id(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_name_is_given_once_and_nothing_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path().join("deep/er"));
        store.reserve("a", "{}").unwrap();
        assert_eq!(store.reserve("a", "{}").unwrap_err().0, "container with given ID already exists");
        assert!(store.open("a").is_err(), "a container that is not there yet");
        store.discard("a");
        assert_eq!(std::fs::read_dir(dir.path().join("deep/er")).unwrap().count(), 0);
        assert!(store.open("../a").is_err());
    }

    #[test]
    fn the_own_process_has_a_start() {
        assert!(start_time(std::process::id().cast_signed()).is_some_and(|t| t > 0));
        assert_eq!(start_time(-1), None);
    }
}
