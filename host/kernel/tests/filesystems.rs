//! File plans on file systems that can do more: subvolumes and quota of btrfs, images of EROFS. As root.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "tests may panic"
)]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use wharf_kernel::files::{self, Roots, tree};
use wharf_plan::files::{
    Extension, File, Mount, MountAttributes, Op, Owner, Place, Quota, Root, Source, SubvolumeCopy, TreeCopy,
    undo,
};

struct Home {
    dir: tempfile::TempDir,
    mounted: bool,
    roots: Roots,
}

fn roots(dir: &Path) -> Roots {
    for name in ["data", "run", "granted"] {
        std::fs::create_dir(dir.join(name)).unwrap();
    }
    let open = |name: &str| tree::open_host_dir(&dir.join(name)).unwrap();
    Roots {
        data: open("data"),
        run: open("run"),
        granted: BTreeMap::from([("other".to_owned(), open("granted"))]),
        objects: BTreeMap::new(),
    }
}

impl Home {
    fn plain() -> Self {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let roots = roots(dir.path());
        Self { dir, mounted: false, roots }
    }

    /// On btrfs in a file, mounted where only this thread sees it.
    fn btrfs() -> Self {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let image = dir.path().join("image");
        std::fs::File::create(&image).unwrap().set_len(1 << 30).unwrap();
        let made =
            Command::new("mkfs.btrfs").arg("-q").arg(&image).output().expect("mkfs.btrfs (btrfs-progs)");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
        let private =
            rustix::mount::MountPropagationFlags::PRIVATE | rustix::mount::MountPropagationFlags::REC;
        rustix::mount::mount_change("/", private).unwrap();
        let point = dir.path().join("mounted");
        std::fs::create_dir(&point).unwrap();
        let mounted = Command::new("mount").args(["-o", "loop"]).args([&image, &point]).output().unwrap();
        assert!(mounted.status.success(), "{}", String::from_utf8_lossy(&mounted.stderr));
        let roots = roots(&point);
        Self { dir, mounted: true, roots }
    }

    fn path(&self, path: &str) -> PathBuf {
        let top = if self.mounted { self.dir.path().join("mounted") } else { self.dir.path().to_owned() };
        top.join("data").join(path)
    }

    fn apply(&self, ops: &[Op]) -> Result<(), files::Error> {
        files::apply(&self.roots, ops)
    }

    fn names(&self) -> Vec<String> {
        files::drain();
        tree::names(&self.roots.data)
            .unwrap()
            .into_iter()
            .filter(|name| name != ".trash" && name != ".images")
            .collect()
    }

    /// Subvolumes of the whole file system.
    fn subvolumes(&self) -> usize {
        files::drain();
        let list = Command::new("btrfs").args(["subvolume", "list"]).arg(self.path("")).output().unwrap();
        assert!(list.status.success());
        String::from_utf8_lossy(&list.stdout).lines().count()
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if self.mounted {
            let _ =
                rustix::mount::unmount(self.dir.path().join("mounted"), rustix::mount::UnmountFlags::DETACH);
        }
    }
}

fn at(path: &str) -> Place {
    Place { root: Root::Data, path: path.into() }
}

fn dir(path: &str) -> Op {
    Op::MakeDir(Owner { at: at(path), uid: 0, gid: 0, mode: 0o755 })
}

fn clone(source: &str, target: &str, read_only: bool) -> Op {
    Op::SubvolumeClone(SubvolumeCopy { source: at(source), target: at(target), read_only })
}

fn limit(path: &str, bytes: Option<u64>) -> Op {
    Op::SetQuota(Quota { at: at(path), bytes, inodes: None })
}

fn failing() -> Op {
    Op::Other(Extension { kind: "from-the-future".into(), parameters: vec![] })
}

