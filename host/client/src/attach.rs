//! Moving bytes between this terminal and a hijacked connection.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use hyper::Method;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::signal::unix::{SignalKind, signal};
use wharf_io::keys::{self, Scanner};

use crate::args::AttachArgs;
use crate::http::{self, Client, Hijacked};
use crate::{Error, terminal};

/// What a stream is about.
pub(crate) struct Streams<'a> {
    /// Forward standard input.
    pub(crate) stdin: bool,
    /// The other side is a terminal: raw mode, no frames, resize.
    pub(crate) tty: bool,
    /// Path whose `/resize` takes this terminal's size, for example `/containers/ID`.
    pub(crate) resize: &'a str,
    /// Keys that detach, as the daemon was told them.
    pub(crate) keys: Option<&'a str>,
}

/// Why a stream is over. Only who typed knows for certain: a process whose output has ended may be listed as running for another
/// moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// The process has ended, or closed its output.
    Output,
    /// The keys to detach were typed.
    Detached,
}

/// Copies until the daemon closes its side. Returns as soon as all output is written.
pub(crate) async fn copy(client: &Client, hijacked: Hijacked, streams: &Streams<'_>) -> Result<Ended, Error> {
    let raw = if streams.tty && streams.stdin { terminal::Raw::enter() } else { None };
    let multiplexed = hijacked.multiplexed.unwrap_or(!streams.tty);
    let (reader, writer) = tokio::io::split(hijacked.io);
    let resizing = streams.tty.then(|| tokio::spawn(resize(client.clone(), streams.resize.to_owned())));
    let detached = Arc::new(AtomicBool::new(false));
    if streams.stdin {
        // Only a terminal has such keys. Wrong ones the daemon has refused already.
        let keys = streams.tty.then(|| keys::of(streams.keys).unwrap_or_default());
        let (mut scanner, typed) = (Scanner::new(&keys.unwrap_or_default()), Arc::clone(&detached));
        let mut rest = Vec::new();
        spawn_input(writer, move |bytes| {
            rest.clear();
            if scanner.feed(bytes, &mut rest) {
                typed.store(true, Ordering::SeqCst);
            }
        });
    }
    let result = if multiplexed { demultiplex(reader).await } else { plain(reader).await };
    if let Some(task) = resizing {
        task.abort();
    }
    drop(raw);
    result.map(|()| if detached.load(Ordering::SeqCst) { Ended::Detached } else { Ended::Output })
}

/// A thread of its own, as reading a terminal cannot be interrupted; the process's end ends it. What is read is shown to `look`
/// before it is sent.
pub(crate) fn spawn_input(
    mut writer: impl tokio::io::AsyncWrite + Send + Unpin + 'static,
    mut look: impl FnMut(&[u8]) + Send + 'static,
) {
    let (send, mut receive) = tokio::sync::mpsc::channel::<Vec<u8>>(4);
    std::thread::spawn(move || {
        let mut input = std::io::stdin().lock();
        let mut buffer = vec![0; 64 << 10];
        while let Ok(count) = std::io::Read::read(&mut input, &mut buffer) {
            let Some(bytes) = buffer.get(..count) else { break };
            if count == 0 || send.blocking_send(bytes.to_vec()).is_err() {
                break;
            }
        }
    });
    tokio::spawn(async move {
        while let Some(bytes) = receive.recv().await {
            look(&bytes);
            if writer.write_all(&bytes).await.is_err() || writer.flush().await.is_err() {
                return;
            }
        }
        // Half-close: the process sees the end of its input, its output goes on.
        let _ = writer.shutdown().await;
    });
}

async fn plain(mut reader: impl tokio::io::AsyncRead + Unpin) -> Result<(), Error> {
    let mut out = tokio::io::stdout();
    tokio::io::copy(&mut reader, &mut out).await?;
    out.flush().await?;
    Ok(())
}

/// Frames: stream number, three zeros, length (big endian), bytes.
async fn demultiplex(reader: impl tokio::io::AsyncRead + Unpin) -> Result<(), Error> {
    let mut reader = tokio::io::BufReader::with_capacity(256 << 10, reader);
    let (mut out, mut err) = (tokio::io::stdout(), tokio::io::stderr());
    let mut head = [0u8; 8];
    let mut buffer = Vec::new();
    loop {
        match reader.read_exact(&mut head).await {
            Ok(_) => {}
            Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => break,
            Err(e) => return Err(e.into()),
        }
        let [stream, _, _, _, a, b, c, d] = head;
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        if stream > 3 || length > 64 << 20 {
            return Err(Error::Protocol("a frame with an impossible header".into()));
        }
        buffer.resize(length, 0);
        reader.read_exact(&mut buffer).await?;
        if stream == 2 {
            err.write_all(&buffer).await?;
        } else {
            out.write_all(&buffer).await?;
        }
    }
    out.flush().await?;
    err.flush().await?;
    Ok(())
}

