//! Bundles of the OCI runtime specification, for `wharf oci`.

use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use crate::{bin_dir, image};

/// A root directory of the runtime and bundles of one test; nothing of it may be left.
pub struct Place {
    dir: tempfile::TempDir,
}

impl Default for Place {
    /// An empty one.
    fn default() -> Self {
        Self { dir: tempfile::Builder::new().prefix("wharf-oci-").tempdir().unwrap() }
    }
}

impl Place {
    /// A path in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A bundle of busybox whose configuration is the default one with changes.
    pub fn bundle(&self, name: &str, change: impl FnOnce(&mut Value)) -> PathBuf {
        let bundle = self.path(name);
        let rootfs = bundle.join("rootfs");
        std::fs::create_dir_all(&rootfs).unwrap();
        let archive = image::save(&self.path(&format!("{name}.tar")), &image::busybox_tar());
        let unpacked = Command::new("tar").arg("-xf").arg(archive).arg("-C").arg(&rootfs).status().unwrap();
        assert!(unpacked.success());
        let made = self.oci(&["spec", "--bundle", bundle.to_str().unwrap()]);
        assert!(made.status.success(), "{made:?}");
        let file = bundle.join("config.json");
        let mut config: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        config["process"]["terminal"] = false.into();
        // A name of its own, so that tests do not share one.
        config["linux"]["cgroupsPath"] = format!("/wharf-oci-test/{}-{name}", std::process::id()).into();
        change(&mut config);
        std::fs::write(&file, config.to_string()).unwrap();
        bundle
    }

    /// A call of the runtime.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(bin_dir().join("wharf"));
        command.arg("oci").arg("--root").arg(self.path("state")).args(args);
        command
    }

    /// Output goes into files, as what `create` leaves behind has the same streams and keeps a pipe open.
    pub fn oci(&self, args: &[&str]) -> Output {
        let (mut out, mut err) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        let mut command = self.command(args);
        command.stdin(Stdio::null()).stdout(out.try_clone().unwrap()).stderr(err.try_clone().unwrap());
        let status = command.status().unwrap();
        let read = |file: &mut std::fs::File| {
            let mut all = Vec::new();
            file.seek(SeekFrom::Start(0)).unwrap();
            file.read_to_end(&mut all).unwrap();
            all
        };
        Output { status, stdout: read(&mut out), stderr: read(&mut err) }
    }

    /// What a call prints, which is to succeed.
    #[track_caller]
    pub fn ok(&self, args: &[&str]) -> String {
        let output = self.oci(args);
        let err = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{args:?}: {err}");
        String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
    }

    /// A call that is to fail and to say this.
    #[track_caller]
    pub fn fails(&self, args: &[&str], text: &str) {
        let output = self.oci(args);
        let err = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && err.contains(text), "{args:?} should say {text:?}: {err}");
    }

    /// Where a container is in its life.
    pub fn status(&self, id: &str) -> String {
        let state: Value = serde_json::from_str(&self.ok(&["state", id])).unwrap();
        state["status"].as_str().unwrap().to_owned()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let ids = self.oci(&["list", "-q"]);
        for id in String::from_utf8_lossy(&ids.stdout).lines() {
            self.oci(&["delete", "--force", id]);
        }
        if std::thread::panicking() {
            return;
        }
        let left: Vec<_> = std::fs::read_dir(self.path("state")).into_iter().flatten().flatten().collect();
        assert!(left.is_empty(), "{left:?}");
        nothing_left(self.dir.path(), "wharf-oci-test");
    }
}

/// Fails where a mount below `dir` is left, or a cgroup of this process below the top one of this name, which goes with the last of
/// all that use it.
pub fn nothing_left(dir: &Path, top: &str) {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(text(dir)), "{mounts}");
    let found = Command::new("find")
        .args(["/sys/fs/cgroup", "-maxdepth", "4", "-path", &format!("*{top}*")])
        .output()
        .unwrap();
    let cgroups = String::from_utf8_lossy(&found.stdout).into_owned();
    let own = format!("/{}-", std::process::id());
    let left: Vec<_> = cgroups.lines().filter(|line| line.contains(&own)).collect();
    assert!(left.is_empty(), "{left:?}");
    // While others run it is not empty and stays.
    for cgroup in cgroups.lines().filter(|line| line.ends_with(&format!("/{top}"))) {
        let _ = std::fs::remove_dir(cgroup);
    }
}

/// Has a shell as the process.
pub fn args(config: &mut Value, script: &str) {
    config["process"]["args"] = json!(["sh", "-c", script]);
}

/// A path as an argument.
pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}
