//! Who a process runs as, from the container's own account files.
//!
//! The files are a container's and thus hostile: the caller bounds what it reads, and a line is used or skipped, never
//! trusted for its length. A number is always an id and never a name (CVE-2026-46680: an account called `1000` with
//! uid 0).

use wharf_plan::run::User;

use crate::error::{Error, Result};

/// At most so many bytes of an account file are read; what lies behind does not count.
pub const FILE_LIMIT: usize = 1 << 20;
/// At most so many supplementary groups.
const GROUP_LIMIT: usize = 65_536;

/// A user and what the account file says of its home.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Account {
    /// Ids.
    pub user: User,
    /// Home directory; `/` when unknown.
    pub home: String,
}

struct Passwd<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

fn lines(file: &[u8]) -> impl Iterator<Item = &str> {
    file.get(..file.len().min(FILE_LIMIT))
        .unwrap_or_default()
        .split(|b| *b == b'\n')
        .filter_map(|l| std::str::from_utf8(l).ok())
        .map(str::trim)
        .filter(|l| !l.is_empty() && !l.starts_with('#'))
}

fn accounts(file: &[u8]) -> impl Iterator<Item = Passwd<'_>> {
    lines(file).filter_map(|line| {
        let mut parts = line.split(':');
        let name = parts.next()?;
        let uid = id(parts.nth(1)?)?;
        let gid = id(parts.next()?)?;
        let home = parts.nth(1).unwrap_or("");
        Some(Passwd { name, uid, gid, home })
    })
}

fn groups(file: &[u8]) -> impl Iterator<Item = (&str, u32, &str)> {
    lines(file).filter_map(|line| {
        let mut parts = line.split(':');
        let name = parts.next()?;
        let gid = id(parts.nth(1)?)?;
        Some((name, gid, parts.next().unwrap_or("")))
    })
}

/// Ids above 2^31 - 1 are refused: the kernel's -1 and wrapped ones lie there (CVE-2024-40635).
fn id(text: &str) -> Option<u32> {
    text.parse::<u32>().ok().filter(|n| i32::try_from(*n).is_ok())
}

fn numeric(text: &str) -> Result<Option<u32>> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Ok(None);
    }
    match id(text) {
        Some(n) => Ok(Some(n)),
        None => Err(Error::invalid("uids and gids must be in range 0-2147483647")),
    }
}

/// Checks what can be checked without the account files.
pub fn check(user: &str) -> Result<()> {
    if user.bytes().any(|b| b == 0 || b == b'\n') {
        return Err(Error::invalid(format!("invalid user {user:?}")));
    }
    let (name, group) = user.split_once(':').unwrap_or((user, ""));
    numeric(name)?;
    numeric(group)?;
    Ok(())
}

/// Resolves `user[:group]` and `--group-add` against the account files.
pub fn resolve(text: &str, add: &[String], passwd: &[u8], group: &[u8]) -> Result<Account> {
    let (name, group_name) = match text.split_once(':') {
        Some((u, g)) => (u, g),
        None => (text, ""),
    };
    let wanted = numeric(name)?;
    let found = if name.is_empty() {
        accounts(passwd).find(|a| a.uid == 0)
    } else if let Some(uid) = wanted {
        accounts(passwd).find(|a| a.uid == uid)
    } else {
        let known = accounts(passwd).find(|a| a.name == name);
        if known.is_none() {
            return Err(Error::internal(format!(
                "unable to find user {name}: no matching entries in passwd file"
            )));
        }
        known
    };
    let uid = if name.is_empty() { 0 } else { wanted.or(found.as_ref().map(|a| a.uid)).unwrap_or(0) };
    // The default user's group is 0, whatever the account file says of it.
    let mut gid = if name.is_empty() { 0 } else { found.as_ref().map_or(0, |a| a.gid) };
    let mut extra = Vec::new();
    if group_name.is_empty() {
        if let Some(account) = &found {
            extra.extend(
                groups(group)
                    .filter(|(_, _, members)| members.split(',').any(|m| m == account.name))
                    .map(|(_, gid, _)| gid)
                    .take(GROUP_LIMIT),
            );
        }
    } else {
        gid = group_id(group_name, group)?;
    }
    for name in add {
        let one = group_id(name, group)?;
        if !extra.contains(&one) {
            extra.push(one);
        }
    }
    // The primary group is one of the groups, too: else a file that denies it to the group could be read (CVE-2022-36109).
    extra.retain(|one| *one != gid);
    extra.insert(0, gid);
    let home = found.map(|a| a.home).filter(|h| h.starts_with('/')).unwrap_or("/").to_owned();
    Ok(Account { user: User { uid, gid, groups: extra }, home })
}

