//! What the host keeps for one running call, and who the plugin is.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use wasmtime::ResourceLimiter;
use wharf_plan::types::{Context, Timestamp};

use crate::document::Document;
use crate::kv::Kv;
use crate::limits::{HOST_CALLS, LOG_RING};
use crate::meter::Meter;
use crate::{Grant, Manifest};

/// One line that a plugin wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// When, in nanoseconds since the epoch.
    pub time: Timestamp,
    /// `trace`, `debug`, `info`, `warn` or `error`.
    pub level: &'static str,
    /// The operation it was written for.
    pub operation: String,
    /// The text.
    pub message: String,
    /// Its fields.
    pub fields: Vec<(String, String)>,
}

/// Who a plugin is and what it may do; shared by all its calls.
#[derive(Debug)]
pub(crate) struct Identity {
    pub name: Arc<str>,
    pub manifest: Manifest,
    pub grant: Grant,
    /// JSON text.
    pub config: String,
    pub node: String,
    pub engine_version: String,
    pub log: Mutex<VecDeque<LogLine>>,
    /// One sum per instrument of the manifest.
    pub metrics: Vec<AtomicU64>,
    /// Bytes kept in its own store, as last counted, and writes since then.
    pub kv_usage: AtomicUsize,
    pub kv_writes: AtomicUsize,
}

impl Identity {
    /// Whether the administrator's configuration says `"enabled": true`. Policies are asked only then: a component that
    /// merely lies in the plugin directory must not refuse what users of the same command line are used to.
    pub(crate) fn switched_on(&self) -> bool {
        serde_json::from_str::<serde_json::Value>(&self.config)
            .is_ok_and(|config| config.get("enabled").and_then(serde_json::Value::as_bool) == Some(true))
    }
}

impl Identity {
    pub(crate) fn remember(&self, line: LogLine) {
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        if log.len() >= LOG_RING {
            log.pop_front();
        }
        log.push_back(line);
    }
}

/// Data of a wasmtime store.
pub(crate) struct HostState {
    pub identity: Arc<Identity>,
    pub store: wharf_store::Store,
    pub limiter: Limiter,
    /// Present while a call runs.
    pub call: Option<Running>,
}

/// The running call.
pub(crate) struct Running {
    pub context: Context,
    pub kv: Kv,
    pub document: Option<Document>,
    pub meter: Arc<Meter>,
    pub log_lines: u32,
    pub host_calls: u32,
    pub last_error: Option<String>,
}

impl HostState {
    /// The running call; counts the host function that asks.
    pub(crate) fn running(&mut self) -> wasmtime::Result<&mut Running> {
        let Some(running) = &mut self.call else {
            wasmtime::bail!("host functions are for calls only, not for start-up")
        };
        running.host_calls += 1;
        if running.host_calls > HOST_CALLS {
            wasmtime::bail!("more than {HOST_CALLS} host calls in one call");
        }
        Ok(running)
    }

    /// Bytes the plugin keeps in its own store; recounted now and then.
    pub(crate) fn kv_usage(&self) -> usize {
        let identity = &self.identity;
        if identity.kv_writes.fetch_add(1, Relaxed).is_multiple_of(1024) {
            identity.kv_usage.store(Kv::usage(&self.store, &identity.name), Relaxed);
        }
        identity.kv_usage.load(Relaxed)
    }
}

/// Bounds a plugin's memory and tables; a plugin that asks for more has failed.
#[derive(Debug)]
pub(crate) struct Limiter {
    pub limit: usize,
    pub used: usize,
    pub exceeded: bool,
}

/// Entries of one table: far more than any plugin's functions.
const TABLE_ENTRIES: usize = 20_000;

impl ResourceLimiter for Limiter {
    fn memory_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        let used = self.used.saturating_add(desired.saturating_sub(current));
        if used > self.limit {
            self.exceeded = true;
            wasmtime::bail!("out of memory");
        }
        self.used = used;
        Ok(true)
    }

    fn table_growing(&mut self, _: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        Ok(desired <= TABLE_ENTRIES)
    }

    fn instances(&self) -> usize {
        16
    }

    fn tables(&self) -> usize {
        16
    }

    fn memories(&self) -> usize {
        4
    }
}
