//! Every bundled driver of a kind that has a suite, as the component that is shipped.

use wharf_conformance::{Codec, Ipam, Network, Sandbox, Storage};
use wharf_plugin_sdk::conformance::{self, Subject};
use wharf_plugin_sdk::{codec, ipam, network, storage};

fn storage(plugin: &str, driver: &str) {
    let driver = Storage::new(&Sandbox::bundled(plugin), driver);
    conformance::storage(&Subject::<dyn storage::Driver>::new(move || Box::new(driver.clone())));
}

fn network(plugin: &str, driver: &str) {
    let driver = Network::new(&Sandbox::bundled(plugin), driver);
    conformance::network(&Subject::<dyn network::Driver>::new(move || Box::new(driver.clone())));
}

fn codec(plugin: &str, driver: &str) {
    let driver = Codec::new(&Sandbox::bundled(plugin), driver);
    conformance::codec(&Subject::<dyn codec::Codec>::new(move || Box::new(driver.clone())));
}

#[test]
fn storage_overlay2() {
    storage("storage-overlay", "overlay2");
}

#[test]
fn storage_vfs() {
    storage("storage-vfs", "vfs");
}

#[test]
fn storage_btrfs() {
    storage("storage-btrfs", "btrfs");
}

#[test]
fn storage_erofs() {
    storage("storage-erofs", "erofs");
}

#[test]
fn network_bridge() {
    network("network-bridge", "bridge");
}

#[test]
fn network_host() {
    network("network-host", "host");
}

#[test]
fn network_none() {
    network("network-none", "none");
}

#[test]
fn ipam_default() {
    let driver = Ipam::new(&Sandbox::bundled("ipam-pool"), "default");
    conformance::ipam(&Subject::<dyn ipam::Driver>::new(move || Box::new(driver.clone())));
}

#[test]
fn log_json_file() {
    codec("log-json-file", "json-file");
}

#[test]
fn log_local() {
    codec("log-local", "local");
}

#[test]
fn log_none() {
    codec("log-none", "none");
}
