//! Making one call.

use std::collections::HashMap;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use tracing::Instrument;
use wasmtime::component::{ComponentExportIndex, ComponentNamedList, Instance, Lift, Lower};
use wasmtime::{AsContextMut, Store};
use wharf_plan::types::{self, Context};
use wharf_store::Transaction;

use crate::call::{Call, Planned};
use crate::document::Document;
use crate::kinds::Kind;
use crate::kv::Kv;
use crate::limits::{self, Limits};
use crate::meter::Meter;
use crate::plugin::{Plugin, Resident};
use crate::sandbox::Sandbox;
use crate::state::{HostState, Running};
use crate::vet::{Judge, Refusal, Vet};
use crate::{ErrorKind, PluginError};

/// What all calls share.
pub(crate) struct Host {
    pub sandbox: Sandbox,
    pub entries: wharf_store::Store,
    pub cores: usize,
}

/// A plugin's name, and the version of it that takes new calls. Calls in flight end on the one they began with.
pub(crate) struct Slot {
    pub name: Arc<str>,
    pub current: ArcSwap<Plugin>,
}

/// One plugin, as a handle of any kind holds it.
#[derive(Clone)]
pub(crate) struct Handle {
    pub host: Arc<Host>,
    pub slot: Arc<Slot>,
}

impl std::fmt::Debug for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Handle").field(&self.slot.name).finish()
    }
}

impl Handle {
    pub(crate) fn name(&self) -> &Arc<str> {
        &self.slot.name
    }

    pub(crate) async fn invoke<P, R>(
        &self,
        kind: Kind,
        function: &'static str,
        call: &Call,
        params: P,
        document: Option<Document>,
    ) -> Result<Planned<R>, PluginError>
    where
        P: ComponentNamedList + Lower + Send + Sync,
        R: Vet + Lift + Send + Sync + 'static,
    {
        let plugin = self.slot.current.load_full();
        let fail = |kind| PluginError { plugin: self.slot.name.clone(), function, kind };
        let Some(index) = plugin.exports.get(&kind).and_then(|functions| functions.get(function)) else {
            return Err(fail(ErrorKind::Unsupported(kind.interface().into())));
        };
        if let Some(left) = plugin.breaker.refuses(function, call.object.as_ref(), Instant::now()) {
            return Err(fail(ErrorKind::Quarantined(left)));
        }
        let span = tracing::debug_span!(
            "plugin.call",
            plugin = &*self.slot.name,
            version = plugin.identity.manifest.version,
            function,
            operation = call.operation,
            dry_run = call.dry_run
        );
        let limits = limits::of(kind);
        let ran = self.host.run(&plugin, limits, index, call, params, document).instrument(span).await;
        let result = ran.result.and_then(|answer: Result<R, types::Error>| {
            let value = answer.map_err(|error| ErrorKind::Plugin(bounded(error)))?;
            let own = &plugin.identity.grant;
            let by_user = (call.directory.is_some() || call.link.is_some()).then(|| {
                let mut grant = own.clone();
                grant.files.shown.extend(call.directory.clone());
                grant.net.exact.extend(call.link.clone());
                grant
            });
            let grant = by_user.as_ref().unwrap_or(own);
            let judge = Judge { grant, network: call.network.as_ref() };
            value.vet(&judge).map_err(|refusal| match refusal {
                Refusal::Denied(text) => ErrorKind::Denied(text),
                Refusal::TooLarge(text) => ErrorKind::TooLarge(text),
            })?;
            Ok(value)
        });
        plugin.sums.count(ran.took, result.as_ref().err());
        match result {
            Ok(value) => Ok(Planned { value, kv: ran.kv, plugin: self.slot.name.clone() }),
            Err(kind) => {
                let error = fail(kind);
                if error.is_fault() {
                    let aside = plugin.breaker.strike(function, call.object.clone(), Instant::now());
                    tracing::warn!(plugin = &*self.slot.name, function, aside, "{error}");
                }
                Err(error)
            }
        }
    }
}

/// A plugin's error message is one line for users, not a channel.
fn bounded(mut error: types::Error) -> types::Error {
    let end = error.message.floor_char_boundary(1024);
    error.message.truncate(end);
    if error.message.contains(char::is_control) {
        error.message = error.message.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    }
    error.fields.truncate(32);
    error
}

/// How a call went.
pub(crate) struct Ran<Out> {
    pub result: Result<Out, ErrorKind>,
    pub kv: Transaction,
    pub took: Duration,
}

