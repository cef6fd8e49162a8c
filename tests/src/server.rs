//! A web server that does what a test wants, good or bad, in a test daemon's network namespace.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use crate::Daemon;

/// A request as it came.
#[derive(Debug, Clone)]
pub struct Request {
    /// `GET`, `HEAD`…
    pub method: String,
    /// Path and query.
    pub path: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body, if its length was said.
    pub body: Vec<u8>,
}

impl Request {
    /// A header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }
}

/// What is sent after the head.
#[derive(Debug, Clone)]
pub enum Body {
    /// These bytes, with their length.
    Whole(Vec<u8>),
    /// A length that is not true, these bytes, and the end of the connection.
    Cut(u64, Vec<u8>),
    /// A length, and then these bytes again and again until nobody reads any more.
    Endless(u64, Vec<u8>),
    /// A length, these bytes, and then nothing until the test ends or nobody listens any more.
    Stuck(u64, Vec<u8>),
}

/// An answer.
#[derive(Debug, Clone)]
pub struct Reply {
    /// Status.
    pub status: u16,
    /// Further headers.
    pub headers: Vec<(String, String)>,
    /// Body.
    pub body: Body,
}

impl Reply {
    /// A whole body.
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, headers: Vec::new(), body: Body::Whole(body.into()) }
    }

    /// With one more header.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// With this body instead.
    #[must_use]
    pub fn body(mut self, body: Body) -> Self {
        self.body = body;
        self
    }
}

type Handler = dyn Fn(&Request) -> Reply + Send + Sync;

/// A running server; ends with this value.
pub struct Server {
    /// `127.0.0.1:port`.
    pub address: String,
    seen: Arc<Mutex<Vec<Request>>>,
    ended: Arc<AtomicBool>,
    connections: Arc<Mutex<Vec<TcpStream>>>,
    namespace: fs::File,
}

impl Server {
    /// Starts one on this port of the daemon's loopback.
    pub fn start(
        daemon: &Daemon,
        port: u16,
        handler: impl Fn(&Request) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let namespace = fs::File::open(daemon.namespace()).expect("namespace");
        let seen = Arc::new(Mutex::new(Vec::new()));
        let ended = Arc::new(AtomicBool::new(false));
        let connections = Arc::new(Mutex::new(Vec::new()));
        let (ready, is_ready) = std::sync::mpsc::channel();
        let (own, log, end) =
            (namespace.try_clone().expect("namespace"), Arc::clone(&seen), Arc::clone(&ended));
        let open = Arc::clone(&connections);
        let handler: Arc<Handler> = Arc::new(handler);
        std::thread::spawn(move || {
            nix::sched::setns(own.as_fd(), nix::sched::CloneFlags::CLONE_NEWNET).expect("setns");
            let listener = TcpListener::bind(("127.0.0.1", port)).expect("bind");
            ready.send(()).expect("ready");
            for stream in listener.incoming() {
                if end.load(Ordering::Acquire) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                if let Ok(copy) = stream.try_clone() {
                    open.lock().expect("connections").push(copy);
                }
                let (log, handler) = (Arc::clone(&log), Arc::clone(&handler));
                std::thread::spawn(move || serve(stream, &log, &*handler));
            }
        });
        is_ready.recv().expect("the server's thread");
        Self { address: format!("127.0.0.1:{port}"), seen, ended, connections, namespace }
    }

    /// All requests so far.
    pub fn seen(&self) -> Vec<Request> {
        self.seen.lock().expect("seen").clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Release);
        for stream in self.connections.lock().expect("connections").drain(..) {
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
        // Wakes the listener.
        let (namespace, address) = (self.namespace.try_clone().expect("namespace"), self.address.clone());
        let _ = std::thread::spawn(move || {
            let _ = nix::sched::setns(namespace.as_fd(), nix::sched::CloneFlags::CLONE_NEWNET);
            let _ = TcpStream::connect(address);
        })
        .join();
    }
}

fn read(reader: &mut BufReader<TcpStream>) -> Option<Request> {
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|n| *n > 0)?;
    let mut words = line.split(' ');
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let line = line.trim_end();
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(':')?;
        headers.push((name.to_lowercase(), value.trim().to_owned()));
    }
    let length = headers.iter().find(|(n, _)| n == "content-length").and_then(|(_, v)| v.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    reader.read_exact(&mut body).ok()?;
    Some(Request { method, path, headers, body })
}

fn is_tls(stream: &TcpStream) -> bool {
    let mut first = [0];
    stream.peek(&mut first).is_ok_and(|_| first[0] == 0x16)
}

fn serve(mut stream: TcpStream, log: &Mutex<Vec<Request>>, handler: &Handler) {
    // Who tries TLS first shall not wait.
    if stream.peek(&mut [0]).is_ok_and(|n| n == 0) || is_tls(&stream) {
        let _ = stream.shutdown(std::net::Shutdown::Both);
        return;
    }
    let Ok(copy) = stream.try_clone() else { return };
    let mut reader = BufReader::new(copy);
    while let Some(request) = read(&mut reader) {
        let reply = handler(&request);
        let head_only = request.method == "HEAD";
        log.lock().expect("seen").push(request);
        let mut head = format!("HTTP/1.1 {} X\r\n", reply.status);
        for (name, value) in &reply.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        let (length, bytes) = match &reply.body {
            Body::Whole(bytes) => (bytes.len() as u64, bytes),
            Body::Cut(length, bytes) | Body::Endless(length, bytes) | Body::Stuck(length, bytes) => {
                (*length, bytes)
            }
        };
        head.push_str(&format!("Content-Length: {length}\r\n\r\n"));
        if stream.write_all(head.as_bytes()).is_err() {
            return;
        }
        if head_only {
            continue;
        }
        if stream.write_all(bytes).is_err() {
            return;
        }
        match reply.body {
            Body::Whole(_) => {}
            Body::Cut(..) => {
                let _ = stream.shutdown(std::net::Shutdown::Both);
                return;
            }
            Body::Endless(..) => {
                while stream.write_all(bytes).is_ok() {}
                return;
            }
            Body::Stuck(..) => {
                let _ = reader.read_until(0, &mut Vec::new());
                return;
            }
        }
    }
}