#[test]
fn subvolumes_are_made_cloned_and_removed() {
    let home = Home::btrfs();
    home.apply(&[Op::SubvolumeCreate(at("one")), Op::SubvolumeCreate(at("one"))]).unwrap();
    let stat = std::fs::metadata(home.path("one")).unwrap();
    assert_eq!((stat.ino(), stat.uid(), stat.mode() & 0o7777), (256, 0, 0o755));
    std::fs::write(home.path("one/f"), "1").unwrap();
    home.apply(&[clone("one", "two", false), clone("one", "ro", true)]).unwrap();
    std::fs::write(home.path("two/f"), "2").unwrap();
    assert_eq!(std::fs::read_to_string(home.path("one/f")).unwrap(), "1");
    assert!(std::fs::write(home.path("ro/f"), "2").is_err(), "a read-only clone is read-only");
    home.apply(&[Op::Rename((at("two"), at("three")))]).unwrap();
    // What is no subvolume, or not there, or there already.
    home.apply(&[dir("plain"), Op::SubvolumeRemove(at("absent"))]).unwrap();
    for ops in [
        [Op::SubvolumeRemove(at("plain"))],
        [clone("plain", "x", false)],
        [clone("absent", "x", false)],
        [clone("one", "three", false)],
        [Op::SubvolumeCreate(at("plain"))],
    ] {
        home.apply(&ops).unwrap_err();
    }
    assert_eq!(home.names(), ["one", "plain", "ro", "three"]);
    home.apply(&[Op::SubvolumeRemove(at("three")), Op::SubvolumeRemove(at("ro")), Op::RemoveTree(at("one"))])
        .unwrap();
    home.apply(&[Op::RemoveTree(at("plain"))]).unwrap();
    assert_eq!(home.names(), Vec::<String>::new());
    assert_eq!(home.subvolumes(), 0);
}

#[test]
fn a_failed_plan_brings_subvolumes_back() {
    let home = Home::btrfs();
    home.apply(&[Op::SubvolumeCreate(at("old"))]).unwrap();
    std::fs::write(home.path("old/f"), "kept").unwrap();
    home.apply(&[clone("old", "read-only", true)]).unwrap();
    for ops in [
        vec![Op::SubvolumeCreate(at("new")), clone("old", "copy", false), failing()],
        vec![Op::SubvolumeRemove(at("old")), Op::SubvolumeRemove(at("read-only")), failing()],
        vec![Op::SubvolumeRemove(at("old")), Op::SubvolumeCreate(at("old")), failing()],
        vec![Op::SubvolumeCreate(at("old")), failing()],
        vec![Op::Rename((at("old"), at("moved"))), limit("moved", Some(1 << 30)), failing()],
    ] {
        home.apply(&ops).unwrap_err();
        assert_eq!(home.names(), ["old", "read-only"], "{ops:?}");
        assert_eq!(std::fs::read_to_string(home.path("old/f")).unwrap(), "kept");
    }
    assert_eq!(home.subvolumes(), 2);
    // The journal's way: what a plan did is taken back by operations derived before.
    let plan =
        [clone("old", "made", false), Op::SubvolumeCreate(at("made-too")), Op::SubvolumeCreate(at("old"))];
    let back = undo(&plan, |place| files::exists(&home.roots, place));
    home.apply(&plan).unwrap();
    files::take_back(&home.roots, &back).unwrap();
    files::take_back(&home.roots, &back).unwrap();
    assert_eq!(home.names(), ["old", "read-only"]);
}

#[test]
fn elsewhere_there_are_no_subvolumes() {
    let home = Home::plain();
    let error = home.apply(&[dir("a"), Op::SubvolumeCreate(at("x"))]).unwrap_err();
    assert!(error.to_string().contains("not on btrfs"), "{error}");
    let error = home.apply(&[dir("a"), limit("a", Some(1 << 30))]).unwrap_err();
    assert!(error.to_string().contains("does not support, or has not enabled quotas"), "{error}");
    assert_eq!(home.names(), Vec::<String>::new());
}

#[test]
fn a_subvolume_keeps_to_its_quota() {
    let home = Home::btrfs();
    home.apply(&[Op::SubvolumeCreate(at("a")), Op::SubvolumeCreate(at("b")), limit("a", Some(16 << 20))])
        .unwrap();
    let write = |name: &str, bytes: usize| {
        let mut state = 1u32;
        let noise: Vec<u8> = (0..bytes)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                state.to_le_bytes()[3]
            })
            .collect();
        let file = std::fs::File::create(home.path(name))?;
        file.write_all_at(&noise, 0).and_then(|()| file.sync_all())
    };
    write("a/small", 4 << 20).unwrap();
    let error = write("a/large", 32 << 20).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::QuotaExceeded, "{error}");
    write("b/large", 32 << 20).unwrap();
    home.apply(&[limit("a", None)]).unwrap();
    write("a/large", 32 << 20).unwrap();
    home.apply(&[dir("a/plain")]).unwrap();
    home.apply(&[limit("a/plain", Some(1 << 20))]).unwrap_err();
}

