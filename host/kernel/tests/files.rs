//! File plans and mount plans on a real file system, as root.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests may panic"
)]

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use wharf_kernel::files::{self, OverlayMode, Roots, tree};
use wharf_plan::files::{
    Extension, File, Mount, MountAttributes, Op, OptionValue, Owner, Place, Quota, Root, Source, Sparse,
    TreeCopy, Xattr, undo,
};
use wharf_plan::types::IdMap;

struct Home {
    dir: tempfile::TempDir,
    roots: Roots,
}

fn home() -> Home {
    let dir = tempfile::tempdir().unwrap();
    for name in ["data", "run", "granted", "outside"] {
        std::fs::create_dir(dir.path().join(name)).unwrap();
    }
    std::fs::write(dir.path().join("outside/secret"), "secret").unwrap();
    std::fs::set_permissions(dir.path().join("outside/secret"), PermissionsExt::from_mode(0o644)).unwrap();
    let open = |name: &str| tree::open_host_dir(&dir.path().join(name)).unwrap();
    let roots = Roots {
        data: open("data"),
        run: open("run"),
        granted: BTreeMap::from([("backing".to_owned(), open("granted"))]),
        objects: BTreeMap::new(),
    };
    Home { dir, roots }
}

impl Home {
    fn path(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    fn apply(&self, ops: &[Op]) -> Result<(), files::Error> {
        files::apply(&self.roots, ops)
    }

    /// Everything beneath `data`; the trash must be empty.
    fn listing(&self) -> Vec<String> {
        files::drain();
        let mut found = Vec::new();
        tree::walk::<rustix::io::Errno>(self.roots.data.as_fd(), &mut |entry| {
            let path = String::from_utf8_lossy(entry.path).into_owned();
            assert!(!path.starts_with(".trash/"), "left in the trash: {path}");
            if path != ".trash" {
                found.push(format!(
                    "{path} {:o} {}:{}",
                    entry.stat.st_mode, entry.stat.st_uid, entry.stat.st_gid
                ));
            }
            Ok(())
        })
        .unwrap();
        found.sort();
        found
    }
}

fn at(path: &str) -> Place {
    Place { root: Root::Data, path: path.into() }
}

fn dir(path: &str, mode: u32) -> Op {
    Op::MakeDir(Owner { at: at(path), uid: 0, gid: 0, mode })
}

fn write(path: &str, content: &str) -> Op {
    Op::WriteFile(File { at: at(path), content: content.into(), mode: 0o640 })
}

fn copy(source: &str, target: &str, reflink: bool) -> Op {
    Op::CopyTree(TreeCopy { source: at(source), target: at(target), reflink })
}

fn owner(path: &str, uid: u32, gid: u32, mode: u32) -> Op {
    Op::SetOwner(Owner { at: at(path), uid, gid, mode })
}

fn xattr(path: &str, name: &str, value: &[u8]) -> Op {
    Op::SetXattr(Xattr { at: at(path), name: name.into(), value: value.to_vec() })
}

fn fd_path(fd: &OwnedFd) -> PathBuf {
    PathBuf::from(tree::by_fd(fd))
}

fn mount_table() -> String {
    std::fs::read_to_string("/proc/self/mountinfo").unwrap()
}

/// What fails at the end of a plan, to see the rest undone.
fn failing() -> Op {
    Op::Other(Extension { kind: "from-the-future".into(), parameters: vec![] })
}

#[test]
fn operations_do_what_they_say() {
    let home = home();
    home.apply(&[
        Op::MakeDir(Owner { at: at("a"), uid: 7, gid: 8, mode: 0o2751 }),
        dir("deep/er/dir", 0o755),
        write("a/f", "1"),
        write("a/f", "22"),
        Op::MakeSparse(Sparse { at: at("sparse"), size: 1 << 40 }),
        xattr("a/f", "user.x", b"y"),
        owner("a/f", 1, 2, 0o4711),
        Op::Rename((at("a"), at("b"))),
        dir("b", 0o700),
        Op::RemoveTree(at("absent")),
        Op::RemoveTree(at("absent/too")),
    ])
    .unwrap();
    let meta = |p: &str| std::fs::metadata(home.path(p)).unwrap();
    assert_eq!((meta("data/b").uid(), meta("data/b").gid(), meta("data/b").mode() & 0o7777), (7, 8, 0o2751));
    assert_eq!(meta("data/deep").mode() & 0o7777, 0o700, "parents that nobody described are private");
    assert_eq!(std::fs::read_to_string(home.path("data/b/f")).unwrap(), "22");
    assert_eq!((meta("data/b/f").uid(), meta("data/b/f").mode() & 0o7777), (1, 0o4711));
    assert_eq!((meta("data/sparse").len(), meta("data/sparse").blocks()), (1 << 40, 0));
    let found = tree::xattrs(home.path("data/b/f").to_str().unwrap()).unwrap();
    assert_eq!(found, [(b"user.x".to_vec(), b"y".to_vec())]);
    home.apply(&[Op::RemoveTree(at("b")), Op::RemoveTree(at("deep")), Op::RemoveTree(at("sparse"))]).unwrap();
    assert_eq!(home.listing(), Vec::<String>::new());
}

#[test]
fn a_plan_that_fails_changes_nothing() {
    let home = home();
    home.apply(&[dir("old", 0o755), write("old/f", "old"), dir("old/sub", 0o700)]).unwrap();
    let before = home.listing();
    let attempts = [
        vec![dir("new", 0o755), write("new/f", "x"), failing()],
        vec![write("old/f", "changed"), failing()],
        vec![Op::RemoveTree(at("old")), failing()],
        vec![Op::RemoveTree(at("old")), dir("old", 0o700), write("old/other", "x"), failing()],
        vec![Op::Rename((at("old"), at("moved"))), dir("old", 0o777), failing()],
        vec![owner("old/f", 5, 5, 0o777), failing()],
        vec![xattr("old/f", "user.a", &[1]), failing()],
        vec![copy("old", "copy", true), Op::MakeSparse(Sparse { at: at("copy/s"), size: 5 }), failing()],
        vec![dir("new", 0o755), Op::Rename((at("absent"), at("new/x")))],
        vec![dir("new", 0o755), Op::Rename((at("old"), at("new")))],
        vec![dir("old/f", 0o755)],
        vec![dir("old/f/below", 0o755)],
    ];
    for ops in attempts {
        let error = home.apply(&ops).unwrap_err();
        assert_eq!(home.listing(), before, "{ops:?}: {error}");
        assert_eq!(std::fs::read_to_string(home.path("data/old/f")).unwrap(), "old");
        assert!(tree::xattrs(home.path("data/old/f").to_str().unwrap()).unwrap().is_empty());
    }
    let error = home.apply(&[failing()]).unwrap_err();
    assert_eq!(error.to_string(), "operation from-the-future is not supported by this host");
}

#[test]
fn undo_from_values_takes_a_plan_back() {
    let home = home();
    home.apply(&[dir("kept", 0o755), write("kept/f", "x")]).unwrap();
    let before = home.listing();
    let ops = [
        dir("kept", 0o700),
        dir("snap", 0o755),
        dir("snap/diff", 0o755),
        write("snap/diff/f", "y"),
        Op::Rename((at("snap"), at("name"))),
        copy("name", "copy", false),
    ];
    let back = undo(&ops, |place| files::exists(&home.roots, place));
    home.apply(&ops).unwrap();
    assert_ne!(home.listing(), before);
    files::take_back(&home.roots, &back).unwrap();
    assert_eq!(home.listing(), before);
    // Again, and after only a part was done: as after a crash in the middle.
    files::take_back(&home.roots, &back).unwrap();
    for done in 0..=ops.len() {
        home.apply(&ops[..done]).unwrap();
        files::take_back(&home.roots, &back).unwrap();
        assert_eq!(home.listing(), before, "after {done} of them");
    }
}

#[test]
fn quota_and_devices_are_refused_by_name() {
    let home = home();
    home.apply(&[dir("a", 0o755)]).unwrap();
    let error = home.apply(&[Op::SetQuota(Quota { at: at("a"), bytes: Some(1), inodes: None })]).unwrap_err();
    assert!(error.to_string().starts_with("set-quota is not supported on "), "{error}");
    let error = home.apply(&[Op::SubvolumeCreate(at("s"))]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "operation subvolume-create is not supported for data:s: it is not on btrfs"
    );
    let error = home.apply(&[Op::DatasetSnapshot("s".into())]).unwrap_err();
    assert_eq!(error.to_string(), "operation dataset-snapshot is not supported by this host");
}

#[test]
fn links_never_lead_a_plan_astray() {
    let home = home();
    let outside = home.path("outside");
    symlink(&outside, home.path("data/link")).unwrap();
    symlink(outside.join("secret"), home.path("data/file")).unwrap();
    symlink("..", home.path("data/up")).unwrap();
    symlink("/proc/self/cwd", home.path("data/magic")).unwrap();
    for path in ["link", "up/outside", "magic", "../outside", "link/../x", "/etc"] {
        let inside = |name: &str| format!("{path}/{name}");
        let ops = [
            dir(&inside("x"), 0o755),
            write(&inside("y"), "x"),
            Op::MakeSparse(Sparse { at: at(&inside("z")), size: 1 }),
            owner(&inside("secret"), 9, 9, 0o777),
            xattr(&inside("secret"), "user.x", b""),
            Op::Rename((at(&inside("secret")), at("taken"))),
            copy(&inside("secret"), "taken", false),
        ];
        for op in ops {
            let error = home.apply(std::slice::from_ref(&op)).unwrap_err();
            assert!(error.errno().is_some(), "{op:?}: {error}");
        }
        assert!(!home.path("data/taken").exists());
    }
    // A link itself may be given an owner, be replaced, be removed; what it points to stays as it is.
    home.apply(&[
        owner("file", 9, 9, 0o777),
        write("file", "replaced the link"),
        Op::RemoveTree(at("link")),
        Op::RemoveTree(at("up")),
        Op::RemoveTree(at("magic")),
    ])
    .unwrap();
    files::drain();
    let secret = std::fs::metadata(outside.join("secret")).unwrap();
    assert_eq!((secret.uid(), secret.mode() & 0o777, secret.len()), (0, 0o644, 6));
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 1);
    assert!(std::fs::symlink_metadata(home.path("data/file")).unwrap().is_file());
}

