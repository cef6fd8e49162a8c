//! How a user namespace's ids translate: arithmetic on [`IdMap`] ranges.

use std::fmt::Write as _;

use crate::types::{IdKind, IdMap};

/// What the kernel shows for an id that has no place in a map (`/proc/sys/kernel/overflowuid`).
pub const NOBODY: u32 = 65_534;

/// The ranges that translate ids of this kind, as the kernel has them: a list for each.
pub fn only(maps: &[IdMap], kind: IdKind) -> Vec<IdMap> {
    maps.iter().filter(|m| both(m.kind, kind)).map(|m| IdMap { kind: IdKind::Both, ..m.clone() }).collect()
}

/// Whether ranges of one kind and of another have to do with each other.
fn both(one: IdKind, other: IdKind) -> bool {
    one == other || one == IdKind::Both || other == IdKind::Both
}

/// The id of this kind outside for one inside; None where no range has it.
pub fn outside(maps: &[IdMap], kind: IdKind, id: u32) -> Option<u32> {
    maps.iter().filter(|m| both(m.kind, kind)).find_map(|m| {
        let offset = id.checked_sub(m.inside).filter(|offset| *offset < m.size)?;
        m.outside.checked_add(offset)
    })
}

/// The id of this kind inside for one outside; None where no range has it.
pub fn inside(maps: &[IdMap], kind: IdKind, id: u32) -> Option<u32> {
    maps.iter().filter(|m| both(m.kind, kind)).find_map(|m| {
        let offset = id.checked_sub(m.outside).filter(|offset| *offset < m.size)?;
        m.inside.checked_add(offset)
    })
}

/// Whether two maps have an id outside in common.
pub fn overlap(one: &[IdMap], other: &[IdMap]) -> bool {
    let end = |m: &IdMap| u64::from(m.outside) + u64::from(m.size);
    let meet = |a: &IdMap, b: &IdMap| {
        both(a.kind, b.kind) && u64::from(a.outside) < end(b) && u64::from(b.outside) < end(a)
    };
    one.iter().any(|a| other.iter().any(|b| meet(a, b)))
}

/// As `/proc/<pid>/uid_map` takes it; of one kind, see [`only`].
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
        IdMap { inside, outside, size, kind: IdKind::Both }
    }

    #[test]
    fn ids_go_through_their_range_and_no_other() {
        let maps = [map(0, 100_000, 10), map(10, 500, 5)];
        for (id, there) in
            [(0, Some(100_000)), (9, Some(100_009)), (10, Some(500)), (14, Some(504)), (15, None)]
        {
            assert_eq!(outside(&maps, IdKind::Users, id), there, "{id}");
            if let Some(there) = there {
                assert_eq!(inside(&maps, IdKind::Groups, there), Some(id));
            }
        }
        for id in [0, 499, 505, 99_999, 100_010, u32::MAX] {
            assert_eq!(inside(&maps, IdKind::Users, id), None, "{id}");
        }
        // A range at the end of the numbers does not wrap around.
        assert_eq!(outside(&[map(0, u32::MAX - 1, 5)], IdKind::Users, 3), None);
    }

    #[test]
    fn users_and_groups_may_have_ranges_of_their_own() {
        let of = |kind, outside| IdMap { kind, ..map(0, outside, 10) };
        let maps = [of(IdKind::Users, 100), of(IdKind::Groups, 105)];
        assert_eq!(outside(&maps, IdKind::Users, 1), Some(101));
        assert_eq!(outside(&maps, IdKind::Groups, 1), Some(106));
        assert_eq!(inside(&maps, IdKind::Users, 106), Some(6));
        assert_eq!(inside(&maps, IdKind::Groups, 101), None);
        assert_eq!(only(&maps, IdKind::Groups), [map(0, 105, 10)]);
        assert_eq!(only(&[map(0, 7, 1)], IdKind::Users), [map(0, 7, 1)]);
        // The same number is a user here and a group there.
        assert!(!overlap(&maps[..1], &maps[1..]));
        assert!(overlap(&maps[..1], &[map(0, 109, 1)]));
    }

    #[test]
    fn ranges_that_touch_do_not_overlap() {
        assert!(!overlap(&[map(0, 100, 10)], &[map(0, 110, 10)]));
        assert!(overlap(&[map(0, 100, 11)], &[map(0, 110, 10)]));
        assert!(overlap(&[map(0, 0, 1), map(5, 105, 1)], &[map(0, 100, 10)]));
        assert_eq!(lines(&[map(0, 100, 10), map(10, 5, 1)]), "0 100 10\n10 5 1\n");
    }
}
