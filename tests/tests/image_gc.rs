//! Images that nothing uses go by policy, in the background, and nothing that is needed goes with them.

use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Value, json};
use wharf_tests::serve::Serve;
use wharf_tests::{Daemon, Options, eventually, fsck, image};

fn names(d: &Daemon) -> Vec<String> {
    let mut names: Vec<String> = d
        .docker(&["images", "--format", "{{.Repository}}:{{.Tag}}"])
        .ok()
        .lines()
        .map(str::to_owned)
        .collect();
    names.sort();
    names
}

fn load(d: &Daemon, name: &str) {
    let archive =
        image::docker_archive(&format!("{name}:1"), &[image::busybox_tar(), image::own_layer(name)]);
    let path = image::save(&d.path("load.tar"), &archive);
    d.docker(&["load", "-q", "-i", &path]).ok();
}

#[test]
fn pulls_and_garbage_collection_in_a_storm() {
    let policy =
        json!({"image-gc": {"interval": "100ms", "policy": [{"filter": ["until=0s", "label!=keep"]}]}});
    // Begins to collect when the registry has its images.
    let mut d = Daemon::start();
    let serve = Serve::start(&d, 5000, &["a", "b", "c"]);
    d.docker_with_input(&["import", "-c", "LABEL keep=1", "-", "kept:1"], &image::busybox_tar()).ok();
    load(&d, "used");
    d.docker(&["create", "--name", "user", "used:1", "true"]).ok();
    d.stop();
    d.configure(&policy.to_string());
    d.restart();
    let ran = AtomicU32::new(0);
    std::thread::scope(|scope| {
        for name in ["a", "b", "c"] {
            let (d, serve, ran) = (&d, &serve, &ran);
            scope.spawn(move || {
                let full = serve.name(name);
                for round in 0..12 {
                    d.docker(&["pull", "-q", &full]).ok();
                    let check = ["sh", "-c", "cd / && sha256sum -s -c sums"];
                    let out = d.docker(&[&["run", "--rm", "--network", "none", &full], &check[..]].concat());
                    // It may be gone before the container is there; then nothing of it is used.
                    if out.code != 0 {
                        assert!(
                            out.err.contains("No such image"),
                            "{name}, round {round}: {}{}",
                            out.out,
                            out.err
                        );
                    } else {
                        ran.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    assert!(ran.load(Ordering::Relaxed) > 3, "{ran:?} of 36 ran");
    eventually("what nothing uses to be gone", || (names(&d) == ["kept:1", "used:1"]).then_some(()));
    fsck::whole(&d, "after the storm");
    d.docker(&["start", "-a", "user"]).ok();
    d.docker(&["rm", "user"]).ok();
    eventually("what nothing uses any more to be gone", || (names(&d) == ["kept:1"]).then_some(()));
    d.docker(&["run", "--rm", "--network", "none", "kept:1", "true"]).ok();
    fsck::whole(&d, "at the end");
    assert!(d.log().contains("garbage collection of images"), "{}", d.log());
}

#[test]
fn the_oldest_go_until_there_is_room_and_a_plan_says_which() {
    let d = Daemon::with(Options {
        config: Some(
            json!({"image-gc": {"interval": "1h", "policy": [{"keep-storage": "3500KB", "filter": ["until=0s"]}]}})
                .to_string(),
        ),
        ..Options::default()
    });
    // Busybox has two megabytes, each image one of its own.
    for name in ["first", "second", "third"] {
        load(&d, name);
    }
    let all = names(&d);
    let planned = d.api("POST", "/images/prune?policy=1&plan=1", "").json();
    assert_eq!(names(&d), all, "a plan changes nothing");
    let shown = d.wharf(&["image", "prune", "--policy", "--plan"]).ok();
    assert!(shown.contains("untagged: first:1") && shown.contains("would be reclaimed"), "{shown}");
    assert_eq!(names(&d), all);
    let untagged = |answer: &Value| -> Vec<String> {
        let items = answer["ImagesDeleted"].as_array().unwrap();
        items.iter().filter_map(|i| i["Untagged"].as_str().map(str::to_owned)).collect()
    };
    assert_eq!(untagged(&planned).first().map(String::as_str), Some("first:1"), "{planned}");
    assert!(untagged(&planned).len() < 3, "{planned}");
    let done = d.api("POST", "/images/prune?policy=1", "").json();
    assert_eq!(untagged(&done), untagged(&planned));
    assert_eq!(done["SpaceReclaimed"], planned["SpaceReclaimed"]);
    assert!(!names(&d).contains(&"first:1".to_owned()) && names(&d).contains(&"third:1".to_owned()));
    // Prune itself has a plan too.
    let planned = d.api("POST", "/images/prune?plan=1&filters={%22dangling%22:[%22false%22]}", "").json();
    assert!(names(&d).contains(&"third:1".to_owned()));
    let done = d.api("POST", "/images/prune?filters={%22dangling%22:[%22false%22]}", "").json();
    let sorted = |answer: &Value| {
        let mut items: Vec<String> =
            answer["ImagesDeleted"].as_array().unwrap().iter().map(Value::to_string).collect();
        items.sort();
        (items, answer["SpaceReclaimed"].clone())
    };
    assert_eq!(sorted(&planned), sorted(&done));
    assert!(done["SpaceReclaimed"].as_u64().unwrap() > 2_000_000, "{done}");
    assert_eq!(names(&d), Vec::<String>::new());
    fsck::whole(&d, "at the end");
}

#[test]
fn wrong_policies_are_refused_by_name() {
    let d = Daemon::start();
    for (config, said) in [
        (json!({"policy": [{"filter": ["unused=1h"]}]}), "unused=1h"),
        (json!({"policy": [{"keep-storage": "lots"}]}), "lots"),
        (json!({"polices": []}), "polices"),
        (json!({"interval": "often"}), "often"),
        (json!([]), "image-gc must be an object"),
    ] {
        let path = image::save(&d.path("bad.json"), json!({"image-gc": config}).to_string().as_bytes());
        let mut command = d.in_namespace(wharf_tests::bin_dir().join("wharf"));
        command.args(["daemon", "--validate", "--config-file", &path]);
        d.run_with_input(command, b"").fails(125, said);
    }
}