#[test]
fn removal_of_trees_with_links_and_depth() {
    let home = home();
    let outside = home.path("outside");
    let deep = home.path("data/tree");
    std::fs::create_dir(&deep).unwrap();
    symlink(&outside, deep.join("link")).unwrap();
    // Deeper than any path can be: made step by step.
    let mut current = tree::open_host_dir(&deep).unwrap();
    for _ in 0..6000 {
        current = tree::make_dir(current.as_fd(), b"d").unwrap();
    }
    drop(current);
    for n in 0..50 {
        std::fs::create_dir_all(home.path(&format!("data/tree2/{n}/x"))).unwrap();
        std::fs::write(home.path(&format!("data/tree2/{n}/x/f")), "x").unwrap();
    }
    std::fs::create_dir_all(home.path("granted/x/y")).unwrap();
    let granted = Place { root: Root::Granted("backing".into()), path: "x".into() };
    home.apply(&[Op::RemoveTree(at("tree")), Op::RemoveTree(at("tree2")), Op::RemoveTree(granted)]).unwrap();
    assert!(!home.path("data/tree").exists() && !home.path("data/tree2").exists());
    assert_eq!(home.listing(), Vec::<String>::new());
    assert_eq!(
        std::fs::read_dir(home.path("granted")).unwrap().count(),
        0,
        "no trash in foreign directories"
    );
    assert!(outside.join("secret").exists());
    // What a killed process left in the trash goes at the next start.
    std::fs::create_dir_all(home.path("data/.trash/old/a")).unwrap();
    std::fs::write(home.path("data/.trash/old/a/f"), "x").unwrap();
    files::empty_trash(&home.roots).unwrap();
    assert_eq!(home.listing(), Vec::<String>::new());
}

