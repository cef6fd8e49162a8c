use super::*;

fn root() -> (tempfile::TempDir, Root) {
    let dir = tempfile::tempdir().unwrap();
    let root = Root::open(dir.path()).unwrap();
    (dir, root)
}

#[test]
fn links_stay_inside() {
    let (dir, root) = root();
    root.mkdir_all("a/b", 0o755).unwrap();
    root.symlink("/etc", "out").unwrap();
    root.symlink("../../../../../../etc", "a/b/up").unwrap();
    // Absolute and climbing links resolve against the root: the directory is made inside it.
    root.mkdir_all("etc", 0o755).unwrap();
    root.write("out/passwd", b"inside", 0o644).unwrap();
    root.write("a/b/up/shadow", b"inside", 0o644).unwrap();
    assert_eq!(std::fs::read(dir.path().join("etc/passwd")).unwrap(), b"inside");
    assert_eq!(std::fs::read(dir.path().join("etc/shadow")).unwrap(), b"inside");
    let strict = Root::strict(root.resolve(".").unwrap());
    assert!(strict.resolve("out/passwd").unwrap_err().is(libc::EXDEV));
}

#[test]
fn mkdir_all_never_leaves() {
    let (dir, root) = root();
    let outside = tempfile::tempdir().unwrap();
    root.symlink(outside.path(), "link").unwrap();
    // The target of the link does not exist inside, so this must fail rather than make a directory outside.
    assert!(root.mkdir_all("link/x", 0o755).is_err());
    assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
    root.mkdir_all("/one//two/./three/", 0o755).unwrap();
    assert!(dir.path().join("one/two/three").is_dir());
}

#[test]
fn magic_links_are_not_followed() {
    let root = Root::open(Path::new("/proc")).unwrap();
    assert!(root.resolve("self/root/etc").unwrap_err().is(libc::ELOOP));
    assert!(root.resolve("self/cwd").unwrap_err().is(libc::ELOOP));
}

#[test]
fn reading_is_bounded_and_never_waits() {
    let (dir, root) = root();
    root.write("big", &[7; 100], 0o600).unwrap();
    assert!(root.read_limited("big", 99).unwrap_err().is(libc::EFBIG));
    assert_eq!(root.read_limited("big", 100).unwrap().len(), 100);
    nix::unistd::mkfifo(&dir.path().join("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert!(root.read_limited("pipe", 1).unwrap_err().is(libc::EINVAL));
}

#[test]
fn replace_and_remove_all() {
    let (dir, root) = root();
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("keep"), "x").unwrap();
    root.mkdir_all("tree/a/b/c", 0o755).unwrap();
    root.symlink(outside.path(), "tree/a/link").unwrap();
    root.replace("tree/a/file", b"1", 0o600).unwrap();
    root.replace("tree/a/file", b"2", 0o600).unwrap();
    assert_eq!(root.read_limited("tree/a/file", 10).unwrap(), b"2");
    root.remove_all("tree").unwrap();
    root.remove_all("tree").unwrap();
    assert!(!dir.path().join("tree").exists());
    assert!(outside.path().join("keep").exists());
}

#[test]
fn removes_deep_and_wide_trees() {
    let (dir, root) = root();
    // Deeper than a path can be long, and than a process has descriptors.
    let mut deep = root.sub(".").unwrap();
    deep.mkdir_all("tree", 0o755).unwrap();
    deep = deep.sub("tree").unwrap();
    for _ in 0..3000 {
        deep.mkdir_all("a-directory", 0o755).unwrap();
        deep.write("file", b"", 0o600).unwrap();
        deep = deep.sub("a-directory").unwrap();
    }
    for number in 0..300 {
        root.mkdir_all(format!("tree/wide/{number}/x"), 0o755).unwrap();
    }
    let open = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let before = open();
    let most = std::thread::scope(|scope| {
        let removing = scope.spawn(|| root.remove_all("tree").unwrap());
        let mut most = 0;
        while !removing.is_finished() {
            most = most.max(open());
        }
        most
    });
    // Other tests run meanwhile, but none has so many.
    assert!(most < before + DEEPEST + 200, "{most} descriptors, {before} before");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}
