//! `--userns-remap`: from a user's name to ranges of subordinate ids, as dockerd reads them.

use std::path::Path;
use std::process::Command;

use wharf_engine::planner::userns::Remap;
use wharf_plan::types::{IdKind, IdMap};

/// The user that `default` stands for.
const DEFAULT_USER: &str = "dockremap";
/// The user whose ids ranges of containers' own are made of; podman takes the same.
const OWN_USER: &str = "containers";
/// Ids that a new `dockremap` gets.
const RANGE: u64 = 65_536;
/// Ids below are for the machine's own accounts.
const FIRST: u64 = 100_000;
/// An account file larger than this is none.
const LIMIT: u64 = 4 << 20;

/// What the option and `/etc` say together: how containers are mapped, and the ids of which ranges of their own are made.
pub(crate) fn remap(option: &str, etc: &Path) -> Result<(Remap, Vec<(u32, u32)>), String> {
    let subuid = read(&etc.join("subuid"))?;
    let subgid = read(&etc.join("subgid"))?;
    // Whoever asks for a range of its own where there are none is told so then.
    let own = common(&ranges(&subuid, &[OWN_USER]), &ranges(&subgid, &[OWN_USER]));
    let remap = match option {
        "" => Remap::Off,
        "auto" if own.is_empty() => {
            return Err(format!(
                "--userns-remap auto: the user {OWN_USER:?} has no ids in {0}/subuid and {0}/subgid that are the same in \
                 both; a line for each is, for example, {OWN_USER}:2147483647:2147483648",
                etc.display()
            ));
        }
        "auto" => Remap::Own,
        other => fixed(other, etc)?,
    };
    Ok((remap, own))
}

fn read(path: &Path) -> Result<String, String> {
    match std::fs::metadata(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(String::new()),
        Err(e) => return Err(format!("{}: {e}", path.display())),
        Ok(meta) if !meta.is_file() || meta.len() > LIMIT => {
            return Err(format!("{} is no file of at most 4 MiB", path.display()));
        }
        Ok(_) => {}
    }
    std::fs::read(path)
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .map_err(|e| format!("{}: {e}", path.display()))
}

/// A line of passwd or group: name and number.
fn account(file: &str, wanted: impl Fn(&str, u32) -> bool) -> Option<(String, u32)> {
    file.lines().find_map(|line| {
        let mut parts = line.split(':');
        let name = parts.next()?;
        let id = parts.nth(1)?.parse().ok()?;
        wanted(name, id).then(|| (name.to_owned(), id))
    })
}

/// Dockerd's reading of `user[:group]`, names or numbers.
fn fixed(option: &str, etc: &Path) -> Result<Remap, String> {
    let (user_text, group_text) = match option.split(':').collect::<Vec<_>>().as_slice() {
        [user] => ((*user).to_owned(), None),
        [user, group] => ((*user).to_owned(), Some((*group).to_owned())),
        _ => return Err(format!("invalid user/group specification in --userns-remap: {option:?}")),
    };
    let (mut passwd, groups) = (read(&etc.join("passwd"))?, read(&etc.join("group"))?);
    let by_default = user_text == "default";
    let name = if by_default { DEFAULT_USER } else { user_text.as_str() };
    if by_default && account(&passwd, |n, _| n == DEFAULT_USER).is_none() {
        add_default(etc)?;
        passwd = read(&etc.join("passwd"))?;
    }
    let (user, uid) = match name.parse::<u32>() {
        Ok(uid) => account(&passwd, |_, id| id == uid)
            .ok_or_else(|| format!("uid {uid} has no entry in {}/passwd", etc.display()))?,
        Err(_) => account(&passwd, |n, _| n == name).ok_or_else(|| {
            format!("error during uid lookup for {name:?}: no such user in {}/passwd", etc.display())
        })?,
    };
    let group_text = group_text.unwrap_or_else(|| name.to_owned());
    let (group, _) = match group_text.parse::<u32>() {
        Ok(gid) => account(&groups, |_, id| id == gid)
            .ok_or_else(|| format!("gid {gid} has no entry in {}/group", etc.display()))?,
        Err(_) => account(&groups, |n, _| n == group_text).ok_or_else(|| {
            format!("error during gid lookup for {group_text:?}: no such group in {}/group", etc.display())
        })?,
    };
    if user == "root" {
        return Err("--userns-remap: root cannot be remapped to itself; leave the option out".into());
    }
    let (subuid, subgid) = (read(&etc.join("subuid"))?, read(&etc.join("subgid"))?);
    let number = uid.to_string();
    let uids = ranges(&subuid, &[&user, &number]);
    if uids.is_empty() {
        return Err(format!("can't create ID mappings: no subuid ranges found for user {user:?}"));
    }
    let mut gids = ranges(&subgid, &[&user, &number]);
    if gids.is_empty() {
        gids = ranges(&subgid, &[&group]);
    }
    if gids.is_empty() {
        return Err(format!("can't create ID mappings: no subgid ranges found for group {group:?}"));
    }
    Ok(Remap::Fixed(if uids == gids {
        follow(&uids, IdKind::Both)?
    } else {
        let mut maps = follow(&uids, IdKind::Users)?;
        maps.extend(follow(&gids, IdKind::Groups)?);
        maps
    }))
}

