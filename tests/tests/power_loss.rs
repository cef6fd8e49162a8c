//! A loss of power that takes what the disk had in its cache along: of all the writes since the last flush none, or any
//! that chance picks. The writes of a virtual machine are recorded while images and containers come and go in it; the disk
//! as many cuts would leave it is then looked at by a daemon outside.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use wharf_tests::blocklog::{self, BlockLog};
use wharf_tests::guest::Guest;
use wharf_tests::{Daemon, Options, eventually, fsck};

/// For one step of an emulated machine on a busy host.
const PATIENCE: Duration = Duration::from_mins(12);
/// Changes that are told before the machine is switched off.
const CHANGES: usize = 40;

/// The images that the guest takes in and removes, as its two loops do one after the other.
const TURNS: [[&str; 3]; 2] = [
    ["one:1", "two:1", "three:1"],
    ["127.0.0.1:5000/four:1", "127.0.0.1:5000/five:1", "127.0.0.1:5000/six:1"],
];

/// A cheap, seeded generator.
struct Random(u64);

impl Random {
    fn below(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % (below as u64)).expect("smaller")
    }
}

/// What the guest told of an image last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    There,
    Gone,
    /// On its way, one or the other.
    Either,
}

/// A line of the guest, and how many entries the log had at most when it was said.
type Line = (usize, String);

/// What must hold of a disk whose log ends with this entry.
fn told(lines: &[Line], cut: usize) -> BTreeMap<String, Told> {
    let mut told = BTreeMap::new();
    let (before, after): (Vec<&Line>, Vec<&Line>) = lines.iter().partition(|(entries, _)| *entries <= cut);
    let mut last = [None, None];
    let turn_of = |line: &str| {
        let name = line.split(' ').nth(1)?;
        TURNS
            .iter()
            .enumerate()
            .find_map(|(turn, names)| Some((turn, names.iter().position(|n| *n == name)?)))
    };
    for (_, line) in before {
        if let Some((turn, position)) = turn_of(line) {
            last[turn] = Some(position);
        }
        match line.split_once(' ') {
            Some(("have", name)) => drop(told.insert(name.to_owned(), Told::There)),
            Some(("going", name)) => drop(told.insert(name.to_owned(), Told::Either)),
            Some(("gone", name)) => drop(told.insert(name.to_owned(), Told::Gone)),
            _ => {}
        }
    }
    for (turn, names) in TURNS.iter().enumerate() {
        // What each loop told next may have been said, and begun, before its line was read here; and what it does next is
        // not told before it is done.
        let near = after.iter().filter(|(_, line)| turn_of(line).is_some_and(|(t, _)| t == turn)).take(2);
        let mut open: Vec<&str> = near.filter_map(|(_, line)| line.split(' ').nth(1)).collect();
        open.push(names[last[turn].map_or(0, |last| (last + 1) % names.len())]);
        for name in open {
            told.insert(name.to_owned(), Told::Either);
        }
    }
    told
}

#[test]
fn images_are_whole_after_a_cut_that_takes_the_cache_of_the_disk_along() {
    let Some(guest) = Guest::with_images(&["four", "five", "six"], &["one", "two", "three"], &[]) else {
        return;
    };
    let (mut machine, before, log) = guest.boot_logged("storm at=/data litter=1");
    let said = machine.until("checked", PATIENCE);
    if said.iter().any(|line| line == "slow") {
        eprintln!("skipped: the emulated machine is too slow on this busy host");
        return;
    }
    let entries = || usize::try_from(blocklog::count(&log)).expect("number");
    let from = entries();
    let mut lines: Vec<Line> = Vec::new();
    let end = Instant::now() + PATIENCE;
    while lines.len() < CHANGES {
        let line = machine.next(end).expect("the guest goes on");
        assert!(!line.starts_with("bad") && line != "off", "{line}\n{}", machine.console());
        lines.push((entries(), line));
    }
    drop(machine.cut());
    let log = BlockLog::read(&log);
    let long = std::env::var_os("WHARF_LONG").is_some_and(|value| value == "1");
    let cuts = if long { 60 } else { 10 };
    let seed: u64 = std::env::var("WHARF_TEST_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(20);
    eprintln!("{} entries from {from} on, seed {seed} (WHARF_TEST_SEED takes another)", log.len());
    let mut random = Random(seed);
    let (mut kept, mut lost) = (0, 0);
    for n in 0..cuts {
        let cut = from + random.below(log.len() - from);
        let unflushed = log.unflushed(cut);
        // All that was in the cache is lost, or every other write of it.
        let all = n % 2 == 0;
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let disk = log.cut(&before, cut, |_| !all && random.below(2) == 0, dir.path().join("disk"));
        lost += unflushed;
        let when = format!("cut {n} at {cut}, {unflushed} writes in the cache, all lost: {all}");
        kept += look(&disk, &told(&lines, cut), &when);
    }
    eprintln!("{cuts} cuts, {kept} images over them, {lost} writes in caches");
    assert!(kept > 0 && lost > 0, "the cuts show nothing");
}

/// Starts a daemon on this disk, and checks. Answers how many images there are.
fn look(disk: &std::path::Path, told: &BTreeMap<String, Told>, when: &str) -> usize {
    eprintln!("{when}");
    let copy = ["cp", "--sparse=always", disk.to_str().unwrap()].map(str::to_owned);
    let d = Daemon::with(Options { data_mkfs: copy.to_vec(), ..Options::default() });
    d.docker(&["container", "prune", "-f"]).ok();
    d.docker(&["image", "prune", "-f"]).ok();
    fsck::whole(&d, when);
    let list = d.docker(&["images", "--format", "{{.Repository}}:{{.Tag}}"]).ok();
    let listed: Vec<&str> = list.lines().collect();
    for (name, state) in told {
        let right = match state {
            Told::There => listed.contains(&name.as_str()),
            Told::Gone => !listed.contains(&name.as_str()),
            Told::Either => true,
        };
        assert!(right, "{when}: {name} was {state:?}, and the list is {listed:?}");
    }
    for name in &listed {
        let check = "cd / && sha256sum -s -c sums";
        let ran = d.docker(&["run", "--rm", "--network", "none", name, "sh", "-c", check]);
        assert_eq!(ran.code, 0, "{when}: {name} is listed and does not run: {}{}", ran.out, ran.err);
    }
    for name in &listed {
        d.docker(&["rmi", name]).ok();
    }
    eventually(&format!("{when}: an empty store"), || fsck::layers(&d).is_empty().then_some(()));
    fsck::whole(&d, when);
    let log = d.log();
    let errors: Vec<&str> = log.lines().filter(|l| l.contains("ERROR") || l.contains("panicked")).collect();
    assert!(errors.is_empty(), "{when}: {errors:#?}");
    listed.len()
}
