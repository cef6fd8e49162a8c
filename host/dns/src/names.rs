//! All names of all networks, who sees them, and the thread that answers.
//!
//! Changes take a lock; questions do not: each container has its view, each network its zone, and both are values that are
//! replaced as a whole.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use wharf_kernel::net::NameSockets;

use crate::forward::Outside;
use crate::host::HostServers;
use crate::serve::{Common, Guest};
use crate::upstream::Upstream;
use crate::view::{Cell, Member, View, links};
use crate::zone::{Record, Zone, key};

/// One network of a container, in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The network's id.
    pub network: String,
    /// Its name.
    pub name: String,
    /// The container's names there.
    pub records: Vec<Record>,
    /// Names that only this container has for others: alias and name.
    pub links: Vec<(String, String)>,
}

/// All that is to be known of a container that runs.
#[derive(Debug, Clone, Default)]
pub struct Presence {
    /// Its networks, the one that is asked first at the head.
    pub places: Vec<Place>,
    /// Whom its other questions go to.
    pub upstream: Upstream,
    /// One of its networks leads outside.
    pub outside: bool,
    /// Names of one word are not for others to know.
    pub keep_single: bool,
}

#[derive(Debug, Default)]
struct Known {
    /// What it has in each network, by the network's id.
    records: BTreeMap<String, Vec<Record>>,
    view: Arc<ArcSwap<View>>,
    serving: bool,
}

#[derive(Debug, Default)]
struct State {
    zones: HashMap<String, Cell>,
    containers: HashMap<Arc<str>, Known>,
    /// To the thread that answers, once there is one.
    thread: Option<mpsc::UnboundedSender<Order>>,
}

#[derive(Debug)]
enum Order {
    Serve(Arc<str>, Arc<ArcSwap<View>>, NameSockets),
    Stop(Arc<str>),
}

/// All names. Clones share them; the thread ends with the last one.
#[derive(Debug, Clone)]
pub struct Names {
    state: Arc<Mutex<State>>,
    host: Arc<HostServers>,
}

