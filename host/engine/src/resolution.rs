//! Names: who has which, the sockets on which containers ask for them, and the containers' resolv.conf.
//!
//! The sockets outlive the daemon with the keeper, under these names; what is asked meanwhile waits in them.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use arc_swap::ArcSwap;
use wharf_kernel::net::NameSockets;

use crate::error::{Error, Result};
use crate::planner::files::{self, Resolver};
use crate::planner::modes::NetworkMode;
use crate::planner::resolution::{self, has_names};
use crate::record::Network;
use crate::registry::{Container, Now, Watcher};
use crate::{Engine, Inner, filesystem};

/// Under these names the keeper holds a container's sockets.
const HELD: [&str; 2] = ["names-udp", "names-tcp"];

const FILE: &str = "/etc/resolv.conf";
/// Where systemd's resolver says whom it asks itself, if it is the only one in [`FILE`].
const BEHIND: (&str, &str) = ("127.0.0.53", "/run/systemd/resolve/resolv.conf");

/// What tells two versions of a file apart: device, inode, seconds, nanoseconds and length.
type Stamp = [Option<(u64, u64, i64, i64, u64)>; 2];

/// The host's resolv.conf, which changes while the daemon runs.
#[derive(Debug)]
pub(crate) struct HostFile {
    stamp: Mutex<Stamp>,
    read: ArcSwap<Resolver>,
}

impl HostFile {
    pub(crate) fn open() -> Arc<Self> {
        Arc::new(Self { stamp: Mutex::new(stamps()), read: ArcSwap::from_pointee(read()) })
    }

    /// As it is now; the same value for as long as it does not change.
    pub(crate) fn load(&self) -> Arc<Resolver> {
        let mut stamp = self.stamp.lock().unwrap_or_else(PoisonError::into_inner);
        let now = stamps();
        if *stamp != now {
            *stamp = now;
            self.read.store(Arc::new(read()));
        }
        self.read.load_full()
    }

    /// For those who ask the host's servers.
    pub(crate) fn servers(self: &Arc<Self>) -> wharf_dns::HostServers {
        let file = Arc::clone(self);
        let last: Mutex<Option<Arc<Resolver>>> = Mutex::default();
        wharf_dns::HostServers::new(Box::new(move || {
            let now = file.load();
            let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
            if last.as_ref().is_some_and(|last| Arc::ptr_eq(last, &now)) {
                return None;
            }
            let servers = resolution::servers(&now, interface);
            *last = Some(now);
            Some(servers)
        }))
    }
}

fn stamps() -> Stamp {
    use std::os::unix::fs::MetadataExt;
    [FILE, BEHIND.1].map(|path| {
        let meta = std::fs::metadata(path).ok()?;
        Some((meta.dev(), meta.ino(), meta.mtime(), meta.mtime_nsec(), meta.len()))
    })
}

fn read() -> Resolver {
    let text = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let host = files::parse_resolv(&text(FILE));
    if host.servers == [BEHIND.0] {
        let behind = files::parse_resolv(&text(BEHIND.1));
        if !behind.servers.is_empty() {
            return behind;
        }
    }
    host
}

/// Number of an interface of the host.
fn interface(name: &str) -> Option<u32> {
    if name.is_empty() || name.contains('/') || name.starts_with('.') {
        return None;
    }
    let text = std::fs::read_to_string(Path::new("/sys/class/net").join(name).join("ifindex")).ok()?;
    text.trim().parse().ok()
}

/// Keeps names what containers are.
struct Follow(Weak<Inner>);

impl Watcher for Follow {
    fn changed(&self, now: &Now) {
        if let Some(inner) = self.0.upgrade() {
            Engine { inner }.follow_names(now);
        }
    }

    fn removed(&self, id: &str) {
        if let Some(inner) = self.0.upgrade() {
            inner.names.withdraw(id);
        }
    }
}

impl Engine {
    /// From now on names follow the containers.
    pub(crate) fn watch_names(&self) {
        let follow = Box::new(Follow(Arc::downgrade(&self.inner)));
        if self.inner.registry.watcher.set(follow).is_err() {
            tracing::error!("containers are watched already");
        }
    }

    /// The networks of a container, the one with the way out first; those that are gone are left out.
    fn networks_of(&self, now: &Now) -> Vec<Arc<Network>> {
        let NetworkMode::Network(mode) = &now.blueprint.network else { return Vec::new() };
        let find = |name: &String| self.inner.networks.find(name).ok().map(|object| object.record());
        let mut all: Vec<(i64, Arc<Network>)> = now
            .def
            .networks
            .iter()
            .filter_map(|(name, settings)| Some((settings.gw_priority.unwrap_or(0), find(name)?)))
            .collect();
        all.sort_by_key(|(priority, record)| {
            let own = record.name == *mode || record.id == *mode;
            (std::cmp::Reverse(*priority), !own, record.name.clone())
        });
        all.into_iter().map(|(_, record)| record).collect()
    }