/// What a container made inside goes too: subvolumes in subvolumes, read-only ones among them.
#[test]
fn nested_subvolumes_go() {
    let home = Home::btrfs();
    home.apply(&[Op::SubvolumeCreate(at("top"))]).unwrap();
    for name in ["top/a", "top/a/b", "top/d"] {
        if name == "top/d" {
            std::fs::create_dir(home.path(name)).unwrap();
            continue;
        }
        assert!(
            Command::new("btrfs")
                .args(["subvolume", "create"])
                .arg(home.path(name))
                .output()
                .unwrap()
                .status
                .success()
        );
        std::fs::write(home.path(name).join("f"), "x").unwrap();
    }
    for (from, to) in [("top/a/b", "top/d/snapshot"), ("top/a/b", "top/a/snapshot")] {
        let made = Command::new("btrfs")
            .args(["subvolume", "snapshot", "-r"])
            .args([home.path(from), home.path(to)])
            .output();
        assert!(made.unwrap().status.success());
    }
    let set = Command::new("btrfs")
        .args(["property", "set", "-ts"])
        .arg(home.path("top/a"))
        .args(["ro", "true"])
        .output();
    assert!(set.unwrap().status.success());
    assert_eq!(home.subvolumes(), 5);
    home.apply(&[Op::SubvolumeRemove(at("top"))]).unwrap();
    assert_eq!(home.names(), Vec::<String>::new());
    assert_eq!(home.subvolumes(), 0);
    assert_eq!(std::fs::read_dir(home.path(".trash")).unwrap().count(), 0);
}

/// An empty image, as `mkfs.erofs` makes it: of a directory that has nothing in it.
fn foreign_image(home: &Home) -> Vec<u8> {
    let (source, image) = (home.dir.path().join("source"), home.dir.path().join("foreign"));
    std::fs::create_dir(&source).unwrap();
    std::fs::write(source.join("f"), "content").unwrap();
    let made =
        Command::new("mkfs.erofs").arg(&image).arg(&source).output().expect("mkfs.erofs (erofs-utils)");
    assert!(made.status.success());
    std::fs::read(image).unwrap()
}

fn image(place: Place) -> Mount {
    Mount {
        fstype: "erofs".into(),
        source: Source::Place(place),
        options: vec![],
        attributes: MountAttributes::READ_ONLY,
        id_maps: vec![],
    }
}

fn sealed(home: &Home, path: &str, content: &[u8]) {
    let file = files::create_image(&home.roots, &at(path)).unwrap();
    file.write_all_at(content, 0).unwrap();
    files::seal_image(&file).unwrap();
}

fn seen(mounted: &OwnedFd) -> String {
    std::fs::read_to_string(Path::new(&tree::by_fd(mounted)).join("f")).unwrap()
}

