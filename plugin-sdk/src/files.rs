//! The vocabulary of plans about files, devices and mounts, and short ways to write them.

pub use crate::bindings::host::wharf::plan::files::*;

/// Below the plugin's own directory on persistent storage.
pub fn data(path: impl Into<String>) -> Place {
    Place { root: Root::Data, path: path.into() }
}

/// Below the plugin's own tmpfs.
pub fn run(path: impl Into<String>) -> Place {
    Place { root: Root::Run, path: path.into() }
}

/// Below a directory that the administrator granted under this name.
pub fn granted(name: impl Into<String>, path: impl Into<String>) -> Place {
    Place { root: Root::Granted(name.into()), path: path.into() }
}

/// Below an earlier mount of the same plan.
pub fn mounted(index: u32, path: impl Into<String>) -> Place {
    Place { root: Root::Mount(index), path: path.into() }
}

/// Something in a directory that a place names.
pub fn join(place: &Place, name: &str) -> Place {
    let path = if place.path.is_empty() { name.to_owned() } else { format!("{}/{name}", place.path) };
    Place { root: place.root.clone(), path }
}

/// A sub-path as a user writes it, made a plan's path: no leading slash, no empty or `.` component.
/// `..` is refused rather than resolved.
pub fn clean(path: &str) -> Option<String> {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    (!parts.contains(&"..")).then(|| parts.join("/"))
}

/// A directory of root's with these permissions.
pub fn make_dir(at: Place, mode: u32) -> Op {
    Op::MakeDir(Owner { at, uid: 0, gid: 0, mode })
}

impl Mount {
    /// A mount without options.
    pub fn new(fstype: impl Into<String>, source: Source) -> Self {
        Self {
            fstype: fstype.into(),
            source,
            options: Vec::new(),
            attributes: MountAttributes::empty(),
            id_maps: Vec::new(),
        }
    }

    /// A place again, somewhere else.
    pub fn bind(place: Place) -> Self {
        Self::new("bind", Source::Place(place))
    }

    /// An EROFS image that the host wrote, read-only.
    pub fn image(place: Place) -> Self {
        Self::new("erofs", Source::Place(place)).with(MountAttributes::READ_ONLY)
    }

    /// A file system in memory.
    pub fn tmpfs() -> Self {
        Self::new("tmpfs", Source::None)
    }

    /// An overlay: `lower` nearest first; without `upper` (and its `work`) it is read-only.
    pub fn overlay(lower: Vec<Place>, upper: Option<(Place, Place)>) -> Self {
        let mut mount = Self::new("overlay", Source::None).option("lowerdir", OptionValue::Places(lower));
        if let Some((upper, work)) = upper {
            mount = mount
                .option("upperdir", OptionValue::Place(upper))
                .option("workdir", OptionValue::Place(work));
        }
        mount
    }

    /// Adds an option.
    #[must_use]
    pub fn option(mut self, name: impl Into<String>, value: OptionValue) -> Self {
        self.options.push((name.into(), value));
        self
    }

    /// Adds an option with a text.
    #[must_use]
    pub fn text(self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.option(name, OptionValue::Text(value.into()))
    }

    /// Adds attributes.
    #[must_use]
    pub fn with(mut self, attributes: MountAttributes) -> Self {
        self.attributes |= attributes;
        self
    }
}

/// A short directory name for an object's id: the id itself where it is plain and short, otherwise the first 128 bits
/// of its digest. Equal ids have equal names.
pub fn dir_name(id: &str) -> String {
    let hex = id.strip_prefix("sha256:").unwrap_or(id);
    if hex.len() == 64 && hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
        return hex.chars().take(32).collect();
    }
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if (1..=48).contains(&id.len()) && id.bytes().all(plain) && !id.starts_with(['.', '-', '~']) {
        return id.to_owned();
    }
    // The tilde keeps such names apart from ids that are used as they are.
    format!("~{:032x}", fnv(id.as_bytes()))
}

/// FNV-1a: for names and addresses that shall look random and be the same every time. Not for secrets.
pub fn fnv(bytes: &[u8]) -> u128 {
    bytes.iter().fold(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d, |hash, byte| {
        (hash ^ u128::from(*byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b)
    })
}
