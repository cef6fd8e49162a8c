//! A forwarder of its own for every test, in a network namespace of its own; the container is 127.0.0.2 there.
#![allow(dead_code, reason = "every test file uses a part of it")]

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use wharf_forward::{Counts, Forwarder};
use wharf_kernel::sys::netlink::{Hold, listen_port};
use wharf_kernel::sys::process as sys;
use wharf_plan::net::{Forward, Protocol};

const PROGRAM: &str = env!("CARGO_BIN_EXE_wharf-forward");

const PATIENCE: Duration = Duration::from_secs(20);

#[track_caller]
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A container's address.
pub(crate) fn inside(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::new(127, 0, 0, 2), port))
}

pub(crate) fn at(host: &str, port: u16) -> SocketAddr {
    SocketAddr::new(host.parse().unwrap(), port)
}

pub(crate) struct Rig {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) forwarder: Option<Forwarder>,
}

impl Rig {
    pub(crate) fn new() -> Self {
        Self::made(|_| ())
    }

    /// With a limit of open files for the forwarder.
    pub(crate) fn with_files(files: u32) -> Self {
        Self::made(|dir| {
            let program = dir.join("program");
            let text = format!("#!/bin/sh\nulimit -n {files}\nexec {PROGRAM} \"$@\"\n");
            std::fs::write(&program, text).unwrap();
            std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
        })
    }

    fn made(prepare: impl FnOnce(&Path)) -> Self {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("root is needed");
        wharf_kernel::sys::net_device::loopback_up().unwrap();
        let dir = tempfile::tempdir().unwrap();
        prepare(dir.path());
        let forwarder = Some(Self::client(dir.path()));
        Self { dir, forwarder }
    }

    /// What a daemon has.
    pub(crate) fn client(dir: &Path) -> Forwarder {
        let listen = |forward: &Forward| {
            let kind = if forward.protocol == Protocol::Tcp { Hold::Tcp } else { Hold::Udp };
            listen_port(kind, forward.host).map(|(socket, _)| socket).map_err(|e| e.to_string())
        };
        let own = dir.join("program");
        let program = if own.exists() { own } else { PROGRAM.into() };
        Forwarder::new(dir, &program, Box::new(listen))
    }

    pub(crate) fn daemon(&self) -> &Forwarder {
        self.forwarder.as_ref().unwrap()
    }

    /// Publishes a port of the host for one of the container.
    pub(crate) fn publish(&self, owner: &str, protocol: Protocol, host: SocketAddr, port: u16) -> Forward {
        let kind = if protocol == Protocol::Tcp { Hold::Tcp } else { Hold::Udp };
        let (socket, chosen) = listen_port(kind, host).unwrap();
        let host = SocketAddr::new(host.ip(), chosen);
        let forward = Forward { protocol, host, container: inside(port) };
        self.daemon().add(owner, vec![(forward, socket)]).unwrap();
        forward
    }

    /// The daemon is gone without a word, and another one is there that wants these.
    pub(crate) fn next_daemon(&mut self, wanted: &[(&str, Forward)]) {
        self.forwarder = None;
        self.forwarder = Some(Self::client(self.dir.path()));
        let wanted: BTreeSet<_> = wanted.iter().map(|(id, forward)| ((*id).to_owned(), *forward)).collect();
        assert_eq!(self.daemon().adopt(wanted), []);
    }

    pub(crate) fn counts(&self) -> Counts {
        self.daemon().counts().unwrap()
    }

    /// The forwarder's process.
    pub(crate) fn pid(&self) -> i32 {
        let mut pids = self.processes().into_iter().map(|(pid, _)| pid);
        let pid = pids.next().expect("a forwarder");
        assert_eq!(pids.next(), None, "one is enough");
        pid
    }

    pub(crate) fn signal(pid: i32, signal: i32) {
        let process = sys::pidfd_open(pid).unwrap();
        sys::pidfd_send_signal(process.as_fd(), signal).unwrap();
    }

    /// Those whose command line names this test's directory.
    pub(crate) fn processes(&self) -> Vec<(i32, String)> {
        let needle = self.dir.path().display().to_string();
        let line = |pid: i32| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
            Some((pid, String::from_utf8_lossy(&line).replace('\0', " ")))
        };
        std::fs::read_dir("/proc")
            .unwrap()
            .flatten()
            .filter_map(|entry| line(entry.file_name().to_str()?.parse().ok()?))
            .filter(|(_, line)| line.contains(&needle))
            .collect()
    }

    /// Without ports and a daemon there is soon no forwarder either.
    pub(crate) fn end(mut self) {
        self.next_daemon(&[]);
        self.forwarder = None;
        eventually("the end of the forwarder", || self.processes().is_empty());
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for (pid, _) in self.processes() {
                Self::signal(pid, libc::SIGKILL);
            }
        }
    }
}

/// Takes connections at a container's port, and sends back what comes on each until its end.
pub(crate) fn echo(port: u16) {
    let listener = TcpListener::bind(inside(port)).unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut buffer = vec![0; 256 << 10];
                while let Ok(length) = stream.read(&mut buffer) {
                    if length == 0 || stream.write_all(&buffer[..length]).is_err() {
                        return;
                    }
                }
            });
        }
    });
}

/// A connection that is answered.
pub(crate) fn spoken(to: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(to).unwrap();
    said(&mut stream, b"hello");
    stream
}

#[track_caller]
pub(crate) fn said(stream: &mut TcpStream, words: &[u8]) {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(words).unwrap();
    let mut heard = vec![0; words.len()];
    stream.read_exact(&mut heard).unwrap();
    assert_eq!(heard, words);
}
