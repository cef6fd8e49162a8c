//! `cargo xtask test`: everything there is to test, and one line that counts it.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use crate::plugins::Profile;
use crate::shell::{ask, cargo};
use crate::{build, daemon, features, needs, newer};

/// What came of some tests.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Count {
    passed: u64,
    failed: u64,
    skipped: u64,
}

/// Builds, installs what is needed, runs all tests. The exit code says whether all passed.
pub(crate) fn run(profile: Profile, filter: &[String]) -> Result<i32> {
    let bin = build::everything(profile)?;
    needs::install()?;
    newer::criu();
    // Compiles the plugins once for all daemons of the tests.
    match daemon::Daemon::start(&bin).and_then(daemon::Daemon::stop) {
        Ok(()) => {}
        // The tests that need a daemon will say the same, each for itself.
        Err(error) => eprintln!("test: no daemon: {error:#}"),
    }
    let nextest = ask(cargo().args(["nextest", "--version"])).is_some();
    let mut total = Count::default();
    let mut broken = false;
    // The compiler by itself, so that its features stay out of the daemon's crates.
    let whole: &[&str] = &["--workspace", "--exclude", "wharf-compile"];
    for (selection, features) in [(whole, features::arguments()), (&["--package", "wharf-compile"], &[])] {
        let mut command = cargo();
        if nextest {
            command.args([
                "nextest",
                "run",
                "--no-fail-fast",
                "--no-tests",
                "pass",
                "--cargo-profile",
                profile.name(),
            ]);
        } else {
            command.args(["test", "--no-fail-fast", "--profile", profile.name()]);
        }
        command.arg("--locked").args(selection).args(features).args(filter).env("WHARF_BIN_DIR", &bin);
        // Property tests try the same cases every time, unless another seed is asked for.
        if std::env::var_os("PROPTEST_RNG_SEED").is_none() {
            command.env("PROPTEST_RNG_SEED", "1");
        }
        let (count, ok) = counted(&mut command, nextest)?;
        total.passed += count.passed;
        total.failed += count.failed;
        total.skipped += count.skipped;
        broken |= !ok;
    }
    // A crate that does not compile has no tests to count, but is a failure.
    if broken && total.failed == 0 {
        total.failed = 1;
    }
    println!("{} passed, {} failed, {} skipped", total.passed, total.failed, total.skipped);
    Ok(i32::from(total.failed > 0))
}

/// Runs a test program, lets its output through, and reads its summaries. `nextest` repeats what failed tests said, which is
/// not to be counted.
fn counted(command: &mut Command, nextest: bool) -> Result<(Count, bool)> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot start cargo")?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    // nextest reports on standard error, cargo test on standard output.
    let other = std::thread::spawn(move || {
        stderr.map(|stream| tee(stream, std::io::stderr(), nextest)).unwrap_or_default()
    });
    let mut count = stdout.map(|stream| tee(stream, std::io::stdout(), nextest)).unwrap_or_default();
    let more = other.join().unwrap_or_default();
    let ok = child.wait()?.success();
    count.passed += more.passed;
    count.failed += more.failed;
    count.skipped += more.skipped;
    Ok((count, ok))
}

fn tee(from: impl std::io::Read, mut to: impl Write, nextest: bool) -> Count {
    let mut count = Count::default();
    let mut lines = BufReader::new(from);
    let mut line = Vec::new();
    while lines.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
        let _ = to.write_all(&line).and_then(|()| to.flush());
        let text = String::from_utf8_lossy(&line);
        let own = !nextest || without_colors(&text).trim_start().starts_with("Summary [");
        if let Some(found) = summary(&text).filter(|_| own) {
            count.passed += found.passed;
            count.failed += found.failed;
            count.skipped += found.skipped;
        }
        line.clear();
    }
    count
}

/// `Summary [ 1.2s] 7 tests run: 5 passed (1 slow), 1 failed, 1 timed out, 2 skipped`, or
/// `test result: ok. 5 passed; 1 failed; 2 ignored; 0 measured; 0 filtered out; finished in 0.00s`.
fn summary(line: &str) -> Option<Count> {
    let plain = without_colors(line);
    let text = plain.trim();
    let parts = if let Some(rest) = text.strip_prefix("test result: ") {
        rest.split_once(". ")?.1
    } else if text.starts_with("Summary [") {
        text.split_once(" run: ")?.1
    } else {
        return None;
    };
    let mut count = Count::default();
    for part in parts.split([',', ';']) {
        let mut words = part.split_whitespace();
        let (Some(number), Some(word)) =
            (words.next().and_then(|word| word.parse::<u64>().ok()), words.next())
        else {
            continue;
        };
        match word {
            "passed" => count.passed += number,
            "failed" | "timed" | "exec" => count.failed += number,
            "skipped" | "ignored" => count.skipped += number,
            _ => {}
        }
    }
    Some(count)
}

fn without_colors(line: &str) -> String {
    let mut plain = String::new();
    let mut escaped = false;
    for letter in line.chars() {
        match letter {
            '\u{1b}' => escaped = true,
            'm' if escaped => escaped = false,
            _ if escaped => {}
            _ => plain.push(letter),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_both_summaries() {
        let count = |passed, failed, skipped| Some(Count { passed, failed, skipped });
        assert_eq!(summary("     Summary [   0.512s] 12 tests run: 12 passed, 3 skipped\n"), count(12, 0, 3));
        assert_eq!(
            summary(
                "\u{1b}[31m     Summary\u{1b}[0m [   9.0s] 7 tests run: 5 passed (1 slow), 1 failed, 1 timed out, 2 skipped"
            ),
            count(5, 2, 2)
        );
        assert_eq!(
            summary("     Summary [   9.0s] 3/9 tests run: 1 passed, 2 exec failed, 0 skipped"),
            count(1, 2, 0)
        );
        assert_eq!(
            summary(
                "test result: FAILED. 5 passed; 1 failed; 2 ignored; 0 measured; 0 filtered out; finished in 0.00s"
            ),
            count(5, 1, 2)
        );
        assert_eq!(summary("test tests::reads_both_summaries ... ok"), None);
        let said = "    test result: FAILED. 0 passed; 1 failed; 0 ignored\n     Summary [   1.0s] 1 test run: 0 passed, 1 failed\n";
        assert_eq!(Some(tee(said.as_bytes(), std::io::sink(), true)), count(0, 1, 0));
        assert_eq!(Some(tee(said.as_bytes(), std::io::sink(), false)), count(0, 2, 0));
    }
}
