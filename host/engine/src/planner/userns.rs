//! Which user namespace a container gets: the host's, the daemon's one range, or a range of its own.

use wharf_plan::idmap;
use wharf_plan::types::{IdKind, IdMap};

use crate::error::{Error, Result};
use crate::models::HostConfig;
use crate::planner::modes::{self, Ipc, Mode, NetworkMode};

/// Ids of a range of a container's own where nothing is said: what images expect of one, `nobody` included.
pub const USUAL_SIZE: u32 = 65_536;
/// Fewer would leave out accounts of every image.
const LEAST_SIZE: u32 = 1024;

/// What `--userns-remap` says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Remap {
    /// Containers have the host's users.
    #[default]
    Off,
    /// All containers have these ranges.
    Fixed(Vec<IdMap>),
    /// Each container has a range of its own.
    Own,
}

/// What `HostConfig.UsernsMode` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Userns {
    /// As the daemon is set up.
    Default,
    /// The host's users.
    Host,
    /// A range of its own, of so many ids.
    Own(u32),
}

/// Reads `HostConfig.UsernsMode`: Docker's `host`, and podman's `auto[:size=N]`, for which `private` is another word.
pub fn mode(text: &str) -> Result<Userns> {
    let bad = || Error::invalid(format!("invalid USER mode: {text}"));
    Ok(match text {
        "" => Userns::Default,
        "host" => Userns::Host,
        "private" | "auto" => Userns::Own(USUAL_SIZE),
        other => {
            let size = other.strip_prefix("auto:size=").ok_or_else(bad)?;
            let size: u32 = size.parse().map_err(|_| bad())?;
            if size < LEAST_SIZE || i32::try_from(size).is_err() {
                return Err(Error::invalid(format!(
                    "invalid USER mode: {text}: a range has {LEAST_SIZE} to {} ids",
                    i32::MAX
                )));
            }
            Userns::Own(size)
        }
    })
}

/// What a container gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Choice {
    /// The host's users.
    Host,
    /// These ranges.
    Fixed(Vec<IdMap>),
    /// A free range of so many ids.
    Own(u32),
}

/// Decides, and refuses what does not go together with a user namespace, in Docker's words.
pub fn choose(host: &HostConfig, remap: &Remap) -> Result<Choice> {
    let choice = match (mode(host.userns_mode.as_deref().unwrap_or(""))?, remap) {
        (Userns::Host, _) | (Userns::Default, Remap::Off) => return Ok(Choice::Host),
        (Userns::Default, Remap::Fixed(maps)) => Choice::Fixed(maps.clone()),
        (Userns::Default, Remap::Own) => Choice::Own(USUAL_SIZE),
        (Userns::Own(size), _) => Choice::Own(size),
    };
    if host.privileged == Some(true) {
        return Err(Error::invalid(
            "privileged mode is incompatible with user namespaces.  You must run the container in the host namespace \
             when running privileged mode",
        ));
    }
    if modes::network(host.network_mode.as_deref().unwrap_or(""))? == NetworkMode::Host {
        return Err(Error::invalid(
            "cannot share the host's network namespace when user namespaces are enabled",
        ));
    }
    if modes::pid(host.pid_mode.as_deref().unwrap_or(""))? == Mode::Host {
        return Err(Error::invalid("cannot share the host PID namespace when user namespaces are enabled"));
    }
    Ok(choice)
}

/// Containers whose namespaces this one joins: it is in their user namespace then.
pub fn donors(network: &NetworkMode, pid: &Mode, ipc: &Ipc) -> Vec<String> {
    let mut all = Vec::new();
    if let NetworkMode::Container(other) = network {
        all.push(other.clone());
    }
    if let Mode::Container(other) = pid {
        all.push(other.clone());
    }
    if let Ipc::Container(other) = ipc {
        all.push(other.clone());
    }
    all
}

/// The lowest free range of the pool.
pub fn allocate(pool: &[(u32, u32)], taken: &[Vec<IdMap>], size: u32) -> Result<Vec<IdMap>> {
    if pool.is_empty() {
        return Err(Error::unavailable(
            "no ids to make user namespaces of: give the user \"containers\" ranges in /etc/subuid and /etc/subgid, for \
             example containers:2147483647:2147483648, and restart the daemon",
        ));
    }
    for (start, count) in pool {
        let end = u64::from(*start) + u64::from(*count);
        let mut at = u64::from(*start);
        while at + u64::from(size) <= end {
            let Ok(outside) = u32::try_from(at) else { break };
            let wanted = vec![IdMap { inside: 0, outside, size, kind: IdKind::Both }];
            // Behind the last one that is in the way.
            let behind = taken
                .iter()
                .flatten()
                .filter(|used| idmap::overlap(&wanted, std::slice::from_ref(used)))
                .map(|used| u64::from(used.outside) + u64::from(used.size))
                .max();
            match behind {
                None => return Ok(wanted),
                Some(next) => at = next,
            }
        }
    }
    Err(Error::unavailable(format!(
        "no free range of {size} ids is left for a user namespace: give the user \"containers\" more in /etc/subuid and \
         /etc/subgid, or remove containers"
    )))
}

