use std::collections::BTreeSet;

use proptest::prelude::*;

use super::check::{MAX_CONTENT, MAX_OPS, MAX_PATH};
use super::*;
use crate::types::IdMap;

fn grants() -> FileGrants {
    let set = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect();
    FileGrants {
        ops: set(&[
            "make-dir",
            "write-file",
            "make-sparse",
            "copy-tree",
            "rename",
            "set-owner",
            "set-xattr",
            "set-quota",
            "remove-tree",
            "subvolume-clone",
            "dataset-create",
            "open-device",
            "format",
            "new-thing",
        ]),
        filesystems: set(&["overlay", "bind", "ext4"]),
        granted: set(&["backing"]),
        shown: set(&["/srv/given"]),
        devices: set(&["loop", "verity", "disk"]),
        secrets: set(&["token"]),
    }
}

fn at(path: &str) -> Place {
    Place { root: Root::Data, path: path.into() }
}

fn dir(path: &str) -> Op {
    Op::MakeDir(Owner { at: at(path), uid: 0, gid: 0, mode: 0o755 })
}

fn mount(options: Vec<(String, OptionValue)>) -> Mount {
    Mount {
        fstype: "overlay".into(),
        source: Source::None,
        options,
        attributes: MountAttributes::empty(),
        id_maps: vec![],
    }
}

fn refused(ops: &[Op], mounts: &[Mount]) -> String {
    validate(ops, mounts, &grants()).unwrap_err().to_string()
}

#[test]
fn places_that_lead_elsewhere_are_refused() {
    for path in [
        "/etc",
        "..",
        "../x",
        "a/..",
        "a/../b",
        "a//b",
        "a/",
        "./a",
        "a/.",
        "a\0b",
        ".trash",
        ".trash/x",
        "a/.trash",
        ".images",
        ".images/x/layer",
        "a/.images",
    ] {
        let text = refused(&[dir(path)], &[]);
        assert!(text.starts_with("operation 1 (make-dir): "), "{path:?}: {text}");
        let option = vec![("upperdir".to_owned(), OptionValue::Place(at(path)))];
        refused(&[], &[mount(option)]);
        let option = vec![("lowerdir+".to_owned(), OptionValue::Places(vec![at("fine"), at(path)]))];
        refused(&[], &[mount(option)]);
    }
    refused(&[dir(&"x".repeat(256))], &[]);
    refused(&[dir(&"x/".repeat(MAX_PATH))], &[]);
    refused(&[dir("")], &[]);
    refused(&[Op::RemoveTree(at(""))], &[]);
    refused(&[Op::RemoveTree(Place { root: Root::Granted("other".into()), path: "a".into() })], &[]);
    refused(&[Op::RemoveTree(Place { root: Root::Mount(0), path: "a".into() })], &[]);
    refused(&[Op::RemoveTree(Place { root: Root::Object("../x".into()), path: "a".into() })], &[]);
    validate(&[dir("a/..b/c..")], &[], &grants()).unwrap();
    validate(&[dir("ümlaut/,:\\\n")], &[], &grants()).unwrap();
}

#[test]
fn options_name_no_host_paths_and_no_foreign_secrets() {
    let one = |name: &str, value| vec![mount(vec![(name.to_owned(), value)])];
    for text in ["/etc", "/", "a/../../b", "../x"] {
        let refusal = refused(&[], &one("lowerdir", OptionValue::Text(text.into())));
        assert!(refusal.contains("host path"), "{refusal}");
    }
    refused(&[], &one("a,b", OptionValue::Flag));
    refused(&[], &one("", OptionValue::Flag));
    refused(&[], &one("x", OptionValue::Text("a\0".into())));
    refused(&[], &one("x", OptionValue::Secret("other".into())));
    validate(&[], &one("x", OptionValue::Secret("token".into())), &grants()).unwrap();
    validate(&[], &one("lowerdir+", OptionValue::Places(vec![at("a"), at("b")])), &grants()).unwrap();
    let itself = mount(vec![(
        "lowerdir+".into(),
        OptionValue::Place(Place { root: Root::Mount(0), path: String::new() }),
    )]);
    refused(&[], std::slice::from_ref(&itself));
    validate(&[], &[mount(vec![]), itself], &grants()).unwrap();
    let mut foreign = mount(vec![]);
    foreign.fstype = "proc".into();
    assert!(refused(&[], &[foreign]).contains("not granted"));
}

#[test]
fn what_a_mount_shows_is_part_of_a_root() {
    let run = Place { root: Root::Run, path: String::new() };
    for whole in [at(""), run] {
        for name in ["upperdir", "lowerdir+", "x"] {
            let option = vec![(name.to_owned(), OptionValue::Place(whole.clone()))];
            assert!(refused(&[], &[mount(option)]).contains("whole root"));
            let option = vec![(name.to_owned(), OptionValue::Places(vec![at("a"), whole.clone()]))];
            assert!(refused(&[], &[mount(option)]).contains("whole root"));
        }
        for fstype in ["bind", "ext4"] {
            let mut bind = mount(vec![]);
            (bind.fstype, bind.source) = (fstype.into(), Source::Place(whole.clone()));
            assert!(refused(&[], &[bind]).contains("whole root"));
        }
    }
}