#[test]
fn copies_keep_everything() {
    let home = home();
    let from = home.path("data/from");
    std::fs::create_dir_all(from.join("sub")).unwrap();
    std::fs::write(from.join("sub/f"), "content").unwrap();
    std::fs::hard_link(from.join("sub/f"), from.join("second")).unwrap();
    symlink("/nowhere", from.join("link")).unwrap();
    let made = tree::open_host_dir(&from).unwrap();
    tree::node(made.as_fd(), b"null", tree::Node::Character(1, 3)).unwrap();
    tree::node(made.as_fd(), b"pipe", tree::Node::Fifo).unwrap();
    tree::node(made.as_fd(), b"socket", tree::Node::Socket).unwrap();
    let meta = tree::Meta {
        uid: 100,
        gid: 200,
        mode: 0o6755,
        mtime: 1_234_567_890,
        mtime_nsec: 5,
        xattrs: vec![(b"user.a".to_vec(), b"b".to_vec()), (b"trusted.c".to_vec(), vec![0, 1])],
    };
    let sub = tree::open_host_dir(&from.join("sub")).unwrap();
    meta.set_at(sub.as_fd(), b"f").unwrap();
    let plain = tree::Meta { xattrs: vec![(b"trusted.l".to_vec(), b"x".to_vec())], ..meta.clone() };
    plain.set_at(made.as_fd(), b"link").unwrap();
    let sparse = std::fs::File::create(from.join("sparse")).unwrap();
    sparse.set_len(10 << 20).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"middle", 5 << 20).unwrap();
    drop(sparse);
    tree::Meta { uid: 1, gid: 1, mode: 0o1700, mtime: 99, ..tree::Meta::default() }.set_open(&sub).unwrap();
    for reflink in [true, false] {
        let name = format!("to-{reflink}");
        home.apply(&[copy("from", &name, reflink)]).unwrap();
        let to = home.path("data").join(&name);
        let stat = |p: &str| std::fs::symlink_metadata(to.join(p)).unwrap();
        let copied = tree::Meta::of(std::fs::File::open(to.join("sub/f")).unwrap()).unwrap();
        assert_eq!(
            (copied.uid, copied.gid, copied.mode, copied.mtime, copied.mtime_nsec),
            (100, 200, 0o6755, 1_234_567_890, 5)
        );
        assert_eq!(copied.xattrs.len(), 2);
        assert_eq!(stat("sub/f").ino(), stat("second").ino());
        assert_ne!(stat("sub/f").ino(), std::fs::metadata(from.join("second")).unwrap().ino());
        assert_eq!(std::fs::read_link(to.join("link")).unwrap(), Path::new("/nowhere"));
        assert_eq!(stat("link").uid(), 100);
        assert!(stat("null").file_type().is_char_device() && stat("null").rdev() == 0x103);
        assert!(stat("pipe").file_type().is_fifo() && stat("socket").file_type().is_socket());
        assert_eq!(stat("sparse").len(), 10 << 20);
        assert!(stat("sparse").blocks() * 512 < 1 << 20, "holes stay holes");
        assert_eq!(&std::fs::read(to.join("sparse")).unwrap()[5 << 20..(5 << 20) + 6], b"middle");
        assert_eq!((stat("sub").uid(), stat("sub").mode() & 0o7777, stat("sub").mtime()), (1, 0o1700, 99));
    }
    assert_eq!(home.apply(&[copy("from", "to-true", false)]).unwrap_err().errno(), Some(libc::EEXIST));
}

