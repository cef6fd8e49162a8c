//! The daemon's metadata: one embedded transactional database.
//!
//! Values are bytes under a table name and a key; each carries a version that grows with every write, so that a
//! transaction can say what it relied on. Writers hand over whole transactions: who finds the database free commits
//! at once, the others' transactions are committed in groups by one thread, which also tidies the file up.
//! A commit survives the daemon's sudden death when it returns, and power loss shortly after (`SQLite`, WAL,
//! `synchronous=NORMAL`: the file is never torn, the last moments may be lost). [`Store::commit_lasting`] survives it at
//! once.
#![forbid(unsafe_code)]

use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError, mpsc};

use rusqlite::{Connection, OptionalExtension, params};
use tokio::sync::oneshot;

mod reserve;

use reserve::Reserve;

/// What can go wrong with the database.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The database itself failed.
    #[error("metadata store: {0}")]
    Database(Arc<rusqlite::Error>),
    /// Something that the transaction relied on has changed; nothing was written.
    #[error("metadata store: {table}/{key} was changed by someone else")]
    Conflict {
        /// Table of the entry.
        table: String,
        /// Its key.
        key: String,
    },
    /// The writer is gone; the daemon is ending.
    #[error("metadata store: closed")]
    Closed,
}

impl From<rusqlite::Error> for Error {
    fn from(e: rusqlite::Error) -> Self {
        Self::Database(Arc::new(e))
    }
}

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// A stored value with its version (1 when first written).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Key within its table.
    pub key: String,
    /// Content.
    pub value: Vec<u8>,
    /// Grows with each write of this key, also over its removal: no version ever stands for two contents.
    pub version: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Change {
    Put(String, String, Vec<u8>),
    Delete(String, String),
    Expect(String, String, u64),
}

/// Changes that happen together or not at all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Transaction {
    changes: Vec<Change>,
}

impl Transaction {
    /// An empty one; committing it does nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Writes `value`, over whatever is there.
    pub fn put(&mut self, table: &str, key: &str, value: impl Into<Vec<u8>>) -> &mut Self {
        self.changes.push(Change::Put(table.into(), key.into(), value.into()));
        self
    }

    /// Removes an entry; a missing one is no error.
    pub fn delete(&mut self, table: &str, key: &str) -> &mut Self {
        self.changes.push(Change::Delete(table.into(), key.into()));
        self
    }

    /// Makes the whole transaction fail with [`Error::Conflict`] unless the entry has this version (0: is absent)
    /// before any change of this transaction, wherever in it the expectation stands.
    pub fn expect(&mut self, table: &str, key: &str, version: u64) -> &mut Self {
        self.changes.push(Change::Expect(table.into(), key.into(), version));
        self
    }

    /// Appends another transaction's changes.
    pub fn merge(&mut self, other: Self) -> &mut Self {
        self.changes.extend(other.changes);
        self
    }

    /// What the changes so far make of an entry: `None` if they do not touch it, `Some(None)` if they remove it.
    pub fn staged(&self, table: &str, key: &str) -> Option<Option<&[u8]>> {
        self.changes.iter().rev().find_map(|change| match change {
            Change::Put(t, k, value) if t == table && k == key => Some(Some(value.as_slice())),
            Change::Delete(t, k) if t == table && k == key => Some(None),
            _ => None,
        })
    }

    /// Keys of a table that the changes so far write or remove, in any order, perhaps repeated.
    pub fn touched<'a>(&'a self, table: &'a str) -> impl Iterator<Item = &'a str> {
        self.changes.iter().filter_map(move |change| match change {
            Change::Put(t, k, _) | Change::Delete(t, k) if t == table => Some(k.as_str()),
            _ => None,
        })
    }

    /// Whether it takes something away: what a full disk needs.
    fn removes(&self) -> bool {
        self.changes.iter().any(|change| matches!(change, Change::Delete(..)))
    }

    /// How much it writes, as [`LOG_CHANGES`] counts.
    fn weight(&self) -> usize {
        let of = |change: &Change| match change {
            Change::Put(_, _, value) => 1 + value.len() / 4096,
            Change::Delete(..) => 1,
            Change::Expect(..) => 0,
        };
        self.changes.iter().map(of).sum()
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }
}

