//! The image file: written from front to back through a buffer, with corrections of what was written before.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crate::BLOCK;

/// Bytes held back before they are written.
const BUFFER: usize = 1 << 20;
/// Pieces of this size are not worth copying.
const LARGE: usize = 128 << 10;

/// Zeros, as many as any padding needs.
const ZEROS: [u8; BLOCK] = [0; BLOCK];

#[derive(Debug)]
pub(crate) struct Out {
    file: File,
    /// Where the buffer belongs.
    base: u64,
    buffer: Vec<u8>,
}

impl Out {
    pub(crate) fn new(file: File) -> Self {
        Self { file, base: 0, buffer: Vec::with_capacity(BUFFER) }
    }

    /// Where the next byte goes.
    pub(crate) fn end(&self) -> u64 {
        self.base + self.buffer.len() as u64
    }

    pub(crate) fn append(&mut self, data: &[u8]) -> io::Result<()> {
        if self.buffer.len() + data.len() > BUFFER {
            self.flush()?;
        }
        if data.len() >= LARGE {
            self.flush()?;
            self.file.write_all_at(data, self.base)?;
            self.base += data.len() as u64;
        } else {
            self.buffer.extend_from_slice(data);
        }
        Ok(())
    }

    /// Zeros up to the next block.
    pub(crate) fn pad(&mut self) -> io::Result<()> {
        let over = usize::try_from(self.end() % BLOCK as u64).unwrap_or(0);
        if over == 0 {
            return Ok(());
        }
        self.append(ZEROS.get(over..).unwrap_or_default())
    }

    /// A hole.
    pub(crate) fn skip(&mut self, bytes: u64) -> io::Result<()> {
        self.flush()?;
        self.base += bytes;
        Ok(())
    }

    /// Writes over something that lies before the end.
    pub(crate) fn patch(&mut self, at: u64, data: &[u8]) -> io::Result<()> {
        if let Some(from) = at.checked_sub(self.base) {
            let from = usize::try_from(from).unwrap_or(usize::MAX);
            if let Some(part) = self.buffer.get_mut(from..from.saturating_add(data.len())) {
                part.copy_from_slice(data);
                return Ok(());
            }
        }
        self.flush()?;
        self.file.write_all_at(data, at)
    }

    /// Reads what was written before.
    pub(crate) fn read(&mut self, at: u64, data: &mut [u8]) -> io::Result<()> {
        self.flush()?;
        self.file.read_exact_at(data, at)
    }

    pub(crate) fn flush(&mut self) -> io::Result<()> {
        if !self.buffer.is_empty() {
            self.file.write_all_at(&self.buffer, self.base)?;
            self.base += self.buffer.len() as u64;
            self.buffer.clear();
        }
        Ok(())
    }

    /// Writes what is left; a hole at the end becomes part of the file.
    pub(crate) fn finish(mut self) -> io::Result<File> {
        self.flush()?;
        self.file.set_len(self.base)?;
        Ok(self.file)
    }
}