fn overlay(lower: &[&str], upper: Option<(&str, &str)>) -> Mount {
    let places = lower.iter().map(|p| at(p)).collect();
    let mut options = vec![("lowerdir+".to_owned(), OptionValue::Places(places))];
    if let Some((upper, work)) = upper {
        options.push(("upperdir".into(), OptionValue::Place(at(upper))));
        options.push(("workdir".into(), OptionValue::Place(at(work))));
        options.push(("index".into(), OptionValue::Text("off".into())));
    }
    Mount {
        fstype: "overlay".into(),
        source: Source::None,
        options,
        attributes: MountAttributes::empty(),
        id_maps: vec![],
    }
}

fn bind(place: Place, attributes: MountAttributes) -> Mount {
    Mount {
        fstype: "bind".into(),
        source: Source::Place(place),
        options: vec![],
        attributes,
        id_maps: vec![],
    }
}

const MODES: [OverlayMode; 3] = [OverlayMode::Descriptors, OverlayMode::OneByOne, OverlayMode::Page];

#[test]
fn overlays_in_every_way_a_kernel_takes_them() {
    let home = home();
    let mut ops = vec![dir("upper", 0o755), dir("work", 0o700)];
    let names: Vec<String> = (0..120).map(|n| format!("layer,with:odd\\name-{n}")).collect();
    for name in &names {
        ops.extend([
            dir(name, 0o755),
            write(&format!("{name}/f"), name),
            write(&format!("{name}/of-{name}"), "x"),
        ]);
    }
    home.apply(&ops).unwrap();
    let table = mount_table();
    let lower: Vec<&str> = names.iter().map(String::as_str).collect();
    for mode in MODES {
        for count in [2, 20, 120] {
            let plan = [overlay(&lower[..count], Some(("upper", "work")))];
            let root = files::mount_with(&home.roots, &plan, mode)
                .unwrap_or_else(|e| panic!("{mode:?}, {count}: {e}"));
            let path = fd_path(&root);
            assert_eq!(std::fs::read_to_string(path.join("f")).unwrap(), names[0]);
            assert!(path.join(format!("of-{}", names[count - 1])).exists());
            std::fs::write(path.join("written"), "x").unwrap();
            assert!(home.path("data/upper/written").exists());
            std::fs::remove_file(path.join("written")).unwrap();
            assert_eq!(mount_table(), table, "{mode:?}");
        }
    }
    let mut read_only = overlay(&lower[..3], None);
    read_only.attributes = MountAttributes::READ_ONLY | MountAttributes::NO_SUID;
    for mode in MODES {
        let root = files::mount_with(&home.roots, std::slice::from_ref(&read_only), mode).unwrap();
        let error = std::fs::write(fd_path(&root).join("x"), "x").unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EROFS), "{mode:?}");
    }
    let error = files::mount(&home.roots, &[overlay(&["absent", "f"], None)]).unwrap_err();
    assert!(error.to_string().contains("data:absent"), "{error}");
}

