//! Images as other programs see them: the kernel that mounts them, and `fsck.erofs`. As root.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests may panic"
)]

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use proptest::prelude::*;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};
use wharf_erofs::{BLOCK, Meta, NodeId, Special, Writer, Written};

struct Home(tempfile::TempDir);

impl Home {
    fn new() -> Self {
        assert!(rustix::process::geteuid().is_root(), "these tests mount: run them as root");
        // Not in memory: the kernel mounts images out of files of real file systems only.
        Self(tempfile::Builder::new().tempdir_in("/var/tmp").unwrap())
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("image")
    }

    fn writer(&self) -> Writer {
        let file = File::options().read(true).write(true).create_new(true).open(self.path()).unwrap();
        Writer::new(file).unwrap()
    }

    /// Has the image checked, and mounts it where nobody else sees it.
    fn mount(&self, written: &Written) -> OwnedFd {
        assert_eq!(written.file.metadata().unwrap().len(), written.size);
        let said = Command::new("fsck.erofs")
            .arg("-d3")
            .arg(self.path())
            .output()
            .expect("fsck.erofs (erofs-utils)");
        let text =
            format!("{}{}", String::from_utf8_lossy(&said.stdout), String::from_utf8_lossy(&said.stderr));
        assert!(said.status.success() && text.contains("No errors found"), "{text}");
        let context = rustix::mount::fsopen("erofs", FsOpenFlags::FSOPEN_CLOEXEC).unwrap();
        rustix::mount::fsconfig_set_string(&context, "source", self.path()).unwrap();
        rustix::mount::fsconfig_create(&context).unwrap();
        rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::MOUNT_ATTR_RDONLY)
            .unwrap()
    }
}

fn at(root: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", root.as_raw_fd()))
}

fn meta(mode: u32) -> Meta {
    Meta { mode, mtime: 1_000_000_000, ..Meta::default() }
}

fn file(writer: &mut Writer, dir: NodeId, name: &str, content: &[u8]) -> NodeId {
    let size = content.len() as u64;
    writer.file(dir, name.as_bytes(), &meta(0o644), size, &mut &content[..]).unwrap()
}

fn xattrs(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut names = vec![0u8; 65_536];
    let length = rustix::fs::llistxattr(path, names.as_mut_slice()).unwrap();
    names.truncate(length);
    let mut found = BTreeMap::new();
    for name in names.split(|b| *b == 0).filter(|name| !name.is_empty()) {
        let mut value = vec![0u8; 65_536];
        let length = rustix::fs::lgetxattr(path, name, value.as_mut_slice()).unwrap();
        value.truncate(length);
        found.insert(String::from_utf8(name.to_vec()).unwrap(), value);
    }
    found
}

/// Bytes that are not the same anywhere.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_u32 ^ u32::try_from(length).unwrap();
    (0..length)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state.to_le_bytes()[3]
        })
        .collect()
}

#[test]
fn an_empty_image_is_an_empty_directory() {
    let home = Home::new();
    let written = home.writer().finish(0).unwrap();
    assert_eq!((written.size, written.inodes), (BLOCK as u64, 1));
    let root = home.mount(&written);
    assert_eq!(std::fs::read_dir(at(&root)).unwrap().count(), 0);
    let stat = std::fs::metadata(at(&root)).unwrap();
    assert_eq!((stat.uid(), stat.gid(), stat.mode() & 0o7777, stat.nlink()), (0, 0, 0o755, 2));
}

