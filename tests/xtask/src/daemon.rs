//! A daemon of our own: in a temporary directory, on a socket of its own, in a network namespace of its own.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::shell::{ask, is_root, on_path, run_quiet};

/// The first start on a slow machine compiles every plugin.
const PATIENCE: Duration = Duration::from_mins(2);

/// A running daemon.
pub(crate) struct Daemon {
    bin: PathBuf,
    dir: PathBuf,
    pid: u32,
    ended: Receiver<String>,
    /// How long it took until it answered.
    pub(crate) ready: Duration,
}

impl Daemon {
    /// Starts the one in `bin`.
    pub(crate) fn start(bin: &Path) -> Result<Self> {
        if !is_root() {
            bail!("containers need root: run this as root");
        }
        let dir = std::env::temp_dir().join(format!("wharf-run-{}", std::process::id()));
        std::fs::create_dir_all(dir.join("data"))?;
        run_quiet(Command::new("chmod").arg("0711").arg(&dir))?;
        share_compiled(&compiled(bin), &cache(&dir))?;
        let log = File::create(dir.join("daemon.log"))?;
        let started = Instant::now();
        let child = Command::new("setpriv")
            // Whatever ends us, also Ctrl-C, ends the daemon.
            .args(["--pdeathsig", "TERM", "unshare", "--net", "sh", "-c"])
            .arg("ip link set lo up 2>/dev/null; exec \"$@\"")
            .arg("sh")
            .arg(bin.join("wharf"))
            .args(["daemon", "--host"])
            .arg(format!("unix://{}", dir.join("wharf.sock").display()))
            .arg("--data-root")
            .arg(dir.join("data"))
            .arg("--exec-root")
            .arg(dir.join("exec"))
            .arg("--pidfile")
            .arg(dir.join("wharf.pid"))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("cannot start setpriv (Debian package util-linux)")?;
        let pid = child.id();
        let ended = watch(child);
        let mut daemon = Self { bin: bin.to_owned(), dir, pid, ended, ready: Duration::ZERO };
        daemon.wait_until_ready(started)?;
        daemon.ready = started.elapsed();
        Ok(daemon)
    }

    /// A `wharf` command line against it.
    pub(crate) fn wharf(&self) -> Command {
        let mut command = Command::new(self.bin.join("wharf"));
        command.arg("--host").arg(format!("unix://{}", self.dir.join("wharf.sock").display()));
        command
    }

    /// Removes its containers, stops it, and removes its directory.
    pub(crate) fn stop(self) -> Result<()> {
        if let Some(ids) = ask(self.wharf().args(["ps", "--all", "--quiet"])) {
            for id in ids.split_whitespace() {
                run_quiet(self.wharf().args(["rm", "--force", "--volumes", id]))?;
            }
        }
        run_quiet(Command::new("kill").arg(self.pid.to_string()))?;
        let status = self.ended.recv_timeout(PATIENCE).context("the daemon did not end")?;
        if status != "exit status: 0" {
            bail!("the daemon ended with {status}\n{}", self.log());
        }
        let cache = cache(&self.dir);
        let shared = compiled(&self.bin);
        if cache.is_dir() {
            let _ = std::fs::remove_dir_all(&shared);
            share_compiled(&cache, &shared)?;
        }
        std::fs::remove_dir_all(&self.dir).with_context(|| format!("cannot remove {}", self.dir.display()))
    }

    fn wait_until_ready(&self, started: Instant) -> Result<()> {
        while started.elapsed() < PATIENCE {
            if ping(&self.dir.join("wharf.sock")) {
                return Ok(());
            }
            // The socket gives no event when it appears; the daemon's end does.
            match self.ended.recv_timeout(Duration::from_millis(5)) {
                Err(RecvTimeoutError::Timeout) => {}
                Ok(status) => bail!("the daemon ended with {status}\n{}", self.log()),
                Err(RecvTimeoutError::Disconnected) => bail!("the daemon ended\n{}", self.log()),
            }
        }
        let _ = run_quiet(Command::new("kill").arg(self.pid.to_string()));
        bail!("the daemon does not answer\n{}", self.log());
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.join("daemon.log")).unwrap_or_default()
    }
}

/// Where compiled plugins stay between daemons; the tests' daemons start from there as well.
fn compiled(bin: &Path) -> PathBuf {
    bin.join("plugins-compiled")
}

/// Where a daemon whose files are in `dir` keeps its compiled plugins.
fn cache(dir: &Path) -> PathBuf {
    dir.join("data/compiled")
}

fn share_compiled(from: &Path, to: &Path) -> Result<()> {
    if from.is_dir() && on_path("cp") {
        run_quiet(Command::new("cp").arg("-a").arg(from).arg(to))?;
    }
    Ok(())
}

fn watch(mut child: Child) -> Receiver<String> {
    let (send, receive) = channel();
    std::thread::spawn(move || {
        let status = child.wait().map_or_else(|error| error.to_string(), |status| status.to_string());
        let _ = send.send(status);
    });
    receive
}

fn ping(socket: &Path) -> bool {
    let ask = || -> std::io::Result<bool> {
        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(b"GET /_ping HTTP/1.1\r\nHost: wharf\r\nConnection: close\r\n\r\n")?;
        let mut head = [0; 12];
        stream.read_exact(&mut head)?;
        Ok(head.ends_with(b"200"))
    };
    ask().unwrap_or(false)
}
