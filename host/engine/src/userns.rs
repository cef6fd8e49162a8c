//! User namespaces of containers: whose ids they have, and where a start finds the namespace.

use std::collections::{HashMap, VecDeque};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use wharf_kernel::{netns, userns};
use wharf_plan::run::Ids;
use wharf_plan::types::IdMap;

use crate::Engine;
use crate::error::{Context, Error, Result};
use crate::models::HostConfig;
use crate::planner::run::Blueprint;
use crate::planner::userns::{self as planner, Choice, Remap};
use crate::registry::Now;
use crate::start::NetNamespace;

/// Pairs kept ready where all containers have the same ranges, and of those made ahead for ranges of containers' own.
const READY: usize = 8;

/// Ranges that were given to containers which are still being made, by their ids.
#[derive(Debug, Default)]
pub(crate) struct Ranges(Mutex<HashMap<String, Vec<IdMap>>>);

/// Where starts get their namespaces from.
#[derive(Clone)]
pub(crate) struct Source {
    plain: Arc<netns::Pool>,
    mapped: Option<Arc<netns::Pool<userns::Pair>>>,
    /// The ranges of those in `mapped`.
    fixed: Vec<IdMap>,
    ahead: Arc<Mutex<Ahead>>,
}

/// Pairs for ranges of containers' own that were made before a start asks for them, the oldest first.
type Ahead = VecDeque<(Vec<IdMap>, userns::Pair)>;

impl Source {
    /// Keeps `size` network namespaces ready, and pairs of user and network namespaces where all containers are mapped alike.
    pub(crate) fn new(size: usize, remap: &Remap) -> Result<Self> {
        let plain = Arc::new(netns::Pool::new(size).doing("cannot make network namespaces")?);
        let Remap::Fixed(fixed) = remap else {
            return Ok(Self { plain, mapped: None, fixed: Vec::new(), ahead: Arc::default() });
        };
        let ids = Ids::of(fixed);
        let mapped =
            netns::Pool::of(READY, move || userns::create_pair(&ids)).doing("cannot make user namespaces")?;
        Ok(Self { plain, mapped: Some(Arc::new(mapped)), fixed: fixed.clone(), ahead: Arc::default() })
    }

    /// A network namespace for a container with these ranges, with its user namespace unless it joins `joined`.
    pub(crate) fn take(
        &self,
        maps: &[IdMap],
        joined: Option<&OwnedFd>,
    ) -> wharf_kernel::Result<NetNamespace> {
        if maps.is_empty() {
            return self.plain.take().map(NetNamespace::Fd);
        }
        if let Some(user) = joined {
            return userns::network_of(user.as_fd()).map(NetNamespace::Fd);
        }
        let pair = match &self.mapped {
            Some(ready) if maps == self.fixed => ready.take()?,
            _ => match self.take_ahead(maps) {
                Some(pair) => pair,
                None => userns::create_pair(&Ids::of(maps))?,
            },
        };
        Ok(NetNamespace::Pair(pair))
    }

    fn take_ahead(&self, maps: &[IdMap]) -> Option<userns::Pair> {
        let mut ahead = self.ahead.lock().unwrap_or_else(PoisonError::into_inner);
        let at = ahead.iter().position(|(ready, _)| ready == maps)?;
        ahead.remove(at).map(|(_, pair)| pair)
    }

    /// Makes a pair for a range that the next start is likely to ask for. A failure is that start's to tell.
    fn make_ahead(&self, maps: &[IdMap]) {
        let is_there = |ahead: &Ahead| ahead.iter().any(|(ready, _)| ready == maps);
        let lock = || self.ahead.lock().unwrap_or_else(PoisonError::into_inner);
        if is_there(&lock()) {
            return;
        }
        let Ok(pair) = userns::create_pair(&Ids::of(maps)) else { return };
        let mut ahead = lock();
        let spare = if is_there(&ahead) {
            Some(pair)
        } else {
            ahead.push_back((maps.to_vec(), pair));
            if ahead.len() > READY { ahead.pop_front().map(|(_, pair)| pair) } else { None }
        };
        // Namespaces are taken down without the lock.
        drop(ahead);
        drop(spare);
    }
}

