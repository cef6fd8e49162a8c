use std::process::{Child, Command, Stdio};

use wharf_plan::run::DeviceRule;

use super::*;

/// A cgroup with a name of its own, gone at the end of the test whatever happens.
struct Place {
    cgroups: Cgroups,
    path: String,
}

impl Place {
    fn new(cgroups: Cgroups) -> Self {
        static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let next = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Self { cgroups, path: format!("/wharf-test-{}-{next}/inner", std::process::id()) }
    }

    fn parent(&self) -> &str {
        self.path.strip_suffix("/inner").unwrap()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = self.cgroups.kill(self.parent());
        self.cgroups.remove(self.parent(), Duration::from_secs(5)).unwrap();
        let name = self.parent().trim_start_matches('/').to_owned();
        assert!(self.cgroups.hierarchies().iter().all(|h| h.dir().open(&name).is_err()), "{name} is left");
    }
}

fn host() -> Place {
    Place::new(Cgroups::detect().unwrap())
}

/// The v2 hierarchy of a hybrid host, if it has one: everything but controllers can be tried there.
fn unified() -> Option<Place> {
    let path = Path::new("/sys/fs/cgroup/unified");
    let path = if path.exists() { path } else { Path::new("/sys/fs/cgroup") };
    path.join("cgroup.procs").exists().then(|| Place::new(Cgroups::v2_at(path).unwrap()))
}

fn sleeper(place: &Place) -> Child {
    let child = Command::new("sleep").arg("1000").stdin(Stdio::null()).spawn().unwrap();
    for hierarchy in
        place.cgroups.hierarchies().iter().filter(|h| h.required() || place.cgroups.version() == Version::V2)
    {
        let path = relative(&place.path).unwrap();
        hierarchy.dir().write(&format!("{path}/cgroup.procs"), &child.id().to_string()).unwrap();
    }
    child
}

fn deny_all_but_null() -> Vec<DeviceRule> {
    let rule = |allow, kind, major, minor| DeviceRule { allow, kind, major, minor, access: "rwm".into() };
    vec![rule(false, 'a', None, None), rule(true, 'c', Some(1), Some(3))]
}

#[test]
fn limits_arrive() {
    let place = host();
    let resources = Resources {
        memory: Some(64 << 20),
        memory_swap: Some(64 << 20),
        pids: Some(17),
        cpu_quota: Some(50_000),
        cpu_period: Some(100_000),
        cpu_shares: Some(512),
        ..Resources::default()
    };
    place.cgroups.create(&place.path, &resources).unwrap();
    assert!(place.cgroups.create(&place.path, &resources).unwrap_err().is_exists());
    let stats = place.cgroups.stats(&place.path).unwrap();
    assert_eq!(stats.memory.limit, Some(64 << 20));
    assert_eq!(stats.pids_limit, Some(17));
    // Raising memory above the limit with swap goes through the other order.
    let update = Resources {
        memory: Some(128 << 20),
        memory_swap: Some(256 << 20),
        pids: Some(-1),
        ..Resources::default()
    };
    place.cgroups.update(&place.path, &update).unwrap();
    let stats = place.cgroups.stats(&place.path).unwrap();
    assert_eq!(stats.memory.limit, Some(128 << 20));
    assert_eq!(stats.pids_limit, None);
    assert_eq!(place.cgroups.list(place.parent()).unwrap(), ["inner"]);
    assert_eq!(place.cgroups.oom_kills(&place.path).unwrap(), 0);
}

#[test]
fn a_bad_limit_leaves_nothing() {
    let place = host();
    let resources = Resources { cpuset_cpus: Some("9999".into()), ..Resources::default() };
    assert!(place.cgroups.create(&place.path, &resources).is_err());
    assert_eq!(place.cgroups.list(place.parent()).unwrap(), Vec::<String>::new());
}

#[test]
fn cpuset_when_asked() {
    let place = host();
    let resources =
        Resources { cpuset_cpus: Some("0".into()), cpuset_mems: Some("0".into()), ..Resources::default() };
    place.cgroups.create(&place.path, &resources).unwrap();
}

fn freeze_kill_remove(place: &Place) {
    place.cgroups.create(&place.path, &Resources::default()).unwrap();
    let mut child = sleeper(place);
    let pid = i32::try_from(child.id()).unwrap();
    assert_eq!(place.cgroups.pids(place.parent()).unwrap(), [pid]);
    assert!(!place.cgroups.frozen(&place.path).unwrap());
    assert!(!place.cgroups.frozen(&format!("{}-none", place.path)).unwrap());
    place.cgroups.freeze(&place.path).unwrap();
    assert!(place.cgroups.frozen(&place.path).unwrap());
    assert!(place.cgroups.remove(&place.path, Duration::ZERO).unwrap_err().is(libc::EBUSY));
    place.cgroups.thaw(&place.path).unwrap();
    place.cgroups.kill(place.parent()).unwrap();
    // Waiting for the removal and for the process at the same time: the one must see the other end.
    std::thread::scope(|scope| {
        scope.spawn(|| child.wait().unwrap());
        place.cgroups.remove(&place.path, Duration::from_secs(5)).unwrap();
    });
    place.cgroups.remove(&place.path, Duration::ZERO).unwrap();
    assert!(place.cgroups.stats(&place.path).unwrap_err().is_not_found());
}

