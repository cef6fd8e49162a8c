//! Images through the stock docker CLI: import, load, images, tag, rmi; and archives that are not what they say.

use wharf_tests::{Daemon, image};

#[test]
fn version_and_info_speak_to_the_stock_cli() {
    let d = Daemon::start();
    let version =
        d.docker(&["version", "--format", "{{.Server.Version}} {{.Server.APIVersion}} {{.Server.Os}}"]).ok();
    let words: Vec<&str> = version.split(' ').collect();
    assert_eq!(words.len(), 3, "{version}");
    assert!(words[0].split('.').count() >= 3, "semver: {version}");
    assert_eq!(words[2], "linux");
    let info = d.docker(&["info", "--format", "{{json .}}"]).ok();
    let info: serde_json::Value = serde_json::from_str(&info).unwrap();
    assert_eq!(info["OSType"], "linux");
    assert_eq!(info["Containers"], 0);
    assert_eq!(info["Swarm"]["LocalNodeState"], "inactive");
    assert!(info["NCPU"].as_u64().unwrap() >= 1);
    assert!(info["MemTotal"].as_u64().unwrap() > 0);
    let plugins = &info["Plugins"];
    for (kind, names) in [
        ("Volume", &["local"][..]),
        ("Network", &["bridge", "host", "null"]),
        ("Log", &["json-file", "local", "none"]),
    ] {
        let have = plugins[kind].as_array().unwrap_or_else(|| panic!("Plugins.{kind}: {plugins}"));
        for name in names {
            assert!(have.iter().any(|v| v == name), "{name} in {plugins}");
        }
    }
}

#[test]
fn import_tag_list_and_remove() {
    let d = Daemon::start();
    let id = d.import_busybox();
    assert!(id.starts_with("sha256:") && id.len() == 71, "{id}");
    d.docker(&["tag", "busybox", "registry.example:5000/team/bb:v1"]).ok();
    let list = d.docker(&["images", "--no-trunc", "--format", "{{.Repository}}:{{.Tag}} {{.ID}}"]).ok();
    let mut lines: Vec<&str> = list.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, [format!("busybox:latest {id}"), format!("registry.example:5000/team/bb:v1 {id}")]);
    let removed = d.docker(&["rmi", "registry.example:5000/team/bb:v1"]).ok();
    assert_eq!(removed, "Untagged: registry.example:5000/team/bb:v1");
    let removed = d.docker(&["rmi", "busybox"]).ok();
    assert!(
        removed.contains("Untagged: busybox:latest") && removed.contains(&format!("Deleted: {id}")),
        "{removed}"
    );
    assert_eq!(d.docker(&["images", "-q"]).ok(), "");
    d.docker(&["rmi", "busybox"]).fails(1, "No such image: busybox:latest");
}

#[test]
fn import_applies_changes() {
    let d = Daemon::start();
    let tar = image::busybox_tar();
    let args = [
        "import",
        "-c",
        "CMD [\"echo\",\"from cmd\"]",
        "-c",
        "ENV A=b",
        "-c",
        "WORKDIR /tmp",
        "-m",
        "made",
        "-",
        "x:y",
    ];
    d.docker_with_input(&args, &tar).ok();
    assert_eq!(d.docker(&["run", "--rm", "x:y"]).ok(), "from cmd");
    assert_eq!(d.docker(&["run", "--rm", "x:y", "sh", "-c", "echo $A $PWD"]).ok(), "b /tmp");
    let history = d.docker(&["history", "--format", "{{.Comment}}", "x:y"]).ok();
    assert!(history.contains("made"), "{history}");
}

#[test]
fn an_image_in_use_cannot_be_removed_without_force() {
    let d = Daemon::start();
    d.import_busybox();
    let c = d.docker(&["create", "--name", "user", "busybox", "true"]).ok();
    let short = &c[..12];
    let ran = d.docker(&["rmi", "busybox"]);
    ran.fails(1, "conflict: unable to remove repository reference \"busybox\" (must force)");
    assert!(ran.err.contains(short), "{}", ran.err);
    d.docker(&["rm", "user"]).ok();
    d.docker(&["rmi", "busybox"]).ok();
}

/// A docker archive as `docker save` of other engines writes it: two layers, the second hides a file of the first.
fn archive(repo: &str) -> Vec<u8> {
    let mut second = Vec::new();
    image::entry(&mut second, "etc/.wh.group", b'0', 0o644, "", b"");
    image::entry(&mut second, "hello.txt", b'0', 0o644, "", b"hello\n");
    image::finish(&mut second);
    image::docker_archive(repo, &[image::busybox_tar(), second])
}

