//! In a virtual machine: power cuts while images come and go, and the engine where there is only cgroup v2.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use wharf_tests::guest::Guest;

/// For one step of an emulated machine on a busy host.
const PATIENCE: Duration = Duration::from_mins(12);

/// Whether plugins did not answer in time because the emulation is slow, which tells nothing of the engine.
fn is_too_slow(said: &[String]) -> bool {
    let late = |line: &String| line.contains("did not answer within") || line.contains("is set aside for");
    let slow = said.iter().any(|line| line == "slow" || line.starts_with("bad") && late(line));
    if slow {
        eprintln!("skipped: the emulated machine is too slow on this busy host");
    }
    slow
}

/// What the guest told of an image last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    There,
    Gone,
    /// On its way, one or the other.
    Either,
}

/// The images that the guest takes in and removes, as its two loops do one after the other.
const TURNS: [[&str; 3]; 2] = [
    ["one:1", "two:1", "three:1"],
    ["127.0.0.1:5000/four:1", "127.0.0.1:5000/five:1", "127.0.0.1:5000/six:1"],
];

#[test]
fn a_power_cut_leaves_whole_images_and_nothing_else() {
    let Some(guest) = Guest::with_images(&["four", "five", "six"], &["one", "two", "three"], &[]) else {
        return;
    };
    let mut told: BTreeMap<String, Told> = BTreeMap::new();
    let (mut kept, mut changes) = (0, 0);
    let started = Instant::now();
    // The moments of the cuts, from the first change on; the last boot only checks.
    let cuts = [900, 2700, 5200, 9000, 0];
    for (boot, cut) in cuts.into_iter().enumerate() {
        let mut machine = guest.boot("storm");
        let said = machine.until("checked", PATIENCE);
        if is_too_slow(&said) {
            return;
        }
        let bad: Vec<&String> =
            said.iter().filter(|l| l.starts_with("bad") || l.starts_with("log")).collect();
        assert!(bad.is_empty(), "boot {boot}: {bad:#?}\ntold before: {told:?}\n{}", machine.console());
        let listed: Vec<&str> = said.iter().filter_map(|l| l.strip_prefix("listed ")).collect();
        let runs: Vec<&str> = said.iter().filter_map(|l| l.strip_prefix("runs ")).collect();
        assert_eq!(listed, runs, "boot {boot}");
        for (name, state) in &told {
            let there = listed.contains(&name.as_str());
            let right = match state {
                Told::There => there,
                Told::Gone => !there,
                Told::Either => true,
            };
            assert!(right, "boot {boot}: {name} was {state:?}, and now the list is {listed:?}");
        }
        kept += listed.len();
        // The check removed them all.
        told.clear();
        if cut == 0 {
            break;
        }
        let mut said = Vec::new();
        said.extend(machine.next(Instant::now() + PATIENCE));
        let end = Instant::now() + Duration::from_millis(cut);
        while let Some(line) = machine.next(end) {
            said.push(line);
        }
        said.extend(machine.cut());
        let mut last = [None, None];
        for line in said {
            assert!(!line.starts_with("bad"), "boot {boot}: {line}");
            for (turn, last) in TURNS.iter().zip(&mut last) {
                let named = turn.iter().position(|name| line.split(' ').nth(1) == Some(*name));
                *last = named.or(*last);
            }
            changes += 1;
            match line.split_once(' ') {
                Some(("have", name)) => drop(told.insert(name.into(), Told::There)),
                Some(("going", name)) => drop(told.insert(name.into(), Told::Either)),
                Some(("gone", name)) => drop(told.insert(name.into(), Told::Gone)),
                _ => {}
            }
        }
        // What was next in turn may have been taken in, and not told of, when the power went.
        for (turn, last) in TURNS.iter().zip(last) {
            let next = turn[last.map_or(0, |last| (last + 1) % turn.len())];
            told.entry(next.into()).and_modify(|state| {
                if *state == Told::Gone {
                    *state = Told::Either;
                }
            });
        }
    }
    eprintln!(
        "{} boots, {changes} changes told, {kept} images over the cuts, {:?}",
        cuts.len(),
        started.elapsed()
    );
    assert!(kept > 0 && changes > 0, "the cuts came too early to show anything");
}

/// Boots into a task that says what went well and what did not.
fn all_well(guest: &Guest, task: &str, least: usize) {
    let mut machine = guest.boot(task);
    let said = machine.until("end", 2 * PATIENCE);
    if is_too_slow(&said) {
        return;
    }
    let bad: Vec<&String> = said.iter().filter(|l| l.starts_with("bad") || l.starts_with("log")).collect();
    assert!(bad.is_empty(), "{bad:#?}\n{}", machine.console());
    assert!(said.iter().filter(|l| l.starts_with("ok ")).count() >= least, "{said:#?}");
}

#[test]
fn the_engine_on_cgroup_v2() {
    let Some(guest) = Guest::with_images(&[], &["one"], &[]) else { return };
    all_well(&guest, "smoke", 25);
}

#[test]
fn containers_are_confined_by_apparmor() {
    let parser = Path::new("/sbin/apparmor_parser");
    if !parser.is_file() {
        eprintln!("skipped: there is no apparmor_parser (Debian package apparmor)");
        return;
    }
    // Debian's package runc, which the tests install.
    let runtime = Path::new("/usr/sbin/runc");
    let more = [("sbin/apparmor_parser", parser), ("sbin/runc", runtime)];
    let Some(guest) = Guest::with_images(&[], &["one"], &more) else { return };
    all_well(&guest, "confine", 40);
}

/// CRIU where there is only cgroup v2, and where `AppArmor` confines, if its parser is here.
#[test]
fn checkpoints_on_cgroup_v2() {
    if !Path::new("/usr/sbin/criu").is_file() {
        eprintln!("skipped: there is no criu (Debian package criu)");
        return;
    }
    let parser = Path::new("/sbin/apparmor_parser");
    let more = parser.is_file().then_some(("sbin/apparmor_parser", parser));
    let Some(guest) = Guest::with_images(&[], &["one"], more.as_slice()) else { return };
    all_well(&guest, "checkpoint", 40);
}

/// `erofs` where the kernel mounts no images out of files, and limits of ext4 and xfs, which the usual kernel of a test
/// machine may not have.
#[test]
fn storage_on_an_older_kernel() {
    let Some(mut guest) = Guest::with_images(&[], &["one"], &[]) else { return };
    guest.add_disk(&["mkfs.xfs", "-q", "-f"]);
    guest.add_disk(&["mkfs.ext4", "-q", "-F", "-O", "quota,project", "-E", "quotatype=prjquota"]);
    all_well(&guest, "storage", 60);
}