impl Names {
    /// None yet, and no thread.
    pub fn new(host: HostServers) -> Self {
        Self { state: Arc::default(), host: Arc::new(host) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every statement leaves the tables whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A container runs, or what is known of it has changed: others find it under its names from now on.
    pub fn publish(&self, container: &str, presence: Presence) {
        let mut state = self.lock();
        let State { zones, containers, .. } = &mut *state;
        let owner: Arc<str> = container.into();
        let known = containers.entry(Arc::clone(&owner)).or_default();
        let old = std::mem::take(&mut known.records);
        let mut members = Vec::with_capacity(presence.places.len());
        for place in presence.places {
            let cell = zones.entry(place.network.clone()).or_default();
            let before = old.get(&place.network).map_or(&[][..], Vec::as_slice);
            if before != place.records {
                let zone = cell.load().without(&owner, before).with(&owner, &place.records);
                cell.store(Arc::new(zone));
            }
            members.push(Member {
                name: key(&place.name).into(),
                zone: Arc::clone(cell),
                links: links(&place.links),
            });
            known.records.insert(place.network, place.records);
        }
        known.view.store(Arc::new(View {
            members,
            upstream: presence.upstream,
            outside: presence.outside,
            keep_single: presence.keep_single,
        }));
        let gone: Vec<_> = old.into_iter().filter(|(id, _)| !known.records.contains_key(id)).collect();
        remove(zones, &owner, gone);
    }

    /// A container has ended: nobody finds it any more, and its sockets are closed.
    pub fn withdraw(&self, container: &str) {
        let mut state = self.lock();
        let State { zones, containers, thread } = &mut *state;
        let Some((owner, known)) = containers.remove_entry(container) else { return };
        if known.serving
            && let Some(thread) = thread
        {
            // Without the thread nothing is served.
            let _ = thread.send(Order::Stop(Arc::clone(&owner)));
        }
        // Its view holds zones, which is told from who else does below.
        known.view.store(Arc::default());
        remove(zones, &owner, known.records);
    }

    /// Answers what is asked on these sockets as for a container that was published. Earlier sockets are closed.
    pub fn serve(&self, container: &str, sockets: NameSockets) -> io::Result<()> {
        let mut state = self.lock();
        let owner: Arc<str> = container.into();
        let known = state.containers.entry(Arc::clone(&owner)).or_default();
        known.serving = true;
        let order = Order::Serve(owner, Arc::clone(&known.view), sockets);
        let thread = match &state.thread {
            Some(thread) => thread.clone(),
            None => state.thread.insert(start(Arc::clone(&self.host))?).clone(),
        };
        thread.send(order).map_err(|_| io::Error::other("the thread that answers names has ended"))
    }

    /// Whether a container's sockets are served.
    pub fn is_served(&self, container: &str) -> bool {
        self.lock().containers.get(container).is_some_and(|known| known.serving)
    }

    /// How many containers have names.
    pub fn len(&self) -> usize {
        self.lock().containers.len()
    }

    /// Whether none has.
    pub fn is_empty(&self) -> bool {
        self.lock().containers.is_empty()
    }

    /// What a container sees now; for tests and measurements.
    pub fn view(&self, container: &str) -> Option<Arc<View>> {
        self.lock().containers.get(container).map(|known| known.view.load_full())
    }
}

/// Takes an owner's records out of networks; those that nobody is in any more go as a whole.
fn remove(
    zones: &mut HashMap<String, Cell>,
    owner: &str,
    records: impl IntoIterator<Item = (String, Vec<Record>)>,
) {
    for (network, records) in records {
        let Some(cell) = zones.get(&network) else { continue };
        let zone: Zone = cell.load().without(owner, &records);
        let unused = zone.is_empty() && Arc::strong_count(cell) == 1;
        cell.store(Arc::new(zone));
        if unused {
            zones.remove(&network);
        }
    }
}

/// Starts the thread. It ends when nobody can give it orders any more.
fn start(host: Arc<HostServers>) -> io::Result<mpsc::UnboundedSender<Order>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (sender, orders) = mpsc::unbounded_channel();
    std::thread::Builder::new().name("names".into()).stack_size(512 << 10).spawn(move || {
        runtime.block_on(async {
            match Outside::new() {
                Ok(outside) => obey(Arc::new(Common::new(outside, host)), orders).await,
                Err(error) => tracing::error!(%error, "names of containers are not answered"),
            }
        });
    })?;
    Ok(sender)
}

async fn obey(common: Arc<Common>, mut orders: mpsc::UnboundedReceiver<Order>) {
    let mut guests: HashMap<Arc<str>, AbortHandle> = HashMap::new();
    while let Some(order) = orders.recv().await {
        match order {
            Order::Serve(container, view, sockets) => {
                if let Some(old) = guests.remove(&container) {
                    old.abort();
                }
                match adopt(sockets) {
                    Ok((udp, tcp)) => {
                        let guest = Guest::new(Arc::clone(&common), view, udp);
                        guests.insert(container, tokio::spawn(guest.serve(tcp)).abort_handle());
                    }
                    Err(error) => {
                        tracing::error!(%error, %container, "names are not answered in this container");
                    }
                }
            }
            Order::Stop(container) => {
                if let Some(guest) = guests.remove(&container) {
                    guest.abort();
                }
            }
        }
    }
}

fn adopt(sockets: NameSockets) -> io::Result<(UdpSocket, TcpListener)> {
    let (udp, tcp) = (std::net::UdpSocket::from(sockets.udp), std::net::TcpListener::from(sockets.tcp));
    // Also those that an earlier daemon opened.
    udp.set_nonblocking(true)?;
    tcp.set_nonblocking(true)?;
    Ok((UdpSocket::from_std(udp)?, TcpListener::from_std(tcp)?))
}