#[test]
fn only_sealed_images_are_mounted() {
    let home = Home::plain();
    let content = foreign_image(&home);
    let mount = |place: Place| files::mount(&home.roots, &[image(place)]);
    home.apply(&[
        dir("a"),
        Op::WriteFile(File { at: at("a/written"), content: content.clone(), mode: 0o600 }),
    ])
    .unwrap();
    let error = mount(at("a/written")).unwrap_err();
    assert!(error.to_string().contains("no image that this host wrote"), "{error}");
    sealed(&home, "a/own", &content);
    assert_eq!(seen(&mount(at("a/own")).unwrap()), "content");
    assert!(files::create_image(&home.roots, &at("a/own")).is_err(), "an image is never written over");
    // The mark stays with the file: neither a copy has it, nor what a plan puts in its place.
    let copy = Op::CopyTree(TreeCopy { source: at("a"), target: at("b"), reflink: true });
    home.apply(&[copy]).unwrap();
    assert!(mount(at("b/own")).unwrap_err().to_string().contains("no image"));
    home.apply(&[Op::WriteFile(File { at: at("a/own"), content: b"other".to_vec(), mode: 0o600 })]).unwrap();
    assert_eq!(seen(&mount(at("a/own")).unwrap()), "content", "a plan's file is not the image of its place");
    // Nor does the mark make one of a file, were it to come there.
    let written = std::fs::File::open(home.path("a/written")).unwrap();
    files::seal_image(&written).unwrap();
    assert!(mount(at("a/written")).unwrap_err().to_string().contains("no image"));
    // Not a directory, not nothing, not from elsewhere, no options.
    assert!(mount(at("a")).is_err() && mount(at("absent")).is_err());
    sealed(&home, "b/fresh", b"no file system at all");
    assert!(mount(at("b/fresh")).is_err());
    let elsewhere = Place { root: Root::Granted("other".into()), path: "f".into() };
    assert!(mount(elsewhere).unwrap_err().to_string().contains("own data only"));
    let mut with_option = image(at("b/fresh"));
    with_option.options.push(("device".into(), wharf_plan::files::OptionValue::Flag));
    assert!(files::mount(&home.roots, &[with_option]).unwrap_err().to_string().contains("no option"));
    let set = Op::SetXattr(wharf_plan::files::Xattr {
        at: at("a"),
        name: "trusted.wharf.erofs".into(),
        value: vec![1],
    });
    let grants = wharf_plan::files::FileGrants { ops: ["set-xattr".to_owned()].into(), ..Default::default() };
    assert!(
        wharf_plan::files::validate(&[set], &[], &grants).unwrap_err().to_string().contains("host's own")
    );
}

/// What a hostile plan, with all grants that a storage driver can have, makes of a sealed image.
#[test]
fn no_plan_brings_an_image_to_where_a_container_writes() {
    let home = Home::plain();
    let content = foreign_image(&home);
    let sees = |place: &str| files::mount(&home.roots, &[image(at(place))]).map(|mounted| seen(&mounted));
    // What a container that is root, and has every capability, finds beneath a directory that is its own.
    let written_over = || {
        let mut found = Vec::new();
        let opened = tree::open_host_dir(&home.path("c/diff")).unwrap();
        tree::walk::<rustix::io::Errno>(opened.as_fd(), &mut |entry| {
            found.push(String::from_utf8_lossy(entry.path).into_owned());
            if !rustix::fs::FileType::from_raw_mode(entry.stat.st_mode).is_dir() {
                std::fs::write(home.path("c/diff").join(found.last().unwrap()), vec![0xee; content.len()])
                    .unwrap();
            }
            Ok(())
        })
        .unwrap();
        found
    };
    home.apply(&[dir("l"), dir("c/diff")]).unwrap();
    sealed(&home, "l/layer", &content);
    // The image alone, and with the directory that it is in.
    home.apply(&[Op::Rename((at("l/layer"), at("c/diff/layer")))]).unwrap();
    assert_eq!(written_over(), Vec::<String>::new());
    assert_eq!(sees("c/diff/layer").unwrap(), "content");
    assert!(sees("l/layer").is_err());
    home.apply(&[Op::Rename((at("c/diff/layer"), at("l/layer")))]).unwrap();
    home.apply(&[Op::Rename((at("l"), at("c/diff/l")))]).unwrap();
    assert_eq!(written_over(), ["l"]);
    assert_eq!(sees("c/diff/l/layer").unwrap(), "content");
    // Copied, it is nothing; and neither is what the container makes at a place that had an image.
    home.apply(&[Op::CopyTree(TreeCopy { source: at("c"), target: at("d"), reflink: true })]).unwrap();
    assert!(sees("d/diff/l/layer").is_err());
    std::fs::write(home.path("c/diff/l/layer"), "evil").unwrap();
    assert_eq!(written_over(), ["l", "l/layer"]);
    assert_eq!(sees("c/diff/l/layer").unwrap(), "content");
    let owner = Op::SetOwner(Owner { at: at("c/diff/l/layer"), uid: 7, gid: 7, mode: 0o777 });
    home.apply(&[owner]).unwrap();
    let stored = std::fs::metadata(home.path(".images/c/diff/l/layer")).unwrap();
    assert_eq!((stored.uid(), stored.mode() & 0o7777), (0, 0o400));
    // Out of the plugin's data it does not go, by no way; nothing of the plan was done.
    for root in [Root::Run, Root::Granted("other".into())] {
        let to = Place { root, path: "x".into() };
        let plan = [dir("new"), Op::Rename((at("c/diff/l"), to))];
        let error = home.apply(&plan).unwrap_err();
        assert!(error.to_string().contains("images stay"), "{error}");
        assert!(!home.path("new").exists() && home.path("c/diff/l").exists());
    }
    // Directories in between are its owner's too.
    assert_eq!(std::fs::metadata(home.path(".images")).unwrap().mode() & 0o777, 0o700);
    home.apply(&[Op::RemoveTree(at("c"))]).unwrap();
    assert!(sees("c/diff/l/layer").is_err());
    files::drain();
    assert_eq!(files::entries(&home.roots).unwrap(), ["d"]);
}

