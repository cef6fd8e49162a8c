//! Volume drivers.

use crate::Result;
use crate::bindings::volume::exports::wharf::volume::driver::Guest;
use crate::error::no;
use crate::files::Op;
use crate::host::{Host, enter};
use crate::types::Cookie;

pub use crate::bindings::volume::exports::wharf::volume::driver::{
    Capabilities, Change, Content, CreateRequest, External, Features, MountPlan, MountRequest, Scope, Stats,
    Volume,
};

/// A volume driver: says what there shall be for a volume, and how a container gets it.
pub trait Driver {
    /// What it can do and which options it understands.
    fn capabilities(&self, host: &dyn Host) -> Result<Capabilities>;
    /// A new volume. Idempotent by operation id.
    fn create(&self, host: &dyn Host, request: &CreateRequest) -> Result<Change>;
    /// What removes it. The host has refused already if a container uses it.
    fn remove(&self, host: &dyn Host, volume: &Volume) -> Result<Vec<Op>>;
    /// Makes a remote disk visible to a node.
    fn attach(&self, _host: &dyn Host, _volume: &Volume, _node: &str, _read_only: bool) -> Result<Cookie> {
        no("attach")
    }
    /// Undoes [`Driver::attach`].
    fn detach(&self, _host: &dyn Host, _volume: &Volume, _node: &str, _attachment: &Cookie) -> Result<()> {
        no("detach")
    }
    /// How one container gets it.
    fn plan_mount(&self, host: &dyn Host, request: &MountRequest) -> Result<MountPlan>;
    /// The last mount of that plan is gone.
    fn released(&self, _host: &dyn Host, _volume: &Volume, _mount_cookie: &Cookie) -> Result<()> {
        Ok(())
    }
    /// Makes it larger.
    fn expand(&self, _host: &dyn Host, _volume: &Volume, _size: u64) -> Result<Change> {
        no("expand")
    }
    /// Keeps its present content under a name.
    fn snapshot(&self, _host: &dyn Host, _volume: &Volume, _name: &str) -> Result<Change> {
        no("snapshot")
    }
    /// Removes such a snapshot.
    fn remove_snapshot(&self, _host: &dyn Host, _volume: &Volume, _name: &str) -> Result<Vec<Op>> {
        no("remove-snapshot")
    }
    /// Size and use, where the host cannot ask the file system itself.
    fn measure(&self, _host: &dyn Host, _volume: &Volume) -> Result<Stats> {
        no("measure")
    }
    /// Volumes the backend knows.
    fn find(&self, _host: &dyn Host, _after: Option<&str>, _limit: u32) -> Result<Vec<External>> {
        Ok(Vec::new())
    }
}

/// A driver as an exported interface; [`crate::export!`] makes it.
#[derive(Debug)]
pub struct Component<D>(std::marker::PhantomData<D>);

impl<D: Driver + Default> Guest for Component<D> {
    fn get_capabilities() -> Result<Capabilities> {
        D::default().capabilities(enter())
    }
    fn create(request: CreateRequest) -> Result<Change> {
        D::default().create(enter(), &request)
    }
    fn remove(volume: Volume) -> Result<Vec<Op>> {
        D::default().remove(enter(), &volume)
    }
    fn attach(volume: Volume, node: String, read_only: bool) -> Result<Cookie> {
        D::default().attach(enter(), &volume, &node, read_only)
    }
    fn detach(volume: Volume, node: String, attachment: Cookie) -> Result<()> {
        D::default().detach(enter(), &volume, &node, &attachment)
    }
    fn plan_mount(request: MountRequest) -> Result<MountPlan> {
        D::default().plan_mount(enter(), &request)
    }
    fn released(volume: Volume, mount_cookie: Cookie) -> Result<()> {
        D::default().released(enter(), &volume, &mount_cookie)
    }
    fn expand(volume: Volume, size: u64) -> Result<Change> {
        D::default().expand(enter(), &volume, size)
    }
    fn snapshot(volume: Volume, name: String) -> Result<Change> {
        D::default().snapshot(enter(), &volume, &name)
    }
    fn remove_snapshot(volume: Volume, name: String) -> Result<Vec<Op>> {
        D::default().remove_snapshot(enter(), &volume, &name)
    }
    fn measure(volume: Volume) -> Result<Stats> {
        D::default().measure(enter(), &volume)
    }
    fn find(after: Option<String>, limit: u32) -> Result<Vec<External>> {
        D::default().find(enter(), after.as_deref(), limit)
    }
}
