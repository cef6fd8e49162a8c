//! The containers in memory: found by id, name or the start of an id; read without any container's lock.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use arc_swap::ArcSwap;
use bytes::Bytes;
use tokio::sync::watch;
use wharf_io::ContainerIo;

use crate::error::{Error, Result};
use crate::planner::run::Blueprint;
use crate::record::{Definition, State};

/// An unchanging view of one container.
#[derive(Debug, Clone)]
pub(crate) struct Now {
    pub(crate) def: Arc<Definition>,
    pub(crate) state: Arc<State>,
    pub(crate) blueprint: Arc<Blueprint>,
}

/// So many ends are remembered for those who wait and come to look only after further ones.
const ENDS: usize = 16;

/// What those who wait look at.
#[derive(Debug, Clone, Default)]
pub(crate) struct Life {
    /// Exits so far in this daemon's life.
    pub(crate) exits: u64,
    pub(crate) alive: bool,
    pub(crate) exit_code: i32,
    pub(crate) removed: bool,
    /// Exit codes of the last exits, the latest at the end.
    ends: VecDeque<i32>,
}

impl Life {
    /// A run is over.
    pub(crate) fn end(&mut self, code: i32) {
        self.exits += 1;
        self.alive = false;
        self.exit_code = code;
        if self.ends.len() == ENDS {
            self.ends.pop_front();
        }
        self.ends.push_back(code);
    }

    /// Exit code of the first exit after the first `exits`; the present one where there was none. Whoever waits may come to look
    /// when the container has run again, or failed to.
    pub(crate) fn code_after(&self, exits: u64) -> i32 {
        let since = usize::try_from(self.exits.saturating_sub(exits)).unwrap_or(usize::MAX);
        let at = self.ends.len().saturating_sub(since);
        self.ends.get(at).copied().unwrap_or(self.exit_code)
    }
}

/// What only the holder of the lock touches.
#[derive(Debug, Default)]
pub(crate) struct Held {
    /// Back-off of the restart policy, in milliseconds; 0 before the first.
    pub(crate) backoff: u64,
    /// Somebody is removing it.
    pub(crate) removing: bool,
    /// Directory of the checkpoint that the start under way restores.
    pub(crate) restore: Option<std::path::PathBuf>,
    /// The last run's cgroup and its entry at the keeper are being taken down.
    pub(crate) tidying: Option<tokio::task::JoinHandle<()>>,
}

/// The list entry of one container, and until when it is right.
#[derive(Debug, Clone)]
pub(crate) struct Fragment {
    pub(crate) json: Bytes,
    /// Without `Health`, for older clients.
    pub(crate) plain: Bytes,
    /// Text that depends on the time.
    pub(crate) status: String,
}

/// One container.
#[derive(Debug)]
pub(crate) struct Container {
    pub(crate) id: Arc<str>,
    /// For changes, one at a time.
    pub(crate) lock: tokio::sync::Mutex<Held>,
    now: ArcSwap<Now>,
    pub(crate) io: Arc<ContainerIo>,
    life: watch::Sender<Life>,
    pub(crate) fragment: ArcSwap<Option<Fragment>>,
    pub(crate) execs: Mutex<BTreeSet<String>>,
    /// Held for reading while an exec is made, for writing while the container is frozen: a process that is frozen half-made
    /// holds up whoever makes it.
    pub(crate) making_execs: tokio::sync::RwLock<()>,
    /// What was told of this run's lack of memory; see `oom`.
    pub(crate) oom: AtomicU8,
    /// The keeper is making its process; the lock is held for as long as that takes.
    pub(crate) setting_up: AtomicBool,
    /// So many clients have it stopped to be started again: its end is not one that removes it.
    restarts: AtomicUsize,
}

/// A restart under way, until this is dropped.
pub(crate) struct Restarting<'a>(&'a Container);

