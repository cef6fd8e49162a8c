//! Blobs that are being sent: who sends them, how far they are, and how long nobody has gone on with them.
//!
//! Clients forget what they began. So what stands still goes after a time, and who begins too many loses the one that stood
//! still longest: never somebody else's.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

/// Uploads under way at most. Of them half may be one client's; also what this registry itself fetches.
const MOST: usize = 1000;
/// The client of what this registry itself writes: no user and no address is called so.
pub(crate) const OWN: &str = "";

/// A blob that is being sent.
pub(crate) struct Upload {
    pub(crate) repository: String,
    pub(crate) file: File,
    pub(crate) hasher: Sha256,
    pub(crate) size: u64,
    pub(crate) path: PathBuf,
}

impl Upload {
    /// Adds to its end. Blocks.
    pub(crate) fn add(&mut self, data: &[u8]) -> io::Result<()> {
        self.file.write_all(data)?;
        self.hasher.update(data);
        self.size += data.len() as u64;
        Ok(())
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        // Gone already if it was kept.
        let _ = fs::remove_file(&self.path);
    }
}

/// An upload, and what is known of it without waiting for who writes to it.
#[derive(Clone)]
pub(crate) struct Entry {
    pub(crate) upload: Arc<tokio::sync::Mutex<Upload>>,
    pub(crate) repository: Arc<str>,
    /// Bytes of the chunks that have come to their end.
    pub(crate) whole: Arc<AtomicU64>,
    client: Arc<str>,
    /// When something of it came last.
    last: Instant,
}

impl Entry {
    /// Whether nobody is writing to it just now.
    fn rests(&self) -> bool {
        self.upload.try_lock().is_ok()
    }
}

/// All uploads under way, by their names.
pub(crate) struct Uploads {
    directory: PathBuf,
    all: Mutex<HashMap<String, Entry>>,
    /// How many there may be: each has a file open.
    most: usize,
    /// Milliseconds that one may stand still.
    idle: AtomicU64,
}

