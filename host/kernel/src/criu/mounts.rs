//! Which mounts of a container come from outside, and what stands for them when it is restored. No IO.
//!
//! A mount is named by two paths: where the plan has it, and where it really is, which is another one if the plan's leads
//! through a link of the image (`/var/run/x` where `/var/run` is a link to `/run`).

use wharf_plan::run::{Fd, MountSource, RunPlan};

use crate::mount::unescaped;

/// Where cgroups are inside.
const CGROUPS: &str = "/sys/fs/cgroup/";

/// A line of `mountinfo`, as far as it matters.
struct Line {
    /// Number of the mount.
    id: u64,
    /// Directory of its file system that is mounted.
    root: String,
    target: String,
    fstype: String,
}

fn parse(line: &str) -> Option<Line> {
    let (mount, filesystem) = line.split_once(" - ")?;
    let mut fields = mount.split(' ');
    let id = fields.next()?.parse().ok()?;
    let (root, target) = (fields.nth(2)?, fields.next()?);
    let fstype = filesystem.split(' ').next()?;
    let path = |field| unescaped(field).to_string_lossy().into_owned();
    Some(Line { id, root: path(root), target: path(target), fstype: fstype.to_owned() })
}

/// Whether a path is another or below it.
fn within(path: &str, place: &str) -> bool {
    path.strip_prefix(place.trim_end_matches('/'))
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Where mounts of a container are, except its root: where CRIU will mount again.
#[must_use]
pub(super) fn places(mountinfo: &str) -> Vec<String> {
    let targets = mountinfo.lines().filter_map(parse).map(|line| line.target);
    let mut all: Vec<String> = targets.filter(|target| target != "/").collect();
    all.sort();
    all.dedup();
    all
}

/// File systems that tell of the kernel. A volume is none of them, and never lies on one of them.
const KERNELS: [&str; 5] = ["proc", "sysfs", "cgroup", "cgroup2", "devpts"];

/// For those of the plan's paths that lead to a mount through links: where it really is, and the plan's path. `found` are the
/// plan's paths with the numbers of the mounts that they lead to inside.
///
/// A container can lay links as it likes: one that leads to a mount which has a path of its own in the plan, to the root, or
/// to what tells of the kernel, is none that an image had when the mount was made.
#[must_use]
pub(super) fn through_links(mountinfo: &str, found: &[(&str, u64)]) -> Vec<(String, String)> {
    let lines: Vec<Line> = mountinfo.lines().filter_map(parse).collect();
    let mut links: Vec<(String, String)> = Vec::new();
    for (given, id) in found {
        let given = given.trim_end_matches('/');
        let Some(line) = lines.iter().find(|line| line.id == *id) else { continue };
        let is_planned = found.iter().any(|(other, _)| other.trim_end_matches('/') == line.target);
        let is_kernels = KERNELS.contains(&line.fstype.as_str())
            || ["/proc", "/sys"].iter().any(|place| within(&line.target, place));
        let is_known = links.iter().any(|(real, _)| *real == line.target);
        if line.target != "/" && !is_planned && !is_kernels && !is_known {
            links.push((line.target.clone(), given.to_owned()));
        }
    }
    links
}

/// Of these places the innermost that another one lies in, and the way from there.
pub(super) fn below<'a>(places: &[&'a str], path: &'a str) -> Option<(&'a str, &'a str)> {
    let outer = places.iter().filter(|place| **place != path && within(path, place));
    let outer = outer.max_by_key(|place| place.len())?;
    Some((outer, path.get(outer.len()..)?.trim_start_matches('/')))
}