/// Tells how large the terminal of a container or of an exec is to be, in characters.
async fn send_size(client: &Client, path: &str, rows: u16, columns: u16) -> Result<(), Error> {
    let query = [("h", rows.to_string()), ("w", columns.to_string())];
    client.request(Method::POST, &format!("{path}/resize"), &query, None).await.map(drop)
}

async fn resize(client: Client, path: String) {
    let Ok(mut changes) = signal(SignalKind::window_change()) else { return };
    // The process may not be there yet when the first size is sent; a little later it is.
    let mut tries = 0;
    loop {
        if let Some((rows, columns)) = terminal::size() {
            let sent = send_size(&client, &path, rows, columns).await;
            if sent.is_err() && tries < 10 {
                tries += 1;
                tokio::time::sleep(std::time::Duration::from_millis(20 * tries)).await;
                continue;
            }
        }
        if changes.recv().await.is_none() {
            return;
        }
    }
}

/// Passes signals that end or steer programs on to the container for as long as it runs.
pub(crate) fn proxy_signals(client: &Client, id: &str) -> tokio::task::JoinHandle<()> {
    let (client, path) = (client.clone(), format!("/containers/{id}/kill"));
    tokio::spawn(async move {
        let kinds = [
            ("INT", SignalKind::interrupt()),
            ("TERM", SignalKind::terminate()),
            ("HUP", SignalKind::hangup()),
            ("QUIT", SignalKind::quit()),
            ("USR1", SignalKind::user_defined1()),
            ("USR2", SignalKind::user_defined2()),
        ];
        let (send, mut receive) = tokio::sync::mpsc::channel(16);
        for (name, kind) in kinds {
            let Ok(mut stream) = signal(kind) else { continue };
            let send = send.clone();
            tokio::spawn(async move {
                while stream.recv().await.is_some() {
                    if send.send(name).await.is_err() {
                        return;
                    }
                }
            });
        }
        while let Some(name) = receive.recv().await {
            // It may have ended already.
            let _ = client.post(&path, &[("signal", name.to_owned())], None).await;
        }
    })
}

/// `attach`: joins the streams and ends with the container's exit code.
pub(crate) async fn attach(client: &Client, args: AttachArgs) -> Result<u8, Error> {
    let container = client.get(&format!("/containers/{}/json", args.container), &[]).await?;
    let id = text(&container, "/Id").to_owned();
    let is =
        |state: &str| container.pointer(&format!("/State/{state}")).and_then(Value::as_bool) == Some(true);
    let refused = |text: &str| Err(Error::Missing(text.to_owned()));
    if !is("Running") {
        return refused("You cannot attach to a stopped container, start it first");
    }
    if is("Paused") {
        return refused("You cannot attach to a paused container, unpause it first");
    }
    if is("Restarting") {
        return refused("You cannot attach to a restarting container, wait until it is running");
    }
    let tty = container.pointer("/Config/Tty").and_then(Value::as_bool).unwrap_or(false);
    let stdin =
        !args.no_stdin && container.pointer("/Config/OpenStdin").and_then(Value::as_bool).unwrap_or(false);
    let path = format!("/containers/{id}");
    let mut query = vec![("stream", "1".to_owned()), ("stdout", "1".into()), ("stderr", "1".into())];
    if stdin {
        query.push(("stdin", "1".into()));
    }
    let keys = args.detach_keys;
    if let Some(keys) = &keys {
        query.push(("detachKeys", keys.clone()));
    }
    // Before the streams are joined, so that the end cannot be missed.
    let waiting = client.request(Method::POST, &format!("{path}/wait"), &[], None).await?;
    let hijacked = client.hijack(&format!("{path}/attach"), &query, None).await?;
    let proxy = (args.sig_proxy && !tty).then(|| proxy_signals(client, &id));
    if let (true, Some((rows, columns))) = (tty, terminal::size()) {
        // A program on a terminal draws itself anew when the size changes, and this one may have the right one already.
        let _ = send_size(client, &path, rows.saturating_add(1), columns.saturating_add(1)).await;
    }
    let streams = Streams { stdin, tty, resize: &path, keys: keys.as_deref() };
    let ended = copy(client, hijacked, &streams).await?;
    let code = match ended {
        Ended::Detached => Ok(0),
        Ended::Output => exit_code(waiting).await,
    };
    if let Some(task) = proxy {
        task.abort();
    }
    code
}

/// The exit code that an answer to `wait` tells.
pub(crate) async fn exit_code(waiting: hyper::Response<hyper::body::Incoming>) -> Result<u8, Error> {
    let answer = http::json(waiting).await?;
    let error = text(&answer, "/Error/Message");
    if !error.is_empty() {
        return Err(Error::Daemon { status: 500, message: error.to_owned() });
    }
    let code = answer.get("StatusCode").and_then(Value::as_i64).unwrap_or(0);
    Ok(u8::try_from(code).unwrap_or(1))
}

/// The text at a JSON pointer, or nothing.
pub(crate) fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}
