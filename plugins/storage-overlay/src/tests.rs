use wharf_plugin_sdk::conformance::{self, Subject};
use wharf_plugin_sdk::files::{Mount, OptionValue, Root, Source};
use wharf_plugin_sdk::mock::MockHost;
use wharf_plugin_sdk::types::{IdKind, IdMap};

use wharf_plugin_sdk::storage::Features;

use super::*;

#[test]
fn conforms() {
    conformance::storage(&Subject::<dyn Driver>::new(|| Box::new(Overlay)));
}

fn facts() -> HostFacts {
    HostFacts {
        kernel: "6.12".into(),
        backing_filesystem: "ext4".into(),
        filesystems: vec!["overlay".into()],
        user_namespace: false,
        features: Vec::new(),
    }
}

fn snapshot(id: &str, kind: Kind) -> Snapshot {
    Snapshot { id: id.into(), kind, labels: Vec::new(), cookie: Vec::new() }
}

#[test]
fn status_is_what_docker_info_shows() {
    let host = MockHost::new();
    let capabilities = host.call(|host| Overlay.probe(host, &facts(), &Vec::new())).unwrap();
    let status: Vec<String> =
        capabilities.status.iter().map(|(key, value)| format!("{key}: {value}")).collect();
    assert_eq!(
        status,
        [
            "Backing Filesystem: extfs",
            "Supports d_type: true",
            "Using metacopy: false",
            "Native Overlay Diff: true",
            "userxattr: false"
        ]
    );
    assert!(!capabilities.features.contains(Features::SIZE_LIMIT), "ext4 has no quota here");
}

#[test]
fn unfit_hosts_are_told_why() {
    let host = MockHost::new();
    for (change, word) in [
        (&|facts: &mut HostFacts| facts.filesystems.clear() as _, "no overlay"),
        (&|facts: &mut HostFacts| facts.backing_filesystem = "nfs".into(), "nfs"),
        (&|facts: &mut HostFacts| facts.user_namespace = true, "user namespace"),
    ] as [(&dyn Fn(&mut HostFacts), &str); 3]
    {
        let mut facts = facts();
        change(&mut facts);
        let error = host.call(|host| Overlay.probe(host, &facts, &Vec::new())).unwrap_err();
        assert!(error.message.contains(word), "{error}");
    }
}

/// Golden: what a container's root file system is made of.
#[test]
fn a_container_is_an_overlay_of_its_layers() {
    let host = MockHost::new();
    let id = "c".repeat(64);
    let lineage = [snapshot(&"b".repeat(64), Kind::Committed), snapshot(&"a".repeat(64), Kind::Committed)];
    let stack = host
        .call(|host| Overlay.mounts(host, &snapshot(&id, Kind::Active), &lineage, Purpose::RunContainer))
        .unwrap();
    let (a, b, c) = ("a".repeat(32), "b".repeat(32), "c".repeat(32));
    assert_eq!(
        stack,
        Stack {
            mounts: vec![
                Mount::overlay(
                    vec![data(format!("{b}/diff")), data(format!("{a}/diff"))],
                    Some((data(format!("{c}/diff")), data(format!("{c}/work")))),
                )
                .text("redirect_dir", "off")
                .text("metacopy", "off")
                .text("index", "off")
            ],
            upper: Some(data(format!("{c}/diff"))),
        }
    );
}

#[test]
fn user_namespaces_map_layers_not_files() {
    let host = MockHost::new();
    let maps = vec![IdMap { inside: 0, outside: 100_000, size: 65_536, kind: IdKind::Both }];
    let request = PrepareRequest {
        id: "container".into(),
        kind: Kind::Active,
        lineage: vec![snapshot("image", Kind::Committed)],
        labels: Vec::new(),
        options: Vec::new(),
        size_limit: None,
        id_maps: maps.clone(),
        mount_label: Some("system_u:object_r:container_file_t:s0:c1,c2".into()),
    };
    let prepared = host.call(|host| Overlay.prepare(host, &request)).unwrap();
    let active = Snapshot { cookie: prepared.cookie, ..snapshot("container", Kind::Active) };
    let stack =
        host.call(|host| Overlay.mounts(host, &active, &request.lineage, Purpose::RunContainer)).unwrap();
    let (overlay, layers) = stack.mounts.split_last().unwrap();
    assert_eq!(layers.len(), 2);
    assert!(layers.iter().all(|layer| layer.fstype == "bind" && layer.id_maps == maps));
    assert!(overlay.id_maps.is_empty(), "overlay itself cannot be idmapped");
    for (name, value) in &overlay.options {
        match value {
            OptionValue::Place(place) => assert!(matches!(place.root, Root::Mount(_)), "{name} past the map"),
            OptionValue::Places(places) => {
                assert!(places.iter().all(|place| matches!(place.root, Root::Mount(_))));
            }
            _ => {}
        }
    }
    assert!(overlay.options.contains(&(
        "context".into(),
        OptionValue::Text("system_u:object_r:container_file_t:s0:c1,c2".into())
    )));
}

#[test]
fn a_damaged_cookie_is_an_error() {
    let host = MockHost::new();
    for cookie in [vec![1], vec![1, 0, 0, 0, 9], vec![255; 40], vec![0, 0, 0, 0, 0xff]] {
        let active = Snapshot { cookie, ..snapshot("container", Kind::Active) };
        assert!(host.call(|host| Overlay.mounts(host, &active, &[], Purpose::RunContainer)).is_err());
    }
}

#[test]
fn very_tall_stacks_become_two_overlays() {
    let host = MockHost::new();
    for (count, mounts) in [(490, 1), (491, 1), (492, 2), (980, 2)] {
        let lineage: Vec<Snapshot> =
            (0..count).map(|n| snapshot(&format!("l{n}"), Kind::Committed)).collect();
        let active = snapshot("container", Kind::Active);
        let stack = host.call(|host| Overlay.mounts(host, &active, &lineage, Purpose::RunContainer)).unwrap();
        assert_eq!(stack.mounts.len(), mounts, "{count} layers");
        assert!(stack.mounts.iter().all(|mount| mount.source == Source::None));
    }
    let lineage: Vec<Snapshot> = (0..981).map(|n| snapshot(&format!("l{n}"), Kind::Committed)).collect();
    let active = snapshot("container", Kind::Active);
    let error = host.call(|host| Overlay.mounts(host, &active, &lineage, Purpose::RunContainer)).unwrap_err();
    assert!(error.message.contains("981 layers"));
}
