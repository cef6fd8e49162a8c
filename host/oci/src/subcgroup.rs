//! `exec --cgroup`: a process in a cgroup below its container's.

use wharf_kernel::cgroup::{Cgroups, Version};
use wharf_kernel::container::Target;

use crate::{Error, Result};

/// Where below the container's cgroup, by controller; an empty controller is all of them. None where nothing is said.
pub(crate) fn subs(said: &[String]) -> Result<Option<Vec<(String, String)>>> {
    if said.is_empty() {
        return Ok(None);
    }
    let mut all: Vec<(String, String)> = Vec::new();
    for one in said {
        match one.split_once(':') {
            Some((_, path)) if path.contains(':') => {
                return Err(Error(format!("invalid --cgroup argument: {one}")));
            }
            Some((controllers, path)) => {
                for controller in controllers.split(',') {
                    if all.iter().any(|(known, _)| known == controller) {
                        return Err(Error(format!(
                            "invalid --cgroup argument(s): controller {controller} is specified multiple times"
                        )));
                    }
                    if controller.is_empty() {
                        return Err(Error(format!(
                            "invalid --cgroup argument: {one} (a controller has no name)"
                        )));
                    }
                    all.push((controller.to_owned(), below(path)?));
                }
            }
            None if said.len() > 1 => {
                return Err(Error(format!(
                    "invalid --cgroup argument: {one} (missing <controller>: prefix)"
                )));
            }
            None => all.push((String::new(), below(one)?)),
        }
    }
    Ok(Some(all))
}

/// A path by its letters, without what leads nowhere. One that leads up and out is refused.
fn below(path: &str) -> Result<String> {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            ".." if parts.pop().is_none() => {
                return Err(Error(format!("bad --cgroup argument: {path} is not a sub cgroup path")));
            }
            "" | "." | ".." => {}
            name => parts.push(name),
        }
    }
    Ok(parts.join("/"))
}

/// Refuses controllers that are none and cgroups that are not there, in runc's words.
pub(crate) fn check(subs: Option<&[(String, String)]>, cgroup: Option<&str>) -> Result<()> {
    let Some(subs) = subs else { return Ok(()) };
    let cgroup = cgroup.ok_or("the container has no cgroup")?;
    let cgroups = Cgroups::detect()?;
    for (controller, path) in subs {
        if !controller.is_empty()
            && (cgroups.version() == Version::V2 || !cgroups.hierarchies().iter().any(|h| h.has(controller)))
        {
            return Err(Error(format!("unknown controller {controller} in --cgroup")));
        }
        let full = if path.is_empty() { cgroup.to_owned() } else { format!("{cgroup}/{path}") };
        for hierarchy in cgroups.hierarchies().iter().filter(|h| controller.is_empty() || h.has(controller)) {
            if hierarchy.required() && !cgroups.has(hierarchy, &full)? {
                let place = hierarchy.path().to_string_lossy();
                return Err(Error(format!(
                    "error adding pid of the process to cgroups: openat2 {place}{full}/cgroup.procs: no such file or directory"
                )));
            }
        }
    }
    Ok(())
}

/// The same for what the kernel refused.
pub(crate) fn explain(error: Error, target: &Target<'_>) -> Error {
    match (target.below, target.cgroup) {
        (Some(_), Some(cgroup)) if error.0.contains("Device or resource busy") => Error(format!(
            "{error}: error adding pid of the process to cgroups {cgroup}/cgroup.procs: device or resource busy"
        )),
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(said: &[&str]) -> Result<Option<Vec<(String, String)>>> {
        subs(&said.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn paths_by_controller() {
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(of(&[]).unwrap(), None);
        assert_eq!(of(&["/"]).unwrap().unwrap(), [pair("", "")]);
        assert_eq!(of(&["a//b/./c/../d"]).unwrap().unwrap(), [pair("", "a/b/d")]);
        assert_eq!(
            of(&["memory:m", "cpu,cpuacct:c"]).unwrap().unwrap(),
            [pair("memory", "m"), pair("cpu", "c"), pair("cpuacct", "c")]
        );
    }

    #[test]
    fn nothing_leads_out() {
        for (bad, said) in [
            (&[".."][..], "is not a sub cgroup path"),
            (&["a/../../b"], "is not a sub cgroup path"),
            (&["cpu:/../x"], "is not a sub cgroup path"),
            (&["cpu:a", "cpu:b"], "specified multiple times"),
            (&["a", "b"], "missing <controller>: prefix"),
            (&["cpu:a:b"], "invalid --cgroup argument"),
            (&[":a"], "has no name"),
        ] {
            let error = of(bad).unwrap_err();
            assert!(error.0.contains(said), "{bad:?}: {error}");
        }
    }
}
