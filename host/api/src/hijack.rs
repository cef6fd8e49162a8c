//! Raw streams: a client at a process, over a connection that was HTTP before.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use tokio::io::AsyncWriteExt;
use wharf_io::{StdinEnd, Written};

use crate::gate;
use crate::http::conn::Run;
use crate::http::wire::Socket;
use crate::service::{Input, Output, Session};

/// Frames with 8-byte headers.
pub(crate) const MULTIPLEXED: &str = "application/vnd.docker.multiplexed-stream";
/// Bytes as they are.
pub(crate) const RAW: &str = "application/vnd.docker.raw-stream";

/// How long a client that got everything may take to close its side.
const LINGER: Duration = Duration::from_secs(1);

/// How often it is looked whether a client whose input nobody takes is still there.
const LOOK: Duration = Duration::from_secs(1);

/// How long the first output waits for the client to take the head of the answer.
const HEAD_TAKEN: Duration = Duration::from_millis(100);

pub(crate) fn header(head: &mut Vec<u8>, name: &str, value: &[u8]) {
    head.extend_from_slice(name.as_bytes());
    head.extend_from_slice(b": ");
    head.extend_from_slice(value);
    head.extend_from_slice(b"\r\n");
}

/// The head of the answer that begins a raw stream.
pub(crate) fn head(upgraded: bool, multiplexed: bool) -> Vec<u8> {
    let mut head = Vec::with_capacity(256);
    if upgraded {
        head.extend_from_slice(b"HTTP/1.1 101 UPGRADED\r\n");
        header(&mut head, "Content-Type", if multiplexed { MULTIPLEXED } else { RAW }.as_bytes());
        header(&mut head, "Connection", b"Upgrade");
        header(&mut head, "Upgrade", b"tcp");
    } else {
        head.extend_from_slice(b"HTTP/1.1 200 OK\r\n");
        header(&mut head, "Content-Type", RAW.as_bytes());
    }
    gate::common_head(&mut head);
    head.extend_from_slice(b"\r\n");
    head
}

/// Bytes of a frame's head.
pub(crate) const FRAME_HEAD: usize = 8;

/// One frame: stream 1 is stdout, 2 is stderr.
pub(crate) fn frame(stream: u8, data: &[u8]) -> Bytes {
    let length = u32::try_from(data.len()).unwrap_or(u32::MAX);
    let mut frame = BytesMut::with_capacity(FRAME_HEAD + data.len());
    frame.extend_from_slice(&[stream, 0, 0, 0]);
    frame.extend_from_slice(&length.to_be_bytes());
    frame.extend_from_slice(data);
    frame.freeze()
}

/// Why a session ended.
#[derive(Debug, PartialEq, Eq)]
enum End {
    /// All output is with the client.
    Output,
    /// The client is gone, or asked to be.
    Client,
}

/// Joins client and process until one of them ends.
pub(crate) async fn run(mut socket: Socket, early: Bytes, session: Session) {
    let Session { output, input } = session;
    let end = {
        let send = send(output, &socket);
        let receive = receive(&socket, early, input);
        tokio::pin!(send, receive);
        tokio::select! {
            biased;
            end = &mut send => end,
            () = &mut receive => End::Client,
        }
    };
    if end == End::Output && socket.shutdown().await.is_ok() {
        // A socket that is closed with unread input resets the connection, which may take back output on its way, and is an
        // error to a client that still sends.
        let _ = tokio::time::timeout(LINGER, drain(&socket)).await;
    }
}

async fn send(mut output: Output, socket: &Socket) -> End {
    let mut first = true;
    while let Some(bytes) = output.bytes.next().await {
        let bytes = match bytes {
            Ok(bytes) => bytes,
            Err(e) => {
                let text = format!("{e}\r\n");
                if output.multiplexed { frame(2, text.as_bytes()) } else { Bytes::from(text) }
            }
        };
        if std::mem::take(&mut first) {
            // Some clients (docker-py) read the head through a buffer and lose output that comes in the same breath.
            socket.taken(HEAD_TAKEN).await;
        }
        if socket.send(&bytes).await.is_err() {
            return End::Client;
        }
    }
    End::Output
}

/// Takes the client's input to the process. Returns when the client's session is over; while only its input is, waits.
async fn receive(socket: &Socket, early: Bytes, input: Option<Box<dyn Input>>) {
    let input_only = match input {
        Some(input) => feed(socket, early, input).await,
        None => drain(socket).await,
    };
    if input_only && !socket.gone() {
        std::future::pending::<()>().await;
    }
}

/// Why input did not get through.
enum Failure {
    /// The process takes no more.
    Input,
    /// The client went while the process did not read.
    Gone,
}

/// Writes to a process, which may not read for ever; its client is not there for ever either.
async fn write(socket: &Socket, input: &mut Box<dyn Input>, data: &[u8]) -> Result<Written, Failure> {
    let mut writing = input.write(data);
    loop {
        match tokio::time::timeout(LOOK, &mut writing).await {
            Ok(written) => return written.map_err(|_| Failure::Input),
            Err(_) if socket.gone() => return Err(Failure::Gone),
            Err(_) => {}
        }
    }
}

/// True if the client's input ended and its session goes on.
async fn feed(socket: &Socket, early: Bytes, mut input: Box<dyn Input>) -> bool {
    let mut data = early;
    let mut buffer = BytesMut::new();
    loop {
        if !data.is_empty() {
            match write(socket, &mut input, &data).await {
                Ok(Written::All) => {}
                Ok(Written::Detached) | Err(Failure::Gone) => return false,
                // The process takes no more; what it still says is wanted.
                Err(Failure::Input) => return drain(socket).await,
            }
        }
        match socket.receive(&mut buffer).await {
            Ok(0) => return input.close().await == StdinEnd::Closed,
            Ok(_) => data = buffer.split().freeze(),
            Err(_) => {
                input.close().await;
                return false;
            }
        }
    }
}

/// Reads and forgets until the client's end of input; false if the connection broke.
async fn drain(socket: &Socket) -> bool {
    let mut buffer = BytesMut::new();
    loop {
        match socket.receive(&mut buffer).await {
            Ok(0) => return true,
            Ok(_) => buffer.clear(),
            Err(_) => return false,
        }
    }
}

/// A stream that only says something.
pub(crate) fn say(bytes: Bytes) -> Run {
    Box::new(move |mut socket, _| {
        Box::pin(async move {
            socket.taken(HEAD_TAKEN).await;
            if socket.send(&bytes).await.is_ok() {
                let _ = socket.shutdown().await;
            }
        })
    })
}
