//! Times calls of the bundled plugins: `cargo run --release -p wharf-plugins --example calls -- PLUGINS COMPILER`.
//!
//! PLUGINS is the directory of components (`cargo xtask plugins --profile release` prints it), COMPILER the program
//! `wharf-compile`. Each figure is of one call from an idle task on a warm runtime, everything included: the fresh instance,
//! lowering, lifting, the check of grants. "empty" is the least that a call can cost (a plan of nothing).

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::pedantic,
    reason = "a program for people who measure; it may fail loudly"
)]

#[path = "../tests/common/mod.rs"]
mod common;

use std::time::{Duration, Instant};

use wharf_plan::logs::{Chunk, Source};
use wharf_plan::network::{Endpoint, Network, PoolBinding};
use wharf_plan::storage::{Kind, PrepareRequest, Purpose, Snapshot};
use wharf_plan::types::ContainerRef;
use wharf_plugins::{Call, Document, Plugins, Settings, State};
use wharf_store::Store;

const ROUNDS: usize = 5_000;

fn report(what: &str, mut times: Vec<Duration>) -> Duration {
    times.sort();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
    println!("{what:<44} p50 {:>9.1?}  p90 {:>9.1?}  p99 {:>9.1?}", at(0.5), at(0.9), at(0.99));
    at(0.5)
}

macro_rules! time {
    ($what:expr, $call:expr) => {{
        let mut times = Vec::with_capacity(ROUNDS);
        for _ in 0..ROUNDS / 10 {
            $call.expect($what);
        }
        for _ in 0..ROUNDS {
            let started = Instant::now();
            std::hint::black_box($call.expect($what));
            times.push(started.elapsed());
        }
        report($what, times)
    }};
}

fn snapshot(id: usize) -> Snapshot {
    Snapshot { id: format!("{id:064x}"), kind: Kind::Committed, labels: Vec::new(), cookie: Vec::new() }
}

fn container() -> ContainerRef {
    ContainerRef {
        id: format!("{:064x}", 77),
        name: "web".into(),
        hostname: "web".into(),
        image: "nginx:latest".into(),
        image_digest: None,
        labels: vec![("a".into(), "b".into())],
        group: None,
    }
}

fn chunk(records: usize, length: usize) -> Chunk {
    let line: String = "GET /index.html HTTP/1.1\" 200 \"quoted\" and\tmore text to fill it "
        .chars()
        .cycle()
        .take(length)
        .collect();
    let mut data = Vec::new();
    let mut ends = Vec::new();
    for _ in 0..records {
        data.extend_from_slice(line.as_bytes());
        ends.push(data.len() as u32);
    }
    Chunk {
        cookie: Vec::new(),
        sequence: 0,
        times: (0..records as u64).map(|i| 1_700_000_000_000_000_000 + i * 1_000).collect(),
        marks: vec![0; records],
        ends,
        data,
    }
}

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let dir = tempfile::tempdir().expect("a temporary directory");
    let store = Store::open(&dir.path().join("db")).expect("a store");
    let mut settings = Settings::new(store, dir.path().join("cache"));
    settings.dirs = vec![arguments[1].clone().into()];
    settings.compiler = arguments[2].clone().into();
    let started = Instant::now();
    let plugins = Plugins::load(settings.clone()).await.expect("plugins");
    println!("load {} plugins, compiling: {:?}", plugins.list().len(), started.elapsed());
    for plugin in plugins.list() {
        if let State::Failed(reason) = plugin.state {
            println!("  {} failed: {reason}", plugin.name);
        }
    }
    drop(plugins);
    let started = Instant::now();
    let plugins = Plugins::load(settings).await.expect("plugins");
    println!("load again from the cache: {:?}", started.elapsed());
    tokio::spawn(bombs(arguments[2].clone())).await.expect("measurements");
    tokio::spawn(measure(plugins)).await.expect("measurements");
}

/// The least component there is, before and after its slots were used by memory bombs.
async fn bombs(compiler: String) {
    let bomb = "(loop $l (drop (memory.grow (i32.const 16))) (memory.fill (i32.const 32768) (i32.const 7)
        (i32.sub (i32.mul (memory.size) (i32.const 65536)) (i32.const 32768))) (br $l)) unreachable";
    let small = common::Guest::storage("small").answers("describe", "{}").body("collect", bomb);
    let mut house = common::House::with_compiler(compiler.into()).with(&small);
    house.settings.node = "here".into();
    let plugins = house.load().await;
    let storage = plugins.storage("small").expect("the small plugin");
    let call = Call::new("0123456789abcdef");
    time!("least component, describe", storage.describe(&call, &snapshot(1)).await);
    let mut times = Vec::new();
    for round in 0..4 {
        let started = Instant::now();
        let call = Call::new("bomb").about(round.to_string());
        assert!(storage.collect(&call, &[], &[]).await.is_err());
        times.push(started.elapsed());
    }
    report("memory bomb", times);
    time!("least component, after bombs", storage.describe(&call, &snapshot(1)).await);
    println!();
}

