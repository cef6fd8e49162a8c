//! The harness of the tests from outside: a real daemon with its own data root and its own network namespace, driven
//! by stock clients.
//!
//! Every [`Daemon`] cleans up when it is dropped and then looks for what it may have left behind: processes, mounts,
//! cgroups and files. Leftovers fail the test.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

pub mod blocklog;
pub mod bundle;
pub mod compose;
pub mod criu;
pub mod fsck;
pub mod fuse;
pub mod guest;
pub mod http;
pub mod image;
pub mod leftovers;
pub mod pace;
pub mod platforms;
pub mod proxy;
pub mod reference;
pub mod registry;
pub mod runtimes;
pub mod serve;
pub mod server;
pub mod userns;

/// How long any single step may take before the test fails; generous, as the machine may be busy.
pub const PATIENCE: Duration = Duration::from_mins(1);

/// The directory that holds `wharf`, `wharf-compile` and `plugins/`: `WHARF_BIN_DIR`, or where cargo put this test.
pub fn bin_dir() -> PathBuf {
    if let Some(dir) = std::env::var_os("WHARF_BIN_DIR") {
        return dir.into();
    }
    // target/<profile>/deps/<test>
    let exe = std::env::current_exe().expect("own path");
    exe.parent().and_then(Path::parent).expect("target directory").to_owned()
}

