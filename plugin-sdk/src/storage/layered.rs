//! Layers over each other by overlay, for drivers whose snapshots are what a layer adds to those below.

use super::Remembered;
use crate::files::{Mount, MountAttributes, OptionValue, Place, join, mounted};
use crate::{Error, Result};

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
