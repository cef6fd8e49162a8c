//! What one port, and one client of it, may take of what all share.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::rc::Rc;

/// Who takes everything leaves a quarter to who comes next, whose quarter is left again to the one after: nobody who comes later
/// finds nothing. As many times what is still free, one may have.
const GREED: usize = 3;

/// Things of which there is a number for all ports together.
#[derive(Debug)]
pub(crate) struct Shared {
    most: Cell<usize>,
    taken: Cell<usize>,
    refused: Cell<u64>,
}

/// What one port has of them, by client.
#[derive(Debug, Default)]
pub(crate) struct Mine {
    taken: Cell<usize>,
    clients: RefCell<HashMap<Client, usize>>,
}

/// Who counts as one client: an address of IPv4, a network of IPv6, as whoever has one address there has all.
type Client = u64;

fn client(address: IpAddr) -> Client {
    let bits = match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
        // Loopback and mapped addresses differ only in their last bits.
        IpAddr::V6(v6) if v6.segments().starts_with(&[0; 4]) => v6.to_bits(),
        IpAddr::V6(v6) => Ipv6Addr::to_bits(v6) >> 64,
    };
    Client::try_from(bits & u128::from(u64::MAX)).unwrap_or(0)
}

/// One of them; it is given back when this is dropped.
#[derive(Debug)]
pub(crate) struct Taken {
    shared: Rc<Shared>,
    mine: Rc<Mine>,
    client: Client,
}

impl Shared {
    pub(crate) fn new(most: usize) -> Rc<Self> {
        Rc::new(Self { most: Cell::new(most), taken: Cell::new(0), refused: Cell::new(0) })
    }

    /// From now on there are so many; who has more keeps them.
    pub(crate) fn set_most(&self, most: usize) {
        self.most.set(most);
    }

    /// How many are taken.
    pub(crate) fn taken(&self) -> usize {
        self.taken.get()
    }

    /// How often there was none for who asked.
    pub(crate) fn refused(&self) -> u64 {
        self.refused.get()
    }

    /// Takes one for a client of a port, if both may have another.
    pub(crate) fn take(self: &Rc<Self>, mine: &Rc<Mine>, address: IpAddr) -> Option<Taken> {
        let client = client(address);
        let mut clients = mine.clients.borrow_mut();
        let theirs = clients.get(&client).copied().unwrap_or(0);
        // What the port may still take, then what the client may of that.
        let free = self.most.get().saturating_sub(self.taken.get());
        let left = (free * GREED).saturating_sub(mine.taken.get()).min(free);
        if left == 0 || theirs >= left * GREED {
            self.refused.set(self.refused.get() + 1);
            return None;
        }
        clients.insert(client, theirs + 1);
        drop(clients);
        self.taken.set(self.taken.get() + 1);
        mine.taken.set(mine.taken.get() + 1);
        Some(Taken { shared: Rc::clone(self), mine: Rc::clone(mine), client })
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.shared.taken.set(self.shared.taken.get().saturating_sub(1));
        self.mine.taken.set(self.mine.taken.get().saturating_sub(1));
        let mut clients = self.mine.clients.borrow_mut();
        if let Some(count) = clients.get_mut(&self.client) {
            *count -= 1;
            if *count == 0 {
                clients.remove(&self.client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(n: u32) -> IpAddr {
        IpAddr::from((0x0a00_0000 | n).to_be_bytes())
    }

    /// As many as can be had.
    fn all(shared: &Rc<Shared>, mine: &Rc<Mine>, from: impl Fn(u32) -> IpAddr) -> Vec<Taken> {
        (0..10_000).map_while(|n| shared.take(mine, from(n))).collect()
    }

    #[test]
    fn who_takes_all_leaves_something() {
        let shared = Shared::new(10_000);
        let [flooded, other, third] = [(); 3].map(|()| Rc::new(Mine::default()));
        let flood = all(&shared, &flooded, |_| address(1));
        assert!((6800..=7000).contains(&flood.len()), "one client of one port: {}", flood.len());
        let beside = all(&shared, &flooded, |_| address(2));
        assert!(beside.len() > 400, "another client of the same port: {}", beside.len());
        let many = all(&shared, &flooded, |n| address(n + 10));
        assert!((7400..=7600).contains(&(flood.len() + beside.len() + many.len())), "one port");
        let next = all(&shared, &other, address);
        assert!(next.len() > 1800, "another port: {}", next.len());
        assert!(!all(&shared, &third, address).is_empty());
        let refused = shared.refused();
        assert!(refused >= 4, "{refused}");
        drop((flood, beside, many, next));
        assert_eq!(shared.taken(), 0);
        assert!(flooded.clients.borrow().is_empty());
        assert!(flooded.taken.get() == 0 && other.taken.get() == 0);
    }

    #[test]
    fn a_network_is_one_client() {
        let six = |text: &str| client(text.parse().unwrap());
        assert_eq!(six("2001:db8::1"), six("2001:db8::ffff:1"));
        assert_ne!(six("2001:db8:0:1::1"), six("2001:db8:0:2::1"));
        assert_ne!(six("::1"), six("::2"));
        assert_ne!(six("10.0.0.1"), six("10.0.0.2"));
    }

    #[test]
    fn fewer_for_all() {
        let shared = Shared::new(100);
        let mine = Rc::new(Mine::default());
        let some = all(&shared, &mine, address);
        shared.set_most(10);
        assert!(shared.take(&mine, address(1)).is_none());
        drop(some);
        assert!(shared.take(&mine, address(1)).is_some());
    }
}