struct Request {
    transaction: Transaction,
    /// On the disk, power cut or not, before it is answered.
    lasting: bool,
    done: oneshot::Sender<Result<()>>,
}

enum Job {
    Commit(Request),
    /// Moves what was written from the log into the file, so that the log stays short.
    Checkpoint,
}

/// A handle on the open database; clones share it.
#[derive(Clone)]
pub struct Store {
    reader: Arc<Mutex<Connection>>,
    writing: Arc<Mutex<Connection>>,
    writer: mpsc::Sender<Job>,
    /// Changes since the log was last moved.
    logged: Arc<AtomicUsize>,
    keeping: Arc<Keeping>,
}

/// The space kept back, and whether it was used.
#[derive(Debug)]
struct Keeping {
    reserve: Reserve,
    used: AtomicBool,
}

impl Keeping {
    /// Whether it is worth to try again: the disk is full, and what is to be written makes room.
    fn helps(&self, error: &Error, transaction: &Transaction) -> bool {
        let full = matches!(error, Error::Database(e) if matches!(
            e.sqlite_error_code(),
            // The second where it is the index of the log that does not grow.
            Some(rusqlite::ErrorCode::DiskFull | rusqlite::ErrorCode::SystemIoFailure)
        ));
        if !full || !transaction.removes() || !self.reserve.release() {
            return false;
        }
        tracing::warn!("the disk is full: the space kept back for removals is used");
        self.used.store(true, Ordering::Relaxed);
        true
    }

    /// Keeps space back again after some was used.
    fn refill(&self) {
        if self.used.swap(false, Ordering::Relaxed) {
            self.reserve.fill();
        }
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").finish_non_exhaustive()
    }
}

/// At most this many transactions share one commit.
const GROUP: usize = 64;

/// Changes in the log after which it is moved into the file; each is some pages of 4 KiB. A page of value counts as one.
const LOG_CHANGES: usize = 300;

fn connect(path: &Path) -> Result<Connection> {
    let db = Connection::open(path)?;
    db.pragma_update(None, "journal_mode", "WAL")?;
    db.pragma_update(None, "synchronous", "NORMAL")?;
    db.pragma_update(None, "cache_size", -2048)?;
    db.pragma_update(None, "wal_autocheckpoint", 0)?;
    db.busy_timeout(std::time::Duration::from_secs(5))?;
    db.execute_batch(
        "CREATE TABLE IF NOT EXISTS entries (
            tbl TEXT NOT NULL, key TEXT NOT NULL, version INTEGER NOT NULL, value BLOB NOT NULL,
            PRIMARY KEY (tbl, key)) WITHOUT ROWID;
         CREATE TABLE IF NOT EXISTS removed (tbl TEXT PRIMARY KEY, version INTEGER NOT NULL) WITHOUT ROWID",
    )?;
    Ok(db)
}

impl Store {
    /// Opens or creates the database file at `path` and starts its writer thread, which ends with the last handle.
    pub fn open(path: &Path) -> Result<Self> {
        let db = connect(path)?;
        let reader = connect(path)?;
        let (writer, jobs) = mpsc::channel::<Job>();
        let logged = Arc::new(AtomicUsize::new(0));
        let writing = Arc::new(Mutex::new(db));
        let shared = Arc::downgrade(&writing);
        let keeping = Arc::new(Keeping { reserve: Reserve::beside(path), used: AtomicBool::new(false) });
        keeping.reserve.fill();
        let kept = Arc::clone(&keeping);
        std::thread::Builder::new()
            .name("store".into())
            .spawn(move || {
                while let (Ok(job), Some(shared)) = (jobs.recv(), shared.upgrade()) {
                    let mut db = lock(&shared);
                    let mut group = Vec::new();
                    let mut checkpoint = false;
                    let mut next = Some(job);
                    while let Some(job) = next {
                        match job {
                            Job::Commit(request) => group.push(request),
                            Job::Checkpoint => checkpoint = true,
                        }
                        next = if group.len() < GROUP { jobs.try_recv().ok() } else { None };
                    }
                    commit_group(&mut db, group, &kept);
                    if checkpoint {
                        move_log(&db);
                        kept.refill();
                    }
                }
            })
            .map_err(|_| Error::Closed)?;
        Ok(Self { reader: Arc::new(Mutex::new(reader)), writing, writer, logged, keeping })
    }

