//! Attributes of mounts by the words of mount options.

use wharf_kernel::mount::{MountAttr, attr};

/// What is set and what is taken away, as `mount_setattr(2)` has it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Attributes {
    pub(crate) set: u64,
    pub(crate) clear: u64,
}

/// Words for single bits: what sets one, and what takes it away.
const BITS: [(&str, &str, u64); 6] = [
    ("ro", "rw", attr::RDONLY),
    ("nosuid", "suid", attr::NOSUID),
    ("nodev", "dev", attr::NODEV),
    ("noexec", "exec", attr::NOEXEC),
    ("nodiratime", "diratime", attr::NODIRATIME),
    ("nosymfollow", "symfollow", attr::NOSYMFOLLOW),
];

/// Words for how access times are kept. Those that say how not are the kernel's default, as `relatime` is.
const TIMES: [(&str, u64); 6] = [
    ("noatime", attr::NOATIME),
    ("strictatime", attr::STRICTATIME),
    ("relatime", 0),
    ("atime", 0),
    ("nostrictatime", 0),
    ("norelatime", 0),
];

/// Words of access times that change nothing of a mount's own.
pub(crate) const IDLE: [&str; 4] = ["atime", "diratime", "norelatime", "nostrictatime"];

/// What a word means; None where it is no attribute. With an `r` before it, a word is for all mounts below as well.
pub(crate) fn of(word: &str) -> Option<Attributes> {
    let bit = BITS.iter().find_map(|(on, off, bit)| {
        (word == *on)
            .then_some(Attributes { set: *bit, clear: 0 })
            .or_else(|| (word == *off).then_some(Attributes { set: 0, clear: *bit }))
    });
    let time = |(known, set): &(&str, u64)| {
        (word == *known).then_some(Attributes { set: *set, clear: attr::ATIME_MASK })
    };
    bit.or_else(|| TIMES.iter().find_map(time))
}

/// All words, those for all mounts below among them.
pub(crate) fn known() -> impl Iterator<Item = String> {
    let bits = BITS.iter().flat_map(|(on, off, _)| [*on, *off]);
    bits.chain(TIMES.iter().map(|(word, _)| *word)).flat_map(|word| [word.to_owned(), format!("r{word}")])
}

impl Attributes {
    /// Adds another change; the later one counts.
    pub(crate) fn add(&mut self, later: Self) {
        self.set = (self.set & !later.clear) | later.set;
        self.clear |= later.clear;
        // What was taken away and is set now; the mask of access times is always taken away whole.
        self.clear &= !(later.set & !attr::ATIME_MASK);
    }

    /// The same for a bind of which something is said: what is not said is not so, as with runc, but for access times. With
    /// `locked`, what protects the host stays: a container with a user namespace may not take that away.
    pub(crate) fn exact(mut self, locked: bool) -> Self {
        let others = if locked {
            attr::NOSYMFOLLOW
        } else {
            attr::RDONLY | attr::NOSUID | attr::NODEV | attr::NOEXEC | attr::NOSYMFOLLOW
        };
        self.clear |= others & !self.set;
        if !locked && (self.clear & attr::ATIME_MASK != 0 || self.set & attr::NODIRATIME != 0) {
            self.clear |= attr::ATIME_MASK | (attr::NODIRATIME & !self.set);
        }
        self
    }

    /// As the kernel takes it.
    pub(crate) fn change(self) -> MountAttr {
        MountAttr { set: self.set, clear: self.clear, ..MountAttr::default() }
    }

    /// The words for it that set something, with whether they are to be set or taken away.
    pub(crate) fn words(self) -> Vec<(&'static str, bool)> {
        let mut all = Vec::new();
        for (on, _, bit) in BITS {
            if (self.set | self.clear) & bit != 0 {
                all.push((on, self.set & bit != 0));
            }
        }
        for (word, bit) in TIMES.iter().filter(|(_, bit)| *bit != 0) {
            if self.set & bit != 0 {
                all.push((word, true));
            }
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_word_counts() {
        let mut all = Attributes::default();
        for word in ["ro", "noatime", "nosuid", "rw", "strictatime", "ro"] {
            all.add(of(word).unwrap());
        }
        assert_eq!(all.set, attr::RDONLY | attr::STRICTATIME | attr::NOSUID);
        assert_eq!(all.clear, attr::ATIME_MASK);
        assert_eq!(all.words(), [("ro", true), ("nosuid", true), ("strictatime", true)]);
        assert_eq!(of("size=1m"), None);
        let read_only = of("ro").unwrap();
        assert_eq!(read_only.exact(true).clear, attr::NOSYMFOLLOW);
        assert_eq!(
            read_only.exact(false).clear & (attr::RDONLY | attr::ATIME_MASK | attr::NOSUID),
            attr::NOSUID
        );
        assert_ne!(of("noatime").unwrap().exact(false).clear & attr::NODIRATIME, 0);
        assert!(known().any(|word| word == "rnosymfollow"));
    }
}
