//! Everything that can be mounted into a container, through the stock docker CLI.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use wharf_tests::{Daemon, Ran};

fn daemon() -> Daemon {
    let d = Daemon::start();
    d.import_busybox();
    d
}

/// Runs `sh -c line` in a new container with these flags.
fn sh(d: &Daemon, flags: &[&str], line: &str) -> Ran {
    let head = ["run", "--rm", "--network", "none"];
    d.docker(&[&head[..], flags, &["busybox", "sh", "-c", line]].concat())
}

#[test]
fn image_mounts_are_read_only_and_may_show_a_directory() {
    let d = daemon();
    let shown =
        sh(&d, &["--mount", "type=image,source=busybox,target=/img"], "cat /img/etc/group; touch /img/x");
    assert!(shown.out.starts_with("root:x:0:"), "{shown:?}");
    assert!(shown.err.contains("Read-only file system"), "{shown:?}");
    let body = |sub: &str| {
        serde_json::json!({"Image": "busybox", "Cmd": ["ls", "/img"], "HostConfig": {"NetworkMode": "none", "Mounts":
            [{"Type": "image", "Source": "busybox", "Target": "/img", "ImageOptions": {"Subpath": sub}}]}})
        .to_string()
    };
    assert_eq!(d.api("POST", "/containers/create?name=sub", &body("etc")).status, 201);
    assert_eq!(d.docker(&["start", "-a", "sub"]).ok(), "group\npasswd");
    let mounts =
        d.docker(&["inspect", "-f", "{{(index .Mounts 0).Type}} {{(index .Mounts 0).RW}}", "sub"]).ok();
    assert_eq!(mounts, "image false");
    let refused = d.api("POST", "/containers/create", &body("../etc"));
    assert_eq!(
        (refused.status, refused.message()),
        (
            400,
            "invalid mount config for type \"image\": subpath must be a relative path within the image"
                .into()
        )
    );
    let missing = d.api(
        "POST",
        "/containers/create",
        &body("etc").replace("\"Source\":\"busybox\"", "\"Source\":\"nosuch\""),
    );
    assert_eq!((missing.status, missing.message()), (404, "No such image: nosuch:latest".into()));
    assert_eq!(d.api("POST", "/containers/create?name=gone", &body("nosuch")).status, 201);
    assert!(d.docker(&["start", "gone"]).code != 0);
}

#[test]
fn volumes_by_option_and_subpath_and_from_others() {
    let d = daemon();
    let host = d.path("given");
    fs::create_dir_all(host.join("below")).unwrap();
    fs::write(host.join("below/file"), "f").unwrap();
    let device = format!("device={}", host.display());
    d.docker(&["volume", "create", "-o", "type=none", "-o", "o=bind", "-o", &device, "bound"]).ok();
    assert_eq!(sh(&d, &["-v", "bound:/v"], "cat /v/below/file; echo new > /v/made").ok(), "f");
    assert_eq!(fs::read_to_string(host.join("made")).unwrap(), "new\n");
    // A directory of a volume alone, which must be there and inside.
    d.docker(&["volume", "create", "plain"]).ok();
    sh(&d, &["-v", "plain:/v"], "mkdir -p /v/a/b; echo x > /v/a/b/f; ln -s / /v/out; ln -s a /v/in").ok();
    let sub = |path: &str| format!("type=volume,source=plain,target=/s,volume-subpath={path}");
    assert_eq!(sh(&d, &["--mount", &sub("a/b")], "ls /s").ok(), "f");
    for bad in ["nosuch", "out", "out/etc"] {
        let ran = sh(&d, &["--mount", &sub(bad)], "ls /s");
        assert!(ran.code != 0, "{bad}: {ran:?}");
    }
    sh(&d, &["--mount", &sub("../x")], "true")
        .fails(125, "subpath must be a relative path within the volume");
    // All mounts of other containers, read-only where that is said.
    d.docker(&[
        "create",
        "--name",
        "donor",
        "-v",
        "plain:/v",
        "-v",
        "/anon",
        "--network",
        "none",
        "busybox",
        "true",
    ])
    .ok();
    assert_eq!(sh(&d, &["--volumes-from", "donor"], "ls -d /v/a /anon; touch /v/t").ok(), "/anon\n/v/a");
    let ro = sh(&d, &["--volumes-from", "donor:ro"], "touch /v/t2");
    assert!(ro.err.contains("Read-only"), "{ro:?}");
    sh(&d, &["--volumes-from", "nobody"], "true").fails(125, "No such container: nobody");
}

#[test]
fn a_new_volume_takes_what_the_image_has_there() {
    let d = daemon();
    d.docker(&["run", "--name", "maker", "--network", "none", "busybox", "sh", "-c",
        "mkdir -p /seed/dir; echo s > /seed/dir/f; ln -s dir/f /seed/l; chown -R 1000:50 /seed; chmod 750 /seed"]).ok();
    d.docker(&["commit", "maker", "seeded:1"]).ok();
    let run = |flags: &[&str], line: &str| {
        let head = ["run", "--rm", "--network", "none"];
        d.docker(&[&head[..], flags, &["seeded:1", "sh", "-c", line]].concat()).ok()
    };
    let look = "stat -c %a:%u:%g /seed; cat /seed/l; stat -c %u:%g /seed/dir/f";
    assert_eq!(run(&["-v", "copied:/seed"], look), "750:1000:50\ns\n1000:50");
    // Only the first time, and not where it is not wanted.
    assert_eq!(run(&["-v", "copied:/seed"], "rm -r /seed/*; ls -A /seed"), "");
    assert_eq!(run(&["-v", "copied:/seed"], "ls -A /seed"), "");
    assert_eq!(run(&["-v", "empty:/seed:nocopy"], "ls -A /seed"), "");
    assert_eq!(run(&["-v", "/seed"], "cat /seed/dir/f"), "s");
}

