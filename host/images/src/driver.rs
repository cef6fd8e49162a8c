//! The storage driver as this crate needs it: the functions of `wit/deps/storage.wit`, each answering with a plan.
//!
//! A seam rather than the plugin host itself, so that the tests here run against a native driver.

use std::future::Future;
use std::pin::Pin;

use wharf_plan::files::Op;
use wharf_plan::storage::{
    Capabilities, Claim, HostFacts, Layer, PrepareRequest, Prepared, Purpose, Snapshot, Stack,
};
use wharf_plan::types::{Code, Labels};
use wharf_store::Transaction;

use crate::error::{Error, Kind};

/// What the host tells a driver about the operation that a call belongs to.
#[derive(Debug, Clone, Default)]
pub struct Operation {
    /// The same on every retry.
    pub id: String,
    /// Nothing will be applied.
    pub dry_run: bool,
}

/// A driver's answer with the changes of its private state, to be committed once the answer is applied.
#[derive(Debug, Clone, Default)]
pub struct Answer<T> {
    /// The answer.
    pub value: T,
    /// Changes of the plugin's key-value state.
    pub kv: Transaction,
}

/// A boxed future, so that drivers can be trait objects.
pub type Answering<'a, T> = Pin<Box<dyn Future<Output = Result<Answer<T>, Error>> + Send + 'a>>;

/// A storage driver. Every function is pure: it returns a plan and changes nothing.
pub trait StorageDriver: Send + Sync + 'static {
    /// Name of the plugin, under which its files are kept.
    fn name(&self) -> String;
    /// Can it work here, and how.
    fn probe<'a>(
        &'a self,
        operation: &'a Operation,
        host: &'a HostFacts,
        options: &'a Labels,
    ) -> Answering<'a, Capabilities>;
    /// A new snapshot on top of a lineage.
    fn prepare<'a>(
        &'a self,
        operation: &'a Operation,
        request: &'a PrepareRequest,
    ) -> Answering<'a, Prepared>;
    /// How to mount a snapshot.
    fn mounts<'a>(
        &'a self,
        operation: &'a Operation,
        snapshot: &'a Snapshot,
        lineage: &'a [Snapshot],
        purpose: Purpose,
    ) -> Answering<'a, Stack>;
    /// Turns an active snapshot into a committed one.
    fn commit<'a>(
        &'a self,
        operation: &'a Operation,
        active: &'a Snapshot,
        name: &'a str,
        lineage: &'a [Snapshot],
    ) -> Answering<'a, Prepared>;
    /// What removes a snapshot.
    fn remove<'a>(&'a self, operation: &'a Operation, snapshot: &'a Snapshot) -> Answering<'a, Vec<Op>>;
    /// Whether the driver already has a layer.
    fn claim_layer<'a>(
        &'a self,
        operation: &'a Operation,
        layer: &'a Layer,
        lineage: &'a [Snapshot],
    ) -> Answering<'a, Claim>;
    /// What removes entries that no snapshot owns.
    fn collect<'a>(
        &'a self,
        operation: &'a Operation,
        live: &'a [String],
        found: &'a [String],
    ) -> Answering<'a, Vec<Op>>;
    /// Facts for `inspect`, as JSON text.
    fn describe<'a>(&'a self, operation: &'a Operation, snapshot: &'a Snapshot) -> Answering<'a, String>;
    /// Refuses plans that the plugin was not granted. A driver whose host checks already may leave it as is.
    fn check(&self, ops: &[Op], mounts: &[wharf_plan::files::Mount]) -> Result<(), Error> {
        let _ = (ops, mounts);
        Ok(())
    }
}

fn call(operation: &Operation, object: Option<&str>) -> wharf_plugins::Call {
    let call = wharf_plugins::Call::new(operation.id.clone()).dry_run(operation.dry_run);
    match object {
        Some(object) => call.about(object),
        None => call,
    }
}

fn answer<T>(
    planned: Result<wharf_plugins::Planned<T>, wharf_plugins::PluginError>,
) -> Result<Answer<T>, Error> {
    match planned {
        Ok(planned) => Ok(Answer { value: planned.value, kv: planned.kv }),
        Err(error) => {
            let kind = match error.code() {
                Code::Invalid => Kind::Invalid,
                Code::NotFound => Kind::NotFound,
                Code::AlreadyExists | Code::Conflict => Kind::Conflict,
                Code::Unsupported => Kind::Unsupported,
                Code::Exhausted => Kind::TooLarge,
                _ => Kind::Internal,
            };
            Err(Error::new(kind, error.to_string()))
        }
    }
}

/// The plugin host checks every plan against the plugin's grants before it answers.
impl StorageDriver for wharf_plugins::Storage {
    fn name(&self) -> String {
        self.plugin().to_string()
    }

    fn probe<'a>(
        &'a self,
        operation: &'a Operation,
        host: &'a HostFacts,
        options: &'a Labels,
    ) -> Answering<'a, Capabilities> {
        Box::pin(async move { answer(Self::probe(self, &call(operation, None), host, options).await) })
    }

    fn prepare<'a>(
        &'a self,
        operation: &'a Operation,
        request: &'a PrepareRequest,
    ) -> Answering<'a, Prepared> {
        Box::pin(
            async move { answer(Self::prepare(self, &call(operation, Some(&request.id)), request).await) },
        )
    }

    fn mounts<'a>(
        &'a self,
        operation: &'a Operation,
        snapshot: &'a Snapshot,
        lineage: &'a [Snapshot],
        purpose: Purpose,
    ) -> Answering<'a, Stack> {
        Box::pin(async move {
            answer(Self::mounts(self, &call(operation, Some(&snapshot.id)), snapshot, lineage, purpose).await)
        })
    }

    fn commit<'a>(
        &'a self,
        operation: &'a Operation,
        active: &'a Snapshot,
        name: &'a str,
        lineage: &'a [Snapshot],
    ) -> Answering<'a, Prepared> {
        Box::pin(async move {
            answer(Self::commit(self, &call(operation, Some(&active.id)), active, name, lineage).await)
        })
    }

    fn remove<'a>(&'a self, operation: &'a Operation, snapshot: &'a Snapshot) -> Answering<'a, Vec<Op>> {
        Box::pin(
            async move { answer(Self::remove(self, &call(operation, Some(&snapshot.id)), snapshot).await) },
        )
    }

    fn claim_layer<'a>(
        &'a self,
        operation: &'a Operation,
        layer: &'a Layer,
        lineage: &'a [Snapshot],
    ) -> Answering<'a, Claim> {
        Box::pin(async move { answer(Self::claim_layer(self, &call(operation, None), layer, lineage).await) })
    }

    fn collect<'a>(
        &'a self,
        operation: &'a Operation,
        live: &'a [String],
        found: &'a [String],
    ) -> Answering<'a, Vec<Op>> {
        Box::pin(async move { answer(Self::collect(self, &call(operation, None), live, found).await) })
    }

    fn describe<'a>(&'a self, operation: &'a Operation, snapshot: &'a Snapshot) -> Answering<'a, String> {
        Box::pin(
            async move { answer(Self::describe(self, &call(operation, Some(&snapshot.id)), snapshot).await) },
        )
    }
}