#[test]
fn images_are_mounted_from_their_places_only() {
    let mut grants = grants();
    grants.filesystems.insert("erofs".into());
    let image = |source: Source| Mount { fstype: "erofs".into(), source, ..mount(vec![]) };
    validate(&[], &[image(Source::Place(at("a/layer.erofs")))], &grants).unwrap();
    let elsewhere = |root: Root| Source::Place(Place { root, path: "a".into() });
    for source in [
        Source::None,
        Source::Remote("x".into()),
        Source::Place(at("")),
        Source::Place(at(".images/a/layer.erofs")),
        elsewhere(Root::Run),
        elsewhere(Root::Granted("backing".into())),
        elsewhere(Root::Granted("/srv/given".into())),
        elsewhere(Root::Object("other".into())),
    ] {
        validate(&[], &[image(source)], &grants).unwrap_err();
    }
    let bind = Mount { fstype: "bind".into(), source: Source::Place(at("a")), ..mount(vec![]) };
    validate(&[], &[bind, image(elsewhere(Root::Mount(0)))], &grants).unwrap_err();
    let mut option = image(Source::Place(at("a/layer.erofs")));
    option.options.push(("device".into(), OptionValue::Place(at("b"))));
    assert!(validate(&[], &[option], &grants).unwrap_err().to_string().contains("no option"));
    for (place, own) in
        [("a/diff", true), ("", false), (".images/a", false), ("a/.trash", false), ("../a", false)]
    {
        assert_eq!(is_own(&at(place)), own, "{place}");
    }
}

#[test]
fn sizes_are_bounded() {
    let many = vec![dir("a"); MAX_OPS + 1];
    refused(&many, &[]);
    refused(&[Op::WriteFile(File { at: at("a"), content: vec![0; MAX_CONTENT + 1], mode: 0o644 })], &[]);
    refused(&[Op::WriteFile(File { at: at("a"), content: vec![], mode: 0o100_644 })], &[]);
    refused(&[Op::MakeSparse(Sparse { at: at("a"), size: u64::MAX })], &[]);
    refused(&[Op::SetXattr(Xattr { at: at("a"), name: "user.x".into(), value: vec![0; 70_000] })], &[]);
    let mut mapped = mount(vec![]);
    mapped.id_maps = vec![IdMap { inside: 0, outside: u32::MAX, size: 2, kind: crate::types::IdKind::Both }];
    refused(&[], std::slice::from_ref(&mapped));
    mapped.id_maps = vec![IdMap { inside: 0, outside: 0, size: 0, kind: crate::types::IdKind::Users }];
    refused(&[], &[mapped]);
}

#[test]
fn what_a_user_gave_is_shown_and_not_touched() {
    let given = |path: &str| Place { root: Root::Granted("/srv/given".into()), path: path.into() };
    let shown = |fstype: &str, source| Mount { fstype: fstype.into(), source, ..mount(vec![]) };
    validate(
        &[],
        &[shown("bind", Source::Place(given(""))), shown("bind", Source::Place(given("a/b")))],
        &grants(),
    )
    .unwrap();
    refused(&[], &[shown("bind", Source::Place(given("../b")))]);
    refused(&[], &[shown("ext4", Source::Place(given("image")))]);
    refused(
        &[],
        &[shown("bind", Source::Place(Place { root: Root::Granted("/srv".into()), path: String::new() }))],
    );
    refused(&[], &[mount(vec![("upperdir".into(), OptionValue::Place(given("a")))])]);
    refused(&[], &[mount(vec![("lowerdir+".into(), OptionValue::Places(vec![at("x"), given("a")]))])]);
    let owner = Owner { at: given("a"), uid: 0, gid: 0, mode: 0o777 };
    for op in [
        Op::RemoveTree(given("a")),
        Op::MakeDir(owner.clone()),
        Op::SetOwner(owner),
        Op::WriteFile(File { at: given("a"), content: vec![], mode: 0o644 }),
        Op::CopyTree(TreeCopy { source: given("a"), target: at("mine"), reflink: true }),
        Op::CopyTree(TreeCopy { source: at("mine"), target: given("a"), reflink: true }),
        Op::OpenDevice(Device::Loop(given("a"))),
    ] {
        assert!(refused(&[op], &[]).contains("not granted directory"));
    }
}

