//! Log sinks: shipping to somewhere else.

use crate::Result;
use crate::bindings::sink::exports::wharf::logs::sink::Guest;
use crate::host::{Host, enter};
use crate::types::Cookie;

pub use crate::bindings::sink::exports::wharf::logs::sink::Outcome;
pub use crate::logs::{Chunk, Source};

/// Takes output away: at least once, in order per stream.
pub trait Sink {
    /// A container begins to log.
    fn open(&self, host: &dyn Host, source: &Source) -> Result<Cookie>;
    /// One outcome per chunk.
    fn push(&self, host: &dyn Host, chunks: &[Chunk]) -> Result<Vec<Outcome>>;
    /// The container's last output was pushed.
    fn close(&self, _host: &dyn Host, _cookie: &Cookie) -> Result<()> {
        Ok(())
    }
}

/// A sink as an exported interface; [`crate::export!`] makes it.
#[derive(Debug)]
pub struct Component<D>(std::marker::PhantomData<D>);

impl<D: Sink + Default> Guest for Component<D> {
    fn open(source: Source) -> Result<Cookie> {
        D::default().open(enter(), &source)
    }
    fn push(chunks: Vec<Chunk>) -> Result<Vec<Outcome>> {
        D::default().push(enter(), &chunks)
    }
    fn close(cookie: Cookie) -> Result<()> {
        D::default().close(enter(), &cookie)
    }
}
