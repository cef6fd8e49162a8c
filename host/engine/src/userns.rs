//! `--userns-remap`: which ids of the host stand behind those of containers.

use std::path::Path;

use wharf_plan::types::IdMap;

use crate::error::{Error, Result};
use crate::planner::modes::Remap;

/// The account that `default` stands for.
const DEFAULT: &str = "dockremap";
/// Ids of a container where the host's files name no range.
const SIZE: u32 = 65_536;
/// Where such a range may begin; below are accounts of the host.
const FIRST: u32 = 100_000;
/// At most so many ranges are given to the kernel, which takes no more.
const RANGES: usize = 340;
/// A file of ranges or accounts that is larger is not looked at further.
const LIMIT: u64 = 1 << 20;

/// Reads `default`, `user`, `user:group`, `uid` or `uid:gid`, and the ranges that `/etc/subuid` and `/etc/subgid` give
/// them.
pub fn remap(text: &str) -> Result<Remap> {
    let read = |path: &str| {
        let bounded = std::fs::metadata(Path::new(path)).is_ok_and(|m| m.len() <= LIMIT);
        if bounded { std::fs::read_to_string(path).unwrap_or_default() } else { String::new() }
    };
    resolve(text, &read("/etc/passwd"), &read("/etc/group"), &read("/etc/subuid"), &read("/etc/subgid"))
}

/// As [`remap`], of these files.
fn resolve(text: &str, passwd: &str, group: &str, subuid: &str, subgid: &str) -> Result<Remap> {
    let (user, its_group) = match text.split_once(':') {
        Some((_, "") | ("", _)) => {
            return Err(Error::invalid(format!(
                "invalid userns-remap {text:?}: user, user:group or default"
            )));
        }
        Some((user, group)) => (user, group),
        None => (text, text),
    };
    if text == "default" {
        let uids = ranges(subuid, DEFAULT, None).or_else(|| free(subuid)).unwrap_or_default();
        let gids = ranges(subgid, DEFAULT, None).or_else(|| free(subgid)).unwrap_or_default();
        return checked(format!("{DEFAULT}:{DEFAULT}"), uids, gids);
    }
    let (user_name, uid) = account(passwd, user)
        .ok_or_else(|| Error::invalid(format!("can't find uid for user {user} in /etc/passwd")))?;
    let (group_name, gid) = account(group, its_group)
        .ok_or_else(|| Error::invalid(format!("can't find gid for group {its_group} in /etc/group")))?;
    let missing = |what: &str, name: &str| {
        Error::invalid(format!(
            "no sub{what}id ranges found for user or group {name:?}: add a line to /etc/sub{what}id"
        ))
    };
    let uids = ranges(subuid, &user_name, Some(uid)).ok_or_else(|| missing("u", &user_name))?;
    let gids = ranges(subgid, &group_name, Some(gid))
        .or_else(|| ranges(subgid, &user_name, Some(uid)))
        .ok_or_else(|| missing("g", &group_name))?;
    checked(format!("{user_name}:{group_name}"), uids, gids)
}

fn checked(name: String, uids: Vec<IdMap>, gids: Vec<IdMap>) -> Result<Remap> {
    for (list, what) in [(&uids, "users"), (&gids, "groups")] {
        if list.is_empty() {
            return Err(Error::invalid(format!("no range of ids is left for {what} of containers")));
        }
        if list.iter().any(|m| m.outside == 0 || m.outside.checked_add(m.size).is_none()) {
            return Err(Error::invalid(format!("the ranges of {what} for containers hold the host's root")));
        }
    }
    Ok(Remap { name, uids, gids })
}

/// Name and number of an account, by either.
fn account(text: &str, wanted: &str) -> Option<(String, u32)> {
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, _, id) = (fields.next()?, fields.next()?, fields.next()?.parse::<u32>().ok()?);
        (name == wanted || wanted.parse() == Ok(id)).then(|| (name.to_owned(), id))
    })
}

/// The ranges of one account, put one after the other from 0 on.
fn ranges(text: &str, name: &str, id: Option<u32>) -> Option<Vec<IdMap>> {
    let mut inside = 0_u32;
    let mut maps = Vec::new();
    for (owner, first, size) in lines(text) {
        if (owner == name || id.is_some_and(|id| owner.parse() == Ok(id))) && size > 0 && maps.len() < RANGES
        {
            maps.push(IdMap { inside, outside: first, size });
            inside = inside.saturating_add(size);
        }
    }
    (!maps.is_empty()).then_some(maps)
}

fn lines(text: &str) -> impl Iterator<Item = (&str, u32, u32)> {
    text.lines().filter_map(|line| {
        let mut fields = line.trim().split(':');
        Some((fields.next()?, fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    })
}

/// A range behind all that are given to somebody.
fn free(text: &str) -> Option<Vec<IdMap>> {
    let end = lines(text).filter_map(|(_, first, size)| first.checked_add(size)).max().unwrap_or(0);
    let outside = end.max(FIRST);
    outside.checked_add(SIZE)?;
    Some(vec![IdMap { inside: 0, outside, size: SIZE }])
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0::/root:/bin/sh\napp:x:1000:1000::/:/bin/sh\n";
    const GROUP: &str = "root:x:0:\napp:x:1000:\nweb:x:33:\n";

    fn map(inside: u32, outside: u32, size: u32) -> IdMap {
        IdMap { inside, outside, size }
    }

    #[test]
    fn ranges_of_accounts() {
        let sub = "other:100000:65536\napp:200000:1000\n1000:300000:10\n";
        let found = resolve("app", PASSWD, GROUP, sub, sub).unwrap();
        assert_eq!(found.uids, [map(0, 200_000, 1000), map(1000, 300_000, 10)]);
        assert_eq!(found.name, "app:app");
        assert_eq!(resolve("1000:1000", PASSWD, GROUP, sub, sub).unwrap(), found);
        let web = resolve("app:web", PASSWD, GROUP, sub, "web:5000000:20\n").unwrap();
        assert_eq!((web.gids, web.name.as_str()), (vec![map(0, 5_000_000, 20)], "app:web"));
    }

    #[test]
    fn the_default_has_a_range_of_its_own() {
        let found = resolve("default", PASSWD, GROUP, "app:100000:65536\n", "").unwrap();
        assert_eq!(found.uids, [map(0, 165_536, 65_536)]);
        assert_eq!(found.gids, [map(0, 100_000, 65_536)]);
        let given = resolve("default", PASSWD, GROUP, "dockremap:500000:65536\n", "dockremap:600000:65536\n")
            .unwrap();
        assert_eq!((given.uids, given.gids), (vec![map(0, 500_000, 65_536)], vec![map(0, 600_000, 65_536)]));
    }

    #[test]
    fn refusals() {
        for (text, sub, said) in [
            ("nobody-here", "", "can't find uid for user nobody-here"),
            ("app:nope", "", "can't find gid for group nope"),
            ("app", "", "ranges found for user or group \"app\""),
            ("app:", "", "invalid userns-remap"),
            ("app", "app:0:65536\n", "hold the host's root"),
            ("app", "app:4294967295:65536\n", "hold the host's root"),
            ("default", "x:4294960000:100\n", "no range of ids is left"),
        ] {
            let e = resolve(text, PASSWD, GROUP, sub, sub).unwrap_err();
            assert!(e.message.contains(said), "{text}: {}", e.message);
        }
    }
}
