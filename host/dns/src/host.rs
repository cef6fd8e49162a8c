//! The host's own name servers, which change while containers run: a laptop moves, a VPN comes up.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;

use crate::upstream::Servers;

/// Milliseconds between two looks.
const PAUSE: u64 = 1000;

/// Says which servers there are, if that has changed since it was asked last. Must not take long.
pub type Look = Box<dyn Fn() -> Option<Vec<SocketAddr>> + Send + Sync>;

/// The servers, looked for when they are asked.
pub struct HostServers {
    servers: ArcSwap<Servers>,
    look: Look,
    looked: AtomicU64,
}

impl std::fmt::Debug for HostServers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("HostServers").field(&self.servers.load().addresses()).finish()
    }
}

impl HostServers {
    /// `look` is asked at once and then when a server is needed, at most once a second.
    pub fn new(look: Look) -> Self {
        let first = look().unwrap_or_default();
        Self { servers: ArcSwap::from_pointee(Servers::at(first)), look, looked: AtomicU64::new(0) }
    }

    /// Those of now, in milliseconds of any clock that does not go back.
    pub(crate) fn at(&self, now: u64) -> Servers {
        let looked = self.looked.load(Ordering::Relaxed);
        if now >= looked + PAUSE {
            self.looked.store(now, Ordering::Relaxed);
            if let Some(servers) = (self.look)() {
                self.servers.store(Servers::at(servers).into());
            }
        }
        Servers::clone(&self.servers.load())
    }
}
