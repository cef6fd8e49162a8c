//! Filters as the OCI runtime specification writes them, for runtimes that compile their own.

use serde_json::{Value, json};

use super::{Action, Arch, Filter, Test, default, profile};
use crate::error::Result;

/// Docker's default profile for a process with these capabilities, as `linux.seccomp` of an OCI configuration.
pub fn docker_default_document(capabilities: u64) -> Value {
    document(&default::filter(capabilities, profile::ARCHITECTURE))
}

/// A profile in Docker's JSON, as [`docker_default_document`]: what depends on capabilities, instruction set and kernel is
/// decided.
pub fn profile_document(json: &str, capabilities: u64) -> Result<Value> {
    profile::read(json, capabilities, false).map(|filter| document(&filter))
}

fn document(filter: &Filter) -> Value {
    let architectures: Vec<&str> = filter
        .architectures
        .iter()
        .flat_map(|arch| match arch {
            Arch::X86_64 => &["SCMP_ARCH_X86_64", "SCMP_ARCH_X32"][..],
            Arch::I386 => &["SCMP_ARCH_X86"],
            Arch::Aarch64 => &["SCMP_ARCH_AARCH64"],
            Arch::Arm => &["SCMP_ARCH_ARM"],
        })
        .copied()
        .collect();
    let mut groups: Vec<(Vec<&str>, &super::Rule)> = Vec::new();
    for (name, rule) in &filter.rules {
        if rule.action == filter.default {
            continue;
        }
        match groups.last_mut() {
            Some((names, last)) if *last == rule => names.push(name),
            _ => groups.push((vec![name], rule)),
        }
    }
    let calls: Vec<Value> = groups
        .into_iter()
        .map(|(names, rule)| {
            let args: Vec<Value> = rule.tests.iter().map(|(index, test)| argument(*index, *test)).collect();
            let (action, errno) = action(rule.action);
            let mut call = json!({"names": names, "action": action});
            if let Value::Object(call) = &mut call {
                if !args.is_empty() {
                    call.insert("args".into(), Value::Array(args));
                }
                if let Some(errno) = errno {
                    call.insert("errnoRet".into(), errno.into());
                }
            }
            call
        })
        .collect();
    let (default, errno) = action(filter.default);
    let mut document = json!({"defaultAction": default, "architectures": architectures, "syscalls": calls});
    if let (Value::Object(document), Some(errno)) = (&mut document, errno) {
        document.insert("defaultErrnoRet".into(), errno.into());
    }
    document
}

fn action(action: Action) -> (&'static str, Option<u32>) {
    let Action(value) = action;
    let data = value & 0xffff;
    match action {
        Action::ALLOW => ("SCMP_ACT_ALLOW", None),
        Action::KILL_PROCESS => ("SCMP_ACT_KILL_PROCESS", None),
        Action::KILL_THREAD => ("SCMP_ACT_KILL_THREAD", None),
        Action::TRAP => ("SCMP_ACT_TRAP", None),
        Action::LOG => ("SCMP_ACT_LOG", None),
        _ if value & 0xffff_0000 == Action::trace(0).0 => ("SCMP_ACT_TRACE", Some(data)),
        _ => ("SCMP_ACT_ERRNO", Some(data)),
    }
}

fn argument(index: u8, test: Test) -> Value {
    let (op, value, second) = match test {
        Test::Equal(value) => ("SCMP_CMP_EQ", value, 0),
        Test::NotEqual(value) => ("SCMP_CMP_NE", value, 0),
        Test::Less(value) => ("SCMP_CMP_LT", value, 0),
        Test::LessEqual(value) => ("SCMP_CMP_LE", value, 0),
        Test::Greater(value) => ("SCMP_CMP_GT", value, 0),
        Test::GreaterEqual(value) => ("SCMP_CMP_GE", value, 0),
        Test::Masked(mask, value) => ("SCMP_CMP_MASKED_EQ", mask, value),
    };
    json!({"index": index, "value": value, "valueTwo": second, "op": op})
}

#[cfg(test)]
mod tests {
    use super::super::{docker_default, from_profile};
    use super::*;
    use crate::caps::DOCKER_DEFAULT;

    /// Read back, the document means the same: it compiles to the very same program.
    #[test]
    fn a_document_means_what_its_filter_does() {
        for capabilities in [0, DOCKER_DEFAULT, u64::MAX >> 23] {
            let text = docker_default_document(capabilities).to_string();
            assert_eq!(from_profile(&text, capabilities).unwrap(), docker_default(capabilities));
        }
        let own = r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
            {"names": ["mkdir"], "action": "SCMP_ACT_ERRNO", "errnoRet": 22},
            {"names": ["personality"], "action": "SCMP_ACT_KILL_PROCESS",
             "args": [{"index": 0, "value": 8, "valueTwo": 8, "op": "SCMP_CMP_MASKED_EQ"}]},
            {"names": ["reboot"], "action": "SCMP_ACT_TRACE", "errnoRet": 7, "includes": {"caps": ["CAP_SYS_BOOT"]}}]}"#;
        for capabilities in [0, 1 << 22] {
            let text = profile_document(own, capabilities).unwrap().to_string();
            assert_eq!(text.contains("reboot"), capabilities != 0);
            assert_eq!(from_profile(&text, 0).unwrap(), from_profile(own, capabilities).unwrap());
        }
        assert!(profile_document("{", 0).is_err());
    }
}
