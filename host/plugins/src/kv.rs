//! One call's view of its plugin's own entries: a transaction that commits with the plan, or never.

use std::collections::{BTreeMap, BTreeSet};

use wharf_plan::types::{Code, Error};
use wharf_store::{Store, Transaction};

use crate::limits::{
    KV_CALL_BYTES, KV_CALL_ENTRIES, KV_CALL_READS, KV_KEY_BYTES, KV_PLUGIN_BYTES, KV_VALUE_BYTES,
};

/// Prefix of the tables in which plugins' own entries are kept.
const TABLE: &str = "plugin-kv/";

/// One entry per plugin, written with every change of its table: what a scan relies on.
const GENERATIONS: &str = "plugin-kv-generation";

/// Whether a commit failed because a plugin's own entries have changed since it was asked: ask it again.
pub fn is_conflict(error: &wharf_store::Error) -> bool {
    matches!(error, wharf_store::Error::Conflict { table, .. } if table.starts_with(TABLE) || table == GENERATIONS)
}

/// An entry as the plugin sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    pub key: String,
    pub value: Vec<u8>,
    /// 0 for what this operation has written and not committed yet.
    pub version: u64,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Kv {
    store: Store,
    plugin: String,
    table: String,
    /// What earlier calls of the operation staged.
    pending: Transaction,
    writes: BTreeMap<String, Option<Vec<u8>>>,
    /// Versions that the plugin has seen.
    reads: BTreeMap<String, u64>,
    generation: Option<u64>,
    bytes: usize,
    read_bytes: usize,
    entries: usize,
}

fn error(code: Code, message: impl Into<String>) -> Error {
    Error { code, message: message.into(), fields: Vec::new(), retry_after_ms: None }
}

fn failed(e: &wharf_store::Error) -> Error {
    tracing::error!(error = %e, "a plugin's own entries cannot be read");
    error(Code::Unavailable, "the store of this plugin cannot be read")
}

fn check_key(key: &str) -> Result<(), Error> {
    if key.is_empty() || key.len() > KV_KEY_BYTES {
        return Err(error(Code::Invalid, format!("a key has 1 to {KV_KEY_BYTES} bytes")));
    }
    Ok(())
}

impl Kv {
    pub(crate) fn new(store: Store, plugin: &str, pending: Transaction) -> Self {
        Self {
            store,
            plugin: plugin.to_owned(),
            table: format!("{TABLE}{plugin}"),
            pending,
            writes: BTreeMap::new(),
            reads: BTreeMap::new(),
            generation: None,
            bytes: 0,
            read_bytes: 0,
            entries: 0,
        }
    }

    /// Bytes that the plugin keeps; read from the store, so not for every call.
    pub(crate) fn usage(store: &Store, plugin: &str) -> usize {
        let entries = store.table(&format!("{TABLE}{plugin}")).unwrap_or_default();
        entries.iter().map(|entry| entry.key.len() + entry.value.len()).sum()
    }

    fn count(&mut self, read: usize) -> Result<(), Error> {
        self.entries += 1;
        self.read_bytes += read;
        if self.entries > KV_CALL_ENTRIES {
            return Err(error(Code::Exhausted, format!("more than {KV_CALL_ENTRIES} entries in one call")));
        }
        if self.read_bytes > KV_CALL_READS {
            return Err(error(
                Code::Exhausted,
                format!("one call reads at most {} MiB", KV_CALL_READS >> 20),
            ));
        }
        Ok(())
    }

    /// What is staged for a key: `None` if nothing, `Some(None)` if its removal.
    #[allow(clippy::option_option, reason = "the two mean different things, and it lives for one line")]
    fn staged(&self, key: &str) -> Option<Option<&[u8]>> {
        match self.writes.get(key) {
            Some(value) => Some(value.as_deref()),
            None => self.pending.staged(&self.table, key),
        }
    }

    pub(crate) fn get(&mut self, key: &str) -> Result<Option<Found>, Error> {
        check_key(key)?;
        if let Some(staged) = self.staged(key) {
            let found = staged.map(|value| Found { key: key.into(), value: value.into(), version: 0 });
            self.count(found.as_ref().map_or(0, |found| found.value.len()))?;
            return Ok(found);
        }
        let found = self.store.get(&self.table, key).map_err(|e| failed(&e))?;
        self.count(found.as_ref().map_or(0, |found| found.value.len()))?;
        self.reads.entry(key.to_owned()).or_insert_with(|| found.as_ref().map_or(0, |entry| entry.version));
        Ok(found.map(|entry| Found { key: entry.key, value: entry.value, version: entry.version }))
    }

