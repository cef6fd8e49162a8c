//! runc's own integration tests, out of the source packages of Debian, with `wharf oci` in runc's place. What does not pass
//! is listed with its reason in `clients/runc-VERSION.expected`; anything else that fails, fails a test here.
//!
//! Each file of a suite is a test. It has a copy of the sources, cgroups, a cgroup namespace and a mount namespace of its own, so
//! that containers and cgroups of the same names do not meet.

#![cfg(test)]

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use wharf_tests::image::{busybox_tar, entry, finish};
use wharf_tests::{bin_dir, eventually};

/// A version of the suite.
struct Suite {
    version: &'static str,
    sha256: &'static str,
    /// Debian's archive of what its pool once had knows a file by this.
    sha1: &'static str,
    /// Where it has programs of its own, which ours take the place of.
    programs: fn(&str) -> String,
    expected: &'static str,
}

const OLD: Suite = Suite {
    version: "1.1.15",
    sha256: "d557179f18a5d515ffc5b8ed1a7113af4619a1041c27408a2f83c1ece4d4d426",
    sha1: "8b350a117276d21d04a1f520df7f2d6d2b748a86",
    programs: |name| format!("contrib/cmd/{name}/{name}"),
    expected: include_str!("../clients/runc-1.1.15.expected"),
};

const NEW: Suite = Suite {
    version: "1.3.6",
    sha256: "008c1386c4e36cedf0f4a8c1e74da3d0dfc6789f73e166b8b8df5f107ac5edb8",
    sha1: "1235fa0071e850008f616e726e790cf946f88831",
    programs: |name| format!("tests/cmd/_bin/{name}"),
    expected: include_str!("../clients/runc-1.3.6.expected"),
};

/// The beginning of all names of cgroups here.
const PREFIX: &str = "wharf-test-runc-";

/// A file that takes longer stands still.
const LONGEST: Duration = Duration::from_mins(4);

const PROGRAMS: [(&str, &str); 5] = [
    ("recvtty", include_str!("../clients/runc-suite/recvtty")),
    ("seccompagent", include_str!("../clients/runc-suite/seccompagent")),
    ("pidfd-kill", include_str!("../clients/runc-suite/pidfd-kill")),
    ("remap-rootfs", include_str!("../clients/runc-suite/remap-rootfs")),
    ("fs-idmap", include_str!("../clients/runc-suite/fs-idmap")),
];

/// Files that are left out as a whole.
const LEFT_OUT: [(&str, &str); 4] = [
    ("checkpoint", "wants one CRIU of the system; oci_checkpoints.rs is about these commands"),
    ("debug", "lines of the log that only runc's own steps can have"),
    ("help", "runc's own texts"),
    ("selinux", "not supported"),
];