/// Several ranges follow each other inside.
fn follow(ranges: &[(u32, u32)], kind: IdKind) -> Result<Vec<IdMap>, String> {
    let mut inside = 0_u32;
    let mut maps = Vec::new();
    for (outside, size) in ranges.iter().copied() {
        maps.push(IdMap { inside, outside, size, kind });
        inside =
            inside.checked_add(size).ok_or("can't create ID mappings: the ranges are larger than all ids")?;
    }
    Ok(maps)
}

/// The ranges of the first of these names that has any, in order. A line that makes no sense is left out.
fn ranges(file: &str, owners: &[&str]) -> Vec<(u32, u32)> {
    let mut all: Vec<(u32, u32)> = file
        .lines()
        .filter_map(|line| {
            let mut parts = line.trim().split(':');
            let owner = parts.next()?;
            let (start, count) = (parts.next()?.parse::<u32>().ok()?, parts.next()?.parse::<u32>().ok()?);
            let good =
                owners.contains(&owner) && count > 0 && start > 0 && start.checked_add(count).is_some();
            (good && parts.next().is_none()).then_some((start, count))
        })
        .collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// What two lists of ranges have in common.
fn common(one: &[(u32, u32)], other: &[(u32, u32)]) -> Vec<(u32, u32)> {
    let mut all = Vec::new();
    for (a, a_count) in one {
        for (b, b_count) in other {
            let start = *a.max(b);
            let end = (a + a_count).min(b + b_count);
            if start < end {
                all.push((start, end - start));
            }
        }
    }
    all.sort_unstable();
    all
}

/// The account that dockerd makes for `default`, with the first ids that nobody has.
fn add_default(etc: &Path) -> Result<(), String> {
    let failed = |why: String| format!("error during {DEFAULT_USER:?} user creation: {why}");
    if etc != Path::new("/etc") {
        return Err(failed(format!("{} is not this machine's", etc.display())));
    }
    let made = Command::new("useradd")
        .args(["--system", "--user-group", "--no-create-home", "--shell", "/usr/sbin/nologin", DEFAULT_USER])
        .output()
        .map_err(|e| failed(format!("useradd: {e}")))?;
    if !made.status.success() {
        return Err(failed(String::from_utf8_lossy(&made.stderr).trim().to_owned()));
    }
    let (subuid, subgid) = (read(&etc.join("subuid"))?, read(&etc.join("subgid"))?);
    let line = |file: &str| ranges(file, &[DEFAULT_USER]).is_empty();
    if line(&subuid) && line(&subgid) {
        let text = format!("{DEFAULT_USER}:{}:{RANGE}\n", first_free(&[&subuid, &subgid])?);
        for (name, old) in [("subuid", &subuid), ("subgid", &subgid)] {
            let path = etc.join(name);
            let newline = if old.is_empty() || old.ends_with('\n') { "" } else { "\n" };
            std::fs::write(&path, format!("{old}{newline}{text}"))
                .map_err(|e| failed(format!("{}: {e}", path.display())))?;
        }
    }
    Ok(())
}

/// The first id behind all that are given.
fn first_free(files: &[&str]) -> Result<u64, String> {
    let end = files
        .iter()
        .flat_map(|file| file.lines())
        .filter_map(|line| {
            let mut parts = line.split(':').skip(1);
            let start: u64 = parts.next()?.trim().parse().ok()?;
            start.checked_add(parts.next()?.trim().parse().ok()?)
        })
        .max()
        .unwrap_or(0)
        .max(FIRST);
    if end + RANGE > u64::from(u32::MAX) {
        return Err(format!("no {RANGE} subordinate ids are left for {DEFAULT_USER:?}"));
    }
    Ok(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn etc(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, content) in files {
            std::fs::write(dir.path().join(name), content).unwrap();
        }
        dir
    }

    const PASSWD: (&str, &str) =
        ("passwd", "root:x:0:0::/root:/bin/sh\ndockremap:x:990:991::/:/bin/false\nu:x:5:6::/:\n");
    const GROUP: (&str, &str) = ("group", "root:x:0:\ndockremap:x:991:\nu:x:5:\ng:x:7:\n");

    #[test]
    fn names_and_numbers_lead_to_ranges() {
        let sub = "other:1:1\ndockremap:200000:10\ndockremap:100000:65536\n5:300000:9\nbad:x:y\n";
        let dir = etc(&[PASSWD, GROUP, ("subuid", sub), ("subgid", sub)]);
        let map = |inside, outside, size| IdMap { inside, outside, size, kind: IdKind::Both };
        // Several ranges follow each other inside.
        let two = Remap::Fixed(vec![map(0, 100_000, 65_536), map(65_536, 200_000, 10)]);
        for option in ["default", "dockremap", "990:991", "dockremap:dockremap", "990:dockremap"] {
            assert_eq!(remap(option, dir.path()).unwrap().0, two, "{option}");
        }
        for option in ["u", "5", "u:g", "5:7"] {
            assert_eq!(
                remap(option, dir.path()).unwrap().0,
                Remap::Fixed(vec![map(0, 300_000, 9)]),
                "{option}"
            );
        }
        assert_eq!(remap("", dir.path()).unwrap(), (Remap::Off, Vec::new()));
        for (option, text) in [
            ("a:b:c", "invalid user/group specification in --userns-remap: \"a:b:c\""),
            ("nobody-there", "error during uid lookup for \"nobody-there\""),
            ("4711", "uid 4711 has no entry in"),
            ("990", "gid 990 has no entry in"),
            ("u:nogroup", "error during gid lookup for \"nogroup\""),
            ("root", "root cannot be remapped to itself"),
            ("0", "root cannot be remapped to itself"),
            ("auto", "the user \"containers\" has no ids"),
        ] {
            let error = remap(option, dir.path()).unwrap_err();
            assert!(error.contains(text), "{option}: {error}");
        }
    }

    #[test]
    fn ranges_must_be_there() {
        let with = |subuid: &str, subgid: &str| {
            let dir = etc(&[PASSWD, GROUP, ("subuid", subuid), ("subgid", subgid)]);
            remap("dockremap", dir.path()).unwrap_err()
        };
        assert!(with("", "").contains("no subuid ranges found for user \"dockremap\""));
        assert!(with("dockremap:5:5\n", "").contains("no subgid ranges found for group \"dockremap\""));
        // What would take the host's root along, or wraps, is no range.
        assert!(with("dockremap:0:5\n", "").contains("no subuid ranges"));
        assert!(with("dockremap:4294967295:5\n", "").contains("no subuid ranges"));
        assert!(with("dockremap:5\n", "").contains("no subuid ranges"));
        assert!(with("dockremap:5:5:5\n", "").contains("no subuid ranges"));
    }

    #[test]
    fn users_and_groups_may_have_different_ranges() {
        let (subuid, subgid) = ("dockremap:100000:10\n", "dockremap:200000:5\ndockremap:300000:7\n");
        let dir = etc(&[PASSWD, GROUP, ("subuid", subuid), ("subgid", subgid)]);
        let map = |inside, outside, size, kind| IdMap { inside, outside, size, kind };
        let expected = vec![
            map(0, 100_000, 10, IdKind::Users),
            map(0, 200_000, 5, IdKind::Groups),
            map(5, 300_000, 7, IdKind::Groups),
        ];
        assert_eq!(remap("dockremap", dir.path()).unwrap().0, Remap::Fixed(expected));
    }

    #[test]
    fn own_ranges_are_those_of_containers() {
        let dir = etc(&[("subuid", "containers:1000:1000\n"), ("subgid", "containers:1500:1000\n")]);
        assert_eq!(remap("auto", dir.path()).unwrap(), (Remap::Own, vec![(1500, 500)]));
        assert_eq!(remap("", dir.path()).unwrap(), (Remap::Off, vec![(1500, 500)]));
    }

    #[test]
    fn a_new_range_lies_behind_all_others() {
        assert_eq!(first_free(&["", ""]), Ok(100_000));
        assert_eq!(first_free(&["a:100000:65536\n", "a:165536:65536\nb:7:9\n"]), Ok(231_072));
        assert!(first_free(&["a:4294900000:65536\n"]).is_err());
    }
}
