//! bollard's own integration tests, as its crate carries them, against a real daemon. What does not pass is listed with
//! its reason in `clients/bollard-0.21.expected`; anything else that fails, fails this test.

#![cfg(test)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use wharf_tests::image::{busybox_tar, entry, finish};
use wharf_tests::registry::{Registry, Setup};
use wharf_tests::{Daemon, bin_dir};

/// The suite's files that ask for nothing but an engine; the others are about swarm, Docker's plugins and podman.
const FILES: [&str; 9] = [
    "container_test",
    "exec_test",
    "export_test",
    "image_test",
    "network_test",
    "race_test",
    "system_test",
    "version_test",
    "volume_test",
];

fn output(command: &mut Command) -> String {
    let out = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(out.status.success(), "{command:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

/// Where cargo keeps the crate that this workspace builds with.
fn source() -> PathBuf {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
    let text = output(
        Command::new(cargo)
            .args(["metadata", "--format-version", "1", "--locked", "--manifest-path"])
            .arg(manifest),
    );
    let metadata: Value = serde_json::from_str(&text).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let bollard = packages.iter().find(|p| p["name"] == "bollard").expect("bollard");
    Path::new(bollard["manifest_path"].as_str().unwrap()).parent().unwrap().to_owned()
}

/// The suite's programs by the names of their files; built once, beside the tests' other clients.
fn programs() -> Vec<(String, PathBuf)> {
    let dir = bin_dir().join("clients/bollard");
    let source = source();
    let copy = dir.join(source.file_name().unwrap());
    if !copy.exists() {
        let fresh = dir.join("fresh");
        std::fs::create_dir_all(&dir).unwrap();
        // Cargo writes nothing beside what it keeps.
        output(Command::new("cp").arg("-r").arg("-T").arg(&source).arg(&fresh));
        // It lies below this workspace, and is none of its members.
        let mut manifest = std::fs::read_to_string(fresh.join("Cargo.toml")).unwrap();
        manifest.push_str("\n[workspace]\n");
        std::fs::write(fresh.join("Cargo.toml"), manifest).unwrap();
        std::fs::rename(&fresh, &copy).unwrap();
    }
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = Command::new(cargo);
    build.current_dir(&copy).args([
        "test",
        "--no-run",
        "--message-format=json",
        "--config",
        "profile.dev.debug=false",
    ]);
    build.args(FILES.iter().flat_map(|file| ["--test", file]));
    build.env("CARGO_TARGET_DIR", dir.join("target"));
    // What cargo tells the test that it runs is not for the suite's build.
    for (key, _) in std::env::vars_os() {
        if key
            .to_str()
            .is_some_and(|k| k.starts_with("CARGO_PKG") || k == "CARGO_MANIFEST_DIR" || k == "RUSTFLAGS")
        {
            build.env_remove(key);
        }
    }
    output(&mut build)
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|m| m["reason"] == "compiler-artifact" && m["profile"]["test"] == true)
        .filter_map(|m| {
            Some((m["target"]["name"].as_str()?.to_owned(), PathBuf::from(m["executable"].as_str()?)))
        })
        .collect()
}

/// The images that the suite pulls from a registry at localhost:5000.
fn images(d: &Daemon) {
    let mut tar = busybox_tar();
    tar.truncate(tar.len() - 1024);
    for dir in ["usr/sbin/", "www/", "etc/config/", "root/"] {
        entry(&mut tar, dir, b'5', 0o755, "", b"");
    }
    for (name, mode, text) in [
        ("hello", 0o755, "#!/bin/sh\necho\necho 'Hello from Docker!'\n"),
        ("usr/sbin/run_uhttpd", 0o755, "#!/bin/sh\nexec httpd -f -p 80 -h /www\n"),
        ("etc/config/uhttpd", 0o644, "\nconfig uhttpd main\n\toption home /www\n"),
        ("www/index.html", 0o644, "served\n"),
    ] {
        entry(&mut tar, name, b'0', mode, "", text.as_bytes());
    }
    finish(&mut tar);
    for (name, command) in [
        ("hello-world:linux", "/hello"),
        ("alpine:latest", "/bin/sh"),
        ("fussybeaver/uhttpd:latest", "/bin/sh"),
    ] {
        let name = format!("localhost:5000/{name}");
        let change = format!("CMD [\"{command}\"]");
        d.docker_with_input(&["import", "-c", &change, "-", &name], &tar).ok();
        d.docker(&["push", "-q", &name]).ok();
        d.docker(&["rmi", &name]).ok();
    }
}

#[test]
fn bollard_finds_what_it_expects() {
    let d = Daemon::start();
    let _registry = Registry::start(&d, 5000, Setup::default());
    images(&d);
    let expected: Vec<&str> = include_str!("../clients/bollard-0.21.expected")
        .lines()
        .filter(|l| !l.starts_with('#'))
        .filter_map(|l| l.split_once('|').map(|(name, _)| name))
        .collect();
    let (mut passed, mut failed, mut said) = (0, BTreeSet::new(), String::new());
    for (file, program) in programs() {
        let mut command = d.in_namespace(&program);
        // Pruning tests take what others use.
        command.args(["--test-threads", "1"]).current_dir(program.parent().unwrap());
        command.env("DOCKER_HOST", d.host()).env("HOME", d.path("."));
        let out = command.output().unwrap();
        let text =
            format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
        let mut outcomes = 0;
        for line in text.lines() {
            let Some((name, outcome)) = line.strip_prefix("test ").and_then(|l| l.split_once(" ... ")) else {
                continue;
            };
            outcomes += 1;
            match outcome.rsplit(' ').next() {
                Some("ok") => passed += 1,
                Some("ignored") => {}
                _ => drop(failed.insert(format!("{file}::{name}"))),
            }
        }
        // A file may have nothing to test without its feature.
        assert!(outcomes > 0 || text.contains("running 0 tests"), "{file}: {text}");
        said += &text;
    }
    println!("bollard: {passed} passed, {} failed as listed or not", failed.len());
    let surprises: Vec<&String> =
        failed.iter().filter(|name| !expected.iter().any(|e| name.starts_with(e))).collect();
    assert!(surprises.is_empty(), "not listed as failing: {surprises:#?}\n{said}");
    assert!(passed >= 30, "only {passed} tests passed\n{said}");
}