    fn reader(&self) -> MutexGuard<'_, Connection> {
        lock(&self.reader)
    }

    /// Has the log moved when it has become long.
    fn count(&self, transaction: &Transaction) {
        let weight = transaction.weight();
        let before = self.logged.fetch_add(weight, Ordering::Relaxed);
        if before < LOG_CHANGES && before + weight >= LOG_CHANGES {
            // The writer takes it when what is committed now is in the log, or a part of it the next time.
            let _ = self.writer.send(Job::Checkpoint);
            self.logged.store(0, Ordering::Relaxed);
        }
    }

    /// Commits on this thread if nobody else is committing: some tens of microseconds in memory, where waking the writer
    /// and being woken by it would be several times that. At most one thread can be held up so by a slow disk.
    fn try_now(&self, transaction: &Transaction) -> Option<Result<()>> {
        let mut db = match self.writing.try_lock() {
            Ok(db) => db,
            Err(TryLockError::Poisoned(db)) => db.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        let result = commit_one(&mut db, transaction);
        if let Err(error) = &result
            && self.keeping.helps(error, transaction)
        {
            return Some(commit_one(&mut db, transaction));
        }
        Some(result)
    }

    /// One entry. Blocks for some microseconds.
    pub fn get(&self, table: &str, key: &str) -> Result<Option<Entry>> {
        let db = self.reader();
        let mut query =
            db.prepare_cached("SELECT value, version FROM entries WHERE tbl = ?1 AND key = ?2")?;
        let found = query
            .query_row(params![table, key], |row| {
                Ok(Entry { key: key.to_owned(), value: row.get(0)?, version: row.get(1)? })
            })
            .optional()?;
        Ok(found)
    }

    /// The entries whose key starts with `prefix` and is greater than `after`, in the order of keys, at most `limit`.
    pub fn scan(&self, table: &str, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<Entry>> {
        let db = self.reader();
        let mut query = db.prepare_cached(
            "SELECT key, value, version FROM entries
             WHERE tbl = ?1 AND key >= ?2 AND key > ?3 AND substr(key, 1, length(?2)) = ?2 ORDER BY key LIMIT ?4",
        )?;
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let rows = query.query_map(params![table, prefix, after.unwrap_or(""), limit], |row| {
            Ok(Entry { key: row.get(0)?, value: row.get(1)?, version: row.get(2)? })
        })?;
        Ok(rows.collect::<rusqlite::Result<Vec<_>>>()?)
    }

    /// All of a table, in the order of keys.
    pub fn table(&self, table: &str) -> Result<Vec<Entry>> {
        self.scan(table, "", None, usize::MAX)
    }

    /// Commits; when this returns, readers see it and the daemon's death does not undo it.
    pub async fn commit(&self, transaction: Transaction) -> Result<()> {
        if transaction.is_empty() {
            return Ok(());
        }
        self.count(&transaction);
        if let Some(result) = self.try_now(&transaction) {
            return result;
        }
        let (done, result) = oneshot::channel();
        self.writer
            .send(Job::Commit(Request { transaction, lasting: false, done }))
            .map_err(|_| Error::Closed)?;
        result.await.map_err(|_| Error::Closed)?
    }

    /// As [`Store::commit`], and no power cut undoes it, nor any commit before it, once this returns. Waits for the disk,
    /// so this is for what users are told that it is done, and for decisions after which files go that cannot come back.
    pub async fn commit_lasting(&self, transaction: Transaction) -> Result<()> {
        if transaction.is_empty() {
            return Ok(());
        }
        self.count(&transaction);
        let (done, result) = oneshot::channel();
        self.writer
            .send(Job::Commit(Request { transaction, lasting: true, done }))
            .map_err(|_| Error::Closed)?;
        result.await.map_err(|_| Error::Closed)?
    }

    /// As [`Store::commit`], for threads outside the async runtime.
    pub fn commit_blocking(&self, transaction: Transaction) -> Result<()> {
        if transaction.is_empty() {
            return Ok(());
        }
        self.count(&transaction);
        if let Some(result) = self.try_now(&transaction) {
            return result;
        }
        let (done, result) = oneshot::channel();
        self.writer
            .send(Job::Commit(Request { transaction, lasting: false, done }))
            .map_err(|_| Error::Closed)?;
        result.blocking_recv().map_err(|_| Error::Closed)?
    }
}

fn lock(mutex: &Mutex<Connection>) -> MutexGuard<'_, Connection> {
    // A transaction that a panic cut short is rolled back when it is dropped.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Moves the log into the file. It waits for the disk, so no commit does it by itself.
fn move_log(db: &Connection) {
    // Busy readers only leave a part for the next time.
    if let Err(error) = db.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(())) {
        tracing::warn!(%error, "metadata store: the log could not be moved into the file");
    }
}