/// The paths of a container whose mounts come from outside, of its `mountinfo`. `given` are the paths at which the engine
/// mounts trees: volumes, binds, its own files.
///
/// # Errors
/// A mount that neither CRIU can make again nor the engine, for example of a disk that the container mounted itself.
pub(super) fn external(mountinfo: &str, given: &[&str]) -> Result<Vec<String>, String> {
    let mut external = Vec::new();
    for line in mountinfo.lines() {
        let Some(mount) = parse(line) else {
            return Err(format!("the kernel's list of mounts has the line {line:?}"));
        };
        if mount.target == "/" {
            continue;
        }
        let is_given = given.iter().any(|place| within(&mount.target, place));
        let is_null = mount.fstype == "devtmpfs" && mount.root == "/null";
        let is_cgroup = mount.fstype == "cgroup" && mount.target.starts_with(CGROUPS);
        if is_given || is_null || is_cgroup {
            // A colon and brackets have a meaning on CRIU's command line.
            if mount.target.contains(['[', ']', ':', '\n']) {
                return Err(format!("a mount at {:?}: CRIU cannot be told of such a path", mount.target));
            }
            external.push(mount.target);
        } else if !matches!(
            mount.fstype.as_str(),
            "proc" | "sysfs" | "tmpfs" | "devpts" | "mqueue" | "cgroup2"
        ) {
            let Line { target, fstype, .. } = mount;
            return Err(format!(
                "{target} ({fstype}) was mounted inside the container, and is not to be had again"
            ));
        }
    }
    external.sort();
    external.dedup();
    Ok(external)
}

/// What stands for a mount that is not in the images.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Stand {
    /// A tree of the plan, and the path below it.
    Tree(Fd, String),
    /// The host's null device: a path that is masked.
    Null,
    /// The container's own part of this hierarchy of cgroups.
    Cgroup(String),
}

