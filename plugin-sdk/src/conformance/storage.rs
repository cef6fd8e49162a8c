//! The suite for storage drivers.

use std::collections::BTreeMap;

use super::Subject;
use crate::files::{OptionValue, Root};
use crate::simulate::files::{FileModel, View};
use crate::storage::{
    ApplyMode, Capabilities, Driver, Features, HostFacts, Kind, PrepareRequest, Purpose, Snapshot, Stack,
};
use crate::types::{IdKind, IdMap};

/// Runs the suite. It panics at the first thing that is not as it must be.
pub fn storage(subject: &Subject<dyn Driver>) {
    let capabilities = probe(subject);
    layers_and_containers(subject);
    containers_are_apart(subject);
    a_file_deleted_above_is_gone(subject);
    views_are_read_only(subject);
    nothing_is_left(subject);
    strange_ids(subject);
    litter_is_collected(subject);
    tall_stacks(subject);
    an_abandoned_unpack_leaves_nothing(subject);
    if capabilities.features.contains(Features::REBASE_ON_COMMIT) {
        layers_unpacked_out_of_order(subject);
    }
    if capabilities.features.contains(Features::SIZE_LIMIT) {
        sizes_are_limited(subject);
    }
    if capabilities.features.contains(Features::ID_MAPPED) {
        users_are_mapped(subject);
    }
}

/// A driver with its model directory, and the host's record of its snapshots.
struct World<'a> {
    subject: &'a Subject<dyn Driver>,
    apply: ApplyMode,
    files: FileModel,
    records: BTreeMap<String, (Snapshot, Vec<String>)>,
}

impl<'a> World<'a> {
    fn new(subject: &'a Subject<dyn Driver>) -> Self {
        Self { subject, apply: capable(subject).apply, files: FileModel::new(), records: BTreeMap::new() }
    }

    /// A snapshot and its ancestors, nearest first.
    fn lineage(&self, parents: &[String]) -> Vec<Snapshot> {
        parents.iter().map(|id| self.records[id].0.clone()).collect()
    }

    fn prepare_limited(&mut self, id: &str, kind: Kind, parents: &[&str], size_limit: Option<u64>) {
        let parents: Vec<String> = parents.iter().map(|id| (*id).to_owned()).collect();
        let request = PrepareRequest {
            id: id.to_owned(),
            kind,
            lineage: self.lineage(&parents),
            labels: Vec::new(),
            options: Vec::new(),
            size_limit,
            id_maps: Vec::new(),
            mount_label: None,
        };
        let prepared = self.subject.plan(|driver, host| driver.prepare(host, &request)).expect("prepare");
        self.files.apply(&prepared.ops).unwrap_or_else(|reason| panic!("prepare of {id}: {reason}"));
        let snapshot = Snapshot { id: id.to_owned(), kind, labels: Vec::new(), cookie: prepared.cookie };
        self.records.insert(id.to_owned(), (snapshot, parents));
    }

    fn prepare(&mut self, id: &str, kind: Kind, parents: &[&str]) {
        self.prepare_limited(id, kind, parents, None);
    }

    fn stack(&self, id: &str, purpose: Purpose) -> Stack {
        let (snapshot, parents) = &self.records[id];
        let lineage = self.lineage(parents);
        self.subject.plan(|driver, host| driver.mounts(host, snapshot, &lineage, purpose)).expect("mounts")
    }

    fn mount(&self, id: &str, purpose: Purpose) -> View {
        let stack = self.stack(id, purpose);
        self.files.mount(&stack.mounts).unwrap_or_else(|reason| panic!("mounts of {id}: {reason}"))
    }

    fn write(&mut self, id: &str, purpose: Purpose, files: &[(&str, &str)]) {
        let view = self.mount(id, purpose);
        for (path, content) in files {
            self.files
                .write(&view, path, content.as_bytes())
                .unwrap_or_else(|reason| panic!("{id}: {reason}"));
        }
    }

