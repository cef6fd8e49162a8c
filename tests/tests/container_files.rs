//! Files in and out of containers: `docker cp`, `PUT`/`GET`/`HEAD /archive`, `export`, `diff`, `commit`.

use std::fs;
use std::io::{BufReader, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixStream;
use std::path::Path;

use serde_json::Value;
use wharf_tests::image::{entry, finish};
use wharf_tests::{Daemon, http};

fn daemon() -> Daemon {
    let d = Daemon::start();
    d.import_busybox();
    d
}

fn running(d: &Daemon, name: &str, args: &[&str]) -> String {
    let head = ["run", "-d", "--name", name, "--network", "none"];
    d.docker(&[&head[..], args, &["busybox", "sleep", "600"]].concat()).ok()
}

/// One request whose body is bytes.
fn put(d: &Daemon, path: &str, body: &[u8]) -> http::Response {
    let mut stream = UnixStream::connect(d.socket()).unwrap();
    stream.set_read_timeout(Some(wharf_tests::PATIENCE)).unwrap();
    let head = format!(
        "PUT {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    // A request that is refused at once need not be read to its end.
    let _ = stream.write_all(body);
    http::read_response(&mut BufReader::new(stream), false).unwrap()
}

fn stat(response: &http::Response) -> Value {
    use std::process::{Command, Stdio};
    let header = response.header("x-docker-container-path-stat").expect("the stat header");
    let mut decode =
        Command::new("base64").arg("-d").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    decode.stdin.take().unwrap().write_all(header.as_bytes()).unwrap();
    serde_json::from_slice(&decode.wait_with_output().unwrap().stdout).unwrap()
}

fn entries(tar: &[u8]) -> Vec<(String, tar::EntryType, Vec<u8>)> {
    let mut archive = tar::Archive::new(tar);
    archive
        .entries()
        .unwrap()
        .map(|e| {
            let mut e = e.unwrap();
            let mut data = Vec::new();
            e.read_to_end(&mut data).unwrap();
            (String::from_utf8_lossy(&e.path_bytes()).into_owned(), e.header().entry_type(), data)
        })
        .collect()
}

fn names(tar: &[u8]) -> Vec<String> {
    entries(tar).into_iter().map(|(name, ..)| name).collect()
}

#[test]
fn docker_cp_both_ways_on_created_running_paused_and_stopped_containers() {
    let d = daemon();
    let from = d.path("from");
    fs::create_dir_all(from.join("dir/deep")).unwrap();
    fs::write(from.join("dir/deep/file"), "deep").unwrap();
    fs::write(from.join("plain"), "plain\n").unwrap();
    fs::set_permissions(from.join("plain"), fs::Permissions::from_mode(0o640)).unwrap();
    symlink("plain", from.join("link")).unwrap();
    let path = |name: &str| from.join(name).display().to_string();
    d.docker(&["create", "--name", "box", "--network", "none", "busybox", "sleep", "600"]).ok();
    for (state, step) in [
        ("created", None),
        ("running", Some(vec!["start", "box"])),
        ("paused", Some(vec!["pause", "box"])),
        ("exited", Some(vec!["rm", "-f", "helper"])),
    ] {
        match (state, step) {
            ("exited", _) => {
                d.docker(&["unpause", "box"]).ok();
                d.docker(&["kill", "box"]).ok();
            }
            (_, Some(step)) => {
                d.docker(&step).ok();
            }
            _ => {}
        }
        assert_eq!(d.docker(&["inspect", "-f", "{{.State.Status}}", "box"]).ok(), state);
        let inside = format!("/tmp/{state}");
        d.docker(&["cp", &path("dir"), &format!("box:{inside}")]).ok();
        d.docker(&["cp", &path("plain"), &format!("box:{inside}/renamed")]).ok();
        d.docker(&["cp", &path("link"), &format!("box:{inside}/")]).ok();
        // A directory's content into an existing one, and a directory into it.
        d.docker(&["cp", &format!("{}/.", path("dir")), &format!("box:{inside}")]).ok();
        d.docker(&["cp", &path("dir"), &format!("box:{inside}")]).ok();
        let to = d.path(&format!("to-{state}"));
        d.docker(&["cp", &format!("box:{inside}"), &to.display().to_string()]).ok();
        assert_eq!(fs::read_to_string(to.join("deep/file")).unwrap(), "deep");
        assert_eq!(fs::read_to_string(to.join("dir/deep/file")).unwrap(), "deep");
        assert_eq!(fs::read_to_string(to.join("renamed")).unwrap(), "plain\n");
        assert_eq!(fs::metadata(to.join("renamed")).unwrap().mode() & 0o7777, 0o640);
        assert_eq!(fs::read_link(to.join("link")).unwrap(), Path::new("plain"));
        // One file, to standard output and to a name.
        let tar = d.docker_command(&["cp", &format!("box:{inside}/renamed"), "-"]).output().unwrap().stdout;
        assert_eq!(entries(&tar), [("renamed".into(), tar::EntryType::Regular, b"plain\n".to_vec())]);
        d.docker(&["cp", "box:/nosuch", "-"]).fails(1, "Could not find the file /nosuch in container box");
        d.docker(&["cp", &path("plain"), "box:/nosuch/x"])
            .fails(1, "Could not find the file /nosuch in container box");
        if state == "running" {
            assert_eq!(d.docker(&["exec", "box", "cat", "/tmp/running/renamed"]).ok(), "plain");
        }
    }
    d.docker(&["cp", "box:/etc/hostname", "-"]).ok();
    d.docker(&["cp", "nobody:/x", "-"]).fails(1, "No such container: nobody");
}

#[test]
fn the_stat_header_says_what_go_would() {
    let d = daemon();
    running(&d, "box", &[]);
    d.docker(&[
        "exec",
        "box",
        "sh",
        "-c",
        "mkdir -p /d/e && echo hello > /d/file && chmod 4750 /d/file && touch -d @1700000000 /d/file && \
         ln -s ../d/file /d/link && ln -s /d /top && ln -s nowhere /d/broken && mkfifo /d/pipe",
    ])
    .ok();
    for (path, name, mode, size, target) in [
        ("/d/file", "file", 0x0080_0000_u32 | 0o750, Some(6), ""),
        ("d/file", "file", 0x0080_0000 | 0o750, Some(6), ""),
        ("/top/file", "file", 0x0080_0000 | 0o750, Some(6), ""),
        ("/d", "d", 0x8000_0000 | 0o755, None, ""),
        ("/d/link", "link", 0x0800_0000 | 0o777, None, "/d/file"),
        ("/d/broken", "broken", 0x0800_0000 | 0o777, None, "/d/nowhere"),
        ("/top", "top", 0x0800_0000 | 0o777, None, "/d"),
        ("/top/", "top", 0x8000_0000 | 0o755, None, ""),
        ("/top/.", ".", 0x8000_0000 | 0o755, None, ""),
        ("/d/pipe", "pipe", 0x0200_0000 | 0o644, None, ""),
        ("/tmp", "tmp", 0x8010_0000 | 0o777, None, ""),
        ("/", "/", 0x8000_0000 | 0o755, None, ""),
        ("/../../etc/passwd", "passwd", 0o644, None, ""),
    ] {
        let response = d.api("HEAD", &format!("/v1.47/containers/box/archive?path={path}"), "");
        assert_eq!(response.status, 200, "{path}");
        let found = stat(&response);
        assert_eq!(found["name"], name, "{path}");
        assert_eq!(found["mode"], mode, "{path}: {found}");
        assert_eq!(found["linkTarget"], target, "{path}");
        if let Some(size) = size {
            assert_eq!((&found["size"], &found["mtime"]), (&size.into(), &"2023-11-14T22:13:20Z".into()));
        }
        if path != "/" {
            let got = d.api("GET", &format!("/v1.47/containers/box/archive?path={path}"), "");
            assert_eq!((got.status, got.header("content-type")), (200, Some("application/x-tar")));
            assert_eq!(stat(&got), found);
        }
    }
    let missing = d.api("HEAD", "/containers/box/archive?path=/nosuch", "");
    assert_eq!(missing.status, 404);
    let missing = d.api("GET", "/containers/box/archive?path=/d/file/x", "");
    assert_eq!(
        (missing.status, missing.message()),
        (404, "Could not find the file /d/file/x in container box".into())
    );
    assert_eq!(d.api("GET", "/containers/box/archive", "").status, 400);
    let links = d.api("GET", "/containers/box/archive?path=/d", "");
    assert_eq!(names(&links.body), ["d/", "d/broken", "d/e/", "d/file", "d/link", "d/pipe"]);
    let dot = d.api("GET", "/containers/box/archive?path=/d/.", "");
    assert_eq!(names(&dot.body)[..2], ["./", "./broken"]);
    let link = d.api("GET", "/containers/box/archive?path=/top", "");
    assert_eq!(entries(&link.body)[0].1, tar::EntryType::Symlink);
}

#[test]
fn uploads_plain_and_compressed_with_their_rules() {
    let d = daemon();
    running(&d, "box", &["--user", "1000:1000"]);
    let mut plain = Vec::new();
    entry(&mut plain, "new/", b'5', 0o750, "", b"");
    entry(&mut plain, "new/file", b'0', 0o600, "", b"content");
    entry(&mut plain, "new/again", b'1', 0o600, "new/file", b"");
    entry(&mut plain, "new/.wh.name", b'0', 0o600, "", b"only a name");
    finish(&mut plain);
    let raw = d.path("plain.tar");
    fs::write(&raw, &plain).unwrap();
    for tool in ["cat", "gzip", "xz", "zstd", "bzip2"] {
        let Ok(packed) = std::process::Command::new(tool)
            .args(if tool == "cat" { &[][..] } else { &["-c"] })
            .arg(&raw)
            .output()
        else {
            assert_eq!(tool, "zstd", "{tool} is missing");
            continue;
        };
        d.docker(&["exec", "-u", "0", "box", "rm", "-rf", "/tmp/new"]).ok();
        let response = put(&d, "/containers/box/archive?path=/tmp", &packed.stdout);
        assert_eq!(response.status, 200, "{tool}: {}", response.text());
        let shown = d
            .docker(&[
                "exec",
                "-u",
                "0",
                "box",
                "sh",
                "-c",
                "cat /tmp/new/again; stat -c %a:%u:%h /tmp/new/file; ls -A /tmp/new",
            ])
            .ok();
        assert_eq!(shown, "content600:0:2\n.wh.name\nagain\nfile", "{tool}");
    }
    // Who it belongs to.
    assert_eq!(put(&d, "/containers/box/archive?path=/tmp&copyUIDGID=1", &plain).status, 200);
    assert_eq!(d.docker(&["exec", "box", "stat", "-c", "%u:%g", "/tmp/new/file"]).ok(), "1000:1000");
    // A file in the place of a directory, and the other way round.
    let mut file = Vec::new();
    entry(&mut file, "new", b'0', 0o644, "", b"x");
    finish(&mut file);
    let refused = put(&d, "/containers/box/archive?path=/tmp&noOverwriteDirNonDir=true", &file);
    assert_eq!(refused.status, 400);
    assert_eq!(refused.message(), "cannot overwrite directory \"/tmp/new\" with non-directory \"/tmp\"");
    assert_eq!(put(&d, "/containers/box/archive?path=/tmp", &file).status, 200);
    let refused = put(&d, "/containers/box/archive?path=/tmp&noOverwriteDirNonDir=1", &plain);
    assert_eq!(refused.message(), "cannot overwrite non-directory \"/tmp/new\" with directory \"/tmp\"");
    assert_eq!(put(&d, "/containers/box/archive?path=/tmp", &plain).status, 200);
    // Where there is no directory.
    let refused = put(&d, "/containers/box/archive?path=/etc/passwd", &plain);
    assert_eq!((refused.status, refused.message()), (400, "extraction point is not a directory".into()));
    assert_eq!(put(&d, "/containers/box/archive?path=/nosuch", &plain).status, 404);
    // An empty body is an empty archive; one without its end marker is taken too.
    assert_eq!(put(&d, "/containers/box/archive?path=/tmp", b"").status, 200);
    assert_eq!(put(&d, "/containers/box/archive?path=/tmp", &plain[..plain.len() - 1024]).status, 200);
    // Garbage and a torn archive are not.
    assert_eq!(put(&d, "/containers/box/archive?path=/tmp", &[b'x'; 2000]).status, 400);
    assert_eq!(put(&d, "/containers/box/archive?path=/tmp", &plain[..1500]).status, 400);
    // The events of all that.
    wharf_tests::eventually("ten events", || {
        let args = ["events", "--since", "1h", "--until", "0s", "--filter", "event=extract-to-dir"];
        let events = d.docker(&[&args[..], &["--format", "{{.Actor.Attributes.name}}"]].concat()).ok();
        (events.lines().filter(|l| *l == "box").count() == 10).then_some(())
    });
}

#[test]
fn volumes_and_binds_are_part_of_the_files_and_read_only_ones_are_not_written() {
    let d = daemon();
    let host = d.path("shared");
    fs::create_dir(&host).unwrap();
    fs::write(host.join("from-host"), "h").unwrap();
    let bind = format!("{}:/shared", host.display());
    let frozen = format!("{}:/frozen:ro", host.display());
    for (name, start) in [("run", true), ("new", false)] {
        let volume = format!("{name}-data:/data");
        let args = [
            "create",
            "--name",
            name,
            "--network",
            "none",
            "-v",
            &bind,
            "-v",
            &frozen,
            "-v",
            &volume,
            "-v",
            "anon:/data/below",
            "busybox",
            "sleep",
            "600",
        ];
        d.docker(&args).ok();
        if start {
            d.docker(&["start", name]).ok();
        }
        let file = d.path("payload");
        fs::write(&file, name).unwrap();
        let file = file.display().to_string();
        d.docker(&["cp", &file, &format!("{name}:/data/in-volume")]).ok();
        d.docker(&["cp", &file, &format!("{name}:/data/below/in-other")]).ok();
        d.docker(&["cp", &file, &format!("{name}:/shared/{name}")]).ok();
        assert_eq!(fs::read_to_string(host.join(name)).unwrap(), name);
        let tar = d.docker_command(&["cp", &format!("{name}:/data"), "-"]).output().unwrap().stdout;
        let mut found = names(&tar);
        found.sort();
        assert_eq!(found, ["data/", "data/below/", "data/below/in-other", "data/in-volume"]);
        d.docker(&["cp", &file, &format!("{name}:/frozen/x")]).fails(1, "mounted volume is marked read-only");
        assert!(!host.join("x").exists());
        // The volume holds it, not the file system under it.
        let shown = d
            .docker(&["run", "--rm", "--network", "none", "-v", &volume, "busybox", "cat", "/data/in-volume"])
            .ok();
        assert_eq!(shown, name);
        let tar = d.api("GET", &format!("/containers/{name}/export"), "");
        assert!(!names(&tar.body).iter().any(|n| n.contains("in-volume") || n.contains("from-host")));
    }
    running(&d, "ro", &["--read-only", "-v", "rw:/w"]);
    let file = d.path("payload").display().to_string();
    d.docker(&["cp", &file, "ro:/tmp/x"]).fails(1, "container rootfs is marked read-only");
    d.docker(&["cp", &file, "ro:/w/x"]).ok();
}

#[test]
fn links_and_archives_made_to_do_harm_stay_inside() {
    let d = daemon();
    let secret = d.path("secret");
    fs::create_dir(&secret).unwrap();
    fs::write(secret.join("file"), "secret").unwrap();
    running(&d, "box", &[]);
    let secret_text = secret.display().to_string();
    d.docker(&["exec", "box", "sh", "-c", &format!(
        "ln -s {secret_text} /out; ln -s ../../../../../../../..{secret_text} /up; ln -s /proc/1/root /magic; ln -s /l2 /l1; ln -s /l1 /l2"
    )]).ok();
    // The host's directory of that name is not the container's.
    for path in ["/out/file", "/up/file", "/out/", "/magic/etc/passwd"] {
        let response = d.api("GET", &format!("/containers/box/archive?path={path}"), "");
        assert_eq!(response.status, 404, "{path}: {}", response.text());
    }
    assert_eq!(d.api("GET", "/containers/box/archive?path=/l1/x", "").status, 500);
    let mut tar = Vec::new();
    entry(&mut tar, "evil", b'0', 0o644, "", b"evil");
    finish(&mut tar);
    for path in ["/out", "/up", "/magic/tmp"] {
        assert_eq!(put(&d, &format!("/containers/box/archive?path={path}"), &tar).status, 404, "{path}");
    }
    // Entries that climb, and a link that later entries go through.
    let mut climb = Vec::new();
    entry(&mut climb, "../../evil", b'0', 0o644, "", b"evil");
    finish(&mut climb);
    let refused = put(&d, "/containers/box/archive?path=/tmp", &climb);
    assert_eq!(refused.status, 400);
    assert!(refused.message().contains("outside"), "{}", refused.message());
    let mut through = Vec::new();
    entry(&mut through, "door", b'2', 0o777, &secret_text, b"");
    entry(&mut through, "door/evil", b'0', 0o644, "", b"evil");
    finish(&mut through);
    put(&d, "/containers/box/archive?path=/tmp", &through);
    let mut hard = Vec::new();
    entry(&mut hard, "stolen", b'1', 0o644, &format!("../..{secret_text}/file"), b"");
    finish(&mut hard);
    assert_eq!(put(&d, "/containers/box/archive?path=/tmp", &hard).status, 400);
    assert_eq!(fs::read_dir(&secret).unwrap().count(), 1, "something was written outside of the container");
}

#[test]
fn a_container_that_swaps_directories_for_links_gets_nothing_out_of_a_copy() {
    let d = daemon();
    let secret = d.path("secret");
    fs::create_dir_all(secret.join("dir")).unwrap();
    fs::write(secret.join("dir/file"), "secret of the host").unwrap();
    let target = secret.display().to_string();
    d.docker(&[
        "run",
        "-d",
        "--name",
        "box",
        "--network",
        "none",
        "busybox",
        "sh",
        "-c",
        &format!(
            "mkdir -p /w/a/dir /w/keep; echo own > /w/a/dir/file; ln -s {target} /w/b; \
         while :; do mv /w/a /w/t; mv /w/b /w/a; mv /w/t /w/b; mv /w/a /w/t; mv /w/b /w/a; mv /w/t /w/b; done"
        ),
    ])
    .ok();
    let mut upload = Vec::new();
    entry(&mut upload, "dir/", b'5', 0o755, "", b"");
    entry(&mut upload, "dir/planted", b'0', 0o644, "", b"x");
    finish(&mut upload);
    for _ in 0..150 {
        for path in ["/w", "/w/a/dir/file", "/w/a", "/w/a/"] {
            let got = d.api("GET", &format!("/containers/box/archive?path={path}"), "");
            assert!(!String::from_utf8_lossy(&got.body).contains("secret of the host"), "{path}");
            assert!(got.status == 200 || got.status == 404, "{path}: {}", got.text());
        }
        let answer = put(&d, "/containers/box/archive?path=/w/a", &upload);
        assert!([200, 400, 404, 500].contains(&answer.status), "{}", answer.text());
    }
    assert_eq!(fs::read_dir(secret.join("dir")).unwrap().count(), 1, "the host's directory was written to");
    assert_eq!(fs::read_dir(&secret).unwrap().count(), 1);
}

#[test]
fn diff_and_export_show_what_changed() {
    let d = daemon();
    running(&d, "box", &[]);
    assert_eq!(d.docker(&["diff", "box"]).ok(), "");
    d.docker(&["exec", "box", "sh", "-c", "echo x > /etc/passwd; rm /etc/group; mkdir -p /new/dir; touch /new/dir/f; rm -r /home; mkdir /usr/bin/sub"]).ok();
    let diff = d.docker(&["diff", "box"]).ok();
    assert_eq!(
        diff,
        "C /etc\nD /etc/group\nC /etc/passwd\nD /home\nA /new\nA /new/dir\nA /new/dir/f\nC /usr\nC /usr/bin\nA /usr/bin/sub"
    );
    let kinds = d.api("GET", "/containers/box/changes", "").json();
    assert_eq!(kinds[1], serde_json::json!({"Path": "/etc/group", "Kind": 2}));
    d.docker(&["stop", "-t", "0", "box"]).ok();
    assert_eq!(d.docker(&["diff", "box"]).ok(), diff);
    let export = d.api("GET", "/containers/box/export", "");
    let all = entries(&export.body);
    let find = |name: &str| all.iter().find(|(n, ..)| n == name);
    assert_eq!(find("etc/passwd").unwrap().2, b"x\n");
    assert!(find("new/dir/f").is_some() && find("etc/group").is_none() && find("home/").is_none());
    // What is exported can be imported and run.
    let file = d.path("export.tar").display().to_string();
    d.docker(&["export", "-o", &file, "box"]).ok();
    d.docker(&["import", &file, "again:1"]).ok();
    assert_eq!(
        d.docker(&["run", "--rm", "--network", "none", "again:1", "/bin/cat", "/etc/passwd"]).ok(),
        "x"
    );
    d.docker(&["diff", "nobody"]).fails(1, "No such container: nobody");
    d.docker(&["export", "nobody"]).fails(1, "No such container: nobody");
}

#[test]
fn commit_makes_an_image_that_runs() {
    let d = daemon();
    running(&d, "box", &["-e", "OLD=1", "--label", "who=me", "-v", "vol:/data"]);
    d.docker(&["exec", "box", "sh", "-c", "echo changed > /note; rm /etc/group; rm -r /usr/bin; mkdir /usr/bin; touch /usr/bin/fresh /data/hidden"]).ok();
    let id = d
        .docker(&[
            "commit",
            "-a",
            "Ada",
            "-m",
            "why",
            "-c",
            "ENV NEW=two",
            "-c",
            "CMD [\"cat\", \"/note\"]",
            "-c",
            "EXPOSE 80",
            "box",
            "mine:v1",
        ])
        .ok();
    assert!(id.starts_with("sha256:") && id.len() == 71, "{id}");
    assert_eq!(d.docker(&["run", "--rm", "--network", "none", "mine:v1"]).ok(), "changed");
    let shown = d.docker(&[
        "run",
        "--rm",
        "--network",
        "none",
        "mine:v1",
        "sh",
        "-c",
        "echo $OLD $NEW; ls /etc/group; ls -A /usr/bin /data",
    ]);
    assert_eq!(shown.out, "1 two\n/data:\n\n/usr/bin:\nfresh\n");
    assert!(shown.err.contains("/etc/group"), "{}", shown.err);
    let image: Value = serde_json::from_str(&d.docker(&["image", "inspect", "mine:v1"]).ok()).unwrap();
    let image = &image[0];
    assert_eq!(
        (&image["Author"], &image["Comment"], &image["Id"]),
        (&"Ada".into(), &"why".into(), &id.into())
    );
    assert_eq!(image["Config"]["Labels"]["who"], "me");
    assert!(image["Config"]["ExposedPorts"]["80/tcp"].is_object());
    assert_eq!(image["RootFS"]["Layers"].as_array().unwrap().len(), 2);
    let history =
        d.docker(&["history", "--no-trunc", "--format", "{{.CreatedBy}}|{{.Comment}}", "mine:v1"]).ok();
    assert!(history.starts_with("sleep 600|why\n"), "{history}");
    // It goes on running, and was still meanwhile.
    assert_eq!(d.docker(&["inspect", "-f", "{{.State.Status}}", "box"]).ok(), "running");
    wharf_tests::eventually("the events of a commit", || {
        let args = ["events", "--since", "1h", "--until", "0s", "--filter", "container=box"];
        let events = d.docker(&[&args[..], &["--format", "{{.Action}}"]].concat()).ok();
        events.contains("pause\nunpause\ncommit").then_some(())
    });
    // A commit of a commit, of a stopped container, without pause, without a name.
    d.docker(&["run", "--name", "second", "--network", "none", "mine:v1", "sh", "-c", "echo more >> /note"])
        .ok();
    let created = d.api(
        "POST",
        "/v1.47/commit?container=second&pause=0&repo=mine&tag=v2",
        "{\"Cmd\": [\"tail\", \"-1\", \"/note\"]}",
    );
    assert_eq!(created.status, 201, "{}", created.text());
    assert_eq!(d.docker(&["run", "--rm", "--network", "none", "mine:v2"]).ok(), "more");
    let nameless = d.api("POST", "/commit?container=second", "");
    assert_eq!(nameless.status, 201);
    // Nothing that was wrong with the request leaves anything.
    let images = d.docker(&["images", "-aq"]).out;
    assert_eq!(d.api("POST", "/commit?container=second&changes=RUN%20x", "").status, 400);
    assert_eq!(d.api("POST", "/commit?container=second&repo=BAD", "").status, 400);
    assert_eq!(d.api("POST", "/commit?container=nobody", "").status, 404);
    assert_eq!(d.docker(&["images", "-aq"]).out, images);
}

#[test]
fn a_commit_of_an_unchanged_container_adds_no_layer() {
    let d = daemon();
    d.docker(&["create", "--name", "box", "--network", "none", "busybox", "true"]).ok();
    d.docker(&["commit", "box", "same:1"]).ok();
    let layers = |image: &str| d.docker(&["image", "inspect", "-f", "{{.RootFS.Layers}}", image]).ok();
    assert_eq!(layers("same:1"), layers("busybox"));
}