#[test]
fn grants_are_exact() {
    let none = FileGrants::default();
    assert!(validate(&[dir("a")], &[], &none).is_err());
    validate(&[], &[], &none).unwrap();
    let other = |kind: &str| Op::Other(Extension { kind: kind.into(), parameters: vec![] });
    validate(&[other("new-thing")], &[], &grants()).unwrap();
    assert!(refused(&[other("newer-thing")], &[]).contains("operation 1 ('newer-thing')"));
    validate(&[Op::OpenDevice(Device::Granted("disk".into()))], &[], &grants()).unwrap();
    refused(&[Op::OpenDevice(Device::Granted("sda".into()))], &[]);
    refused(&[Op::OpenDevice(Device::ById("../sda".into()))], &[]);
    let format =
        Op::Format(Format { device: 0, fstype: "ext4".into(), label: String::new(), options: vec![] });
    refused(std::slice::from_ref(&format), &[]);
    validate(&[Op::OpenDevice(Device::Loop(at("img"))), format], &[], &grants()).unwrap();
    refused(&[Op::CopyTree(TreeCopy { source: at("a"), target: at("a/b"), reflink: true })], &[]);
    refused(&[Op::Rename((at("a"), at("a/b")))], &[]);
    validate(&[Op::Rename((at("a"), at("ab")))], &[], &grants()).unwrap();
}

/// A model of a tree: the set of its paths.
fn run(state: &mut BTreeSet<String>, op: &Op) {
    let below =
        |path: &str, root: &str| path == root || path.strip_prefix(root).is_some_and(|r| r.starts_with('/'));
    match op {
        Op::MakeDir(o) => {
            state.insert(o.at.path.clone());
        }
        Op::WriteFile(f) => {
            state.insert(f.at.path.clone());
        }
        Op::CopyTree(c) => {
            let copies: Vec<String> = state
                .iter()
                .filter(|p| below(p, &c.source.path))
                .map(|p| format!("{}{}", c.target.path, &p[c.source.path.len()..]))
                .collect();
            state.extend(copies);
        }
        Op::Rename((from, to)) => {
            let moved: Vec<String> = state.iter().filter(|p| below(p, &from.path)).cloned().collect();
            for path in moved {
                state.remove(&path);
                state.insert(format!("{}{}", to.path, &path[from.path.len()..]));
            }
        }
        Op::RemoveTree(p) => state.retain(|path| !below(path, &p.path)),
        _ => {}
    }
}

/// Plans that a host could carry out: parents exist, new names are new.
fn applicable(state: &BTreeSet<String>, op: &Op) -> bool {
    let parent = |p: &str| p.rsplit_once('/').is_none_or(|(dir, _)| state.contains(dir));
    match op {
        Op::MakeDir(o) => parent(&o.at.path),
        Op::WriteFile(f) => parent(&f.at.path) && !state.contains(&f.at.path),
        Op::CopyTree(c) => {
            state.contains(&c.source.path) && parent(&c.target.path) && !state.contains(&c.target.path)
        }
        Op::Rename((from, to)) => state.contains(&from.path) && parent(&to.path) && !state.contains(&to.path),
        _ => true,
    }
}

fn any_op() -> impl Strategy<Value = Op> {
    let path = || prop::collection::vec("[abc]", 1..4).prop_map(|parts| parts.join("/"));
    prop_oneof![
        path().prop_map(|p| dir(&p)),
        path().prop_map(|p| dir(&p)),
        path().prop_map(|p| Op::WriteFile(File { at: at(&p), content: vec![], mode: 0o644 })),
        (path(), path()).prop_map(|(a, b)| Op::CopyTree(TreeCopy {
            source: at(&a),
            target: at(&b),
            reflink: true
        })),
        (path(), path()).prop_map(|(a, b)| Op::Rename((at(&a), at(&b)))),
    ]
}

proptest! {
    #[test]
    fn undo_brings_the_tree_back(
        before in prop::collection::vec(any_op(), 0..10),
        plan in prop::collection::vec(any_op(), 0..12),
    ) {
        let mut state = BTreeSet::new();
        for op in &before {
            if validate(std::slice::from_ref(op), &[], &grants()).is_ok() && applicable(&state, op) {
                run(&mut state, op);
            }
        }
        let start = state.clone();
        let mut ops = Vec::new();
        for op in plan {
            if validate(std::slice::from_ref(&op), &[], &grants()).is_ok() && applicable(&state, &op) {
                run(&mut state, &op);
                ops.push(op);
            }
        }
        let back = undo(&ops, |place| start.contains(&place.path));
        // The undo of a plan that was granted is itself a sound plan.
        prop_assert_eq!(validate(&back, &[], &grants()), Ok(()));
        for op in &back {
            prop_assert!(applicable(&state, op), "{:?} of {:?} for {:?}", op, back, ops);
            run(&mut state, op);
        }
        prop_assert_eq!(state, start);
    }

    #[test]
    fn nothing_that_passes_has_a_bad_component(path in "(\\.|\\.\\.|/|a|\\x00|é|\\.trash|x{250,260}){0,8}") {
        if validate(&[dir(&path)], &[], &grants()).is_ok() {
            prop_assert!(!path.is_empty() && path.len() <= MAX_PATH && !path.starts_with('/'));
            for part in path.split('/') {
                prop_assert!(!part.is_empty() && part != "." && part != ".." && part != TRASH);
                prop_assert!(part.len() <= 255 && !part.contains('\0'));
            }
        }
    }
}
