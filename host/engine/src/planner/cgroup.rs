//! Where a container's cgroup is, in either layout.

use wharf_plan::run::slice_path;

use crate::error::{Error, Result};
use crate::planner::Facts;

/// Parent in systemd's layout where none is said.
const SLICE: &str = "system.slice";

/// Path of a container's cgroup. `own` is its `--cgroup-parent`.
pub fn path(facts: &Facts, own: Option<&str>, id: &str) -> String {
    let base = base(facts, own);
    if facts.systemd_cgroups { format!("{base}/wharf-{id}.scope") } else { format!("{base}/{id}") }
}

/// The directory that holds the cgroups of containers with this parent.
pub fn base(facts: &Facts, own: Option<&str>) -> String {
    let parent = own.unwrap_or(&facts.cgroup_parent).trim_matches('/');
    match (facts.systemd_cgroups, parent) {
        (true, "") => format!("/{}", slice_path(SLICE)),
        (true, parent) => format!("/{}", slice_path(parent)),
        (false, "") => "/wharf".to_owned(),
        (false, parent) => format!("/{parent}/wharf"),
    }
}

/// The container that a directory there is of.
pub fn id_of(name: &str) -> &str {
    name.strip_prefix("wharf-").and_then(|rest| rest.strip_suffix(".scope")).unwrap_or(name)
}

/// Refuses a parent that names nothing, climbs, or is no slice where slices are needed.
pub fn check(facts: &Facts, parent: &str) -> Result<()> {
    if parent.contains('\0') || parent.split('/').any(|s| s == "..") {
        return Err(Error::invalid(format!("invalid cgroup parent {parent:?}")));
    }
    let slice = parent.strip_suffix(".slice");
    let good = slice.is_some_and(|stem| {
        !stem.is_empty()
            && !stem.contains('/')
            && !stem.starts_with('-')
            && !stem.ends_with('-')
            && !stem.contains("--")
    });
    if facts.systemd_cgroups && !parent.is_empty() && !good {
        return Err(Error::invalid(
            "cgroup-parent for systemd cgroup should be a valid slice named as \"xxx.slice\"",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        let plain = Facts::default();
        assert_eq!(path(&plain, None, "c"), "/wharf/c");
        assert_eq!(path(&plain, Some("/a/"), "c"), "/a/wharf/c");
        let above = Facts { cgroup_parent: "/p".into(), ..Facts::default() };
        assert_eq!(path(&above, None, "c"), "/p/wharf/c");
        let systemd = Facts { systemd_cgroups: true, ..Facts::default() };
        assert_eq!(path(&systemd, None, "c"), "/system.slice/wharf-c.scope");
        assert_eq!(path(&systemd, Some("a-b.slice"), "c"), "/a.slice/a-b.slice/wharf-c.scope");
        assert_eq!(id_of("wharf-c.scope"), "c");
        assert_eq!(id_of("c"), "c");
    }

    #[test]
    fn parents() {
        let systemd = Facts { systemd_cgroups: true, ..Facts::default() };
        for bad in ["/x", "x", ".slice", "a--b.slice", "-a.slice", "a/b.slice"] {
            assert!(check(&systemd, bad).is_err(), "{bad}");
        }
        assert!(check(&systemd, "a-b.slice").is_ok());
        assert!(check(&Facts::default(), "/x").is_ok());
        assert!(check(&Facts::default(), "/x/../y").is_err());
    }
}
