//! Address management.

use crate::Result;
use crate::bindings::ipam::exports::wharf::network::ipam::Guest;
use crate::host::{Host, enter};
use crate::net::Ip;

pub use crate::bindings::ipam::exports::wharf::network::ipam::{
    AddressRequest, Family, Lease, Pool, PoolRequest, Purpose, Spaces, Usage,
};

/// An address manager: says which networks and addresses are whose.
pub trait Driver {
    /// Names of its address spaces.
    fn address_spaces(&self, host: &dyn Host) -> Result<Spaces>;
    /// A network to take addresses from.
    fn request_pool(&self, host: &dyn Host, request: &PoolRequest) -> Result<Pool>;
    /// Gives it back.
    fn release_pool(&self, host: &dyn Host, pool: &Pool) -> Result<()>;
    /// All of these addresses or none.
    fn request_addresses(&self, host: &dyn Host, requests: &[AddressRequest]) -> Result<Vec<Lease>>;
    /// Gives them back.
    fn release_addresses(&self, host: &dyn Host, pool: &Pool, leases: &[Lease]) -> Result<()>;
    /// How many there are and how many are taken.
    fn usage(&self, host: &dyn Host, pool: &Pool) -> Result<Usage>;
    /// Drops every lease that is not in `live` and returns what was dropped.
    fn reconcile(&self, host: &dyn Host, pool: &Pool, live: &[Lease]) -> Result<Vec<Ip>>;
}

/// A driver as an exported interface; [`crate::export!`] makes it.
#[derive(Debug)]
pub struct Component<D>(std::marker::PhantomData<D>);

impl<D: Driver + Default> Guest for Component<D> {
    fn address_spaces() -> Result<Spaces> {
        D::default().address_spaces(enter())
    }
    fn request_pool(request: PoolRequest) -> Result<Pool> {
        D::default().request_pool(enter(), &request)
    }
    fn release_pool(pool: Pool) -> Result<()> {
        D::default().release_pool(enter(), &pool)
    }
    fn request_addresses(requests: Vec<AddressRequest>) -> Result<Vec<Lease>> {
        D::default().request_addresses(enter(), &requests)
    }
    fn release_addresses(pool: Pool, leases: Vec<Lease>) -> Result<()> {
        D::default().release_addresses(enter(), &pool, &leases)
    }
    fn pool_usage(pool: Pool) -> Result<Usage> {
        D::default().usage(enter(), &pool)
    }
    fn reconcile(pool: Pool, live: Vec<Lease>) -> Result<Vec<Ip>> {
        D::default().reconcile(enter(), &pool, &live)
    }
}