fn output(command: &mut Command) -> String {
    let out = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(out.status.success(), "{command:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).into_owned()
}

/// The package's source, fetched once and looked at each time.
fn source(suite: &Suite) -> PathBuf {
    let place = bin_dir().join("clients");
    let file = place.join(format!("runc-{}.tar.xz", suite.version));
    if !file.exists() {
        std::fs::create_dir_all(&place).unwrap();
        // Others may fetch it at the same time; each puts a whole file there.
        let fresh = place.join(format!("runc-{}.{}", suite.version, std::process::id()));
        let urls = [
            format!("http://deb.debian.org/debian/pool/main/r/runc/runc_{}+ds1.orig.tar.xz", suite.version),
            format!("https://snapshot.debian.org/file/{}", suite.sha1),
        ];
        let fetched = urls.iter().any(|url| {
            let mut curl = Command::new("curl");
            curl.args(["-fsSL", "--retry", "3", "-o"]).arg(&fresh).arg(url).status().unwrap().success()
        });
        assert!(fetched, "the sources of runc {} are at none of {urls:?}", suite.version);
        std::fs::rename(fresh, &file).unwrap();
    }
    let sum = output(Command::new("sha256sum").arg(&file));
    assert!(sum.starts_with(suite.sha256), "{} is not what was published: {sum}", file.display());
    file
}

/// The root file system that most of the suite's containers have.
fn busybox() -> Vec<u8> {
    let mut tar = busybox_tar();
    tar.truncate(tar.len() - 1024);
    for dir in ["dev/", "lib/", "sbin/"] {
        entry(&mut tar, dir, b'5', 0o755, "", b"");
    }
    entry(&mut tar, "usr/bin/env", b'2', 0o777, "../../bin/env", b"");
    // Without the user that our own tests have: of two entries the later one stays.
    entry(&mut tar, "etc/passwd", b'0', 0o644, "", b"root:x:0:0:root:/root:/bin/sh\n");
    entry(&mut tar, "etc/group", b'0', 0o644, "", b"root:x:0:\n");
    finish(&mut tar);
    tar
}

/// A root file system with programs of Debian: this machine's own, with the libraries that they need.
fn debian() -> Vec<u8> {
    const NAMES: [&str; 16] = [
        "bash", "cat", "chrt", "findmnt", "grep", "id", "ionice", "ldconfig", "ls", "mount", "sleep", "stat",
        "touch", "true", "taskset", "echo",
    ];
    let mut tar = Vec::new();
    let dirs = [
        "bin/", "dev/", "etc/", "lib/", "lib64/", "proc/", "root/", "sbin/", "sys/", "tmp/", "usr/",
        "usr/bin/",
    ];
    for dir in dirs.into_iter().chain(["usr/sbin/", "usr/lib/", "var/", "var/cache/", "var/cache/ldconfig/"])
    {
        entry(&mut tar, dir, b'5', if dir == "tmp/" { 0o1777 } else { 0o755 }, "", b"");
    }
    let mut files = BTreeSet::new();
    for name in NAMES {
        let found = ["/usr/bin", "/bin", "/usr/sbin", "/sbin"].iter().map(|dir| Path::new(dir).join(name));
        let program =
            found.into_iter().find(|p| p.exists()).unwrap_or_else(|| panic!("no {name} on this machine"));
        let content = std::fs::read(&program).unwrap();
        entry(&mut tar, &format!("bin/{name}"), b'0', 0o755, "", &content);
        let dir = if name == "ionice" || name == "sleep" { "usr/bin" } else { "usr/sbin" };
        entry(&mut tar, &format!("{dir}/{name}"), b'2', 0o777, &format!("../../bin/{name}"), b"");
        // ldconfig has none and makes ldd fail.
        let said = Command::new("ldd").arg(&program).output().unwrap();
        let said = String::from_utf8_lossy(&said.stdout).into_owned();
        files.extend(said.split_whitespace().filter(|word| word.starts_with('/')).map(str::to_owned));
    }
    let mut made = BTreeSet::new();
    for file in files {
        let name = file.trim_start_matches('/').to_owned();
        let parts: Vec<&str> = name.split('/').collect();
        for depth in 1..parts.len() {
            let dir = format!("{}/", parts[..depth].join("/"));
            if made.insert(dir.clone()) {
                entry(&mut tar, &dir, b'5', 0o755, "", b"");
            }
        }
        entry(&mut tar, &name, b'0', 0o755, "", &std::fs::read(&file).unwrap());
    }
    entry(&mut tar, "bin/sh", b'2', 0o777, "bash", b"");
    entry(&mut tar, "etc/passwd", b'0', 0o644, "", b"root:x:0:0:root:/root:/bin/sh\n");
    entry(&mut tar, "etc/group", b'0', 0o644, "", b"root:x:0:\n");
    finish(&mut tar);
    tar
}

fn script(path: &Path, text: &str) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

/// The suite as it lies in `dir`, with our images and our programs for runc's; those with a socket are waited for, as they are
/// slower to begin than runc's.
fn prepare(suite: &Suite, dir: &Path) {
    output(Command::new("tar").arg("-C").arg(dir).args(["--strip-components=1", "-xf"]).arg(source(suite)));
    let images = dir.join("images");
    std::fs::create_dir(&images).unwrap();
    std::fs::write(images.join("busybox.tar"), busybox()).unwrap();
    std::fs::write(images.join("debian.tar"), debian()).unwrap();
    let images = images.display();
    script(
        &dir.join("tests/integration/get-images.sh"),
        &format!(
            "#!/bin/sh\necho BUSYBOX_IMAGE={images}/busybox.tar\necho DEBIAN_IMAGE={images}/debian.tar\n"
        ),
    );
    for (name, text) in PROGRAMS {
        script(&dir.join((suite.programs)(name)), text);
    }
    script(&dir.join("enter.sh"), include_str!("../clients/runc-suite/enter.sh"));
    script(&dir.join("reaper"), include_str!("../clients/runc-suite/reaper"));
    let helpers = dir.join("tests/integration/helpers.bash");
    let text = std::fs::read_to_string(&helpers).unwrap();
    let mut patched = 0;
    let text: Vec<String> = text
        .lines()
        .map(|line| {
            let sockets = [("recvtty", "CONSOLE_SOCKET"), ("-socketfile=", "SECCCOMP_AGENT_SOCKET")];
            let begins = line.trim_start().starts_with("(\"$") && line.ends_with("&) &");
            let lower = line.to_lowercase();
            match sockets.into_iter().find(|(word, _)| begins && lower.contains(word)) {
                Some((_, socket)) => {
                    patched += 1;
                    format!("{line}\n\tuntil [ -S \"${socket}\" ]; do sleep 0.02; done")
                }
                None => line.to_owned(),
            }
        })
        .collect();
    assert_eq!(patched, 2, "where the terminal's end and the agent begin");
    std::fs::write(&helpers, text.join("\n") + "\n").unwrap();
}

/// What a file of the suite says: names that passed and that did not; those that are skipped are neither.
#[derive(Default)]
struct Results {
    passed: Vec<String>,
    failed: Vec<String>,
    skipped: usize,
    text: String,
}

fn run(dir: &Path, file: &str, cleaner: &Cleaner) -> Results {
    let runtime = dir.join("wharf-oci");
    std::os::unix::fs::symlink(bin_dir().join("wharf"), &runtime).unwrap();
    let mut command = Command::new(dir.join("enter.sh"));
    command
        .args([&cleaner.0, "./reaper", "bats", "-t"])
        .arg(format!("tests/integration/{file}.bats"))
        .current_dir(dir);
    // Without a limit of bats's own: that is one more child, for which some tests wait.
    command.env("RUNC", runtime).env("TMPDIR", dir.join("tmp"));
    let said = dir.join("said");
    let file_of_output = std::fs::File::create(&said).unwrap();
    command.stdin(Stdio::null()).stdout(file_of_output.try_clone().unwrap()).stderr(file_of_output);
    let mut child = command.spawn().expect("bats");
    let end = Instant::now() + LONGEST;
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > end {
            // With all that it waits for.
            clean(&cleaner.0);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let text = String::from_utf8_lossy(&std::fs::read(&said).unwrap()).into_owned();
    let mut results = Results::default();
    let mut planned = None;
    for line in text.lines() {
        if let Some(count) = line.strip_prefix("1..") {
            planned = count.parse::<usize>().ok();
        }
        let (passed, rest) = match (line.strip_prefix("ok "), line.strip_prefix("not ok ")) {
            (Some(rest), _) => (true, rest),
            (_, Some(rest)) => (false, rest),
            _ => continue,
        };
        let name = format!("{file}::{}", rest.split_once(' ').map_or(rest, |(_, name)| name));
        match passed {
            true if rest.contains("# skip") => results.skipped += 1,
            true => results.passed.push(name),
            false => results.failed.push(name),
        }
    }
    results.text = text;
    let told = results.passed.len() + results.failed.len() + results.skipped;
    assert_eq!(planned, Some(told), "{file}: not every test told how it ended\n{}", results.text);
    results
}

/// The cgroups of a run in all hierarchies, whatever the suite made below them.
fn cgroups(name: &str) -> Vec<PathBuf> {
    let text = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let hierarchies = text.lines().filter(|l| l.contains(" - cgroup ") || l.contains(" - cgroup2 "));
    hierarchies.filter_map(|l| l.split(' ').nth(4)).map(|place| Path::new(place).join(name)).collect()
}

fn below(dir: &Path, all: &mut Vec<PathBuf>) {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    for entry in entries.filter(|e| e.file_type().is_ok_and(|t| t.is_dir())) {
        below(&entry.path(), all);
    }
    if dir.is_dir() {
        all.push(dir.to_owned());
    }
}

/// Ends every process that a run left, those that stand still too, and removes its cgroups; whether none is left.
fn clean(name: &str) -> bool {
    let mut all = Vec::new();
    for top in cgroups(name) {
        below(&top, &mut all);
    }
    for dir in &all {
        // Each is there in one version of cgroups, or one hierarchy.
        let _ = std::fs::write(dir.join("freezer.state"), "THAWED");
        let _ = std::fs::write(dir.join("cgroup.freeze"), "0");
        for pid in std::fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default().lines() {
            let _ = Command::new("kill").args(["-9", pid]).output();
        }
    }
    // Deepest first.
    all.iter().filter(|dir| std::fs::remove_dir(dir).is_err() && dir.exists()).count() == 0
}

/// Cleans up after a run, however it ends.
struct Cleaner(String);

/// Cleans up after runs that were killed themselves: their names begin with the number of a process that is no more.
fn sweep() {
    for top in cgroups("") {
        let entries = std::fs::read_dir(&top).into_iter().flatten().flatten();
        for name in entries.filter_map(|e| e.file_name().into_string().ok()) {
            let pid = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
            if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
                // Others may sweep at the same time.
                clean(&name);
            }
        }
    }
}

impl Drop for Cleaner {
    fn drop(&mut self) {
        let clean = (0..100).any(|_| {
            clean(&self.0) || {
                std::thread::sleep(Duration::from_millis(100));
                false
            }
        });
        assert!(clean || std::thread::panicking(), "cgroups {} are left", self.0);
    }
}

fn expected(suite: &Suite) -> impl Iterator<Item = &'static str> {
    let lines = suite.expected.lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| line.split_once('|').map(|(name, _)| name))
}