    fn write(&mut self, key: &str, value: Option<Vec<u8>>) -> Result<(), Error> {
        check_key(key)?;
        self.count(0)?;
        let size = key.len() + value.as_ref().map_or(0, Vec::len);
        if value.as_ref().is_some_and(|value| value.len() > KV_VALUE_BYTES) {
            return Err(error(Code::Invalid, format!("a value has at most {} KiB", KV_VALUE_BYTES >> 10)));
        }
        self.bytes += size;
        if self.bytes > KV_CALL_BYTES {
            return Err(error(
                Code::Exhausted,
                format!("one call writes at most {} KiB", KV_CALL_BYTES >> 10),
            ));
        }
        self.writes.insert(key.to_owned(), value);
        Ok(())
    }

    pub(crate) fn set(&mut self, key: &str, value: Vec<u8>, usage: usize) -> Result<(), Error> {
        if usage + self.bytes + value.len() > KV_PLUGIN_BYTES {
            return Err(error(
                Code::Exhausted,
                format!("a plugin keeps at most {} MiB", KV_PLUGIN_BYTES >> 20),
            ));
        }
        self.write(key, Some(value))
    }

    pub(crate) fn remove(&mut self, key: &str) -> Result<(), Error> {
        self.write(key, None)
    }

    /// A page in the order of keys, and where the next begins.
    pub(crate) fn scan(
        &mut self,
        prefix: &str,
        after: Option<&str>,
        limit: u32,
    ) -> Result<(Vec<Found>, Option<String>), Error> {
        if prefix.len() > KV_KEY_BYTES || after.is_some_and(|after| after.len() > KV_KEY_BYTES) {
            return Err(error(Code::Invalid, format!("a key has 1 to {KV_KEY_BYTES} bytes")));
        }
        let limit = usize::try_from(limit).unwrap_or(usize::MAX).clamp(1, 1_000);
        if self.generation.is_none() {
            let entry = self.store.get(GENERATIONS, &self.plugin).map_err(|e| failed(&e))?;
            self.generation = Some(entry.map_or(0, |entry| entry.version));
        }
        let mine: BTreeSet<String> = self
            .pending
            .touched(&self.table)
            .chain(self.writes.keys().map(String::as_str))
            .filter(|key| key.starts_with(prefix) && after.is_none_or(|after| *key > after))
            .map(str::to_owned)
            .collect();
        let stored = self.store.scan(&self.table, prefix, after, limit + 1).map_err(|e| failed(&e))?;
        let complete = stored.len() <= limit;
        let horizon = stored.last().map(|entry| entry.key.clone());
        let mut page: BTreeMap<String, Found> = BTreeMap::new();
        for entry in stored {
            if !mine.contains(&entry.key) {
                page.insert(
                    entry.key.clone(),
                    Found { key: entry.key, value: entry.value, version: entry.version },
                );
            }
        }
        for key in mine {
            // Beyond what was read of the store, stored keys may come first.
            if !complete && horizon.as_ref().is_some_and(|horizon| key > *horizon) {
                break;
            }
            if let Some(Some(value)) = self.staged(&key) {
                page.insert(key.clone(), Found { key: key.clone(), value: value.into(), version: 0 });
            }
        }
        let more = !complete || page.len() > limit;
        let page: Vec<Found> = page.into_values().take(limit).collect();
        for entry in &page {
            self.count(entry.value.len())?;
            if entry.version > 0 {
                self.reads.entry(entry.key.clone()).or_insert(entry.version);
            }
        }
        let next = if more { page.last().map(|entry| entry.key.clone()).or(horizon) } else { None };
        Ok((page, next))
    }

