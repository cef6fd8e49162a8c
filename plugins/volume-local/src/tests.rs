use wharf_plugin_sdk::files::{Device, OptionValue, Root, Source, granted};
use wharf_plugin_sdk::mock::MockHost;
use wharf_plugin_sdk::simulate::files::FileModel;
use wharf_plugin_sdk::types::{Code, ContainerRef, IdKind, IdMap, Labels};

use super::*;

fn options(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn create(name: &str, pairs: &[(&str, &str)]) -> Result<Change> {
    let request = CreateRequest {
        name: name.into(),
        options: options(pairs),
        labels: Vec::new(),
        size: None,
        content: Content::Empty,
        topology: Vec::new(),
    };
    MockHost::new().call(|host| LocalDriver.create(host, &request))
}

fn volume(pairs: &[(&str, &str)]) -> Volume {
    Volume {
        name: "data".into(),
        options: options(pairs),
        labels: Vec::new(),
        size: None,
        cookie: Vec::new(),
    }
}

fn mount(pairs: &[(&str, &str)], read_only: bool, sub_path: Option<&str>) -> Result<MountPlan> {
    let request = MountRequest {
        volume: volume(pairs),
        container: ContainerRef {
            id: String::new(),
            name: String::new(),
            hostname: String::new(),
            image: String::new(),
            image_digest: None,
            labels: Vec::new(),
            group: None,
        },
        target: "/data".into(),
        read_only,
        sub_path: sub_path.map(str::to_owned),
        options: Vec::new(),
        id_maps: Vec::new(),
        attachment: None,
        users: 0,
    };
    MockHost::new().call(|host| LocalDriver.plan_mount(host, &request))
}

#[test]
fn a_volume_is_a_directory() {
    let mut files = FileModel::new();
    files.apply(&create("data", &[("size", "10m")]).unwrap().ops).unwrap();
    assert_eq!(files.quota("data/_data"), Some(10 << 20));
    let plan = mount(&[], false, None).unwrap();
    let view = files.mount(&plan.mounts).unwrap();
    assert_eq!(view.writable.as_deref(), Some("data/_data"));
    files.write(&view, "sub/x", b"1").unwrap();
    let below = files.mount(&mount(&[], true, Some("/sub/")).unwrap().mounts).unwrap();
    assert_eq!((files.read(&below, "x"), below.writable.as_deref()), (Some(b"1".as_slice()), None));
    files.apply(&MockHost::new().call(|host| LocalDriver.remove(host, &volume(&[]))).unwrap()).unwrap();
    assert!(files.is_empty());
}

#[test]
fn names_are_checked_in_dockers_words() {
    assert_eq!(
        create("a", &[]).unwrap_err().message,
        "volume name is too short, names should be at least two alphanumeric characters"
    );
    for bad in ["", "..", "../etc", "a/b", "_x", "a b", "\0\0", &"x".repeat(256)] {
        let error = create(bad, &[]).unwrap_err();
        assert_eq!(error.code, Code::Invalid, "{bad:?}");
        let removed = Volume { name: bad.into(), ..volume(&[]) };
        assert!(MockHost::new().call(|host| LocalDriver.remove(host, &removed)).is_err(), "{bad:?}");
    }
}

#[test]
fn sub_paths_stay_inside() {
    for bad in ["..", "a/../../b", "/.."] {
        assert_eq!(mount(&[], false, Some(bad)).unwrap_err().code, Code::Invalid, "{bad}");
    }
    for (path, clean) in [("/a//b/./", "data/_data/a/b"), ("", "data/_data"), ("/", "data/_data")] {
        let plan = mount(&[], false, Some(path)).unwrap();
        assert_eq!(plan.mounts[0].source, Source::Place(data(clean)));
    }
}

#[test]
fn options_are_checked_as_docker_does() {
    for (pairs, message) in [
        (&[("colour", "red")][..], "invalid option: \"colour\""),
        (&[("type", "tmpfs")], "missing required option: \"device\""),
        (&[("device", "/x")], "missing required option: \"type\""),
        (&[("o", "bind")], "missing required option: \"device\""),
        (&[("size", "lots")], "invalid size: 'lots'"),
        (&[("size", "-1")], "invalid size: '-1'"),
        (&[("size", "99999999999999t")], "invalid size: '99999999999999t'"),
        (
            &[("type", "none"), ("o", "bind"), ("device", "relative")],
            "device \"relative\" is no absolute path",
        ),
    ] {
        assert_eq!(create("data", pairs).unwrap_err().message, message);
    }
    for (text, bytes) in
        [("1024", 1024), ("10k", 10 << 10), ("10KB", 10 << 10), ("3GiB", 3 << 30), ("1t", 1 << 40)]
    {
        assert_eq!(options::size(&options(&[("size", text)])), Ok(Some(bytes)), "{text}");
    }
}

#[test]
fn memory_is_shared_between_containers() {
    let pairs = [("type", "tmpfs"), ("device", "tmpfs"), ("o", "size=100m,uid=1000,nosuid,noexec")];
    create("data", &pairs).unwrap();
    let plan = mount(&pairs, false, None).unwrap();
    assert_eq!(
        plan.mounts,
        [Mount::tmpfs()
            .text("size", "100m")
            .text("uid", "1000")
            .with(MountAttributes::NO_SUID | MountAttributes::NO_EXEC)]
    );
    // Read-only for one container: the same file system, seen through a bind mount.
    let other = mount(&pairs, true, Some("sub")).unwrap();
    assert_eq!(other.mounts[0], plan.mounts[0]);
    assert_eq!(other.mounts[1], Mount::bind(mounted(0, "sub")).with(MountAttributes::READ_ONLY));
}

#[test]
fn directories_of_the_host_must_be_granted() {
    let pairs = [("type", "none"), ("o", "bind,ro"), ("device", "/srv/data")];
    create("data", &pairs).unwrap();
    let plan = mount(&pairs, false, None).unwrap();
    assert_eq!(plan.mounts, [Mount::bind(granted("/srv/data", "")).with(MountAttributes::READ_ONLY)]);
    let Source::Place(place) = &plan.mounts[0].source else { panic!("no place") };
    assert_eq!(place.root, Root::Granted("/srv/data".into()), "the plan names it, the host decides");
}

#[test]
fn network_mounts_and_devices() {
    let pairs =
        [("type", "nfs"), ("device", ":/export"), ("o", "addr=192.0.2.1,rw,vers=4,password=secret:nfs")];
    create("data", &pairs).unwrap();
    let plan = mount(&pairs, false, None).unwrap();
    assert_eq!(plan.mounts[0].source, Source::Remote(":/export".into()));
    assert_eq!(
        plan.mounts[0].options,
        [
            ("addr".into(), OptionValue::Text("192.0.2.1".into())),
            ("vers".into(), OptionValue::Text("4".into())),
            ("password".into(), OptionValue::Secret("nfs".into())),
        ]
    );
    let pairs = [("type", "ext4"), ("device", "/dev/sdb1")];
    let plan = mount(&pairs, false, None).unwrap();
    assert_eq!(plan.ops, [Op::OpenDevice(Device::Granted("/dev/sdb1".into()))]);
    assert_eq!(plan.mounts[0].source, Source::Device(0));
}

#[test]
fn user_namespaces_map_what_the_container_sees() {
    let maps = vec![IdMap { inside: 0, outside: 100_000, size: 65_536, kind: IdKind::Both }];
    let request = MountRequest {
        id_maps: maps.clone(),
        volume: volume(&[]),
        ..MountRequest {
            volume: volume(&[]),
            container: ContainerRef {
                id: String::new(),
                name: String::new(),
                hostname: String::new(),
                image: String::new(),
                image_digest: None,
                labels: Vec::new(),
                group: None,
            },
            target: "/data".into(),
            read_only: false,
            sub_path: None,
            options: Vec::new(),
            id_maps: Vec::new(),
            attachment: None,
            users: 0,
        }
    };
    let plan = MockHost::new().call(|host| LocalDriver.plan_mount(host, &request)).unwrap();
    assert_eq!(plan.mounts.last().unwrap().id_maps, maps);
}
