//! Mounts between host and container: what appears on which side, what is read-only how deep, and races for a mount's place.

#![cfg(test)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use wharf_tests::image::{entry, finish};
use wharf_tests::{Daemon, Ran};

fn daemon() -> Daemon {
    let d = Daemon::start();
    d.import_busybox();
    d
}

fn sh(d: &Daemon, flags: &[&str], line: &str) -> Ran {
    let head = ["run", "--rm", "--network", "none"];
    d.docker(&[&head[..], flags, &["busybox", "sh", "-c", line]].concat())
}

#[track_caller]
fn host(line: &str) {
    let status = Command::new("sh").args(["-c", line]).status().unwrap();
    assert!(status.success(), "{line}");
}

/// A tmpfs of the host on a directory of the daemon's, taken off with all that lies on it.
struct Mounted(PathBuf);

impl Mounted {
    fn new(d: &Daemon, name: &str, propagation: &str) -> Self {
        let path = d.path(name);
        fs::create_dir_all(&path).unwrap();
        let text = path.display();
        host(&format!("mount -t tmpfs test {text} && mount --make-{propagation} {text}"));
        Self(path)
    }

    fn text(&self) -> String {
        self.0.display().to_string()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").args(["-R", "-l"]).arg(&self.0).status();
    }
}

#[test]
fn propagation_goes_the_ways_that_its_word_says() {
    let d = daemon();
    // Word, from the host into the container, from the container to the host.
    for (word, inwards, outwards) in [
        ("private", false, false),
        ("rprivate", false, false),
        ("slave", true, false),
        ("rslave", true, false),
        ("shared", true, true),
        ("rshared", true, true),
    ] {
        let place = Mounted::new(&d, "shared", "shared");
        for dir in ["in", "out"] {
            fs::create_dir(place.0.join(dir)).unwrap();
        }
        let mount = format!("type=bind,source={},target=/b,bind-propagation={word}", place.text());
        let id = d
            .docker(&[
                "run",
                "-d",
                "--network",
                "none",
                "--cap-add",
                "SYS_ADMIN",
                "--mount",
                &mount,
                "busybox",
                "sleep",
                "1000",
            ])
            .ok();
        host(&format!("mount -t tmpfs later {0}/in && touch {0}/in/f", place.text()));
        assert_eq!(
            d.docker(&["exec", &id, "ls", "/b/in/f"]).code == 0,
            inwards,
            "{word}: into the container"
        );
        d.docker(&["exec", &id, "sh", "-c", "mount -t tmpfs inner /b/out && touch /b/out/g"]).ok();
        assert_eq!(place.0.join("out/g").exists(), outwards, "{word}: out of the container");
        d.docker(&["rm", "-f", &id]).ok();
    }
    // What is not shared cannot be handed on.
    let alone = Mounted::new(&d, "alone", "private");
    fs::create_dir(alone.0.join("below")).unwrap();
    let text = alone.text();
    for (word, what) in [
        ("rshared", "shared"),
        ("shared", "shared"),
        ("rslave", "shared or slave"),
        ("slave", "shared or slave"),
    ] {
        let mount = format!("type=bind,source={text}/below,target=/b,bind-propagation={word}");
        sh(&d, &["--mount", &mount], "true")
            .fails(125, &format!("path {text}/below is mounted on {text} but it is not a {what} mount"));
    }
    let refused = d.api(
        "POST",
        "/containers/create",
        &json!({"Image": "busybox", "Cmd": ["true"], "HostConfig": {"Mounts": [{"Type": "bind", "Source": "/tmp", "Target": "/x",
            "BindOptions": {"Propagation": "sideways"}}]}})
        .to_string(),
    );
    assert_eq!(
        (refused.status, refused.message().as_str()),
        (400, "invalid mount config for type \"bind\": invalid propagation mode: sideways")
    );
}