impl Uploads {
    /// None yet, in this directory.
    pub(crate) fn new(directory: PathBuf) -> Self {
        let most = MOST.min(crate::door::descriptors() / 2);
        Self { directory, all: Mutex::default(), most, idle: AtomicU64::new(u64::MAX) }
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    fn all(&self) -> MutexGuard<'_, HashMap<String, Entry>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long one may stand still.
    pub(crate) fn idle(&self) -> Duration {
        Duration::from_millis(self.idle.load(Ordering::Relaxed))
    }

    pub(crate) fn set_idle(&self, idle: Duration) {
        self.idle.store(u64::try_from(idle.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Begins one for a client; None if that has to wait for others to end.
    pub(crate) fn begin(&self, repository: &str, client: &str) -> io::Result<Option<String>> {
        let mut gone = Vec::new();
        let mut all = self.all();
        expire(&mut all, self.idle(), &mut gone);
        let of = |all: &HashMap<String, Entry>, client: &str| {
            all.values().filter(|e| &*e.client == client).count()
        };
        if of(&all, client) >= self.most / 2 && !evict(&mut all, client, &mut gone) {
            return Ok(None);
        }
        if all.len() >= self.most {
            let mut counts: HashMap<Arc<str>, usize> = HashMap::new();
            for entry in all.values().filter(|entry| entry.rests()) {
                *counts.entry(Arc::clone(&entry.client)).or_default() += 1;
            }
            let greedy = counts.into_iter().max_by_key(|(_, count)| *count).map(|(client, _)| client);
            if !greedy.is_some_and(|client| evict(&mut all, &client, &mut gone)) {
                return Ok(None);
            }
        }
        let id = format!("{:032x}", rand::random::<u128>());
        let path = self.directory.join(&id);
        let file = File::options().read(true).write(true).create_new(true).open(&path)?;
        let upload = Upload { repository: repository.to_owned(), file, hasher: Sha256::new(), size: 0, path };
        let entry = Entry {
            upload: Arc::new(tokio::sync::Mutex::new(upload)),
            repository: repository.into(),
            whole: Arc::default(),
            client: client.into(),
            last: Instant::now(),
        };
        all.insert(id.clone(), entry);
        Ok(Some(id))
    }

    pub(crate) fn get(&self, id: &str) -> Option<Entry> {
        self.all().get(id).cloned()
    }

    /// Something of it came just now.
    pub(crate) fn touch(&self, id: &str) {
        if let Some(entry) = self.all().get_mut(id) {
            entry.last = Instant::now();
        }
    }

    /// Gives one up, or says that it is done; false if there was none.
    pub(crate) fn forget(&self, id: &str) -> bool {
        // Its file is removed when nothing holds it any more, and not under the lock.
        let gone = self.all().remove(id);
        gone.is_some()
    }

    /// Whether something is on its way to a repository.
    pub(crate) fn any_of(&self, repository: &str) -> bool {
        self.all().values().any(|entry| &*entry.repository == repository)
    }

    /// Gives up what has stood still for too long.
    pub(crate) fn expire(&self) {
        let mut gone = Vec::new();
        expire(&mut self.all(), self.idle(), &mut gone);
        if !gone.is_empty() {
            tracing::info!(count = gone.len(), "uploads that nobody went on with were given up");
        }
    }
}

fn expire(all: &mut HashMap<String, Entry>, idle: Duration, gone: &mut Vec<Entry>) {
    let now = Instant::now();
    let old = |entry: &Entry| now.saturating_duration_since(entry.last) >= idle && entry.rests();
    gone.extend(all.extract_if(|_, entry| old(entry)).map(|(_, entry)| entry));
}

/// Gives up the one of a client that has stood still longest; false if all of them go on.
fn evict(all: &mut HashMap<String, Entry>, client: &str, gone: &mut Vec<Entry>) -> bool {
    let own = all.iter().filter(|(_, entry)| &*entry.client == client && entry.rests());
    let oldest = own.min_by_key(|(_, entry)| entry.last).map(|(id, _)| id.clone());
    let entry = oldest.and_then(|id| all.remove(&id));
    gone.extend(entry.clone());
    entry.is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANY: usize = 40;
    const HALF: usize = MANY / 2;

    fn uploads() -> (tempfile::TempDir, Uploads) {
        let dir = tempfile::tempdir().unwrap();
        let uploads = Uploads { most: MANY, ..Uploads::new(dir.path().to_owned()) };
        (dir, uploads)
    }

    fn files(dir: &tempfile::TempDir) -> usize {
        fs::read_dir(dir.path()).unwrap().count()
    }

    #[test]
    fn who_begins_too_many_loses_his_own_oldest() {
        let (dir, uploads) = uploads();
        let other = uploads.begin("a", "other").unwrap().unwrap();
        let ids: Vec<String> = (0..HALF).map(|_| uploads.begin("a", "one").unwrap().unwrap()).collect();
        uploads.touch(&ids[0]);
        let one_more = uploads.begin("a", "one").unwrap().unwrap();
        assert!(uploads.get(&ids[0]).is_some(), "it goes on");
        assert!(uploads.get(&ids[1]).is_none(), "it stood still longest");
        assert!(uploads.get(&one_more).is_some() && uploads.get(&other).is_some());
        assert_eq!(files(&dir), HALF + 1);
    }

    #[test]
    fn a_full_registry_gives_up_those_of_who_has_most() {
        let (dir, uploads) = uploads();
        for client in ["one", "two"] {
            for _ in 0..HALF {
                uploads.begin("a", client).unwrap().unwrap();
            }
        }
        for _ in 0..10 {
            let id = uploads.begin("a", "three").unwrap().unwrap();
            assert!(uploads.get(&id).is_some());
        }
        let of = |client: &str| uploads.all().values().filter(|e| &*e.client == client).count();
        assert_eq!(of("three"), 10);
        assert_eq!((files(&dir), of("one") + of("two")), (MANY, MANY - 10));
    }

    #[test]
    fn what_is_written_to_stays_and_what_stands_still_goes() {
        let (dir, uploads) = uploads();
        let (busy, idle) =
            (uploads.begin("a", "").unwrap().unwrap(), uploads.begin("a", "").unwrap().unwrap());
        let held = uploads.get(&busy).unwrap().upload.try_lock_owned().unwrap();
        uploads.expire();
        assert_eq!(files(&dir), 2, "without a limit nothing goes");
        uploads.set_idle(Duration::ZERO);
        uploads.expire();
        assert!(uploads.get(&busy).is_some() && uploads.get(&idle).is_none());
        assert_eq!(files(&dir), 1);
        assert!(uploads.any_of("a") && !uploads.any_of("b"));
        drop(held);
        uploads.expire();
        assert_eq!(files(&dir), 0);
        // When all of a client's are being written to it has to wait.
        uploads.set_idle(Duration::MAX);
        let held: Vec<_> = (0..HALF)
            .map(|_| uploads.get(&uploads.begin("a", "x").unwrap().unwrap()).unwrap().upload)
            .map(|upload| upload.try_lock_owned().unwrap())
            .collect();
        assert_eq!(uploads.begin("a", "x").unwrap(), None);
        assert!(uploads.begin("a", "y").unwrap().is_some());
        drop(held);
        assert!(uploads.begin("a", "x").unwrap().is_some());
    }
}