impl Drop for Restarting<'_> {
    fn drop(&mut self) {
        self.0.restarts.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Container {
    pub(crate) fn new(now: Now, io: Arc<ContainerIo>) -> Arc<Self> {
        let life =
            Life { alive: now.state.status.is_alive(), exit_code: now.state.exit_code, ..Life::default() };
        Arc::new(Self {
            id: now.def.id.as_str().into(),
            lock: tokio::sync::Mutex::default(),
            now: ArcSwap::from_pointee(now),
            io,
            life: watch::Sender::new(life),
            fragment: ArcSwap::from_pointee(None),
            execs: Mutex::default(),
            making_execs: tokio::sync::RwLock::default(),
            oom: AtomicU8::new(crate::oom::UNTOLD),
            setting_up: AtomicBool::new(false),
            restarts: AtomicUsize::new(0),
        })
    }

    /// It is stopped to be started again.
    pub(crate) fn begin_restart(&self) -> Restarting<'_> {
        self.restarts.fetch_add(1, Ordering::SeqCst);
        Restarting(self)
    }

    /// Whether the end of a run removes it.
    pub(crate) fn ends_with_its_run(&self) -> bool {
        self.now().def.host.auto_remove == Some(true) && self.restarts.load(Ordering::SeqCst) == 0
    }

    /// The view of this moment.
    pub(crate) fn now(&self) -> Arc<Now> {
        self.now.load_full()
    }

    pub(crate) fn watch(&self) -> watch::Receiver<Life> {
        self.life.subscribe()
    }

    pub(crate) fn change_life(&self, change: impl FnOnce(&mut Life)) {
        self.life.send_modify(change);
    }

    pub(crate) fn exec_ids(&self) -> MutexGuard<'_, BTreeSet<String>> {
        // A set is whole after every operation.
        self.execs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Default)]
struct Index {
    by_id: BTreeMap<Arc<str>, Arc<Container>>,
    /// Names, also those of containers that are being created.
    by_name: HashMap<String, Arc<str>>,
}

/// Follows what becomes of containers. Is called with no lock held, and does not wait.
pub(crate) trait Watcher: Send + Sync {
    /// It is so now.
    fn changed(&self, now: &Now);
    /// It is no more.
    fn removed(&self, id: &str);
}

/// All containers.
#[derive(Default)]
pub(crate) struct Registry {
    index: RwLock<Index>,
    /// Grows with every visible change.
    generation: AtomicU64,
    /// Told of every view that a container gets, and of its end.
    pub(crate) watcher: OnceLock<Box<dyn Watcher>>,
    pub(crate) listing: ArcSwap<Option<Listing>>,
}

/// The whole plain list, ready to send.
pub(crate) struct Listing {
    pub(crate) generation: u64,
    pub(crate) second: u64,
    /// With and without `Health`.
    pub(crate) all: [Bytes; 2],
    pub(crate) running: [Bytes; 2],
}

/// A name that is given back when this is dropped.
pub(crate) struct Reserved<'a> {
    registry: &'a Registry,
    name: &'a str,
    id: &'a str,
    keep: bool,
}

impl Reserved<'_> {
    /// The name is the id's from now on.
    pub(crate) fn keep(mut self) {
        self.keep = true;
    }
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        if !self.keep {
            self.registry.release(self.name, self.id);
        }
    }
}

