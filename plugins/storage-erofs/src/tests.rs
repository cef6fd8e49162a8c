use wharf_plugin_sdk::conformance::{self, Subject};
use wharf_plugin_sdk::files::{Mount, mounted};
use wharf_plugin_sdk::mock::MockHost;

use super::*;

#[test]
fn conforms() {
    conformance::storage(&Subject::<dyn Driver>::new(|| Box::new(Erofs)));
}

fn facts() -> HostFacts {
    HostFacts {
        kernel: "6.18".into(),
        backing_filesystem: "ext4".into(),
        filesystems: vec!["overlay".into(), "erofs".into()],
        user_namespace: false,
        features: vec!["erofs-images".into()],
    }
}

#[test]
fn unfit_hosts_are_told_why() {
    let host = MockHost::new();
    host.call(|host| Erofs.probe(host, &facts(), &Vec::new())).unwrap();
    for (change, word) in [
        (&|facts: &mut HostFacts| facts.filesystems.truncate(1) as _, "no erofs"),
        (&|facts: &mut HostFacts| facts.backing_filesystem = "nfs".into(), "nfs"),
        (&|facts: &mut HostFacts| facts.user_namespace = true, "user namespace"),
        (&|facts: &mut HostFacts| facts.features.clear(), "6.15"),
    ] as [(&dyn Fn(&mut HostFacts), &str); 4]
    {
        let mut facts = facts();
        change(&mut facts);
        let error = host.call(|host| Erofs.probe(host, &facts, &Vec::new())).unwrap_err();
        assert!(error.message.contains(word), "{error}");
    }
}

/// Golden: what a container's root file system is made of.
#[test]
fn a_container_is_an_overlay_of_images() {
    let host = MockHost::new();
    let snapshot = |id: &str, kind| Snapshot { id: id.into(), kind, labels: Vec::new(), cookie: Vec::new() };
    let lineage = [snapshot("b", Kind::Committed), snapshot("a", Kind::Committed)];
    let stack = host
        .call(|host| Erofs.mounts(host, &snapshot("c", Kind::Active), &lineage, Purpose::RunContainer))
        .unwrap();
    assert_eq!(
        stack,
        Stack {
            mounts: vec![
                Mount::image(data("b/layer.erofs")),
                Mount::image(data("a/layer.erofs")),
                Mount::overlay(vec![mounted(0, ""), mounted(1, "")], Some((data("c/diff"), data("c/work"))),)
                    .text("redirect_dir", "off")
                    .text("metacopy", "off")
                    .text("index", "off")
            ],
            upper: Some(data("c/diff")),
        }
    );
    // One layer is itself; the layer of a new one is a file that the host writes.
    let one = host
        .call(|host| Erofs.mounts(host, &snapshot("a", Kind::Committed), &[], Purpose::ReadOnlyInspect))
        .unwrap();
    assert_eq!(one, Stack { mounts: vec![Mount::image(data("a/layer.erofs"))], upper: None });
    let new = host
        .call(|host| Erofs.mounts(host, &snapshot("n", Kind::Active), &lineage, Purpose::UnpackLayer))
        .unwrap();
    assert_eq!(new, Stack { mounts: Vec::new(), upper: Some(data("n/layer.erofs")) });
}