#[test]
fn everything_comes_out_as_it_went_in() {
    let home = Home::new();
    let mut writer = home.writer();
    let root = writer.root();
    let root_meta = Meta {
        uid: 1,
        gid: 2,
        mode: 0o1777,
        mtime: -5,
        mtime_nsec: 123,
        xattrs: vec![(b"trusted.overlay.opaque".to_vec(), b"y".to_vec())],
    };
    writer.set_meta(root, root_meta).unwrap();
    let sizes =
        [0, 1, 31, 32, 100, 2000, 4000, 4032, 4033, 4095, 4096, 4097, 8192, 100_000, 262_144, 1_000_003];
    for size in sizes {
        file(&mut writer, root, &format!("file-{size}"), &noise(size));
    }
    let dir = writer.directory(root, b"dir", meta(0o2750)).unwrap();
    let deep = writer.directory(dir, b"deep", meta(0o700)).unwrap();
    let owned = Meta {
        uid: 4_294_967_294,
        gid: 3_000_000_000,
        mode: 0o6711,
        mtime: 7_000_000_000,
        mtime_nsec: 999_999_999,
        xattrs: vec![
            (b"security.capability".to_vec(), [&[1, 0, 0, 2, 0, 4, 0, 0][..], &[0; 12]].concat()),
            (b"user.empty".to_vec(), vec![]),
            (b"user.long".to_vec(), noise(10_000)),
            (b"trusted.odd".to_vec(), vec![0, 255, 10]),
        ],
    };
    writer.file(deep, b"owned", &owned, 5, &mut &b"hello"[..]).unwrap();
    writer.symlink(deep, b"short", &meta(0), b"../../file-1").unwrap();
    writer.symlink(deep, b"long", &meta(0), &[b'x'; 4095]).unwrap();
    for (name, special) in [
        ("null", Special::Character(1, 3)),
        ("big", Special::Block(259, 0x1_2345)),
        ("gone", Special::Character(0, 0)),
        ("pipe", Special::Fifo),
        ("socket", Special::Socket),
    ] {
        writer.special(deep, name.as_bytes(), &meta(0o600), special).unwrap();
    }
    let first = file(&mut writer, dir, "first", b"shared");
    writer.hard_link(deep, b"second", first).unwrap();
    writer.hard_link(root, b"third", first).unwrap();
    writer.file(root, b"not \xff\xfe utf-8\n", &meta(0o644), 2, &mut &b"ok"[..]).unwrap();
    // Names that come before and between the two that every directory has.
    for name in ["!", "-", ".a", "..b", "...", "~"] {
        file(&mut writer, dir, name, name.as_bytes());
    }
    let acl = [
        &2u32.to_le_bytes()[..],
        &[1, 0, 6, 0, 255, 255, 255, 255, 4, 0, 4, 0, 255, 255, 255, 255, 32, 0, 4, 0, 255, 255, 255, 255],
    ]
    .concat();
    let with_acl = Meta { xattrs: vec![(b"system.posix_acl_access".to_vec(), acl.clone())], ..meta(0o644) };
    writer.file(deep, b"acl", &with_acl, 0, &mut &b""[..]).unwrap();

    let written = writer.finish(1_700_000_000).unwrap();
    let root = home.mount(&written);
    let path = |name: &str| at(&root).join(name);
    let stat = std::fs::metadata(at(&root)).unwrap();
    assert_eq!((stat.uid(), stat.gid(), stat.mode() & 0o7777), (1, 2, 0o1777));
    assert_eq!((stat.mtime(), stat.mtime_nsec(), stat.nlink()), (-5, 123, 3));
    assert_eq!(
        xattrs(&at(&root).join(".")),
        BTreeMap::from([("trusted.overlay.opaque".into(), b"y".to_vec())])
    );
    for size in sizes {
        assert!(std::fs::read(path(&format!("file-{size}"))).unwrap() == noise(size), "{size}");
    }
    let stat = std::fs::metadata(path("dir")).unwrap();
    assert_eq!((stat.mode(), stat.nlink()), (0o042_750, 3));
    let owned = std::fs::metadata(path("dir/deep/owned")).unwrap();
    assert_eq!((owned.uid(), owned.gid(), owned.mode()), (4_294_967_294, 3_000_000_000, 0o106_711));
    assert_eq!((owned.mtime(), owned.mtime_nsec()), (7_000_000_000, 999_999_999));
    let found = xattrs(&path("dir/deep/owned"));
    assert_eq!(found.len(), 4);
    assert!(found["user.long"] == noise(10_000) && found["user.empty"].is_empty());
    assert_eq!(found["trusted.odd"], [0, 255, 10]);
    assert_eq!(std::fs::read(path("dir/deep/owned")).unwrap(), b"hello");
    assert_eq!(std::fs::read_link(path("dir/deep/short")).unwrap(), Path::new("../../file-1"));
    assert_eq!(std::fs::read(path("dir/deep/short")).unwrap(), noise(1));
    assert_eq!(std::fs::read_link(path("dir/deep/long")).unwrap().as_os_str().len(), 4095);
    let special = |name: &str| std::fs::symlink_metadata(path(&format!("dir/deep/{name}"))).unwrap();
    assert!(
        special("null").file_type().is_char_device() && special("null").rdev() == rustix::fs::makedev(1, 3)
    );
    assert_eq!(special("big").rdev(), rustix::fs::makedev(259, 0x1_2345));
    assert!(special("gone").file_type().is_char_device() && special("gone").rdev() == 0);
    assert!(special("pipe").file_type().is_fifo() && special("socket").file_type().is_socket());
    let links: Vec<_> = ["dir/first", "dir/deep/second", "third"]
        .iter()
        .map(|n| std::fs::metadata(path(n)).unwrap())
        .collect();
    assert!(links.iter().all(|stat| stat.nlink() == 3 && stat.ino() == links[0].ino()));
    assert_eq!(std::fs::read(at(&root).join(OsStr::from_bytes(b"not \xff\xfe utf-8\n"))).unwrap(), b"ok");
    for name in ["!", "-", ".a", "..b", "...", "~"] {
        assert_eq!(std::fs::read(path("dir").join(name)).unwrap(), name.as_bytes());
    }
    assert_eq!(xattrs(&path("dir/deep/acl"))["system.posix_acl_access"], acl);
    assert!(std::fs::write(path("new"), "x").is_err(), "it is read-only");
}

