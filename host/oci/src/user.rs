//! User namespaces of bundles, and mounts whose ids are translated.

use std::path::Path;

use oci_spec::runtime::{LinuxIdMapping, LinuxNamespaceType, Spec};
use wharf_kernel::userns;
use wharf_plan::run::{Fd, Ids, Namespace, RunPlan, UserNamespace};
use wharf_plan::types::{IdKind, IdMap};

use crate::{Doing, Error, Result};

/// What a configuration says of its user namespace.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) enum User {
    /// The caller's.
    #[default]
    Host,
    /// A new one with these ranges.
    New(Ids),
    /// The one that was opened under this number, which has these ranges where any are given.
    Join(Fd, Ids),
}

/// Ranges in the words of the specification.
fn ranges(list: Option<&Vec<LinuxIdMapping>>) -> Vec<IdMap> {
    let one = |m: &LinuxIdMapping| IdMap {
        inside: m.container_id(),
        outside: m.host_id(),
        size: m.size(),
        kind: IdKind::Both,
    };
    list.into_iter().flatten().map(one).collect()
}

/// Both lists of the configuration.
fn described(spec: &Spec) -> Ids {
    let linux = spec.linux().as_ref();
    Ids {
        uids: ranges(linux.and_then(|l| l.uid_mappings().as_ref())),
        gids: ranges(linux.and_then(|l| l.gid_mappings().as_ref())),
    }
}

/// Reads it; `found` is the namespace as listed.
pub(crate) fn user(spec: &Spec, found: Namespace) -> Result<User> {
    let ids = described(spec);
    match found {
        Namespace::Join(fd) => Ok(User::Join(fd, ids)),
        Namespace::New | Namespace::Host => {
            for (what, maps) in [("uid", &ids.uids), ("gid", &ids.gids)] {
                if !maps.iter().any(|m| m.inside == 0 && m.size > 0) {
                    return Err(Error(format!(
                        "user namespaces enabled, but the {what} mappings have no place for {what} 0"
                    )));
                }
            }
            Ok(User::New(ids))
        }
    }
}

/// Refuses mappings without the namespace that they are for, as runc does.
pub(crate) fn check_unused(spec: &Spec) -> Result<()> {
    let ids = described(spec);
    let listed = spec
        .linux()
        .as_ref()
        .and_then(|l| l.namespaces().as_ref())
        .into_iter()
        .flatten()
        .any(|n| n.typ() == LinuxNamespaceType::User);
    if listed || (ids.uids.is_empty() && ids.gids.is_empty()) {
        Ok(())
    } else {
        Err("user namespace mappings specified, but user namespace isn't enabled in the config".into())
    }
}

/// Whether a user namespace is joined by its path.
fn joins(spec: &Spec) -> bool {
    let all = spec.linux().as_ref().and_then(|l| l.namespaces().as_ref()).into_iter().flatten();
    all.filter(|n| n.typ() == LinuxNamespaceType::User).any(|n| n.path().is_some())
}

/// The ids of a mount: its own mappings, or those of the container where only the option `idmap` is given. The second value
/// says that mounts below are mapped as well.
pub(crate) fn of_mount(spec: &Spec, mount: &oci_spec::runtime::Mount) -> Result<Option<(Ids, bool)>> {
    let options = mount.options().as_deref().unwrap_or_default();
    let has = |word: &str| options.iter().any(|o| o == word);
    let own =
        Ids { uids: ranges(mount.uid_mappings().as_ref()), gids: ranges(mount.gid_mappings().as_ref()) };
    let target = mount.destination().display();
    if own.uids.is_empty() != own.gids.is_empty() {
        return Err(Error(format!("mount {target}: uidMappings and gidMappings must be given together")));
    }
    let recursive = has("ridmap");
    if !own.uids.is_empty() {
        return Ok(Some((own, recursive)));
    }
    if !recursive && !has("idmap") {
        return Ok(None);
    }
    let ids = described(spec);
    if ids.uids.is_empty() && joins(spec) {
        // Those of the namespace, which it is asked for once it is open.
        return Ok(Some((Ids::default(), recursive)));
    }
    if ids.uids.is_empty() {
        return Err(Error(format!(
            "mount {target}: idmap without mappings needs a user namespace with mappings"
        )));
    }
    Ok(Some((ids, recursive)))
}

/// Makes or joins the namespace, with the network namespace if that is to be a new one.
pub(crate) fn make(user: &User, plan: &mut RunPlan, fds: &mut Vec<std::os::fd::OwnedFd>) -> Result<()> {
    use crate::create::add;
    use std::os::fd::AsFd;
    let new_net = plan.namespaces.net == Namespace::New;
    let (namespace, ids) = match user {
        User::Host => return Ok(()),
        User::New(ids) if new_net => {
            let pair = userns::create_pair(ids).doing("user namespace")?;
            plan.namespaces.net = Namespace::Join(add(fds, pair.net));
            (add(fds, pair.user), ids.clone())
        }
        User::New(ids) => (add(fds, userns::create(ids).doing("user namespace")?), ids.clone()),
        User::Join(fd, said) => {
            let joined =
                usize::try_from(*fd).ok().and_then(|n| fds.get(n)).ok_or("no user namespace was opened")?;
            let ids = userns::ids_of(joined.as_fd()).doing("user namespace")?;
            // Both a path and ranges are what other runtimes want, so they may be given if they say the same.
            if *said != Ids::default() && *said != ids {
                return Err(
                    "user namespace mappings specified, but the user namespace of the path has others".into(),
                );
            }
            if new_net {
                let net = userns::network_of(joined.as_fd()).doing("network namespace")?;
                plan.namespaces.net = Namespace::Join(add(fds, net));
            }
            (*fd, ids)
        }
    };
    plan.user = Some(UserNamespace { namespace, ids });
    Ok(())
}

/// The ranges of a running process's user namespace; None where it is this process's own.
pub(crate) fn of_process(pid: i32) -> Result<Option<Ids>> {
    let namespace = |of: &str| std::fs::read_link(format!("/proc/{of}/ns/user"));
    if namespace("self")? == namespace(&pid.to_string()).doing("the container's user namespace")? {
        return Ok(None);
    }
    let read = |name: &str| userns::read_map(Path::new(&format!("/proc/{pid}/{name}")));
    Ok(Some(Ids { uids: read("uid_map")?, gids: read("gid_map")? }))
}