#[test]
fn binds_tmpfs_and_what_plans_may_not_mount() {
    let home = home();
    home.apply(&[dir("a", 0o755), write("a/f", "x"), dir("a/sub", 0o755)]).unwrap();
    let table = mount_table();
    let root = files::mount(&home.roots, &[bind(at("a"), MountAttributes::READ_ONLY)]).unwrap();
    assert_eq!(std::fs::read_to_string(fd_path(&root).join("f")).unwrap(), "x");
    assert_eq!(std::fs::write(fd_path(&root).join("f"), "y").unwrap_err().raw_os_error(), Some(libc::EROFS));
    let file = files::mount(&home.roots, &[bind(at("a/f"), MountAttributes::empty())]).unwrap();
    assert_eq!(std::fs::read_to_string(fd_path(&file)).unwrap(), "x");
    let tmpfs = Mount {
        fstype: "tmpfs".into(),
        source: Source::None,
        options: vec![
            ("size".into(), OptionValue::Text("1m".into())),
            ("mode".into(), OptionValue::Text("1770".into())),
        ],
        attributes: MountAttributes::NO_EXEC | MountAttributes::NO_DEV,
        id_maps: vec![],
    };
    let all =
        files::mount_all(&home.roots, &[tmpfs.clone(), bind(at("a"), MountAttributes::empty())]).unwrap();
    assert_eq!(std::fs::metadata(fd_path(&all[0])).unwrap().mode() & 0o7777, 0o1770);
    let huge = std::fs::write(fd_path(&all[0]).join("x"), vec![0; 2 << 20]).unwrap_err();
    assert_eq!(huge.raw_os_error(), Some(libc::ENOSPC));
    assert_eq!(mount_table(), table);
    let mut bad = tmpfs;
    bad.options.push(("nonsense".into(), OptionValue::Flag));
    let error = files::mount(&home.roots, &[bad]).unwrap_err().to_string();
    assert!(error.contains("nonsense"), "{error}");
    symlink(home.path("outside"), home.path("data/link")).unwrap();
    assert!(files::mount(&home.roots, &[bind(at("link/secret"), MountAttributes::empty())]).is_err());
    assert!(files::mount(&home.roots, &[]).is_err());
}

