//! Where clients connect to.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use nix::unistd::Group;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixSocket, UnixStream};
use tokio_rustls::TlsAcceptor;
use wharf_tls::Tls;

use super::wire::Socket;

/// Connections that may wait to be accepted.
const BACKLOG: u32 = 1024;

/// An address to listen on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    /// `unix:///path`
    Unix(PathBuf),
    /// `tcp://address:port`
    Tcp(SocketAddr),
    /// `fd://`: the sockets that the service manager handed over; with a name or number one of them.
    Inherited(String),
}

/// Why a server cannot listen where it was told to.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The text is no address.
    #[error("{0}")]
    Address(String),
    /// Everyone who can reach it would be root on this host.
    #[error(
        "refusing to listen on {0}: without TLS and client certificates everyone who can reach it is root on this \
         host. Say --tlsverify with certificates, listen on a unix socket or on 127.0.0.1, or say \
         --allow-insecure-tcp if the network is trusted"
    )]
    Insecure(Listen),
    /// Another server is there.
    #[error("{0} is in use: another daemon answers there")]
    InUse(Listen),
    /// Something that is no socket is there.
    #[error("{0} exists and is not a socket; it was left alone")]
    NotASocket(PathBuf),
    /// The group does not exist.
    #[error("group {0} does not exist")]
    NoGroup(String),
    /// Nothing of the kind was handed over.
    #[error("no sockets found for {0}: was the daemon started by a socket unit?")]
    NotInherited(Listen),
    /// The system refused.
    #[error("cannot listen on {0}: {1}")]
    Io(Listen, #[source] io::Error),
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp(address) => write!(f, "tcp://{address}"),
            Self::Inherited(name) => write!(f, "fd://{name}"),
        }
    }
}

impl Listen {
    /// Reads `unix:///path`, `tcp://address:port`, `fd://name`, or a plain path. A TCP address without a port has Docker's:
    /// 2376 with TLS, 2375 without.
    pub fn parse(text: &str, tls: bool) -> Result<Self, ListenError> {
        let usual = if tls { 2376 } else { 2375 };
        let bad = |why: &str| ListenError::Address(format!("invalid address {text:?} for --host: {why}"));
        if let Some(path) = text.strip_prefix("unix://") {
            let path = if path.is_empty() { "/var/run/docker.sock" } else { path };
            return if path.starts_with('/') {
                Ok(Self::Unix(path.into()))
            } else {
                Err(bad("the path of a unix socket must be absolute"))
            };
        }
        if let Some(address) = text.strip_prefix("tcp://") {
            let address = address.trim_end_matches('/');
            if let Ok(address) = address.parse() {
                return Ok(Self::Tcp(address));
            }
            let port = |text: &str| text.parse().map_err(|_| bad("the port is no number"));
            let (host, port) = match address.rsplit_once(':') {
                _ if address.ends_with(']') => (address, usual),
                Some((host, text)) => (host, port(text)?),
                None => (address, usual),
            };
            return match host {
                "" | "localhost" => Ok(Self::Tcp((IpAddr::from([127, 0, 0, 1]), port).into())),
                _ => match host.trim_matches(['[', ']']).parse::<IpAddr>() {
                    Ok(ip) => Ok(Self::Tcp((ip, port).into())),
                    Err(_) => Err(bad("an IP address is needed, names are not looked up")),
                },
            };
        }
        if text.starts_with('/') {
            return Ok(Self::Unix(text.into()));
        }
        if let Some(name) = text.strip_prefix("fd://") {
            return Ok(Self::Inherited(if name == "*" { String::new() } else { name.to_owned() }));
        }
        Err(bad("use unix:///path or tcp://127.0.0.1:port"))
    }
}

/// How sockets are made.
#[derive(Debug, Clone, Default)]
pub struct ListenOptions {
    /// Group that may use unix sockets. None: `docker` if there is such a group.
    pub group: Option<String>,
    /// TCP without client certificates on addresses that others can reach.
    pub allow_insecure_tcp: bool,
    /// TLS on all TCP sockets.
    pub tls: Option<Tls>,
}

