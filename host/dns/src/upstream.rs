//! The name servers that are asked for what is no container's name: in which order, and how long each may take.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// So many are asked at most, as with a resolv.conf.
const MOST: usize = 3;
/// After so long without an answer another one is asked as well.
const NEXT: Duration = Duration::from_millis(1200);
/// One that did not answer is asked last for so long, in milliseconds.
const DOWN: u64 = 10_000;

/// How long a client waits at most; the C library's own patience is five seconds.
pub(crate) const PATIENCE: Duration = Duration::from_millis(4500);

/// Where from a server is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum From {
    /// The container's own network: servers that the user named.
    Container,
    /// The host's network: servers of the host, which may listen on its loopback.
    Host,
}

/// One name server.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    /// Until then (milliseconds of the clock that is given) others are asked first.
    down: AtomicU64,
}

impl Server {
    fn new(address: SocketAddr) -> Self {
        Self { address, down: AtomicU64::new(0) }
    }

    /// It did not answer.
    pub(crate) fn silent(&self, now: u64) {
        self.down.store(now + DOWN, Ordering::Relaxed);
    }

    /// It did.
    pub(crate) fn answered(&self) {
        if self.down.load(Ordering::Relaxed) != 0 {
            self.down.store(0, Ordering::Relaxed);
        }
    }
}

/// A list of servers, in the order of their names; clones share what is known of them.
#[derive(Debug, Clone, Default)]
pub struct Servers(Arc<[Arc<Server>]>);

impl Servers {
    /// At port 53 of these addresses.
    pub fn new(addresses: impl IntoIterator<Item = IpAddr>) -> Self {
        Self::at(addresses.into_iter().map(|ip| SocketAddr::new(ip, 53)))
    }

    /// At these addresses and ports.
    pub fn at(addresses: impl IntoIterator<Item = SocketAddr>) -> Self {
        // Itself it would ask for ever.
        let others = addresses.into_iter().filter(|a| a.ip() != IpAddr::V4(wharf_kernel::net::NAME_SERVER));
        Self(others.take(MOST).map(|address| Arc::new(Server::new(address))).collect())
    }

    /// Where they are.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.0.iter().map(|server| server.address).collect()
    }

    /// Whom to ask, and how long after the start: in their order, but first those that answer. Each is asked twice where
    /// there is time, as a datagram may be lost.
    pub(crate) fn schedule(&self, now: u64) -> Vec<(Duration, Arc<Server>)> {
        let is_down = |server: &&Arc<Server>| server.down.load(Ordering::Relaxed) > now;
        let up = self.0.iter().filter(|server| !is_down(server));
        let order: Vec<&Arc<Server>> = up.chain(self.0.iter().filter(is_down)).collect();
        let times = (0..).map(|n| NEXT * n).take_while(|time| *time + NEXT / 2 < PATIENCE);
        let least = order.len().max(3);
        times.zip(order.iter().cycle()).take(least).map(|(time, server)| (time, Arc::clone(server))).collect()
    }
}

/// Whom a container's questions go to.
#[derive(Debug, Clone, Default)]
pub enum Upstream {
    /// The servers of the host, whichever it has now.
    #[default]
    Host,
    /// Servers that the user or the administrator named.
    Own(Servers),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    fn order(servers: &Servers, now: u64) -> Vec<u8> {
        let last = |server: &Server| match server.address.ip() {
            IpAddr::V4(ip) => ip.octets()[3],
            IpAddr::V6(_) => 0,
        };
        servers.schedule(now).iter().map(|(_, server)| last(server)).collect()
    }

    #[test]
    fn servers_are_asked_in_their_order() {
        let servers = Servers::new([ip(1), ip(2)]);
        assert_eq!(order(&servers, 5), [1, 2, 1]);
        let times: Vec<u128> = servers.schedule(5).iter().map(|(time, _)| time.as_millis()).collect();
        assert_eq!(times, [0, 1200, 2400]);
        assert_eq!(order(&Servers::new([ip(1)]), 5), [1, 1, 1]);
        assert_eq!(order(&Servers::new((1..9).map(ip)), 5), [1, 2, 3]);
        assert!(order(&Servers::default(), 5).is_empty());
    }

    #[test]
    fn a_silent_one_is_asked_last_for_a_while() {
        let servers = Servers::new([ip(1), ip(2), ip(3)]);
        servers.0[0].silent(100);
        assert_eq!(order(&servers, 100), [2, 3, 1]);
        assert_eq!(order(&servers, 100 + DOWN), [1, 2, 3]);
        servers.0[0].silent(20_000);
        servers.0[0].answered();
        assert_eq!(order(&servers, 20_000), [1, 2, 3]);
    }

    #[test]
    fn itself_is_not_asked() {
        assert!(Servers::new([IpAddr::from([127, 0, 0, 11])]).addresses().is_empty());
    }
}