#[test]
fn holes_stay_holes() {
    let home = Home::new();
    let mut writer = home.writer();
    let root = writer.root();
    let pieces = [(5, 3), (1 << 20, 5000), ((1 << 40) - 4, 4)];
    let content = noise(5007);
    writer.sparse(root, b"huge", &meta(0o644), 1 << 40, &pieces, &mut &content[..]).unwrap();
    writer.sparse(root, b"nothing", &meta(0o644), 1 << 30, &[], &mut &b""[..]).unwrap();
    writer.sparse(root, b"short", &meta(0o644), 10_001, &[(10_000, 1)], &mut &b"z"[..]).unwrap();
    file(&mut writer, root, "after", b"after");
    let written = writer.finish(0).unwrap();
    let disk = written.file.metadata().unwrap().blocks() * 512;
    assert!(disk < 200_000, "{disk} bytes on the disk");
    let mounted = home.mount(&written);
    let huge = File::open(at(&mounted).join("huge")).unwrap();
    assert_eq!(huge.metadata().unwrap().len(), 1 << 40);
    let read = |at: u64, length: usize| {
        let mut buffer = vec![0; length];
        huge.read_exact_at(&mut buffer, at).unwrap();
        buffer
    };
    assert_eq!(read(0, 10), [&[0; 5], &content[..3], &[0; 2]].concat());
    assert_eq!(read(1 << 20, 5000), content[3..5003]);
    assert_eq!(read((1 << 40) - 6, 6), [&[0; 2], &content[5003..]].concat());
    assert_eq!(read(1 << 39, 100), [0; 100]);
    let hole = rustix::fs::seek(&huge, rustix::fs::SeekFrom::Data(1 << 30)).unwrap();
    assert!(hole > 1 << 39, "who copies it sees the hole: {hole}");
    let short = std::fs::read(at(&mounted).join("short")).unwrap();
    assert_eq!((short.len(), short[10_000], short.iter().filter(|b| **b != 0).count()), (10_001, b'z', 1));
    assert_eq!(std::fs::metadata(at(&mounted).join("nothing")).unwrap().len(), 1 << 30);
    assert_eq!(std::fs::read(at(&mounted).join("after")).unwrap(), b"after");
}

