//! How a user namespace's ids translate: arithmetic on [`IdMap`] ranges.

use std::fmt::Write as _;

use crate::types::IdMap;

/// What the kernel shows for an id that has no place in a map (`/proc/sys/kernel/overflowuid`).
pub const NOBODY: u32 = 65_534;

/// The id outside for one inside; None where no range has it.
pub fn outside(maps: &[IdMap], id: u32) -> Option<u32> {
    maps.iter().find_map(|m| {
        let offset = id.checked_sub(m.inside).filter(|offset| *offset < m.size)?;
        m.outside.checked_add(offset)
    })
}

/// The id inside for one outside; None where no range has it.
pub fn inside(maps: &[IdMap], id: u32) -> Option<u32> {
    maps.iter().find_map(|m| {
        let offset = id.checked_sub(m.outside).filter(|offset| *offset < m.size)?;
        m.inside.checked_add(offset)
    })
}

/// Whether two maps have an id outside in common.
pub fn overlap(one: &[IdMap], other: &[IdMap]) -> bool {
    let end = |m: &IdMap| u64::from(m.outside) + u64::from(m.size);
    one.iter().any(|a| other.iter().any(|b| u64::from(a.outside) < end(b) && u64::from(b.outside) < end(a)))
}

/// As `/proc/<pid>/uid_map` takes it.
pub fn lines(maps: &[IdMap]) -> String {
    maps.iter().fold(String::new(), |mut text, m| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{} {} {}", m.inside, m.outside, m.size);
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(inside: u32, outside: u32, size: u32) -> IdMap {
        IdMap { inside, outside, size }
    }

    #[test]
    fn ids_go_through_their_range_and_no_other() {
        let maps = [map(0, 100_000, 10), map(10, 500, 5)];
        for (id, there) in
            [(0, Some(100_000)), (9, Some(100_009)), (10, Some(500)), (14, Some(504)), (15, None)]
        {
            assert_eq!(outside(&maps, id), there, "{id}");
            if let Some(there) = there {
                assert_eq!(inside(&maps, there), Some(id));
            }
        }
        for id in [0, 499, 505, 99_999, 100_010, u32::MAX] {
            assert_eq!(inside(&maps, id), None, "{id}");
        }
        // A range at the end of the numbers does not wrap around.
        assert_eq!(outside(&[map(0, u32::MAX - 1, 5)], 3), None);
    }

    #[test]
    fn ranges_that_touch_do_not_overlap() {
        assert!(!overlap(&[map(0, 100, 10)], &[map(0, 110, 10)]));
        assert!(overlap(&[map(0, 100, 11)], &[map(0, 110, 10)]));
        assert!(overlap(&[map(0, 0, 1), map(5, 105, 1)], &[map(0, 100, 10)]));
        assert_eq!(lines(&[map(0, 100, 10), map(10, 5, 1)]), "0 100 10\n10 5 1\n");
    }
}