/// A container's user must have a place in its ranges; everything else would fail late and in no one's words.
pub fn check_user(maps: &[IdMap], user: &wharf_plan::run::User) -> Result<()> {
    if maps.is_empty() {
        return Ok(());
    }
    let groups = std::iter::once(user.gid).chain(user.groups.iter().copied());
    let ids = std::iter::once((IdKind::Users, user.uid)).chain(groups.map(|gid| (IdKind::Groups, gid)));
    for (kind, id) in ids {
        if idmap::outside(maps, kind, id).is_none() {
            return Err(Error::invalid(format!("id {id} has no place in the container's user namespace")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(outside: u32, size: u32) -> Vec<IdMap> {
        vec![IdMap { inside: 0, outside, size, kind: IdKind::Both }]
    }

    #[test]
    fn words() {
        assert_eq!(mode("").unwrap(), Userns::Default);
        assert_eq!(mode("host").unwrap(), Userns::Host);
        assert_eq!(mode("private").unwrap(), Userns::Own(65_536));
        assert_eq!(mode("auto:size=2048").unwrap(), Userns::Own(2048));
        for bad in
            ["keep-id", "auto:", "auto:size=", "auto:size=-1", "auto:size=5", "auto:size=4294967296", "Host"]
        {
            assert!(mode(bad).unwrap_err().message.starts_with("invalid USER mode: "), "{bad}");
        }
    }

    type Change<'a> = &'a dyn Fn(&mut HostConfig);

    #[test]
    fn what_does_not_go_together() {
        let fixed = Remap::Fixed(range(100_000, 65_536));
        let with = |change: &dyn Fn(&mut HostConfig)| {
            let mut host = HostConfig::default();
            change(&mut host);
            host
        };
        assert_eq!(choose(&HostConfig::default(), &Remap::Off).unwrap(), Choice::Host);
        assert_eq!(choose(&HostConfig::default(), &Remap::Own).unwrap(), Choice::Own(65_536));
        let cases: [(Change<'_>, &str); 3] = [
            (
                &|h| h.privileged = Some(true),
                "privileged mode is incompatible with user namespaces.  You must run the container in the host \
                 namespace when running privileged mode",
            ),
            (
                &|h| h.network_mode = Some("host".into()),
                "cannot share the host's network namespace when user namespaces are enabled",
            ),
            (
                &|h| h.pid_mode = Some("host".into()),
                "cannot share the host PID namespace when user namespaces are enabled",
            ),
        ];
        for (change, text) in cases {
            assert_eq!(choose(&with(change), &fixed).unwrap_err().message, text);
            assert_eq!(choose(&with(change), &Remap::Off).unwrap(), Choice::Host);
            let opted_out = with(&|h| {
                change(h);
                h.userns_mode = Some("host".into());
            });
            assert_eq!(choose(&opted_out, &fixed).unwrap(), Choice::Host);
        }
    }

    #[test]
    fn ranges_are_given_once_and_again_when_free() {
        let pool = [(1000, 2500), (10_000, 1000)];
        let mut taken = Vec::new();
        for start in [1000, 2000, 10_000] {
            let next = allocate(&pool, &taken, 1000).unwrap();
            assert_eq!(next, range(start, 1000));
            taken.push(next);
        }
        assert!(allocate(&pool, &taken, 1000).unwrap_err().message.contains("no free range of 1000 ids"));
        taken.remove(0);
        assert_eq!(allocate(&pool, &taken, 1000).unwrap(), range(1000, 1000));
        // What somebody else's range covers in part is not given.
        assert_eq!(allocate(&pool, &[range(900, 500)], 1000).unwrap(), range(1400, 1000));
        assert!(allocate(&[], &[], 1000).unwrap_err().message.contains("/etc/subuid"));
        // Up to the end of the numbers.
        assert_eq!(allocate(&[(u32::MAX - 1000, 1000)], &[], 1000).unwrap(), range(u32::MAX - 1000, 1000));
    }

    #[test]
    fn users_need_a_place() {
        let user = |uid, gid, groups: &[u32]| wharf_plan::run::User { uid, gid, groups: groups.to_vec() };
        let maps = range(100_000, 1000);
        assert!(check_user(&maps, &user(0, 999, &[5])).is_ok());
        for bad in [user(1000, 0, &[]), user(0, 1000, &[]), user(0, 0, &[5, 70_000])] {
            assert!(check_user(&maps, &bad).unwrap_err().message.contains("has no place"));
            assert!(check_user(&[], &bad).is_ok());
        }
    }
}