    fn read(&self, id: &str, path: &str) -> Option<String> {
        let view = self.mount(id, Purpose::RunContainer);
        self.files.read(&view, path).map(|bytes| String::from_utf8_lossy(bytes).into_owned())
    }

    fn commit(&mut self, active: &str, name: &str, parents: &[&str]) {
        let (snapshot, _) = self.records.remove(active).expect("an active snapshot");
        let parents: Vec<String> = parents.iter().map(|id| (*id).to_owned()).collect();
        let lineage = self.lineage(&parents);
        let prepared =
            self.subject.plan(|driver, host| driver.commit(host, &snapshot, name, &lineage)).expect("commit");
        self.files.apply(&prepared.ops).unwrap_or_else(|reason| panic!("commit of {active}: {reason}"));
        let snapshot = Snapshot {
            id: name.to_owned(),
            kind: Kind::Committed,
            labels: Vec::new(),
            cookie: prepared.cookie,
        };
        self.records.insert(name.to_owned(), (snapshot, parents));
    }

    /// Does what the host does with a layer's archive: brings these files in, and takes those away.
    fn unpack(&mut self, active: &str, files: &[(&str, &str)], gone: &[&str]) {
        if self.apply == ApplyMode::ErofsImage {
            let stack = self.stack(active, Purpose::UnpackLayer);
            assert!(stack.mounts.is_empty(), "an image that is not made yet cannot be mounted");
            let place = stack.upper.expect("where the image goes");
            self.files
                .write_image(&place, files, gone)
                .unwrap_or_else(|reason| panic!("image of {active}: {reason}"));
            return;
        }
        self.write(active, Purpose::UnpackLayer, files);
        let view = self.mount(active, Purpose::UnpackLayer);
        for path in gone {
            self.files.remove(&view, path).unwrap_or_else(|reason| panic!("{active}: {reason}"));
        }
    }

    /// A committed layer with these files, and without those of the layers below.
    fn layer_without(&mut self, name: &str, parents: &[&str], files: &[(&str, &str)], gone: &[&str]) {
        let active = format!("unpack-{name}");
        self.prepare(&active, Kind::Active, parents);
        self.unpack(&active, files, gone);
        self.commit(&active, name, parents);
    }

    /// A committed layer with these files.
    fn layer(&mut self, name: &str, parents: &[&str], files: &[(&str, &str)]) {
        self.layer_without(name, parents, files, &[]);
    }

    fn remove(&mut self, id: &str) {
        let (snapshot, _) = self.records.remove(id).expect("a snapshot");
        let ops = self.subject.plan(|driver, host| driver.remove(host, &snapshot)).expect("remove");
        self.files.apply(&ops).unwrap_or_else(|reason| panic!("remove of {id}: {reason}"));
    }

    fn end(mut self) {
        let mut ids: Vec<String> = self.records.keys().cloned().collect();
        // Children before parents.
        ids.sort_by_key(|id| std::cmp::Reverse(self.records[id].1.len()));
        for id in ids {
            self.remove(&id);
        }
        assert!(self.files.is_empty(), "left behind: {:?}", self.files.top());
    }
}

/// A host on which every driver has what it needs.
pub(super) fn good_host() -> HostFacts {
    HostFacts {
        kernel: "6.12.0".to_owned(),
        backing_filesystem: "xfs".to_owned(),
        filesystems: ["ext4", "xfs", "overlay", "tmpfs", "erofs", "btrfs"].map(str::to_owned).to_vec(),
        user_namespace: false,
        features: ["project-quota", "erofs-images"].map(str::to_owned).to_vec(),
    }
}

/// What the driver can do on the host that suits it best.
fn capable(subject: &Subject<dyn Driver>) -> Capabilities {
    let on = |backing: &str| HostFacts { backing_filesystem: backing.to_owned(), ..good_host() };
    subject
        .plan(|driver, host| driver.probe(host, &on("xfs"), &Vec::new()))
        .or_else(|_| subject.plan(|driver, host| driver.probe(host, &on("btrfs"), &Vec::new())))
        .expect("probe on a good host")
}

