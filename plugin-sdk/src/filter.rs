//! Log filters: drop, redact, parse, enrich.

use crate::Result;
use crate::bindings::filter::exports::wharf::logs::filter::Guest;
use crate::host::{Host, enter};
use crate::types::Cookie;

pub use crate::logs::{Chunk, Source};

/// Changes output in line.
pub trait Filter {
    /// A container begins to log.
    fn open(&self, host: &dyn Host, source: &Source) -> Result<Cookie>;
    /// The chunks as they shall go on.
    fn apply(&self, host: &dyn Host, chunks: Vec<Chunk>) -> Result<Vec<Chunk>>;
}

/// A filter as an exported interface; [`crate::export!`] makes it.
#[derive(Debug)]
pub struct Component<D>(std::marker::PhantomData<D>);

impl<D: Filter + Default> Guest for Component<D> {
    fn open(source: Source) -> Result<Cookie> {
        D::default().open(enter(), &source)
    }
    fn apply(chunks: Vec<Chunk>) -> Result<Vec<Chunk>> {
        D::default().apply(enter(), chunks)
    }
}
