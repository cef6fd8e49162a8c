//! runc's own integration tests, out of the source package of Debian 13, with `wharf oci` in runc's place. What does not pass
//! is listed with its reason in `clients/runc-1.1.15.expected`; anything else that fails, fails this test.

#![cfg(test)]

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use wharf_tests::bin_dir;
use wharf_tests::image::{busybox_tar, entry, finish};

const SOURCE: &str = "http://deb.debian.org/debian/pool/main/r/runc/runc_1.1.15+ds1.orig.tar.xz";
const SHA256: &str = "d557179f18a5d515ffc5b8ed1a7113af4619a1041c27408a2f83c1ece4d4d426";

/// Files of the suite that are left out as a whole.
const LEFT_OUT: [(&str, &str); 5] = [
    ("checkpoint", "wants one CRIU of the system; oci_checkpoints.rs is about these commands"),
    ("debug", "lines of the log that only runc's own steps can have"),
    ("events", "no command of ours: each waits a minute for nothing"),
    ("help", "runc's own texts"),
    ("seccomp-notify", "notifications of filters, which need an agent and are refused by name"),
];

fn output(command: &mut Command) -> String {
    let out = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(out.status.success(), "{command:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).into_owned()
}

/// The package's source, fetched once and looked at each time.
fn source() -> PathBuf {
    let place = bin_dir().join("clients");
    let file = place.join("runc-1.1.15.tar.xz");
    if !file.exists() {
        std::fs::create_dir_all(&place).unwrap();
        let fresh = place.join("runc-1.1.15.fresh");
        output(Command::new("curl").args(["-fsSL", "--retry", "3", "-o"]).arg(&fresh).arg(SOURCE));
        std::fs::rename(fresh, &file).unwrap();
    }
    let sum = output(Command::new("sha256sum").arg(&file));
    assert!(sum.starts_with(SHA256), "{} is not what was published: {sum}", file.display());
    file
}

/// The root file system that the suite's containers have.
fn rootfs() -> Vec<u8> {
    let mut tar = busybox_tar();
    tar.truncate(tar.len() - 1024);
    for dir in ["dev/", "lib/", "sbin/"] {
        entry(&mut tar, dir, b'5', 0o755, "", b"");
    }
    entry(&mut tar, "usr/bin/env", b'2', 0o777, "../../bin/env", b"");
    finish(&mut tar);
    tar
}

fn script(path: &Path, text: &str) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

/// The suite as it lies in `dir`, with our images and our other end of a terminal; the latter is waited for, as it is slower
/// to begin than runc's.
fn prepare(dir: &Path) {
    output(Command::new("tar").arg("-C").arg(dir).args(["--strip-components=1", "-xf"]).arg(source()));
    let tests = dir.join("tests/integration");
    let image = tests.join("testdata/busybox.tar");
    std::fs::write(&image, rootfs()).unwrap();
    let image = image.display();
    script(
        &tests.join("get-images.sh"),
        &format!("#!/bin/sh\necho BUSYBOX_IMAGE={image}\necho DEBIAN_IMAGE={image}\n"),
    );
    script(&dir.join("contrib/cmd/recvtty/recvtty"), include_str!("../clients/runc-suite/recvtty"));
    let helpers = tests.join("helpers.bash");
    let text = std::fs::read_to_string(&helpers).unwrap();
    let line = text.lines().find(|l| l.contains("(\"$RECVTTY\"")).expect("where the terminal's end begins");
    let waiting = format!("{line}\n\tuntil [ -S \"$CONSOLE_SOCKET\" ]; do sleep 0.02; done");
    std::fs::write(&helpers, text.replacen(line, &waiting, 1)).unwrap();
}

/// What a file of the suite says: names that passed and that did not; those that are skipped are neither.
fn run(dir: &Path, file: &str, runtime: &Path) -> (Vec<String>, Vec<String>, String) {
    let mut command = Command::new("bats");
    command.arg("-t").arg(format!("tests/integration/{file}.bats")).current_dir(dir);
    command.env("RUNC", runtime).env("BATS_TEST_TIMEOUT", "90").env("TMPDIR", dir.join("tmp"));
    let out = command.output().expect("bats");
    let text = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    let (mut passed, mut failed) = (Vec::new(), Vec::new());
    for line in text.lines() {
        let (list, rest) = match (line.strip_prefix("ok "), line.strip_prefix("not ok ")) {
            (Some(rest), _) if !rest.contains("# skip") => (&mut passed, rest),
            (_, Some(rest)) => (&mut failed, rest),
            _ => continue,
        };
        let name = rest.split_once(' ').map_or(rest, |(_, name)| name);
        list.push(format!("{file}::{name}"));
    }
    (passed, failed, text)
}

#[test]
fn runc_finds_what_it_expects() {
    let dir = tempfile::Builder::new().prefix("wharf-test-runc-").tempdir().unwrap();
    prepare(dir.path());
    std::fs::create_dir(dir.path().join("tmp")).unwrap();
    let runtime = dir.path().join("wharf-oci");
    std::os::unix::fs::symlink(bin_dir().join("wharf"), &runtime).unwrap();
    let expected: Vec<&str> = include_str!("../clients/runc-1.1.15.expected")
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split_once('|').map(|(name, _)| name))
        .collect();
    let files: BTreeSet<String> = std::fs::read_dir(dir.path().join("tests/integration"))
        .unwrap()
        .filter_map(|e| e.unwrap().file_name().to_str()?.strip_suffix(".bats").map(str::to_owned))
        .filter(|name| !LEFT_OUT.iter().any(|(left_out, _)| left_out == name))
        .collect();
    let (mut passed, mut surprises, mut said) = (0, Vec::new(), String::new());
    for file in &files {
        let (good, bad, text) = run(dir.path(), file, &runtime);
        passed += good.len();
        let new: Vec<String> =
            bad.into_iter().filter(|name| !expected.iter().any(|e| name.starts_with(e))).collect();
        if !new.is_empty() {
            said += &text;
        }
        surprises.extend(new);
    }
    println!("runc's tests: {passed} passed");
    assert!(surprises.is_empty(), "not listed as failing: {surprises:#?}\n{said}");
    assert!(passed >= 100, "only {passed} tests passed");
}
