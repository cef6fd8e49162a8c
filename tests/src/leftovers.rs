//! What a daemon must not leave behind.

use std::fs;
use std::path::{Path, PathBuf};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Processes whose command line names `dir`.
pub fn processes(dir: &Path) -> Vec<(i32, String)> {
    let needle = dir.display().to_string();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|s| s.parse::<i32>().ok()) else { continue };
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if line.contains(&needle) && pid != std::process::id().cast_signed() {
            found.push((pid, line));
        }
    }
    found
}

/// Mounts of this mount namespace at or from below `dir`.
pub fn mounts(dir: &Path) -> Vec<String> {
    let needle = dir.display().to_string();
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    table.lines().filter(|l| l.contains(&needle)).map(str::to_owned).collect()
}

/// The cgroup directories of the instance that lives in `dir`, in all hierarchies.
pub fn cgroups(dir: &Path) -> Vec<PathBuf> {
    let ids = container_ids(dir);
    let mut found = Vec::new();
    walk(Path::new("/sys/fs/cgroup"), 0, &mut |path| {
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        if ids.iter().any(|id| name.contains(id.as_str())) {
            found.push(path.to_owned());
        }
    });
    found
}

/// Ids of all containers that this daemon ever spoke of in its log or still has directories for.
fn container_ids(dir: &Path) -> Vec<String> {
    let mut text = fs::read_to_string(dir.join("daemon.log")).unwrap_or_default();
    for entry in fs::read_dir(dir.join("data/containers")).into_iter().flatten().flatten() {
        text.push(' ');
        text.push_str(&entry.file_name().to_string_lossy());
    }
    let is_id = |w: &&str| w.len() == 64 && w.bytes().all(|b| b.is_ascii_hexdigit());
    let mut ids: Vec<String> =
        text.split(|c: char| !c.is_ascii_alphanumeric()).filter(is_id).map(str::to_owned).collect();
    ids.sort();
    ids.dedup();
    ids
}

fn walk(dir: &Path, depth: usize, visit: &mut impl FnMut(&Path)) {
    if depth > 5 {
        return;
    }
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            visit(&entry.path());
            walk(&entry.path(), depth + 1, visit);
        }
    }
}

/// Everything that is still there after the daemon ended; empty is good.
pub fn look(dir: &Path) -> Vec<String> {
    let mut problems = Vec::new();
    // The keeper ends by itself after the daemon said so; give it the time to do it.
    let end = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while !processes(dir).is_empty() && std::time::Instant::now() < end {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    problems.extend(processes(dir).into_iter().map(|(pid, line)| format!("process {pid}: {line}")));
    problems.extend(mounts(dir).into_iter().map(|m| format!("mount: {m}")));
    problems.extend(cgroups(dir).into_iter().map(|c| format!("cgroup: {}", c.display())));
    problems
}

/// Ends what is left by force, so that one failed test does not disturb the others.
pub fn force(dir: &Path) {
    for (pid, _) in processes(dir) {
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
    for group in cgroups(dir) {
        for pid in fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default().lines() {
            if let Ok(pid) = pid.parse() {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
        let _ = fs::remove_dir(group);
    }
}

/// Takes the cgroups of a test's `--cgroup-parent`, a single name, away in all hierarchies; the daemon leaves what is not its own.
pub fn remove_cgroup_parent(name: &str) {
    let top = PathBuf::from("/sys/fs/cgroup");
    for dir in fs::read_dir(&top)
        .into_iter()
        .flatten()
        .flatten()
        .map(|e| e.path().join(name))
        .chain([top.join(name)])
    {
        remove_cgroups(&dir);
    }
}

/// A cgroup and those below it, where another runtime may have left some of a start that failed.
fn remove_cgroups(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_cgroups(&entry.path());
        }
    }
    let _ = fs::remove_dir(dir);
}
