//! Log formats: what a container's output looks like in a file.

use crate::Result;
use crate::bindings::codec::exports::wharf::logs::codec::Guest;
use crate::host::{Host, enter};
use crate::types::Cookie;

pub use crate::bindings::codec::exports::wharf::logs::codec::{Decoded, Format};
pub use crate::logs::{Chunk, Source};

/// A file format. The host writes, rotates, compresses, indexes and tails.
pub trait Codec {
    /// A container begins to log.
    fn open(&self, host: &dyn Host, source: &Source) -> Result<Format>;
    /// One output buffer per chunk, in the same order.
    fn encode(&self, host: &dyn Host, chunks: &[Chunk]) -> Result<Vec<Vec<u8>>>;
    /// Reads any part of a file that begins at a record.
    fn decode(&self, host: &dyn Host, cookie: &Cookie, data: &[u8]) -> Result<Decoded>;
}

/// A codec as an exported interface; [`crate::export!`] makes it.
#[derive(Debug)]
pub struct Component<D>(std::marker::PhantomData<D>);

impl<D: Codec + Default> Guest for Component<D> {
    fn open(source: Source) -> Result<Format> {
        D::default().open(enter(), &source)
    }
    fn encode(chunks: Vec<Chunk>) -> Result<Vec<Vec<u8>>> {
        D::default().encode(enter(), &chunks)
    }
    fn decode(cookie: Cookie, data: Vec<u8>) -> Result<Decoded> {
        D::default().decode(enter(), &cookie, &data)
    }
}