fn group_id(name: &str, file: &[u8]) -> Result<u32> {
    if let Some(gid) = numeric(name)? {
        return Ok(gid);
    }
    groups(file).find(|(n, _, _)| *n == name).map(|(_, gid, _)| gid).ok_or_else(|| {
        Error::internal(format!("unable to find group {name}: no matching entries in group file"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &[u8] = b"root:x:0:0:root:/root:/bin/sh\n# note\nbad line\n1000:x:0:0:trap:/root:/bin/sh\n\
        app:x:101:102:App:/srv/app:/bin/false\nbig:x:4294967296:0::/:\nneg:x:-1:0::/:\nrel:x:7:7::etc:\n";
    const GROUP: &[u8] =
        b"root:x:0:\nwheel:x:10:root,app\napp:x:102:\nstaff:x:50:app\n50x:x:51:\n1000:x:0:\n";

    fn at(text: &str) -> Account {
        resolve(text, &[], PASSWD, GROUP).unwrap()
    }

    #[test]
    fn names_and_numbers() {
        let cases: &[(&str, u32, u32, &[u32], &str)] = &[
            ("", 0, 0, &[0, 10], "/root"),
            ("root", 0, 0, &[0, 10], "/root"),
            ("0", 0, 0, &[0, 10], "/root"),
            ("app", 101, 102, &[102, 10, 50], "/srv/app"),
            ("101", 101, 102, &[102, 10, 50], "/srv/app"),
            ("app:staff", 101, 50, &[50], "/srv/app"),
            ("app:7", 101, 7, &[7], "/srv/app"),
            ("4242", 4242, 0, &[0], "/"),
            ("4242:4243", 4242, 4243, &[4243], "/"),
            ("rel", 7, 7, &[7], "/"),
        ];
        for (text, uid, gid, groups, home) in cases {
            let a = at(text);
            assert_eq!(
                (a.user.uid, a.user.gid, &a.user.groups[..], a.home.as_str()),
                (*uid, *gid, *groups, *home),
                "{text}"
            );
        }
    }

    #[test]
    fn a_number_is_never_a_name() {
        assert_eq!(at("1000").user.uid, 1000);
        assert_eq!(at("5:1000").user.gid, 1000);
    }

    #[test]
    fn out_of_range_and_unknown() {
        for bad in ["4294967296", "2147483648", "-1", "0:4294967295"] {
            assert!(resolve(bad, &[], PASSWD, GROUP).unwrap_err().message.contains("0-2147483647"), "{bad}");
            assert!(check(bad).is_err());
        }
        for bad in ["big", "neg", "nosuch"] {
            let e = resolve(bad, &[], PASSWD, GROUP).unwrap_err();
            assert_eq!(e.message, format!("unable to find user {bad}: no matching entries in passwd file"));
        }
        let e = resolve("app:nosuch", &[], PASSWD, GROUP).unwrap_err();
        assert_eq!(e.message, "unable to find group nosuch: no matching entries in group file");
    }

    #[test]
    fn group_add() {
        let a = resolve("app", &["staff".into(), "99".into(), "99".into()], PASSWD, GROUP).unwrap();
        assert_eq!(a.user.groups, [102, 10, 50, 99]);
    }

    #[test]
    fn a_huge_file_is_cut() {
        let mut file = vec![b'x'; FILE_LIMIT];
        file.extend(b"\nlate:x:5:5::/:\n");
        assert!(resolve("late", &[], &file, b"").is_err());
    }
}
