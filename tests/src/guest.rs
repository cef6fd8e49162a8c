//! A virtual machine: a kernel that has nothing but cgroup v2, with a switch that cuts its power.
//!
//! Debian's cloud kernel in `qemu`, emulated in software so that it runs wherever the tests do. A small memory file system
//! brings up the system disk (read-only: busybox, the programs under test, a script); the data disk is a file that outlives
//! the machine. The guest speaks over its serial console in lines that start with `@@`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use crate::image::{self, sha256};
use crate::serve::Serve;
use crate::{Daemon, bin_dir};

/// What the memory file system needs to find the system disk.
const EARLY: [&str; 2] = ["virtio_pci", "virtio_blk"];
/// Directories of modules that the engine may need, with all that those need.
const MODULES: [&str; 18] = [
    "kernel/fs/overlayfs",
    "kernel/fs/erofs",
    "kernel/fs/xfs",
    "kernel/fs/quota",
    "kernel/drivers/net/veth.ko",
    "kernel/drivers/net/dummy.ko",
    "kernel/net/bridge",
    "kernel/net/netfilter",
    "kernel/net/ipv4/netfilter",
    "kernel/net/ipv6/netfilter",
    "kernel/net/sched",
    "kernel/drivers/block/loop.ko",
    "kernel/net/ipv4/tcp_diag.ko",
    "kernel/net/ipv4/udp_diag.ko",
    "kernel/net/ipv4/raw_diag.ko",
    "kernel/net/unix",
    "kernel/net/netlink",
    "kernel/net/packet",
];

/// Plugins that the guest's tasks need. Its processor is another than the host's, and compiling would take it minutes.
const PLUGINS: [&str; 11] = [
    "auth-peer",
    "ipam-pool",
    "log-json-file",
    "log-none",
    "network-bridge",
    "network-host",
    "network-none",
    "registry-config",
    "storage-erofs",
    "storage-overlay",
    "volume-local",
];

/// A kernel and its modules.
#[derive(Debug, Clone)]
pub struct Kernel {
    image: PathBuf,
    modules: PathBuf,
}

/// What a machine can be made of here; or why none can.
pub fn available() -> Result<Kernel, String> {
    if !cfg!(target_arch = "x86_64") {
        return Err("the guest is one of x86_64".into());
    }
    for (program, package) in [("qemu-system-x86_64", "qemu-system-x86"), ("mkfs.ext4", "e2fsprogs")] {
        if find(program).is_none() {
            return Err(format!("there is no {program} (Debian package {package})"));
        }
    }
    let mut kernels: Vec<String> = fs::read_dir("/boot")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|e| e.file_name().to_str()?.strip_prefix("vmlinuz-").map(str::to_owned))
        .filter(|version| version.contains("cloud"))
        .collect();
    kernels.sort();
    let version = kernels.pop().ok_or("there is no kernel (Debian package linux-image-cloud-amd64)")?;
    let modules = Path::new("/lib/modules").join(&version);
    if !modules.join("modules.dep").is_file() {
        return Err(format!("{} has no modules", modules.display()));
    }
    Ok(Kernel { image: format!("/boot/vmlinuz-{version}").into(), modules })
}

