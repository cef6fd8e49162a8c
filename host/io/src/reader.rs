//! What clients read: ready-made bytes in large batches.

use bytes::Bytes;

use crate::error::Result;

/// Output on its way to one client. Multiplexed (8-byte headers as of Docker's stdcopy, one frame per line for `logs`)
/// unless the container has a terminal.
#[derive(Debug)]
pub struct Output {
    _private: (),
}

impl Output {
    /// The next bytes; None at the end. Cancelling and calling again loses nothing.
    pub async fn next(&mut self) -> Option<Result<Bytes>> {
        None
    }

    /// False for a terminal: bytes without headers (`application/vnd.docker.raw-stream`).
    pub fn multiplexed(&self) -> bool {
        true
    }

    /// As a stream, for a response body.
    pub fn into_stream(self) -> impl futures_util::Stream<Item = Result<Bytes>> + Send + 'static {
        futures_util::stream::unfold(self, |mut output| async move {
            output.next().await.map(|item| (item, output))
        })
    }
}
