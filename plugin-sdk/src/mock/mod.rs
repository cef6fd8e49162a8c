//! A host for native tests: a clock that stands still, a store that can fail, documents from JSON.
//!
//! ```
//! use wharf_plugin_sdk::mock::MockHost;
//! use wharf_plugin_sdk::Host;
//!
//! let host = MockHost::new();
//! host.call(|host| host.kv_set("seen", b"1")).unwrap();
//! let failed = host.call(|host| {
//!     host.kv_set("seen", b"2")?;
//!     Err::<(), _>(wharf_plugin_sdk::Error::invalid("no"))
//! });
//! assert!(failed.is_err());
//! assert_eq!(host.kv().get("seen").unwrap(), b"1");
//! ```

mod document;
mod kv;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::host::{Context, Entry, Level, Page, Request, Response};
use crate::services::Services;
use crate::types::Json;
use crate::{Error, Host, Result};

pub use document::MockDocument;
use kv::Kv;

/// One request that a plugin may send, and what comes back.
type Scripted = (Box<dyn Fn(&Request) -> bool>, Result<Response>);

/// A host for native tests. Everything that the real one can do can be set up and looked at here.
pub struct MockHost {
    now: Cell<u64>,
    calls: Cell<u64>,
    dry_run: Cell<bool>,
    node: RefCell<String>,
    config: RefCell<String>,
    kv: RefCell<Kv>,
    logs: RefCell<Vec<(Level, String)>>,
    secrets: RefCell<BTreeMap<String, Vec<u8>>>,
    http: RefCell<VecDeque<Scripted>>,
    alarms: RefCell<BTreeMap<String, u64>>,
    counters: RefCell<BTreeMap<(u32, Vec<String>), f64>>,
    objects: RefCell<BTreeMap<(String, String), Json>>,
}

impl std::fmt::Debug for MockHost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MockHost")
            .field("now", &self.now)
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

impl Default for MockHost {
    fn default() -> Self {
        Self::new()
    }
}

impl MockHost {
    /// A host at the start of 2024, with no configuration and an empty store.
    pub fn new() -> Self {
        Self {
            now: Cell::new(1_704_067_200_000_000_000),
            calls: Cell::new(0),
            dry_run: Cell::new(false),
            node: RefCell::new("mock".to_owned()),
            config: RefCell::new("{}".to_owned()),
            kv: RefCell::default(),
            logs: RefCell::default(),
            secrets: RefCell::default(),
            http: RefCell::default(),
            alarms: RefCell::default(),
            counters: RefCell::default(),
            objects: RefCell::default(),
        }
    }

    /// A host with this configuration.
    pub fn with_config(config: &str) -> Self {
        let host = Self::new();
        host.set_config(config);
        host
    }

    /// Changes the configuration.
    pub fn set_config(&self, config: &str) {
        config.clone_into(&mut self.config.borrow_mut());
    }

    /// Changes the node's name.
    pub fn set_node(&self, node: &str) {
        node.clone_into(&mut self.node.borrow_mut());
    }

    /// Lets time pass.
    pub fn advance(&self, by: Duration) {
        self.now.set(self.now.get().saturating_add(u64::try_from(by.as_nanos()).unwrap_or(u64::MAX)));
    }

    /// One call of a plugin: a transaction that commits if the function succeeds, as if its plan had been applied.
    pub fn call<T>(&self, function: impl FnOnce(&dyn Host) -> Result<T>) -> Result<T> {
        self.calls.set(self.calls.get() + 1);
        let result = function(self);
        let mut kv = self.kv.borrow_mut();
        if result.is_ok() && !self.dry_run.get() {
            kv.commit();
        } else {
            kv.roll_back();
        }
        result
    }

    /// One call of which nothing will be applied.
    pub fn dry_run<T>(&self, function: impl FnOnce(&dyn Host) -> Result<T>) -> Result<T> {
        let before = self.dry_run.replace(true);
        let result = self.call(function);
        self.dry_run.set(before);
        result
    }

    /// One call whose plan could not be applied.
    pub fn call_in_vain<T>(&self, function: impl FnOnce(&dyn Host) -> Result<T>) -> Result<T> {
        self.calls.set(self.calls.get() + 1);
        let result = function(self);
        self.kv.borrow_mut().roll_back();
        result
    }

    /// What is committed in the plugin's store.
    pub fn kv(&self) -> BTreeMap<String, Vec<u8>> {
        self.kv.borrow().committed()
    }

    /// The store fails from its `after`-th access on, this many times.
    pub fn fail_kv(&self, after: u32, times: u32) {
        self.kv.borrow_mut().fail(after, times);
    }

    /// How many times the store was asked so far.
    pub fn kv_accesses(&self) -> u32 {
        self.kv.borrow().accesses()
    }

    /// What the plugin has logged.
    pub fn logs(&self) -> Vec<(Level, String)> {
        self.logs.borrow().clone()
    }

    /// Binds a secret.
    pub fn bind_secret(&self, name: &str, value: &[u8]) {
        self.secrets.borrow_mut().insert(name.to_owned(), value.to_vec());
    }

