//! User namespaces that exist only to say how an idmapped mount translates ids.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use wharf_plan::types::IdMap;

use super::Error;
use crate::sys::process::{self, CLONE_NEWUSER, Side};

/// Mappings kept; containers of one daemon use the same few.
const KEPT: usize = 64;

type Key = Vec<(u32, u32, u32)>;

/// A user namespace with these mappings for users and groups alike.
pub(super) fn user_namespace(maps: &[IdMap]) -> Result<Arc<OwnedFd>, Error> {
    static CACHE: OnceLock<Mutex<HashMap<Key, Arc<OwnedFd>>>> = OnceLock::new();
    let key: Key = maps.iter().map(|m| (m.inside, m.outside, m.size)).collect();
    let cache = CACHE.get_or_init(Mutex::default);
    let lock = || cache.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = lock().get(&key) {
        return Ok(Arc::clone(known));
    }
    let made = Arc::new(make(maps)?);
    let mut cache = lock();
    if cache.len() >= KEPT {
        cache.clear();
    }
    cache.insert(key, Arc::clone(&made));
    Ok(made)
}

fn make(maps: &[IdMap]) -> Result<OwnedFd, Error> {
    let mut text = String::new();
    for map in maps {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{} {} {}", map.inside, map.outside, map.size);
    }
    let (hold, release) =
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(|e| Error::system("pipe", e))?;
    // A namespace is made by a process in it. The child touches nothing but the pipe, so it may be forked from a
    // process with threads.
    let (pid, pidfd) = match process::clone_process(CLONE_NEWUSER, None)? {
        Side::Child => {
            drop(release);
            let mut byte = [0u8; 1];
            // Ends when the parent lets go, also by dying.
            let _ = rustix::io::read(&hold, &mut byte);
            process::exit(0);
        }
        Side::Parent(pid, pidfd) => (pid, pidfd),
    };
    let take = || -> std::io::Result<OwnedFd> {
        std::fs::write(format!("/proc/{pid}/uid_map"), &text)?;
        std::fs::write(format!("/proc/{pid}/gid_map"), &text)?;
        std::fs::File::open(format!("/proc/{pid}/ns/user")).map(OwnedFd::from)
    };
    let taken = take();
    drop(release);
    // The child ends at once; its status must be taken or it stays as a zombie.
    let waited = rustix::process::waitid(
        rustix::process::WaitId::PidFd(std::os::fd::AsFd::as_fd(&pidfd)),
        rustix::process::WaitIdOptions::EXITED,
    );
    if let Err(error) = waited {
        tracing::warn!(%error, "could not wait for the process of a user namespace");
    }
    taken.map_err(|e| Error::Call(crate::Error::from(e).note("user namespace for an idmapped mount")))
}