/// Finds it in the plan: the images have the paths, but what lies there is never taken from them. `links` are those of
/// [`through_links`].
pub(super) fn stand(plan: &RunPlan, links: &[(String, String)], path: &str) -> Result<Stand, String> {
    let straight = links.iter().find(|(real, _)| within(path, real)).map(|(real, given)| {
        let rest = path.get(real.len()..).unwrap_or_default();
        format!("{given}{rest}")
    });
    let path = straight.as_deref().unwrap_or(path);
    let trees = plan.mounts.iter().filter_map(|mount| match mount.source {
        MountSource::Tree(number) if within(path, &mount.target) => {
            Some((mount.target.trim_end_matches('/'), number))
        }
        _ => None,
    });
    // Of places within each other the inner one; of mounts on each other the later one.
    if let Some((target, number)) = trees.max_by_key(|(target, _)| target.len()) {
        let rest = path.get(target.len()..).unwrap_or_default().trim_start_matches('/');
        if rest.split('/').any(|part| part == "..") {
            return Err(format!("{path:?} is no path of a mount"));
        }
        return Ok(Stand::Tree(number, rest.to_owned()));
    }
    if plan.masked_paths.iter().any(|masked| masked == path) {
        return Ok(Stand::Null);
    }
    match path.strip_prefix(CGROUPS) {
        Some(name) if !name.is_empty() && !name.contains('/') && name != ".." => {
            Ok(Stand::Cgroup(name.to_owned()))
        }
        _ => {
            Err(format!("the checkpoint was made with a mount at {path}, which the container no longer has"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wharf_plan::run::Mount;

    fn tree(target: &str, number: Fd) -> Mount {
        Mount {
            target: target.into(),
            source: MountSource::Tree(number),
            file: false,
            read_only: false,
            no_suid: false,
            no_dev: false,
            no_exec: false,
            propagation: String::new(),
        }
    }

    const INFO: &str = "46 48 254:0 /vol/_data /data rw,relatime master:1 - ext4 /dev/vda rw\n\
        48 52 0:39 / / rw,relatime - overlay none rw\n\
        50 48 254:0 /c/hostname /etc/hostname rw,relatime - ext4 /dev/vda rw\n\
        75 53 0:6 /null /proc/keys rw,relatime - devtmpfs devtmpfs rw\n\
        53 48 0:42 / /proc rw - proc none rw\n\
        54 48 0:43 / /dev rw - tmpfs none rw\n\
        57 56 0:46 / /sys/fs/cgroup ro - tmpfs none rw\n\
        58 57 0:29 /wharf/x /sys/fs/cgroup/cpu,cpuacct ro - cgroup none rw,cpu\n\
        60 46 0:50 / /data/with\\040blank rw - tmpfs none rw\n";

    #[test]
    fn mounts_from_outside() {
        let found = external(INFO, &["/data", "/etc/hostname"]).unwrap();
        let expected =
            ["/data", "/data/with blank", "/etc/hostname", "/proc/keys", "/sys/fs/cgroup/cpu,cpuacct"];
        assert_eq!(found, expected);
        let all = places(INFO);
        assert!(expected.iter().all(|path| all.iter().any(|place| place == path)), "{all:?}");
        assert!(all.iter().any(|place| place == "/dev") && !all.iter().any(|place| place == "/"), "{all:?}");
    }

    #[test]
    fn what_a_container_mounted_itself() {
        let error = external(INFO, &["/etc/hostname"]).unwrap_err();
        assert!(error.starts_with("/data (ext4) was mounted inside"), "{error}");
        // The device itself is not the null device.
        let disk = "1 2 0:6 /vda /proc/keys rw - devtmpfs devtmpfs rw\n";
        assert!(external(disk, &[]).is_err());
        // Nothing reaches CRIU's command line by a path.
        for odd in ["/data/a]:/etc", "/data/[x", "/data/a:b"] {
            let line = format!("1 2 0:1 / {odd} rw - tmpfs none rw\n");
            assert!(external(&line, &["/data"]).unwrap_err().contains("cannot be told"), "{odd}");
        }
        assert!(external("nonsense", &[]).is_err());
    }

    #[test]
    fn what_stands_for_them() {
        let plan = RunPlan {
            mounts: vec![tree("/data", 1), tree("/data/inner/", 2), tree("/etc/hosts", 3)],
            masked_paths: vec!["/proc/keys".into()],
            ..RunPlan::default()
        };
        let stand = |plan: &RunPlan, path: &str| super::stand(plan, &[], path);
        assert_eq!(stand(&plan, "/data"), Ok(Stand::Tree(1, String::new())));
        assert_eq!(stand(&plan, "/data/sub/x"), Ok(Stand::Tree(1, "sub/x".into())));
        assert_eq!(stand(&plan, "/data/inner/y"), Ok(Stand::Tree(2, "y".into())));
        assert_eq!(stand(&plan, "/proc/keys"), Ok(Stand::Null));
        assert_eq!(stand(&plan, "/sys/fs/cgroup/cpu"), Ok(Stand::Cgroup("cpu".into())));
        for bad in [
            "/database",
            "/data/../etc",
            "/proc/kcore",
            "/sys/fs/cgroup/",
            "/sys/fs/cgroup/..",
            "/sys/fs/cgroup/a/b",
            "/etc/shadow",
            "relative",
        ] {
            assert!(stand(&plan, bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn mounts_in_others() {
        let places = ["/data", "/data/inner", "/database", "/dev/shm"];
        assert_eq!(below(&places, "/data/inner/x"), Some(("/data/inner", "x")));
        assert_eq!(below(&places, "/data/inner"), Some(("/data", "inner")));
        assert_eq!(below(&places, "/data"), None);
        assert_eq!(below(&places, "/database"), None);
    }

    #[test]
    fn mounts_that_links_lead_to() {
        let info = "48 52 0:39 / / rw - overlay none rw\n\
            46 48 254:0 /vol /run/data rw - ext4 /dev/vda rw\n\
            47 46 254:0 /in /run/data/inner rw - ext4 /dev/vda rw\n\
            53 48 0:42 / /proc rw - proc none rw\n\
            54 53 0:43 /x /proc/cpuinfo rw - fuse none rw\n\
            49 48 254:0 /other /other rw - ext4 /dev/vda rw\n";
        let found = [
            ("/var/run/data/", 46),
            ("/root", 48),
            ("/proc-link", 53),
            ("/cpu-link", 54),
            ("/other", 49),
            ("/second", 49),
            ("/nowhere", 99),
        ];
        let links = through_links(info, &found);
        assert_eq!(links, [("/run/data".to_owned(), "/var/run/data".to_owned())]);
        let plan = RunPlan { mounts: vec![tree("/var/run/data/", 4)], ..RunPlan::default() };
        assert_eq!(stand(&plan, &links, "/run/data"), Ok(Stand::Tree(4, String::new())));
        assert_eq!(stand(&plan, &links, "/run/data/sub"), Ok(Stand::Tree(4, "sub".into())));
        assert!(stand(&plan, &links, "/run/database").is_err());
        assert!(stand(&plan, &links, "/run/data/../x").is_err());
        let given: Vec<&str> = links.iter().map(|(real, _)| real.as_str()).chain(["/other"]).collect();
        let error = external(info, &given).unwrap_err();
        assert!(error.starts_with("/proc/cpuinfo (fuse)"), "{error}");
    }
}