fn probe(subject: &Subject<dyn Driver>) -> Capabilities {
    let poor =
        HostFacts { filesystems: Vec::new(), features: Vec::new(), user_namespace: true, ..good_host() };
    // It may say no, but it must say so.
    let _ = subject.plan(|driver, host| driver.probe(host, &poor, &Vec::new()));
    let strange = vec![("no-such-option".to_owned(), "1".to_owned())];
    assert!(
        subject.plan(|driver, host| driver.probe(host, &good_host(), &strange)).is_err(),
        "an option that the driver does not know must be refused"
    );
    capable(subject)
}

fn layers_and_containers(subject: &Subject<dyn Driver>) {
    let mut world = World::new(subject);
    world.layer("base", &[], &[("etc/os", "one"), ("etc/base", "kept")]);
    world.layer("top", &["base"], &[("etc/os", "two")]);
    world.prepare("container", Kind::Active, &["top", "base"]);
    assert_eq!(world.read("container", "etc/os").as_deref(), Some("two"), "the nearest layer wins");
    assert_eq!(world.read("container", "etc/base").as_deref(), Some("kept"), "lower layers are seen");
    world.write("container", Purpose::RunContainer, &[("etc/os", "own"), ("new", "file")]);
    assert_eq!(world.read("container", "etc/os").as_deref(), Some("own"));
    assert_eq!(world.read("top", "etc/os").as_deref(), Some("two"), "a container must not write to a layer");
    assert_eq!(world.read("top", "new"), None, "a container must not write to a layer");
    let again = world.stack("container", Purpose::RunContainer);
    assert_eq!(again, world.stack("container", Purpose::RunContainer), "asked again after a reboot");
    let description = {
        let snapshot = world.records["container"].0.clone();
        subject.plan(|driver, host| driver.describe(host, &snapshot)).expect("describe")
    };
    let description: serde_json::Value = serde_json::from_str(&description).expect("describe answers JSON");
    assert!(description.is_object(), "describe answers an object");
    // A container becomes a layer: of what it wrote the host makes an archive like any other.
    world.layer("committed", &["top", "base"], &[("etc/os", "own"), ("new", "file")]);
    world.remove("container");
    world.prepare("second", Kind::Active, &["committed", "top", "base"]);
    assert_eq!(world.read("second", "etc/os").as_deref(), Some("own"));
    world.end();
}

fn containers_are_apart(subject: &Subject<dyn Driver>) {
    let mut world = World::new(subject);
    world.layer("image", &[], &[("data", "image")]);
    for id in ["one", "two"] {
        world.prepare(id, Kind::Active, &["image"]);
        world.write(id, Purpose::RunContainer, &[("data", id)]);
    }
    assert_eq!(world.read("one", "data").as_deref(), Some("one"));
    assert_eq!(world.read("two", "data").as_deref(), Some("two"));
    world.remove("one");
    assert_eq!(
        world.read("two", "data").as_deref(),
        Some("two"),
        "removal of one container touches no other"
    );
    world.end();
}

fn a_file_deleted_above_is_gone(subject: &Subject<dyn Driver>) {
    let mut world = World::new(subject);
    world.layer("with", &[], &[("etc/secret", "x"), ("etc/other", "y")]);
    world.layer_without("without", &["with"], &[], &["etc/secret"]);
    world.prepare("container", Kind::Active, &["without", "with"]);
    assert_eq!(world.read("container", "etc/secret"), None, "a deleted file must not come back");
    assert_eq!(world.read("container", "etc/other").as_deref(), Some("y"));
    assert_eq!(world.read("with", "etc/secret").as_deref(), Some("x"), "the layer below keeps it");
    world.end();
}