#[test]
fn bad_input_is_an_error() {
    let home = Home::new();
    let mut writer = home.writer();
    let root = writer.root();
    let one = file(&mut writer, root, "one", b"1");
    for name in [b"".as_slice(), b".", b"..", b"a/b", b"a\0", b"one", &[b'x'; 256]] {
        assert!(writer.file(root, name, &meta(0o644), 0, &mut &b""[..]).is_err());
        assert!(writer.hard_link(root, name, one).is_err());
    }
    assert!(writer.file(root, b"short", &meta(0o644), 5, &mut &b"1"[..]).is_err(), "content that ends early");
    assert!(writer.file(one, b"in-a-file", &meta(0o644), 0, &mut &b""[..]).is_err());
    assert!(writer.symlink(root, b"link", &meta(0), b"").is_err());
    assert!(writer.hard_link(root, b"dir", root).is_err(), "directories have one name");
    for pieces in [&[(0, 5), (3, 5)][..], &[(9, 2)], &[(u64::MAX, 2)]] {
        assert!(writer.sparse(root, b"sparse", &meta(0o644), 10, pieces, &mut &[0; 100][..]).is_err());
    }
    let far = [(1 << 60, 1)];
    assert!(writer.sparse(root, b"far", &meta(0o644), u64::MAX, &far, &mut &b"x"[..]).is_err());
}

/// What is replaced and removed is gone, and what it was can still be read.
#[test]
fn names_can_be_taken_away() {
    let home = Home::new();
    let mut writer = home.writer();
    let root = writer.root();
    let dir = writer.directory(root, b"dir", meta(0o755)).unwrap();
    for size in [10, 5000, 300_000] {
        let id = file(&mut writer, dir, &size.to_string(), &noise(size));
        writer.hard_link(root, format!("kept-{size}").as_bytes(), id).unwrap();
    }
    let gone = writer.remove(root, b"dir").unwrap();
    assert_eq!(gone.len(), 3);
    let mut lengths: Vec<usize> = gone
        .iter()
        .map(|id| {
            let mut content = Vec::new();
            std::io::Read::read_to_end(&mut writer.content(*id).unwrap(), &mut content).unwrap();
            assert!(content == noise(content.len()));
            content.len()
        })
        .collect();
    lengths.sort_unstable();
    assert_eq!(lengths, [10, 5000, 300_000]);
    assert!(writer.remove(root, b"dir").is_err());
    file(&mut writer, root, "dir", b"a file now");
    let written = writer.finish(0).unwrap();
    assert_eq!(written.inodes, 5);
    let root = home.mount(&written);
    assert_eq!(std::fs::read(at(&root).join("dir")).unwrap(), b"a file now");
    let kept = std::fs::metadata(at(&root).join("kept-5000")).unwrap();
    assert_eq!((kept.nlink(), kept.len()), (1, 5000));
}

#[test]
fn large_directories_are_found_in() {
    let home = Home::new();
    let mut writer = home.writer();
    let root = writer.root();
    let name = |n: u32| format!("{:x}-{}", n.wrapping_mul(2_654_435_761), "y".repeat((n % 200) as usize));
    for n in 0..20_000 {
        file(&mut writer, root, &name(n), n.to_string().as_bytes());
    }
    let small: Vec<NodeId> = (0..300)
        .map(|n| writer.directory(root, format!("dir-{n}").as_bytes(), meta(0o755)).unwrap())
        .collect();
    for (n, dir) in small.iter().enumerate() {
        for m in 0..n {
            file(&mut writer, *dir, &m.to_string(), b"x");
        }
    }
    let written = writer.finish(0).unwrap();
    // Small files share blocks with their inodes.
    assert!(written.size < 20_000 * 400 + 45_000 * 130, "{}", written.size);
    let root = home.mount(&written);
    for n in (0..20_000).step_by(37) {
        assert_eq!(std::fs::read_to_string(at(&root).join(name(n))).unwrap(), n.to_string());
    }
    assert_eq!(std::fs::read_dir(at(&root)).unwrap().count(), 20_300);
    for n in [0, 1, 100, 299] {
        let dir = at(&root).join(format!("dir-{n}"));
        assert_eq!(std::fs::read_dir(dir).unwrap().count(), n);
    }
    assert!(!at(&root).join("absent").exists());
}

/// One step of a tree's making, by indexes into what there is.
#[derive(Debug, Clone)]
enum Step {
    Directory(usize, String),
    File(usize, String, usize, Vec<(String, usize)>),
    Link(usize, String, usize),
    Remove(usize, String),
}

