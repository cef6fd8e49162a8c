//! What goes with every call, and what comes back with every answer.

use std::sync::Arc;

use wharf_plan::net::Desired;
use wharf_plan::types::Timestamp;
use wharf_store::Transaction;

/// For whom and how a plugin is called. The host adds the time, the deadline and its own name.
#[derive(Debug, Clone, Default)]
pub struct Call {
    /// Same id on every retry of one operation: the idempotency key.
    pub operation: String,
    /// Only ask: nothing that comes of it will be applied or recorded.
    pub dry_run: bool,
    /// How often this operation was tried before.
    pub attempt: u32,
    /// The object it is about, if any: one that makes a plugin fail again and again is set aside rather than the plugin.
    pub object: Option<Arc<str>>,
    /// W3C `traceparent` of the request.
    pub trace_parent: Option<String>,
    /// A fixed time instead of now, for replays.
    pub now: Option<Timestamp>,
    /// For `plan_endpoint`: the network's state as applied, which the plan may refer to.
    pub network: Option<Arc<Desired>>,
    /// A directory of the host that the user named for this object, as if it had been granted for this call.
    pub directory: Option<String>,
    /// The name of a link of the host that the user chose for this network, as if it had been granted for this call.
    pub link: Option<String>,
    /// What earlier calls of the same operation have written but not yet committed; this call sees it.
    pub pending: Transaction,
}

impl Call {
    /// A call for the operation with this id.
    pub fn new(operation: impl Into<String>) -> Self {
        Self { operation: operation.into(), ..Self::default() }
    }

    /// Marks it as a question only.
    #[must_use]
    pub fn dry_run(mut self, dry_run: bool) -> Self {
        self.dry_run = dry_run;
        self
    }

    /// Lets the plan make the host's link of this name.
    #[must_use]
    pub fn with_link(mut self, link: Option<String>) -> Self {
        self.link = link;
        self
    }

    /// Names the object it is about.
    #[must_use]
    pub fn about(mut self, object: impl Into<Arc<str>>) -> Self {
        self.object = Some(object.into());
        self
    }

    /// Names the network, as applied, that an endpoint is planned for.
    #[must_use]
    pub fn within(mut self, network: Arc<Desired>) -> Self {
        self.network = Some(network);
        self
    }

    /// Names the directory of the host that the user gave to the object.
    #[must_use]
    pub fn with_directory(mut self, directory: Option<String>) -> Self {
        self.directory = directory;
        self
    }

    /// Lets the next calls see what an earlier answer staged. Use it where one operation calls a plugin twice before
    /// it commits.
    pub fn after<T>(&mut self, planned: &Planned<T>) -> &mut Self {
        self.pending.merge(planned.kv.clone());
        self
    }
}

/// An answer together with what the plugin wrote to its own store meanwhile.
///
/// Merge `kv` into the transaction that records the answer as applied; drop it if it is not applied. A commit that
/// fails with [`wharf_store::Error::Conflict`] has changed nothing: call again (see [`crate::is_conflict`]).
#[derive(Debug, Clone)]
pub struct Planned<T> {
    /// The answer, checked against the plugin's grants.
    pub value: T,
    /// What the plugin staged.
    pub kv: Transaction,
    /// Who said so.
    pub plugin: Arc<str>,
}

impl<T> Planned<T> {
    /// The same with another value.
    pub fn map<U>(self, change: impl FnOnce(T) -> U) -> Planned<U> {
        Planned { value: change(self.value), kv: self.kv, plugin: self.plugin }
    }
}
