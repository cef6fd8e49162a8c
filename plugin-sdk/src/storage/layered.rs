//! Layers over each other by overlay, for drivers whose snapshots are what a layer adds to those below.

use super::{
    Features, HostFacts, Kind, PrepareRequest, Prepared, Purpose, Remembered, Snapshot, has_feature, renamed,
};
use crate::files::{
    Mount, MountAttributes, Op, OptionValue, Place, Quota, data, dir_name, join, make_dir, mounted,
};
use crate::types::Cookie;
use crate::{Error, Result};

/// File systems that cannot hold an overlay's upper directory.
const UNFIT: [&str; 6] = ["overlay", "overlayfs", "nfs", "nfs4", "ecryptfs", "aufs"];

/// The kernel takes 500 lower layers; some are kept back for the bottom of a taller stack.
const LOWER_LAYERS: usize = 490;

/// Collects the mounts of a stack, idmapped ones where a user namespace asks for them.
#[derive(Debug)]
pub struct Layered {
    driver: &'static str,
    mounts: Vec<Mount>,
    how: Remembered,
}

impl Layered {
    /// For a driver, by its name in errors, and a snapshot.
    pub fn new(driver: &'static str, how: Remembered) -> Self {
        Self { driver, mounts: Vec::new(), how }
    }

    /// Whether such a driver can work on this host, which must have these file systems. Answers what it can do then, and the
    /// data directory's file system as Docker shows it.
    pub fn probe<'f>(
        driver: &str,
        facts: &'f HostFacts,
        filesystems: &[&str],
    ) -> Result<(Features, &'f str)> {
        if let Some(name) = filesystems.iter().find(|name| !facts.filesystems.iter().any(|has| has == *name))
        {
            return Err(Error::unsupported(format!("{driver}: this kernel has no {name} file system")));
        }
        let backing = facts.backing_filesystem.as_str();
        if UNFIT.contains(&backing) {
            return Err(Error::unsupported(format!(
                "{driver}: a data directory on {backing} cannot hold layers; use another one or the driver vfs"
            )));
        }
        if facts.user_namespace {
            return Err(Error::unsupported(format!("{driver}: not in a user namespace; use the driver vfs")));
        }
        let mut features = Features::REBASE_ON_COMMIT | Features::ID_MAPPED | Features::EXACT_DIFFS;
        if has_feature(facts, "project-quota") {
            features |= Features::SIZE_LIMIT;
        }
        Ok((features, if matches!(backing, "ext2" | "ext3" | "ext4") { "extfs" } else { backing }))
    }

    /// The directories of a new snapshot: `diff` and, if it can be written, `work`, in one called by [`dir_name`]. A view
    /// of something needs none.
    pub fn prepare(request: &PrepareRequest) -> Prepared {
        let cookie = Remembered::cookie(&request.id_maps, request.mount_label.as_deref());
        if request.kind == Kind::View && !request.lineage.is_empty() {
            return Prepared { ops: Vec::new(), cookie };
        }
        let home = data(dir_name(&request.id));
        // On disk, ids stay as they are inside: the layers are idmapped when they are mounted.
        let mut ops = vec![make_dir(home.clone(), 0o710), make_dir(join(&home, "diff"), 0o755)];
        if request.kind == Kind::Active {
            ops.push(make_dir(join(&home, "work"), 0o700));
        }
        if request.size_limit.is_some() {
            ops.push(Op::SetQuota(Quota { at: home, bytes: request.size_limit, inodes: None }));
        }
        Prepared { ops, cookie }
    }

    /// A snapshot under its lasting name, without these of its directories, which a committed one does not need.
    pub fn commit(active: &Snapshot, name: &str, needless: &[&str]) -> Prepared {
        let home = data(dir_name(name));
        let mut ops = renamed(active, name);
        ops.extend(needless.iter().map(|part| Op::RemoveTree(join(&home, part))));
        Prepared { ops, cookie: Cookie::new() }
    }

    /// Whether a snapshot is mounted to be written.
    pub fn is_written(snapshot: &Snapshot, purpose: Purpose) -> bool {
        snapshot.kind == Kind::Active && purpose != Purpose::ReadOnlyInspect
    }

    /// The mounts, the last being the root.
    pub fn finish(self) -> Vec<Mount> {
        self.mounts
    }

    fn push(&mut self, mount: Mount) -> u32 {
        self.mounts.push(mount);
        u32::try_from(self.mounts.len() - 1).unwrap_or(u32::MAX)
    }

    fn push_mapped(&mut self, mut mount: Mount) -> u32 {
        mount.id_maps.clone_from(&self.how.maps);
        self.push(mount)
    }

    /// A directory alone: no overlay is needed.
    pub fn only_directory(&mut self, place: Place, attributes: MountAttributes) {
        self.push_mapped(Mount::bind(place).with(attributes));
    }

    /// An image alone.
    pub fn only_image(&mut self, place: Place) {
        self.push_mapped(Mount::image(place));
    }

    /// A directory as a layer. Overlay cannot be idmapped itself, but its layers can.
    pub fn directory(&mut self, place: Place) -> Place {
        if self.how.maps.is_empty() {
            return place;
        }
        mounted(self.push_mapped(Mount::bind(place)), "")
    }

    /// An image as a layer.
    pub fn image(&mut self, place: Place) -> Place {
        mounted(self.push_mapped(Mount::image(place)), "")
    }

    /// The two directories that a writable overlay needs, `diff` and `work` in a common one: they must come from one
    /// mount.
    pub fn upper(&mut self, home: Place) -> (Place, Place) {
        if self.how.maps.is_empty() {
            return (join(&home, "diff"), join(&home, "work"));
        }
        let index = self.push_mapped(Mount::bind(home));
        (mounted(index, "diff"), mounted(index, "work"))
    }

    /// A stack taller than overlay takes becomes two: the bottom is mounted first and is one layer of the top. It can
    /// only be the bottom, as an overlay hides the whiteouts of its own layers.
    fn two_of_tall(&mut self, mut lower: Vec<Place>) -> Result<Vec<Place>> {
        if lower.len() <= LOWER_LAYERS {
            return Ok(lower);
        }
        let count = lower.len();
        let bottom = lower.split_off(LOWER_LAYERS);
        if bottom.len() > LOWER_LAYERS {
            return Err(Error::exhausted(format!(
                "{}: {count} layers; this driver takes {}",
                self.driver,
                2 * LOWER_LAYERS
            )));
        }
        lower.push(match bottom.as_slice() {
            [only] => only.clone(),
            _ => {
                let mount = Mount::overlay(bottom, None).with(MountAttributes::READ_ONLY);
                mounted(self.push(mount), "")
            }
        });
        Ok(lower)
    }

    /// The overlay of these layers, nearest first.
    pub fn overlay(&mut self, lower: Vec<Place>, upper: Option<(Place, Place)>) -> Result<()> {
        let lower = self.two_of_tall(lower)?;
        let writable = upper.is_some();
        // With these two off the upper directory alone is the difference.
        let mut mount = Mount::overlay(lower, upper).text("redirect_dir", "off").text("metacopy", "off");
        if writable {
            // Layers are shared between containers, which an index would refuse.
            mount = mount.text("index", "off");
        } else {
            mount = mount.with(MountAttributes::READ_ONLY);
        }
        if let Some(label) = self.how.label.take() {
            mount = mount.option("context", OptionValue::Text(label));
        }
        self.push(mount);
        Ok(())
    }
}
