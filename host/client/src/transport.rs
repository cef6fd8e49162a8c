//! What lies below HTTP: TLS with certificates, and ssh to a daemon of another machine.

use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::Stdio;
use std::sync::Arc;
use std::task::{Context, Poll};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::Error;

/// Which certificates a client has and trusts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TlsFiles {
    /// Whom it trusts.
    pub(crate) ca: PathBuf,
    /// Who it is; nobody where the file is missing.
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
    /// False talks to anyone.
    pub(crate) verify: bool,
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|e| Error::Usage(format!("cannot use the certificate file {}: {e}", path.display())))
}

fn config(files: &TlsFiles) -> Result<ClientConfig, Error> {
    let wrong = |e: rustls::Error| Error::Usage(format!("TLS: {e}"));
    let provider = wharf_tls::provider();
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(wrong)?;
    let builder = if files.verify {
        let mut roots = RootCertStore::empty();
        for certificate in certificates(&files.ca)? {
            roots.add(certificate).map_err(wrong)?;
        }
        builder.with_root_certificates(roots)
    } else {
        builder.dangerous().with_custom_certificate_verifier(wharf_tls::any_server(provider))
    };
    // Docker's clients too go without a certificate where there is none.
    if !files.certificate.exists() && !files.key.exists() {
        return Ok(builder.with_no_client_auth());
    }
    let key = PrivateKeyDer::from_pem_file(&files.key)
        .map_err(|e| Error::Usage(format!("cannot use the key file {}: {e}", files.key.display())))?;
    builder.with_client_auth_cert(certificates(&files.certificate)?, key).map_err(wrong)
}

/// Makes the handshake over a connection to `address` (`host:port`).
pub(crate) async fn tls(
    stream: TcpStream,
    address: &str,
    files: &TlsFiles,
) -> Result<TlsStream<TcpStream>, Error> {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host).trim_matches(['[', ']']);
    let name = ServerName::try_from(host.to_owned())
        .map_err(|e| Error::Usage(format!("{host:?} is no name of a server: {e}")))?;
    let connector = TlsConnector::from(Arc::new(config(files)?));
    connector
        .connect(name, stream)
        .await
        .map_err(|e| Error::Connect { address: format!("tcp://{address}"), cause: format!("TLS: {e}") })
}

/// `ssh://[user@]host[:port][/path of the socket]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ssh {
    user: Option<String>,
    host: String,
    port: Option<u16>,
    socket: Option<String>,
}

impl std::fmt::Display for Ssh {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ssh://")?;
        if let Some(user) = &self.user {
            write!(f, "{user}@")?;
        }
        f.write_str(&self.host)?;
        if let Some(port) = self.port {
            write!(f, ":{port}")?;
        }
        f.write_str(self.socket.as_deref().unwrap_or(""))
    }
}

impl Ssh {
    /// Reads what follows `ssh://`.
    pub(crate) fn parse(text: &str) -> Result<Self, Error> {
        let bad = |why: &str| Error::Usage(format!("invalid address 'ssh://{text}': {why}"));
        let (authority, path) = match text.find('/') {
            Some(at) => text.split_at(at),
            None => (text, ""),
        };
        let (user, place) = match authority.rsplit_once('@') {
            Some((user, place)) => (Some(user), place),
            None => (None, authority),
        };
        if user.is_some_and(|u| u.contains(':')) {
            return Err(bad("a password cannot be given here; use a key"));
        }
        let (host, port) = match place.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => {
                (host, Some(port.parse::<u16>().map_err(|_| bad("the port is no number"))?))
            }
            _ => (place, None),
        };
        let host = host.trim_matches(['[', ']']);
        // A word that begins with a dash would be an option to ssh.
        if host.is_empty()
            || host.starts_with('-')
            || user.is_some_and(|u| u.is_empty() || u.starts_with('-'))
        {
            return Err(bad("user@host is needed"));
        }
        let plain = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
        if !path.chars().all(plain) {
            return Err(bad("the path of the socket may have letters, digits and /._- only"));
        }
        Ok(Self {
            user: user.map(str::to_owned),
            host: host.to_owned(),
            port,
            socket: Some(path.to_owned()).filter(|p| p.len() > 1),
        })
    }

    fn arguments(&self) -> Vec<String> {
        let mut all: Vec<String> = ["-o", "ConnectTimeout=30", "-T"].map(str::to_owned).to_vec();
        if let Some(user) = &self.user {
            all.extend(["-l".to_owned(), user.clone()]);
        }
        if let Some(port) = self.port {
            all.extend(["-p".to_owned(), port.to_string()]);
        }
        all.extend(["--".to_owned(), self.host.clone(), "wharf".to_owned()]);
        if let Some(socket) = &self.socket {
            all.extend(["--host".to_owned(), format!("unix://{socket}")]);
        }
        all.extend(["system", "dial-stdio"].map(str::to_owned));
        all
    }

    /// Starts ssh with the other end's `wharf system dial-stdio`.
    pub(crate) fn connect(&self) -> Result<Pipe, Error> {
        let failed = |cause: String| Error::Connect { address: self.to_string(), cause };
        let mut child = Command::new("ssh")
            .args(self.arguments())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // Questions and complaints of ssh are for the user.
            .stderr(Stdio::inherit())
            .kill_on_drop(true)
            .spawn()
            .map_err(|e| failed(format!("cannot start ssh: {e}")))?;
        match (child.stdin.take(), child.stdout.take()) {
            (Some(input), Some(output)) => Ok(Pipe { input: Some(input), output, _child: child }),
            _ => Err(failed("ssh has no pipes".into())),
        }
    }
}

/// A process whose standard streams are a connection.
#[derive(Debug)]
pub(crate) struct Pipe {
    input: Option<ChildStdin>,
    output: ChildStdout,
    _child: Child,
}

impl AsyncRead for Pipe {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.output).poll_read(cx, buf)
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        match &mut self.input {
            Some(input) => Pin::new(input).poll_write(cx, data),
            None => Poll::Ready(Err(std::io::ErrorKind::BrokenPipe.into())),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        match &mut self.input {
            Some(input) => Pin::new(input).poll_flush(cx),
            None => Poll::Ready(Ok(())),
        }
    }

    /// Closing the pipe is how the other side learns of the end of input.
    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        self.input = None;
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::Ssh;

    #[test]
    fn ssh_addresses() {
        for (text, arguments) in [
            ("far", "-o ConnectTimeout=30 -T -- far wharf system dial-stdio"),
            ("me@far:2222", "-o ConnectTimeout=30 -T -l me -p 2222 -- far wharf system dial-stdio"),
            (
                "[::1]:22/run/w.sock",
                "-o ConnectTimeout=30 -T -p 22 -- ::1 wharf --host unix:///run/w.sock system dial-stdio",
            ),
            ("far/", "-o ConnectTimeout=30 -T -- far wharf system dial-stdio"),
        ] {
            assert_eq!(Ssh::parse(text).unwrap().arguments().join(" "), arguments, "{text}");
        }
        for bad in ["", "-oProxyCommand=x", "me:secret@far", "far:x", "@far", "-l@far", "far/a;b", "far/$(x)"]
        {
            assert!(Ssh::parse(bad).is_err(), "{bad}");
        }
    }
}