fn views_are_read_only(subject: &Subject<dyn Driver>) {
    let mut world = World::new(subject);
    world.layer("low", &[], &[("a", "1")]);
    world.layer("high", &["low"], &[("b", "2")]);
    for (id, parents) in
        [("view-of-one", ["low"].as_slice()), ("view-of-two", &["high", "low"]), ("view-of-none", &[])]
    {
        world.prepare(id, Kind::View, parents);
        let view = world.mount(id, Purpose::ReadOnlyInspect);
        assert_eq!(view.writable, None, "{id} can be written to");
        assert!(world.stack(id, Purpose::RunContainer).upper.is_none(), "{id} has a place for writes");
    }
    assert_eq!(world.read("view-of-two", "a").as_deref(), Some("1"));
    assert_eq!(world.read("view-of-two", "b").as_deref(), Some("2"));
    let inspected = world.mount("high", Purpose::ReadOnlyInspect);
    assert_eq!(inspected.writable, None, "a committed snapshot can be written to");
    world.end();
}

fn nothing_is_left(subject: &Subject<dyn Driver>) {
    let mut world = World::new(subject);
    world.layer("image", &[], &[("a", "1")]);
    let before = world.files.clone();
    for round in 0..3 {
        let id = format!("container-{round}");
        world.prepare(&id, Kind::Active, &["image"]);
        world.write(&id, Purpose::RunContainer, &[("tmp/x", "1")]);
        world.remove(&id);
        assert_eq!(world.files, before, "removal leaves something behind");
    }
    // Removal of what was never made: a crash between the record and the plan.
    let ghost =
        Snapshot { id: "ghost".to_owned(), kind: Kind::Active, labels: Vec::new(), cookie: Vec::new() };
    let ops = subject.plan(|driver, host| driver.remove(host, &ghost)).expect("remove of a ghost");
    world.files.apply(&ops).expect("removal of what is not there is no error");
    world.end();
}

fn strange_ids(subject: &Subject<dyn Driver>) {
    let mut world = World::new(subject);
    let long = "x".repeat(300);
    let ids = [
        "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
        "..",
        ".",
        "a/b",
        "../../etc",
        "é\u{0}",
        &long,
        "-rf",
        "~",
    ];
    for id in ids {
        world.prepare(id, Kind::Active, &[]);
        world.write(id, Purpose::RunContainer, &[("who", id)]);
    }
    for id in ids {
        assert_eq!(world.read(id, "who").as_deref(), Some(id), "two ids share a place");
    }
    world.end();
}

fn litter_is_collected(subject: &Subject<dyn Driver>) {
    let mut world = World::new(subject);
    world.layer("image", &[], &[("a", "1")]);
    world.prepare("container", Kind::Active, &["image"]);
    let clean = world.files.clone();
    world.files.litter("lost+found");
    world.files.litter("0123456789abcdef");
    world.files.litter("unpack-of-yesterday");
    let live: Vec<String> = world.records.keys().cloned().collect();
    let found = world.files.top();
    let ops = subject.plan(|driver, host| driver.collect(host, &live, &found)).expect("collect");
    world.files.apply(&ops).expect("collect");
    assert_eq!(world.files, clean, "collect removes what nobody owns, and nothing else");
    let ops = subject.plan(|driver, host| driver.collect(host, &live, &world.files.top())).expect("collect");
    assert!(ops.is_empty(), "nothing is left to collect");
    world.end();
}

fn tall_stacks(subject: &Subject<dyn Driver>) {
    let mut world = World::new(subject);
    let names: Vec<String> = (0..130).map(|n| format!("layer-{n}")).collect();
    for n in 0..names.len() {
        let parents: Vec<&str> = names[..n].iter().rev().map(String::as_str).collect();
        world.layer(&names[n], &parents, &[("n", &n.to_string()), (&format!("f{n}"), "x")]);
    }
    let parents: Vec<&str> = names.iter().rev().map(String::as_str).collect();
    world.prepare("container", Kind::Active, &parents);
    assert_eq!(world.read("container", "n").as_deref(), Some("129"));
    assert_eq!(world.read("container", "f0").as_deref(), Some("x"));
    world.end();
}

