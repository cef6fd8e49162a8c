//! An engine of its own for a test: own directories, network namespace, cgroup parent, keeper.
#![allow(dead_code, unreachable_pub, missing_docs, reason = "each test file uses a part")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test that cannot go on shall fail"
)]

use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use wharf_engine::containers::create_body;
use wharf_engine::images::ImportOptions;
use wharf_engine::io::{LogQuery, Tail};
use wharf_engine::{Caller, CreateOptions, Engine, Error, RemoveOptions, Settings, WaitCondition};

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Where `wharf-keeper`, `wharf-compile` and the built components are.
fn bin_dir() -> PathBuf {
    if let Some(dir) = std::env::var_os("WHARF_BIN_DIR") {
        return dir.into();
    }
    let exe = std::env::current_exe().unwrap();
    exe.parent().and_then(Path::parent).unwrap().to_owned()
}

fn plugin_dir() -> PathBuf {
    let bin = bin_dir();
    let beside = bin.join("plugins");
    if beside.join("storage-overlay.wasm").exists() {
        beside
    } else {
        bin.with_file_name("release").join("plugins")
    }
}

fn program(name: &str) -> PathBuf {
    let path = bin_dir().join(name);
    assert!(path.exists(), "{} is missing: `cargo xtask test` builds it", path.display());
    path
}

pub struct Rig {
    pub engine: Engine,
    pub settings: Settings,
    dir: tempfile::TempDir,
    parent: String,
}