async fn measure(plugins: Plugins) {
    let call = Call::new("0123456789abcdef");
    if let Ok(network) = plugins.network("none") {
        time!("empty: network-none capabilities", network.capabilities(&call).await);
    }
    if let Ok(storage) = plugins.storage("overlay2") {
        let lineage: Vec<Snapshot> = (0..10).map(snapshot).collect();
        let request = PrepareRequest {
            id: format!("{:064x}", 99),
            kind: Kind::Active,
            lineage: lineage.clone(),
            labels: Vec::new(),
            options: Vec::new(),
            size_limit: None,
            id_maps: Vec::new(),
            mount_label: None,
        };
        time!("storage-overlay prepare, 10 ancestors", storage.prepare(&call, &request).await);
        let active = Snapshot { kind: Kind::Active, ..snapshot(99) };
        time!(
            "storage-overlay mounts, 10 lowers",
            storage.mounts(&call, &active, &lineage, Purpose::RunContainer).await
        );
        time!("storage-overlay remove", storage.remove(&call, &active).await);
    }
    if let Ok(network) = plugins.network("bridge") {
        let net = Network {
            id: format!("{:064x}", 5),
            name: "bridge".into(),
            options: vec![("com.docker.network.bridge.default_bridge".into(), "true".into())],
            labels: Vec::new(),
            internal: false,
            ipv4: true,
            ipv6: false,
            pools: vec![PoolBinding {
                pool: "172.17.0.0/16".into(),
                gateway: Some("172.17.0.1".into()),
                reserved: Vec::new(),
            }],
            cookie: Vec::new(),
        };
        match network.plan_network(&call, &net, &[]).await {
            Ok(planned) => {
                time!("network-bridge plan-network", network.plan_network(&call, &net, &[]).await);
                let call = Call::new("0123456789abcdef").within(std::sync::Arc::new(planned.value.state));
                let net = Network { cookie: planned.value.cookie, ..net };
                let endpoint = Endpoint {
                    id: format!("{:064x}", 6),
                    container: container(),
                    addresses: vec!["172.17.0.2/16".into()],
                    mac: None,
                    interface_name: None,
                    aliases: Vec::new(),
                    options: Vec::new(),
                    publishes: Vec::new(),
                    gateway_v4: true,
                    gateway_v6: false,
                    cookie: Vec::new(),
                };
                match network.plan_endpoint(&call, &net, &endpoint, &[]).await {
                    Ok(_) => {
                        time!(
                            "network-bridge plan-endpoint",
                            network.plan_endpoint(&call, &net, &endpoint, &[]).await
                        );
                    }
                    Err(error) => println!("{error}"),
                }
            }
            Err(error) => println!("{error}"),
        }
    }
    for authz in plugins.authorizers() {
        let request = wharf_plan::auth::Request {
            identity: Some(wharf_plan::types::Identity {
                subject: "uid:0".into(),
                method: "unix".into(),
                groups: vec!["root".into()],
                claims: Vec::new(),
            }),
            operation: wharf_plan::auth::Operation {
                noun: "container".into(),
                verb: "create".into(),
                api_version: "1.55".into(),
                mutates: true,
                upgrades: false,
            },
            targets: Vec::new(),
            query: vec![("name".into(), "web".into())],
            streaming_body: false,
        };
        let body = Document::new(serde_json::json!({"Image": "nginx", "HostConfig": {"Privileged": false}}));
        time!("authz authorize, kept instance", authz.authorize(&call, &request, &body).await);
    }
    for driver in ["json-file", "local"] {
        let Ok(codec) = plugins.codec(driver) else { continue };
        let source = Source {
            container: container(),
            options: Vec::new(),
            command: Vec::new(),
            environment: Vec::new(),
            created: 0,
            daemon: "here".into(),
        };
        let opened = codec.open(&call, &source).await.expect("open").value;
        for (records, length) in [(640, 100), (2_560, 100), (64, 4_000)] {
            let mut one = chunk(records, length);
            one.cookie.clone_from(&opened.cookie);
            let bytes = one.data.len();
            let chunks = vec![one];
            let median = time!(
                &format!("{driver} encode {} KiB in lines of {length}", bytes >> 10),
                codec.encode(&call, &chunks).await
            );
            println!("{:>48.0} MB/s of raw output", bytes as f64 / median.as_secs_f64() / 1e6);
        }
    }
}