#[test]
fn read_only_reaches_the_mounts_below() {
    let d = daemon();
    let place = Mounted::new(&d, "top", "private");
    let below = place.0.join("below");
    fs::create_dir(&below).unwrap();
    host(&format!("mount -t tmpfs below {}", below.display()));
    let source = place.text();
    let attempt = |flags: &[&str]| {
        let ran = sh(
            &d,
            flags,
            "touch /b/x 2>/dev/null && echo top; touch /b/below/x 2>/dev/null && echo below; true",
        );
        let left = (place.0.join("x").exists(), below.join("x").exists());
        for file in [place.0.join("x"), below.join("x")] {
            let _ = fs::remove_file(file);
        }
        assert_eq!(left, (ran.out.contains("top"), ran.out.contains("below")), "{ran:?}");
        left
    };
    let bind = |more: &str| format!("type=bind,source={source},target=/b{more}");
    assert_eq!(attempt(&["-v", &format!("{source}:/b")]), (true, true));
    assert_eq!(attempt(&["-v", &format!("{source}:/b:ro")]), (false, false));
    assert_eq!(attempt(&["--mount", &bind(",readonly")]), (false, false));
    assert_eq!(attempt(&["--mount", &bind(",readonly,bind-recursive=writable")]), (false, true));
    assert_eq!(
        attempt(&["--mount", &bind(",readonly,bind-recursive=readonly,bind-propagation=rprivate")]),
        (false, false)
    );
    // Not taken along at all.
    let alone = sh(&d, &["--mount", &bind(",bind-recursive=disabled")], "grep -c ' /b' /proc/mounts");
    assert_eq!(alone.ok(), "1");
    // Clients of before know nothing of it.
    let create = |version: &str, options: Value| {
        let body = json!({"Image": "busybox", "Cmd": ["touch", "/b/below/x"], "HostConfig": {"NetworkMode": "none",
            "Mounts": [{"Type": "bind", "Source": source, "Target": "/b", "ReadOnly": true, "BindOptions": options}]}});
        d.api("POST", &format!("/{version}/containers/create"), &body.to_string())
    };
    for (version, code) in [("v1.43", 0), ("v1.44", 1)] {
        let made: Value = create(version, Value::Null).json();
        assert_eq!(d.docker(&["start", "-a", made["Id"].as_str().unwrap()]).code, code, "{version}");
    }
    let both = create("v1.44", json!({"ReadOnlyNonRecursive": true, "ReadOnlyForceRecursive": true}));
    assert_eq!(
        (both.status, both.message().as_str()),
        (400, "mount options conflict: ReadOnlyNonRecursive && BindOptions.ReadOnlyForceRecursive")
    );
}

#[test]
fn what_inspect_says_is_what_is_mounted() {
    let d = daemon();
    let dir = d.path("dir");
    fs::create_dir(&dir).unwrap();
    let source = dir.display().to_string();
    d.docker(&[
        "create",
        "--name",
        "all",
        "-v",
        &format!("{source}:/bind:ro,Z"),
        "-v",
        "vol:/vol:nocopy",
        "-v",
        "/anon",
        "--mount",
        "type=tmpfs,target=/mem,tmpfs-size=1m",
        "--mount",
        "type=image,source=busybox,target=/img",
        "busybox",
        "true",
    ])
    .ok();
    let all: Value = d.api("GET", "/containers/all/json", "").json();
    let find = |place: &str| {
        all["Mounts"]
            .as_array()
            .unwrap()
            .iter()
            .find(|m| m["Destination"] == place)
            .unwrap_or(&Value::Null)
            .clone()
    };
    let bind = find("/bind");
    assert_eq!(
        (&bind["Type"], &bind["Source"], &bind["Mode"], &bind["RW"], &bind["Propagation"]),
        (&json!("bind"), &json!(source), &json!("ro,Z"), &json!(false), &json!("rprivate"))
    );
    let volume = find("/vol");
    assert_eq!(
        (&volume["Type"], &volume["Name"], &volume["Driver"], &volume["RW"], &volume["Mode"]),
        (&json!("volume"), &json!("vol"), &json!("local"), &json!(true), &json!("nocopy"))
    );
    assert!(Path::new(volume["Source"].as_str().unwrap()).is_dir(), "{volume}");
    assert_eq!(find("/anon")["Name"].as_str().unwrap().len(), 64);
    assert_eq!(
        (&find("/mem")["Type"], &find("/img")["Type"], &find("/img")["RW"]),
        (&json!("tmpfs"), &json!("image"), &json!(false))
    );
    // What others take from it: everything but memory; the order of the flags decides, and an own mount wins.
    d.docker(&["create", "--name", "second", "-v", "other:/vol", "busybox", "true"]).ok();
    let taken = |flags: &[&str]| d.docker(&[&["create"][..], flags, &["busybox", "true"]].concat()).ok();
    let names = |id: &str| -> Vec<String> {
        let one: Value = d.api("GET", &format!("/containers/{id}/json"), "").json();
        let mut all: Vec<String> = one["Mounts"]
            .as_array()
            .unwrap()
            .iter()
            .map(|m| {
                format!(
                    "{}={}{}",
                    m["Destination"].as_str().unwrap(),
                    m["Name"].as_str().or(m["Source"].as_str()).unwrap(),
                    if m["RW"] == true { "" } else { ":ro" }
                )
            })
            .filter(|m| m.starts_with("/vol") || m.starts_with("/bind"))
            .collect();
        all.sort();
        all
    };
    let (bind_ro, vol, other) =
        (format!("/bind={source}:ro"), "/vol=vol".to_owned(), "/vol=other".to_owned());
    assert_eq!(names(&taken(&["--volumes-from", "all"])), [bind_ro.clone(), vol.clone()]);
    assert_eq!(
        names(&taken(&["--volumes-from", "all", "--volumes-from", "second"])),
        [bind_ro.clone(), other]
    );
    assert_eq!(
        names(&taken(&["--volumes-from", "second", "--volumes-from", "all:ro"])),
        [bind_ro.clone(), format!("{vol}:ro")]
    );
    assert_eq!(
        names(&taken(&["--volumes-from", "all", "-v", "mine:/vol"])),
        [bind_ro, "/vol=mine".to_owned()]
    );
}