fn name() -> impl Strategy<Value = String> {
    prop_oneof!["[a-c]{1,2}", "[!-.0-~]{1,40}", "[a-z]{200,255}"]
        .prop_filter("a name", |name| name != "." && name != "..")
}

fn step() -> impl Strategy<Value = Step> {
    let attributes = prop::collection::vec(("user\\.[a-z]{1,8}", 0usize..3000), 0..4);
    prop_oneof![
        2 => (any::<usize>(), name()).prop_map(|(dir, name)| Step::Directory(dir, name)),
        5 => (any::<usize>(), name(), prop_oneof![0usize..200, 3900usize..4300, 0usize..20_000], attributes)
            .prop_map(|(dir, name, size, xattrs)| Step::File(dir, name, size, xattrs)),
        1 => (any::<usize>(), name(), any::<usize>()).prop_map(|(dir, name, to)| Step::Link(dir, name, to)),
        1 => (any::<usize>(), name()).prop_map(|(dir, name)| Step::Remove(dir, name)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    /// Any tree: the kernel shows what a model of it says, and `fsck.erofs` finds nothing.
    #[test]
    fn the_kernel_sees_what_was_written(steps in prop::collection::vec(step(), 0..200)) {
        let home = Home::new();
        let mut writer = home.writer();
        let mut dirs = vec![(writer.root(), PathBuf::new())];
        let mut files: BTreeMap<PathBuf, (NodeId, usize, BTreeMap<String, usize>)> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Directory(dir, name) => {
                    let (id, path) = dirs[dir % dirs.len()].clone();
                    if let Ok(made) = writer.directory(id, name.as_bytes(), meta(0o755)) {
                        dirs.push((made, path.join(name)));
                    }
                }
                Step::File(dir, name, size, xattrs) => {
                    let (id, path) = dirs[dir % dirs.len()].clone();
                    let xattrs: BTreeMap<String, usize> = xattrs.into_iter().collect();
                    let list = xattrs.iter().map(|(name, size)| (name.clone().into_bytes(), noise(*size))).collect();
                    let look = Meta { xattrs: list, ..meta(0o644) };
                    let content = noise(size);
                    if let Ok(made) = writer.file(id, name.as_bytes(), &look, size as u64, &mut &content[..]) {
                        files.insert(path.join(name), (made, size, xattrs));
                    }
                }
                Step::Link(dir, name, to) => {
                    let Some(target) = files.values().nth(to % files.len().max(1)).cloned() else { continue };
                    let (id, path) = dirs[dir % dirs.len()].clone();
                    if writer.hard_link(id, name.as_bytes(), target.0).is_ok() {
                        files.insert(path.join(name), target);
                    }
                }
                Step::Remove(dir, name) => {
                    let (id, path) = dirs[dir % dirs.len()].clone();
                    if writer.remove(id, name.as_bytes()).is_ok() {
                        let gone = path.join(name);
                        files.retain(|path, _| !path.starts_with(&gone));
                        dirs.retain(|(_, path)| !path.starts_with(&gone));
                    }
                }
            }
        }
        let written = writer.finish(0).unwrap();
        let root = home.mount(&written);
        let mut names = 0;
        let mut todo = vec![at(&root)];
        while let Some(dir) = todo.pop() {
            for entry in std::fs::read_dir(dir).unwrap() {
                let entry = entry.unwrap();
                names += 1;
                if entry.file_type().unwrap().is_dir() {
                    todo.push(entry.path());
                }
            }
        }
        prop_assert_eq!(names, files.len() + dirs.len() - 1);
        for (path, (id, size, attributes)) in &files {
            let path = at(&root).join(path);
            prop_assert!(std::fs::read(&path).unwrap() == noise(*size));
            let links = files.values().filter(|(other, ..)| other == id).count() as u64;
            prop_assert_eq!(std::fs::metadata(&path).unwrap().nlink(), links);
            let found = xattrs(&path);
            prop_assert_eq!(found.len(), attributes.len());
            for (name, size) in attributes {
                prop_assert!(found[name] == noise(*size));
            }
        }
    }
}
