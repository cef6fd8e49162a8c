//! Deflate (RFC 1951) by ISA-L's `igzip`, which is twice as fast as zlib's fastest level and makes less of the same bytes.
//!
//! No system call, but it needs `unsafe` all the same, and there is one place for that. It is there only in builds with the
//! feature `isal`, which need an assembler; see `cargo xtask features`.

use isal_sys::igzip_lib as isal;

use crate::error::{Error, Result};

/// Constants of the library in the widths that its fields have.
const DEFLATE: u16 = 0;
const FULL_FLUSH: u16 = 2;
const COMP_OK: i32 = 0;
const _: () = assert!(isal::IGZIP_DEFLATE == 0 && isal::FULL_FLUSH == 2 && isal::COMP_OK == 0);

/// A compressor of whole parts, each by itself; its memory is used again.
pub struct Igzip {
    stream: Box<isal::isal_zstream>,
    memory: Vec<u8>,
    /// Where the blocks of a part are made: they take less than half of what they might, and only that is given away.
    made: Vec<u8>,
}

// SAFETY: the pointers in `stream` lead to `memory`, to `made` and to arguments of `pack`, or to tables that never change.
unsafe impl Send for Igzip {}

impl std::fmt::Debug for Igzip {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Igzip")
    }
}

impl Default for Igzip {
    fn default() -> Self {
        // SAFETY: integers, arrays of them, and pointers that may be null; `pack` has it initialised each time.
        let stream = unsafe { Box::<isal::isal_zstream>::new_zeroed().assume_init() };
        Self { stream, memory: vec![0; isal::ISAL_DEF_LVL1_EXTRA_LARGE as usize], made: Vec::new() }
    }
}

impl Igzip {
    /// Makes blocks of a part that end at a byte and of which none is the last, so that those of further parts may follow.
    /// They refer to nothing outside the part. Fails with `EINVAL` for 2 GiB and more.
    pub fn pack(&mut self, part: &[u8]) -> Result<Vec<u8>> {
        let failed = || Error::new(format!("igzip of {} bytes", part.len()), libc::EINVAL);
        // What cannot be made smaller becomes blocks of up to 64 KiB with five bytes of head each; then the flush.
        let bound = part.len() + part.len() / 4096 + 1024;
        if self.made.len() < bound {
            self.made.resize(bound, 0);
        }
        let stream = &mut *self.stream;
        let (length, room) = match (u32::try_from(part.len()), u32::try_from(bound)) {
            (Ok(length), Ok(room)) if part.len() < 1 << 31 => (length, room),
            _ => return Err(failed()),
        };
        // SAFETY: the stream is ours alone. Input, output and `memory` live longer than the call and their lengths are told;
        // the input is not written to.
        let made = unsafe {
            isal::isal_deflate_stateless_init(stream);
            stream.level = 1;
            stream.level_buf = self.memory.as_mut_ptr();
            stream.level_buf_size = u32::try_from(self.memory.len()).unwrap_or(0);
            stream.gzip_flag = DEFLATE;
            stream.flush = FULL_FLUSH;
            stream.end_of_stream = 0;
            stream.next_in = part.as_ptr().cast_mut();
            stream.avail_in = length;
            stream.next_out = self.made.as_mut_ptr();
            stream.avail_out = room;
            let code = isal::isal_deflate_stateless(stream);
            stream.next_in = std::ptr::null_mut();
            stream.next_out = std::ptr::null_mut();
            stream.level_buf = std::ptr::null_mut();
            if code != COMP_OK || stream.avail_in != 0 {
                return Err(failed());
            }
            room.checked_sub(stream.avail_out).ok_or_else(failed)?
        };
        self.made.get(..made as usize).map(<[u8]>::to_vec).ok_or_else(failed)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn unpacked(blocks: &[u8]) -> Vec<u8> {
        let mut plain = Vec::new();
        let mut decoder = flate2::bufread::DeflateDecoder::new(blocks);
        decoder.read_to_end(&mut plain).unwrap();
        assert!(decoder.into_inner().is_empty(), "bytes after the last block");
        plain
    }

    #[test]
    fn parts_are_joined_to_what_they_were() {
        let mut igzip = Igzip::default();
        let mut state = 7u32;
        let mut noise = move || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state.to_be_bytes()[0]
        };
        let (mut blocks, mut all) = (Vec::new(), Vec::new());
        // Nothing, little, what is just too much for a block, what cannot be made smaller, and what nearly vanishes.
        for length in [0, 1, 65_535, 65_536, 1 << 20, (1 << 20) + 1] {
            for part in [vec![0; length], (0..length).map(|_| noise()).collect::<Vec<u8>>()] {
                blocks.extend(igzip.pack(&part).unwrap());
                all.extend(part);
            }
        }
        blocks.extend([3, 0]);
        assert!(unpacked(&blocks) == all);
    }

    proptest::proptest! {
        #[test]
        fn whatever_goes_in_comes_out(
            words in proptest::collection::vec(proptest::collection::vec(proptest::prelude::any::<u8>(), 0..40), 0..6),
            order in proptest::collection::vec(0usize..6, 0..3000),
        ) {
            let data: Vec<u8> = order.iter().filter_map(|n| words.get(*n)).flatten().copied().collect();
            let mut blocks = Igzip::default().pack(&data).unwrap();
            blocks.extend([3, 0]);
            proptest::prop_assert!(unpacked(&blocks) == data);
        }
    }
}