/// CVE-2021-30465 and its kin: while one container swaps the place of a mount for a link, another one is started with that
/// mount. Whatever wins, nothing of the host is made, covered or shown.
#[test]
fn a_mounts_place_is_swapped_for_a_link() {
    let d = daemon();
    let (outside, marker) = (d.path("outside"), d.path("marker"));
    for dir in [&outside, &marker] {
        fs::create_dir(dir).unwrap();
    }
    fs::write(outside.join("secret"), "of the host").unwrap();
    fs::write(marker.join("marker"), "").unwrap();
    // The link leads to the host's directory, were it followed there; inside the container there is nothing of that name.
    let swap = format!(
        "mkdir -p /v/a /v/real; ln -s {} /v/link; i=0; while true; do \
         mv -T /v/a /v/tmp; ln -s {} /v/a; rm /v/a; mv -T /v/tmp /v/a; done",
        outside.display(),
        outside.display()
    );
    let attacker =
        d.docker(&["run", "-d", "--network", "none", "-v", "shared:/v", "busybox", "sh", "-c", &swap]).ok();
    let before = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mut mounted = 0;
    for _ in 0..25 {
        let ran = sh(
            &d,
            &["-v", "shared:/v", "-v", &format!("{}:/v/a/x:ro", marker.display())],
            &format!("cat {}/secret; ls /v/a/x/marker; true", outside.display()),
        );
        assert!(!ran.out.contains("of the host"), "{ran:?}");
        mounted += usize::from(ran.out.contains("marker"));
    }
    d.docker(&["rm", "-f", &attacker]).ok();
    let left: Vec<_> = fs::read_dir(&outside).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["secret"], "something was made on the host");
    assert_eq!(fs::read_to_string(outside.join("secret")).unwrap(), "of the host");
    let own = |table: &str| table.lines().filter(|l| l.contains(&*d.path("").to_string_lossy())).count();
    assert_eq!(own(&fs::read_to_string("/proc/self/mountinfo").unwrap()), own(&before));
    assert!(mounted <= 25);
}

/// Images whose own directories are links to elsewhere.
#[test]
fn an_image_of_links_reaches_nothing() {
    let d = daemon();
    let outside = d.path("outside");
    fs::create_dir(&outside).unwrap();
    let away = format!("../../../../../../../..{}", outside.display());
    for name in ["dev", "proc", "sys", "etc", "data"] {
        let mut tar = Vec::new();
        let base = wharf_tests::image::busybox_tar();
        tar.extend_from_slice(&base[..base.len() - 1024]);
        if name == "etc" {
            // In place of the directory that the base has.
            tar.clear();
            let busybox = fs::read(
                ["/bin/busybox", "/usr/bin/busybox"].iter().find(|p| Path::new(p).exists()).unwrap(),
            )
            .unwrap();
            entry(&mut tar, "bin/", b'5', 0o755, "", b"");
            entry(&mut tar, "bin/busybox", b'0', 0o755, "", &busybox);
            entry(&mut tar, "bin/sh", b'2', 0o777, "busybox", b"");
        }
        entry(&mut tar, name, b'2', 0o777, &away, b"");
        finish(&mut tar);
        let image = format!("linked:{name}");
        d.docker_with_input(&["import", "-", &image], &tar).ok();
        for flags in [
            &[][..],
            &["-v", "/data/below"],
            &["--tmpfs", "/data/mem"],
            &["--mount", "type=volume,source=v,target=/data/vol"],
        ] {
            // It may start or be refused; neither touches the host.
            d.docker(
                &[&["run", "--rm", "--network", "none"][..], flags, &[&image, "/bin/busybox", "true"]]
                    .concat(),
            );
        }
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0, "{name}");
    }
}
