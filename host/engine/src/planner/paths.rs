//! Paths in containers as clients give them, and modes as Go has them.

use crate::error::{Error, Result};
use crate::planner::mounts::clean;

/// A path that a client asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// As it came, for messages.
    pub given: String,
    /// Absolute and clean, but for a slash or a dot at its end: those say that a link there is to be followed.
    pub path: String,
    /// The name that it has in archives.
    pub base: String,
}

impl Asked {
    /// Reads it.
    pub fn new(given: &str) -> Result<Self> {
        if given.is_empty() {
            return Err(Error::invalid("bad parameter: 'path' cannot be empty"));
        }
        if given.contains('\0') || given.len() > 4095 {
            return Err(Error::invalid("bad parameter: 'path' contains a NUL byte or is too long"));
        }
        let mut path = clean(given);
        let dot = given == "." || given.ends_with("/.");
        let slash = given.ends_with('/');
        let base = if dot {
            ".".to_owned()
        } else {
            path.rsplit('/').next().filter(|b| !b.is_empty()).unwrap_or("/").to_owned()
        };
        if (dot || slash) && !path.ends_with('/') {
            path.push('/');
        }
        if dot {
            path.push('.');
        }
        Ok(Self { given: given.to_owned(), path, base })
    }
}

/// `st_mode` as Go's `FileMode`.
pub fn file_mode(mode: u32) -> u32 {
    let kind = match mode & libc::S_IFMT {
        libc::S_IFDIR => 1 << 31,
        libc::S_IFLNK => 1 << 27,
        libc::S_IFBLK => 1 << 26,
        libc::S_IFCHR => 1 << 26 | 1 << 21,
        libc::S_IFIFO => 1 << 25,
        libc::S_IFSOCK => 1 << 24,
        _ => 0,
    };
    let special = [(libc::S_ISUID, 1 << 23), (libc::S_ISGID, 1 << 22), (libc::S_ISVTX, 1 << 20)];
    let bits: u32 = special.iter().filter(|(bit, _)| mode & bit != 0).map(|(_, go)| go).sum();
    kind | bits | (mode & 0o777)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        for (given, path, base) in [
            ("/a/b", "/a/b", "b"),
            ("a/b", "/a/b", "b"),
            ("/a/b/", "/a/b/", "b"),
            ("/a/b/.", "/a/b/.", "."),
            ("/a/../../b", "/b", "b"),
            ("/", "/", "/"),
            ("/.", "/.", "."),
            (".", "/.", "."),
            ("//a//", "/a/", "a"),
        ] {
            let asked = Asked::new(given).unwrap();
            assert_eq!((asked.path.as_str(), asked.base.as_str()), (path, base), "{given}");
        }
        assert!(Asked::new("").is_err() && Asked::new("a\0b").is_err());
    }

    #[test]
    fn modes_of_go() {
        for (mode, go) in [
            (0o100_644, 0o644),
            (0o040_755, 0x8000_0000 | 0o755),
            (0o041_777, 0x8010_0000 | 0o777),
            (0o120_777, 0x0800_0000 | 0o777),
            (0o104_755, 0x0080_0000 | 0o755),
            (0o102_755, 0x0040_0000 | 0o755),
            (0o020_666, 0x0420_0000 | 0o666),
            (0o060_660, 0x0400_0000 | 0o660),
            (0o010_644, 0x0200_0000 | 0o644),
            (0o140_755, 0x0100_0000 | 0o755),
        ] {
            assert_eq!(file_mode(mode), go, "{mode:o}");
        }
    }
}
