//! Every bundled driver of a kind that has a suite, as the component that is shipped.

use wharf_conformance::{Codec, Ipam, Network, Sandbox, Storage};
use wharf_plugin_sdk::conformance::{self, Subject};
use wharf_plugin_sdk::{codec, ipam, network, storage};

fn storage(driver: &'static str) {
    let driver = Storage::new(&Sandbox::bundled(), driver);
    conformance::storage(&Subject::<dyn storage::Driver>::new(move || Box::new(driver.clone())));
}

fn network(driver: &'static str) {
    let driver = Network::new(&Sandbox::bundled(), driver);
    conformance::network(&Subject::<dyn network::Driver>::new(move || Box::new(driver.clone())));
}

fn codec(driver: &'static str) {
    let driver = Codec::new(&Sandbox::bundled(), driver);
    conformance::codec(&Subject::<dyn codec::Codec>::new(move || Box::new(driver.clone())));
}

#[test]
fn storage_overlay2() {
    storage("overlay2");
}

#[test]
fn storage_vfs() {
    storage("vfs");
}

#[test]
fn network_bridge() {
    network("bridge");
}

#[test]
fn network_host() {
    network("host");
}

#[test]
fn network_none() {
    network("none");
}

#[test]
fn ipam_default() {
    let driver = Ipam::new(&Sandbox::bundled(), "default");
    conformance::ipam(&Subject::<dyn ipam::Driver>::new(move || Box::new(driver.clone())));
}

#[test]
fn log_json_file() {
    codec("json-file");
}

#[test]
fn log_local() {
    codec("local");
}

#[test]
fn log_none() {
    codec("none");
}