#[test]
fn images_go_and_come_back_with_what_is_at_their_place() {
    let home = Home::plain();
    let content = foreign_image(&home);
    let mount = |place: &str| files::mount(&home.roots, &[image(at(place))]);
    home.apply(&[dir("a"), dir("taken")]).unwrap();
    sealed(&home, "a/layer", &content);
    // A plan that fails later brings them back.
    for gone in [Op::RemoveTree(at("a")), Op::Rename((at("a"), at("b")))] {
        let plan = [gone, Op::MakeSparse(wharf_plan::files::Sparse { at: at("taken"), size: 1 })];
        home.apply(&plan).unwrap_err();
        assert_eq!(seen(&mount("a/layer").unwrap()), "content");
        assert_eq!(files::entries(&home.roots).unwrap(), ["a", "taken"]);
    }
    // Onto what is there they do not go.
    home.apply(&[Op::Rename((at("a"), at("taken")))]).unwrap_err();
    assert_eq!(seen(&mount("a/layer").unwrap()), "content");
    // The daemon died after the images had moved and before the rest: undoing finds both.
    let plan = [Op::Rename((at("a"), at("b")))];
    let back = undo(&plan, |place| files::exists(&home.roots, place));
    std::fs::rename(home.path(".images/a"), home.path(".images/b")).unwrap();
    files::take_back(&home.roots, &back).unwrap();
    assert_eq!(seen(&mount("a/layer").unwrap()), "content");
    // … and it died when nothing had, or all.
    files::take_back(&home.roots, &back).unwrap();
    home.apply(&plan).unwrap();
    assert_eq!(seen(&mount("b/layer").unwrap()), "content");
    files::take_back(&home.roots, &back).unwrap();
    assert_eq!(seen(&mount("a/layer").unwrap()), "content");
    // An image without anything at its place is found, to be collected.
    std::fs::remove_dir(home.path("a")).unwrap();
    assert_eq!(files::entries(&home.roots).unwrap(), ["a", "taken"]);
    files::take_back(&home.roots, &[Op::RemoveTree(at("a"))]).unwrap();
    assert_eq!(files::entries(&home.roots).unwrap(), ["taken"]);
}

#[test]
fn mounts_of_an_image_share_a_superblock_and_let_it_go() {
    let home = Home::plain();
    let content = foreign_image(&home);
    home.apply(&[dir("layer")]).unwrap();
    sealed(&home, "layer/image", &content);
    let mount = || files::mount(&home.roots, &[image(at("layer/image"))]).unwrap();
    let (first, second) = (mount(), mount());
    let device = |fd: &OwnedFd| rustix::fs::fstat(fd.as_fd()).unwrap().st_dev;
    assert_eq!(device(&first), device(&second));
    drop(first);
    assert_eq!(seen(&second), "content");
    // Deleted, it serves who has it; when nobody has, the file system is gone.
    home.apply(&[Op::RemoveTree(at("layer"))]).unwrap();
    files::drain();
    assert_eq!(seen(&second), "content");
    home.apply(&[dir("layer")]).unwrap();
    sealed(&home, "layer/image", &content);
    assert_ne!(device(&mount()), device(&second), "another file is another file system");
}

/// Loop devices that show a file beneath a directory.
fn devices_of(home: &Home) -> Vec<PathBuf> {
    let devices = std::fs::read_dir("/sys/block").unwrap().map(|entry| entry.unwrap().path());
    let ours = |device: &PathBuf| {
        std::fs::read_to_string(device.join("loop/backing_file"))
            .is_ok_and(|file| file.contains(home.dir.path().file_name().unwrap().to_str().unwrap()))
    };
    devices.filter(ours).collect()
}

