//! The suite for address managers.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::Subject;
use crate::Result;
use crate::cidr::Cidr;
use crate::ipam::{AddressRequest, Driver, Family, Lease, Pool, PoolRequest, Purpose};
use crate::types::Code;

/// Runs the suite. It panics at the first thing that is not as it must be.
pub fn ipam(subject: &Subject<dyn Driver>) {
    let suite = Suite {
        subject,
        space: subject.plan(|driver, host| driver.address_spaces(host)).expect("spaces").local,
    };
    suite.pools_do_not_overlap();
    suite.what_the_host_uses_is_left_alone();
    suite.chosen_pools();
    suite.addresses_are_unique();
    suite.wanted_addresses();
    suite.all_or_nothing();
    suite.ranges();
    suite.small_networks();
    suite.leases_end();
    suite.names_keep_their_address();
    suite.the_host_knows_better();
    suite.ipv6();
    assert!(subject.host().kv().is_empty() || !subject.host().kv().keys().any(|key| key.contains("bits")));
}

struct Suite<'a> {
    subject: &'a Subject<dyn Driver>,
    space: String,
}

impl Suite<'_> {
    fn request(&self, pool: Option<&str>, sub_pool: Option<&str>) -> PoolRequest {
        PoolRequest {
            space: self.space.clone(),
            family: if pool.is_some_and(|pool| pool.contains(':')) { Family::Ipv6 } else { Family::Ipv4 },
            pool: pool.map(str::to_owned),
            sub_pool: sub_pool.map(str::to_owned),
            exclude: Vec::new(),
            options: Vec::new(),
            network_name: "net".to_owned(),
        }
    }

    fn try_pool(&self, request: &PoolRequest) -> Result<Pool> {
        self.subject.plan(|driver, host| driver.request_pool(host, request))
    }

    fn pool(&self, cidr: &str) -> Pool {
        self.try_pool(&self.request(Some(cidr), None)).unwrap_or_else(|error| panic!("pool {cidr}: {error}"))
    }

    fn release(&self, pool: &Pool) {
        self.subject.plan(|driver, host| driver.release_pool(host, pool)).expect("release-pool");
    }

    fn ask(pool: &Pool, wanted: Option<&str>) -> AddressRequest {
        AddressRequest {
            pool: pool.clone(),
            purpose: Purpose::Endpoint,
            wanted: wanted.map(str::to_owned),
            mac: None,
            container: None,
            sticky_key: None,
            options: Vec::new(),
        }
    }

    fn try_take(&self, requests: &[AddressRequest]) -> Result<Vec<Lease>> {
        self.subject.plan(|driver, host| driver.request_addresses(host, requests))
    }

    fn take(&self, pool: &Pool, count: usize) -> Vec<Lease> {
        let requests: Vec<AddressRequest> = (0..count).map(|_| Self::ask(pool, None)).collect();
        self.try_take(&requests).unwrap_or_else(|error| panic!("{count} addresses of {}: {error}", pool.cidr))
    }

    fn give(&self, pool: &Pool, leases: &[Lease]) {
        self.subject
            .plan(|driver, host| driver.release_addresses(host, pool, leases))
            .expect("release-addresses");
    }

    fn used(&self, pool: &Pool) -> u64 {
        self.subject.plan(|driver, host| driver.usage(host, pool)).expect("pool-usage").used
    }

    fn pools_do_not_overlap(&self) {
        let pools: Vec<Pool> =
            (0..20).map(|_| self.try_pool(&self.request(None, None)).expect("a default pool")).collect();
        let cidrs: Vec<Cidr> = pools.iter().map(|pool| Cidr::parse(&pool.cidr).expect("a prefix")).collect();
        for (index, one) in cidrs.iter().enumerate() {
            assert_eq!(*one, one.network(), "{one} has host bits");
            assert!(!cidrs[..index].iter().any(|other| other.overlaps(one)), "{one} overlaps");
        }
        let ids: BTreeSet<&String> = pools.iter().map(|pool| &pool.id).collect();
        assert_eq!(ids.len(), pools.len(), "two pools have one id");
        // A pool that is given back is free again.
        self.release(&pools[3]);
        let again = self.try_pool(&self.request(None, None)).expect("a default pool");
        assert_eq!(again.cidr, pools[3].cidr);
        for pool in &pools {
            self.release(pool);
        }
    }

    fn what_the_host_uses_is_left_alone(&self) {
        let first = self.try_pool(&self.request(None, None)).expect("a default pool");
        self.release(&first);
        let mut request = self.request(None, None);
        request.exclude = vec!["0.0.0.0/0".to_owned(), first.cidr.clone()];
        let other = self.try_pool(&request).expect("a default route excludes nothing");
        let (one, two) = (Cidr::parse(&first.cidr).unwrap(), Cidr::parse(&other.cidr).unwrap());
        assert!(!one.overlaps(&two), "{two} overlaps with what the host uses");
        self.release(&other);
        request.exclude = vec!["0.0.0.0/1".to_owned(), "128.0.0.0/1".to_owned()];
        let error = self.try_pool(&request).expect_err("everything is in use");
        assert_eq!(error.code, Code::Exhausted);
    }

    fn chosen_pools(&self) {
        let pool = self.pool("10.1.2.3/24");
        assert_eq!(pool.cidr, "10.1.2.0/24");
        for overlapping in ["10.1.2.0/24", "10.1.0.0/16", "10.1.2.128/25"] {
            let error =
                self.try_pool(&self.request(Some(overlapping), None)).expect_err("an overlapping pool");
            assert_eq!(error.code, Code::Conflict, "{overlapping}: {error}");
        }
        for bad in ["10.1.2.0", "10.1.2.0/33", "x", "10.1.2/24"] {
            let error = self.try_pool(&self.request(Some(bad), None)).expect_err("a pool that is none");
            assert_eq!(error.code, Code::Invalid, "{bad}: {error}");
        }
        self.release(&pool);
        let again = self.pool("10.1.2.0/24");
        self.release(&again);
    }

    fn addresses_are_unique(&self) {
        let pool = self.pool("10.2.0.0/16");
        let cidr = Cidr::parse(&pool.cidr).unwrap();
        let mut seen = BTreeSet::new();
        let mut gateway = Self::ask(&pool, None);
        gateway.purpose = Purpose::Gateway;
        let mut leases = self.try_take(&[gateway]).expect("a gateway");
        for count in [1, 2, 300, 4, 5000] {
            leases.extend(self.take(&pool, count));
        }
        for lease in &leases {
            let address = Cidr::parse(&lease.address).expect("an address with its prefix");
            assert_eq!(address.length(), 16, "the prefix is the network's");
            assert!(
                cidr.contains(address.address()) && seen.insert(address.address()),
                "{address} twice or outside"
            );
            assert!(!["10.2.0.0", "10.2.255.255"].contains(&address.address().to_string().as_str()));
        }
        assert_eq!(self.used(&pool), leases.len() as u64);
        self.give(&pool, &leases);
        assert_eq!(self.used(&pool), 0);
        // Nothing was lost on the way.
        assert_eq!(self.take(&pool, 1)[0].address, leases[0].address);
        self.release(&pool);
    }

    fn wanted_addresses(&self) {
        let pool = self.pool("10.3.0.0/24");
        let lease = self.try_take(&[Self::ask(&pool, Some("10.3.0.77"))]).expect("a wanted address");
        assert_eq!(lease[0].address, "10.3.0.77/24");
        let error = self.try_take(&[Self::ask(&pool, Some("10.3.0.77"))]).expect_err("a taken address");
        assert_eq!(error.code, Code::Conflict, "{error}");
        for bad in ["10.4.0.1", "fd00::1", "10.3.0.0", "10.3.0.255", "nonsense"] {
            let error = self.try_take(&[Self::ask(&pool, Some(bad))]).expect_err("an address of no use");
            assert_eq!(error.code, Code::Invalid, "{bad}: {error}");
        }
        self.give(&pool, &lease);
        self.try_take(&[Self::ask(&pool, Some("10.3.0.77"))]).expect("free again");
        // Giving back what nobody has is no error: a crash may repeat it.
        self.give(&pool, &lease);
        self.give(&pool, &lease);
        self.release(&pool);
    }

    fn all_or_nothing(&self) {
        let pool = self.pool("10.4.0.0/24");
        self.take(&pool, 1);
        let before = self.subject.host().kv();
        let batch = [Self::ask(&pool, None), Self::ask(&pool, None), Self::ask(&pool, Some("10.9.9.9"))];
        assert!(self.try_take(&batch).is_err());
        assert_eq!(self.subject.host().kv(), before, "a failed batch has taken something");
        assert_eq!(self.used(&pool), 1);
        let twice = [Self::ask(&pool, Some("10.4.0.9")), Self::ask(&pool, Some("10.4.0.9"))];
        assert!(self.try_take(&twice).is_err(), "one address for two");
        self.release(&pool);
    }

    fn ranges(&self) {
        let request = self.request(Some("10.5.0.0/16"), Some("10.5.7.0/29"));
        let pool = self.try_pool(&request).expect("a pool with a range");
        assert_eq!(pool.cidr, "10.5.0.0/16", "the network is the pool, not the range");
        let range = Cidr::parse("10.5.7.0/29").unwrap();
        let mut taken = 0;
        while let Ok(leases) = self.try_take(&[Self::ask(&pool, None)]) {
            let address = Cidr::parse(&leases[0].address).unwrap();
            assert!(range.contains(address.address()), "{address} is not of the range");
            assert_eq!(address.length(), 16);
            taken += 1;
        }
        assert!((6..=8).contains(&taken), "{taken} addresses of a range of 8");
        // What is asked for by name may be anywhere in the network.
        let mut gateway = Self::ask(&pool, Some("10.5.0.1"));
        gateway.purpose = Purpose::Gateway;
        self.try_take(&[gateway]).expect("a gateway outside of the range");
        self.release(&pool);
        assert!(
            self.try_pool(&self.request(Some("10.5.0.0/16"), Some("10.6.0.0/24"))).is_err(),
            "a range elsewhere"
        );
        assert!(self.try_pool(&self.request(None, Some("10.6.0.0/24"))).is_err(), "a range of nothing");
    }

    fn small_networks(&self) {
        for (cidr, room) in [("10.6.0.0/30", 2), ("10.6.0.0/29", 6), ("10.6.0.0/31", 2), ("10.6.0.0/32", 1)] {
            let pool = self.pool(cidr);
            self.take(&pool, room);
            let error = self.try_take(&[Self::ask(&pool, None)]).expect_err("a full network");
            assert_eq!(error.code, Code::Exhausted, "{cidr}: {error}");
            self.release(&pool);
        }
    }

    fn leases_end(&self) {
        let pool = self.pool("10.7.0.0/24");
        let leases = self.take(&pool, 10);
        self.give(&pool, &leases[2..4]);
        assert_eq!(self.used(&pool), 8);
        let again = self.take(&pool, 2);
        let set =
            |leases: &[Lease]| leases.iter().map(|lease| lease.address.clone()).collect::<BTreeSet<_>>();
        assert!(set(&again).is_disjoint(&set(&leases[..2])) && set(&again).is_disjoint(&set(&leases[4..])));
        // A pool that comes back begins empty.
        self.release(&pool);
        let pool = self.pool("10.7.0.0/24");
        assert_eq!(self.used(&pool), 0);
        self.release(&pool);
    }

    fn names_keep_their_address(&self) {
        let pool = self.pool("10.8.0.0/24");
        let named =
            |name: &str| AddressRequest { sticky_key: Some(name.to_owned()), ..Self::ask(&pool, None) };
        let first = self.try_take(&[named("db")]).expect("an address");
        let other = self.try_take(&[named("web")]).expect("an address");
        self.give(&pool, &first);
        self.give(&pool, &other);
        let second = self.try_take(&[named("web")]).expect("an address");
        assert_eq!(second[0].address, other[0].address, "a name gets the address it had");
        let third = self.try_take(&[named("db")]).expect("an address");
        assert_eq!(third[0].address, first[0].address, "a name gets the address it had");
        // Two of one name do not share.
        let fourth = self.try_take(&[named("db")]).expect("an address");
        assert_ne!(fourth[0].address, third[0].address);
        self.release(&pool);
    }

    fn the_host_knows_better(&self) {
        let pool = self.pool("10.9.0.0/24");
        let leases = self.take(&pool, 5);
        let dropped =
            self.subject.plan(|driver, host| driver.reconcile(host, &pool, &leases[1..])).expect("reconcile");
        let gone: IpAddr = Cidr::parse(&leases[0].address).unwrap().address();
        assert_eq!(dropped, [gone.to_string()], "reconcile says what was dropped");
        assert_eq!(self.used(&pool), 4);
        // What the plugin did not know is taken from then on.
        let unknown = Lease { address: "10.9.0.200/24".to_owned(), facts: Vec::new(), cookie: Vec::new() };
        let mut live = leases[1..].to_vec();
        live.push(unknown);
        let dropped =
            self.subject.plan(|driver, host| driver.reconcile(host, &pool, &live)).expect("reconcile");
        assert!(dropped.is_empty());
        assert!(self.try_take(&[Self::ask(&pool, Some("10.9.0.200"))]).is_err());
        self.release(&pool);
    }

    fn ipv6(&self) {
        let pool = self.pool("fd00:7::/64");
        let leases = self.take(&pool, 3);
        for lease in &leases {
            let address = Cidr::parse(&lease.address).unwrap();
            assert_eq!(address.length(), 64);
            assert_ne!(lease.address, "fd00:7::/64", "the router anycast address");
        }
        let far =
            self.try_take(&[Self::ask(&pool, Some("fd00:7::ffff:ffff:ffff:1"))]).expect("a far address");
        assert_eq!(far[0].address, "fd00:7::ffff:ffff:ffff:1/64");
        assert_eq!(self.used(&pool), 4);
        self.release(&pool);
        let mut request = self.request(None, None);
        request.family = Family::Ipv6;
        let own = self.try_pool(&request).expect("a default IPv6 pool");
        assert!(
            own.cidr.starts_with("fd") && own.cidr.ends_with("/64"),
            "{} is no unique local network",
            own.cidr
        );
        self.release(&own);
    }
}
