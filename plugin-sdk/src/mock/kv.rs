//! The plugin's store: transactional, bounded as the real one is, able to fail.

use std::collections::BTreeMap;

use crate::host::{Entry, Page};
use crate::{Error, Result};

/// Bounds of the real host.
const KEY_BYTES: usize = 512;
const VALUE_BYTES: usize = 256 << 10;
const CALL_BYTES: usize = 1 << 20;

#[derive(Debug, Default)]
pub(super) struct Kv {
    committed: BTreeMap<String, (Vec<u8>, u64)>,
    staged: BTreeMap<String, Option<Vec<u8>>>,
    accesses: u32,
    fail_after: Option<u32>,
    fail_times: u32,
}

impl Kv {
    pub(super) fn committed(&self) -> BTreeMap<String, Vec<u8>> {
        self.committed.iter().map(|(key, (value, _))| (key.clone(), value.clone())).collect()
    }

    pub(super) fn accesses(&self) -> u32 {
        self.accesses
    }

    pub(super) fn fail(&mut self, after: u32, times: u32) {
        self.fail_after = Some(self.accesses.saturating_add(after));
        self.fail_times = times;
    }

    pub(super) fn commit(&mut self) {
        for (key, value) in std::mem::take(&mut self.staged) {
            match value {
                Some(value) => {
                    let version = self.committed.get(&key).map_or(1, |(_, version)| version + 1);
                    self.committed.insert(key, (value, version));
                }
                None => {
                    self.committed.remove(&key);
                }
            }
        }
    }

    pub(super) fn roll_back(&mut self) {
        self.staged.clear();
    }

    pub(super) fn get(&mut self, key: &str) -> Result<Option<Entry>> {
        self.access(key)?;
        Ok(self.find(key))
    }

    pub(super) fn set(&mut self, key: &str, value: Option<&[u8]>) -> Result<()> {
        self.access(key)?;
        if value.is_some_and(|value| value.len() > VALUE_BYTES) {
            return Err(Error::invalid(format!("a value has at most {} KiB", VALUE_BYTES >> 10)));
        }
        self.staged.insert(key.to_owned(), value.map(<[u8]>::to_vec));
        let bytes: usize =
            self.staged.iter().map(|(key, value)| key.len() + value.as_ref().map_or(0, Vec::len)).sum();
        if bytes > CALL_BYTES {
            return Err(Error::exhausted("one call stages at most 1 MiB"));
        }
        Ok(())
    }

    pub(super) fn scan(&mut self, prefix: &str, after: Option<&str>, limit: u32) -> Result<Page> {
        self.access(if prefix.is_empty() { "-" } else { prefix })?;
        let limit = usize::try_from(limit).unwrap_or(usize::MAX).clamp(1, 1000);
        let wanted = |key: &str| key.starts_with(prefix) && after.is_none_or(|after| key > after);
        let mut keys: Vec<&String> =
            self.committed.keys().chain(self.staged.keys()).filter(|key| wanted(key)).collect();
        keys.sort();
        keys.dedup();
        let mut found = keys.into_iter().filter_map(|key| self.find(key));
        let entries: Vec<Entry> = found.by_ref().take(limit).collect();
        let next = found.next().and_then(|_| entries.last()).map(|entry| entry.key.clone());
        Ok(Page { entries, next })
    }

    fn find(&self, key: &str) -> Option<Entry> {
        let entry = |value: &Vec<u8>, version| Entry { key: key.to_owned(), value: value.clone(), version };
        match self.staged.get(key) {
            Some(staged) => staged.as_ref().map(|value| entry(value, 0)),
            None => self.committed.get(key).map(|(value, version)| entry(value, *version)),
        }
    }

    fn access(&mut self, key: &str) -> Result<()> {
        self.accesses += 1;
        if key.is_empty() || key.len() > KEY_BYTES {
            return Err(Error::invalid(format!("a key has 1 to {KEY_BYTES} bytes")));
        }
        if self.fail_times > 0 && self.fail_after.is_some_and(|after| self.accesses > after) {
            self.fail_times -= 1;
            return Err(Error::unavailable("the store of this plugin cannot be read"));
        }
        Ok(())
    }
}
