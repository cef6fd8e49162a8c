//! From rules to classic BPF: a jump per instruction set, then a binary search over the numbers of calls.

use std::collections::BTreeMap;

use super::{Action, Arch, Filter, Rule, Test};
use crate::error::{Error, Result};

/// The kernel's limit, in instructions.
const LONGEST: usize = 4096;

/// Calls of the x32 interface have this bit in their number. It is not offered to containers.
const X32: u32 = 0x4000_0000;

const LOAD: u16 = 0x20;
const AND: u16 = 0x54;
const RETURN: u16 = 0x06;
const JUMP: u16 = 0x05;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_GREATER: u16 = 0x25;
const JUMP_GREATER_EQUAL: u16 = 0x35;

/// Offsets in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;

/// Where a conditional jump of a test goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum To {
    /// Over this many instructions.
    Over(u8),
    /// To the end of the rule: it does not hold.
    Fail,
}

#[derive(Debug, Clone, Copy)]
struct Insn {
    code: u16,
    yes: To,
    no: To,
    k: u32,
}

const NEXT: To = To::Over(0);

fn plain(code: u16, k: u32) -> Insn {
    Insn { code, yes: NEXT, no: NEXT, k }
}

fn answer(action: Action) -> Insn {
    plain(RETURN, action.0)
}

fn jump(code: u16, k: u32, yes: To, no: To) -> Insn {
    Insn { code, yes, no, k }
}

/// The program as the kernel reads it.
pub(super) fn program(filter: &Filter) -> Vec<u8> {
    let mut code = vec![plain(LOAD, ARCHITECTURE)];
    for arch in &filter.architectures {
        let block = block(*arch, filter);
        // Unless it is this one, over the block.
        code.push(jump(JUMP_EQUAL, arch.audit(), To::Over(1), NEXT));
        code.push(plain(JUMP, u32::try_from(block.len()).unwrap_or(u32::MAX)));
        code.extend(block);
    }
    // An instruction set that the profile does not know.
    code.push(answer(Action::KILL_PROCESS));
    code.iter().flat_map(|i| bytes(*i)).collect()
}

pub(super) fn check_length(program: &[u8]) -> Result<()> {
    if program.len() / 8 <= LONGEST {
        Ok(())
    } else {
        Err(Error::refused("seccomp profile", libc::E2BIG, "it has more rules than the kernel takes"))
    }
}

fn bytes(i: Insn) -> [u8; 8] {
    let offset = |to| match to {
        To::Over(count) => count,
        To::Fail => 0,
    };
    let [a, b] = i.code.to_ne_bytes();
    let [k0, k1, k2, k3] = i.k.to_ne_bytes();
    [a, b, offset(i.yes), offset(i.no), k0, k1, k2, k3]
}

fn block(arch: Arch, filter: &Filter) -> Vec<Insn> {
    let mut by_number: BTreeMap<u32, Vec<&Rule>> = BTreeMap::new();
    for (name, rule) in &filter.rules {
        if let Some(number) = arch.number(name) {
            by_number.entry(number).or_default().push(rule);
        }
    }
    // Neighbours with the same answer become one segment; what lies between is the default.
    let default = vec![answer(filter.default)];
    let mut segments: Vec<(u32, Vec<Insn>)> = vec![(0, default.clone())];
    let mut push = |start: u32, leaf: Vec<Insn>| match segments.last_mut() {
        Some((at, last)) if *at == start => *last = leaf,
        Some((_, last)) if same(last, &leaf) => {}
        _ => segments.push((start, leaf)),
    };
    for (number, rules) in &by_number {
        push(*number, leaf(rules, filter.default));
        push(number + 1, default.clone());
    }
    let named = filter.named.iter().filter_map(|name| arch.number(name));
    if let Some(newest) = by_number.keys().copied().chain(named).max() {
        push(newest + 1, vec![answer(filter.default.to_unknown())]);
    }
    if arch == Arch::X86_64 {
        push(X32, default);
    }
    let mut merged: Vec<(u32, Vec<Insn>)> = Vec::with_capacity(segments.len());
    for (start, leaf) in segments {
        if !merged.last().is_some_and(|(_, last)| same(last, &leaf)) {
            merged.push((start, leaf));
        }
    }
    let mut code = vec![plain(LOAD, NUMBER)];
    code.extend(search(&merged));
    code
}

