//! In a virtual machine: power cuts while images come and go, and the engine where there is only cgroup v2.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use wharf_tests::guest::{Guest, available};
use wharf_tests::serve::Serve;
use wharf_tests::{Daemon, image};

/// For one step of an emulated machine on a busy host.
const PATIENCE: Duration = Duration::from_mins(12);

/// Archives of images, and a registry's directory with more of them, on a system disk. None: there is no machine here.
fn guest(pulled: &[&str], loaded: &[&str], more: &[(&str, &Path)]) -> Option<Guest> {
    let kernel = match available() {
        Ok(kernel) => kernel,
        Err(why) => {
            eprintln!("skipped: {why}");
            return None;
        }
    };
    let d = Daemon::start();
    let base = image::busybox_tar();
    let archive =
        |repo: &str, name: &str| image::docker_archive(repo, &[base.clone(), image::own_layer(name)]);
    let mut files: Vec<(String, PathBuf)> = Vec::new();
    for name in loaded {
        let path = d.path(&format!("{name}.tar"));
        image::save(&path, &archive(&format!("{name}:1"), name));
        files.push((format!("images/{name}.tar"), path));
    }
    let registry = d.path("registry");
    if !pulled.is_empty() {
        drop(Serve::start(&d, 5000, pulled));
        files.push(("registry".into(), registry));
    }
    let mut files: Vec<(&str, &Path)> =
        files.iter().map(|(name, path)| (name.as_str(), path.as_path())).collect();
    files.extend(more);
    Some(Guest::new(kernel, &files))
}

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
    let Some(guest) = guest(&["four", "five", "six"], &["one", "two", "three"], &[]) else { return };
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
    let Some(guest) = guest(&[], &["one"], &[]) else { return };
    all_well(&guest, "smoke", 25);
}

#[test]
fn containers_are_confined_by_apparmor() {
    let parser = Path::new("/sbin/apparmor_parser");
    if !parser.is_file() {
        eprintln!("skipped: there is no apparmor_parser (Debian package apparmor)");
        return;
    }
    let Some(guest) = guest(&[], &["one"], &[("sbin/apparmor_parser", parser)]) else { return };
    all_well(&guest, "confine", 25);
}
