//! Storage drivers: image layers and container root file systems.

use crate::Result;
use crate::bindings::storage::exports::wharf::storage::driver::Guest;
use crate::files::Op;
use crate::host::{Host, enter};
use crate::types::{Json, Labels};

mod layered;
mod remembered;
mod whole;

pub use layered::Layered;
pub use remembered::Remembered;
pub use whole::Whole;

pub use crate::bindings::storage::exports::wharf::storage::driver::{
    ApplyMode, Capabilities, Claim, DiffMode, Features, HostFacts, Kind, Layer, PrepareRequest, Prepared,
    Purpose, Snapshot, Stack,
};

/// What removes, of the names found in the plugin's directory, those that belong to no live snapshot: the whole answer
/// to [`Driver::collect`] where snapshots are called by [`dir_name`](crate::files::dir_name).
pub fn strays(live: &[String], found: &[String], remove: impl Fn(crate::files::Place) -> Op) -> Vec<Op> {
    let live: std::collections::BTreeSet<String> = live.iter().map(|id| crate::files::dir_name(id)).collect();
    found
        .iter()
        .filter(|name| !live.contains(*name))
        .map(|name| remove(crate::files::data(name.clone())))
        .collect()
}

/// What gives a snapshot called by [`dir_name`](crate::files::dir_name) its lasting name, if that is another one.
pub fn renamed(active: &Snapshot, name: &str) -> Vec<Op> {
    use crate::files::{data, dir_name};
    let (from, to) = (dir_name(&active.id), dir_name(name));
    if from == to { Vec::new() } else { vec![Op::Rename((data(from), data(to)))] }
}

/// Refuses options that a driver does not know. `known` are their names, with the driver's in front or without.
pub fn only_options(driver: &str, options: &Labels, known: &[&str]) -> Result<()> {
    let short = |name: &str| {
        let own = name.strip_prefix(driver).or_else(|| name.strip_prefix(driver.trim_end_matches('2')));
        own.and_then(|rest| rest.strip_prefix('.')).unwrap_or(name).to_owned()
    };
    match options.iter().find(|(name, _)| !known.contains(&short(name).as_str())) {
        Some((name, _)) => Err(crate::Error::invalid(format!("{driver}: unknown option {name}"))),
        None => Ok(()),
    }
}

/// Whether the host says that it has a feature, of [`HostFacts::features`].
pub fn has_feature(facts: &HostFacts, name: &str) -> bool {
    facts.features.iter().any(|feature| feature == name)
}

/// A storage driver: says what there shall be on disk for a snapshot, and how it is mounted.
pub trait Driver {
    /// Can it work here, and how. Once per boot and per change of configuration.
    fn probe(&self, host: &dyn Host, facts: &HostFacts, options: &Labels) -> Result<Capabilities>;
    /// A new view or active snapshot on top of `request.lineage`, nearest ancestor first.
    fn prepare(&self, host: &dyn Host, request: &PrepareRequest) -> Result<Prepared>;
    /// How to mount it. Pure; asked again after a reboot.
    fn mounts(
        &self,
        host: &dyn Host,
        snapshot: &Snapshot,
        lineage: &[Snapshot],
        purpose: Purpose,
    ) -> Result<Stack>;
    /// Active becomes committed under `name`.
    fn commit(
        &self,
        host: &dyn Host,
        active: &Snapshot,
        name: &str,
        lineage: &[Snapshot],
    ) -> Result<Prepared>;
    /// What removes it. The host guarantees no children and no mounts.
    fn remove(&self, host: &dyn Host, snapshot: &Snapshot) -> Result<Vec<Op>>;
    /// Whether the layer need not be fetched and unpacked.
    fn claim_layer(&self, _host: &dyn Host, _layer: &Layer, _lineage: &[Snapshot]) -> Result<Claim> {
        Ok(Claim::Decline)
    }
    /// What removes entries of the plugin's directory that no live snapshot owns.
    fn collect(&self, host: &dyn Host, live: &[String], found: &[String]) -> Result<Vec<Op>>;
    /// Facts for `inspect`, as a JSON object.
    fn describe(&self, _host: &dyn Host, _snapshot: &Snapshot) -> Result<Json> {
        Ok("{}".to_owned())
    }
}

/// A driver as an exported interface; [`crate::export!`] makes it.
#[derive(Debug)]
pub struct Component<D>(std::marker::PhantomData<D>);

impl<D: Driver + Default> Guest for Component<D> {
    fn probe(host: HostFacts, options: Labels) -> Result<Capabilities> {
        D::default().probe(enter(), &host, &options)
    }
    fn prepare(request: PrepareRequest) -> Result<Prepared> {
        D::default().prepare(enter(), &request)
    }
    fn mounts(snapshot: Snapshot, lineage: Vec<Snapshot>, purpose: Purpose) -> Result<Stack> {
        D::default().mounts(enter(), &snapshot, &lineage, purpose)
    }
    fn commit(active: Snapshot, name: String, lineage: Vec<Snapshot>) -> Result<Prepared> {
        D::default().commit(enter(), &active, &name, &lineage)
    }
    fn remove(snapshot: Snapshot) -> Result<Vec<Op>> {
        D::default().remove(enter(), &snapshot)
    }
    fn claim_layer(layer: Layer, lineage: Vec<Snapshot>) -> Result<Claim> {
        D::default().claim_layer(enter(), &layer, &lineage)
    }
    fn collect(live: Vec<String>, found: Vec<String>) -> Result<Vec<Op>> {
        D::default().collect(enter(), &live, &found)
    }
    fn describe(snapshot: Snapshot) -> Result<Json> {
        D::default().describe(enter(), &snapshot)
    }
}
