//! One bit per address, in blocks; and which address a named container had.

use std::collections::BTreeMap;

use wharf_plugin_sdk::files::fnv;
use wharf_plugin_sdk::{Error, Host, Result};

/// Addresses per block: 512 bytes of bits.
const BLOCK: u128 = 4096;
const BYTES: usize = 512;

/// Blocks that one request may look at: a million addresses in a row that are all taken.
const MOST_BLOCKS: u128 = 256;

/// The blocks of one pool that a call has touched.
pub(crate) struct Blocks {
    pool: String,
    open: BTreeMap<u128, Block>,
}

struct Block {
    bits: [u8; BYTES],
    changed: bool,
}

impl Blocks {
    pub(crate) fn new(pool: &str) -> Self {
        Self { pool: pool.to_owned(), open: BTreeMap::new() }
    }

    pub(crate) fn pool(&self) -> &str {
        &self.pool
    }

    /// Takes this address; false if it is taken already.
    pub(crate) fn take(&mut self, host: &dyn Host, offset: u128) -> Result<bool> {
        Ok(self.block(host, offset / BLOCK)?.set(offset % BLOCK, true))
    }

    /// Gives this address back.
    pub(crate) fn clear(&mut self, host: &dyn Host, offset: u128) -> Result<()> {
        self.block(host, offset / BLOCK)?.set(offset % BLOCK, false);
        Ok(())
    }

    /// Takes the lowest free address from `first` to `last`.
    pub(crate) fn take_lowest(&mut self, host: &dyn Host, first: u128, last: u128) -> Result<Option<u128>> {
        if first > last {
            return Ok(None);
        }
        let start = first / BLOCK;
        let end = (last / BLOCK).min(start.saturating_add(MOST_BLOCKS));
        for number in start..=end {
            let base = number * BLOCK;
            let low = first.saturating_sub(base);
            let high = (last - base).min(BLOCK - 1);
            if let Some(bit) = self.block(host, number)?.take_lowest(low, high) {
                return Ok(Some(base + bit));
            }
        }
        Ok(None)
    }

    /// Stages what has changed. A block of free addresses is no entry at all.
    pub(crate) fn write(&self, host: &dyn Host) -> Result<()> {
        for (number, block) in self.open.iter().filter(|(_, block)| block.changed) {
            let key = key(&self.pool, *number);
            if block.bits.iter().all(|byte| *byte == 0) {
                host.kv_remove(&key)?;
            } else {
                host.kv_set(&key, trimmed(&block.bits))?;
            }
        }
        Ok(())
    }

    /// How many addresses are taken.
    pub(crate) fn count(host: &dyn Host, pool: &str) -> Result<u64> {
        let mut count = 0;
        each(host, pool, |_, bits| {
            count += bits.iter().map(|byte| u64::from(byte.count_ones())).sum::<u64>();
            Ok(())
        })?;
        Ok(count)
    }

    /// Removes every entry of the pool.
    pub(crate) fn forget(host: &dyn Host, pool: &str) -> Result<()> {
        let mut numbers = Vec::new();
        each(host, pool, |number, _| {
            numbers.push(number);
            Ok(())
        })?;
        numbers.iter().try_for_each(|number| host.kv_remove(&key(pool, *number)))
    }

    /// Makes exactly these addresses the taken ones, and returns those that were taken beyond them.
    pub(crate) fn replace(host: &dyn Host, pool: &str, keep: &[u128]) -> Result<Vec<u128>> {
        let mut wanted = Self::new(pool);
        for offset in keep {
            let block = wanted.open.entry(offset / BLOCK).or_insert_with(Block::empty);
            block.set(offset % BLOCK, true);
            // Also when it is as it was: the write is small and this is rare.
            block.changed = true;
        }
        let mut dropped = Vec::new();
        each(host, pool, |number, bits| {
            let block = wanted.open.entry(number).or_insert_with(Block::empty);
            for bit in 0..BLOCK {
                if Block::has(bits, bit) && !Block::has(&block.bits, bit) {
                    dropped.push(number * BLOCK + bit);
                    block.changed = true;
                }
            }
            Ok(())
        })?;
        wanted.write(host)?;
        dropped.sort_unstable();
        Ok(dropped)
    }

