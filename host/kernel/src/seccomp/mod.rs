//! System call filters: Docker's default profile, profiles in Docker's JSON, and the classic BPF programs they become.

mod compile;
mod default;
mod document;
mod numbers;
mod profile;

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use crate::error::Result;

pub use document::{docker_default_document, profile_document};

/// Programs for at most so many sets of capabilities are remembered.
const REMEMBERED: usize = 64;

/// Docker's default profile for a process with these capabilities, as classic BPF programs to install in order.
pub fn docker_default(capabilities: u64) -> Vec<Vec<u8>> {
    static PROGRAMS: Mutex<Option<HashMap<u64, Vec<u8>>>> = Mutex::new(None);
    let mut guard = PROGRAMS.lock().unwrap_or_else(PoisonError::into_inner);
    let programs = guard.get_or_insert_with(HashMap::new);
    if let Some(program) = programs.get(&capabilities) {
        return vec![program.clone()];
    }
    let filter = default::filter(capabilities, profile::ARCHITECTURE);
    let program = compile::program(&filter);
    if programs.len() >= REMEMBERED {
        programs.clear();
    }
    programs.insert(capabilities, program.clone());
    vec![program]
}

/// A profile in the JSON of Docker's `--security-opt seccomp=FILE`, for a process with these capabilities.
pub fn from_profile(json: &str, capabilities: u64) -> Result<Vec<Vec<u8>>> {
    let filter = profile::read(json, capabilities, false)?;
    let program = compile::program(&filter);
    compile::check_length(&program)?;
    Ok(vec![program])
}

/// `linux.seccomp` of an OCI configuration, as a program and whether it needs a listener (`SCMP_ACT_NOTIFY`).
pub fn from_configuration(json: &str, capabilities: u64) -> Result<(Vec<u8>, bool)> {
    let filter = profile::read(json, capabilities, true)?;
    let program = compile::program(&filter);
    compile::check_length(&program)?;
    Ok((program, filter.rules.iter().any(|(_, rule)| rule.action == Action::NOTIFY)))
}

/// An instruction set as the kernel tells it apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arch {
    X86_64,
    I386,
    Aarch64,
    Arm,
}

impl Arch {
    /// `AUDIT_ARCH_…`.
    fn audit(self) -> u32 {
        match self {
            Self::X86_64 => 0xc000_003e,
            Self::I386 => 0x4000_0003,
            Self::Aarch64 => 0xc000_00b7,
            Self::Arm => 0x4000_0028,
        }
    }

    /// Number of a call on it.
    fn number(self, name: &str) -> Option<u32> {
        let index = numbers::NUMBERS.binary_search_by(|(n, _)| (*n).cmp(name)).ok()?;
        let (_, all) = numbers::NUMBERS.get(index)?;
        let [x86_64, i386, aarch64, arm] = all;
        let number = match self {
            Self::X86_64 => x86_64,
            Self::I386 => i386,
            Self::Aarch64 => aarch64,
            Self::Arm => arm,
        };
        (*number != numbers::NONE).then_some(*number)
    }
}

/// What a filter answers, as the kernel's return value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Action(u32);

impl Action {
    pub(crate) const ALLOW: Self = Self(0x7fff_0000);
    pub(crate) const KILL_THREAD: Self = Self(0);
    pub(crate) const KILL_PROCESS: Self = Self(0x8000_0000);
    pub(crate) const TRAP: Self = Self(0x0003_0000);
    pub(crate) const LOG: Self = Self(0x7ffc_0000);
    pub(crate) const NOTIFY: Self = Self(0x7fc0_0000);

    pub(crate) fn errno(errno: u16) -> Self {
        Self(0x0005_0000 | u32::from(errno))
    }

    /// The answer to a call that is newer than the profile. Programs try a new call and take an older one where there is no such
    /// call; any other refusal they take for final. Actions that let calls pass, or leave them to a tracer, stay as they are.
    fn to_unknown(self) -> Self {
        match self.0 & 0xffff_0000 {
            0x7fff_0000 | 0x7ffc_0000 | 0x7ff0_0000 => self,
            _ => Self::errno(38),
        }
    }

    pub(crate) fn trace(data: u16) -> Self {
        Self(0x7ff0_0000 | u32::from(data))
    }
}

/// A comparison of an argument with a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Test {
    Equal(u64),
    NotEqual(u64),
    Less(u64),
    LessEqual(u64),
    Greater(u64),
    GreaterEqual(u64),
    /// Mask, then the value.
    Masked(u64, u64),
}

/// One answer for one call, where all tests hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(crate) tests: Vec<(u8, Test)>,
    pub(crate) action: Action,
}

/// Rules by name; the first that holds decides, with those without tests last.
#[derive(Debug, Clone)]
pub(crate) struct Filter {
    pub(crate) architectures: Vec<Arch>,
    pub(crate) default: Action,
    pub(crate) rules: Vec<(String, Rule)>,
    /// Further calls that the profile names, which get the default answer.
    pub(crate) named: Vec<String>,
}

#[cfg(test)]
mod tests;