#[test]
fn load_a_docker_archive_with_whiteouts() {
    let d = Daemon::start();
    let loaded = d.docker_with_input(&["load"], &archive("two:layers")).ok();
    assert_eq!(loaded, "Loaded image: two:layers");
    assert_eq!(d.docker(&["run", "--rm", "two:layers"]).ok(), "hello");
    assert_eq!(
        d.docker(&["run", "--rm", "two:layers", "ls", "/etc/passwd", "/etc/group"]).out,
        "/etc/passwd\n"
    );
    let created =
        d.docker(&["image", "inspect", "-f", "{{.Created}} {{len .RootFS.Layers}}", "two:layers"]).ok();
    assert_eq!(created, "2024-05-01T10:00:00Z 2");
}

/// Disk used below the data root, in KiB.
fn disk(d: &Daemon) -> u64 {
    let out = std::process::Command::new("du").arg("-sk").arg(d.path("data")).output().unwrap();
    String::from_utf8_lossy(&out.stdout).split_whitespace().next().unwrap().parse().unwrap()
}

#[test]
fn corrupt_and_truncated_archives_change_nothing() {
    let d = Daemon::start();
    let before = disk(&d);
    let whole = archive("never:seen");
    let mut flipped = whole.clone();
    // Inside the first layer's content, so that its digest no longer matches.
    flipped[200_000] ^= 1;
    for (what, bytes) in [
        ("half", &whole[..whole.len() / 2]),
        ("flipped", &flipped[..]),
        ("noise", &[0x55; 9000][..]),
        ("empty", b""),
    ] {
        let ran = d.docker_with_input(&["load"], bytes);
        assert!(ran.code != 0 || !ran.out.contains("Loaded"), "{what}: {}", ran.out);
        assert_eq!(d.docker(&["images", "-aq"]).ok(), "", "{what}");
    }
    let tar = image::busybox_tar();
    let ran = d.docker_with_input(&["import", "-", "half:import"], &tar[..tar.len() / 2]);
    assert_ne!(ran.code, 0, "{}", ran.out);
    assert_eq!(d.docker(&["images", "-aq"]).ok(), "");
    let after = wharf_tests::eventually("the space to be given back", || {
        let now = disk(&d);
        (now < before + 400).then_some(now)
    });
    assert!(after < before + 400);
    // The store still works.
    assert_eq!(d.docker_with_input(&["load"], &whole).ok(), "Loaded image: never:seen");
    assert_eq!(d.docker(&["run", "--rm", "never:seen"]).ok(), "hello");
}

#[test]
fn hostile_layers_stay_inside() {
    let d = Daemon::start();
    let victim = d.path("victim");
    std::fs::write(&victim, "untouched").unwrap();
    let up = "../".repeat(20) + victim.to_str().unwrap().trim_start_matches('/');
    for (what, build) in [
        (
            "dot dot",
            (|out: &mut Vec<u8>, up: &str, _: &str| image::entry(out, up, b'0', 0o644, "", b"evil"))
                as fn(&mut Vec<u8>, &str, &str),
        ),
        ("link then file", |out, up, _| {
            image::entry(out, "l", b'2', 0o777, up, b"");
            image::entry(out, "l", b'0', 0o644, "", b"evil");
        }),
        ("link directory then file", |out, _, dir| {
            image::entry(out, "d", b'2', 0o777, dir, b"");
            image::entry(out, "d/victim", b'0', 0o644, "", b"evil");
        }),
        ("hard link out", |out, up, _| {
            image::entry(out, "h", b'1', 0o644, up, b"");
            image::entry(out, "h", b'0', 0o644, "", b"evil");
        }),
        ("whiteout out", |out, up, _| {
            image::entry(out, &up.replace("victim", ".wh.victim"), b'0', 0o644, "", b"")
        }),
    ] {
        let mut tar = Vec::new();
        build(&mut tar, &up, victim.parent().unwrap().to_str().unwrap());
        image::finish(&mut tar);
        // Whether it is refused or kept inside is the daemon's choice.
        d.docker_with_input(&["import", "-"], &tar);
        assert_eq!(std::fs::read_to_string(&victim).unwrap(), "untouched", "{what}");
    }
}