    /// What a container, the configuration and its networks' drivers say of its resolver.
    fn given_resolver(&self, now: &Now, networks: &[Arc<Network>]) -> Resolver {
        let settings = self.inner.settings();
        let engine = Resolver {
            servers: settings.dns.clone(),
            search: settings.dns_search.clone(),
            options: settings.dns_options.clone(),
        };
        let drivers = resolution::of_drivers(now, networks);
        files::first(&[&now.blueprint.resolver, &engine, &drivers])
    }

    /// /etc/resolv.conf of a container as it should be.
    pub(crate) fn resolv_conf(&self, now: &Now) -> String {
        let networks = self.networks_of(now);
        let given = self.given_resolver(now, &networks);
        let host = self.inner.resolver.load();
        if now.blueprint.network == NetworkMode::Host {
            return files::resolv_conf(&files::without_root(files::first(&[&given, &host])));
        }
        let endpoints = now.state.endpoints.values();
        if endpoints.clone().any(has_names) || self.inner.names.is_served(&now.def.id) {
            return files::internal_conf(&given, &host);
        }
        let ipv6 = endpoints.clone().any(|endpoint| endpoint.address(true).is_some());
        files::resolv_conf(&files::resolver(&given, &host, ipv6))
    }

    /// Makes a container's names, and what it may ask, what they are now. It need not be on record as running.
    pub(crate) fn publish_names(&self, now: &Now) {
        let named = now.state.endpoints.values().any(has_names);
        if !named && !self.inner.names.is_served(&now.def.id) {
            return;
        }
        let networks = self.networks_of(now);
        let given = self.given_resolver(now, &networks);
        let presence = resolution::presence(now, &networks, &given, &self.inner.resolver.load());
        self.inner.names.publish(&now.def.id, presence);
    }

    /// Something about a container has changed.
    pub(crate) fn follow_names(&self, now: &Now) {
        if now.state.status.is_alive() {
            self.publish_names(now);
        } else {
            self.inner.names.withdraw(&now.def.id);
        }
    }

    /// The configuration has changed: whom containers' questions go to may have, too.
    pub(crate) fn republish_names(&self) {
        for container in self.inner.registry.all() {
            self.follow_names(&container.now());
        }
    }

    /// Publishes the names of a container that is about to run, and serves it. The answer is for the keeper to hold.
    pub(crate) fn begin_names(&self, now: &Now, sockets: NameSockets) -> Result<Vec<(String, OwnedFd)>> {
        let copies = [sockets.udp.try_clone()?, sockets.tcp.try_clone()?];
        self.publish_names(now);
        self.inner.names.serve(&now.def.id, sockets)?;
        Ok(HELD.iter().map(|name| (*name).to_owned()).zip(copies).collect())
    }

    /// Out of what the keeper holds for a container, its sockets.
    pub(crate) fn held_names(held: &mut Vec<(String, OwnedFd)>) -> Option<NameSockets> {
        let [udp, tcp] = HELD.map(|wanted| {
            let at = held.iter().position(|(name, _)| name == wanted)?;
            Some(held.swap_remove(at).1)
        });
        Some(NameSockets { udp: udp?, tcp: tcp? })
    }

    /// Serves a container that another daemon started. One whose sockets are lost gets new ones.
    pub(crate) async fn adopt_names(&self, container: &Container, sockets: Option<NameSockets>) {
        let now = container.now();
        if !now.state.status.is_alive() {
            return;
        }
        let named = now.state.endpoints.values().any(has_names);
        let served = match sockets {
            Some(sockets) => self.inner.names.serve(&container.id, sockets).map_err(Error::from),
            None if named => self.open_names(&now).await,
            None => return,
        };
        if let Err(error) = served {
            tracing::warn!(%error, id = %container.id, "names are not answered in this container");
        }
        self.publish_names(&now);
    }

    /// Gives a container that runs its sockets, unless it has them.
    pub(crate) async fn open_names(&self, now: &Now) -> Result<()> {
        let id = &now.def.id;
        if self.inner.names.is_served(id) {
            return Ok(());
        }
        let namespace = self.container_netns(id).await?;
        let net = self.inner.net.clone();
        let opened = self.inner.pool.run(move || net.open_names(namespace.as_fd())).await?;
        let sockets = opened.map_err(|e| Error::internal(format!("names of container {id}: {e}")))?;
        let held = self.begin_names(now, sockets)?;
        self.inner.keeper.hold(id, held).await?;
        Ok(())
    }

    /// A running container has come into a network with names: it asks for them from now on, unless somebody has changed its
    /// resolv.conf.
    pub(crate) async fn turn_to_names(&self, before: &Now, now: &Now) -> Result<()> {
        if !now.state.endpoints.values().any(has_names) || self.inner.names.is_served(&now.def.id) {
            return Ok(());
        }
        let old = self.resolv_conf(before);
        self.open_names(now).await?;
        let new = self.resolv_conf(now);
        let path = self.inner.dirs.container(&now.def.id).join("resolv.conf");
        let written = self.inner.pool.run(move || {
            let same = std::fs::read_to_string(&path).is_ok_and(|text| text == old);
            if same { filesystem::write_public(&path, &new) } else { Ok(()) }
        });
        written.await?
    }
}