/// What older kernels need, asked of this one; the child is this program with the setting.
#[test]
fn images_are_mounted_as_loop_devices_where_they_must() {
    let again = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "--nocapture", "by_loop_devices"])
        .env("WHARF_EROFS_LOOP", "1")
        .output()
        .unwrap();
    let told =
        format!("{}{}", String::from_utf8_lossy(&again.stdout), String::from_utf8_lossy(&again.stderr));
    assert!(again.status.success() && told.contains("1 passed"), "{told}");
}

#[test]
#[ignore = "run by images_are_mounted_as_loop_devices_where_they_must with a setting in its environment"]
fn by_loop_devices() {
    let home = Home::plain();
    let content = foreign_image(&home);
    home.apply(&[dir("layer"), dir("other"), dir("own")]).unwrap();
    for place in ["layer/image", "other/image", "own/image"] {
        sealed(&home, place, &content);
    }
    let mount = |place: &str| files::mount(&home.roots, &[image(at(place))]).unwrap();
    let device = |fd: &OwnedFd| rustix::fs::fstat(fd.as_fd()).unwrap().st_dev;
    // Many mounts of an image are one superblock and one device, which only shows.
    let many: Vec<OwnedFd> = (0..50).map(|_| mount("layer/image")).collect();
    assert!(many.iter().all(|one| device(one) == device(&many[0]) && seen(one) == "content"));
    let other = mount("other/image");
    assert_ne!(device(&other), device(&many[0]));
    let devices = devices_of(&home);
    assert_eq!(devices.len(), 2);
    for device in &devices {
        let flag = |name: &str| std::fs::read_to_string(device.join(name)).unwrap().trim().to_owned();
        assert_eq!((flag("ro"), flag("loop/autoclear")), ("1".into(), "1".into()));
    }
    // They are layers of an overlay like others.
    let nth = |n| Place { root: Root::Mount(n), path: String::new() };
    let option = wharf_plan::files::OptionValue::Places(vec![nth(0), nth(1)]);
    let both = Mount {
        fstype: "overlay".into(),
        source: Source::None,
        options: vec![("lowerdir+".into(), option)],
        attributes: MountAttributes::READ_ONLY,
        id_maps: vec![],
    };
    let plan = [image(at("layer/image")), image(at("other/image")), both];
    assert_eq!(seen(&files::mount(&home.roots, &plan).unwrap()), "content");
    // Another process, as a daemon that starts again, finds the device that is there; killed, it leaves none.
    let mut second = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "--nocapture", "holds_images_until_it_is_killed"])
        .env("WHARF_TEST_DIR", home.dir.path())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut told = BufReader::new(second.stdout.take().unwrap()).lines();
    let line = told.by_ref().map(Result::unwrap).find(|line| line.contains("devices")).unwrap();
    let wanted = format!("devices {} and another", device(&many[0]));
    assert!(line.contains(&wanted), "{line}, not {wanted}");
    assert_eq!(devices_of(&home).len(), 3, "one for what only the other has");
    second.kill().unwrap();
    second.wait().unwrap();
    let end = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while devices_of(&home).len() > 2 {
        assert!(std::time::Instant::now() < end, "a device is left of who was killed");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    drop((many, other));
    home.apply(&[Op::RemoveTree(at("layer")), Op::RemoveTree(at("other"))]).unwrap();
    files::drain();
    assert_eq!(devices_of(&home), Vec::<PathBuf>::new(), "a device without a user is free");
}

#[test]
#[ignore = "run by by_loop_devices, to be killed"]
fn holds_images_until_it_is_killed() {
    let top = PathBuf::from(std::env::var_os("WHARF_TEST_DIR").unwrap());
    let open = |name: &str| tree::open_host_dir(&top.join(name)).unwrap();
    let roots =
        Roots { data: open("data"), run: open("run"), granted: BTreeMap::new(), objects: BTreeMap::new() };
    let mount = |place: &str| files::mount(&roots, &[image(at(place))]).unwrap();
    let device = |fd: &OwnedFd| rustix::fs::fstat(fd.as_fd()).unwrap().st_dev;
    let (shared, own) = (mount("layer/image"), mount("own/image"));
    assert_ne!(device(&shared), device(&own));
    println!("devices {} and another", device(&shared));
    std::thread::sleep(std::time::Duration::from_mins(10));
}