impl ListenOptions {
    /// Refuses an address that would give this host away.
    pub fn allows(&self, address: &Listen) -> Result<(), ListenError> {
        match address {
            Listen::Tcp(socket) if !socket.ip().is_loopback() && !self.open() => {
                Err(ListenError::Insecure(address.clone()))
            }
            _ => Ok(()),
        }
    }

    /// TCP may be reached by others: they prove who they are, or the administrator has said that it is meant so.
    fn open(&self) -> bool {
        self.allow_insecure_tcp || self.tls.as_ref().is_some_and(Tls::verifies)
    }
}

/// A socket that listens; a unix socket's path goes away with it.
#[derive(Debug)]
pub(crate) struct Listener {
    address: Listen,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    /// The path is not ours where the socket was handed over.
    Unix {
        listener: UnixListener,
        _path: Option<OwnPath>,
    },
    Tcp {
        listener: TcpListener,
        tls: Option<Tls>,
        open: bool,
    },
}

/// A client before its handshake, if there is one to be made.
pub(crate) struct Arrival {
    socket: Transport,
    tls: Option<Tls>,
    open: bool,
}

enum Transport {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Arrival {
    /// Makes the handshake.
    pub(crate) async fn ready(self) -> io::Result<Socket> {
        match (self.socket, self.tls) {
            (Transport::Unix(stream), _) => Ok(Socket::Unix(stream)),
            (Transport::Tcp(stream), None) => Ok(Socket::Tcp(stream, self.open)),
            (Transport::Tcp(stream), Some(tls)) => {
                let stream = TlsAcceptor::from(tls.config()).accept(stream).await?;
                Ok(Socket::Tls(Mutex::new(Box::new(stream)), self.open))
            }
        }
    }
}

/// A path that is removed if it is still the same socket.
#[derive(Debug)]
struct OwnPath {
    path: PathBuf,
    identity: (u64, u64),
}

impl Drop for OwnPath {
    fn drop(&mut self) {
        let same = std::fs::symlink_metadata(&self.path).is_ok_and(|m| (m.dev(), m.ino()) == self.identity);
        if same {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

impl Listener {
    pub(crate) fn bind(address: &Listen, options: &ListenOptions) -> Result<Self, ListenError> {
        let failed = |e| ListenError::Io(address.clone(), e);
        let kind = match address {
            Listen::Tcp(socket) => {
                options.allows(address)?;
                let listener = std::net::TcpListener::bind(socket).map_err(failed)?;
                listener.set_nonblocking(true).map_err(failed)?;
                Self::tcp(listener, options).map_err(failed)?
            }
            // These are not made but taken.
            Listen::Inherited(_) => return Err(ListenError::NotInherited(address.clone())),
            Listen::Unix(path) => {
                let group = group(options)?;
                check_path(path, address)?;
                let (listener, own) = bind_unix(path, group).map_err(failed)?;
                Kind::Unix { listener, _path: Some(own) }
            }
        };
        Ok(Self { address: address.clone(), kind })
    }

    fn tcp(listener: std::net::TcpListener, options: &ListenOptions) -> io::Result<Kind> {
        Ok(Kind::Tcp {
            listener: TcpListener::from_std(listener)?,
            tls: options.tls.clone(),
            open: options.allow_insecure_tcp,
        })
    }

    /// Takes a listening socket that somebody else made, under the same rules.
    pub(crate) fn inherit(socket: OwnedFd, name: &str, options: &ListenOptions) -> Result<Self, ListenError> {
        let own = Listen::Inherited(name.to_owned());
        let failed = |e| ListenError::Io(own.clone(), e);
        let family = nix::sys::socket::getsockname::<nix::sys::socket::SockaddrStorage>(socket.as_raw_fd())
            .map_err(|e| failed(e.into()))?;
        let unix = family.as_unix_addr();
        let (address, kind) = if let Some(unix) = unix {
            let path = unix.path().map(Path::to_owned);
            let listener = std::os::unix::net::UnixListener::from(socket);
            listener.set_nonblocking(true).map_err(failed)?;
            let listener = UnixListener::from_std(listener).map_err(failed)?;
            (path.map_or(own, Listen::Unix), Kind::Unix { listener, _path: None })
        } else {
            let listener = std::net::TcpListener::from(socket);
            listener.set_nonblocking(true).map_err(failed)?;
            let address = listener.local_addr().map_err(failed)?;
            options.allows(&Listen::Tcp(address))?;
            (Listen::Tcp(address), Self::tcp(listener, options).map_err(failed)?)
        };
        Ok(Self { address, kind })
    }

    /// The address, with the port that the system chose.
    pub(crate) fn address(&self) -> Listen {
        match &self.kind {
            Kind::Tcp { listener, .. } => {
                listener.local_addr().map_or_else(|_| self.address.clone(), Listen::Tcp)
            }
            Kind::Unix { .. } => self.address.clone(),
        }
    }

    pub(crate) async fn accept(&self) -> io::Result<Arrival> {
        match &self.kind {
            Kind::Unix { listener, .. } => {
                Ok(Arrival { socket: Transport::Unix(listener.accept().await?.0), tls: None, open: false })
            }
            Kind::Tcp { listener, tls, open } => {
                let stream: TcpStream = listener.accept().await?.0;
                stream.set_nodelay(true)?;
                notice_death(&stream)?;
                Ok(Arrival { socket: Transport::Tcp(stream), tls: tls.clone(), open: *open })
            }
        }
    }
}

/// A client whose machine or network is gone says nothing any more, and one that only listens is never written to. So the kernel
/// asks, as often as Docker's does: a client is gone a minute and a half after its last sign of life.
fn notice_death(stream: &TcpStream) -> io::Result<()> {
    use nix::sys::socket::{setsockopt, sockopt};
    setsockopt(stream, sockopt::KeepAlive, &true)?;
    setsockopt(stream, sockopt::TcpKeepIdle, &15)?;
    setsockopt(stream, sockopt::TcpKeepInterval, &15)?;
    setsockopt(stream, sockopt::TcpKeepCount, &5)?;
    // The same for what was sent and is not acknowledged, in milliseconds.
    setsockopt(stream, sockopt::TcpUserTimeout, &90_000)?;
    Ok(())
}

fn group(options: &ListenOptions) -> Result<Option<nix::unistd::Gid>, ListenError> {
    let name = options.group.as_deref().unwrap_or("docker");
    if name.is_empty() {
        return Ok(None);
    }
    let found = match name.parse::<u32>() {
        Ok(gid) => Some(nix::unistd::Gid::from_raw(gid)),
        Err(_) => Group::from_name(name).ok().flatten().map(|g| g.gid),
    };
    match (found, &options.group) {
        (None, Some(name)) => Err(ListenError::NoGroup(name.clone())),
        (found, _) => Ok(found),
    }
}

/// Nothing that is in use or not ours to replace is at the path.
fn check_path(path: &Path, address: &Listen) -> Result<(), ListenError> {
    let failed = |e| ListenError::Io(address.clone(), e);
    match std::fs::symlink_metadata(path) {
        Ok(meta) if !meta.file_type().is_socket() => Err(ListenError::NotASocket(path.into())),
        Ok(_) => match std::os::unix::net::UnixStream::connect(path) {
            Ok(_) => Err(ListenError::InUse(address.clone())),
            Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
            Err(e) => Err(failed(e)),
        },
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(failed(e)),
    }
}

/// Binds under a name of its own, sets owner and mode while nobody can connect yet, then takes the path's place.
fn bind_unix(path: &Path, group: Option<nix::unistd::Gid>) -> io::Result<(UnixListener, OwnPath)> {
    let parent = path.parent().unwrap_or(Path::new("/"));
    std::fs::create_dir_all(parent)?;
    let new = parent.join(format!(".{}.w", std::process::id()));
    match std::fs::remove_file(&new) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let socket = UnixSocket::new_stream()?;
    socket.bind(&new)?;
    let ready = || {
        if let Some(group) = group {
            nix::unistd::chown(&new, None, Some(group))?;
        }
        std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o660))?;
        let listener = socket.listen(BACKLOG)?;
        let meta = std::fs::symlink_metadata(&new)?;
        std::fs::rename(&new, path)?;
        Ok((listener, OwnPath { path: path.into(), identity: (meta.dev(), meta.ino()) }))
    };
    ready().inspect_err(|_: &io::Error| {
        let _ = std::fs::remove_file(&new);
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixStream;

    use super::{Listen, ListenError, ListenOptions, Listener};

    fn options() -> ListenOptions {
        ListenOptions { group: Some(String::new()), allow_insecure_tcp: false, tls: None }
    }

    #[test]
    fn addresses() {
        for (text, shown) in [
            ("unix:///run/w.sock", "unix:///run/w.sock"),
            ("unix://", "unix:///var/run/docker.sock"),
            ("/run/w.sock", "unix:///run/w.sock"),
            ("tcp://127.0.0.1:2375", "tcp://127.0.0.1:2375"),
            ("tcp://localhost", "tcp://127.0.0.1:2375"),
            ("tcp://:99", "tcp://127.0.0.1:99"),
            ("tcp://[::1]:5", "tcp://[::1]:5"),
            ("tcp://[::1]", "tcp://[::1]:2375"),
            ("fd://", "fd://"),
            ("fd://*", "fd://"),
            ("fd://api", "fd://api"),
        ] {
            let shown_now = Listen::parse(text, false).map(|l| l.to_string());
            assert_eq!(shown_now.ok().as_deref(), Some(shown), "{text}");
        }
        assert_eq!(Listen::parse("tcp://127.0.0.1", true).unwrap().to_string(), "tcp://127.0.0.1:2376");
        for bad in ["", "unix://relative", "tcp://example.com:1", "tcp://127.0.0.1:x", "http://a"] {
            assert!(matches!(Listen::parse(bad, false), Err(ListenError::Address(_))), "{bad}");
        }
    }

    #[tokio::test]
    async fn plain_tcp_that_others_can_reach_is_refused() {
        let refused =
            Listener::bind(&Listen::parse("tcp://0.0.0.0:0", false).unwrap(), &options()).unwrap_err();
        assert!(refused.to_string().contains("without TLS"), "{refused}");
        let allowed = ListenOptions { allow_insecure_tcp: true, ..options() };
        assert!(Listener::bind(&Listen::parse("tcp://0.0.0.0:0", false).unwrap(), &allowed).is_ok());
    }

    #[tokio::test]
    async fn a_stale_socket_is_replaced_a_live_one_and_a_file_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.sock");
        let address = Listen::Unix(path.clone());
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let first = Listener::bind(&address, &options()).unwrap();
        assert_eq!(std::fs::symlink_metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
        UnixStream::connect(&path).unwrap();
        assert!(matches!(Listener::bind(&address, &options()), Err(ListenError::InUse(_))));
        drop(first);
        assert!(!path.exists());
        std::fs::write(&path, "precious").unwrap();
        assert!(matches!(Listener::bind(&address, &options()), Err(ListenError::NotASocket(_))));
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[tokio::test]
    async fn a_path_that_someone_else_took_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.sock");
        let first = Listener::bind(&Listen::Unix(path.clone()), &options()).unwrap();
        std::fs::remove_file(&path).unwrap();
        let _other = std::os::unix::net::UnixListener::bind(&path).unwrap();
        drop(first);
        assert!(path.exists());
    }

    #[tokio::test]
    async fn an_unknown_group_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let options = ListenOptions { group: Some("no-such-group".into()), ..options() };
        let refused = Listener::bind(&Listen::Unix(dir.path().join("a")), &options).unwrap_err();
        assert!(refused.to_string().contains("no-such-group"));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
