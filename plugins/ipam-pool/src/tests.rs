use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use wharf_plugin_sdk::conformance::{self, Subject};
use wharf_plugin_sdk::mock::MockHost;
use wharf_plugin_sdk::types::Code;

use super::*;

#[test]
fn conforms() {
    conformance::ipam(&Subject::<dyn Driver>::new(|| Box::new(PoolDriver)));
}

fn request(pool: Option<&str>) -> PoolRequest {
    PoolRequest {
        space: LOCAL.into(),
        family: Family::Ipv4,
        pool: pool.map(str::to_owned),
        sub_pool: None,
        exclude: Vec::new(),
        options: Vec::new(),
        network_name: "net".into(),
    }
}

fn pool(host: &MockHost, request: &PoolRequest) -> Pool {
    host.call(|host| PoolDriver.request_pool(host, request)).unwrap()
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

fn take(host: &MockHost, pool: &Pool) -> Result<String> {
    let leases = host.call(|host| PoolDriver.request_addresses(host, &[ask(pool, None)]))?;
    Ok(leases[0].address.clone())
}

#[test]
fn default_pools_are_dockers() {
    let host = MockHost::new();
    let pools: Vec<String> = (0..17).map(|_| pool(&host, &request(None)).cidr).collect();
    assert_eq!(pools[..3], ["172.17.0.0/16", "172.18.0.0/16", "172.19.0.0/16"]);
    assert_eq!(pools[14..], ["172.31.0.0/16", "192.168.0.0/20", "192.168.16.0/20"]);
    let mut global = request(None);
    global.space = GLOBAL.into();
    assert_eq!(pool(&host, &global).cidr, "10.0.0.0/24");
    while host.call(|host| PoolDriver.request_pool(host, &request(None))).is_ok() {}
    let error = host.call(|host| PoolDriver.request_pool(host, &request(None))).unwrap_err();
    assert_eq!(error.message, "all predefined address pools have been fully subnetted");
}

#[test]
fn pools_of_the_configuration() {
    let host = MockHost::with_config(
        r#"{"default-address-pools":[{"base":"10.10.0.0/23","size":24},{"base":"fd12::/48","size":64}]}"#,
    );
    assert_eq!(pool(&host, &request(None)).cidr, "10.10.0.0/24");
    assert_eq!(pool(&host, &request(None)).cidr, "10.10.1.0/24");
    let error = host.call(|host| PoolDriver.request_pool(host, &request(None))).unwrap_err();
    assert_eq!(error.code, Code::Exhausted);
    let v6 = PoolRequest { family: Family::Ipv6, ..request(None) };
    assert_eq!(pool(&host, &v6).cidr, "fd12::/64");
    for bad in
        [r#"{"default-address-pools":[{"base":"10.0.0.0/24","size":16}]}"#, r#"{"default-address-pools":3}"#]
    {
        host.set_config(bad);
        let error = host.call(|host| PoolDriver.request_pool(host, &request(None))).unwrap_err();
        assert_eq!(error.code, Code::Invalid, "{error}");
    }
}

#[test]
fn unique_local_networks_are_the_nodes_own() {
    let v6 = PoolRequest { family: Family::Ipv6, ..request(None) };
    let of = |node: &str| {
        let host = MockHost::new();
        host.set_node(node);
        pool(&host, &v6).cidr
    };
    assert_eq!(of("one"), of("one"));
    assert_ne!(of("one"), of("two"));
}

#[test]
fn first_containers_get_dockers_addresses() {
    let host = MockHost::new();
    let pool = pool(&host, &request(None));
    let mut gateway = ask(&pool, None);
    gateway.purpose = Purpose::Gateway;
    let lease = host.call(|host| PoolDriver.request_addresses(host, &[gateway])).unwrap();
    assert_eq!(lease[0].address, "172.17.0.1/16");
    assert_eq!(take(&host, &pool).unwrap(), "172.17.0.2/16");
    assert_eq!(take(&host, &pool).unwrap(), "172.17.0.3/16");
}

#[test]
fn messages_are_dockers() {
    let host = MockHost::new();
    let pool = pool(&host, &request(Some("10.0.0.0/24")));
    let error = host.call(|host| PoolDriver.request_pool(host, &request(Some("10.0.0.0/8")))).unwrap_err();
    assert_eq!(error.message, "invalid pool request: Pool overlaps with other one on this address space");
    host.call(|host| PoolDriver.request_addresses(host, &[ask(&pool, Some("10.0.0.9"))])).unwrap();
    let error =
        host.call(|host| PoolDriver.request_addresses(host, &[ask(&pool, Some("10.0.0.9"))])).unwrap_err();
    assert_eq!(error.message, "Address already in use");
}

#[test]
fn a_request_costs_one_read_and_one_write() {
    let host = MockHost::new();
    let pool = pool(&host, &request(None));
    take(&host, &pool).unwrap();
    let before = host.kv_accesses();
    take(&host, &pool).unwrap();
    assert_eq!(host.kv_accesses() - before, 2);
    // Compact: three addresses are one byte.
    let sizes: Vec<usize> = host
        .kv()
        .into_iter()
        .filter(|(key, _)| key.starts_with("bits/"))
        .map(|(_, value)| value.len())
        .collect();
    assert_eq!(sizes, [1]);
}

#[test]
fn a_store_that_fails_changes_nothing() {
    let host = MockHost::new();
    let pool = pool(&host, &request(None));
    take(&host, &pool).unwrap();
    for after in 0..6 {
        let before = host.kv();
        host.fail_kv(after, 1);
        let batch = [ask(&pool, None), AddressRequest { sticky_key: Some("a".into()), ..ask(&pool, None) }];
        if host.call(|host| PoolDriver.request_addresses(host, &batch)).is_err() {
            assert_eq!(host.kv(), before);
        }
        host.fail_kv(0, 0);
    }
}

/// What a model without bitmaps would answer.
#[derive(Default)]
struct Model {
    taken: BTreeSet<u32>,
}

#[derive(Debug, Clone)]
enum Step {
    Take,
    Want(u32),
    Give(usize),
    Batch(Vec<Option<u32>>),
    Vain,
    Reconcile(Vec<bool>),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    // Around the borders of a /19: two blocks, both ends.
    let offset = prop_oneof![0..70_u32, 4080..4110_u32, 8180..8200_u32];
    let step = prop_oneof![
        6 => Just(Step::Take),
        3 => offset.clone().prop_map(Step::Want),
        3 => any::<usize>().prop_map(Step::Give),
        2 => proptest::collection::vec(proptest::option::of(offset), 0..5).prop_map(Step::Batch),
        1 => Just(Step::Vain),
        1 => proptest::collection::vec(any::<bool>(), 40).prop_map(Step::Reconcile),
    ];
    proptest::collection::vec(step, 1..80)
}

const BASE: u32 = 0x0a00_0000;
const LAST: u32 = 8191;

fn text(offset: u32) -> String {
    std::net::Ipv4Addr::from(BASE + offset).to_string()
}

fn offset(lease: &Lease) -> u32 {
    let address = Cidr::parse(&lease.address).unwrap().address();
    let IpAddr::V4(address) = address else { panic!("{address}") };
    u32::from(address) - BASE
}

impl Model {
    fn take(&mut self, wanted: Option<u32>) -> Option<u32> {
        let picked = match wanted {
            Some(wanted) if (1..LAST).contains(&wanted) && !self.taken.contains(&wanted) => wanted,
            Some(_) => return None,
            None => (1..LAST).find(|offset| !self.taken.contains(offset))?,
        };
        self.taken.insert(picked);
        Some(picked)
    }

    fn batch(&mut self, wanted: &[Option<u32>]) -> Option<Vec<u32>> {
        let before = self.taken.clone();
        let all: Option<Vec<u32>> = wanted.iter().map(|wanted| self.take(*wanted)).collect();
        if all.is_none() {
            self.taken = before;
        }
        all
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn behaves_as_a_set_of_addresses(steps in steps()) {
        let host = MockHost::new();
        let pool = pool(&host, &request(Some("10.0.0.0/19")));
        let mut model = Model::default();
        let mut leases: BTreeMap<u32, Lease> = BTreeMap::new();
        for step in steps {
            let batch: Vec<Option<u32>> = match &step {
                Step::Take | Step::Vain => vec![None],
                Step::Want(wanted) => vec![Some(*wanted)],
                Step::Batch(batch) => batch.clone(),
                Step::Give(_) | Step::Reconcile(_) => Vec::new(),
            };
            let requests: Vec<AddressRequest> = batch
                .iter()
                .map(|wanted| ask(&pool, wanted.map(text).as_deref()))
                .collect();
            match step {
                Step::Vain => {
                    let before = host.kv();
                    let _ = host.call_in_vain(|host| PoolDriver.request_addresses(host, &requests));
                    prop_assert_eq!(host.kv(), before);
                }
                Step::Give(which) => {
                    let Some(key) = leases.keys().nth(which % leases.len().max(1)).copied() else { continue };
                    let lease = leases.remove(&key).unwrap();
                    host.call(|host| PoolDriver.release_addresses(host, &pool, &[lease])).unwrap();
                    model.taken.remove(&key);
                }
                Step::Reconcile(keep) => {
                    let live: Vec<Lease> =
                        leases.values().zip(keep.iter().chain(std::iter::repeat(&true))).filter(|(_, keep)| **keep).map(|(lease, _)| lease.clone()).collect();
                    let dropped = host.call(|host| PoolDriver.reconcile(host, &pool, &live)).unwrap();
                    let kept: BTreeSet<u32> = live.iter().map(offset).collect();
                    let expected: Vec<String> = model.taken.difference(&kept).map(|offset| text(*offset)).collect();
                    prop_assert_eq!(dropped, expected);
                    leases.retain(|key, _| kept.contains(key));
                    model.taken = kept;
                }
                Step::Take | Step::Want(_) | Step::Batch(_) => {
                    let answer = host.call(|host| PoolDriver.request_addresses(host, &requests)).ok();
                    let expected = model.batch(&batch);
                    let got = answer.as_ref().map(|leases| leases.iter().map(offset).collect::<Vec<_>>());
                    prop_assert_eq!(got, expected);
                    leases.extend(answer.into_iter().flatten().map(|lease| (offset(&lease), lease)));
                }
            }
            let used = host.call(|host| PoolDriver.usage(host, &pool)).unwrap().used;
            prop_assert_eq!(used, model.taken.len() as u64);
        }
        host.call(|host| PoolDriver.release_pool(host, &pool)).unwrap();
        prop_assert!(host.kv().is_empty(), "a released pool leaves entries behind");
    }

    #[test]
    fn default_pools_never_overlap(exclude in proptest::collection::vec((any::<u32>(), 8..30_u8), 0..12), count in 1..12_usize) {
        let host = MockHost::new();
        let exclude: Vec<Cidr> = exclude
            .into_iter()
            .map(|(address, length)| Cidr::new(IpAddr::V4(address.into()), length).unwrap().network())
            .collect();
        let request = PoolRequest { exclude: exclude.iter().map(ToString::to_string).collect(), ..request(None) };
        let mut all = exclude;
        for _ in 0..count {
            let Ok(pool) = host.call(|host| PoolDriver.request_pool(host, &request)) else { break };
            let cidr = Cidr::parse(&pool.cidr).unwrap();
            prop_assert!(!all.iter().any(|other| other.overlaps(&cidr)), "{cidr}");
            all.push(cidr);
        }
    }

    #[test]
    fn no_request_makes_it_panic(pool in "\\PC{0,20}", range in proptest::option::of("[0-9a-f.:/]{0,20}"), wanted in "[0-9a-f.:/]{0,20}") {
        let host = MockHost::new();
        let request = PoolRequest { pool: Some(pool), sub_pool: range, ..request(None) };
        let _ = host.call(|host| PoolDriver.request_pool(host, &request));
        let good = host.call(|host| PoolDriver.request_pool(host, &self::request(Some("100.64.0.0/30"))));
        if let Ok(good) = good {
            let _ = host.call(|host| PoolDriver.request_addresses(host, &[ask(&good, Some(&wanted))]));
            let damaged = Pool { cookie: wanted.into_bytes(), ..good };
            let _ = host.call(|host| PoolDriver.request_addresses(host, &[ask(&damaged, None)]));
        }
    }
}