/// Runs a test on a runtime whose threads are all in a new network namespace.
pub fn run<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send) {
    std::thread::scope(|scope| {
        scope
            .spawn(|| {
                nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET)
                    .expect("tests of the engine run as root");
                let runtime = tokio::runtime::Builder::new_multi_thread()
                    .worker_threads(2)
                    .enable_all()
                    .build()
                    .unwrap();
                runtime.block_on(async {
                    tokio::time::timeout(Duration::from_mins(2), test()).await.expect("the test hangs");
                });
            })
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
}

impl Rig {
    pub async fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        static FILLING: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
        let dir = tempfile::Builder::new().prefix("wharf-engine-").tempdir().unwrap();
        let parent = format!("wharf-test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let mut settings = Settings::new(dir.path().join("data"), dir.path().join("run"));
        settings.plugin_dirs = vec![plugin_dir()];
        // Compiled once for all tests, not once for each.
        settings.plugin_cache = Some(bin_dir().join("engine-test-components"));
        settings.compiler = program("wharf-compile");
        settings.program = program("wharf-keeper");
        settings.cgroup_parent.clone_from(&parent);
        settings.shutdown_timeout = 1;
        // The first one fills the components' cache; loading from it while it is being filled is not what is tested.
        let filling = FILLING.lock().await;
        let engine = Engine::open(settings.clone()).await.unwrap();
        drop(filling);
        let rig = Self { engine, settings, dir, parent };
        rig.import().await;
        rig
    }

    /// The same state under a new engine, as after the daemon's death: nothing was told to stop.
    pub async fn reopen(self) -> Self {
        let Self { engine, settings, dir, parent } = self;
        drop(engine);
        let engine = Engine::open(settings.clone()).await.unwrap();
        Self { engine, settings, dir, parent }
    }

    async fn import(&self) {
        let mut tar = tar::Builder::new(Vec::new());
        let busybox = ["/bin/busybox", "/usr/bin/busybox"]
            .iter()
            .find(|p| Path::new(p).exists())
            .expect("busybox-static");
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o755);
        let program = std::fs::read(busybox).unwrap();
        header.set_size(program.len() as u64);
        tar.append_data(&mut header, "bin/busybox", program.as_slice()).unwrap();
        for applet in [
            "sh", "true", "false", "echo", "cat", "sleep", "id", "ls", "hostname", "env", "ip", "mkdir",
            "touch", "kill", "test", "mount", "ps", "dd", "head", "tail", "grep",
        ] {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_size(0);
            tar.append_link(&mut header, format!("bin/{applet}"), "busybox").unwrap();
        }
        for (path, text) in [
            (
                "etc/passwd",
                "root:x:0:0::/root:/bin/sh\n1000:x:0:0:trap:/:/bin/sh\napp:x:101:102::/app:/bin/sh\n",
            ),
            ("etc/group", "root:x:0:\nwheel:x:10:root\napp:x:102:\n"),
            ("seed/file", "from the image\n"),
        ] {
            let mut header = tar::Header::new_gnu();
            header.set_mode(0o644);
            header.set_size(text.len() as u64);
            tar.append_data(&mut header, path, text.as_bytes()).unwrap();
        }
        let body = tar.into_inner().unwrap();
        let options = ImportOptions {
            repo: Some("box".into()),
            tag: Some("latest".into()),
            changes: vec!["CMD [\"sh\"]".into()],
            ..ImportOptions::default()
        };
        self.engine.image_import(Box::new(std::io::Cursor::new(body)), options).await.unwrap();
    }

    /// Creates from JSON; `Image` is filled in.
    pub async fn create(&self, name: &str, mut body: Value) -> Result<String> {
        if body.get("Image").is_none() {
            body["Image"] = json!("box");
        }
        let name = (!name.is_empty()).then(|| name.to_owned());
        let options = CreateOptions { name, ..CreateOptions::default() };
        self.engine.container_create(options, create_body(body)?, &Caller::default()).await.map(|c| c.id)
    }

    pub async fn start(&self, id: &str) -> Result<()> {
        self.engine.container_start(id, &Caller::default()).await
    }

    pub async fn wait(&self, id: &str) -> i64 {
        let waiter = self.engine.container_wait(id, WaitCondition::NotRunning).await.unwrap();
        waiter.wait().await.unwrap().status_code
    }

    pub async fn logs(&self, id: &str) -> String {
        let query =
            LogQuery { follow: true, stdout: true, stderr: true, tail: Tail::All, ..LogQuery::default() };
        let mut output = self.engine.container_logs(id, query).await.unwrap();
        let mut all = Vec::new();
        while let Some(bytes) = output.next().await {
            all.extend_from_slice(&bytes.unwrap());
        }
        // Frames of eight bytes and their payload.
        let mut text = Vec::new();
        let mut rest = all.as_slice();
        while rest.len() >= 8 {
            let length = u32::from_be_bytes([rest[4], rest[5], rest[6], rest[7]]) as usize;
            text.extend_from_slice(&rest[8..8 + length]);
            rest = &rest[8 + length..];
        }
        String::from_utf8_lossy(&text).into_owned()
    }

    /// Creates, starts, waits, reads the output.
    pub async fn sh(&self, script: &str, host: Value) -> (i64, String) {
        let id = self.create("", json!({"Cmd": ["sh", "-c", script], "HostConfig": host})).await.unwrap();
        self.start(&id).await.unwrap();
        let code = self.wait(&id).await;
        let text = self.logs(&id).await;
        self.remove(&id).await.unwrap();
        (code, text)
    }

    pub async fn remove(&self, id: &str) -> Result<()> {
        self.engine.container_remove(id, RemoveOptions { force: true, volumes: true, link: false }).await
    }

    pub async fn inspect(&self, id: &str) -> Value {
        self.engine.container_inspect(id, false).await.unwrap()
    }

    /// Ends everything and looks for what is left over.
    pub async fn finish(self) {
        let options = wharf_engine::ListOptions { all: true, ..wharf_engine::ListOptions::default() };
        let list: Vec<Value> =
            serde_json::from_slice(&self.engine.container_list(&options).await.unwrap()).unwrap();
        for container in list {
            self.remove(container["Id"].as_str().unwrap()).await.unwrap();
        }
        self.engine.shutdown().await;
        let cgroups: Vec<_> = cgroup_dirs(&self.parent);
        let left: Vec<_> = cgroups.iter().flat_map(|d| children(&d.join("wharf"))).collect();
        assert!(left.is_empty(), "cgroups left: {left:?}");
        for dir in cgroups {
            let _ = std::fs::remove_dir(dir.join("wharf"));
            let _ = std::fs::remove_dir(dir);
        }
        assert!(children(&self.settings.data_root.join("containers")).is_empty(), "directories left");
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(self.dir.path().to_str().unwrap()), "mounts left");
    }
}

pub fn children(dir: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(dir)
        .map(|d| d.flatten().filter(|e| e.path().is_dir()).map(|e| e.path()).collect())
        .unwrap_or_default()
}

/// The test's own cgroup in every hierarchy.
pub fn cgroup_dirs(parent: &str) -> Vec<PathBuf> {
    let root = Path::new("/sys/fs/cgroup");
    let mut all = vec![root.join(parent)];
    all.extend(children(root).into_iter().map(|h| h.join(parent)));
    all.retain(|d| d.is_dir());
    all
}
