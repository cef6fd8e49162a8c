//! Streams that others made: compression, tar, and what takes a tar apart and puts it together again.

pub(crate) mod decompress;
pub(crate) mod recipe;
pub mod tar;
pub mod unpack;
