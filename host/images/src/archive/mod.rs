//! Streams that others made: compression, tar, and what takes a tar apart and puts it together again.

pub(crate) mod blocks;
pub mod decompress;
pub(crate) mod image;
pub mod pack;
pub(crate) mod recipe;
pub mod tar;
pub mod unpack;
pub mod write;