impl Engine {
    /// Decides a new container's ranges: those of the containers that it joins, else as the request and the daemon say.
    pub(crate) fn choose_ids(&self, host: &HostConfig, b: &Blueprint) -> Result<Choice> {
        let facts = self.inner.facts();
        let mut joined: Option<(Vec<IdMap>, String)> = None;
        for donor in planner::donors(&b.network, &b.pid, &b.ipc) {
            // One that is not there is the start's error.
            let Ok(donor) = self.inner.registry.find(&donor) else { continue };
            let def = Arc::clone(&donor.now().def);
            match &joined {
                Some((maps, other)) if *maps != def.id_maps => {
                    return Err(Error::invalid(format!(
                        "cannot join namespaces of {other} and {}: they are in different user namespaces",
                        def.name
                    )));
                }
                _ => joined = Some((def.id_maps.clone(), def.name.clone())),
            }
        }
        let Some((maps, name)) = joined else { return planner::choose(host, &facts.remap) };
        let mode = planner::mode(host.userns_mode.as_deref().unwrap_or(""))?;
        if maps.is_empty() {
            return match mode {
                planner::Userns::Own(_) => Err(Error::invalid(format!(
                    "cannot join namespaces of container {name}, which has the host's user namespace: a container in a \
                     user namespace of its own has no rights there"
                ))),
                planner::Userns::Default | planner::Userns::Host => Ok(Choice::Host),
            };
        }
        if mode == planner::Userns::Host {
            return Err(Error::invalid(format!(
                "cannot join namespaces of container {name} with --userns host: it is in a user namespace of its own"
            )));
        }
        planner::choose(host, &Remap::Fixed(maps))
    }

    /// The ranges of a choice; a range of its own is kept for this container until [`range_settled`](Self::range_settled).
    pub(crate) fn take_range(&self, id: &str, choice: &Choice) -> Result<Vec<IdMap>> {
        let size = match choice {
            Choice::Host => return Ok(Vec::new()),
            Choice::Fixed(maps) => return Ok(maps.clone()),
            Choice::Own(size) => *size,
        };
        let settings = self.inner.settings();
        let mut pending = self.inner.ranges.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut taken: Vec<Vec<IdMap>> = pending.values().cloned().collect();
        taken.extend(self.inner.registry.all().iter().map(|c| c.now().def.id_maps.clone()));
        if let Remap::Fixed(maps) = &settings.remap {
            taken.push(maps.clone());
        }
        let maps = planner::allocate(&settings.own_ids, &taken, size)?;
        pending.insert(id.to_owned(), maps.clone());
        Ok(maps)
    }

    /// Has the namespaces for a range of a container's own made, beside whatever goes on: for the container that was just given it,
    /// or, where it has become free, for the next one.
    pub(crate) fn expect_range(&self, maps: &[IdMap]) {
        let is_own = !maps.is_empty() && *maps != *self.inner.namespaces.fixed;
        if is_own && !self.inner.closing.load(std::sync::atomic::Ordering::Acquire) {
            let (source, maps) = (self.inner.namespaces.clone(), maps.to_vec());
            // Nobody waits for it.
            drop(self.inner.pool.start(move || source.make_ahead(&maps)));
        }
    }

    /// The container is made, or is not to be.
    pub(crate) fn range_settled(&self, id: &str) {
        self.inner.ranges.0.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
    }

    /// The user namespace of the containers that this one joins, by a descriptor of a process in it.
    pub(crate) async fn joined_user(&self, now: &Now) -> Result<Option<OwnedFd>> {
        let b = &now.blueprint;
        let mut found = None;
        for donor in planner::donors(&b.network, &b.pid, &b.ipc) {
            let Ok(donor) = self.inner.registry.find(&donor) else { continue };
            let their = donor.now();
            if their.def.id_maps != now.def.id_maps {
                return Err(Error::conflict(format!(
                    "cannot join namespaces of container {}: it is in another user namespace by now; create this \
                     container again",
                    their.def.name
                )));
            }
            if now.def.id_maps.is_empty() || !their.state.status.is_alive() {
                continue;
            }
            let held = self.inner.keeper.fetch(&their.def.id).await?;
            found = held.into_iter().find(|(name, _)| name == "pidfd").map(|(_, fd)| fd);
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wharf_plan::types::IdKind;

    /// Needs root.
    #[test]
    fn what_was_made_ahead_is_taken_once_and_by_its_range_alone() {
        let source = Source::new(0, &Remap::Own).unwrap();
        let range =
            |n: u32| vec![IdMap { inside: 0, outside: 1_000_000 + n * 1000, size: 1000, kind: IdKind::Both }];
        let ready = || source.ahead.lock().unwrap().iter().map(|(maps, _)| maps.clone()).collect::<Vec<_>>();
        source.make_ahead(&range(1));
        source.make_ahead(&range(1));
        assert_eq!(ready(), [range(1)]);
        assert!(source.take_ahead(&range(2)).is_none());
        let Ok(NetNamespace::Pair(pair)) = source.take(&range(1), None) else { panic!("no pair") };
        assert_eq!(userns::ids_of(pair.user.as_fd()).unwrap(), Ids::of(&range(1)));
        assert!(ready().is_empty());
        // One that nobody made ahead is made now.
        let Ok(NetNamespace::Pair(pair)) = source.take(&range(2), None) else { panic!("no pair") };
        assert_eq!(userns::ids_of(pair.user.as_fd()).unwrap(), Ids::of(&range(2)));
        // They do not pile up.
        let most = u32::try_from(READY).unwrap();
        (0..most + 3).for_each(|n| source.make_ahead(&range(n)));
        assert_eq!(ready(), (3..most + 3).map(range).collect::<Vec<_>>());
    }
}