fn counters_kept(place: &Place) {
    place.cgroups.create(&place.path, &Resources { pids: Some(9), ..Resources::default() }).unwrap();
    let mut counters = place.cgroups.counters(&place.path).unwrap();
    let first = counters.read().unwrap();
    assert_eq!((first.pids_current, first.pids_limit), (0, Some(9)));
    let held = counters.descriptors();
    let mut child = sleeper(place);
    let later = counters.read().unwrap();
    assert_eq!(later.pids_current, 1, "what was opened before says what is now");
    assert_eq!(counters.descriptors(), held);
    assert_eq!(place.cgroups.stats(&place.path).unwrap().pids_limit, Some(9));
    child.kill().unwrap();
    child.wait().unwrap();
    // Open files hold nobody up, and say nothing of what is gone.
    place.cgroups.remove(&place.path, Duration::from_secs(5)).unwrap();
    assert_eq!(counters.read().unwrap(), Stats::default());
}

#[test]
fn counters_that_stay_open() {
    counters_kept(&host());
}

#[test]
fn freeze_kill_and_remove() {
    freeze_kill_remove(&host());
}

#[test]
fn freeze_kill_and_remove_v2() {
    if let Some(place) = unified() {
        freeze_kill_remove(&place);
    }
}

/// Reads from a device inside the cgroup, by a shell that goes there first.
fn reads(place: &Place, device: &str) -> bool {
    let path = relative(&place.path).unwrap();
    let script = place
        .cgroups
        .hierarchies()
        .iter()
        .filter(|h| h.has("devices") || place.cgroups.version() == Version::V2)
        .map(|h| format!("echo 0 > {}/{path}/cgroup.procs; ", h.path().to_str().unwrap()))
        .collect::<Vec<_>>()
        .concat();
    let status = Command::new("sh")
        .args(["-ec", &format!("{script} head -c1 < {device}")])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    status.success()
}

fn devices_are_an_allow_list(place: &Place) {
    let resources = Resources { devices: deny_all_but_null(), ..Resources::default() };
    place.cgroups.create(&place.path, &resources).unwrap();
    assert!(reads(place, "/dev/null"));
    assert!(!reads(place, "/dev/zero"), "what is not listed must be denied");
    let mut more = deny_all_but_null();
    more.push(DeviceRule { allow: true, kind: 'c', major: Some(1), minor: Some(5), access: "r".into() });
    place.cgroups.update(&place.path, &Resources { devices: more, ..Resources::default() }).unwrap();
    assert!(reads(place, "/dev/zero"));
    assert!(!reads(place, "/dev/urandom"));
    // Even a list that forgets to deny everything first is one of what is allowed.
    let only =
        vec![DeviceRule { allow: true, kind: 'c', major: Some(1), minor: Some(3), access: "rwm".into() }];
    place.cgroups.update(&place.path, &Resources { devices: only, ..Resources::default() }).unwrap();
    assert!(!reads(place, "/dev/zero"));
}

#[test]
fn devices_v1() {
    let place = host();
    devices_are_an_allow_list(&place);
}

#[test]
fn devices_v2_program() {
    if let Some(place) = unified() {
        devices_are_an_allow_list(&place);
    }
}

#[test]
fn paths_must_be_below_the_root() {
    for bad in ["", "/", "/../x", "/a/../../b", "a/./b", "a\nb"] {
        assert!(relative(bad).is_err(), "{bad:?}");
    }
    assert_eq!(relative("/wharf//x/").unwrap(), "wharf/x");
}

#[test]
fn weights() {
    assert_eq!(v2::cpu_weight(2), 1);
    assert_eq!(v2::cpu_weight(1024), 100);
    assert_eq!(v2::cpu_weight(262_144), 10_000);
}

#[test]
fn mountinfo_lines() {
    let text = "30 20 0:26 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:9 - cgroup cgroup rw,cpu,cpuacct\n\
                31 20 0:27 / /sys/fs/cgroup/with\\040space rw - cgroup2 none rw\n\
                32 20 0:28 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n";
    let found = parse_mountinfo(text);
    assert_eq!(found.len(), 3);
    assert_eq!(found[0].controllers, ["cpu", "cpuacct"]);
    assert_eq!(found[1].path, "/sys/fs/cgroup/with space");
    assert!(found[2].controllers.is_empty());
}