fn find(program: &str) -> Option<PathBuf> {
    let dirs = std::env::var("PATH").unwrap_or_default();
    dirs.split(':')
        .chain(["/usr/sbin", "/sbin"])
        .map(|dir| Path::new(dir).join(program))
        .find(|path| path.is_file())
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// The disks of a machine.
#[derive(Debug)]
pub struct Guest {
    kernel: Kernel,
    dir: tempfile::TempDir,
    disks: Vec<PathBuf>,
}

impl Guest {
    /// One that has archives of images to load in `/images`, and a registry's directory with images to pull. None: there is
    /// no machine here. `more` are further files, as for [`new`](Self::new).
    pub fn with_images(pulled: &[&str], loaded: &[&str], more: &[(&str, &Path)]) -> Option<Self> {
        let kernel = match available() {
            Ok(kernel) => kernel,
            Err(why) => {
                eprintln!("skipped: {why}");
                return None;
            }
        };
        let d = Daemon::start();
        let base = image::busybox_tar();
        let archive =
            |repo: &str, name: &str| image::docker_archive(repo, &[base.clone(), image::own_layer(name)]);
        let mut files: Vec<(String, PathBuf)> = Vec::new();
        for name in loaded {
            let path = d.path(&format!("{name}.tar"));
            image::save(&path, &archive(&format!("{name}:1"), name));
            files.push((format!("images/{name}.tar"), path));
        }
        if !pulled.is_empty() {
            let serve = Serve::start(&d, 5000, pulled);
            files.push(("registry".into(), serve.root.clone()));
        }
        let mut files: Vec<(&str, &Path)> =
            files.iter().map(|(name, path)| (name.as_str(), path.as_path())).collect();
        files.extend(more);
        Some(Self::new(kernel, &files))
    }

    /// Makes both disks. `files` are further files and directories of the system disk: path in the guest, path here.
    pub fn new(kernel: Kernel, files: &[(&str, &Path)]) -> Self {
        let dir = tempfile::Builder::new().prefix("wharf-guest-").tempdir().expect("temporary directory");
        let guest = Self { kernel, dir, disks: Vec::new() };
        guest.initramfs();
        guest.system(files);
        guest.new_data_disk();
        guest
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// An empty data disk in place of the one there is.
    pub fn new_data_disk(&self) {
        let path = self.path("data.img");
        let file = fs::File::create(&path).expect("data disk");
        file.set_len(1 << 30).expect("size of the data disk");
        run(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&path));
    }

    /// Modules that these need, and then these.
    fn modules(&self, wanted: &[&str]) -> Vec<String> {
        let table = fs::read_to_string(self.kernel.modules.join("modules.dep")).expect("modules.dep");
        let table: BTreeMap<&str, Vec<&str>> = table
            .lines()
            .filter_map(|line| line.split_once(':'))
            .map(|(module, needs)| (module, needs.split_whitespace().collect()))
            .collect();
        let mut order: Vec<String> = Vec::new();
        for (module, needs) in &table {
            let name = module.rsplit('/').next().unwrap_or(module).trim_end_matches(".ko");
            if wanted.iter().any(|w| *w == name || module.starts_with(w)) {
                // The table lists what a module needs with the deepest last.
                for one in needs.iter().rev().chain([module]) {
                    if !order.iter().any(|known| known == one) {
                        order.push((*one).to_owned());
                    }
                }
            }
        }
        order
    }

    fn initramfs(&self) {
        let mut archive = Cpio::default();
        for dir in ["bin", "modules"] {
            archive.add(dir, 0o40755, b"");
        }
        let busybox = fs::read(find("busybox").expect("busybox-static")).expect("busybox");
        archive.add("bin/busybox", 0o100_755, &busybox);
        archive.add("init", 0o100_755, include_bytes!("../guest/init.sh"));
        let mut order = String::new();
        for module in self.modules(&EARLY) {
            let name = module.rsplit('/').next().expect("name");
            let content = fs::read(self.kernel.modules.join(&module)).expect("module");
            archive.add(&format!("modules/{name}"), 0o100_644, &content);
            order.push_str(name);
            order.push('\n');
        }
        archive.add("modules/order", 0o100_644, order.as_bytes());
        fs::write(self.path("initramfs"), archive.finish()).expect("initramfs");
    }

    fn system(&self, files: &[(&str, &Path)]) {
        let root = self.path("system");
        for dir in ["bin", "sbin", "proc", "sys", "dev", "tmp", "run", "data", "etc", "images", "lib/modules"]
        {
            fs::create_dir_all(root.join(dir)).expect("system disk");
        }
        let busybox = find("busybox").expect("busybox-static");
        fs::copy(&busybox, root.join("bin/busybox")).expect("busybox");
        let applets = Command::new(&busybox).arg("--list").output().expect("busybox --list").stdout;
        for applet in String::from_utf8_lossy(&applets).split_whitespace().filter(|a| *a != "busybox") {
            symlink("busybox", root.join("bin").join(applet)).expect("applet");
        }
        symlink("../bin/busybox", root.join("sbin/modprobe")).expect("modprobe");
        for (name, text) in [
            ("init", include_str!("../guest/system.sh")),
            ("storm.sh", include_str!("../guest/storm.sh")),
            ("smoke.sh", include_str!("../guest/smoke.sh")),
            ("confine.sh", include_str!("../guest/confine.sh")),
            ("storage.sh", include_str!("../guest/storage.sh")),
            ("checkpoint.sh", include_str!("../guest/checkpoint.sh")),
            ("etc/passwd", "root:x:0:0:root:/:/bin/sh\n"),
            ("etc/group", "root:x:0:\n"),
            ("etc/subuid", "containers:2147483647:2147483648\n"),
            ("etc/subgid", "containers:2147483647:2147483648\n"),
            ("etc/hosts", "127.0.0.1 localhost\n"),
            ("etc/resolv.conf", ""),
        ] {
            fs::write(root.join(name), text).expect("system disk");
        }
        fs::set_permissions(root.join("init"), fs::Permissions::from_mode(0o755)).expect("init");
        let docker = find("docker").expect("docker");
        for program in [bin_dir().join("wharf"), bin_dir().join("wharf-compile"), docker] {
            add_program(&root, &program);
        }
        fs::create_dir(root.join("bin/plugins")).expect("plugins");
        // CRIU packs file systems in memory with options that busybox does not have.
        for program in ["xfs_quota", "criu", "tar", "gzip"].into_iter().filter_map(find) {
            add_program(&root, &program);
        }
        for plugin in PLUGINS {
            let name = format!("{plugin}.wasm");
            fs::copy(bin_dir().join("plugins").join(&name), root.join("bin/plugins").join(&name))
                .expect("plugin");
        }
        compile_plugins(&root.join("compiled"));
        let modules = root.join("lib/modules").join(self.kernel.modules.file_name().expect("version"));
        for module in self.modules(&MODULES) {
            let to = modules.join(&module);
            fs::create_dir_all(to.parent().expect("parent")).expect("modules");
            fs::copy(self.kernel.modules.join(&module), to).expect("module");
        }
        for table in ["modules.dep", "modules.alias", "modules.symbols", "modules.builtin"] {
            fs::copy(self.kernel.modules.join(table), modules.join(table)).expect("table of modules");
        }
        for (name, from) in files {
            let to = root.join(name);
            fs::create_dir_all(to.parent().expect("parent")).expect("system disk");
            run(Command::new("cp").arg("-a").arg(from).arg(to));
            if name.starts_with("sbin/") {
                add_libraries(&root, from);
            }
        }
        let image = self.path("system.img");
        fs::File::create(&image).and_then(|f| f.set_len(1 << 30)).expect("system disk");
        run(Command::new("mkfs.ext4").args(["-q", "-F", "-O", "^has_journal", "-d"]).arg(&root).arg(&image));
        fs::remove_dir_all(&root).expect("system disk");
    }

    /// One more disk, made by this command line, to which its file is added. They are `/dev/vdc` and so on, as made.
    pub fn add_disk(&mut self, mkfs: &[&str]) {
        let path = self.path(&format!("disk{}.img", self.disks.len()));
        fs::File::create(&path).and_then(|file| file.set_len(1 << 30)).expect("disk");
        run(Command::new(mkfs[0]).args(&mkfs[1..]).arg(&path));
        self.disks.push(path);
    }

    /// Switches the machine on. `task` is the script that it runs, and further words of the kernel's command line.
    pub fn boot(&self, task: &str) -> Machine {
        let data = format!("file={},format=raw,if=virtio,cache=writeback", self.path("data.img").display());
        self.switch_on(task, &["-drive".into(), data])
    }

    /// As [`boot`](Self::boot), with every write to the data disk and every flush of it in a log, as
    /// [`BlockLog`](crate::blocklog::BlockLog) reads it. Answers the log, and the disk as it was before.
    pub fn boot_logged(&self, task: &str) -> (Machine, PathBuf, PathBuf) {
        let (data, before, log) = (self.path("data.img"), self.path("before.img"), self.path("log.img"));
        run(Command::new("cp").arg("--sparse=always").arg(&data).arg(&before));
        fs::File::create(&log).and_then(|file| file.set_len(8 << 30)).expect("log of the disk");
        let file =
            |name: &str, path: &Path| format!("driver=file,node-name={name},filename={}", path.display());
        let words = [
            "-blockdev",
            &file("data", &data),
            "-blockdev",
            &file("log", &log),
            "-blockdev",
            "driver=blklogwrites,node-name=logged,file=data,log=log,log-sector-size=512,log-super-update-interval=1",
            "-device",
            // Behind the system disk, which takes the first free place.
            "virtio-blk-pci,drive=logged,discard=off,write-zeroes=off,addr=0x1e",
        ];
        (self.switch_on(task, &words.map(str::to_owned)), before, log)
    }

    fn switch_on(&self, task: &str, data: &[String]) -> Machine {
        let mut more = Vec::new();
        for disk in &self.disks {
            more.push("-drive".to_owned());
            more.push(format!("file={},format=raw,if=virtio,cache=writeback", disk.display()));
        }
        let mut child = Command::new("qemu-system-x86_64")
            // Its clock counts instructions while it works, so that a busy host makes no time-out of a guest's run out.
            .args(["-accel", "tcg,thread=single", "-icount", "shift=1,sleep=on"])
            .args(["-cpu", "max,la57=off", "-smp", "1", "-m", "1024"])
            .args(["-nographic", "-no-reboot", "-nic", "none", "-monitor", "none", "-serial", "stdio"])
            .arg("-kernel")
            .arg(&self.kernel.image)
            .arg("-initrd")
            .arg(self.path("initramfs"))
            .arg("-append")
            .arg(format!("console=ttyS0 loglevel=4 no_timer_check panic=-1 task={task}"))
            .arg("-drive")
            .arg(format!("file={},format=raw,if=virtio,readonly=on", self.path("system.img").display()))
            .args(data)
            .args(more)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .expect("qemu-system-x86_64");
        let console = child.stdout.take().expect("console");
        let (to, lines) = channel();
        std::thread::spawn(move || {
            let mut console = BufReader::new(console);
            let mut line = Vec::new();
            while console.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
                if to.send(String::from_utf8_lossy(&line).trim().to_owned()).is_err() {
                    return;
                }
                line.clear();
            }
        });
        Machine { child, lines, all: Vec::new() }
    }
}