fn commit_one(db: &mut Connection, transaction: &Transaction) -> Result<()> {
    let outer = db.transaction()?;
    apply(&outer, transaction)?;
    Ok(outer.commit()?)
}

fn commit_group(db: &mut Connection, group: Vec<Request>, keeping: &Keeping) {
    // With FULL the log is flushed by the commit; all that was written to it before is flushed with it.
    let lasting = group.iter().any(|request| request.lasting);
    let level = |db: &Connection, level: &str| db.pragma_update(None, "synchronous", level);
    let mut results = if lasting { level(db, "FULL").map_err(Error::from) } else { Ok(()) }
        .and_then(|()| apply_group(db, &group));
    // One transaction that the disk has no room for fails all, so the question is asked of all.
    let failed = match &results {
        Err(error) => Some(error),
        Ok(results) => results.iter().find_map(|result| result.as_ref().err()),
    };
    if let Some(error) = failed
        && group.iter().any(|request| keeping.helps(error, &request.transaction))
    {
        results = apply_group(db, &group);
    }
    if lasting && let Err(error) = level(db, "NORMAL") {
        tracing::warn!(%error, "metadata store: every commit waits for the disk from now on");
    }
    match results {
        Ok(results) => {
            for (request, result) in group.into_iter().zip(results) {
                // The asker may have given up; the change stands.
                let _ = request.done.send(result);
            }
        }
        Err(error) => {
            tracing::error!(%error, "metadata store could not commit");
            for request in group {
                let _ = request.done.send(Err(error.clone()));
            }
        }
    }
}

/// Each request in a savepoint of its own, so that one conflict does not undo its neighbours.
fn apply_group(db: &mut Connection, group: &[Request]) -> Result<Vec<Result<()>>> {
    let mut outer = db.transaction()?;
    let mut results = Vec::with_capacity(group.len());
    for request in group {
        let inner = outer.savepoint()?;
        let result = apply(&inner, &request.transaction);
        if result.is_ok() {
            inner.commit()?;
        }
        results.push(result);
    }
    outer.commit()?;
    Ok(results)
}

fn apply(db: &Connection, transaction: &Transaction) -> Result<()> {
    for change in &transaction.changes {
        if let Change::Expect(table, key, version) = change {
            let found: Option<u64> = db
                .prepare_cached("SELECT version FROM entries WHERE tbl = ?1 AND key = ?2")?
                .query_row(params![table, key], |row| row.get(0))
                .optional()?;
            if found.unwrap_or(0) != *version {
                return Err(Error::Conflict { table: table.clone(), key: key.clone() });
            }
        }
    }
    for change in &transaction.changes {
        match change {
            Change::Put(table, key, value) => {
                db.prepare_cached(
                    "INSERT INTO entries (tbl, key, version, value)
                     VALUES (?1, ?2, 1 + coalesce((SELECT version FROM removed WHERE tbl = ?1), 0), ?3)
                     ON CONFLICT (tbl, key) DO UPDATE SET version = version + 1, value = excluded.value",
                )?
                .execute(params![table, key, value])?;
            }
            Change::Delete(table, key) => {
                // The table remembers the highest version that went, so that a key made anew goes on from there.
                let gone: Option<u64> = db
                    .prepare_cached("DELETE FROM entries WHERE tbl = ?1 AND key = ?2 RETURNING version")?
                    .query_row(params![table, key], |row| row.get(0))
                    .optional()?;
                if let Some(version) = gone {
                    db.prepare_cached(
                        "INSERT INTO removed (tbl, version) VALUES (?1, ?2)
                         ON CONFLICT (tbl) DO UPDATE SET version = max(version, excluded.version)",
                    )?
                    .execute(params![table, version])?;
                }
            }
            Change::Expect(..) => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