/// The name of a file, which the name of a test cannot quite have.
fn file_of(test: &str, dir: &Path) -> String {
    let there = |name: &str| dir.join(format!("tests/integration/{name}.bats")).exists();
    [test.to_owned(), test.replace('_', "-")].into_iter().find(|name| there(name)).expect(test)
}

fn check(suite: &Suite, test: &str) {
    let dir = tempfile::Builder::new().prefix("wharf-test-runc-").tempdir().unwrap();
    // Programs in user namespaces have to get through.
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    prepare(suite, dir.path());
    std::fs::create_dir(dir.path().join("tmp")).unwrap();
    let file = file_of(test, dir.path());
    sweep();
    let cleaner = Cleaner(format!("{PREFIX}{}-{}-{test}", std::process::id(), suite.version));
    let results = run(dir.path(), &file, &cleaner);
    println!(
        "{file}: {} passed, {} failed, {} skipped",
        results.passed.len(),
        results.failed.len(),
        results.skipped
    );
    let surprises: Vec<&String> =
        results.failed.iter().filter(|name| !expected(suite).any(|e| name.starts_with(e))).collect();
    if std::env::var_os("RUNC_SUITE_TEXT").is_some() {
        println!("{}", results.text);
    }
    assert!(surprises.is_empty(), "not listed as failing: {surprises:#?}\n{}", results.text);
    let all: Vec<&String> = results.passed.iter().chain(&results.failed).collect();
    let stale: Vec<&str> = expected(suite)
        .filter(|e| e.starts_with(&format!("{file}::")) && results.skipped == 0)
        .filter(|e| !all.iter().any(|name| name.starts_with(e)))
        .collect();
    assert!(stale.is_empty(), "listed, but there is no such test: {stale:#?}");
    drop(cleaner);
    let path = dir.path().to_owned();
    eventually("the mounts are gone", || {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        (!mounts.contains(path.to_str().unwrap())).then_some(())
    });
}