/// The plugins in the form that every processor of this kind loads, as the daemon's own cache would have them.
fn compile_plugins(cache: &Path) {
    let compiler = bin_dir().join("wharf-compile");
    let version = Command::new(&compiler).arg("--fingerprint").output().expect("wharf-compile").stdout;
    let dir = cache.join(String::from_utf8_lossy(&version).trim());
    fs::create_dir_all(&dir).expect("cache of plugins");
    for one in [cache, &dir] {
        fs::set_permissions(one, fs::Permissions::from_mode(0o700)).expect("cache of plugins");
    }
    for plugin in PLUGINS {
        let path = bin_dir().join("plugins").join(format!("{plugin}.wasm"));
        let component = fs::read(&path).expect("plugin");
        let output = Command::new(&compiler)
            .arg("--portable")
            .stdin(fs::File::open(&path).expect("plugin"))
            .stderr(Stdio::inherit())
            .output()
            .expect("wharf-compile");
        assert!(output.status.success(), "wharf-compile --portable < {}", path.display());
        let name = format!("{}-{}", sha256(&component), sha256(&output.stdout));
        let form = dir.join(name);
        fs::write(&form, &output.stdout).expect("compiled plugin");
        fs::set_permissions(&form, fs::Permissions::from_mode(0o600)).expect("compiled plugin");
    }
}