fn an_abandoned_unpack_leaves_nothing(subject: &Subject<dyn Driver>) {
    let mut world = World::new(subject);
    world.prepare("unpack", Kind::Active, &[]);
    world.unpack("unpack", &[("half/a/layer", "…")], &[]);
    world.remove("unpack");
    world.end();
}

fn layers_unpacked_out_of_order(subject: &Subject<dyn Driver>) {
    let mut world = World::new(subject);
    // Both at once, neither on top of the other; committed in their order.
    for id in ["unpack-a", "unpack-b"] {
        world.prepare(id, Kind::Active, &[]);
    }
    world.unpack("unpack-b", &[("f", "b")], &[]);
    world.unpack("unpack-a", &[("f", "a"), ("g", "a")], &[]);
    world.commit("unpack-a", "a", &[]);
    world.commit("unpack-b", "b", &["a"]);
    world.prepare("container", Kind::Active, &["b", "a"]);
    assert_eq!(world.read("container", "f").as_deref(), Some("b"));
    assert_eq!(world.read("container", "g").as_deref(), Some("a"));
    world.end();
}

fn sizes_are_limited(subject: &Subject<dyn Driver>) {
    let mut world = World::new(subject);
    world.layer("image", &[], &[("a", "1")]);
    world.prepare_limited("container", Kind::Active, &["image"], Some(10 << 20));
    let limited = world.files.top().iter().any(|path| world.files.quota(path) == Some(10 << 20));
    assert!(limited, "the size limit is nowhere");
    world.end();
}

/// In a user namespace everything that is mounted is mapped; an overlay is not, but what it is made of.
fn users_are_mapped(subject: &Subject<dyn Driver>) {
    let mut world = World::new(subject);
    world.layer("low", &[], &[("a", "1")]);
    world.layer("high", &["low"], &[("b", "2")]);
    let maps = vec![
        IdMap { inside: 0, outside: 100_000, size: 1000, kind: IdKind::Both },
        IdMap { inside: 1000, outside: 500_000, size: 64_536, kind: IdKind::Groups },
    ];
    for (id, parents) in [("on-two", ["high", "low"].as_slice()), ("on-one", &["low"]), ("on-none", &[])] {
        let request = PrepareRequest {
            id: id.to_owned(),
            kind: Kind::Active,
            lineage: parents.iter().map(|id| world.records[*id].0.clone()).collect(),
            labels: Vec::new(),
            options: Vec::new(),
            size_limit: None,
            id_maps: maps.clone(),
            mount_label: None,
        };
        let prepared = subject.plan(|driver, host| driver.prepare(host, &request)).expect("prepare");
        world.files.apply(&prepared.ops).expect("prepare");
        let snapshot =
            Snapshot { id: id.to_owned(), kind: Kind::Active, labels: Vec::new(), cookie: prepared.cookie };
        let parents = parents.iter().map(|id| (*id).to_owned()).collect();
        world.records.insert(id.to_owned(), (snapshot, parents));
        world.write(id, Purpose::RunContainer, &[("c", "3")]);
        for mount in world.stack(id, Purpose::RunContainer).mounts {
            if mount.fstype != "overlay" {
                assert_eq!(mount.id_maps, maps, "{id}: {} is not mapped", mount.fstype);
                continue;
            }
            assert!(mount.id_maps.is_empty(), "{id}: overlay itself cannot be mapped");
            let places = mount.options.iter().flat_map(|(_, value)| match value {
                OptionValue::Place(place) => std::slice::from_ref(place),
                OptionValue::Places(places) => places,
                _ => &[],
            });
            for place in places {
                assert!(matches!(place.root, Root::Mount(_)), "{id}: {} is not mapped", place.path);
            }
        }
    }
    assert_eq!(world.read("on-two", "a").as_deref(), Some("1"));
    let damaged = Snapshot { cookie: vec![1], ..world.records["on-two"].0.clone() };
    let answer = subject.plan(|driver, host| driver.mounts(host, &damaged, &[], Purpose::RunContainer));
    assert!(answer.is_err(), "a damaged cookie is an error");
    world.end();
}
