//! `wharf oci checkpoint` and `restore`, with a real CRIU, and as a runtime that the engine is told.

#![cfg(test)]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use wharf_tests::criu::{COUNTER, criu};
use wharf_tests::{Daemon, Options, bin_dir, bundle, eventually, image};

/// A root directory of the runtime and bundles of one test; nothing of it may be left.
struct Place {
    dir: tempfile::TempDir,
    criu: PathBuf,
}

impl Place {
    /// None where CRIU does not work.
    fn new() -> Option<Self> {
        let criu = criu()?.clone();
        Some(Self { dir: tempfile::Builder::new().prefix("wharf-oci-").tempdir().unwrap(), criu })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    /// A bundle of busybox that counts into a directory of the host.
    fn bundle(&self, name: &str, change: impl FnOnce(&mut Value)) -> String {
        let bundle = self.path(name);
        let rootfs = bundle.join("rootfs");
        std::fs::create_dir_all(&rootfs).unwrap();
        tar::Archive::new(image::busybox_tar().as_slice()).unpack(&rootfs).unwrap();
        // The place of the mount is behind a link of the image.
        std::fs::create_dir_all(rootfs.join("real")).unwrap();
        std::os::unix::fs::symlink("real", rootfs.join("data")).unwrap();
        std::fs::create_dir_all(bundle.join("data")).unwrap();
        let bundle = bundle.to_str().unwrap().to_owned();
        self.ok(&["spec", "--bundle", &bundle]);
        let file = format!("{bundle}/config.json");
        let mut config: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        config["process"]["terminal"] = false.into();
        config["process"]["args"] = json!(["sh", "-c", COUNTER]);
        config["linux"]["cgroupsPath"] = format!("/wharf-oci-criu-test/{}-{name}", std::process::id()).into();
        config["linux"]["resources"] = json!({"memory": {"limit": 67_108_864}});
        let mount =
            json!({"destination": "/data", "type": "bind", "source": "data", "options": ["rbind", "rw"]});
        config["mounts"].as_array_mut().unwrap().push(mount);
        change(&mut config);
        std::fs::write(&file, config.to_string()).unwrap();
        bundle
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(bin_dir().join("wharf"));
        command.args(["oci", "--criu"]).arg(&self.criu).arg("--root").arg(self.path("state")).args(args);
        command.stdin(Stdio::null());
        command
    }

    /// Runs it with both streams into a file; the exit code and what was written.
    fn oci(&self, args: &[&str]) -> (i32, String) {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut command = self.command(args);
        let status = command.stdout(file.reopen().unwrap()).stderr(file.reopen().unwrap()).status().unwrap();
        (status.code().unwrap_or(-1), std::fs::read_to_string(file.path()).unwrap())
    }

    #[track_caller]
    fn ok(&self, args: &[&str]) -> String {
        let (code, said) = self.oci(args);
        assert_eq!(code, 0, "{args:?}: {said}");
        said
    }

    #[track_caller]
    fn fails(&self, args: &[&str], text: &str) {
        let (code, said) = self.oci(args);
        assert!(code != 0 && said.contains(text), "{args:?} should say {text:?}: {code} {said}");
    }

    fn state(&self, id: &str) -> Value {
        serde_json::from_str(&self.ok(&["state", id])).unwrap()
    }

    /// Runs it with its streams in pipes whose other end goes on to a file, as managers of containers do.
    fn piped(&self, args: &[&str], log: &str) -> (i32, String) {
        let log = self.path(log);
        let mut command = self.command(args);
        let mut readers = Vec::new();
        for stream in ["out", "err"] {
            let (mut from, to) = std::io::pipe().unwrap();
            let mut file = std::fs::OpenOptions::new().create(true).append(true).open(&log).unwrap();
            readers.push(std::thread::spawn(move || std::io::copy(&mut from, &mut file)));
            if stream == "out" {
                command.stdout(to)
            } else {
                command.stderr(to)
            };
        }
        let status = command.status().unwrap();
        drop(command);
        if !status.success() {
            // Nobody has the streams any more.
            for reader in readers {
                reader.join().unwrap().unwrap();
            }
        }
        (status.code().unwrap_or(-1), std::fs::read_to_string(&log).unwrap())
    }

    /// Starts it in the background.
    fn start(&self, bundle: &str, id: &str) -> u64 {
        let (code, said) = self.piped(&["run", "--detach", "--bundle", bundle, id], &format!("{id}.log"));
        assert_eq!(code, 0, "{said}");
        counts_on(bundle, 1)
    }

    fn restore(&self, args: &[&str], id: &str) -> (i32, String) {
        self.piped(&[&["restore", "--detach"], args, &[id]].concat(), &format!("{id}.log"))
    }
}

fn count(bundle: &str) -> u64 {
    let path = Path::new(bundle).join("data/n");
    eventually("a number", || std::fs::read_to_string(&path).ok()?.trim().parse().ok())
}

/// Sees that it counts on from there.
fn counts_on(bundle: &str, from: u64) -> u64 {
    let first = count(bundle);
    assert!(first >= from, "{first} after {from}");
    eventually("more numbers", || Some(count(bundle)).filter(|n| *n > first + 2))
}

impl Drop for Place {
    fn drop(&mut self) {
        let (_, ids) = self.oci(&["list", "-q"]);
        for id in ids.lines() {
            self.oci(&["delete", "--force", id]);
        }
        if std::thread::panicking() {
            return;
        }
        let left: Vec<_> = std::fs::read_dir(self.path("state")).into_iter().flatten().flatten().collect();
        assert!(left.is_empty(), "{left:?}");
        bundle::nothing_left(self.dir.path(), "wharf-oci-criu-test");
    }
}

#[test]
fn a_bundle_goes_on_from_where_it_was() {
    let Some(place) = Place::new() else { return };
    let bundle = place.bundle("b", |_| {});
    place.start(&bundle, "one");
    let (images, work) = (place.text("images"), place.text("work"));
    let limit = |place: &Place| {
        let pid = place.state("one")["pid"].as_i64().unwrap();
        std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap()
    };
    let cgroups = limit(&place);
    // It runs on.
    place.ok(&["checkpoint", "--image-path", &images, "--work-path", &work, "--leave-running", "one"]);
    assert_eq!(place.state("one")["status"], "running");
    let at = counts_on(&bundle, 1);
    let mode = std::fs::metadata(&images).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::mode(&mode) & 0o777, 0o700);
    assert!(Path::new(&work).join("dump.log").exists());
    // As runc keeps it.
    let words: Vec<String> =
        serde_json::from_slice(&std::fs::read(format!("{images}/descriptors.json")).unwrap()).unwrap();
    assert_eq!(words.len(), 3);
    // It ends with it, and is gone as with runc.
    let last = place.text("last");
    place.ok(&["checkpoint", "--image-path", &last, "one"]);
    place.fails(&["state", "one"], "does not exist");
    let (code, said) =
        place.restore(&["--bundle", &bundle, "--image-path", &last, "--pid-file", &place.text("pid")], "one");
    assert_eq!(code, 0, "{said}");
    counts_on(&bundle, at);
    let state = place.state("one");
    assert_eq!(state["status"], "running");
    assert_eq!(std::fs::read_to_string(place.path("pid")).unwrap(), state["pid"].to_string());
    assert_eq!(limit(&place), cgroups);
    assert_eq!(place.ok(&["exec", "one", "cat", "/data/n", "/proc/1/comm"]).lines().count(), 2);
    // What it says goes where the restore's output went.
    let log = place.path("one.log");
    let said = std::fs::read_to_string(&log).unwrap().len();
    eventually("more output", || (std::fs::read_to_string(&log).unwrap().len() > said).then_some(()));
    place.fails(&["restore", "--bundle", &bundle, "--image-path", &last, "one"], "already exists");
    place.ok(&["delete", "--force", "one"]);
    // In the foreground its end is the call's.
    let mut command = place.command(&["restore", "--bundle", &bundle, "--image-path", &images, "two"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    eventually("it to run", || (place.oci(&["state", "two"]).0 == 0).then_some(()));
    place.ok(&["kill", "two", "TERM"]);
    assert_eq!(child.wait().unwrap().code(), Some(7));
    place.fails(&["state", "two"], "does not exist");
}

#[test]
fn a_dump_after_others_has_them_as_parents() {
    let Some(place) = Place::new() else { return };
    // A shell that holds 24 MiB, which a later dump need not write again.
    let script = format!("x=$(head -c 24000000 /dev/zero | tr '\\0' x); {COUNTER}");
    let bundle = place.bundle("b", |c| c["process"]["args"] = json!(["sh", "-c", script]));
    let at = place.start(&bundle, "one");
    let (first, second, whole) = (place.text("first"), place.text("second"), place.text("whole"));
    place.ok(&["checkpoint", "--image-path", &whole, "--leave-running", "one"]);
    let (code, said) = place.oci(&["checkpoint", "--pre-dump", "--image-path", &first, "one"]);
    if said.contains("Tracking memory is not available") {
        eprintln!("skipped: this kernel does not track what memory is written to");
        return;
    }
    assert_eq!(code, 0, "{said}");
    assert_eq!(place.state("one")["status"], "running");
    counts_on(&bundle, at);
    place.fails(
        &["checkpoint", "--image-path", &second, "--parent-path", &first, "one"],
        "must be relative to the image path",
    );
    place.fails(&["checkpoint", "--image-path", &second, "--parent-path", "../none", "one"], "no directory");
    let at = counts_on(&bundle, 1);
    place.ok(&["checkpoint", "--image-path", &second, "--parent-path", "../first", "one"]);
    let size = |dir: &str| -> u64 {
        let files = std::fs::read_dir(dir).unwrap().flatten();
        let pages = files.filter(|f| f.file_name().to_string_lossy().starts_with("pages-"));
        pages.map(|f| f.metadata().unwrap().len()).sum()
    };
    assert!(size(&whole) > 24_000_000, "{}", size(&whole));
    assert!(size(&second) * 4 < size(&whole), "{} of {}", size(&second), size(&whole));
    let (code, said) = place.restore(&["--bundle", &bundle, "--image-path", &second], "one");
    assert_eq!(code, 0, "{said}");
    counts_on(&bundle, at);
    place.ok(&["kill", "one", "TERM"]);
    eventually("its end", || (place.state("one")["status"] == "stopped").then_some(()));
}

#[test]
fn what_cannot_be_is_told_and_changes_nothing() {
    let Some(place) = Place::new() else { return };
    let bundle = place.bundle("b", |_| {});
    place.start(&bundle, "one");
    let images = place.text("images");
    for (args, said) in [
        (&["--lazy-pages"][..], "--lazy-pages is not supported"),
        (&["--status-fd", "3"], "--status-fd is not supported"),
        (&["--manage-cgroups-mode", "strict"], "the cgroup is always the configuration's"),
        (&["--page-server", "nowhere"], "ADDRESS:PORT"),
    ] {
        place.fails(&[&["checkpoint", "--image-path", &images], args, &["one"]].concat(), said);
        assert_eq!(place.state("one")["status"], "running");
    }
    place.fails(&["checkpoint", "--image-path", &images, "none"], "does not exist");
    let mut command = Command::new(bin_dir().join("wharf"));
    command.args(["oci", "--criu", "/nonexistent/criu", "--root", &place.text("state"), "checkpoint", "one"]);
    let output = command.current_dir(place.dir.path()).output().unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("checkpoints need CRIU"), "{output:?}");
    // Paused it is saved too, and stays so.
    place.ok(&["pause", "one"]);
    place.ok(&["checkpoint", "--leave-running", "--image-path", &images, "one"]);
    assert_eq!(place.state("one")["status"], "paused");
    place.ok(&["resume", "one"]);
    let at = counts_on(&bundle, 1);
    place.ok(&["delete", "--force", "one"]);
    // A checkpoint of somebody else, one that was damaged, a bundle that has not what it needs: nothing is left.
    let restore = |bundle: &str, images: &str, text: &str| {
        let (code, said) = place.restore(&["--bundle", bundle, "--image-path", images], "two");
        assert!(code != 0 && said.contains(text), "{text:?}: {said}");
        std::fs::remove_file(place.path("two.log")).unwrap();
        place.fails(&["state", "two"], "does not exist");
    };
    restore(&bundle, &place.text("nothing"), "no checkpoint that this runtime made");
    let other = place.bundle("other", |c| {
        c["mounts"].as_array_mut().unwrap().pop();
    });
    restore(&other, &images, "which the container no longer has");
    let hooked = place.bundle("hooked", |c| c["hooks"] = json!({"prestart": [{"path": "/bin/true"}]}));
    restore(&hooked, &images, "are not run by a restore");
    std::fs::copy(format!("{images}/pstree.img"), place.path("kept")).unwrap();
    std::fs::write(format!("{images}/pstree.img"), "damaged").unwrap();
    restore(&bundle, &images, "criu failed: ");
    std::fs::copy(place.path("kept"), format!("{images}/pstree.img")).unwrap();
    // Mounts come from the bundle, whatever a checkpoint says of them.
    let kept = std::fs::read_to_string(format!("{images}/wharf.json")).unwrap();
    for bad in ["/etc", "/data/../etc", "/proc/sys"] {
        let changed = kept.replace("/real\"", &format!("{bad}\""));
        assert_ne!(changed, kept);
        std::fs::write(format!("{images}/wharf.json"), changed).unwrap();
        restore(&bundle, &images, "");
    }
    std::fs::write(format!("{images}/wharf.json"), kept).unwrap();
    let (code, said) = place.restore(&["--bundle", &bundle, "--image-path", &images], "two");
    assert_eq!(code, 0, "{said}");
    counts_on(&bundle, at.min(3));
    let terminal = place.bundle("terminal", |c| c["process"]["terminal"] = true.into());
    restore_refused(&place, &terminal, &images);
}

fn restore_refused(place: &Place, bundle: &str, images: &str) {
    place.fails(
        &["restore", "--bundle", bundle, "--image-path", images, "three"],
        "checkpoints of such a container are not possible: it has a terminal",
    );
}

/// `docker checkpoint` of containers whose runtime it is.
#[test]
fn as_a_runtime_of_the_engine() {
    let Some(criu) = criu() else { return };
    let runtime = json!({"path": bin_dir().join("wharf"), "runtimeArgs": ["oci", "--criu", criu]});
    let config = json!({"experimental": true, "runtimes": {"wharf-oci": runtime}});
    let d = Daemon::with(Options { config: Some(config.to_string()), ..Options::default() });
    d.import_busybox();
    d.docker(&[
        "run",
        "-d",
        "--name",
        "cc",
        "--runtime",
        "wharf-oci",
        "--network",
        "none",
        "-v",
        "vol:/data",
        "busybox",
        "sh",
        "-c",
        COUNTER,
    ])
    .ok();
    let count = || -> u64 {
        eventually("a number", || d.docker(&["exec", "cc", "cat", "/data/n"]).out.trim().parse().ok())
    };
    eventually("some counting", || (count() > 5).then_some(()));
    d.docker(&["checkpoint", "create", "--leave-running", "cc", "first"]).ok();
    assert_eq!(d.docker(&["inspect", "-f", "{{.State.Status}}", "cc"]).ok(), "running");
    let at = count();
    d.docker(&["checkpoint", "create", "cc", "second"]).ok();
    eventually("its end", || {
        (d.docker(&["inspect", "-f", "{{.State.Status}}", "cc"]).ok() == "exited").then_some(())
    });
    d.docker(&["start", "--checkpoint", "second", "cc"]).ok();
    let now = count();
    assert!(now >= at, "{now} after {at}");
    eventually("more numbers", || (count() > now).then_some(()));
    let logs = d.docker(&["logs", "cc"]).ok();
    assert!(logs.lines().filter(|line| *line == "count 1").count() == 1, "{logs}");
    d.docker(&["stop", "-t", "10", "cc"]).ok();
    assert_eq!(d.docker(&["inspect", "-f", "{{.State.ExitCode}}", "cc"]).ok(), "7");
    d.docker(&["rm", "-f", "cc"]).ok();
}
