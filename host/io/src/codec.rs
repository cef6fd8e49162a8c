//! The door to log codec plugins: what this crate needs of them, so that tests need no plugin.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use wharf_plan::logs::{Chunk, Format, Source};

/// A future of a codec call.
pub type CodecFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, CodecError>> + Send + 'a>>;

/// A codec call that failed: the plugin's own error, a trap, or its deadline.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct CodecError(pub String);

/// One log file format. A resident instance may serve many containers: the cookie tells which.
pub trait Codec: Send + Sync {
    /// Begins a stream.
    fn open(&self, source: Source) -> CodecFuture<'_, Format>;
    /// Records to bytes of the file, one buffer per chunk.
    fn encode(&self, chunks: Vec<Chunk>) -> CodecFuture<'_, Vec<Vec<u8>>>;
}

/// The codecs there are.
pub trait Codecs: Send + Sync {
    /// The codec of a driver; the error names the driver and the known ones.
    fn codec(&self, driver: &str) -> Result<Arc<dyn Codec>, String>;
}
