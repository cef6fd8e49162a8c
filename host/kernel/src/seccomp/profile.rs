//! Profiles in Docker's JSON.

use serde::Deserialize;

use super::{Action, Arch, Filter, Rule, Test};
use crate::caps;
use crate::error::{Error, Result};

/// What this program runs on.
#[cfg(target_arch = "x86_64")]
pub(super) const ARCHITECTURE: Arch = Arch::X86_64;
/// What this program runs on.
#[cfg(target_arch = "aarch64")]
pub(super) const ARCHITECTURE: Arch = Arch::Aarch64;

/// Go's name of it, as profiles use it.
const GO_NAME: &str = if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" };

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Profile {
    default_action: String,
    default_errno_ret: Option<u16>,
    #[serde(default)]
    architectures: Vec<String>,
    #[serde(default)]
    arch_map: Vec<ArchMap>,
    #[serde(default)]
    listener_path: String,
    #[serde(default)]
    syscalls: Vec<Call>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ArchMap {
    architecture: String,
    sub_architectures: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Call {
    #[serde(default)]
    name: String,
    #[serde(default)]
    names: Vec<String>,
    action: String,
    errno_ret: Option<u16>,
    args: Option<Vec<Argument>>,
    #[serde(default)]
    includes: Condition,
    #[serde(default)]
    excludes: Condition,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Argument {
    index: u8,
    value: u64,
    #[serde(default)]
    value_two: u64,
    op: String,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct Condition {
    caps: Option<Vec<String>>,
    arches: Option<Vec<String>>,
    min_kernel: Option<String>,
}

fn bad(what: &str, why: impl Into<String>) -> Error {
    Error::refused(format!("seccomp profile: {what}"), libc::EINVAL, why)
}

/// `notify`: rules may leave the answer to a listener.
pub(super) fn read(json: &str, capabilities: u64, notify: bool) -> Result<Filter> {
    let profile: Profile = serde_json::from_str(json).map_err(|e| bad("decoding", e.to_string()))?;
    if !notify && !profile.listener_path.is_empty() {
        return Err(bad("listenerPath", "notifications are not supported"));
    }
    if !profile.architectures.is_empty() && !profile.arch_map.is_empty() {
        return Err(bad(
            "architectures",
            "'architectures' and 'archMap' were specified in the seccomp profile, use either 'architectures' or 'archMap'",
        ));
    }
    let default = action(&profile.default_action, profile.default_errno_ret)?;
    if default == Action::NOTIFY {
        return Err(bad("defaultAction", "SCMP_ACT_NOTIFY cannot be used as default action"));
    }
    let (mut rules, mut named) = (Vec::new(), Vec::new());
    for call in profile.syscalls {
        let answer = action(&call.action, call.errno_ret)?;
        if answer == Action::NOTIFY && !notify {
            return Err(bad("SCMP_ACT_NOTIFY", "notifications are not supported"));
        }
        if answer == Action::NOTIFY && (call.name == "write" || call.names.iter().any(|n| n == "write")) {
            return Err(bad("write", "SCMP_ACT_NOTIFY cannot be used for the write syscall"));
        }
        if !call.name.is_empty() && !call.names.is_empty() {
            return Err(bad(
                &call.name,
                "'name' and 'names' were specified in the seccomp profile, use either 'name' or 'names'",
            ));
        }
        if !applies(&call.includes, &call.excludes, capabilities)? {
            continue;
        }
        if answer == default {
            named.extend(call.names);
            named.extend((!call.name.is_empty()).then_some(call.name));
            continue;
        }
        for tests in alternatives(call.args.unwrap_or_default())? {
            for name in call.names.iter().chain((!call.name.is_empty()).then_some(&call.name)) {
                rules.push((name.clone(), Rule { tests: tests.clone(), action: answer }));
            }
        }
    }
    let architectures = architectures(&profile.architectures, &profile.arch_map);
    Ok(Filter { architectures, default, rules, named })
}

fn action(name: &str, errno: Option<u16>) -> Result<Action> {
    Ok(match name {
        "SCMP_ACT_ALLOW" => Action::ALLOW,
        "SCMP_ACT_ERRNO" => Action::errno(errno.unwrap_or(1)),
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => Action::KILL_THREAD,
        "SCMP_ACT_KILL_PROCESS" => Action::KILL_PROCESS,
        "SCMP_ACT_TRAP" => Action::TRAP,
        "SCMP_ACT_TRACE" => Action::trace(errno.unwrap_or(1)),
        "SCMP_ACT_LOG" => Action::LOG,
        "SCMP_ACT_NOTIFY" => Action::NOTIFY,
        other => return Err(bad(other, "unknown action")),
    })
}

fn applies(includes: &Condition, excludes: &Condition, capabilities: u64) -> Result<bool> {
    // A name that nobody knows is a capability that nobody has.
    let has = |name: &String| caps::parse(name).is_some_and(|n| capabilities & caps::bit(n) != 0);
    let here = |name: &String| name == GO_NAME;
    let all = |list: &Option<Vec<String>>| list.as_ref().is_none_or(|caps| caps.iter().all(has));
    let any = |list: &Option<Vec<String>>| list.as_ref().is_some_and(|caps| caps.iter().any(has));
    let old = |version: &Option<String>| version.as_ref().map(|v| kernel_at_least(v)).transpose();
    if includes.arches.as_ref().is_some_and(|a| !a.is_empty() && !a.iter().any(here))
        || excludes.arches.as_ref().is_some_and(|a| a.iter().any(here))
    {
        return Ok(false);
    }
    let includes_kernel = old(&includes.min_kernel)?.unwrap_or(true);
    let excludes_kernel = old(&excludes.min_kernel)?.unwrap_or(false);
    Ok(all(&includes.caps) && !any(&excludes.caps) && includes_kernel && !excludes_kernel)
}

fn kernel_at_least(version: &str) -> Result<bool> {
    let numbers = |text: &str| -> Option<(u32, u32)> {
        let mut parts = text.split('.');
        let digits =
            |part: &str| part.chars().take_while(char::is_ascii_digit).collect::<String>().parse().ok();
        Some((digits(parts.next()?)?, digits(parts.next()?)?))
    };
    let wanted = numbers(version).ok_or_else(|| bad(version, "not a kernel version"))?;
    let name = nix::sys::utsname::uname().map_err(|e| Error::new("uname()", e as i32))?;
    Ok(numbers(&name.release().to_string_lossy()).is_some_and(|have| have >= wanted))
}

/// Several tests of one argument are alternatives, tests of different arguments must all hold.
fn alternatives(arguments: Vec<Argument>) -> Result<Vec<Vec<(u8, Test)>>> {
    let mut tests = Vec::with_capacity(arguments.len());
    for argument in arguments {
        if argument.index > 5 {
            return Err(bad(&argument.index.to_string(), "a call has six arguments, counted from 0"));
        }
        let value = argument.value;
        let test = match argument.op.as_str() {
            "SCMP_CMP_EQ" => Test::Equal(value),
            "SCMP_CMP_NE" => Test::NotEqual(value),
            "SCMP_CMP_LT" => Test::Less(value),
            "SCMP_CMP_LE" => Test::LessEqual(value),
            "SCMP_CMP_GT" => Test::Greater(value),
            "SCMP_CMP_GE" => Test::GreaterEqual(value),
            "SCMP_CMP_MASKED_EQ" => Test::Masked(value, argument.value_two),
            other => return Err(bad(other, "unknown comparison")),
        };
        tests.push((argument.index, test));
    }
    let mut indexes: Vec<u8> = tests.iter().map(|(index, _)| *index).collect();
    indexes.sort_unstable();
    let repeated = indexes.windows(2).any(|pair| pair.first() == pair.last());
    Ok(if repeated { tests.into_iter().map(|test| vec![test]).collect() } else { vec![tests] })
}

fn architectures(listed: &[String], map: &[ArchMap]) -> Vec<Arch> {
    let by_name = |name: &str| match name {
        "SCMP_ARCH_X86_64" => Some(Arch::X86_64),
        "SCMP_ARCH_X86" => Some(Arch::I386),
        "SCMP_ARCH_AARCH64" => Some(Arch::Aarch64),
        "SCMP_ARCH_ARM" => Some(Arch::Arm),
        _ => None,
    };
    let mut all: Vec<Arch> = vec![ARCHITECTURE];
    let of_map = map
        .iter()
        .filter(|m| by_name(&m.architecture) == Some(ARCHITECTURE))
        .flat_map(|m| m.sub_architectures.iter().flatten());
    for arch in listed.iter().chain(of_map).filter_map(|name| by_name(name)) {
        // A 64-bit kernel of one kind never runs programs of the other.
        let related = match ARCHITECTURE {
            Arch::X86_64 | Arch::I386 => matches!(arch, Arch::X86_64 | Arch::I386),
            Arch::Aarch64 | Arch::Arm => matches!(arch, Arch::Aarch64 | Arch::Arm),
        };
        if related && !all.contains(&arch) {
            all.push(arch);
        }
    }
    all
}
