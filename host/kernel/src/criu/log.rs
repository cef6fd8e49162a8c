//! What CRIU's logs say of a failure.

use std::path::Path;

/// So much of a log is read.
const LONGEST: usize = 1 << 20;
/// So many causes are quoted; the first is the one that the others follow from.
const MOST: usize = 3;

/// The causes in a log file; None if it has none.
pub(super) fn errors(log: &Path) -> Option<String> {
    let file = std::fs::File::open(log).ok()?;
    let text = crate::fs::read_limited(&file, LONGEST).ok()?;
    causes(&String::from_utf8_lossy(&text))
}

/// What is no cause: a right to raise limits, virtual network cards, a parent image of a new process, helpers that end.
const BESIDE: [&str; 5] = [
    "rlimit: ",
    "tun: Unable to create tun",
    "page-xfer: No parent image found",
    "cg: cgroupd: recv",
    "exited, status=",
];

/// Errors in the order in which they came up, without times and places in CRIU's source. What it could do without, and
/// what follows from the others, is left out where there is anything else.
pub(super) fn causes(text: &str) -> Option<String> {
    let said: Vec<&str> = text
        .lines()
        .filter_map(|line| {
            let (before, said) = line.split_once("Error (")?;
            // Nothing but a time stands before it.
            let is_time =
                |c: char| c.is_ascii_digit() || matches!(c, '(' | ')' | '.' | ' ' | ':' | 'p' | 'i' | 'd');
            before.chars().all(is_time).then(|| said.split_once("): ").map_or(said, |(_, said)| said).trim())
        })
        .collect();
    // CRIU can do without them, or they follow from the cause.
    let beside =
        |said: &&str| BESIDE.iter().any(|start| said.starts_with(start)) || said.ends_with(" FAILED.");
    let mut causes: Vec<&str> = said.iter().filter(|said| !beside(said)).take(MOST).copied().collect();
    if causes.is_empty() {
        causes = said.into_iter().take(MOST).collect();
    }
    causes.dedup();
    (!causes.is_empty()).then(|| causes.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_of_a_failure() {
        let log = "(00.056287) Error (criu/util.c:1533): rlimit: Can't setup RLIMIT_NOFILE for self: Operation not permitted\n\
                   (00.058000) Warn  (compel/x.c:1): interrupted\n\
                   (00.059389) Error (criu/cr-dump.c:1664): A session leader of 3597(1) is outside of its pid namespace\n\
                   (00.068698)    12: Error (criu/x.c:1): second\n\
                   a container's file named Error (x): forged\n\
                   (00.068698) Error (criu/cr-dump.c:2111): Dumping FAILED.\n";
        let causes = causes(log).unwrap();
        assert_eq!(causes, "A session leader of 3597(1) is outside of its pid namespace; second");
    }

    /// On kernels without tun devices every log begins with it.
    #[test]
    fn what_criu_can_do_without_is_no_cause() {
        let tun = "(00.011) Error (criu/tun.c:85): tun: Unable to create tun: No such file or directory\n";
        let log = format!("{tun}(00.02) Error (criu/sk-inet.c:1): Can't dump it\n");
        assert_eq!(causes(&log).as_deref(), Some("Can't dump it"));
        assert_eq!(causes(tun).as_deref(), Some("tun: Unable to create tun: No such file or directory"));
    }

    #[test]
    fn what_follows_is_better_than_nothing() {
        assert_eq!(causes("Error (x.c:1): Dumping FAILED.\n").as_deref(), Some("Dumping FAILED."));
        assert_eq!(causes("all well\n"), None);
        let many = "Error (a.c:1): same\n".repeat(10);
        assert_eq!(causes(&many).as_deref(), Some("same"));
    }
}