impl Registry {
    fn read(&self) -> RwLockReadGuard<'_, Index> {
        // Every writer leaves the maps whole between its statements.
        self.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Index> {
        self.index.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a name for an id, or says who has it.
    pub(crate) fn reserve(&self, name: &str, id: &str) -> Result<()> {
        use std::collections::hash_map::Entry;
        match self.write().by_name.entry(name.to_owned()) {
            Entry::Occupied(taken) => Err(Error::conflict(format!(
                "Conflict. The container name \"/{name}\" is already in use by container \"{}\". You have to remove (or \
                 rename) that container to be able to reuse that name.",
                taken.get()
            ))),
            Entry::Vacant(free) => {
                free.insert(id.into());
                Ok(())
            }
        }
    }

    /// [`reserve`](Self::reserve) until the result is dropped, or for good with [`Reserved::keep`].
    pub(crate) fn hold<'a>(&'a self, name: &'a str, id: &'a str) -> Result<Reserved<'a>> {
        self.reserve(name, id)?;
        Ok(Reserved { registry: self, name, id, keep: false })
    }

    /// Gives a name back, if it is that id's.
    pub(crate) fn release(&self, name: &str, id: &str) {
        let mut index = self.write();
        if index.by_name.get(name).is_some_and(|owner| **owner == *id) {
            index.by_name.remove(name);
        }
    }

    /// Adds a container whose name is reserved.
    pub(crate) fn insert(&self, container: &Arc<Container>) {
        self.write().by_id.insert(Arc::clone(&container.id), Arc::clone(container));
        self.touch();
        if let Some(watcher) = self.watcher.get() {
            watcher.changed(&container.now());
        }
    }

    /// Takes it out, with its name.
    pub(crate) fn remove(&self, id: &str, name: &str) {
        self.write().by_id.remove(id);
        self.release(name, id);
        self.touch();
        if let Some(watcher) = self.watcher.get() {
            watcher.removed(id);
        }
    }

    /// Replaces a container's view.
    pub(crate) fn update(&self, container: &Container, now: Now) {
        let now = Arc::new(now);
        container.now.store(Arc::clone(&now));
        // Before anybody who waits for the change: who asks for a name after it is answered as after it.
        if let Some(watcher) = self.watcher.get() {
            watcher.changed(&now);
        }
        container.fragment.store(Arc::new(None));
        self.touch();
    }

    /// Something that a container's list entry shows besides its own view has changed.
    pub(crate) fn refresh(&self, container: &Container) {
        container.fragment.store(Arc::new(None));
        self.touch();
    }

    fn touch(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// All, oldest id order.
    pub(crate) fn all(&self) -> Vec<Arc<Container>> {
        self.read().by_id.values().cloned().collect()
    }

    pub(crate) fn get(&self, id: &str) -> Option<Arc<Container>> {
        self.read().by_id.get(id).cloned()
    }

    /// Finds by full id, then name, then the start of an id.
    pub(crate) fn find(&self, reference: &str) -> Result<Arc<Container>> {
        let index = self.read();
        if let Some(found) = index.by_id.get(reference) {
            return Ok(Arc::clone(found));
        }
        let name = reference.strip_prefix('/').unwrap_or(reference);
        if let Some(found) = index.by_name.get(name).and_then(|id| index.by_id.get(id)) {
            return Ok(Arc::clone(found));
        }
        let hex = !reference.is_empty() && reference.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if hex {
            let mut range = index
                .by_id
                .range::<str, _>((std::ops::Bound::Included(reference), std::ops::Bound::Unbounded))
                .take_while(|(id, _)| id.starts_with(reference));
            match (range.next(), range.next()) {
                (Some((_, one)), None) => return Ok(Arc::clone(one)),
                (Some(_), Some(_)) => {
                    return Err(Error::invalid(format!(
                        "Multiple IDs found with provided prefix: {reference}"
                    )));
                }
                (None, _) => {}
            }
        }
        Err(Error::no_container(reference))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_looks_late_is_told_the_end_that_was_waited_for() {
        let mut life = Life { alive: true, exit_code: 9, ..Life::default() };
        assert_eq!(life.code_after(0), 9, "no end yet");
        life.end(1);
        life.alive = true;
        life.end(2);
        // A further start failed.
        life.exit_code = 127;
        assert_eq!([0, 1, 2].map(|exits| life.code_after(exits)), [1, 2, 127]);
        (3..=30).for_each(|code| life.end(code));
        assert_eq!([0, 13, 14, 20, 29, 30].map(|exits| life.code_after(exits)), [15, 15, 15, 21, 30, 30]);
        assert_eq!(life.ends.len(), ENDS);
    }
}
