//! Device rules: lines for version 1, a program for version 2.

use wharf_plan::run::DeviceRule;

use crate::error::{Error, Result};
use crate::sys::bpf::Insn;

const ACCESS_MKNOD: u8 = 1;
const ACCESS_READ: u8 = 2;
const ACCESS_WRITE: u8 = 4;

const BLOCK: i32 = 1;
const CHARACTER: i32 = 2;

fn bad(rule: &DeviceRule) -> Error {
    Error::refused(format!("device rule {rule:?}"), libc::EINVAL, "not a device rule")
}

fn access(rule: &DeviceRule) -> Result<u8> {
    let mut bits = 0;
    for letter in rule.access.chars() {
        bits |= match letter {
            'r' => ACCESS_READ,
            'w' => ACCESS_WRITE,
            'm' => ACCESS_MKNOD,
            _ => return Err(bad(rule)),
        };
    }
    if bits == 0 { Err(bad(rule)) } else { Ok(bits) }
}

/// `c 1:3 rwm`.
pub(super) fn v1_line(rule: &DeviceRule) -> Result<String> {
    access(rule)?;
    if rule.kind == 'a' {
        return Ok("a".into());
    }
    if !matches!(rule.kind, 'b' | 'c') {
        return Err(bad(rule));
    }
    let number = |n: Option<u32>| n.map_or("*".to_owned(), |n| n.to_string());
    Ok(format!("{} {}:{} {}", rule.kind, number(rule.major), number(rule.minor), rule.access))
}

// The instructions used: names as in the kernel's instruction set document.
const fn load_word(register: u8, offset: i16) -> Insn {
    // ldxw rN, [r1 + offset]
    Insn { code: 0x61, regs: register | 0x10, off: offset, imm: 0 }
}
const fn and(register: u8, imm: i32) -> Insn {
    Insn { code: 0x54, regs: register, off: 0, imm }
}
const fn shift_right(register: u8, imm: i32) -> Insn {
    Insn { code: 0x74, regs: register, off: 0, imm }
}
const fn copy(to: u8, from: u8) -> Insn {
    Insn { code: 0xbc, regs: to | from << 4, off: 0, imm: 0 }
}
const fn jump_unless_equal(register: u8, imm: i32, by: i16) -> Insn {
    Insn { code: 0x56, regs: register, off: by, imm }
}
const fn set(register: u8, imm: i32) -> Insn {
    Insn { code: 0xb4, regs: register, off: 0, imm }
}
const EXIT: Insn = Insn { code: 0x95, regs: 0, off: 0, imm: 0 };

