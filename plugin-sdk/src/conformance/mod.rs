//! Suites that every driver of a kind passes: the bundled ones, yours, as native code and as a component.
//!
//! ```ignore
//! #[test]
//! fn conforms() {
//!     conformance::storage(&Subject::new(|| Box::new(MyDriver::default())));
//! }
//! ```
#![allow(
    clippy::panic,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::missing_panics_doc,
    reason = "a suite fails as a test does"
)]

mod codec;
mod credentials;
mod ipam;
mod network;
mod storage;

use std::fmt::Debug;

use crate::mock::MockHost;
use crate::{Host, Result};

pub use codec::codec;
pub use credentials::credentials;
pub use ipam::ipam;
pub use network::network;
pub use storage::storage;

/// What a suite is run on: makes a fresh driver for every call, so that none can rely on what it remembers.
pub struct Subject<D: ?Sized> {
    make: Box<dyn Fn() -> Box<D>>,
    host: MockHost,
}

impl<D: ?Sized> Debug for Subject<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Subject").field("host", &self.host).finish_non_exhaustive()
    }
}

impl<D: ?Sized> Subject<D> {
    /// A driver with a mock host.
    pub fn new(make: impl Fn() -> Box<D> + 'static) -> Self {
        Self { make: Box::new(make), host: MockHost::new() }
    }

    /// The same with a configuration.
    #[must_use]
    pub fn with_config(self, config: &str) -> Self {
        self.host.set_config(config);
        self
    }

    /// The mock host.
    pub fn host(&self) -> &MockHost {
        &self.host
    }

    /// One call.
    pub(crate) fn call<T>(&self, function: impl FnOnce(&D, &dyn Host) -> Result<T>) -> Result<T> {
        let driver = (self.make)();
        self.host.call(|host| function(&driver, host))
    }

    /// One call, asked twice: the dry run must say what the real one says, and leave nothing behind.
    pub(crate) fn plan<T: PartialEq + Debug>(
        &self,
        function: impl Fn(&D, &dyn Host) -> Result<T>,
    ) -> Result<T> {
        let before = self.host.kv();
        let driver = (self.make)();
        let rehearsed = self.host.dry_run(|host| function(&driver, host));
        assert_eq!(self.host.kv(), before, "a dry run has changed the store");
        let real = self.call(&function);
        assert_eq!(rehearsed, real, "a dry run says something else than the real call");
        real
    }
}