    fn block(&mut self, host: &dyn Host, number: u128) -> Result<&mut Block> {
        if !self.open.contains_key(&number) {
            let mut block = Block::empty();
            if let Some(entry) = host.kv_get(&key(&self.pool, number))? {
                for (byte, stored) in block.bits.iter_mut().zip(entry.value) {
                    *byte = stored;
                }
            }
            self.open.insert(number, block);
        }
        self.open.get_mut(&number).ok_or_else(|| Error::internal("a block was lost"))
    }
}

impl Block {
    fn empty() -> Self {
        Self { bits: [0; BYTES], changed: false }
    }

    fn has(bits: &[u8], bit: u128) -> bool {
        let byte = usize::try_from(bit / 8).ok().and_then(|index| bits.get(index));
        byte.is_some_and(|byte| byte & (1 << (bit % 8)) != 0)
    }

    /// Sets or clears a bit; false if it was so already.
    fn set(&mut self, bit: u128, value: bool) -> bool {
        if Self::has(&self.bits, bit) == value {
            return false;
        }
        let Some(byte) = usize::try_from(bit / 8).ok().and_then(|index| self.bits.get_mut(index)) else {
            return false;
        };
        *byte ^= 1 << (bit % 8);
        self.changed = true;
        true
    }

    fn take_lowest(&mut self, low: u128, high: u128) -> Option<u128> {
        let mut bit = low;
        while bit <= high {
            // A byte that is full is passed in one step.
            let byte = usize::try_from(bit / 8).ok().and_then(|index| self.bits.get(index)).copied()?;
            if byte == 0xff {
                bit = (bit / 8 + 1) * 8;
            } else if self.set(bit, true) {
                return Some(bit);
            } else {
                bit += 1;
            }
        }
        None
    }
}

/// Without the zeros at the end: most networks have few containers.
fn trimmed(bits: &[u8; BYTES]) -> &[u8] {
    let length = bits.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    bits.get(..length).unwrap_or(bits)
}

fn key(pool: &str, number: u128) -> String {
    format!("bits/{pool}#{number:032x}")
}

fn each(host: &dyn Host, pool: &str, mut visit: impl FnMut(u128, &[u8]) -> Result<()>) -> Result<()> {
    let prefix = format!("bits/{pool}#");
    let mut after = None;
    loop {
        let page = host.kv_scan(&prefix, after.as_deref(), 64)?;
        for entry in &page.entries {
            let number = entry.key.get(prefix.len()..).and_then(|text| u128::from_str_radix(text, 16).ok());
            let number = number.ok_or_else(|| Error::internal("a block has a damaged key"))?;
            visit(number, &entry.value)?;
        }
        match page.next {
            Some(next) => after = Some(next),
            None => return Ok(()),
        }
    }
}

/// Where named containers were last: a table of a fixed number of places per pool, so that it cannot grow. A name has
/// one place and shares it with others; who left last is remembered.
pub(crate) struct Keys;

impl Keys {
    /// What stands for a name, small enough to travel in a lease's cookie.
    pub(crate) fn digest(name: &str) -> [u8; 8] {
        fnv(name.as_bytes()).to_le_bytes().first_chunk().copied().unwrap_or_default()
    }

    /// The address that this name had last, if it is remembered.
    pub(crate) fn get(host: &dyn Host, pool: &str, digest: [u8; 8]) -> Result<Option<u128>> {
        let Some(entry) = host.kv_get(&Self::place(pool, digest))? else { return Ok(None) };
        let known = entry.value.split_first_chunk::<8>().filter(|(name, _)| **name == digest);
        Ok(known.and_then(|(_, offset)| offset.first_chunk::<16>()).map(|bytes| u128::from_le_bytes(*bytes)))
    }

    /// Remembers the address of a name that leaves.
    pub(crate) fn set(host: &dyn Host, pool: &str, digest: [u8; 8], offset: u128) -> Result<()> {
        let value = [digest.as_slice(), &offset.to_le_bytes()].concat();
        host.kv_set(&Self::place(pool, digest), &value)
    }

    /// Forgets all names of a pool.
    pub(crate) fn forget(host: &dyn Host, pool: &str) -> Result<()> {
        let page = host.kv_scan(&format!("keys/{pool}#"), None, 256)?;
        page.entries.iter().try_for_each(|entry| host.kv_remove(&entry.key))
    }

    fn place(pool: &str, digest: [u8; 8]) -> String {
        format!("keys/{pool}#{:02x}", digest.first().copied().unwrap_or_default())
    }
}