/// A program that answers as the v1 list would: the last rule that covers the access decides, and what no rule
/// covers is denied. An access is covered by an `allow` when all of its bits are, by a `deny` when any is.
pub(super) fn program(rules: &[DeviceRule]) -> Result<Vec<Insn>> {
    // struct bpf_cgroup_dev_ctx { u32 access_type (kind | access << 16); u32 major; u32 minor; }
    let mut code = vec![
        load_word(2, 0),
        and(2, 0xffff),
        load_word(3, 0),
        shift_right(3, 16),
        load_word(4, 4),
        load_word(5, 8),
    ];
    for rule in rules.iter().rev() {
        let bits = access(rule)?;
        let mut tests: Vec<(u8, i32)> = Vec::new();
        match rule.kind {
            'a' => {}
            'b' => tests.push((2, BLOCK)),
            'c' => tests.push((2, CHARACTER)),
            _ => return Err(bad(rule)),
        }
        let everything = rule.kind == 'a';
        for (register, value) in [(4, rule.major), (5, rule.minor)] {
            if let Some(value) = value.filter(|_| !everything) {
                tests.push((register, i32::try_from(value).map_err(|_| bad(rule))?));
            }
        }
        let partial = !everything && bits != ACCESS_MKNOD | ACCESS_READ | ACCESS_WRITE;
        // After the tests come: the access test (3 instructions), set, exit.
        let tail = if partial { 3 } else { 0 } + 2;
        let count = tests.len();
        for (index, (register, value)) in tests.into_iter().enumerate() {
            let by = i16::try_from(count - index - 1 + tail).map_err(|_| bad(rule))?;
            code.push(jump_unless_equal(register, value, by));
        }
        if partial {
            code.push(copy(1, 3));
            if rule.allow {
                // Any bit beyond the rule's: not covered.
                code.push(and(1, i32::from(!bits)));
                code.push(jump_unless_equal(1, 0, 2));
            } else {
                // No bit of the rule's: not covered. (jeq r1, 0)
                code.push(and(1, i32::from(bits)));
                code.push(Insn { code: 0x16, regs: 1, off: 2, imm: 0 });
            }
        }
        code.push(set(0, rule.allow.into()));
        code.push(EXIT);
        if count == 0 && !partial {
            // It covers everything: rules before it never matter, and the kernel refuses code that cannot be reached.
            return Ok(code);
        }
    }
    code.push(set(0, 0));
    code.push(EXIT);
    Ok(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(allow: bool, kind: char, major: Option<u32>, minor: Option<u32>, access: &str) -> DeviceRule {
        DeviceRule { allow, kind, major, minor, access: access.into() }
    }

    /// What the program says, by a small interpreter of the instructions above.
    fn ask(program: &[Insn], kind: i32, access: i32, major: i32, minor: i32) -> bool {
        let mut r = [0i32; 11];
        let context = [kind | access << 16, major, minor];
        let mut at = 0usize;
        loop {
            let i = program[at];
            let (dst, src) = (usize::from(i.regs & 15), usize::from(i.regs >> 4));
            at += 1;
            match i.code {
                0x61 => r[dst] = context[usize::try_from(i.off / 4).unwrap()],
                0x54 => r[dst] &= i.imm,
                0x74 => r[dst] = (r[dst].cast_unsigned() >> i.imm).cast_signed(),
                0xbc => r[dst] = r[src],
                0xb4 => r[dst] = i.imm,
                0x56 if r[dst] != i.imm => at += usize::try_from(i.off).unwrap(),
                0x16 if r[dst] == i.imm => at += usize::try_from(i.off).unwrap(),
                0x56 | 0x16 => {}
                0x95 => return r[0] == 1,
                other => panic!("{other:#x}"),
            }
        }
    }

    #[test]
    fn an_allow_list_denies_the_rest() {
        let rules = [
            rule(false, 'a', None, None, "rwm"),
            rule(true, 'c', None, None, "m"),
            rule(true, 'c', Some(1), Some(3), "rwm"),
            rule(true, 'c', Some(136), None, "rw"),
            rule(false, 'c', Some(136), Some(9), "w"),
        ];
        let program = program(&rules).unwrap();
        assert!(ask(&program, CHARACTER, 2 | 4, 1, 3));
        assert!(ask(&program, CHARACTER, 1, 99, 99), "mknod of any character device");
        assert!(!ask(&program, CHARACTER, 2, 99, 99));
        assert!(!ask(&program, BLOCK, 1, 8, 0));
        assert!(!ask(&program, BLOCK, 2, 1, 3));
        assert!(ask(&program, CHARACTER, 2 | 4, 136, 5));
        assert!(!ask(&program, CHARACTER, 1 | 2, 136, 5), "one bit beyond what is allowed");
        assert!(ask(&program, CHARACTER, 2, 136, 9));
        assert!(!ask(&program, CHARACTER, 2 | 4, 136, 9), "a part is denied");
        // Without a leading rule for everything the answer is still no.
        assert!(!ask(&super::program(&rules[2..3]).unwrap(), CHARACTER, 2, 5, 5));
        // And a final allow of everything ends it.
        let open = super::program(&[rule(true, 'a', None, None, "rwm")]).unwrap();
        assert!(ask(&open, BLOCK, 7, 8, 0));
    }

    #[test]
    fn lines_and_refusals() {
        assert_eq!(v1_line(&rule(true, 'c', Some(1), None, "rw")).unwrap(), "c 1:* rw");
        assert_eq!(v1_line(&rule(false, 'a', None, None, "rwm")).unwrap(), "a");
        assert!(v1_line(&rule(true, 'x', None, None, "r")).is_err());
        assert!(v1_line(&rule(true, 'c', None, None, "q")).is_err());
        assert!(program(&[rule(true, 'c', None, None, "")]).is_err());
    }
}
