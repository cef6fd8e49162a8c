//! Some space that is kept back, so that a full disk can be emptied: to remove something takes a record of it.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Bytes: some dozens of removals, after which there is room again.
const SIZE: u64 = 4 << 20;
const PIECE: usize = 64 << 10;

/// A file of no content, beside the database.
#[derive(Debug)]
pub(crate) struct Reserve {
    path: PathBuf,
}

impl Reserve {
    pub(crate) fn beside(database: &Path) -> Self {
        let mut name = database.file_name().unwrap_or_default().to_owned();
        name.push("-reserve");
        Self { path: database.with_file_name(name) }
    }

    /// Makes the file whole again if there is room. What a file system could compress or leave out would be no reserve,
    /// so it is noise.
    pub(crate) fn fill(&self) {
        if self.path.metadata().is_ok_and(|meta| meta.len() == SIZE) {
            return;
        }
        if let Err(error) = self.write() {
            tracing::debug!(%error, "no space is kept back for a full disk");
            self.release();
        }
    }

    fn write(&self) -> io::Result<()> {
        let mut file = File::create(&self.path)?;
        let mut noise = 0x9e37_79b9_7f4a_7c15_u64;
        let mut piece = Vec::with_capacity(PIECE);
        let mut left = SIZE;
        while left > 0 {
            piece.clear();
            while piece.len() < PIECE {
                noise ^= noise << 13;
                noise ^= noise >> 7;
                noise ^= noise << 17;
                piece.extend_from_slice(&noise.to_le_bytes());
            }
            file.write_all(&piece)?;
            left = left.saturating_sub(PIECE as u64);
        }
        Ok(())
    }

    /// Gives the space back. Whether there was any.
    pub(crate) fn release(&self) -> bool {
        std::fs::remove_file(&self.path).is_ok()
    }
}