#[test]
fn mapped_ids_of_binds_and_of_overlay_layers() {
    let home = home();
    home.apply(&[
        dir("lower", 0o755),
        write("lower/f", "x"),
        owner("lower/f", 5, 6, 0o644),
        dir("snap", 0o755),
        dir("snap/diff", 0o755),
        dir("snap/work", 0o755),
    ])
    .unwrap();
    let maps =
        vec![IdMap { inside: 0, outside: 100_000, size: 65_536, kind: wharf_plan::types::IdKind::Both }];
    let mapped = |path: &str| Mount { id_maps: maps.clone(), ..bind(at(path), MountAttributes::empty()) };
    let root = files::mount(&home.roots, &[mapped("lower")]).unwrap();
    let meta = std::fs::metadata(fd_path(&root).join("f")).unwrap();
    assert_eq!((meta.uid(), meta.gid()), (100_005, 100_006));
    let place = |n, path: &str| Place { root: Root::Mount(n), path: path.into() };
    let stack = [
        mapped("lower"),
        mapped("snap"),
        Mount {
            fstype: "overlay".into(),
            source: Source::None,
            options: vec![
                ("lowerdir+".into(), OptionValue::Places(vec![place(0, "")])),
                ("upperdir".into(), OptionValue::Place(place(1, "diff"))),
                ("workdir".into(), OptionValue::Place(place(1, "work"))),
            ],
            attributes: MountAttributes::empty(),
            id_maps: vec![],
        },
    ];
    let table = mount_table();
    // As this kernel takes it, and as older ones do.
    for mode in MODES {
        let root = files::mount_with(&home.roots, &stack, mode).unwrap();
        let inside = fd_path(&root);
        assert_eq!(std::fs::metadata(inside.join("f")).unwrap().uid(), 100_005, "{mode:?}");
        // What the namespace's root does, copies up, whites out; on disk it has the ids of inside.
        wharf_kernel::userns::as_root(&maps, || {
            std::fs::write(inside.join("made"), "x").unwrap();
            std::fs::remove_file(inside.join("f")).unwrap();
            std::fs::create_dir(inside.join("f")).unwrap();
        })
        .unwrap();
        assert_eq!(std::fs::metadata(inside.join("made")).unwrap().uid(), 100_000, "{mode:?}");
        let disk = home.path("data/snap/diff/made");
        assert_eq!(std::fs::metadata(&disk).unwrap().uid(), 0, "{mode:?}");
        drop(root);
        std::fs::remove_file(&disk).unwrap();
        std::fs::remove_dir(home.path("data/snap/diff/f")).unwrap();
    }
    assert_eq!(mount_table(), table);
}

/// What a container's overlay costs beside the bare system calls for the same, measured in turns as other tests run.
#[test]
fn an_overlay_costs_little_more_than_its_system_calls() {
    let home = home();
    let names: Vec<String> = (0..10).map(|n| format!("l{n}")).collect();
    let mut ops: Vec<Op> = names.iter().map(|n| dir(n, 0o755)).collect();
    ops.extend([dir("u", 0o755), dir("w", 0o700), dir("u2", 0o755), dir("w2", 0o700)]);
    home.apply(&ops).unwrap();
    let lower: Vec<&str> = names.iter().map(String::as_str).collect();
    let plan = [overlay(&lower, Some(("u", "w")))];
    let bare = || {
        use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};
        let context = rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).unwrap();
        let set = |key: &str, path: PathBuf| {
            rustix::mount::fsconfig_set_string(&context, key, path.as_os_str()).unwrap();
        };
        for name in &names {
            set("lowerdir+", home.path("data").join(name));
        }
        set("upperdir", home.path("data/u2"));
        set("workdir", home.path("data/w2"));
        rustix::mount::fsconfig_set_string(&context, "index", "off").unwrap();
        rustix::mount::fsconfig_create(&context).unwrap();
        rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty()).unwrap()
    };
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..200 {
        let start = std::time::Instant::now();
        let root = files::mount(&home.roots, &plan).unwrap();
        ours.push(start.elapsed());
        drop(root);
        let start = std::time::Instant::now();
        let root = bare();
        theirs.push(start.elapsed());
        drop(root);
    }
    ours.sort();
    theirs.sort();
    println!(
        "overlay of 10 layers: p10 {:?} p50 {:?}; bare p10 {:?} p50 {:?}",
        ours[20], ours[100], theirs[20], theirs[100]
    );
    assert!(
        ours[20] < theirs[20] * 2 + std::time::Duration::from_micros(200),
        "{:?} {:?}",
        ours[20],
        theirs[20]
    );
}