/// Waits until `ready` gives something; fails the test after [`PATIENCE`].
#[track_caller]
pub fn eventually<T>(what: &str, mut ready: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = ready() {
            return value;
        }
        assert!(Instant::now() < end, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// What a command line printed and how it ended.
#[derive(Debug, Clone)]
pub struct Ran {
    /// The command, for messages.
    pub line: String,
    /// Exit code; -1 where a signal ended it.
    pub code: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Ran {
    fn new(line: String, output: &Output) -> Self {
        Self {
            line,
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Asserts success and gives the output without its last newline.
    #[track_caller]
    pub fn ok(&self) -> String {
        assert_eq!(self.code, 0, "`{}` failed: {}{}", self.line, self.out, self.err);
        self.out.trim_end().to_owned()
    }

    /// Asserts this exit code and that both streams together contain `text`.
    #[track_caller]
    pub fn fails(&self, code: i32, text: &str) -> &Self {
        let all = format!("{}{}", self.out, self.err);
        assert_eq!(self.code, code, "`{}`: {all}", self.line);
        assert!(all.contains(text), "`{}` should say {text:?}, says: {all}", self.line);
        self
    }
}

/// How to start a daemon.
#[derive(Debug, Default, Clone)]
pub struct Options {
    /// Further arguments of `wharf daemon`.
    pub args: Vec<String>,
    /// Content of its configuration file.
    pub config: Option<String>,
    /// A directory of further plugins.
    pub plugins: Option<PathBuf>,
    /// Files of an `/etc` that only the daemon sees, over the machine's: name and content.
    pub etc: Vec<(String, String)>,
    /// Bytes of a file system of its own for the data root; None: it shares the test's.
    pub data_size: Option<u64>,
    /// Variables of its environment.
    pub env: Vec<(String, String)>,
    /// Command line that makes a file system for the data root in a file, which is added to it. It is mounted in a mount
    /// namespace that the calling thread gets, and the daemon with it. Empty: none.
    pub data_mkfs: Vec<String>,
}

/// A running daemon of this test alone.
#[derive(Debug)]
pub struct Daemon {
    dir: tempfile::TempDir,
    options: Options,
    child: Option<Child>,
    /// Keeps the network namespace alive while the daemon is down.
    anchor: Child,
}

impl Daemon {
    /// Starts one with the defaults.
    pub fn start() -> Self {
        Self::with(Options::default())
    }

    /// Starts one with these options.
    pub fn with(options: Options) -> Self {
        let dir = tempfile::Builder::new().prefix("wharf-test-").tempdir().expect("temporary directory");
        // `cat` ends when its standard input is closed, also if this test dies.
        let anchor = Command::new("unshare")
            .args(["--net", "sh", "-c", "ip link set lo up && echo ready && exec cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare (util-linux)");
        let mut daemon = Self { dir, options, child: None, anchor };
        daemon.mount_data();
        let mut line = [0; 6];
        daemon.anchor.stdout.as_mut().expect("stdout").read_exact(&mut line).expect("network namespace");
        fs::create_dir_all(daemon.path("docker-config")).expect("client configuration");
        daemon.share_compiled_plugins();
        daemon.restart();
        daemon
    }

    /// A path of this daemon's own directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The API socket.
    pub fn socket(&self) -> PathBuf {
        self.path("wharf.sock")
    }

    /// `unix://…` of the API socket.
    pub fn host(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    /// The daemon's process id; fails the test when it is not running.
    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.as_ref().expect("a running daemon").id()).expect("pid")
    }

    /// Starts the daemon (again) on the same directories and waits until it answers.
    pub fn restart(&mut self) {
        assert!(self.child.is_none(), "the daemon runs already");
        let log =
            fs::OpenOptions::new().create(true).append(true).open(self.path("daemon.log")).expect("log");
        let mut command = self.program();
        command.arg("daemon").arg("--host").arg(self.host());
        for (flag, name) in [("--data-root", "data"), ("--exec-root", "exec"), ("--pidfile", "wharf.pid")] {
            command.arg(flag).arg(self.path(name));
        }
        let config = self.path("daemon.json");
        fs::write(&config, self.options.config.as_deref().unwrap_or("{}")).expect("daemon.json");
        command.arg("--config-file").arg(config);
        if let Some(plugins) = &self.options.plugins {
            command.arg("--plugin-dir").arg(plugins);
        }
        command.args(&self.options.args).envs(self.options.env.iter().cloned());
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("log")).stderr(log);
        self.child = Some(command.spawn().expect("wharf daemon"));
        eventually("the daemon's first answer", || {
            let ended = self.child.as_mut().and_then(|c| c.try_wait().ok().flatten());
            assert!(ended.is_none(), "the daemon ended: {ended:?}\n{}", self.log());
            http::get(&self.socket(), "/_ping").ok().filter(|r| r.status == 200)
        });
    }

    /// The daemon's program, in a mount namespace of its own where it has files of its own in `/etc`.
    fn program(&self) -> Command {
        let wharf = bin_dir().join("wharf");
        if self.options.etc.is_empty() {
            return self.in_namespace(wharf);
        }
        let (upper, work) = (self.path("etc"), self.path("etc-work"));
        for dir in [&upper, &work] {
            fs::create_dir_all(dir).expect("directory for /etc");
        }
        for (name, content) in &self.options.etc {
            fs::write(upper.join(name), content).expect("file of /etc");
        }
        let mut command = self.in_namespace("unshare");
        command.args(["--mount", "--propagation", "slave", "sh", "-c"]);
        command.arg(format!(
            "mount -t overlay overlay -o lowerdir=/etc,upperdir={},workdir={} /etc && exec \"$@\"",
            upper.display(),
            work.display()
        ));
        command.arg("sh").arg(wharf);
        command
    }

    /// Further arguments from the next start on, in place of those of [`Options`].
    pub fn set_args(&mut self, args: &[&str]) {
        self.options.args = args.iter().map(|a| (*a).to_owned()).collect();
    }

    /// Another content of the configuration file from the next start on.
    pub fn configure(&mut self, config: &str) {
        self.options.config = Some(config.to_owned());
    }

    /// A command that runs inside the daemon's network namespace.
    pub fn in_namespace(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/proc/{}/ns/net", self.anchor.id())).arg("--").arg(program);
        command
    }

    /// The file of the daemon's network namespace.
    pub fn namespace(&self) -> PathBuf {
        format!("/proc/{}/ns/net", self.anchor.id()).into()
    }

    /// All that the daemon printed so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.path("daemon.log")).unwrap_or_default()
    }

    /// Ends the daemon with a signal and waits for its end.
    pub fn signal(&mut self, signal: Signal) -> std::process::ExitStatus {
        let mut child = self.child.take().expect("a running daemon");
        kill(Pid::from_raw(i32::try_from(child.id()).expect("pid")), signal).expect("signal");
        eventually("the daemon's end", || child.try_wait().expect("wait"))
    }

    /// `kill -9` and wait.
    pub fn crash(&mut self) {
        self.signal(Signal::SIGKILL);
    }

    /// `SIGTERM` and wait.
    pub fn stop(&mut self) {
        let status = self.signal(Signal::SIGTERM);
        assert!(status.success(), "the daemon ended with {status}\n{}", self.log());
    }

    /// A command of the stock docker CLI, ready to run.
    pub fn docker_command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("docker");
        command.env("DOCKER_HOST", self.host()).env("DOCKER_CONFIG", self.path("docker-config")).args(args);
        command
    }

    /// Runs the stock docker CLI.
    #[track_caller]
    pub fn docker(&self, args: &[&str]) -> Ran {
        self.run_with_input(self.docker_command(args), b"")
    }

    /// Runs the stock docker CLI with this standard input.
    #[track_caller]
    pub fn docker_with_input(&self, args: &[&str], input: &[u8]) -> Ran {
        self.run_with_input(self.docker_command(args), input)
    }

    /// Runs the `wharf` command line against this daemon.
    #[track_caller]
    pub fn wharf(&self, args: &[&str]) -> Ran {
        let mut command = Command::new(bin_dir().join("wharf"));
        command.env("WHARF_HOST", self.host()).env("DOCKER_CONFIG", self.path("docker-config")).args(args);
        self.run_with_input(command, b"")
    }

    /// Runs a command to its end, with a limit on its time.
    #[track_caller]
    pub fn run_with_input(&self, mut command: Command, input: &[u8]) -> Ran {
        let line = format!("{command:?}");
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("{line}: {e}"));
        let pid = Pid::from_raw(i32::try_from(child.id()).expect("pid"));
        let mut stdin = child.stdin.take().expect("stdin");
        let input = input.to_vec();
        let writer = std::thread::spawn(move || {
            // A program that does not read its input is free to do so.
            let _ = stdin.write_all(&input);
        });
        let (done, timer) = std::sync::mpsc::channel::<()>();
        let watchdog = std::thread::spawn(move || {
            if timer.recv_timeout(PATIENCE).is_err_and(|e| e == std::sync::mpsc::RecvTimeoutError::Timeout) {
                let _ = kill(pid, Signal::SIGKILL);
                return true;
            }
            false
        });
        let output = child.wait_with_output().expect("output");
        drop(done);
        writer.join().expect("writer");
        let hung = watchdog.join().expect("watchdog");
        let ran = Ran::new(line, &output);
        assert!(!hung, "`{}` hung; it printed: {}{}\ndaemon: {}", ran.line, ran.out, ran.err, self.log());
        ran
    }

    /// Imports the busybox image as `busybox:latest`.
    #[track_caller]
    pub fn import_busybox(&self) -> String {
        let tar = image::busybox_tar();
        self.docker_with_input(&["import", "-", "busybox:latest"], &tar).ok()
    }

    /// One request to the API; the body may be empty.
    #[track_caller]
    pub fn api(&self, method: &str, path: &str, body: &str) -> http::Response {
        http::request(&self.socket(), method, path, body)
            .unwrap_or_else(|e| panic!("{method} {path}: {e}\n{}", self.log()))
    }

    /// Compiling the bundled plugins takes seconds; daemons of one test run share the compiled forms.
    fn share_compiled_plugins(&self) {
        let shared = bin_dir().join("plugins-compiled");
        let own = self.path("data").join("compiled");
        fs::create_dir_all(&own).expect("data root");
        for (path, mode) in [(&self.path("data"), 0o710), (&own, 0o700)] {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("mode of the data root");
        }
        if shared.is_dir() {
            let status = Command::new("cp")
                .arg("-a")
                .arg(format!("{}/.", shared.display()))
                .arg(&own)
                .status()
                .expect("cp");
            assert!(status.success());
        }
    }

    /// The data root on a small disk, so that tests can fill it.
    fn mount_data(&self) {
        if let [program, arguments @ ..] = self.options.data_mkfs.as_slice() {
            let disk = self.path("disk");
            fs::File::create(&disk).and_then(|file| file.set_len(2 << 30)).expect("disk");
            let made = Command::new(program).args(arguments).arg(&disk).output().expect(program);
            assert!(made.status.success(), "{program}: {}", String::from_utf8_lossy(&made.stderr));
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).expect("mount namespace");
            let private = nix::mount::MsFlags::MS_REC | nix::mount::MsFlags::MS_PRIVATE;
            nix::mount::mount(None::<&str>, "/", None::<&str>, private, None::<&str>)
                .expect("private mounts");
            fs::create_dir_all(self.path("data")).expect("data root");
            let mounted =
                Command::new("mount").args(["-o", "loop"]).arg(&disk).arg(self.path("data")).output();
            let mounted = mounted.expect("mount");
            assert!(mounted.status.success(), "{}", String::from_utf8_lossy(&mounted.stderr));
        }
        let Some(size) = self.options.data_size else { return };
        let data = self.path("data");
        fs::create_dir_all(&data).expect("data root");
        let (none, options) = (nix::mount::MsFlags::empty(), format!("size={size},mode=710"));
        nix::mount::mount(Some("wharf-test"), &data, Some("tmpfs"), none, Some(options.as_str()))
            .expect("a file system for the data root");
    }

    fn end_everything(&mut self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.child.is_none() && self.socket().exists() {
            // A test that crashed the daemon and did not start it again: its containers still run.
            self.restart();
        }
        if self.child.is_some() && !std::thread::panicking() {
            let ids = self.docker(&["ps", "-aq"]).out;
            for id in ids.split_whitespace() {
                let ran = self.docker(&["rm", "-f", "-v", id]);
                if ran.code != 0 {
                    problems.push(format!("could not remove {id}: {}", ran.err));
                }
            }
        }
        if let Some(mut child) = self.child.take() {
            let pid = Pid::from_raw(i32::try_from(child.id()).unwrap_or(0));
            let _ = kill(pid, Signal::SIGTERM);
            let end = Instant::now() + PATIENCE;
            while child.try_wait().ok().flatten().is_none() {
                if Instant::now() > end {
                    problems.push("the daemon did not end on SIGTERM".into());
                    let _ = child.kill();
                    let _ = child.wait();
                    break;
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        problems
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let mut problems = self.end_everything();
        if self.options.data_size.is_some() || !self.options.data_mkfs.is_empty() {
            // Whatever still uses it keeps it to itself.
            let _ = nix::mount::umount2(&self.path("data"), nix::mount::MntFlags::MNT_DETACH);
        }
        problems.extend(leftovers::look(self.dir.path()));
        leftovers::force(self.dir.path());
        let _ = self.anchor.kill();
        let _ = self.anchor.wait();
        if std::thread::panicking() {
            eprintln!("--- daemon log ---\n{}", self.log());
        } else {
            assert!(problems.is_empty(), "left behind: {problems:#?}\n--- daemon log ---\n{}", self.log());
        }
    }
}

/// A raw connection to the API socket, for tests of the protocol itself.
pub fn connect(socket: &Path) -> UnixStream {
    let stream = UnixStream::connect(socket).expect("API socket");
    stream.set_read_timeout(Some(PATIENCE)).expect("timeout");
    stream
}

/// Runs on a thread in a network namespace, given by its file.
pub fn in_network<T: Send>(namespace: &Path, work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let file = std::fs::File::open(namespace).expect("network namespace");
            nix::sched::setns(file, nix::sched::CloneFlags::CLONE_NEWNET).expect("setns");
            work()
        });
        thread.join().expect("thread in a network namespace")
    })
}

/// Bytes of all files beneath a directory; none where there is no such directory.
pub fn bytes_beneath(path: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(path) else { return 0 };
    entries
        .map(|entry| {
            let entry = entry.expect("directory entry");
            let meta = entry.metadata().expect("metadata");
            if meta.is_dir() { bytes_beneath(&entry.path()) } else { meta.len() }
        })
        .sum()
}
