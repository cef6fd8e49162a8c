//! A proxy for HTTP in a test daemon's network namespace: `CONNECT`, and whole addresses in the request line. Every name
//! that it is asked for is 127.0.0.1 to it, so names that nobody else knows lead somewhere only through it.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use crate::Daemon;

/// What it was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// `CONNECT name:443`, `GET http://name/path`.
    pub line: String,
    /// `Proxy-Authorization`.
    pub authorization: Option<String>,
}

/// A running proxy; takes no more connections when it is dropped.
pub struct Proxy {
    /// `127.0.0.1:port`.
    pub address: String,
    asked: Arc<Mutex<Vec<Asked>>>,
    ended: Arc<AtomicBool>,
    namespace: fs::File,
}

impl Proxy {
    /// Starts one on this port of the daemon's loopback.
    pub fn start(daemon: &Daemon, port: u16) -> Self {
        let namespace = fs::File::open(daemon.namespace()).expect("namespace");
        let asked: Arc<Mutex<Vec<Asked>>> = Arc::default();
        let ended = Arc::new(AtomicBool::new(false));
        let (own, log, end) =
            (namespace.try_clone().expect("namespace"), Arc::clone(&asked), Arc::clone(&ended));
        let (ready, is_ready) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            nix::sched::setns(own.as_fd(), nix::sched::CloneFlags::CLONE_NEWNET).expect("setns");
            let listener = TcpListener::bind(("127.0.0.1", port)).expect("bind");
            ready.send(()).expect("ready");
            for stream in listener.incoming() {
                if end.load(Ordering::Acquire) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                let log = Arc::clone(&log);
                // Threads are in the namespace of the one that made them.
                std::thread::spawn(move || serve(stream, &log));
            }
        });
        is_ready.recv().expect("the proxy's thread");
        Self { address: format!("127.0.0.1:{port}"), asked, ended, namespace }
    }

    /// All that it was asked so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().expect("asked").clone()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Release);
        let (namespace, address) = (self.namespace.try_clone().expect("namespace"), self.address.clone());
        let _ = std::thread::spawn(move || {
            let _ = nix::sched::setns(namespace.as_fd(), nix::sched::CloneFlags::CLONE_NEWNET);
            let _ = TcpStream::connect(address);
        })
        .join();
    }
}

fn copy(mut from: impl Read, mut to: TcpStream) {
    let _ = std::io::copy(&mut from, &mut to);
    let _ = to.shutdown(std::net::Shutdown::Write);
}

/// Port of `name:port`.
fn port(authority: &str) -> u16 {
    authority.rsplit_once(':').and_then(|(_, p)| p.parse().ok()).unwrap_or(80)
}

fn serve(mut client: TcpStream, log: &Mutex<Vec<Asked>>) -> Option<()> {
    let mut reader = BufReader::new(client.try_clone().ok()?);
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|n| *n > 0)?;
        let line = line.trim_end().to_owned();
        if line.is_empty() {
            break;
        }
        head.push(line);
    }
    let mut words = head.first()?.split(' ');
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    let authorization = head.iter().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("proxy-authorization").then(|| value.trim().to_owned())
    });
    log.lock().ok()?.push(Asked { line: format!("{method} {target}"), authorization });
    let upstream = if method == "CONNECT" {
        let upstream = TcpStream::connect(("127.0.0.1", port(&target))).ok()?;
        client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").ok()?;
        upstream
    } else {
        let rest = target.strip_prefix("http://")?;
        let (authority, path) = rest.split_once('/')?;
        let mut upstream = TcpStream::connect(("127.0.0.1", port(authority))).ok()?;
        // One request for each connection: the next may be for another host.
        let mut text = format!("{method} /{path} HTTP/1.1\r\nConnection: close\r\n");
        for line in head.get(1..)? {
            let name = line.split(':').next().unwrap_or_default().to_lowercase();
            if name != "connection" && !name.starts_with("proxy-") {
                text.push_str(line);
                text.push_str("\r\n");
            }
        }
        text.push_str("\r\n");
        upstream.write_all(text.as_bytes()).ok()?;
        upstream
    };
    let (to_client, from_upstream) = (client.try_clone().ok()?, upstream.try_clone().ok()?);
    let back = std::thread::spawn(move || copy(from_upstream, to_client));
    copy(reader, upstream);
    let _ = back.join();
    Some(())
}