    /// Expects a request next, and answers it.
    pub fn expect_http(&self, matches: impl Fn(&Request) -> bool + 'static, answer: Result<Response>) {
        self.http.borrow_mut().push_back((Box::new(matches), answer));
    }

    /// Requests that were expected and not sent.
    pub fn http_left(&self) -> usize {
        self.http.borrow().len()
    }

    /// Alarms that are set: when they ring.
    pub fn alarms(&self) -> BTreeMap<String, u64> {
        self.alarms.borrow().clone()
    }

    /// The sum or last value of an instrument.
    pub fn metric(&self, instrument: u32, attributes: &[&str]) -> f64 {
        let attributes = attributes.iter().map(|text| (*text).to_owned()).collect();
        self.counters.borrow().get(&(instrument, attributes)).copied().unwrap_or(0.0)
    }

    /// Puts an object into the engine's view.
    pub fn put_object(&self, kind: &str, id: &str, json: &str) {
        self.objects.borrow_mut().insert((kind.to_owned(), id.to_owned()), json.to_owned());
    }
}

impl Host for MockHost {
    fn context(&self) -> Context {
        Context {
            operation: format!("mock-{}", self.calls.get()),
            attempt: 0,
            now: self.now.get(),
            deadline_ms: 1000,
            dry_run: self.dry_run.get(),
            trace_parent: None,
            node: self.node.borrow().clone(),
            engine_version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }

    fn config(&self) -> String {
        self.config.borrow().clone()
    }

    fn log_enabled(&self, _level: Level) -> bool {
        true
    }

    fn log(&self, level: Level, message: &str, fields: &[(&str, &str)]) {
        let mut line = message.to_owned();
        for (key, value) in fields {
            line.extend([" ", key, "=", value]);
        }
        self.logs.borrow_mut().push((level, line));
    }

    fn kv_get(&self, key: &str) -> Result<Option<Entry>> {
        self.kv.borrow_mut().get(key)
    }

    fn kv_get_many(&self, keys: &[String]) -> Result<Vec<Option<Entry>>> {
        keys.iter().map(|key| self.kv_get(key)).collect()
    }

    fn kv_set(&self, key: &str, value: &[u8]) -> Result<()> {
        self.kv.borrow_mut().set(key, Some(value))
    }

    fn kv_remove(&self, key: &str) -> Result<()> {
        self.kv.borrow_mut().set(key, None)
    }

    fn kv_scan(&self, prefix: &str, after: Option<&str>, limit: u32) -> Result<Page> {
        self.kv.borrow_mut().scan(prefix, after, limit)
    }

    fn services(&self) -> &dyn Services {
        self
    }
}

impl Services for MockHost {
    fn secret(&self, name: &str) -> Result<Vec<u8>> {
        self.secrets
            .borrow()
            .get(name)
            .cloned()
            .ok_or_else(|| Error::denied(format!("secret {name} is not granted")))
    }

    fn http(&self, request: &Request) -> Result<Response> {
        let mut script = self.http.borrow_mut();
        match script.front() {
            Some((matches, _)) if matches(request) => {
                script.pop_front().map_or_else(|| Err(Error::internal("no script")), |(_, answer)| answer)
            }
            Some(_) => Err(Error::internal(format!("unexpected request {} {}", request.method, request.url))),
            None => Err(Error::denied(format!("{} is not granted", request.url))),
        }
    }

    fn set_alarm(&self, token: &str, after_ms: u64) -> Result<()> {
        let at = self.now.get().saturating_add(after_ms.saturating_mul(1_000_000));
        self.alarms.borrow_mut().insert(token.to_owned(), at);
        Ok(())
    }

    fn cancel_alarm(&self, token: &str) -> Result<()> {
        self.alarms.borrow_mut().remove(token);
        Ok(())
    }

    fn count(&self, instrument: u32, value: u64, attributes: &[String]) {
        #[allow(clippy::cast_precision_loss, reason = "tests count little")]
        let value = value as f64;
        *self.counters.borrow_mut().entry((instrument, attributes.to_vec())).or_default() += value;
    }

    fn observe(&self, instrument: u32, value: f64, attributes: &[String]) {
        self.counters.borrow_mut().insert((instrument, attributes.to_vec()), value);
    }

    fn engine_get(&self, kind: &str, id: &str) -> Result<Option<Json>> {
        Ok(self.objects.borrow().get(&(kind.to_owned(), id.to_owned())).cloned())
    }

    fn engine_find(&self, kind: &str, _selector: &str, after: Option<&str>, limit: u32) -> Result<Vec<Json>> {
        let objects = self.objects.borrow();
        let found = objects
            .iter()
            .filter(|((other, id), _)| other == kind && after.is_none_or(|after| id.as_str() > after));
        Ok(found.take(usize::try_from(limit).unwrap_or(usize::MAX)).map(|(_, json)| json.clone()).collect())
    }
}

#[cfg(test)]
mod tests;