    /// The call's changes, with what they rely on.
    pub(crate) fn finish(self) -> Transaction {
        let mut transaction = Transaction::new();
        for (key, version) in &self.reads {
            transaction.expect(&self.table, key, *version);
        }
        if let Some(generation) = self.generation {
            transaction.expect(GENERATIONS, &self.plugin, generation);
        }
        if !self.writes.is_empty() {
            transaction.put(GENERATIONS, &self.plugin, Vec::new());
        }
        for (key, value) in self.writes {
            match value {
                Some(value) => transaction.put(&self.table, &key, value),
                None => transaction.delete(&self.table, &key),
            };
        }
        transaction
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn filled(keys: &[&str]) -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("db")).unwrap();
        let mut transaction = Transaction::new();
        for key in keys {
            transaction.put("plugin-kv/p", key, format!("stored {key}"));
        }
        store.commit(transaction).await.unwrap();
        (dir, store)
    }

    /// All pages, as `key=value`.
    fn pages(kv: &mut Kv, prefix: &str, limit: u32) -> Vec<String> {
        let mut all = Vec::new();
        let mut after: Option<String> = None;
        loop {
            let (page, next) = kv.scan(prefix, after.as_deref(), limit).unwrap();
            assert!(page.len() <= limit as usize);
            all.extend(
                page.into_iter().map(|e| format!("{}={}", e.key, String::from_utf8(e.value).unwrap())),
            );
            match next {
                Some(next) => after = Some(next),
                None => return all,
            }
        }
    }

    #[tokio::test]
    async fn pages_of_any_size_show_the_same_merge_of_stored_pending_and_own() {
        let stored: Vec<String> = (0..30).map(|n| format!("k{n:02}")).collect();
        let (_dir, store) = filled(&stored.iter().map(String::as_str).collect::<Vec<_>>()).await;
        for limit in 1..=35 {
            let mut pending = Transaction::new();
            pending.delete("plugin-kv/p", "k03").put("plugin-kv/p", "k10x", "pending").put(
                "plugin-kv/q",
                "k11",
                "no",
            );
            let mut kv = Kv::new(store.clone(), "p", pending);
            kv.set("k00a", b"own".to_vec(), 0).unwrap();
            kv.set("k29z", b"own".to_vec(), 0).unwrap();
            kv.set("k05", b"own".to_vec(), 0).unwrap();
            kv.set("other", b"own".to_vec(), 0).unwrap();
            kv.remove("k10x").unwrap();
            kv.remove("k20").unwrap();
            kv.remove("k21").unwrap();
            let mut wanted: Vec<String> = stored
                .iter()
                .filter(|key| !["k03", "k05", "k20", "k21"].contains(&key.as_str()))
                .map(|key| format!("{key}=stored {key}"))
                .collect();
            wanted.extend(["k00a=own", "k05=own", "k29z=own"].map(String::from));
            wanted.sort();
            assert_eq!(pages(&mut kv, "k", limit), wanted, "pages of {limit}");
        }
    }

    #[tokio::test]
    async fn a_scan_conflicts_with_a_new_key_and_a_read_with_its_own_key_only() {
        let (_dir, store) = filled(&["a", "b"]).await;
        let other = |key: &str| {
            let mut kv = Kv::new(store.clone(), "p", Transaction::new());
            kv.set(key, b"x".to_vec(), 0).unwrap();
            kv.finish()
        };
        let mut scan = Kv::new(store.clone(), "p", Transaction::new());
        scan.scan("", None, 10).unwrap();
        let mut read = Kv::new(store.clone(), "p", Transaction::new());
        read.get("a").unwrap();
        let mut absent = Kv::new(store.clone(), "p", Transaction::new());
        assert_eq!(absent.get("c").unwrap(), None);
        store.commit(other("c")).await.unwrap();
        assert!(is_conflict(&store.commit(scan.finish()).await.unwrap_err()));
        assert!(is_conflict(&store.commit(absent.finish()).await.unwrap_err()));
        store.commit(read.finish()).await.unwrap();
    }

    #[tokio::test]
    async fn bounds_are_kept() {
        let (_dir, store) = filled(&[]).await;
        let mut kv = Kv::new(store.clone(), "p", Transaction::new());
        assert_eq!(kv.get("").unwrap_err().code, Code::Invalid);
        assert_eq!(kv.get(&"k".repeat(513)).unwrap_err().code, Code::Invalid);
        assert_eq!(kv.set("k", vec![0; KV_VALUE_BYTES + 1], 0).unwrap_err().code, Code::Invalid);
        assert_eq!(kv.set("k", vec![0; 10], KV_PLUGIN_BYTES).unwrap_err().code, Code::Exhausted);
        for _ in 0..KV_CALL_ENTRIES {
            let _ = kv.get("k");
        }
        assert_eq!(kv.get("k").unwrap_err().code, Code::Exhausted);
        let mut kv = Kv::new(store, "p", Transaction::new());
        kv.set("k", vec![0; KV_VALUE_BYTES], 0).unwrap();
        let mut reads = 0;
        while kv.get("k").is_ok() {
            reads += 1;
        }
        assert_eq!(reads, KV_CALL_READS / KV_VALUE_BYTES);
    }
}