impl Host {
    /// Calls one function, in a fresh instance or in one that was kept.
    pub(crate) async fn run<P, Out>(
        &self,
        plugin: &Arc<Plugin>,
        limits: Limits,
        function: &ComponentExportIndex,
        call: &Call,
        params: P,
        document: Option<Document>,
    ) -> Ran<Out>
    where
        P: ComponentNamedList + Lower + Send + Sync,
        Out: Send + Sync + 'static,
        (Out,): ComponentNamedList + Lift,
    {
        // Neither semaphore is ever closed.
        let _mine = plugin.calls.acquire().await;
        let _one = self.sandbox.calls.acquire().await;
        let meter = Arc::new(Meter::new(limits.cpu, limits.wall));
        let _clock = self.sandbox.ticker.enter();

        let kept = if limits.resident { plugin.take_idle() } else { None };
        let (mut store, instance, calls) = match kept {
            Some(Resident { store, instance, calls }) => (store, Some(instance), calls),
            None => (plugin.store(&self.sandbox, &self.entries, limits.memory), None, 0),
        };
        store.set_hostcall_fuel(limits.answer);
        store.set_epoch_deadline(2);
        let state = store.data_mut();
        state.limiter.limit = limits.memory;
        state.call = Some(self.running(plugin, limits, call, document, meter.clone()));

        let outcome = {
            let mut work = pin!(enter::<P, Out>(&mut store, plugin, instance, function, params));
            poll_fn(|context| {
                meter.resumes();
                work.as_mut().poll(context)
            })
            .await
        };
        let took = meter.elapsed();
        let running = store.data_mut().call.take();
        match outcome {
            Ok((instance, value)) => {
                let kv = running.map(|running| running.kv.finish()).unwrap_or_default();
                let state = store.data();
                if limits.resident
                    && calls + 1 < limits::RESIDENT_CALLS
                    && state.limiter.used <= limits::RESIDENT_MEMORY
                {
                    plugin.put_idle(Resident { store, instance, calls: calls + 1 }, self.cores);
                }
                Ran { result: Ok(value), kv, took }
            }
            Err(error) => {
                let last_words = running.and_then(|running| running.last_error);
                let kind = explain(&error, &store, &meter, limits, last_words);
                tracing::debug!(
                    plugin = &*plugin.identity.name,
                    error = format!("{error:?}"),
                    "a call failed"
                );
                Ran { result: Err(kind), kv: Transaction::new(), took }
            }
        }
    }

    pub(crate) fn running(
        &self,
        plugin: &Plugin,
        limits: Limits,
        call: &Call,
        document: Option<Document>,
        meter: Arc<Meter>,
    ) -> Running {
        let identity = &plugin.identity;
        let now = call.now.unwrap_or_else(|| {
            let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
        });
        Running {
            context: Context {
                operation: call.operation.clone(),
                attempt: call.attempt,
                now,
                deadline_ms: u32::try_from(limits.wall.as_millis()).unwrap_or(u32::MAX),
                dry_run: call.dry_run,
                trace_parent: call.trace_parent.clone(),
                node: identity.node.clone(),
                engine_version: identity.engine_version.clone(),
            },
            kv: Kv::new(self.entries.clone(), &identity.name, call.pending.clone()),
            document,
            meter,
            log_lines: 0,
            host_calls: 0,
            last_error: None,
        }
    }
}

async fn enter<P, Out>(
    store: &mut Store<HostState>,
    plugin: &Plugin,
    instance: Option<Instance>,
    function: &ComponentExportIndex,
    params: P,
) -> wasmtime::Result<(Instance, Out)>
where
    P: ComponentNamedList + Lower + Send + Sync,
    Out: Send + Sync + 'static,
    (Out,): ComponentNamedList + Lift,
{
    let instance = match instance {
        Some(instance) => instance,
        None => plugin.pre.instantiate_async(store.as_context_mut()).await?,
    };
    let function = instance.get_typed_func::<P, (Out,)>(store.as_context_mut(), function)?;
    let (value,) = function.call_async(store.as_context_mut(), params).await?;
    Ok((instance, value))
}

/// What a failed call is to its caller.
fn explain(
    error: &wasmtime::Error,
    store: &Store<HostState>,
    meter: &Meter,
    limits: Limits,
    last_words: Option<String>,
) -> ErrorKind {
    if store.data().limiter.exceeded {
        return ErrorKind::Memory(limits.memory);
    }
    if meter.expired() {
        return ErrorKind::Deadline(meter.limit());
    }
    let mut text = error.root_cause().to_string();
    if text.contains("fuel allocated for hostcalls") {
        return ErrorKind::TooLarge(format!("more than {} KiB at once", limits.answer >> 10));
    }
    if let Some(trap) = error.downcast_ref::<wasmtime::Trap>() {
        text = match trap {
            wasmtime::Trap::StackOverflow => "stack overflow (endless recursion?)".into(),
            wasmtime::Trap::UnreachableCodeReached => "it gave up (panic or abort)".into(),
            other => other.to_string(),
        };
    }
    if let Some(words) = last_words {
        text = format!("{text}: {words}");
    }
    let mut line: String = text.lines().next().unwrap_or_default().into();
    line.truncate(line.floor_char_boundary(512));
    ErrorKind::Trap(line)
}

/// Checks the types of a component's functions, in an instance of its own.
pub(crate) struct TypeProbe<'a> {
    pub store: &'a mut Store<HostState>,
    pub instance: Instance,
    pub functions: &'a HashMap<&'static str, ComponentExportIndex>,
}

impl TypeProbe<'_> {
    pub(crate) fn function<P, R>(&mut self, name: &str) -> wasmtime::Result<()>
    where
        P: ComponentNamedList + Lower,
        R: Lift,
        (Result<R, types::Error>,): ComponentNamedList + Lift,
    {
        let Some(index) = self.functions.get(name) else { wasmtime::bail!("there is no function {name}") };
        self.instance
            .get_typed_func::<P, (Result<R, types::Error>,)>(self.store.as_context_mut(), index)
            .map(|_| ())
            .map_err(|e| e.context(format!("the type of its function {name} is not the contract's")))
    }
}