#[test]
fn binds_read_only_recursive_and_propagation_words() {
    let d = daemon();
    let host = d.path("host");
    fs::create_dir_all(&host).unwrap();
    let bind = |more: &str| format!("type=bind,source={},target=/b{more}", host.display());
    assert_eq!(sh(&d, &["--mount", &bind("")], "touch /b/made").code, 0);
    assert!(host.join("made").exists());
    let ro = sh(&d, &["--mount", &bind(",readonly")], "touch /b/x");
    assert!(ro.err.contains("Read-only file system"), "{ro:?}");
    assert!(!host.join("x").exists());
    for word in ["private", "rprivate"] {
        let line = "grep ' /b ' /proc/self/mountinfo";
        let shown = sh(&d, &["--mount", &bind(&format!(",bind-propagation={word}"))], line).ok();
        assert!(!shown.contains("master:") && !shown.contains("shared:"), "{shown}");
    }
    // `-v` makes what is missing, `--mount` does not.
    let missing = d.path("missing");
    let text = missing.display().to_string();
    sh(&d, &["--mount", &format!("type=bind,source={text},target=/b")], "true").fails(
        125,
        &format!("invalid mount config for type \"bind\": bind source path does not exist: {text}"),
    );
    assert!(!missing.exists());
    sh(&d, &["-v", &format!("{text}:/b")], "true").ok();
    assert!(missing.is_dir());
    // A single file.
    let file = d.path("single");
    fs::write(&file, "one\n").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    assert_eq!(sh(&d, &["-v", &format!("{}:/etc/single:ro", file.display())], "cat /etc/single").ok(), "one");
}

#[test]
fn tmpfs_with_its_options() {
    let d = daemon();
    let shown = sh(
        &d,
        &["--tmpfs", "/t:size=64k,mode=1770,uid=1000,exec"],
        "stat -c %a:%u /t; grep ' /t ' /proc/mounts",
    )
    .ok();
    assert!(shown.starts_with("1770:1000\n") && shown.contains("size=64k"), "{shown}");
    assert!(shown.contains("nosuid") && shown.contains("nodev") && !shown.contains("noexec"), "{shown}");
    let full = sh(
        &d,
        &["--mount", "type=tmpfs,target=/t,tmpfs-size=65536,tmpfs-mode=0700"],
        "stat -c %a /t; head -c 100000 /dev/zero > /t/f",
    );
    assert!(full.out.starts_with("700") && full.code == 1, "{full:?}");
    sh(&d, &["--tmpfs", "/t:nonsense"], "true").fails(125, "invalid tmpfs option");
}

#[test]
fn errors_of_mounts_are_dockers() {
    let d = daemon();
    let create = |mount: serde_json::Value| {
        let body =
            serde_json::json!({"Image": "busybox", "Cmd": ["true"], "HostConfig": {"Mounts": [mount]}});
        let answer = d.api("POST", "/v1.48/containers/create", &body.to_string());
        assert_eq!(answer.status, 400, "{}", answer.text());
        answer.message()
    };
    let json = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
    for (mount, message) in [
        (
            r#"{"Type": "bind", "Source": "/x"}"#,
            "invalid mount config for type \"bind\": field Target must not be empty",
        ),
        (
            r#"{"Type": "bind", "Target": "/x"}"#,
            "invalid mount config for type \"bind\": field Source must not be empty",
        ),
        (
            r#"{"Type": "bind", "Source": "x", "Target": "/x"}"#,
            "invalid mount config for type \"bind\": invalid mount path: 'x' mount path must be absolute",
        ),
        (
            r#"{"Type": "bind", "Source": "/nosuch-dir", "Target": "/x"}"#,
            "invalid mount config for type \"bind\": bind source path does not exist: /nosuch-dir",
        ),
        (
            r#"{"Type": "volume", "Source": "v", "Target": "/x", "BindOptions": {}}"#,
            "invalid mount config for type \"volume\": field BindOptions must not be specified",
        ),
        (
            r#"{"Type": "tmpfs", "Source": "/x", "Target": "/x"}"#,
            "invalid mount config for type \"tmpfs\": field Source must not be specified",
        ),
        (
            r#"{"Type": "tmpfs", "Target": "/x", "TmpfsOptions": {"Mode": 65536}}"#,
            "invalid mount config for type \"tmpfs\": invalid mode 200000",
        ),
        (
            r#"{"Type": "image", "Target": "/x"}"#,
            "invalid mount config for type \"image\": field Source must not be empty",
        ),
        (
            r#"{"Type": "nonsense", "Target": "/x"}"#,
            "invalid mount config for type \"nonsense\": mount type unknown",
        ),
        (
            r#"{"Type": "volume", "Target": "/x", "VolumeOptions": {"Subpath": "a"}}"#,
            "invalid mount config for type \"volume\": must not set Subpath when using anonymous volumes",
        ),
    ] {
        assert_eq!(create(json(mount)), message, "{mount}");
    }
    sh(&d, &["-v", "/tmp:/a", "-v", "/var:/a"], "true").fails(125, "Duplicate mount point: /a");
    sh(&d, &["-v", "/tmp:/a:nonsense"], "true").fails(125, "invalid mode: nonsense");
    sh(&d, &["-v", "/tmp:/proc/x"], "true").fails(125, "cannot be mounted because it is inside /proc");
}