/// A program, without what debuggers need, and the libraries that it is linked with.
fn add_program(root: &Path, program: &Path) {
    let to = root.join("bin").join(program.file_name().expect("name"));
    // In place of the applet, not through its link.
    let _ = fs::remove_file(&to);
    let stripped = Command::new("strip").arg("-o").arg(&to).arg(program).output();
    if !stripped.is_ok_and(|output| output.status.success()) {
        fs::copy(program, &to).expect("program");
    }
    add_libraries(root, program);
}

/// The libraries that a program is linked with.
fn add_libraries(root: &Path, program: &Path) {
    let linked = Command::new("ldd").arg(program).output().expect("ldd").stdout;
    for word in String::from_utf8_lossy(&linked).split_whitespace().filter(|w| w.starts_with('/')) {
        let to = root.join(word.trim_start_matches('/'));
        if !to.exists() {
            fs::create_dir_all(to.parent().expect("parent")).expect("libraries");
            fs::copy(word, to).expect("library");
        }
    }
}

/// A machine that is switched on. Dropping it cuts its power.
#[derive(Debug)]
pub struct Machine {
    child: Child,
    lines: Receiver<String>,
    all: Vec<String>,
}

impl Machine {
    /// The next thing that the guest says; None when the time is over. A machine that ends by itself says `off`.
    pub fn next(&mut self, until: Instant) -> Option<String> {
        loop {
            match self.lines.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    let said = line.split_once("@@ ").map(|(_, said)| said.to_owned());
                    eprintln!("guest: {line}");
                    self.all.push(line);
                    if said.is_some() {
                        return said;
                    }
                }
                Err(RecvTimeoutError::Timeout) => return None,
                Err(RecvTimeoutError::Disconnected) => return Some("off".into()),
            }
        }
    }

    /// All that was written to the console, for messages.
    pub fn console(&self) -> String {
        self.all.join("\n")
    }

    /// Everything that the guest says up to this line.
    #[track_caller]
    pub fn until(&mut self, last: &str, patience: Duration) -> Vec<String> {
        let end = Instant::now() + patience;
        let mut said = Vec::new();
        loop {
            let Some(line) = self.next(end) else {
                panic!("the guest did not say {last:?} within {patience:?}:\n{}", self.console())
            };
            let slow = line == "slow";
            if line == last {
                return said;
            }
            if slow {
                said.push(line);
                return said;
            }
            assert!(line != "off" && line != "end", "the guest ended before {last:?}:\n{}", self.console());
            said.push(line);
        }
    }

    /// Cuts the power: what the guest has not written to its disk is lost. Answers what it still said.
    pub fn cut(mut self) -> Vec<String> {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let mut said = Vec::new();
        while let Some(line) = self.next(Instant::now() + Duration::from_secs(5)).filter(|l| l != "off") {
            said.push(line);
        }
        said
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An archive in the format of initial memory file systems (`newc`).
#[derive(Debug, Default)]
struct Cpio {
    out: Vec<u8>,
    names: BTreeSet<String>,
}

impl Cpio {
    fn add(&mut self, name: &str, mode: u32, content: &[u8]) {
        assert!(self.names.insert(name.to_owned()), "{name} twice");
        let fields = [
            u32::try_from(self.names.len()).expect("number"),
            mode,
            0,
            0,
            1,
            0,
            u32::try_from(content.len()).expect("size"),
            0,
            0,
            0,
            0,
            u32::try_from(name.len() + 1).expect("name"),
            0,
        ];
        self.out.extend_from_slice(b"070701");
        for field in fields {
            let _ = write!(self.out, "{field:08x}");
        }
        self.out.extend_from_slice(name.as_bytes());
        self.out.push(0);
        self.out.resize(self.out.len().next_multiple_of(4), 0);
        self.out.extend_from_slice(content);
        self.out.resize(self.out.len().next_multiple_of(4), 0);
    }

    fn finish(mut self) -> Vec<u8> {
        self.add("TRAILER!!!", 0, b"");
        self.out
    }
}