/// One test for each file, and one that none is forgotten.
macro_rules! suite {
    ($suite:ident as $module:ident: $($file:ident),* $(,)?) => {
        mod $module {
            $(#[test]
            fn $file() {
                super::check(&super::$suite, stringify!($file));
            })*

            #[test]
            fn every_file_is_run_or_left_out() {
                let list = super::output(std::process::Command::new("tar").arg("-tf").arg(super::source(&super::$suite)));
                let names = list.lines().filter_map(|line| line.split("/tests/integration/").nth(1)?.strip_suffix(".bats"));
                let known = [$(stringify!($file)),*];
                let missing: Vec<&str> = names
                    .filter(|name| !known.contains(&name.replace('-', "_").as_str()))
                    .filter(|name| !super::LEFT_OUT.iter().any(|(left_out, _)| left_out == name))
                    .collect();
                assert!(missing.is_empty(), "{missing:?}");
            }
        }
    };
}

suite!(OLD as v1_1_15: cgroup_delegation, cgroups, create, cwd, delete, dev, events, exec, hooks, kill, list, mask, mounts,
    mounts_recursive, mounts_sshfs, no_pivot, pause, ps, rlimits, root, run, seccomp, seccomp_notify, seccomp_notify_compat, spec,
    start, start_detached, start_hello, state, tty, umask, update, userns, version);

suite!(NEW as v1_3_6: capabilities, cgroup_delegation, cgroups, cpu_affinity, create, cwd, delete, dev, env, events, exec, hooks,
    hooks_so, host_mntns, idmap, ioprio, kill, list, mask, mounts, mounts_propagation, mounts_recursive, mounts_sshfs, no_pivot,
    pause, personality, pidfd_socket, ps, rlimits, root, run, scheduler, seccomp, seccomp_notify, seccomp_notify_compat, spec,
    start, start_detached, start_hello, state, timens, tty, umask, update, userns, version);
