//! The storage driver `btrfs`: every snapshot is a subvolume, made of its parent's as a snapshot in the file system's own
//! sense: in one step, whatever its size, and sharing all blocks.
//!
//! On disk, below the plugin's own directory: `<name>` is a snapshot's subvolume. Names are short forms of the host's ids.
#![cfg_attr(not(target_arch = "wasm32"), forbid(unsafe_code))]

use wharf_plugin_sdk::files::{Op, SubvolumeCopy, data, dir_name};
use wharf_plugin_sdk::storage::{
    ApplyMode, Capabilities, DiffMode, Driver, Features, HostFacts, PrepareRequest, Prepared, Purpose,
    Snapshot, Stack, Whole, strays,
};
use wharf_plugin_sdk::types::Labels;
use wharf_plugin_sdk::{Error, Host, Result};

/// The driver.
#[derive(Debug, Default)]
pub struct Btrfs;

/// Every snapshot is a subvolume.
const WHOLE: Whole = Whole {
    driver: "btrfs",
    empty: Op::SubvolumeCreate,
    copy: |source, target| Op::SubvolumeClone(SubvolumeCopy { source, target, read_only: false }),
};

/// The smallest size that a container may be limited to, of the option `btrfs.min_space`.
fn min_space(options: &Labels) -> Result<u64> {
    let mut least = 0;
    for (name, value) in options {
        match name.as_str() {
            "btrfs.min_space" | "min_space" => {
                least = bytes(value)
                    .ok_or_else(|| Error::invalid(format!("btrfs: {name}: invalid size: '{value}'")))?;
            }
            "size" | "btrfs.size" => {}
            _ => return Err(Error::invalid(format!("btrfs: unknown option {name}"))),
        }
    }
    Ok(least)
}

/// `10G`, `512mb`, `4096`.
fn bytes(text: &str) -> Option<u64> {
    let text = text.trim().to_ascii_lowercase();
    let text = text.strip_suffix("ib").or_else(|| text.strip_suffix('b')).unwrap_or(&text);
    let shift = match text.bytes().last()? {
        b'k' => 10,
        b'm' => 20,
        b'g' => 30,
        b't' => 40,
        _ => 0,
    };
    let digits = text.trim_end_matches(['k', 'm', 'g', 't']).trim_end();
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

impl Driver for Btrfs {
    fn probe(&self, _host: &dyn Host, facts: &HostFacts, options: &Labels) -> Result<Capabilities> {
        min_space(options)?;
        if facts.backing_filesystem != "btrfs" {
            return Err(Error::unsupported(format!(
                "btrfs: prerequisites for driver not satisfied (wrong filesystem?): the data directory is on {}; put it on \
                 btrfs or use another driver",
                facts.backing_filesystem
            )));
        }
        Ok(Capabilities {
            apply: ApplyMode::Unpack,
            diff: DiffMode::DoubleWalk,
            features: Features::SIZE_LIMIT | Features::ID_MAPPED | Features::EXACT_DIFFS,
            status: vec![("Btrfs".to_owned(), String::new())],
        })
    }

    fn prepare(&self, _host: &dyn Host, request: &PrepareRequest) -> Result<Prepared> {
        if let Some(limit) = request.size_limit {
            let least = min_space(&request.options)?;
            if limit < least {
                return Err(Error::invalid(format!("btrfs: storage size cannot be less than {least} bytes")));
            }
        }
        Ok(WHOLE.prepare(request))
    }

    fn mounts(
        &self,
        _host: &dyn Host,
        snapshot: &Snapshot,
        lineage: &[Snapshot],
        purpose: Purpose,
    ) -> Result<Stack> {
        WHOLE.mounts(snapshot, lineage, purpose)
    }

    fn commit(
        &self,
        _host: &dyn Host,
        active: &Snapshot,
        name: &str,
        _lineage: &[Snapshot],
    ) -> Result<Prepared> {
        Ok(WHOLE.commit(active, name))
    }

    fn remove(&self, _host: &dyn Host, snapshot: &Snapshot) -> Result<Vec<Op>> {
        Ok(vec![Op::SubvolumeRemove(data(dir_name(&snapshot.id)))])
    }

    fn collect(&self, _host: &dyn Host, live: &[String], found: &[String]) -> Result<Vec<Op>> {
        // What is found may be no subvolume.
        Ok(strays(live, found, Op::RemoveTree))
    }

    fn describe(&self, _host: &dyn Host, snapshot: &Snapshot) -> Result<String> {
        Ok(format!(r#"{{"Subvolume":"{}"}}"#, dir_name(&snapshot.id)))
    }
}

#[cfg(test)]
mod tests;

wharf_plugin_sdk::export!(storage: Btrfs);
