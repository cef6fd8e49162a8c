//! The environment of a process as runtimes have always made it: the last of several values holds, and `HOME` is always there.

use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use oci_spec::runtime::Spec;
use wharf_kernel::sys::file::{self, RESOLVE_IN_ROOT, RESOLVE_NO_MAGICLINKS};

/// More of a file of users is not looked at.
const LARGEST: u64 = 1 << 20;

/// Leaves one value of each variable, the last one, and sets `HOME` to the user's own directory where it is missing or empty: that
/// of the text of `/etc/passwd`, or `/`.
pub(crate) fn environment(env: &mut Vec<String>, uid: u32, passwd: impl FnOnce() -> Option<String>) {
    let name = |entry: &str| entry.split_once('=').map_or(entry.to_owned(), |(name, _)| name.to_owned());
    let mut seen = std::collections::HashSet::new();
    let mut kept: Vec<String> =
        std::mem::take(env).into_iter().rev().filter(|entry| seen.insert(name(entry))).collect();
    kept.reverse();
    kept.retain(|entry| entry != "HOME=");
    if !kept.iter().any(|entry| entry.starts_with("HOME=")) {
        let home = passwd().and_then(|text| of_user(&text, uid)).unwrap_or_else(|| "/".to_owned());
        kept.push(format!("HOME={home}"));
    }
    *env = kept;
}

/// The directory of a user by the text of a `passwd(5)`.
fn of_user(text: &str, uid: u32) -> Option<String> {
    text.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let [_, _, id, _, _, home, ..] = fields.as_slice() else { return None };
        (id.parse() == Ok(uid) && !home.is_empty()).then(|| (*home).to_owned())
    })
}

/// The file of users below a root directory that is not to be trusted.
pub(crate) fn passwd_below(root: &Path) -> Option<String> {
    let root: OwnedFd = std::fs::File::open(root).ok()?.into();
    let resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS;
    // Without blocking: it may be a pipe.
    let flags = nix::libc::O_RDONLY | nix::libc::O_NONBLOCK | nix::libc::O_NOCTTY;
    read(std::fs::File::from(file::openat2(root.as_fd(), c"etc/passwd", flags, 0, resolve).ok()?))
}

fn read(file: std::fs::File) -> Option<String> {
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    let mut text = Vec::new();
    file.take(LARGEST).read_to_end(&mut text).ok()?;
    Some(String::from_utf8_lossy(&text).into_owned())
}

/// The file of users that a container's first process sees.
pub(crate) fn passwd_of(pid: i32) -> Option<String> {
    passwd_below(Path::new(&format!("/proc/{pid}/root")))
}

/// The file of users of a container that is to be made: one that is bound to its place, or that of its root file system.
pub(crate) fn passwd_of_bundle(spec: &Spec, bundle: &Path, rootfs: &Path) -> Option<String> {
    let place = Path::new("/etc/passwd");
    match spec.mounts().iter().flatten().rfind(|mount| mount.destination() == place) {
        Some(mount) => {
            // The host's, as the configuration says.
            let file = std::fs::File::open(bundle.join(mount.source().as_ref()?)).ok()?;
            read(file)
        }
        None => passwd_below(rootfs),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn home_and_repeated_names() {
        let made = |env: &[&str], uid| {
            let mut env: Vec<String> = env.iter().map(|e| (*e).to_owned()).collect();
            environment(&mut env, uid, || {
                Some("root:x:0:0:root:/root:/bin/sh\nbroken\nu:x:7:7::/home/u:\nn:x:8:8:::\n".into())
            });
            env.join(" ")
        };
        assert_eq!(made(&["A=1", "B=2", "A=3"], 0), "B=2 A=3 HOME=/root");
        assert_eq!(made(&["HOME=/x", "HOME="], 7), "HOME=/home/u");
        assert_eq!(made(&["HOME=", "HOME=/x"], 7), "HOME=/x");
        assert_eq!(made(&[], 8), "HOME=/");
        assert_eq!(made(&[], 9), "HOME=/");
    }

    #[test]
    fn a_file_of_users_does_not_lead_out() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("etc")).unwrap();
        let passwd = dir.path().join("etc/passwd");
        assert_eq!(passwd_below(dir.path()), None);
        std::os::unix::fs::symlink("/etc/hostname", &passwd).unwrap();
        assert_eq!(passwd_below(dir.path()), None);
        std::fs::write(dir.path().join("etc/hostname"), "inside").unwrap();
        assert_eq!(passwd_below(dir.path()).as_deref(), Some("inside"));
        std::fs::remove_file(&passwd).unwrap();
        nix::unistd::mkfifo(&passwd, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(passwd_below(dir.path()), None);
    }
}
