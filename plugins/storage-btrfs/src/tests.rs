use wharf_plugin_sdk::conformance::{self, Subject};
use wharf_plugin_sdk::mock::MockHost;

use wharf_plugin_sdk::storage::Kind;

use super::*;

#[test]
fn conforms() {
    conformance::storage(&Subject::<dyn Driver>::new(|| Box::new(Btrfs)));
}

fn facts(backing: &str) -> HostFacts {
    HostFacts {
        kernel: "6.12".into(),
        backing_filesystem: backing.into(),
        filesystems: vec!["btrfs".into()],
        user_namespace: false,
        features: Vec::new(),
    }
}

#[test]
fn only_on_btrfs() {
    let host = MockHost::new();
    let error = host.call(|host| Btrfs.probe(host, &facts("ext4"), &Vec::new())).unwrap_err();
    assert!(error.message.contains("wrong filesystem") && error.message.contains("ext4"), "{error}");
    let capabilities = host.call(|host| Btrfs.probe(host, &facts("btrfs"), &Vec::new())).unwrap();
    assert_eq!(capabilities.status, [("Btrfs".to_owned(), String::new())]);
}

#[test]
fn sizes_below_the_least_are_refused() {
    let host = MockHost::new();
    let options = |value: &str| vec![("btrfs.min_space".to_owned(), value.to_owned())];
    assert!(host.call(|host| Btrfs.probe(host, &facts("btrfs"), &options("much"))).is_err());
    let request = |limit| PrepareRequest {
        id: "container".into(),
        kind: Kind::Active,
        lineage: Vec::new(),
        labels: Vec::new(),
        options: options("1G"),
        size_limit: Some(limit),
        id_maps: Vec::new(),
        mount_label: None,
    };
    let error = host.call(|host| Btrfs.prepare(host, &request(1 << 20))).unwrap_err();
    assert!(error.message.contains("storage size cannot be less than"), "{error}");
    host.call(|host| Btrfs.prepare(host, &request(1 << 30))).unwrap();
}

#[test]
fn sizes_are_read_as_docker_does() {
    for (text, size) in [
        ("0", Some(0)),
        ("10G", Some(10 << 30)),
        ("512mb", Some(512 << 20)),
        ("1 kib", Some(1024)),
        ("x", None),
        ("", None),
    ] {
        assert_eq!(bytes(text), size, "{text}");
    }
}