fn same(a: &[Insn], b: &[Insn]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| bytes(*a) == bytes(*b))
}

fn search(segments: &[(u32, Vec<Insn>)]) -> Vec<Insn> {
    let (left, right) = segments.split_at(segments.len() / 2);
    let Some((start, leaf)) = right.first() else { return Vec::new() };
    if left.is_empty() {
        return leaf.clone();
    }
    let left = search(left);
    let mut code = match u8::try_from(left.len()) {
        Ok(over) => vec![jump(JUMP_GREATER_EQUAL, *start, To::Over(over), NEXT)],
        // Conditional jumps reach 255 instructions.
        Err(_) => vec![
            jump(JUMP_GREATER_EQUAL, *start, NEXT, To::Over(1)),
            plain(JUMP, u32::try_from(left.len()).unwrap_or(u32::MAX)),
        ],
    };
    code.extend(left);
    code.extend(search(right));
    code
}

/// The rules of one call: with tests first, in their order, then without.
fn leaf(rules: &[&Rule], default: Action) -> Vec<Insn> {
    let mut code = Vec::new();
    for rule in rules.iter().filter(|r| !r.tests.is_empty()) {
        let mut body: Vec<Insn> =
            rule.tests.iter().flat_map(|(index, test)| compare(*index, *test)).collect();
        body.push(answer(rule.action));
        let length = body.len();
        for (at, insn) in body.iter_mut().enumerate() {
            // A rule has at most six tests of five instructions.
            let over = u8::try_from(length - at - 1).unwrap_or(u8::MAX);
            for to in [&mut insn.yes, &mut insn.no] {
                if *to == To::Fail {
                    *to = To::Over(over);
                }
            }
        }
        code.extend(body);
    }
    let rest = rules.iter().find(|r| r.tests.is_empty()).map_or(default, |r| r.action);
    code.push(answer(rest));
    code
}

/// 64 bits as two halves, the upper one first.
fn compare(index: u8, test: Test) -> Vec<Insn> {
    let low = ARGUMENTS + 8 * u32::from(index) + if cfg!(target_endian = "big") { 4 } else { 0 };
    let high = low ^ 4;
    #[allow(clippy::cast_possible_truncation, reason = "the halves are meant")]
    let halves = |v: u64| ((v >> 32) as u32, v as u32);
    let ordered = |value: u64, code: u16, holds: bool| {
        let (h, l) = halves(value);
        let (above, below) = if holds { (To::Over(3), To::Fail) } else { (To::Fail, To::Over(2)) };
        let (yes, no) = if holds { (NEXT, To::Fail) } else { (To::Fail, NEXT) };
        vec![
            plain(LOAD, high),
            jump(JUMP_GREATER, h, above, NEXT),
            jump(JUMP_EQUAL, h, NEXT, below),
            plain(LOAD, low),
            jump(code, l, yes, no),
        ]
    };
    match test {
        Test::Equal(value) => {
            let (h, l) = halves(value);
            vec![
                plain(LOAD, high),
                jump(JUMP_EQUAL, h, NEXT, To::Fail),
                plain(LOAD, low),
                jump(JUMP_EQUAL, l, NEXT, To::Fail),
            ]
        }
        Test::NotEqual(value) => {
            let (h, l) = halves(value);
            vec![
                plain(LOAD, high),
                jump(JUMP_EQUAL, h, NEXT, To::Over(2)),
                plain(LOAD, low),
                jump(JUMP_EQUAL, l, To::Fail, NEXT),
            ]
        }
        Test::Masked(mask, value) => {
            let ((mh, ml), (h, l)) = (halves(mask), halves(value));
            vec![
                plain(LOAD, high),
                plain(AND, mh),
                jump(JUMP_EQUAL, h, NEXT, To::Fail),
                plain(LOAD, low),
                plain(AND, ml),
                jump(JUMP_EQUAL, l, NEXT, To::Fail),
            ]
        }
        Test::Greater(value) => ordered(value, JUMP_GREATER, true),
        Test::GreaterEqual(value) => ordered(value, JUMP_GREATER_EQUAL, true),
        Test::Less(value) => ordered(value, JUMP_GREATER_EQUAL, false),
        Test::LessEqual(value) => ordered(value, JUMP_GREATER, false),
    }
}
