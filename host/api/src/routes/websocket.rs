//! Attach over a WebSocket: what the process prints comes as binary messages without headers, both streams in one.

use bytes::{Buf, Bytes, BytesMut};
use futures_util::{SinkExt, StreamExt};
use hyper::header::HeaderName;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use wharf_io::{StdinEnd, Written};

use crate::error::Failure;
use crate::gate::{self, Call};
use crate::hijack;
use crate::http::wire::Socket;
use crate::service::Session;

/// Largest message of a client.
const MAX_MESSAGE: usize = 1024 * 1024;

/// Checks the client's part of the handshake; the answer's head.
pub(crate) fn accept(call: &Call) -> Result<Vec<u8>, Failure> {
    let header = |name: &'static str| call.header(&HeaderName::from_static(name)).unwrap_or_default();
    let asked =
        header("upgrade").eq_ignore_ascii_case("websocket") && header("sec-websocket-version") == "13";
    let key = header("sec-websocket-key");
    if !asked || key.is_empty() {
        return Err(Failure::invalid("this route speaks WebSocket version 13 only"));
    }
    let mut head = b"HTTP/1.1 101 Switching Protocols\r\n".to_vec();
    hijack::header(&mut head, "Connection", b"Upgrade");
    hijack::header(&mut head, "Upgrade", b"websocket");
    hijack::header(&mut head, "Sec-WebSocket-Accept", derive_accept_key(key.as_bytes()).as_bytes());
    if let Some(protocol) = header("sec-websocket-protocol").split(',').next().filter(|p| !p.is_empty()) {
        hijack::header(&mut head, "Sec-WebSocket-Protocol", protocol.trim().as_bytes());
    }
    gate::common_head(&mut head);
    head.extend_from_slice(b"\r\n");
    Ok(head)
}

/// Takes the headers out of a multiplexed stream that comes in any pieces.
#[derive(Default)]
struct Plain {
    waiting: BytesMut,
    left: usize,
}

impl Plain {
    fn push(&mut self, data: &[u8]) -> Bytes {
        self.waiting.extend_from_slice(data);
        let mut out = BytesMut::with_capacity(self.waiting.len());
        loop {
            if self.left == 0 {
                let Some(header) = self.waiting.first_chunk::<8>() else { break };
                let [_, _, _, _, length @ ..] = *header;
                self.left = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
                self.waiting.advance(8);
            }
            let n = self.left.min(self.waiting.len());
            if n == 0 && self.waiting.is_empty() {
                break;
            }
            out.extend_from_slice(&self.waiting.split_to(n));
            self.left -= n;
        }
        out.freeze()
    }
}

/// Joins client and process until one of them ends.
pub(crate) async fn run(socket: Socket, early: Bytes, session: Session) {
    let config =
        WebSocketConfig::default().max_message_size(Some(MAX_MESSAGE)).max_frame_size(Some(MAX_MESSAGE));
    let socket =
        WebSocketStream::from_partially_read(socket, early.to_vec(), Role::Server, Some(config)).await;
    let (mut sink, mut messages) = socket.split();
    let Session { mut output, mut input } = session;
    let send = async {
        let mut plain = Plain::default();
        while let Some(item) = output.bytes.next().await {
            let bytes = match item {
                Ok(bytes) if output.multiplexed => plain.push(&bytes),
                Ok(bytes) => bytes,
                Err(e) => Bytes::from(format!("{e}\r\n")),
            };
            if !bytes.is_empty() && sink.send(Message::Binary(bytes)).await.is_err() {
                return;
            }
        }
        let _ = sink.close().await;
    };
    let receive = async {
        while let Some(Ok(message)) = messages.next().await {
            let data: Bytes = match message {
                Message::Binary(data) => data,
                Message::Text(text) => text.into(),
                Message::Close(_) => break,
                _ => continue,
            };
            let Some(stdin) = &mut input else { continue };
            match stdin.write(&data).await {
                Ok(Written::All) => {}
                Ok(Written::Detached) => return,
                Err(_) => input = None,
            }
        }
        if let Some(stdin) = input.take() {
            let _: StdinEnd = stdin.close().await;
        }
    };
    tokio::pin!(send, receive);
    tokio::select! {
        biased;
        () = &mut send => {}
        () = &mut receive => {}
    }
}

#[cfg(test)]
mod tests {
    use super::Plain;
    use crate::hijack::frame;

    #[test]
    fn headers_go_in_whatever_pieces_they_come() {
        let whole: Vec<u8> = [frame(1, b"one"), frame(2, b""), frame(2, b"two"), frame(1, b"!")].concat();
        for size in 1..whole.len() {
            let mut plain = Plain::default();
            let out: Vec<u8> = whole.chunks(size).flat_map(|piece| plain.push(piece).to_vec()).collect();
            assert_eq!(out, b"onetwo!", "pieces of {size}");
        }
    }
}
